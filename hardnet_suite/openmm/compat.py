"""What makes today's mmengine, mmdet, mmsegmentation and mmcv-lite work together.

Importing ``hardnet_suite.openmm`` changes these things in a process, and nothing else:

- ``mmcv._ext`` is found in ``ops/mmcv_ext.py`` where no compiled mmcv is installed.
- The suite's classes are added to mmengine's root registries; ``LoadImageFromFile`` among the transforms is
  the suite's decoder.
- torch's list of safe globals allows the log that mmengine keeps in a run's checkpoint, so that stock
  ``Runner.resume`` and ``load_checkpoint`` work under torch ≥ 2.6 with ``weights_only`` on. The list belongs
  to the process, and mmengine has no other place for it. Each entry accepts plain numbers and arrays only.
- ``atomic_local`` is added to mmengine's file backends. It is used where it is named, as the suite's
  ``ResumableCheckpointHook`` does.

mmdet's ``SSDHead`` is repaired per model by :func:`repair_ssd_heads`, for models that the suite's runner
scores.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import torch
from mmengine.fileio import register_backend
from mmengine.fileio.backends import LocalBackend
from mmengine.logging import HistoryBuffer
from torch import nn

import _hardnet_suite_mmcv
from hardnet_suite.weights.pickles import log_globals

ATOMIC = {"backend": "atomic_local"}  # backend_args of mmengine's save_checkpoint and CheckpointHook


class AtomicLocalBackend(LocalBackend):
    """Writes a file beside its place and renames it: a file is whole, or not there."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        folder, name = os.path.split(os.path.abspath(filepath))
        os.makedirs(folder, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{name}.", suffix=".tmp", dir=folder)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(obj)
                file.flush()
                os.fsync(file.fileno())
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(temporary, 0o666 & ~umask)  # mkstemp creates 0600, which others cannot read
            os.replace(temporary, filepath)
        except BaseException:
            os.unlink(temporary)
            raise

    def put_text(self, obj: str, filepath: str | Path, encoding: str = "utf-8") -> None:
        self.put(obj.encode(encoding), filepath)


def install() -> None:
    """Idempotent; a compiled mmcv is left alone."""
    _hardnet_suite_mmcv.install()
    torch.serialization.add_safe_globals(log_globals(HistoryBuffer))
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
