"""The search of the documentation site, in a browser."""

from __future__ import annotations

import http.server
import shutil
import threading
from functools import partial

import pytest

pytest.importorskip("sphinx", reason="the extra docs is not installed")
pytest.importorskip("playwright", reason="Playwright is not installed")

from playwright import sync_api

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "chromium-browser"))), None
)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium (Debian: apt-get install chromium-headless-shell)"
)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def page(site):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(base_url=f"http://127.0.0.1:{server.server_address[1]}")
        yield page
        browser.close()
    server.shutdown()
    server.server_close()


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
