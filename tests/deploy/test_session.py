"""An exported file in its engine stands wherever a network may, and says what is wrong with it."""

from __future__ import annotations

import copy
import hashlib
import json
import pickle
import threading
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from deploy.exported import lively, regraft
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_networks import tiny
from torch import nn

from hardnet_suite import load_model
from hardnet_suite.deploy import export
from hardnet_suite.deploy import session as sessions
from hardnet_suite.deploy.formats import FORMATS, PrecisionError
from hardnet_suite.deploy.record import ExportRecord
from hardnet_suite.deploy.session import (
    Session,
    is_exported,
    is_for_engine,
    open_in_precision,
    open_session,
)
from hardnet_suite.errors import UserError
from hardnet_suite.inference import to_input
from hardnet_suite.inference.precision import PrecisionChoice
from hardnet_suite.networks import build_network
from hardnet_suite.weights.file import ENGINE_SUFFIXES, WEIGHTS_SUFFIXES


@pytest.fixture(scope="module")
def classifier() -> nn.Module:
    return lively("hardnet39ds", 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("exported")


@pytest.fixture(scope="module")
def fixed(classifier, folder) -> Path:
    """Takes batches of 3 images of 64×96 pixels."""
    return export(classifier, folder / "fixed.pt", size=(64, 96), batch=3, weights="of a test")


@pytest.fixture(scope="module")
def session(fixed) -> Session:
    return open_session(fixed)


def test_what_a_session_says_of_itself(classifier, fixed, session):
    assert (session.usage.name, session.arch, session.num_classes) == ("hardnet39ds", classifier.arch, 4)
    assert (session.engine, session.precision, session.path) == ("torchscript", "fp32", fixed)
    assert session.engine_version == metadata.version("torch")
    assert session.weights == f"{fixed} of of a test, fp32 in torchscript"
    assert session.digest == hashlib.sha256(fixed.read_bytes()).hexdigest()
    assert not session.training
    assert not list(session.parameters())
    assert "hardnet39ds" in repr(session)
    checkpoint = session.checkpoint
    assert (checkpoint.model, checkpoint.num_classes, checkpoint.digest) == ("hardnet39ds", 4, session.digest)
    assert checkpoint.usage == session.usage
    assert checkpoint.require_whole() is checkpoint


@settings(max_examples=8, deadline=None)
@given(count=st.integers(0, 7), seed=st.integers(0, 9))
def test_any_number_of_images_in_a_fixed_batch(classifier, session, count, seed):
    inputs = torch.randn(count, 3, 64, 96, generator=torch.Generator().manual_seed(seed))
    out = session(inputs)
    assert (out.shape, out.dtype) == ((count, 4), torch.float32)
    if count:
        with torch.inference_mode():
            torch.testing.assert_close(out, classifier(inputs), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "name", ["ssd224_hardnet29", "centernet_hardnet68", "fchardnet70", "hardnet_descriptor"]
)
def test_outputs_are_those_of_the_network(tmp_path, name):
    network = build_network(name).eval() if name == "hardnet_descriptor" else lively(name, 3)
    shape = {"ssd224_hardnet29": (3, 224, 224), "hardnet_descriptor": (1, 32, 32)}.get(name, (3, 64, 96))
    size = None if shape[1] in (224, 32) else shape[1:]
    made = open_session(export(network, tmp_path / "made.pt", size=size))
    for count in (1, 3):
        inputs = torch.rand(count, *shape)
        with torch.inference_mode():
            expected = network(inputs)
        torch.testing.assert_close(made(inputs), expected, rtol=1e-3, atol=1e-3)


def test_types_and_layouts_of_inputs(classifier, session):
    inputs = torch.randn(2, 3, 64, 96)
    out = session(inputs)
    torch.testing.assert_close(session(inputs.contiguous(memory_format=torch.channels_last)), out)
    torch.testing.assert_close(session(inputs.double()), out)
    wide = torch.randn(2, 3, 64, 192)
    wide[..., ::2] = inputs
    torch.testing.assert_close(session(wide[..., ::2]), out)
    needs = inputs.clone().requires_grad_()
    assert not session(needs).requires_grad
    first = session(inputs)
    session(inputs + 1)  # the next call leaves an answer alone
    torch.testing.assert_close(first, out)
    out += 1  # and it may be written to


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 96, 64), r"takes inputs of 64×96 pixels, got 96×64: export it with --size 96 64"),
        ((1, 3, 65, 96), r"takes inputs of 64×96 pixels, got 65×96"),
        ((1, 1, 64, 96), r"expected inputs \(N, 3, H, W\), got \(1, 1, 64, 96\)"),
        ((3, 64, 96), r"expected inputs \(N, 3, H, W\), got \(3, 64, 96\)"),
    ],
)
def test_other_shapes(session, shape, message):
    with pytest.raises((UserError, ValueError), match=message):
        session(torch.zeros(shape))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite(session, value):
    inputs = torch.zeros(1, 3, 64, 96)
    inputs[0, 1, 5, 7] = value
    with pytest.raises(ValueError, match="inputs must be finite"):
        session(inputs)


def test_pixels_where_no_preprocessing_is_inside(session):
    with pytest.raises(ValueError, match="takes normalised inputs, got uint8"):
        session(torch.zeros(1, 3, 64, 96, dtype=torch.uint8))


def test_pixels_and_normalised_inputs_of_a_file_that_normalises(classifier, folder):
    path = export(classifier, folder / "pixels.pt", size=64, preprocess=True)
    made = open_session(path)
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    inputs = made.usage.preprocess.normalize(pixels)
    torch.testing.assert_close(made(inputs), made(pixels), rtol=0, atol=0)
    with torch.inference_mode():
        torch.testing.assert_close(made(pixels), classifier(inputs), rtol=1e-3, atol=1e-4)
    for bad in (inputs + 0.01, inputs * 100, inputs * torch.nan):
        with pytest.raises(UserError, match="export it without --with preprocess"):
            made(bad)


@pytest.mark.parametrize("name", ["fchardnet70", "centernet_hardnet68"])
@pytest.mark.parametrize("postprocess", [False, True])
def test_padded_inputs_of_a_file_that_pads(tmp_path, name, postprocess):
    network = tiny(name)
    rule = replace(network.usage.preprocess, input_divisor=32, input_value=(0.5, -1.0, 0.25))
    network.usage = replace(network.usage, preprocess=rule)
    path = export(network, tmp_path / "net.pt", size=(72, 100), preprocess=True, postprocess=postprocess)
    made = open_session(path)
    pixels = torch.randint(0, 256, (2, 3, 72, 100), dtype=torch.uint8)
    inputs = to_input(pixels, made.usage.preprocess)
    assert inputs.shape == (2, 3, 96, 128)
    torch.testing.assert_close(made(inputs), made(pixels), rtol=0, atol=0)
    other = inputs.clone()
    other[:, 1, 80, 110] = 0
    with pytest.raises(UserError, match="they are padded, or normalised by another rule"):
        made(other)
    for height, width, cure in (
        (72, 100, "pad them as to_input does"),
        (64, 96, "export it with --size 64 96"),
    ):
        with pytest.raises(UserError, match=rf"96×128 pixels, got {height}×{width}: {cure}"):
            made(inputs[:, :, :height, :width])
    with pytest.raises(UserError, match=r"takes inputs of 72×100 pixels, got 96×128"):
        made(torch.zeros(1, 3, 96, 128, dtype=torch.uint8))


def test_sizes_of_a_file_of_free_size(tmp_path):
    made = open_session(
        export(
            lively("centernet_hardnet68", 2),
            tmp_path / "free.pt",
            dynamic="size",
            images=np.zeros((128, 128, 3), np.uint8),
        )
    )
    assert made(torch.zeros(1, 3, 160, 128))["hm"].shape == (1, 2, 40, 32)
    for height, width in ((161, 128), (96, 128)):
        with pytest.raises(UserError, match=r"at least 128×128 pixels that are multiples of 32, got"):
            made(torch.zeros(1, 3, height, width))


def test_a_file_that_may_run_code_is_opened_only_if_trusted(classifier, tmp_path):
    path = export(classifier, tmp_path / "program.pt2", size=64, images=np.zeros((64, 64, 3), np.uint8))
    for opener in (open_session, load_model):
        with pytest.raises(UserError, match=r"program\.pt2 may run any code of its author"):
            opener(path)
    x = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(open_session(path, trusted=True)(x), classifier(x), rtol=1e-3, atol=1e-4)


def test_threads_of_python_take_turns(classifier, session):
    inputs = [torch.randn(4, 3, 64, 96) for _ in range(6)]
    outputs: dict[int, torch.Tensor] = {}
    workers = [
        threading.Thread(target=lambda index=index: outputs.update({index: session(inputs[index])}))
        for index in range(6)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for index, values in enumerate(inputs):
        torch.testing.assert_close(outputs[index], session(values))


def test_copies_and_pickles_answer_alike(session):
    inputs = torch.randn(1, 3, 64, 96)
    for other in (copy.deepcopy(session), pickle.loads(pickle.dumps(session))):
        assert other is not session
        torch.testing.assert_close(other(inputs), session(inputs))


def test_copies_of_a_file_that_may_run_code(classifier, tmp_path):
    path = export(classifier, tmp_path / "program.pt2", size=64, images=np.zeros((64, 64, 3), np.uint8))
    made = open_session(path, trusted=True)
    inputs = torch.randn(1, 3, 64, 64)
    for other in (copy.copy(made), copy.deepcopy(made), copy.deepcopy({"network": made})["network"]):
        torch.testing.assert_close(other(inputs), made(inputs), rtol=0, atol=0)
    with pytest.raises(UserError, match=r"program\.pt2 may run any code .* so that no pickle opens it"):
        pickle.dumps(made)


def test_copies_outlive_the_file(fixed, tmp_path):
    path = tmp_path / "net.pt"
    path.write_bytes(fixed.read_bytes())
    made, inputs = open_session(path), torch.randn(1, 3, 64, 96)
    path.unlink()
    torch.testing.assert_close(copy.deepcopy(made)(inputs), made(inputs), rtol=0, atol=0)
    with pytest.raises(UserError, match=r"net\.pt: no such file"):
        pickle.loads(pickle.dumps(made))


def test_threads_of_the_engine(fixed, monkeypatch):
    asked = []
    form = FORMATS["torchscript"]
    module = form._imported()
    real = module.open

    def opened(path, *, threads, **options):
        asked.append(threads)
        return real(path, threads=threads, **options)

    monkeypatch.setattr(module, "open", opened)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        open_session(fixed)
        open_session(fixed, threads=2)
    finally:
        torch.set_num_threads(before)
    assert asked == [1, 2]


@pytest.mark.parametrize("suffix", [".pt", ".pt2"])
def test_each_session_has_its_own_threads(classifier, tmp_path, suffix):
    images = np.zeros((64, 64, 3), np.uint8)
    path = export(classifier, tmp_path / f"net{suffix}", size=64, images=images)
    before, asked, real = torch.get_num_threads(), [], torch.set_num_threads
    sessions = [open_session(path, threads=count, trusted=True) for count in (before, before + 1, before + 2)]
    assert torch.get_num_threads() == before
    this = threading.current_thread()

    def set_num_threads(count: int) -> None:
        if threading.current_thread() is this:  # others keep theirs by it
            asked.append(count)
        real(count)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch, "set_num_threads", set_num_threads)
        outputs = [session(torch.zeros(1, 3, 64, 64)) for session in (*sessions, sessions[0])]
        with pytest.raises(UserError, match=r"torch.* fails"):  # the number comes back after an error, too
            sessions[1]._computed(np.zeros((1, 5), np.float32))
    assert asked == [before + 1, before, before + 2, before, before + 1, before]
    assert torch.get_num_threads() == before
    torch.testing.assert_close(outputs[1], outputs[0])


def test_it_is_neither_moved_nor_cast(session):
    assert session.to("cpu") is session
    assert session.float() is session
    assert session.to(memory_format=torch.channels_last) is session
    changes = [session.half, session.double, lambda: session.to(torch.bfloat16), lambda: session.to("meta")]
    if not torch.cuda.is_available():
        changes.append(session.cuda)
    for change in changes:
        with pytest.raises(UserError, match="cannot be moved to another device or type"):
            change()
    with (
        pytest.raises(UserError, match="bf16 is chosen when a file is opened"),
        torch.autocast("cpu", torch.bfloat16),
    ):
        session(torch.zeros(1, 3, 64, 96))


@pytest.mark.parametrize("engine", ["openvino", "ncnn"])
def test_an_empty_precision_is_not_that_of_the_file(engine, tmp_path):
    if engine == "ncnn":
        pytest.importorskip("ncnn")
    record = SimpleNamespace(precision="fp32")
    with pytest.raises(PrecisionError, match="computes"):
        FORMATS[engine].open(tmp_path / "net", record=record, precision="", threads=1)


@pytest.mark.parametrize("options", [{}, {"dynamic": "batch", "preprocess": True, "postprocess": True}])
def test_a_precision_that_an_engine_does_not_have_is_not_chosen(classifier, tmp_path, options):
    path = export(classifier, tmp_path / "net.pt", **options)
    session, choice = open_in_precision(path, "auto")
    assert session.precision == choice.precision == "fp32"
    assert str(choice) == "fp32 (torchscript computes this file in nothing else)"
    assert open_in_precision(path, "float32")[0].precision == "fp32"
    assert open_in_precision(path)[1] is None
    half = export(classifier, tmp_path / "half.pt", precision="bf16")
    assert str(open_in_precision(half, "auto")[1]) == "bf16 (that of the file)"
    with pytest.raises(UserError, match="holds bf16"):
        open_in_precision(half, "float32")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (UserError("no bf16 on this processor"), "{path}: no bf16 on this processor"),
        (MemoryError("too large"), "{path}: damaged, torchscript cannot open it (MemoryError: too large)"),
    ],
)
def test_why_a_precision_fails_is_said(fixed, monkeypatch, error, reason):
    module = FORMATS["torchscript"]._imported()
    real = module.open

    def opened(path, *, precision, **options):
        if precision == "bf16":
            raise error
        return real(path, precision=precision, **options)

    monkeypatch.setattr(module, "open", opened)
    session, choice = open_in_precision(fixed, "auto")
    assert session.precision == choice.precision == "fp32"
    assert str(choice) == f"fp32 ({reason.format(path=fixed)})"


@pytest.mark.parametrize("chosen", ["fp32", "bf16"])
@pytest.mark.parametrize("options", [{"batch": 2}, {"dynamic": "batch", "preprocess": True}])
def test_the_faster_precision_of_an_engine(classifier, tmp_path, monkeypatch, options, chosen):
    pytest.importorskip("openvino")
    pytest.importorskip("onnxscript")
    path, asked = export(classifier, tmp_path / "net.xml", **options), []

    def faster(runs, timed):
        asked.append(timed)
        outputs = [run() for run in runs.values()]
        assert outputs[0].shape == outputs[1].shape
        return PrecisionChoice(chosen, timed, dict.fromkeys(runs, 1.0))

    monkeypatch.setattr(sessions, "faster_precision", faster)
    session, choice = open_in_precision(path, "auto")
    height, width = classifier.usage.preprocess.height_width
    assert asked == [f"a pass of {options.get('batch', 1)}×3×{height}×{width} in openvino"]
    assert session.precision == choice.precision == chosen
    assert list(choice.seconds) == ["fp32", "bf16"]


def test_every_suffix_of_a_format_is_known():
    suffixes = {suffix for form in FORMATS.values() for suffix in form.suffixes}
    assert suffixes - {".pt"} == set(ENGINE_SUFFIXES)  # TorchScript's .pt may hold weights, too
    assert not suffixes - {".pt"} & set(WEIGHTS_SUFFIXES)


def test_files_are_told_by_their_content(fixed, tmp_path):
    other = tmp_path / "renamed.engine"
    other.write_bytes(fixed.read_bytes())
    assert is_exported(fixed)
    assert is_exported(str(other))
    assert open_session(other).num_classes == 4
    torch.save({"weight": torch.zeros(3)}, tmp_path / "weights.pt")
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "foreign.pt")
    for name in ("weights.pt", "foreign.pt", "none.pt", "."):
        assert not is_exported(tmp_path / name)
        assert not is_for_engine(tmp_path / name)
    (tmp_path / "foreign.onnx").write_bytes(b"\x08\x07")
    assert is_for_engine(tmp_path / "foreign.onnx")
    with pytest.raises(UserError, match=r"foreign\.pt does not say which model it is"):
        open_session(tmp_path / "foreign.pt")
    with pytest.raises(UserError, match=r"none\.onnx: no such file"):
        open_session(tmp_path / "none.onnx")
    with pytest.raises(UserError, match="is a file for torchscript, not for onnxruntime"):
        open_session(fixed, engine="onnxruntime")
    for precision in ("bf16", "int8", "nonsense"):
        with pytest.raises(UserError, match=r"fixed\.pt holds fp32"):
            open_session(fixed, precision=precision)
    assert open_session(fixed, precision="fp32").precision == "fp32"


def changed(session: Session, **values) -> str:
    record = json.loads(session.record.to_json())
    del record["sha256"]
    for key, value in values.items():
        *path, last = key.split("__")
        node = record
        for step in path:
            node = node[step]
        node[last] = value
    return json.dumps(record)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"version": 99}, "another version of hardnet_suite wrote it"),
        ({"num_classes": -1}, "must be counts"),
        ({"usage__classes": ["a"]}, "1 class name for 4 classes"),
        ({"usage__classes": ["a", "b", "c", "a"]}, "classes"),
        ({"usage__preprocess": {}}, "not an input rule"),
        ({"arch": {"kind": "Foreign"}}, "not a row of the architecture table"),
        ({"arch": {"kind": [1]}}, "not a row of the architecture table"),
        ({"arch__growth_mul": 10**400}, "growth_mul is 1000.*, expected float"),
        ({"input_shape": [1, 3, 64]}, "must be four sizes"),
        ({"precision": "fp8"}, "must be one of"),
        ({"added": 1}, "expected"),
    ],
)
def test_damaged_records(fixed, session, tmp_path, values, message):
    path = regraft(fixed, tmp_path / "bad.pt", changed(session, **values))
    with pytest.raises(UserError, match=rf"bad\.pt: .*{message}"):
        open_session(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "1e999", "[" * 100000])
def test_records_that_are_not_json(fixed, tmp_path, text):
    path = regraft(fixed, tmp_path / "bad.pt", text)
    with pytest.raises(UserError, match=r"bad\.pt: the metadata of an exported file are damaged"):
        open_session(path)


def test_a_record_of_another_network(fixed, session, tmp_path):
    """What the file computes is checked when it answers: a record can be copied from another file."""
    path = regraft(fixed, tmp_path / "other.pt", changed(session, num_classes=7))
    with pytest.raises(UserError, match=r"its output logits is 3×4, not that of hardnet39ds with 7 classes"):
        open_session(path)(torch.zeros(1, 3, 64, 96))
    path = regraft(fixed, tmp_path / "more.pt", changed(session, outputs=["logits", "more"]))
    with pytest.raises(UserError, match="expected the outputs logits, more, got 1"):
        open_session(path)(torch.zeros(1, 3, 64, 96))
    path = regraft(fixed, tmp_path / "size.pt", changed(session, input_shape=[3, 1, 64, 96], in_chans=1))
    with pytest.raises(UserError, match=r"size\.pt: torchscript fails: "):
        open_session(path)(torch.zeros(1, 1, 64, 96))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.99])
def test_cut_files(fixed, tmp_path, share):
    data = fixed.read_bytes()
    (tmp_path / "cut.pt").write_bytes(data[: int(share * len(data))])
    with pytest.raises(UserError, match=r"cut\.pt does not say which model it is: it is damaged"):
        open_session(tmp_path / "cut.pt")


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_damaged_bytes_are_one_error_or_none(fixed, session, tmp_path_factory, data):
    content = bytearray(fixed.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "damaged.pt"
    path.write_bytes(content)
    message = f"{path}: fine"
    try:
        open_session(path)(torch.zeros(1, 3, 64, 96))
    except UserError as error:
        message = str(error)
    assert str(path) in message
    assert "\n" not in message


def test_a_missing_engine_is_one_line(fixed, tmp_path, monkeypatch):
    (tmp_path / "model.onnx").write_bytes(b"\x08\x07")
    monkeypatch.setattr("hardnet_suite.deploy.formats.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'hardnet-suite\[deploy\]'"):
        is_exported(tmp_path / "model.onnx")


def test_an_exported_file_is_not_exported_again(session, tmp_path):
    for model in (session, load_model(session.path)):
        with pytest.raises(
            UserError, match=r"fixed\.pt is an exported file: give the weights that it was made of"
        ):
            export(model, tmp_path / "again.pt")
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_read_leaves_no_trace(fixed):
    before = sorted(fixed.parent.iterdir())
    open_session(fixed)(torch.zeros(1, 3, 64, 96))
    assert sorted(fixed.parent.iterdir()) == before
    assert isinstance(open_session(fixed).record, ExportRecord)
    assert np.isfinite(open_session(fixed)(torch.zeros(1, 3, 64, 96)).numpy()).all()
