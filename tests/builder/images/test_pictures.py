import cv2
import numpy as np
import pytest
from PIL import Image

from trajectory_builder.errors import ImageError
from trajectory_builder.images import pictures

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 40, 3)).astype(np.uint8)


def save(path, pixels=PIXELS, **options):
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.mark.parametrize(
    ("name", "options"), [("a.png", {}), ("a.tif", {}), ("a.webp", {"lossless": True})]
)
def test_lossless_formats_come_back_bit_for_bit(tmp_path, name, options):
    assert (pictures.read(save(tmp_path / name, **options)).pixels == PIXELS).all()


def test_jpeg_comes_back_as_pillow_reads_it(tmp_path):
    path = save(tmp_path / "a.jpg", quality=95)
    other = np.array(Image.open(path)).astype(int)
    assert np.abs(pictures.read(path).pixels - other).mean() < 2


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_come_back_bit_for_bit(tmp_path, suffix):
    deep = (PIXELS.astype(np.uint16) << 8) + 7
    path = tmp_path / f"deep{suffix}"
    cv2.imwrite(str(path), deep[..., ::-1])
    assert (pictures.read(path).pixels == deep).all()
    assert pictures.size_and_bits(path) == (40, 24, 16)


def test_grey_becomes_rgb(tmp_path):
    found = pictures.read(save(tmp_path / "g.png", PIXELS[..., 0])).pixels
    assert (found == PIXELS[..., :1]).all()


def test_content_decides_not_the_suffix(tmp_path):
    path = save(tmp_path / "a.jpg", format="PNG")
    assert (pictures.read(path).pixels == PIXELS).all()


def test_exif_orientation_turns_the_picture_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / "turned.png", exif=exif)
    assert (pictures.read(path).pixels == np.rot90(PIXELS, -1)).all()
    assert pictures.size_and_bits(path)[:2] == (24, 40)


def reason_of(path, **options):
    with pytest.raises(ImageError) as caught:
        pictures.read(path, **options)
    assert caught.value.where
    assert caught.value.cure
    return caught.value.reason


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_cut_pictures_are_refused(tmp_path, name, share):
    path = save(tmp_path / name)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert reason_of(path) in ("frame-truncated", "frame-damaged")


def test_end_mark_of_a_thumbnail_does_not_make_a_cut_jpeg_whole(tmp_path):
    path = save(tmp_path / "a.jpg")
    whole = path.read_bytes()
    thumbnail = b"Exif\0\0" + whole  # an application segment that holds a whole JPEG
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    path.write_bytes(whole[:2] + segment + whole[2 : int(len(whole) * 0.7)])
    assert reason_of(path) == "frame-truncated"


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "frame-empty"), (b"words", "frame-unknown-format"), (b"GIF89a", "frame-unknown-format")],
)
def test_other_files_are_refused(tmp_path, content, reason):
    (tmp_path / "x.png").write_bytes(content)
    assert reason_of(tmp_path / "x.png") == reason


def test_another_size_is_refused_with_both_sizes(tmp_path):
    with pytest.raises(ImageError, match=r"40 x 24.*41 x 24"):
        pictures.read(save(tmp_path / "a.png"), expect=(41, 24))


def test_missing_picture_is_refused(tmp_path):
    assert reason_of(tmp_path / "none.png") == "frame-missing"


def test_float_tiff_is_refused(tmp_path):
    path = tmp_path / "float.tif"
    cv2.imwrite(str(path), PIXELS.astype(np.float32))
    assert reason_of(path) == "frame-unknown-depth"


def test_digest_is_of_the_file(tmp_path):
    import hashlib

    path = save(tmp_path / "a.png")
    assert pictures.read(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
