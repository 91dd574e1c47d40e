"""Makes mmcv-lite importable: finds ``mmcv._ext`` in hardnet_suite where no compiled one is installed.

``hardnet_suite_mmcv.pth`` imports this when Python starts, so that OpenMMLab's own tools work before any
config of ours is read. It must stay tiny and import neither torch nor hardnet_suite. The finder stands
last on ``sys.meta_path``: a compiled ``mmcv._ext`` is always found first.
"""

import importlib.util
import sys
from pathlib import Path

NAME = "mmcv._ext"


class MMCVExtFinder:
    """Meta path finder of one module; its source is hardnet_suite/openmm/ops/mmcv_ext.py."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != NAME:
            return None
        package = importlib.util.find_spec("hardnet_suite")  # found, not imported
        if package is None or not package.submodule_search_locations:
            return None
        source = Path(package.submodule_search_locations[0], "openmm", "ops", "mmcv_ext.py")
        return importlib.util.spec_from_file_location(name, source)


def install() -> None:
    """Puts the finder at the end of ``sys.meta_path``, once."""
    if MMCVExtFinder not in sys.meta_path:
        sys.meta_path.append(MMCVExtFinder)


install()
