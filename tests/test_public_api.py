from __future__ import annotations

import ast
import dataclasses
import inspect
from pathlib import Path

import pytest
import torch
from torch import nn

import hardnet_suite
from hardnet_suite import convert_official, create_model, list_models
from hardnet_suite.networks import (
    ARCHS,
    MSEG,
    SSD,
    CenterNet,
    CenterNetArch,
    DescriptorArch,
    FCHarDNet,
    FCHarDNetArch,
    HarDNetArch,
    HarDNetClassifier,
    HarDNetTrunk,
    MSEGArch,
    PatchDescriptor,
    SSDArch,
    Stage,
)

NAMES = [
    "hardnet39ds",
    "hardnet68ds",
    "hardnet68",
    "hardnet85",
    "ssd512_hardnet68",
    "ssd512_hardnet85",
    "centernet_hardnet68",
    "centernet_hardnet85",
    "fchardnet70",
    "hardnet_descriptor",
]
CLASSIFIERS_68 = ["hardnet68", "hardnet68a", "hardnet68ds"]
SSD_85 = ["rfb512_hardnet85", "ssd512_hardnet85"]
SSD_68 = ["rfb512_hardnet68", "ssd512_hardnet68"]
CAMVID = ["fchardnet68", "fchardnet76", "fchardnet84"]
# row of the table -> the network it makes, and its number of classes
KINDS = {
    HarDNetArch: (HarDNetClassifier, 1000),
    SSDArch: (SSD, 80),
    CenterNetArch: (CenterNet, 80),
    FCHarDNetArch: (FCHarDNet, 19),
    MSEGArch: (MSEG, 1),
    DescriptorArch: (PatchDescriptor, 0),
}


def test_the_public_names():
    assert {"create_model", "list_models", "convert_official"} <= {*hardnet_suite.__all__}
    assert all(hasattr(hardnet_suite, name) for name in hardnet_suite.__all__)
    assert {"LoadedModel", "Prediction", "load_model", "predict"} <= {*hardnet_suite.__all__}
    assert {*hardnet_suite.__all__} <= {*dir(hardnet_suite)}
    assert hardnet_suite.__version__.count(".") == 2


def test_editors_and_type_checkers_see_the_public_names():
    path = Path(hardnet_suite.__file__)
    assert (path.parent / "py.typed").is_file()
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    (block,) = [n for n in nodes if isinstance(n, ast.If) and getattr(n.test, "id", "") == "TYPE_CHECKING"]
    imported = {alias.name: node.module for node in block.body for alias in node.names}
    assert imported == hardnet_suite._HOMES
    assert sorted(imported) == hardnet_suite.__all__


def test_the_contracts_signatures():
    parameters = inspect.signature(create_model).parameters
    assert {name: p.default for name, p in parameters.items() if name != "name"} == {
        "num_classes": None,
        "in_chans": None,
        "pretrained": False,
        "arch": None,
        "features_only": False,
        "out_indices": None,
        "output_stride": None,
        "drop_rate": None,
        "global_pool": None,
    }
    assert all(p.kind is p.KEYWORD_ONLY for name, p in parameters.items() if name != "name")
    assert inspect.signature(convert_official).parameters["target"].default == "network"


def test_the_list():
    names = list_models()
    assert set(NAMES) <= {*names}
    assert names == sorted(names)
    names.clear()
    assert list_models()


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*hardnet68*", ["centernet_hardnet68", "fchardnet68", *CLASSIFIERS_68, *SSD_68]),
        ("hardnet68", ["hardnet68"]),
        ("hardnet??", ["hardnet68", "hardnet85"]),
        (["hardnet85*", "*85"], ["centernet_hardnet85", "hardnet85", *SSD_85]),
        (("fchardnet70",), ["fchardnet70"]),
        ("resnet*", []),
        ("HarDNet68", ["hardnet68"]),
        ("", []),
        ([], []),
    ],
)
def test_patterns_of_names(pattern, expected):
    assert list_models(pattern) == expected


@pytest.mark.parametrize("pattern", [3, [3], b"hardnet*", ["hardnet*", None]])
def test_patterns_that_are_none(pattern):
    with pytest.raises(ValueError, match="expected a pattern such as"):
        list_models(pattern)


@pytest.mark.parametrize("name", list_models())
def test_every_listed_model_can_be_made(name):
    with torch.device("meta"):
        network = create_model(name)
        kind, classes = KINDS[type(ARCHS[name])]
        assert type(network) is kind
        assert network.num_classes == (11 if name in CAMVID else classes)
        assert network.training
        if kind is not PatchDescriptor:
            assert type(create_model(name, features_only=True)) is HarDNetTrunk


def test_two_networks_of_a_name_share_nothing():
    one, other = create_model("hardnet39ds"), create_model("hardnet39ds")
    assert not torch.equal(one.trunk.stem[0].conv.weight, other.trunk.stem[0].conv.weight)
    assert not {id(p) for p in one.parameters()} & {id(p) for p in other.parameters()}


def test_classes_and_channels():
    network = create_model("hardnet39ds", num_classes=7, in_chans=1).eval()
    with torch.inference_mode():
        assert network(torch.zeros(2, 1, 64, 64)).shape == (2, 7)


def test_another_width_and_depth():
    row = ARCHS["hardnet39ds"]
    arch = dataclasses.replace(row, stem=(8, 16), stages=(*row.stages[:-1], Stage(40, 8, 200)), num_classes=3)
    network = create_model("hardnet39ds", arch=arch).eval()
    assert [len(stage.block.layers) for stage in network.trunk.stages] == [4, 16, 8, 8]
    assert network.trunk.stem[1].conv.out_channels == 16
    with torch.inference_mode():
        assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 3)
        assert create_model("hardnet39ds", arch=arch, num_classes=9).num_classes == 9


def test_another_detector():
    row = ARCHS["ssd320_hardnet39ds"]
    trunk = dataclasses.replace(row.trunk, growth_mul=1.5)
    arch = dataclasses.replace(row, trunk=trunk, bridge=dataclasses.replace(row.bridge, mid=32, out=64))
    with torch.device("meta"):
        network = create_model("ssd320_hardnet39ds", arch=arch, num_classes=2).eval()
        out = network(torch.zeros(1, 3, 320, 320))
    assert network.cls[1].in_channels == 64
    assert [m.shape[1] for m in out["cls"]] == [3 * a for a in arch.priors.per_location]


def test_features_only():
    trunk = create_model("hardnet39ds", features_only=True).eval()
    with torch.inference_mode():
        maps = trunk(torch.zeros(1, 3, 64, 64))
    assert isinstance(maps, list)
    assert [m.shape[2] for m in maps] == [32, 16, 8, 4, 2]
    assert [m.shape[1] for m in maps] == trunk.channels == [48, 96, 320, 640, 1024]
    blocks = create_model("hardnet39ds", features_only="block", out_indices=[4, 2])
    assert blocks.channels == [730, 292]
    assert blocks.strides == [32, 8]


def test_output_stride():
    """Weights of the registry load into a dilated network, whose maps have more pixels."""
    options = {"pretrained": "tiny_imagenet10"}
    usual = create_model("hardnet39ds", **options).eval()
    dilated = create_model("hardnet39ds", output_stride=16, **options).eval()
    trunk = create_model("hardnet39ds", output_stride=8, features_only=True, **options).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        last = usual.forward_features(x)
        assert last.shape[2:] == (2, 2)
        torch.testing.assert_close(dilated.forward_features(x)[..., ::2, ::2], last, rtol=1e-4, atol=1e-4)
        maps = trunk(x)
        torch.testing.assert_close(maps[-1][..., ::4, ::4], last, rtol=1e-4, atol=1e-4)
    assert [m.shape[2] for m in maps] == [32, 16, 8, 8, 8]
    assert dilated.usage == usual.usage


def test_an_unknown_name_lists_the_known():
    with pytest.raises(ValueError, match="unknown model 'HardNet'") as caught:
        create_model("HardNet")
    assert all(name in str(caught.value) for name in list_models())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": -5}, "num_classes=-5 .*at least 0"),
        ({"num_classes": 3.0}, "num_classes=3.0 .*must be an integer"),
        ({"in_chans": 0}, "in_chans=0 .*at least 1"),
        ({"arch": ARCHS["ssd512_hardnet68"]}, "must be a HarDNetArch, got SSDArch"),
        ({"features_only": "stem"}, "tap='stem'.*transition, block"),
        ({"features_only": True, "out_indices": (9,)}, r"out_indices=\(9,\).*4 \(stride 32\)"),
        ({"out_indices": (1,)}, "features_only=True"),
        ({"output_stride": 4}, "output_stride=4 .*allowed: 8, 16, 32"),
    ],
)
def test_bad_arguments_say_what_is_allowed(options, message):
    with pytest.raises(ValueError, match=message):
        create_model("hardnet39ds", **options)


def test_published_weights_give_the_published_answers(golden, tmp_path):
    """From a file on the disk to the reference's logits, by the public face alone."""
    path = tmp_path / "hardnet39ds.pth"
    torch.save(golden.state_dict("hardnet39ds"), path)
    network = create_model("hardnet39ds", pretrained=path).eval()
    with torch.inference_mode():
        logits = network(golden.input("hardnet39ds"))
    torch.testing.assert_close(logits, golden.outputs("hardnet39ds")["out"], rtol=1e-4, atol=1e-3)


def test_one_training_step_lowers_the_loss():
    torch.manual_seed(0)
    network = create_model("hardnet39ds", num_classes=2)
    images, labels = torch.randn(8, 3, 64, 64), torch.tensor([0, 1] * 4)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    losses = []
    for _ in range(6):
        loss = nn.functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("channels", [1, 4])
def test_weights_for_three_channels_serve_others(tmp_path, channels):
    """As in timm: an image whose channels are alike gives the same answer."""
    three = create_model("hardnet39ds", num_classes=3).eval()
    torch.save(three.state_dict(), tmp_path / "three.pth")
    other = create_model("hardnet39ds", num_classes=3, in_chans=channels, pretrained=tmp_path / "three.pth")
    grey = torch.rand(2, 1, 64, 64)
    with torch.inference_mode():
        if channels == 1:
            torch.testing.assert_close(other.eval()(grey), three(grey.expand(-1, 3, -1, -1)))
    weight, own = (next(iter(one.parameters())) for one in (other, three))
    mixed = own.sum(1, keepdim=True) if channels == 1 else own[:, [0, 1, 2, 0]] * 3 / 4
    torch.testing.assert_close(weight, mixed)


def test_none_is_no_weights():
    assert create_model("hardnet39ds", pretrained=None).num_classes == 1000
