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
from hardnet_suite.data.panoptic import segment_colors
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


def _arc(start: float, end: float, radius: float = 1.0, center: tuple[float, float] = (0, 0)) -> np.ndarray:
    angles = np.linspace(start, end, 48)
    return np.array(center) + radius * np.stack([np.cos(angles), np.sin(angles)], 1)


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([16 * np.sin(t) ** 3, -y], 1)


def _crescent() -> np.ndarray:
    outer = _arc(np.radians(50), np.radians(310))
    inner = _arc(np.radians(277), np.radians(83), np.hypot(0.093, 0.766), (0.55, 0))
    return np.concatenate([outer, inner[1:-1]])


def _gear() -> np.ndarray:
    teeth = np.tile([1.0, 1.0, 0.72, 0.72], 9)
    angles = (np.arange(36) + np.tile([0.15, -0.15, -0.15, 0.15], 9)) * 2 * np.pi / 36
    return teeth[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)


def _polygon(*points: tuple[float, float]) -> np.ndarray:
    return np.array(points, float)


# set -> shape -> outline and, for shapes with a hole, the hole's outline; in any scale, rotated at random
# when drawn. No symbol is a shape: weights trained on symbols have seen none of the shapes.
_OUTLINES: dict[str, dict[str, tuple[np.ndarray, ...]]] = {
    "shapes": {
        "circle": (_regular(72),),
        "square": (_regular(4),),
        "triangle": (_regular(3),),
        "star": (_star(),),
        "ring": (_regular(72), _regular(72, radius=0.55)),
        "cross": (_cross(),),
    },
    "symbols": {
        "heart": (_heart(),),
        "crescent": (_crescent(),),
        "arrow": (
            _polygon((-1, -0.25), (0.1, -0.25), (0.1, -0.7), (1, 0), (0.1, 0.7), (0.1, 0.25), (-1, 0.25)),
        ),
        "bolt": (_polygon((0.2, -1), (-0.6, 0.15), (-0.05, 0.15), (-0.25, 1), (0.6, -0.2), (0.05, -0.2)),),
        "drop": (np.concatenate([_arc(-0.15 * np.pi, 1.15 * np.pi), _polygon((0, -2.2))]),),
        "half disc": (_arc(0, np.pi),),
        "gear": (_gear(), _regular(36, radius=0.3)),
        "ell": (_polygon((-1, -1), (-0.4, -1), (-0.4, 0.5), (0.7, 0.5), (0.7, 1.1), (-1, 1.1)),),
        "tee": (
            _polygon(
                (-1, -1), (1, -1), (1, -0.45), (0.3, -0.45), (0.3, 1), (-0.3, 1), (-0.3, -0.45), (-1, -0.45)
            ),
        ),
        "chevron": (_polygon((-1, -1), (0, -0.2), (1, -1), (1, -0.3), (0, 0.6), (-1, -0.3)),),
        "frame": (_regular(4), _regular(4, radius=0.5)),
        "pentagon": (_regular(5),),
        "ellipse": (_regular(72) * [1, 0.55],),
        "hourglass": (_polygon((-0.8, -1), (0.8, -1), (0.12, 0), (0.8, 1), (-0.8, 1), (-0.12, 0)),),
    },
}
SETS: tuple[str, ...] = tuple(_OUTLINES)
SHAPES: tuple[str, ...] = tuple(_OUTLINES["shapes"])
GROUND = "ground"  # the class of everything else, in the panoptic annotations


def names_of_set(name: str) -> tuple[str, ...]:
    """The classes of a set of drawn objects, in the order of their labels.

    Raises:
        ValueError: an unknown set.
    """
    if name not in _OUTLINES:
        raise ValueError(f"unknown set of objects {name!r}, expected one of {', '.join(SETS)}")
    return tuple(_OUTLINES[name])


@dataclass(frozen=True)
class Scene:
    """A drawn image with its ground truth.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        boxes: (K, 4) float32 x1, y1, x2, y2 in pixels, around each whole shape.
        labels: (K,) int64 indices into ``names_of_set(objects)``.
        masks: (K, H, W) bool, the visible part of each shape.
        semantic: (H, W) uint8, 0 for the ground, otherwise label + 1.
    """

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    masks: np.ndarray
    semantic: np.ndarray


def draw_scene(seed: int, index: int, size: int = 320, objects: str = "shapes") -> Scene:
    """Draws one scene.

    It has 2 to 8 objects, whose longer side is 1/12 to 1/2 of the image's (log-uniform); at least 40 % of
    each is visible.

    Args:
        seed: Seed of an unlimited set of scenes.
        index: Number of the scene in this set.
        size: Height and width of the image in pixels.
        objects: What is drawn, one of SETS.

    Raises:
        ValueError: A negative seed or index, a size below 96, or an unknown set.
    """
    _check_size(size)
    names = names_of_set(objects)
    if min(seed, index) < 0:
        raise ValueError(f"seed={seed} and index={index} must be at least 0")
    rng = np.random.default_rng((seed, index))
    canvas = _ground(rng, size)
    ground_color = canvas.mean((0, 1))
    count = int(rng.integers(OBJECTS[0], OBJECTS[1] + 1))
    extents = np.exp(rng.uniform(np.log(SIZES[0]), np.log(SIZES[1]), count)) * size
    boxes, labels, masks, wholes, colors = [], [], [], [], []
    for extent in sorted(extents, reverse=True):  # small ones last, on top, or they would be hidden
        label = int(rng.integers(len(names)))
        alpha = _alpha(_OUTLINES[objects][names[label]], extent, rng.uniform(0, 2 * np.pi))
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


def _alpha(shape: tuple[np.ndarray, ...], extent: float, turn: float) -> np.ndarray:
    """(h, w) coverage in [0, 1] of the rotated shape, whose longer side has ``extent`` pixels."""
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    outlines = [points @ rotation.T for points in shape]
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
    objects: str = "shapes",
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Writes the data set to a folder, in COCO layout.

    The folder gets train2017/ and val2017/ (JPEG), annotations/instances_{train,val}2017.json (category ids
    are label + 1), annotations/panoptic_{train,val}2017.json with the folders of that name (the objects, and
    the ground as stuff), masks/{train,val}2017/ (label images, 0 is the ground) and
    classes/{train,val}/<shape>/ (crops of single, mostly uncovered objects). Held-out images are never
    training images of a set with the same seed. If the folder already has exactly this data set, nothing is
    done. An interrupted run leaves the folder unchanged; what a killed one left beside it is removed by the
    next.

    Args:
        root: The folder.
        train: Number of training images.
        val: Number of held-out images.
        size: Height and width of the images in pixels.
        seed: Random seed.
        objects: What is drawn, one of SETS: ``"shapes"``, or ``"symbols"``, none of which is a shape.
        progress: Called after every image with the number of images drawn and the total.

    Returns:
        ``root``.

    Raises:
        UserError: ``root`` has other contents, lacks some of its own, or is not writable.
        ValueError: Counts below 1 or above a million, a size below 96 or above 4096, a negative seed, or an
            unknown set.
    """
    names_of_set(objects)
    if not 1 <= train <= _FIRST_VAL or not 1 <= val <= _FIRST_VAL:
        raise ValueError(f"train={train} and val={val} must be 1 to {_FIRST_VAL}")
    _check_size(size)
    if seed < 0:
        raise ValueError(f"seed={seed} must be at least 0")
    root = Path(root)
    record = {"version": VERSION, "train": train, "val": val, "size": size, "seed": seed}
    if objects != "shapes":  # the records of the first set have no entry for it
        record["objects"] = objects
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
                for _ in _write_split(temporary, split, indices, size, seed, objects):
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
        for kind in ("instances", "panoptic"):
            annotations = root / "annotations" / f"{kind}_{split}2017.json"
            if not is_file(annotations):
                missing = annotations.relative_to(root)
                raise UserError(f"{root} is damaged (no {missing}): remove it, or choose another folder")
        folder = root / f"{split}2017"
        names = set(os.listdir(folder)) if folder.is_dir() else set()
        found += sum(f"{number:012d}.jpg" in names for number in range(1, count + 1))
    total = sum(counts.values())
    if found != total:
        raise UserError(f"{root} is damaged ({found} of {total} images): remove it, or choose another folder")


def _write_split(
    root: Path, split: str, indices: range, size: int, seed: int, objects: str
) -> Iterator[None]:
    """Yields after every image; the annotations are written last."""
    images, annotations, panoptic = [], [], []
    image_folder, label_folder = root / f"{split}2017", root / "masks" / f"{split}2017"
    segment_folder = root / "annotations" / f"panoptic_{split}2017"
    for folder in (image_folder, label_folder, segment_folder):
        folder.mkdir(parents=True, exist_ok=True)
    names = names_of_set(objects)
    crops = dict.fromkeys(names, 0)
    for shape in names:
        (root / "classes" / split / shape).mkdir(parents=True)
    for image_id, index in enumerate(indices, 1):
        scene = draw_scene(seed, index, size, objects)
        name = f"{image_id:012d}"
        image = Image.fromarray(scene.image)
        image.save(image_folder / f"{name}.jpg", quality=92)
        Image.fromarray(scene.semantic).save(label_folder / f"{name}.png")
        segments, infos = _segments(scene, len(names) + 1)
        Image.fromarray(segment_colors(segments)).save(segment_folder / f"{name}.png")
        panoptic.append({"image_id": image_id, "file_name": f"{name}.png", "segments_info": infos})
        images.append({"id": image_id, "file_name": f"{name}.jpg", "width": size, "height": size})
        for box, label, mask in zip(scene.boxes, scene.labels, scene.masks, strict=True):
            annotations.append(_annotation(len(annotations) + 1, image_id, box, int(label), mask))
            x1, y1, x2, y2 = (int(v) for v in box)
            others = (scene.semantic[y1:y2, x1:x2] > 0) & ~mask[y1:y2, x1:x2]
            shape = names[label]
            # at most half as many crops per class as scenes: few enough, and classes of about equal size
            if others.mean() <= _MOST_COVERED and crops[shape] < (len(indices) + 1) // 2:
                crop = image.crop((x1, y1, x2, y2))
                crop.save(root / "classes" / split / shape / f"{crops[shape]:06d}.png")
                crops[shape] += 1
        yield
    content = {
        "info": {"description": f"hardnet_suite drawn {objects}, version {VERSION}, seed {seed}"},
        "licenses": [],
        "images": images,
    }
    things = [{"id": i, "name": name, "supercategory": objects[:-1]} for i, name in enumerate(names, 1)]
    stuff = {"id": len(names) + 1, "name": GROUND, "supercategory": GROUND, "isthing": 0}
    kinds = {
        "instances": {"annotations": annotations, "categories": things},
        "panoptic": {
            "annotations": panoptic,
            "categories": [*({**thing, "isthing": 1} for thing in things), stuff],
        },
    }
    for kind, lists in kinds.items():
        path = root / "annotations" / f"{kind}_{split}2017.json"
        path.write_text(json.dumps({**content, **lists}))


def _segments(scene: Scene, ground: int) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """(H, W) ids of the segments: the objects in their order, from 1, then the ground; and COCO's entries.

    Args:
        scene: what is drawn.
        ground: id of the ground's category.
    """
    segments = np.full(scene.semantic.shape, len(scene.labels) + 1)
    for number, mask in enumerate(scene.masks, 1):
        segments[mask] = number
    infos = []
    for number, category_id in enumerate([*(scene.labels + 1).tolist(), ground], 1):
        rows, columns = np.nonzero(segments == number)
        x, y = int(columns.min()), int(rows.min())
        box = [x, y, int(columns.max()) + 1 - x, int(rows.max()) + 1 - y]
        info = {"id": number, "category_id": category_id, "area": len(rows), "bbox": box, "iscrowd": 0}
        infos.append(info)
    return segments, infos


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
