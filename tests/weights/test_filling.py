"""Weights for networks of other inputs."""

import pytest
import torch

from hardnet_suite import create_model


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
