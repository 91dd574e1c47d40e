"""Known masks and segments through the evaluators: perfect ones score 1, moved ones less."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from PIL import Image

from hardnet_suite.data.shapes import SHAPES, draw_scene, write_shapes
from hardnet_suite.errors import UserError
from hardnet_suite.openmm.data.panoptic import LoadPanoptic, PanopticDataset
from hardnet_suite.openmm.data.parts import parts
from hardnet_suite.openmm.run.metrics import CocoDetection, CocoPanoptic

SIZE, SEED, FIRST = 96, 4, 1_000_000


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return write_shapes(tmp_path_factory.mktemp("drawn") / "set", train=1, val=2, size=SIZE, seed=SEED)


def scenes():
    return {number: draw_scene(SEED, FIRST + number - 1, SIZE) for number in (1, 2)}


def instances(shift: int, *, masks: bool = True) -> list[dict]:
    """What Mask R-CNN would answer if it were right, moved to the right."""
    samples = []
    for number, scene in scenes().items():
        boxes = torch.from_numpy(scene.boxes)
        boxes[:, [0, 2]] += shift
        found = {
            "bboxes": boxes,
            "scores": torch.full((len(boxes),), 0.9),
            "labels": torch.from_numpy(scene.labels),
        }
        if masks:
            found["masks"] = torch.from_numpy(np.roll(scene.masks, shift, axis=2))
        samples.append({"img_id": number, "pred_instances": found})
    return samples


def mask_metric(drawn, **options) -> CocoDetection:
    metric = CocoDetection(str(drawn / "annotations" / "instances_val2017.json"), **options)
    metric.dataset_meta = {"classes": SHAPES}
    return metric


def test_masks(drawn, tmp_path):
    figures = {}
    for shift in (0, 3):
        metric = mask_metric(drawn, masks=True, results_file=str(tmp_path / "r.json"))
        metric.process({}, instances(shift))
        figures[shift] = metric.evaluate(2)
    assert figures[0]["coco/segm_mAP"] == figures[0]["coco/bbox_mAP"] == 1
    assert 0.1 < figures[3]["coco/segm_mAP"] < 0.9
    assert "masks\nfigure" in metric.summary
    assert metric.details["masks"]["per_class"].keys() == metric.details["per_class"].keys()
    assert all(
        entry["segmentation"]["size"] == [SIZE, SIZE]
        for entry in json.loads((tmp_path / "r.json").read_text())
    )


def test_masks_that_are_not_asked_for_are_told(drawn, monkeypatch):
    lines = []
    monkeypatch.setattr(MMLogger, "warning", lambda self, line: lines.append(line))
    metric = mask_metric(drawn)
    metric.process({}, instances(0))
    metric.process({}, instances(0))
    assert lines == [
        "the model predicts masks, which are neither scored nor saved: set masks=True in the evaluator"
    ]
    assert metric.evaluate(2)["coco/bbox_mAP"] == 1


def test_a_model_without_masks_is_an_error(drawn):
    with pytest.raises(UserError, match="has masks=True, but the model predicts boxes alone"):
        mask_metric(drawn, masks=True).process({}, instances(0, masks=False))


def test_annotations_without_masks_are_an_error_before_the_first_image(drawn, tmp_path):
    content = json.loads((drawn / "annotations" / "instances_val2017.json").read_text())
    del content["annotations"][0]["segmentation"]
    (tmp_path / "a.json").write_text(json.dumps(content))
    metric = CocoDetection(str(tmp_path / "a.json"), masks=True)
    with pytest.raises(UserError, match=r"1 of the \d+ boxes have no valid mask .*masks=True needs"):
        metric.dataset_meta = {"classes": SHAPES}


OPTIONS = {
    "ann_file": "annotations/panoptic_val2017.json",
    "data_prefix": {"img": "val2017/", "seg": "annotations/panoptic_val2017/"},
    "metainfo": {"thing_classes": SHAPES, "stuff_classes": ("ground",)},
    "test_mode": True,
}


def answers(shift: int) -> list[dict]:
    """What a panoptic model would answer if it were right, moved to the right."""
    samples = []
    for number, scene in scenes().items():
        pixels = np.full((SIZE, SIZE), len(SHAPES))
        for index, (label, mask) in enumerate(zip(scene.labels, scene.masks, strict=True), 1):
            pixels[mask] = label + 1000 * index
        pixels = torch.from_numpy(np.roll(pixels, shift, axis=1))
        samples.append({"img_id": number, "pred_panoptic_seg": {"sem_seg": pixels[None]}})
    return samples


def panoptic_metric(drawn, changes=None, **options) -> CocoPanoptic:
    metric = CocoPanoptic(**options)
    metric.dataset_meta = PanopticDataset(data_root=str(drawn), **OPTIONS | (changes or {})).metainfo
    return metric


def test_segments(drawn, tmp_path):
    figures = {}
    for shift in (0, 3):
        metric = panoptic_metric(drawn, results_dir=str(tmp_path / str(shift)))
        metric.process({}, answers(shift))
        figures[shift] = metric.evaluate(2)
    assert figures[0]["coco/PQ"] == figures[0]["coco/PQ_things"] == figures[0]["coco/PQ_stuff"] == 1
    assert 0.1 < figures[3]["coco/PQ"] < 0.9
    truth = json.loads((drawn / "annotations" / "panoptic_val2017.json").read_text())
    written = json.loads((tmp_path / "0" / "panoptic.json").read_text())["annotations"]
    for true, found in zip(truth["annotations"], written, strict=True):
        assert [found[key] for key in ("image_id", "file_name")] == [
            true[key] for key in ("image_id", "file_name")
        ]
        for key in ("category_id",):
            assert sorted(s[key] for s in found["segments_info"]) == sorted(
                s[key] for s in true["segments_info"]
            )
        images = [
            np.asarray(Image.open(folder / true["file_name"]))
            for folder in (drawn / "annotations" / "panoptic_val2017", tmp_path / "0" / "panoptic")
        ]
        assert images[0].shape == images[1].shape


def test_what_is_predicted_nowhere_is_void(drawn):
    samples = answers(0)
    for sample in samples:
        pixels = sample["pred_panoptic_seg"]["sem_seg"]
        pixels[pixels == len(SHAPES)] = len(SHAPES) + 1  # as mmdet marks "nothing": the number of classes
    metric = panoptic_metric(drawn)
    metric.process({}, samples)
    figures = metric.evaluate(2)
    assert figures["coco/PQ_things"] == 1
    assert figures["coco/PQ_stuff"] == 0


def test_a_category_that_is_no_class_is_void(drawn):
    metric = panoptic_metric(drawn, {"metainfo": {"thing_classes": SHAPES, "stuff_classes": ()}})
    metric.process({}, answers(0))
    assert metric.evaluate(2)["coco/PQ"] == 1


def test_a_model_without_segments_is_an_error(drawn):
    with pytest.raises(UserError, match="predicts no panoptic segments"):
        panoptic_metric(drawn).process({}, instances(0))


def test_other_data_are_an_error():
    with pytest.raises(UserError, match="CocoPanoptic scores a PanopticDataset"):
        CocoPanoptic().dataset_meta = {"classes": SHAPES}


def load(dataset: PanopticDataset, index: int = 0) -> dict:
    info = dataset.get_data_info(index)
    return LoadPanoptic().transform(info | {"img": np.zeros((SIZE, SIZE, 3), np.uint8)})


def test_what_panoptic_models_train_on(drawn):
    results, scene = load(PanopticDataset(data_root=str(drawn), **OPTIONS)), scenes()[1]
    np.testing.assert_array_equal(results["gt_masks"].masks.astype(bool), scene.masks)
    np.testing.assert_array_equal(results["gt_bboxes_labels"], scene.labels)
    assert not results["gt_ignore_flags"].any()
    expected = np.where(scene.semantic == 0, len(SHAPES), scene.semantic - 1)
    np.testing.assert_array_equal(results["gt_seg_map"], expected)
    for box, mask in zip(results["gt_bboxes"].tensor.numpy(), scene.masks, strict=True):
        rows, columns = np.nonzero(mask)
        assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def altered(drawn, tmp_path, change) -> PanopticDataset:
    """The data set with changed annotations; labels stay by name whatever the order of the categories."""
    content = json.loads((drawn / "annotations" / "panoptic_val2017.json").read_text())
    content["categories"].reverse()
    for category in content["categories"]:
        category["id"] += 90
    for annotation in content["annotations"]:
        for info in annotation["segments_info"]:
            info["category_id"] += 90
    change(content)
    (tmp_path / "p.json").write_text(json.dumps(content))
    return PanopticDataset(data_root=str(drawn), **OPTIONS | {"ann_file": str(tmp_path / "p.json")})


def test_crowds_are_ignored_and_labels_are_by_name(drawn, tmp_path):
    def change(content):
        content["annotations"][0]["segments_info"][0]["iscrowd"] = 1

    results, scene = load(altered(drawn, tmp_path, change)), scenes()[1]
    np.testing.assert_array_equal(results["gt_bboxes_labels"], scene.labels)
    assert results["gt_ignore_flags"].tolist() == [True] + [False] * (len(scene.labels) - 1)
    assert (results["gt_seg_map"][scene.masks[0]] == 255).all()


def test_an_image_without_things(drawn, tmp_path):
    def change(content):
        for info in content["annotations"][0]["segments_info"]:
            info["category_id"] = 97  # the ground

    results = load(altered(drawn, tmp_path, change))
    assert len(results["gt_masks"].masks) == len(results["gt_bboxes"]) == 0
    assert (results["gt_seg_map"] == len(SHAPES)).all()


def test_a_label_image_of_another_size_is_an_error(drawn):
    info = PanopticDataset(data_root=str(drawn), **OPTIONS).get_data_info(0)
    with pytest.raises(UserError, match=r"is 96×96 pixels, its image .* is 80×90"):
        LoadPanoptic().transform(info | {"img": np.zeros((90, 80, 3), np.uint8)})


@pytest.mark.parametrize("name", ["../1.jpg", "/tmp/1.jpg", "a/../../1.jpg", "..\\1.jpg", "C:\\1.jpg"])
def test_predictions_stay_in_their_folder(drawn, tmp_path, name):
    dataset = altered(drawn, tmp_path, lambda content: content["images"][0].update(file_name=name))
    with pytest.raises(UserError, match="leads out of the folder of the images"):
        CocoPanoptic(results_dir=str(tmp_path)).dataset_meta = dataset.metainfo


def test_two_images_that_differ_in_their_suffix_are_an_error(drawn, tmp_path):
    dataset = altered(
        drawn, tmp_path, lambda content: content["images"][0].update(file_name="000000000002.png")
    )
    with pytest.raises(UserError, match="2 images differ in their suffix alone"):
        CocoPanoptic(results_dir=str(tmp_path)).dataset_meta = dataset.metainfo


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"filter_cfg": {}}, "no option 'filter_cfg'"),
        ({"data_prefix": {"img": "val2017/"}}, "expected dict"),
        ({"metainfo": {"classes": SHAPES}}, "no option 'classes'"),
        ({"metainfo": {"thing_classes": SHAPES, "stuff_classes": ("star",)}}, "star"),
        ({"metainfo": {"thing_classes": ("owl",), "stuff_classes": ("ground",)}}, "lacks 'owl'"),
        (
            {"metainfo": {"thing_classes": ("ground",), "stuff_classes": SHAPES}},
            "has isthing=0, but is among",
        ),
        ({"metainfo": {"thing_classes": [str(n) for n in range(300)]}}, "expected up to 254"),
        ({"annotated": 1}, "expected True or False"),
        ({"backend_args": {"backend": "petrel"}}, "reads local files"),
        ({"ann_file": "annotations/nothing.json"}, "does not exist"),
    ],
)
def test_options_that_do_not_fit_are_an_error(drawn, changes, message):
    with pytest.raises(UserError, match=message) as caught:
        PanopticDataset(data_root=str(drawn), **OPTIONS | changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["LoadAnnotations", "LoadPanopticAnnotations"])
def test_steps_that_read_nothing_of_a_panoptic_data_set_are_refused_in_training(drawn, name):
    options = {"data_root": str(drawn), **OPTIONS, "pipeline": [{"type": f"mmdet.{name}"}]}
    options = {key: value for key, value in options.items() if key != "test_mode"}
    with pytest.raises(UserError, match=f"has {name}, which reads label images by .*LoadPanoptic"):
        PanopticDataset(**options)
    if name == "LoadAnnotations":  # the other needs a package
        assert len(PanopticDataset(**options, test_mode=True)) > 0
    options["pipeline"] = [{"type": "LoadPanoptic"}]
    wrapped = {"type": "MultiImageMixDataset", "dataset": {"type": "PanopticDataset", **options}}
    cfg = Config({"default_scope": "mmdet", "train_dataloader": {"dataset": wrapped}})
    list(parts(cfg, ["train_dataloader"]))
    cfg.train_dataloader.dataset.pipeline = [{"type": name}]
    with pytest.raises(UserError, match=rf"train_dataloader\.dataset\.pipeline has {name}, which reads"):
        list(parts(cfg, ["train_dataloader"]))
