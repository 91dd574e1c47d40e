"""Mutated annotations, results, lists and logs: each is read, or refused in one line.

What is read and dropped is told: a poisoned value never changes a figure in silence.
"""

from __future__ import annotations

import pytest
from hostile_data import counted


def test_mutated_files(tmp_path):
    counts = {
        "coco": 30,
        "results": 15,
        "voc": 20,
        "lists": 10,
        "tables": 15,
        "rows": 10,
        "logs": 5,
        "labels": 25,
    }
    tables = counted(tmp_path, counts, 0)
    assert tables["coco"]["answered"] >= 5  # the mutations do not only break the JSON
    assert tables["coco"]["refused"] >= 5


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 4))
def test_many_mutated_files(tmp_path, seed):
    counts = {"coco": 600, "results": 400, "voc": 500, "lists": 200, "tables": 300, "rows": 200}
    counts |= {"logs": 100, "labels": 300}
    counted(tmp_path, counts, seed)
