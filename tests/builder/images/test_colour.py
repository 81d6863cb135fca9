import av
import numpy as np
import pytest
from footage_maker import pan, texture, write_video

from trajectory_builder.errors import VideoError
from trajectory_builder.images.video import reading as video
from trajectory_builder.images.video.colour import (
    LUMA_WEIGHTS,
    Colour,
    RgbConverter,
    colour_of,
    frame_of_rgb,
    luma_of,
    plane_of,
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


# The standards' own numbers, not those of the code: BT.601-7, BT.709-6, BT.2020-2, 47 CFR 73.682,
# SMPTE 240M.
STANDARDS = {
    "bt601": (0.299, 0.587, 0.114),
    "bt709": (0.2126, 0.7152, 0.0722),
    "bt2020": (0.2627, 0.6780, 0.0593),
    "fcc": (0.30, 0.59, 0.11),
    "smpte240m": (0.212, 0.701, 0.087),
}


def true_planes(rgb, matrix, full, bits):
    """Codes (3, H, W), not rounded, of RGB from 0 to 1, by the standard's equations."""
    weights = np.array(STANDARDS[matrix])
    luma = rgb @ weights
    blue = (rgb[..., 2] - luma) / (2 - 2 * weights[2])
    red = (rgb[..., 0] - luma) / (2 - 2 * weights[0])
    step, top = 2 ** (bits - 8), 2**bits - 1
    if full:
        return np.stack([top * luma, top * blue + 128 * step, top * red + 128 * step])
    return np.stack([219 * luma + 16, 224 * blue + 128, 224 * red + 128]) * step


ALL_CODINGS = [
    (matrix, full, bits) for matrix in STANDARDS for full in (False, True) for bits in (8, 10)
]


@pytest.mark.parametrize(("matrix", "full", "bits"), ALL_CODINGS)
def test_planes_of_a_standard_are_decoded_to_its_colours(matrix, full, bits):
    rgb = texture(40, 56).astype(float) / 255
    codes = np.clip(np.rint(true_planes(rgb, matrix, full, bits)), 0, 2**bits - 1)
    frame = av.VideoFrame(56, 40, "yuv444p" + "10le" * (bits == 10))
    for plane, values in zip(frame.planes, codes, strict=True):
        dtype = np.dtype(np.uint8 if bits == 8 else np.uint16)
        rows = np.zeros((40, plane.line_size // dtype.itemsize), dtype)
        rows[:, :56] = values
        plane.update(rows.tobytes())
    found = RgbConverter(Colour(matrix, full, "", True))(frame, bits=8 if bits == 8 else 16)
    # A code's rounding alone moves a channel by up to (0.5 + 0.5 x 1.88) steps.
    steps = (found / np.iinfo(found.dtype).max - rgb) * (2**bits - 1)
    assert np.abs(steps).max() < 2.6
    assert np.abs(steps.mean(axis=(0, 1))).max() < 0.2


@pytest.mark.parametrize(("matrix", "full", "bits"), ALL_CODINGS)
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_colours_are_encoded_to_the_planes_of_the_standard(matrix, full, bits, depth):
    rgb = texture(40, 56).astype(depth) * (1 if depth == np.uint8 else 257)
    true = true_planes(rgb / np.iinfo(depth).max, matrix, full, bits)
    name = "yuv444p" + "10le" * (bits == 10)
    frame = frame_of_rgb(rgb, name, Colour(matrix, full, "", True))
    for index in range(3):
        error = plane_of(frame, index, bits) - np.clip(true[index], 0, 2**bits - 1)
        assert np.abs(error).max() < 0.502


@pytest.mark.parametrize("cosited", [False, True])
@pytest.mark.parametrize("layout", ["yuv420p", "yuv422p", "yuv440p"])
def test_chroma_is_averaged_where_its_samples_are(layout, cosited):
    rgb = texture(41, 57)
    true = true_planes(rgb / 255, "bt709", False, 8)[1]
    frame = frame_of_rgb(rgb, layout, Colour("bt709", False, "", True), cosited=cosited)
    found = plane_of(frame, 1)
    # The sample of rows 20 and 21 (or row 20), columns 30 and its neighbours.
    rows = true[20:22].mean(axis=0) if layout != "yuv422p" else true[20]
    across = layout != "yuv440p"
    value = rows[30] if not across else (
        (rows[29] + 2 * rows[30] + rows[31]) / 4 if cosited else (rows[30] + rows[31]) / 2
    )  # fmt: skip
    assert abs(found[10 if len(found) < 41 else 20, 15 if across else 30] - value) < 0.51


def test_grey_is_the_luma_of_the_standard():
    rgb = texture(40, 56)
    frame = frame_of_rgb(rgb, "gray", Colour("bt709", False, "", True))
    true = true_planes(rgb / 255, "bt709", False, 8)[0]
    assert np.abs(plane_of(frame, 0) - true).max() < 0.502


@pytest.mark.parametrize("tag", [0, 3, 8, 10, 11, 12, 13, 14, 15, 16, 17, 99])
def test_matrix_that_is_not_read_is_refused_by_name(tag):
    with pytest.raises(VideoError, match="matrix") as caught:
        colour_of(tag, 1, 1, "yuv420p", 1080, where="film.mp4")
    assert caught.value.where.startswith("film.mp4")
    assert "ffmpeg" in caught.value.cure


@pytest.mark.parametrize("bits", [8, 16])
def test_grey_of_ten_bits_keeps_its_range(bits):
    frame = av.VideoFrame(16, 16, "gray10le")
    (plane,) = frame.planes
    plane.update(np.full(plane.buffer_size // 2, 502, np.uint16).tobytes())
    found = RgbConverter(Colour("bt709", False, "", True))(frame, bits=bits)
    assert abs(float(found[8, 8, 0]) / (2**bits - 1) - (502 - 64) / 876) < 0.5 / 255


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
        planes = [plane_of(frame, index).copy() for index in range(3)]
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


@pytest.mark.parametrize(
    ("tag", "matrix"),
    [(1, "bt709"), (4, "fcc"), (5, "bt601"), (6, "bt601"), (7, "smpte240m"), (9, "bt2020")],
)
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
