"""Reading images of any kind as RGB, without swallowing broken ones."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from hardnet_suite.errors import UserError

# names that stand for an image; one that this Pillow cannot decode (.heic) is reported, not dropped
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".gif"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".heic", ".heif", ".jp2", ".j2k", ".jpf", ".jpx", ".tga"),
)


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
            entries = sorted(os.scandir(path), key=lambda entry: entry.name)
        except OSError as error:
            raise UserError(f"cannot read the folder {path}: {error.strerror}") from None
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                (links if entry.is_symlink() else folders).append(entry.path)
            elif (endings is None or entry.name.lower().endswith(endings)) and (
                entry.is_file() or entry.is_symlink()
            ):
                files.append(Path(entry.path))
    return sorted(files)


def open_rgb(source: str | Path | bytes | BinaryIO, name: str | None = None) -> Image.Image:
    """An image as 8-bit RGB, turned upright as its EXIF tag says.

    Grey and 16-bit grey become RGB (65535 is white), CMYK is converted, transparent pixels are laid on white,
    of an animation the first frame is taken. Pixels of 32 bits, whole or not, have no agreed white: an error.

    Args:
        source: a path, the bytes of a file, or an open binary file.
        name: what errors call it; default: the path.

    Raises:
        UserError: missing, no image, or broken or cut short.
    """
    name = name or (str(source) if isinstance(source, str | Path) else "the image")
    try:
        # from memory: by its path, Pillow 13 maps a turned grey TIFF at the wrong width
        content = Path(source).read_bytes() if isinstance(source, str | Path) else source
        with Image.open(io.BytesIO(content) if isinstance(content, bytes) else content) as image:
            image.load()
            upright = ImageOps.exif_transpose(image)
            if image.mode == "I" and image.format == "PNG":  # older Pillow's way to open 16 bits
                upright = upright.convert("I;16")
            return to_rgb(upright)
    except UserError as error:
        raise UserError(f"cannot read the image {name}: {error}") from None
    except Image.DecompressionBombError as error:
        raise UserError(
            f"cannot read the image {name}: {error}; PIL.Image.MAX_IMAGE_PIXELS raises the limit"
        ) from None
    except UnidentifiedImageError:
        raise UserError(f"cannot read the image {name}: it is no image; replace the file") from None
    except PermissionError:
        raise UserError(f"cannot read the image {name}: permission denied") from None
    except FileNotFoundError:
        raise UserError(f"cannot read the image {name}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"cannot read the image {name}: it is a folder") from None
    except Exception as error:  # PIL raises half a dozen types on broken files, SyntaxError among them
        what = str(error).replace("\n", " ") or type(error).__name__
        raise UserError(f"cannot read the image {name} ({what}): replace the file") from None


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any of Pillow's modes as 8-bit RGB, see ``open_rgb``; UserError for 32 bits a pixel."""
    if image.mode in ("I", "F"):
        kind = "whole" if image.mode == "I" else "floating point"
        raise UserError(f"its pixels are {kind} numbers of 32 bits that have no white: save it in 8 or 16")
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(ground, image).convert("RGB")
    return image.convert("RGB")
