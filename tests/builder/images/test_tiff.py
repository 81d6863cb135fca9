"""TIFF layouts against numpy truth: planes, black and white, depth, alpha, tiles, byte order."""

import io
import struct

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from trajectory_builder.errors import ImageError
from trajectory_builder.images.pictures import decode, size_and_bits

H, W = 48, 64
RNG = np.random.default_rng(5)
SMOOTH = np.linspace(0, 1, H * W * 3).reshape(H, W, 3)
KINDS = {8: np.uint8, 16: np.uint16}


def stored(bits):
    return np.rint(SMOOTH * (2**bits - 1)).astype(KINDS[bits])


def tiff(values, **options):
    sink = io.BytesIO()
    tifffile.imwrite(sink, values, **options)
    return sink.getvalue()


def packed(values, bits, *, photometric=1, order="<", apart=False, fill_order=1):
    """A TIFF of one strip per plane whose samples are packed, written by hand."""
    rows = values if values.ndim == 3 else values[:, :, None]
    count = rows.shape[2]
    planes = np.moveaxis(rows, 2, 0) if apart else rows.reshape(1, H, W * count)
    body = b""
    for plane in planes:
        for row in plane:
            text = "".join(f"{int(v):0{bits}b}" for v in row)
            text += "0" * (-len(text) % 8)
            body += bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))
    if fill_order == 2:  # the least significant bit of each byte comes first
        body = bytes(int(f"{byte:08b}"[::-1], 2) for byte in body)
    size = len(body) // len(planes)
    tags = [(256, 3, [W]), (257, 3, [H]), (258, 3, [bits] * count), (259, 3, [1])]
    tags += [(262, 3, [photometric]), (266, 3, [fill_order])]
    tags += [(273, 4, [8 + size * k for k in range(len(planes))])]
    tags += [(277, 3, [count]), (278, 3, [H]), (279, 4, [size] * len(planes))]
    tags += [(284, 3, [2 if apart else 1])]
    more_at = 8 + len(body)
    head, more = b"", b""
    for number, kind, numbers in tags:
        content = struct.pack(f"{order}{len(numbers)}{'H' if kind == 3 else 'I'}", *numbers)
        if len(content) > 4:
            at, more = more_at + len(more), more + content
            content = struct.pack(order + "I", at)
        head += struct.pack(order + "HHI", number, kind, len(numbers)) + content.ljust(4, b"\0")
    start = b"II*\0" if order == "<" else b"MM\0*"
    ifd = struct.pack(order + "H", len(tags)) + head + struct.pack(order + "I", 0)
    return start + struct.pack(order + "I", more_at + len(more)) + body + more + ifd


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("tile", [None, (16, 16)])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("bits", [8, 16])
def test_rgb_comes_back_bit_for_bit(bits, planar, tile, order):
    values = stored(bits)
    held = values if planar == "contig" else np.ascontiguousarray(np.moveaxis(values, 2, 0))
    content = tiff(held, photometric="rgb", planarconfig=planar, tile=tile, byteorder=order)
    assert np.array_equal(decode(content, name="a").pixels, values)


@pytest.mark.parametrize("compression", [5, 8, 32773], ids=["lzw", "zlib", "packbits"])
@pytest.mark.parametrize("bits", [8, 16])
def test_compressed_strips_come_back_bit_for_bit(bits, compression):
    options = [cv2.IMWRITE_TIFF_COMPRESSION, compression]
    content = cv2.imencode(".tif", stored(bits)[:, :, ::-1], options)[1].tobytes()
    assert np.array_equal(decode(content, name="a").pixels, stored(bits))


def test_big_tiff_comes_back_bit_for_bit():
    content = tiff(stored(16), photometric="rgb", bigtiff=True)
    assert np.array_equal(decode(content, name="a").pixels, stored(16))


@pytest.mark.parametrize("bits", [8, 16])
def test_white_is_zero_is_turned_round(bits):
    gray = stored(bits)[:, :, 0]
    picture = decode(tiff(2**bits - 1 - gray, photometric="miniswhite"), name="a")
    assert picture.gray
    assert np.array_equal(picture.pixels, gray[:, :, None].repeat(3, 2))


@pytest.mark.parametrize("bits", [8, 16])
def test_colours_beside_unassociated_alpha_stay_as_stored(bits):
    half = np.full((H, W, 1), 2 ** (bits - 1), KINDS[bits])
    content = tiff(
        np.concatenate([stored(bits), half], 2), photometric="rgb", extrasamples=["unassalpha"]
    )
    picture = decode(content, name="a")
    assert np.array_equal(picture.pixels, stored(bits))
    assert np.array_equal(picture.alpha, half[:, :, 0])


@pytest.mark.parametrize("bits", [8, 16])
def test_associated_alpha_is_divided_out_with_a_note(bits):
    white = 2**bits - 1
    alpha = np.full((H, W, 1), white // 2 + 1, KINDS[bits])
    multiplied = np.rint(stored(bits) * (alpha / white)).astype(KINDS[bits])
    content = tiff(
        np.concatenate([multiplied, alpha], 2), photometric="rgb", extrasamples=["assocalpha"]
    )
    picture = decode(content, name="a")
    truth = np.minimum(np.rint(multiplied / (alpha / white)), white)
    assert np.array_equal(picture.pixels, truth)
    assert np.abs(picture.pixels.astype(int) - stored(bits)).max() <= 1
    assert any("alpha" in note for note in picture.notes)


def test_an_extra_channel_of_unknown_meaning_is_left_out_with_a_note():
    content = tiff(
        np.concatenate([stored(8), stored(8)[:, :, :1]], 2),
        photometric="rgb", extrasamples=["unspecified"],
    )  # fmt: skip
    picture = decode(content, name="a")
    assert picture.alpha is None
    assert np.array_equal(picture.pixels, stored(8))
    assert "unknown meaning" in picture.notes[0]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [2, 4, 6, 10, 12, 14])
def test_odd_depths_are_scaled_so_that_the_largest_value_is_white(bits, order):
    values = np.rint(SMOOTH[:, :, 0] * (2**bits - 1)).astype(int)
    values[0, 0] = 2**bits - 1
    picture = decode(packed(values, bits, order=order), name="a")
    white = 255 if bits < 8 else 65535
    truth = np.rint(values * white / (2**bits - 1))
    assert picture.gray
    assert np.array_equal(picture.pixels[:, :, 0], truth)
    assert picture.notes == (f"{bits} bits became {8 if bits < 8 else 16}",)


@pytest.mark.parametrize("bits", [1, 4, 12])
def test_bits_are_read_in_the_order_of_the_tag(bits):
    values = np.rint(SMOOTH[:, :, 0] * (2**bits - 1)).astype(int)
    content = packed(values, bits, fill_order=2)
    white = 255 if bits < 9 else 65535
    truth = np.rint(values * white / (2**bits - 1))
    assert np.array_equal(decode(content, name="a").pixels[:, :, 0], truth)


@pytest.mark.parametrize("apart", [False, True])
def test_twelve_bit_colour_comes_back_scaled(apart):
    values = np.rint(SMOOTH * 4095).astype(int)
    picture = decode(packed(values, 12, photometric=2, apart=apart), name="a")
    assert np.array_equal(picture.pixels, np.rint(values * 65535 / 4095))


@pytest.mark.parametrize("white_is_zero", [False, True])
def test_one_bit_is_black_and_white(white_is_zero):
    values = RNG.integers(0, 2, (H, W))
    photometric = 0 if white_is_zero else 1
    picture = decode(packed(values, 1, photometric=photometric), name="a")
    truth = (1 - values if white_is_zero else values) * 255
    assert np.array_equal(picture.pixels[:, :, 0], truth)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_the_orientation_tag_turns_once(orientation, compression):
    sink = io.BytesIO()
    tags = {0x0112: orientation}
    Image.fromarray(stored(8)).save(sink, "TIFF", compression=compression, tiffinfo=tags)
    content = sink.getvalue()
    exif = Image.Exif()
    exif[0x0112] = orientation
    sink = io.BytesIO()
    Image.fromarray(stored(8)).save(sink, "PNG", exif=exif)
    assert np.array_equal(
        decode(content, name="a").pixels, decode(sink.getvalue(), name="b").pixels
    )


def test_a_palette_is_looked_up():
    image = Image.fromarray(stored(8)).convert("P", palette=Image.Palette.ADAPTIVE)
    sink = io.BytesIO()
    image.save(sink, "TIFF")
    truth = np.asarray(image.convert("RGB"))
    assert np.array_equal(decode(sink.getvalue(), name="a").pixels, truth)


def test_a_reduced_copy_beside_the_image_does_not_count_as_a_page():
    sink = io.BytesIO()
    with tifffile.TiffWriter(sink) as writer:
        writer.write(stored(8), photometric="rgb")
        writer.write(stored(8)[::2, ::2], photometric="rgb", subfiletype=1)
    assert np.array_equal(decode(sink.getvalue(), name="a").pixels, stored(8))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (tiff(SMOOTH.astype(np.float32), photometric="rgb"), "floats"),
        (tiff(stored(8).astype(np.int16), photometric="rgb"), "floats or signed"),
        (tiff(stored(16).astype(np.uint32), photometric="rgb"), "32"),
        (tiff(np.stack([stored(8), stored(8)]), photometric="rgb"), "2 pages"),
        (tiff(stored(8), photometric="cielab"), "CIE Lab"),
    ],
    ids=["floats", "signed", "32 bits", "pages", "lab"],
)
def test_other_kinds_are_refused_by_name(content, words):
    with pytest.raises(ImageError, match=words) as caught:
        decode(content, name="a.tif")
    assert caught.value.where == "a.tif"
    assert caught.value.cure


def test_a_raw_photograph_in_a_tiff_is_refused_by_name():
    dng = tiff(stored(8), photometric="rgb", extratags=[(50706, "B", 4, b"\1\4\0\0", True)])
    sink = io.BytesIO()
    with tifffile.TiffWriter(sink) as writer:  # as NEF and ARW: a preview, the sensor below it
        writer.write(stored(8)[::4, ::4], photometric="rgb", subfiletype=1, subifds=1)
        writer.write(stored(16)[:, :, 0], photometric=32803)
    for content in (dng, sink.getvalue()):
        with pytest.raises(ImageError, match="raw photograph") as caught:
            decode(content, name="a")
        assert "develop it" in caught.value.cure


def test_exif_of_a_tiff_is_noted():
    exif = Image.Exif()
    exif[0x010F] = "camera"
    sink = io.BytesIO()
    Image.fromarray(stored(8)).save(sink, "TIFF", exif=exif)
    picture = decode(sink.getvalue(), name="a")
    assert np.array_equal(picture.pixels, stored(8))
    assert "EXIF of a TIFF is left out" in picture.notes


def test_a_cut_tiff_is_refused():
    content = tiff(stored(16), photometric="rgb")
    with pytest.raises(ImageError, match="damaged"):
        decode(content[: len(content) // 2], name="a")


def test_a_header_of_many_pixels_is_refused_before_decoding():
    content = packed(np.zeros((H, W), int), 8)
    wide = content.replace(
        struct.pack("<HHIHH", 256, 3, 1, W, 0), struct.pack("<HHII", 256, 4, 1, 10**6)
    )
    tall = wide.replace(
        struct.pack("<HHIHH", 257, 3, 1, H, 0), struct.pack("<HHII", 257, 4, 1, 10**6)
    )
    with pytest.raises(ImageError, match="claims"):
        decode(tall, name="a")


@pytest.mark.parametrize(("bits", "orientation"), [(8, 1), (16, 6)])
def test_size_and_bits_come_from_the_tags(tmp_path, bits, orientation):
    path = tmp_path / "a.tif"
    path.write_bytes(
        tiff(stored(bits), photometric="rgb", extratags=[(274, "H", 1, orientation, True)])
    )
    size = (H, W) if orientation == 6 else (W, H)
    assert size_and_bits(path) == (*size, bits)


@pytest.mark.parametrize(("largest", "noted"), [(4095, True), (16_383, True), (16_384, False)])
def test_values_that_end_far_below_the_container_are_noted(largest, noted):
    values = np.rint(SMOOTH * largest).astype(np.uint16)
    notes = decode(tiff(values, photometric="rgb"), name="a").notes
    assert (f"end at {largest:,} of 65,535" in " ".join(notes)) == noted
