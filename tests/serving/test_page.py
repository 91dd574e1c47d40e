"""The page in a browser: upload, answer, download, bad files, two tabs at once."""

from __future__ import annotations

import json
import re
import socket
import threading
import time

import pytest
from PIL import Image

pytest.importorskip("starlette", reason="the extra serve is not installed")
pytest.importorskip("playwright", reason="Playwright is not installed")

import uvicorn
from playwright import sync_api

from hardnet_suite import load_model
from hardnet_suite.cli.demo import _pair
from hardnet_suite.cli.samples import SAMPLES
from hardnet_suite.matching import match_images
from hardnet_suite.serving import ServeLimits, create_app

MODELS = {
    "bus": ("hardnet39ds", "tiny_imagenet10"),
    "cells": ("ssd320_hardnet39ds", "bccd"),
    "street": ("fchardnet70", "camvid_trainval"),
}
TASKS = {"bus": "classification", "cells": "detection", "street": "segmentation"}
MOST_BYTES = 300_000


@pytest.fixture(scope="module")
def models():
    return {name: load_model(model, weights=tag) for name, (model, tag) in MODELS.items()}


@pytest.fixture(scope="module")
def address(models):
    samples = {TASKS[name]: {f"{name}.jpg": (SAMPLES / f"{name}.jpg").read_bytes()} for name in MODELS}
    app = create_app(
        models,
        limits=ServeLimits(size=MOST_BYTES),
        matcher=lambda a, b: match_images(a, b, weights="homography", top_k=256),
        samples=samples | {"match": _pair()},
        hosts=("127.0.0.1",),
    )
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.05)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        server.should_exit = True
        thread.join()


@pytest.fixture
def page(browser, address):
    page = browser.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: message.type == "error" and faults.append(message.text))
    page.goto(address)
    yield page
    page.close()
    assert not [fault for fault in faults if "status of 4" not in fault]  # what the page tells in words


def panel(page, task: str):
    page.locator(f"#tab-{task}").click()
    return page.locator(f"#panel-{task}")


def answered(section):
    drawing = section.locator(".answer img")
    sync_api.expect(drawing).to_have_attribute("src", re.compile("^data:image/png;base64,"), timeout=60_000)
    return section.locator("tbody tr")


def saved(page, link, folder):
    with page.expect_download() as waiting:
        link.click()
    path = folder / waiting.value.suggested_filename
    waiting.value.save_as(path)
    return path


@pytest.mark.parametrize("name", MODELS)
def test_upload_answer_download(page, models, tmp_path, name):
    section = panel(page, TASKS[name])
    section.locator("input[type=file]").set_input_files(SAMPLES / f"{name}.jpg")
    rows = answered(section)
    (prediction,) = models[name]((SAMPLES / f"{name}.jpg").read_bytes())
    assert rows.count() == len(prediction)
    first = rows.first.locator("td").all_inner_texts()
    assert first[:2] == [prediction.names[0], f"{100 * prediction.scores[0]:.1f} %"]
    links = section.locator(".downloads a")
    files = {path.name: path for path in (saved(page, link, tmp_path) for link in links.all())}
    expected = {f"{name}.json", f"{name}_drawing.png"}
    assert set(files) == expected | ({f"{name}_mask.png"} if name == "street" else set())
    content = json.loads(files[f"{name}.json"].read_text())
    assert content == {"model": name, **prediction.to_dict()}
    assert Image.open(files[f"{name}_drawing.png"]).size == prediction.draw().size
    if name == "street":
        assert Image.open(files["street_mask.png"]).mode == "P"


def test_sliders_change_the_answer(page):
    section = panel(page, "detection")
    section.locator(".samples button").click()
    rows = answered(section)
    before = rows.count()
    section.locator(".score input").fill("0.9")
    sync_api.expect(rows).not_to_have_count(before, timeout=60_000)
    scores = [float(text.split()[0]) for text in section.locator("tbody td:nth-child(2)").all_inner_texts()]
    assert len(scores) < before
    assert min(scores) >= 90

    section = panel(page, "classification")
    section.locator(".samples button").click()
    rows = answered(section)
    assert rows.count() == 5
    section.locator(".top input").fill("2")
    sync_api.expect(rows).to_have_count(2, timeout=60_000)


def test_two_images_are_matched(page):
    section = panel(page, "match")
    for button in section.locator(".samples button").all():
        button.click()
        page.wait_for_timeout(200)
    rows = answered(section)
    assert int(rows.nth(2).locator("td").nth(1).inner_text()) > 30


def test_bad_files_are_told_and_the_next_one_works(page, tmp_path):
    section = panel(page, "classification")
    chooser, status = section.locator("input[type=file]"), section.locator(".status")
    (tmp_path / "notes.jpg").write_text("no image")
    chooser.set_input_files(tmp_path / "notes.jpg")
    sync_api.expect(status).to_contain_text("not an image")
    (tmp_path / "large.jpg").write_bytes(b"\xff" * (MOST_BYTES + 1))
    chooser.set_input_files(tmp_path / "large.jpg")
    sync_api.expect(status).to_contain_text(f"larger than {MOST_BYTES} bytes")
    assert section.locator(".answer").is_hidden()
    chooser.set_input_files(SAMPLES / "bus.jpg")
    assert answered(section).count() == 5


def test_the_same_file_is_read_again(page, tmp_path):
    """A browser tells of a choice only where it differs from the one before."""
    path = tmp_path / "image.jpg"
    section = panel(page, "classification")
    status = section.locator(".status")
    for content, told in ((b"no image", "not an image"), ((SAMPLES / "bus.jpg").read_bytes(), "ms, with")):
        path.write_bytes(content)
        with page.expect_file_chooser() as waiting:
            section.locator(".drop").click()
        assert section.locator("input[type=file]").evaluate("input => input.files.length") == 0
        waiting.value.set_files(path)
        sync_api.expect(status).to_contain_text(told, timeout=60_000)


DROP = """(place, isFile) => {
  const data = new DataTransfer();
  if (isFile) data.items.add(new File(["no image"], "notes.jpg"));
  else data.setData("text/uri-list", "https://example.org/image.jpg");
  const options = { dataTransfer: data, bubbles: true, cancelable: true };
  const events = ["dragover", "drop"].map((kind) => new DragEvent(kind, options));
  for (const event of events) place.dispatchEvent(event);
  return events.map((event) => event.defaultPrevented);
}"""


def test_a_file_that_is_dropped_beside_the_box_does_not_replace_the_page(page):
    section = panel(page, "classification")
    for place in (page.locator("h1"), section.locator(".status")):
        assert place.evaluate(DROP, True) == [True, True]
        assert place.evaluate(DROP, False) == [False, False]  # text into a field, in a browser's own way
    assert section.locator(".status").inner_text() == ""
    assert section.locator(".drop").evaluate(DROP, True) == [True, True]
    sync_api.expect(section.locator(".status")).to_contain_text("not an image")


def test_a_link_that_is_dropped_is_told(page):
    section = panel(page, "classification")
    assert section.locator(".drop").evaluate(DROP, False) == [True, True]
    sync_api.expect(section.locator(".status.bad")).to_contain_text("a link or text, not a file")


@pytest.mark.parametrize("task", ["classification", "match"])
def test_a_file_that_cannot_be_read_is_told_from_a_silent_server(page, tmp_path, task):
    section = panel(page, task)
    status, path = section.locator(".status"), tmp_path / "image.jpg"
    path.write_bytes(b"no image")
    for chooser in section.locator("input[type=file]").all():
        chooser.set_input_files(path)
    sync_api.expect(status).to_contain_text("image a: cannot read" if task == "match" else "not an image")
    path.write_bytes((SAMPLES / "bus.jpg").read_bytes())  # of another size and time
    slider = section.locator(".score input")
    slider.evaluate("input => input.dispatchEvent(new Event('input'))")
    sync_api.expect(status).to_have_text(
        "image.jpg cannot be read: it is a folder, or has changed since it was chosen"
    )
    assert section.locator(".answer").is_hidden()


def test_a_silent_server_is_told(browser, address):
    page = browser.new_page()
    page.goto(address)
    page.route("**/v1/predict*", lambda route: route.abort())
    section = panel(page, "classification")
    section.locator("input[type=file]").set_input_files(SAMPLES / "bus.jpg")
    sync_api.expect(section.locator(".status")).to_contain_text("the server does not answer: ")
    page.close()


def test_a_silent_server_is_told_of_an_example_too(browser, address):
    page = browser.new_page()
    page.goto(address)
    section = panel(page, "classification")
    button = section.locator(".samples button")
    button.click()
    sync_api.expect(section.locator(".answer")).to_be_visible()
    page.route("**/samples/**", lambda route: route.abort())
    button.click()
    sync_api.expect(section.locator(".status")).to_contain_text("bus.jpg: the server does not answer: ")
    assert section.locator(".answer").is_hidden()
    page.unroute("**/samples/**")
    button.click()
    sync_api.expect(section.locator(".answer")).to_be_visible()
    page.close()


def test_what_is_chosen_last_counts(browser, address):
    """An example whose picture comes late does not take the place of a file that was chosen after it."""
    page = browser.new_page()
    page.goto(address)
    page.evaluate("""() => {
        const usual = fetch;
        window.fetch = async (...given) => {
            if (String(given[0]).includes("samples/")) await new Promise((done) => setTimeout(done, 800));
            return usual(...given);
        };
    }""")
    section = panel(page, "classification")
    section.locator(".samples button").click()
    section.locator("input[type=file]").set_input_files(SAMPLES / "street.jpg")
    sync_api.expect(section.locator(".answer")).to_be_visible()
    page.wait_for_timeout(1500)
    assert section.locator("input[type=file] + span, label span").first.text_content() == "street.jpg"
    page.close()


def test_a_name_is_text(page, tmp_path):
    """A file's name is shown as it is, and never read as HTML."""
    path = tmp_path / "<img src=x onerror=document.title='run'>.jpg"
    path.write_bytes((SAMPLES / "bus.jpg").read_bytes())
    section = panel(page, "classification")
    section.locator("input[type=file]").set_input_files(path)
    answered(section)
    assert path.name in section.locator(".drop span").inner_text()
    assert page.title() == "hardnet_suite"


def test_two_tabs_at_once(browser, address):
    pages = [browser.new_page() for _ in range(2)]
    for page in pages:
        page.goto(address)
    sections = [panel(page, task) for page, task in zip(pages, ("detection", "segmentation"), strict=True)]
    for section in sections:
        section.locator(".samples button").click()
    assert answered(sections[0]).first.locator("td").count() == 3
    assert answered(sections[1]).first.locator("td").count() == 2
    for page in pages:
        page.close()


def test_a_phone_needs_no_sideways_scrolling(browser, address):
    page = browser.new_page(viewport={"width": 390, "height": 800})
    page.goto(address)
    section = panel(page, "segmentation")
    section.locator(".samples button").click()
    answered(section)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()


def test_keys_move_between_tabs(page):
    page.locator("#tab-classification").focus()
    page.keyboard.press("ArrowRight")
    sync_api.expect(page.locator("#panel-detection")).to_be_visible()
    sync_api.expect(page.locator("#tab-detection")).to_be_focused()
