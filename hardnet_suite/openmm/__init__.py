"""The suite as a plug-in of OpenMMLab: importing this registers its classes in mmengine's root registries.

In a config: ``custom_imports = dict(imports=["hardnet_suite.openmm"])``. It is the only package of the
suite that imports mmengine, mmcv, mmdet or mmseg. ``compat`` lists what else the import changes.
"""

# ruff: noqa: E402

from hardnet_suite.openmm import compat

compat.install()  # before anything that imports mmcv.ops

from hardnet_suite.openmm.data import (
    classification,
    detection,
    loading,
    panoptic,
    patch_pairs,
    point_batches,
    prepare,
    sampling,
    transforms,
)
from hardnet_suite.openmm.models import backbone, centernet, classifier, descriptor, initializers, ssd
from hardnet_suite.openmm.run import amp, buffers, drawings, hooks, loops, metrics, progress

__all__ = [
    "amp",
    "backbone",
    "buffers",
    "centernet",
    "classification",
    "classifier",
    "descriptor",
    "detection",
    "drawings",
    "hooks",
    "initializers",
    "loading",
    "loops",
    "metrics",
    "panoptic",
    "patch_pairs",
    "point_batches",
    "prepare",
    "progress",
    "sampling",
    "ssd",
    "transforms",
]
