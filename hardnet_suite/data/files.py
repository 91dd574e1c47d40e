"""Reading of local files: a named pipe that nobody writes to, or a device without end, is an error."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path, PurePosixPath
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_LONGEST = 4096  # bytes of a path, on most systems
_END = 4096  # bytes at a file's end, which differ for most images of one size
_BLOCK = 1 << 20  # bytes read at once


_found: dict[Hashable, object] | None = None  # within ``looking_once``


@contextmanager
def looking_once() -> Iterator[None]:
    """Within, files are taken to stay as they are: what a function ``kept_while_looking`` returns is kept."""
    global _found
    if _found is not None:
        yield
        return
    _found = {}
    try:
        yield
    finally:
        _found = None


def stop_looking() -> None:
    """Forgets what is kept, within ``looking_once``: files are read anew from here on."""
    global _found
    _found = None


def kept_while_looking(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """A function of hashable values whose result depends on files; the result must not be changed."""

    @wraps(function)
    def look(*args: Arguments.args, **options: Arguments.kwargs) -> Result:
        found = _found
        if found is None:
            return function(*args, **options)
        key = function, args, tuple(sorted(options.items()))
        if key not in found:
            found[key] = function(*args, **options)
        return found[key]

    return look


@kept_while_looking
def folder_entries(folder: str) -> tuple[os.DirEntry, ...]:
    """What is in a folder, sorted by name; errors as of ``os.scandir``."""
    with os.scandir(folder) as entries:
        return tuple(sorted(entries, key=lambda entry: entry.name))


class NotAFileError(OSError):
    """A path that is neither a file nor a folder."""

    def __init__(self, path: str | Path):
        super().__init__(errno.EINVAL, "a pipe, socket or device, not a file", str(path))

    def __str__(self) -> str:
        return self.strerror


def require_regular(path: str | Path) -> None:
    """Checks what is about to be opened; a folder passes, since opening it says what it is.

    Raises:
        NotAFileError: the path is a pipe, socket or device.
        OSError: there is nothing at the path.
    """
    try:
        mode = Path(path).stat().st_mode
    except ValueError:  # a null byte, or a character that no name of a file has
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise NotAFileError(path)


def is_file(path: str | Path) -> bool:
    """Whether a file exists; False for a name that no file can have."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def real_path(path: str | Path) -> str:
    """``os.path.realpath``; for a name that no file can have, its absolute form."""
    try:
        return os.path.realpath(path)
    except (OSError, ValueError):
        return os.path.abspath(path)


def is_path(name: str) -> bool:
    """Whether a name is short enough to be the path of a file; looking into its folders would take long."""
    return len(name.encode(errors="surrogatepass")) < _LONGEST


def is_utf8(text: str) -> bool:
    """Whether UTF-8 can hold a text: file names of other encodings come with surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_bytes(path: str | Path) -> bytes:
    """The contents of a file; the errors are those of ``require_regular`` and of ``Path.read_bytes``."""
    require_regular(path)
    return Path(path).read_bytes()


def read_text(path: str | Path) -> str:
    """The text of a file in UTF-8, with or without a byte order mark; errors as of ``read_bytes``."""
    require_regular(path)
    return Path(path).read_text(encoding="utf-8-sig")


def sha256(path: str | Path, size: int | None = None) -> str:
    """The SHA-256 of a file, or of its first ``size`` bytes, in hex digits; errors as of ``Path.open``."""
    with Path(path).open("rb") as file:
        if size is None:
            return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256()
        while size > 0 and (block := file.read(min(size, _BLOCK))):
            digest.update(block)
            size -= len(block)
        return digest.hexdigest()


def by_stem(paths: Iterable[Path], folder: Path) -> dict[str, list[Path]]:
    """The files of a folder by their path in it, as ``stem_of``."""
    files = defaultdict(list)
    for path in paths:
        files[stem_of(path, folder)].append(path)
    return dict(files)


def stem_of(path: Path, folder: Path) -> str:
    """The path of a file within a folder without suffix, as ``normal_name``."""
    return normal_name(path.relative_to(folder).with_suffix("").as_posix())


def normal_name(text: str) -> str:
    """File systems differ in how they store accents, and Windows in the separator."""
    return str(PurePosixPath(unicodedata.normalize("NFC", text.replace("\\", "/"))))


def readings_of_line(line: str) -> Iterator[str]:
    """What a line of a list of files may name, best first: itself, then without spaces around, then with / as
    the separator."""
    yield line
    yield line.strip()
    yield line.strip().replace("\\", "/").removeprefix("./")


def copies_across(splits: Mapping[str, Sequence[Path]]) -> list[tuple[Path, Path]]:
    """Pairs of files of one content in two splits; the same path in both is none.

    Files of equal size and end alone are read as a whole. What cannot be read is left out.
    """
    sizes: dict[int, dict[Path, str]] = {}
    for split, paths in splits.items():
        for path in paths:
            try:
                sizes.setdefault(path.stat().st_size, {}).setdefault(path, split)
            except (OSError, ValueError):
                continue
    pairs = []
    for group in sizes.values():
        for like in _across(group, _end):
            for same in _across(like, sha256):
                first, *others = same
                pairs += [(first, other) for other in others if same[other] != same[first]]
    return pairs


def content_key(path: Path) -> str | None:
    """Tells the content of files apart, by size, middle and end; None for what cannot be read.

    Those of images that are compressed differ wherever the images do.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size // 2 - _END // 2))
            hashed = hashlib.blake2b(file.read(_END), digest_size=16)
            file.seek(max(0, size - _END))
            hashed.update(file.read(_END))
    except (OSError, ValueError):
        return None
    return f"{size:x}-{hashed.hexdigest()}"


def _across(files: Mapping[Path, str], key: Callable[[Path], str | bytes]) -> list[dict[Path, str]]:
    """The groups of files with one key that are of several splits."""
    if len({*files.values()}) < 2:
        return []
    groups: dict[str | bytes, dict[Path, str]] = {}
    for path, split in files.items():
        try:
            groups.setdefault(key(path), {})[path] = split
        except OSError:
            continue
    return [group for group in groups.values() if len({*group.values()}) > 1]


def _end(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _END))
        return file.read()
