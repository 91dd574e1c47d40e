from __future__ import annotations

import re

import pytest
import torch

from hardnet_suite import create_model
from hardnet_suite.errors import UserError
from hardnet_suite.networks import build_network, list_models
from hardnet_suite.weights import identification, identify, open_weights
from hardnet_suite.weights.convert import TARGETS, in_target
from hardnet_suite.weights.identification import network_within, shapes_fit, trunk_within
from hardnet_suite.weights.save import save_weights

# models with the tensors of another
TWINS = dict.fromkeys(("fchardnet70_stride2", "fchardnet70_paddleseg"), "fchardnet70")
DESCRIPTORS = ["hardnet_descriptor", "hardnet_descriptor_ps", "hardnet8_descriptor"]


@pytest.mark.parametrize(
    ("name", "classes"),
    [(name, n) for name in list_models() for n in (None, 3) if not (n and name in DESCRIPTORS)],
)
def test_every_model_in_every_form(name, classes):
    network = build_network(name, num_classes=classes)
    own = network.state_dict()
    forms = {"network": own, "official": in_target(name, own, "official")}
    for target in TARGETS:
        try:
            forms[target] = in_target(name, own, target)
        except ValueError:
            continue
    if name in DESCRIPTORS:  # our names are the official ones, and no OpenMMLab model is made of them
        assert forms.pop("official").keys() == own.keys()
    assert len(forms) == (2 if name in DESCRIPTORS else 3)
    for form, state in forms.items():
        found = identify(state, name if name in TWINS else None)
        assert (found.model, found.num_classes) == (name, network.num_classes)
        assert found.form == form
        assert found.tensors.keys() == own.keys()
        assert all(torch.equal(value, own[key]) for key, value in found.tensors.items())


@pytest.mark.parametrize(("name", "usual"), TWINS.items())
def test_a_model_with_the_tensors_of_another_is_taken_where_it_is_named(tmp_path, name, usual):
    """By the caller, or by the file."""
    state = build_network(name).state_dict()
    assert identify(state).model == usual
    assert identify(state, name).model == name
    save_weights(state, tmp_path / "plain.pth")
    assert [open_weights(tmp_path / "plain.pth", model).model for model in (None, name)] == [usual, name]
    for model in (name, usual):
        save_weights(state, tmp_path / "named.safetensors", metadata={"model": model})
        assert open_weights(tmp_path / "named.safetensors").model == model
    with pytest.raises(UserError, match=f"its metadata says that it is {usual}"):
        open_weights(tmp_path / "named.safetensors", name)
    initial = open_weights(tmp_path / "named.safetensors", name, initial=True)
    assert (initial.model, initial.other_model) == (name, usual)
    assert open_weights(tmp_path / "named.safetensors", usual, initial=True).other_model is None


@pytest.mark.parametrize(
    ("saved", "wanted"), [("fchardnet70", "fchardnet70_detail"), ("fchardnet70_detail", "fchardnet70")]
)
def test_a_model_with_some_tensors_of_another_is_not_taken_for_its_twin(tmp_path, saved, wanted):
    """Initial weights that do not fit: the loading refuses them, and nothing says that they would fit."""
    path = tmp_path / "named.safetensors"
    save_weights(build_network(saved).state_dict(), path, metadata={"model": saved})
    assert open_weights(path, wanted, initial=True).other_model is None
    with pytest.raises(UserError, match=f"its metadata says that it is {saved}, not {wanted}$"):
        open_weights(path, wanted)


def test_files_without_the_counters_of_batch_norms():
    state = build_network("hardnet39ds", num_classes=2).state_dict()
    found = identify({key: value for key, value in state.items() if "num_batches" not in key})
    assert (found.model, found.num_classes) == ("hardnet39ds", 2)


def test_a_model_that_is_named_is_the_only_one_looked_for():
    state = build_network("hardnet39ds", num_classes=2).state_dict()
    assert identify(state, "hardnet39ds").model == "hardnet39ds"
    with pytest.raises(UserError, match=r"not the weights of hardnet68 \(keys such as trunk"):
        identify(state, "hardnet68")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_one_of_several_files_of_a_network_is_told_by_its_name(tmp_path, number, suffix):
    """As Hugging Face's libraries split large ones: no part is a network, though one may hold much of it."""
    tensors = [*build_network("hardnet39ds", num_classes=2).state_dict().items()]
    share = len(tensors) // 3 + 1
    part = dict(tensors[(number - 1) * share : number * share])
    path = tmp_path / f"model-0000{number}-of-00003{suffix}"
    if suffix == ".pth":
        torch.save(part, path)
    else:
        save_weights(part, path)
    with pytest.raises(UserError, match=f"by its name it is part {number} of 3: join the tensors") as caught:
        open_weights(path).require_part()
    assert str(caught.value).count(str(path)) == 1


@pytest.mark.parametrize("name", ["model-00001-of-00001.safetensors", "a-5-of-spades.safetensors"])
def test_other_names_are_no_part(tmp_path, name):
    save_weights({"weight": torch.zeros(3)}, tmp_path / name)
    with pytest.raises(UserError, match=r"^[^;]*$"):
        open_weights(tmp_path / name)


@pytest.mark.parametrize("key", ["trunk.stem.0.conv.weight", "fc.weight", "fc.bias"])
def test_layers_without_channels_are_no_network(key):
    state = build_network("hardnet39ds", num_classes=2).state_dict()
    shape = [*state[key].shape]
    shape[1 if "stem" in key else 0] = 0
    state[key] = torch.empty(shape)
    with pytest.raises(UserError, match=f"of hardnet39ds in .* network, but 1 of another shape .{key}"):
        identify(state)
    assert not shapes_fit("hardnet39ds", {key: state[key]})


def test_the_nearest_model_is_looked_for_once(tmp_path, monkeypatch):
    """Not at every place where a network could begin."""
    calls = []
    monkeypatch.setattr(identification, "nearest", lambda *args: calls.append(args) or "")
    monkeypatch.setattr(identification, "split_forms", lambda *args: calls.append(args) or iter(()))
    state = {f"m{index}.base.0.conv.weight": torch.zeros(1) for index in range(300)}
    with pytest.raises(UserError, match="not the weights of any model"):
        identify(state)
    assert trunk_within(state) is None
    with pytest.raises(UserError, match="no network among these"):
        network_within(state)
    assert len(calls) < 100


def test_more_networks_than_in_any_checkpoint():
    state = {f"m{index}.base.0.conv.weight": torch.zeros(1) for index in range(1001)}
    for find in (network_within, trunk_within):
        with pytest.raises(UserError, match="could begin at 1001 of its keys, more than in any checkpoint"):
            find(state)


@pytest.mark.parametrize("change", ["missing", "more", "shape", "classes differ"])
def test_parts_and_strangers_are_nobody(change):
    state = build_network("ssd224_hardnet29", num_classes=3).state_dict()
    key = "trunk.stages.0.transition.conv.weight"
    if change == "missing":
        del state[key]
    elif change == "more":
        state["more"] = torch.zeros(1)
    elif change == "shape":
        state[key] = state[key][:, :1]
    else:
        state["cls.0.weight"] = state["cls.0.weight"][:-6]
    with pytest.raises(UserError, match="not the weights of any model"):
        identify(state)


@pytest.mark.parametrize("layout", ["network", "official", "pytorchcv"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state, keys: state.pop(keys[3]), "1 missing"),
        (lambda state, keys: state.update(more=torch.ones(2)), "1 unexpected (more)"),
        (lambda state, keys: state.update({keys[0]: torch.ones(2, 2)}), "1 of another shape"),
        (lambda state, keys: [state.pop(key) for key in keys[-2:]], "2 missing (fc.weight, fc.bias)"),
        (
            lambda state, keys: state.update({keys[-1]: torch.ones(2)}),
            "fc.weight, fc.bias are of different numbers of classes",
        ),
    ],
)
@pytest.mark.parametrize("model", [None, "hardnet39ds"])
def test_what_a_file_lacks_of_the_model_that_it_nearly_is(layout, change, words, model):
    state = in_target("hardnet39ds", build_network("hardnet39ds", num_classes=3).state_dict(), layout)
    change(state, list(state))
    reason = f"of hardnet39ds in the layout {layout}, but {words}"
    with pytest.raises(UserError, match=f"not the weights of .*{re.escape(reason)}"):
        identify(state, model)


@pytest.mark.parametrize("model", ["hardnet39ds", "fchardnet70"])
def test_what_a_file_has_too_much_is_named_where_the_model_is_named(tmp_path, model):
    torch.save(build_network(model).state_dict() | {"loss.weight": torch.ones(19)}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=rf"not the weights of {model} \(of .*1 unexpected \(loss.weight\)"):
        open_weights(tmp_path / "a.pth", model).require_whole()


def test_shapes_that_do_not_fit_are_named_where_the_model_is_named(tmp_path):
    """All keys are those of an official trunk."""
    state = in_target("hardnet39ds", build_network("hardnet39ds").state_dict(), "official")
    torch.save(state | {"base.0.conv.weight": torch.ones(24, 3, 5, 5)}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"1 of another shape \(trunk.stem.0.conv.weight\)"):
        open_weights(tmp_path / "a.pth", "hardnet39ds").require_part()


@pytest.mark.parametrize("head", ["rpn.head.cls_logits", "bbox_head.conv_cls"])
def test_a_trunk_in_a_model_of_another_program_is_loaded_as_the_message_says(head, tmp_path):
    """torchvision's models on ``features_only=True``, and mmdet's."""
    trunk = create_model("hardnet39ds", features_only=True, out_indices=(1, 2, 3, 4))
    state = {f"backbone.trunk.{key}": value for key, value in trunk.state_dict().items()}
    torch.save(state | {f"{head}.weight": torch.zeros(3, 8, 1, 1)}, tmp_path / "detector.pth")
    with pytest.raises(UserError, match="model of another program on HarDNet") as error:
        open_weights(tmp_path / "detector.pth").require_whole()
    assert "create_model(NAME, features_only=True, pretrained=FILE)" in str(error.value)
    loaded = create_model("hardnet39ds", features_only=True, pretrained=tmp_path / "detector.pth")
    own = trunk.state_dict()
    assert all(torch.equal(value, own[key]) for key, value in loaded.state_dict().items() if key in own)
    assert any(key in own for key in loaded.state_dict())
