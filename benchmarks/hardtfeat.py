"""HardTFeat (Mishkin et al., ECCV 2018): TFeat's network trained with HardNet's loss, a peer to compare with.

Weights: https://github.com/ducha-aiki/affnet, ``pretrained/HardTFeat.pth`` (MIT).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hardnet_suite.errors import UserError
from hardnet_suite.inference import resize_patches
from hardnet_suite.networks.descriptor import normalize_patches
from hardnet_suite.weights import read_checkpoint, state_dict_of


class HardTFeat(nn.Module):
    """(N, 1, 32, 32) grey patches -> (N, 128) descriptors of unit length."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, 7), nn.Tanh(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 6), nn.Tanh()
        )
        self.classifier = nn.Sequential(nn.Dropout(0.1), nn.Conv2d(64, 128, 8), nn.Tanh())

    def forward(self, patches: Tensor) -> Tensor:
        return F.normalize(self.classifier(self.features(normalize_patches(patches))).flatten(1))


def load_hardtfeat(file: str | Path) -> HardTFeat:
    """The network with the published weights, in eval mode."""
    network = HardTFeat()
    state = state_dict_of(read_checkpoint(file))
    # the file holds a SIFT layer that the descriptor does not use
    state = {name: values for name, values in state.items() if not name.startswith("SIFT.")}
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(f"{file} does not hold the weights of HardTFeat") from error
    return network.eval()


@torch.inference_mode()
def describe(network: HardTFeat, patches: np.ndarray, batch_size: int = 256) -> np.ndarray:
    """(N, h, h) uint8 patches -> (N, 128) float32."""
    batches = torch.from_numpy(patches).split(batch_size)
    return torch.cat([network(resize_patches(batch)) for batch in batches]).numpy()
