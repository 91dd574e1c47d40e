"""benchmarks/sweep.py: HarDNet in the place of the backbones of mmdet's and mmseg's models."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
from mmengine.config import ConfigDict

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
# models of unlike kinds; the whole is a command
SAMPLE = [
    *("mmdet/carafe", "mmdet/centernet", "mmdet/conditional_detr", "mmdet/cornernet", "mmdet/dcnv2"),
    *("mmdet/dyhead", "mmdet/guided_anchoring", "mmdet/mask2former", "mmdet/queryinst", "mmdet/solov2"),
    *(
        "mmdet/soft_teacher",
        "mmdet/yolo",
        "mmdet/yolox",
        "mmseg/deeplabv3plus",
        "mmseg/fastfcn",
        "mmseg/knet",
        "mmseg/ocrnet",
    ),
    *("mmseg/point_rend", "mmseg/psanet"),
]


@pytest.fixture
def sweep(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("sweep")


@pytest.mark.parametrize(
    ("strides", "levels", "output_stride"),
    [
        ([4, 8, 16, 32], [1, 2, 3, 4], 32),
        ([8, 16, 32], [2, 3, 4], 32),
        ([2, 4, 8, 16, 32], [0, 1, 2, 3, 4], 32),
        ([16], [3], 32),
        ([4, 8, 8, 8], [1, 2, 3, 4], 8),
        ([4, 8, 16, 16], [1, 2, 3, 4], 16),
    ],
)
def test_maps_of_the_same_strides(sweep, strides, levels, output_stride):
    assert sweep.levels_for(strides) == (levels, output_stride)


@pytest.mark.parametrize("strides", [[1, 2, 4], [16, 16, 16, 16], [32, 16, 8], [64], [8, 16, 32, 64], [12]])
def test_maps_that_no_pyramid_has(sweep, strides):
    with pytest.raises(sweep.NoPlaceError, match="stride"):
        sweep.levels_for(strides)


def test_the_first_neck_reads_the_backbone(sweep):
    model = ConfigDict(
        neck=[
            {"type": "FPN", "in_channels": [256, 512], "out_channels": 256},
            {"type": "BFP", "in_channels": 256},
        ],
        bbox_head={"in_channels": 256},
    )
    sweep.connect(model, [256, 512], [96, 320])
    assert model.neck[0].in_channels == [96, 320]
    assert (model.neck[0].out_channels, model.neck[1].in_channels, model.bbox_head.in_channels) == (256,) * 3


def test_heads_without_a_neck_read_the_backbone(sweep):
    model = ConfigDict(
        decode_head={"in_channels": [256, 512], "in_index": [0, 1], "channels": 512},
        auxiliary_head=[{"in_channels": 256, "in_index": 0}, {"in_channels": 64, "num_convs": 1}],
    )
    sweep.connect(model, [256, 512], [96, 320])
    assert (model.decode_head.in_channels, model.decode_head.channels) == ([96, 320], 512)
    assert [head.in_channels for head in model.auxiliary_head] == [96, 64]


def test_layers_of_fixed_widths_get_theirs(sweep):
    """The C4 form of Faster R-CNN: the last stage of a ResNet is part of its head."""
    model = ConfigDict(roi_head={"shared_head": {"type": "ResLayer"}}, rpn_head={"in_channels": 1024})
    sweep.connect(model, [1024], [640])
    assert (model.neck.in_channels, model.neck.out_channels, model.rpn_head.in_channels) == (
        [640],
        1024,
        1024,
    )


def test_maps_that_a_neck_passes_through(sweep):
    model = ConfigDict(
        neck={"type": "SSDNeck", "in_channels": (512, 1024), "out_channels": (512, 1024, 512, 256)},
        bbox_head={"in_channels": (512, 1024, 512, 256)},
    )
    sweep.connect(model, [512, 1024], [320, 640])
    assert model.neck.in_channels == (320, 640)
    assert model.neck.out_channels == model.bbox_head.in_channels == (320, 640, 512, 256)


@pytest.mark.parametrize(("neck", "reader"), [("JPU", "auxiliary_head"), ("GlobalAveragePooling", "head")])
def test_heads_that_read_through_a_neck(sweep, neck, reader):
    model = ConfigDict(neck={"type": neck}, **{reader: {"in_channels": 2048, "out_channels": 128}})
    sweep.connect(model, [2048], [1024])
    assert (model[reader].in_channels, model[reader].out_channels) == (1024, 128)


@pytest.mark.parametrize("key", ["init_cfg", "pretrained", "checkpoint"])
@pytest.mark.parametrize("part", ["backbone", "postprocess_model"])
def test_nothing_is_downloaded(sweep, part, key):
    model = ConfigDict({part: {key: "https://download.openmmlab.com/a.pth"}})
    sweep.made_for_one_process(model)
    assert model[part][key] is None


def test_layers_are_not_recomputed(sweep):
    """mmdet does so by fairscale, which has no wheels."""
    model = ConfigDict(encoder={"num_cp": 6, "num_layers": 6})
    sweep.made_for_one_process(model)
    assert (model.encoder.num_cp, model.encoder.num_layers) == (0, 6)


def test_models_of_many_classes_get_fewer(sweep):
    heads = [{"num_classes": 13204, "loss_cls": {"num_classes": 13204}}, {"num_classes": 80}]
    model = ConfigDict(roi_head={"bbox_head": heads})
    sweep.made_for_one_process(model)
    first, second = model.roi_head.bbox_head
    assert (first.num_classes, first.loss_cls.num_classes, second.num_classes) == (1203, 1203, 80)


@pytest.mark.parametrize(
    ("rule", "thresholds"),
    [
        ({"score_thr": 0.01, "nms": {"type": "nms"}}, {"obj_score_thrs": {"high": 0.6, "low": 0.1}}),
        ({"rcnn": {"score_thr": 0.05}}, {"obj_score_thr": 0.5}),
    ],
)
def test_trackers_follow_what_an_untrained_detector_finds(sweep, rule, thresholds):
    model = ConfigDict(detector={"test_cfg": rule}, tracker={**thresholds, "match_iou_thr": 0.5})
    sweep.follow_all_boxes(model)
    scores = model.tracker.get("obj_score_thrs", {"all": model.tracker.get("obj_score_thr")})
    assert {*scores.values(), model.detector.test_cfg.get("score_thr", 0.0)} == {0.0}
    assert model.tracker.match_iou_thr == 0.5


def test_kinds_that_other_families_have_are_tried_once(sweep):
    fpn, mask = frozenset({"FasterRCNN", "FPN"}), frozenset({"MaskRCNN", "FPN"})
    kinds = {
        "mmdet/a": [(Path("a1"), fpn, ""), (Path("a2"), mask, "")],
        "mmdet/b": [(Path("b1"), fpn, ""), (Path("b2"), mask, "")],
        "mmdet/c": [(Path("c1"), frozenset(), "no such package")],
    }
    assert sweep.planned(kinds) == [
        ("mmdet/a", Path("a1"), ""),
        ("mmdet/a", Path("a2"), ""),
        ("mmdet/b", Path("b1"), ""),
        ("mmdet/c", Path("c1"), "no such package"),
    ]


@pytest.mark.parametrize(
    ("with_hardnet", "with_its_own", "answer"),
    [
        ("loss 1", None, "WORKS"),
        (ValueError("a"), "loss 1", "FAILS"),
        (ValueError("a"), ValueError("b"), "NOT_HERE"),
        (ValueError("a"), TimeoutError("slow"), "FAILS"),
        (TimeoutError("slow"), TimeoutError("slow"), "NOT_HERE"),
        ("3 of 9 {untrained}", "loss 1", "FAILS"),
        ("3 of 9 {untrained}", "1 of 5 {untrained}", "WORKS"),
        ("3 of 9 {untrained}", TimeoutError("slow"), "FAILS"),
        ("3 of 9 {untrained}", ValueError("b"), "NOT_HERE"),
    ],
)
def test_what_fails_is_tried_with_its_own_backbone(
    sweep, tmp_path, monkeypatch, with_hardnet, with_its_own, answer
):
    def run(model, path, arch):
        result = with_its_own if arch is None else with_hardnet
        if isinstance(result, Exception):
            raise result
        return "ResNet", result.format(untrained=sweep.UNTRAINED)

    (tmp_path / "config.py").write_text("model = dict(type='RetinaNet')\n")
    monkeypatch.setattr(sweep, "run_detector", run)
    row = sweep.row_of("mmdet/atss", tmp_path / "config.py", "", arch="hardnet68", limit=60)
    assert row.answer == getattr(sweep, answer)


def test_unknown_families(sweep):
    with pytest.raises(SystemExit, match="no family fits mmdet/none: there are mmdet/albu_example"):
        sweep.families(["mmdet/none"])
    assert sweep.families(["mmseg/deeplab*"]) == ["mmseg/deeplabv3", "mmseg/deeplabv3plus"]


def run(sweep, tmp_path, *families: str) -> list[dict]:
    files = ("--json", str(tmp_path / "a.json"), "--markdown", str(tmp_path / "a.md"))
    code = sweep.main([*families, *files, "--limit", "1800"])
    rows = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert code == any(row["answer"] == sweep.FAILS for row in rows)
    table = (tmp_path / "a.md").read_text()
    assert all(f"| {row['family']} | " in table for row in rows)
    return rows


def test_a_dilated_segmentor_and_one_without_a_place(sweep, tmp_path):
    pytest.importorskip("pkg_resources", reason="mmengine finds packages by it: setuptools < 82")
    own, works, *_ = run(sweep, tmp_path, "mmseg/psanet", "mmseg/bisenetv1")
    assert (works["model"], works["backbone"], works["answer"]) == (
        "EncoderDecoder",
        "ResNetV1c",
        sweep.WORKS,
    )
    assert (own["backbone"], own["answer"]) == ("BiSeNetV1", sweep.NO_PLACE)


@pytest.mark.slow
@pytest.mark.parametrize("family", SAMPLE)
def test_a_sample_of_all_models(sweep, tmp_path, family):
    pytest.importorskip("pkg_resources", reason="mmengine finds packages by it: setuptools < 82")
    rows = run(sweep, tmp_path, family)
    assert {row["answer"] for row in rows} == {sweep.WORKS}, rows
