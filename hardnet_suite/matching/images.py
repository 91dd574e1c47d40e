"""One image of a pair, from whatever holds it."""

from __future__ import annotations

import os
from itertools import islice
from typing import Any

import numpy as np

from hardnet_suite.data.images import to_grey
from hardnet_suite.data.sources import images_of
from hardnet_suite.errors import UserError


def read_image(source: Any, channels: str = "rgb") -> tuple[str, np.ndarray]:
    """One image of a source of ``images_of``: a path, address, array, tensor, PIL image, bytes or open file.

    Args:
        source: as for ``images_of``; what holds several images is an error.
        channels: order of the channels in arrays and tensors, "rgb" or "bgr".

    Returns:
        Its name ("image" of what lies in memory), and (H, W, 3) uint8 RGB.

    Raises:
        UserError: the image cannot be read, or there are several.
        ValueError: an array of another shape or type.
    """
    images = list(islice(images_of(source, channels), 2))
    if len(images) != 1:
        shown = source if isinstance(source, str | os.PathLike) else f"a {type(source).__name__}"
        raise UserError(f"expected one image, got {'several' if images else 'none'}: {shown!s:.200}")
    return images[0].name, np.array(images[0].open())


def grey_array(image: Any, channels: str = "bgr") -> np.ndarray:
    """(H, W) uint8 grey of an image: a grey array as it is, anything else by ``read_image``."""
    if isinstance(image, np.ndarray) and image.ndim == 2 and image.dtype == np.uint8 and image.size:
        return np.ascontiguousarray(image)
    if image is None:
        raise ValueError("expected an image, got None, as cv2.imread returns for a file that it cannot read")
    return to_grey(read_image(image, channels)[1])
