"""Reading pictures of any kind as RGB, without swallowing broken ones."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from hardnet_suite.errors import UserError


def open_rgb(source: str | Path | bytes | BinaryIO, name: str | None = None) -> Image.Image:
    """A picture as 8-bit RGB, turned upright as its EXIF tag says.

    Grey and 16-bit grey become RGB (65535 is white), CMYK is converted, transparent pixels are laid on white,
    of an animation the first frame is taken.

    Args:
        source: a path, the bytes of a file, or an open binary file.
        name: what errors call it; default: the path.

    Raises:
        UserError: missing, no picture, or broken or cut short.
    """
    name = name or (str(source) if isinstance(source, str | Path) else "the picture")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
                image.load()
                return to_rgb(ImageOps.exif_transpose(image))
    except FileNotFoundError:
        raise UserError(f"cannot read the picture {name}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"cannot read the picture {name}: it is a folder") from None
    except Exception as error:  # PIL raises half a dozen types on broken files, SyntaxError among them
        what = str(error).replace("\n", " ") or type(error).__name__
        raise UserError(f"cannot read the picture {name} ({what}): replace the file") from None


def to_rgb(image: Image.Image) -> Image.Image:
    """A picture of any of Pillow's modes as 8-bit RGB, see ``open_rgb``."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16") or image.mode == "I":  # PNGs of 16 bits open as either
        values = np.asarray(image).astype(np.int64)
        return Image.fromarray((values.clip(0, 65535) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        values = np.nan_to_num(np.asarray(image))
        return Image.fromarray(values.clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(ground, image).convert("RGB")
    return image.convert("RGB")
