"""Images are read whole or refused, whatever reader is at hand."""

import cv2
import numpy as np
import pytest

from trajectory_builder.errors import ImageError
from trajectory_builder.images import png
from trajectory_builder.images.pictures import read_rgb8

PIXELS = np.random.default_rng(0).integers(0, 256, (21, 34, 3), dtype=np.uint8)


def _png(path, pixels=PIXELS):
    path.write_bytes(cv2.imencode(".png", pixels[..., ::-1] if pixels.ndim == 3 else pixels)[1])
    return path


@pytest.fixture(params=["kornia-rs", "opencv"])
def reader(request, monkeypatch):
    """The strict reader, and a machine for which there is no wheel of it."""
    if request.param == "opencv":
        monkeypatch.setattr(png, "default_reader", lambda: "opencv")
    elif png.default_reader() != "kornia-rs":
        pytest.skip("kornia-rs is not installed")


@pytest.mark.usefixtures("reader")
def test_png_gives_its_pixels_as_rgb(tmp_path):
    assert np.array_equal(read_rgb8(_png(tmp_path / "a.png")), PIXELS)


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("cut", [12, 13, 400])
def test_cut_png_is_refused(tmp_path, cut):
    path = _png(tmp_path / "a.png")
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(ImageError, match=r"damaged|truncated"):
        read_rgb8(path)


@pytest.mark.usefixtures("reader")
def test_png_with_one_flipped_bit_is_refused(tmp_path):
    path = _png(tmp_path / "a.png")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"damaged|truncated"):
        read_rgb8(path)


def test_gray_png_becomes_rgb(tmp_path):
    gray = PIXELS[..., 0]
    assert np.array_equal(read_rgb8(_png(tmp_path / "g.png", gray)), gray[..., None].repeat(3, 2))


def test_cut_gray_png_is_refused(tmp_path):
    path = _png(tmp_path / "g.png", PIXELS[..., 0])
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ImageError, match="truncated"):
        read_rgb8(path)


def test_png_with_alpha_loses_it(tmp_path):
    with_alpha = np.dstack([PIXELS[..., ::-1], np.full((21, 34), 7, np.uint8)])
    (tmp_path / "a.png").write_bytes(cv2.imencode(".png", with_alpha)[1])
    assert np.array_equal(read_rgb8(tmp_path / "a.png"), PIXELS)


def test_jpeg_is_read(tmp_path):
    flat = np.full((16, 16, 3), 90, np.uint8)
    (tmp_path / "a.jpg").write_bytes(cv2.imencode(".jpg", flat)[1])
    assert np.abs(read_rgb8(tmp_path / "a.jpg").astype(int) - 90).max() <= 2


def test_cut_jpeg_is_refused(tmp_path):
    content = cv2.imencode(".jpg", PIXELS)[1].tobytes()
    (tmp_path / "a.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(ImageError, match="end mark"):
        read_rgb8(tmp_path / "a.jpg")


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n"])
def test_file_that_is_no_image_is_refused(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ImageError) as error:
        read_rgb8(tmp_path / "a.png")
    assert error.value.where == str(tmp_path / "a.png")


def test_absent_file_is_named(tmp_path):
    with pytest.raises(ImageError, match="missing"):
        read_rgb8(tmp_path / "absent.png")
