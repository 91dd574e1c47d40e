"""OpenCV's decoder for plain JPEG and PNG files: the pixels of Pillow, sooner.

Both libraries decode JPEG with libjpeg-turbo, and PNG is lossless, so pixels are equal where the file holds
nothing that the two treat differently. ``decode_plain`` takes such files only, and is checked on a few small
ones before its first use: with a build of OpenCV that decodes differently, Pillow decodes everything.
"""

from __future__ import annotations

import io
import zlib
from functools import cache
from types import ModuleType

import numpy as np
from PIL import Image

# chunks that change no pixel; tRNS, acTL and PLTE do, eXIf, iTXt and zTXt may hold an orientation
_NEUTRAL_CHUNKS = frozenset((b"IHDR", b"IDAT", b"IEND", b"pHYs", b"tEXt", b"tIME", b"sRGB"))


def decode_plain(content: bytes, image: Image.Image, channels: str) -> np.ndarray | None:
    """The pixels of a complete, upright JPEG or PNG in grey or RGB of 8 bits.

    Args:
        content: the bytes of the file.
        image: the same, opened by Pillow and not loaded yet: its header.
        channels: "rgb" or "bgr".

    Returns:
        (H, W, 3) uint8; None where Pillow must decode: any other file, and a damaged one, for its message.
    """
    is_plain = {"JPEG": _is_plain_jpeg, "PNG": _is_plain_png}.get(image.format)
    if is_plain is None or not is_plain(content, image):
        return None
    opencv = _proven_opencv()
    return None if opencv is None else _decode(opencv, content, channels)


def _is_plain_jpeg(content: bytes, image: Image.Image) -> bool:
    return (
        image.mode in ("RGB", "L")
        and image.info.get("adobe_transform") in (None, 1)
        and not image.info.keys() & {"exif", "xmp"}  # either may hold an orientation
        and content.endswith(b"\xff\xd9")
    )


def _is_plain_png(content: bytes, image: Image.Image) -> bool:
    """OpenCV accepts damaged PNG files silently, hence the checksums."""
    if image.mode not in ("RGB", "L") or content[24] != 8:  # bits per channel
        return False
    start = 8
    while start + 12 <= len(content):
        length = int.from_bytes(content[start : start + 4], "big")
        kind, end = content[start + 4 : start + 8], start + 8 + length
        checksum = int.from_bytes(content[end : end + 4], "big")
        if kind == b"tEXt" and content.startswith(b"Raw profile", start + 8):  # ImageMagick's EXIF
            return False
        if kind not in _NEUTRAL_CHUNKS or zlib.crc32(memoryview(content)[start + 4 : end]) != checksum:
            return False
        if kind == b"IEND":
            return True
        start = end + 4
    return False


def _decode(opencv: ModuleType, content: bytes, channels: str) -> np.ndarray | None:
    flags = opencv.IMREAD_COLOR | opencv.IMREAD_IGNORE_ORIENTATION
    try:
        pixels = opencv.imdecode(np.frombuffer(content, np.uint8), flags)
    except opencv.error:  # beyond its own limits of size
        return None
    if pixels is None or channels == "bgr":
        return pixels
    return opencv.cvtColor(pixels, opencv.COLOR_BGR2RGB, dst=pixels)


@cache
def _proven_opencv() -> ModuleType | None:
    """OpenCV, if it is installed and decodes like Pillow."""
    try:
        import cv2
    except ImportError:
        return None
    for content in _proofs():
        with Image.open(io.BytesIO(content)) as image:
            expected = np.asarray(image.convert("RGB"))
        decoded = _decode(cv2, content, "rgb")
        if decoded is None or not np.array_equal(decoded, expected):
            return None
    return cv2


def _proofs() -> list[bytes]:
    """Small files of the kinds that a decoder may round or interpolate otherwise."""
    rows, columns = np.mgrid[:37, :51]
    waves = np.stack([np.sin(rows / a + columns / b) for a, b in ((3, 7), (11, 2), (5, 5))], axis=2)
    image = Image.fromarray((127.5 + 127.5 * waves).astype(np.uint8))
    files = [_encode(image, "PNG"), _encode(image.convert("L"), "PNG"), _encode(image.convert("L"), "JPEG")]
    for subsampling in range(3):  # 4:4:4, 4:2:2, 4:2:0
        for progressive in (False, True):
            files.append(_encode(image, "JPEG", subsampling=subsampling, progressive=progressive))
    return files


def _encode(image: Image.Image, form: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()
