"""The suite as a plug-in of mmsegmentation: importing this registers segmentor, losses, data set and
distillation.

In a config: ``custom_imports = dict(imports=["hardnet_suite.openmm.segmentation"])``.
"""

import hardnet_suite.openmm  # isort: skip  (before anything that imports mmcv.ops)
from hardnet_suite.openmm.data import segmentation as data
from hardnet_suite.openmm.models import segmentor
from hardnet_suite.openmm.run import distillation

__all__ = ["data", "distillation", "hardnet_suite", "segmentor"]
