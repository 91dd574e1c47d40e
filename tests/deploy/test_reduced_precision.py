"""The shipped models in bfloat16 and float16 answer as in float32, on real images."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import nn

from hardnet_suite import create_model
from hardnet_suite.deploy import DisagreementError, transformed
from hardnet_suite.deploy.agreement import Tolerance, require_agreement
from hardnet_suite.deploy.outputs import flatten, output_names
from hardnet_suite.deploy.record import ExportRecord

# weights, folder of images, how many of them
MODELS = {
    "hardnet39ds": ("tiny_imagenet10", "tiny_imagenet10/train", 40),
    "ssd320_hardnet39ds": ("bccd", "bccd/JPEGImages", 3),
    "fchardnet70": ("camvid", "camvid/val", 2),
}
# twice to three times what was seen: numbers within 0.02 and 0.004 of the largest, 98.9 and 99.7 % equal
TOLERANCES = {"bf16": Tolerance(0.05, 0.05, 0.97), "fp16": Tolerance(0.01, 0.01, 0.99)}


@cache
def shipped(name: str) -> nn.Module:
    return create_model(name, pretrained=MODELS[name][0]).eval()


def agreement(name, changed, folder, tolerance):
    network = shipped(name)

    def run(inputs):
        with torch.inference_mode():
            return [values.numpy() for values in flatten(changed(torch.from_numpy(inputs)))]

    record = ExportRecord(
        usage=network.usage,
        arch=network.arch,
        num_classes=network.num_classes,
        in_chans=3,
        input_shape=("N", 3, "H", "W"),
        outputs=output_names(network.arch),
    )
    most = MODELS[name][2]
    return require_agreement(run, network, record, folder, name=name, tolerance=tolerance, most=most)


@pytest.mark.parametrize(
    ("precision", "steps"),
    [
        ("bf16", ("bf16",)),
        ("fp16", ("fp16",)),
        ("bf16", ("fuse", "merge", "bf16", "channels_last", "pack")),
    ],
)
@pytest.mark.parametrize("name", MODELS)
def test_answers_of_real_images(shared, name, precision, steps):
    network, folder = shipped(name), shared / "data" / MODELS[name][1]
    example = torch.zeros(1, 3, *(network.usage.preprocess.height_width or (360, 480)))
    changed = transformed(network, steps, example)
    found = agreement(name, changed, folder, TOLERANCES[precision])
    assert found.images >= MODELS[name][2]
    assert found.values > 0  # another arithmetic


def test_another_network_does_not_agree(shared):
    name = "hardnet39ds"
    changed = transformed(shipped(name), ("bf16",), torch.zeros(1, 3, 64, 64))
    changed.fc.weight.data *= 1.1
    with pytest.raises(DisagreementError, match="the outputs differ"):
        agreement(name, changed, shared / "data" / MODELS[name][1], TOLERANCES["bf16"])
