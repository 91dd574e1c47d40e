"""What makes today's mmengine, mmdet, mmsegmentation and mmcv-lite work together.

``install`` is called when ``hardnet_suite.openmm`` is imported, before anything of mmdet or mmseg.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import torch
from mmengine.fileio import register_backend
from mmengine.fileio.backends import LocalBackend
from mmengine.logging import HistoryBuffer

import _hardnet_suite_mmcv
from hardnet_suite.weights.pickles import log_globals


class AtomicLocalBackend(LocalBackend):
    """Files are written beside their place and then renamed: whole, or not at all.

    mmengine writes checkpoints through its storage backends, so this holds for every checkpoint.
    """

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
            os.chmod(temporary, 0o666 & ~umask)  # mkstemp's 0600 would hide it from one's colleagues
            os.replace(temporary, filepath)
        except BaseException:
            os.unlink(temporary)
            raise

    def put_text(self, obj: str, filepath: str | Path, encoding: str = "utf-8") -> None:
        self.put(obj.encode(encoding), filepath)


def install() -> None:
    """Idempotent; changes nothing that a compiled mmcv or a newer release provides itself."""
    _hardnet_suite_mmcv.install()
    torch.serialization.add_safe_globals(log_globals(HistoryBuffer))
    register_backend("local", AtomicLocalBackend, force=True, prefixes="")


def repair_mmdet() -> None:
    """mmdet 3.3's prediction code reads ``loss_cls``, which its SSDHead lacks: every validation fails."""
    from mmdet.models import SSDHead

    if not hasattr(SSDHead, "loss_cls"):
        SSDHead.loss_cls = None
