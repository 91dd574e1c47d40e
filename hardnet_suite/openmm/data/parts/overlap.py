"""Files that a model both trains on and is scored on."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from hardnet_suite.data.files import copies_across, real_path
from hardnet_suite.errors import UserError
from hardnet_suite.openmm.data.parts.part import Part


@dataclass(frozen=True)
class Overlap:
    """What of a data set for validation or test is training data as well: its scores flatter.

    Attributes:
        loader: the data loader that the data set serves.
        twins: file of the data set -> the same file of the training data, or a copy of it.
        total: number of files of the data set.
        is_known: whether the files of all training data could be listed.
    """

    loader: str
    twins: dict[Path, Path]
    total: int
    is_known: bool = True

    @property
    def count(self) -> int | None:
        """Number of files that are training data; None where nothing is known."""
        return len(self.twins) if self.twins or self.is_known else None

    def unknown(self) -> Overlap:
        """The same, with the training data unknown."""
        return replace(self, is_known=False)

    @property
    def warning(self) -> str:
        """A line that says so; "" without twins."""
        if not self.twins:
            return ""
        path, first = next(iter(self.twins.items()))
        of = "" if real_path(path) == real_path(first) else f", a copy of {first}"
        return (
            f"{len(self.twins)} of {self.total} files of {self.loader} are training data as well, such as "
            f"{path}{of}: its scores say nothing of other images"
        )


def trained_on(part: Part, training: Iterable[Part], *, copies: bool) -> Overlap:
    """The overlap of a data set with the training data.

    Args:
        part: a data set for validation or test.
        training: those that are trained on.
        copies: also finds files of equal content, which are read.
    """
    try:
        files = part.files()
    except UserError:
        return Overlap(part.loader, {}, 0, is_known=False)
    places: dict[str, Path] = {}
    is_known = True
    for other in training:
        try:
            places.update({real_path(path): path for path in other.files()})
        except UserError:
            is_known = False
    twins = {path: places[real] for path in files if (real := real_path(path)) in places}
    if copies:
        rest = [path for path in files if path not in twins]
        pairs = copies_across({"training": [*places.values()], part.loader: rest})
        twins |= {path: first for first, path in pairs}
    return Overlap(part.loader, twins, len(files), is_known)


def sharing_folders(part: Part, others: Iterable[Part]) -> list[Part]:
    """Those of other data sets whose folders hold files of a data set, lie in its folders or around them.

    The others need not be listed to tell that they share no file with it, unless theirs are links.
    """
    folders = {real_path(folder) for folder in part.folders}
    with suppress(UserError):
        folders |= {str(Path(real_path(path)).parent) for path in part.files()}
    own = [Path(folder) for folder in folders]
    return [
        other
        for other in others
        if any(_are_nested(Path(real_path(folder)), place) for folder in other.folders for place in own)
    ]


def _are_nested(first: Path, second: Path) -> bool:
    return first.is_relative_to(second) or second.is_relative_to(first)
