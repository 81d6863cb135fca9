import io

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms
from small_model import scene

from fidediff_model.restore.files import encode_picture, lost_in, to_tensor, with_image
from trajectory_builder.errors import ImageError
from trajectory_builder.images.picture import Picture
from trajectory_builder.images.pictures import decode

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def saved(image: Image.Image, file_format: str, **options) -> bytes:
    sink = io.BytesIO()
    image.save(sink, file_format, **options)
    return sink.getvalue()


def deep(height: int = 20, width: int = 30, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 65536, (height, width, channels), dtype=np.uint16)


KINDS = [("PNG", mode) for mode in ("RGB", "RGBA", "L", "LA", "P", "1")]
KINDS += [("TIFF", mode) for mode in ("RGB", "RGBA", "L", "LA", "1")]
KINDS += [("WEBP", "RGB"), ("WEBP", "RGBA")]


@pytest.mark.parametrize(("file_format", "mode"), KINDS)
def test_lossless_files_come_back_pixel_by_pixel(file_format, mode):
    original = Image.fromarray(scene(20, 30)).convert(mode)
    options = {"lossless": True} if file_format == "WEBP" else {}
    picture = decode(saved(original, file_format, **options), name="a")
    again = Image.open(io.BytesIO(encode_picture(picture)))
    assert again.format == file_format
    assert np.array_equal(np.asarray(again.convert("RGBA")), np.asarray(original.convert("RGBA")))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_exif_orientation_is_applied_once(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "a camera"
    content = saved(Image.fromarray(scene(20, 30)), "PNG", exif=exif)
    # The independent witness: OpenCV turns the picture as EXIF says.
    upright = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
    picture = decode(content, name="a")
    assert np.array_equal(picture.pixels, upright)
    again = Image.open(io.BytesIO(encode_picture(picture)))
    assert again.getexif()[0x0112] == 1
    assert again.getexif()[0x010F] == "a camera"


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_the_icc_profile_is_kept(file_format):
    content = saved(Image.fromarray(scene(20, 30)), file_format, icc_profile=SRGB)
    again = encode_picture(decode(content, name="a"))
    assert Image.open(io.BytesIO(again)).info["icc_profile"] == SRGB


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_sixteen_bits_stay_sixteen_bits(file_format, channels):
    values = deep(channels=channels)
    if file_format == "PNG":
        order = [2, 1, 0, 3][:channels] if channels == 4 else [2, 1, 0]
        content = cv2.imencode(".png", np.ascontiguousarray(values[:, :, order]))[1].tobytes()
    else:
        sink = io.BytesIO()
        extra = ["unassalpha"] if channels == 4 else None
        tifffile.imwrite(sink, values, photometric="rgb", extrasamples=extra)
        content = sink.getvalue()
    picture = decode(content, name="a")
    again = decode(encode_picture(picture), name="b")
    assert np.array_equal(again.pixels, values[:, :, :3])
    assert again.alpha is None if channels == 3 else np.array_equal(again.alpha, values[:, :, 3])


def test_a_sixteen_bit_png_keeps_its_profile():
    picture = Picture(deep(), "PNG", icc=SRGB)
    assert Image.open(io.BytesIO(encode_picture(picture))).info["icc_profile"] == SRGB


def test_a_turned_sixteen_bit_tiff_comes_upright():
    values = deep()
    sink = io.BytesIO()
    tifffile.imwrite(sink, values, photometric="rgb", extratags=[(274, "H", 1, 6, True)])
    picture = decode(sink.getvalue(), name="a")
    assert np.array_equal(picture.pixels, np.rot90(values, 3))


def test_a_picture_survives_the_way_through_the_model_type():
    for values in (scene(20, 30), deep()):
        picture = Picture(values, "PNG")
        assert np.array_equal(with_image(picture, to_tensor(picture)).pixels, values)


def test_cmyk_becomes_colour_and_says_so():
    content = saved(Image.fromarray(scene(20, 30)).convert("CMYK"), "JPEG")
    picture = decode(content, name="a")
    assert picture.notes == ("CMYK became sRGB",)
    assert Image.open(io.BytesIO(encode_picture(picture))).mode == "RGB"


GOOD_PNG = saved(Image.fromarray(scene(20, 30)), "PNG")
TWO = [Image.fromarray(scene(20, 30, seed)) for seed in (1, 2)]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "empty"),
        (b"hello", "no known image format"),
        (GOOD_PNG[:-40], "truncated"),
        (saved(TWO[0], "JPEG")[:300], "damaged"),
        (saved(TWO[0], "GIF", save_all=True, append_images=TWO[1:]), "a GIF"),
        (saved(TWO[0], "WEBP", save_all=True, append_images=TWO[1:]), "2 images"),
        (saved(TWO[0], "TIFF", save_all=True, append_images=TWO[1:]), "2 pages"),
        (saved(TWO[0], "GIF"), "GIF"),
        (saved(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF"), "floats"),
    ],
    ids=["empty", "text", "cut png", "cut jpeg", "gif", "webp", "pages", "still gif", "floats"],
)
def test_a_file_that_is_no_still_image_is_named_and_refused(content, told):
    with pytest.raises(ImageError, match=told) as raised:
        decode(content, name="the name")
    assert raised.value.where == "the name"
    assert raised.value.cure


def test_any_damaged_byte_gives_a_picture_or_a_named_error():
    content = saved(Image.fromarray(scene(20, 30)), "TIFF", compression="tiff_lzw")
    generator = np.random.default_rng(0)
    for _ in range(200):
        broken = bytearray(content)
        broken[int(generator.integers(len(broken)))] ^= int(generator.integers(1, 256))
        try:
            decode(bytes(broken), name="a")
        except ImageError:
            continue


@pytest.mark.parametrize("file_format", ["AVIF", "HEIC"])
def test_lossy_formats_of_phones_come_back_within_coding_loss(file_format):
    if file_format == "HEIC":
        pytest.importorskip("pillow_heif")
    smooth = cv2.GaussianBlur(scene(48, 64), (0, 0), 4)
    again = decode(encode_picture(Picture(smooth, file_format, icc=SRGB)), name="a")
    assert again.format == file_format
    assert np.abs(again.pixels.astype(int) - smooth).mean() < 2
    assert again.icc == SRGB


def test_chunks_of_a_png_survive_with_other_pixels():
    chunks = ((b"gAMA", b"\0\0\xb1\x8f"), (b"cICP", b"\x09\x10\0\1"))
    for values in (scene(20, 30), deep()):
        again = decode(encode_picture(Picture(values, "PNG", icc=SRGB, chunks=chunks)), name="a")
        assert again.chunks == chunks
        assert again.icc == SRGB


def test_xmp_survives_in_every_format_that_has_it():
    packet = b'<?xpacket begin="" id="W5M0"?><x:xmpmeta xmlns:x="adobe:ns:meta/"/>'
    for file_format in ("JPEG", "TIFF", "WEBP"):
        picture = Picture(scene(20, 30), file_format, xmp=packet)
        assert decode(encode_picture(picture), name="a").xmp == packet
    as_png = encode_picture(Picture(scene(20, 30), "JPEG", xmp=packet), file_format="PNG")
    assert Image.open(io.BytesIO(as_png)).info["XML:com.adobe.xmp"].encode() == packet


def test_exif_is_listed_as_lost_in_tiff():
    exif = Image.Exif()
    exif[0x010F] = "camera"
    picture = Picture(scene(20, 30), "JPEG", exif=exif.tobytes())
    assert lost_in(picture, "TIFF") == ("EXIF is lost in TIFF",)
    assert lost_in(picture, "PNG") == ()


def test_what_a_format_cannot_hold_is_listed():
    alpha = np.full((20, 30), 9, np.uint16)
    picture = Picture(deep(), "PNG", alpha=alpha, chunks=((b"gAMA", b"\0\0\xb1\x8f"),))
    assert lost_in(picture, "PNG") == ()
    assert len(lost_in(picture, "JPEG")) == 3
    assert "gAMA" in lost_in(picture, "TIFF")[0]


def test_the_previews_of_a_jpeg_are_left_out_with_a_note():
    sink = io.BytesIO()
    TWO[0].save(sink, "MPO", save_all=True, append_images=TWO[1:])
    picture = decode(sink.getvalue(), name="a")
    assert picture.format == "JPEG"
    assert "1 further images" in picture.notes[0]
    assert np.abs(picture.pixels.astype(int) - np.asarray(TWO[0])).mean() < 12
