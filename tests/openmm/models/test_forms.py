"""OpenMMLab's loader, which reports what does not fit in the log alone, on weights in every form."""

from __future__ import annotations

import json

import pytest
import torch
from mmengine.registry import MODELS
from mmengine.runner import CheckpointLoader, load_checkpoint

import hardnet_suite.openmm.segmentation  # noqa: F401
from hardnet_suite.errors import UserError
from hardnet_suite.networks import build_network
from hardnet_suite.openmm.run.configs import load_config
from hardnet_suite.weights import convert_official, save_weights, to_official
from hardnet_suite.weights.convert import in_target, openmm_target

CONFIGS = {
    "ssd320_hardnet39ds": "ssd320_hardnet39ds_bccd",
    "centernet_hardnet68": "centernet_hardnet68",
    "fchardnet70": "fchardnet70_camvid",
    "hardnet39ds": "hardnet39ds_tiny_imagenet10",
}
CLASSES = {"ssd320_hardnet39ds": 3, "centernet_hardnet68": 80, "fchardnet70": 11, "hardnet39ds": 10}


def random_network(name: str) -> torch.nn.Module:
    torch.manual_seed(1)
    return build_network(name, num_classes=CLASSES[name])


def without_counters(state: dict[str, torch.Tensor]) -> set[str]:
    """The keys that a saved file has: batch norms' counters are left out."""
    return {key for key in state if not key.endswith("num_batches_tracked")}


def built(name: str) -> torch.nn.Module:
    cfg = load_config(CONFIGS[name])
    cfg.model.init_cfg = None
    return MODELS.build(cfg.model)


@pytest.mark.parametrize("form", ["network", "official", "openmm"])
@pytest.mark.parametrize("name", CONFIGS)
def test_every_form_fills_every_tensor(name, form, tmp_path):
    state = random_network(name).state_dict()
    target = openmm_target(name)
    expected = in_target(name, state, target)
    torch.manual_seed(2)
    model = built(name)
    forms = {"network": state, "openmm": expected}
    given = forms[form] if form in forms else to_official(name, state)
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": given, "epoch": 3} if form == "official" else given, path)
    load_checkpoint(model, str(path))
    loaded = model.state_dict()
    assert expected.keys() <= loaded.keys()
    for key, value in expected.items():
        torch.testing.assert_close(loaded[key], value, rtol=0, atol=0)


def test_torchs_own_loader_renames_too():
    state = random_network("fchardnet70").state_dict()
    model = built("fchardnet70")
    model.load_state_dict(state, strict=True)
    torch.testing.assert_close(model.decode_head.conv_seg.weight, state["classifier.weight"], rtol=0, atol=0)


def test_weights_of_another_model_are_left_as_they_are(tmp_path):
    state = random_network("hardnet39ds").state_dict()
    with pytest.raises(RuntimeError, match=r"Unexpected key.*trunk\.stem"):
        built("fchardnet70").load_state_dict(state)
    assert convert_official("hardnet39ds", to_official("hardnet39ds", state)).keys() == state.keys()


@pytest.mark.parametrize("form", ["network", "mmseg"])
def test_classes_and_palette_are_where_inferencers_look(form, tmp_path):
    state = in_target("fchardnet70", build_network("fchardnet70", num_classes=2).state_dict(), form)
    metadata = {
        "model": "fchardnet70",
        "classes": json.dumps(["road", "rest"]),
        "palette": json.dumps([[1, 2, 3], [4, 5, 6]]),
    }
    path = tmp_path / "weights.safetensors"
    save_weights(state, path, metadata=metadata)
    loaded = CheckpointLoader.load_checkpoint(str(path), "cpu")
    assert loaded["meta"]["dataset_meta"] == {"classes": ("road", "rest"), "palette": [[1, 2, 3], [4, 5, 6]]}
    assert loaded["state_dict"].keys() == without_counters(state)


def test_weights_without_names_stay_a_plain_table(tmp_path):
    state = build_network("hardnet39ds", num_classes=7).state_dict()
    path = tmp_path / "weights.safetensors"
    save_weights(state, path)
    assert CheckpointLoader.load_checkpoint(str(path), "cpu").keys() == without_counters(state)


@pytest.mark.parametrize("how", ["foreign keys", "metadata", "metadata of a .pth", "torch's own loader"])
def test_weights_of_a_network_that_computes_otherwise_are_refused(how, tmp_path):
    """pytorchcv's HarDNet-68 has ReLU in its blocks, the one of configs ReLU6, under the same shapes."""
    cfg = load_config(CONFIGS["hardnet39ds"]).model
    model = MODELS.build(cfg | {"arch": "hardnet68", "num_classes": 3, "init_cfg": None})
    state = build_network("hardnet68", num_classes=3).state_dict()
    path = tmp_path / ("weights.safetensors" if how == "metadata" else "weights.pth")
    if "metadata" in how:
        save_weights(state, path, metadata={"computes_as": "pytorchcv"}, half=False)
    else:
        torch.save(in_target("hardnet68", state, "pytorchcv"), path)
    message = "another network than the hardnet68 of configs, with activation in blocks relu"
    load = {"torch's own loader": lambda: model.load_state_dict(torch.load(path))}
    with pytest.raises(UserError, match=message):
        load.get(how, lambda: load_checkpoint(model, str(path)))()
