"""A folder of files that a conversion writes, with a list of them by which a later one knows its own."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from hardnet_suite.data.boxes import BoxData
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
from hardnet_suite.data.own_files import FileList, is_listed
from hardnet_suite.errors import UserError, WriteError
from hardnet_suite.failures import explain
from hardnet_suite.outputs import require_replaceable, write_file


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
    listing = _list_of(data, target)
    earlier = listing.read()
    require_replaceable(listing.path, lambda _: earlier is not None, **WORDS)
    listed = earlier or {}
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
            require_replaceable(target / name, is_listed(listed, name), **WORDS)
    due = []
    for name, path in images.items():
        place = target / name
        if place.is_symlink() != link or not is_equal(place, path):
            require_replaceable(place, is_listed(listed, name), **WORDS)
            due.append(name)
        digests[name] = sha256(path)
    try:
        listing.write({name: {digests[name], *listed.get(name, ())} for name in places})
        for name, value in raw.items():
            write_file(target / name, value)
        for name in due:
            digests[name] = bring(images[name], target / name, link)
        listing.write({name: {digests[name]} for name in places})
    except WriteError as error:
        raise UserError(explain(error)) from None


def _list_of(data: BoxData | MaskData, target: Path) -> FileList:
    """The list of the files that conversions into a format wrote into a folder."""
    info = {"info": {"description": mark(data.format)}}
    return FileList(target, info, lambda content: is_mark(content["info"]["description"]))
