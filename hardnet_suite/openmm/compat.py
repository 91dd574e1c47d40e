"""What makes today's mmengine, mmdet, mmsegmentation and mmcv-lite work together.

Importing ``hardnet_suite.openmm`` changes these things in a process, and nothing else:

- ``mmcv._ext`` is found in ``ops/mmcv_ext.py`` where no compiled mmcv is installed, and the modules that
  ``repairs`` lists are repaired if they are imported later. In an installation, the start-up hook
  ``_hardnet_suite_mmcv`` has made these two changes before any import.
- The suite's classes are added to mmengine's root registries; ``LoadImageFromFile`` among the transforms is
  the suite's decoder.
- mmengine's loader of local checkpoints is the suite's reader (``checkpoints.load_local``), which takes the
  log that mmengine keeps in a run's checkpoint, so that stock ``Runner.resume`` and ``load_checkpoint`` work
  under torch ≥ 2.6, and the class names of a weights file of the suite. The config that a checkpoint has as
  text is left out, since mmengine would run it. ``torch.load`` stays as it is.
- ``atomic_local`` is added to mmengine's file backends. It is used where it is named, as the suite's
  ``ResumableCheckpointHook`` does.

mmdet's ``SSDHead`` is repaired per model by :func:`repair_ssd_heads`, for models that the suite's runner
scores.
"""

from __future__ import annotations

from pathlib import Path

from mmengine.fileio import register_backend
from mmengine.fileio.backends import LocalBackend
from mmengine.runner import CheckpointLoader
from torch import nn

import _hardnet_suite_mmcv
from hardnet_suite.openmm.checkpoints import load_local
from hardnet_suite.outputs import write_file

ATOMIC = {"backend": "atomic_local"}  # backend_args of mmengine's save_checkpoint and CheckpointHook


class AtomicLocalBackend(LocalBackend):
    """Writes a file beside its place and renames it: a file is whole, or not there."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        write_file(filepath, obj)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = "utf-8") -> None:
        write_file(filepath, obj.encode(encoding))


def install() -> None:
    """Idempotent; a compiled mmcv is left alone."""
    _hardnet_suite_mmcv.install()
    CheckpointLoader.register_scheme("", load_local, force=True)
    register_backend(ATOMIC["backend"], AtomicLocalBackend, force=True)


def repair_ssd_heads(model: nn.Module) -> None:
    """Gives stock SSD heads of a model the ``loss_cls`` that mmdet 3.3's prediction code reads.

    Without it validation fails with ``'SSDHead' object has no attribute 'loss_cls'``. The class, and other
    models, stay as they are.
    """
    from mmdet.models import SSDHead

    for module in model.modules():
        if isinstance(module, SSDHead) and not hasattr(module, "loss_cls"):
            module.loss_cls = None


def needs_contiguous_maps(model: nn.Module) -> bool:
    """Whether mmdet's CenterNet or CornerNet is in a model, whose decoding fails in channels-last memory.

    ``get_topk_from_heatmap`` takes a ``view`` of the heat maps across channels, height and width.
    """
    from mmdet.models import CenterNetHead, CornerHead

    return any(isinstance(module, CenterNetHead | CornerHead) for module in model.modules())
