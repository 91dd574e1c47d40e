"""COCO scores of masks: the same rules as of boxes, and pycocotools' own figures."""

from __future__ import annotations

import contextlib
import copy
import io
import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from hardnet_suite.data.coco import read_coco
from hardnet_suite.data.coco.masks import decode_mask, encode_mask, encode_pixels
from hardnet_suite.data.shapes import write_shapes
from hardnet_suite.errors import UserError
from hardnet_suite.evaluation.coco import COCO_BACKENDS, COCO_METRICS, evaluate_coco

SIZE = 96


@pytest.fixture(scope="module")
def truth(tmp_path_factory) -> dict:
    root = write_shapes(tmp_path_factory.mktemp("drawn") / "set", train=1, val=3, size=SIZE, seed=5)
    return json.loads((root / "annotations" / "instances_val2017.json").read_text())


def results(truth: dict, shift: int = 0, *, score: float = 0.9) -> list[dict]:
    """The true masks, moved to the right; no boxes."""
    entries = []
    for box in read_coco(truth).boxes:
        pixels = np.roll(decode_mask(box.segmentation, SIZE, SIZE), shift, axis=1)
        (mask,) = encode_pixels(pixels[None])
        category = next(each["id"] for each in truth["categories"] if each["name"] == box.category)
        entries.append(
            {"image_id": box.image_id, "category_id": category, "segmentation": mask, "score": score}
        )
    return entries


def scored(truth: dict, detections: list[dict], **options) -> dict[str, float]:
    return evaluate_coco(truth, detections, iou_type="segm", **options).metrics


def test_perfect_masks_score_1_and_moved_ones_less(truth):
    assert scored(truth, results(truth))["mAP"] == 1
    near, far = (scored(truth, results(truth, shift))["mAP"] for shift in (2, 8))
    assert 0.2 < near < 1
    assert far < near
    assert scored(truth, [])["mAP"] == 0


def test_masks_are_compared_not_their_boxes(truth):
    """A whole box in the place of a ring or a star finds it by its box only."""
    detections = results(truth)
    for entry in detections:
        x, y, w, h = coco_mask.toBbox(entry["segmentation"]).tolist()
        entry["bbox"] = [x, y, w, h]
        entry["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    assert scored(truth, detections)["mAP"] < 0.5
    assert evaluate_coco(truth, detections).metrics["mAP"] > 0.6  # boxes are around whole shapes


@pytest.mark.parametrize("backend", COCO_BACKENDS)
def test_the_figures_are_those_of_pycocotools(truth, backend):
    if backend != "pycocotools":
        pytest.importorskip(backend.replace("-", "_"))
    detections = results(truth, 1)[:-2] + results(truth, 3, score=0.5)
    truth = copy.deepcopy(truth)
    truth["annotations"][0]["iscrowd"] = 1
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy(truth)
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(copy.deepcopy(detections)), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    expected = np.where(evaluation.stats < 0, np.nan, evaluation.stats)
    figures = scored(truth, detections, backend=backend)
    np.testing.assert_allclose([figures[name] for name in COCO_METRICS], expected, atol=1e-9)


def test_polygons_are_cut_at_the_border():
    square = [np.array([-10.0, -10, 20, -10, 20, 20, -10, 20])]
    pixels = decode_mask(square, 30, 40)
    assert pixels.shape == (30, 40)
    assert pixels[:20, :20].all()
    assert pixels.sum() == 400
    assert encode_mask(square, 30, 40) == encode_pixels(pixels[None])[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"segmentation": {"size": [SIZE, SIZE + 1], "counts": [SIZE]}},
            "entry 0 has a run-length encoding of",
        ),
        ({"segmentation": {"size": [SIZE, SIZE], "counts": [5]}}, "whose counts add up to 5"),
        ({"segmentation": [[1, 2, 3]]}, "entry 0 has a polygon of 3 numbers"),
        ({"segmentation": []}, "entry 0 has an empty segmentation"),
        ({"segmentation": None}, "entry 0 has an empty segmentation"),
        ({"score": float("nan")}, "not a finite number"),
    ],
)
def test_malformed_masks_of_results_are_an_error(truth, change, message):
    detections = results(truth)
    detections[0] |= change
    with pytest.raises(UserError, match=message) as caught:
        scored(truth, detections)
    assert "\n" not in str(caught.value)


def test_results_without_masks_are_an_error(truth):
    detections = results(truth)
    del detections[1]["segmentation"]
    with pytest.raises(UserError, match="entry 1 lacks segmentation"):
        scored(truth, detections)


@pytest.mark.parametrize("mask", [None, [], [[1, 2, 3, 4]], {"size": [SIZE, SIZE], "counts": [3]}])
def test_a_true_box_without_a_valid_mask_is_an_error(truth, mask):
    content = copy.deepcopy(truth)
    content["annotations"][2]["segmentation"] = mask
    number = content["annotations"][2]["id"]
    with pytest.raises(UserError, match=rf"1 of the \d+ boxes have no valid mask .* annotation {number} "):
        scored(content, results(truth))
    assert evaluate_coco(content, []).metrics["mAP"] == 0  # boxes can be scored


def test_masks_of_images_that_are_not_scored_are_not_looked_at(truth):
    detections = results(truth)
    first, *others = sorted({entry["image_id"] for entry in detections})
    for entry in detections:
        if entry["image_id"] == first:
            entry["segmentation"] = []
    assert scored(truth, detections, image_ids=others)["mAP"] == 1


def test_an_image_of_unknown_size_is_an_error(truth):
    content = copy.deepcopy(truth)
    del content["images"][1]["width"]
    with pytest.raises(UserError, match="states no valid width and height, which scoring masks needs"):
        scored(content, results(truth))
