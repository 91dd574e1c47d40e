"""Makes OpenMMLab's packages work on today's: mmcv-lite, NumPy 2 and PyTorch from 2.6 on.

``hardnet_suite_mmcv.pth`` imports this when Python starts, so that OpenMMLab's own tools work before any
config of ours is read. It must stay tiny and import neither torch nor hardnet_suite.

- ``mmcv._ext`` is found in hardnet_suite where no compiled one is installed: that finder stands last on
  ``sys.meta_path``.
- Five modules are repaired as they are imported, each within its own names: mmengine's loader reads by the
  suite's reader what ``torch.load`` refuses, such as the log in a run's checkpoint; mmdet's evaluation of
  YouTube-VIS and cityscapesScripts find the names that NumPy has dropped; mmdet pastes masks of boxes outside
  of the image, as QueryInst predicts them early in training.
"""

import importlib.util
import pickle
import sys
from pathlib import Path

NAME = "mmcv._ext"


def _of_suite(name, *parts):
    """The spec of a module in a file of hardnet_suite/openmm; None without hardnet_suite."""
    package = importlib.util.find_spec("hardnet_suite")  # found, not imported
    if package is None or not package.submodule_search_locations:
        return None
    source = Path(package.submodule_search_locations[0], "openmm", *parts)
    return importlib.util.spec_from_file_location(name, source)


class MMCVExtFinder:
    """Meta path finder of one module; its source is hardnet_suite/openmm/ops/mmcv_ext.py."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        return _of_suite(name, "ops", "mmcv_ext.py") if name == NAME else None


class _OldNumPy:
    """NumPy with the names that it has dropped."""

    def __init__(self, numpy):
        self._numpy = numpy

    def __getattr__(self, name):
        if name in ("in1d", "float") and name not in vars(self._numpy):
            return self._numpy.isin if name == "in1d" else float
        return getattr(self._numpy, name)


def _find_old_names(module):
    module.np = _OldNumPy(module.np)


def _load_what_torch_refuses(module):
    """mmengine's own loader, and the suite's reader for what it refuses."""
    load = module.load_from_local

    def load_local(filename, map_location=None):
        try:
            return load(filename, map_location)
        except pickle.UnpicklingError:
            spec = _of_suite("_hardnet_suite_checkpoints", "checkpoints.py")
            if spec is None:
                raise
            reader = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(reader)
            return reader.load_local(filename, map_location)

    module.CheckpointLoader.register_scheme("", load_local, force=True)


def _paste_masks_outside_of_images(module):
    """On the CPU, mmdet crops the image to the boxes: it fails where nothing is left or one is not finite."""
    paste = module._do_paste_mask

    def do_paste_mask(masks, boxes, img_h, img_w, skip_empty=True):
        skip_empty = skip_empty and bool(boxes.isfinite().all())
        if skip_empty:
            left, top = (boxes[:, :2].amin(0).floor() - 1).clamp(min=0).tolist()
            right, bottom = (boxes[:, 2:].amax(0).ceil() + 1).tolist()
            if min(right, img_w) <= left or min(bottom, img_h) <= top:
                return masks.new_zeros(len(masks), 0, 0), (slice(0, 0), slice(0, 0))
        return paste(masks, boxes, img_h, img_w, skip_empty)

    module._do_paste_mask = do_paste_mask


REPAIRS = {
    "mmengine.runner.checkpoint": _load_what_torch_refuses,
    "mmdet.evaluation.functional.ytviseval": _find_old_names,
    "mmdet.models.roi_heads.mask_heads.fcn_mask_head": _paste_masks_outside_of_images,
    "cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling": _find_old_names,
    "cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling": _find_old_names,
}


class _RepairingLoader:
    """A module's own loader, and a repair after it."""

    def __init__(self, loader, repair):
        self._loader, self._repair = loader, repair

    def __getattr__(self, name):
        return getattr(self._loader, name)

    def exec_module(self, module):
        self._loader.exec_module(module)
        self._repair(module)


class RepairFinder:
    """Meta path finder of the modules to repair; the other finders find them."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name not in REPAIRS:
            return None
        for finder in sys.meta_path:
            spec = None if finder is cls else finder.find_spec(name, path, target)
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    spec.loader = _RepairingLoader(spec.loader, REPAIRS[name])
                return spec
        return None


def install() -> None:
    """Puts the finders on ``sys.meta_path``, once."""
    if MMCVExtFinder not in sys.meta_path:
        sys.meta_path.append(MMCVExtFinder)
    if RepairFinder not in sys.meta_path:
        sys.meta_path.insert(0, RepairFinder)


install()
