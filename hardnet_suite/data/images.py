"""The one decoder of images, and the one walk over folders of them."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps, ImagePalette, UnidentifiedImageError

from hardnet_suite.data.fast_decoding import decode_plain
from hardnet_suite.data.files import folder_entries, kept_while_looking, read_bytes, require_regular
from hardnet_suite.errors import UserError

# names that stand for an image; one that this Pillow cannot decode (.heic) is reported, not dropped
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".gif"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".heic", ".heif", ".jp2", ".j2k", ".jpf", ".jpx", ".tga"),
)

_FORMATS = (
    *("AVIF", "BMP", "DIB", "GIF", "HEIF", "ICO", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "TGA"),
    *("TIFF", "WEBP"),
)
_MOST_SCANS = 200  # of a JPEG file; each may take as long as the decoding of the whole image
_METADATA = 1 << 20  # bytes of a file beside its pixels
_BAND = 1 << 24  # pixels that are converted at once
_STRETCH = {"L;2": 85, "L;4": 17}  # Pillow stretches grey of 2 and 4 bits to 0…255; 1 bit becomes booleans
_RGB_16 = "RGB;16B"  # a raw mode of Pillow's
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT, _SIGNED = 258, 262, 339, 2  # tags of a TIFF, and a value of the last
_EXIF_TEXTS = (b"Raw profile type exif", b"XML:com.adobe.xmp")  # texts of a PNG that Pillow reads as EXIF


def walk_files(folder: str | Path, suffixes: Sequence[str] | None = None) -> list[Path]:
    """The files of a folder and its subfolders, sorted.

    Symlinked folders are followed; each real folder is visited once, by its own path rather than a link's
    where both lie in ``folder``, so that links that form a loop end. Hidden files and folders (".name") are
    skipped. A broken link is listed like a file, so that opening it reports it.

    Args:
        folder: where to start.
        suffixes: endings of the names to list, in any case, e.g. ``IMAGE_SUFFIXES``; None lists every file.

    Raises:
        UserError: a folder does not exist or cannot be read.
    """
    endings = None if suffixes is None else tuple(suffix.lower() for suffix in suffixes)
    files, visited = [], set()
    folders, links = [os.fspath(folder)], []
    while folders or links:
        path = folders.pop() if folders else links.pop(0)
        real = os.path.realpath(path)
        if real in visited:
            continue
        visited.add(real)
        try:
            entries = folder_entries(path)
        except OSError as error:
            raise UserError(f"cannot read the folder {path}: {error.strerror}") from None
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                (links if entry.is_symlink() else folders).append(entry.path)
            elif (endings is None or entry.name.lower().endswith(endings)) and _is_file(entry):
                files.append(Path(entry.path))
    return sorted(files)


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_file(entry: os.DirEntry) -> bool:
    """Whether opening the entry reads a file, or says what is wrong with a link."""
    return entry.is_symlink() or entry.is_file()


def read_rgb(
    source: str | Path | bytes | BinaryIO, name: str | None = None, *, channels: str = "rgb"
) -> np.ndarray:
    """Decode an image: the one decoder of training, testing, prediction, checks and converters.

    The rules: pixels are upright (the EXIF orientation is applied). Grey, palette and CMYK images become RGB;
    16 bits become 8 (65535 is white; in a TIFF of 12 bits 4095, and 0 where it says WhiteIsZero). Transparent
    pixels are composited on white, whatever the format. Of an animation the first frame is taken. Pixels of
    32 bits or with a sign have no defined white and are an error, as are truncated files and images beyond
    Pillow's limit (twice ``PIL.Image.MAX_IMAGE_PIXELS``).

    Args:
        source: a path, the bytes of a file, or an open binary file.
        name: what errors call it; default: the path.
        channels: the order of the channels, "rgb" or "bgr".

    Returns:
        (H, W, 3) uint8, contiguous and writable.

    Raises:
        UserError: the file is missing, no image, broken or truncated.
    """
    if channels not in ("rgb", "bgr"):
        raise ValueError(f"channels must be 'rgb' or 'bgr', got {channels!r}")
    name = name or (str(source) if isinstance(source, str | Path) else "the image")
    with image_errors(name):
        return _decode(_content(source), channels)


def open_rgb(source: str | Path | bytes | BinaryIO, name: str | None = None) -> Image.Image:
    """``read_rgb`` as a PIL image of mode RGB."""
    return Image.fromarray(read_rgb(source, name))


def read_grey(source: str | Path | bytes | BinaryIO, name: str | None = None) -> np.ndarray:
    """The luma (ITU-R 601-2: 0.299 R + 0.587 G + 0.114 B) of ``read_rgb``; grey images keep their values.

    Returns:
        (H, W) uint8, contiguous and writable.

    Raises:
        UserError: as ``read_rgb``.
    """
    name = name or (str(source) if isinstance(source, str | Path) else "the image")
    with image_errors(name):
        content = _content(source)
        pixels = _decode_grey_bmp(content)
        return to_grey(_decode(content, "rgb")) if pixels is None else pixels


def to_grey(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) RGB uint8 -> (H, W) uint8 luma (ITU-R 601-2), as Pillow converts.

    OpenCV rounds other coefficients: about one pixel in a thousand of its conversion differs by 1.
    """
    return np.array(Image.fromarray(pixels).convert("L"))


def image_size(path: str | Path) -> tuple[int, int]:
    """(width, height) of an image as ``read_rgb`` decodes it; it is decoded to its end.

    Raises:
        UserError: as ``read_rgb``.
    """
    height, width, _ = read_rgb(path).shape
    return width, height


def stored_size(path: str | Path) -> tuple[int, int]:
    """(width, height) of an image as stored, before its EXIF orientation is applied; reads the header alone.

    Raises:
        UserError: the file is missing or not an image.
    """
    return header_sizes(path)[0]


def header_sizes(path: str | Path) -> tuple[tuple[int, int], tuple[int, int]]:
    """(width, height) of an image as stored, and upright, as ``read_rgb`` decodes it; reads the header alone.

    Raises:
        UserError: the file is missing or not an image.
    """
    return header(path)[:2]


@kept_while_looking
def header(path: str | Path) -> tuple[tuple[int, int], tuple[int, int], int]:
    """``header_sizes`` and ``exif_orientation`` of an image, by opening it once.

    Raises:
        UserError: the file is missing or not an image.
    """
    with image_errors(str(path)), _opened(path) as image:
        orientation = _orientation(image)
        tags = getattr(image, "tag_v2", None)  # of a TIFF, whose .size Pillow turns by its own tag alone
        stored = (tags[256], tags[257]) if tags else image.size
    return stored, stored[::-1] if orientation in (5, 6, 7, 8) else stored, orientation


def _opened(path: str | Path) -> Image.Image:
    require_regular(path)
    return Image.open(path, formats=_formats())


@cache
def _formats() -> tuple[str, ...]:
    """The formats that are read, of those that this Pillow knows.

    Others are left out: for EPS Pillow starts Ghostscript, which runs the file as a program.
    """
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def exif_orientation(path: str | Path) -> int:
    """The EXIF orientation that ``read_rgb`` applies, 1 to 8; 1 where the image has none.

    Raises:
        UserError: the file is missing or not an image.
    """
    return header(path)[2]


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation of an image that is opened and not yet decoded, also where XMP states it."""
    if image.format == "PNG" and _png_ends_with_exif(image.fp):
        image.load()  # what follows the pixels counts, and is read with them alone
    # a PNG's own getexif decodes the pixels of most files
    orientation = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    return orientation if orientation in range(1, 9) else 1


def _png_ends_with_exif(stream: BinaryIO) -> bool:
    """Whether a chunk after the pixels of a PNG may hold an orientation; reads the heads of chunks alone."""
    place = stream.tell()
    has_pixels = False
    try:
        stream.seek(8)
        while len(head := stream.read(8)) == 8:
            following = stream.tell() + int.from_bytes(head[:4], "big") + 4
            has_pixels = has_pixels or head[4:] == b"IDAT"
            if has_pixels and head[4:] == b"eXIf":
                return True
            is_text = head[4:] in (b"iTXt", b"tEXt", b"zTXt")
            if has_pixels and is_text and stream.read(32).startswith(_EXIF_TEXTS):
                return True
            stream.seek(following)
        return False
    finally:
        stream.seek(place)


@contextlib.contextmanager
def image_errors(name: str) -> Iterator[None]:
    """Turns whatever reading or decoding an image raises into one UserError that names the image."""
    try:
        yield
        return
    except UserError as error:
        message = str(error)
    except Image.DecompressionBombError as error:
        message = f"{error}; PIL.Image.MAX_IMAGE_PIXELS raises the limit"
    except UnidentifiedImageError:
        message = "it is not an image in a format that is read (JPEG, PNG, TIFF, …); replace the file"
    except PermissionError:
        message = "permission denied"
    except FileNotFoundError:
        message = "no such file"
    except IsADirectoryError:
        message = "it is a folder"
    except Exception as error:  # Pillow raises half a dozen types on broken files, SyntaxError among them
        reason = str(error).replace("\n", " ") or type(error).__name__
        message = f"{reason}; replace the file"
    raise UserError(f"cannot read the image {name}: {message}")


def load(image: Image.Image) -> None:
    """Decodes an opened image, and has its transparent value in its info as its pixels have it.

    Pillow stretches grey of 2 and 4 bits, but not the value. Of values with more bits than the pixels, PNG
    takes the lower ones. Of RGB with 16 bits Pillow keeps the upper 8, which do not tell the transparent
    colour from others: its pixels become white, as ``to_rgb`` would have them.
    """
    stretch, stored = stretch_of(image), raw_mode(image)
    if image.format == "PNG" and stored == _RGB_16 and "transparency" in image.info:
        _load_on_white(image)
        return
    image.load()
    transparent = image.info.get("transparency")
    if image.format == "PNG" and image.mode == "L" and isinstance(transparent, int):
        image.info["transparency"] = (transparent & 255 // stretch) * stretch
    if image.format == "PNG" and stored == "RGB" and isinstance(transparent, tuple):
        image.info["transparency"] = tuple(value & 255 for value in transparent)


def _load_on_white(image: Image.Image) -> None:
    """Decodes an RGB PNG of 16 bits; pixels of its transparent colour, told by all 16, become white."""
    transparent = image.info.pop("transparency")
    lower = _lower_bytes(image)
    image.load()
    for top, bottom in _bands(image):
        box = (0, top, image.width, bottom)
        is_transparent = np.full((bottom - top, image.width), True)
        for part, shift in ((image, 8), (lower, 0)):
            key = [value >> shift & 255 for value in transparent]
            is_transparent &= (np.asarray(part.crop(box)) == key).all(2)
        image.paste((255, 255, 255), box, Image.fromarray(is_transparent))


def _lower_bytes(image: Image.Image) -> Image.Image:
    """What Pillow leaves out of an RGB PNG of 16 bits that is opened and not yet decoded, in 8 bits."""
    stream = image.fp
    place = stream.tell()
    stream.seek(0)
    lower = Image.open(stream, formats=("PNG",))
    lower.tile = [tile._replace(args="RGB;16L") for tile in lower.tile]
    lower.load()
    stream.seek(place)
    return lower


def stretch_of(image: Image.Image) -> int:
    """By what Pillow multiplies the stored values of a grey image that is opened and not yet decoded."""
    if image.format not in ("PNG", "TIFF"):
        return 1
    return next((factor for start, factor in _STRETCH.items() if raw_mode(image).startswith(start)), 1)


def raw_mode(image: Image.Image) -> str:
    """What Pillow calls the stored form of an image that is opened and not yet decoded; "" if it has none."""
    if not getattr(image, "tile", None):
        return ""
    arguments = image.tile[0][3]
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def is_white_zero(image: Image.Image) -> bool:
    """Whether an opened image is a grey TIFF in which 0 is white (WhiteIsZero)."""
    return (getattr(image, "tag_v2", None) or {}).get(_PHOTOMETRIC) == 0


def to_rgb(image: Image.Image, opened: Image.Image | None = None) -> Image.Image:
    """An image of any of Pillow's modes as 8-bit RGB, by the rules of ``read_rgb``.

    Args:
        image: the image.
        opened: the image of the file that it was made of, which knows what the values mean; None: itself.

    Raises:
        UserError: pixels of 32 bits, or with a sign.
    """
    opened = image if opened is None else opened
    tags = getattr(opened, "tag_v2", None) or {}
    if image.mode == "I" and opened.format in ("PNG", "PPM"):  # Pillow's way to open 16 bits
        image = image.convert("I;16")
    kind = None
    if _SIGNED in tags.get(_SAMPLE_FORMAT, ()) and tags.get(_BITS) in ((8,), (16,)):
        kind = "integers with a sign"
    elif image.mode in ("I", "F"):
        kind = "32-bit integers" if image.mode == "I" else "32-bit floating-point numbers"
    if kind:
        raise UserError(f"its pixels are {kind}, which have no defined white; save it with 8 or 16 bits")
    transparent = image.info.get("transparency")
    if image.mode.startswith("I;16"):
        values = np.asarray(image)
        if tags.get(_BITS) == (12,):  # never WhiteIsZero, which Pillow does not know of 12 bits
            grey = (values.astype(np.uint32) * 255 // 4095).astype(np.uint8)
        else:
            grey = ((65535 - values if is_white_zero(opened) else values) // 257).astype(np.uint8)
        if transparent is not None:
            grey[values == transparent] = 255
        return Image.fromarray(grey).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or transparent is not None:
        if isinstance(transparent, tuple) and max(transparent) > 255:  # decoded before: the upper 8 bits
            image.info["transparency"] = tuple(value >> 8 for value in transparent)
        image = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
        return _on_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    """An RGBA image composited on white, as RGB; by bands, as a small file may hold a huge image."""
    result = Image.new("RGB", image.size)
    for top, bottom in _bands(image):
        band = image.crop((0, top, image.width, bottom))
        ground = Image.new("RGBA", band.size, "white")
        result.paste(Image.alpha_composite(ground, band).convert("RGB"), (0, top))
    return result


def _bands(image: Image.Image) -> Iterator[tuple[int, int]]:
    """(first row, row after the last) of parts of an image that hold at most ``_BAND`` pixels, or one row."""
    rows = max(1, _BAND // max(1, image.width))
    for top in range(0, image.height, rows):
        yield top, min(top + rows, image.height)


def _content(source: str | Path | bytes | BinaryIO) -> bytes:
    """The whole file in memory: by its path, Pillow 13 maps a rotated grey TIFF at the wrong width."""
    if isinstance(source, str | Path):
        return image_bytes(source)
    return source if isinstance(source, bytes) else source.read()


def image_bytes(path: str | Path) -> bytes:
    """The contents of an image file, of at most the bytes that Pillow's limit of pixels takes uncompressed.

    Raises:
        UserError: the file is larger; the message follows the path, as within ``image_errors``.
        OSError: as ``files.read_bytes``.
    """
    require_image_size(os.stat(path).st_size)
    return read_bytes(path)


def require_image_size(size: int) -> None:
    """Checks the bytes of an image file before they are read.

    Raises:
        UserError: more than the pixels of Pillow's limit take; the message follows the file's name.
    """
    if Image.MAX_IMAGE_PIXELS is None:
        return
    # Pillow refuses twice as many pixels; four channels of 16 bits each, and what else a file may hold
    limit = 2 * 8 * Image.MAX_IMAGE_PIXELS + _METADATA
    if size > limit:
        raise UserError(f"{size} bytes, the limit is {limit}; PIL.Image.MAX_IMAGE_PIXELS raises the limit")


def open_image(content: bytes) -> Image.Image:
    """An image file, opened by Pillow and not yet decoded.

    Pillow 13 takes the pixels of a BMP whose palette is black and white for single bits, also where they have
    4 or 8: such a palette is changed for the opening, and set right afterwards.
    """
    at = int.from_bytes(content[14:18], "little") + 14  # where the palette begins
    bits, colors = content[28:30], content[46:50]
    if content[:2] == b"BM" and at >= 54 and bits in (b"\4\0", b"\x08\0") and colors == b"\2\0\0\0":
        palette = content[at : at + 3][::-1] + content[at + 4 : at + 7][::-1]
        coloured = content[:at] + b"\1\2\3" + content[at + 3 :]
        image = Image.open(io.BytesIO(coloured), formats=_formats())
        if image.mode == "P":
            image.palette = ImagePalette.raw("RGB", palette)  # putpalette decodes
        return image
    return Image.open(io.BytesIO(content), formats=_formats())


def _decode(content: bytes, channels: str) -> np.ndarray:
    if content.startswith(b"\xff\xd8") and content.count(b"\xff\xda") > _MOST_SCANS:
        raise UserError(f"a JPEG file of more than {_MOST_SCANS} scans; replace the file")
    pixels = decode_plain(content, channels)
    if pixels is not None:
        return pixels
    with open_image(content) as image:
        load(image)
        ImageOps.exif_transpose(image, in_place=True)
        upright = to_rgb(image)
    return _pixels(upright, channels)


def _decode_grey_bmp(content: bytes) -> np.ndarray | None:
    """A BMP file whose pixels are grey values, (H, W) uint8, twenty times as fast as by way of RGB."""
    if not content.startswith(b"BM"):
        return None
    with open_image(content) as image:
        return np.array(image) if image.mode == "L" else None


def _pixels(image: Image.Image, channels: str) -> np.ndarray:
    """The pixels of an RGB image, (H, W, 3) uint8, copied by bands."""
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top, bottom in _bands(image):
        whole = bottom - top == image.height
        band = image if whole else image.crop((0, top, image.width, bottom))
        content = band.tobytes("raw", channels.upper())
        pixels[top:bottom] = np.frombuffer(content, np.uint8).reshape(bottom - top, image.width, 3)
    return pixels
