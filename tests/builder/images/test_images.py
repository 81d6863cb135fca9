"""Frames are read strictly: every broken or foreign file of the table is refused by its cause."""

import hashlib
import io
import os
import pickle
import random
import struct
import subprocess
import sys
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from PIL import Image
from skimage import data

from trajectory_builder.errors import ImageError
from trajectory_builder.images import png as images
from trajectory_builder.images import png_check
from trajectory_builder.images.png import check_png, encode_png, png_header, read_frame

READERS = ("kornia-rs", "opencv")
WRITERS = ("isal", "opencv")
PHOTO = np.ascontiguousarray(data.coffee()[100:196, 200:328])  # (96, 128, 3) uint8
WHOLE = encode_png(PHOTO)


def pillow(pixels, mode=None, kind="png", **options):
    image = Image.fromarray(pixels)
    file = io.BytesIO()
    (image.convert(mode) if mode else image).save(file, kind, **options)
    return file.getvalue()


def chunk(kind, payload):
    return struct.pack(">I", len(payload)) + kind + payload + crc(kind + payload)


def crc(payload):
    return struct.pack(">I", zlib.crc32(payload))


def png(width, height, depth, color_type, rows, interlace=0):
    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, interlace)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return png_check.SIGNATURE + b"".join(parts)


def adam7(pixels):
    """The rows of an interlaced PNG, by the table of the standard; Pillow cannot write one."""
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4))
    passes += ((2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    parts = [pixels[y::dy, x::dx] for y, x, dy, dx in passes]
    return b"".join(b"\0" + row.tobytes() for part in parts for row in part)


def wrong_crc(payload):
    return payload[:-16] + bytes([payload[-16] ^ 1]) + payload[-15:]


SIXTEEN = cv2.imencode(".png", PHOTO.astype(np.uint16) * 257)[1].tobytes()
BOMB = png(20_000, 20_000, 8, 2, b"\0" * 60_000)
TRANSPARENT = WHOLE[:33] + chunk(b"tRNS", b"\0" * 6) + WHOLE[33:]

BAD = {
    "cut at half": (WHOLE[: len(WHOLE) // 2], "frame-truncated", "truncated at byte"),
    "cut at 99 %": (WHOLE[: len(WHOLE) * 99 // 100], "frame-truncated", "inside chunk IDAT 1"),
    "cut in its header": (WHOLE[:20], "frame-truncated", "its header"),
    "cut in its signature": (WHOLE[:5], "frame-truncated", "its header"),
    "no end mark": (WHOLE[:-12], "frame-truncated", "IEND is missing"),
    "last byte missing": (WHOLE[:-1], "frame-truncated", "truncated at byte"),
    "wrong checksum": (wrong_crc(WHOLE), "frame-crc", "checksum of IDAT 1"),
    "wrong header checksum": (WHOLE[:32] + b"?" + WHOLE[33:], "frame-crc", "IHDR"),
    "zero bytes": (b"", "frame-empty", "empty file"),
    "zeros": (b"\0" * 500, "frame-not-png", "never written"),
    "text": (b"frames 47 offset 0\n", "frame-not-png", "not a PNG"),
    "JPEG": (pillow(PHOTO, kind="jpeg"), "frame-not-png", "a JPEG"),
    "web page": (b"<!DOCTYPE html><p>Quota exceeded", "frame-not-png", "web page"),
    "LFS pointer": (b"version https://git-lfs.github.com/spec/v1", "frame-not-png", "Git LFS"),
    "junk after the end": (WHOLE + b"x" * 700, "frame-trailing-bytes", "700 bytes follow"),
    "16-bit": (SIXTEEN, "frame-16-bit", "16-bit RGB"),
    "grayscale": (pillow(PHOTO, "L"), "frame-grayscale", "grayscale"),
    "1-bit": (pillow(PHOTO, "1"), "frame-grayscale", "grayscale"),
    "palette": (pillow(PHOTO, "P"), "frame-palette", "palette"),
    "RGBA": (pillow(PHOTO, "RGBA"), "frame-has-alpha", "alpha"),
    "gray with alpha": (pillow(PHOTO, "LA"), "frame-has-alpha", "alpha"),
    "transparent colour": (TRANSPARENT, "frame-has-alpha", "transparent"),
    "bomb": (BOMB, "frame-too-large", "20,000 x 20,000"),
    "no width": (png(0, 5, 8, 2, b""), "frame-damaged", "header"),
    "no pixels": (WHOLE[:33] + png_check.END_CHUNK, "frame-damaged", "no pixels"),
    "too few rows": (png(8, 8, 8, 2, b"\0" * 25), "frame-damaged", "decoded"),
    "not deflate": (
        WHOLE[:33] + chunk(b"IDAT", b"?" * 99) + png_check.END_CHUNK,
        "frame-damaged",
        "decoded",
    ),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("case", BAD)
def test_bad_frame_is_refused_with_its_cause(tmp_path, case, reader):
    payload, reason, words = BAD[case]
    path = tmp_path / "000047.png"
    path.write_bytes(payload)
    with pytest.raises(ImageError, match=words) as caught:
        read_frame(path, reader=reader)
    assert caught.value.reason == reason
    assert str(path) in caught.value.where
    assert caught.value.cure


def test_every_reason_in_use_is_a_listed_one():
    assert {reason for _, reason, _ in BAD.values()} <= set(images.REASONS)


@pytest.mark.parametrize("reader", READERS)
def test_none_of_sixty_bit_flips_passes(tmp_path, reader):
    draw = random.Random(7)
    for number in range(60):
        flipped = bytearray(WHOLE)
        bit = draw.randrange(len(WHOLE) * 8)
        flipped[bit // 8] ^= 1 << bit % 8
        path = tmp_path / f"{number:06d}.png"
        path.write_bytes(flipped)
        with pytest.raises(ImageError):
            read_frame(path, reader=reader)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("filters", range(5))
def test_every_row_filter_decodes_to_the_same_pixels(tmp_path, reader, filters):
    only = (8, 16, 32, 64, 128)[filters]  # OpenCV names them by bit
    options = [cv2.IMWRITE_PNG_FILTER, only] if hasattr(cv2, "IMWRITE_PNG_FILTER") else []
    payload = cv2.imencode(".png", PHOTO[..., ::-1], options)[1].tobytes()
    (tmp_path / "a.png").write_bytes(payload)
    assert np.array_equal(read_frame(tmp_path / "a.png", reader=reader).pixels, PHOTO)


@pytest.mark.parametrize("reader", READERS)
def test_interlaced_frame_decodes_to_the_same_pixels(tmp_path, reader):
    (tmp_path / "a.png").write_bytes(png(128, 96, 8, 2, adam7(PHOTO), interlace=1))
    assert np.array_equal(read_frame(tmp_path / "a.png", reader=reader).pixels, PHOTO)


@pytest.mark.parametrize("reader", READERS)
def test_orientation_tag_does_not_rotate_a_frame(tmp_path, reader):
    turned = Image.Exif()
    turned[0x0112] = 6
    (tmp_path / "a.png").write_bytes(pillow(PHOTO, exif=turned))
    assert read_frame(tmp_path / "a.png", reader=reader).pixels.shape == PHOTO.shape


@pytest.mark.parametrize("reader", READERS)
def test_hash_of_a_frame_is_that_of_its_file(tmp_path, reader):
    (tmp_path / "a.png").write_bytes(WHOLE)
    told = subprocess.run(["sha256sum", "a.png"], cwd=tmp_path, capture_output=True, check=True)
    assert read_frame(tmp_path / "a.png", reader=reader).sha256 == told.stdout.split()[0].decode()


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    "name", ["с кириллицей.png", "a b.png", "a\nb.png", "-x.png", "%06d.png", "\udcff\udc80.png"]
)
def test_any_name_that_the_disk_allows_is_read(tmp_path, name, reader):
    path = tmp_path / name
    path.write_bytes(WHOLE)
    assert np.array_equal(read_frame(path, reader=reader).pixels, PHOTO)


def test_message_about_a_strange_name_can_be_printed(tmp_path):
    path = tmp_path / "a\nb\udcff.png"
    path.write_bytes(b"")
    with pytest.raises(ImageError) as caught:
        read_frame(path)
    assert not set("\n\udcff") & set(caught.value.where)


def test_missing_frame_is_called_missing(tmp_path):
    with pytest.raises(ImageError, match="missing") as caught:
        read_frame(tmp_path / "000001.png")
    assert caught.value.reason == "frame-missing"


def test_folder_named_like_a_frame_is_refused(tmp_path):
    (tmp_path / "000001.png").mkdir()
    with pytest.raises(ImageError, match="directory"):
        read_frame(tmp_path / "000001.png")


def test_pipe_named_like_a_frame_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "000001.png")
    with pytest.raises(ImageError, match="not a regular file"):
        read_frame(tmp_path / "000001.png")


@pytest.mark.usefixtures("permissions_hold")
def test_frame_without_permission_is_unreadable(tmp_path):
    (tmp_path / "a.png").write_bytes(WHOLE)
    (tmp_path / "a.png").chmod(0)
    with pytest.raises(ImageError, match="Permission") as caught:
        read_frame(tmp_path / "a.png")
    assert caught.value.reason == "frame-unreadable"


def test_frame_of_another_size_names_both_sizes(tmp_path):
    (tmp_path / "a.png").write_bytes(WHOLE)
    with pytest.raises(ImageError, match="128 x 96, its clip is 1280 x 720") as caught:
        read_frame(tmp_path / "a.png", expect=(1280, 720))
    assert caught.value.reason == "frame-size-differs"


def test_thirty_three_bytes_suffice_for_the_header():
    header = png_header(WHOLE[:33])
    assert (header.width, header.height, header.depth, header.color_type) == (128, 96, 8, 2)


def test_checksum_error_names_which_data_chunk():
    head, rows = WHOLE[:33], zlib.compress(b"\0" * 25 * 8)
    parts = [chunk(b"IDAT", rows[:9]), chunk(b"IDAT", rows[9:])]
    broken = parts[1][:-1] + bytes([parts[1][-1] ^ 1])
    with pytest.raises(ImageError, match="checksum of IDAT 2 is wrong"):
        check_png(head + parts[0] + broken + png_check.END_CHUNK, name="a.png")


def test_error_keeps_its_reason_in_another_process():
    error = ImageError("cut", reason="frame-truncated", where="a.png", cure="copy it again")
    twin = pickle.loads(pickle.dumps(error))
    assert (twin.reason, str(twin), type(twin)) == (error.reason, str(error), ImageError)


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("shape", [(96, 128), (1, 1), (1, 40), (40, 1), (17, 33)])
def test_pillow_reads_back_what_was_written(writer, shape):
    pixels = np.random.default_rng(3).integers(0, 256, (*shape, 3), np.uint8)
    decoded = Image.open(io.BytesIO(encode_png(pixels, writer=writer)))
    assert decoded.mode == "RGB"
    assert np.array_equal(np.asarray(decoded), pixels)


@pytest.mark.parametrize("writer", WRITERS)
def test_written_frame_passes_the_strict_check(writer):
    header = check_png(encode_png(PHOTO, writer=writer), name="a.png", expect=(128, 96))
    assert header.interlace == 0


@pytest.mark.parametrize("writer", WRITERS)
def test_other_process_writes_the_same_bytes(writer):
    code = (
        "import hashlib; from skimage import data;"
        " from trajectory_builder.images.png import encode_png"
        f"; p = data.coffee(); print(hashlib.sha256(encode_png(p, writer={writer!r})).hexdigest())"
    )
    told = {subprocess.check_output([sys.executable, "-c", code]) for _ in range(2)}
    assert len(told) == 1


@pytest.mark.parametrize("writer", WRITERS)
def test_threads_with_stacks_of_their_own_write_the_same_bytes(writer):
    # With isal_zlib.compress 3 to 47 of these 10,240 images have other bytes than the rest.
    noise = np.random.default_rng(0).integers(0, 16, (20, 10, 3), np.uint8)
    images = [noise.copy() for _ in range(256)]
    for value, image in enumerate(images):
        image[0, :4] = value  # a run at the start: there a match may be found or missed
    together = threading.Barrier(40)  # all stacks at once, so at 40 addresses
    before = threading.stack_size()

    def encode(_):
        together.wait()
        return [encode_png(image, writer=writer) for image in images]

    try:
        with ThreadPoolExecutor(40) as pool:
            told = []
            for number in range(40):
                threading.stack_size((1, 7, 33, 129, 517)[number % 5] << 20)
                told.append(pool.submit(encode, number))
            first, *others = [future.result() for future in told]
    finally:
        threading.stack_size(before)
    assert sum(a != b for other in others for a, b in zip(first, other, strict=True)) == 0


def test_view_with_strides_is_written_like_its_copy():
    view = data.coffee()[::2, ::-3]
    assert encode_png(view) == encode_png(np.ascontiguousarray(view))


def test_encoder_leaves_the_pixels_as_they_were():
    pixels = PHOTO.copy()
    encode_png(pixels, writer="opencv")
    assert np.array_equal(pixels, PHOTO)


@pytest.mark.parametrize(
    "pixels", [PHOTO.astype(np.float32), PHOTO[..., 0], np.dstack([PHOTO, PHOTO]), PHOTO[:0]]
)
def test_encoder_refuses_what_is_not_rgb8(pixels):
    with pytest.raises(ValueError, match="need"):
        encode_png(pixels)


def test_pixel_hash_is_that_of_the_raw_bytes():
    assert (
        images.pixel_sha256(PHOTO[:, ::-1]) == hashlib.sha256(PHOTO[:, ::-1].tobytes()).hexdigest()
    )


def test_codecs_are_named_with_their_versions():
    assert set(images.codecs()) == {"reader", "writer"}
    assert all(any(c.isdigit() for c in told) for told in images.codecs().values())
