"""Tar files, as WebDataset shards a data set into: their members, each read where it lies."""

from __future__ import annotations

import glob
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

from hardnet_suite.data.files import require_regular
from hardnet_suite.data.images import image_errors, require_image_size
from hardnet_suite.errors import UserError

_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}")
_OTHER_BRACES = re.compile(r"\{[^{}]*\.\.[^{}]*\}")  # of letters, with a step
_MOST_FILES = 1_000_000
# a tar file that is compressed has to be read from its beginning
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst")
_MOST_ZEROS = 2 * tarfile.BLOCKSIZE + tarfile.RECORDSIZE  # at the end: two blocks, and up to a whole record


@dataclass(frozen=True, slots=True)
class TarMember:
    """A file in a tar file.

    Attributes:
        name: its path there.
        start: where its content begins in the tar file, in bytes.
        size: bytes of the content.
    """

    name: str
    start: int
    size: int


def is_tar(path: str) -> bool:
    """Whether a path or pattern names tar files by its suffix, compressed ones included."""
    return path.lower().endswith((".tar", *_COMPRESSED))


def is_compressed_tar(path: str) -> bool:
    """Whether a path or pattern names compressed tar files by its suffix."""
    return path.lower().endswith(_COMPRESSED)


def tar_paths(pattern: str) -> list[str]:
    """The tar files that a pattern names, in its order; those of a wildcard sorted.

    Args:
        pattern: a path, ``train-{000..099}.tar``, ``{a,b}.tar``, wildcards (``**`` for any folders), or a
            mixture. A file of that very name comes first.

    Raises:
        UserError: one is missing, or the pattern names none or too many.
    """
    if os.path.isfile(pattern):
        return [pattern]
    _require_known_braces(pattern)
    paths: list[str] = []
    for path in expand_braces(pattern):
        if glob.has_magic(path) and not os.path.isfile(path):
            found = sorted(set(glob.glob(path, recursive=True)))
            if not found:
                raise UserError(f"{path}: no such shards")
            paths += found
        else:
            paths.append(path)
        if len(paths) > _MOST_FILES:
            raise UserError(f"{pattern}: more than {_MOST_FILES} shards")
    missing = [path for path in paths if not os.path.isfile(path)]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise UserError(f"{pattern}: no shard {missing[0]}{more}")
    seen: dict[str, str] = {}
    for path in paths:
        other = seen.setdefault(os.path.realpath(path), path)
        if other is not path:
            also = f", also as {other}" if other != path else ""
            raise UserError(f"{pattern}: {path} is named twice{also}")
    return paths


def has_braces(pattern: str) -> bool:
    """Whether a pattern holds braces as ``{000..099}`` or ``{a,b}``, also those that are not supported."""
    return _BRACES.search(pattern) is not None or _OTHER_BRACES.search(pattern) is not None


def split_braces(pattern: str) -> list[tuple[str, bool]]:
    """The parts of a pattern in order, each with whether it is a pair of braces.

    Raises:
        UserError: its braces are nested, of letters, or with a step.
    """
    _require_known_braces(pattern)
    parts, end = [], 0
    for braces in _BRACES.finditer(pattern):
        parts += [(pattern[end : braces.start()], False), (braces.group(), True)]
        end = braces.end()
    return [*parts, (pattern[end:], False)]


def _require_known_braces(pattern: str) -> None:
    rest = _BRACES.sub("*", pattern)
    if _OTHER_BRACES.search(rest) or _BRACES.search(rest):  # the latter: one in another
        raise UserError(
            f"{pattern}: expected braces of two numbers, {{000..099}}, or of words, {{a,b}}, none in another"
        )


def expand_braces(pattern: str) -> Iterator[str]:
    """Expands braces as a shell does: ``{000..099}`` keeps its zeros, ``{a,b}`` are words.

    Raises:
        UserError: a range that runs backwards or is too long.
    """
    found = _BRACES.search(pattern)
    if found is None:
        yield pattern
        return
    first, last, words = found.groups()
    if words is not None:
        parts: Iterator[str] = iter(words.split(","))
    else:
        low, high = int(first), int(last)
        if high < low or high - low >= _MOST_FILES:
            raise UserError(f"{pattern}: expected {{FIRST..LAST}} with FIRST up to LAST")
        is_padded = any(len(number) > 1 and number.startswith("0") for number in (first, last))
        width = max(len(first), len(last)) if is_padded else 0
        parts = (str(number).zfill(width) for number in range(low, high + 1))
    for part in parts:
        yield from expand_braces(pattern[: found.start()] + part + pattern[found.end() :])


def tar_members(path: str) -> Iterator[TarMember]:
    """The regular files of a tar file in its order, read from its headers alone; hidden ones are left out.

    Args:
        path: the tar file, not compressed.

    Raises:
        UserError: the file cannot be read, is compressed, no tar file, broken, cut short or followed by
            something else, or holds links; the last four may be found after some members.
    """
    try:
        require_regular(path)
        with tarfile.open(path, "r:") as tar:
            yield from _members(path, tar)
    except tarfile.ReadError as error:
        what = "is compressed, and images of it could not be read one by one: unpack it"
        if not _is_compressed(path):
            what = f"is no tar file, or a broken one ({error})"
        raise UserError(f"{path} {what}") from None
    except RecursionError:  # of tarfile, at thousands of headers before a member
        raise UserError(f"{path} is no tar file, or a broken one") from None
    except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UserError(f"cannot read {path}: {reason}") from None


def read_member(path: str, start: int, size: int) -> bytes:
    """The content of a member; the tar file is open only while it is read.

    Raises:
        UserError: it cannot be read, or has become shorter.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            content = os.pread(file.fileno(), size, start)
            while 0 < len(content) < size and (  # Linux reads 2 GiB at once
                more := os.pread(file.fileno(), size - len(content), start + len(content))
            ):
                content += more
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    if len(content) != size:
        raise UserError(f"{path}: it was cut short since its images were listed")
    return content


def read_image_member(path: str, member: TarMember) -> bytes:
    """``read_member`` of an image, of the same size at most as an image file.

    Raises:
        UserError: it is larger, or as ``read_member``.
    """
    with image_errors(f"{path}/{member.name}"):
        require_image_size(member.size)
    return read_member(path, member.start, member.size)


def _members(path: str, tar: tarfile.TarFile) -> Iterator[TarMember]:
    length, end = os.path.getsize(path), 0
    for member in tar:
        tar.members = []  # else the whole listing stays in memory
        parts = [part for part in member.name.split("/") if part not in ("", ".")]
        name = "/".join(parts)
        is_hidden = any(part.startswith(".") and part != ".." for part in parts)
        if (member.issym() or member.islnk()) and not is_hidden:
            raise UserError(
                f"{path}: {name} is a link: pack the files themselves (tar --dereference --hard-dereference)"
            )
        if not member.isreg():
            end = member.offset_data
            continue
        if member.issparse() and not is_hidden:
            raise UserError(f"{path}: {name} is stored as a sparse file, which is not supported")
        end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        if member.offset_data + member.size > length:
            raise UserError(f"{path} is cut short in {member.name}")
        if not is_hidden:
            yield TarMember(name, member.offset_data, member.size)
    _require_end(path, end)


def _require_end(path: str, end: int) -> None:
    """Checks that a tar file ends after its last member; tarfile itself takes any block of zeros for the end.

    Raises:
        UserError: it does not end with zeros, or something follows.
    """
    with open(path, "rb") as file:
        file.seek(end)
        rest = file.read(_MOST_ZEROS)
        if rest[: tarfile.BLOCKSIZE] != bytes(tarfile.BLOCKSIZE):
            raise UserError(f"{path} is cut short: a tar file ends with zeros")
        if any(rest):
            raise UserError(
                f"{path}: more follows its end at byte {end}: tar files that were joined are named one by one"
            )
        if file.read(1):
            raise UserError(
                f"{path}: more than {_MOST_ZEROS} zeros from byte {end} on: it was not written to its end, "
                "or with a large blocking factor (leave out tar -b)"
            )


def _is_compressed(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"))
