"""Files opened once, whatever wraps them, and filled into any network that they fit."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hardnet_suite import create_model
from hardnet_suite.errors import UserError
from hardnet_suite.networks import ARCHS
from hardnet_suite.weights import fill, open_weights, read_checkpoint, save_weights, to_official
from hardnet_suite.weights.convert import in_target

SMALL = ("hardnet39ds", "ssd224_hardnet29", "fchardnet70")


@pytest.fixture(scope="module")
def state():
    return create_model("hardnet39ds", num_classes=3).state_dict()


def prefixed(state, prefix):
    return {f"{prefix}{key}": value for key, value in state.items()}


@pytest.mark.parametrize(
    "prefix", ["net.", "model.", "module.", "_orig_mod.", "model._orig_mod.", "module.net.", "a.b.c."]
)
@pytest.mark.parametrize("wrapper", [None, "state_dict", "params", "net", "state_dict_ema", "ema_state_dict"])
def test_prefixes_and_wrappers(tmp_path, state, prefix, wrapper):
    table = prefixed(state, prefix)
    torch.save({wrapper: table, "epoch": 1} if wrapper else table, tmp_path / "w.pth")
    weights = open_weights(tmp_path / "w.pth")
    assert (weights.model, weights.num_classes) == ("hardnet39ds", 3)
    assert all(torch.equal(value, state[key]) for key, value in weights.tensors.items())


BESIDE = [
    {"loss.weight": torch.ones(3)},
    {"criterion.weight": torch.ones(3), "train_acc.correct": torch.zeros(3), "temperature": torch.ones(1)},
    {"net_loss.weight": torch.ones(3)},
]


@pytest.mark.parametrize("prefix", ["net.", "model.", "module.net.", "a.b.c."])
@pytest.mark.parametrize("beside", BESIDE)
@pytest.mark.parametrize("inside", ["", "module."])
def test_tensors_beside_the_network_are_named(tmp_path, state, prefix, beside, inside):
    table = prefixed(beside, inside) | prefixed(state, f"{inside}{prefix}")
    torch.save({"state_dict": table, "pytorch-lightning_version": "2.4.0"}, tmp_path / "w.ckpt")
    with pytest.warns(UserWarning, match=rf"network is [a-z.]+\*; left out .*{next(iter(beside))}"):
        weights = open_weights(tmp_path / "w.ckpt")
    assert (weights.model, weights.num_classes) == ("hardnet39ds", 3)
    assert all(torch.equal(value, state[key]) for key, value in weights.tensors.items())
    with pytest.warns(UserWarning, match="left out"):
        network = create_model("hardnet39ds", pretrained=tmp_path / "w.ckpt")
    assert network.num_classes == 3
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


def changed(state):
    return {key: value + 1 for key, value in state.items()}


COPIES = [("student.", "teacher."), ("net.", "ema_model.module."), ("", "ema."), ("net.", "net.ema.")]


@pytest.mark.parametrize("beside", [{}, {"criterion.weight": torch.ones(3)}])
@pytest.mark.parametrize(("one", "other"), COPIES)
@pytest.mark.parametrize("model", [None, "hardnet39ds"])
def test_of_two_networks_neither_is_chosen(tmp_path, state, one, other, beside, model):
    path = tmp_path / "w.pth"
    torch.save(prefixed(state, one) | prefixed(changed(state), other) | beside, path)
    first = rf"{one}\*" if one else "one without a prefix"
    expected = rf"{first} and {other}\*"
    with pytest.raises(UserError, match=rf"w\.pth: these weights hold several networks, {expected}"):
        open_weights(path, model)
    if model is not None:
        with pytest.raises(UserError, match="several networks"):
            create_model(model, pretrained=path)


@pytest.mark.parametrize(("one", "other"), COPIES)
def test_of_two_trunks_neither_is_chosen(tmp_path, one, other):
    trunk = create_model("hardnet39ds", features_only=True).state_dict()
    path = tmp_path / "w.pth"
    head = {"head.weight": torch.ones(3)}
    torch.save(prefixed(trunk, one) | prefixed(changed(trunk), other) | head, path)
    with pytest.raises(UserError, match=rf"w\.pth: these weights hold several networks, .*{other}"):
        create_model("hardnet39ds", features_only=True, pretrained=path)


@pytest.mark.parametrize("copies", [("net.", "metric.net.", "ema."), ("ema.", "net.", "metric.net.")])
def test_only_networks_that_differ_are_named(tmp_path, state, copies):
    tables = [prefixed(changed(state) if prefix == "ema." else state, prefix) for prefix in copies]
    torch.save({key: value for table in tables for key, value in table.items()}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"several networks, (ema\.\* and net\.\*|net\.\* and ema\.\*):"):
        open_weights(tmp_path / "w.pth")


def test_trunks_are_named_by_their_places(tmp_path, state):
    """The trunk of the whole network, and a copy of it that differs; none is without a prefix."""
    averaged = {key: value for key, value in changed(state).items() if key.startswith("trunk.")}
    torch.save(prefixed(state, "net.") | prefixed(averaged, "ema."), tmp_path / "w.pth")
    with (
        pytest.warns(UserWarning, match="left out are"),
        pytest.raises(UserError, match=r"several networks, (net|ema)\.trunk\.\* and (net|ema)\.trunk\.\*:"),
    ):
        create_model("hardnet39ds", features_only=True, pretrained=tmp_path / "w.pth")


def test_two_names_of_one_network_are_no_two_networks(tmp_path, state):
    torch.save(prefixed(state, "net.") | prefixed(state, "metric.net."), tmp_path / "w.ckpt")
    with pytest.warns(UserWarning, match=r"the network is net\.\*; left out"):
        assert open_weights(tmp_path / "w.ckpt").model == "hardnet39ds"


def test_networks_of_two_models_are_told_apart_by_name(tmp_path, state):
    teacher = create_model("hardnet68", num_classes=3).state_dict()
    torch.save(prefixed(state, "student.") | prefixed(teacher, "teacher."), tmp_path / "w.ckpt")
    with pytest.raises(UserError, match=r"several networks, student\.\* and teacher\.\*"):
        open_weights(tmp_path / "w.ckpt")
    for name, expected in (("hardnet39ds", state), ("hardnet68", teacher)):
        with pytest.warns(UserWarning, match="left out"):
            network = create_model(name, pretrained=tmp_path / "w.ckpt")
        assert all(torch.equal(value, expected[key]) for key, value in network.state_dict().items())


def test_a_network_beside_a_larger_one(tmp_path, state):
    """Such as the features of a perceptual loss: most of the tensors are not the network's."""
    features = {f"loss.features.{i}.weight": torch.ones(3, 3) for i in range(2 * len(state))}
    torch.save({"state_dict": features | prefixed(state, "model.net.")}, tmp_path / "w.ckpt")
    with pytest.warns(UserWarning, match=r"the network is model\.net\.\*"):
        weights = open_weights(tmp_path / "w.ckpt")
    assert all(torch.equal(value, state[key]) for key, value in weights.tensors.items())


@pytest.mark.parametrize(
    "prefix", ["backbone.", "model.backbone.", "detector.backbone.body.", "backbone.trunk."]
)
def test_a_trunk_within_a_larger_network(tmp_path, prefix):
    trunk = create_model("hardnet39ds", features_only=True).state_dict()
    heads = {"head.weight": torch.ones(3), f"{prefix.partition('.')[0]}.fpn.weight": torch.ones(3)}
    torch.save({"state_dict": prefixed(trunk, prefix) | heads}, tmp_path / "w.ckpt")
    network = create_model("hardnet39ds", features_only=True, pretrained=tmp_path / "w.ckpt")
    assert all(torch.equal(value, trunk[key]) for key, value in network.state_dict().items())
    with pytest.raises(UserError, match="do not fit"):  # its own head is not in the file
        create_model("hardnet39ds", pretrained=tmp_path / "w.ckpt")


@pytest.mark.parametrize("form", ["network", "official", "mmdet"])
@pytest.mark.parametrize("prefix", ["net.", "model.net."])
def test_every_form_is_found_beside_others(tmp_path, form, prefix):
    own = create_model("ssd224_hardnet29", num_classes=2).state_dict()
    table = to_official("ssd224_hardnet29", own) if form == "official" else own
    table = in_target("ssd224_hardnet29", own, "mmdet") if form == "mmdet" else table
    torch.save(prefixed(table, prefix) | {"criterion.weight": torch.ones(3)}, tmp_path / "w.ckpt")
    with pytest.warns(UserWarning, match="left out are the tensors beside it: criterion.weight"):
        weights = open_weights(tmp_path / "w.ckpt")
    assert (weights.model, weights.form) == ("ssd224_hardnet29", form)
    assert all(torch.equal(value, own[key]) for key, value in weights.tensors.items())


def test_a_prefix_before_some_keys_is_not_dropped(tmp_path, state):
    first, *rest = state
    torch.save(
        prefixed({first: state[first]}, "net.") | {key: state[key] for key in rest}, tmp_path / "w.pth"
    )
    with pytest.raises(UserError, match="not the weights of any model"):
        open_weights(tmp_path / "w.pth")


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_counts_are_the_files(tmp_path, name, channels):
    source = create_model(name, num_classes=4, in_chans=channels)
    torch.save(source.state_dict(), tmp_path / "own.pth")
    for options in ({"in_chans": channels}, {}):
        network = create_model(name, pretrained=tmp_path / "own.pth", **options)
        assert network.num_classes == 4
        for key, value in network.state_dict().items():
            assert torch.equal(value, source.state_dict()[key]), key


def changed_arch(name):
    """The row of ``name`` with other widths or fewer stages."""
    row = ARCHS[name]
    if name == "hardnet39ds":
        return replace(row, stages=row.stages[:-1])
    return replace(row, trunk=replace(row.trunk, growth_mul=1.5))


OWN_ARCHS = ("hardnet39ds", "ssd224_hardnet29", "centernet_hardnet68")


@pytest.mark.parametrize("name", OWN_ARCHS)
@pytest.mark.parametrize("channels", [3, 4])
def test_own_arch_takes_its_counts_from_the_file(tmp_path, name, channels):
    arch = changed_arch(name)
    source = create_model(name, arch=arch, num_classes=4, in_chans=channels)
    torch.save(source.state_dict(), tmp_path / "own.pth")
    network = create_model(name, arch=arch, pretrained=tmp_path / "own.pth")
    assert network.num_classes == 4
    assert network.state_dict().keys() == source.state_dict().keys()
    assert all(torch.equal(v, source.state_dict()[k]) for k, v in network.state_dict().items())
    with pytest.raises(UserError, match=r"own\.pth: these weights do not fit"):
        create_model(name, pretrained=tmp_path / "own.pth", num_classes=4, in_chans=channels)


@pytest.mark.parametrize("name", OWN_ARCHS)
@pytest.mark.parametrize("prefix", ["", "trunk."])
def test_own_arch_and_a_file_of_the_trunk_alone(tmp_path, name, prefix):
    arch = changed_arch(name)
    trunk = create_model(name, arch=arch, features_only=True).state_dict()
    torch.save(prefixed(trunk, prefix), tmp_path / "trunk.pth")
    weights = open_weights(tmp_path / "trunk.pth", name, arch=arch)
    assert (weights.form, weights.num_classes) == ("trunk", None)
    with pytest.warns(UserWarning, match="of the model not in the weights"):
        network = create_model(name, arch=arch, pretrained=tmp_path / "trunk.pth", num_classes=5)
    assert network.num_classes == 5
    for key, value in network.trunk.state_dict().items():
        assert torch.equal(value, trunk[key]), key
    features = create_model(name, arch=arch, features_only=True, pretrained=tmp_path / "trunk.pth")
    assert all(torch.equal(value, trunk[key]) for key, value in features.state_dict().items())


def test_the_classes_that_an_architecture_states_are_built(tmp_path):
    """Another number than the table's row has is the caller's; the row's own number yields to the file's."""
    row = ARCHS["hardnet39ds"]
    path, five = tmp_path / "three.pth", replace(row, num_classes=5)
    torch.save(create_model("hardnet39ds", num_classes=3).state_dict(), path)
    with pytest.warns(UserWarning, match="of the model not in the weights"):
        assert create_model("hardnet39ds", arch=five, pretrained=path).num_classes == 5
    for arch in (row, replace(row, num_classes=3), None):
        assert create_model("hardnet39ds", arch=arch, pretrained=path).num_classes == 3
    assert create_model("hardnet39ds", arch=five).num_classes == 5


def test_read_once_and_hashed_once(tmp_path, state, monkeypatch):
    path = tmp_path / "w.pth"
    torch.save(state, path)
    reads, hashes = [], []
    read_bytes, sha256 = Path.read_bytes, hashlib.sha256
    monkeypatch.setattr(Path, "read_bytes", lambda self: reads.append(self) or read_bytes(self))
    monkeypatch.setattr(hashlib, "sha256", lambda *data: hashes.append(1) or sha256(*data))
    create_model("hardnet39ds", pretrained=path)
    assert (reads, len(hashes)) == ([path], 1)


def test_sixteen_threads(tmp_path, state):
    torch.save({"state_dict": state, "best_iou": np.float64(0.5)}, tmp_path / "run.pth")
    before = {*torch.serialization.get_safe_globals()}
    with ThreadPoolExecutor(16) as pool:
        results = [*pool.map(read_checkpoint, [tmp_path / "run.pth"] * 64)]
    assert all(result["best_iou"] == 0.5 for result in results)
    assert {*torch.serialization.get_safe_globals()} == before


def test_sixteen_threads_over_every_kind_of_file(tmp_path, state):
    """A .safetensors file, a plain checkpoint, and a run's with the log that mmengine keeps in it."""
    logging = pytest.importorskip("mmengine.logging")
    paths = [tmp_path / name for name in ("small.safetensors", "plain.pth", "epoch_1.pth")]
    save_weights(state, paths[0], half=False)
    torch.save(state, paths[1])
    hub = logging.MessageHub("threads")
    hub.update_scalar("train/loss", 2.5)
    log = {"log_scalars": hub.log_scalars, "runtime_info": {"epoch": 1}, "resumed_keys": {}}
    run = {
        "meta": {"epoch": 1, "dataset_meta": {"classes": ("a", "b", "c")}},
        "state_dict": state,
        "message_hub": log,
    }
    torch.save(run, paths[2])
    assert b"HistoryBuffer" in paths[2].read_bytes()
    before = {*torch.serialization.get_safe_globals()}
    with ThreadPoolExecutor(16) as pool:
        opened = [*pool.map(open_weights, paths * 6)]
    for weights in opened:
        assert (weights.model, weights.num_classes, weights.in_chans) == ("hardnet39ds", 3, 3)
        assert weights.classes == (("a", "b", "c") if weights.path == paths[2] else None)
        assert all(torch.equal(value, state[key]) for key, value in weights.tensors.items())
    assert {*torch.serialization.get_safe_globals()} == before


def test_home_folder(tmp_path, state, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    torch.save(state, tmp_path / "w.pth")
    assert create_model("hardnet39ds", pretrained="~/w.pth").num_classes == 3


def test_fill_refuses_unknown_allowances(tmp_path, state):
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"allow=\['everything'\] is unknown"):
        fill(create_model("hardnet39ds"), open_weights(tmp_path / "w.pth"), allow=("everything",))
