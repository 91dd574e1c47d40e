"""OpenCV's decoder for plain JPEG and PNG files: the pixels of Pillow, sooner.

Both libraries decode JPEG with libjpeg-turbo, and PNG is lossless, so pixels are equal where the file holds
nothing that the two treat differently. ``decode_plain`` takes such files only, and is checked on a few small
ones before its first use: with a build of OpenCV that decodes differently, Pillow decodes everything.
"""

from __future__ import annotations

import io
import re
import zlib
from functools import cache
from types import ModuleType

import numpy as np
from PIL import Image

_ORIENTATION = 0x0112  # the EXIF tag
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')  # what Pillow looks for in XMP
# what follows the frame of no undamaged JPEG of a single end; application data, which Pillow reads there, too
_ODD_MARKER = re.compile(rb"\xff(?:[\x01-\xc3\xc5-\xcf\xd8\xde-\xfd\xff]|\xd9(?!\Z))")
# chunks that change no pixel; tRNS, acTL and PLTE do, eXIf, iTXt and zTXt may hold an orientation
_NEUTRAL_CHUNKS = frozenset((b"IHDR", b"IDAT", b"IEND", b"pHYs", b"tEXt", b"tIME", b"sRGB"))


def decode_plain(content: bytes, channels: str) -> np.ndarray | None:
    """The pixels of a complete, upright JPEG or PNG in grey or RGB of 8 bits.

    Args:
        content: the bytes of the file.
        channels: "rgb" or "bgr".

    Returns:
        (H, W, 3) uint8; None where Pillow must decode: any other file, and a damaged one, for its message.
    """
    if not (_is_plain_jpeg(content) or _is_plain_png(content)):
        return None
    opencv = _proven_opencv()
    return None if opencv is None else _decode(opencv, content, channels)


def _is_plain_jpeg(content: bytes) -> bool:
    if not (content.startswith(b"\xff\xd8\xff") and content.endswith(b"\xff\xd9")):
        return False
    start = 2
    while start + 4 <= len(content) and content[start] == 0xFF:
        marker = content[start + 1]
        length = int.from_bytes(content[start + 2 : start + 4], "big")
        segment = content[start + 4 : start + 2 + length]
        if marker in (0xC0, 0xC1, 0xC2):  # baseline, extended and progressive frames: the header ends here
            if len(segment) < 6:
                return False
            bits, height, width = segment[0], segment[1:3], segment[3:5]
            area = int.from_bytes(height, "big") * int.from_bytes(width, "big")
            plain = bits == 8 and segment[5] in (1, 3) and _is_within_limit(area)
            return plain and _has_plain_scans(content, start + 2 + length, progressive=marker == 0xC2)
        if not _is_neutral_segment(marker, segment):
            return False
        start += 2 + length
    return False


def _has_plain_scans(content: bytes, start: int, *, progressive: bool) -> bool:
    """Whether what follows the frame looks undamaged: OpenCV returns half an image where Pillow raises."""
    if _ODD_MARKER.search(content, start):
        return False
    return progressive or content.count(b"\xff\xda", start) == 1


def _is_neutral_segment(marker: int, segment: bytes) -> bool:
    """Whether a segment before the frame changes nothing that is seen."""
    if marker == 0xE1 and segment.startswith(b"Exif\0\0"):
        exif = Image.Exif()
        try:
            exif.load(segment)
            return exif.get(_ORIENTATION, 1) == 1
        except Exception:  # damaged; Pillow raises half a dozen types
            return False
    if marker == 0xE1:  # XMP
        upright = [value == b"1" for value in _XMP_ORIENTATION.findall(segment)]
        return all(upright) and len(upright) == segment.count(b"Orientation")
    if marker == 0xE2:
        return not segment.startswith(b"MPF\0")  # several images
    if marker == 0xEE:
        return not segment.startswith(b"Adobe") or segment[11:12] == b"\1"  # YCbCr
    # other application data, comments, and the tables of quantization, Huffman codes and restarts
    return 0xE0 <= marker <= 0xEF or marker in (0xFE, 0xDB, 0xC4, 0xDD)


def _is_plain_png(content: bytes) -> bool:
    """OpenCV accepts damaged PNG files silently, hence the checksums."""
    if not content.startswith(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR") or len(content) < 33:
        return False
    width, height = int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")
    bits, color = content[24], content[25]
    if bits != 8 or color not in (0, 2) or not _is_within_limit(width * height):  # grey or RGB
        return False
    start = 8
    while start + 12 <= len(content):
        length = int.from_bytes(content[start : start + 4], "big")
        kind, end = content[start + 4 : start + 8], start + 8 + length
        checksum = int.from_bytes(content[end : end + 4], "big")
        # ImageMagick's EXIF, and XMP
        if kind == b"tEXt" and content.startswith((b"Raw profile", b"XML:com.adobe.xmp"), start + 8):
            return False
        if kind not in _NEUTRAL_CHUNKS or zlib.crc32(memoryview(content)[start + 4 : end]) != checksum:
            return False
        if kind == b"IEND":
            return True
        start = end + 4
    return False


def _is_within_limit(area: int) -> bool:
    """Whether Pillow opens an image of so many pixels without a warning or error."""
    return area > 0 and (Image.MAX_IMAGE_PIXELS is None or area <= Image.MAX_IMAGE_PIXELS)


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
