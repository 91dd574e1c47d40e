"""Local files for the rows of the registry: found on this machine, or downloaded and verified."""

from __future__ import annotations

import os
import time
import uuid
import warnings
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from hardnet_suite.data.fetching import FetchError, Limits, UnreachableError, host_of, receive, unknown_hosts
from hardnet_suite.errors import UserError
from hardnet_suite.networks.arch import ARCHS
from hardnet_suite.weights import places
from hardnet_suite.weights.file import BadFileError, WeightsFile, expanded
from hardnet_suite.weights.places import cache_dir, own_folder
from hardnet_suite.weights.registry import Address, WeightsRow

_DAY = 24 * 60 * 60  # seconds; no download that lives is silent for as long
# several times the largest published file; a large file over a slow line takes its time, so there is no total
DOWNLOAD_LIMITS = Limits(size=2 << 30)


def fetch(
    row: WeightsRow, *, file: str | Path | None = None, timeout: float = 30, limits: Limits | None = None
) -> Path:
    """Returns the path of a row's weights, downloaded into the cache if necessary.

    See ``obtain`` for the arguments, the order in which places are searched, and the errors.
    """
    return obtain(row, file=file, timeout=timeout, limits=limits).path


def obtain(
    row: WeightsRow, *, file: str | Path | None = None, timeout: float = 30, limits: Limits | None = None
) -> WeightsFile:
    """Reads the weights of a row into memory, once, and verifies them.

    These places are searched in order: ``file``, which is not verified; the package, for weights that it
    ships; ``$HARDNET_WEIGHTS_DIR`` and the cache, for the file name of any of the row's addresses; the
    addresses, without those of a host that cannot be reached. A file must have the hash of its address if
    one is known, and otherwise hold weights of the row's model. A file in ``$HARDNET_WEIGHTS_DIR``, which
    may be a converted one, must hold weights of the model; that it has none of the row's hashes is a
    warning. Downloads are added to the cache when they are complete and verified.

    Args:
        row: row of the registry.
        file: path of a local file to read instead.
        timeout: timeout of each network operation, in seconds.
        limits: of each download, in place of ``DOWNLOAD_LIMITS`` (2 GiB, at least 60 KiB per minute) with
            ``timeout``.

    Returns:
        The file in memory.

    Raises:
        UserError: ``file`` is missing, ``$HARDNET_WEIGHTS_DIR`` is no folder or a file in it is unusable, the
            weights are unavailable at every address, or the cache is not writable.

    Warns:
        UserWarning: a file in ``$HARDNET_WEIGHTS_DIR`` is not the published one.
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

    if limits is None:
        limits = replace(DOWNLOAD_LIMITS, wait=timeout, window=max(DOWNLOAD_LIMITS.window, 2 * timeout))
    cache, folder = cache_dir(), own_folder()
    for address in row.urls if folder else ():
        path = folder / address.file
        if path.is_file():
            try:
                own = _checked(path, replace(address, sha256_prefix=None, git_blob=None, sha1=None), row)
                is_published = not row.pinned or row.is_file(own.sha256, own.git_blob, own.sha1)
            except BadFileError as error:
                raise UserError(f"{path}: {error}") from error
            if not is_published:
                warnings.warn(
                    f"{path}: it has none of the hashes of the {row.tag} weights of {row.model}: it is used, "
                    "as HARDNET_WEIGHTS_DIR is a folder of your own, but it is another file than the "
                    "published one",
                    stacklevel=2,
                )
            return own

    failures = []
    for address in row.urls:
        path = cache / address.file
        if path.is_file():
            try:
                return _checked(path, address, row)
            except BadFileError as error:
                failures.append(f"{path} ({error})")
    unreachable = unknown_hosts((address.url for address in row.urls), min(limits.wait, limits.connect))
    for address in row.urls:
        host = host_of(address.url)
        if host in unreachable:
            failures.append(f"{address.url} ({unreachable[host]})")
            continue
        try:
            return _download(address, row, cache, limits)
        except (BadFileError, FetchError) as error:
            failures.append(f"{address.url} ({error})")
            if isinstance(error, UnreachableError):
                unreachable[host] = str(error)
        except OSError as error:
            raise UserError(
                f"cannot write {row.file} into {cache}: {error.strerror or error}; set TORCH_HOME elsewhere"
            ) from None
    raise UserError(
        f"could not get {row.file}, the {row.tag} weights of {row.model}: "
        f"{'; '.join(dict.fromkeys(failures))}; "
        f"put the file by hand into {folder or cache} as {row.file}"
    )


@dataclass(frozen=True)
class Verdict:
    """What the verification of a row's weights on this machine found.

    Attributes:
        row: the row.
        path: the file.
        problem: what is wrong with it; empty where it is the row's.
        basis: what it was compared with: "sha256", "git blob", "sha1", or "model" where no hash is known.
    """

    row: WeightsRow
    path: Path
    problem: str
    basis: str


def verify(row: WeightsRow) -> list[Verdict]:
    """Compares the weights of a row that are on this machine with what the registry says of them.

    Files in ``$HARDNET_WEIGHTS_DIR`` are compared like those in the cache. Nothing is downloaded.
    """
    folders = [folder for folder in (own_folder(), cache_dir()) if folder]
    candidates = [(folder / address.file, address) for folder in folders for address in row.urls]
    if row.shipped:
        candidates = [(places.SHIPPED / row.shipped, Address("", sha256_prefix=row.sha256))]
    verdicts: dict[Path, Verdict] = {}
    for path, address in candidates:
        if not os.path.lexists(path) or (path in verdicts and not verdicts[path].problem):
            continue
        named = {"sha256": address.sha256_prefix, "git blob": address.git_blob, "sha1": address.sha1}
        basis = ", ".join(name for name, hash_ in named.items() if hash_) or "model"
        problem = ""
        try:
            _checked(path, address, row)
        except BadFileError as error:
            problem = str(error)
        verdicts[path] = Verdict(row, path, problem, basis)
    return list(verdicts.values())


def _read_or_complain(path: str | Path) -> WeightsFile:
    try:
        return WeightsFile.read(path)
    except BadFileError as error:
        raise UserError(f"{expanded(path)}: {error}") from error


def _checked(path: Path, address: Address, row: WeightsRow) -> WeightsFile:
    """Reads and verifies a file; raises BadFileError if it is not the row's."""
    file = WeightsFile.read(path, graphs=row.layout == "onnx")
    if address.sha256_prefix and not file.sha256.startswith(address.sha256_prefix):
        raise BadFileError(_wrong_hash("sha256", file.sha256, address.sha256_prefix))
    if address.git_blob and file.git_blob != address.git_blob:
        raise BadFileError(_wrong_hash("git blob sha1", file.git_blob, address.git_blob))
    if address.sha1 and file.sha1 != address.sha1:
        raise BadFileError(_wrong_hash("sha1", file.sha1, address.sha1))
    if address.pinned or row.model not in ARCHS:
        return file
    from hardnet_suite.weights.checkpoint import open_weights
    from hardnet_suite.weights.identification import identify
    from hardnet_suite.weights.tables import state_dict_of

    try:
        if not row.base_only:
            count = identify(state_dict_of(file.content), row.model).num_classes
            # another file than a pinned row's has its own classes: an own folder may hold one, with a warning
            if count != row.num_classes and address in row.urls:
                raise UserError(f"it has {count} classes, the {row.tag} weights have {row.num_classes}")
        elif open_weights(file, row.model, layout=row.layout or None).form != "trunk":
            raise UserError(f"these are not weights of {row.model}")
    except UserError as error:
        raise BadFileError(f"a wrong file: {str(error).removeprefix(f'{path}: ')}") from error
    return file


def _wrong_hash(kind: str, digest: str, expected: str) -> str:
    return f"wrong contents: {kind} begins {digest[: len(expected[:16])]}, not {expected[:16]}"


def _download(address: Address, row: WeightsRow, folder: Path, limits: Limits) -> WeightsFile:
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(f"partial-{32 * '[0-9a-f]'}-*"):  # of a process that was killed
        with suppress(OSError):
            if time.time() - leftover.stat().st_mtime > _DAY:
                leftover.unlink()
    # the name ends as the real one does, since the reader is chosen by the suffix
    part = folder / f"partial-{uuid.uuid4().hex}-{address.file}"
    try:
        _receive(address, part, limits)
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


def _receive(address: Address, part: Path, limits: Limits) -> None:
    """Downloads an address into the new file ``part``, with a progress bar on a terminal."""
    from tqdm import tqdm

    # disable=None: no bar where there is no terminal
    bar = tqdm(desc=address.file, unit="B", unit_scale=True, disable=None)

    def progress(size: int, total: int | None) -> None:
        bar.total = total
        bar.update(size - bar.n)

    with part.open("xb") as stream, bar:
        receive(address.url, stream, limits, pinned=address.pinned, progress=progress)
