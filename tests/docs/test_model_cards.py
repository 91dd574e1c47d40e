"""Every file of weights in the package has a complete model card, which says what the registry says."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from hardnet_suite.config_names import OWN_CONFIGS
from hardnet_suite.weights import registry
from hardnet_suite.weights.places import SHIPPED

ROOT = Path(__file__).resolve().parents[2]
FIELDS = ("File", "Task", "Data", "Split", "Recipe", "Figure", "Command", "Licence", "Limits")
FILES = sorted(path.name for path in SHIPPED.glob("*.safetensors"))


def cards() -> dict[str, dict[str, str]]:
    """Heading -> field -> text."""
    text = (ROOT / "docs/model_cards.md").read_text(encoding="utf-8")
    found = {}
    for section in text.split("\n## ")[1:]:
        heading, _, body = section.partition("\n")
        found[heading] = dict(re.findall(r"^\| (\w+) \| (.+) \|$", body, re.MULTILINE))
    return found


def card_of(file: str) -> tuple[registry.WeightsRow, dict[str, str]]:
    (row,) = [row for row in registry.SHIPPED if row.shipped == file]
    return row, cards()[f"{row.model}, tag `{row.tag}`"]


def test_a_card_per_file_and_no_other():
    assert {row.shipped for row in registry.SHIPPED} == {*FILES}
    assert sorted(cards()) == sorted(f"{row.model}, tag `{row.tag}`" for row in registry.SHIPPED)


@pytest.mark.parametrize("file", FILES)
def test_the_card_is_complete(file):
    row, card = card_of(file)
    assert (*card,) == FIELDS
    assert all(len(text) > 10 for text in card.values())
    digest = hashlib.sha256((SHIPPED / file).read_bytes()).hexdigest()
    assert digest == row.sha256
    assert f"`{file}`" in card["File"]
    assert digest in card["File"]
    assert f"{(SHIPPED / file).stat().st_size / 1e6:.1f} MB" in card["File"]
    assert row.metric in card["Figure"]
    assert row.source in card["Recipe"]
    assert card["Licence"].startswith(row.licence)


@pytest.mark.parametrize("file", FILES)
def test_what_the_card_names_exists(file):
    row, card = card_of(file)
    command = re.match(r"`hardnet-suite test (\w+) --(pretrained|weights)", card["Command"])
    assert (OWN_CONFIGS / f"{command[1]}.py").is_file()
    for config in re.findall(r"`configs/(\w+\.py)`", card["Recipe"]):
        assert (OWN_CONFIGS / config).is_file()
    if not any(name.startswith("n0") for name in row.classes):  # WordNet ids are shown by their names
        assert all(name in card["Task"] for name in row.classes)
