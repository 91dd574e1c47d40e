"""A network that has diverged has finite weights and outputs that are not: an error, whatever the task."""

from __future__ import annotations

import pytest
import torch

from hardnet_suite import create_model, predict
from hardnet_suite.errors import UserError
from hardnet_suite.inference import answers
from hardnet_suite.inference.prepare import Placement
from hardnet_suite.networks import ARCHS, default_postprocess

NAMES = {
    "hardnet39ds": (224, 224),
    "ssd320_hardnet39ds": (320, 320),
    "centernet_hardnet68": (64, 64),
    "fchardnet70": (64, 64),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_an_output_that_is_not_finite_is_an_error(name, value):
    network = create_model(name, num_classes=3).eval()
    inputs = torch.zeros(1, 3, *NAMES[name])
    options = {"arch": ARCHS[name], "rule": default_postprocess(ARCHS[name])}
    placements = [Placement(NAMES[name], NAMES[name])]

    def spoilt(images):
        """One number of the last map alone."""
        out = network(images)
        maps = out
        if isinstance(out, dict):
            last = [*out.values()][-1]
            maps = last[-1] if isinstance(last, list | tuple) else last
        maps.view(-1)[-1] = value
        return out

    with torch.inference_mode():
        assert len(answers(network, inputs, placements, **options)) == 1
        with pytest.raises(UserError, match="the network's output holds NaN or infinity"):
            answers(spoilt, inputs, placements, **options)


@pytest.mark.parametrize("name", ["ssd224_hardnet29", "fchardnet70"])
def test_predict_says_so(name):
    from PIL import Image

    network = create_model(name, num_classes=3).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1e12)
    with pytest.raises(UserError, match="the network's output holds NaN or infinity"):
        list(predict(network, [Image.effect_noise((64, 64), 50)] * 2))
