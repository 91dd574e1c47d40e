"""Heat maps over images: where a network predicts the centres of objects."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

import numpy as np
from PIL import Image

from hardnet_suite.data.coco import read_coco
from hardnet_suite.errors import UserError
from hardnet_suite.visualization.canvas import as_image, beside, free_path, ranked_name, read_rgb, save_image
from hardnet_suite.visualization.detection import pick_images

_COLORS = "inferno"  # its lightness rises monotonically to pale yellow
_COLDEST = 0.25  # start of the range: the near-black below it would only darken the image
_BRIGHTNESS, _SATURATION = 0.6, 0.2  # of the image underneath, so that the colours of the heat stand out


def overlay_heatmap(image: np.ndarray, heat: np.ndarray, *, opacity: float = 0.8) -> np.ndarray:
    """A heat map in colours over the greyed, dimmed image: cold places show it, hot ones glow.

    Args:
        image: (H, W, 3) uint8, RGB.
        heat: (h, w) numbers in [0, 1] that cover the whole image, at any resolution; resized bilinearly.
        opacity: of the colour where the heat is 1, in [0, 1]; scaled by the square root of the heat.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        ValueError: other shapes or types, heat outside [0, 1] or NaN, or an opacity outside [0, 1].
    """
    import matplotlib

    image, heat = as_image(image), np.asarray(heat, np.float32)
    if heat.ndim != 2 or not heat.size:
        raise ValueError(f"heat must be (h, w) with h, w >= 1, got shape {heat.shape}")
    if not (heat.min() >= 0 and heat.max() <= 1):  # nan fails both
        raise ValueError(f"heat must lie in [0, 1], got {heat.min()} to {heat.max()}")
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity must lie in [0, 1], got {opacity}")

    height, width = image.shape[:2]
    heat = Image.fromarray(heat).resize((width, height), Image.Resampling.BILINEAR)
    heat = np.asarray(heat).clip(0, 1)[..., None]  # (H, W, 1)
    grey = np.asarray(Image.fromarray(image).convert("L"), np.float32)[..., None]
    ground = _BRIGHTNESS * (grey + _SATURATION * (image - grey))
    palette = matplotlib.colormaps[_COLORS](np.linspace(_COLDEST, 1, 256), bytes=True)[:, :3]
    color = palette[np.rint(255 * heat[..., 0]).astype(np.uint8)]  # (H, W, 3)
    alpha = opacity * np.sqrt(heat)  # a linear scale would hide medium scores
    return np.rint(ground + alpha * (color - ground)).astype(np.uint8)


def draw_heatmaps(
    annotation_file: str | Path,
    heatmap_folder: str | Path,
    image_folder: str | Path,
    out_folder: str | Path,
    *,
    image_ids: Iterable[int | str] | None = None,
    ranked: bool = False,
) -> int:
    """Draw each image of a COCO annotation file beside its heat map.

    One image at a time is in memory. ``sub/a.png`` is drawn into ``out_folder/a_heatmap.png``, or into the
    first of ``a_heatmap_2.png``, ``a_heatmap_3.png`` … that is free: every image has its own file and no file
    is overwritten. The folder is created if missing.

    Args:
        annotation_file: COCO annotations.
        heatmap_folder: holds the ``heatmap_name`` of each image: 8-bit grey (255 is a score of 1), at any
            resolution, covering exactly the whole image.
        image_folder: the folder that the annotations' ``file_name`` entries are relative to.
        out_folder: the folder of the drawings.
        image_ids: draw these images only (None: all).
        ranked: puts the place of an image in ``image_ids`` in front of the name.

    Returns:
        The number of files written.

    Raises:
        UserError: the annotation file is missing or malformed, an image or a heat map is missing or broken,
            or the folder cannot be written.
    """
    content, numbers = read_coco(annotation_file, image_folder=image_folder), {}
    images = pick_images(content, image_ids, ordered=ranked)
    for rank, image in enumerate(images, 1):
        drawing = read_rgb(Path(image_folder, image.file_name))
        heat = _read_heat(Path(heatmap_folder, heatmap_name(image.id)), image.file_name)
        pair = beside(drawing, overlay_heatmap(drawing, heat), titles=("image", "heat map"))
        name = f"{Path(image.file_name).stem}_heatmap.png"
        name = ranked_name(name, rank if ranked else None, len(images))
        save_image(free_path(Path(out_folder, name), numbers), pair)
    return len(images)


def heatmap_name(image_id: int | str) -> str:
    """Name of the file of an image's heat map: its id, percent-encoded, as an id may hold any character."""
    return f"{quote(str(image_id), safe='')}.png"


def _read_heat(path: Path, image_name: str) -> np.ndarray:
    """(h, w) float32 in [0, 1]."""
    advice = "run the test again to write it"
    if not path.is_file():
        raise UserError(f"no heat map {path} for the image {image_name}: {advice}")
    try:
        with Image.open(path, formats=("PNG",)) as image:
            image.load()
    except Exception as error:  # PIL raises half a dozen types on broken files, SyntaxError among them
        raise UserError(f"cannot read the heat map {path} ({error}): {advice}") from None
    if image.mode != "L":
        raise UserError(f"expected an 8-bit grey heat map {path}, got mode {image.mode}: {advice}")
    return np.asarray(image, np.float32) / 255
