"""``inference.prepare`` as a transform of test pipelines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from mmengine.registry import TRANSFORMS
from PIL import Image, ImageOps

from hardnet_suite.inference.prepare import prepare
from hardnet_suite.networks import Preprocess


@TRANSFORMS.register_module()
class PrepareImage(BaseTransform):
    """Resizes, crops and pads the image by an input rule.

    Required: ``img``, (H, W, 3) uint8 BGR or a PIL image in RGB. It keeps its kind. Set beside it:
    ``placement`` (where the image lies in the input), ``img_shape``, ``ori_shape``, ``scale_factor``.

    Args:
        rule: an input rule as ``Preprocess.to_dict`` returns it.
        scale: factor on the size that the rule resizes to, for test-time augmentation.
        flip: mirrors the image first, for test-time augmentation; ``placement`` is then that of the mirror
            image, and ``flip`` and ``flip_direction`` are set.
    """

    def __init__(self, rule: Mapping[str, Any] | Preprocess, scale: float = 1.0, flip: bool = False):
        self.rule = rule if isinstance(rule, Preprocess) else Preprocess.from_dict(rule)
        self.scale, self.flip = scale, flip

    def transform(self, results: dict) -> dict:
        image = results["img"]
        is_array = isinstance(image, np.ndarray)
        if is_array:
            image = Image.fromarray(np.ascontiguousarray(image[..., ::-1]))
        if self.flip:
            image = ImageOps.mirror(image)
            results["flip"], results["flip_direction"] = True, "horizontal"
        pixels, placement = prepare(image, self.rule, self.scale)
        rows = pixels.permute(1, 2, 0).numpy()
        results["img"] = np.ascontiguousarray(rows[..., ::-1]) if is_array else Image.fromarray(rows)
        results["placement"] = placement
        results["img_shape"], results["ori_shape"] = tuple(pixels.shape[1:]), placement.image_size
        results["scale_factor"] = placement.scale
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}(rule={self.rule}, scale={self.scale}, flip={self.flip})"
