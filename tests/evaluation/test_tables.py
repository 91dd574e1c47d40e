from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardnet_suite.evaluation.tables import class_table, extremes


def test_columns_are_aligned_and_totals_follow():
    table = class_table(
        ["cat", "a class of a long name"],
        {"AP": [0.5, math.nan], "boxes": [1200, 0]},
        totals={"mean": (0.5, None)},
    )
    assert [line.split() for line in table.splitlines()] == [
        ["class", "AP", "boxes"],
        ["cat", "0.500", "1,200"],
        [*["a", "class", "of", "a", "long", "name"], "n/a", "0"],
        ["mean", "0.500"],
    ]
    lines = table.splitlines()
    assert lines[0].index("AP") + 2 == lines[1].index("0.500") + 5 == lines[3].index("0.500") + 5


def test_long_and_wide_names_keep_the_columns():
    names = ["x" * 300, "猫" * 40, "e\u0301" * 5, "dog"]
    lines = class_table(names, {"AP": [0.1, 0.2, 0.3, 0.4]}).splitlines()
    assert lines[1].startswith("x" * 59 + "…")
    assert lines[2].startswith("猫" * 29 + "…")  # two columns each
    assert lines[3].index("0.300") == lines[4].index("0.400") + 5  # a mark has no column
    lines = class_table(names, {"AP": [0.1, 0.2, 0.3, 0.4]}, longest=None).splitlines()
    assert lines[1].split() == ["x" * 300, "0.100"]


def test_a_name_never_breaks_a_line_or_drives_the_terminal():
    lines = class_table(["two\nlines", "\x1b[2J", "bad\ud83d"], {"AP": [0.1, 0.2, 0.3]}).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["two\\nlines", "\\x1b[2J", "bad\\ud83d"]
    assert len({len(line) for line in lines}) == 1


@pytest.mark.parametrize("count", [30, 31, 80])
def test_of_many_classes_the_best_and_the_worst_are_listed(count):
    names = [f"class{index}" for index in range(count)]
    table = class_table(names, {"AP": [index / 100 for index in range(count)]}, most=30).splitlines()
    if count == 30:
        assert len(table) == 31
        return
    assert len(table) == 1 + 10 + 1 + 10
    assert table[11] == f"… {count - 20} more in metrics.json"
    order = [line.split()[0] for line in (*table[1:11], *table[12:])]
    assert order == [*names[:-11:-1], *names[9::-1]]


@given(st.lists(st.sampled_from([math.nan, 0.0, 0.25, 1.0])), st.integers(0, 6))
def test_extremes(values, count):
    best, worst = extremes(values, count)
    assert not set(best) & set(worst)
    finite = sorted((value for value in values if not math.isnan(value)), reverse=True)
    assert [values[index] for index in best] == finite[:count]
    assert [values[index] for index in worst] == finite[max(len(best), len(finite) - count) :]
