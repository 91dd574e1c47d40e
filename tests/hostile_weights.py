"""Weights files made to hurt: pickles written by hand, and mutations of good files."""

from __future__ import annotations

import io
import random
import struct
import zipfile
from collections.abc import Iterator

import numpy as np
import safetensors.torch
import torch

TENSOR = (
    b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0000X\3\0\0\0cpuK\2tQ"
    b"K\0K\2\x85K\1\x85\x89ccollections\nOrderedDict\n)RtR"
)
POINTER = struct.pack("<Q", 0x133713370000)  # where no memory is
NDARRAY = b"cnumpy\nndarray\n"
HISTORY = b"cmmengine.logging.history_buffer\nHistoryBuffer\n"


def archive(pickled: bytes, *, compression: int = zipfile.ZIP_STORED, storage: bytes = bytes(8)) -> bytes:
    """A torch file with that pickle."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as file:
        file.writestr("archive/data.pkl", pickled)
        file.writestr("archive/byteorder", "little")
        file.writestr("archive/data/0", storage)
        file.writestr("archive/version", "3\n")
    return stream.getvalue()


def beside_a_tensor(value: bytes) -> bytes:
    """{"a": a tensor, "x": what these operations leave on the stack}."""
    return archive(b"\x80\x02}(X\1\0\0\0a" + TENSOR + b"X\1\0\0\0x" + value + b"u.")


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def data(value: bytes) -> bytes:
    """Bytes as protocol 2 writes them."""
    return b"c_codecs\nencode\n(" + text(value.decode("latin1")) + text("latin1") + b"tR"


def dtype(code: str, state: bytes = b"") -> bytes:
    return b"cnumpy\ndtype\n(" + text(code) + b"\x89\x88tR" + state


def array(kind: bytes, content: bytes, shape: bytes = b"K\1\x85") -> bytes:
    """An array as NumPy pickles it: ``_reconstruct`` and a state."""
    empty = b"cnumpy.core.multiarray\n_reconstruct\n(" + NDARRAY + b"K\0\x85" + data(b"b") + b"tR"
    return empty + b"(K\1" + shape + kind + b"\x89" + data(content) + b"tb"


def fields(flags: int) -> bytes:
    """A state that gives a dtype a field of objects, and these flags."""
    objects = text("a") + dtype("O") + b"K\0\x86"
    return (
        b"(K\3" + text("<") + b"N" + text("a") + b"\x85}" + objects + b"sK\x08K\1K" + bytes([flags]) + b"tb"
    )


NUMBERS = array(dtype("f8"), POINTER)
OBJECTS_OVER_BYTES = NDARRAY + b"(K\1\x85" + dtype("O") + NUMBERS + b"tR"
TOO_LARGE = b"J\0\0\0\x40"

# what NumPy's own functions would make of these reads or frees memory that is not the array's
ARRAYS = {
    "objects over bytes": OBJECTS_OVER_BYTES,
    "an object array as a shape": NDARRAY + OBJECTS_OVER_BYTES + b"\x85R",
    "fields of objects": array(dtype("f8", fields(0)), POINTER),
    "fields of objects, flagged": array(dtype("f8", fields(63)), POINTER),
    "a dtype of objects": array(dtype("O"), POINTER),
    "a dtype of text": array(dtype("U2"), POINTER),
    "a structured dtype": array(dtype("f4,O"), POINTER + bytes(4)),
    "a longer shape than its bytes": array(dtype("f8"), POINTER, TOO_LARGE + b"\x85"),
    "a negative shape": array(dtype("f8"), POINTER, b"J\xff\xff\xff\xff\x85"),
    "a shape whose product overflows": array(dtype("f8"), POINTER, b"\x8a\x08" + bytes(7) + b"\x40K\4\x86"),
    "an offset": NDARRAY + b"(K\1\x85" + text("f8") + data(b"A" * 8) + TOO_LARGE + b"tR",
    "strides": NDARRAY + b"(K\2\x85" + text("f8") + data(b"A" * 8) + b"K\0" + TOO_LARGE + b"\x85tR",
    "a huge array": NDARRAY + b"(\x8a\x06" + bytes(5) + b"\x01" + text("u1") + b"tR",
    "a size of its own": array(dtype("f8", b"(K\3" + text("<") + b"NNNJ\0\0\x10\0K\1K\0tb"), POINTER),
    "a scalar of objects": b"cnumpy.core.multiarray\nscalar\n(" + dtype("O") + data(POINTER) + b"tR",
    "a scalar of too few bytes": b"cnumpy.core.multiarray\nscalar\n(" + dtype("f8") + data(b"A") + b"tR",
    "a new ndarray": NDARRAY + b"K\1\x85\x85\x81",
    "an ndarray set twice": NUMBERS + b"(K\1K\1\x85" + dtype("O") + b"\x89" + data(POINTER) + b"tb",
    "a log of text": HISTORY + b")\x81}(" + text("_log_history") + text("a") + b"ub",
    "a log of unequal arrays": HISTORY + b")\x81}(" + text("_log_history") + NUMBERS + text("_count_history")
    + array(dtype("f8"), b"", b"K\0\x85") + text("max_length") + b"K\1ub",
    "another attribute of the log": b"cbuiltins\ngetattr\n(" + HISTORY + text("__init__") + b"tR",
    "an attribute of another class": b"cbuiltins\ngetattr\n(" + NDARRAY + text("mean") + b"tR",
}  # fmt: skip

LONG = b"\x8a\x0c"  # an integer of twelve bytes follows


def colliding_keys(count: int) -> bytes:
    """A dictionary whose keys all hash alike: it grows with the square of their number."""
    prime = 2**61 - 1
    pairs = b"".join(LONG + (k * prime).to_bytes(12, "little") + b"N" for k in range(1, count))
    return b"}(" + pairs + b"u"


def doubling(levels: int) -> bytes:
    """A list of ten times a list of ten times …: short, and endless to walk."""
    steps = (b"](" + 10 * (b"h" + bytes([k])) + b"eq" + bytes([k + 1]) for k in range(levels))
    return b"(]q\0" + b"".join(steps) + b"t"


def encoded(times: int) -> bytes:
    """Text that codecs double so many times."""
    value = data(b"x" * 1000)
    for _ in range(times):
        value = b"c_codecs\nencode\n(" + value + text("hex") + b"tR"
    return value


def with_decoy(pickled: bytes) -> bytes:
    """A torch file with a second pickle, of another name, before the one that torch reads."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("archive/0data.pkl", b"\x80\x02}.")
        file.writestr("archive/data.pkl", pickled)
        file.writestr("archive/byteorder", "little")
        file.writestr("archive/data/0", bytes(8))
        file.writestr("archive/version", "3\n")
    return stream.getvalue()


BOMBS = {
    "a bytearray of 6 GB": beside_a_tensor(b"c__builtin__\nbytearray\n(\x8a\x05\x00\xbc\xa0\x65\x01tR"),
    "text that codecs double": beside_a_tensor(encoded(22)),
    "a second pickle": with_decoy(b"\x80\x02}" + text("a") + TENSOR + b"s."),
    "a name of many parts": archive(b"\x80\x02}" + text(".".join(2500 * "a")) + TENSOR + b"s."),
    "nested lists": beside_a_tensor(b"]" * 10_000 + b"a" * 9_999),
    "nested dictionaries": archive(
        b"\x80\x02" + (b"}" + text("state_dict")) * 10_000 + TENSOR + b"s" * 10_000 + b"."
    ),
    "nested tuples": beside_a_tensor(b"N" + b"\x85" * 10_000),
    "a dictionary in itself": archive(b"\x80\x02}q\0" + text("state_dict") + b"h\0s."),
    "a list in itself": beside_a_tensor(b"]q\0h\0a"),
    "a list of lists of lists": beside_a_tensor(doubling(60)),
    "millions of entries": beside_a_tensor(b"(" + b"N" * 6_000_000 + b"t"),
    "keys that collide": beside_a_tensor(colliding_keys(100_000)),
    "a compressed pickle": archive(b"\x80\x02" + b"N" * (200 << 20), compression=zipfile.ZIP_DEFLATED),
    "a compressed tensor": archive(
        b"\x80\x02}" + text("a") + TENSOR + b"s.", compression=zipfile.ZIP_DEFLATED, storage=bytes(200 << 20)
    ),
    "a tensor repeated without memory": archive(
        b"\x80\x02}" + text("a")
        + TENSOR.replace(b"K\0K\2\x85K\1\x85", b"K\0J\0\0\0\x40J\0\0\x10\0\x86K\0K\0\x86") + b"s."
    ),
    "a huge storage": archive(
        b"\x80\x02}" + text("a") + TENSOR.replace(b"K\2tQ", b"\x8a\x06" + bytes(5) + b"\1tQ") + b"s."
    ),
}  # fmt: skip


def good_files() -> dict[str, bytes]:
    """Small files of every form that the reader takes, by a name with their suffix."""
    state = {"conv.weight": torch.arange(12.0).reshape(3, 4), "norm.bias": torch.tensor([1.0, -2.0])}
    run = {
        "state_dict": state,
        "meta": {"epoch": 1, "dataset_meta": {"classes": ("a", "b"), "palette": [(1, 2, 3), (4, 5, 6)]}},
        "message_hub": {"runtime_info": {"best": np.float64(0.5), "row": np.arange(3)}},
        "optimizer": {
            "state": {0: {"step": torch.tensor(1.0)}},
            "param_groups": [{"lr": 0.1, "params": [0]}],
        },
    }
    files = {"plain.safetensors": safetensors.torch.save(state, {"classes": '["a", "b"]'})}
    for name, content, zipped in (("run", run, True), ("legacy", run, False), ("bare", state, True)):
        stream = io.BytesIO()
        torch.save(content, stream, _use_new_zipfile_serialization=zipped)
        files[f"{name}.pth"] = stream.getvalue()
    return files


def mutations(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """(file name, content): good files with flipped, lost or repeated bytes, or other pickles."""
    draw = random.Random(seed)
    goods = list(good_files().items())
    for k in range(count):
        name, content = goods[k % len(goods)]
        if (
            name == "run.pth" and draw.random() < 0.7
        ):  # reaches the reader of pickles: the checksums are right
            yield f"{k}_pickle.pth", _with_other_pickle(content, draw)
        else:
            yield f"{k}_{name}", _mutated(content, draw)


def _mutated(content: bytes, draw: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.choice([1, 1, 1, 1, 2, 5, 20])):
        at = draw.randrange(len(changed))
        match draw.choice(["flip", "flip", "flip", "byte", "cut", "drop", "repeat", "zeros", "head"]):
            case "flip":
                changed[at] ^= 1 << draw.randrange(8)
            case "byte":
                changed[at] = draw.randrange(256)
            case "cut":
                del changed[max(at, 1) :]
            case "drop":
                del changed[at : at + draw.randrange(1, 16)]
            case "repeat":
                changed[at:at] = changed[at : at + draw.randrange(1, 64)]
            case "zeros":
                length = min(draw.randrange(1, 32), len(changed) - at)
                changed[at : at + length] = bytes(length)
            case _:
                changed[draw.randrange(min(64, len(changed)))] = draw.randrange(256)
        if not changed:
            return b"\0"
    return bytes(changed)


def _with_other_pickle(content: bytes, draw: random.Random) -> bytes:
    """The archive with its pickle mutated, or hostile operations spliced into it; its checksums are right."""
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        entries = {name: file.read(name) for name in file.namelist()}
    name = next(name for name in entries if name.endswith("data.pkl"))
    pickled = entries[name]
    if draw.random() < 0.5:
        pickled = _mutated(pickled, draw)
    else:
        at = draw.randrange(2, len(pickled))
        pickled = pickled[:at] + draw.choice([*ARRAYS.values()]) + pickled[at:]
    entries[name] = pickled
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for name, entry in entries.items():
            file.writestr(name, entry)
    return stream.getvalue()
