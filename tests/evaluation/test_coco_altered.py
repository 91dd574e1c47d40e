"""Altered annotation and result files: the right mAP, as pycocotools has it, or one clear error."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from hardnet_suite.errors import UserError
from hardnet_suite.evaluation.coco import evaluate_coco


@pytest.fixture(scope="module")
def truth():
    """Six images with five boxes each, of three categories."""
    rng = np.random.default_rng(3)
    annotations = [
        {
            "id": index + 1,
            "image_id": index // 5 + 1,
            "category_id": index % 3 + 1,
            "bbox": [*rng.uniform(0, 60, 2).tolist(), *rng.uniform(10, 60, 2).tolist()],
            "iscrowd": 0,
        }
        for index in range(30)
    ]
    for entry in annotations:
        entry["area"] = entry["bbox"][2] * entry["bbox"][3]
    images = [{"id": key, "file_name": f"{key}.jpg", "width": 128, "height": 128} for key in range(1, 7)]
    categories = [{"id": key, "name": name} for key, name in enumerate(("circle", "ring", "star"), 1)]
    return {"images": images, "categories": categories, "annotations": annotations}


@pytest.fixture(scope="module")
def results(truth):
    rng = np.random.default_rng(4)
    return [
        {
            "image_id": entry["image_id"],
            "category_id": entry["category_id"],
            "bbox": (np.array(entry["bbox"]) + rng.normal(0, 2, 4)).tolist(),
            "score": float(rng.uniform(0.3, 1)),
        }
        for entry in truth["annotations"]
    ]


def reference(truth, results, capsys) -> float:
    annotations = COCO()
    annotations.dataset = copy.deepcopy(truth)
    annotations.createIndex()
    evaluation = COCOeval(annotations, annotations.loadRes(copy.deepcopy(results)), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    capsys.readouterr()
    return float(evaluation.stats[0])


def each(part, change):
    return lambda content: [change(entry) for entry in content[part]]


def of_annotations(**values):
    return each("annotations", lambda entry: entry.update(values))


def half(**values):
    return lambda content: [entry.update(values) for entry in content["annotations"][::2]]


def scale_ids(part, keys, function):
    def change(entries):
        for entry in entries[part] if part else entries:
            for key in keys:
                entry[key] = function(entry[key])

    return change


def both(*changes):
    return lambda content: [change(content) for change in changes]


def nothing(content):
    return None


def crowds(content):
    for entry in content["annotations"][::2]:
        entry["iscrowd"] = 1


def without(index):
    return lambda content: content["annotations"].pop(index)


def renamed(function):
    return both(
        scale_ids("images", ["id"], function),
        scale_ids("annotations", ["image_id"], function),
    )


# change of the annotations, of the results, and what pycocotools must be given for the same mAP, or the error
CASES = {
    "plain": (nothing, nothing, nothing),
    "no iscrowd, no area": (
        each("annotations", lambda e: [e.pop("iscrowd"), e.pop("area")]),
        nothing,
        nothing,
    ),
    "annotation ids from 0": (scale_ids("annotations", ["id"], lambda key: key - 1), nothing, nothing),
    "no annotation ids": (each("annotations", lambda entry: entry.pop("id")), nothing, nothing),
    "equal annotation ids": (of_annotations(id=1), nothing, "annotation id 1 occurs 30 times"),
    "category ids with gaps": (
        both(
            scale_ids("categories", ["id"], lambda key: key * 13),
            scale_ids("annotations", ["category_id"], lambda key: key * 13),
        ),
        scale_ids(None, ["category_id"], lambda key: key * 13),
        nothing,
    ),
    "category ids from 0": (
        both(
            scale_ids("categories", ["id"], lambda key: key - 1),
            scale_ids("annotations", ["category_id"], lambda key: key - 1),
        ),
        scale_ids(None, ["category_id"], lambda key: key - 1),
        nothing,
    ),
    "category ids text in annotations": (scale_ids("annotations", ["category_id"], str), nothing, nothing),
    "image ids text in annotations": (scale_ids("annotations", ["image_id"], str), nothing, nothing),
    "half the image ids text": (
        lambda content: [e.update(image_id=str(e["image_id"])) for e in content["annotations"][::2]],
        nothing,
        nothing,
    ),
    "image ids text in images": (scale_ids("images", ["id"], str), nothing, nothing),
    "image ids text in results": (nothing, scale_ids(None, ["image_id"], str), nothing),
    "image ids words everywhere": (
        renamed(lambda key: f"image {key}"),
        scale_ids(None, ["image_id"], lambda key: f"image {key}"),
        nothing,
    ),
    "image ids float in results": (nothing, scale_ids(None, ["image_id"], float), nothing),
    "image ids float in annotations": (scale_ids("annotations", ["image_id"], float), nothing, nothing),
    "image ids float everywhere": (renamed(float), scale_ids(None, ["image_id"], float), nothing),
    "image ids of two types": (lambda content: content["images"][0].update(id="1"), nothing, nothing),
    "image ids boolean in results": (
        nothing,
        lambda entries: [e.update(image_id=True) for e in entries if e["image_id"] == 1],
        "has image_id True",
    ),
    "image ids fractions": (
        scale_ids("annotations", ["image_id"], lambda key: key + 0.5),
        nothing,
        "image_id",
    ),
    "image twice": (
        lambda content: content["images"].append(dict(content["images"][0], file_name="x.jpg")),
        nothing,
        "image id 1 occurs 2 times",
    ),
    "no boxes": (lambda content: content["annotations"].clear(), nothing, "holds no box"),
    "no boxes, no results": (
        lambda content: content["annotations"].clear(),
        lambda entries: entries.clear(),
        "holds no box",
    ),
    "half crowds": (crowds, nothing, crowds),
    "half crowds as text": (half(iscrowd="1"), nothing, crowds),
    "half crowds as true": (half(iscrowd=True), nothing, crowds),
    "half ignored": (half(ignore=1), nothing, crowds),
    "all crowds": (of_annotations(iscrowd=1), nothing, "no box but crowd regions"),
    "iscrowd text 0": (of_annotations(iscrowd="0"), nothing, nothing),
    "iscrowd false": (of_annotations(iscrowd=False), nothing, nothing),
    "iscrowd null": (of_annotations(iscrowd=None), nothing, nothing),
    "iscrowd no": (of_annotations(iscrowd="no"), nothing, nothing),
    "iscrowd word": (of_annotations(iscrowd="maybe"), nothing, "has iscrowd 'maybe'"),
    "area text": (each("annotations", lambda e: e.update(area=str(e["area"]))), nothing, nothing),
    "area null": (of_annotations(area=None), nothing, nothing),
    "area 0": (of_annotations(area=0), nothing, nothing),
    "boxes text": (
        each("annotations", lambda e: e.update(bbox=list(map(str, e["bbox"])))),
        nothing,
        "none can be used",
    ),
    "one box missing": (lambda content: content["annotations"][3].pop("bbox"), nothing, without(3)),
    "one box empty": (lambda content: content["annotations"][3].update(bbox=[]), nothing, without(3)),
    "one box negative": (
        lambda content: content["annotations"][3].update(bbox=[9, 9, -5, -5]),
        nothing,
        without(3),
    ),
    "one box outside": (
        lambda content: content["annotations"][3].update(bbox=[500, 9, 5, 5]),
        nothing,
        without(3),
    ),
    "normalised": (
        each("annotations", lambda e: e.update(bbox=[value / 128 for value in e["bbox"]])),
        nothing,
        "between 0 and 1",
    ),
    "normalised results": (
        nothing,
        lambda entries: [e.update(bbox=[abs(value) / 128 for value in e["bbox"]]) for e in entries],
        "between 0 and 1",
    ),
    "normalised but for one": (
        both(
            each("annotations", lambda e: e.update(bbox=[value / 128 for value in e["bbox"]])),
            lambda content: content["annotations"][0].update(bbox=[9, 9, 30, 30]),
        ),
        nothing,
        "29 of the 30 boxes .* between 0 and 1",
    ),
    "normalised results but for one": (
        nothing,
        lambda entries: [e.update(bbox=[abs(value) / 128 for value in e["bbox"]]) for e in entries[1:]],
        "29 of the 30 boxes .* between 0 and 1",
    ),
    "score text": (nothing, lambda entries: [e.update(score=str(e["score"])) for e in entries], "has score"),
    "score NaN": (nothing, lambda entries: entries[0].update(score=float("nan")), "has score nan"),
    "score in percent": (
        nothing,
        lambda entries: [e.update(score=100 * e["score"]) for e in entries],
        nothing,
    ),
    "two categories of one name": (
        lambda content: content["categories"][1].update(name="circle"),
        nothing,
        "category name circle belongs to the ids 1 and 2",
    ),
    "empty category of a name": (
        lambda content: content["categories"].insert(0, {"id": 0, "name": "star"}),
        nothing,
        nothing,
    ),
    "categories null": (lambda content: content.update(categories=None), nothing, "'categories'"),
    "no categories": (lambda content: content.pop("categories"), nothing, "has no 'categories'"),
    "unknown category": (
        lambda content: content["categories"].pop(),
        nothing,
        "category_id 3, which is not among",
    ),
    "labels as categories": (
        nothing,
        scale_ids(None, ["category_id"], lambda key: key - 1),
        "category_id 0 not among",
    ),
    "no sizes": (each("images", lambda e: [e.pop("width"), e.pop("height")]), nothing, nothing),
}


@pytest.mark.parametrize("from_file", [True, False], ids=["file", "content"])
@pytest.mark.parametrize("name", CASES)
def test_right_figure_or_one_clear_error(truth, results, name, from_file, tmp_path, capsys):
    change, change_results, expected = CASES[name]
    altered, found = copy.deepcopy(truth), copy.deepcopy(results)
    change(altered)
    change_results(found)
    if from_file:
        for path, content in ((tmp_path / "truth.json", altered), (tmp_path / "found.json", found)):
            path.write_text(json.dumps(content))
        altered, found = tmp_path / "truth.json", tmp_path / "found.json"
    elif name.startswith("normalised results"):
        pytest.skip("a detector may give such boxes while it trains; only files are refused")
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected) as caught:
            evaluate_coco(altered, found)
        assert "\n" not in str(caught.value)
        assert not from_file or ".json" in str(caught.value)
        return
    clean = copy.deepcopy(truth)
    expected(clean)
    value = evaluate_coco(altered, found).metrics["mAP"]
    assert 0.2 < value < 0.95
    assert value == pytest.approx(reference(clean, results, capsys), abs=1e-12)


ENCODINGS = {
    "byte order mark": (lambda text: text.encode("utf-8-sig"), None),
    "CRLF": (lambda text: text.replace("\n", "\r\n").encode(), None),
    "UTF-16": (lambda text: text.encode("utf-16"), "not UTF-8"),
    "Latin-1": (lambda text: text.replace("{", '{"né": 1,', 1).encode("latin-1"), "not UTF-8"),
    "empty": (lambda text: b"", "the file is empty"),
    "white space": (lambda text: b" \n", "the file is empty"),
    "lines": (lambda text: b'{"a": 1}\n{"a": 2}', "not valid JSON"),
    "truncated": (lambda text: text.encode()[:-9], "is truncated"),
}


@pytest.mark.parametrize("which", ["truth.json", "found.json"])
@pytest.mark.parametrize("name", ENCODINGS)
def test_encodings(truth, results, name, which, tmp_path):
    encode, message = ENCODINGS[name]
    for path, content in ((tmp_path / "truth.json", truth), (tmp_path / "found.json", results)):
        text = json.dumps(content, indent=1)
        path.write_bytes(encode(text) if path.name == which else text.encode())
    files = tmp_path / "truth.json", tmp_path / "found.json"
    if message is None:
        np.testing.assert_equal(evaluate_coco(*files).metrics, evaluate_coco(truth, results).metrics)
        return
    with pytest.raises(UserError, match=message) as caught:
        evaluate_coco(*files)
    assert str(tmp_path / which) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_taken_for_each_other(truth, results, tmp_path):
    for path, content in ((tmp_path / "truth.json", truth), (tmp_path / "found.json", results)):
        path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="is it a results file"):
        evaluate_coco(tmp_path / "found.json", tmp_path / "found.json")
    with pytest.raises(UserError, match="an annotation file"):
        evaluate_coco(tmp_path / "truth.json", tmp_path / "truth.json")


def test_only_the_classes_asked_for_are_scored(truth, results):
    scores = evaluate_coco(truth, results, classes=("star", "circle"))
    everything = evaluate_coco(truth, results)
    assert list(scores.per_class) == ["circle", "star"]
    np.testing.assert_equal(scores.per_class, {name: everything.per_class[name] for name in scores.per_class})
    assert scores.metrics["mAP"] == pytest.approx(np.mean([row["AP"] for row in scores.per_class.values()]))
    with pytest.raises(UserError, match="lacks 'moon'"):
        evaluate_coco(truth, results, classes=("star", "moon"))
    with pytest.raises(UserError, match="holds no box of the classes"):
        evaluate_coco(
            {**truth, "categories": [*truth["categories"], {"id": 9, "name": "moon"}]}, [], classes=["moon"]
        )
