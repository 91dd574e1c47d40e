"""The COCO figures on cases whose answer is known by hand, and against pycocotools itself."""

from __future__ import annotations

import copy
import json
import math
import random

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from hardnet_suite.errors import UserError
from hardnet_suite.evaluation.coco import COCO_METRICS, evaluate_coco, load_annotations, load_results


def box(image_id, category_id, bbox, **more):
    return {"image_id": image_id, "category_id": category_id, "bbox": bbox, **more}


def truth(*boxes):
    """Two images and two classes; boxes without id, area and iscrowd, which are optional."""
    return {
        "images": [{"id": 1, "width": 400, "height": 400}, {"id": 2, "width": 400, "height": 400}],
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
        "annotations": list(boxes),
    }


SMALL, MEDIUM, LARGE = [10, 10, 20, 20], [50, 50, 50, 50], [100, 100, 150, 150]


def test_perfect_detections_score_one():
    boxes = [box(1, 7, SMALL), box(1, 3, MEDIUM), box(2, 7, LARGE)]
    scores = evaluate_coco(truth(*boxes), [{**b, "score": 0.9} for b in boxes])
    assert tuple(scores.metrics) == COCO_METRICS
    assert all(value == pytest.approx(1) for value in scores.metrics.values())
    assert list(scores.per_class) == ["cat", "dog"]
    for row, sizes, boxes in zip(
        scores.per_class.values(), (["medium"], ["small", "large"]), (1, 2), strict=True
    ):
        expected = dict.fromkeys(("AP", "AP50", "AP75", "AR_100"), 1)
        expected |= {f"AP_{size}": 1 if size in sizes else math.nan for size in ("small", "medium", "large")}
        assert row == pytest.approx({**expected, "boxes": boxes}, nan_ok=True)


def test_no_detections_score_zero():
    scores = evaluate_coco(truth(box(1, 7, SMALL), box(1, 3, MEDIUM), box(2, 7, LARGE)), [])
    assert set(scores.metrics.values()) == {0.0}


def test_absent_sizes_and_classes_are_nan():
    scores = evaluate_coco(truth(box(1, 7, SMALL)), [])
    nan = {name for name, value in scores.metrics.items() if math.isnan(value)}
    assert nan == {"AP_medium", "AP_large", "AR_medium", "AR_large"}
    assert math.isnan(scores.per_class["cat"]["AP"])
    assert scores.per_class["dog"]["AP"] == 0


@pytest.mark.parametrize(
    ("size", "name"),
    [(SMALL, "small"), (MEDIUM, "medium"), (LARGE, "large")],
    ids=["small", "medium", "large"],
)
def test_area_ranges(size, name):
    metrics = evaluate_coco(truth(box(1, 7, size)), [box(1, 7, size, score=0.5)]).metrics
    defined = {key for key in COCO_METRICS if key.split("_")[-1] in ("small", "medium", "large")}
    assert {key for key in defined if not math.isnan(metrics[key])} == {f"AP_{name}", f"AR_{name}"}


@pytest.mark.parametrize(
    ("extra", "score", "expected"),
    [
        ([250, 250, 50, 50], 0.99, 0.5),  # a better-scored false positive halves the precision everywhere
        ([250, 250, 50, 50], 0.10, 1.0),  # after the last true one it costs nothing
        (MEDIUM, 0.10, 1.0),  # and so does a duplicate
    ],
    ids=["false positive first", "false positive last", "duplicate last"],
)
def test_false_positive(extra, score, expected):
    results = [box(1, 7, MEDIUM, score=0.9), box(1, 7, extra, score=score)]
    assert evaluate_coco(truth(box(1, 7, MEDIUM)), results).metrics["mAP"] == pytest.approx(expected)


def test_duplicate_between_two_true_ones_counts_as_false():
    results = [box(1, 7, MEDIUM, score=0.9), box(1, 7, MEDIUM, score=0.8), box(2, 7, MEDIUM, score=0.7)]
    metrics = evaluate_coco(truth(box(1, 7, MEDIUM), box(2, 7, MEDIUM)), results).metrics
    # precision 1 up to recall 0.5 (51 of the 101 points), then 2/3
    assert metrics["mAP"] == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert metrics["AR_1"] == pytest.approx(1)  # one detection an image finds both


def test_wrong_class_is_false():
    assert evaluate_coco(truth(box(1, 7, MEDIUM)), [box(1, 3, MEDIUM, score=0.9)]).metrics["mAP"] == 0


def test_iou_threshold():
    # 50×50 against 50×30 of it: IoU 0.6 passes 0.50, 0.55 and 0.60 of the ten thresholds
    metrics = evaluate_coco(truth(box(1, 7, MEDIUM)), [box(1, 7, [50, 50, 50, 30], score=1.0)]).metrics
    assert (metrics["AP50"], metrics["AP75"]) == (pytest.approx(1), 0)
    assert metrics["mAP"] == pytest.approx(0.3)


def test_detections_on_a_crowd_are_neither_right_nor_wrong():
    crowd = box(1, 7, [200, 200, 150, 150], iscrowd=1)
    inside = [box(1, 7, [220 + 20 * k, 220, 20, 20], score=0.95) for k in range(3)]
    results = [*inside, box(1, 7, MEDIUM, score=0.9)]
    assert evaluate_coco(truth(box(1, 7, MEDIUM), crowd), results).metrics["mAP"] == pytest.approx(1)
    without = evaluate_coco(truth(box(1, 7, MEDIUM)), results).metrics["mAP"]
    assert without == pytest.approx(0.25)


def test_annotation_id_zero_counts():
    """pycocotools alone takes the id 0 for "no match"."""
    scores = evaluate_coco(truth(box(1, 7, MEDIUM, id=0)), [box(1, 7, MEDIUM, score=0.9)])
    assert scores.metrics["mAP"] == pytest.approx(1)


def test_max_dets_limit_detections_a_class_and_image():
    boxes = [box(1, 7, [20 * k, 0, 15, 15]) for k in range(4)]
    results = [{**b, "score": 0.9 - 0.1 * k} for k, b in enumerate(boxes)]
    scores = evaluate_coco(truth(*boxes), results, max_dets=(1, 2, 3))
    assert [scores.metrics[key] for key in ("AR_1", "AR_10", "AR_100")] == pytest.approx([0.25, 0.5, 0.75])
    assert scores.metrics["mAP"] == pytest.approx(76 / 101)  # recall ends at 0.75


def test_image_ids_choose_a_subset():
    annotations = truth(box(1, 7, MEDIUM), box(2, 7, MEDIUM))
    results = [box(1, 7, MEDIUM, score=0.9)]
    assert evaluate_coco(annotations, results, image_ids=[1]).metrics["mAP"] == pytest.approx(1)
    assert evaluate_coco(annotations, results, image_ids=[2]).metrics["mAP"] == 0
    with pytest.raises(UserError, match="holds 5, which is not among the 2 images"):
        evaluate_coco(annotations, results, image_ids=[1, 5])
    with pytest.raises(ValueError, match="at least one image"):
        evaluate_coco(annotations, results, image_ids=[])


@pytest.fixture(scope="module")
def val2017(shared):
    return shared / "data" / "coco_mini" / "annotations" / "instances_val2017.json"


@pytest.fixture(scope="module")
def jittered(val2017):
    """Ground truth moved about, a fifth lost, a tenth of another class: scores all different."""
    rng = np.random.default_rng(0)
    data = json.loads(val2017.read_text())
    categories = [entry["id"] for entry in data["categories"]]
    results = []
    for entry in data["annotations"]:
        if rng.random() < 0.2:
            continue
        x, y, w, h = entry["bbox"]
        shift = rng.normal(0, 0.08, 4)
        bbox = [x + shift[0] * w, y + shift[1] * h, w * math.exp(shift[2]), h * math.exp(shift[3])]
        category = entry["category_id"] if rng.random() < 0.9 else int(rng.choice(categories))
        results.append(box(entry["image_id"], category, bbox, score=float(rng.random())))
    return results


def test_equals_pycocotools(val2017, jittered, tmp_path, capsys):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(jittered))
    scores = evaluate_coco(val2017, path)
    assert capsys.readouterr().out == ""

    reference = COCO(str(val2017))
    evaluation = COCOeval(reference, reference.loadRes(copy.deepcopy(jittered)), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert 0.1 < evaluation.stats[0] < 0.9
    np.testing.assert_array_equal(list(scores.metrics.values()), evaluation.stats)

    precision = evaluation.eval["precision"]
    for index, category in enumerate(reference.loadCats(sorted(reference.getCatIds()))):
        figures = {
            "AP": precision[:, :, index, 0, -1],
            "AP50": precision[0, :, index, 0, -1],
            "AP75": precision[5, :, index, 0, -1],
            "AP_small": precision[:, :, index, 1, -1],
            "AP_medium": precision[:, :, index, 2, -1],
            "AP_large": precision[:, :, index, 3, -1],
            "AR_100": evaluation.eval["recall"][:, index, 0, -1],
        }
        expected = {
            name: values[values > -1].mean() if (values > -1).any() else np.nan
            for name, values in figures.items()
        }
        expected["boxes"] = len(reference.getAnnIds(catIds=category["id"], iscrowd=False))
        np.testing.assert_equal(scores.per_class[category["name"]], expected)
        curve = precision[:, :, index, 0, -1]
        np.testing.assert_equal(scores.precision[..., index], np.where(curve < 0, np.nan, curve))


def test_order_of_input_is_irrelevant_and_inputs_stay_as_they_are(val2017, jittered):
    annotations, results = load_annotations(val2017), copy.deepcopy(jittered)
    expected = evaluate_coco(annotations, results)
    assert annotations == load_annotations(val2017)
    assert results == jittered
    for part in (results, annotations["images"], annotations["annotations"], annotations["categories"]):
        random.Random(1).shuffle(part)
    shuffled = evaluate_coco(annotations, results)
    np.testing.assert_equal(shuffled.metrics, expected.metrics)
    np.testing.assert_equal(shuffled.per_class, expected.per_class)


def test_numpy_values_are_welcome():
    results = [box(np.int64(1), np.int64(7), np.array(MEDIUM, np.float32), score=np.float32(0.5))]
    assert evaluate_coco(truth(box(1, 7, MEDIUM)), results).metrics["mAP"] == pytest.approx(1)


def test_tables():
    scores = evaluate_coco(truth(box(1, 7, SMALL)), [box(1, 7, SMALL, score=0.5)])
    lines = scores.table().splitlines()
    assert len(lines) == 13
    assert len({len(line) for line in lines}) == 1  # aligned
    assert lines[1].split() == ["mAP", "Average", "Precision", "0.50:0.95", "all", "100", "1.000"]
    assert lines[2].split() == ["AP50", "Average", "Precision", "0.50", "all", "100", "1.000"]
    assert lines[6].split()[-3:] == ["large", "100", "n/a"]
    assert lines[7].split() == ["AR_1", "Average", "Recall", "0.50:0.95", "all", "1", "1.000"]
    assert [line.split() for line in scores.class_table().splitlines()] == [
        ["class", "AP", "AP50", "AP75", "AR", "boxes"],
        ["cat", "n/a", "n/a", "n/a", "n/a", "0"],
        ["dog", "1.000", "1.000", "1.000", "1.000", "1"],
    ]


GOOD = box(1, 7, MEDIUM, score=0.5)


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ({"images": []}, "expected a list of detections, got a dict"),
        ([GOOD, 3], "entry 1 is a int"),
        ([GOOD, {"image_id": 1, "bbox": MEDIUM}], "entry 1 lacks category_id, score"),
        ([{**GOOD, "score": float("nan")}], "entry 0 has score nan"),
        ([{**GOOD, "score": "high"}], "entry 0 has score 'high'"),
        ([{**GOOD, "bbox": [0, 0, float("inf"), 1]}], "entry 0 has bbox"),
        ([{**GOOD, "bbox": [0, 0, 1]}], "entry 0 has bbox"),
        ([{**GOOD, "bbox": 4}], "entry 0 has bbox"),
        ([{**GOOD, "image_id": [1]}], r"entry 0 has image_id \[1\]"),
        (
            [GOOD, {**GOOD, "image_id": 99}, {**GOOD, "image_id": 98}],
            "image_id 99, 98 not among the 2 images",
        ),
        ([{**GOOD, "category_id": 5}], "category_id 5 not among the 2 categories"),
    ],
)
@pytest.mark.parametrize("from_file", [False, True])
def test_bad_results(results, message, from_file, tmp_path):
    given = results
    if from_file:
        given = tmp_path / "results.json"
        given.write_text(json.dumps(results))
    with pytest.raises(UserError, match=message) as caught:
        evaluate_coco(truth(box(1, 7, MEDIUM)), given)
    assert "\n" not in str(caught.value)
    assert not from_file or str(given) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations": []}, "holds no box"),
        ({"categories": None}, "'categories' that is no list of objects"),
        ({"images": [3]}, "'images' that is no list of objects"),
        ({"images": [{"width": 3}]}, "image number 0 lacks a valid id"),
        ({"categories": [{"id": 7}]}, "category 7 lacks a valid name"),
        (
            {
                "annotations": [box(1, 7, MEDIUM), box(1, 3, MEDIUM)],
                "categories": [{"id": 7, "name": "a"}, {"id": 3, "name": "a"}],
            },
            "belongs to the ids 7 and 3",
        ),
        ({"annotations": [{"image_id": 1, "category_id": 7}]}, "number 0 .*, it lacks a valid bbox"),
        ({"annotations": [box(1, 7, [0, 0, float("nan"), 1])]}, "'invalid box'"),
        ({"annotations": [box(1, 7, MEDIUM, iscrowd=1)]}, "no box but crowd regions"),
        ({"annotations": [box(1, 7, MEDIUM, iscrowd="maybe")]}, "has iscrowd 'maybe', expected 0 or 1"),
    ],
)
def test_bad_annotations(change, message):
    with pytest.raises(UserError, match=message):
        evaluate_coco({**truth(box(1, 7, MEDIUM)), **change}, [GOOD])


@pytest.mark.parametrize("load", [load_annotations, load_results, lambda path: evaluate_coco(path, [])])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"", "not valid JSON"),
        (b"image,x,y\n1,2,3", "not valid JSON"),
        (b"\xff\xd8\xff\xe0", "not valid JSON"),
        (b'{"images": [], "annotations": [], "categ', "is truncated"),
    ],
    ids=["missing", "empty", "csv", "jpeg", "truncated"],
)
def test_bad_files(load, content, message, tmp_path):
    path = tmp_path / "some.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_annotation_file_of_another_kind(tmp_path):
    path = tmp_path / "some.json"
    path.write_text("[]")
    with pytest.raises(UserError, match="a JSON list, expected COCO annotations"):
        load_annotations(path)
    path.write_text('{"images": [], "categories": []}')
    with pytest.raises(UserError, match="has no 'annotations'"):
        load_annotations(path)
    with pytest.raises(UserError, match="cannot be read"):
        load_annotations(tmp_path)


@pytest.mark.parametrize(
    "arguments", [{"iou_type": "keypoints"}, {"max_dets": (100,)}, {"max_dets": (1, 100, 10)}]
)
def test_bad_arguments(arguments):
    with pytest.raises(ValueError, match="must be"):
        evaluate_coco(truth(box(1, 7, MEDIUM)), [GOOD], **arguments)
