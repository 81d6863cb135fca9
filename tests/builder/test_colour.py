import av
import numpy as np
import pytest
from footage_maker import pan, write_video

from trajectory_builder.sources import video
from trajectory_builder.sources.colour import (
    LUMA_WEIGHTS,
    Colour,
    RgbConverter,
    colour_of,
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


@pytest.mark.parametrize("full", [False, True])
def test_fast_and_exact_conversion_agree_on_flat_colours(full):
    convert = RgbConverter(Colour("bt709", full, "", True))
    for rgb in COLOURS:
        frame = flat(rgb, "bt709", full)
        fast, exact = convert._by_matrix(frame), convert._exact(frame, "rgb24")
        assert np.abs(fast[16, 16].astype(int) - exact[16, 16]).max() <= 1


def test_strips_of_rows_leave_no_seam():
    random = np.random.default_rng(0)
    frame = av.VideoFrame(64, 101, "yuv444p")
    coded = random.integers(16, 236, (3, 101, 64)).astype(np.uint8)
    for plane, values in zip(frame.planes, coded, strict=True):
        rows = np.zeros((plane.height, plane.line_size), np.uint8)
        rows[:, :64] = values
        plane.update(rows.tobytes())
    convert = RgbConverter(Colour("bt601", False, "", True))
    matrix = rgb_matrix("bt601", False)
    true = np.einsum("cv,vhw->hwc", matrix[:, :3], coded.astype(float)) + matrix[:, 3]
    assert np.abs(convert(frame) - np.clip(true, 0, 255)).max() <= 1


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
    assert (found.matrix, found.full_range, found.told) == (matrix, True, True)


def test_sixteen_bits_keep_what_ten_bits_hold():
    frame = av.VideoFrame(16, 16, "yuv420p10le")
    for plane, value in zip(frame.planes, (501, 512, 512), strict=True):
        plane.update(np.full(plane.buffer_size // 2, value, np.uint16).tobytes())
    found = RgbConverter(Colour("bt709", False, "", True))(frame, bits=16)
    assert found.dtype == np.uint16
    assert abs(float(found[8, 8, 0]) / 65535 - (501 - 64) / 876) < 0.002
