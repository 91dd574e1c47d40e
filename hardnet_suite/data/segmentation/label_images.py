"""Label images as train labels and back: the only place that decodes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from hardnet_suite.data.images import image_bytes, is_white_zero, open_image, raw_mode, stretch_of
from hardnet_suite.data.segmentation.labels import IGNORE, LABEL_SETS, ONE_CLASS_AND_IGNORED, LabelSet
from hardnet_suite.errors import UserError

_MOST_CHROMA = 32  # difference of the channels of a grey mask after lossy compression
_LOSSY = ("JPEG", "MPO")  # formats in which black may be decoded as one dark grey
_MOST_BLACK = 16  # which is at most an eighth of half a quantization step of 255


def read_label(path: str | Path, labels: LabelSet) -> np.ndarray:
    """A label image as train labels.

    Args:
        path: an image of one channel, grey or palette, of up to 8 bits; with a ``mask_threshold`` also a grey
            image of three channels.
        labels: what its values mean.

    Returns:
        (H, W) uint8: class indices, ``IGNORE``, and ``labels.background`` where the set has one.

    Raises:
        UserError: the file is missing, broken, in color or of 16 bits, or holds a value that has no meaning.
    """
    array, unknown = scan_label(path, labels)
    if unknown:
        raise UserError(f"the label image {path} {describe_unknown(unknown, labels)}")
    return array


def describe_unknown(values: list[int], labels: LabelSet) -> str:
    """What to say about stored values without a meaning, after the file's name."""
    if values == [IGNORE] and labels.background is not None:
        return (
            f"holds {IGNORE}, which may be the class or ignored: set stored={{0: 1, {IGNORE}: 0}} for the "
            f"class, stored={ONE_CLASS_AND_IGNORED} for ignored"
        )
    listed = ", ".join(map(str, values[:5])) + (", …" if len(values) > 5 else "")
    is_grey = len(labels.classes) <= 2 and len(values) > 2 and labels.name not in LABEL_SETS
    cure = "; grey masks of one class with soft edges are read with mask_threshold=128" if is_grey else ""
    return f"holds {listed}, which {labels.name} has no class for{cure}"


def scan_label(path: str | Path, labels: LabelSet) -> tuple[np.ndarray, list[int]]:
    """As ``read_label``, but values without a meaning become ``IGNORE`` and are returned beside the array."""
    values = read_values(path, labels)
    known = labels.values
    table = np.full(256, IGNORE, np.uint8)
    table[list(known)] = list(known.values())
    return table[values], [value for value in np.unique(values).tolist() if value not in known]


def read_values(path: str | Path, labels: LabelSet) -> np.ndarray:
    """``read_stored``, or the grey values of a mask where the set has a ``mask_threshold``."""
    threshold = labels.mask_threshold
    return read_stored(path) if threshold is None else _read_mask(path, threshold)


def read_stored(path: str | Path) -> np.ndarray:
    """The values that a label image stores, (H, W) uint8, upright: its EXIF orientation is applied.

    Raises:
        UserError: the file is missing, broken, in color or of 16 bits.
    """
    values, mode, stretch, _ = _decoded(path)
    if mode not in ("1", "L", "P"):
        raise UserError(
            f"the label image {path} is of mode {mode}, expected one channel of up to 8 bits (mode L or P) "
            "that holds one class number per pixel"
        )
    return values.astype(np.uint8) // stretch


def read_colors(path: str | Path) -> np.ndarray:
    """The colors that a mask stores, (H, W, 3) uint8, upright; those of a palette whatever its transparency.

    Raises:
        UserError: the file is missing, broken, of 16 bits, of another mode than RGB, palette or grey, or has
            transparent pixels, whose colors programs choose at will.
    """
    values, mode, _, _ = _decoded(path, displayed=True)
    if mode in ("RGBA", "LA"):
        if values[..., -1].min(initial=255) < 255:
            raise UserError(f"the mask {path} has transparent pixels, of no certain color: save it without")
        values = values[..., :-1]
    elif mode not in ("1", "L", "P", "RGB"):
        raise UserError(f"the mask {path} is of mode {mode}, expected colors (RGB, or a palette) of 8 bits")
    return np.broadcast_to(values.reshape(*values.shape[:2], -1), (*values.shape[:2], 3))


def read_segments(path: str | Path) -> np.ndarray:
    """The ids that a label image of COCO's panoptic form stores, R + 256 · G + 256² · B; (H, W) int32.

    Raises:
        UserError: the file is missing, broken, or not of three channels of 8 bits.
    """
    values, mode, _, _ = _decoded(path)
    if mode != "RGB":
        raise UserError(
            f"the label image {path} is of mode {mode}, expected RGB (an id is R + 256 · G + 256² · B)"
        )
    return values.astype(np.int32) @ np.array([1, 256, 256**2], np.int32)


def _read_mask(path: str | Path, threshold: int) -> np.ndarray:
    """The grey values of a mask, (H, W) uint8, 0 to 255 whatever its bits, as it is displayed.

    Raises:
        UserError: the file is missing, broken, of 16 bits, transparent or in color, or not black, but below
            the threshold everywhere, such as one of 0 and 1. An evenly dark JPEG is black.
    """
    values, mode, _, kind = _decoded(path, displayed=True)
    if mode not in ("1", "L", "P", "RGB"):
        raise UserError(f"the mask {path} is of mode {mode}, expected a grey image of up to 8 bits")
    if values.ndim == 3:
        low, high = values.min(axis=2), values.max(axis=2)
        if (high - low).max(initial=0) > _MOST_CHROMA:
            raise UserError(
                f"the mask {path} is in color, expected grey: 0 for the background, 255 for the class"
            )
        values = values[..., 1]
    most, least = int(values.max(initial=0)), int(values.min(initial=255))
    is_black = most == 0 or (kind in _LOSSY and most == least <= _MOST_BLACK)
    if most < threshold and not is_black:
        kept = "holds 0 and 1" if (least, most) == (0, 1) else f"is not black, but has no value above {most}"
        raise UserError(
            f"the mask {path} {kept}, which mask_threshold takes for background (the class begins at "
            f"{threshold}): lower it, or remove it where all masks hold 0 and 1"
        )
    return values


def _decoded(path: str | Path, *, displayed: bool = False) -> tuple[np.ndarray, str, int, str | None]:
    """The pixels of a label image, upright, its mode, by what Pillow stretched its values, and its format.

    ``displayed``: images of 1 bit become 0 and 255, those with a palette have its colours.
    """
    try:
        content = image_bytes(path)  # by its path, Pillow 13 maps a rotated grey TIFF at the wrong width
        with open_image(content) as image:
            stretch, mode, kind = stretch_of(image), _mode(image), image.format
            if not displayed:
                _require_black_zero(image)
                _undo_scaling(image)
            image.load()
            upright = ImageOps.exif_transpose(image)
            if displayed and mode in ("1", "P"):
                upright.info.pop("transparency", None)  # of which Pillow warns
                upright = upright.convert("L" if mode == "1" else "RGB")
            values = np.array(upright)
    except FileNotFoundError:
        raise UserError(f"no label image {path}") from None
    except UserError as error:
        raise UserError(f"cannot read the label image {path}: {error}") from None
    except UnidentifiedImageError:
        raise UserError(f"cannot read the label image {path}: it is not an image; replace the file") from None
    except Exception as error:  # PIL raises half a dozen types on broken files
        raise UserError(f"cannot read the label image {path} ({error}): replace the file") from None
    return values, mode, stretch, kind


def _require_black_zero(image: Image.Image) -> None:
    """UserError for a TIFF of several bits in which 0 is white: some programs invert it, others do not.

    Of one bit there are two values, white and black, on which all programs agree.
    """
    if is_white_zero(image) and image.mode != "1":
        raise UserError(
            "its lowest value is white (WhiteIsZero), by which programs read other values; save it as PNG"
        )


def _undo_scaling(image: Image.Image) -> None:
    """Has Pillow decode the values that a PGM or PPM of 8 bits stores, whatever its highest one (maxval)."""
    if image.format == "PPM" and image.mode in ("L", "RGB") and image.tile:
        decoder, extents, offset, arguments = image.tile[0]
        if isinstance(arguments, tuple) and arguments[-1] < 256:
            image.tile = [(decoder, extents, offset, (arguments[0], 255))]


def _mode(image: Image.Image) -> str:
    """The mode of an image that is opened and not yet decoded; with its bits where Pillow drops some."""
    arguments = image.tile[0][3] if image.tile else ""
    highest = arguments[-1] if image.format == "PPM" and isinstance(arguments, tuple) else 0
    is_deep = ";16" in raw_mode(image) or highest > 255
    return f"{image.mode};16" if is_deep and image.mode in ("L", "LA", "RGB", "RGBA") else image.mode


def write_label(path: str | Path, array: np.ndarray, labels: LabelSet) -> None:
    """Writes train labels as a label image that ``read_label`` reads back with the same set.

    Args:
        path: where to; missing folders are made. The file is a PNG of 8 bits: grey, or with the palette of
            the set in the colours of the classes (mode P), what is of no class in black.
        array: (H, W) integers, train labels.
        labels: the set. Of several values with one meaning the lowest is written, 255 for ignored pixels
            where it means that.

    Raises:
        UserError: the set stores no value for a label, or the file cannot be written.
    """
    path = Path(path)
    try:
        image = label_image(array, labels)
    except UserError as error:
        raise UserError(f"cannot write {path}: {error}") from None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None


def label_image(array: np.ndarray, labels: LabelSet) -> Image.Image:
    """What ``write_label`` writes, as a PIL image of mode L, or P with the palette of the set.

    Args:
        array: (H, W) integers, train labels.
        labels: the set.

    Raises:
        UserError: the set stores no value for a label.
    """
    values = labels.values
    value_of = {label: value for value, label in sorted(values.items(), reverse=True)}
    if values.get(IGNORE) == IGNORE:
        value_of[IGNORE] = IGNORE
    missing = [label for label in np.unique(array).tolist() if label not in value_of]
    if missing:
        raise UserError(f"{labels.name} stores no value for the label {missing[0]}")
    table = np.zeros(256, np.uint8)
    table[list(value_of)] = list(value_of.values())
    image = Image.fromarray(table[array])
    if labels.palette:
        image = image.convert("P")  # keeps the values
        image.putpalette(_stored_palette(labels).tobytes())
    return image


def _stored_palette(labels: LabelSet) -> np.ndarray:
    """(256, 3) uint8: the colour of every stored value; all 256, as PNG would take fewer bits for less."""
    colors = np.zeros((256, 3), np.uint8)
    for value, label in labels.values.items():
        if label < len(labels.palette):
            colors[value] = labels.palette[label]
    return colors
