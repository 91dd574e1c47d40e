"""Grey images, and RGB PNG, of any bits per pixel, byte by byte: Pillow writes few of them."""

from __future__ import annotations

import struct
import zlib

import numpy as np


def packed(values: np.ndarray, bits: int) -> list[bytes]:
    """The rows of an image of up to 16 bits, most significant bit first, each filled up to whole bytes."""
    shifts = np.arange(bits - 1, -1, -1)
    rows = (values.astype(np.int64)[..., None] >> shifts & 1).astype(np.uint8)
    return [np.packbits(row.ravel()).tobytes() for row in rows]


def tiff(
    values: np.ndarray, bits: int, *, photometric: int = 1, sample_format: int = 1, orientation: int = 1
) -> bytes:
    """A little-endian TIFF; ``photometric`` 0: WhiteIsZero, ``sample_format`` 2: signed."""
    height, width = values.shape
    content = values.astype("<u2").tobytes() if bits == 16 else b"".join(packed(values, bits))
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8}
    tags |= {274: orientation, 277: 1, 278: height, 279: len(content), 339: sample_format}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    offset = struct.pack("<I", 8 + len(content))
    return b"II*\0" + offset + content + struct.pack("<H", len(tags)) + entries + bytes(4)


def png(values: np.ndarray, bits: int, transparent: int | tuple[int, int, int] | None = None) -> bytes:
    """A PNG of grey values (H, W) or RGB (H, W, 3); ``transparent`` is what its tRNS chunk states."""
    height, width = values.shape[:2]
    color = 0 if values.ndim == 2 else 2

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0))
    clear = b"" if transparent is None else chunk(b"tRNS", np.array(transparent, ">u2").tobytes())
    rows = b"".join(b"\0" + row for row in packed(values.reshape(height, -1), bits))
    return b"\x89PNG\r\n\x1a\n" + head + clear + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
