"""CenterNet's transforms: boxes known beforehand, masks cut by the window, thresholds at both sides."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmcv.transforms import Compose
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from mmengine.registry import TRANSFORMS, DefaultScope
from pycocotools import mask as coco_mask

import hardnet_suite.openmm.data.classification  # noqa: F401  # torchvision's transforms
from hardnet_suite.errors import UserError
from hardnet_suite.openmm.data.sampling import seed_all
from hardnet_suite.openmm.data.transforms import (
    CenterPad,
    HorizontalBoxes,
    LightingColorJitter,
    RandomScaleStretchCrop,
    visible_part,
)


@pytest.fixture(autouse=True)
def _mmdet_scope():
    with DefaultScope.overwrite_default_scope("mmdet"):
        yield


def item(image=None, boxes=(), masks=None, size=(120, 160), **more) -> dict:
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    result = {
        "img": np.zeros((*size, 3), np.uint8) if image is None else image,
        "gt_bboxes": HorizontalBoxes(boxes),
        "gt_bboxes_labels": np.arange(len(boxes)),
        "gt_ignore_flags": np.zeros(len(boxes), bool),
        **more,
    }
    return result if masks is None else result | {"gt_segmentations": masks}


class Fixed(RandomScaleStretchCrop):
    """The same with a given scale and offset in place of random ones."""

    def __init__(self, size, scale=(1.0, 1.0), offset=(0.0, 0.0), **options):
        super().__init__(size, **options)
        self.drawn = np.array(scale), np.array(offset)

    def _draw(self, height, width):
        return self.drawn


def boxes_of(result: dict) -> list[list[float]]:
    return result["gt_bboxes"].tensor.tolist()


# --- the crop


def test_a_rectangle_stays_in_its_box():
    """Whatever is drawn: the white pixels end where the box ends, to a pixel of the enlarged edge."""
    image = np.zeros((120, 160, 3), np.uint8)
    image[30:90, 40:120] = 255
    crop = RandomScaleStretchCrop(256, short_sides=(96, 160, 240, 320))
    seen = 0
    for seed in range(60):
        seed_all(seed)
        out = crop(item(image.copy(), [[40, 30, 120, 90]]))
        assert out["img"].shape == (256, 256, 3)
        assert out["img_shape"] == (256, 256)
        rows, columns = np.nonzero(out["img"][..., 0] > 127)
        if not len(out["gt_bboxes"]):
            assert len(rows) < 0.5 * 256 * 256
            continue
        seen += 1
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(boxes_of(out)[0], found, atol=1.01)
    assert seen > 50


def test_the_range_of_what_is_drawn():
    crop = RandomScaleStretchCrop((200, 300), short_sides=(100, 400), stretch=0.6)
    seed_all(0)
    draws = [crop._draw(120, 160) for _ in range(2000)]
    shorts = np.array([scale[1] * 120 for scale, _ in draws])
    assert {round(short) for short in shorts} == {100, 400}
    stretch = np.array([scale[0] / scale[1] for scale, _ in draws])
    assert 0.4 <= stretch.min() < 0.45
    assert 1.55 < stretch.max() <= 1.6
    new = np.array([scale for scale, _ in draws]) * [160, 120]
    away = np.array([offset for _, offset in draws]) + new / 2 - [150, 100]
    reach = np.maximum((new - [300, 200]) / 2, [60, 40])
    part = away / reach  # evenly from −1 to 1, along each axis by itself
    assert (np.abs(part) <= 1 + 1e-9).all()
    assert (part.min(0) < -0.99).all()
    assert (part.max(0) > 0.99).all()
    assert np.abs(part.mean(0)).max() < 0.05
    assert abs(np.corrcoef(part.T)[0, 1]) < 0.1
    assert (reach > [60, 40]).any(0).all()  # larger images move farther
    assert (reach == [60, 40]).any(0).all()
    # a tall image's short side is its width
    assert round(crop._draw(160, 120)[0][0] * 120) in (100, 400)


def test_the_same_seed_gives_the_same_crop():
    image = np.random.default_rng(0).integers(0, 255, (90, 70, 3), np.uint8)
    crop, results = RandomScaleStretchCrop(128), []
    for seed in (5, 5, 6):
        seed_all(seed)
        results.append(crop(item(image.copy(), [[10, 10, 60, 80]])))
    assert np.array_equal(results[0]["img"], results[1]["img"])
    assert boxes_of(results[0]) == boxes_of(results[1])
    assert not np.array_equal(results[0]["img"], results[2]["img"])


L_SHAPE = [[40.0, 20, 60, 20, 60, 80, 120, 80, 120, 100, 40, 100]]  # a post on the left, a foot to the right


def test_a_cut_box_is_drawn_anew_around_the_visible_part_of_the_mask():
    """The window ends at y = 70: of the L only its post is left, 20 pixels wide."""
    crop = Fixed((70, 160))
    assert boxes_of(crop(item(boxes=[[40, 20, 120, 100]], masks=[L_SHAPE]))) == [[40, 20, 60, 70]]
    # without a mask the clipped box stays
    assert boxes_of(crop(item(boxes=[[40, 20, 120, 100]], masks=[None]))) == [[40, 20, 120, 70]]
    assert boxes_of(crop(item(boxes=[[40, 20, 120, 100]]))) == [[40, 20, 120, 70]]


def test_polygon_and_bitmap_masks_of_mmdet_agree():
    from mmdet.structures.mask import BitmapMasks, PolygonMasks

    polygons = PolygonMasks([[np.array(L_SHAPE[0])], [np.zeros(6)]], 120, 160)  # zeros: mmdet's "no mask"
    for masks in (polygons, polygons.to_bitmap()):
        out = Fixed((70, 160))(item(boxes=[[40, 20, 120, 100], [0, 0, 30, 100]], gt_masks=masks))
        np.testing.assert_allclose(boxes_of(out), [[40, 20, 60, 70], [0, 0, 30, 70]], atol=1.01)
        assert "gt_masks" not in out
    assert boxes_of(Fixed((70, 160))(item(gt_masks=BitmapMasks([], 120, 160)))) == []


def test_a_flip_before_the_crop():
    """mmdet's masks are flipped along; the file's outlines are not, and must not be taken for the truth."""
    from mmdet.datasets.transforms import RandomFlip
    from mmdet.structures.mask import PolygonMasks

    flip, crop = RandomFlip(prob=1.0), Fixed((70, 160))
    boxes, more = [[40, 20, 120, 100]], {"img_shape": (120, 160), "ori_shape": (120, 160)}
    masks = PolygonMasks([[np.array(L_SHAPE[0])]], 120, 160)
    assert boxes_of(crop(flip(item(boxes=boxes, gt_masks=masks, **more)))) == [[100, 20, 120, 70]]
    with pytest.raises(UserError, match="before RandomScaleStretchCrop"):
        crop(flip(item(boxes=boxes, masks=[L_SHAPE], **more)))
    with pytest.raises(UserError, match="before RandomScaleStretchCrop"):
        crop(item(boxes=boxes, masks=[L_SHAPE], ori_shape=(60, 80)))
    with pytest.raises(UserError, match="before RandomScaleStretchCrop"):
        crop(item(boxes=boxes, masks=[L_SHAPE, L_SHAPE]))
    with pytest.raises(UserError, match="before RandomScaleStretchCrop"):
        crop(item(boxes=boxes, gt_masks=masks, size=(240, 320)))  # as mmdet's Mosaic leaves them
    assert len(crop(flip(item(boxes=boxes, **more)))["gt_bboxes"]) == 1  # without masks any order will do


def test_boxes_end_where_the_image_ends():
    crop = Fixed((200, 300), offset=(10.0, 20.0))
    assert boxes_of(crop(item(boxes=[[-5, 20, 170, 130]]))) == [[10, 40, 170, 140]]
    assert boxes_of(crop(item(boxes=[[165, 20, 200, 60]]))) == []  # beside the image, yet in the window


def test_scaled_and_shifted_the_mask_goes_along():
    crop = Fixed((100, 320), scale=(2.0, 1.0), offset=(-60.0, 30.0))
    (box,) = boxes_of(crop(item(boxes=[[40, 20, 120, 100]], masks=[L_SHAPE])))
    assert box == [20, 50, 60, 100]  # x: 2·40 − 60 … 2·60 − 60; y: 20 + 30 … the window's end


def test_a_box_that_is_hardly_cut_keeps_its_edges():
    """72 of 80 rows are 90 %: at the threshold the box stays, below it the mask speaks."""
    at = Fixed((92, 160))(item(boxes=[[40, 20, 120, 100]], masks=[L_SHAPE]))
    assert boxes_of(at) == [[40, 20, 120, 92]]
    narrow = [[40.0, 20, 60, 20, 60, 95, 120, 95, 120, 100, 40, 100]]
    below = Fixed((91, 160))(item(boxes=[[40, 20, 120, 100]], masks=[narrow]))
    assert boxes_of(below) == [[40, 20, 60, 91]]


def test_a_mask_out_of_sight_takes_its_box_along():
    foot = [[40.0, 90, 120, 90, 120, 100, 40, 100]]
    assert boxes_of(Fixed((70, 160))(item(boxes=[[40, 20, 120, 100]], masks=[foot]))) == []


@pytest.mark.parametrize(
    ("left", "side", "stays"),
    [
        (12, 100, True),  # 12 pixels are 3 of the output: enough, however little of the box
        (11, 100, False),
        (11, 22, True),  # half of it is enough, however small
        (11, 23, False),
    ],
)
@pytest.mark.parametrize("axis", [0, 1])
def test_small_remains_are_dropped_only_if_most_is_gone(left, side, stays, axis):
    box = [20.0, 20.0, 100.0, 100.0]
    box[axis], box[axis + 2] = left - side, left
    out = Fixed((120, 160))(item(boxes=[box, [0, 0, 50, 50]]))
    assert len(out["gt_bboxes"]) == 1 + stays
    assert out["gt_bboxes_labels"].tolist() == ([0, 1] if stays else [1])
    assert len(out["gt_ignore_flags"]) == 1 + stays


def test_a_tiny_box_that_is_whole_stays():
    assert boxes_of(Fixed((120, 160))(item(boxes=[[10, 10, 12, 13]]))) == [[10, 10, 12, 13]]


@pytest.mark.parametrize("box", [[200, 10, 220, 30], [10, 10, 10, 40], [10, 40, 30, 40], [-30, 5, 0, 9]])
def test_boxes_without_area_or_outside_go(box):
    out = Fixed((120, 160))(item(boxes=[box, [5, 5, 50, 50]]))
    assert boxes_of(out) == [[5, 5, 50, 50]]


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (3000, 4000), (17, 33)])
def test_any_size_of_image(size):
    crop = RandomScaleStretchCrop(128)
    for seed in range(3):
        seed_all(seed)
        out = crop(item(size=size, boxes=[[0, 0, size[1], size[0]]]))
        assert out["img"].shape == (128, 128, 3)
        assert torch.isfinite(out["gt_bboxes"].tensor).all()
        boxes = out["gt_bboxes"].tensor
        assert ((boxes >= 0) & (boxes <= 128)).all()


def test_no_boxes_and_no_truth_at_all():
    out = RandomScaleStretchCrop(64)(item())
    assert out["gt_bboxes"].tensor.shape == (0, 4)
    assert RandomScaleStretchCrop(64)({"img": np.zeros((9, 9, 3), np.uint8)})["img"].shape == (64, 64, 3)


def test_nothing_stale_is_left():
    out = RandomScaleStretchCrop(64)(item(boxes=[[0, 0, 50, 50]], masks=[L_SHAPE], scale_factor=(1, 1)))
    assert "gt_segmentations" not in out
    assert "scale_factor" not in out


# --- what of a mask is visible


def encoded(polygons, size=(120, 160), *, compressed=True) -> dict:
    rle = coco_mask.merge(coco_mask.frPyObjects(polygons, *size))
    if compressed:
        return rle
    flat = coco_mask.decode(rle).flatten(order="F")
    changes = np.flatnonzero(np.diff(np.concatenate([[0], flat, [1 - flat[-1]]])))
    counts = np.diff(np.concatenate([[0], changes]))
    return {"size": list(size), "counts": counts.tolist()}


@pytest.mark.parametrize("window", [(0, 0, 160, 70), (50, 0, 160, 120), (0, 85, 90, 120), (0, 0, 160, 120)])
@pytest.mark.parametrize("compressed", [True, False])
def test_polygons_and_run_lengths_agree(window, compressed):
    polygons = [*L_SHAPE, [10.0, 10, 30, 12, 20, 40]]
    exact = visible_part(polygons, window, (120, 160))
    pixels = visible_part(encoded(polygons, compressed=compressed), window, (120, 160))
    np.testing.assert_allclose(pixels, exact, atol=1.01)


def test_polygons_are_exact():
    triangle = [[0.0, 0, 100, 0, 0, 100]]
    assert visible_part(triangle, (50, 0, 200, 200), (120, 160)) == pytest.approx((50, 0, 100, 50))
    assert visible_part(triangle, (80, 80, 200, 200), (120, 160)) == (0, 0, 0, 0)
    bow_tie = [[0.0, 0, 100, 100, 100, 0, 0, 100]]
    assert visible_part(bow_tie, (0, 0, 20, 200), (120, 160)) == pytest.approx((0, 0, 20, 100))


@pytest.mark.parametrize(
    "nothing",
    [
        [],
        [[1.0, 2, 3, 4]],
        [[5.0, 5, 5, 5, 5, 5]],
        [[0.0, 0, 9, 9, 18, 18]],
        [[40.0, 20, 60, 20, 60, 80, 9]],
        {"size": [120, 160]},
        {"counts": [120 * 160]},
    ],
)
def test_a_segmentation_without_area_says_nothing(nothing):
    assert visible_part(nothing, (0, 0, 9, 9), (120, 160)) is None
    out = Fixed((70, 160))(item(boxes=[[40, 20, 120, 100]], masks=[nothing]))
    assert boxes_of(out) == [[40, 20, 120, 70]]  # as without a mask


def test_an_empty_run_length_says_nothing():
    empty = {"size": [120, 160], "counts": [120 * 160]}
    assert visible_part(empty, (0, 0, 9, 9), (120, 160)) is None


# --- colours


def test_without_amounts_the_image_stays():
    image = np.random.default_rng(0).integers(0, 255, (8, 9, 3), np.uint8)
    out = LightingColorJitter(0, 0, 0, 0)({"img": image})["img"]
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, image, atol=1e-3)


@pytest.mark.parametrize(
    ("amounts", "end"),
    [((0.4, 0, 0), "black"), ((0, 0.4, 0), "mean"), ((0, 0, 0.4), "grey")],
)
def test_each_factor_alone(amounts, end):
    """The result lies on the line from the image through its end, at a factor from 0.6 to 1.4."""
    image = np.random.default_rng(0).integers(0, 255, (8, 9, 3), np.uint8)
    grey = cv2.cvtColor(image.astype(np.float32), cv2.COLOR_BGR2GRAY)[..., None]
    target = {"black": 0 * grey, "mean": np.full_like(grey, grey.mean()), "grey": grey}[end]
    seed_all(3)
    out = LightingColorJitter(*amounts, 0)({"img": image.copy()})["img"]
    factors = (out - target) / np.where(np.abs(image - target) > 1, image - target, np.nan)
    factor = np.nanmedian(factors)
    assert 0.6 <= factor <= 1.4
    assert abs(factor - 1) > 0.01
    np.testing.assert_allclose(out, target + factor * (image - target), atol=0.05)


@pytest.mark.parametrize("order", list(permutations(["brightness", "contrast", "saturation"])))
def test_the_order_is_drawn(monkeypatch, order):
    image = np.random.default_rng(0).integers(0, 255, (8, 9, 3), np.uint8)
    factors = dict(zip(order, (0.7, 1.3, 0.8), strict=True))
    draws = iter((factors[name] - 1) / 0.4 for name in order)
    monkeypatch.setattr(np.random, "permutation", lambda names: list(order))
    monkeypatch.setattr(np.random, "uniform", lambda low, high: next(draws))
    out = LightingColorJitter(lighting=0)({"img": image})["img"]
    pixels = image / 255
    grey = pixels @ [0.114, 0.587, 0.299]  # of the image as it was
    ends = {"brightness": 0.0, "contrast": grey.mean(), "saturation": grey[..., None]}
    for name in order:
        pixels = pixels * factors[name] + ends[name] * (1 - factors[name])
    np.testing.assert_allclose(out, pixels * 255, atol=0.05)


def test_lighting_moves_all_pixels_alike():
    image = np.random.default_rng(0).integers(0, 255, (8, 9, 3), np.uint8)
    steps = []
    for seed in range(200):
        seed_all(seed)
        moved = LightingColorJitter(0, 0, 0, 0.1)({"img": image.copy()})["img"] - image
        np.testing.assert_allclose(moved, np.broadcast_to(moved[0, 0], moved.shape), atol=1e-2)
        steps.append(moved[0, 0] / 255)
    # the covariance's largest direction is the first principal colour, of deviation 0.1 · 0.214
    values, vectors = np.linalg.eigh(np.cov(np.array(steps).T))
    assert np.sqrt(values[-1]) == pytest.approx(0.0214, rel=0.25)
    assert abs(vectors[:, -1] @ [-0.5875, -0.5833, -0.5610]) == pytest.approx(1, abs=0.01)


# --- padding


@pytest.mark.parametrize(
    ("size", "canvas", "border"),
    [
        ((512, 512), (544, 544), [16, 528, 16, 528]),
        ((333, 500), (352, 512), [10, 343, 6, 506]),
        ((1, 1), (32, 32), [16, 17, 16, 17]),
        ((31, 33), (32, 64), [1, 32, 16, 49]),
    ],
)
def test_the_kept_size_is_padded_around(size, canvas, border):
    image = np.full((*size, 3), 7, np.uint8)
    out = CenterPad(multiple=32)({"img": image})
    assert out["img"].shape == (*canvas, 3)
    assert out["img_shape"] == canvas
    assert out["border"].tolist() == border
    top, bottom, left, right = border
    assert (out["img"][top:bottom, left:right] == 7).all()
    assert out["img"].sum() == image.sum()


def test_padded_to_a_size():
    out = CenterPad(size=(64, 96))({"img": np.ones((10, 20, 3), np.uint8), "scale_factor": (2.0, 2.0)})
    assert out["border"].tolist() == [27, 37, 38, 58]
    assert out["scale_factor"] == (2.0, 2.0)
    with pytest.raises(ValueError, match="65×10 pixels does not fit"):
        CenterPad(size=(64, 96))({"img": np.ones((65, 10, 3), np.uint8)})


@pytest.mark.parametrize("boxes", ["boxes", "array"])
@pytest.mark.parametrize("masks", ["bitmaps", "polygons"])
def test_annotations_move_with_the_padded_image(boxes, masks):
    """A bright rectangle is where its box, its mask and its labels are."""
    top, left, bottom, right = 2, 3, 7, 15
    image = np.zeros((11, 21, 3), np.uint8)
    image[top:bottom, left:right] = 9
    corners = np.array([[left, top, right, bottom]], np.float32)
    outline = np.array([left, top, right, top, right, bottom, left, bottom], float)
    given = {
        "img": image,
        "gt_bboxes": HorizontalBoxes(corners) if boxes == "boxes" else corners,
        "gt_masks": BitmapMasks((image[None, ..., 0] > 0).astype(np.uint8), 11, 21)
        if masks == "bitmaps"
        else PolygonMasks([[outline]], 11, 21),
        "gt_seg_map": (image[..., 0] > 0).astype(np.uint8),
        "seg_fields": ["gt_seg_map"],
        "homography_matrix": np.eye(3, dtype=np.float32),
    }
    out = CenterPad(size=(40, 32))(dict(given))
    rows, columns = np.nonzero(out["img"][..., 0])
    found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    box = out["gt_bboxes"].tensor if boxes == "boxes" else out["gt_bboxes"]
    assert np.array(box).tolist() == [found]
    assert (given["gt_bboxes"].tensor.numpy() if boxes == "boxes" else corners).tolist() == [[3, 2, 15, 7]]
    assert np.array_equal(out["gt_masks"].to_ndarray()[0], out["img"][..., 0] > 0)
    assert np.array_equal(out["gt_seg_map"] == 1, out["img"][..., 0] > 0)
    first, last, west, east = out["border"].astype(int)
    assert (out["gt_seg_map"] == 255).sum() == 40 * 32 - 11 * 21
    assert (out["gt_seg_map"][first:last, west:east] < 255).all()
    assert (out["homography_matrix"] @ [left, top, 1]).tolist() == [*found[:2], 1]


def test_no_annotations_are_left_in_place():
    empty = {
        "gt_bboxes": HorizontalBoxes(np.zeros((0, 4), np.float32)),
        "gt_masks": BitmapMasks([], 10, 20),
    }
    out = CenterPad(multiple=32)({"img": np.ones((10, 20, 3), np.uint8), **empty})
    assert len(out["gt_bboxes"]) == 0
    assert out["gt_masks"].masks.shape == (0, 32, 32)


@pytest.mark.parametrize("key", ["gt_segmentations", "gt_keypoints", "gt_depth_map", "own_map"])
def test_annotations_that_cannot_be_moved_are_refused(key):
    results = {"img": np.ones((10, 20, 3), np.uint8), key: np.zeros((10, 20)), "seg_fields": ["own_map"]}
    with pytest.raises(UserError, match=f"CenterPad cannot move {key} with the image: put it before"):
        CenterPad(multiple=32)(results)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CenterPad(), "either multiple or size"),
        (lambda: CenterPad(multiple=32, size=(4, 4)), "either multiple or size"),
        (lambda: CenterPad(multiple=24), "power of two"),
        (lambda: RandomScaleStretchCrop(0), "at least 1 pixel"),
        (lambda: RandomScaleStretchCrop(64, short_sides=()), "at least 1 pixel"),
        (lambda: RandomScaleStretchCrop(64, stretch=1.0), "stretch=1.0"),
        (lambda: RandomScaleStretchCrop(64, visible=1.1), "visible=1.1"),
        (lambda: RandomScaleStretchCrop(64, min_visible=-1), "min_visible=-1"),
        (lambda: RandomScaleStretchCrop(64, min_side=-1), "min_side=-1"),
        (lambda: CenterPad(size=(0, 32)), "at least 1 pixel"),
        (lambda: LightingColorJitter(brightness=-1), "from 0 to 1"),
    ],
)
def test_nonsense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# --- on a data set


def test_the_configs_pipeline_on_a_data_set(tiny):
    """From the files to the packed sample, with the run-length masks of the drawn set."""
    from mmdet.registry import DATASETS

    from hardnet_suite.openmm.run.configs import load_config, set_data_root

    _, data = tiny
    cfg = load_config("centernet_hardnet68")
    set_data_root(cfg, data)
    dataset = cfg.train_dataloader.dataset
    dataset.metainfo = {"classes": ("circle", "square", "triangle", "star", "ring", "cross")}
    dataset.pipeline[2].update(size=128, short_sides=(96, 128, 192))
    dataset = DATASETS.build(dataset)
    assert len(dataset) == 12
    count = 0
    for index in range(len(dataset)):
        seed_all(0, index)
        sample = dataset[index]
        assert sample["inputs"].shape == (3, 128, 128)
        assert sample["inputs"].dtype == torch.float32
        truth = sample["data_samples"].gt_instances
        assert len(truth.labels) == len(truth.bboxes)
        count += len(truth.labels)
    assert count > 12


def test_the_mosaic_of_the_modern_config(tiny):
    from mmdet.registry import DATASETS

    from hardnet_suite.openmm.run.configs import load_config, set_data_root

    _, data = tiny
    cfg = load_config("centernet_hardnet85_modern")
    set_data_root(cfg, data)
    dataset = cfg.train_dataloader.dataset
    dataset.dataset.metainfo = {"classes": ("circle", "square", "triangle", "star", "ring", "cross")}
    dataset.pipeline[0].update(img_scale=(128, 128), prob=1.0)
    dataset.pipeline[1].update(size=128, short_sides=(128, 192))
    dataset = DATASETS.build(dataset)
    seed_all(0)
    samples = [dataset[index] for index in range(len(dataset))]
    assert all(sample["inputs"].shape == (3, 128, 128) for sample in samples)
    counts = [len(sample["data_samples"].gt_instances) for sample in samples]
    assert max(counts) > 8  # more than one drawn image holds


def test_an_instance_without_a_usable_mask_is_not_left_out(tmp_path):
    """Neither a missing segmentation nor a degenerate polygon takes the box along."""
    from mmdet.registry import DATASETS
    from PIL import Image

    folder = Path(tmp_path)
    Image.new("RGB", (64, 48)).save(folder / "a.png")
    masks = [None, [], [[1.0, 1, 2, 2]], [[0.0, 0, 20, 0, 20, 20, 0, 20]]]
    annotations = []
    for k, mask in enumerate(masks):
        entry = {
            "id": k + 1,
            "image_id": 1,
            "category_id": 1,
            "bbox": [0, 0, 20, 20],
            "area": 400,
            "iscrowd": 0,
        }
        annotations.append(entry if mask is None else entry | {"segmentation": mask})
    (folder / "a.json").write_text(
        json.dumps(
            {
                "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 48}],
                "annotations": annotations,
                "categories": [{"id": 1, "name": "thing"}],
            }
        )
    )
    dataset = DATASETS.build(
        {
            "type": "CocoDataset",
            "ann_file": str(folder / "a.json"),
            "data_prefix": {"img": str(folder)},
            "metainfo": {"classes": ("thing",)},
            "pipeline": [{"type": "LoadImageFromFile"}, {"type": "LoadBoxesAndMasks"}],
        }
    )
    results = dataset[0]
    assert len(results["gt_bboxes"]) == len(results["gt_segmentations"]) == 4
    assert not results["gt_ignore_flags"].any()
    assert Compose([{"type": "RandomScaleStretchCrop", "size": 64}])(results)["img"].shape == (64, 64, 3)


# --- exposure, and torchvision's transforms on arrays


def grey_ramp() -> np.ndarray:
    return np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, 2)


@pytest.mark.parametrize("drawn", [-1.0, -0.4, 0.0, 0.7])
def test_exposure_is_gain_and_gamma(monkeypatch, drawn):
    monkeypatch.setattr(np.random, "uniform", lambda low, high, size: np.full(size, drawn))
    transform = TRANSFORMS.build({"type": "RandomExposure", "gain": 1.6, "gamma": 2.0, "white_balance": 1.2})
    out = transform({"img": grey_ramp()})["img"]
    for value in range(256):
        expected = 255 * min(value / 255 * 1.6**drawn * 1.2**drawn, 1) ** 2.0**drawn
        assert abs(out.reshape(-1, 3)[value].astype(float) - expected).max() <= 0.5 + 1e-9


def test_white_balance_has_a_gain_per_channel():
    np.random.seed(0)
    transform = TRANSFORMS.build({"type": "RandomExposure", "gain": 1, "gamma": 1, "white_balance": 1.5})
    out = transform({"img": grey_ramp()})["img"]
    assert len({channel.tobytes() for channel in out.transpose(2, 0, 1)}) == 3
    same = TRANSFORMS.build({"type": "RandomExposure", "gain": 1, "gamma": 1, "white_balance": 1})
    np.testing.assert_array_equal(same({"img": grey_ramp()})["img"], grey_ramp())


@pytest.mark.parametrize("option", ["gain", "gamma", "white_balance"])
@pytest.mark.parametrize("value", [0.9, float("nan")])
def test_exposures_that_are_refused(option, value):
    with pytest.raises(ValueError, match=f"{option}={value} must be at least 1"):
        TRANSFORMS.build({"type": "RandomExposure", option: value})
    with pytest.raises(TypeError, match="takes uint8 images, not float32"):
        TRANSFORMS.build({"type": "RandomExposure"})({"img": grey_ramp().astype(np.float32)})


def test_torchvisions_transforms_see_rgb_and_return_bgr():
    image = np.random.default_rng(0).integers(0, 256, (8, 6, 3), np.uint8)
    out = TRANSFORMS.build({"type": "torchvision/RandomGrayscale", "p": 1.0})({"img": image})["img"]
    luma = image[..., ::-1].astype(float) @ [0.2989, 0.587, 0.114]
    assert abs(out.astype(float) - luma[..., None]).max() <= 1
    flipped = TRANSFORMS.build({"type": "torchvision/RandomInvert", "p": 1.0})({"img": image})["img"]
    np.testing.assert_array_equal(flipped, 255 - image)


@pytest.mark.parametrize(
    "options", [{"type": "torchvision/Resize", "size": 4}, {"type": "torchvision/Pad", "padding": 1}]
)
def test_torchvisions_transforms_must_keep_the_size_of_arrays(options):
    with pytest.raises(ValueError, match="only transforms that keep size and type"):
        TRANSFORMS.build(options)({"img": np.zeros((8, 6, 3), np.uint8)})


def two_images():
    """An image of class 0, and another with class i in row i, 0 to 4; their pixels are 10 and 200."""
    rows = np.repeat(np.arange(5, dtype=np.uint8)[:, None], 6, axis=1)
    labels = SimpleNamespace(classes=("a", "b", "c", "d", "e", "f"))
    return (
        {
            "img": np.full((5, 6, 3), 10, np.uint8),
            "gt_seg_map": np.zeros((5, 6), np.uint8),
            "label_set": labels,
        },
        {"img": np.full((5, 6, 3), 200, np.uint8), "gt_seg_map": rows, "label_set": labels},
    )


def test_half_of_the_chosen_classes_are_pasted_where_they_are():
    np.random.seed(0)
    transform = TRANSFORMS.build({"type": "PasteClasses", "classes": [1, 2, 3, 4, 5], "prob": 1.0})
    seen = set()
    for _ in range(30):
        image, other = two_images()
        out = transform({**image, "mix_results": [other]})
        pasted = np.unique(out["gt_seg_map"][out["gt_seg_map"] > 0])
        assert len(pasted) == 2  # of the four that are shown
        rows = np.isin(np.arange(5), pasted)
        np.testing.assert_array_equal(out["gt_seg_map"], np.where(rows[:, None], other["gt_seg_map"], 0))
        np.testing.assert_array_equal(out["img"][:, 0, 0], np.where(rows, 200, 10))
        assert out["img"].dtype == out["gt_seg_map"].dtype == np.uint8
        assert image["gt_seg_map"].max() == 0
        assert image["img"].max() == 10
        seen.add(tuple(pasted))
    assert len(seen) == 6


@pytest.mark.parametrize(("height", "width"), [(3, 4), (3, 9), (7, 4), (7, 9)])
def test_images_of_different_sizes(height, width):
    """What both have is pasted; the image keeps its size."""
    np.random.seed(0)
    transform = TRANSFORMS.build({"type": "PasteClasses", "classes": [1], "prob": 1.0})
    _, other = two_images()
    labels = np.zeros((height, width), np.uint8)
    image = {"img": np.full((height, width, 3), 10, np.uint8), "gt_seg_map": labels}
    out = transform({**image, "label_set": other["label_set"], "mix_results": [other]})
    expected = labels.copy()
    expected[1, :6] = 1
    np.testing.assert_array_equal(out["gt_seg_map"], expected)
    np.testing.assert_array_equal(out["img"], np.where(expected[..., None] == 1, 200, image["img"]))


def test_what_the_other_image_does_not_show_is_not_pasted():
    image, other = two_images()
    transform = TRANSFORMS.build({"type": "PasteClasses", "classes": [5]})
    for others in ([], [other]):
        out = transform({**image, "mix_results": others})
        np.testing.assert_array_equal(out["img"], image["img"])
        np.testing.assert_array_equal(out["gt_seg_map"], image["gt_seg_map"])


@pytest.mark.parametrize(("prob", "count"), [(0.0, 0), (0.25, 250), (1.0, 1000)])
def test_how_often_classes_are_pasted(prob, count):
    np.random.seed(0)
    transform = TRANSFORMS.build({"type": "PasteClasses", "classes": [1], "prob": prob})
    drawn = [transform.get_indices(range(7)) for _ in range(1000)]
    assert abs(sum(map(len, drawn)) - count) <= 40
    assert {index for indices in drawn for index in indices} == (set(range(7)) if prob else set())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": []}, "must be indices of classes"),
        ({"classes": [-1]}, "must be indices of classes"),
        ({"classes": [1, 1]}, "must be indices of classes"),
        ({"classes": [1.5]}, "must be indices of classes"),
        ({"classes": [True]}, "must be indices of classes"),
        ({"classes": ["Pole"]}, "must be indices of classes"),
        ({"classes": 2}, "must be indices of classes"),
        ({"classes": "12"}, "must be indices of classes"),
        ({"classes": [1], "prob": "0.5"}, "must be a number between 0 and 1"),
        ({"classes": [1], "prob": True}, "must be a number between 0 and 1"),
        ({"classes": [1], "prob": 1.5}, r"prob=1\.5 must be a number between 0 and 1"),
        ({"classes": [1], "prob": float("nan")}, "prob=nan must be a number between 0 and 1"),
    ],
)
def test_pasted_classes_that_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TRANSFORMS.build({"type": "PasteClasses", **options})


def test_pasting_needs_a_second_image_and_classes_of_the_labels():
    image, _ = two_images()
    transform = TRANSFORMS.build({"type": "PasteClasses", "classes": [1], "prob": 1.0})
    with pytest.raises(ValueError, match=r"use it in a mmseg\.MultiImageMixDataset"):
        transform(image)
    for key in ("gt_seg_map", "label_set"):
        with pytest.raises(ValueError, match="needs the label images of a SegmentationDataset"):
            transform({name: value for name, value in image.items() if name != key} | {"mix_results": []})
        other = {name: value for name, value in image.items() if name != key}
        with pytest.raises(ValueError, match="needs the label images of a SegmentationDataset"):
            transform({**image, "mix_results": [other]})
    renamed = {**image, "label_set": SimpleNamespace(classes=("b", "a", "c", "d", "e", "f"))}
    with pytest.raises(ValueError, match="takes images with the same classes"):
        transform({**image, "mix_results": [renamed]})
    for more in ({"gt_edge_map": 0}, {"gt_depth_map": 0}, {"seg_fields": ["gt_seg_map", "gt_x"], "gt_x": 0}):
        with pytest.raises(ValueError, match="does not paste gt_"):
            transform({**image, **more, "mix_results": []})
    transform = TRANSFORMS.build({"type": "PasteClasses", "classes": [1, 6]})
    with pytest.raises(ValueError, match=r"classes=\(1, 6\): the labels have 6 classes, from 0"):
        transform({**image, "mix_results": []})
