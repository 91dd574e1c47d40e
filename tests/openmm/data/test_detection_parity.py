"""The detection data set against mmdet's on real files, and against the XML that its file was made from."""

from __future__ import annotations

import itertools
from xml.etree import ElementTree

import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope

import hardnet_suite.openmm  # noqa: F401, registers the data set
from hardnet_suite.data.coco import COCO_CLASSES
from hardnet_suite.data.voc import convert_voc
from hardnet_suite.errors import UserError
from hardnet_suite.openmm.data.parts import parts


def build(dataset):
    with DefaultScope.overwrite_default_scope("mmdet"):
        return DATASETS.build(dataset)


@pytest.mark.parametrize("split", ["train2017", "val2017"])
@pytest.mark.parametrize(
    "changes",
    [
        {"test_mode": True},
        {"filter_cfg": {"filter_empty_gt": True, "min_size": 32}},
        {"filter_cfg": {"min_size": 430}, "indices": 5},
        {"metainfo": {"classes": ("person", "chair")}, "filter_cfg": {"filter_empty_gt": True}},
    ],
    ids=["test", "train", "indices", "two classes"],
)
def test_samples_equal_those_of_mmdet_on_coco(shared, split, changes):
    place = {
        "data_root": str(shared / "data/coco_mini"),
        "ann_file": f"annotations/instances_{split}.json",
        "data_prefix": {"img": split},
        **changes,
    }
    ours, mmdets = (build({"type": kind, **place}) for kind in ("DetectionDataset", "mmdet.CocoDataset"))
    assert ours.metainfo["classes"] == changes.get("metainfo", {}).get("classes", COCO_CLASSES)
    assert len(ours) == len(mmdets) > 0
    for index in range(len(ours)):
        assert ours.get_data_info(index) == mmdets.get_data_info(index)
        assert ours.get_cat_ids(index) == mmdets.get_cat_ids(index)


def test_labels_of_converted_voc_data_are_those_of_its_xml(shared, tmp_path):
    """In whatever order the config names the classes."""
    bccd, source = shared / "data/bccd", tmp_path / "voc"
    annotations = sorted(bccd.rglob("*.xml"))[:4]
    expected = {}
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (source / name).mkdir(parents=True)
    for xml in annotations:
        image = next(bccd.rglob(f"{xml.stem}.jpg"))
        (source / "Annotations" / xml.name).write_bytes(xml.read_bytes())
        (source / "JPEGImages" / image.name).write_bytes(image.read_bytes())
        for entry in ElementTree.parse(xml).iter("object"):
            corner = float(entry.findtext("bndbox/xmax")), float(entry.findtext("bndbox/ymax"))
            expected[xml.stem, *corner] = entry.findtext("name")
    (source / "ImageSets/Main/train.txt").write_text("\n".join(xml.stem for xml in annotations))
    convert_voc(source, tmp_path / "coco")
    place = {"data_root": str(tmp_path / "coco"), "ann_file": "annotations/instances_train.json"}
    for classes in itertools.permutations(sorted(set(expected.values()))):
        options = {**place, "data_prefix": {"img": "images/"}, "metainfo": {"classes": classes}}
        dataset = build({"type": "DetectionDataset", **options})
        boxes = 0
        for sample in map(dataset.get_data_info, range(len(dataset))):
            stem = sample["img_path"].rpartition("/")[2].removesuffix(".jpg")
            for instance in sample["instances"]:
                assert classes[instance["bbox_label"]] == expected[stem, *instance["bbox"][2:]]
                boxes += 1
        assert boxes > len(annotations)


@pytest.mark.parametrize("kind", ["CocoDataset", "mmdet.CocoDataset"])
def test_mmdets_data_set_cannot_leave_out_annotations(shared, kind):
    dataset = {
        "type": kind,
        "data_root": str(shared / "data/coco_mini"),
        "ann_file": "annotations/instances_val2017.json",
        "data_prefix": {"img": "val2017"},
    }
    cfg = Config({"default_scope": "mmdet", "test_dataloader": {"dataset": dataset}})
    with pytest.raises(UserError, match="set type='DetectionDataset' for --format-only"):
        next(parts(cfg, ["test_dataloader"])).drop_labels(dataset)
    assert "annotated" not in dataset
