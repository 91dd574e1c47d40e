"""Model cards and tables of models say what the registry says; every file in the package has a card."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from hardnet_suite.cli.models import FIGURES
from hardnet_suite.config_names import OWN_CONFIGS
from hardnet_suite.networks import list_models
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


def tables(text: str) -> list[list[dict[str, str]]]:
    """Tables of a document: their rows, as heading -> cell."""
    found: list[list[dict[str, str]]] = []
    for block in re.findall(r"(?:^\|.*\|$\n?){3,}", text, re.MULTILINE):
        heads, _, *rows = [re.split(r"\s*\|\s*", line.strip())[1:-1] for line in block.strip().split("\n")]
        found.append([dict(zip(heads, cells, strict=True)) for cells in rows])
    return found


def rows_of_models() -> list[tuple[str, str, str | None, dict[str, str]]]:
    """(document, model, tag, cells) of the tables whose rows are models."""
    found = []
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for row in (row for table in tables(path.read_text(encoding="utf-8")) for row in table):
            first = re.fullmatch(r"`?(\w+)`?(?:, tag `(\w+)`)?", next(iter(row.values())))
            if first is not None and first[1] in list_models():
                found.append((path.name, first[1], first[2], row))
    return found


def test_results_in_tables_are_those_of_their_models():
    """The first figure of a row is one that the registry has of that model, or of those weights."""
    compared = set()
    for document, model, tag, row in rows_of_models():
        for heading, cell in row.items():
            if not re.search("result|published|measured", heading):
                continue
            figure = re.search(r"\d+\.\d+", re.sub(r"\[[^]]*\]\([^)]*\)", "", cell))
            weights = [each for each in registry.ROWS if each.model == model and tag in (None, each.tag)]
            if figure is None or not weights:  # of a paper, without weights
                continue
            figures = {number for each in weights for number in re.findall(r"\d+\.\d+", each.metric)}
            assert figure[0] in figures, (document, model, cell)
            compared.add((document, model, tag))
    documents = {document for document, _, _ in compared}
    assert documents >= {"README.md", "classification.md", "detection.md", "segmentation.md"}
    assert {("detection.md", f"{kind}_hardnet39ds", None) for kind in ("ssd320", "centernet")} <= compared
    assert len(compared) > 30


def test_sizes_in_tables_are_those_of_their_models():
    compared = 0
    for document, model, _, row in rows_of_models():
        _, parameters, macs = FIGURES[model]
        for heading, value, unit in (
            ("parameters", parameters / 1e6, "M"),
            ("multiply-adds", macs / 1e9, "G"),
        ):
            number = re.match(rf"([\d.]+) {unit}\b", row.get(heading, ""))
            if number is not None:
                assert number[1] == f"{value:.2f}", (document, model, heading)
                compared += 1
    assert compared > 40
