"""From a registry row or a file to weights in a model: find or download, read safely, load strictly."""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import os
import re
import shutil
import urllib.error
import urllib.request
import uuid
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from hardnet_suite.errors import UserError
from hardnet_suite.networks import list_models
from hardnet_suite.weights.convert import split_official
from hardnet_suite.weights.identify import identify
from hardnet_suite.weights.pickles import asks_for, plain_data_allowed
from hardnet_suite.weights.registry import Address, WeightsRow

# a mere "<" will not do: the first bytes of a .safetensors file are a length, which may spell it
_HTML = re.compile(rb"(\xef\xbb\xbf)?\s*<[!?a-z]", re.IGNORECASE)
SHIPPED = Path(__file__).parent / "shipped"
_OWN_DISK = (errno.ENOSPC, errno.EACCES, errno.EPERM, errno.EROFS, errno.EDQUOT)
_PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and torch.compile
_WRAPPERS = ("state_dict", "model_state", "model")


class _BadFileError(Exception):
    """Why a file is no good, as the end of a sentence that begins with its name or address."""


def cache_dir() -> Path:
    """The folder of downloaded weights, shared with torch.hub (``$TORCH_HOME/hub/checkpoints``)."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """What a weight file holds, on the CPU, without ever running code from it.

    ``.safetensors`` is read as such, anything else with ``torch.load(weights_only=True)``. UserError when
    the file is missing, a folder, empty, cut short, corrupt, an HTML page, without tensors, or a pickle
    that asks for classes or functions beyond plain tensors, containers, NumPy's numbers and a run's log.
    """
    path = Path(path).expanduser()
    try:
        return _read(path)
    except _BadFileError as error:
        raise UserError(f"{path}: {error}") from error


def read_metadata(path: str | Path) -> dict[str, str]:
    """What the head of a .safetensors file says beside its tensors; UserError as in ``read_checkpoint``."""
    path = Path(path).expanduser()
    try:
        with safetensors.safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path}: cannot be read safely as weights: {error}") from None


def metadata_of(path: str | Path, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """What stands in a file beside its tensors, above all, where it is known, ``classes``, their names, and
    ``input``, the rule as ``Preprocess.to_dict`` gives it.

    checkpoint: what ``read_checkpoint`` made of the file.
    """
    meta = read_metadata(path) if Path(path).suffix == ".safetensors" else checkpoint.get("meta")
    meta = dict(meta) if isinstance(meta, Mapping) else {}
    dataset = meta.get("dataset_meta")  # in the checkpoint of a run
    if isinstance(dataset, Mapping) and "classes" in dataset:
        meta["classes"] = dataset["classes"]
    for key in ("classes", "input"):
        if isinstance(meta.get(key), str):  # a file's head holds strings alone
            try:
                meta[key] = json.loads(meta[key])
            except ValueError:
                del meta[key]
    return meta


def state_dict_of(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The named tensors of a checkpoint, as it stands or under ``state_dict``, ``model_state`` or ``model``.

    A ``module.`` or ``_orig_mod.`` before every key (left by DataParallel and torch.compile) is dropped.
    UserError when there is no such table.
    """
    table = checkpoint
    while wrapper := next((key for key in _WRAPPERS if isinstance(table.get(key), Mapping)), None):
        table = table[wrapper]
    if not table or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in table.items()
    ):
        raise UserError(
            f"no state dict in this checkpoint: its keys are {_few(map(str, checkpoint))}; "
            f"allowed is a table of tensors, plain or under {', '.join(_WRAPPERS)}"
        )
    while prefix := next((one for one in _PREFIXES if all(key.startswith(one) for key in table)), None):
        table = {key.removeprefix(prefix): value for key, value in table.items()}
    return dict(table)


def fetch(row: WeightsRow, *, file: str | Path | None = None, timeout: float = 30) -> Path:
    """The local path of a row's weights, downloaded into the cache if they are nowhere else.

    Looked for in this order: ``file``, taken as it is; the package itself, for weights that it brings along;
    ``$HARDNET_WEIGHTS_DIR``, then the cache, under the name that any address has; then each address of the
    row. A file must have the address's hash, where that is known, and otherwise be of the row's model; that
    is all that is asked of files in the folder of one's own, as two hosts' bytes may differ.
    ``timeout`` is in seconds, for each wait on the network. A file reaches its place in the cache only when
    whole and checked. UserError when ``file`` is not there, a file in ``$HARDNET_WEIGHTS_DIR`` is no good, no
    address gives the weights, or the cache cannot be written.
    """
    if file is not None:
        path = Path(file).expanduser()
        try:
            _check_head(path)
        except _BadFileError as error:
            raise UserError(f"{path}: {error}") from error
        return path
    if row.shipped:
        path = SHIPPED / row.shipped
        try:
            _check_head(path)
            _check_hash(path, row.sha256)
        except _BadFileError as error:
            raise UserError(f"{path}: {error}; install the package anew") from error
        return path

    cache = cache_dir()
    own_folder = os.environ.get("HARDNET_WEIGHTS_DIR")
    by_hand = Path(own_folder).expanduser() if own_folder else cache
    for address in row.urls if own_folder else ():
        path = by_hand / address.file
        if path.is_file():
            try:
                _check(path, replace(address, sha256_prefix=None), row)
                return path
            except _BadFileError as error:
                raise UserError(f"{path}: {error}") from error

    failures = []
    for address in row.urls:
        path = cache / address.file
        if path.is_file():
            try:
                _check(path, address, row)
                return path
            except _BadFileError as error:
                failures.append(f"{path} ({error})")
    for address in row.urls:
        try:
            return _download(address, row, cache, timeout)
        except (_BadFileError, OSError, http.client.HTTPException) as error:
            if getattr(error, "errno", None) in _OWN_DISK:
                raise UserError(
                    f"cannot write {row.file} into {cache}: {error.strerror}; the variable TORCH_HOME names "
                    "another place"
                ) from None
            failures.append(f"{address.url} ({_reason(error)})")
    raise UserError(
        f"could not get {row.file}, the {row.tag} weights of {row.model}: "
        f"{'; '.join(dict.fromkeys(failures))}; "
        f"put the file by hand into {by_hand} as {row.file}"
    )


def where(row: WeightsRow) -> str:
    """Where a row's weights are, without looking into them: "in the package", a path, or "to download"."""
    if row.shipped:
        return "in the package"
    own_folder = os.environ.get("HARDNET_WEIGHTS_DIR")
    places = [Path(own_folder).expanduser() / row.file] if own_folder else []
    places += [cache_dir() / address.file for address in row.urls]
    return next((str(path) for path in places if path.is_file()), "to download")


@dataclass(frozen=True)
class LoadReport:
    """What `load_weights` did: how many tensors it took, and the keys that found no partner."""

    taken: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]

    def __str__(self) -> str:
        text = f"{self.taken} tensors taken"
        if self.missing:
            text += f", {len(self.missing)} of the model not in the weights ({_few(self.missing)})"
        if self.unexpected:
            text += f", {len(self.unexpected)} of the weights not used ({_few(self.unexpected)})"
        return text


def load_weights(
    model: torch.nn.Module, state_dict: Mapping[str, Tensor], *, strict: bool = True
) -> LoadReport:
    """Copy ``state_dict`` into ``model``, in place; the model stays untouched when this raises.

    UserError for a shape that differs or when not one key fits; with ``strict`` also for a key that is
    missing or unexpected. Without it (files of a trunk alone) such keys are left, and named in the report.
    """
    own = model.state_dict()
    common = [key for key in own if key in state_dict]
    # checkpoints older than torch 0.4.1 lack this counter; torch fills it in too, and inference ignores it
    missing = tuple(k for k in own if k not in state_dict and not k.endswith(".num_batches_tracked"))
    unexpected = tuple(key for key in state_dict if key not in own)
    mismatched = [
        f"{key}: {tuple(state_dict[key].shape)} in the weights, {tuple(own[key].shape)} in the model"
        for key in common
        if state_dict[key].shape != own[key].shape
    ]

    problems = []
    if not common:
        problems.append("no key in common")
    if missing and (strict or not common):
        problems.append(f"{len(missing)} missing ({_few(missing)})")
    if unexpected and (strict or not common):
        problems.append(f"{len(unexpected)} unexpected ({_few(unexpected)})")
    if mismatched:
        problems.append(f"{len(mismatched)} of another shape ({_few(mismatched)})")
    if problems:
        raise UserError(
            f"these weights do not fit {type(model).__name__}: {', '.join(problems)}; "
            "check the model's name and its number of classes"
        )
    model.load_state_dict({key: state_dict[key] for key in common}, strict=False)
    return LoadReport(len(common), missing, unexpected)


def _read(path: Path) -> dict[str, Any]:
    _check_head(path)
    try:
        if path.suffix == ".safetensors":
            checkpoint = safetensors.torch.load_file(path)
        else:
            # torch warns of what it refuses; the error says it already
            with plain_data_allowed(), warnings.catch_warnings(action="ignore"):
                checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    # a damaged file can make the readers stumble over anything (EOFError, KeyError, struct.error …)
    except Exception as error:
        # torch's own words are kept from the user: they advise to switch the protection off
        told = re.search(r"GLOBAL (\S+)|(TorchScript)", str(error))
        if wanted := (told[1] or told[2]) if told else asks_for(path):
            raise _BadFileError(
                f"refused, because reading it could run code (it asks for {wanted}); "
                "save only the state dict, best as .safetensors"
            ) from error
        raise _BadFileError(
            "cannot be read safely as weights: corrupt, cut short or of another kind"
        ) from error
    if not isinstance(checkpoint, dict) or not _holds_tensor(checkpoint):
        raise _BadFileError("holds no named tensors")
    return checkpoint


def _check_head(path: Path) -> None:
    try:
        with path.open("rb") as stream:
            head = stream.read(256)
    except FileNotFoundError as error:
        raise _BadFileError("no such file") from error
    except IsADirectoryError as error:
        raise _BadFileError("a folder, not a weight file") from error
    except OSError as error:
        raise _BadFileError(f"cannot be opened: {error.strerror}") from error
    if not head:
        raise _BadFileError("an empty file")
    if _HTML.match(head):
        raise _BadFileError("a web page (HTML), not weights")
    if head.startswith(b"version https://git-lfs"):
        raise _BadFileError("a pointer of Git LFS, not weights: fetch the file itself (git lfs pull)")


def _check_hash(path: Path, prefix: str | None) -> None:
    if prefix is None:
        return
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if not digest.startswith(prefix):
        raise _BadFileError(f"wrong contents: sha256 begins {digest[: len(prefix)]}, not {prefix}")


def _check(path: Path, address: Address, row: WeightsRow) -> None:
    """_BadFileError unless this may be the row's file."""
    _check_head(path)
    _check_hash(path, address.sha256_prefix)
    if address.sha256_prefix is not None or row.model not in list_models():
        return
    try:
        tensors = state_dict_of(_read(path))
        if not row.base_only:
            identify(tensors, row.model)
        elif not split_official(row.model, tensors)[0]:
            raise UserError(f"these are not weights of {row.model}")
    except UserError as error:
        raise _BadFileError(f"a wrong file: {error}") from error


def _holds_tensor(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_holds_tensor, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_holds_tensor, value))
    return isinstance(value, Tensor)


def _download(address: Address, row: WeightsRow, folder: Path, timeout: float) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    # the name ends as the real one does, since the reader is chosen by the suffix
    part = folder / f"partial-{uuid.uuid4().hex}-{address.file}"
    try:
        _receive(address, part, timeout)
        _check(part, address, row)
        _read(part)  # a hash may be known to be right of a file that is refused
        target = folder / address.file
        os.replace(part, target)
        return target
    finally:
        part.unlink(missing_ok=True)


def _receive(address: Address, part: Path, timeout: float) -> None:
    """The body of an address into ``part``, with a progress bar on a terminal. Where the connection ends too
    soon it goes on from there, as long as that brings more, if the server says that it is the same file or
    the hash will tell; if not, from the beginning."""
    from tqdm import tqdm

    part.touch(exist_ok=False)
    version = None  # of the file, in the server's words
    while True:
        have = part.stat().st_size
        headers = {"User-Agent": "hardnet-suite"}
        if have and (version or address.sha256_prefix):
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
                    raise _BadFileError("the server sends another part of the file than was asked for")
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
            raise _BadFileError(f"cut short: {size} of {total} bytes")


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code}"
    if isinstance(error, urllib.error.URLError):
        return getattr(error.reason, "strerror", None) or str(error.reason)
    return str(error) or type(error).__name__


def _few(names: Iterable[str], most: int = 4) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
