"""Kinds of image files: which endings are looked for, and what a file is by its first bytes."""

from __future__ import annotations

FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
    ".avif": "AVIF",
    ".heic": "HEIC",
    ".heif": "HEIC",
}
"""File ending -> format, of all image files that are read."""

_STARTS = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),  # BigTIFF
    (b"MM\0+", "TIFF"),
)
# Kinds that are met under an image's name but not read: first bytes, what to call it, the cure.
_CONVERT = "convert it to PNG, or take it out of the folder"
_OTHERS = (
    (b"GIF8", "a GIF", "convert it to PNG; make a video of an animation (ffmpeg -i FILE out.mp4)"),
    (b"BM", "a BMP", _CONVERT),
    (b"\0\0\0\x0cjP  \r\n", "a JPEG 2000", _CONVERT),
    (b"\xff\x4f\xff\x51", "a JPEG 2000", _CONVERT),
    (b"\xff\x0a", "a JPEG XL", "convert it to PNG (djxl FILE out.png)"),
    (b"\0\0\0\x0cJXL \r\n", "a JPEG XL", "convert it to PNG (djxl FILE out.png)"),
    (b"FUJIFILMCCD-RAW", "a raw photograph", "develop it to TIFF or PNG first"),
    (b"II*\0\x10\0\0\0CR", "a raw photograph", "develop it to TIFF or PNG first"),
    (b"IIRO", "a raw photograph", "develop it to TIFF or PNG first"),
    (b"IIU\0", "a raw photograph", "develop it to TIFF or PNG first"),
    (b"PK\x03\x04", "a zip archive", "unpack it first"),
    (b"version https://git-lfs", "a Git LFS pointer", "run `git lfs pull` where it came from"),
    (b"<", "a web page or XML text", "download the file again; the server sent a page instead"),
)


def format_of(payload: bytes) -> str | None:
    """The format by the file's first 128 bytes, a value of `FORMATS`; None for anything else."""
    if payload[4:8] == b"ftyp":
        return _of_brands(payload)
    if payload[:4] == b"RIFF" and payload[8:12] == b"WEBP":
        return "WEBP"
    if payload[8:10] == b"CR" and payload[:2] == b"II":
        return None  # Canon's raw files begin as a TIFF does
    return next((kind for start, kind in _STARTS if payload.startswith(start)), None)


def _of_brands(payload: bytes) -> str | None:
    """AVIF or HEIC by the brands in the first box (ISO/IEC 14496-12, 4.3)."""
    size = int.from_bytes(payload[:4], "big")
    brands = {payload[8:12], *(payload[at : at + 4] for at in range(16, min(size, 128), 4))}
    if brands & {b"avif", b"avis"}:
        return "AVIF"
    return "HEIC" if brands & {b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1"} else None


def other_kind(payload: bytes) -> tuple[str, str]:
    """What to call a file that is no image that is read, and the cure."""
    for start, what, cure in _OTHERS:
        if payload.startswith(start):
            return what, cure
    return "of no known image format", _CONVERT
