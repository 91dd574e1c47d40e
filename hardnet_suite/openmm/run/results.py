"""Results in a work dir: written aside, then put in the place of the ones that an earlier run wrote.

A manifest in the work dir has the SHA-256 of each file that ``test`` wrote there. A file that differs, lies
behind a link, or is not listed is never replaced or removed.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path, PurePosixPath

from mmengine.dist import barrier, broadcast_object_list, is_main_process

from hardnet_suite import outputs
from hardnet_suite.data.files import read_text, sha256

MANIFEST = ".test_results.json"
_STAGING = "test_results"
_WORDS = {"writer": "test run", "option": "--work-dir"}
_Hashes = dict[str, tuple[str, ...]]  # relative POSIX path -> what the file may hold, as SHA-256


@contextmanager
def staging_folder(work_dir: Path) -> Iterator[Path]:
    """A fresh folder inside the work dir, the same on all ranks; removed at the end.

    Those of test runs that were killed are removed first.
    """
    with ExitStack() as stack:
        name = [None]
        if is_main_process():
            outputs.remove_leftovers(work_dir, MANIFEST)
            name[0] = str(stack.enter_context(outputs.temporary_folder(work_dir / _STAGING)))
        broadcast_object_list(name)
        yield Path(name[0])
        barrier()


def require_replaceable(work_dir: Path, files: Iterable[str]) -> None:
    """Checks, before anything is computed, that results can go into the work dir.

    Args:
        work_dir: the folder.
        files: the results, as relative POSIX paths.

    Raises:
        UserError: a file of that name is there that no earlier test wrote or that has changed since, or a
            link is in the place of a folder.
    """
    outputs.require_replaceable(work_dir / MANIFEST, lambda _: True, **_WORDS)
    own = _written(work_dir)
    for name in files:
        _require_replaceable(work_dir, name, own)


def publish(staging: Path, work_dir: Path) -> None:
    """Moves all files of the staging folder into the work dir, and removes what an earlier run wrote there.

    Raises:
        UserError: as of ``require_replaceable``.
    """
    files = sorted(path.relative_to(staging).as_posix() for path in staging.rglob("*") if path.is_file())
    require_replaceable(work_dir, files)
    before = _written(work_dir)
    new = {name: (sha256(staging / name),) for name in files}
    both = {name: (*before.get(name, ()), *new.get(name, ())) for name in before | new}
    _write_manifest(work_dir, both)  # a run that is killed in between owns both
    for name in files:
        target = work_dir / name
        _require_replaceable(work_dir, name, before)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(staging / name, target)
    for name in sorted(before.keys() - new.keys()):
        if not _is_own(work_dir, name, before):
            continue
        (work_dir / name).unlink(missing_ok=True)
        for folder in list((work_dir / name).relative_to(work_dir).parents)[:-1]:
            with suppress(OSError):  # something else is in it
                (work_dir / folder).rmdir()
    _write_manifest(work_dir, new)


def _require_replaceable(work_dir: Path, name: str, own: _Hashes) -> None:
    for folder in list((work_dir / name).relative_to(work_dir).parents)[:-1]:
        path = work_dir / folder
        if path.is_symlink() or not path.is_dir():
            outputs.require_replaceable(path, lambda _: False, **_WORDS)
    outputs.require_replaceable(work_dir / name, lambda _: _is_own(work_dir, name, own), **_WORDS)


def _is_own(work_dir: Path, name: str, own: _Hashes) -> bool:
    """Whether a file is as a test wrote it, in the work dir itself."""
    if name not in own:
        return False
    path = work_dir / name
    try:
        if os.path.realpath(path) != str(Path(os.path.realpath(work_dir), *PurePosixPath(name).parts)):
            return False
        return stat.S_ISREG(path.lstat().st_mode) and sha256(path) in own[name]
    except (OSError, ValueError):
        return False


def _written(work_dir: Path) -> _Hashes:
    """What earlier tests wrote into the folder; a manifest that cannot be read owns nothing."""
    try:
        content = json.loads(read_text(work_dir / MANIFEST))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(content, dict):
        return {}
    hashes = {name: value if isinstance(value, list) else [value] for name, value in content.items()}
    return {
        name: tuple(each for each in values if isinstance(each, str))
        for name, values in hashes.items()
        if _lies_inside(name)
    }


def _lies_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(path.parts) and "\0" not in name and not path.is_absolute() and ".." not in path.parts


def _write_manifest(work_dir: Path, hashes: _Hashes) -> None:
    """One hash of a file is a string; two, while a run replaces it, are a list."""
    content = {
        name: values[0] if len(values) == 1 else list(dict.fromkeys(values))
        for name, values in sorted(hashes.items())
    }
    outputs.write_file(work_dir / MANIFEST, json.dumps(content) + "\n")
