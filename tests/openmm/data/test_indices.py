"""The option ``indices`` of each data set: its effect, and one line where it is out of range."""

from __future__ import annotations

import json

import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from PIL import Image

import hardnet_suite.openmm
import hardnet_suite.openmm.segmentation
from hardnet_suite.errors import UserError
from hardnet_suite.openmm.data.parts import parts

assert hardnet_suite.openmm

CLASSES = {"classes": ["x", "y"]}
KINDS = {
    "segmentation": {
        "type": "SegmentationDataset",
        "data_prefix": {"img_path": "set/x", "seg_map_path": "labels"},
        "metainfo": CLASSES,
    },
    "detection": {
        "type": "DetectionDataset",
        "data_prefix": {"img": "set/x"},
        "ann_file": "boxes.json",
        "metainfo": CLASSES,
    },
    "classification": {"type": "ClassificationDataset", "folder": "set"},
}


@pytest.fixture
def root(tmp_path):
    """Images x/0 to x/3, each with a label image and a box, and an empty class y."""
    for folder in ("set/x", "set/y", "labels"):
        (tmp_path / folder).mkdir(parents=True)
    for index in range(4):
        Image.new("RGB", (4, 4)).save(tmp_path / f"set/x/{index}.png")
        Image.new("L", (4, 4)).save(tmp_path / f"labels/{index}.png")
    box = {"category_id": 1, "bbox": [0, 0, 2, 2], "area": 4, "iscrowd": 0}
    content = {
        "images": [{"id": i + 1, "file_name": f"{i}.png", "width": 4, "height": 4} for i in range(4)],
        "annotations": [box | {"id": i + 1, "image_id": i + 1} for i in range(4)],
        "categories": [{"id": 1, "name": "x"}, {"id": 2, "name": "y"}],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    return tmp_path


def build(options):
    with DefaultScope.overwrite_default_scope(None):
        dataset = DATASETS.build(dict(options))
        dataset.full_init()
    return dataset


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("indices", "names"),
    [(None, "0123"), (2, "01"), (-1, "3"), (9, "0123"), ([3, 0], "30"), ([-1, -4], "30"), ((1, 1), "11")],
)
def test_indices_choose_in_training_and_in_checks(root, kind, indices, names):
    options = KINDS[kind] | {"data_root": str(root), "indices": indices}
    dataset = build(options)
    items = [dataset.get_data_info(index) for index in range(len(dataset))]
    assert "".join((item.get("img_path") or item["name"])[-5] for item in items) == names
    (part,) = parts(Config({"val_dataloader": {"dataset": options}}), ["val_dataloader"])
    part.require()
    if kind == "classification":
        assert "".join(image.stem for image in part.samples.images) == names
        assert part.check().images == len(names)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loader", ["train_dataloader", "test_dataloader"])
@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([0, 4], "indices names 4, but there are 4 images"),
        ([-5], "indices names -5, but there are 4 images"),
        ("01", "has indices='01', expected an integer or a list of integers"),
        (1.5, "has indices=1.5, expected"),
        ([0, "1"], "expected an integer or a list of integers"),
        (True, "has indices=True, expected"),
        (0, "0 leaves no image|no image .* is left after filter_cfg and indices"),
    ],
)
def test_indices_that_name_nothing_are_one_line(root, kind, loader, indices, message):
    options = KINDS[kind] | {"data_root": str(root), "indices": indices}
    with pytest.raises(UserError, match=message) as caught:
        next(parts(Config({loader: {"dataset": options}}), [loader])).require()
    assert loader in str(caught.value)
    if indices != 0 or indices is True:
        with pytest.raises(UserError, match=message):
            build(options)
