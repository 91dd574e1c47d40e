"""Weights for networks of other inputs."""

import pytest
import torch

from hardnet_suite import create_model
from hardnet_suite.errors import UserError


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_other_numbers_of_channels_from_half_precision(tmp_path, channels):
    """As in timm: summed for one channel, repeated and scaled for others; computed in single precision."""
    network = create_model("hardnet39ds", num_classes=5)
    halves = {key: value.half() for key, value in network.state_dict().items() if value.is_floating_point()}
    torch.save(halves, tmp_path / "half.pth")
    other = create_model("hardnet39ds", pretrained=tmp_path / "half.pth", in_chans=channels)
    first = halves["trunk.stem.0.conv.weight"].float()
    expected = first.sum(1, keepdim=True) if channels == 1 else first[:, [i % 3 for i in range(channels)]]
    expected = expected * (1 if channels == 1 else 3 / channels)
    torch.testing.assert_close(other.trunk.stem[0].conv.weight.detach(), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("out_indices", [(1, 2, 3, 4), (0, 1)])
@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize(
    ("prefix", "beside"),
    [
        ("", None),
        ("net.", None),
        ("encoder.", "decoder.0.weight"),
        ("backbone.trunk.", "neck.0.weight"),  # of OpenMMLab's models
    ],
)
def test_input_channels_of_a_trunk_are_the_files(tmp_path, prefix, beside, channels, out_indices):
    source = create_model("hardnet39ds", features_only=True, in_chans=channels).state_dict()
    others = {} if beside is None else {beside: torch.ones(3, 3, 1, 1)}
    torch.save({f"{prefix}{key}": value for key, value in source.items()} | others, tmp_path / "trunk.pth")
    trunk = create_model(
        "hardnet39ds", features_only=True, pretrained=tmp_path / "trunk.pth", out_indices=out_indices
    )
    assert trunk.in_chans == channels
    assert all(torch.equal(value, source[key]) for key, value in trunk.state_dict().items())


def test_input_channels_of_another_models_trunk_are_the_files(tmp_path):
    source = create_model("ssd320_hardnet39ds", num_classes=2, in_chans=4)
    torch.save(source.state_dict(), tmp_path / "ssd.pth")
    trunk = create_model(
        "hardnet39ds", features_only=True, pretrained=tmp_path / "ssd.pth", out_indices=(1, 2, 3)
    )
    assert torch.equal(trunk.stem[0].conv.weight, source.trunk.stem[0].conv.weight)


def test_asked_for_channels_still_count(tmp_path):
    torch.save(create_model("hardnet39ds", features_only=True).state_dict(), tmp_path / "trunk.pth")
    options = {"features_only": True, "pretrained": tmp_path / "trunk.pth"}
    assert create_model("hardnet39ds", in_chans=5, **options).in_chans == 5
    assert create_model("hardnet39ds", **options).in_chans == 3


@pytest.mark.parametrize(("name", "tag"), [("centernet_hardnet39ds", "bccd"), ("fchardnet70", "camvid")])
def test_a_trunk_without_the_last_convolution_says_what_takes_it(name, tag):
    with pytest.raises(UserError, match=r"ends before the last 1×1 convolution, .*features_only=\"block\""):
        create_model(name, features_only=True, pretrained=tag)
    create_model(name, features_only="block", pretrained=tag)
    create_model(name, features_only=True, pretrained=tag, out_indices=(0, 1, 2))


@pytest.mark.parametrize("prefix", ["", "net.", "encoder.", "backbone.trunk."])
@pytest.mark.parametrize(
    ("options", "lacking", "remark"),
    [
        ({"features_only": True, "out_indices": (0, 1)}, 310, False),
        ({"features_only": "block"}, 5, True),
    ],
)
def test_no_part_of_a_trunk_stays_random(tmp_path, prefix, options, lacking, remark):
    """Whatever the keys are called: a warning alone would be missed among others."""
    source = create_model("hardnet39ds", **options).state_dict()
    others = {"decoder.0.weight": torch.ones(3, 3, 1, 1)} if prefix == "encoder." else {}
    torch.save({f"{prefix}{key}": value for key, value in source.items()} | others, tmp_path / "part.pth")
    with pytest.raises(UserError, match=f"the file lacks {lacking} tensors of the backbone") as error:
        create_model("hardnet39ds", features_only=True, pretrained=tmp_path / "part.pth")
    assert ("ends before the last" in str(error.value)) == remark


def test_a_network_on_the_meta_device_takes_no_weights():
    with (
        pytest.raises(UserError, match=r"the HarDNetClassifier is on the meta device, which holds no values"),
        torch.device("meta"),
    ):
        create_model("hardnet39ds", pretrained="tiny_imagenet10")
