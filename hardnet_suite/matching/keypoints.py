"""Keypoints, and the detector and descriptor that stands where OpenCV's do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hardnet_suite.data.images import to_grey
from hardnet_suite.data.patch_frames import (
    MEASUREMENT_REGION,
    SIFT_CONTRAST,
    create_sift,
    cut_patches,
    frames_of_keypoints,
    require_region,
)
from hardnet_suite.matching.images import grey_array, read_image
from hardnet_suite.matching.keynet import KeyNetDetector, sizes_angles_shapes
from hardnet_suite.matching.patches import describe, digest_of, open_descriptor, patch_side
from hardnet_suite.numeric import is_integer, is_number

CvKeyPoint = Any  # cv2.KeyPoint, without an import of OpenCV

_CUT = 65  # pixels of a side, as the patches of HPatches, before they are reduced to the network's input
_FEWEST = 16  # pixels of a side: in smaller images SIFT reports noise, if anything
_AT_ONCE = 4096  # patches in memory


@dataclass(frozen=True, eq=False)
class Keypoints:
    """N keypoints as arrays; pixel centres have integer coordinates.

    Attributes:
        xy: (N, 2) float32, pixels.
        size: (N,) float32, diameter in pixels, ``cv2.KeyPoint.size``: 2 σ for SIFT.
        angle: (N,) float32, degrees in [0, 360), clockwise on the screen; 0 where upright.
        response: (N,) float32, strength; larger is better.
        shape: (N, 2, 2) float32 of determinant 1, [-1, 1]² onto the region of the patch in units of half its
            size; None: squares turned by ``angle``.
        octave: (N,) int32, ``cv2.KeyPoint.octave``, which OpenCV's own descriptors read; None: 0.
    """

    xy: np.ndarray
    size: np.ndarray
    angle: np.ndarray
    response: np.ndarray
    shape: np.ndarray | None = None
    octave: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.xy)

    def __getitem__(self, index: Any) -> Keypoints:
        """Those of an index array, mask or slice."""
        values = (getattr(self, field.name) for field in fields(self))
        return Keypoints(*(None if each is None else each[index] for each in values))

    @classmethod
    def from_opencv(cls, keypoints: Iterable[CvKeyPoint]) -> Keypoints:
        """``cv2.KeyPoint`` objects as arrays; an angle of -1, of detectors without orientation, becomes 0."""
        keypoints = tuple(keypoints)
        for point in keypoints:
            if not hasattr(point, "pt"):
                raise ValueError(f"expected keypoints of OpenCV, cv2.KeyPoint, got a {type(point).__name__}")
        rows = [(*point.pt, point.size, point.angle, point.response) for point in keypoints]
        values = np.array(rows, np.float32).reshape(-1, 5)
        angle = np.where(values[:, 3] == -1, 0, values[:, 3])
        octave = np.array([point.octave for point in keypoints], np.int32)
        return cls(values[:, :2], values[:, 2], angle, values[:, 4], octave=octave)

    def to_opencv(self) -> tuple[CvKeyPoint, ...]:
        """The same as ``cv2.KeyPoint`` objects, without shapes."""
        import cv2

        rows = np.column_stack([self.xy, self.size, self.angle, self.response]).tolist()
        octaves = [0] * len(self) if self.octave is None else self.octave.tolist()
        return tuple(cv2.KeyPoint(*row, octave) for row, octave in zip(rows, octaves, strict=True))

    def frames(self, region: float = MEASUREMENT_REGION) -> np.ndarray:
        """(N, 2, 3) float64 frames of their patches: LAFs in pixels, as Kornia's."""
        frames = frames_of_keypoints(self.xy, self.size, self.angle, region)
        if self.shape is not None:
            frames[:, :, :2] = (region * self.size / 2)[:, None, None] * self.shape
        return frames


@dataclass(frozen=True)
class Description:
    """What descriptors depend on beside the image and its keypoints: only those of one kind can be compared.

    Attributes:
        network: digest of the network's weights, ``digest_of``.
        region: side of a patch in sizes of its keypoint.
        upright: whether patches are cut at the angle 0.
    """

    network: str
    region: float
    upright: bool

    def check_same(self, other: Description) -> None:
        """ValueError if descriptors of the one cannot be compared with those of the other."""
        if self.network != other.network:
            names = f"digests {self.network[:12]} and {other.network[:12]}"
            raise ValueError(f"features of two networks ({names}) cannot be matched: describe both with one")
        for option in ("region", "upright"):
            ours, theirs = getattr(self, option), getattr(other, option)
            if ours != theirs:
                raise ValueError(
                    f"features of {option} {ours} and {theirs} cannot be matched: describe both with one"
                )


@dataclass(frozen=True, eq=False)
class Features:
    """The keypoints of an image and their descriptors.

    Attributes:
        name: of the image.
        image: (H, W, 3) uint8 RGB.
        keypoints: N of them, the strongest first.
        descriptors: (N, D) float32, of unit length.
        description: how they were computed; None where that is not known.
    """

    name: str
    image: np.ndarray
    keypoints: Keypoints
    descriptors: np.ndarray
    description: Description | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the image in pixels."""
        return self.image.shape[1], self.image.shape[0]


class HardNetDetector:
    """SIFT keypoints with HardNet descriptors, with the methods of OpenCV's ``Feature2D``.

    It takes the place of ``cv2.SIFT_create()``; descriptors are compared with ``cv2.NORM_L2``.

    Keypoints are those of OpenCV's SIFT with ``enable_precise_upscale``, without which they lie 0.25 pixels
    too far right and down. The patch of a keypoint is a square of ``region`` times its size, along its
    angle; beyond the border the image is reflected. Another ``detector`` takes the place of SIFT; its shapes
    are used where detection and description are one call, as ``cv2.KeyPoint`` has none.

    Args:
        model: a patch descriptor (``create_model``, ``load_descriptor``), or what ``load_descriptor`` takes.
        weights: as for ``load_descriptor``.
        top_k: the most keypoints of an image, strongest first; None: all.
        upright: angles of 0, for images that are not rotated against each other: faster, more matches. Given
            keypoints are described at the angle 0, too. With a ``KeyNetDetector``, it leaves out OriNet,
            which the detector must have.
        region: side of a patch in sizes of its keypoint, 0.5 to 100. The default is that of the training
            patches; others match worse (docs/descriptor.md).
        contrast: SIFT's contrast threshold; smaller gives more and weaker keypoints. Default: 0.04.
        detector: None: SIFT.
        channels: order of the channels in arrays and tensors: "bgr" as OpenCV reads images, or "rgb".
        device: where the network computes, if it is loaded here; None: a GPU where there is one.
        bf16: computes descriptors in bfloat16.

    Raises:
        UserError: as ``load_descriptor``.
        ValueError: a value out of range.
    """

    def __init__(
        self,
        model: nn.Module | str = "hardnet_descriptor",
        *,
        weights: str | None = None,
        top_k: int | None = 2048,
        upright: bool = False,
        region: float = MEASUREMENT_REGION,
        contrast: float | None = None,
        detector: KeyNetDetector | None = None,
        channels: str = "bgr",
        device: str | torch.device | None = None,
        bf16: bool = False,
    ):
        if top_k is not None and not (is_integer(top_k) and top_k >= 1):
            raise ValueError(f"expected an integer top_k of at least 1, or None, got {top_k!r}")
        require_region(region)
        if contrast is not None and detector is not None:
            raise ValueError("contrast is for SIFT's keypoints, got another detector")
        if detector is not None:
            detector.check_upright(upright)
        contrast = SIFT_CONTRAST if contrast is None else contrast
        if not (is_number(contrast) and contrast >= 0):
            raise ValueError(f"expected a contrast threshold of at least 0, got {contrast!r}")
        if channels not in ("rgb", "bgr"):
            raise ValueError(f"expected channels 'rgb' or 'bgr', got {channels!r}")
        if not isinstance(model, nn.Module):
            model = open_descriptor(model, weights=weights, device=device, bf16=bf16)
        elif weights is not None or device is not None:
            raise ValueError("weights and device are for a model given by its name: a network has its own")
        patch_side(model)
        self.model = model
        self.top_k, self.upright, self.region, self.contrast = top_k, upright, region, contrast
        self.detector, self.channels, self.bf16 = detector, channels, bf16

    def detect(self, image: Any, mask: np.ndarray | None = None) -> tuple[CvKeyPoint, ...]:
        """The keypoints of an image, the strongest first.

        Args:
            image: an array, or whatever else ``predict`` reads.
            mask: (H, W) uint8 or bool; keypoints lie where it is not zero.

        Raises:
            UserError: the image cannot be read.
            ValueError: an image or mask of another shape or type.
        """
        return self._keypoints(grey_array(image, self.channels), mask).to_opencv()

    def compute(
        self, image: Any, keypoints: Sequence[CvKeyPoint]
    ) -> tuple[tuple[CvKeyPoint, ...], np.ndarray | None]:
        """Descriptors of given keypoints, of SIFT or another detector whose size is a diameter of 2 σ.

        Returns:
            All keypoints as given, and (N, D) float32 descriptors; None without keypoints, as OpenCV.

        Raises:
            ValueError: a keypoint without size, or whose patch lies wholly outside the image.
        """
        keypoints = tuple(keypoints)
        grey = grey_array(image, self.channels)
        described = Keypoints.from_opencv(keypoints)
        if self.upright:
            described = replace(described, angle=np.zeros_like(described.angle))
        descriptors = self._describe(grey, described)
        return keypoints, descriptors if len(keypoints) else None

    def detectAndCompute(  # noqa: N802, as OpenCV
        self,
        image: Any,
        mask: np.ndarray | None = None,
        descriptors: None = None,
        useProvidedKeypoints: bool = False,  # noqa: N803, as OpenCV
    ) -> tuple[tuple[CvKeyPoint, ...], np.ndarray | None]:
        """``detect``, then ``compute``.

        Args:
            image: as for ``detect``.
            mask: as for ``detect``.
            descriptors: only None; OpenCV's array to write into.
            useProvidedKeypoints: only False, as OpenCV's Python interface takes no keypoints either:
                ``compute`` describes given ones.

        Raises:
            UserError: as for ``detect``.
            ValueError: as for ``detect``, or another value of the last two arguments.
        """
        if descriptors is not None or useProvidedKeypoints:
            raise ValueError(
                "detectAndCompute describes the keypoints that it detects, in a new array: "
                "for given keypoints call compute(image, keypoints)"
            )
        grey = grey_array(image, self.channels)
        keypoints = self._keypoints(grey, mask)
        computed = self._describe(grey, keypoints)
        return keypoints.to_opencv(), computed if len(keypoints) else None

    def features(self, image: Any, mask: np.ndarray | None = None, *, name: str | None = None) -> Features:
        """Keypoints and descriptors of an image as one record, for ``match_features``.

        Args:
            image: as for ``detect``.
            mask: as for ``detect``.
            name: of the image; default: its path.
        """
        default, rgb = read_image(image, self.channels)
        name = name or default
        grey = to_grey(rgb)
        keypoints = self._keypoints(grey, mask)
        description = Description(digest_of(self.model), self.region, self.upright)
        return Features(name, rgb, keypoints, self._describe(grey, keypoints), description)

    def describe_patches(self, patches: Tensor) -> Tensor:
        """Descriptors of patches as Kornia has them.

        Args:
            patches: (B, N, 1, h, h); uint8, or floating-point values in 0…1.

        Returns:
            (B, N, D) float32, on the device of the patches.
        """
        if not isinstance(patches, Tensor) or patches.ndim != 5:
            shape = tuple(patches.shape) if hasattr(patches, "shape") else type(patches).__name__
            raise ValueError(f"expected a tensor of patches (B, N, 1, h, h), got {shape}")
        batch, count = patches.shape[:2]
        descriptors = describe(self.model, patches.reshape(batch * count, *patches.shape[2:]), bf16=self.bf16)
        return torch.from_numpy(descriptors).view(batch, count, descriptors.shape[1]).to(patches.device)

    def detect_lafs(self, image: Any, mask: np.ndarray | None = None) -> Tensor:
        """(1, N, 2, 3) float32 local affine frames of the keypoints, in pixels, as Kornia's."""
        keypoints = self._keypoints(grey_array(image, self.channels), mask)
        return torch.from_numpy(keypoints.frames(self.region)).float()[None]

    def describe_lafs(self, image: Any, lafs: Tensor) -> Tensor:
        """Descriptors of local affine frames as Kornia's detectors find them, their scale included.

        Args:
            image: one image; a tensor may be (1, C, H, W), as Kornia has it.
            lafs: (1, N, 2, 3) in pixels: the square [-1, 1]² maps onto the region of the patch.

        Returns:
            (1, N, D) float32, on the device of the frames.
        """
        if not isinstance(lafs, Tensor) or lafs.ndim != 4 or tuple(lafs.shape[::2]) != (1, 2):
            shape = tuple(lafs.shape) if hasattr(lafs, "shape") else type(lafs).__name__
            raise ValueError(f"expected frames (1, N, 2, 3), of one image, got {shape}")
        frames = lafs[0].detach().cpu().double().numpy()
        descriptors = self._describe_frames(grey_array(image, self.channels), frames)
        return torch.from_numpy(descriptors)[None].to(lafs.device)

    def descriptorSize(self) -> int:  # noqa: N802, as OpenCV
        """How many numbers a descriptor has."""
        return self.model.arch.length

    def descriptorType(self) -> int:  # noqa: N802, as OpenCV
        """``cv2.CV_32F``."""
        return 5

    def defaultNorm(self) -> int:  # noqa: N802, as OpenCV
        """``cv2.NORM_L2``."""
        return 4

    def empty(self) -> bool:
        """False: it can detect and describe. OpenCV's SIFT always says True."""
        return False

    def getDefaultName(self) -> str:  # noqa: N802, as OpenCV
        """ "Feature2D.HardNet", as "Feature2D.SIFT" of OpenCV's SIFT."""
        return "Feature2D.HardNet"

    def _keypoints(self, grey: np.ndarray, mask: np.ndarray | None) -> Keypoints:
        if mask is not None:
            mask = np.asarray(mask)
            if mask.shape != grey.shape or mask.dtype not in (np.uint8, np.bool_):
                raise ValueError(
                    f"expected a mask {grey.shape} of uint8 or bool, got {mask.shape} of {mask.dtype}"
                )
            mask = 255 * (mask != 0).astype(np.uint8)
        if min(grey.shape) < _FEWEST:
            return Keypoints.from_opencv([])
        if self.detector is not None:
            frames, responses = self.detector.frames(grey, mask, top_k=self.top_k, upright=self.upright)
            sizes, angles, shapes = sizes_angles_shapes(frames)
            return Keypoints(frames[:, :, 2].astype(np.float32), sizes, angles, responses, shapes)
        keypoints = Keypoints.from_opencv(create_sift(self.contrast).detect(grey, mask))
        if self.upright:
            # SIFT has one keypoint for every strong orientation
            places = np.column_stack([keypoints.xy, keypoints.size])
            _, first = np.unique(places, axis=0, return_index=True)
            keypoints = keypoints[np.sort(first)]
            keypoints = replace(keypoints, angle=np.zeros_like(keypoints.angle))
        # equal responses in a fixed order
        order = np.lexsort([keypoints.angle, *keypoints.xy.T, -keypoints.response])
        return keypoints[order[: self.top_k]]

    def _describe(self, grey: np.ndarray, keypoints: Keypoints) -> np.ndarray:
        return self._describe_frames(grey, keypoints.frames(self.region))

    def _describe_frames(self, grey: np.ndarray, frames: np.ndarray) -> np.ndarray:
        parts = [np.empty((0, self.descriptorSize()), np.float32)]
        for start in range(0, len(frames), _AT_ONCE):
            patches = cut_patches(grey, frames[start : start + _AT_ONCE], _CUT)
            parts.append(describe(self.model, patches, bf16=self.bf16))
        return np.concatenate(parts)
