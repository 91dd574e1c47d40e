"""FC-HarDNet as an mmsegmentation model: parity with the published program, its loss, its data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS, MODELS, DefaultScope
from PIL import Image
from reference import assert_parity

import hardnet_suite.openmm.segmentation  # noqa: F401
from hardnet_suite.losses import bootstrapped_cross_entropy
from hardnet_suite.openmm.configs import load_config
from hardnet_suite.openmm.segmentation import fchardnet_arch
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


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_camvid_with_its_void_ignored(tmp_path, suffix):
    for folder in ("train", "trainannot"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (8, 6)).save(tmp_path / f"train/a{suffix}")
    labels = np.arange(48, dtype=np.uint8).reshape(6, 8) % 12
    Image.fromarray(labels).save(tmp_path / "trainannot/a.png")
    dataset = DATASETS.build(
        {
            "type": "CamVidDataset",
            "data_root": str(tmp_path),
            "data_prefix": {"img_path": "train", "seg_map_path": "trainannot"},
            "pipeline": [{"type": "LoadPicture"}, {"type": "LoadAnnotations"}],
        }
    )
    assert len(dataset) == 1
    assert len(dataset.metainfo["classes"]) == len(dataset.metainfo["palette"]) == 11
    found = dataset[0]["gt_seg_map"]
    assert np.array_equal(found, np.where(labels == 11, 255, labels))


def test_another_kind_of_row_is_refused():
    with pytest.raises(ValueError, match="'hardnet68' is no FC-HarDNet"):
        fchardnet_arch("hardnet68")


def test_detection_after_segmentation_in_one_process(tiny):
    """mmseg's scope must not stay behind: mmdet's data set and transforms are found afterwards."""
    build()
    config, data = tiny
    from hardnet_suite.openmm.configs import set_data_root

    cfg = load_config(config)
    set_data_root(cfg, data)
    with DefaultScope.overwrite_default_scope("mmdet"):
        dataset = DATASETS.build(cfg.train_dataloader.dataset)
        assert dataset[0]["inputs"].shape == (3, 224, 224)
        cfg.model.init_cfg = None
        MODELS.build(cfg.model)
