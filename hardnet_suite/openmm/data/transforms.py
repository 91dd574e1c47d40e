"""CenterNet's way with images: the training crop that knows the masks, colour jitter, padding around."""

from __future__ import annotations

import cv2
import numpy as np
import shapely
import torch
from mmcv.transforms import BaseTransform
from mmdet.datasets.transforms import LoadAnnotations
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import PolygonMasks
from mmengine.registry import TRANSFORMS
from pycocotools import mask as coco_mask

from hardnet_suite.errors import UserError

# of the colours of ImageNet's pixels, BGR, as CenterNet has them
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
    """mmdet's boxes and labels, and beside them ``gt_segmentations``: each instance's outline as the COCO
    file has it (polygons, or a run-length encoding), None for those without. No instance is left out."""

    def __init__(self):
        super().__init__(with_bbox=True, with_label=True)

    def transform(self, results: dict) -> dict:
        results = super().transform(results)
        results["gt_segmentations"] = [instance.get("mask") for instance in results["instances"]]
        return results


@TRANSFORMS.register_module()
class RandomScaleStretchCrop(BaseTransform):
    """The training crop of CenterNet-HarDNet, in one interpolation.

    The short side is scaled to one of ``short_sides`` (pixels), the other by the same factor times one from
    1 ± ``stretch``. The middle of that comes to lie around the middle of a window of ``size`` (pixels, a
    number or (height, width)): at most half of what the window cannot hold away from it, or ``shift`` of the
    window's side where that is more. What the image does not fill is black; boxes end where it ends.

    Where less than ``visible`` of a box's width or height is left, the box is drawn anew around the visible
    part of the instance's mask (``gt_segmentations``, see ``LoadBoxesAndMasks``, or mmdet's ``gt_masks``),
    where it has one; if nothing of the mask is visible, it goes. A box goes, too, when along one of its
    sides both less than ``min_side`` pixels (3 of CenterNet's output) and less than ``min_visible`` of it
    are left. The masks are used up: no later step finds them.

    Required: img, gt_bboxes, gt_bboxes_labels, gt_ignore_flags; changed beside these: img_shape.
    UserError where an earlier step moved the image but not its masks.
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
        results.pop("scale_factor", None)  # not one number a side of the image any more
        if "gt_bboxes" in results:
            boxes = results["gt_bboxes"].tensor.numpy().astype(np.float64)
            boxes, kept = self._cut(boxes, masks, scale, offset, (height, width))
            results["gt_bboxes"] = HorizontalBoxes(torch.from_numpy(boxes[kept].astype(np.float32)))
            for key in ("gt_bboxes_labels", "gt_ignore_flags"):
                if key in results:
                    results[key] = results[key][kept]
        return results

    def _draw(self, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """(x, y) scale and offset: a point p of the image comes to scale · p + offset."""
        short = np.random.choice(self.short_sides)
        long = short * max(height, width) / min(height, width)
        long *= 1 + np.random.uniform(-self.stretch, self.stretch)
        new = np.array([short, long] if height > width else [long, short])
        window = np.array([self.width, self.height])
        reach = np.maximum((new - window) / 2, self.shift * window)
        middle = window / 2 + np.random.uniform(-1, 1, 2) * reach
        return new / [width, height], middle - new / 2

    def _warp(self, image: np.ndarray, scale: np.ndarray, offset: np.ndarray) -> np.ndarray:
        # OpenCV counts from the middle of the first pixel, boxes from its edge
        shift = offset + 0.5 * scale - 0.5
        matrix = np.array([[scale[0], 0, shift[0]], [0, scale[1], shift[1]]])
        return cv2.warpAffine(image, matrix, (self.width, self.height), flags=cv2.INTER_LINEAR)

    def _cut(self, boxes, masks, scale, offset, size) -> tuple[np.ndarray, np.ndarray]:
        """Boxes (K, 4) of the image -> those in the window, and which of them remain."""
        whole = boxes * np.tile(scale, 2) + np.tile(offset, 2)
        window = np.array([self.width, self.height])
        first, last = offset.clip(0), np.minimum(offset + scale * size[::-1], window)  # the image in it
        limits = np.tile(first, 2), np.tile(last, 2)
        cut = whole.clip(*limits)
        sides = whole[:, 2:] - whole[:, :2]
        shares = _share(cut, sides)
        seen = np.concatenate([-offset, window - offset]) / np.tile(scale, 2)  # the window in the image
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
    """The instances' masks, taken out of ``results``, in COCO's form; None without any."""
    outlines, masks = results.pop("gt_segmentations", None), results.pop("gt_masks", None)
    shape = results["img"].shape[:2]
    if outlines is not None:  # in the file's coordinates, whatever was done to the image
        in_place = not results.get("flip") and tuple(results.get("ori_shape", shape)) == shape
    elif masks is not None:
        in_place = (masks.height, masks.width) == shape
        polygons = isinstance(masks, PolygonMasks)
        outlines = masks.masks if polygons else [coco_mask.encode(np.asfortranarray(m)) for m in masks.masks]
    else:
        return None
    if not in_place or len(outlines) != len(results["gt_bboxes"]):
        raise UserError(
            "the pipeline turns, scales or mixes images before RandomScaleStretchCrop, and the masks stay "
            "behind; put those steps after it, or load the boxes alone with LoadAnnotations"
        )
    return outlines


def _share(boxes: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """(K, 2) how much of the ``sides`` (width, height) the boxes (K, 4) have; 0 of nothing."""
    left = boxes[:, 2:] - boxes[:, :2]
    return np.divide(left, sides, out=np.zeros_like(left), where=sides > 0)


def visible_part(
    segmentation: list | dict, window: tuple[float, float, float, float], size: tuple[int, int]
) -> tuple[float, float, float, float] | None:
    """The box (x1, y1, x2, y2) around what of a mask lies in a window, all in the image's pixels.

    ``segmentation``: COCO's polygons, or a run-length encoding; ``size``: (height, width) of the image.
    (0, 0, 0, 0) where nothing of it is visible; None where the segmentation holds no area at all, or is
    broken (an odd number of coordinates, an encoding without its size or counts).
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
    # the pixels whose middle is in the window
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
    """CenterNet's colours: brightness, contrast and saturation in any order, each by a factor from
    1 ± its number, then a step along the principal colours of ImageNet, normal with deviation ``lighting``.

    img: BGR 0…255 -> float32 in the same units, not clipped.
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
        # what each factor below 1 leads to: black, the mean grey, the grey image
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
class CenterPad(BaseTransform):
    """Puts the image in the middle of a larger black one; for testing.

    multiple: to (side | multiple − 1) + 1, the next larger multiple of a power of two, as CenterNet tests at
    an image's own size (512 becomes 544). size: to this (height, width). Sets ``border``, where the image
    lies: (top, bottom, left, right).
    """

    def __init__(self, multiple: int | None = None, size: tuple[int, int] | None = None):
        if (multiple is None) == (size is None):
            raise ValueError(f"give either multiple or size, got {multiple} and {size}")
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
        canvas = np.zeros((high, wide, *image.shape[2:]), image.dtype)
        canvas[top : top + height, left : left + width] = image
        results["img"], results["img_shape"] = canvas, (high, wide)
        results["border"] = np.array([top, top + height, left, left + width], np.float32)
        results.setdefault("scale_factor", (1.0, 1.0))
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}(multiple={self.multiple}, size={self.size})"
