"""Results in a work dir: written aside, then put in the place of the ones that an earlier run wrote.

A manifest in the work dir lists what ``test`` wrote there. Nothing else is ever replaced or removed.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from mmengine.dist import barrier, broadcast_object_list, is_main_process

from hardnet_suite import outputs

MANIFEST = ".test_results.json"


@contextmanager
def staging_folder(work_dir: Path) -> Iterator[Path]:
    """A fresh folder inside the work dir, the same on all ranks; removed at the end."""
    name = [tempfile.mkdtemp(prefix=".test_", dir=work_dir) if is_main_process() else None]
    broadcast_object_list(name)
    try:
        yield Path(name[0])
        barrier()
    finally:
        if is_main_process():
            shutil.rmtree(name[0], ignore_errors=True)


def require_replaceable(work_dir: Path, files: Iterable[str]) -> None:
    """Checks, before anything is computed, that results can go into the work dir.

    Args:
        work_dir: the folder.
        files: the results, as relative POSIX paths.

    Raises:
        UserError: a file of that name is there, and no earlier test wrote it.
    """
    own = _written(work_dir)
    words = {"writer": "test run", "option": "--work-dir"}
    for name in files:
        path = work_dir / name
        for folder in path.relative_to(work_dir).parents[:-1]:
            if not (work_dir / folder).is_dir():
                outputs.require_replaceable(work_dir / folder, lambda _: False, **words)
        outputs.require_replaceable(path, lambda _, name=name: name in own, **words)


def publish(staging: Path, work_dir: Path) -> None:
    """Moves all files of the staging folder into the work dir, and removes what an earlier run wrote there.

    Raises:
        UserError: a file of that name is there, and no earlier test wrote it.
    """
    files = sorted(path.relative_to(staging).as_posix() for path in staging.rglob("*") if path.is_file())
    require_replaceable(work_dir, files)
    before = _written(work_dir)
    _write_manifest(work_dir, before | set(files))  # a run that is killed in between owns both
    for name in files:
        target = work_dir / name
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(staging / name, target)
    for name in sorted(before - set(files)):
        (work_dir / name).unlink(missing_ok=True)
        for folder in (work_dir / name).parents:
            if folder == work_dir or not folder.is_dir() or any(folder.iterdir()):
                break
            folder.rmdir()
    _write_manifest(work_dir, set(files))


def _written(work_dir: Path) -> set[str]:
    """What an earlier test wrote into the folder; a manifest that cannot be read owns nothing."""
    try:
        names = json.loads((work_dir / MANIFEST).read_text())
    except (OSError, ValueError):
        return set()
    if not isinstance(names, list):
        return set()
    return {name for name in names if isinstance(name, str) and _lies_inside(name)}


def _lies_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def _write_manifest(work_dir: Path, names: set[str]) -> None:
    outputs.write_file(work_dir / MANIFEST, json.dumps(sorted(names)) + "\n")
