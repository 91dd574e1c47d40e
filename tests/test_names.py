"""Names that people type."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardnet_suite.cli.models import FIGURES
from hardnet_suite.config_names import own_configs
from hardnet_suite.names import did_you_mean, first_repeated, known_name, matching

NAMES = [*FIGURES, *own_configs()]


@given(name=st.sampled_from(NAMES), data=st.data())
def test_case_hyphens_and_underscores_are_forgiven(name, data):
    typed = "".join(
        data.draw(st.sampled_from([c.lower(), c.upper()] if c != "_" else ["_", "-", "", " "])) for c in name
    )
    assert known_name(typed, dict.fromkeys(NAMES)) == name


@given(name=st.sampled_from(NAMES), data=st.data())
def test_an_exact_name_is_itself(name, data):
    assert known_name(name, dict.fromkeys(data.draw(st.permutations(NAMES)))) == name


@pytest.mark.parametrize("name", ["", "-", "resnet50", "hardnet", "hardnet680", "ssd512", "../hardnet68"])
def test_other_names_are_none(name):
    assert known_name(name, NAMES) is None


def test_names_that_are_alike_are_not_chosen_from():
    assert known_name("AB", ["a_b", "a-b"]) is None
    assert known_name("a-b", ["a_b", "a-b"]) == "a-b"


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("hardnet86", "did you mean hardnet85? "),
        ("SSD512-HarDNet-86", "did you mean ssd512_hardnet85? "),
        ("fcharnet70", "did you mean fchardnet70? "),
        ("zzz", ""),
        ("", ""),
    ],
)
def test_the_nearest_name(name, near):
    assert did_you_mean(name, FIGURES) == near


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*hardnet68*", ["ssd512_hardnet68", "hardnet68", "hardnet68ds"]),
        ("*HARDNET68*", ["ssd512_hardnet68", "hardnet68", "hardnet68ds"]),
        ("*HarDNet-68*", ["ssd512_hardnet68", "hardnet68", "hardnet68ds"]),
        ("SSD512-*", ["ssd512_hardnet68"]),
        ("*_hardnet68", ["ssd512_hardnet68"]),  # not hardnet68, though it would do without the underscore
        ("*-HARDNET68", ["ssd512_hardnet68"]),
        ("hardnet[6-8]8", ["hardnet68"]),
        ("HarDNet[6-8]8", ["hardnet68"]),
        ("hardnet?8", ["hardnet68"]),
        ("resnet*", []),
        ("", []),
    ],
)
def test_patterns(pattern, expected):
    assert matching(pattern, ["ssd512_hardnet68", "hardnet68", "hardnet68ds", "fchardnet70"]) == expected


def test_first_repeated():
    assert first_repeated(iter(["b", "a", "c", "a", "b"])) == "b"
    assert first_repeated(["a", "A"]) is None
    assert first_repeated(map(str, range(200_000))) is None  # no comparison of all pairs
