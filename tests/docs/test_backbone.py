"""The examples of docs/backbone.md, section by section: each runs where its packages are installed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TEXT = (Path(__file__).resolve().parents[2] / "docs/backbone.md").read_text(encoding="utf-8")
INTRODUCTION, *SECTIONS = re.split(r"^## ", TEXT, flags=re.MULTILINE)
ELSEWHERE = (  # run by tests/test_timm.py; a config, as tests/openmm/models/test_backbone.py has it
    "timm, smp and transformers",
    "MMDetection and MMSegmentation",
)
NEEDS = {"Lightning": "lightning", "Kornia": "kornia"}


def blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize("section", SECTIONS, ids=lambda text: text.partition("\n")[0])
def test_examples_run(section, tmp_path, monkeypatch):
    title = section.partition("\n")[0]
    if title in ELSEWHERE:
        pytest.skip("run by another test")
    if title in NEEDS:
        pytest.importorskip(NEEDS[title], reason=f"{NEEDS[title]} is not installed")
    monkeypatch.chdir(tmp_path)
    namespace: dict = {}
    assert blocks(section)
    for block in (*blocks(INTRODUCTION), *blocks(section)):
        exec(compile(block, "docs/backbone.md", "exec"), namespace)
