"""The suite as a plug-in of mmsegmentation: importing this registers segmentor, loss and data set.

In a config: ``custom_imports = dict(imports=["hardnet_suite.openmm.segmentation"])``.
"""

import hardnet_suite.openmm  # isort: skip  (before anything that imports mmcv.ops)
from hardnet_suite.openmm.data import segmentation as data
from hardnet_suite.openmm.models import segmentor

__all__ = ["data", "hardnet_suite", "segmentor"]
