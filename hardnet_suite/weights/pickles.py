"""What a pickled checkpoint may hold besides tensors and plain containers.

These are NumPy's numbers and arrays of numbers, the log that mmengine stores in the checkpoints of a run, and
the paths and ``argparse.Namespace`` of hyper-parameters, as Lightning stores them; a path is read as text.
(The published segmentation checkpoints contain ``best_iou``, which pickle writes as a call of ``scalar`` with
a ``dtype``.) A pickle never gets NumPy's own functions: those trust their arguments, and would lay an array
of objects over bytes of the file's choice. Under NumPy's names torch's reader finds the stand-ins of this
module, which make arrays of numbers from exactly the bytes that these need, and nothing else.
"""

from __future__ import annotations

import codecs
import io
import pickle
import pickletools
import threading
import zipfile
import zlib
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import PurePath, PurePosixPath, PureWindowsPath
from typing import Any, BinaryIO, NoReturn

import numpy as np
import torch
from torch import _weights_only_unpickler

from hardnet_suite.weights.tables import few

_LOCK = threading.RLock()
_HARMLESS = ("torch.", "collections.", "numpy")  # not named in errors
# kind and size in bytes; the byte order is the file's
_NUMBERS = ("b1", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8")
_PADDLE_NAMES = "StructuredToParameterName@@"
_METHODS = ("min", "max", "mean", "current")  # of mmengine's HistoryBuffer, which pickles a table of them

_ODD_CODECS = frozenset({"hex", "base64", "quopri", "uu", "zlib", "bz2", "rot13", "punycode", "idna"})
_LONGEST_CODEC = 40  # characters of its name
_PICKLES = 5  # in a row, before torch's older files' numbers

MAX_OPERATIONS = 5_000_000  # of the pickle of one file; a checkpoint of 1000 tensors has about 50,000
MAX_SLACK = 64 << 20  # bytes by which the entries of an archive may exceed the archive
MAX_DEPTH = 100  # of containers within containers
MAX_LONGS = 10_000  # integers of more than 32 bits, of which dictionaries can be made slow
MAX_ITEMS = 20_000_000  # of all containers, those that occur several times counted each time


class UnreasonableError(Exception):
    """Why a file would take unreasonable time or memory to read."""


class SeveralFilesError(Exception):
    """An archive of none or several files where one is expected."""


class DamagedError(Exception):
    """What is broken in an archive."""


def _refuse(what: str, value: object) -> NoReturn:
    raise pickle.UnpicklingError(f"Unsupported global: GLOBAL {what} of {str(value)[:60]!r}")


class _Dtype:
    """``numpy.dtype`` in a pickle: one of the numbers, and a byte order."""

    def __init__(self, code: object = None, align: object = False, copy: object = True):
        if code not in _NUMBERS:
            _refuse("numpy.dtype", code)
        self.value = np.dtype(code)

    def __setstate__(self, state: object) -> None:
        order, rest = (state[1], state[2:]) if isinstance(state, tuple) and len(state) > 2 else (None, None)
        if order not in ("<", ">", "|", "=") or rest != (None, None, None, -1, -1, 0):
            _refuse("numpy.dtype.__setstate__", state)
        self.value = self.value if order == "|" else self.value.newbyteorder(order)


class _Array(np.ndarray):
    """``numpy.ndarray`` in a pickle: numbers, of which the file has every byte."""

    def __new__(cls, *args: object, **options: object) -> NoReturn:
        _refuse("numpy.ndarray", args)

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            _refuse("numpy.ndarray.__setstate__", type(state))
        version, shape, dtype, by_columns, data = state
        is_shape = isinstance(shape, tuple) and len(shape) <= 32
        if not is_shape or not all(type(size) is int and 0 <= size < 2**40 for size in shape):
            _refuse("numpy.ndarray.__setstate__", shape)
        if type(dtype) is not _Dtype or type(data) is not bytes or type(by_columns) not in (bool, int):
            _refuse("numpy.ndarray.__setstate__", (type(dtype), type(data)))
        if version != 1 or len(data) != prod(shape) * dtype.value.itemsize:
            _refuse("numpy.ndarray.__setstate__", f"{shape} numbers in {len(data)} bytes")
        super().__setstate__((1, shape, dtype.value, bool(by_columns), data))

    def __reduce_ex__(self, protocol: int) -> Any:
        return self.view(np.ndarray).__reduce_ex__(protocol)  # saved as NumPy's own


def _reconstruct(kind: object, shape: object, code: object) -> _Array:
    """The empty array that ``__setstate__`` fills."""
    if kind is not _Array or shape != (0,) or code not in (b"b", "b"):
        _refuse("numpy.core.multiarray._reconstruct", (kind, shape, code))
    return np.ndarray.__new__(_Array, (0,), np.int8)


def _from_buffer(data: object, dtype: object, shape: object, order: object) -> _Array:
    """An array in a pickle of protocol 5; ``order`` is "C" or "F"."""
    if type(data) not in (bytes, bytearray) or order not in ("C", "F"):
        _refuse("numpy.core.numeric._frombuffer", (type(data), order))
    value = np.ndarray.__new__(_Array, (0,), np.int8)
    value.__setstate__((1, shape, dtype, order == "F", bytes(data)))
    return value


def _scalar(dtype: object, data: object = None) -> np.generic:
    if type(dtype) is not _Dtype or type(data) is not bytes or len(data) != dtype.value.itemsize:
        _refuse("numpy.core.multiarray.scalar", (type(dtype), data))
    return np.frombuffer(data, dtype.value)[0]


@dataclass
class LogBuffer:
    """A figure over the iterations of a run, as mmengine's ``HistoryBuffer`` has it.

    Attributes:
        log: values, (N,) float.
        count: how many samples each is the mean of, (N,).
        max_length: only so many are kept.
    """

    log: np.ndarray
    count: np.ndarray
    max_length: int

    def __setstate__(self, state: object) -> None:
        fields = [
            state.get(key) if isinstance(state, Mapping) else None
            for key in ("_log_history", "_count_history", "max_length")
        ]
        log, count, length = fields
        if (
            not all(isinstance(each, _Array) and each.ndim == 1 for each in (log, count))
            or log.size != count.size
        ):
            _refuse(
                "mmengine.logging.history_buffer.HistoryBuffer.__setstate__", "other state than two arrays"
            )
        if type(length) is not int or length < 1:
            _refuse("mmengine.logging.history_buffer.HistoryBuffer.__setstate__", length)
        self.log, self.count, self.max_length = log.view(np.ndarray), count.view(np.ndarray), length


def _method(owner: object, name: object = None) -> str:
    """``getattr(HistoryBuffer, "mean")``, as which pickle writes the method; its name will do."""
    if owner is not LogBuffer or name not in _METHODS:
        _refuse("builtins.getattr", (owner, name))
    return name


def _posix_path(*parts: object) -> str:
    return _path(PurePosixPath, parts)


def _windows_path(*parts: object) -> str:
    return _path(PureWindowsPath, parts)


def _path(kind: type[PurePath], parts: tuple[object, ...]) -> str:
    if not all(isinstance(part, str) for part in parts):
        _refuse(f"pathlib.{kind.__name__}", parts)
    return str(kind(*parts))


_PATHS = {
    "PosixPath": _posix_path,
    "PurePosixPath": _posix_path,
    "WindowsPath": _windows_path,
    "PureWindowsPath": _windows_path,
}


def _allowed() -> list[tuple[Callable, str]]:
    """The stand-ins and the names that they go by in pickles; NumPy 1 and 2 differ in a module's."""
    modules = [f"numpy.{core}.multiarray" for core in ("core", "_core")]
    return [
        (_Dtype, "numpy.dtype"),
        (_Array, "numpy.ndarray"),
        *((_reconstruct, f"{module}._reconstruct") for module in modules),
        *((_scalar, f"{module}.scalar") for module in modules),
        (LogBuffer, "mmengine.logging.history_buffer.HistoryBuffer"),
        (_method, "builtins.getattr"),
        (Namespace, "argparse.Namespace"),
        # Python 3.13 has the paths in a module of their own
        *(
            (path, f"{module}.{name}")
            for module in ("pathlib", "pathlib._local")
            for name, path in _PATHS.items()
        ),
    ]


@contextmanager
def plain_data_allowed() -> Iterator[None]:
    """Within, ``torch.load(weights_only=True)`` also takes NumPy's numbers, a run's log and hyper-parameters.

    torch's list of allowed names is process-wide and unlocked, so one thread at a time holds the allowance;
    the rest wait. It ends with the context; what the process itself allows under the same names is set aside
    until then.
    """
    ours = _allowed()
    names = {name for _, name in ours}
    with _LOCK:
        aside = [each for each in torch.serialization.get_safe_globals() if _name(each) in names]
        _weights_only_unpickler._remove_safe_globals(aside)
        try:
            with torch.serialization.safe_globals(ours):
                yield
        finally:
            torch.serialization.add_safe_globals(aside)


# operations of a pickle that make plain values, call a stand-in, or give an array its numbers
_PLAIN_OPERATIONS = frozenset(
    [
        "PROTO",
        "FRAME",
        "STOP",
        "MARK",
        "MEMOIZE",
        "BINGET",
        "LONG_BINGET",
        "BINPUT",
        "LONG_BINPUT",
        "NONE",
        "NEWTRUE",
        "NEWFALSE",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG1",
        "BINFLOAT",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE8",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINBYTES8",
        "BYTEARRAY8",
        "EMPTY_TUPLE",
        "TUPLE",
        "TUPLE1",
        "TUPLE2",
        "TUPLE3",
        "EMPTY_LIST",
        "APPEND",
        "APPENDS",
        "EMPTY_DICT",
        "SETITEM",
        "SETITEMS",
        "GLOBAL",
        "STACK_GLOBAL",
        "REDUCE",
        "BUILD",
    ]
)
_OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the number that begins torch's files before 1.6
_PLAIN_CODES = {ord(each.code) for each in pickletools.opcodes if each.name in _PLAIN_OPERATIONS}


def _bytes(text: object, encoding: object = None) -> bytes:
    """``_codecs.encode`` in a pickle of protocol 2, which has bytes as text."""
    if not isinstance(text, str) or encoding != "latin1":
        _refuse("_codecs.encode", encoding)
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """``bytes()`` in a pickle of protocol 2, the content of an array without elements."""
    return b""


def _tuple(values: object = ()) -> tuple:
    if not isinstance(values, tuple | list):
        _refuse("builtins.tuple", type(values))
    return tuple(values)


class _PlainUnpickler(pickle._Unpickler):
    """Reads plain values and NumPy's arrays of numbers from a pickle, and refuses everything else."""

    dispatch = {  # noqa: RUF012  # as in the base class
        code: function for code, function in pickle._Unpickler.dispatch.items() if code in _PLAIN_CODES
    }

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full not in _PLAIN:
            _refuse(full, name)
        return _PLAIN[full]

    def load_reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack[-1]
        if not any(function is known for known in _PLAIN.values()) or type(arguments) is not tuple:
            _refuse("REDUCE", function)
        self.stack[-1] = function(*arguments)

    def load_build(self) -> None:
        state, value = self.stack.pop(), self.stack[-1]
        if type(value) not in (_Array, _Dtype):
            _refuse("BUILD", type(value))
        value.__setstate__(state)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set(key, value)

    def load_setitems(self) -> None:
        items = self.pop_mark()
        for key, value in zip(items[::2], items[1::2], strict=True):
            self._set(key, value)

    def _set(self, key: object, value: object) -> None:
        if type(key) is not str or type(self.stack[-1]) is not dict:  # the hash of nested keys takes long
            _refuse("SETITEM", type(key))
        self.stack[-1][key] = value

    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.BUILD[0]] = load_build


_PLAIN: dict[str, Callable] = {
    **{name: value for value, name in _allowed() if value in (_Dtype, _Array, _reconstruct, _scalar)},
    **{f"numpy.{core}.numeric._frombuffer": _from_buffer for core in ("core", "_core")},
    "_codecs.encode": _bytes,
    **{f"{module}.tuple": _tuple for module in ("builtins", "__builtin__")},
    **{f"{module}.bytes": _no_bytes for module in ("builtins", "__builtin__")},
    "collections.OrderedDict": lambda: {},
}


def plain_values(data: bytes) -> Any:
    """The plain values and arrays of numbers in a bare pickle, as Paddle writes files of parameters.

    torch reads no such file: its own reader knows one protocol. Nothing else is imported or called.

    Raises:
        DamagedError: there is more behind the pickle.
        pickle.UnpicklingError: the pickle asks for anything else; any error where it is damaged.
    """
    stream = io.BytesIO(data)
    content = _PlainUnpickler(stream).load()
    if stream.read(1):
        raise DamagedError("there is more behind its pickle")
    return content


def paddle_tensors(content: Any) -> Any:
    """A file of parameters of Paddle with its arrays as tensors, and without its table of names."""
    if not isinstance(content, Mapping):
        return content
    tensors, known = {}, {}  # an array that occurs several times is one tensor
    for key, value in content.items():
        if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):  # (name, array)
            value = value[1]
        if isinstance(value, np.ndarray):
            if id(value) not in known:
                known[id(value)] = _from_paddle(value.view(np.ndarray))
            value = known[id(value)]
        if key != _PADDLE_NAMES:
            tensors[key] = value
    return tensors


def _from_paddle(array: np.ndarray) -> torch.Tensor:
    """An array of Paddle's as a tensor; its uint16 are the bits of bfloat16, which NumPy does not have."""
    tensor = torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=True))
    return tensor.view(torch.bfloat16) if tensor.dtype == torch.uint16 else tensor


def _name(allowed: Any) -> str:
    if isinstance(allowed, tuple):  # an object and the name it goes by
        return allowed[1]
    return f"{allowed.__module__}.{allowed.__qualname__}"


def require_modest(data: bytes) -> None:
    """Refuses, before it is read, a file that would take unreasonable time or memory.

    Raises:
        UnreasonableError: an archive whose entries are far larger than itself, or a pickle of too many
            operations.
        DamagedError: an archive that is cut short, or whose checksums are wrong.
    """
    pickled = data
    if data.startswith(b"PK"):
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                declared = sum(entry.file_size for entry in archive.infolist())
                if declared > len(data) + MAX_SLACK:
                    raise UnreasonableError(
                        f"it declares {declared / 2**20:,.0f} MiB of contents in {len(data) / 2**20:,.1f} MiB"
                    )
                if damaged := archive.testzip():
                    raise DamagedError(f"the checksum of {damaged!a} in it is wrong")
                pickled = _pickle_of(archive)
        except (
            zipfile.BadZipFile,
            zlib.error,
            NotImplementedError,
            EOFError,
            OSError,
            RuntimeError,
        ) as error:
            raise DamagedError("its archive cannot be read to its end") from error
    longs, texts, imports = 0, set(), set()
    for count, (operation, argument, _) in enumerate(_operations(pickled), 1):
        longs += operation.name in ("LONG", "LONG1", "LONG4")
        if isinstance(argument, str) and len(argument) <= _LONGEST_CODEC:
            (imports if operation.name in ("GLOBAL", "INST") else texts).add(argument)
        if count > MAX_OPERATIONS or longs > MAX_LONGS:
            raise UnreasonableError("its pickle has more entries than any checkpoint")
    _require_plain_bytes(imports, texts)


def only_member(data: bytes) -> tuple[str, bytes]:
    """The name and the content of the one file in a .zip.

    What macOS adds to its archives, such as ``__MACOSX/._a.pth`` beside ``a.pth``, does not count.

    Raises:
        SeveralFilesError: there is none, or several.
        DamagedError: the archive is damaged.
        UnreasonableError: it would unpack to far more than the archive.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            files = [
                entry
                for entry in archive.infolist()
                if not entry.is_dir() and not _is_of_macos(PurePosixPath(entry.filename))
            ]
            if len(files) != 1:
                names = f" ({few(entry.filename for entry in files)})" if files else ""
                raise SeveralFilesError(f"expected one file in the archive, got {len(files)}{names}")
            if files[0].file_size > len(data) + MAX_SLACK:
                raise UnreasonableError(
                    f"it declares {files[0].file_size / 2**20:,.0f} MiB in {len(data) / 2**20:,.1f} MiB"
                )
            return files[0].filename, archive.read(files[0])
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, OSError, RuntimeError) as error:
        raise DamagedError("its archive cannot be read to its end") from error


def _is_of_macos(path: PurePosixPath) -> bool:
    return path.parts[:1] == ("__MACOSX",) or path.name == ".DS_Store" or path.name.startswith("._")


def is_of_torch(data: bytes) -> bool:
    """Whether a file has the form of ``torch.save``, the .zip of today or the row of pickles before it."""
    if not data.startswith(b"PK"):
        return data.startswith(_OLD_TORCH)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return any(PurePosixPath(name).name == "data.pkl" for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError):
        return False


def _require_plain_bytes(imports: set[str], texts: set[str]) -> None:
    """Refuses what makes bytes of a size that the pickle does not have: codecs, and bytearray(n).

    Pickles have bytes as text encoded in Latin-1; other codecs multiply it, or take quadratic time.
    """
    if imports & {"builtins bytearray", "__builtin__ bytearray"} or {"bytearray"} <= texts:
        raise UnreasonableError("its pickle makes a bytearray, which no checkpoint holds")
    encodes = "_codecs encode" in imports or {"_codecs", "encode"} <= texts
    odd = sorted(filter(_is_odd_codec, texts)) if encodes else []
    if odd:
        raise UnreasonableError(f"its pickle encodes text as {odd[0]!a}, expected Latin-1")


def _is_odd_codec(name: str) -> bool:
    try:
        return codecs.lookup(name).name in _ODD_CODECS
    except (LookupError, ValueError):
        return False


def _pickle_of(archive: zipfile.ZipFile) -> bytes:
    """The pickle in a torch file; empty where it has none.

    Raises:
        DamagedError: several, of which torch may take another than this.
    """
    names = [name for name in archive.namelist() if name.endswith("data.pkl")]
    if len(names) > 1:
        raise DamagedError(f"it has several pickles, {names[0]!a} and {names[1]!a}")
    return archive.read(names[0]) if names else b""


def _operations(data: bytes) -> Iterator[tuple]:
    """Those of the pickles at the beginning of the data, as far as they can be read."""
    stream = io.BytesIO(data)
    for _ in range(_PICKLES):
        try:
            yield from pickletools.genops(stream)
        except Exception:  # no pickle, or not to its end
            return


def measure(content: Any, data: int) -> bool:
    """Whether a checkpoint's content holds a tensor; walked without recursion.

    Args:
        content: what was read.
        data: size of the file in bytes.

    Raises:
        UnreasonableError: containers that contain themselves, are nested too deeply, or share parts so that
            walking them would take unreasonably long; tensors far larger than the file.
    """
    sizes: dict[int, tuple[int, int]] = {}  # of a container: items in all below it, levels
    open_containers: set[int] = set()
    tensors: dict[int, int] = {}
    stack: list[tuple[Any, bool]] = [(content, False)]
    while stack:
        value, is_leaving = stack.pop()
        if isinstance(value, torch.Tensor):
            tensors[id(value)] = value.numel() * value.element_size()
            continue
        if not isinstance(value, Mapping | list | tuple | set | frozenset):
            continue
        below = [*value.keys(), *value.values()] if isinstance(value, Mapping) else list(value)
        if is_leaving:
            open_containers.discard(id(value))
            known = [sizes.get(id(each), (1, 0)) for each in below]
            items = 1 + sum(count for count, _ in known)
            levels = 1 + max((depth for _, depth in known), default=0)
            if items > MAX_ITEMS or levels > MAX_DEPTH:
                raise UnreasonableError(
                    "its containers are nested deeper, or repeated more often, than in any checkpoint"
                )
            sizes[id(value)] = (items, levels)
        elif id(value) in open_containers:
            raise UnreasonableError("a container in it contains itself")
        elif id(value) not in sizes:
            open_containers.add(id(value))
            stack.append((value, True))
            stack.extend((each, False) for each in below)
    total = sum(tensors.values())
    if total > 8 * data + MAX_SLACK:
        raise UnreasonableError(
            f"its tensors have {total / 2**20:,.0f} MiB in a file of {data / 2**20:,.1f} MiB"
        )
    return bool(tensors)


def asks_for(data: bytes) -> str | None:
    """The first function or class beyond torch's own that a pickle, bare or in a torch file, would import.

    None where it names none, or is no pickle. Nothing is run; used in error messages only.
    """
    try:
        if zipfile.is_zipfile(io.BytesIO(data)):
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                data = _pickle_of(archive)
        stream = io.BytesIO(data)
        harmless = {"_codecs.encode", *(name for _, name in _allowed())}  # what a damaged file asks for
        for _ in range(_PICKLES):
            names = (name for name in _imports(stream) if not name.startswith(_HARMLESS))
            name = next((name for name in names if name not in harmless), None)
            if name:
                return name
    except Exception:  # no pickle, or not to its end
        pass
    return None


def _imports(stream: BinaryIO) -> Iterator[str]:
    """The names that one pickle imports."""
    texts: list[str] = []
    memo: dict[int, str] = {}
    last = ""
    for operation, argument, _ in pickletools.genops(stream):
        if operation.name in ("GLOBAL", "INST"):
            yield argument.replace(" ", ".")
        elif operation.name == "STACK_GLOBAL":
            yield ".".join(texts[-2:])
        elif operation.name == "MEMOIZE":
            memo[len(memo)] = last
        elif operation.name in ("BINGET", "LONG_BINGET"):
            texts.append(memo.get(argument, ""))
        last = argument if isinstance(argument, str) else ""
        if last:
            texts.append(last)
