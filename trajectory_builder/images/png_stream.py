"""The compressed pixels of a PNG, inflated with their checksum and handed to a decoder bare.

No decoder at hand checks the Adler-32 of the stream, and some take more from the file than its
pixels: animation frames, gamma, a rotation. So the stream is inflated here, to exactly the size
that the header asks for, and a decoder gets a PNG of header, palette and these bytes alone.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from trajectory_builder.images.picture import damaged
from trajectory_builder.images.png_check import END_CHUNK, SIGNATURE, Chunk, PngHeader

igzip: Any = None
checksums: Any = zlib
_ERRORS: Any = (zlib.error,)
with suppress(ImportError):  # three times as fast as zlib
    from isal import igzip_lib, isal_zlib

    igzip, checksums = igzip_lib, isal_zlib
    _ERRORS = (zlib.error, igzip_lib.IsalError)

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# Adam7: first column, first row, step between columns, step between rows of each pass.
_PASSES = (
    (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)
)  # fmt: skip
_LONGEST_BLOCK = 0xFFFF  # of a stored block (RFC 1951, 3.2.4)


def bare_png(payload: bytes, header: PngHeader, chunks: Sequence[Chunk], name: str) -> bytes:
    """The same image as a PNG of header, palette with its alpha, and pixels, not compressed.

    Args:
        payload: a PNG file.
        header: its header.
        chunks: its chunks, their checksums known to be right.
        name: how errors call the file.

    Raises:
        ImageError: the stream is cut, damaged, of another length, or its Adler-32 is wrong.
    """
    palette = header.color_type == 3
    kept = [c for c in chunks if palette and c.kind in (b"PLTE", b"tRNS")]
    data = b"".join(payload[c.start : c.end] for c in chunks if c.kind == b"IDAT")
    return b"".join(
        (
            SIGNATURE,
            payload[8:33],  # IHDR
            *(payload[c.start - 8 : c.end + 4] for c in kept),
            *_chunk(b"IDAT", _stored(data, _size_of_rows(header), name)),
            END_CHUNK,
        )
    )


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG: length, kind, content, checksum (PNG specification, section 5.3)."""
    return b"".join(_chunk(kind, [content]))


def _chunk(kind: bytes, parts: Sequence[bytes]) -> Iterator[bytes]:
    checksum = checksums.crc32(kind)
    for part in parts:
        checksum = checksums.crc32(part, checksum)
    yield struct.pack(">I4s", sum(map(len, parts)), kind)
    yield from parts
    yield struct.pack(">I", checksum)


def _size_of_rows(header: PngHeader) -> int:
    """Bytes of all rows, each with its filter byte (PNG specification, sections 7.2 and 8)."""
    bits = header.depth * _CHANNELS[header.color_type]
    passes = _PASSES if header.interlace else ((0, 0, 1, 1),)
    size = 0
    for left, top, across, down in passes:
        width = -((left - header.width) // across)
        height = -((top - header.height) // down)
        if width > 0 and height > 0:
            size += height * (1 + (width * bits + 7) // 8)
    return size


def _stored(data: bytes, expected: int, name: str) -> list[bytes]:
    """The parts of a zlib stream with the same content in blocks that are not compressed."""
    parts, left, adler = [b"\x78\x01"], expected, 1
    for block in _inflated(data, expected, name):
        left -= len(block)
        adler = checksums.adler32(block, adler)
        parts += (struct.pack("<BHH", left == 0, len(block), len(block) ^ 0xFFFF), block)
    return [*parts, struct.pack(">I", adler)]


def _inflated(data: bytes, expected: int, name: str) -> Iterator[bytes]:
    """The content of a zlib stream in pieces that fit a stored block.

    Such a piece fits the processor's cache too: the whole at once takes half as long again.
    """
    stream = igzip.IgzipDecompressor(flag=igzip.DECOMP_ZLIB) if igzip else zlib.decompressobj()
    left = expected
    try:
        while not stream.eof:
            # One byte more than is right: enough to notice a longer stream, too little for a bomb.
            piece = stream.decompress(data, min(_LONGEST_BLOCK, left + 1))
            left -= len(piece)
            if left < 0 or not (piece or stream.eof):
                break
            yield piece
            data = getattr(stream, "unconsumed_tail", b"")  # igzip keeps it to itself
    except _ERRORS as error:
        raise damaged(f"its pixels cannot be decoded: {error}", name) from error
    if left or not stream.eof:
        raise damaged("its pixels cannot be decoded: their stream has another length", name)
