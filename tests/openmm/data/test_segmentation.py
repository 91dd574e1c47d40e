"""FC-HarDNet as an mmsegmentation model: parity with the published program, its loss, its data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS, MODELS, DefaultScope
from PIL import Image
from reference import assert_parity

import hardnet_suite.openmm.segmentation  # noqa: F401
from hardnet_suite.errors import UserError
from hardnet_suite.losses import bootstrapped_cross_entropy
from hardnet_suite.openmm.models.segmentor import FCHarDNetHead
from hardnet_suite.openmm.run.configs import load_config
from hardnet_suite.weights import convert_official

from mmseg.structures import SegDataSample  # isort: skip
from mmengine.structures import PixelData  # isort: skip


@pytest.fixture(autouse=True)
def _mmseg_scope():
    with DefaultScope.overwrite_default_scope("mmseg"):
        yield


def build(classes: int = 11, **head):
    """The segmentor of the CamVid config, with random weights."""
    cfg = load_config("fchardnet70_camvid")
    cfg.model.decode_head.num_classes = classes
    for key, value in head.items():
        cfg.model.decode_head[key] = value
    return MODELS.build(cfg.model)


def sample(target: torch.Tensor) -> SegDataSample:
    height, width = target.shape
    meta = {"img_shape": (height, width), "ori_shape": (height, width), "pad_shape": (height, width)}
    made = SegDataSample(metainfo=meta)
    made.gt_sem_seg = PixelData(data=target[None])
    return made


def test_the_official_weights_give_the_official_maps(golden):
    segmentor = build(19).eval()
    weights = convert_official("fchardnet70", golden.state_dict("fchardnet70"), target="mmseg")
    segmentor.load_state_dict(weights, strict=True)
    images = golden.input("fchardnet70")
    with torch.inference_mode():
        (found,) = segmentor.predict(images, [sample(torch.zeros(128, 256))])
    reference = golden.outputs("fchardnet70")["out"]
    assert_parity(found.seg_logits.data, reference[0])
    assert torch.equal(found.pred_sem_seg.data[0], reference[0].argmax(0))


def test_the_loss_is_that_of_the_enlarged_logits():
    torch.manual_seed(0)
    segmentor = build(
        5, loss_decode={"type": "BootstrappedCrossEntropyLoss", "min_kept": 50, "threshold": 0.5}
    )
    segmentor.eval()
    images, target = torch.randn(2, 3, 64, 96), torch.randint(0, 5, (2, 64, 96))
    target[0, :10] = 255
    losses = segmentor.loss(images, [sample(one) for one in target])
    with torch.no_grad():
        logits = segmentor.decode_head.forward(segmentor.extract_feat(images))
        logits = torch.nn.functional.interpolate(logits, size=(64, 96), mode="bilinear", align_corners=True)
        expected = bootstrapped_cross_entropy(logits, target, 50, 0.5)
    torch.testing.assert_close(losses["decode.loss_bootstrapped"], expected)
    losses["decode.loss_bootstrapped"].backward()
    without = [name for name, p in segmentor.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_the_wrapped_loss_passes_all_on():
    torch.manual_seed(0)
    logits, target = torch.randn(1, 3, 8, 8), torch.randint(0, 3, (1, 8, 8))
    target[0, :3] = 7
    options = {"min_kept": 9, "threshold": 0.6, "class_weight": [1.0, 5.0, 0.5], "loss_weight": 3.0}
    loss = MODELS.build({"type": "BootstrappedCrossEntropyLoss", **options})
    weight = torch.tensor([1.0, 5.0, 0.5])
    expected = 3 * bootstrapped_cross_entropy(logits, target, 9, 0.6, 7, weight=weight)
    torch.testing.assert_close(loss(logits, target, ignore_index=7), expected)
    assert loss.loss_name == "loss_bootstrapped"
    with pytest.raises(ValueError, match="selects the hard pixels itself"):
        loss(logits, target, weight=torch.ones(1, 8, 8))


def test_what_a_crop_adds_to_an_image_does_not_count():
    rule = build().data_preprocessor
    image = torch.zeros(3, 100, 384, dtype=torch.uint8)
    data = {"inputs": [image], "data_samples": [sample(torch.ones(100, 384, dtype=torch.long))]}
    (padded,) = rule(data, training=True)["data_samples"]
    labels = padded.gt_sem_seg.data[0]
    assert labels.shape == (288, 384)
    assert (labels[:100] == 1).all()
    assert (labels[100:] == 255).all()


def test_mmsegs_hard_example_mining_works_on_it():
    torch.manual_seed(0)
    segmentor = build(
        5,
        sampler={"type": "OHEMPixelSampler", "thresh": 0.7, "min_kept": 100},
        loss_decode={"type": "CrossEntropyLoss"},
    )
    targets = [sample(torch.randint(0, 5, (64, 64))) for _ in range(2)]
    losses = segmentor.loss(torch.randn(2, 3, 64, 64), targets)
    assert torch.isfinite(losses["decode.loss_ce"])


def folders(root, *names):
    for name in names:
        (root / name).mkdir(parents=True)


def dataset(root, images="train", annotations="trainannot", **options):
    prefix = {"img_path": images} | ({"seg_map_path": annotations} if annotations else {})
    pipeline = options.pop("pipeline", [{"type": "LoadImageFromFile"}, {"type": "LoadLabels"}])
    options = {"labels": "camvid", "data_prefix": prefix, "pipeline": pipeline, **options}
    return DATASETS.build({"type": "SegmentationDataset", "data_root": str(root), **options})


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_camvid_with_its_void_ignored(tmp_path, suffix):
    folders(tmp_path, "train", "trainannot")
    Image.new("RGB", (8, 6)).save(tmp_path / f"train/a{suffix}")
    labels = np.arange(48, dtype=np.uint8).reshape(6, 8) % 12
    Image.fromarray(labels).save(tmp_path / "trainannot/a.png")
    expected = np.where(labels == 11, 255, labels)
    found = dataset(tmp_path)
    assert len(found) == 1
    assert len(found.metainfo["classes"]) == len(found.metainfo["palette"]) == 11
    assert np.array_equal(found[0]["gt_seg_map"], expected)


def test_cityscapes_label_ids_are_mapped_unless_there_are_train_ids(tmp_path):
    folders(tmp_path, "leftImg8bit/train/bonn", "gtFine/train/bonn")
    labels = tmp_path / "gtFine/train/bonn"
    for frame in ("bonn_000001_000019", "bonn_000002_000019"):
        Image.new("RGB", (2, 1)).save(tmp_path / f"leftImg8bit/train/bonn/{frame}_leftImg8bit.png")
        Image.fromarray(np.array([[7, 0]], np.uint8)).save(labels / f"{frame}_gtFine_labelIds.png")
        Image.fromarray(np.array([[999, 1]], np.uint16)).save(labels / f"{frame}_gtFine_instanceIds.png")
    Image.fromarray(np.array([[13, 255]], np.uint8)).save(labels / f"{frame}_gtFine_labelTrainIds.png")
    found = dataset(tmp_path, "leftImg8bit/train", "gtFine/train", labels="cityscapes")
    assert [item["gt_seg_map"].tolist() for item in found] == [[[0, 255]], [[13, 255]]]


def test_the_frame_of_cityscapes_is_read_alike_in_both_forms(shared, tmp_path):
    root = shared / "data/pseudo_cityscapes"
    (frame,) = dataset(root, "leftImg8bit/val", "gtFine/val", labels="cityscapes")
    assert frame["seg_map_path"].endswith("_labelTrainIds.png")
    ids = root / "gtFine/val/frankfurt/frankfurt_000000_000294_gtFine_labelIds.png"
    found = DATASETS.get("SegmentationDataset")
    copy = tmp_path / "gtFine/frankfurt"
    copy.mkdir(parents=True)
    (copy / ids.name).write_bytes(ids.read_bytes())
    (again,) = found(
        labels="cityscapes",
        data_prefix={"img_path": str(root / "leftImg8bit/val"), "seg_map_path": str(tmp_path / "gtFine")},
        pipeline=[{"type": "LoadImageFromFile"}, {"type": "LoadLabels"}],
    )
    same = again["gt_seg_map"] == frame["gt_seg_map"]
    assert same.mean() > 0.997  # whoever shrank this frame shrank both forms, so that edges differ


def test_a_folder_of_ones_own(tmp_path):
    folders(tmp_path, "train/deep", "trainannot/deep")
    Image.new("RGB", (2, 2)).save(tmp_path / "train/deep/a.webp")
    Image.fromarray(np.array([[1, 2], [0, 255]], np.uint8)).save(tmp_path / "trainannot/deep/a.png")
    options = {"labels": None, "metainfo": {"classes": ("cat", "dog")}, "stored": {0: 255, 1: 0, 2: 1}}
    found = dataset(tmp_path, **options)
    assert found[0]["gt_seg_map"].tolist() == [[0, 1], [255, 255]]
    assert found.metainfo["classes"] == ("cat", "dog")
    assert len({tuple(color) for color in found.metainfo["palette"]}) == 2


def test_images_without_labels_can_be_predicted_only(tmp_path):
    folders(tmp_path, "test")
    Image.new("RGB", (2, 2)).save(tmp_path / "test/a.png")
    (item,) = dataset(tmp_path, "test", None)
    assert "gt_seg_map" not in item


def test_images_of_rare_classes_are_repeated(tmp_path):
    folders(tmp_path, "train", "trainannot")
    values = [[0, 2], [0, 1], [0, 11], [1, 0]]  # 11: void
    for name, row in zip("abcd", values, strict=True):
        Image.new("RGB", (2, 1)).save(tmp_path / f"train/{name}.png")
        Image.fromarray(np.array([row], np.uint8)).save(tmp_path / f"trainannot/{name}.png")
    found = dataset(tmp_path)
    assert [found.get_cat_ids(index) for index in range(4)] == [[0, 2], [0, 1], [0], [0, 1]]
    assert [found.get_subset([3, 0]).get_cat_ids(index) for index in range(2)] == [[0, 1], [0, 2]]
    assert dataset(tmp_path, indices=[2, 0]).get_cat_ids(1) == [0, 2]
    balanced = DATASETS.build({"type": "ClassBalancedDataset", "oversample_thr": 1.0, "dataset": found})
    # the square roots of 1 / frequency, rounded up: 2 for the class in one of four images, 2 for that in two
    assert [Path(item["img_path"]).stem for item in balanced] == list("aabbcdd")


def test_the_background_beside_a_single_class_is_not_a_class(tmp_path):
    folders(tmp_path, "train", "trainannot")
    for name, value in (("a", 0), ("b", 255)):
        Image.new("RGB", (2, 1)).save(tmp_path / f"train/{name}.png")
        Image.new("L", (2, 1), value).save(tmp_path / f"trainannot/{name}.png")
    found = dataset(tmp_path, labels=None, metainfo={"classes": ["polyp"]}, mask_threshold=128)
    assert [found.get_cat_ids(index) for index in range(2)] == [[], [0]]


def test_images_without_labels_have_no_classes(tmp_path):
    folders(tmp_path, "test")
    Image.new("RGB", (2, 2)).save(tmp_path / "test/a.png")
    assert dataset(tmp_path, "test", None).get_cat_ids(0) == []


def save_pair(root, label, size=(8, 6)):
    folders(root, "train", "trainannot")
    Image.new("RGB", size).save(root / "train/a.png")
    if label is not None:
        Image.fromarray(label).save(root / "trainannot/a.png")


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (None, r"no label image in .*trainannot for .*train/a\.png: expected a\.png"),
        (np.zeros((6, 7), np.uint8), r"trainannot/a\.png is 7×6 pixels, its image .*a\.png is 8×6"),
        (
            np.zeros((6, 8), np.uint16),
            r"trainannot/a\.png is of mode I;16, expected one channel of up to 8 bits",
        ),
        (
            np.zeros((6, 8, 3), np.uint8),
            r"trainannot/a\.png is of mode RGB, expected one channel of up to 8 bits",
        ),
        (np.full((6, 8), 12, np.uint8), r"trainannot/a\.png holds 12, which camvid has no class for"),
    ],
    ids=["missing", "size", "16 bits", "RGB", "unknown"],
)
def test_bad_labels_are_named(tmp_path, label, message):
    save_pair(tmp_path, label)
    with pytest.raises(UserError, match=message):
        dataset(tmp_path)[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": "kitti"}, "labels='kitti' is not a known label set; known: cityscapes, "),
        ({"metainfo": {"classes": ("a",)}}, "labels='camvid' defines its classes"),
        ({"labels": None}, "needs labels, or metainfo"),
        ({"labels": None, "metainfo": {"classes": ("a", "a")}}, "names 'a' twice"),
        (
            {"labels": None, "metainfo": {"classes": ("a",), "palette": []}, "stored": {3: 2}},
            r"stored=\{3: 2\}",
        ),
        (
            {"labels": None, "metainfo": {"classes": ("a",), "palette": [(1, 1, 1)] * 2}},
            "1 class, but 2 col",
        ),
    ],
)
def test_bad_label_sets_are_named(tmp_path, options, message):
    save_pair(tmp_path, np.zeros((6, 8), np.uint8))
    with pytest.raises(UserError, match=message):
        dataset(tmp_path, **options)


@pytest.mark.parametrize("size", [(1, 1), (1, 70), (63, 65), (97, 131)])
def test_images_of_any_size_are_segmented_at_their_own(size):
    """Below 64 pixels a side the image is padded with the mean colour, below and on the right."""
    torch.manual_seed(0)
    segmentor = build(5).eval()
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    meta = {"img_shape": size, "ori_shape": size}
    with torch.inference_mode():
        (found,) = segmentor.test_step({"inputs": [image], "data_samples": [SegDataSample(metainfo=meta)]})
        rule = segmentor.data_preprocessor
        enlarged = rule.mean.repeat(1, max(64, size[0]), max(64, size[1]))
        enlarged[:, : size[0], : size[1]] = image
        enlarged = ((enlarged - rule.mean) / rule.std)[None]
        logits = segmentor.encode_decode(enlarged, [{"img_shape": torch.Size(enlarged.shape[2:])}])
    assert found.pred_sem_seg.data.shape == (1, *size)
    torch.testing.assert_close(found.seg_logits.data, logits[0, :, : size[0], : size[1]])


def test_another_kind_of_row_is_refused():
    with pytest.raises(ValueError, match="'hardnet68': expected an FC-HarDNet"):
        FCHarDNetHead("hardnet68")


def test_detection_after_segmentation_in_one_process(tiny):
    """mmseg's scope must not stay behind: mmdet's data set and transforms are found afterwards."""
    build()
    config, data = tiny
    from hardnet_suite.openmm.run.configs import set_data_root

    cfg = load_config(config)
    set_data_root(cfg, data)
    with DefaultScope.overwrite_default_scope("mmdet"):
        dataset = DATASETS.build(cfg.train_dataloader.dataset)
        assert dataset[0]["inputs"].shape == (3, 224, 224)
        cfg.model.init_cfg = None
        MODELS.build(cfg.model)
