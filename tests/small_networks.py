"""One small network per kind of the architecture table, with weights as of a trained one."""

from __future__ import annotations

from dataclasses import replace

import torch
from tiny_networks import TINY
from torch import nn

from hardnet_suite.inference import to_input
from hardnet_suite.networks import ARCHS, build_network

_CLASSIFIER = replace(TINY["hardnet68"], first_pool_ceil=False)  # as the shipped ones: any size
SMALL = TINY | {
    "hardnet68": _CLASSIFIER,
    "hardnet85": replace(_CLASSIFIER, last_dropout=0.1),
    "hardnet_descriptor": replace(ARCHS["hardnet_descriptor"], layers=((8, 1), (8, 2), (16, 2)), length=16),
    "hardnet8_descriptor": replace(
        ARCHS["hardnet8_descriptor"], layers=((8, 1), (8, 2), (16, 2)), length=16, pca_from=24
    ),
}
_SPREADS = {"fc": 3.0, "cls": 3.0, "hm": 0.7, "classifier": 3.0, "box": 1.0, "wh": 5.0}


def small_network(name: str, **options) -> nn.Module:
    """The small network of a name in eval mode: statistics of random images, outputs of the usual spread.

    Args:
        name: a key of ``SMALL``.
        **options: of ``build_network``.
    """
    torch.manual_seed(0)
    network = build_network(name, arch=SMALL[name], **options)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d) and layer.affine:
            nn.init.normal_(layer.weight, 1.0, 0.2)
            nn.init.normal_(layer.bias, 0.0, 0.2)
    side = getattr(network, "patch", getattr(network.arch, "size", 128))
    pixels = torch.randint(0, 256, (4, 3, side // 4, side // 4), dtype=torch.uint8)
    pixels = pixels.repeat_interleave(4, 2).repeat_interleave(4, 3)
    inputs = to_input(pixels, network.usage.preprocess)
    channels = network.in_chans if hasattr(network, "patch") else network.trunk.in_chans
    inputs = inputs.mean(1, keepdim=True).expand(-1, channels, -1, -1) if channels == 1 else inputs
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = 1.0
        network.train()(inputs)
        for attribute, spread in _SPREADS.items():
            _rescale(network, attribute, spread, inputs)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 0.1
    return network.eval()


def _rescale(network: nn.Module, attribute: str, spread: float, inputs: torch.Tensor) -> None:
    """Gives the outputs of a head, or of each level's, a standard deviation."""
    head = getattr(network, attribute, None)
    if head is None:
        return
    layers = head if isinstance(head, nn.ModuleList) else [[head, *head.children()][-1]]
    for layer in layers:
        outputs = []
        handle = layer.register_forward_hook(lambda _, __, out, kept=outputs: kept.append(out))
        network.eval()(inputs)
        handle.remove()
        layer.weight.mul_(spread / outputs[0].std())
