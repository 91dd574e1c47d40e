"""The list of tests that are not run by default."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
LINES = [line for line in (TESTS / "extended.txt").read_text().splitlines() if not line.startswith("#")]


def test_it_is_sorted_and_without_doubles():
    assert sorted(set(LINES)) == LINES
    files = {line for line in LINES if "::" not in line}
    assert not [line for line in LINES if "::" in line and line.partition("::")[0] in files]


@pytest.mark.parametrize("line", LINES)
def test_it_names_tests(line):
    file, _, name = line.partition("::")
    functions = {
        node.name
        for node in ast.walk(ast.parse((TESTS / file).read_text()))
        if isinstance(node, ast.FunctionDef)
    }
    assert (name or next(name for name in functions if name.startswith("test_"))) in functions


def test_listed_tests_are_marked(request):
    """They are not selected unless asked for."""
    assert "not extended" in request.config.getini("addopts")[1]
    assert not [item for item in request.session.items if item.get_closest_marker("extended")] or (
        "extended" in request.config.option.markexpr.replace("not extended", "")
    )
