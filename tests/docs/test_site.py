"""The documentation site: no warning, every public name in it, and nothing loaded from other hosts."""

from __future__ import annotations

import importlib
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import hardnet_suite

ROOT = Path(__file__).resolve().parents[2]


class Page(HTMLParser):
    """The addresses that a page links to or loads, and the names that links can point to."""

    def __init__(self, text: str):
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.names: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.names.update(given[key] for key in ("id", "name") if given.get(key))
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        elif tag == "link" and given.get("rel") not in ("canonical", "next", "prev", "search", "index"):
            self.loaded.append(given["href"])
        elif given.get("src"):
            self.loaded.append(given["src"])


@pytest.fixture(scope="module")
def pages(site):
    return {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}


def test_every_document_is_a_page(site):
    documents = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert documents <= {path.stem for path in site.glob("*.html")}


def test_links_lead_to_pages_and_names(site, pages):
    broken = []
    for path, page in pages.items():
        for link in page.links:
            target = urlsplit(link)
            if target.scheme or target.netloc:
                continue
            file = (path.parent / unquote(target.path)).resolve() if target.path else path
            file = file / "index.html" if file.is_dir() else file
            name = unquote(target.fragment)
            if not file.is_file() or (name and file in pages and name not in pages[file].names):
                broken.append(f"{path.relative_to(site)}: {link}")
    assert not broken


def test_nothing_is_loaded_from_other_hosts(site, pages):
    loaded = [address for page in pages.values() for address in page.loaded]
    assert loaded
    assert not [address for address in loaded if urlsplit(address).netloc]
    for sheet in site.rglob("*.css"):
        assert not re.findall(r"url\(['\"]?(?:https?:)?//", sheet.read_text(encoding="utf-8")), sheet


def test_every_public_name_is_documented(pages):
    names = set().union(*(page.names for page in pages.values()))
    rooms = ("prediction", "networks", "weights", "inference", "losses", "matching", "deploy")
    wanted = {name for room in rooms for name in importlib.import_module(f"hardnet_suite.{room}").__all__}
    wanted |= set(hardnet_suite.__all__)
    assert not wanted - {name.rpartition(".")[2] for name in names if name.startswith("hardnet_suite.")}
