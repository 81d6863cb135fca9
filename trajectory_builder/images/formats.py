"""Kinds of image files: which endings are looked for, and what a file is by its first bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import PurePath

FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
    ".avif": "AVIF",
    ".heic": "HEIC",
    ".heif": "HEIC",
    ".hif": "HEIC",
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
# Kinds that are met but not read: what to call one, and the cure.
_CONVERT = "convert it to PNG, or take it out of the folder"
_GIF = ("a GIF", "convert it to PNG; make a video of an animation (ffmpeg -i FILE out.mp4)")
_BMP = ("a BMP", _CONVERT)
_JPEG_2000 = ("a JPEG 2000", _CONVERT)
_JPEG_XL = ("a JPEG XL", "convert it to PNG (djxl FILE out.png)")
RAW = ("a raw photograph", "develop it to TIFF or PNG first")
_PSD = ("a Photoshop document", "save it as TIFF or PNG")
_HDR = ("an HDR image of floats", "convert it to 16-bit PNG or TIFF")
_NETPBM = ("a Netpbm image", _CONVERT)
_TARGA = ("a Targa image", _CONVERT)
VIDEO_NOT_READ = (
    "a video of a kind that is not read",
    "convert it: ffmpeg -i FILE -crf 10 OUT.mp4",
)

NOT_READ: dict[str, tuple[str, str]] = {
    ".gif": _GIF, ".bmp": _BMP, ".dib": _BMP, ".psd": _PSD, ".psb": _PSD, ".tga": _TARGA,
    ".jxl": _JPEG_XL,
    **dict.fromkeys((".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"), _JPEG_2000),
    **dict.fromkeys((".exr", ".hdr", ".pfm"), _HDR),
    **dict.fromkeys((".ppm", ".pgm", ".pbm", ".pnm", ".pam"), _NETPBM),
    **dict.fromkeys(
        (".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".raf", ".orf",
         ".rw2", ".rwl", ".pef", ".srw", ".x3f", ".3fr", ".fff", ".iiq", ".erf", ".mrw", ".gpr"),
        RAW,
    ),
    **dict.fromkeys(
        (".wmv", ".asf", ".flv", ".mpg", ".mpeg", ".m2v", ".vob", ".mxf", ".ogv", ".3g2", ".rm",
         ".rmvb", ".mod", ".tod", ".dv", ".h264", ".h265", ".hevc", ".y4m", ".r3d", ".braw"),
        VIDEO_NOT_READ,
    ),
}  # fmt: skip
"""Endings of images and videos that are not read: a folder that has some is not done in full."""

# First bytes of kinds that are met under an image's name.
_OTHERS = (
    (b"GIF8", _GIF),
    (b"BM", _BMP),
    (b"\0\0\0\x0cjP  \r\n", _JPEG_2000),
    (b"\xff\x4f\xff\x51", _JPEG_2000),
    (b"\xff\x0a", _JPEG_XL),
    (b"\0\0\0\x0cJXL \r\n", _JPEG_XL),
    (b"FUJIFILMCCD-RAW", RAW),
    (b"II*\0\x10\0\0\0CR", RAW),
    (b"IIRO", RAW),
    (b"IIU\0", RAW),
    (b"FOVb", RAW),
    (b"8BPS", _PSD),
    (b"v/1\x01", _HDR),
    (b"#?RADIANCE", _HDR),
    *((b"P%d" % number + blank, _NETPBM) for number in range(1, 8) for blank in (b"\n", b" ")),
    (b"PK\x03\x04", ("a zip archive", "unpack it first")),
    (
        b"version https://git-lfs",
        ("a Git LFS pointer", "run `git lfs pull` where it came from"),
    ),
    (
        b"<",
        ("a web page or XML text", "download the file again; the server sent a page instead"),
    ),
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
    if payload[4:12] == b"ftypcrx ":
        return RAW  # Canon's CR3
    for start, kind in _OTHERS:
        if payload.startswith(start):
            return kind
    return "of no known image format", _CONVERT


def kind_not_read(name: str) -> tuple[str, str] | None:
    """What to call a file that is not read, and the cure, by its ending; None for all others.

    Hidden files, such as those that a Mac leaves beside each file, count as others.
    """
    return None if name.startswith(".") else NOT_READ.get(PurePath(name).suffix.lower())


def counted_by_ending(names: Iterable[str]) -> str:
    """Such as `3 files are of kinds that are not read: .gif (2), .bmp (1)`; "" for no files."""
    counts = Counter(PurePath(name).suffix.lower() for name in names)
    total = sum(counts.values())
    if not total:
        return ""
    kinds = ", ".join(f"{ending} ({count:,})" for ending, count in counts.most_common())
    files = "1 file is of a kind" if total == 1 else f"{total:,} files are of kinds"
    return f"{files} that {'is' if total == 1 else 'are'} not read: {kinds}"
