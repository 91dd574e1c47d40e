"""The checkpoints in a run's folder."""

from __future__ import annotations

import re
from pathlib import Path

from hardnet_suite.errors import UserError

_NUMBERED = re.compile(r"(epoch|iter)_(\d+)\.pth")


def saved_checkpoints(work_dir: str | Path) -> list[Path]:
    """The checkpoints that a run can be resumed from, oldest first."""
    files = [path for path in Path(work_dir).glob("*.pth") if _NUMBERED.fullmatch(path.name)]
    return sorted(files, key=lambda path: path.stat().st_mtime_ns)


def newest_checkpoint(work_dir: str | Path) -> Path:
    """The last of ``saved_checkpoints``; UserError where there is none."""
    saved = saved_checkpoints(work_dir)
    if not saved:
        raise UserError(f"no checkpoint epoch_N.pth or iter_N.pth in {work_dir}; train first")
    return saved[-1]
