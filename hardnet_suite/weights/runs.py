"""The checkpoint that a run's folder stands for, by what the files say."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

from hardnet_suite.errors import UserError
from hardnet_suite.run_folders import BEST, NUMBERED, saved_checkpoints
from hardnet_suite.weights.file import BadFileError, WeightsFile


def newest_checkpoint(work_dir: str | Path) -> WeightsFile | None:
    """The checkpoint of a run that was saved last, by what the files say; None where there is none.

    Of several saved in one second, the one after most iterations. Every checkpoint in the folder is read.

    Raises:
        UserError: the last one by number cannot be read.
    """
    newest, rank, unreadable = None, None, None
    for path in saved_checkpoints(work_dir):
        try:
            file = WeightsFile.read(path)
            saved = _saved_at(file)
        except BadFileError as error:
            unreadable = path, error
            continue
        if unreadable and _kind(unreadable[0]) == _kind(path):
            unreadable = None  # a later one is whole
        if rank is None or saved > rank:
            newest, rank = file, saved
    if unreadable:
        path, error = unreadable
        raise UserError(f"{path}: {error}{whole_one_beside(path)}") from error
    return newest


def run_checkpoint(work_dir: str | Path) -> tuple[WeightsFile, str]:
    """The checkpoint that a run's folder stands for: the best one, or the newest where there is no best one.

    Of several best ones, as of several metrics, the one saved last by what the files say.

    Args:
        work_dir: the folder of the run.

    Returns:
        The checkpoint, and words for it that follow its path: "the best of the run".

    Raises:
        UserError: there is none, or the one to choose cannot be read.
    """
    newest = newest_checkpoint(work_dir)
    paths = sorted(Path(work_dir).glob(f"{BEST}*.pth"))
    if newest is not None:  # it names the best ones of its run; others are of an earlier run in the folder
        names = _best_names(newest)
        paths = [path for path in paths if path.name in names]
    if paths:
        return max(map(_readable, paths), key=_saved_at), "the best of the run"
    if newest is None:
        raise UserError(f"no checkpoint best_*.pth, epoch_N.pth or iter_N.pth in {work_dir}; train first")
    return newest, "the newest of the run (it has no best one)"


def is_of_run(weights: str | Path, folder: str | Path) -> bool:
    """Whether a file or folder of weights lies in the folder of a run, or is it; links count either way."""
    return any(
        Path(form(weights)).is_relative_to(form(folder)) for form in (os.path.abspath, os.path.realpath)
    )


def _best_names(file: WeightsFile) -> set[str]:
    """The names of the best checkpoints that a run's checkpoint tells of; mmengine stores their paths."""
    hub = file.content.get("message_hub")
    info = hub.get("runtime_info") if isinstance(hub, Mapping) else None
    entries = info.items() if isinstance(info, Mapping) else ()
    return {
        Path(path).name for key, path in entries if str(key).startswith("best_ckpt") and isinstance(path, str)
    }


def _readable(path: Path) -> WeightsFile:
    try:
        file = WeightsFile.read(path)
        _ = file.content
    except BadFileError as error:
        raise UserError(f"{path}: {error}{whole_one_beside(path)}") from error
    return file


def whole_one_beside(path: Path) -> str:
    """The end of a message about a damaged checkpoint: the last one before it that can be read, if any."""
    for other in _before(path):
        try:
            _ = WeightsFile.read(other).content
        except BadFileError:
            continue
        option = f"--resume {shlex.quote(str(other))}"
        return f"; the last whole checkpoint before it is {other} (train {option})"
    return ""


def _before(path: Path) -> Iterator[Path]:
    """Other checkpoints of the folder, the last first; of the same kind those of lower numbers."""
    for kind in ("iter", "epoch"):
        paths = saved_checkpoints(path.parent, kind)
        yield from reversed(paths[: paths.index(path)] if path in paths else paths)


def _kind(path: Path) -> str:
    return NUMBERED.fullmatch(path.name)[1]


def _saved_at(file: WeightsFile) -> tuple[str, int]:
    """When a checkpoint was saved, as mmengine writes it (20261126_151205), and after how many iterations."""
    meta = file.content.get("meta")
    time, done = (meta.get("time"), meta.get("iter")) if isinstance(meta, Mapping) else (None, None)
    return time if isinstance(time, str) else "", done if type(done) is int else 0
