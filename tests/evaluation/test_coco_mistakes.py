"""Which box a detection is compared with: by hand, and against pycocotools' own matches."""

from __future__ import annotations

import contextlib
import copy
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from hardnet_suite.errors import UserError
from hardnet_suite.evaluation.coco import ImageMistakes, evaluate_coco, find_mistakes

A, B, FAR = [10, 10, 40, 40], [100, 10, 40, 40], [300, 300, 40, 40]


def box(image_id, category_id, bbox, **more):
    return {"image_id": image_id, "category_id": category_id, "bbox": bbox, **more}


def truth(*boxes):
    return {
        "images": [{"id": key, "width": 400, "height": 400} for key in (1, 2)],
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
        "annotations": list(boxes),
    }


@pytest.mark.parametrize(
    ("boxes", "results", "cells", "mistakes"),
    [
        ([(3, A)], [(3, A, 0.9)], {(0, 0): 1}, "all found"),
        ([(3, A)], [], {(0, 2): 1}, "1 missed"),
        ([(3, A)], [(3, A, 0.29)], {(0, 2): 1}, "1 missed"),
        ([], [(7, A, 0.9)], {(2, 1): 1}, "1 false"),
        ([(3, A)], [(7, A, 0.9)], {(0, 1): 1}, "1 wrong class"),
        ([(3, A)], [(3, FAR, 0.9)], {(0, 2): 1, (2, 0): 1}, "1 missed, 1 false"),
        ([(3, A)], [(3, A, 0.9), (3, A, 0.8)], {(0, 0): 1, (2, 0): 1}, "1 false"),  # found twice
        # its own class comes first, whatever the scores
        ([(3, A)], [(7, A, 0.9), (3, A, 0.4)], {(0, 0): 1, (2, 1): 1}, "1 false"),
        ([(3, A), (7, B)], [(7, A, 0.9), (3, B, 0.9)], {(0, 1): 1, (1, 0): 1}, "2 wrong class"),
        # IoU 0.5 exactly passes, a little less does not
        ([(3, [0, 0, 40, 40])], [(3, [0, 0, 40, 20], 0.9)], {(0, 0): 1}, "all found"),
        ([(3, [0, 0, 40, 40])], [(3, [0, 0, 40, 19.9], 0.9)], {(0, 2): 1, (2, 0): 1}, "1 missed, 1 false"),
        ([(3, A)], [(3, [50, 50, -40, -40], 0.9)], {(0, 2): 1, (2, 0): 1}, "1 missed, 1 false"),
    ],
)
def test_cases_by_hand(boxes, results, cells, mistakes):
    annotations = truth(*(box(1, category, bbox) for category, bbox in boxes))
    detections = [box(1, category, bbox, score=score) for category, bbox, score in results]
    found = find_mistakes(annotations, detections)
    assert found.classes == ("cat", "dog")
    assert {
        place: int(found.confusion[place]) for place in zip(*np.nonzero(found.confusion), strict=True)
    } == cells
    assert str(found.images[1]) == mistakes
    assert found.images[2] == ImageMistakes()


@pytest.mark.parametrize("kind", [int, np.uint8])
def test_the_highest_score_comes_first_whatever_its_type(kind):
    boxes = truth(box(1, 7, [0, 0, 100, 100]), box(1, 7, [30, 0, 100, 100]))
    results = [
        box(1, 7, [0, 0, 80, 100], score=kind(0)),
        box(1, 7, [10, 0, 100, 100], score=kind(200)),  # on both, more on the box of the other
    ]
    counts = find_mistakes(boxes, results, least_score=0).images[1]
    assert (counts.missed, counts.confused, counts.false) == (1, 0, 1)


def test_detections_on_a_crowd_of_their_class_count_neither_way():
    crowd = box(1, 3, [0, 0, 200, 200], iscrowd=1)
    results = [box(1, category, [20, 20, 30, 30], score=0.9) for category in (3, 3, 7)]
    found = find_mistakes(truth(crowd), results)
    assert found.confusion.sum() == 1
    assert found.images[1] == ImageMistakes(false=1)  # the dog


def test_order_of_classes_and_images():
    annotations = truth(box(1, 7, A), box(2, 7, A), box(2, 7, B))
    found = find_mistakes(annotations, [], classes=("dog", "cat"))
    assert found.classes == ("dog", "cat")
    assert found.confusion[0, 2] == 3
    assert found.worst_first() == [2, 1]
    assert list(find_mistakes(annotations, [], image_ids=["2"]).images) == [2]
    assert find_mistakes(annotations, [], classes=("cat",)).confusion.sum() == 0
    with pytest.raises(UserError, match="image_id 9 not among"):
        find_mistakes(annotations, [box(9, 7, A, score=1)])


def reference(annotations, results):
    """pycocotools' evaluation of checked input, its ids all from 1."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy(annotations)
        coco.createIndex()
        detections = coco.loadRes(copy.deepcopy(results)) if results else COCO()
        if not results:
            detections.dataset = {**coco.dataset, "annotations": []}
            detections.createIndex()
        evaluation = COCOeval(coco, detections, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


side = st.integers(4, 120)
corner = st.integers(0, 80)
boxes = st.tuples(corner, corner, side, side).map(list)
truths = st.lists(
    st.tuples(st.integers(1, 3), st.integers(1, 3), boxes, st.booleans()), min_size=1, max_size=12
)
detected = st.lists(
    st.tuples(st.integers(1, 3), st.integers(1, 3), boxes, st.integers(0, 100)),
    max_size=16,
    unique_by=lambda d: d[3],
)


def made(rows, found):
    annotations = {
        "images": [{"id": key, "width": 200, "height": 200} for key in (1, 2, 3)],
        "categories": [{"id": key, "name": name} for key, name in enumerate("abc", 1)],
        "annotations": [
            {**box(image, category, bbox), "id": number, "area": bbox[2] * bbox[3], "iscrowd": int(crowd)}
            for number, (image, category, bbox, crowd) in enumerate(rows, 1)
        ],
    }
    near = [box(image, category, bbox, score=score / 100) for image, category, bbox, score in found]
    # some on true boxes, a little moved
    moved = [
        box(image, category, [bbox[0] + 3, *bbox[1:]], score=0.35 + 0.001 * number)
        for number, (image, category, bbox, _) in enumerate(rows[::2])
    ]
    return annotations, near + moved


@settings(max_examples=60, deadline=None)
@given(truths, detected)
def test_equals_pycocotools(rows, found):
    annotations, results = made(rows, found)
    if all(crowd for *_, crowd in rows):
        with pytest.raises(UserError, match="no box but crowd"):
            evaluate_coco(annotations, results)
        return
    scores, expected = evaluate_coco(annotations, results), reference(annotations, results)
    for index, row in enumerate(scores.per_class.values()):
        precision, recall = expected.eval["precision"], expected.eval["recall"]
        for name, values in (
            ("AP", precision[:, :, index, 0, 2]),
            ("AP50", precision[0, :, index, 0, 2]),
            ("AP75", precision[5, :, index, 0, 2]),
            ("AP_small", precision[:, :, index, 1, 2]),
            ("AP_medium", precision[:, :, index, 2, 2]),
            ("AP_large", precision[:, :, index, 3, 2]),
            ("AR_100", recall[:, index, 0, 2]),
        ):
            np.testing.assert_equal(row[name], values[values > -1].mean() if (values > -1).any() else np.nan)
        assert row["boxes"] == sum(not crowd and category == index + 1 for _, category, _, crowd in rows)
    json.dumps(scores.report(), allow_nan=False)


@settings(max_examples=60, deadline=None)
@given(truths, detected)
def test_right_and_ignored_detections_are_those_of_pycocotools(rows, found):
    annotations, results = made(rows, found)
    mistakes = find_mistakes(annotations, results)
    kept = [entry for entry in results if entry["score"] >= 0.3]
    right, ignored = np.zeros(3, int), 0
    for image in reference(annotations, kept).evalImgs:
        if image is not None and image["aRng"] == [0, 1e10]:
            matched, aside = image["dtMatches"][0] > 0, image["dtIgnore"][0].astype(bool)
            right[image["category_id"] - 1] += (matched & ~aside).sum()
            ignored += (matched & aside).sum()
    np.testing.assert_array_equal(np.diagonal(mistakes.confusion)[:3], right)
    counts = [sum(not crowd and category == key for _, category, _, crowd in rows) for key in (1, 2, 3)]
    np.testing.assert_array_equal(mistakes.confusion[:3].sum(1), counts)  # every true box counts once
    assert mistakes.confusion[:, :3].sum() == len(kept) - ignored  # and so does every detection
    assert mistakes.confusion[3, 3] == 0
    images = mistakes.images.values()
    assert sum(image.missed for image in images) == mistakes.confusion[:3, 3].sum()
    assert sum(image.false for image in images) == mistakes.confusion[3, :3].sum()
    assert sum(image.total for image in images) == mistakes.confusion.sum() - right.sum()
