"""COCO's ``segmentation``: polygons or a run-length encoding, checked before anything decodes them."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np

from hardnet_suite.data.coco.values import LARGEST_NUMBER, is_normalized
from hardnet_suite.numeric import is_number


def read_mask(value: Any, size: tuple[int, int] | None) -> list[np.ndarray] | dict[str, Any] | None:
    """A mask as its record holds it: polygons (x1, y1, x2, y2 …) float64, or {"size", "counts"}.

    Args:
        value: the entry's ``segmentation``; None or empty: it has no mask.
        size: (height, width) of the image; None if unknown.

    Raises:
        ValueError: the mask is malformed; the message says how.
    """
    if value is None or (isinstance(value, list | tuple | dict | str) and not value):
        return None
    if isinstance(value, dict):
        return _read_encoding(value, size)
    if not isinstance(value, list | tuple):
        raise ValueError(f"a {type(value).__name__}, expected polygons or a run-length encoding")
    if is_number(value[0]):
        raise ValueError("a flat list of numbers, expected a list of polygons [[x1, y1, x2, y2, …], …]")
    rings = [points for points in value if not _is_empty(points)] or value
    return [_read_polygon(points) for points in rings]


def require_mask_of_box(
    mask: list[np.ndarray] | dict[str, Any], box: Sequence[float], largest: float
) -> None:
    """Checks that a mask may be that of a box.

    Args:
        mask: as ``read_mask`` returns it.
        box: (x, y, width, height) in pixels.
        largest: the largest coordinate that is possible.

    Raises:
        ValueError: they do not meet, or the mask is normalised, empty or beyond any image.
    """
    if isinstance(mask, list):
        values = np.concatenate(mask)
        if np.abs(values).max() > largest:
            raise ValueError(f"a polygon with the coordinate {values[np.abs(values).argmax()]:g}")
        if is_normalized(values) and max(box[0] + box[2], box[1] + box[3]) > 3:
            raise ValueError("polygons between 0 and 1, so normalised; COCO's are in pixels")
        x, y = values[::2], values[1::2]
    else:
        x, y = _extent(mask)
        if not len(x):
            raise ValueError("a run-length encoding of no pixel")
    bounds = [float(value) for value in (x.min(), y.min(), x.max(), y.max())]
    # a pixel more for rounding
    ends = box[0] + box[2] + 1, box[1] + box[3] + 1
    if bounds[0] > ends[0] or bounds[1] > ends[1] or bounds[2] < box[0] - 1 or bounds[3] < box[1] - 1:
        where = ", ".join(f"{value:g}" for value in bounds)
        raise ValueError(f"a mask from x, y to x, y = {where}, which does not meet its box {list(box)}")


def _extent(mask: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """The x and the y between which the pixels of a run-length encoding lie; empty without a pixel."""
    height, counts = mask["size"][0], mask["counts"]
    runs = np.array(_decode_counts(counts) if isinstance(counts, str) else counts, np.int64)
    stops = runs.cumsum()
    first, last = (stops - runs)[1::2], stops[1::2] - 1
    some = last >= first
    first, last = first[some], last[some]
    if not len(first):
        return first, last
    x = np.array([first[0] // height, last[-1] // height + 1])
    if (first // height != last // height).any():  # a run into the next column
        return x, np.array([0, height])
    return x, np.array([(first % height).min(), (last % height).max() + 1])


def mask_json(mask: list[np.ndarray] | dict[str, Any]) -> list[list[float]] | dict[str, Any]:
    """A mask of a record in the form of COCO's JSON, which mmdet and pycocotools read; a copy."""
    if isinstance(mask, dict):
        counts = mask["counts"]
        return {
            "size": list(mask["size"]),
            "counts": counts if isinstance(counts, str) else list(counts),
        }
    return [points.tolist() for points in mask]


def encode_mask(mask: list[np.ndarray] | dict[str, Any], height: int, width: int) -> dict[str, Any]:
    """A mask of a record as a compressed run-length encoding, {"size": [height, width], "counts": str}.

    Parts of polygons beyond the image are cut off; pixels of an encoding are left as they are.

    Args:
        mask: as ``read_mask`` returns it, of an image of this size.
        height: of the image, in pixels.
        width: likewise.
    """
    from pycocotools import mask as coco_mask

    content = mask_json(mask)
    if isinstance(content, list):
        encoded = coco_mask.merge(coco_mask.frPyObjects(content, height, width))
    elif isinstance(content["counts"], list):
        encoded = coco_mask.frPyObjects(content, height, width)
    else:
        encoded = content
    return _as_text(encoded)


def encode_pixels(pixels: np.ndarray) -> list[dict[str, Any]]:
    """(K, H, W) booleans as K compressed run-length encodings, as of ``encode_mask``."""
    from pycocotools import mask as coco_mask

    planes = np.asfortranarray(np.asarray(pixels).transpose(1, 2, 0).astype(np.uint8))
    return [_as_text(encoded) for encoded in coco_mask.encode(planes)]


def decode_mask(mask: list[np.ndarray] | dict[str, Any], height: int, width: int) -> np.ndarray:
    """The pixels of a mask, (height, width) bool; the arguments are those of ``encode_mask``."""
    from pycocotools import mask as coco_mask

    return coco_mask.decode(encode_mask(mask, height, width)).astype(bool)


def _as_text(encoded: dict[str, Any]) -> dict[str, Any]:
    """An encoding of pycocotools, whose counts are bytes, as JSON can hold it."""
    counts = encoded["counts"]
    return {
        "size": list(encoded["size"]),
        "counts": counts.decode() if isinstance(counts, bytes) else counts,
    }


def _is_empty(points: Any) -> bool:
    return isinstance(points, list | tuple | np.ndarray) and not len(points)


def _read_polygon(points: Any) -> np.ndarray:
    if isinstance(points, dict):
        raise ValueError("a run-length encoding in a list, expected it alone" if "counts" in points else _ODD)
    if not isinstance(points, list | tuple | np.ndarray):
        raise ValueError(_ODD)
    try:
        values = np.frombuffer(array("d", points), np.float64) if len(points) else np.zeros(0)
    except (TypeError, OverflowError):
        raise ValueError(_ODD) from None
    if len(values) % 2:
        raise ValueError(f"a polygon of {len(values)} numbers, expected an even count")
    if len(values) < 6:
        raise ValueError(f"a polygon of {len(values)} numbers, expected at least 6 (three points)")
    if not np.isfinite(values).all():
        raise ValueError("a polygon with NaN or infinity")
    values.flags.writeable = False
    return values


_ODD = "a polygon that is not a flat list of numbers [x1, y1, x2, y2, …]"


def _read_encoding(value: dict[str, Any], size: tuple[int, int] | None) -> dict[str, Any]:
    shape, counts = value.get("size"), value.get("counts")
    if (
        not isinstance(shape, list | tuple)
        or len(shape) != 2
        or not all(type(side) is int and 0 < side <= LARGEST_NUMBER for side in shape)
    ):
        raise ValueError(f"a run-length encoding with size {shape!r}, expected [height, width]")
    if size is not None and tuple(shape) != size:
        raise ValueError(
            f"a run-length encoding of size {list(shape)}, expected the image's [height, width], {list(size)}"
        )
    if isinstance(counts, bytes):
        counts = counts.decode("latin-1")
    if isinstance(counts, str):
        runs = _decode_counts(counts)
    elif isinstance(counts, list | tuple):
        runs = counts = tuple(counts)
    else:
        raise ValueError(f"a run-length encoding with counts of type {type(counts).__name__}")
    area = shape[0] * shape[1]
    if not all(type(run) is int and 0 <= run <= LARGEST_NUMBER**2 for run in runs):
        raise ValueError("a run-length encoding with counts that are not integers from 0")
    if sum(runs) != area:
        raise ValueError(
            f"a run-length encoding whose counts add up to {sum(runs)}, expected {shape[0]} · {shape[1]}"
        )
    return {"size": tuple(shape), "counts": counts}


def _decode_counts(text: str) -> list[int]:
    """The run lengths in pycocotools' compressed string, whose own decoder does not check what it reads."""
    runs: list[int] = []
    value = shift = 0
    for char in text:
        code = ord(char) - 48
        if not 0 <= code < 64 or shift > 60:
            raise ValueError("a run-length encoding whose counts string is damaged")
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:
            if code & 16:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("a run-length encoding whose counts string is truncated")
    return runs
