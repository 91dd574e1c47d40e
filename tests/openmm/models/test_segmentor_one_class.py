"""Segmentation of one class: loss, score, saved predictions and drawings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import METRICS, MODELS, DefaultScope
from mmengine.structures import PixelData
from PIL import Image

import hardnet_suite.openmm.segmentation  # noqa: F401
from hardnet_suite.data.segmentation import own_labels, read_label
from hardnet_suite.errors import UserError
from hardnet_suite.evaluation.segmentation import evaluate_folders
from hardnet_suite.openmm.run.configs import load_config
from hardnet_suite.visualization.segmentation import draw_segmentation_results, error_map, strip

from mmseg.models.losses import DiceLoss  # isort: skip
from mmseg.structures import SegDataSample  # isort: skip

MASK = own_labels(("object",), [(255, 0, 0)], {0: 1, 255: 0, 9: 255})


@pytest.fixture(autouse=True)
def _mmseg_scope():
    with DefaultScope.overwrite_default_scope("mmseg"):
        yield


def build(**head):
    cfg = load_config("fchardnet70_camvid")
    cfg.model.decode_head.merge({"num_classes": 1} | head)
    torch.manual_seed(0)
    return MODELS.build(cfg.model)


def sample(target):
    made = SegDataSample(metainfo={"img_shape": target.shape, "ori_shape": target.shape})
    made.gt_sem_seg = PixelData(data=target[None])
    return made


@pytest.mark.parametrize(
    "loss",
    [
        {"type": "BootstrappedCrossEntropyLoss", "min_kept": 100, "threshold": 0.3, "_delete_": True},
        {"type": "CrossEntropyLoss", "use_sigmoid": True, "_delete_": True},
    ],
)
def test_training_raises_the_logit_where_the_class_is(loss):
    """Object 0, background 1 and ignored 255 in the target; both losses learn the same sign."""
    segmentor = build(loss_decode=loss).train()
    images = torch.randn(2, 3, 64, 64)
    target = torch.ones(64, 64, dtype=torch.long)
    target[:, 32:], target[:8] = 0, 255
    images[:, :, :, 32:] += 2
    optimizer = torch.optim.Adam(segmentor.parameters(), 3e-3)
    losses = []
    for _ in range(12):
        result = segmentor.loss(images, [sample(target)] * 2)
        (value,) = (value for name, value in result.items() if "loss" in name)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(float(value))
    assert losses[0] > 0.3
    assert losses[-1] < losses[0]
    with torch.no_grad():
        logits = segmentor.decode_head(segmentor.extract_feat(images))
    assert logits.shape == (2, 1, 16, 16)
    assert logits[..., 4:, 8:].mean() > logits[..., 4:, :8].mean()
    assert all(p.grad is not None and p.grad.any() for p in segmentor.decode_head.parameters())


def test_the_logged_accuracy_is_that_of_the_threshold():
    segmentor = build().eval()
    samples = [sample(torch.tensor([[0, 0, 1, 255]]))]
    losses = segmentor.decode_head.loss_by_feat(torch.tensor([[[[9.0, -9.0, -9.0, 9.0]]]]), samples)
    assert losses["decode.acc_seg" if "decode.acc_seg" in losses else "acc_seg"] == pytest.approx(200 / 3)


def test_the_threshold_is_one_half_unless_given():
    assert build().decode_head.threshold == 0.5
    assert build(threshold=0.3).decode_head.threshold == 0.3


def test_one_logit_for_two_classes_is_refused():
    with pytest.raises(UserError, match="set num_classes=1 and name the object as the only class"):
        build(num_classes=2, out_channels=1)


ONE_CLASS = [
    {"type": "StructureLoss"},
    {"type": "BootstrappedCrossEntropyLoss"},
    {"type": "mmengine.StructureLoss"},
    {"type": "CrossEntropyLoss", "use_sigmoid": True},
    {"type": "LovaszLoss", "loss_type": "binary", "reduction": "none"},
    {"type": "OwnLoss"},
]
SEVERAL_CLASSES = [
    {"type": "CrossEntropyLoss"},
    {"type": "mmseg.CrossEntropyLoss", "use_mask": True},
    {"type": "DiceLoss"},
    {"type": "mmseg.DiceLoss", "use_sigmoid": True},
    {"type": DiceLoss},
    {"type": "FocalLoss"},
    {"type": "TverskyLoss"},
    {"type": "LovaszLoss", "reduction": "none"},
    {"type": "OhemCrossEntropy"},
    {"type": "HuasdorffDisstanceLoss"},
]


@MODELS.register_module()
class OwnLoss(torch.nn.Module):
    pass


def head_of(loss, num_classes=1, sampler=None):
    options = {"num_classes": num_classes, "loss_decode": loss, "sampler": sampler}
    return MODELS.build({"type": "FCHarDNetHead", "arch": "hardnet_mseg", **options})


def auxiliary(loss):
    return {
        "type": "FCNHead",
        "in_channels": 320,
        "in_index": 0,
        "channels": 8,
        "num_convs": 1,
        "num_classes": 1,
        "out_channels": 1,
        "loss_decode": loss,
    }


@pytest.mark.parametrize("loss", ONE_CLASS)
def test_losses_of_one_class(loss):
    assert head_of(loss).num_classes == 1
    assert len(head_of([loss, ONE_CLASS[0]]).loss_decode) == 2


@pytest.mark.parametrize("loss", SEVERAL_CLASSES)
def test_losses_of_several_classes_are_refused_with_one(loss):
    name = getattr(loss["type"], "__name__", loss["type"]).rpartition(".")[2]
    message = f"decode_head.loss_decode: {name} needs two classes .*StructureLoss, BootstrappedCrossEntropy"
    for losses in (loss, [ONE_CLASS[0], loss]):
        with pytest.raises(UserError, match=message):
            head_of(losses)
    assert head_of(loss, num_classes=2).num_classes == 2


@pytest.mark.parametrize(
    ("loss", "num_classes", "message"),
    [
        ({"type": "StructureLoss"}, 2, r"StructureLoss: expected logits of shape \(N, 1, H, W\)"),
        (
            {"type": "BootstrappedCrossEntropyLoss", "class_weight": [1.0, 2.0]},
            3,
            r"class_weight \(BootstrappedCrossEntropyLoss\) has 2 values, expected one per class: 3",
        ),
        ({"type": "BootstrappedCrossEntropyLoss", "class_weight": [1.0, 2.0]}, 1, "per class: 1"),
        ({"type": "CrossEntropyLoss", "class_weight": [1.0, 2.0]}, 3, r"\(CrossEntropyLoss\) has 2 values"),
        ({"type": "FocalLoss", "class_weight": [1.0]}, 2, r"\(FocalLoss\) has 1 value,"),
        (
            {"type": "CrossEntropyLoss", "class_weight": [1.0, -2.0]},
            2,
            r"class_weight \(CrossEntropyLoss\) must hold finite numbers of at least 0, got -2\.0",
        ),
        ({"type": "CrossEntropyLoss", "class_weight": [1.0, float("nan")]}, 2, "of at least 0, got nan"),
        (
            {"type": "CrossEntropyLoss", "use_sigmoid": True, "class_weight": [1.0, 2.0]},
            2,
            "cannot be used with use_sigmoid=True and 2 classes",
        ),
    ],
)
def test_losses_of_another_number_of_classes_are_refused(loss, num_classes, message):
    with pytest.raises(UserError, match=rf"^decode_head\.loss_decode.*{message}"):
        head_of(loss, num_classes)


def test_one_weight_per_class_is_taken(tmp_path):
    np.save(tmp_path / "weights.npy", np.array([1.0, 0.0, 2.0]))
    for weights in ([1, 0, 2.0], str(tmp_path / "weights.npy")):
        head = head_of({"type": "CrossEntropyLoss", "class_weight": weights}, 3)
        assert list(head.loss_decode.class_weight) == [1, 0, 2]


OHEM = {"type": "mmseg.OHEMPixelSampler", "min_kept": 100}
BOOTSTRAPPED = {"type": "BootstrappedCrossEntropyLoss"}


@pytest.mark.parametrize(
    ("loss", "num_classes", "sampler", "message"),
    [
        (BOOTSTRAPPED, 3, OHEM, r"loss_decode: Bootstrapped.* selects the hard pixels .*remove the sampler"),
        (BOOTSTRAPPED, 3, OHEM | {"thresh": 0.7}, "remove the sampler"),
        ([{"type": "CrossEntropyLoss"}, BOOTSTRAPPED], 3, OHEM, "remove the sampler"),
        (
            {"type": "StructureLoss"},
            1,
            OHEM,
            "StructureLoss: this loss weights the pixels .*remove the sampler",
        ),
        ({"type": "DiceLoss"}, 3, OHEM, r"sampler: OHEMPixelSampler\(thresh=None\) .* DiceLoss and 3 logits"),
        (
            {"type": "CrossEntropyLoss", "use_sigmoid": True},
            1,
            OHEM | {"thresh": 0.7},
            r"sampler: OHEMPixelSampler\(thresh=0\.7\) cannot .* CrossEntropyLoss and 1 logit ",
        ),
        (
            {"type": "CrossEntropyLoss"},
            3,
            OHEM | {"min_kept": 0},
            r"sampler\.min_kept must be an integer of at least 2, got 0",
        ),
        ({"type": "CrossEntropyLoss"}, 3, OHEM | {"thresh": "x"}, r"sampler\.thresh must be a finite number"),
    ],
)
def test_a_sampler_that_its_losses_cannot_have_is_refused(loss, num_classes, sampler, message):
    with pytest.raises(UserError, match=rf"^decode_head\..*{message}"):
        head_of(loss, num_classes, sampler)


@pytest.mark.parametrize("thresh", [None, 0.7])
def test_a_sampler_of_mmsegs_cross_entropy_is_taken(thresh):
    assert head_of({"type": "CrossEntropyLoss"}, 3, OHEM | {"thresh": thresh}).sampler is not None


def test_the_sampler_of_an_auxiliary_head():
    cfg = load_config("fchardnet70_camvid")
    cfg.model.decode_head.num_classes = 1
    head = auxiliary(ONE_CLASS[3]) | {"sampler": OHEM | {"min_kept": 1}}
    with pytest.raises(UserError, match=r"^auxiliary_head\.sampler\.min_kept must be .* at least 2, got 1"):
        MODELS.build({**cfg.model, "auxiliary_head": head})


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("BootstrappedCrossEntropyLoss", {"min_kept": 10.5}, "min_kept must be an integer"),
        ("BootstrappedCrossEntropyLoss", {"threshold": float("nan")}, "threshold must be a number, got nan"),
        (
            "BootstrappedCrossEntropyLoss",
            {"class_weight": [1.0, -1.0]},
            r"class_weight must be a list of one finite .*",
        ),
        ("BootstrappedCrossEntropyLoss", {"class_weight": []}, r"class_weight must be a list .* got \[\]"),
        ("BootstrappedCrossEntropyLoss", {"class_weight": "a.npy"}, "class_weight must be a list"),
        ("BootstrappedCrossEntropyLoss", {"class_weight": 2.0}, "class_weight must be a list"),
        (
            "BootstrappedCrossEntropyLoss",
            {"loss_weight": float("inf")},
            "loss_weight must be a finite number",
        ),
        ("StructureLoss", {"loss_weight": -1.0}, "loss_weight must be a finite number of at least 0"),
        ("StructureLoss", {"edge_weight": float("inf")}, "edge_weight must be a finite number"),
        ("StructureLoss", {"window": 4}, "window must be an odd integer"),
        ("StructureLoss", {"weighted_bce": 1}, "weighted_bce must be True or False"),
    ],
)
def test_options_of_the_suites_losses_out_of_range(kind, options, message):
    with pytest.raises(ValueError, match=message):
        MODELS.build({"type": kind, **options})


@pytest.mark.parametrize("several", [False, True])
def test_the_losses_of_auxiliary_heads(several):
    def build_with(loss):
        heads = [auxiliary(ONE_CLASS[3]), auxiliary(loss)] if several else auxiliary(loss)
        cfg = load_config("fchardnet70_camvid")
        cfg.model.decode_head.num_classes = 1
        return MODELS.build({**cfg.model, "auxiliary_head": heads})

    assert build_with(ONE_CLASS[3]).with_auxiliary_head
    with pytest.raises(UserError, match=r"auxiliary_head\.loss_decode: DiceLoss needs two classes"):
        build_with({"type": "DiceLoss"})


def metric(**options):
    made = METRICS.build({"type": "SegmentationIoU", **options})
    made.dataset_meta = {"classes": MASK.classes, "palette": MASK.palette, "labels": None}
    return made


TARGET = np.array([[0, 0, 0, 1, 1, 255]])
PREDICTION = np.array([[0, 0, 255, 0, 255, 0]])  # right twice, one missed, one false, one right, one ignored


@pytest.mark.parametrize("none", [255, 1])
@pytest.mark.parametrize("kind", [np.uint8, np.int64, np.float32])
def test_the_score_is_the_iou_of_the_class(tmp_path, none, kind):
    scorer = metric(predictions_dir=str(tmp_path))
    prediction = np.where(PREDICTION == 255, none, PREDICTION).astype(kind)
    data = [
        {
            "pred_sem_seg": {"data": torch.from_numpy(prediction)[None]},
            "gt_sem_seg": {"data": torch.from_numpy(TARGET)[None]},
            "img_path": "a.jpg",
        }
    ]
    scorer.process({}, data)
    figures = scorer.evaluate(1)
    assert figures == {
        "mIoU": pytest.approx(2 / 4),
        "aAcc": pytest.approx(3 / 5),
        "mAcc": pytest.approx(2 / 3),
    }
    assert list(scorer.details["per_class"]) == ["object"]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), PREDICTION)


def test_saved_predictions_are_scored_as_in_the_run(tmp_path):
    for folder, array in (("truth", [[255, 255, 255, 0, 0, 9]]), ("predictions", PREDICTION)):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.asarray(array, np.uint8)).save(tmp_path / folder / "a.png")
    assert read_label(tmp_path / "truth/a.png", MASK).tolist() == TARGET.tolist()
    scores = evaluate_folders(tmp_path / "predictions", tmp_path / "truth", MASK)
    assert scores.metrics == {
        "mIoU": pytest.approx(2 / 4),
        "aAcc": pytest.approx(3 / 5),
        "mAcc": pytest.approx(2 / 3),
    }
    assert "object" in scores.table(MASK.classes)
    assert list(scores.report(MASK.classes)["per_class"]) == ["object"]


def test_an_image_of_background_alone_counts():
    scorer = metric()
    background = torch.ones(1, 2, 2, dtype=torch.long)
    data = {"pred_sem_seg": {"data": torch.full((1, 2, 2), 255)}, "gt_sem_seg": {"data": background}}
    scorer.process({}, [data | {"img_path": "a.jpg"}])
    figures = scorer.evaluate(1)
    assert figures["aAcc"] == 1
    assert np.isnan(figures["mIoU"])  # the class is nowhere


@pytest.mark.parametrize("none", [255, 1])
def test_the_background_is_neither_tinted_nor_wrong(tmp_path, none):
    grey = np.full((64, 96, 3), 128, np.uint8)
    target = np.ones((64, 96), np.int64)
    target[:, 48:] = 0
    drawn = strip(grey, target, np.where(target == 1, none, 0), MASK.palette, MASK.classes)
    alone = strip(grey, None, np.where(target == 1, none, 0), MASK.palette, MASK.classes)
    assert drawn.shape[1] > alone.shape[1]
    right = error_map(grey, target, target)
    width = drawn.shape[1] // 4
    assert np.array_equal(drawn, strip(grey, target, target, MASK.palette, MASK.classes))
    assert width >= right.shape[1]
    Image.fromarray(grey).save(tmp_path / "a.png")
    Image.fromarray(np.where(target == 1, 0, 255).astype(np.uint8)).save(tmp_path / "label.png")
    Image.fromarray(np.where(target == 1, 255, 0).astype(np.uint8)).save(tmp_path / "prediction.png")
    triple = [tmp_path / name for name in ("a.png", "label.png", "prediction.png")]
    assert draw_segmentation_results([triple], MASK, tmp_path / "drawn") == 1
    assert Path(tmp_path / "drawn/a.jpg").is_file()
