"""The search of the documentation site, in a browser."""

from __future__ import annotations

import pytest

pytest.importorskip("sphinx", reason="the extra docs is not installed")
pytest.importorskip("playwright", reason="Playwright is not installed")

from playwright import sync_api
from static_site import served


@pytest.fixture(scope="module")
def page(browser, site):
    with served(site) as address:
        page = browser.new_page(base_url=address)
        yield page
        page.close()


@pytest.mark.parametrize(
    ("words", "document"),
    [
        ("global batch", "scaling.html"),
        ("blood cells", "experiments.html"),
        ("match_images", "api/matching.html"),
        ("readyz", "serving.html"),
        ("HPatches", "descriptor.html"),
    ],
)
def test_words_lead_to_their_page(page, words, document):
    page.goto("/index.html")
    page.get_by_role("textbox", name="Search").fill(words)
    page.keyboard.press("Enter")
    results = page.locator("#search-results li a")
    sync_api.expect(results.first).to_be_visible(timeout=20_000)
    sync_api.expect(page.locator(".search-summary")).to_contain_text("found", timeout=20_000)
    links = [link.get_attribute("href").partition("#")[0].partition("?")[0] for link in results.all()]
    assert document in links[:10], links[:10]


def test_what_is_nowhere(page):
    page.goto("/search.html?q=zzyzxqw")
    sync_api.expect(page.locator(".search-summary")).to_contain_text("did not match any", timeout=20_000)
    assert page.locator("#search-results li").count() == 0
