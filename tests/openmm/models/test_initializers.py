"""Published weights as init_cfg, and checkpoints into whole models."""

from __future__ import annotations

import socket
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import save_checkpoint

import hardnet_suite.openmm  # noqa: F401
from hardnet_suite import create_model
from hardnet_suite.errors import UserError
from hardnet_suite.openmm.models.initializers import initial_row, load_checkpoint
from hardnet_suite.openmm.run.configs import drop_pretrained
from hardnet_suite.weights import convert_official, registry
from hardnet_suite.weights.convert import in_target

CLASSIFIERS = ("hardnet39ds", "hardnet68ds", "hardnet68", "hardnet85")
CONFIGS = Path(__file__).resolve().parents[3] / "configs"


@pytest.fixture(autouse=True)
def _surroundings(tmp_path, monkeypatch):
    """mmdet's scope; no weights but those a test brings along; every address dead."""
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch_home"))
    monkeypatch.delenv("HARDNET_WEIGHTS_DIR", raising=False)
    monkeypatch.setenv("no_proxy", "*")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    monkeypatch.setattr(registry, "ROWS", tuple(dead(row, port) for row in registry.ROWS))
    with DefaultScope.overwrite_default_scope("mmdet"):
        yield


def dead(row: registry.WeightsRow, port: int) -> registry.WeightsRow:
    urls = tuple(replace(address, url=f"http://127.0.0.1:{port}/{address.file}") for address in row.urls)
    return replace(row, urls=urls)


@cache
def official(golden, name: str) -> dict[str, torch.Tensor]:
    return golden.state_dict(name)


def official_file(folder: Path, golden, name: str, wrap=lambda tensors: tensors) -> str:
    path = folder / f"{name}.pth"
    torch.save(wrap(official(golden, name)), path)
    return str(path)


def backbone(arch: str, **init) -> dict:
    return {"type": "HarDNet", "arch": arch, "init_cfg": {"type": "HarDNetPretrained", **init}}


def ssd(name: str, init_cfg: dict | None) -> torch.nn.Module:
    cfg = Config.fromfile(CONFIGS / f"{name}.py").model
    cfg.init_cfg = init_cfg
    return MODELS.build(cfg)


def assert_equal_where_common(model: torch.nn.Module, expected: dict[str, torch.Tensor]) -> set[str]:
    """Compares what both have, and returns those keys."""
    common = model.state_dict().keys() & expected.keys()
    for key in common:
        torch.testing.assert_close(model.state_dict()[key], expected[key], rtol=0, atol=0, msg=key)
    return common


# --- HarDNetPretrained on a backbone


@pytest.mark.parametrize("arch", CLASSIFIERS)
def test_an_official_file_into_a_backbone(arch, golden, tmp_path):
    file = official_file(tmp_path, golden, arch)
    model = MODELS.build(backbone(arch, file=file))
    model.init_weights()
    tensors = official(golden, arch)
    assert assert_equal_where_common(model, convert_official(arch, tensors)) == set(model.state_dict())
    torch.testing.assert_close(model.trunk.stem[0].conv.weight.data, tensors["base.0.conv.weight"])


@pytest.mark.parametrize("form", ["own", "mmengine"])
def test_a_classifier_of_this_suite_into_a_backbone(tmp_path, form):
    """Trained by ourselves, with a head of its own; as a file of weights, or the checkpoint of a run."""
    source = create_model("hardnet39ds", num_classes=3).state_dict()
    tensors = source if form == "own" else in_target("hardnet39ds", source, "mmengine")
    torch.save({"meta": {}, "state_dict": tensors}, tmp_path / "own.pth")
    model = MODELS.build(backbone("hardnet39ds", file=str(tmp_path / "own.pth")))
    model.init_weights()
    assert assert_equal_where_common(model, source) == set(model.state_dict())


def test_a_file_that_lacks_parts_of_the_backbone(golden, tmp_path):
    file = official_file(tmp_path, golden, "hardnet39ds")
    tensors = torch.load(file, weights_only=True)
    dropped = [key for key in tensors if key.startswith("base.9.")]
    for key in dropped:
        del tensors[key]
    torch.save(tensors, file)
    model = MODELS.build(backbone("hardnet39ds", file=file))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    converted = convert_official("hardnet39ds", {key: torch.zeros(1) for key in dropped})
    lacking = [key for key in converted if not key.endswith("num_batches_tracked")]
    with pytest.raises(UserError, match=r"do not fit HarDNet: \d+ missing \(trunk\.stages\.2\.") as caught:
        model.init_weights()
    assert f"the file lacks {len(lacking)} tensors of the backbone, such as {lacking[0]}" in str(caught.value)
    assert assert_equal_where_common(model, before) == set(before)


def test_a_shorter_backbone_takes_its_part(golden, tmp_path):
    file = official_file(tmp_path, golden, "hardnet39ds", wrap=lambda tensors: {"state_dict": tensors})
    for options in ({"out_indices": (1, 2)}, {"out_indices": (0, 3), "tap": "block", "frozen_stages": 2}):
        model = MODELS.build(backbone("hardnet39ds", file=file) | options)
        model.init_weights()
        expected = convert_official("hardnet39ds", official(golden, "hardnet39ds"))
        assert assert_equal_where_common(model, expected) == set(model.state_dict())
        assert len(expected) > len(model.state_dict())


def test_inside_a_detector(golden, tmp_path):
    file = official_file(tmp_path, golden, "hardnet39ds")
    model = MODELS.build(
        {
            "type": "RetinaNet",
            "backbone": backbone("hardnet39ds", file=file),
            "neck": {"type": "FPN", "in_channels": [96, 320, 640, 1024], "out_channels": 16, "num_outs": 5},
            "bbox_head": {
                "type": "RetinaHead",
                "num_classes": 2,
                "in_channels": 16,
                "feat_channels": 16,
                "loss_bbox": {"type": "L1Loss"},
            },
        }
    )
    model.init_weights()
    expected = convert_official("hardnet39ds", official(golden, "hardnet39ds"))
    common = assert_equal_where_common(model.backbone, expected)
    assert common == set(model.backbone.state_dict())


def test_another_models_file_is_an_error(golden, tmp_path):
    file = official_file(tmp_path, golden, "hardnet68ds")
    model = MODELS.build(backbone("hardnet39ds", file=file))
    with pytest.raises(UserError, match=r"do not fit HarDNet: .* of another shape"):
        model.init_weights()


def test_a_given_file_that_is_not_there(tmp_path):
    model = MODELS.build(backbone("hardnet39ds", file=str(tmp_path / "gone.pth")))
    with pytest.raises(UserError, match=r"gone\.pth: no such file"):
        model.init_weights()


def test_the_users_folder_serves_in_place_of_a_download(golden, tmp_path, monkeypatch):
    monkeypatch.setenv("HARDNET_WEIGHTS_DIR", str(tmp_path))
    path = Path(official_file(tmp_path, golden, "hardnet39ds"))
    path.rename(tmp_path / registry.find("hardnet39ds").file)
    model = MODELS.build(backbone("hardnet39ds"))
    model.init_weights()
    expected = convert_official("hardnet39ds", official(golden, "hardnet39ds"))
    assert assert_equal_where_common(model, expected) == set(model.state_dict())


@pytest.mark.parametrize(
    "name", [*CLASSIFIERS, "ssd512_hardnet68", "ssd512_hardnet85", "rfb512_hardnet68", "rfb512_hardnet85"]
)
def test_missing_weights_say_all_a_person_needs(name, tmp_path):
    if name in CLASSIFIERS:
        row, model = registry.find(name), MODELS.build(backbone(name))
    else:
        row = registry.find(name, "base")
        model = ssd(name, {"type": "HarDNetPretrained", "model": name, "tag": "base"})
    with pytest.raises(UserError) as caught:
        model.init_weights()
    message = str(caught.value)
    assert "\n" not in message
    assert row.file in message
    for address in row.urls:
        assert address.url in message
    assert str(tmp_path / "torch_home" / "hub" / "checkpoints") in message
    assert "--from-scratch" in message


def test_an_unknown_tag_or_model_is_told_with_what_there_is():
    with pytest.raises(ValueError, match="no weights tagged 'voc' for hardnet39ds; allowed tags: published"):
        MODELS.build(backbone("hardnet39ds", tag="voc")).init_weights()
    with pytest.raises(ValueError, match="no published weights for model 'hardnet39'"):
        MODELS.build(backbone("hardnet39ds", model="hardnet39")).init_weights()


# --- HarDNetPretrained on a whole detector


@pytest.mark.parametrize("name", ["ssd512_hardnet68", "ssd512_hardnet85"])
def test_the_published_base_into_trunk_and_bridge(name, golden, tmp_path):
    tensors = official(golden, name)
    base = {key.removeprefix("base."): value for key, value in tensors.items() if key.startswith("base.")}
    torch.save(base, tmp_path / "base.pth")
    init = {"type": "HarDNetPretrained", "model": name, "tag": "base", "file": str(tmp_path / "base.pth")}
    torch.manual_seed(0)
    model = ssd(name, init)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.init_weights()

    # 68's base file holds the bridge, 85's does not
    parts = ("backbone.",) if name.endswith("85") else ("backbone.", "neck.bridge.")
    expected = convert_official(name, tensors, target="mmdet")
    for key, value in model.state_dict().items():
        reference = expected if key.startswith(parts) else before
        torch.testing.assert_close(value, reference[key], rtol=0, atol=0, msg=key)
    assert any(not torch.equal(before[key], expected[key]) for key in before)


def test_published_detector_weights_into_a_detector(golden, tmp_path):
    name = "ssd512_hardnet68"
    file = official_file(tmp_path, golden, name)
    model = ssd(name, {"type": "HarDNetPretrained", "model": name, "file": file})
    model.init_weights()
    expected = convert_official(name, official(golden, name), target="mmdet")
    assert assert_equal_where_common(model, expected) == set(model.state_dict()) == set(expected)


def test_from_scratch_fetches_nothing():
    cfg = Config.fromfile(CONFIGS / "ssd512_hardnet68.py")
    assert cfg.model.init_cfg
    cfg.model.backbone.init_cfg = {"type": "HarDNetPretrained"}
    drop_pretrained(cfg)
    assert cfg.model.init_cfg is None
    MODELS.build(cfg.model).init_weights()  # the addresses are dead


# --- load_checkpoint


@pytest.fixture
def small() -> torch.nn.Module:
    return MODELS.build(
        {
            "type": "SingleStageDetector",
            "backbone": {"type": "HarDNet", "arch": "ssd320_hardnet39ds", "out_indices": (2, 3)},
            "neck": {"type": "HarDNetSSDNeck", "arch": "ssd320_hardnet39ds", "in_channels": [320, 640]},
            "bbox_head": {
                "type": "HarDNetSSDHead",
                "arch": "ssd320_hardnet39ds",
                "in_channels": [320, 256, 256, 256, 256, 256],
                "num_classes": 3,
            },
        }
    )


def test_a_checkpoint_of_a_run_comes_back(small, tmp_path):
    path = tmp_path / "epoch_1.pth"
    wanted = {
        key: torch.rand_like(value.float()).to(value.dtype) for key, value in small.state_dict().items()
    }
    save_checkpoint(
        {"state_dict": wanted, "meta": {"epoch": 1}, "optimizer": {"param_groups": []}}, str(path)
    )
    report = load_checkpoint(small, path)
    assert report.missing == report.unexpected == ()
    assert assert_equal_where_common(small, wanted) == set(wanted)


def test_class_predictions_of_another_number_of_classes_keep_their_values(small, tmp_path):
    wanted = {key: value + 1 for key, value in small.state_dict().items()}
    before = small.bbox_head.cls_convs[0].weight.clone()
    wanted["bbox_head.cls_convs.0.weight"] = torch.zeros(6 * 21, *before.shape[1:])
    torch.save({"state_dict": wanted}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"1 of another shape \(bbox_head\.cls_convs\.0\.weight"):
        load_checkpoint(small, tmp_path / "other.pth")
    report = load_checkpoint(small, tmp_path / "other.pth", other_classes=True)
    assert report.missing == ("bbox_head.cls_convs.0.weight",)
    assert report.taken == len(wanted) - 1
    assert torch.equal(small.bbox_head.cls_convs[0].weight, before)
    assert torch.equal(small.neck.norm.weight, wanted["neck.norm.weight"])

    wanted["neck.norm.weight"] = torch.zeros(2, 2)
    torch.save({"state_dict": wanted}, tmp_path / "broken.pth")
    with pytest.raises(UserError, match=r"neck\.norm\.weight"):
        load_checkpoint(small, tmp_path / "broken.pth", other_classes=True)


@pytest.mark.parametrize("name", ["ssd512_hardnet68", "ssd512_hardnet85"])
def test_an_official_checkpoint_of_a_named_model(name, golden, tmp_path):
    model = ssd(name, None)
    path = official_file(
        tmp_path,
        golden,
        name,
        wrap=lambda tensors: {"state_dict": {f"module.{key}": value for key, value in tensors.items()}},
    )
    load_checkpoint(model, path, arch=name)
    expected = convert_official(name, official(golden, name), target="mmdet")
    assert assert_equal_where_common(model, expected) == set(model.state_dict()) == set(expected)


def test_checkpoints_that_do_not_fit_are_told_in_one_line(small, golden, tmp_path):
    whole, short = small.state_dict(), dict(small.state_dict())
    removed = short.popitem()[0]
    files = {
        "other.pth": {"state_dict": {"a.weight": torch.zeros(1)}},
        "short.pth": short,
        "wide.pth": {key: torch.zeros(9) if key == removed else value for key, value in whole.items()},
        "empty.pth": {"epoch": 3},
    }
    own = [key for key in whole if not key.endswith("num_batches_tracked")]
    words = {
        "other.pth": f"no key in common, {len(own)} missing ({own[0]}, ",
        "short.pth": f"1 missing ({removed})",
        "wide.pth": f"1 of another shape ({removed}: (9,) in the weights",
        "empty.pth": "holds no named tensors",
        "gone.pth": "no such file",
    }
    for file, content in files.items():
        torch.save(content, tmp_path / file)
    before = {key: value.clone() for key, value in whole.items()}
    for file, word in words.items():
        with pytest.raises(UserError) as caught:
            load_checkpoint(small, tmp_path / file, arch="ssd320_hardnet39ds")
        message = str(caught.value)
        assert word in message
        assert file != "other.pth" or "1 unexpected (a.weight)" in message
        assert str(tmp_path / file) in message
        assert "\n" not in message
    assert assert_equal_where_common(small, before) == set(before)


def test_polyps_start_from_the_classifier_with_the_same_trunk(golden, tmp_path):
    """Not from the published HarDNet-MSEG, which was trained on them."""
    assert initial_row(None, None, "hardnet_mseg").model == "hardnet_mseg"
    assert initial_row(None, "base", "hardnet_mseg") is registry.find("hardnet68")
    assert initial_row("hardnet_mseg", "base", "hardnet85") is registry.find("hardnet68")
    assert initial_row(None, "base", "ssd512_hardnet68").base_only
    for model, tag in (("", None), (None, "")):
        with pytest.raises(ValueError, match=r"no .*weights .*''"):
            initial_row(model, tag, "hardnet68")
    for name in ("hardnet68", "fchardnet70_paddleseg"):  # of a classifier itself, and no such trunk
        with pytest.raises(ValueError, match=f"no weights tagged 'base' for {name}"):
            initial_row(None, "base", name)
    assert initial_row(None, None, "hardnet85").model == "hardnet85"
    assert initial_row(None, "base", "fchardnet70").model == "fchardnet70"
    for name in ("fchardnet84", "fchardnet76"):
        with pytest.raises(ValueError, match=f"no published weights for model '{name}'"):
            initial_row(None, None, name)
    file = official_file(tmp_path, golden, "hardnet68")
    init = {"type": "HarDNetPretrained", "model": "hardnet68", "file": file}
    with DefaultScope.overwrite_default_scope("mmseg"):
        cfg = Config.fromfile(CONFIGS / "hardnet_mseg_polyps.py")
        assert cfg.model.backbone.init_cfg == {"type": "HarDNetPretrained", "tag": "base"}
        cfg.model.backbone.init_cfg = init
        segmentor = MODELS.build(cfg.model)
        segmentor.init_weights()
    expected = create_model("hardnet68", pretrained=file).trunk.state_dict()
    trunk = segmentor.backbone.trunk.state_dict()
    assert trunk.keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in trunk.items())


def test_a_segmentor_starts_from_the_pretrained_petite_classifier(tmp_path):
    """As configs/hardnet_petite_imagenet.py says; the last 1×1 convolution is the decoder's, and stays."""
    petite = create_model("hardnet_petite", num_classes=7)
    torch.save({"state_dict": petite.state_dict()}, tmp_path / "epoch_100.pth")
    init = {"type": "HarDNetPretrained", "model": "hardnet_petite", "file": str(tmp_path / "epoch_100.pth")}
    with DefaultScope.overwrite_default_scope("mmseg"):
        cfg = Config.fromfile(CONFIGS / "fchardnet70_cityscapes.py")
        segmentor = MODELS.build({**cfg.model, "init_cfg": None, "backbone": {"init_cfg": init}})
        segmentor.init_weights()
    expected, trunk = petite.trunk.state_dict(), segmentor.backbone.trunk.state_dict()
    assert {key for key in expected if key not in trunk} == {
        key for key in expected if key.startswith("stages.4.transition.")
    }
    assert all(torch.equal(value, expected[key]) for key, value in trunk.items())
