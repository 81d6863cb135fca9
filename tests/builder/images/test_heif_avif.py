"""HEIC and AVIF come back within coding loss, upright, deep values on the full range."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from trajectory_builder.errors import ImageError
from trajectory_builder.images.picture import upright, upright_xmp
from trajectory_builder.images.pictures import decode, size_and_bits

H, W = 48, 64
SMOOTH = np.stack(np.meshgrid(np.linspace(0, 1, W), np.linspace(0, 1, H)), axis=2)
SMOOTH = np.dstack([SMOOTH, np.full((H, W), 0.5)])
RGB = np.rint(SMOOTH * 255).astype(np.uint8)


def heic(values, **options):
    heif = pytest.importorskip("pillow_heif")
    mode = "RGB" if values.dtype == np.uint8 else "RGB;16"
    image = heif.from_bytes(mode, (W, H), values.tobytes())
    sink = io.BytesIO()
    image.save(sink, quality=100, chroma=444, **options)
    return sink.getvalue()


def avif(**options):
    sink = io.BytesIO()
    Image.fromarray(RGB).save(sink, "AVIF", quality=100, subsampling="4:4:4", **options)
    return sink.getvalue()


@pytest.mark.parametrize("make", [lambda: heic(RGB), avif], ids=["heic", "avif"])
def test_eight_bits_come_back_within_coding_loss(make):
    picture = decode(make(), name="a")
    assert picture.pixels.dtype == np.uint8
    assert np.abs(picture.pixels.astype(int) - RGB).max() <= 4
    assert picture.notes == ()


def test_ten_bits_of_heic_fill_the_range_of_sixteen():
    deep = np.rint(SMOOTH * 65535).astype(np.uint16)
    picture = decode(heic(deep), name="a")
    assert picture.pixels.dtype == np.uint16
    assert np.abs(picture.pixels.astype(int) - deep).max() <= 65535 * 8 / 1023
    assert picture.pixels.max() == 65535
    assert picture.notes == ("10 bits became 16",)


def test_an_orientation_in_avif_turns_once():
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = decode(avif(exif=exif), name="a")
    assert np.abs(picture.pixels.astype(int) - np.rot90(RGB, -1)).max() <= 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_each_orientation_of_a_heic_turns_once(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = heic(RGB, exif=exif.tobytes())  # stored as irot and imir boxes, and in EXIF
    picture = decode(content, name="a")
    assert np.abs(picture.pixels.astype(int) - upright(RGB, orientation)).max() <= 4
    again = Image.Exif()
    again.load(picture.exif)
    assert again.get(0x0112, 1) == 1
    (tmp_path / "a.heic").write_bytes(content)
    height, width = picture.pixels.shape[:2]
    assert size_and_bits(tmp_path / "a.heic") == (width, height, 8)


def deep_avif(bits):
    codecs = pytest.importorskip("imagecodecs")
    values = np.rint(SMOOTH * (2**bits - 1)).astype(np.uint16)
    content = codecs.avif_encode(values, bitspersample=bits, level=100, pixelformat="444")
    return bytes(content)


@pytest.mark.parametrize("bits", [10, 12])
def test_deep_avif_is_right_at_eight_bits_and_says_so(bits):
    picture = decode(deep_avif(bits), name="a")
    assert np.abs(picture.pixels - SMOOTH * 255).max() <= 3
    assert picture.notes == (f"{bits} bits became 8",)


@pytest.mark.parametrize("make", [lambda: heic(RGB), lambda: avif()], ids=["heic", "avif"])
def test_colours_named_by_numbers_are_noted_or_refused(make):
    content = make()
    at = content.index(b"colrnclx") + 8
    wide = content[:at] + b"\0\x0c" + content[at + 2 :]
    assert "Display P3" in " ".join(decode(wide, name="a").notes)
    hdr = content[:at] + b"\0\x09\0\x10" + content[at + 4 :]
    with pytest.raises(ImageError, match="HDR: PQ") as caught:
        decode(hdr, name="a")
    assert caught.value.cure


@pytest.mark.parametrize(("name", "make"), [("a.heic", lambda: heic(RGB)), ("a.avif", avif)])
def test_size_comes_from_the_header(tmp_path, name, make):
    (tmp_path / name).write_bytes(make())
    assert size_and_bits(tmp_path / name) == (W, H, 8)


@pytest.mark.parametrize("make", [lambda: heic(RGB), avif], ids=["heic", "avif"])
@pytest.mark.parametrize("share", [0.2, 0.9])
def test_cut_files_are_refused(make, share):
    content = make()
    with pytest.raises(ImageError):
        decode(content[: int(len(content) * share)], name="a")


def test_an_animated_avif_is_refused():
    sink = io.BytesIO()
    frames = [Image.fromarray(RGB), Image.fromarray(RGB[::-1])]
    frames[0].save(sink, "AVIF", save_all=True, append_images=frames[1:])
    with pytest.raises(ImageError, match="animation"):
        decode(sink.getvalue(), name="a")


def test_heic_without_its_package_names_the_extra():
    content = heic(RGB)
    code = (
        "import sys; sys.modules['pillow_heif'] = None\n"
        "from trajectory_builder.images.pictures import decode\n"
        "decode(sys.stdin.buffer.read(), name='a.heic')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=content, capture_output=True, check=False
    )
    assert b'pip install "fidediff[heif]"' in done.stderr


@pytest.mark.parametrize(
    ("start", "word"),
    [
        (b"\xff\x0a", "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"GIF89a", "GIF"),
        (b"BM", "BMP"),
        (b"II*\0\x10\0\0\0CR\x02\0", "raw photograph"),
        (b"FUJIFILMCCD-RAW ", "raw photograph"),
    ],
)
def test_kinds_that_are_not_read_are_named_with_a_cure(start, word):
    with pytest.raises(ImageError, match=word) as caught:
        decode(start + b"\0" * 64, name="a")
    assert caught.value.cure


@pytest.mark.parametrize(
    "packet",
    [b'<a tiff:Orientation="6"/>', b"<a tiff:Orientation = '8'/>", b"<tiff:Orientation>3<"],
)
def test_the_orientation_in_xmp_becomes_upright_too(packet):
    turned = upright_xmp(packet)
    assert len(turned) == len(packet)
    assert turned == packet.translate(bytes.maketrans(b"368", b"111"))
