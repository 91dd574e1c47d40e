"""Keypoints and matches for structure from motion: hloc's HDF5 files, COLMAP's text files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from hardnet_suite.data.files import is_file, is_utf8, read_text
from hardnet_suite.data.images import exif_orientation
from hardnet_suite.data.own_files import LIST, own_files, require_own
from hardnet_suite.data.report import counted
from hardnet_suite.errors import UserError
from hardnet_suite.matching.keypoints import Features
from hardnet_suite.matching.pair import Matches
from hardnet_suite.outputs import writing

FEATURES, MATCHES, PAIRS = "features.h5", "matches.h5", "pairs.txt"  # hloc
MATCH_LIST = "matches.txt"  # COLMAP
_COMMAND = "match"  # whose files these are
_COLMAP_LENGTH = 128  # of a descriptor, in COLMAP
_HLOC_ARRAYS = ("keypoints", "descriptors", "scores", "scales", "oris", "image_size")  # of an image


def write_hloc(
    folder: str | Path, matches: Iterable[Matches], names: Mapping[int, str] | None = None
) -> Path:
    """Writes ``features.h5``, ``matches.h5`` and ``pairs.txt`` as hloc reads them.

    hloc is Hierarchical-Localization. An image is a group of ``features.h5`` under its name: keypoints
    (N, 2), descriptors (D, N), scores (N,), image_size (width, height), and of each keypoint the scale σ and
    the orientation in degrees. A pair is the group ``a/b`` of ``matches.h5``, "/" in names replaced by "-":
    matches0 (N,), the partners in b or -1, and matching_scores0 (N,), (1 + cosine) / 2. Keypoints have pixel
    centres at integers; hloc adds 0.5 when it fills COLMAP's database.

    Args:
        folder: of the files; earlier ones of this function are replaced, if their pairs are among these.
        matches: of pairs of images. Features of one image are one object in all of its pairs.
        names: by ``id(features)``, the paths of the images within hloc's folder of images. Default: those
            within the common folder of all images.

    Returns:
        The folder.

    Raises:
        UserError: h5py is not installed, an image without a name, two images of one name, a pair twice, in
            either order, names that the files cannot hold, images with an EXIF orientation, or other files
            or matches of other pairs in the place.
        ValueError: the descriptors of two images cannot be compared, as for ``match_features``.
    """
    h5py = _h5py()
    matches = list(matches)
    images = _named("hloc", matches, names)
    name_of = {id(features): name for name, features in images.items()}
    pairs = [
        tuple(name_of[id(features)].replace("/", "-") for features in (pair.a, pair.b)) for pair in matches
    ]
    _require_pairs("hloc", pairs, '("/" in names is "-" there)')
    folder = Path(folder)
    require_hloc_replaceable(folder)
    _require_pairs_stay(folder, PAIRS, [(name_of[id(pair.a)], name_of[id(pair.b)]) for pair in matches])
    with own_files(folder, _COMMAND, (FEATURES, MATCHES, PAIRS)) as places:
        with writing(folder / FEATURES), h5py.File(places[FEATURES], "w") as file:
            for name, features in images.items():
                group = file.create_group(name)
                keypoints = features.keypoints
                arrays = (
                    keypoints.xy,
                    np.ascontiguousarray(features.descriptors.T),
                    keypoints.response,
                    keypoints.size / 2,
                    keypoints.angle,
                    np.array(features.size),
                )
                for key, values in zip(_HLOC_ARRAYS, arrays, strict=True):
                    group[key] = values
                group["keypoints"].attrs["uncertainty"] = 1.0  # pixels
        lines = []
        with writing(folder / MATCHES), h5py.File(places[MATCHES], "w") as file:
            for pair, place in zip(matches, pairs, strict=True):
                a, b = name_of[id(pair.a)], name_of[id(pair.b)]
                partners = np.full(len(pair.a.keypoints), -1, np.int32)
                scores = np.zeros(len(partners), np.float32)
                partners[pair.pairs[:, 0]] = pair.pairs[:, 1]
                scores[pair.pairs[:, 0]] = 1 - pair.distances**2 / 4
                group = file.create_group("/".join(place))
                group["matches0"], group["matching_scores0"] = partners, scores
                lines.append(f"{a} {b}\n")
        with writing(folder / PAIRS):
            places[PAIRS].write_bytes("".join(lines).encode())
    return folder


def write_colmap(
    folder: str | Path, matches: Iterable[Matches], names: Mapping[int, str] | None = None
) -> Path:
    """Writes a text file of features per image, ``NAME.txt``, and ``matches.txt``, as COLMAP imports them.

    ``colmap feature_importer --import_path FOLDER`` reads the features: a line "N 128", then for each
    keypoint x, y, the scale σ, the orientation in radians and 128 integers. COLMAP's pixel centres are at
    0.5, so 0.5 is added to x and y. Its descriptors are 0 to 255: 128 + 256 d, rounded and clipped; match
    with ``matches.txt`` (``colmap matches_importer --match_type raw``), not in COLMAP, whose matcher takes
    descriptors for SIFT's.

    Args:
        folder: as for ``write_hloc``.
        matches: as for ``write_hloc``.
        names: as for ``write_hloc``.

    Returns:
        The folder.

    Raises:
        UserError: descriptors that are not 128 numbers long, or as for ``write_hloc``.
        ValueError: as for ``write_hloc``.
    """
    matches = list(matches)
    images = _named("COLMAP", matches, names)
    name_of = {id(features): name for name, features in images.items()}
    pairs = [(name_of[id(pair.a)], name_of[id(pair.b)]) for pair in matches]
    _require_pairs("COLMAP", pairs)
    folder = Path(folder)
    for features in images.values():
        require_colmap_length(features.descriptors.shape[1])
    require_colmap_replaceable(folder, images)
    _require_pairs_stay(folder, MATCH_LIST, pairs)
    with own_files(folder, _COMMAND, (*(f"{name}.txt" for name in images), MATCH_LIST)) as places:
        for name, features in images.items():
            with writing(folder / f"{name}.txt"):
                places[f"{name}.txt"].write_bytes(_feature_lines(features).encode())
        blocks = []
        for (a, b), pair in zip(pairs, matches, strict=True):
            rows = "".join(f"{i} {j}\n" for i, j in pair.pairs.tolist())
            blocks.append(f"{a} {b}\n{rows}\n")
        with writing(folder / MATCH_LIST):
            places[MATCH_LIST].write_bytes("".join(blocks).encode())
    return folder


def _feature_lines(features: Features) -> str:
    keypoints = features.keypoints
    values = np.clip(np.rint(128 + 256 * features.descriptors), 0, 255).astype(int)
    places = np.column_stack([keypoints.xy + 0.5, keypoints.size / 2, np.radians(keypoints.angle)])
    rows = [
        " ".join([*(f"{number:.9g}" for number in place), *map(str, row)])
        for place, row in zip(places.tolist(), values.tolist(), strict=True)
    ]
    return "\n".join([f"{len(keypoints)} {_COLMAP_LENGTH}", *rows]) + "\n"


def hloc_files(folder: str | Path) -> list[Path]:
    """What ``write_hloc`` writes into a folder."""
    return [Path(folder, name) for name in (FEATURES, MATCHES, PAIRS, LIST)]


def colmap_files(folder: str | Path, names: Iterable[str]) -> list[Path]:
    """What ``write_colmap`` writes into a folder for images of these names."""
    return [Path(folder, name) for name in (*(f"{name}.txt" for name in names), MATCH_LIST, LIST)]


def require_hloc_replaceable(folder: str | Path, pair: tuple[str, str] | None = None) -> None:
    """Checks, before anything is computed, that ``write_hloc`` may write.

    Args:
        folder: of the files.
        pair: names of the only pair that will be written, where they are known.

    Raises:
        UserError: h5py is not installed, other files are in the place, or matches of other pairs.
    """
    _h5py()
    require_own(Path(folder), _COMMAND, (FEATURES, MATCHES, PAIRS))
    if pair is not None:
        _require_pairs_stay(Path(folder), PAIRS, [pair])


def require_colmap_length(length: int) -> None:
    """UserError for descriptors of another length than COLMAP's."""
    if length != _COLMAP_LENGTH:
        raise UserError(f"COLMAP imports descriptors of {_COLMAP_LENGTH} numbers, these have {length}")


def require_colmap_replaceable(
    folder: str | Path, names: Iterable[str], pair: tuple[str, str] | None = None
) -> None:
    """Checks that ``write_colmap`` may write the features of images of these names.

    Args:
        folder: of the files.
        names: of the images.
        pair: as for ``require_hloc_replaceable``.

    Raises:
        UserError: other files are in the place, or matches of other pairs.
    """
    require_own(Path(folder), _COMMAND, (*(f"{name}.txt" for name in names), MATCH_LIST))
    if pair is not None:
        _require_pairs_stay(Path(folder), MATCH_LIST, [pair])


def _require_pairs_stay(folder: Path, file: str, pairs: Iterable[tuple[str, str]]) -> None:
    """UserError where a file holds matches of other pairs than those to be written, which would be lost."""
    if not (folder / file).exists():
        return
    text = read_text(folder / file)
    # COLMAP's has a block for each pair, whose first line has the names
    lines = text.splitlines() if file == PAIRS else [block.partition("\n")[0] for block in text.split("\n\n")]
    written = {frozenset(pair) for pair in pairs}
    lost = [line for line in lines if line.strip() and frozenset(line.split()) not in written]
    if lost:
        rest = "" if len(lost) == 1 else f", and of {counted(len(lost) - 1, 'other pair')}"
        raise UserError(
            f"{folder} holds matches of {lost[0]}{rest}, which would be lost: write all pairs in one call of "
            "write_hloc or write_colmap, or choose another folder"
        )


def _named(program: str, matches: list[Matches], names: Mapping[int, str] | None) -> dict[str, Features]:
    """The features of all images by their names, which the program takes."""
    by_id = {id(features): features for pair in matches for features in (pair.a, pair.b)}
    described = [features.description for features in by_id.values() if features.description is not None]
    for other in described[1:]:
        described[0].check_same(other)
    if names is None:
        paths = relative_names([features.name for features in by_id.values()])
        names = dict(zip(by_id, paths, strict=True))
    for key, features in by_id.items():
        if not isinstance(names.get(key), str):
            raise UserError(
                f"names has no name of the image {features.name}: expected one by id(features) of each image"
            )
    require_names(program, [names[key] for key in by_id])
    require_stored_upright(program, [features.name for features in by_id.values()])
    if alone := next((pair.a for pair in matches if pair.a is pair.b), None):
        raise UserError(f"{program} takes matches of two images, got {names[id(alone)]} with itself")
    return {names[key]: features for key, features in by_id.items()}


def relative_names(images: Sequence[str]) -> list[str]:
    """The paths of files within their common folder, with "/" between parts; of others the last part."""
    files = [os.path.abspath(name) if os.path.exists(name) else None for name in images]
    folders = [os.path.dirname(path) for path in files if path is not None]
    common = os.path.commonpath(folders) if folders else ""
    return [
        PurePosixPath(name).name if path is None else Path(os.path.relpath(path, common)).as_posix()
        for name, path in zip(images, files, strict=True)
    ]


def require_names(program: str, names: Iterable[str]) -> None:
    """Checks, before anything is computed, that the files of a program can hold images of these names.

    Args:
        program: "hloc" or "COLMAP".
        names: of the images.

    Raises:
        UserError: two images of one name, or names that are not paths within a folder, that a list of pairs
            does not take, or whose place in the files is taken.
    """
    places: dict[str, str] = {}
    reserved = {MATCH_LIST, LIST} if program == "COLMAP" else set()
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise UserError(f"two images are called {name}: names of images must differ")
        if any(character.isspace() for character in name):
            raise UserError(f"{name!r}: {program}'s list of pairs takes no spaces in names; rename the image")
        if not _is_path_within(name):
            raise UserError(
                f"{name!r}: expected a path within a folder, such as a/b.jpg, as name of an image"
            )
        seen.add(name)
        own = [f"{name}.txt"] if program == "COLMAP" else [f"{name}/{key}" for key in _HLOC_ARRAYS]
        places.update(dict.fromkeys(own, name))
    files = reserved | places.keys()
    for place, name in places.items():
        folders = map(str, PurePosixPath(place).parents)
        taken = [place] if place in reserved else [path for path in folders if path in files]
        if taken:
            raise UserError(f"{name}: {program}'s files have {taken[0]} for other data; rename the image")


def require_stored_upright(program: str, images: Iterable[str]) -> None:
    """Checks, before anything is computed, that a program sees the pixels that the keypoints are of.

    Keypoints are those of the upright image; hloc and COLMAP read the pixels as they are stored.

    Args:
        program: "hloc" or "COLMAP".
        images: their paths; names of others are left alone.

    Raises:
        UserError: an image with an EXIF orientation other than upright.
    """
    for image in images:
        if is_file(Path(image)) and (orientation := exif_orientation(image)) != 1:
            raise UserError(
                f"{image}: {program} ignores its EXIF orientation, {orientation}, so that keypoints of the "
                "upright image would lie elsewhere there: rotate its pixels first, such as with "
                "`mogrify -auto-orient`"
            )


def _is_path_within(name: str) -> bool:
    """Whether a name is a relative path of plain parts, which the files can hold as UTF-8."""
    path = PurePosixPath(name)
    is_plain = is_utf8(name) and bool(path.parts) and str(path) == name and ".." not in path.parts
    return is_plain and not path.is_absolute() and "\0" not in name


def _require_pairs(program: str, pairs: Iterable[tuple[str, ...]], remark: str = "") -> None:
    """UserError for two pairs that are one to a program, in either order."""
    seen: set[tuple[str, ...]] = set()
    for a, b in pairs:
        if (a, b) in seen:
            raise UserError(f"{program} takes one set of matches of {a} and {b} {remark}".rstrip())
        seen |= {(a, b), (b, a)}


def _h5py() -> Any:
    try:
        import h5py
    except ImportError:
        raise UserError(
            "hloc's files need h5py: pip install 'hardnet-suite[descriptor]', or pip install h5py"
        ) from None
    return h5py
