import av
import numpy as np
import pytest
from footage_maker import pan, texture, write_video

from trajectory_builder.images.video import reading as video
from trajectory_builder.images.video.colour import (
    LUMA_WEIGHTS,
    Colour,
    RgbConverter,
    _plane,
    colour_of,
    luma_of,
    rgb_matrix,
)

COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 100, 50), (0, 0, 0), (255, 255, 255)]


def coded(rgb, matrix, full):
    """8-bit (Y, Cb, Cr) of a colour by the standard's definition."""
    k_r, k_b = LUMA_WEIGHTS[matrix]
    red, green, blue = (value / 255 for value in rgb)
    luma = k_r * red + (1 - k_r - k_b) * green + k_b * blue
    chroma = (blue - luma) / (2 * (1 - k_b)), (red - luma) / (2 * (1 - k_r))
    if full:
        values = (255 * luma, 128 + 255 * chroma[0], 128 + 255 * chroma[1])
    else:
        values = (16 + 219 * luma, 128 + 224 * chroma[0], 128 + 224 * chroma[1])
    return [min(255, max(0, round(value))) for value in values]


def flat(rgb, matrix, full, pix_fmt="yuv420p"):
    frame = av.VideoFrame(32, 32, pix_fmt)
    for plane, value in zip(frame.planes, coded(rgb, matrix, full), strict=True):
        plane.update(bytes([value]) * plane.buffer_size)
    return frame


@pytest.mark.parametrize("matrix", ["bt601", "bt709", "bt2020"])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p", "yuv444p"])
def test_known_colours_come_back_by_their_matrix(matrix, full, pix_fmt):
    convert = RgbConverter(Colour(matrix, full, "", True))
    for rgb in COLOURS:
        found = convert(flat(rgb, matrix, full, pix_fmt))[16, 16]
        assert np.abs(found.astype(int) - rgb).max() <= 2, (rgb, found)


def enlarged(chroma, across, down, left):
    """Chroma at the luma's size by straight lines between samples, float64.

    `left`: samples stand on even columns (H.264's default); else half-way between two columns.
    Rows always stand half-way.
    """
    plane = chroma.astype(float)
    if down:
        over = np.pad(plane, ((1, 1), (0, 0)), mode="edge")
        plane = np.repeat(plane, 2, axis=0) * 0.75
        plane[0::2] += 0.25 * over[:-2]
        plane[1::2] += 0.25 * over[2:]
    if across:
        over = np.pad(plane, ((0, 0), (1, 1)), mode="edge")
        before, here, after = over[:, :-2], over[:, 1:-1], over[:, 2:]
        even = here if left else 0.75 * here + 0.25 * before
        odd = 0.5 * (here + after) if left else 0.75 * here + 0.25 * after
        plane = np.stack([even, odd], axis=2).reshape(len(plane), -1)
    return plane


def true_rgb(planes, colour, across, down, left=False):
    height, width = planes[0].shape
    chroma = [enlarged(plane, across, down, left)[:height, :width] for plane in planes[1:]]
    matrix = rgb_matrix(colour.matrix, colour.full_range)
    values = np.stack([planes[0].astype(float), *chroma], axis=2)
    return np.clip(values @ matrix[:, :3].T + matrix[:, 3], 0, 255)


def random_frame(pix_fmt, height, width, seed=0):
    """A frame of smooth random values, and its three planes."""
    frame = av.VideoFrame(width, height, pix_fmt)
    planes = []
    for index, plane in enumerate(frame.planes):
        values = texture(plane.height, plane.width, seed + index)[..., 0]
        rows = np.zeros((plane.height, plane.line_size), np.uint8)
        rows[:, : plane.width] = 16 + values.astype(int) * 219 // 255
        plane.update(rows.tobytes())
        planes.append(rows[:, : plane.width])
    return frame, planes


@pytest.mark.parametrize("matrix", ["bt601", "bt709"])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(
    ("pix_fmt", "across", "down"),
    [("yuv420p", True, True), ("yuv422p", True, False), ("yuv444p", False, False)],
)
def test_every_value_is_the_exact_one_rounded(matrix, full, pix_fmt, across, down):
    colour = Colour(matrix, full, "", True)
    frame, planes = random_frame(pix_fmt, 46, 70)
    errors = RgbConverter(colour)(frame) - true_rgb(planes, colour, across, down)
    assert np.abs(errors).max() < 0.52
    assert abs(errors.mean()) < 0.03


def test_chroma_stands_where_the_file_says(tmp_path):
    options = {"crf": "0", "threads": "1"}
    path = write_video(tmp_path / "l.mp4", pan(3), codec="libx264", pix_fmt="yuv420p",
                       options=options)  # fmt: skip
    with av.open(str(path)) as file:
        frame = next(file.decode(video=0))
        planes = [_plane(frame, index).copy() for index in range(3)]
        colour = Colour("bt601", False, "", True)
        errors = RgbConverter(colour)(frame) - true_rgb(planes, colour, True, True, left=True)
    assert np.abs(errors).max() < 0.52


@pytest.mark.parametrize("full", [False, True])
def test_grey_video_keeps_its_range(full):
    frame, (grey,) = random_frame("gray", 20, 30)
    true = grey if full else np.clip((grey.astype(float) - 16) * 255 / 219, 0, 255)
    found = RgbConverter(Colour("bt601", full, "", True))(frame)
    assert np.abs(found - true[..., None]).max() <= 0.5


def test_luma_of_planar_video_is_told():
    frame, planes = random_frame("yuv420p", 20, 30)
    assert (luma_of(frame) == planes[0]).all()


@pytest.mark.parametrize("pix_fmt", ["rgb24", "yuyv422", "yuv420p10le", "gbrp"])
def test_other_formats_have_no_luma_of_eight_bits(pix_fmt):
    assert luma_of(av.VideoFrame(32, 16, pix_fmt)) is None


def test_conversion_has_no_bias():
    convert = RgbConverter(Colour("bt709", False, "", True))
    random = np.random.default_rng(3)
    errors = []
    for _ in range(200):
        luma, blue, red = random.integers(60, 180, 3)
        frame = av.VideoFrame(16, 16, "yuv420p")
        for plane, value in zip(frame.planes, (luma, blue, red), strict=True):
            plane.update(bytes([int(value)]) * plane.buffer_size)
        y, u, v = (luma - 16) / 219, (blue - 128) / 224, (red - 128) / 224
        true = 255 * np.array([y + 1.5748 * v, y - 0.1873 * u - 0.4681 * v, y + 1.8556 * u])
        inside = (true > 2) & (true < 253)
        errors += list((convert(frame)[8, 8] - true)[inside])
    assert abs(np.mean(errors)) < 0.1


def test_wrong_range_would_be_seen():
    frame = flat((200, 100, 50), "bt709", True)
    right = RgbConverter(Colour("bt709", True, "", True))(frame)[8, 8]
    wrong = RgbConverter(Colour("bt709", False, "", True))(frame)[8, 8]
    assert np.abs(right.astype(int) - wrong).max() > 5


@pytest.mark.parametrize(
    ("height", "matrix"), [(480, "bt601"), (576, "bt601"), (720, "bt709"), (2160, "bt709")]
)
def test_untold_matrix_is_chosen_by_height(height, matrix):
    assert colour_of(2, 0, 2, "yuv420p", height) == Colour(matrix, False, "", False)


def test_told_matrix_wins_over_height():
    assert colour_of(5, 0, 2, "yuv420p", 1080).matrix == "bt601"


def test_yuvj_is_full_range_without_a_tag():
    assert colour_of(1, 0, 1, "yuvj420p", 1080).full_range


def test_hdr_transfers_are_named():
    assert [colour_of(9, 1, t, "yuv420p10le", 2160).hdr[:3] for t in (16, 18)] == ["PQ ", "HLG"]


@pytest.mark.parametrize(("tag", "matrix"), [(1, "bt709"), (5, "bt601")])
def test_matrix_tag_of_a_file_is_read(tmp_path, tag, matrix):
    path = write_video(
        tmp_path / "t.mp4", pan(3), codec="libx264", pix_fmt="yuv420p",
        options={"crf": "10"}, tags={"colorspace": tag, "color_range": 2},
    )  # fmt: skip
    found = video.index(path).colour
    assert (found.matrix, found.full_range, found.tagged) == (matrix, True, True)


def test_sixteen_bits_keep_what_ten_bits_hold():
    frame = av.VideoFrame(16, 16, "yuv420p10le")
    for plane, value in zip(frame.planes, (501, 512, 512), strict=True):
        plane.update(np.full(plane.buffer_size // 2, value, np.uint16).tobytes())
    found = RgbConverter(Colour("bt709", False, "", True))(frame, bits=16)
    assert found.dtype == np.uint16
    assert abs(float(found[8, 8, 0]) / 65535 - (501 - 64) / 876) < 0.0003


def test_white_of_sixteen_bits_is_the_top():
    frame = av.VideoFrame(16, 16, "yuv420p10le")
    for plane, value in zip(frame.planes, (940, 512, 512), strict=True):
        plane.update(np.full(plane.buffer_size // 2, value, np.uint16).tobytes())
    found = RgbConverter(Colour("bt2020", False, "", True))(frame, bits=16)
    assert found.min() >= 65535 - 16
