"""Local files for the rows of the registry: found on this machine, or downloaded and verified."""

from __future__ import annotations

import errno
import http.client
import os
import shutil
import urllib.error
import urllib.request
import uuid
from dataclasses import replace
from pathlib import Path

from hardnet_suite.errors import UserError
from hardnet_suite.networks.arch import ARCHS
from hardnet_suite.weights import places
from hardnet_suite.weights.file import BadFileError, WeightsFile, expanded
from hardnet_suite.weights.places import cache_dir, own_folder
from hardnet_suite.weights.registry import Address, WeightsRow

_OWN_DISK = (errno.ENOSPC, errno.EACCES, errno.EPERM, errno.EROFS, errno.EDQUOT)


def fetch(row: WeightsRow, *, file: str | Path | None = None, timeout: float = 30) -> Path:
    """Returns the path of a row's weights, downloaded into the cache if necessary.

    See ``obtain`` for the arguments, the order in which places are searched, and the errors.
    """
    return obtain(row, file=file, timeout=timeout).path


def obtain(row: WeightsRow, *, file: str | Path | None = None, timeout: float = 30) -> WeightsFile:
    """Reads the weights of a row into memory, once, and verifies them.

    These places are searched in order: ``file``, which is not verified; the package, for weights that it
    ships; ``$HARDNET_WEIGHTS_DIR`` and the cache, for the file name of any of the row's addresses; the
    addresses. A file must have the hash of its address if one is known, and otherwise hold weights of the
    row's model. Files in ``$HARDNET_WEIGHTS_DIR`` are compared with the model only, because hosts may serve
    different bytes. Downloads are added to the cache when they are complete and verified.

    Args:
        row: row of the registry.
        file: path of a local file to read instead.
        timeout: timeout of each network operation, in seconds.

    Returns:
        The file in memory.

    Raises:
        UserError: ``file`` is missing, a file in ``$HARDNET_WEIGHTS_DIR`` is unusable, the weights are
            unavailable at every address, or the cache is not writable.
    """
    if file is not None:
        return _read_or_complain(file)
    if row.shipped:
        path = places.SHIPPED / row.shipped
        try:
            shipped = WeightsFile.read(path)
            if shipped.sha256 != row.sha256:
                raise BadFileError(_wrong_hash("sha256", shipped.sha256, row.sha256))
            return shipped
        except BadFileError as error:
            raise UserError(f"{path}: {error}; reinstall the package") from error

    cache, folder = cache_dir(), own_folder()
    for address in row.urls if folder else ():
        path = folder / address.file
        if path.is_file():
            try:
                return _checked(path, replace(address, sha256_prefix=None, git_blob=None), row)
            except BadFileError as error:
                raise UserError(f"{path}: {error}") from error

    failures = []
    for address in row.urls:
        path = cache / address.file
        if path.is_file():
            try:
                return _checked(path, address, row)
            except BadFileError as error:
                failures.append(f"{path} ({error})")
    for address in row.urls:
        try:
            return _download(address, row, cache, timeout)
        except (BadFileError, OSError, http.client.HTTPException) as error:
            if getattr(error, "errno", None) in _OWN_DISK:
                raise UserError(
                    f"cannot write {row.file} into {cache}: {error.strerror}; set TORCH_HOME elsewhere"
                ) from None
            failures.append(f"{address.url} ({_reason(error)})")
    raise UserError(
        f"could not get {row.file}, the {row.tag} weights of {row.model}: "
        f"{'; '.join(dict.fromkeys(failures))}; "
        f"put the file by hand into {folder or cache} as {row.file}"
    )


def _read_or_complain(path: str | Path) -> WeightsFile:
    try:
        return WeightsFile.read(path)
    except BadFileError as error:
        raise UserError(f"{expanded(path)}: {error}") from error


def _checked(path: Path, address: Address, row: WeightsRow) -> WeightsFile:
    """Reads and verifies a file; raises BadFileError if it is not the row's."""
    file = WeightsFile.read(path)
    if address.sha256_prefix and not file.sha256.startswith(address.sha256_prefix):
        raise BadFileError(_wrong_hash("sha256", file.sha256, address.sha256_prefix))
    if address.git_blob and file.git_blob != address.git_blob:
        raise BadFileError(_wrong_hash("git blob sha1", file.git_blob, address.git_blob))
    if address.pinned or row.model not in ARCHS:
        return file
    from hardnet_suite.weights.identification import identify, split_trunk
    from hardnet_suite.weights.tables import state_dict_of

    try:
        tensors = state_dict_of(file.content)
        if not row.base_only:
            identify(tensors, row.model)
        elif split_trunk(row.model, tensors) is None:
            raise UserError(f"these are not weights of {row.model}")
    except UserError as error:
        raise BadFileError(f"a wrong file: {error}") from error
    return file


def _wrong_hash(kind: str, digest: str, expected: str) -> str:
    return f"wrong contents: {kind} begins {digest[: len(expected[:16])]}, not {expected[:16]}"


def _download(address: Address, row: WeightsRow, folder: Path, timeout: float) -> WeightsFile:
    folder.mkdir(parents=True, exist_ok=True)
    # the name ends as the real one does, since the reader is chosen by the suffix
    part = folder / f"partial-{uuid.uuid4().hex}-{address.file}"
    try:
        _receive(address, part, timeout)
        file = _checked(part, address, row)
        _ = file.content  # a hash may be known to be right of a file that is refused
        target = folder / address.file
        os.replace(part, target)
        # what was parsed from the bytes is kept: the path alone changes
        moved = replace(file, path=target)
        moved.__dict__.update({key: value for key, value in file.__dict__.items() if key != "path"})
        return moved
    finally:
        part.unlink(missing_ok=True)


def _receive(address: Address, part: Path, timeout: float) -> None:
    """Downloads an address into ``part``, with a progress bar on a terminal.

    A connection that ends too soon is resumed there for as long as more arrives, if the server says that the
    file is still the same or a hash will tell; otherwise the download starts over.
    """
    from tqdm import tqdm

    part.touch(exist_ok=False)
    version = None  # of the file, in the server's words
    while True:
        have = part.stat().st_size
        headers = {"User-Agent": "hardnet-suite"}
        if have and (version or address.pinned):
            headers["Range"] = f"bytes={have}-"
            if version:
                headers["If-Range"] = version
        total = None
        try:
            request = urllib.request.Request(address.url, headers=headers)
            with urllib.request.urlopen(request, timeout=timeout) as response:
                begin = have if response.status == 206 else 0  # not every server sends a part
                given = response.headers
                if begin and not given.get("Content-Range", "").startswith(f"bytes {have}-"):
                    raise BadFileError("the server sends another part of the file than was requested")
                tag = given.get("ETag", "")
                version = tag if tag and not tag.startswith("W/") else given.get("Last-Modified")
                length = response.headers.get("Content-Length")
                total = begin + int(length) if length else None
                bar = {"total": total, "initial": begin, "desc": address.file, "unit": "B", "disable": None}
                with (
                    part.open("ab" if begin else "wb") as stream,
                    tqdm.wrapattr(stream, "write", unit_scale=True, **bar) as counted,
                ):
                    shutil.copyfileobj(response, counted)
        except (OSError, http.client.HTTPException):
            if part.stat().st_size <= have:
                raise
            continue
        size = part.stat().st_size
        # read in pieces, a body that ends too soon raises nothing by itself
        if total is None or size >= total:
            return
        if size <= have:
            raise BadFileError(f"cut short: {size} of {total} bytes")


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code}"
    if isinstance(error, urllib.error.URLError):
        return getattr(error.reason, "strerror", None) or str(error.reason)
    return str(error) or type(error).__name__
