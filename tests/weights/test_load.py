from __future__ import annotations

import errno
import gzip
import hashlib
import io
import os
import pickle
import socket
import tarfile
import threading
import time
import types
import zipfile
from collections import OrderedDict
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest
import safetensors.torch
import torch
from torch import nn

from hardnet_suite import create_model
from hardnet_suite.errors import UserError
from hardnet_suite.weights import (
    LoadReport,
    cache_dir,
    fetch,
    load_weights,
    read_checkpoint,
    state_dict_of,
)
from hardnet_suite.weights.download import verify
from hardnet_suite.weights.places import where
from hardnet_suite.weights.registry import Address, WeightsRow, find

TENSORS = {"conv.weight": torch.arange(12.0).reshape(3, 4), "norm.bias": torch.tensor([1.0, -2.0])}
HTML = b"\n<!DOCTYPE html><html><body>moved</body></html>"


def saved(checkpoint, **options) -> bytes:
    stream = io.BytesIO()
    torch.save(checkpoint, stream, **options)
    return stream.getvalue()


def tarred(name, content) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def zipped(files) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


GOOD = saved(TENSORS)
LEGACY = saved(TENSORS, _use_new_zipfile_serialization=False)
A_TORCH_FILE = "its content is that of a PyTorch file: rename it to .pth"
A_SAFETENSORS_FILE = "its content is that of a .safetensors file: rename it to .safetensors"
PADDLE = pickle.dumps({key: value.numpy() for key, value in TENSORS.items()}, protocol=2)
GOOD_HASH = hashlib.sha256(GOOD).hexdigest()[:8]


def assert_same(one, other):
    assert one.keys() == other.keys()
    for key in other:
        torch.testing.assert_close(one[key], other[key], rtol=0, atol=0)


def message_of(call, *args, **kwargs) -> str:
    """The message of the UserError that the call must raise; one line, as users are promised."""
    with pytest.raises(UserError) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class RunsCode:
    """Unpickled by Python's own pickle, this makes a folder; a stand-in for anything worse."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.system, (f"mkdir {self.folder}",)


# ---------------------------------------------------------------- read_checkpoint


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
def test_reads_both_torch_formats(tmp_path, is_zip):
    torch.save({"epoch": 3, "state_dict": TENSORS}, tmp_path / "a.pth", _use_new_zipfile_serialization=is_zip)
    checkpoint = read_checkpoint(tmp_path / "a.pth")
    assert checkpoint["epoch"] == 3
    assert_same(checkpoint["state_dict"], TENSORS)


class _Python2Pickler(pickle._Pickler):
    """Writes text as Python 2 wrote it: byte strings."""

    dispatch: ClassVar[dict] = dict(pickle._Pickler.dispatch)

    def save_text(self, text):
        data = text.encode()
        self.write(pickle.SHORT_BINSTRING + bytes([len(data)]) + data)
        self.memoize(text)

    dispatch[str] = save_text


def test_reads_a_file_of_python_2(tmp_path):
    """As the patch descriptor's are: torch of 2017, no counters of batch norms."""
    network = create_model("hardnet_descriptor")
    state = OrderedDict((k, v) for k, v in network.state_dict().items() if "num_batches" not in k)
    python2 = types.ModuleType("pickle_of_python_2")
    python2.__dict__.update(pickle.__dict__, Pickler=_Python2Pickler)
    checkpoint = {"epoch": 9, "state_dict": state}
    path = tmp_path / "HardNet++.pth"
    torch.save(checkpoint, path, python2, pickle_protocol=2, _use_new_zipfile_serialization=False)
    assert b"U\x05epoch" in path.read_bytes()
    other = create_model("hardnet_descriptor", pretrained=path)
    assert_same(other.state_dict(), network.state_dict())


def test_reads_safetensors(tmp_path):
    safetensors.torch.save_file(TENSORS, tmp_path / "a.safetensors")
    assert_same(read_checkpoint(str(tmp_path / "a.safetensors")), TENSORS)


def test_a_safetensors_file_whose_length_spells_a_tag_is_no_web_page(tmp_path):
    content = safetensors.torch.save(TENSORS)
    header = content[8 : 8 + int.from_bytes(content[:8], "little")]
    length = int.from_bytes(b" <", "little")
    content = length.to_bytes(8, "little") + header.ljust(length) + content[8 + len(header) :]
    (tmp_path / "a.safetensors").write_bytes(content)
    assert_same(read_checkpoint(tmp_path / "a.safetensors"), TENSORS)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.pth", b"", "an empty file"),
        ("page.pth", HTML, "web page"),
        ("page.safetensors", b"\xef\xbb\xbf<html>", "web page"),
        ("text.pth", b"no weights at all\n", "cannot be read safely as weights"),
        ("pointer.pth", b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        ("cut_zip.pth", GOOD[: len(GOOD) // 2], "corrupt or cut short"),
        ("cut_legacy.pth", LEGACY[:-9], "cannot be read safely as weights: corrupt, cut short"),
        ("cut.safetensors", safetensors.torch.save(TENSORS)[:-5], "cannot be read safely as weights"),
        ("foreign.safetensors", GOOD, A_TORCH_FILE),
        ("foreign.pdparams", GOOD, A_TORCH_FILE),
        ("foreign.zip", GOOD, A_TORCH_FILE),
        ("old.safetensors", LEGACY, A_TORCH_FILE),
        ("old.pdparams", LEGACY, A_TORCH_FILE),
        (
            "foreign.pth",
            safetensors.torch.save(TENSORS),
            A_SAFETENSORS_FILE,
        ),
        (
            "other.pdparams",
            safetensors.torch.save(TENSORS),
            A_SAFETENSORS_FILE,
        ),
        ("paddle.pth", PADDLE, "that of a pickle, as Paddle's weights are: rename it to .pdparams"),
        ("paddle.safetensors", PADDLE, "rename it to .pdparams"),
        ("archive.pth", zipped({"a.pth": GOOD}), "its content is that of a .zip archive: rename it to .zip"),
        ("archive.safetensors", zipped({"a.pth": GOOD}), "its content is that of a .zip archive"),
        (
            "inside.zip",
            zipped({"a.safetensors": GOOD}),
            "of the file in it is that of a PyTorch file",
        ),
        (
            "other.zip",
            zipped({"a.pth": safetensors.torch.save(TENSORS)}),
            "of the file in it is that of a .saf",
        ),
        ("packed.zip", zipped({"a.pth": gzip.compress(GOOD)}), "the file in it is compressed with gzip"),
        ("packed.pth.gz", gzip.compress(GOOD), "it is compressed with gzip: decompress it first"),
        ("packed.tar", tarred("a.pth", GOOD), "it is a tar archive: extract it first"),
        ("model.safetensors.index.json", b'{"weight_map": {}}', "the index of weights in several files"),
        ("numbers.pth", saved({"epoch": 3, "metrics": [1.0]}), "holds no named tensors"),
        ("bare.pth", saved(torch.zeros(2)), "holds no named tensors"),
        ("none.safetensors", safetensors.torch.save({}), "holds no named tensors"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isprintable() and " " not in value else "",
)
def test_a_file_that_is_no_good_is_named_with_the_reason(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    message = message_of(read_checkpoint, tmp_path / name)
    assert message.startswith(str(tmp_path / name))
    assert reason in message
    assert "weights_only" not in message


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path):
    assert "no such file" in message_of(read_checkpoint, tmp_path / "absent.pth")
    assert "a folder" in message_of(read_checkpoint, tmp_path)


@pytest.mark.parametrize(
    ("form", "protocol"),
    [("pickle", 0), *((form, n) for form in ("pickle", "zip", "legacy") for n in (2, 3, 4, 5))],
)
def test_a_checkpoint_that_carries_code_is_refused_and_runs_nothing(tmp_path, form, protocol, recwarn):
    trace = tmp_path / "it_ran"
    path = tmp_path / "evil.pth"
    if form == "pickle":
        path.write_bytes(pickle.dumps({"extra": RunsCode(trace)}, protocol))
    else:
        evil = {"state_dict": TENSORS, "extra": RunsCode(trace)}
        torch.save(evil, path, pickle_protocol=protocol, _use_new_zipfile_serialization=form == "zip")
    message = message_of(read_checkpoint, path)
    assert not trace.exists()
    assert not recwarn.list  # one line is enough
    assert "weights_only" not in message
    assert "refused" in message
    assert f"{os.system.__module__}.system" in message

    # the bait is real: with the protection off it does run
    if form == "pickle":
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert trace.exists()


def test_a_whole_pickled_model_is_refused_by_the_name_of_its_class(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "model.pth")
    assert "torch.nn.modules.linear.Linear" in message_of(read_checkpoint, tmp_path / "model.pth")


def test_a_zip_archive_of_another_kind_is_no_checkpoint(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "cannot be read safely as weights" in message_of(read_checkpoint, tmp_path / "a.pth")


# ---------------------------------------------------------------- state_dict_of


@pytest.mark.parametrize(
    "wrap",
    [
        lambda t: t,
        OrderedDict,
        lambda t: {"epoch": 3, "state_dict": t},
        lambda t: {"best_iou": 0.7, "model_state": t, "optimizer_state": {"lr": 0.1}},
        lambda t: {"model": t},
        lambda t: {"model": {"state_dict": t}},
        lambda t: {"state_dict": {f"module.{k}": v for k, v in t.items()}},
        lambda t: {f"module.module.{k}": v for k, v in t.items()},
    ],
    ids=["plain", "ordered", "state_dict", "model_state", "model", "nested", "module", "module_twice"],
)
def test_finds_the_tensors_in_any_wrapping(wrap):
    assert_same(state_dict_of(wrap(TENSORS)), TENSORS)


def test_module_stays_where_not_every_key_has_it():
    mixed = {"module.weight": torch.zeros(1), "head.weight": torch.zeros(1)}
    assert state_dict_of(mixed).keys() == mixed.keys()


@pytest.mark.parametrize(
    "checkpoint", [{}, {"epoch": 3, "tensors": TENSORS}, {"state_dict": {}}, {**TENSORS, "epoch": 3}]
)
def test_no_table_of_tensors_is_an_error_that_tells_the_keys(checkpoint):
    message = message_of(state_dict_of, checkpoint)
    assert all(wrapper in message for wrapper in ("state_dict", "model_state", "model"))
    assert all(key in message for key in checkpoint)


# ---------------------------------------------------------------- fetch


class Server:
    """A web server on this machine: `pages` maps a name to (status, body, promised length or None)."""

    def __init__(self):
        self.pages: dict[str, tuple[int, bytes, int | None]] = {}
        self.hits: list[str] = []
        self.ranges: list[str | None] = []
        self.ends_after: list[int] = []  # of the next bodies, how many bytes are sent before the line breaks
        self.knows_ranges = True
        self.versions: list[str | None] = []  # ETags of the next answers; afterwards always the same
        self.replaced_by: bytes | None = None  # the body from the second answer on
        self.moved = 0  # a part that is asked for begins so much later
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.hits.append(self.path)
                asked = self.headers.get("Range")
                outer.ranges.append(asked)
                status, body, promised = outer.pages.get(self.path, (404, b"", None))
                if outer.replaced_by is not None and len(outer.hits) > 1:
                    body = outer.replaced_by
                version = outer.versions.pop(0) if outer.versions else '"one"'
                known = self.headers.get("If-Range")
                where = None
                if asked and outer.knows_ranges and (known is None or known == version):
                    start = int(asked.removeprefix("bytes=").rstrip("-")) + outer.moved
                    where = f"bytes {start}-{len(body) - 1}/{len(body)}"
                    status, body = 206, body[start:]
                    promised = None if promised is None else promised - start
                self.send_response(status)
                if version is not None:
                    self.send_header("ETag", version)
                if where is not None:
                    self.send_header("Content-Range", where)
                self.send_header("Content-Length", str(len(body) if promised is None else promised))
                self.end_headers()
                self.wfile.write(body[: outer.ends_after.pop(0)] if outer.ends_after else body)

            def log_message(self, *args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def put(self, name, body, *, status=200, promised=None) -> str:
        self.pages[f"/{name}"] = (status, body, promised)
        return f"{self.address}/{name}"

    def close(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    server = Server()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of the test's own, so that no test sees or touches the user's."""
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch_home"))
    monkeypatch.delenv("HARDNET_WEIGHTS_DIR", raising=False)
    return tmp_path / "torch_home" / "hub" / "checkpoints"


def row_of(*urls: Address) -> WeightsRow:
    # of a model that has no network: these files are looked into no further
    return WeightsRow("some_model", "published", urls, "classification", "MIT", "", "")


def git_blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def left_in(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_the_cache_is_the_one_of_torch_hub(cache):
    assert cache_dir() == cache


def test_downloads_checks_and_keeps(server, cache):
    row = row_of(Address(server.put("w.pth", GOOD), GOOD_HASH))
    path = fetch(row)
    assert path == cache / "w.pth"
    assert path.read_bytes() == GOOD
    assert left_in(cache) == ["w.pth"]

    assert fetch(row) == path
    assert server.hits == ["/w.pth"]  # the second time came from the cache


def test_what_a_killed_download_left_goes_after_a_day(server, cache):
    cache.mkdir(parents=True)
    old, new, foreign = f"partial-{32 * 'a'}-w.pth", f"partial-{32 * 'b'}-w.pth", "partial-notes.txt"
    for name in (old, new, foreign):
        (cache / name).touch()
        age = 3600 if name == new else 2 * 24 * 3600
        os.utime(cache / name, (time.time() - age,) * 2)
    fetch(row_of(Address(server.put("w.pth", GOOD), GOOD_HASH)))
    assert left_in(cache) == sorted([new, foreign, "w.pth"])


OTHER = saved({key: value + 100 for key, value in TENSORS.items()})
PINS = {
    "sha256": (lambda data: {"sha256_prefix": hashlib.sha256(data).hexdigest()[:8]}, "sha256 begins"),
    "git_blob": (lambda data: {"git_blob": git_blob(data)}, "git blob sha1 begins"),
}


@pytest.mark.parametrize("pin", PINS)
def test_a_pinned_download_is_the_very_file(server, cache, pin):
    pinned_to, _ = PINS[pin]
    path = fetch(row_of(Address(server.put("w.pth", GOOD), **pinned_to(GOOD))))
    assert path == cache / "w.pth"
    assert path.read_bytes() == GOOD
    assert left_in(cache) == ["w.pth"]


@pytest.mark.parametrize("pin", PINS)
@pytest.mark.parametrize("wrong", [OTHER, GOOD[:-1], GOOD + b"\0"], ids=["other", "shorter", "longer"])
def test_a_pinned_download_of_other_bytes_is_refused(server, cache, pin, wrong):
    pinned_to, reason = PINS[pin]
    first = Address(server.put("w.pth", wrong), **pinned_to(GOOD))
    message = message_of(fetch, row_of(first))
    assert f"{first.url} (wrong contents: {reason}" in message
    assert left_in(cache) == []

    second = Address(server.put("mirror/w.pth", GOOD), **pinned_to(GOOD))
    assert fetch(row_of(first, second)).read_bytes() == GOOD
    assert server.hits == ["/w.pth", "/w.pth", "/mirror/w.pth"]
    assert left_in(cache) == ["w.pth"]


@pytest.mark.parametrize("pin", PINS)
def test_a_pinned_file_in_the_cache_is_checked_too(server, cache, pin):
    pinned_to, reason = PINS[pin]
    cache.mkdir(parents=True)
    (cache / "w.pth").write_bytes(OTHER)
    address = Address(server.put("w.pth", GOOD, status=404), **pinned_to(GOOD))
    assert f"{cache / 'w.pth'} (wrong contents: {reason}" in message_of(fetch, row_of(address))
    server.put("w.pth", GOOD)
    assert fetch(row_of(address)).read_bytes() == GOOD


@pytest.mark.parametrize("knows_ranges", [True, False])
def test_a_broken_line_is_taken_up_where_it_ended(server, cache, knows_ranges):
    server.knows_ranges = knows_ranges
    server.ends_after = [100, 150]
    path = fetch(row_of(Address(server.put("w.pth", GOOD), GOOD_HASH)))
    assert path.read_bytes() == GOOD
    assert left_in(cache) == ["w.pth"]
    asked = ["bytes=100-", "bytes=250-"] if knows_ranges else ["bytes=100-", "bytes=150-"]
    assert server.ranges == [None, *asked]


@pytest.mark.parametrize("version", [None, 'W/"weak"'])
def test_where_the_hash_will_tell_no_word_of_the_server_is_needed(server, cache, version):
    server.versions, server.ends_after = [version] * 3, [100, 150]
    path = fetch(row_of(Address(server.put("w.pth", GOOD), GOOD_HASH)))
    assert path.read_bytes() == GOOD
    assert server.ranges == [None, "bytes=100-", "bytes=250-"]


def test_two_files_joined_are_told_by_the_hash(server, cache):
    other = saved({key: value + 100 for key, value in TENSORS.items()})
    server.versions, server.ends_after, server.replaced_by = [None] * 3, [len(GOOD) // 2], other
    assert "wrong contents" in message_of(fetch, row_of(Address(server.put("w.pth", GOOD), GOOD_HASH)))
    assert left_in(cache) == []


@pytest.mark.parametrize("versions", [['"one"', '"two"'], [None, None], ['W/"weak"', 'W/"weak"']])
def test_two_files_are_never_joined(server, cache, versions):
    """The file is replaced, or may be, while the line is broken."""
    other = saved({key: value + 100 for key, value in TENSORS.items()})
    assert len(other) == len(GOOD)
    server.versions, server.ends_after, server.replaced_by = versions, [len(GOOD) // 2], other
    path = fetch(row_of(Address(server.put("w.pth", GOOD))))
    assert path.read_bytes() == other


def test_another_part_than_was_asked_for_is_refused(server, cache):
    server.ends_after, server.moved = [100], 8
    message = message_of(fetch, row_of(Address(server.put("w.pth", GOOD))))
    assert "another part of the file" in message
    assert left_in(cache) == []


def whole_file(model) -> bytes:
    return saved(create_model(model).state_dict())


def test_another_models_file_is_refused_and_not_kept(server, cache):
    """Without a known hash, the keys say whose a file is: on download, in the cache, and put by hand."""
    row = replace(find("hardnet68ds"), urls=(Address(server.put("w.pth", whole_file("hardnet39ds"))),))
    assert "w.pth (a wrong file: these are not the weights of hardnet68ds" in message_of(fetch, row)
    assert left_in(cache) == []
    right = Address(server.put("v.pth", whole_file("hardnet68ds")))
    assert fetch(replace(row, urls=(*row.urls, right))) == cache / "v.pth"
    (cache / "w.pth").write_bytes(server.pages["/w.pth"][1])
    server.pages.clear()
    assert f"{cache / 'w.pth'} (a wrong file" in message_of(fetch, row)


def test_a_bad_file_put_by_hand_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HARDNET_WEIGHTS_DIR", str(tmp_path))
    row = row_of(Address("http://host.invalid/w-1.pth", GOOD_HASH), Address("http://host.invalid/w.pth"))
    (tmp_path / "w.pth").write_bytes(GOOD)  # under the name of any of its addresses
    assert fetch(row) == tmp_path / "w.pth"
    (tmp_path / "w-1.pth").write_bytes(saved({"other": torch.zeros(1)}))  # another host's bytes, perhaps
    assert fetch(row) == tmp_path / "w-1.pth"
    wrong = f"{tmp_path / 'w-1.pth'}: a wrong file: these are not the weights of hardnet68ds"
    assert wrong in message_of(fetch, replace(row, model="hardnet68ds"))
    (tmp_path / "w-1.pth").write_bytes(HTML)
    assert f"{tmp_path / 'w-1.pth'}: a web page" in message_of(fetch, row)


def test_a_full_disk_is_not_blamed_on_the_address(server, cache, monkeypatch):
    def full(url, stream, limits, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("hardnet_suite.weights.download.receive", full)
    message = message_of(fetch, row_of(Address(server.put("w.pth", GOOD))))
    assert message.startswith(f"cannot write w.pth into {cache}: No space left on device")
    assert left_in(cache) == []


def test_a_line_that_breaks_without_bringing_more_is_given_up(server, cache):
    server.ends_after = [100, 0]
    message = message_of(fetch, row_of(Address(server.put("w.pth", GOOD), GOOD_HASH)))
    assert f"cut short: 100 of {len(GOOD)} bytes" in message
    assert left_in(cache) == []


def test_a_download_shows_its_progress_on_a_terminal_only(server, capsys, monkeypatch):
    fetch(row_of(Address(server.put("w.pth", GOOD))))
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    fetch(row_of(Address(server.put("v.pth", GOOD))))
    assert "v.pth: 100%" in capsys.readouterr().err


def test_a_cached_file_needs_no_network(cache):
    cache.mkdir(parents=True)
    (cache / "w.pth").write_bytes(GOOD)
    assert fetch(row_of(Address("http://host.invalid/w.pth", GOOD_HASH))) == cache / "w.pth"
    # the copy of the second address will do as well
    second = row_of(Address("http://host.invalid/w-1.pth", "0" * 8), Address("http://host.invalid/w.pth"))
    assert fetch(second) == cache / "w.pth"


def test_a_cached_file_with_the_wrong_hash_is_replaced(server, cache):
    cache.mkdir(parents=True)
    (cache / "w.pth").write_bytes(b"stale")
    assert fetch(row_of(Address(server.put("w.pth", GOOD), GOOD_HASH))).read_bytes() == GOOD
    assert left_in(cache) == ["w.pth"]


def bad_pages(server) -> dict[str, tuple[Address, str]]:
    """A failing address of each kind, with the reason to be told."""
    put = server.put
    return {
        "missing": (Address(f"{server.address}/gone.pth"), "HTTP 404"),
        "broken": (Address(put("b.pth", b"", status=500)), "HTTP 500"),
        "html": (Address(put("h.pth", HTML)), "web page"),
        "html_hash": (Address(put("h2.pth", HTML), GOOD_HASH), "web page"),
        "empty": (Address(put("e.pth", b"")), "an empty file"),
        "truncated": (Address(put("t.pth", GOOD[:-40], promised=len(GOOD))), f"of {len(GOOD)} bytes"),
        "wrong_hash": (Address(put("x.pth", GOOD), "deadbeef"), f"sha256 begins {GOOD_HASH}, not deadbeef"),
        "foreign": (Address(put("f.pth", b"text")), "cannot be read safely as weights"),
        "foreign_safetensors": (Address(put("f.safetensors", GOOD)), "cannot be read safely as weights"),
    }


BAD = [
    "missing",
    "broken",
    "html",
    "html_hash",
    "empty",
    "truncated",
    "wrong_hash",
    "foreign",
    "foreign_safetensors",
]


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_address_is_told_with_its_reason_and_leaves_nothing(server, cache, kind):
    address, reason = bad_pages(server)[kind]
    message = message_of(fetch, row_of(address))
    assert f"{address.url} (" in message
    assert reason in message
    assert left_in(cache) == []


@pytest.mark.parametrize("kind", BAD)
def test_a_good_second_address_makes_up_for_a_bad_first(server, cache, kind):
    first, _ = bad_pages(server)[kind]
    path = fetch(row_of(first, Address(server.put("second.pth", GOOD))))
    assert path.read_bytes() == GOOD
    assert left_in(cache) == ["second.pth"]


def test_an_interrupted_download_leaves_nothing(server, cache, monkeypatch):
    def interrupted(url, stream, limits, **options):
        stream.write(GOOD[:10])
        raise KeyboardInterrupt

    monkeypatch.setattr("hardnet_suite.weights.download.receive", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch(row_of(Address(server.put("w.pth", GOOD))))
    assert left_in(cache) == []


def test_a_host_that_never_answers_is_given_up(cache, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/w.pth"
        assert "timed out" in message_of(fetch, row_of(Address(url)), timeout=0.2)


def test_offline_says_all_a_person_needs(cache, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    urls = [f"http://127.0.0.1:{port}/w-1234abcd.pth", f"http://127.0.0.1:{port}/w.pth"]
    message = message_of(fetch, row_of(*map(Address, urls)))
    assert "w-1234abcd.pth, the published weights of some_model" in message
    for url in urls:
        assert f"{url} (Connection refused)" in message
    assert f"by hand into {cache}" in message


def test_a_bad_cached_copy_is_told_when_nothing_better_comes(server, cache):
    cache.mkdir(parents=True)
    (cache / "w.pth").write_bytes(b"stale")
    message = message_of(fetch, row_of(Address(f"{server.address}/w.pth", GOOD_HASH)))
    assert f"{cache / 'w.pth'} (wrong contents" in message
    assert left_in(cache) == ["w.pth"]


def test_the_users_own_folder_comes_before_the_cache(tmp_path, cache, monkeypatch):
    cache.mkdir(parents=True)
    own = tmp_path / "own"
    own.mkdir()
    for folder in (cache, own):
        (folder / "w.pth").write_bytes(GOOD)
    row = row_of(Address("http://host.invalid/w.pth"))
    monkeypatch.setenv("HARDNET_WEIGHTS_DIR", str(own))
    assert fetch(row) == own / "w.pth"
    (own / "w.pth").unlink()
    assert fetch(row) == cache / "w.pth"


def test_the_users_own_folder_is_where_to_put_the_file(tmp_path, server, monkeypatch):
    (tmp_path / "own").mkdir()
    monkeypatch.setenv("HARDNET_WEIGHTS_DIR", str(tmp_path / "own"))
    message = message_of(fetch, row_of(Address(f"{server.address}/gone.pth")))
    assert f"by hand into {tmp_path / 'own'}" in message


@pytest.mark.parametrize("function", [fetch, verify, where])
def test_the_users_own_folder_must_be_there(tmp_path, cache, monkeypatch, function):
    """Otherwise other files than the user meant would be used."""
    cache.mkdir(parents=True)
    (cache / "w.pth").write_bytes(GOOD)
    row = row_of(Address("http://host.invalid/w.pth"))
    for name, reason in (("typo", "no such folder"), ("file", "not a folder")):
        folder = tmp_path / name
        (tmp_path / "file").touch()
        monkeypatch.setenv("HARDNET_WEIGHTS_DIR", str(folder))
        assert message_of(function, row) == f"HARDNET_WEIGHTS_DIR={folder}: {reason}"
    monkeypatch.setenv("HARDNET_WEIGHTS_DIR", "")
    assert fetch(row) == cache / "w.pth"


def test_a_file_given_by_hand_is_taken_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("HARDNET_WEIGHTS_DIR", str(tmp_path))
    mine = tmp_path / "mine.pth"
    mine.write_bytes(GOOD)
    row = row_of(Address("http://host.invalid/w.pth", "deadbeef"))
    assert fetch(row, file=str(mine)) == mine
    assert f"{tmp_path / 'not.pth'}: no such file" in message_of(fetch, row, file=tmp_path / "not.pth")


# ---------------------------------------------------------------- load_weights


class Small(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        self.base = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2))
        self.head = nn.Linear(2, classes)


BASE_KEYS = 6  # a kernel and the five of batch norm


def random_state(model) -> dict[str, torch.Tensor]:
    return {
        key: torch.rand_like(value) if value.is_floating_point() else value + 7
        for key, value in model.state_dict().items()
    }


def test_strict_takes_everything():
    model = Small()
    state = random_state(model)
    report = load_weights(model, state)
    assert report == LoadReport(8, (), ())
    assert str(report) == "8 tensors taken"
    assert_same(dict(model.state_dict()), state)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("head.bias"), ["1 missing (head.bias)"]),
        (lambda s: s.update(extra=torch.zeros(1)), ["1 unexpected (extra)"]),
        (
            lambda s: s.update({"head.bias": torch.zeros(9)}),
            ["1 of another shape (head.bias: (9,) in the weights, (3,) in the model)"],
        ),
        (lambda s: (s.pop("head.bias"), s.update(a=s.pop("head.weight"))), ["2 missing", "1 unexpected (a)"]),
    ],
)
def test_strict_names_what_does_not_fit_and_touches_nothing(change, words):
    model = Small()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = random_state(model)
    change(state)
    message = message_of(load_weights, model, state)
    assert "do not fit Small" in message
    for word in words:
        assert word in message
    assert_same(dict(model.state_dict()), before)


def test_only_the_first_few_keys_are_named():
    model = nn.ModuleList(nn.Linear(1, 1, bias=False) for _ in range(30))
    message = message_of(load_weights, model, {"0.weight": torch.ones(1, 1)})
    assert "29 missing (1.weight, 2.weight, 3.weight, 4.weight, …)" in message


def test_a_base_loads_as_far_as_it_goes_and_the_rest_is_told():
    model = Small()
    head = model.head.weight.detach().clone()
    state = {key: value for key, value in random_state(model).items() if key.startswith("base.")}
    report = load_weights(model, {**state, "old.fc": torch.zeros(1)}, strict=False)
    assert report == LoadReport(BASE_KEYS, ("head.weight", "head.bias"), ("old.fc",))
    assert str(report) == (
        "6 tensors taken, 2 of the model not in the weights (head.weight, head.bias), "
        "1 of the weights not used (old.fc)"
    )
    assert_same({k: v for k, v in model.state_dict().items() if k in state}, state)
    torch.testing.assert_close(model.head.weight.detach(), head, rtol=0, atol=0)


def test_another_shape_is_an_error_even_when_not_strict():
    message = message_of(load_weights, Small(classes=5), random_state(Small()), strict=False)
    assert "head.weight: (3, 2) in the weights, (5, 2) in the model" in message
    assert "number of classes" in message


@pytest.mark.parametrize("strict", [True, False])
def test_nothing_in_common_is_always_an_error(strict):
    message = message_of(load_weights, Small(), {"other": torch.zeros(1)}, strict=strict)
    assert "no key in common" in message
    assert "1 unexpected (other)" in message


def test_checkpoints_from_before_the_batch_counter_load_strictly():
    model = Small()
    state = random_state(model)
    del state["base.1.num_batches_tracked"]
    assert load_weights(model, state) == LoadReport(7, (), ())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_of_a_diverged_training_are_refused(value, tmp_path):
    network = create_model("hardnet39ds", num_classes=3)
    state = network.state_dict()
    state["fc.bias"] = torch.tensor([0.0, value, 1.0])
    torch.save(state, tmp_path / "nan.pth")
    assert "1 weight holds NaN or infinity, fc.bias for one" in message_of(
        create_model, "hardnet39ds", pretrained=tmp_path / "nan.pth"
    )
    before = network.state_dict()["fc.bias"].clone()
    assert "NaN" in message_of(load_weights, network, state)
    assert torch.equal(network.state_dict()["fc.bias"], before)


@pytest.mark.parametrize(
    ("own", "theirs", "value"),
    [
        (torch.float32, torch.float64, -1e300),
        (torch.float16, torch.float32, 1e5),
        (torch.float16, torch.bfloat16, 1e5),
        (torch.bfloat16, torch.float64, 1e39),
    ],
)
def test_values_that_the_networks_numbers_cannot_hold(own, theirs, value):
    """They would become infinite when they are copied."""
    layer = nn.Linear(3, 2).to(own)
    before = layer.bias.clone()
    state = {"weight": torch.ones(2, 3, dtype=theirs), "bias": torch.tensor([0, value], dtype=theirs)}
    words = rf"1 tensor holds values that the network's {str(own)[6:]} cannot: bias up to \d"
    with pytest.raises(UserError, match=words):
        load_weights(layer, state)
    assert torch.equal(layer.bias, before)
    state["bias"] = torch.tensor([0, 100], dtype=theirs)
    assert load_weights(layer, state).taken == 2


@pytest.mark.parametrize("kind", [torch.int8, torch.uint8, torch.int32, torch.bool])
def test_integers_are_no_float_weights(kind):
    """Quantised weights lack their scale: copied as numbers, they would be wrong without a word."""
    layer = nn.Linear(3, 2)
    before = layer.weight.clone()
    with pytest.raises(UserError, match=rf"weight is {kind}\): quantised or sparse"):
        load_weights(layer, {"weight": torch.ones(2, 3).to(kind), "bias": torch.zeros(2)})
    assert torch.equal(layer.weight, before)


@pytest.mark.parametrize("value", [-1e-6, -1.0])
def test_a_variance_below_zero_is_damage(value):
    norm = nn.BatchNorm2d(3)
    state = norm.state_dict() | {"running_var": torch.tensor([1.0, value, 0.0])}
    with pytest.raises(UserError, match="1 batch norms have a negative variance, running_var for one"):
        load_weights(norm, state)
    assert torch.equal(norm.running_var, torch.ones(3))


def test_sparse_tensors_are_told():
    with pytest.raises(UserError, match=r"weight is sparse torch.float32\): quantised or sparse"):
        load_weights(nn.Linear(3, 2), {"weight": torch.ones(2, 3).to_sparse(), "bias": torch.zeros(2)})


def test_the_ending_of_a_file_is_read_in_any_case(tmp_path):
    (tmp_path / "a.SAFETENSORS").write_bytes(safetensors.torch.save(TENSORS))
    assert_same(read_checkpoint(tmp_path / "a.SAFETENSORS"), TENSORS)


@pytest.fixture
def row_of_two_hosts(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    places = (
        "http://one.test/a.pth",
        "https://one.test/b.pth",
        "http://two.test/a.pth",
        "http://one.test/c.pth",
    )
    return row_of(*map(Address, places))


def test_without_a_network_each_host_is_looked_up_once(row_of_two_hosts, cache, monkeypatch):
    asked = []

    def look_up(host, *args, **options):
        asked.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with pytest.raises(UserError) as caught:
        fetch(row_of_two_hosts)
    assert sorted(asked) == ["one.test", "two.test"]
    for address in row_of_two_hosts.urls:
        assert f"{address.url} (Name or service not known)" in str(caught.value)
    assert "put the file by hand" in str(caught.value)
    assert left_in(cache) == []


def test_a_name_service_that_never_answers_is_not_waited_for(row_of_two_hosts, monkeypatch):
    """All hosts together take one wait; here it would be for ever."""
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: over.wait())
    reason = r"two\.test/a\.pth \(timed out: no answer of the name service for 0.05 s"
    with pytest.raises(UserError, match=reason):
        fetch(row_of_two_hosts, timeout=0.05)
    over.set()


def test_a_host_that_refuses_is_not_tried_again(server, cache, monkeypatch):
    """Its other addresses are named with the same reason; other hosts are tried."""
    tried, connect = [], socket.create_connection

    def counted(address, *args, **options):
        tried.append(address)
        if address[1] == 9:
            raise ConnectionRefusedError(111, "Connection refused")
        return connect(address, *args, **options)

    monkeypatch.setattr(socket, "create_connection", counted)
    closed = [Address(f"http://127.0.0.1:9/{name}.pth") for name in "ab"]
    with pytest.raises(UserError, match=r"9/b\.pth \(Connection refused\)"):
        fetch(row_of(*closed))
    assert len(tried) == 1
    fetch(row_of(*closed, Address(server.put("w.pth", GOOD), GOOD_HASH)))
    assert len(tried) == 3
    assert left_in(cache) == ["w.pth"]


def test_a_proxy_looks_up_hosts_itself(row_of_two_hosts, monkeypatch):
    asked, look_up = [], socket.getaddrinfo

    def noted(host, *args, **options):
        asked.append(host)
        return look_up(host, *args, **options)

    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setattr(socket, "getaddrinfo", noted)
    with pytest.raises(UserError, match="could not get"):
        fetch(row_of_two_hosts, timeout=2)
    assert {*asked} == {"127.0.0.1"}
