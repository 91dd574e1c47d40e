"""CenterNet's crop, colour jitter and padding; for label images, changes of exposure and pasted objects."""

from __future__ import annotations

from collections.abc import Sequence, Sized

import cv2
import numpy as np
import shapely
import torch
from mmcv.transforms import BaseTransform
from mmdet.datasets.transforms import LoadAnnotations
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from mmengine.registry import TRANSFORMS
from pycocotools import mask as coco_mask

from hardnet_suite.data.report import counted
from hardnet_suite.errors import UserError

# principal components of ImageNet's pixel colours in BGR, as in CenterNet
EIGENVALUES = np.array([0.2141788, 0.01817699, 0.00341571], np.float32)
EIGENVECTORS = np.array(
    [
        [-0.58752847, -0.69563484, 0.41340352],
        [-0.5832747, 0.00994535, -0.81221408],
        [-0.56089297, 0.71832671, 0.41158938],
    ],
    np.float32,
)


@TRANSFORMS.register_module()
class LoadBoxesAndMasks(LoadAnnotations):
    """Loads boxes and labels as mmdet does, and additionally ``gt_segmentations``.

    These are the instances' masks in the form of the COCO file (polygons or run-length encoding), None for
    instances without. No instance is dropped.
    """

    def __init__(self):
        super().__init__(with_bbox=True, with_label=True)

    def transform(self, results: dict) -> dict:
        results = super().transform(results)
        results["gt_segmentations"] = [instance.get("mask") for instance in results["instances"]]
        return results


@TRANSFORMS.register_module()
class RandomScaleStretchCrop(BaseTransform):
    """The training crop of CenterNet-HarDNet, in a single interpolation.

    The image is scaled and stretched at random, then placed at random in a window; the rest of the window is
    black, and boxes are clipped to the image. A box that loses too much of its width or height is recomputed
    from the visible part of its instance's mask, if it has one (``gt_segmentations`` of
    ``LoadBoxesAndMasks``, or mmdet's ``gt_masks``); it is dropped if nothing of the mask is visible. The
    masks are removed from the results.

    Required keys: img, gt_bboxes, gt_bboxes_labels, gt_ignore_flags. Modified keys: these and img_shape.

    Args:
        size: Height and width of the window in pixels, one integer or (height, width).
        short_sides: Lengths in pixels to draw the scaled image's short side from.
        stretch: The long side is additionally scaled by a random factor in 1 ± ``stretch``.
        shift: Per axis, the image's centre is at most max((image side − window side) / 2, ``shift`` · window
            side) from the window's centre.
        visible: Boxes with less than this fraction of their width or height are recomputed from the mask.
        min_side: Boxes are dropped if, along one side, less than this many pixels and less than
            ``min_visible`` are left. The default is 3 pixels of CenterNet's output.
        min_visible: See ``min_side``; a fraction of the side.

    Raises:
        ValueError: An argument is out of range.
        UserError: An earlier transform moved the image, but not its masks.
    """

    def __init__(
        self,
        size: int | tuple[int, int],
        short_sides: tuple[int, ...] = tuple(range(192, 897, 64)),
        stretch: float = 0.6,
        shift: float = 0.2,
        visible: float = 0.9,
        min_side: float = 12.0,
        min_visible: float = 0.5,
    ):
        self.height, self.width = (size, size) if isinstance(size, int) else size
        self.short_sides, self.stretch, self.shift = tuple(short_sides), stretch, shift
        self.visible, self.min_side, self.min_visible = visible, min_side, min_visible
        if min(self.height, self.width) < 1 or not self.short_sides or min(self.short_sides) < 1:
            raise ValueError(f"size={size} and short_sides={short_sides} must be at least 1 pixel")
        if not 0 <= stretch < 1 or shift < 0:
            raise ValueError(f"stretch={stretch} must be in [0, 1), shift={shift} at least 0")
        if not (0 <= visible <= 1 and 0 <= min_visible <= 1) or min_side < 0:
            raise ValueError(
                f"visible={visible} and min_visible={min_visible} must be from 0 to 1, min_side={min_side} "
                "at least 0"
            )

    def transform(self, results: dict) -> dict:
        height, width = results["img"].shape[:2]
        masks = _take_masks(results)
        scale, offset = self._draw(height, width)
        results["img"] = self._warp(results["img"], scale, offset)
        results["img_shape"] = (self.height, self.width)
        results.pop("scale_factor", None)  # no longer a single factor per side
        if "gt_bboxes" in results:
            boxes = results["gt_bboxes"].tensor.numpy().astype(np.float64)
            boxes, kept = self._cut(boxes, masks, scale, offset, (height, width))
            results["gt_bboxes"] = HorizontalBoxes(torch.from_numpy(boxes[kept].astype(np.float32)))
            for key in ("gt_bboxes_labels", "gt_ignore_flags"):
                if key in results:
                    results[key] = results[key][kept]
        return results

    def _draw(self, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Random (x, y) scale and offset: a point p of the image moves to scale · p + offset."""
        short = np.random.choice(self.short_sides)
        long = short * max(height, width) / min(height, width)
        long *= 1 + np.random.uniform(-self.stretch, self.stretch)
        new = np.array([short, long] if height > width else [long, short])
        window = np.array([self.width, self.height])
        reach = np.maximum((new - window) / 2, self.shift * window)
        middle = window / 2 + np.random.uniform(-1, 1, 2) * reach
        return new / [width, height], middle - new / 2

    def _warp(self, image: np.ndarray, scale: np.ndarray, offset: np.ndarray) -> np.ndarray:
        # OpenCV's origin is the centre of the first pixel, that of boxes its corner
        shift = offset + 0.5 * scale - 0.5
        matrix = np.array([[scale[0], 0, shift[0]], [0, scale[1], shift[1]]])
        return cv2.warpAffine(image, matrix, (self.width, self.height), flags=cv2.INTER_LINEAR)

    def _cut(self, boxes, masks, scale, offset, size) -> tuple[np.ndarray, np.ndarray]:
        """Boxes (K, 4) of the image -> boxes (K, 4) in the window, and (K,) whether a box is kept."""
        whole = boxes * np.tile(scale, 2) + np.tile(offset, 2)
        window = np.array([self.width, self.height])
        # the image within the window
        first, last = offset.clip(0), np.minimum(offset + scale * size[::-1], window)
        limits = np.tile(first, 2), np.tile(last, 2)
        cut = whole.clip(*limits)
        sides = whole[:, 2:] - whole[:, :2]
        shares = _share(cut, sides)
        seen = np.concatenate([-offset, window - offset]) / np.tile(scale, 2)  # in image coordinates
        for k in np.flatnonzero((shares < self.visible).any(1) & (shares > 0).all(1)):
            if masks is None or not masks[k]:
                continue
            part = visible_part(masks[k], tuple(seen), size)
            if part is not None:
                cut[k] = (np.array(part) * np.tile(scale, 2) + np.tile(offset, 2)).clip(*limits)
        left = cut[:, 2:] - cut[:, :2]
        gone = (left < self.min_side) & (_share(cut, sides) < self.min_visible)
        return cut, (left > 0).all(1) & ~gone.any(1)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(size=({self.height}, {self.width}), short_sides={self.short_sides}, "
            f"stretch={self.stretch}, shift={self.shift}, visible={self.visible}, "
            f"min_side={self.min_side}, min_visible={self.min_visible})"
        )


def _take_masks(results: dict) -> list | None:
    """Removes the instances' masks from ``results`` and returns them in COCO's form, or None."""
    outlines, masks = results.pop("gt_segmentations", None), results.pop("gt_masks", None)
    shape = results["img"].shape[:2]
    if outlines is not None:  # always in the coordinates of the file
        in_place = not results.get("flip") and tuple(results.get("ori_shape", shape)) == shape
    elif masks is not None:
        in_place = (masks.height, masks.width) == shape
        polygons = isinstance(masks, PolygonMasks)
        outlines = masks.masks if polygons else [coco_mask.encode(np.asfortranarray(m)) for m in masks.masks]
    else:
        return None
    if not in_place or len(outlines) != len(results["gt_bboxes"]):
        raise UserError(
            "the pipeline flips, scales or mixes images before RandomScaleStretchCrop without transforming "
            "the masks; move these steps behind it, or load boxes only, with LoadAnnotations"
        )
    return outlines


def _share(boxes: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """(K, 2) width and height of the boxes (K, 4) as fractions of ``sides`` (K, 2); 0 where a side is 0."""
    left = boxes[:, 2:] - boxes[:, :2]
    return np.divide(left, sides, out=np.zeros_like(left), where=sides > 0)


def visible_part(
    segmentation: list | dict, window: tuple[float, float, float, float], size: tuple[int, int]
) -> tuple[float, float, float, float] | None:
    """The bounding box of the part of a mask that lies in a window.

    Args:
        segmentation: COCO polygons, or a run-length encoding.
        window: x1, y1, x2, y2 in pixels of the image.
        size: (height, width) of the image.

    Returns:
        x1, y1, x2, y2 in pixels of the image; (0, 0, 0, 0) if no part of the mask is visible; None if the
        segmentation has no area or is invalid (an odd number of coordinates, an encoding without size or
        counts).
    """
    if isinstance(segmentation, dict):
        whole = segmentation.get("counts") is not None and segmentation.get("size") is not None
        return _visible_pixels(segmentation, window, size) if whole else None
    outlines = [
        np.reshape(points, (-1, 2)) for points in segmentation if len(points) >= 6 and len(points) % 2 == 0
    ]
    shapes = [shapely.make_valid(shapely.Polygon(outline)) for outline in outlines]
    shapes = [shape for shape in shapes if shape.area > 0]
    if not shapes:
        return None
    parts = [shapely.clip_by_rect(shape, *window) for shape in shapes]
    bounds = np.array([part.bounds for part in parts if not part.is_empty])
    return (*bounds[:, :2].min(0), *bounds[:, 2:].max(0)) if len(bounds) else (0.0, 0.0, 0.0, 0.0)


def _visible_pixels(encoded: dict, window, size) -> tuple[float, float, float, float] | None:
    if isinstance(encoded["counts"], list):
        encoded = coco_mask.frPyObjects(encoded, *size)
    mask = coco_mask.decode(encoded)
    if not mask.any():
        return None
    x1, y1, x2, y2 = window
    # the pixels whose centre is in the window
    first_x, first_y = (max(0, int(np.ceil(value - 0.5))) for value in (x1, y1))
    last_x, last_y = (max(0, int(np.ceil(value - 0.5))) for value in (x2, y2))
    rows, columns = np.nonzero(mask[first_y:last_y, first_x:last_x])
    if not len(rows):
        return 0.0, 0.0, 0.0, 0.0
    return (
        max(x1, float(columns.min() + first_x)),
        max(y1, float(rows.min() + first_y)),
        min(x2, float(columns.max() + first_x + 1)),
        min(y2, float(rows.max() + first_y + 1)),
    )


@TRANSFORMS.register_module()
class LightingColorJitter(BaseTransform):
    """CenterNet's colour jitter: brightness, contrast and saturation in random order, then PCA lighting.

    Modified key: img, BGR in 0…255 -> float32 in the same range, not clipped.

    Args:
        brightness: The image is multiplied by a random factor in 1 ± ``brightness``.
        contrast: Likewise for the contrast, in [0, 1].
        saturation: Likewise for the saturation, in [0, 1].
        lighting: Standard deviation of the random shift along the principal components of ImageNet's colours.

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(
        self,
        brightness: float = 0.4,
        contrast: float = 0.4,
        saturation: float = 0.4,
        lighting: float = 0.1,
    ):
        self.amounts = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
        self.lighting = lighting
        if min(*self.amounts.values(), lighting) < 0 or max(self.amounts.values()) > 1:
            raise ValueError(f"{self.amounts} must be from 0 to 1, lighting={lighting} at least 0")

    def transform(self, results: dict) -> dict:
        image = results["img"].astype(np.float32) / 255
        grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)[..., None]
        # blended with for factors below 1: black, the mean grey value, the greyscale image
        ends = {"brightness": 0.0, "contrast": grey.mean(), "saturation": grey}
        for name in np.random.permutation(list(ends)):
            factor = np.float32(1 + np.random.uniform(-1, 1) * self.amounts[name])
            image = image * factor + ends[name] * (1 - factor)
        step = np.random.normal(0, self.lighting, 3).astype(np.float32)
        image = image + EIGENVECTORS @ (EIGENVALUES * step)
        results["img"] = (image * 255).astype(np.float32)
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.amounts}, lighting={self.lighting})"


@TRANSFORMS.register_module()
class RandomExposure(BaseTransform):
    """Another exposure, gamma and white balance, as of another camera or another time of day.

    A value v in [0, 1] of channel c becomes (gain · gain_c · v) ** gamma, clipped to [0, 1].

    Modified key: img, uint8 BGR.

    Args:
        gain: The gain is drawn from 1 / ``gain`` to ``gain``, uniformly in its logarithm; at least 1.
        gamma: Likewise for the exponent.
        white_balance: Likewise for the gain of each channel.

    Raises:
        ValueError: An argument is below 1.
        TypeError: The image is not uint8.
    """

    def __init__(self, gain: float = 1.5, gamma: float = 1.5, white_balance: float = 1.1):
        self.ranges = {"gain": gain, "gamma": gamma, "white_balance": white_balance}
        for name, value in self.ranges.items():
            if not value >= 1:
                raise ValueError(f"{name}={value} must be at least 1")

    def transform(self, results: dict) -> dict:
        image = results["img"]
        if image.dtype != np.uint8:
            raise TypeError(f"RandomExposure takes uint8 images, not {image.dtype}")
        gain, gamma, balance = (
            factor ** np.random.uniform(-1, 1, size)
            for factor, size in zip(self.ranges.values(), (1, 1, image.shape[2]), strict=True)
        )
        values = np.linspace(0, 1, 256)[:, None] * gain * balance
        tables = np.rint(255 * np.clip(values, 0, 1) ** gamma).astype(np.uint8)
        results["img"] = cv2.LUT(image, tables[None])
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v}' for k, v in self.ranges.items())})"


@TRANSFORMS.register_module()
class PasteClasses(BaseTransform):
    """Pastes what shows some of the classes in another training image at the same place, pixels and labels.

    So that rare objects are seen more often and before other surroundings. Half of ``classes`` that the other
    image shows, at least one, are drawn at random, as in `ClassMix <https://arxiv.org/abs/2007.07936>`_,
    which pastes half of all classes of an image.

    For mmseg's ``MultiImageMixDataset`` around a ``SegmentationDataset``, which loads, resizes, crops and
    flips both images; the other one may be the same file. Where it is larger, the rest of it is not pasted.
    Modified keys: img, gt_seg_map.

    Args:
        classes: Indices of the classes that are pasted.
        prob: How often another image is drawn, in [0, 1]; where it shows none of ``classes``, nothing is
            pasted.

    Raises:
        ValueError: No class, one that is no index or is there twice, or ``prob`` outside of [0, 1]; in
            ``transform``, a class that the labels do not have, no second image or one with other classes, no
            label images, or label maps beside them, which would not be pasted.
    """

    def __init__(self, classes: Sequence[int], prob: float = 0.5):
        are_indices = isinstance(classes, list | tuple) and all(
            type(each) is int and each >= 0 for each in classes
        )
        if not are_indices or not classes or len(set(classes)) < len(classes):
            raise ValueError(f"classes={classes!r} must be indices of classes, at least one and each once")
        if type(prob) not in (int, float) or not 0 <= prob <= 1:
            raise ValueError(f"prob={prob!r} must be a number between 0 and 1")
        self.classes, self.prob = tuple(classes), prob

    def get_indices(self, dataset: Sized) -> list[int]:
        """The image to paste from, as ``MultiImageMixDataset`` asks for it; none where nothing is pasted."""
        return [np.random.randint(len(dataset))] if np.random.uniform() < self.prob else []

    def transform(self, results: dict) -> dict:
        if "mix_results" not in results:
            raise ValueError("PasteClasses needs a second image: use it in a mmseg.MultiImageMixDataset")
        if any(
            key not in each
            for each in (results, *results["mix_results"])
            for key in ("gt_seg_map", "label_set")
        ):
            raise ValueError(
                "PasteClasses needs the label images of a SegmentationDataset, and LoadLabels before"
            )
        if others := {"gt_edge_map", "gt_depth_map", *results.get("seg_fields", ())} & {*results} - {
            "gt_seg_map"
        }:
            raise ValueError(f"PasteClasses does not paste {', '.join(sorted(others))}: make it afterwards")
        names = results["label_set"].classes
        if max(self.classes) >= len(names):
            raise ValueError(
                f"classes={self.classes}: the labels have {counted(len(names), 'class')}, from 0"
            )
        for other in results["mix_results"]:
            if other["label_set"].classes != names:
                raise ValueError("PasteClasses takes images with the same classes, and these have others")
            image, labels = results["img"], results["gt_seg_map"]
            area = tuple(map(slice, map(min, labels.shape, other["gt_seg_map"].shape)))
            of_other = other["gt_seg_map"][area]
            shown = np.intersect1d(of_other, self.classes)
            if not len(shown):
                continue
            pasted = np.isin(of_other, np.random.permutation(shown)[: (len(shown) + 1) // 2])
            results["img"], results["gt_seg_map"] = image.copy(), labels.copy()
            results["img"][area][pasted] = other["img"][area][pasted]
            results["gt_seg_map"][area][pasted] = of_other[pasted]
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}(classes={self.classes}, prob={self.prob})"


@TRANSFORMS.register_module()
class CenterPad(BaseTransform):
    """Pads the image with black on all sides so that it is centred, as CenterNet is tested.

    Annotations that are loaded before move with it; the border of label images is ignored (255).

    Modified keys: img, img_shape, and if present gt_bboxes, gt_masks, gt_seg_map, homography_matrix. Added
    keys: border, (top, bottom, left, right) of the image in pixels, and scale_factor unless set.

    Args:
        multiple: Pad to (side | multiple − 1) + 1, the next larger multiple of this power of two, as
            CenterNet does when testing at the size of each image (512 becomes 544 for 32).
        size: Pad to this (height, width) instead.

    Raises:
        ValueError: Not exactly one of ``multiple`` and ``size``, an invalid value, or in ``transform`` an
            image larger than ``size``.
        UserError: In ``transform``, annotations that it cannot move, such as ``gt_segmentations``.
    """

    def __init__(self, multiple: int | None = None, size: tuple[int, int] | None = None):
        if (multiple is None) == (size is None):
            raise ValueError(f"expected either multiple or size, got {multiple} and {size}")
        if multiple is not None and (multiple < 1 or multiple & (multiple - 1)):
            raise ValueError(f"multiple={multiple} must be a power of two")
        if size is not None and min(size) < 1:
            raise ValueError(f"size={size} must be (height, width), at least 1 pixel each")
        self.multiple, self.size = multiple, size

    def transform(self, results: dict) -> dict:
        image = results["img"]
        height, width = image.shape[:2]
        if self.size is None:
            high, wide = ((side | (self.multiple - 1)) + 1 for side in (height, width))
        else:
            high, wide = self.size
            if height > high or width > wide:
                raise ValueError(f"an image of {height}×{width} pixels does not fit into size={(high, wide)}")
        top, left = high // 2 - height // 2, wide // 2 - width // 2
        around = (top, high - height - top), (left, wide - width - left)
        _move_annotations(results, around, (high, wide))
        results["img"] = np.pad(image, (*around, *[(0, 0)] * (image.ndim - 2)))
        results["img_shape"] = (high, wide)
        results["border"] = np.array([top, top + height, left, left + width], np.float32)
        results.setdefault("scale_factor", (1.0, 1.0))
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}(multiple={self.multiple}, size={self.size})"


_UNMOVABLE = ("gt_segmentations", "gt_keypoints", "gt_edge_map", "gt_depth_map", "proposals")


def _move_annotations(results: dict, around: tuple[tuple[int, int], ...], size: tuple[int, int]) -> None:
    """Moves boxes, masks and labels of an image that is padded by ``around`` (of rows, of columns) to a size.

    Raises:
        UserError: There are annotations of another kind.
    """
    maps = {"gt_seg_map"} & results.keys()
    if others := ({*_UNMOVABLE, *results.get("seg_fields", ())} & results.keys()) - maps:
        raise UserError(
            f"CenterPad cannot move {', '.join(sorted(others))} with the image: put it before the step that "
            "loads them, or after the one that uses them up"
        )
    (top, _), (left, _) = around
    if (boxes := results.get("gt_bboxes")) is not None:
        if isinstance(boxes, np.ndarray):
            results["gt_bboxes"] = boxes + np.array([left, top, left, top], boxes.dtype)
        else:
            results["gt_bboxes"] = boxes = boxes.clone()
            boxes.translate_((left, top))
    masks = results.get("gt_masks")
    if isinstance(masks, PolygonMasks):
        moved = [
            [part + np.tile([left, top], len(part) // 2) for part in instance] for instance in masks.masks
        ]
        results["gt_masks"] = PolygonMasks(moved, *size)
    elif masks is not None:
        results["gt_masks"] = BitmapMasks(np.pad(masks.masks, ((0, 0), *around)), *size)
    for key in maps:
        results[key] = np.pad(results[key], around, constant_values=255)
    if "homography_matrix" in results:
        move = np.array([[1, 0, left], [0, 1, top], [0, 0, 1]], np.float32)
        results["homography_matrix"] = move @ results["homography_matrix"]
