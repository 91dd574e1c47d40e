"""The page of published weights is what the registry says."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from hardnet_suite.weights.registry import PUBLISHED

WRITER = Path(__file__).resolve().parents[2] / "docs/write_published_weights.py"


def test_the_page_is_written_from_the_registry():
    spec = importlib.util.spec_from_file_location("write_published_weights", WRITER)
    writer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(writer)
    text = writer.PAGE.read_text(encoding="utf-8")
    assert text == writer.page(), "run python docs/write_published_weights.py"
    cards = text.split("\n## ")[1:]
    assert len(cards) == len(PUBLISHED)
    for row, card in zip(PUBLISHED, cards, strict=True):
        assert card.startswith(f"{row.model}, tag `{row.tag}`\n")
        assert row.licence in card
        assert row.metric in card
        assert all(address.url in card for address in row.urls)
        assert row.pinned or f"none known: {row.no_hash}" in card
        assert row.mirrored or f"No other copy is known: {row.no_mirror}" in card
        assert f"`{row.layout or 'official'}`: " in card
