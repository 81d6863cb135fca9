"""Damage to files: bytes at random, and changes that keep a file's own checksums right.

Every function takes a `random.Random`, so equal seeds give equal files.
"""

from __future__ import annotations

import json
import random
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

SIGNATURE = b"\x89PNG\r\n\x1a\n"
Chunk = tuple[bytes, bytes]
Pixels = npt.NDArray[np.uint8]


def damaged_bytes(rng: random.Random, content: bytes) -> bytes:
    """The content with one to three random changes: bits, bytes, holes, cuts, repeats, junk."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(data)) if data else 0
        length = min(rng.choice([1, 2, 4, 16, 64, 512]), max(1, len(data) - at))
        kind = rng.choice(["bit", "bit", "byte", "hole", "cut", "repeat", "junk", "end"])
        if kind == "bit" and data:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == "byte" and data:
            data[at] = rng.choice([0, 0xFF, 0x7F, 0x80, rng.randrange(256)])
        elif kind == "hole":
            data[at : at + length] = bytes(length)
        elif kind == "cut":
            del data[at : at + length]
        elif kind == "repeat":
            data[at:at] = data[at : at + length]
        elif kind == "junk":
            data[at:at] = rng.randbytes(length)
        elif rng.random() < 0.5:
            del data[at:]
        else:
            data += rng.randbytes(length)
    return bytes(data)


# PNG


def chunks_of(content: bytes) -> list[Chunk]:
    """The chunks of a sound PNG: kind and content."""
    chunks, at = [], len(SIGNATURE)
    while at < len(content):
        length, kind = struct.unpack_from(">I4s", content, at)
        chunks.append((kind, content[at + 8 : at + 8 + length]))
        at += 12 + length
    return chunks


def png_of(chunks: list[Chunk]) -> bytes:
    """A PNG of these chunks, their checksums right."""
    parts = [SIGNATURE]
    for kind, content in chunks:
        checksum = zlib.crc32(content, zlib.crc32(kind))
        parts.append(struct.pack(">I", len(content)) + kind + content)
        parts.append(struct.pack(">I", checksum))
    return b"".join(parts)


_EXTRA: list[Chunk] = [
    (b"acTL", struct.pack(">II", 2, 0)), (b"acTL", b"junk"), (b"fcTL", bytes(26)),
    (b"fdAT", bytes(9)), (b"tRNS", bytes(6)), (b"gAMA", struct.pack(">I", 1)),
    (b"eXIf", b"MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00"),
    (b"iCCP", b"x\0\0" + zlib.compress(bytes(200_000))), (b"PLTE", bytes(range(9))),
    (b"zTXt", b"k\0\0" + zlib.compress(bytes(10_000_000))), (b"sBIT", b"\5\5\5"),
    (b"ABCD", b"unknown and critical"), (b"IHDR", bytes(13)), (b"IDAT", b""), (b"IEND", b""),
    (b"bKGD", b"\xff" * 6), (b"sRGB", b"\0"), (b"cHRM", b"\xff" * 32), (b"tIME", b"\xff" * 7),
]  # fmt: skip


def damaged_png(rng: random.Random, content: bytes) -> bytes:
    """A PNG damaged in bytes, or in chunks, header, stream or rows with the checksums right."""
    if rng.random() < 0.25:
        return damaged_bytes(rng, content)
    chunks = chunks_of(content)
    for _ in range(rng.randint(1, 2)):
        chunks = rng.choice(_PNG_DAMAGES)(rng, chunks)
    return png_of(chunks)


def _header(rng: random.Random, chunks: list[Chunk]) -> list[Chunk]:
    width, height, *rest = struct.unpack(">IIBBBBB", chunks[0][1][:13].ljust(13, b"\0"))
    field = rng.randrange(4)
    if field == 0:
        width = rng.choice([0, 1, width + 1, max(0, width - 1), 65_536, 2**31 - 1, 2**32 - 1])
    elif field == 1:
        height = rng.choice([0, 1, height + 1, max(0, height - 1), 65_536, 2**31 - 1])
    else:
        rest[rng.randrange(5)] = rng.choice([0, 1, 2, 3, 4, 6, 16, 255])
    content = struct.pack(">IIBBBBB", width, height, *rest)
    return [(b"IHDR", content), *chunks[1:]]


def _order(rng: random.Random, chunks: list[Chunk]) -> list[Chunk]:
    rest = list(chunks)
    kind = rng.choice(["drop", "double", "swap", "rename"])
    at = rng.randrange(len(rest))
    if kind == "drop" and len(rest) > 1:
        del rest[at]
    elif kind == "double":
        rest.insert(at, rest[at])
    elif kind == "swap":
        other = rng.randrange(len(rest))
        rest[at], rest[other] = rest[other], rest[at]
    else:
        rest[at] = (rng.choice([b"IDAt", b"idat", b"\xff\xfe\0\1", b"JDAT", b"acTL"]), rest[at][1])
    return rest


def _extra(rng: random.Random, chunks: list[Chunk]) -> list[Chunk]:
    at = rng.randint(0, len(chunks))
    return [*chunks[:at], rng.choice(_EXTRA), *chunks[at:]]


def _split(rng: random.Random, chunks: list[Chunk]) -> list[Chunk]:
    data = b"".join(content for kind, content in chunks if kind == b"IDAT")
    at = rng.randint(0, len(data))
    between = [rng.choice(_EXTRA)] if rng.random() < 0.3 else []
    head = [c for c in chunks if c[0] not in (b"IDAT", b"IEND")]
    return [*head, (b"IDAT", data[:at]), *between, (b"IDAT", data[at:]), (b"IEND", b"")]


def _stream(rng: random.Random, chunks: list[Chunk]) -> list[Chunk]:
    """Damage inside the compressed stream, Adler-32 included."""
    at = next((i for i, c in enumerate(chunks) if c[0] == b"IDAT" and c[1]), None)
    if at is None:
        return chunks
    return [*chunks[:at], (b"IDAT", damaged_bytes(rng, chunks[at][1])), *chunks[at + 1 :]]


def _rows(rng: random.Random, chunks: list[Chunk]) -> list[Chunk]:
    """Other rows, compressed soundly: unknown filters, too many or too few bytes, other values.

    Sometimes the samples change and the old Adler-32 stays: wrong pixels under right CRCs.
    """
    data = b"".join(content for kind, content in chunks if kind == b"IDAT")
    try:
        rows = bytearray(zlib.decompress(data))
    except zlib.error:
        return chunks
    if not rows:
        return chunks
    kind, keep_adler = rng.randrange(4), rng.random() < 0.4
    if kind == 0:
        rows[0] = rng.choice([5, 9, 255])
    elif kind == 1:
        rows += rng.randbytes(rng.choice([1, 100, 100_000]))
    elif kind == 2:
        del rows[-rng.choice([1, 10, 100]) :]
    else:
        rows[rng.randrange(len(rows))] ^= 1 << rng.randrange(3)
    packed = zlib.compress(bytes(rows), rng.choice([0, 1, 6, 9]))
    if keep_adler:
        packed = packed[:-4] + data[-4:]
    head = [c for c in chunks if c[0] not in (b"IDAT", b"IEND")]
    return [*head, (b"IDAT", packed), (b"IEND", b"")]


_PNG_DAMAGES: list[Callable[[random.Random, list[Chunk]], list[Chunk]]] = [
    _header, _order, _extra, _split, _stream, _rows, _rows,
]  # fmt: skip


def true_pixels(content: bytes) -> Pixels | None:
    """The pixels of an 8-bit RGB PNG by the specification alone; None where it is not sound.

    Written from the PNG specification (sections 5, 9 and 11) with zlib and numpy, so that no
    decoder in use is held against itself. Interlaced images are not decoded: None.
    """
    if not content.startswith(SIGNATURE):
        return None
    data, at, ended = b"", len(SIGNATURE), False
    header = b""
    while at + 12 <= len(content) and not ended:
        length, kind = struct.unpack_from(">I4s", content, at)
        body = content[at + 8 : at + 8 + length]
        if len(content) < at + 12 + length:
            return None
        if zlib.crc32(kind + body) != struct.unpack_from(">I", content, at + 8 + length)[0]:
            return None
        header = header or (body if kind == b"IHDR" else b"")
        data += body if kind == b"IDAT" else b""
        ended = kind == b"IEND"
        at += 12 + length
    if not ended or len(header) != 13:
        return None
    width, height, depth, color, _, _, interlace = struct.unpack(">IIBBBBB", header)
    if (depth, color, interlace) != (8, 2, 0) or width * height > 1 << 24:
        return None
    stream = zlib.decompressobj()
    try:
        rows = stream.decompress(data)
    except zlib.error:
        return None
    if not stream.eof or len(rows) != height * (1 + width * 3):
        return None
    return _unfiltered(np.frombuffer(rows, np.uint8).reshape(height, 1 + width * 3))


def _unfiltered(rows: Pixels) -> Pixels | None:
    height, length = rows.shape[0], rows.shape[1] - 1
    out = np.zeros((height + 1, length + 3), np.int64)  # a row above and a pixel to the left
    for y in range(height):
        kind, row = int(rows[y, 0]), rows[y, 1:].astype(np.int64)
        if kind > 4:
            return None
        for x in range(length):
            left, up, corner = out[y + 1, x], out[y, x + 3], out[y, x]
            guess = (0, left, up, (left + up) // 2, _paeth(left, up, corner))[kind]
            out[y + 1, x + 3] = (row[x] + guess) % 256
    return out[1:, 3:].reshape(height, length // 3, 3).astype(np.uint8)


def _paeth(left: int, up: int, corner: int) -> int:
    guess = left + up - corner
    distances = (abs(guess - left), abs(guess - up), abs(guess - corner))
    return (left, up, corner)[distances.index(min(distances))]


# JSON and YAML

ODD_VALUES: list[Any] = [
    None, True, -1, 0, 1, 2**31, 2**63, 10**400, 1e308, float("nan"), float("inf"), "", "x",
    "../x", "/dev/zero", "\x1b[31mred", "\u202etxt", "x\ny", "a" * 100_000, [], [None], {}, {"": 0},
    [[[[[]]]]], {"a": {"b": {"c": [1]}}},
]  # fmt: skip


def odd_json(rng: random.Random, value: Any) -> Any:
    """A copy of parsed JSON with one to three entries removed, renamed or replaced."""
    copy = json.loads(json.dumps(value))
    for _ in range(rng.randint(1, 3)):
        places = list(_places(copy))
        if not places:
            break
        holder, key = rng.choice(places)
        if isinstance(holder, dict) and rng.random() < 0.2:
            holder[rng.choice(["", "../../x", "\x1b]0;x\7", "a" * 300])] = holder.pop(key)
        elif rng.random() < 0.25:
            del holder[key]
        else:
            holder[key] = rng.choice(ODD_VALUES)
    return copy


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (holder, key) below a value, holders near the top as often as those below together."""
    if isinstance(value, dict):
        keys: list[Any] = list(value)
    elif isinstance(value, list):
        keys = list(range(min(len(value), 8)))
    else:
        return []
    own = [(value, key) for key in keys]
    below = [place for key in keys for place in _places(value[key])]
    repeat = max(1, len(below) // max(1, len(own)))
    return own * repeat + below


_YAML_VALUES = [
    "-1", "0", "4", "10001", "1e999", ".nan", ".inf", "true", "null", "~", "x", "'all'", "[]", "{}",
    "[[[]]]", "[1, [2]]", "{a: {b: c}}", "9" * 5000, "0x7", "012", "12:30:00", "7.0", "[" * 5000,
    "*a", "&a [1]", "!!python/object/apply:os.system ['true']", "!!binary aGk=", "!!int x", "|",
    "\"\\e[31m\"", "'\u202e'", "{7: [5], 7: [3]}", "[5, 5]", "[9, 7, 5, 1]", "2026-11-28",
]  # fmt: skip


def damaged_yaml(rng: random.Random, text: str) -> str:
    """A recipe with one to three values, lines or bytes changed."""
    for _ in range(rng.randint(1, 3)):
        lines = text.split("\n")
        at = rng.randrange(len(lines))
        kind = rng.choice(["value", "value", "value", "double", "drop", "indent", "bytes", "many"])
        if kind == "value":
            key, colon, _ = lines[at].partition(":")
            lines[at] = f"{key}: {rng.choice(_YAML_VALUES)}" if colon else rng.choice(_YAML_VALUES)
        elif kind == "double":
            lines.insert(at, lines[at])
        elif kind == "drop":
            del lines[at]
        elif kind == "indent":
            lines[at] = "  " + lines[at]
        elif kind == "many":
            lines[at:at] = [f"{k}: [{k}]" for k in range(rng.choice([10, 20_000]))]
        if kind == "bytes":
            text = damaged_bytes(rng, text.encode()).decode("utf-8", "replace")
        else:
            text = "\n".join(lines)
    return text
