"""Key.Net keypoints with AffNet's shapes and OriNet's orientations, as Kornia computes them.

Barroso-Laguna et al., Key.Net, ICCV 2019; Mishkin, Radenović and Matas, Repeatability Is Not Enough (AffNet,
OriNet), ECCV 2018. The weights are the authors' files.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hardnet_suite.data.patch_frames import MEASUREMENT_REGION
from hardnet_suite.errors import UserError
from hardnet_suite.matching.patches import ready
from hardnet_suite.weights.file import read_checkpoint
from hardnet_suite.weights.tables import is_counter, require_sound

_BORDER = 15  # pixels of a level's sides without keypoints, in Kornia
_AT_ONCE = 512  # patches of AffNet and OriNet


class KeyNetDetector:
    """A detector for ``HardNetDetector(detector=...)``: Key.Net, then AffNet, then OriNet.

    A keypoint's patch is the frame that Key.Net was published with: half its side is 22 pixels of the pyramid
    level that the keypoint lies on. AffNet turns the square into a parallelogram of the same area.

    Args:
        keynet: weights of Key.Net, ``keynet_pytorch.pth`` (or a file of Kornia's ``KeyNet``).
        affnet: weights of AffNet, ``AffNet.pth``; None: square patches.
        orinet: weights of OriNet, ``OriNet.pth``; None: upright patches.
        device: "cpu", "cuda", …; None: a GPU where there is one.

    Attributes:
        networks: those that are used, by the names of their arguments.

    Raises:
        UserError: Kornia is not installed, no such device; a file cannot be read, or holds other weights.
    """

    def __init__(
        self,
        keynet: str | Path,
        *,
        affnet: str | Path | None = None,
        orinet: str | Path | None = None,
        device: str | torch.device | None = None,
    ):
        feature = _kornia_feature()
        self._detector = feature.KeyNetDetector(pretrained=False)
        fill_published(self._detector.model, keynet, "Key.Net")
        self._affnet = self._orinet = None
        if affnet is not None:
            self._affnet = feature.LAFAffNetShapeEstimator(pretrained=False)
            fill_published(self._affnet, affnet, "AffNet")
        if orinet is not None:
            network = feature.OriNet(pretrained=False)
            fill_published(network, orinet, "OriNet")
            self._orinet = feature.LAFOrienter(angle_detector=network)
        parts = {"keynet": self._detector, "affnet": self._affnet, "orinet": self._orinet}
        self.networks = nn.ModuleDict({name: part for name, part in parts.items() if part is not None})
        ready(self.networks, device)
        self._levels = self._detector.num_pyramid_levels

    def check_upright(self, upright: bool) -> None:
        """ValueError for ``upright`` without OriNet, where it would have no effect."""
        if upright and self._orinet is None:
            raise ValueError(
                "upright leaves out OriNet: this KeyNetDetector has none, its patches are upright"
            )

    @torch.inference_mode()
    def frames(
        self,
        grey: np.ndarray,
        mask: np.ndarray | None = None,
        *,
        top_k: int | None = 2048,
        upright: bool = False,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The frames of an image, the strongest first.

        Args:
            grey: (H, W) uint8.
            mask: (H, W) uint8 or bool; keypoints lie where it is not zero.
            top_k: the most frames; None: all.
            upright: without OriNet.

        Returns:
            (N, 2, 3) float64 in pixels, as of ``data.patch_frames``, and (N,) float32 responses. None lie
            within 15 pixels of the border of a pyramid level.

        Raises:
            ValueError: ``upright`` of a detector without OriNet.
        """
        self.check_upright(upright)
        device = next(self._detector.model.parameters()).device
        image = torch.from_numpy(np.ascontiguousarray(grey)).to(device)[None, None].float() / 255
        allowed = None
        if mask is not None:
            allowed = torch.from_numpy(np.asarray(mask) != 0).to(device)[None, None]
        detector = self._detector
        # smaller levels are all border
        most = math.log(max(1, min(grey.shape) / (2 * _BORDER)), detector.scale_factor_levels)
        detector.num_pyramid_levels = min(self._levels, math.floor(most))
        detector.num_features = grey.size if top_k is None else top_k
        responses, lafs = detector.detect(image, allowed)
        lafs = lafs[:, responses[0] > 0]  # Kornia fills up with zeros
        responses = responses[responses > 0]
        networks = [self._affnet, None if upright else self._orinet]
        for network in filter(None, networks):
            # of no frames, split gives one empty part, whose deviation PyTorch warns of
            parts = [network(part, image) for part in lafs.split(_AT_ONCE, 1) if part.shape[1]]
            lafs = torch.cat(parts, 1) if parts else lafs
        return lafs[0].double().cpu().numpy(), responses.float().cpu().numpy()


def sizes_angles_shapes(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames as keypoints have them: sizes of the region ``MEASUREMENT_REGION``, angles and shapes.

    Args:
        frames: (N, 2, 3), of positive area.

    Returns:
        (N,) float32 ``cv2.KeyPoint.size`` of a square of the same area, (N,) float32 ``cv2.KeyPoint.angle``,
        degrees in [0, 360) of the patch's x axis, and (N, 2, 2) float32 of determinant ±1.
    """
    half = np.sqrt(np.abs(np.linalg.det(frames[:, :, :2])))
    angles = np.degrees(np.arctan2(frames[:, 1, 0], frames[:, 0, 0])) % 360
    angles = angles.astype(np.float32) % 360  # again: below 360 rounds to it
    shapes = frames[:, :, :2] / half[:, None, None]
    return (2 * half / MEASUREMENT_REGION).astype(np.float32), angles, shapes.astype(np.float32)


def fill_published(network: nn.Module, file: str | Path, name: str, computed: Collection[str] = ()) -> None:
    """Loads the authors' file, or one of Kornia, into Kornia's network; the keys are the same.

    Batch counters may be missing, as PyTorch 0.3 did not have them, and the buffers of ``computed``.

    Raises:
        UserError: the file cannot be read, or holds other weights, NaN, or values too large for the network.
    """
    content = read_checkpoint(file)
    state: Any = content.get("state_dict", content)
    error = UserError(f"{file} does not hold the weights of {name}")
    if not isinstance(state, dict) or not all(isinstance(values, Tensor) for values in state.values()):
        raise error
    try:
        missing, unexpected = network.load_state_dict(state, strict=False)
    except RuntimeError:
        raise error from None
    needed = [key for key in missing if not is_counter(key) and key not in computed]
    if unexpected or needed:
        raise error
    try:
        require_sound(state, {key: values.dtype for key, values in network.state_dict().items()})
    except UserError as problem:
        raise UserError(f"{file}: {problem}") from None


def _kornia_feature() -> Any:
    try:
        import kornia.feature
    except ImportError:
        raise UserError(
            "Key.Net, AffNet and OriNet need Kornia: pip install 'hardnet-suite[descriptor]', "
            "or pip install 'kornia>=0.9'"
        ) from None
    return kornia.feature
