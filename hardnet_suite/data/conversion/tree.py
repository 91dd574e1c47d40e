"""A folder of files that a conversion writes, with a list of them by which a later one knows its own."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from hardnet_suite.data.boxes import BoxData
from hardnet_suite.data.coco.layout import read_json
from hardnet_suite.data.conversion.target import (
    WORDS,
    SourceFolders,
    bring,
    is_equal,
    is_mark,
    mark,
    require_folder,
    require_inside,
)
from hardnet_suite.data.files import sha256
from hardnet_suite.data.masks import MaskData
from hardnet_suite.errors import UserError, WriteError
from hardnet_suite.failures import explain
from hardnet_suite.outputs import require_replaceable, write_file

LIST = "hardnet_suite.json"  # path -> SHA-256 of what a conversion wrote


def write_tree(
    data: BoxData | MaskData,
    target: Path,
    contents: Mapping[str, str | bytes],
    images: Mapping[str, Path],
    *,
    link: bool,
) -> None:
    """Writes files and images into a folder, after every check; nothing but earlier conversions is replaced.

    The list of the files is written first, so that a conversion that was interrupted is known like any other.
    Until the end it also has the SHA-256 of what the files of an earlier conversion were.

    Args:
        data: what is converted.
        target: the folder; it need not exist.
        contents: path in the folder -> content; text is written as UTF-8.
        images: path in the folder -> image.
        link: create symbolic links to the images instead of copies.

    Raises:
        UserError: a file is in the way, the folder is one of the source's, or it holds other files of an
            earlier conversion, which would be read with the new ones.
    """
    places = {*contents, *images}
    for place in places:
        require_inside(place)
    sources = SourceFolders(data.folders)
    for folder in sorted({target, *((target / name).parent for name in places)}):
        require_folder(folder)
        sources.require_outside(folder)
    earlier = _listed(target / LIST)
    require_replaceable(target / LIST, lambda _: earlier is not None, **WORDS)
    listed = earlier or {}

    def is_own(name: str) -> Callable[[Path], bool]:
        return lambda path: sha256(path) in listed.get(name, ())

    stale = [name for name in listed if name not in places and os.path.lexists(target / name)]
    if stale:
        raise UserError(
            f"{target} holds {len(stale)} other files of an earlier conversion, such as {stale[0]}: remove "
            "them, or choose another folder"
        )
    raw = {name: value.encode() if isinstance(value, str) else value for name, value in contents.items()}
    digests = {name: hashlib.sha256(value).hexdigest() for name, value in raw.items()}
    for name in raw:
        if not (target / name).is_file() or sha256(target / name) != digests[name]:
            require_replaceable(target / name, is_own(name), **WORDS)
    due = []
    for name, path in images.items():
        place = target / name
        if place.is_symlink() != link or not is_equal(place, path):
            require_replaceable(place, is_own(name), **WORDS)
            due.append(name)
        digests[name] = sha256(path)
    try:
        _write_list(data, target, {name: sorted({digests[name], *listed.get(name, ())}) for name in places})
        for name, value in raw.items():
            write_file(target / name, value)
        for name in due:
            digests[name] = bring(images[name], target / name, link)
        _write_list(data, target, {name: [digests[name]] for name in places})
    except WriteError as error:
        raise UserError(explain(error)) from None


def _write_list(data: BoxData | MaskData, target: Path, files: Mapping[str, Sequence[str]]) -> None:
    """Writes path -> SHA-256 of the files of a conversion; several of a file that may be as it was before."""
    digests = {name: of if len(of) > 1 else of[0] for name, of in sorted(files.items())}
    content = {"info": {"description": mark(data.format)}, "files": digests}
    write_file(target / LIST, json.dumps(content, indent=0))


def _listed(path: Path) -> dict[str, list[str]] | None:
    """Path -> SHA-256 that the file of an earlier conversion may have; None where there was none."""
    try:
        content = read_json(path)
        if is_mark(content["info"]["description"]):
            files = content["files"].items()
            return {str(name): [*map(str, of if isinstance(of, list) else [of])] for name, of in files}
    except (UserError, TypeError, KeyError, AttributeError):
        pass
    return None
