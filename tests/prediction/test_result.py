"""What a prediction offers: length, items, rows, other libraries' forms, and pictures in notebooks."""

from __future__ import annotations

import dataclasses
import io
import sys
import types

import numpy as np
import pytest
from PIL import Image, ImageShow
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from hardnet_suite.data.coco import COCO_CATEGORY_IDS, COCO_CLASSES
from hardnet_suite.data.sources import images_of
from hardnet_suite.errors import UserError
from hardnet_suite.prediction import Guess, PredictedBox, Prediction, Segment

MASK = np.zeros((16, 24), np.uint8)
MASK[4:9, 3:20] = 2
MASK[0, 0] = 255  # no class


def prediction_of(task, count=2, *, name="in/000000000139.png", classes=("cat", "dog", "cow")) -> Prediction:
    (image,) = images_of(Image.new("RGB", (24, 16), "red"))
    labels = np.array([2, 0] if task == "detection" else [0, 2], np.int64)[:count]
    boxes = np.array([[1.0, 2.0, 20.5, 12.0], [0, 0, 4, 4]], np.float32)[:count]
    shares = [(label == MASK).mean() for label in labels]
    return Prediction(
        name=name,
        task=task,
        size=(24, 16),
        labels=labels,
        names=tuple(classes[label] for label in labels),
        scores=np.array(shares) if task == "segmentation" else np.array([0.75, 0.25], np.float32)[:count],
        boxes=boxes if task == "detection" else None,
        mask=MASK if task == "segmentation" else None,
        classes=classes,
        palette=((255, 0, 0), (0, 255, 0), (0, 0, 255)),
        source=image,
    )


def test_boxes_are_detections():
    prediction = prediction_of("detection")
    assert len(prediction) == 2
    assert list(prediction) == [
        PredictedBox(2, "cow", 0.75, (1.0, 2.0, 20.5, 12.0)),
        PredictedBox(0, "cat", 0.25, (0.0, 0.0, 4.0, 4.0)),
    ]
    assert [type(value) for value in next(iter(prediction)).xyxy] == [float] * 4


def test_guesses_and_segments():
    assert list(prediction_of("classification")) == [Guess(0, "cat", 0.75), Guess(2, "cow", 0.25)]
    first, second = prediction_of("segmentation")
    assert (type(second), second.label, second.name) == (Segment, 2, "cow")
    assert np.array_equal(second.mask, MASK == 2)
    assert first.score == pytest.approx(1 - (85 + 1) / 384)
    assert "array" not in repr(first)


@pytest.mark.parametrize("task", ["classification", "detection", "segmentation"])
def test_a_prediction_of_nothing_is_true_and_empty(task):
    prediction = prediction_of(task, 0)
    assert prediction
    assert len(prediction) == 0
    assert list(prediction) == prediction.rows() == []
    assert str(prediction).endswith(": nothing")
    assert prediction._repr_png_().startswith(b"\x89PNG")
    if task != "classification":
        assert prediction.to_coco() == []


@pytest.mark.parametrize(
    ("task", "keys"),
    [
        ("classification", []),
        ("detection", ["x1", "y1", "x2", "y2"]),
        ("segmentation", ["pixels"]),
    ],
)
@pytest.mark.parametrize("count", [0, 2])
def test_rows(task, keys, count):
    prediction = prediction_of(task, count)
    rows = prediction.rows()
    assert len(rows) == count
    assert all(list(row) == ["image", "label", "name", "score", *keys] for row in rows)
    assert {type(value) for row in rows for value in row.values()} <= {str, int, float}


@pytest.mark.parametrize("task", ["classification", "detection", "segmentation"])
def test_data_frames(task):
    pandas = pytest.importorskip("pandas")
    empty, full = (prediction_of(task, count).to_pandas() for count in (0, 2))
    assert empty.to_dict("records") == []
    assert full.to_dict("records") == prediction_of(task).rows()
    assert list(empty.columns) == list(full.columns)
    assert pandas.concat([empty, full]).dtypes.equals(full.dtypes)
    assert full.label.dtype == np.int64


def test_pixels_of_a_mask_are_counted():
    assert [row["pixels"] for row in prediction_of("segmentation").rows()] == [384 - 85 - 1, 85]


@pytest.mark.parametrize("package", ["pandas", "supervision"])
def test_packages_that_are_not_installed(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        UserError, match=f"to_{package} needs the package {package}, which is not installed; "
    ):
        getattr(prediction_of("detection"), f"to_{package}")()


@pytest.mark.parametrize("count", [0, 2])
@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_supervisions_detections(task, count):
    supervision = pytest.importorskip("supervision")
    prediction = prediction_of(task, count)
    detections = prediction.to_supervision()
    assert isinstance(detections, supervision.Detections)
    assert len(detections) == count
    assert detections.class_id.tolist() == prediction.labels.tolist()
    assert detections.data["class_name"].tolist() == list(prediction.names)
    if task == "detection":
        np.testing.assert_array_equal(detections.xyxy, prediction.boxes)
        np.testing.assert_array_equal(detections.confidence, prediction.scores)
        image = supervision.BoxAnnotator().annotate(np.zeros((16, 24, 3), np.uint8), detections)
    else:
        assert detections.mask.shape == (count, 16, 24)
        assert detections.mask.sum(axis=(1, 2)).tolist() == [row["pixels"] for row in prediction.rows()]
        image = supervision.MaskAnnotator().annotate(np.zeros((16, 24, 3), np.uint8), detections)
    assert image.any() == (count > 0)
    assert len(detections[detections.class_id == 2]) == min(count, 1)
    assert len(supervision.Detections.merge([detections, detections])) == 2 * count


def test_supervisions_classifications():
    supervision = pytest.importorskip("supervision")
    classifications = prediction_of("classification").to_supervision()
    assert isinstance(classifications, supervision.Classifications)
    assert classifications.get_top_k(1)[0].tolist() == [0]


def test_coco_boxes():
    first, second = prediction_of("detection").to_coco()
    assert first == {"image_id": 139, "category_id": 3, "bbox": [1.0, 2.0, 19.5, 10.0], "score": 0.75}
    assert second["category_id"] == 1
    categories = {"cow": 21, "cat": 17}
    named = prediction_of("detection").to_coco("a", categories=categories)
    assert [(row["image_id"], row["category_id"]) for row in named] == [("a", 21), ("a", 17)]
    with pytest.raises(ValueError, match="categories has no id for the class 'cat'"):
        prediction_of("detection").to_coco(categories={"cow": 21})
    with pytest.raises(ValueError, match="got the guesses of a classifier"):
        prediction_of("classification").to_coco()


@pytest.mark.parametrize(
    ("name", "image_id"),
    [
        ("in/000000000139.jpg", 139),
        ("in/a.b.png", "a.b"),
        ("clip.mp4#000007", "clip_000007"),
        ("https://h/p%2Fq%20r.jpg?x=1", "q r"),
        ("image_3", "image_3"),
        ("in/²³.png", "²³"),
        ("9" * 30 + ".png", "9" * 30),
    ],
)
def test_the_id_of_an_image(name, image_id):
    assert prediction_of("detection", name=name).to_coco()[0]["image_id"] == image_id


def test_cocos_classes_have_cocos_ids():
    prediction = prediction_of("detection", classes=COCO_CLASSES)
    ids = dict(zip(COCO_CLASSES, COCO_CATEGORY_IDS, strict=True))
    assert (ids["person"], ids["stop sign"], ids["toothbrush"]) == (1, 13, 90)
    assert [row["category_id"] for row in prediction.to_coco()] == [ids["car"], ids["person"]]


def test_coco_masks_are_pycocotools():
    entries = prediction_of("segmentation").to_coco()
    assert [entry["category_id"] for entry in entries] == [1, 3]
    for entry, label in zip(entries, (0, 2), strict=True):
        encoded = entry["segmentation"]
        assert isinstance(encoded["counts"], str)
        assert np.array_equal(coco_mask.decode(encoded), label == MASK)
        assert entry["area"] == (label == MASK).sum()
    assert entries[1]["bbox"] == [3, 4, 17, 5]
    truth = COCO()
    truth.dataset = {"images": [{"id": 139}], "categories": [{"id": 1}, {"id": 3}], "annotations": []}
    truth.createIndex()
    assert len(truth.loadRes(entries).anns) == 2


def test_cocos_ids_are_those_of_its_annotations(shared):
    files = sorted((shared / "data/coco_mini").rglob("instances_*.json"))
    if not files:
        pytest.skip("no annotations of COCO")
    categories = COCO(str(files[0])).cats.values()
    assert tuple(category["name"] for category in categories) == COCO_CLASSES
    assert tuple(category["id"] for category in categories) == COCO_CATEGORY_IDS


@pytest.mark.parametrize("task", ["classification", "detection", "segmentation"])
def test_drawings_without_a_legend_have_the_images_size(task):
    prediction = prediction_of(task)
    assert prediction.draw(legend=False).size == (24, 16)
    if task != "detection":
        assert prediction.draw().height > 16
    png = Image.open(io.BytesIO(prediction._repr_png_()))
    assert np.array_equal(np.asarray(png), np.asarray(prediction.draw()))


def test_show_in_a_viewer_or_a_notebook(monkeypatch):
    prediction, shown = prediction_of("detection"), []
    monkeypatch.setattr(ImageShow, "show", lambda image: shown.append(image) or True)
    monkeypatch.setenv("DISPLAY", ":0")
    prediction.show()
    assert shown.pop().size == (24, 16)
    ipython = types.ModuleType("IPython")
    ipython.get_ipython = lambda: None  # imported by another library, outside of a notebook
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    prediction.show()
    assert shown.pop().size == (24, 16)
    display = types.ModuleType("IPython.display")
    below = []
    display.display = below.append
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    ipython.get_ipython = lambda: types.SimpleNamespace(kernel=object())
    prediction.show()
    assert (len(shown), below.pop().size) == (0, (24, 16))


def test_show_without_a_display(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(UserError, match=r"no display .*prediction\.save\('result\.jpg'\)"):
        prediction_of("detection").show()
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(ImageShow, "show", lambda image: False)  # no viewer is installed
    with pytest.raises(UserError, match="no display"):
        prediction_of("detection").show()


@pytest.mark.parametrize("task", ["detection", "classification", "segmentation"])
def test_items_by_index_and_by_task(task):
    prediction = prediction_of(task)
    items = list(prediction)
    assert [prediction[0], prediction[1], prediction[-1]] == [items[0], items[1], items[1]]
    assert prediction[:1] == items[:1]
    with pytest.raises(IndexError):
        prediction[2]
    names = {"detection": "detections", "classification": "guesses", "segmentation": "segments"}
    assert getattr(prediction, names[task]) == items
    for other in {*names.values()} - {names[task]}:
        with pytest.raises(ValueError, match=f"{other} are of a .*, this prediction is of {task}"):
            getattr(prediction, other)


@pytest.mark.parametrize(
    "suffix",
    [
        "webp",
        "tif",
        "gif",
        "avif",
        "mp4",
        "avi",
        "txt",
        "json",
        "jsonl",
        "csv",
        "npy",
        "html",
        "gz",
        "xz",
        "bz2",
    ],
)
def test_a_file_that_is_no_drawing_is_no_folder(tmp_path, monkeypatch, suffix):
    monkeypatch.chdir(tmp_path)
    for place in (f"a.{suffix}", tmp_path / f"a.{suffix.upper()}", f"sub/a.{suffix}"):
        if suffix == "npy":
            (tmp_path / "b.npy").mkdir(exist_ok=True)
            assert prediction_of("detection").save("b.npy").parent.name == "b.npy"
        with pytest.raises(UserError, match="expected a folder, or a file"):
            prediction_of("detection").save(place)
    assert [path.name for path in tmp_path.iterdir()] == (["b.npy"] if suffix == "npy" else [])


@pytest.mark.parametrize("name", ["run.v2", "2024.11.27", "a.b", "..x", "x."])
def test_a_folder_may_have_a_dot(tmp_path, name):
    assert prediction_of("detection").save(tmp_path / name).parent == tmp_path / name


def test_an_empty_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="is empty"):
        prediction_of("detection").save("")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("count", [0, 1, 50, 51, 200])
def test_many_boxes_are_a_number_per_class(count):
    prediction = dataclasses.replace(
        prediction_of("detection"),
        labels=np.zeros(count, np.int64),
        names=("dog", "cow", "dog", "dog", "cat")[:count]
        if count < 5
        else ("dog",) * (count - 3) + ("cow",) * 3,
        scores=np.full(count, 0.5, np.float32),
        boxes=np.zeros((count, 4), np.float32),
    )
    text = str(prediction).partition(": ")[2]
    if count > 50:
        assert text == f"{count} boxes: {count - 3} dog, 3 cow"
    else:
        assert text == (", ".join(f"{name} 50.0 %" for name in prediction.names) or "nothing")
