"""Files of formats without room for a mark: a list beside them tells which of them a command wrote."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath

from hardnet_suite.data.coco.layout import read_json
from hardnet_suite.data.files import sha256
from hardnet_suite.errors import UserError
from hardnet_suite.outputs import require_replaceable, whole_file, write_file

LIST = "hardnet_suite.json"  # path -> SHA-256 of what was written


def require_own(folder: Path, command: str, names: Iterable[str], *, option: str = "folder") -> None:
    """Checks that files are missing, or as an earlier call wrote them.

    Args:
        folder: of the files.
        command: that writes them, such as "match".
        names: their paths in the folder.
        option: that chooses the folder.

    Raises:
        UserError: a file is not as the command wrote it, or a file is in the place of a folder.
    """
    digests = _listed(folder, command)
    words = {"writer": command, "option": option}
    require_replaceable(folder / LIST, lambda _: digests is not None, **words)
    for name in names:
        parents = (folder / parent for parent in PurePosixPath(name).parents)
        if parent := next((path for path in parents if os.path.lexists(path) and not path.is_dir()), None):
            raise UserError(f"{parent}: expected a folder")
        known = (digests or {}).get(name, set())
        require_replaceable(folder / name, lambda path, known=known: sha256(path) in known, **words)


@contextmanager
def own_files(folder: Path, command: str, names: Sequence[str]) -> Iterator[dict[str, Path]]:
    """Paths beside the places of files, for their contents; all of them take their places at the end.

    The list has the new contents beside the earlier ones while that happens: wherever it is interrupted,
    another call finds each file in it.

    Args:
        folder: of the files.
        command: that writes them, such as "match".
        names: their paths in the folder.

    Yields:
        Name -> path to write to.
    """
    earlier = _listed(folder, command) or {}
    with ExitStack() as stack:
        # the last one that is entered takes its place first
        places = {name: stack.enter_context(whole_file(folder / name)) for name in reversed(names)}
        yield places
        digests = {name: sha256(path) for name, path in places.items()}
        both = {name: earlier.get(name, set()) | {new} for name, new in digests.items()}
        _list(folder, command, earlier | both)
    _list(folder, command, earlier | {name: {digest} for name, digest in digests.items()})


def _list(folder: Path, command: str, digests: Mapping[str, set[str]]) -> None:
    files = {name: sorted(known) for name, known in digests.items()}
    files = {name: known[0] if len(known) == 1 else known for name, known in files.items()}
    write_file(folder / LIST, json.dumps({"program": _program(command), "files": files}, indent=0))


def _listed(folder: Path, command: str) -> dict[str, set[str]] | None:
    """Path -> SHA-256 of what earlier calls wrote there, of several where one was interrupted; None where
    there were none."""
    try:
        content = read_json(folder / LIST)
        if content["program"] != _program(command):
            return None
        files = dict(content["files"])
        return {name: {known} if isinstance(known, str) else set(known) for name, known in files.items()}
    except (UserError, TypeError, KeyError, ValueError):
        return None


def _program(command: str) -> str:
    return f"hardnet-suite {command}"
