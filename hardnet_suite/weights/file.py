"""A weights file, read once: its bytes, its hashes, what it holds. Nothing in it is ever run."""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from hardnet_suite.data.files import NotAFileError, read_bytes
from hardnet_suite.errors import UserError
from hardnet_suite.quiet import without_warnings

WEIGHTS_SUFFIXES = (".pth", ".pt", ".pkl", ".ckpt", ".safetensors", ".pdparams", ".zip")
_IN_ZIP = (".safetensors", ".pdparams")  # told from torch's own files by the name that they have in a .zip
ENGINE_SUFFIXES = (".onnx", ".param", ".pt2", ".pte", ".tflite", ".torchscript", ".xml")  # of export

_PACKED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"7z\xbc\xaf": "7z",
    b"Rar!": "rar",
}  # first bytes -> what compressed the file

_KINDS = {
    ".safetensors": "a .safetensors file",
    ".pth": "a PyTorch file",
    ".zip": "a .zip archive",
    ".pdparams": "a pickle, as Paddle's weights are",
}
_PART = re.compile(r"-0*(\d+)-of-0*(\d+)$")  # of weights in several files: model-00001-of-00002

# "<" alone is not enough: a .safetensors file begins with a length, whose bytes may spell it
_HTML = re.compile(rb"(\xef\xbb\xbf)?\s*<[!?a-z]", re.IGNORECASE)


class BadFileError(Exception):
    """Why a file is unusable: the end of a sentence that begins with its path or address."""


@dataclass(frozen=True)
class WeightsFile:
    """The bytes of a weights file and, computed at most once, its hashes and contents."""

    path: Path
    data: bytes = field(repr=False)

    @classmethod
    def read(cls, path: str | Path, *, graphs: bool = False) -> WeightsFile:
        """Reads the file at ``path`` ("~" is expanded).

        Args:
            path: the file.
            graphs: whether a graph (.onnx) is taken, too, to read the weights of a classifier out of it.

        Raises:
            BadFileError: the file is missing, a folder, unreadable, empty, a web page or a Git LFS pointer.
        """
        path = expanded(path)
        try:
            data = read_bytes(path)
        except FileNotFoundError as error:
            raise BadFileError("no such file") from error
        except IsADirectoryError as error:
            raise BadFileError("a folder, not a weights file") from error
        except NotAFileError as error:
            raise BadFileError(str(error)) from error
        except OSError as error:
            raise BadFileError(f"cannot be opened: {error.strerror}") from error
        if not data:
            raise BadFileError("an empty file")
        if _HTML.match(data):
            raise BadFileError("a web page (HTML), not weights")
        if path.suffix.lower() in ENGINE_SUFFIXES and not (graphs and path.suffix.lower() == ".onnx"):
            own = "a file for an inference engine, not weights: predict and test take the files of export"
            others = "; convert-weights reads a classifier's weights out of other graphs"
            raise BadFileError(own + (others if path.suffix.lower() == ".onnx" else ""))
        if data.startswith(b"version https://git-lfs"):
            raise BadFileError("a pointer of Git LFS, not weights: fetch the file itself (git lfs pull)")
        return cls(path, data)

    def with_content(self, content: dict[str, Any]) -> WeightsFile:
        """The file with another checkpoint in it, under its own path and hashes."""
        other = WeightsFile(self.path, self.data)
        vars(other)["content"] = content
        return other

    @property
    def payload(self) -> bytes:
        """The bytes of the weights: the file's own, or those of the one file in a .zip, as pytorchcv's come.

        Raises:
            BadFileError: the archive holds no or several files, is damaged, or unpacks to unreasonably much.
        """
        return self._named_payload[1]

    @property
    def suffix(self) -> str:
        """Suffix of the weights' name, in lower case: the file's own, or that of the one file in a .zip.

        In a .zip, whatever is neither a .safetensors nor a .pdparams is read as a file of torch.

        Raises:
            BadFileError: as of ``payload``.
        """
        return self._named_payload[0]

    @property
    def _is_zip(self) -> bool:
        return self.path.suffix.lower() == ".zip"

    @cached_property
    def _named_payload(self) -> tuple[str, bytes]:
        from hardnet_suite.weights import pickles

        suffix = self.path.suffix.lower()
        if not self._is_zip:
            return suffix, self.data
        try:
            name, data = pickles.only_member(self.data)
        except pickles.SeveralFilesError as error:
            if pickles.is_of_torch(self.data):
                raise BadFileError(f"its content {_renamed('.pth')}") from error
            raise BadFileError(str(error)) from error
        except pickles.UnreasonableError as error:
            raise BadFileError(f"cannot be read safely as weights: {error}") from error
        except pickles.DamagedError as error:
            raise BadFileError(f"corrupt or cut short: {error}") from error
        inner = PurePosixPath(name).suffix.lower()
        return (inner if inner in _IN_ZIP else suffix), data

    @cached_property
    def sha1(self) -> str:
        """SHA-1 of the weights' bytes, in hex; of a .zip those of the file in it."""
        return hashlib.sha1(self.payload, usedforsecurity=False).hexdigest()

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the bytes, in hex."""
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
    def git_blob(self) -> str:
        """SHA-1 under which git stores the file, in hex."""
        return hashlib.sha1(b"blob %d\0" % len(self.data) + self.data, usedforsecurity=False).hexdigest()

    @cached_property
    def content(self) -> dict[str, Any]:
        """The checkpoint in the file, on the CPU; the log in a run's checkpoint as ``pickles.LogBuffer``.

        Raises:
            BadFileError: the file is corrupt, holds no tensors, could run code, or would take unreasonable
                time or memory to read.
        """
        import safetensors.torch
        import torch

        from hardnet_suite.weights import graphs, pickles

        try:
            data = self.payload
            if self.suffix == ".safetensors":
                content = safetensors.torch.load(data)
            elif self.suffix == ".onnx":
                tensors, facts = graphs.graph_tensors(data)
                content = {"state_dict": tensors, "meta": facts}
            elif self.suffix == ".pdparams":
                pickles.require_modest(data)
                content = pickles.plain_values(data)
                pickles.measure(content, len(data))
                content = pickles.paddle_tensors(content)
            else:
                pickles.require_modest(data)
                # torch warns of what it refuses; the error already says so
                with pickles.plain_data_allowed(), without_warnings():
                    content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            holds_tensors = pickles.measure(content, len(data))
        except BadFileError:
            raise
        except graphs.GraphError as error:
            raise BadFileError(f"cannot be read as weights: {error}") from error
        except pickles.UnreasonableError as error:
            raise BadFileError(f"cannot be read safely as weights: {error}") from error
        except pickles.DamagedError as error:
            kind = _other_kind(self.payload, self.suffix, zipped=self._is_zip)
            reason = f"cannot be read safely as weights: {kind}" if kind else f"corrupt or cut short: {error}"
            raise BadFileError(reason) from error
        # a damaged file can raise anything in the readers (EOFError, KeyError, struct.error …)
        except Exception as error:
            # torch's own message is withheld: it advises switching the protection off
            reason = re.search(r"GLOBAL (\S+)|(TorchScript)", str(error))
            if name := (reason[1] or reason[2]) if reason else pickles.asks_for(self.payload):
                raise BadFileError(
                    f"refused, because reading it could run code (it asks for {name}); "
                    "save only the state dict, best as .safetensors"
                ) from error
            kind = _other_kind(self.payload, self.suffix, zipped=self._is_zip)
            kind = kind or "corrupt, cut short or of another kind"
            raise BadFileError(f"cannot be read safely as weights: {kind}") from error
        if not isinstance(content, dict) or not holds_tensors:
            raise BadFileError("holds no named tensors")
        return content

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """What the file says beside its tensors: the head of a .safetensors file, else its "meta"."""
        if self.suffix != ".safetensors":
            meta = self.content.get("meta")
            return dict(meta) if isinstance(meta, Mapping) else {}
        length = int.from_bytes(self.payload[:8], "little")
        try:
            head = json.loads(self.payload[8 : 8 + length]).get("__metadata__")
        except (ValueError, RecursionError, AttributeError) as error:
            raise BadFileError("cannot be read safely as weights: its head is not valid JSON") from error
        return dict(head or {})


def _other_kind(data: bytes, suffix: str, *, zipped: bool = False) -> str:
    """What an unreadable file is by its content, and what to do with it; "" where the content does not tell.

    Args:
        data: the bytes of the file, or of the one in a .zip.
        suffix: by which it was read, in lower case.
        zipped: whether they are of the one in a .zip.
    """
    from hardnet_suite.weights import pickles

    start = "the file in it is" if zipped else "it is"
    packed = next((kind for first, kind in _PACKED.items() if data.startswith(first)), None)
    if packed is not None:
        return f"{start} compressed with {packed}: decompress it first"
    if data[257:262] == b"ustar":
        return f"{start} a tar archive: extract it first"
    if data.lstrip().startswith(b"{") and b'"weight_map"' in data:
        return f"{start} the index of weights in several files: save them as one file first"
    kinds = {
        ".safetensors": data[8:9] == b"{" and int.from_bytes(data[:8], "little") < len(data),
        ".pth": pickles.is_of_torch(data),
        ".zip": data.startswith(b"PK") and zipfile.is_zipfile(io.BytesIO(data)),
        ".pdparams": data[:1] == b"\x80" and data[1:2] in (b"\2", b"\3", b"\4", b"\5"),
    }
    kind = next((kind for kind, fits in kinds.items() if fits), suffix)
    read_as = suffix if suffix in _IN_ZIP else ".pth"
    if kind in (read_as, suffix):
        return ""
    return f"{'the content of the file in it' if zipped else 'its content'} {_renamed(kind)}"


def _renamed(kind: str) -> str:
    return f"is that of {_KINDS[kind]}: rename it to {kind}"


def part_by_name(path: Path) -> str:
    """What to say of a file with some of the tensors of a network, as Hugging Face's libraries split large
    ones; "" for others."""
    match = _PART.search(path.stem)
    if match is None or match[2] == "1":
        return ""
    return f"; by its name it is part {match[1]} of {match[2]}: join the tensors of all parts in one file"


def expanded(path: str | Path) -> Path:
    """The path with "~" as the home folder; as it stands where there is no such home."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """What a weights file holds, on the CPU, without ever running code from it.

    ``.safetensors`` is read as such, Paddle's ``.pdparams`` as a pickle of arrays and plain values, anything
    else with ``torch.load(weights_only=True)``; of a ``.zip``, the file in it, likewise.

    Raises:
        UserError: the file is missing, a folder, empty, cut short, corrupt, an HTML page, without tensors,
            or a pickle that asks for classes or functions beyond plain tensors, containers, NumPy's numbers
            and the log of a run.
    """
    try:
        return WeightsFile.read(path).content
    except BadFileError as error:
        raise UserError(f"{expanded(path)}: {error}") from error
