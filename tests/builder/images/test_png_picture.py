"""PNG of all depths and colour types against numpy truth, written by hand; what its chunks say."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from trajectory_builder.errors import ImageError
from trajectory_builder.images.pictures import decode
from trajectory_builder.images.png import decode_png
from trajectory_builder.images.png_stream import png_chunk

H, W = 12, 21
RNG = np.random.default_rng(3)
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
TYPES = [(0, d) for d in (1, 2, 4, 8, 16)] + [(c, d) for c in (2, 4, 6) for d in (8, 16)]


def samples(kind, depth):
    return RNG.integers(0, 2**depth, (H, W, CHANNELS[kind]))


def png(values, kind, depth, *before, stream=None):
    """A PNG file of filter 0; `before` are chunks that go before the pixels."""
    rows = b""
    for row in values.reshape(H, -1):
        bits = ((row[:, None] >> np.arange(depth - 1, -1, -1)) & 1).astype(np.uint8)
        rows += b"\0" + np.packbits(bits.ravel()).tobytes()
    header = np.array([W, H], ">u4").tobytes() + bytes([depth, kind, 0, 0, 0])
    data = zlib.compress(rows) if stream is None else stream(zlib.compress(rows))
    chunks = [(b"IHDR", header), *before, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def scaled(values, depth):
    white = 65535 if depth == 16 else 255
    return values * white // (2**depth - 1)


@pytest.mark.parametrize(("kind", "depth"), TYPES)
def test_every_kind_comes_back_as_its_samples(kind, depth):
    values = samples(kind, depth)
    picture = decode(png(values, kind, depth), name="a")
    truth = scaled(values, depth)
    colours = truth[:, :, :1].repeat(3, 2) if kind in (0, 4) else truth[:, :, :3]
    assert np.array_equal(picture.pixels, colours)
    assert picture.gray == (kind in (0, 4))
    if kind in (4, 6):
        assert np.array_equal(picture.alpha, truth[:, :, -1])
    else:
        assert picture.alpha is None


@pytest.mark.parametrize(("kind", "depth"), [t for t in TYPES if t[0] in (0, 2)])
def test_a_transparent_colour_becomes_alpha(kind, depth):
    values = samples(kind, depth)
    key = values[5, 7]
    picture = decode(png(values, kind, depth, (b"tRNS", key.astype(">u2").tobytes())), name="a")
    hidden = (values == key).all(axis=2)
    assert np.array_equal(picture.alpha == 0, hidden)
    assert picture.alpha[~hidden].min() == picture.white


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_a_palette_with_alpha_is_looked_up(depth):
    values = samples(3, depth)
    palette = RNG.integers(0, 256, (2**depth, 3))
    alpha = RNG.integers(0, 256, 2**depth)
    chunks = [(b"PLTE", palette.astype(np.uint8).tobytes())]
    chunks += [(b"tRNS", alpha.astype(np.uint8).tobytes())]
    picture = decode(png(values, 3, depth, *chunks), name="a")
    assert np.array_equal(picture.pixels, palette[values[:, :, 0]])
    assert np.array_equal(picture.alpha, alpha[values[:, :, 0]])


def test_chunks_on_colours_and_texts_are_kept_as_they_are():
    chunks = [(b"gAMA", b"\0\0\xb1\x8f"), (b"cICP", b"\x09\x10\0\1"), (b"cHRM", bytes(32))]
    chunks += [(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x:xmpmeta/>")]
    picture = decode(png(samples(2, 8), 2, 8, *chunks), name="a")
    assert sorted(picture.chunks) == sorted(chunks)


@pytest.mark.parametrize(
    ("kind", "content", "note"),
    [
        (b"bKGD", b"\0\1\0\1\0\1", "chunks bKGD are left out"),
        (b"iCCP", b"icc\0\0no zlib", "ICC profile cannot be read"),
        (b"tIME", b"\7\xe8\1\1\0\0\0", ""),
    ],
)
def test_what_cannot_be_kept_of_a_png_is_noted(kind, content, note):
    picture = decode(png(samples(2, 8), 2, 8, (kind, content)), name="a")
    assert (picture.notes == ()) if not note else (note in picture.notes[0])


def test_gamma_changes_no_sample():
    values = samples(2, 16)
    picture = decode(png(values, 2, 16, (b"gAMA", b"\0\0\x27\x10")), name="a")
    assert np.array_equal(picture.pixels, values)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "P"])
def test_pillow_and_we_read_the_same(mode, interlaced):
    image = Image.fromarray(samples(2, 8).astype(np.uint8)).convert(mode)
    sink = io.BytesIO()
    image.save(sink, "PNG", **({"interlace": 1} if interlaced else {}))
    truth = np.asarray(image.convert("RGB"))
    assert np.array_equal(decode(sink.getvalue(), name="a").pixels, truth)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda data: data[:-2],
        lambda data: zlib.compress(zlib.decompress(data) + b"\0"),
        lambda data: zlib.compress(zlib.decompress(data)[:-1]),
        lambda data: zlib.compress(bytes(10_000_000)),
    ],
    ids=["adler", "cut", "longer", "shorter", "bomb"],
)
@pytest.mark.parametrize("reader", ["kornia-rs", "opencv"])
def test_pixels_that_do_not_match_their_sum_or_size_are_refused(spoil, reader):
    if reader == "kornia-rs":
        pytest.importorskip("kornia_rs")
    content = png(samples(2, 8), 2, 8, stream=spoil)
    with pytest.raises(ImageError, match="cannot be decoded"):
        decode_png(content, name="a", reader=reader)
    with pytest.raises(ImageError, match="cannot be decoded"):
        decode(content, name="a")


def test_an_animation_is_refused_by_both_readers():
    content = png(samples(2, 8), 2, 8, (b"acTL", b"\0\0\0\2\0\0\0\0"))
    for read in (decode, decode_png):
        with pytest.raises(ImageError, match="animation") as caught:
            read(content, name="a")
        assert caught.value.reason == "frame-animated"


def with_filter_9(stream):
    rows = bytearray(zlib.decompress(stream))
    rows[0] = 9
    return zlib.compress(bytes(rows))


@pytest.mark.parametrize(("kind", "depth"), TYPES)
def test_a_row_with_an_unknown_filter_is_damage(kind, depth):
    payload = png(samples(kind, depth), kind, depth, stream=with_filter_9)
    with pytest.raises(ImageError) as caught:
        decode(payload, name="a")
    assert caught.value.reason == "frame-damaged"


@pytest.mark.parametrize(
    "palette",
    [(), ((b"PLTE", b""),), ((b"PLTE", bytes(11)),), ((b"PLTE", bytes(3000)),),
     ((b"PLTE", bytes(9)),)],
    ids=["missing", "empty", "odd", "too long", "too short for a pixel"],
)  # fmt: skip
def test_a_palette_that_cannot_be_is_damage(palette):
    with pytest.raises(ImageError) as caught:
        decode(png(samples(3, 8) % 4, 3, 8, *palette), name="a")
    assert caught.value.reason == "frame-damaged"
