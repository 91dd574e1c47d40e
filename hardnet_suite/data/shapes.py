"""The built-in data set of drawn scenes, for trying the suite without a download.

The scenes show coloured, textured shapes on a textured ground, with boxes, masks and class images. A scene is
a pure function of (seed, index, size), so only this generator is shipped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from hardnet_suite.data.files import is_file, read_text
from hardnet_suite.errors import UserError
from hardnet_suite.outputs import temporary_folder

VERSION = 2  # of the images, recorded in each data set: increase it with every change of a pixel
OBJECTS = (2, 8)  # objects per image, both ends included
SIZES = (1 / 12, 1 / 2)  # longer side of an object's box, as a fraction of the image's side
LEAST_VISIBLE = 0.4  # visible fraction of every object
_OVERSAMPLE = 4  # supersampling for smooth edges
_LEAST_GAP = 120.0  # RGB distance of an object's colour from the ground and from the objects below it
_MOST_COVERED = 0.15  # fraction of a class image covered by other objects
_LARGEST = 4096  # pixels; drawn at four times that
_FIRST_VAL = 1_000_000  # held-out scenes do not depend on the number of training scenes


def _regular(corners: int, turn: float = 0.0, radius: float = 1.0) -> np.ndarray:
    angles = turn + np.arange(corners) * 2 * np.pi / corners
    return radius * np.stack([np.cos(angles), np.sin(angles)], 1)


def _star() -> np.ndarray:
    points = np.empty((10, 2))
    points[0::2], points[1::2] = _regular(5), _regular(5, np.pi / 5, 0.42)
    return points


def _cross() -> np.ndarray:
    arm = np.array([[1.0, 0.3], [0.3, 0.3], [0.3, 1.0]])
    quarter = np.array([[0, 1], [-1, 0]])
    return np.concatenate([arm @ np.linalg.matrix_power(quarter, turns) for turns in range(4)])


# outline and, for shapes with a hole, the hole's outline; in any scale, rotated at random when drawn
_OUTLINES: dict[str, tuple[np.ndarray, ...]] = {
    "circle": (_regular(72),),
    "square": (_regular(4),),
    "triangle": (_regular(3),),
    "star": (_star(),),
    "ring": (_regular(72), _regular(72, radius=0.55)),
    "cross": (_cross(),),
}
SHAPES: tuple[str, ...] = tuple(_OUTLINES)


@dataclass(frozen=True)
class Scene:
    """A drawn image with its ground truth.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        boxes: (K, 4) float32 x1, y1, x2, y2 in pixels, around each whole shape.
        labels: (K,) int64 indices into SHAPES.
        masks: (K, H, W) bool, the visible part of each shape.
        semantic: (H, W) uint8, 0 for the ground, otherwise label + 1.
    """

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    masks: np.ndarray
    semantic: np.ndarray


def draw_scene(seed: int, index: int, size: int = 320) -> Scene:
    """Draws one scene.

    It has 2 to 8 objects, whose longer side is 1/12 to 1/2 of the image's (log-uniform); at least 40 % of
    each is visible.

    Args:
        seed: Seed of an unlimited set of scenes.
        index: Number of the scene in this set.
        size: Height and width of the image in pixels.

    Raises:
        ValueError: A negative seed or index, or a size below 96.
    """
    _check_size(size)
    if min(seed, index) < 0:
        raise ValueError(f"seed={seed} and index={index} must be at least 0")
    rng = np.random.default_rng((seed, index))
    canvas = _ground(rng, size)
    ground_color = canvas.mean((0, 1))
    count = int(rng.integers(OBJECTS[0], OBJECTS[1] + 1))
    extents = np.exp(rng.uniform(np.log(SIZES[0]), np.log(SIZES[1]), count)) * size
    boxes, labels, masks, wholes, colors = [], [], [], [], []
    for extent in sorted(extents, reverse=True):  # small ones last, on top, or they would be hidden
        label = int(rng.integers(len(SHAPES)))
        alpha = _alpha(SHAPES[label], extent, rng.uniform(0, 2 * np.pi))
        solid = alpha >= 0.5
        height, width = alpha.shape
        for _ in range(50):
            x, y = int(rng.integers(size - width + 1)), int(rng.integers(size - height + 1))
            window = slice(y, y + height), slice(x, x + width)
            hidden = [np.count_nonzero(mask[window] & solid) for mask in masks]
            left = [np.count_nonzero(mask) - h for mask, h in zip(masks, hidden, strict=True)]
            if all(v >= LEAST_VISIBLE * w for v, w in zip(left, wholes, strict=True)):
                break
        else:
            continue  # no room for this one
        for mask in masks:
            mask[window] &= ~solid
        masks.append(np.zeros((size, size), bool))
        masks[-1][window] = solid
        wholes.append(np.count_nonzero(solid))
        labels.append(label)
        rows, columns = np.flatnonzero(solid.any(1)), np.flatnonzero(solid.any(0))
        boxes.append((x + columns[0], y + rows[0], x + columns[-1] + 1, y + rows[-1] + 1))
        color = _color(rng, [ground_color, *(c for c, h in zip(colors, hidden, strict=True) if h)])
        colors.append(color)
        fill = _fill(rng, height, width, color)
        canvas[window] += alpha[..., None] * (fill - canvas[window])
    canvas += 4 * rng.standard_normal(canvas.shape, np.float32)
    semantic = np.zeros((size, size), np.uint8)
    for label, mask in zip(labels, masks, strict=True):
        semantic[mask] = label + 1
    return Scene(
        image=canvas.clip(0, 255).astype(np.uint8),
        boxes=np.array(boxes, np.float32),
        labels=np.array(labels, np.int64),
        masks=np.stack(masks),
        semantic=semantic,
    )


def _check_size(size: int) -> None:
    if size < 96:
        raise ValueError(f"size={size} must be at least 96 pixels")
    if size > _LARGEST:
        raise ValueError(f"size={size} must be at most {_LARGEST} pixels")


def _alpha(shape: str, extent: float, turn: float) -> np.ndarray:
    """(h, w) coverage in [0, 1] of the rotated shape, whose longer side has ``extent`` pixels."""
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    outlines = [points @ rotation.T for points in _OUTLINES[shape]]
    low, high = outlines[0].min(0), outlines[0].max(0)
    scale = extent / (high - low).max()
    width, height = np.ceil((high - low) * scale).astype(int)
    image = Image.new("L", (width * _OVERSAMPLE, height * _OVERSAMPLE))
    draw = ImageDraw.Draw(image)
    for points, value in zip(outlines, (255, 0), strict=False):
        draw.polygon([tuple(p) for p in (points - low) * scale * _OVERSAMPLE], fill=value)
    return np.asarray(image.resize((width, height), Image.Resampling.BOX), np.float32) / 255


def _noise(rng: np.random.Generator, height: int, width: int, cells: int, channels: int = 1) -> np.ndarray:
    """(height, width, channels) smooth noise of mean 0 and std 1, about ``cells`` bumps per side."""
    grid = rng.normal(size=(channels, max(cells, 2), max(cells, 2))).astype(np.float32)
    planes = [Image.fromarray(plane).resize((width, height), Image.Resampling.BICUBIC) for plane in grid]
    return np.stack([np.asarray(plane) for plane in planes], -1)


def _ground(rng: np.random.Generator, size: int) -> np.ndarray:
    """(size, size, 3) float32: a varying colour, noise at three scales, and thin lines as clutter."""
    canvas = np.full((size, size, 3), rng.uniform(60, 195, 3), np.float32)
    canvas += 16 * _noise(rng, size, size, 4, 3)
    canvas += rng.uniform(4, 12) * _noise(rng, size, size, 24)
    canvas += rng.uniform(2, 8) * _noise(rng, size, size, size // 3)
    mean = canvas.mean((0, 1))
    image = Image.fromarray(canvas.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(4, 14))):
        color = tuple(int(v) for v in (mean + rng.normal(0, 30, 3)).clip(0, 255))
        draw.line([tuple(p) for p in rng.uniform(0, size, (2, 2))], fill=color, width=int(rng.integers(1, 4)))
    return np.asarray(image, np.float32).copy()


def _color(rng: np.random.Generator, others: list[np.ndarray]) -> np.ndarray:
    """(3,) random RGB colour distinct from ``others``: the first with enough distance, else the farthest."""
    candidates = rng.uniform(0, 255, (24, 3))
    gaps = np.linalg.norm(candidates[:, None] - np.stack(others), axis=-1).min(1)
    return candidates[np.argmax(np.minimum(gaps, _LEAST_GAP))]


def _fill(rng: np.random.Generator, height: int, width: int, color: np.ndarray) -> np.ndarray:
    """(height, width, 3) float32: a texture of ``color`` and a lighter or darker colour."""
    shift = rng.uniform(40, 70) * rng.uniform(0.6, 1.0, 3)
    other = (color + (shift if color.mean() < 128 else -shift)).clip(0, 255)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    turn, period = rng.uniform(0, np.pi), rng.uniform(5, 14)
    along = np.cos(turn) * x + np.sin(turn) * y
    across = np.cos(turn) * y - np.sin(turn) * x
    kind = int(rng.integers(4))
    if kind == 0:  # stripes
        mix = np.sin(along * 2 * np.pi / period) > 0
    elif kind == 1:  # dots
        mix = np.sin(along * 2 * np.pi / period) * np.sin(across * 2 * np.pi / period) > 0.3
    elif kind == 2:  # gradient
        mix = (along - along.min()) / (np.ptp(along) + 1)
    else:  # mottled
        mix = (0.5 + 0.4 * _noise(rng, height, width, 8)[..., 0]).clip(0, 1)
    return color + np.asarray(mix, np.float32)[..., None] * (other - color)


def write_shapes(
    root: str | Path,
    *,
    train: int = 600,
    val: int = 100,
    size: int = 320,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Writes the data set to a folder, in COCO layout.

    The folder gets train2017/ and val2017/ (JPEG), annotations/instances_{train,val}2017.json (category ids
    are label + 1), masks/{train,val}2017/ (label images, 0 is the ground) and classes/{train,val}/<shape>/
    (crops of single, mostly uncovered objects). Held-out images are never training images of a set with the
    same seed. If the folder already has exactly this data set, nothing is done. An interrupted run leaves the
    folder unchanged; what a killed one left beside it is removed by the next.

    Args:
        root: The folder.
        train: Number of training images.
        val: Number of held-out images.
        size: Height and width of the images in pixels.
        seed: Random seed.
        progress: Called after every image with the number of images drawn and the total.

    Returns:
        ``root``.

    Raises:
        UserError: ``root`` has other contents, lacks some of its own, or is not writable.
        ValueError: Counts below 1 or above a million, a size below 96 or above 4096, or a negative seed.
    """
    if not 1 <= train <= _FIRST_VAL or not 1 <= val <= _FIRST_VAL:
        raise ValueError(f"train={train} and val={val} must be 1 to {_FIRST_VAL}")
    _check_size(size)
    if seed < 0:
        raise ValueError(f"seed={seed} must be at least 0")
    root = Path(root)
    record = {"version": VERSION, "train": train, "val": val, "size": size, "seed": seed}
    try:
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            if _read_record(root) != record:
                raise UserError(f"{root} exists and is not this set of drawn shapes; choose another folder")
            _require_complete(root, {"train": train, "val": val})
            return root
        root.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(root) as temporary:
            done = 0
            for split, indices in (("train", range(train)), ("val", range(_FIRST_VAL, _FIRST_VAL + val))):
                for _ in _write_split(temporary, split, indices, size, seed):
                    done += 1
                    if progress is not None:
                        progress(done, train + val)
            (temporary / "shapes.json").write_text(json.dumps(record) + "\n")
            temporary.replace(root)
    except OSError as error:
        raise UserError(
            f"cannot write drawn shapes to {root}: {error.strerror}; choose another folder"
        ) from None
    return root


def _read_record(root: Path) -> Any:
    try:
        return json.loads(read_text(root / "shapes.json"))
    except (OSError, ValueError, RecursionError):
        return None


def _require_complete(root: Path, counts: dict[str, int]) -> None:
    """Checks that a set still has its annotations and images, by their names."""
    found = 0
    for split, count in counts.items():
        annotations = root / "annotations" / f"instances_{split}2017.json"
        if not is_file(annotations):
            raise UserError(
                f"{root} is damaged (no {annotations.relative_to(root)}): remove it, or choose another folder"
            )
        folder = root / f"{split}2017"
        names = set(os.listdir(folder)) if folder.is_dir() else set()
        found += sum(f"{number:012d}.jpg" in names for number in range(1, count + 1))
    total = sum(counts.values())
    if found != total:
        raise UserError(f"{root} is damaged ({found} of {total} images): remove it, or choose another folder")


def _write_split(root: Path, split: str, indices: range, size: int, seed: int) -> Iterator[None]:
    """Yields after every image; the annotations are written last."""
    images, annotations = [], []
    image_folder, label_folder = root / f"{split}2017", root / "masks" / f"{split}2017"
    for folder in (image_folder, label_folder, root / "annotations"):
        folder.mkdir(parents=True, exist_ok=True)
    crops = dict.fromkeys(SHAPES, 0)
    for shape in SHAPES:
        (root / "classes" / split / shape).mkdir(parents=True)
    for image_id, index in enumerate(indices, 1):
        scene = draw_scene(seed, index, size)
        name = f"{image_id:012d}"
        image = Image.fromarray(scene.image)
        image.save(image_folder / f"{name}.jpg", quality=92)
        Image.fromarray(scene.semantic).save(label_folder / f"{name}.png")
        images.append({"id": image_id, "file_name": f"{name}.jpg", "width": size, "height": size})
        for box, label, mask in zip(scene.boxes, scene.labels, scene.masks, strict=True):
            annotations.append(_annotation(len(annotations) + 1, image_id, box, int(label), mask))
            x1, y1, x2, y2 = (int(v) for v in box)
            others = (scene.semantic[y1:y2, x1:x2] > 0) & ~mask[y1:y2, x1:x2]
            shape = SHAPES[label]
            # at most half as many crops per class as scenes: few enough, and classes of about equal size
            if others.mean() <= _MOST_COVERED and crops[shape] < (len(indices) + 1) // 2:
                crop = image.crop((x1, y1, x2, y2))
                crop.save(root / "classes" / split / shape / f"{crops[shape]:06d}.png")
                crops[shape] += 1
        yield
    content = {
        "info": {"description": f"hardnet_suite drawn shapes, version {VERSION}, seed {seed}"},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": name, "supercategory": "shape"} for i, name in enumerate(SHAPES, 1)],
    }
    (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))


def _annotation(number: int, image_id: int, box: np.ndarray, label: int, mask: np.ndarray) -> dict[str, Any]:
    x1, y1, x2, y2 = (float(v) for v in box)
    return {
        "id": number,
        "image_id": image_id,
        "category_id": label + 1,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": int(mask.sum()),
        "iscrowd": 0,
        "segmentation": {"size": list(mask.shape), "counts": _run_lengths(mask)},
    }


def _run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed run lengths, in column-major order, starting with the count of zeros."""
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return [0, *runs] if flat[0] else runs
