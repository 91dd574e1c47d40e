"""What an exported file says of itself: the record that travels in its metadata."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from hardnet_suite.data.classes import class_names
from hardnet_suite.data.files import sha256
from hardnet_suite.data.report import counted
from hardnet_suite.errors import UserError
from hardnet_suite.networks import (
    Arch,
    CenterNetArch,
    DescriptorArch,
    HarDNetArch,
    SegmentationArch,
    Usage,
)
from hardnet_suite.networks.arch import arch_from_dict, arch_to_dict
from hardnet_suite.networks.centernet import INPUT_MULTIPLE
from hardnet_suite.networks.hardnet import least_side

KEY = "hardnet_suite"  # of the record in a file's metadata
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
INCLUDES = ("preprocess", "postprocess")
_VERSION = 2
_DIGEST = "sha256"  # of the rest of the record
_LATER = {"network_digest": None}  # fields that files of earlier versions lack


@dataclass(frozen=True)
class Content:
    """What a record lies behind, or beside.

    Attributes:
        suffix: of the file beside the one with the record; "" for that file itself, up to the record.
        size: in bytes.
        sha256: in hex digits.
    """

    suffix: str
    size: int
    sha256: str


@dataclass(frozen=True)
class ExportRecord:
    """What an exported file holds, beside its tensors.

    Attributes:
        usage: name of the model, input and output rule, class names and palette. The input rule produces
            images of the size that the file takes.
        arch: the network's row of the architecture table.
        num_classes: number of classes; 0 for a patch descriptor.
        in_chans: input channels of the network.
        input_shape: of the file's input; a string stands for a free dimension, such as
            ("N", 3, 512, 512) or ("N", 3, "H", "W").
        outputs: names of the outputs, in order.
        precision: of the network's numbers in the file, one of ``PRECISIONS``.
        includes: what the file does beside the network. With "preprocess" it takes uint8 RGB pixels as
            ``inference.prepare`` returns them, without it what ``inference.to_input`` makes of them. With
            "postprocess" it returns answers in pixels of its input: "boxes", "scores" and "labels" (unused
            rows: score and label −1), a "mask" or "probabilities".
        weights: which weights these are, in words; None if unknown.
        network_digest: of the network's tensors, ``weights.tables.digest_of_tensors``; None if unknown.
        contents: what else the file consists of, where its format does not notice damage itself.
    """

    usage: Usage
    arch: Arch
    num_classes: int
    in_chans: int
    input_shape: tuple[int | str, ...]
    outputs: tuple[str, ...]
    precision: str = "fp32"
    includes: tuple[str, ...] = ()
    weights: str | None = None
    network_digest: str | None = None
    contents: tuple[Content, ...] = field(default=(), compare=False)

    @property
    def input_name(self) -> str:
        """Name of the file's input: "pixels" with the preprocessing inside, else "images" or "patches"."""
        if "preprocess" in self.includes:
            return "pixels"
        return "patches" if isinstance(self.arch, DescriptorArch) else "images"

    @property
    def free_dimensions(self) -> dict[int, str]:
        """Index of each free dimension of the input -> its name."""
        return {index: size for index, size in enumerate(self.input_shape) if isinstance(size, str)}

    @property
    def side_multiple(self) -> int:
        """What height and width of an input of free size must be multiples of."""
        own = INPUT_MULTIPLE if isinstance(self.arch, CenterNetArch) else 1
        padded = self.usage.preprocess.input_divisor if "preprocess" in self.includes else 1
        return math.lcm(own, padded)

    @property
    def least_side(self) -> int:
        """Least height and width of an input of free size: no feature map is a single pixel."""
        own = 1
        if isinstance(self.arch, SegmentationArch):
            own = 2 * least_side(self.arch.trunk)
        elif isinstance(self.arch, CenterNetArch):
            own = 4 * INPUT_MULTIPLE  # the decoder begins at half the trunk's last map
        elif isinstance(self.arch, HarDNetArch):
            own = 2 * least_side(self.arch)
        return max(own, *self.usage.preprocess.input_size if "preprocess" in self.includes else (1,))

    def to_json(self) -> str:
        """The record as one line of JSON, with the SHA-256 of it, ``_DIGEST``."""
        values = self._plain()
        return json.dumps(values | {_DIGEST: _digest(values)})

    def require_valid(self) -> None:
        """ValueError for what ``from_json`` would refuse."""
        _read(self._plain())

    def _plain(self) -> dict[str, Any]:
        """Values of JSON, the version among them."""
        values = asdict(self) | {"usage": self.usage.to_dict(), "arch": arch_to_dict(self.arch)}
        return json.loads(json.dumps({"version": _VERSION} | values))

    @classmethod
    def from_json(cls, text: str) -> ExportRecord:
        """The inverse of ``to_json``.

        Raises:
            UserError: anything else.
        """
        try:
            return cls(**_read(json.loads(text)))
        except (ValueError, TypeError, RecursionError, KeyError) as error:
            message = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(f"the metadata of an exported file are damaged: {message[:300]}") from None


_Record = TypeVar("_Record", bound=Any)  # an ExportRecord, or what stands for one


def sealed(record: _Record, path: Path, *, beside: tuple[str, ...] = ()) -> _Record:
    """A record that tells whether its file is damaged.

    Args:
        record: to be written.
        path: the file, up to where the record will be.
        beside: suffixes of the files beside it.
    """
    files = {suffix: path.with_suffix(suffix) for suffix in beside} | {"": path}
    contents = (Content(suffix, file.stat().st_size, sha256(file)) for suffix, file in files.items())
    return replace(record, contents=tuple(contents))


def require_intact(record: ExportRecord, path: Path) -> None:
    """UserError where a file, or one beside it, is not what its record was written with."""
    for content in record.contents:
        file = path.with_suffix(content.suffix) if content.suffix else path
        complete = not content.suffix or file.stat().st_size == content.size
        if not complete or sha256(file, content.size) != content.sha256:
            other = f", or belongs to another file than {path.name}" if content.suffix else ""
            raise UserError(f"{file} is damaged{other}: copy it again, or export again")


def _read(values: Any) -> dict[str, Any]:
    """The fields of a record from what is in JSON; ValueError for anything else."""
    if not isinstance(values, Mapping) or "version" not in values:
        raise ValueError("not an export record")
    values = dict(values)
    is_changed = _DIGEST in values and values.pop(_DIGEST) != _digest(values)  # earlier versions lack it
    if (version := values.pop("version")) != _VERSION:
        raise ValueError(f"version {version!r} is unknown: another version of hardnet_suite wrote it")
    fields = _checked(values)
    if is_changed:
        raise ValueError(f"they do not have the {_DIGEST} that they state")
    return fields


def _digest(values: Mapping[str, Any]) -> str:
    """The SHA-256 of values of JSON, in hex digits, whatever their order and white space."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _checked(values: dict[str, Any]) -> dict[str, Any]:
    """The fields of a record from values of JSON; ValueError for anything else."""
    names, values = set(ExportRecord.__dataclass_fields__), _LATER | values
    if set(values) != names:
        raise ValueError(f"expected {', '.join(sorted(names))}, got {', '.join(sorted(map(str, values)))}")
    usage, arch = Usage.from_dict(values["usage"]), arch_from_dict(values["arch"])
    count, channels = values["num_classes"], values["in_chans"]
    if type(count) is not int or count < 0 or type(channels) is not int or channels < 1:
        raise ValueError(f"num_classes={count!r} and in_chans={channels!r} must be counts")
    if usage.classes is not None:
        try:
            class_names(usage.classes, "classes")
        except UserError as error:
            raise ValueError(str(error)) from None
        if len(usage.classes) != count:
            raise ValueError(f"{counted(len(usage.classes), 'class name')} for {count} classes")
    if usage.palette is not None and len(usage.palette) != count:
        raise ValueError(f"{counted(len(usage.palette), 'colour')} for {counted(count, 'class')}")
    shape = values["input_shape"]
    if not isinstance(shape, list) or len(shape) != 4 or not all(map(_is_size, shape)):
        raise ValueError(f"input_shape={shape!r} must be four sizes or names")
    outputs, includes = values["outputs"], values["includes"]
    if not isinstance(outputs, list) or not outputs or not all(isinstance(name, str) for name in outputs):
        raise ValueError(f"outputs={outputs!r} must be names")
    if not isinstance(includes, list) or not {*includes} <= {*INCLUDES}:
        raise ValueError(f"includes={includes!r} must be of {', '.join(INCLUDES)}")
    if values["precision"] not in PRECISIONS:
        raise ValueError(f"precision={values['precision']!r} must be one of {', '.join(PRECISIONS)}")
    for key in ("weights", "network_digest"):
        if not isinstance(values[key], str | None):
            raise ValueError(f"{key}={values[key]!r} must be text")
    return values | {
        "contents": _contents(values["contents"]),
        "usage": usage,
        "arch": arch,
        "input_shape": tuple(shape),
        "outputs": tuple(outputs),
        "includes": tuple(includes),
    }


def _contents(values: Any) -> tuple[Content, ...]:
    if not isinstance(values, list):
        raise ValueError(f"contents={values!r} must be a list")
    contents = tuple(Content(**value) for value in values)
    for content in contents:
        if not _is_content(content):
            raise ValueError(f"{content} must be a suffix, a size and a SHA-256")
    return contents


def _is_content(content: Content) -> bool:
    suffix, size, digest = content.suffix, content.size, content.sha256
    return (
        isinstance(suffix, str)
        and (not suffix or re.fullmatch(r"\.\w+", suffix) is not None)
        and type(size) is int
        and size >= 0
        and isinstance(digest, str)
    )


def _is_size(value: Any) -> bool:
    return isinstance(value, str) or (type(value) is int and value >= 1)
