"""The options of a ``SegmentationDataset``: each has its effect in training and checks, or is refused."""

from __future__ import annotations

import numpy as np
import pytest
from mmcv.transforms import BaseTransform, Compose, KeyMapper, RandomChoice, TestTimeAug
from mmengine.config import Config
from mmengine.registry import DATASETS, TRANSFORMS, DefaultScope
from PIL import Image

import hardnet_suite.openmm.segmentation  # noqa: F401
from hardnet_suite.errors import UserError
from hardnet_suite.openmm.data.loading import LoadLabels
from hardnet_suite.openmm.data.parts import parts
from hardnet_suite.openmm.data.parts.segmentation import require_own_labels

from mmseg.datasets.transforms import LoadAnnotations  # isort: skip

PIPELINE = [{"type": "LoadImageFromFile"}, {"type": "LoadLabels"}]


@pytest.fixture(autouse=True)
def _mmseg_scope():
    with DefaultScope.overwrite_default_scope("mmseg"):
        yield


def save(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, np.uint8)).save(path)


@pytest.fixture
def root(tmp_path):
    """Images a, b and c of 3×1 pixels, each in two forms, with labels 0, 1 and 2 in two forms."""
    for name in "abc":
        for ending in ("_left.png", "_right.png"):
            save(tmp_path / f"images/{name}{ending}", np.zeros((1, 3, 3)))
        save(tmp_path / f"labels/{name}_mask.png", [[0, 1, 2]])
        save(tmp_path / f"labels/{name}_other.png", [[1, 1, 1]])
    (tmp_path / "list.txt").write_text("c\na\n")
    return tmp_path


def options(root, **changes):
    given = {
        "type": "SegmentationDataset",
        "data_root": str(root),
        "data_prefix": {"img_path": "images", "seg_map_path": "labels"},
        "metainfo": {"classes": ["x", "y", "z"]},
        "img_suffix": "_left.png",
        "seg_map_suffix": "_mask.png",
        "pipeline": PIPELINE,
    }
    return {key: value for key, value in (given | changes).items() if value is not None}


def read(dataset_options):
    """What training reads and what check-data sees, as (names of images, labels)."""
    dataset = DATASETS.build(dict(dataset_options))
    items = [dataset[index] for index in range(len(dataset))]
    cfg = Config({"train_dataloader": {"dataset": dataset_options}})
    (part,) = parts(cfg, ["train_dataloader"])
    part.require()
    report = part.check()
    assert report.pairs == len(items)
    labels = [item["gt_seg_map"].tolist()[0] for item in items]
    flat = [label for row in labels for label in row]
    assert list(report.pixels.values()) == [flat.count(index) for index in range(len(part.classes))]
    assert report.ignored == flat.count(255)
    assert part.classes == dataset.metainfo["classes"]
    return "".join(item["img_path"].rsplit("/", 1)[1][0] for item in items), labels


@pytest.mark.parametrize(
    ("changes", "images", "labels"),
    [
        ({}, "abc", [0, 1, 2]),
        ({"seg_map_suffix": "_other.png"}, "abc", [1, 1, 1]),
        ({"seg_map_suffix": ["_none.png", "_mask.png"]}, "abc", [0, 1, 2]),
        ({"img_suffix": "_right.png"}, "abc", [0, 1, 2]),
        ({"ann_file": "list.txt"}, "ca", [0, 1, 2]),
        ({"ann_file": ""}, "abc", [0, 1, 2]),
        ({"indices": 2}, "ab", [0, 1, 2]),
        ({"indices": [2]}, "c", [0, 1, 2]),
        ({"ann_file": "list.txt", "indices": 1}, "c", [0, 1, 2]),
        ({"ignore_index": 1}, "abc", [0, 255, 2]),
        ({"ignore_index": 255}, "abc", [0, 1, 2]),
        ({"reduce_zero_label": True}, "abc", [255, 0, 1]),
        ({"reduce_zero_label": True, "ignore_index": 1}, "abc", [255, 0, 255]),
        ({"reduce_zero_label": False}, "abc", [0, 1, 2]),
        ({"stored": {0: 2, 1: 255, 2: 0}}, "abc", [2, 255, 0]),
        ({"stored": {0: 255, 1: 0, 2: 1}, "metainfo": {"classes": ["x", "y"]}}, "abc", [255, 0, 1]),
        ({"metainfo": {"classes": ["x"]}, "stored": {2: 0, 1: 255}}, "abc", [1, 255, 0]),
        ({"lazy_init": True}, "abc", [0, 1, 2]),
        ({"serialize_data": False}, "abc", [0, 1, 2]),
        ({"test_mode": True, "max_refetch": 3}, "abc", [0, 1, 2]),
        ({"filter_cfg": {}, "backend_args": {}}, "abc", [0, 1, 2]),
    ],
)
def test_each_option_has_its_effect_in_training_and_in_checks(root, changes, images, labels):
    read_images, read_labels = read(options(root, **changes))
    assert read_images == images
    assert read_labels == [labels] * len(images)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_prefix": {"img": "images"}}, r"data_prefix has no option 'img'; did you mean img_path\?"),
        (
            {"data_prefix": {"img_path": "images", "seg_map": "labels"}},
            r"no option 'seg_map'; did you mean seg_map_path\?",
        ),
        ({"data_prefix": {"img_path": "images", "ann_dir": "labels"}}, "no option 'ann_dir'; "),
        ({"data_prefix": {"seg_map_path": "labels"}}, "data_prefix has no img_path"),
        ({"data_prefix": {"img_path": None}}, "data_prefix.img_path is None, expected a folder"),
        ({"data_prefix": "images"}, "data_prefix='images', expected dict"),
        ({"data_prefix": None}, "data_prefix=None, expected dict"),
        ({"filter_cfg": {"min_size": 3}}, "filter_cfg=.*has no effect here"),
        ({"backend_args": {"backend": "petrel"}}, "backend_args=.*has no effect here: files are read from"),
        ({"image_suffix": ".jpg"}, r"no option 'image_suffix'; did you mean img_suffix\?"),
        ({"reduce_zero_labels": True}, r"no option 'reduce_zero_labels'; did you mean reduce_zero_label\?"),
        ({"img_suffix": 3}, r"img_suffix is 3, expected the end of the file names"),
        ({"seg_map_suffix": ""}, r"seg_map_suffix is '', expected the end"),
        ({"img_suffix": "png"}, r"img_suffix is 'png', expected the dot as well: '\.png'"),
        ({"img_suffix": [".jpg", "PNG"]}, r"img_suffix is .*, expected the dot as well: '\.PNG'"),
        ({"seg_map_suffix": "png"}, r"seg_map_suffix is 'png', expected the dot as well: '\.png'"),
        ({"seg_map_suffix": []}, r"seg_map_suffix is empty, expected the end"),
        ({"reduce_zero_label": "yes"}, "reduce_zero_label='yes', expected True or False"),
        ({"metainfo": {"classes": "road"}}, "metainfo.classes is the string 'road'"),
        ({"metainfo": {"CLASSES": ["a"]}}, "needs labels, or metainfo"),
        ({"metainfo": {"classes": ["a", "b"], "colors": []}}, "metainfo has no option 'colors'"),
        ({"metainfo": {"classes": ["a", "b"], "palette": [(1, 2, 3)]}}, "2 classes, but 1 color"),
        ({"labels": "camvid"}, "labels='camvid' defines its classes and stored values"),
        ({"labels": "camvid", "metainfo": None, "reduce_zero_label": True}, "labels='camvid' defines"),
        ({"labels": "camvid", "metainfo": None, "ignore_index": 3}, "labels='camvid' defines"),
        ({"ann_file": "none.txt"}, "no list of images .*none.txt"),
        ({"ann_file": "labels"}, "cannot read the list of images"),
        ({"seg_map_suffix": "_gt.png"}, "no label image in .*labels for .*a_left.png .*expected a_gt.png"),
        ({"img_suffix": None}, "expected a_left.png or|for .*a_left.png"),
    ],
)
def test_what_cannot_be_is_one_clear_error(root, changes, message):
    given = options(root, **changes)
    with pytest.raises(UserError, match=message) as caught:
        DATASETS.build(dict(given))
    assert "\n" not in str(caught.value)
    cfg = Config({"val_dataloader": {"dataset": given}})
    with pytest.raises(UserError, match=message):
        next(parts(cfg, ["val_dataloader"])).require()


@pytest.mark.parametrize("loader", ["train_dataloader", "val_dataloader", "test_dataloader"])
def test_binary_masks_of_0_and_255_are_refused_before_the_first_iteration(root, loader):
    for path in (root / "labels").iterdir():
        save(path, [[0, 255, 255]])
    given = options(root, metainfo={"classes": ["x", "y"]})
    (part,) = parts(Config({loader: {"dataset": given}}), [loader])
    with pytest.raises(UserError, match=rf"{loader}: no pixel is of the class 'y'.*stored=\{{255: 1\}}"):
        part.require()
    assert len(part.check().errors) == 1
    given["stored"] = {255: 1}
    (part,) = parts(Config({loader: {"dataset": given}}), [loader])
    part.require()
    assert part.check().errors == ()


def test_indices_that_leave_nothing(root):
    (part,) = parts(Config({"val_dataloader": {"dataset": options(root, indices=0)}}), ["val_dataloader"])
    with pytest.raises(UserError, match="indices=0 leaves no image"):
        part.require()


@pytest.mark.parametrize("order", [("x", "y", "z"), ("z", "y", "x"), ("y", "z", "x")])
def test_a_part_knows_the_classes_in_their_order(root, order):
    cfg = Config({"val_dataloader": {"dataset": options(root, metainfo={"classes": list(order)})}})
    (part,) = parts(cfg, ["val_dataloader"])
    assert part.classes == order


def test_two_data_sets_of_the_same_folders_are_two_parts_where_they_read_differently(root):
    loaders = {
        "train_dataloader": {"dataset": options(root)},
        "val_dataloader": {"dataset": options(root, metainfo={"classes": ["z", "y", "x"]})},
        "test_dataloader": {"dataset": options(root, stored={0: 1, 1: 0})},
    }
    assert len(list(parts(Config(loaders)))) == 3


@TRANSFORMS.register_module()
class OwnAnnotations(LoadAnnotations):
    """A user's step, which reads label images as mmseg does, without the options of the data set."""


@TRANSFORMS.register_module()
class OwnLabels(LoadLabels):
    """A user's step, which reads them as the suite does."""

    def transform(self, results):
        results = super().transform(results)
        return results | {"edge": results["gt_seg_map"] > 0}


@TRANSFORMS.register_module()
class OwnReader(BaseTransform):
    """A user's step, by the conventions of mmseg."""

    def transform(self, results):
        stored = np.asarray(Image.open(results["seg_map_path"]))
        labels = stored.copy()
        for value, label in results["label_map"].items():
            labels[stored == value] = label
        return results | {"gt_seg_map": labels}


@TRANSFORMS.register_module()
class OwnWrapper(BaseTransform):
    """A user's step, which builds others."""

    def __init__(self):
        self.inner = {"first": [TRANSFORMS.build({"type": "mmseg.LoadAnnotations"})]}

    def transform(self, results):
        return self.inner["first"][0](results)


MMSEGS, OWN = {"type": "LoadAnnotations"}, {"type": "OwnAnnotations"}


@pytest.mark.parametrize(
    "steps",
    [
        [MMSEGS],
        [{"type": "mmseg.LoadAnnotations", "reduce_zero_label": True}],
        [{"type": "mmseg.datasets.transforms.LoadAnnotations"}],
        [{"type": "mmcv.LoadAnnotations", "with_seg": True}],
        [{"type": "mmdet.LoadPanopticAnnotations"}],
        [{"type": "LoadBiomedicalData", "with_seg": True}],
        [{"type": "LoadBoxesAndMasks"}],
        [{"type": LoadAnnotations}],
        [LoadAnnotations()],
        [{"type": "OwnAnnotations"}],
        [{"type": OwnAnnotations}],
        [OwnAnnotations()],
        [{"type": "LoadLabels"}, MMSEGS],
        [{"type": "RandomApply", "transforms": [OWN]}],
        [{"type": "RandomChoice", "transforms": [[{"type": "LoadLabels"}], [OWN]]}],
        [{"type": "KeyMapper", "mapping": {"seg_map_path": "path"}, "transforms": [OWN]}],
        [{"type": "TransformBroadcaster", "mapping": {"img": ["a", "b"]}, "transforms": [OWN]}],
        [{"type": "TestTimeAug", "transforms": [[{"type": "RandomFlip", "prob": 1.0}], [OWN]]}],
        [Compose([MMSEGS])],
        [TestTimeAug([[{"type": "RandomFlip", "prob": 1.0}], [OWN]])],
        [RandomChoice([[PIPELINE[1]], [KeyMapper(mapping={}, transforms=[OWN])]])],
        [OwnWrapper()],
    ],
)
def test_label_images_are_read_by_load_labels_alone(root, steps):
    pipeline = [PIPELINE[0], *steps]
    message = (
        r"pipeline has (Load|Own)\w+( \(a mm\w+\.Load\w+\))?, which reads label images by other rules .*"
    )
    message += "LoadLabels.* derived from LoadLabels or BaseTransform"
    with pytest.raises(UserError, match=message):
        DATASETS.build(options(root, pipeline=pipeline))
    wrapped = {"type": "MultiImageMixDataset", "dataset": options(root), "pipeline": pipeline}
    for dataset in (options(root, pipeline=pipeline), wrapped):
        cfg = Config({"train_dataloader": {}})
        cfg.train_dataloader = {"dataset": dataset}
        with pytest.raises(UserError, match=rf"train_dataloader\.dataset\.{message}"):
            list(parts(cfg, ["train_dataloader"]))


def test_label_images_are_left_to_load_labels_by_what_a_step_builds(root):
    with pytest.raises(UserError, match=r"pipeline has LoadAnnotations, which reads"):
        DATASETS.build(options(root, pipeline=[PIPELINE[0], {"type": "OwnWrapper"}]))


@pytest.mark.parametrize(
    "step", [{"type": "LoadLabels"}, {"type": "OwnLabels"}, {"type": OwnReader}, OwnLabels()]
)
@pytest.mark.parametrize("wrap", [False, True])
def test_steps_of_ones_own_get_the_labels_of_the_data_set(root, step, wrap):
    for name in "abc":
        save(root / f"labels/{name}_mask.png", [[0, 100, 200]])
    step = {"type": "RandomApply", "transforms": [step], "prob": 1.0} if wrap else step
    given = options(root, pipeline=[PIPELINE[0], step], stored={0: 0, 100: 2, 200: 255})
    assert read(given) == ("abc", [[0, 2, 255]] * 3)


def test_other_steps_and_other_data_sets_are_left_alone(root):
    for step in (PIPELINE[1], {"type": OwnLabels}, OwnReader(), {"type": "mine.LoadAnnotations"}):
        require_own_labels("pipeline", [PIPELINE[0], step, {"type": "RandomFlip", "prob": 0.5}])
    foreign = {"type": "CityscapesDataset", "data_root": str(root), "pipeline": [MMSEGS]}
    wrapped = {"type": "MultiImageMixDataset", "dataset": foreign, "pipeline": [MMSEGS]}
    assert list(parts(Config({"train_dataloader": {"dataset": wrapped}}), ["train_dataloader"])) == []
