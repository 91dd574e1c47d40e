"""Repairs of modules of other packages, made as they are imported, in every program of an installation.

Each changes names of its own module alone. Where a release lacks such a name, the module stays as it is. The
start-up hook ``_hardnet_suite_mmcv`` loads this file without the package around it, so it imports nothing
from there.
"""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Callable
from contextlib import suppress
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def _load_what_torch_refuses(module: ModuleType) -> None:
    """mmengine: its own loader, and the suite's reader for what that refuses, such as the log of a run.

    What neither reads raises torch's error.
    """
    load = module.load_from_local

    def load_local(filename: str, map_location: Any = None) -> Any:
        try:
            return load(filename, map_location)
        except pickle.UnpicklingError as error:
            hook = importlib.import_module("_hardnet_suite_mmcv")
            reader = hook.load("_hardnet_suite_checkpoints", "checkpoints.py")
            errors = importlib.import_module("hardnet_suite.errors")
            try:
                return reader.load_local(filename, map_location)
            except errors.UserError as reason:
                raise error from reason

    module.CheckpointLoader.register_scheme("", load_local, force=True)


class _OldNumPy:
    """NumPy with the names that it has dropped."""

    def __init__(self, numpy: ModuleType):
        self._numpy = numpy

    def __getattr__(self, name: str) -> Any:
        if name in ("in1d", "float") and name not in vars(self._numpy):
            return self._numpy.isin if name == "in1d" else float
        return getattr(self._numpy, name)


def _find_old_names(module: ModuleType) -> None:
    module.np = _OldNumPy(module.np)


def _paste_masks_outside_of_images(module: ModuleType) -> None:
    """mmdet: on the CPU it crops the image to the boxes, and fails where nothing is left or
    a box is not finite.

    QueryInst predicts such boxes early in training.
    """
    paste = module._do_paste_mask

    def do_paste_mask(masks: Any, boxes: Any, img_h: int, img_w: int, skip_empty: bool = True) -> Any:
        skip_empty = skip_empty and bool(boxes.isfinite().all())
        if skip_empty:
            left, top = (boxes[:, :2].amin(0).floor() - 1).clamp(min=0).tolist()
            right, bottom = (boxes[:, 2:].amax(0).ceil() + 1).tolist()
            if min(right, img_w) <= left or min(bottom, img_h) <= top:
                return masks.new_zeros(len(masks), 0, 0), (slice(0, 0), slice(0, 0))
        return paste(masks, boxes, img_h, img_w, skip_empty)

    module._do_paste_mask = do_paste_mask


REPAIRS: dict[str, Callable[[ModuleType], None]] = {
    "mmengine.runner.checkpoint": _load_what_torch_refuses,
    "mmdet.evaluation.functional.ytviseval": _find_old_names,
    "mmdet.models.roi_heads.mask_heads.fcn_mask_head": _paste_masks_outside_of_images,
    "cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling": _find_old_names,
    "cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling": _find_old_names,
}


class _RepairingLoader:
    """A module's own loader, and the repair after it."""

    def __init__(self, loader: Any, repair: Callable[[ModuleType], None]):
        self._loader, self._repair = loader, repair

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        with suppress(AttributeError):  # another release, without the name to repair
            self._repair(module)


def repairing(spec: ModuleSpec | None) -> ModuleSpec | None:
    """The spec of a module of ``REPAIRS``, changed: its loader repairs the module, too."""
    if spec is not None and hasattr(spec.loader, "exec_module"):
        spec.loader = _RepairingLoader(spec.loader, REPAIRS[spec.name])
    return spec
