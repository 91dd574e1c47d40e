"""Files of formats without room for a mark: a list beside them tells which of them this program wrote."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from hardnet_suite.data.coco.layout import read_json
from hardnet_suite.data.files import sha256
from hardnet_suite.errors import UserError
from hardnet_suite.outputs import require_replaceable, whole_file, write_file

LIST = "hardnet_suite.json"  # path -> SHA-256 of what was written


@dataclass(frozen=True)
class FileList:
    """The list of a folder: the path of every file that its writer wrote there, and SHA-256 of the content.

    A file has several SHA-256 while it is being replaced: it may be as it was before, or as it will be.

    Attributes:
        folder: of the files.
        mark: what the list says of its writer, beside the files.
        is_mark: whether a list that was read is of this writer.
    """

    folder: Path
    mark: Mapping[str, Any]
    is_mark: Callable[[Mapping[str, Any]], bool]

    @property
    def path(self) -> Path:
        return self.folder / LIST

    def read(self) -> dict[str, set[str]] | None:
        """Path -> SHA-256 that the file may have; None without a list of this writer."""
        try:
            content = read_json(self.path)
            if not self.is_mark(content):
                return None
            files = content["files"].items()
        except (UserError, TypeError, KeyError, AttributeError):
            return None
        digests = {name: [known] if isinstance(known, str) else known for name, known in files}
        if not all(
            isinstance(known, list) and all(isinstance(each, str) for each in known)
            for known in digests.values()
        ):
            return None
        return {name: set(known) for name, known in digests.items()}

    def write(self, digests: Mapping[str, Collection[str]]) -> None:
        """Writes the list in the place of an earlier one."""
        files = {name: sorted(known) for name, known in sorted(digests.items())}
        files = {name: known[0] if len(known) == 1 else known for name, known in files.items()}
        write_file(self.path, json.dumps({**self.mark, "files": files}, indent=0))


def is_listed(digests: Mapping[str, Collection[str]] | None, name: str) -> Callable[[Path], bool]:
    """Whether a file has one of the SHA-256 that a list has for its name; see :meth:`FileList.read`."""
    return lambda path: sha256(path) in (digests or {}).get(name, ())


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
    listing = _of_command(folder, command)
    digests = listing.read()
    words = {"writer": command, "option": option}
    require_replaceable(listing.path, lambda _: digests is not None, **words)
    for name in names:
        parents = (folder / parent for parent in PurePosixPath(name).parents)
        if parent := next((path for path in parents if os.path.lexists(path) and not path.is_dir()), None):
            raise UserError(f"{parent}: expected a folder")
        require_replaceable(folder / name, is_listed(digests, name), **words)


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
    listing = _of_command(folder, command)
    earlier = listing.read() or {}
    with ExitStack() as stack:
        # the last one that is entered takes its place first
        places = {name: stack.enter_context(whole_file(folder / name)) for name in reversed(names)}
        yield places
        digests = {name: sha256(path) for name, path in places.items()}
        both = {name: earlier.get(name, set()) | {new} for name, new in digests.items()}
        listing.write(earlier | both)
    listing.write(earlier | {name: {digest} for name, digest in digests.items()})


def _of_command(folder: Path, command: str) -> FileList:
    program = f"hardnet-suite {command}"
    return FileList(folder, {"program": program}, lambda content: content["program"] == program)
