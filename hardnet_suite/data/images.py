"""Reading images of any kind as RGB, without swallowing broken ones."""

from __future__ import annotations

import io
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from hardnet_suite.errors import UserError


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
