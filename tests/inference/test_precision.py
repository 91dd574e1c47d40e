"""The choice of the faster precision."""

from __future__ import annotations

import pytest
import torch

from hardnet_suite.errors import UserError
from hardnet_suite.inference import precision
from hardnet_suite.inference.precision import (
    PrecisionChoice,
    faster_precision,
    in_both_precisions,
)
from hardnet_suite.precision import settled_precision


@pytest.mark.parametrize(
    ("seconds", "chosen", "text"),
    [
        ((1.5, 0.04), "bf16", "bf16 (a pass takes 1.50 s in float32, 40 ms in bf16)"),
        ((0.0021, 0.0043), "float32", "float32 (a pass takes 2.1 ms in float32, 4.3 ms in bf16)"),
        ((0.5, 0.5), "float32", "float32 (a pass takes 500 ms in float32, 500 ms in bf16)"),
    ],
)
def test_the_faster_one_is_chosen_and_said(seconds, chosen, text, monkeypatch):
    def fake(runs, *, rounds, synchronize):
        assert (rounds, synchronize) == (2, None)
        # one slow pass, such as by other load, does not decide
        return {name: [9.0, value] for name, value in zip(runs, seconds, strict=True)}

    monkeypatch.setattr(precision, "interleaved", fake)
    choice = faster_precision(in_both_precisions(lambda: None, "cpu"), "a pass", rounds=2)
    assert (choice.precision, choice.bf16) == (chosen, chosen == "bf16")
    assert str(choice) == text


def test_both_are_run_in_turn():
    layer, seen = torch.nn.Linear(2, 2), []
    runs = in_both_precisions(lambda: seen.append(layer(torch.ones(1, 2)).dtype), "cpu")
    assert {*faster_precision(runs, "a pass", rounds=2).seconds} == {"float32", "bf16"}
    single, half = torch.float32, torch.bfloat16
    assert seen == [single, half, single, half, half, single]


def test_the_device_itself_is_waited_for(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    runs = dict.fromkeys(("float32", "bf16"), lambda: None)
    faster_precision(runs, "a pass", device="cuda:1", rounds=2)
    assert {*waited} == {torch.device("cuda:1")}


def test_what_is_not_timed_says_why():
    assert str(PrecisionChoice("int8", "that of the file")) == "int8 (that of the file)"


@pytest.mark.parametrize(
    ("given", "bf16", "settled"),
    [
        (None, False, None),
        (None, True, "bf16"),
        ("bf16", True, "bf16"),
        ("auto", False, "auto"),
        ("float32", False, "float32"),
    ],
)
def test_two_options_of_one_thing(given, bf16, settled):
    assert settled_precision(given, bf16=bf16) == settled


@pytest.mark.parametrize(
    ("given", "bf16", "message"),
    [
        ("float32", True, "bf16 and the precision float32 exclude each other"),
        ("auto", True, "bf16 and the precision auto exclude each other"),
        ("float23", False, "unknown precision 'float23'; did you mean float32"),
        (16, False, "unknown precision 16; known: float32, bf16, auto"),
        (True, False, "unknown precision True"),
    ],
)
def test_options_that_cannot_be(given, bf16, message):
    with pytest.raises(UserError, match=message):
        settled_precision(given, bf16=bf16)
