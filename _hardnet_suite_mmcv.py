"""Makes OpenMMLab's packages work on today's: mmcv-lite, NumPy 2 and PyTorch from 2.6 on.

``hardnet_suite_mmcv.pth`` imports this when Python starts, so that OpenMMLab's own tools work before any
config of ours is read. It must stay tiny and import neither torch nor hardnet_suite: both finders load a file
of hardnet_suite/openmm, without the package around it, when a module that they are for is imported.

- ``mmcv._ext`` is ops/mmcv_ext.py where no compiled one is installed: that finder stands last on
  ``sys.meta_path``.
- repairs.py lists the modules of other packages that are repaired as they are imported.
"""

import importlib.util
import os
import sys

NAME = "mmcv._ext"
REPAIRED = ("cityscapesscripts", "mmdet", "mmengine")  # packages with modules in repairs.py


def spec_of(name, *parts):
    """The spec of a module in a file of hardnet_suite/openmm; None without hardnet_suite."""
    package = importlib.util.find_spec("hardnet_suite")  # found, not imported
    if package is None or not package.submodule_search_locations:
        return None
    source = os.path.join(package.submodule_search_locations[0], "openmm", *parts)
    return importlib.util.spec_from_file_location(name, source)


def load(name, *parts):
    """A file of hardnet_suite/openmm as a module of its own, loaded once; None without hardnet_suite."""
    if name not in sys.modules:
        spec = spec_of(name, *parts)
        if spec is None:
            return None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[name] = module  # whole: other threads see it from here on
    return sys.modules[name]


class MMCVExtFinder:
    """Meta path finder of one module; its source is hardnet_suite/openmm/ops/mmcv_ext.py."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        return spec_of(name, "ops", "mmcv_ext.py") if name == NAME else None


class RepairFinder:
    """Meta path finder of the modules to repair; the other finders find them."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        repairs = load("_hardnet_suite_repairs", "repairs.py") if name.partition(".")[0] in REPAIRED else None
        if repairs is None or name not in repairs.REPAIRS:
            return None
        others = (finder for finder in sys.meta_path if finder is not cls and hasattr(finder, "find_spec"))
        specs = (finder.find_spec(name, path, target) for finder in others)
        return repairs.repairing(next(filter(None, specs), None))


def install() -> None:
    """Puts the finders on ``sys.meta_path``, once."""
    if MMCVExtFinder not in sys.meta_path:
        sys.meta_path.append(MMCVExtFinder)
    if RepairFinder not in sys.meta_path:
        sys.meta_path.insert(0, RepairFinder)


install()
