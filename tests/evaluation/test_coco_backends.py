"""Every backend of the COCO figures computes what pycocotools does."""

from __future__ import annotations

import importlib.util
import json
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hardnet_suite.errors import UserError
from hardnet_suite.evaluation.coco import COCO_BACKENDS, COCO_METRICS, evaluate_coco
from hardnet_suite.openmm.run.metrics import CocoDetection

OTHERS = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            importlib.util.find_spec(name.replace("-", "_")) is None, reason=f"{name} is not installed"
        ),
    )
    for name in COCO_BACKENDS
    if name != "pycocotools"
]


def drawn_detections(seed=0, images=25, classes=6):
    """Annotations and detections: crowds, tiny boxes, empty images, equal scores, doubles, absent classes."""
    random = np.random.default_rng(seed)
    boxes, results = [], []
    for image in range(images - 5):  # the last five have no box
        for _ in range(random.integers(0, 9)):
            width, height = random.uniform(0.3, 220, 2) * random.choice([0.02, 0.2, 1], 2)
            x, y = random.uniform(0, 400, 2)
            label = int(random.integers(0, classes))
            boxes.append(
                {
                    "id": len(boxes),
                    "image_id": image,
                    "category_id": label,
                    "bbox": [x, y, width, height],
                    "area": width * height * random.uniform(0.4, 1),
                    "iscrowd": int(random.random() < 0.15),
                }
            )
            for _ in range(random.integers(0, 4)):
                shift = random.normal(0, 0.12, 4) * [width, height, width, height]
                shifted = np.array([x, y, width, height]) + shift * random.choice([0, 1])
                shifted[2:] = np.abs(shifted[2:])
                found = int(random.integers(0, classes)) if random.random() < 0.1 else label
                results.append((image, found, shifted.tolist()))
    for image in range(images):
        for _ in range(130 if image == 3 else random.integers(0, 6)):  # more than are scored
            results.append(
                (
                    image,
                    0 if image == 3 else int(random.integers(0, classes)),
                    random.uniform(0, 90, 4).tolist(),
                )
            )
    entries = [
        {"image_id": image, "category_id": label, "bbox": box, "score": round(float(random.random()), 2)}
        for image, label, box in results
    ]
    annotations = {
        "images": [{"id": image, "width": 640, "height": 640} for image in range(images)],
        "categories": [{"id": label, "name": f"class {label}"} for label in range(classes + 1)],
        "annotations": boxes,
    }
    return annotations, entries


def require_equal(annotations, results, backend, **options):
    expected = evaluate_coco(annotations, results, **options)
    scores = evaluate_coco(annotations, results, backend=backend, **options)
    assert tuple(scores.metrics) == COCO_METRICS
    np.testing.assert_allclose(list(scores.metrics.values()), list(expected.metrics.values()), atol=1e-12)
    np.testing.assert_allclose(scores.precision, expected.precision, atol=1e-12)
    assert scores.per_class.keys() == expected.per_class.keys()
    for name, row in expected.per_class.items():
        assert scores.per_class[name] == pytest.approx(row, abs=1e-12, nan_ok=True)
    assert (scores.max_dets, scores.warnings) == (expected.max_dets, expected.warnings)
    return scores


@pytest.mark.parametrize("backend", OTHERS)
@pytest.mark.parametrize("seed", range(3))
def test_the_figures_are_pycocotools(backend, seed):
    annotations, results = drawn_detections(seed)
    scores = require_equal(annotations, results, backend)
    assert all(0 <= value <= 1 for value in scores.metrics.values())
    assert scores.metrics["AP_small"] > 0
    require_equal(annotations, results, backend, max_dets=(2, 5, 300))
    require_equal(annotations, results, backend, classes=["class 4", "class 1"])
    require_equal(annotations, results, backend, image_ids=[*range(2, 14), 22])


@pytest.mark.parametrize("backend", OTHERS)
def test_neighbouring_cases(backend):
    annotations, results = drawn_detections(5)
    require_equal(annotations, [], backend)
    require_equal(annotations, results[:1], backend)
    require_equal(annotations, [{**row, "score": 0.5} for row in results], backend)
    negative = [{**row, "bbox": [*row["bbox"][:2], -row["bbox"][2], row["bbox"][3]]} for row in results[:9]]
    require_equal(annotations, results + negative, backend)
    require_equal(annotations, [{**row, "bbox": [*row["bbox"][:2], 0, 0]} for row in results], backend)
    named = json.loads(json.dumps(annotations))
    for image in named["images"]:
        image["id"] = f"image {image['id']}"
    for box in named["annotations"]:
        box["image_id"] = f"image {box['image_id']}"
    require_equal(named, [{**row, "image_id": f"image {row['image_id']}"} for row in results], backend)
    numbers = [{**row, "bbox": np.array(row["bbox"]), "score": np.float32(row["score"])} for row in results]
    require_equal(annotations, numbers, backend)


SIDES = st.integers(0, 240).map(lambda quarters: quarters / 4) | st.integers(0, 60)
ROWS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 1), SIDES, SIDES, SIDES, SIDES, st.integers(0, 3)),
    max_size=12,
)


@pytest.mark.parametrize("backend", OTHERS)
@given(boxes=ROWS, results=ROWS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_boxes(backend, boxes, results):
    annotations, _ = drawn_detections(0, images=5, classes=1)
    annotations["annotations"] = [
        {"id": 0, "image_id": 4, "category_id": 0, "bbox": [1, 1, 30, 40], "iscrowd": 0},
        *(
            {
                "id": index,
                "image_id": image,
                "category_id": label,
                "bbox": [x, y, width + 2, height + 2],
                "iscrowd": int(crowd == 3),
            }
            for index, (image, label, x, y, width, height, crowd) in enumerate(boxes, 1)
        ),
    ]
    entries = [
        {"image_id": image, "category_id": label, "bbox": [x, y, width, height], "score": score / 3}
        for image, label, x, y, width, height, score in results
    ]
    require_equal(annotations, entries, backend)


def test_a_backend_that_is_not_there(monkeypatch):
    annotations, results = drawn_detections()
    with pytest.raises(ValueError, match="expected a backend of pycocotools, faster-coco-eval, hotcoco, got"):
        evaluate_coco(annotations, results, backend="numpy")
    monkeypatch.setitem(sys.modules, "hotcoco", None)
    with pytest.raises(UserError, match=r"hotcoco is not installed .*pip install 'hardnet-suite\[eval\]'"):
        evaluate_coco(annotations, results, backend="hotcoco")


@pytest.mark.parametrize("backend", OTHERS)
def test_the_metric_of_a_config(backend, tmp_path, monkeypatch):
    annotations, _ = drawn_detections()
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(annotations))
    used = []
    monkeypatch.setattr(
        "hardnet_suite.openmm.run.metrics.detection.evaluate_coco",
        lambda *arguments, **options: used.append(options["backend"]) or evaluate_coco(*arguments, **options),
    )
    metric = CocoDetection(str(path), backend=backend)
    metric.dataset_meta = {"classes": [f"class {label}" for label in range(7)]}
    metric.compute_metrics([(image["id"], [[0, 0, 9, 9]], [0.5], [1]) for image in annotations["images"]])
    assert used == [backend]
    with pytest.raises(ValueError, match="expected a backend"):
        CocoDetection(str(path), backend="fast")
