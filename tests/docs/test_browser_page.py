"""browser.html in a browser: the answers of Python, computed from static files alone."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import re
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageOps
from PIL.PngImagePlugin import PngInfo

from hardnet_suite import load_model
from hardnet_suite.cli.samples import SAMPLES
from hardnet_suite.data.images import read_rgb
from hardnet_suite.inference.masks import logits_to_mask
from hardnet_suite.inference.prepare import Placement, content_size
from hardnet_suite.networks import Preprocess, SegmentationPostprocess

pytest.importorskip("sphinx", reason="the extra docs is not installed")
pytest.importorskip("playwright", reason="Playwright is not installed")
from playwright import sync_api
from static_site import served

ROOT = Path(__file__).resolve().parents[2]
MODELS = {"street": ("fchardnet70", "camvid_trainval"), "cells": ("ssd320_hardnet39ds", "bccd")}
TIMEOUT = 120_000  # milliseconds


@pytest.fixture(scope="module")
def extension():
    """docs/browser_page.py as a module."""
    spec = importlib.util.spec_from_file_location("browser_page", ROOT / "docs/browser_page.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def address(chromium, extension, request):
    """Of the page, below a prefix."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="the extra deploy is not installed")
    try:
        extension.runtime_folder(ROOT / "node_modules")
    except extension.MissingError as error:
        pytest.skip(str(error))
    site = request.getfixturevalue("site")
    with served(site.parent) as host:
        yield f"{host}/{site.name}/browser.html"


@pytest.fixture(scope="module")
def exported(address, site):
    """The models that the page loads, in Python."""
    folder = site / "_static/browser/models"
    return {name: load_model(folder / f"{model}_{tag}.onnx") for name, (model, tag) in MODELS.items()}


def opened(browser, address, **options):
    """A page of which ``faults`` are what it must not do."""
    page = browser.new_page(**options)
    page.faults = []
    host = address.split("/")[2]
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.on("console", lambda message: message.type == "error" and page.faults.append(message.text))
    page.on("request", lambda request: f"//{host}/" in request.url or page.faults.append(request.url))
    page.goto(address)
    return page


@pytest.fixture(scope="module")
def loaded_page(browser, address):
    """One page for all tests of answers, as its models take seconds to load."""
    page = opened(browser, address)
    yield page
    page.close()
    assert not [fault for fault in page.faults if not fault.startswith("blob:")]  # downloads


def choose(page, name):
    page.locator(".models input").nth(list(MODELS).index(name)).check()


def give(page, name, content):
    page.locator("#browser-page input[type=file]").set_input_files(
        {"name": name, "mimeType": "application/octet-stream", "buffer": content}
    )


def answered(page, name):
    sync_api.expect(page.locator(".status")).to_have_text(
        re.compile(rf"^{re.escape(name)}: \d+×\d+ pixels"), timeout=TIMEOUT
    )


def saved(page, suffix):
    with page.expect_download() as waiting:
        page.locator(".downloads button", has_text=suffix).click()
    return waiting.value.suggested_filename, Path(waiting.value.path()).read_bytes()


def answer_of(page, name, content):
    """What the page computes, as the JSON file that it offers."""
    give(page, name, content)
    answered(page, name)
    return json.loads(saved(page, ".json")[1])


def mask_of(answer):
    values, lengths = zip(*answer["mask"]["runs"], strict=True)
    return np.repeat(values, lengths).reshape(answer["mask"]["size"])


def require_same(answer, prediction):
    """The fields of ``Prediction.to_dict()``; engines round differently in the last digits."""
    expected = prediction.to_dict()
    assert answer["size"] == expected["size"]
    assert answer["task"] == expected["task"]
    if "mask" in expected:
        differ = np.count_nonzero(mask_of(answer) != prediction.mask)
        assert differ <= prediction.mask.size / 10_000
        shares = dict(zip(answer["names"], answer["scores"], strict=True))
        for name, share in zip(expected["names"], expected["scores"], strict=True):
            assert shares.get(name, 0) == pytest.approx(share, abs=1e-4)
        return
    assert answer["names"] == expected["names"]
    assert answer["labels"] == expected["labels"]
    np.testing.assert_allclose(answer["scores"], expected["scores"], atol=2e-5)
    np.testing.assert_allclose(answer["boxes"], expected["boxes"], atol=0.02)


@pytest.mark.parametrize("name", MODELS)
def test_the_sample_is_answered_as_by_predict(loaded_page, exported, name):
    page, file = loaded_page, f"{name}.jpg"
    choose(page, name)
    page.locator(".sample").click()
    answered(page, file)
    given, content = saved(page, ".json")
    answer = json.loads(content)
    assert given == f"{name}.json"
    assert answer["model"] == ":".join(MODELS[name])
    assert answer["name"] == file
    model, tag = MODELS[name]
    for python in (exported[name], load_model(model, weights=tag)):
        (prediction,) = python((SAMPLES / file).read_bytes())
        require_same(answer, prediction)
    rows = page.locator("#browser-page tbody tr")
    assert rows.count() == len(prediction)
    first = rows.first.locator("td").all_inner_texts()
    assert first[:2] == [prediction.names[0], f"{100 * prediction.scores[0]:.1f} %"]

    given, content = saved(page, "_drawing.png")
    assert given == f"{name}_drawing.png"
    drawing = Image.open(io.BytesIO(content))
    assert drawing.size == prediction.size
    assert not np.array_equal(np.asarray(drawing.convert("RGB")), read_rgb(SAMPLES / file))
    if name == "street":
        given, content = saved(page, "_mask.png")
        mask = Image.open(io.BytesIO(content))
        assert (given, mask.mode) == ("street_mask.png", "P")
        assert np.array_equal(np.asarray(mask), mask_of(answer))
        assert mask.getpalette()[: 3 * len(prediction.palette)] == np.ravel(prediction.palette).tolist()


def encoded(image, form="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def pictures(name):
    """Files of all kinds whose answers have something in them."""
    image = Image.open(SAMPLES / f"{name}.jpg")
    small = image.resize((image.width // 2 + 1, image.height // 2 - 3))
    grey = ImageOps.grayscale(small)
    see_through = small.copy()
    see_through.putalpha(Image.linear_gradient("L").resize(small.size))
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    yield "as_is.png", encoded(image)
    yield "odd.png", encoded(small)
    yield "alpha.png", encoded(see_through)
    yield "grey.png", encoded(grey)
    yield "palette.png", encoded(small.quantize(40))
    yield "deep.png", encoded(deep)
    yield "turned.png", encoded(small, exif=turned(6))
    yield "turned.jpg", encoded(small, "JPEG", exif=turned(8), quality=90)
    yield "narrow.png", encoded(image.crop((150, 100, 150 + 131, 100 + 257)))
    yield "tiny.png", encoded(small.crop((0, 0, 61, 33)))
    yield "large.png", encoded(image.resize((1501, 977)))


@pytest.mark.parametrize("name", MODELS)
def test_generated_images_are_answered_as_by_predict(loaded_page, exported, name):
    choose(loaded_page, name)
    found = 0
    for file, content in pictures(name):
        (prediction,) = exported[name](content)
        require_same(answer_of(loaded_page, file, content), prediction)
        found += len(prediction)
    assert found > 50


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width, height, depth, color, lines, *extra, interlace=0):
    """A PNG file of filtered lines."""
    head = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlace)
    chunks = (chunk(b"IHDR", head), *(chunk(*each) for each in extra), chunk(b"IDAT", zlib.compress(lines)))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + chunk(b"IEND", b"")


def interlaced(pixels):
    passes = (
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    )
    parts = (pixels[top::down, left::right] for left, top, right, down in passes)
    return b"".join(b"\0" + line.tobytes() for part in parts if part.size for line in part)


def files():
    """Small files of every kind that the page reads."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:37, :51]
    waves = np.stack([np.sin(rows / a + columns / b) for a, b in ((3, 7), (11, 2), (5, 5))], axis=2)
    pixels = (127.5 + 127.5 * waves).astype(np.uint8)
    image = Image.fromarray(pixels)
    for color, channels in ((0, 1), (2, 3), (3, 1), (4, 2), (6, 4)):
        for depth in {0: (1, 2, 4, 8, 16), 3: (1, 2, 4, 8)}.get(color, (8, 16)):
            for height, width in ((1, 1), (13, 19)):
                size = -(-width * channels * depth // 8)
                lines = b"".join(bytes([kind % 5]) + random.bytes(size) for kind in range(height))
                palette = [(b"PLTE", random.bytes(3 << depth))] if color == 3 else []
                yield f"{color} {depth} {width}", png(width, height, depth, color, lines, *palette)
                if color == 3:
                    key = random.bytes(1 << max(depth - 1, 0))
                elif color in (0, 2):
                    key = struct.pack(f">{channels}H", *[1 if depth < 16 else 514] * channels)
                    values = np.array([0, 1, 2, 0x11, 0x55, 255], np.uint8)
                    lines = b"".join(b"\0" + random.choice(values, size).tobytes() for _ in range(height))
                else:
                    continue
                name = f"{color} {depth} {width} transparent"
                yield name, png(width, height, depth, color, lines, *palette, (b"tRNS", key))
                if color == 2:  # more than the upper, or the lower, 8 bits of 16 tell the colour
                    lines = b"".join(
                        b"\0" + random.choice(values[1:3], size).tobytes() for _ in range(height)
                    )
                    key = struct.pack(">3H", *[513 if depth == 8 else 258] * 3)
                    yield f"{name} bits", png(width, height, depth, color, lines, (b"tRNS", key))
    for height, width in ((1, 1), (3, 2), (37, 51)):
        yield (
            f"interlaced {width}",
            png(width, height, 8, 2, interlaced(pixels[:height, :width]), interlace=1),
        )
    yield "animated", encoded(image, save_all=True, append_images=[ImageOps.invert(image)])
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, blue = profile.find(b"rXYZ"), profile.find(b"bXYZ")
    profile[red : red + 4], profile[blue : blue + 4] = b"bXYZ", b"rXYZ"
    for form in ("PNG", "JPEG"):
        yield f"profile {form}", encoded(image, form, icc_profile=bytes(profile))
        for orientation in range(1, 10):
            yield f"exif {orientation} {form}", encoded(image, form, exif=turned(orientation))
    xmp = "<x:xmpmeta><tiff:Orientation>5</tiff:Orientation></x:xmpmeta>"
    text = PngInfo()
    text.add_itxt("XML:com.adobe.xmp", xmp)
    yield "xmp PNG", encoded(image, pnginfo=text)
    yield "xmp JPEG", encoded(image, "JPEG", xmp=xmp.encode())
    for quality in (60, 95):
        yield f"grey {quality}", encoded(ImageOps.grayscale(image), "JPEG", quality=quality)
        for sampling in range(3):
            options = {"quality": quality, "subsampling": sampling}
            yield f"JPEG {quality} {sampling}", encoded(image, "JPEG", **options)
            yield f"progressive {quality} {sampling}", encoded(image, "JPEG", progressive=True, **options)


READ = """async (files) => {
  const page = document.querySelector("script[src*='/page.js']").src;
  const { readImage } = await import(new URL("images.js", page));
  return Promise.all(files.map(async (text) => {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const { width, height, pixels } = await readImage(new Blob([bytes]));
    return [height, width, btoa(String.fromCharCode(...pixels))];
  }));
}"""


def test_pixels_are_those_of_python(loaded_page):
    """Of PNG files to the bit; JPEG files may differ by a level where the browser has another decoder."""
    contents = dict(files())
    results = loaded_page.evaluate(
        READ, [base64.b64encode(content).decode() for content in contents.values()]
    )
    for (name, content), (height, width, text) in zip(contents.items(), results, strict=True):
        pixels = np.frombuffer(base64.b64decode(text), np.uint8).reshape(height, width, 3)
        expected = read_rgb(content)
        assert pixels.shape == expected.shape, name
        most = 0 if content.startswith(b"\x89PNG") else 1
        assert np.abs(pixels.astype(int) - expected).max() <= most, name


FIT = """async ([sizes, rule]) => {
  const page = document.querySelector("script[src*='/page.js']").src;
  const { contentSize } = await import(new URL("prepare.js", page));
  return sizes.map(([height, width]) => contentSize({ height, width }, rule));
}"""


@pytest.mark.parametrize("size", [(450, 600), (600, 450), 320, (7, 500)])
@pytest.mark.parametrize("resize", ["fit", "stretch"])
def test_images_are_resized_to_the_size_of_python(loaded_page, resize, size):
    rule = Preprocess("rgb", 255.0, (0.0,) * 3, (1.0,) * 3, resize=resize, size=size)
    sides = np.random.default_rng(0).integers(1, 3000, (2000, 2)).tolist()
    sides += [[450, 600], [600, 450], [1, 16384], [16384, 1], [1, 1], [375, 500], [225, 301]]
    expected = [list(content_size(height, width, rule)) for height, width in sides]
    assert loaded_page.evaluate(FIT, [sides, rule.to_dict()]) == expected


MASK = """async ([text, classes, [inputHeight, inputWidth], [height, width]]) => {
  const page = document.querySelector("script[src*='/page.js']").src;
  const { classesOfImage } = await import(new URL("prepare.js", page));
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const logits = { data: new Float32Array(bytes.buffer), dims: [1, classes, inputHeight, inputWidth] };
  return [...classesOfImage(logits, { width, height })];
}"""


@pytest.mark.parametrize(
    ("inside", "outside"),
    [
        ((9, 12), (9, 12)),
        ((9, 12), (31, 17)),
        ((45, 60), (36, 48)),
        ((20, 33), (1, 1)),
        ((1, 1), (5, 7)),
        ((1, 40), (30, 2)),
        ((16, 16), (301, 299)),
    ],
)
def test_logits_give_the_classes_of_python(loaded_page, inside, outside):
    """At places that are rounded to one side or the other the classes may differ, which are few."""
    logits = torch.randn(1, 11, *inside, generator=torch.Generator().manual_seed(0))
    placement = Placement(outside, inside)
    expected = logits_to_mask(placement.map_to_image(logits[0]), SegmentationPostprocess())
    text = base64.b64encode(logits.numpy().tobytes()).decode()
    found = loaded_page.evaluate(MASK, [text, 11, inside, outside])
    differ = np.count_nonzero(np.reshape(found, outside) != expected.numpy())
    assert differ <= (0 if inside == outside else expected.numel() / 5000)


def test_the_decoder_gets_a_jpeg_file_in_one_part(loaded_page):
    """Firefox recognises a JPEG file by the first part of a blob alone, where two bytes are not enough."""
    content = encoded(Image.new("RGB", (9, 7)), "JPEG", exif=turned(6))
    parts = loaded_page.evaluate(
        """async ([read, text]) => {
          const Original = Blob;
          const parts = [];
          globalThis.Blob = class extends Original {
            constructor(given, options) {
              super(given, options);
              if (options?.type === "image/jpeg") parts.push(given.length);
            }
          };
          try {
            await eval(read)([text]);
          } finally {
            globalThis.Blob = Original;
          }
          return parts;
        }""",
        [READ, base64.b64encode(content).decode()],
    )
    assert parts == [1]


def exif_entry(kind: int, count: int, value: bytes, order: bytes = b"MM\0*\0\0\0\x08") -> bytes:
    """EXIF data of an orientation alone."""
    return order + struct.pack(">HHHI", 1, 0x0112, kind, count) + value.ljust(4, b"\0") + bytes(4)


def with_segments(content: bytes, *segments: bytes) -> bytes:
    """A JPEG file with APP1 segments."""
    parts = [b"\xff\xe1" + struct.pack(">H", 2 + len(segment)) + segment for segment in segments]
    return content[:2] + b"".join(parts) + content[2:]


def ambiguous() -> list[bytes]:
    """Files of whose orientation decoders may think differently."""
    xmp = [
        f"http://ns.adobe.com/xap/1.0/\0<tiff:Orientation>{value}</tiff:Orientation>".encode()
        for value in (3, 6)
    ]
    exif = [b"Exif\0\0" + exif_entry(3, 1, struct.pack(">H", value)) for value in (1, 6)]
    image = encoded(Image.new("RGB", (160, 140)), "JPEG")
    return [
        *(
            png(1, 1, 8, 0, b"\0\0", (b"eXIf", entry))
            for entry in (
                exif_entry(4, 1, struct.pack(">I", 6)),
                exif_entry(1, 1, b"\6"),
                exif_entry(3, 0, struct.pack(">H", 6)),
                exif_entry(3, 1, struct.pack(">H", 6), b"MM*\0\0\0\0\x08"),
                exif_entry(3, 1, struct.pack(">H", 6))[:14],
                b"no EXIF",
            )
        ),
        png(1, 1, 8, 0, b"\0\0", (b"eXIf", exif[0][6:]), (b"eXIf", exif[1][6:])),
        png(1, 1, 8, 0, b"\0\0", (b"fcTL", bytes(26)), (b"eXIf", exif[1][6:])),
        png(1, 1, 8, 0, b"\0\0", (b"zTXt", b"Raw profile type exif\0\0x")),
        with_segments(image, *xmp),
        with_segments(image, *exif),
        with_segments(image, b"Exif\0\0garbage", xmp[1]),
        with_segments(image, b"Exif\0\0" + exif[1]),
    ]


def test_files_of_unclear_orientation_are_refused(loaded_page):
    page = loaded_page
    choose(page, "cells")
    for number, content in enumerate(ambiguous()):
        give(page, f"unclear{number}", content)
        sync_api.expect(page.locator(".status.problem")).to_contain_text(
            f"unclear{number}: ", timeout=TIMEOUT
        )
        assert "save it again without metadata" in page.locator(".status").inner_text()


def test_bad_files_are_told_and_the_next_one_works(loaded_page, exported):
    page = loaded_page
    choose(page, "street")
    image = Image.open(SAMPLES / "street.jpg")
    whole, compressed = encoded(image.resize((200, 150))), encoded(image, "JPEG")
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 1
    text = PngInfo()
    text.add_itxt("XML:com.adobe.xmp", "<tiff:Orientation>5</tiff:Orientation>", zip=True)
    huge = png(20000, 20000, 8, 2, b"")
    for number, (content, message) in enumerate(
        (
            (b"no image", "not an image: this page reads PNG and JPEG"),
            (b"", "not an image"),
            (whole[: len(whole) // 2], "the PNG file is damaged or cut short"),
            (bytes(damaged), "the PNG file is damaged or cut short"),
            (png(4, 4, 8, 2, b"\0\0"), "the PNG file is damaged or cut short"),
            (png(1, 1, 8, 3, b"\0\5", (b"PLTE", bytes(6))), "the PNG file is damaged or cut short"),
            (compressed[: len(compressed) // 2], "the JPEG file is damaged or cut short"),
            (b"\xff\xd8\xff\xe0", "the JPEG file is damaged or cut short"),
            (compressed[: len(compressed) // 2] + compressed, "the JPEG file is damaged or cut short"),
            (png(1, 1, 8, 0, b"\0\0", (b"tRNS", b"\1\2")), "the PNG file is damaged or cut short"),
            (encoded(image.convert("CMYK"), "JPEG"), "a JPEG file in CMYK: save it in RGB"),
            (encoded(image, pnginfo=text), "whose orientation may be in a text"),
            (encoded(image, "GIF"), "GIF files are not read here: save it as PNG or JPEG"),
            (huge, "20000×20000 pixels; the limits are"),
            (
                encoded(Image.new("RGB", (60, 300))),
                "60×300 pixels, 120×600 for this model, which takes at least 128×128",
            ),
        )
    ):
        give(page, f"bad{number}", content)
        sync_api.expect(page.locator(".status.problem")).to_contain_text(f"bad{number}: ", timeout=TIMEOUT)
        assert message in page.locator(".status").inner_text()
        assert page.locator("#browser-page .answer").is_hidden()
    (prediction,) = exported["street"](whole)
    require_same(answer_of(page, "good.png", whole), prediction)


def dropped(page, *paths):
    """Files of the system, dropped onto the page's box."""
    page.locator("#browser-page .drop").scroll_into_view_if_needed()
    box = page.locator("#browser-page .drop").bounding_box()
    place = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    session = page.context.new_cdp_session(page)
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "data": data, **place})
    session.detach()


def test_a_folder_that_is_dropped_is_told_and_the_models_stay(loaded_page, tmp_path):
    page = loaded_page
    choose(page, "cells")
    answer_of(page, "before.jpg", (SAMPLES / "cells.jpg").read_bytes())
    (worker,) = page.workers
    (tmp_path / "folder").mkdir()
    dropped(page, tmp_path / "folder")
    sync_api.expect(page.locator(".status.problem")).to_have_text(
        "folder: it cannot be read: it is a folder, or has changed since it was chosen"
    )
    assert page.locator("#browser-page .answer").is_hidden()
    dropped(page, SAMPLES / "cells.jpg")
    answered(page, "cells.jpg")
    assert page.workers == [worker]


def test_a_link_that_is_dropped_is_told(loaded_page):
    page = loaded_page
    choose(page, "cells")
    page.locator("#browser-page .drop").evaluate(
        """(place) => {
          const dataTransfer = new DataTransfer();
          dataTransfer.setData("text/uri-list", "https://example.org/image.jpg");
          place.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
        }"""
    )
    sync_api.expect(page.locator(".status.problem")).to_contain_text("a link or text, not a file")


def test_the_slider_chooses_among_the_boxes(loaded_page, exported):
    page = loaded_page
    choose(page, "cells")
    content = (SAMPLES / "cells.jpg").read_bytes()
    answer_of(page, "slider.jpg", content)
    assert page.locator(".opacity").is_hidden()
    for score in (0.95, 0.05):
        page.locator(".score input").fill(str(score))
        (prediction,) = exported["cells"](content, score=score)
        sync_api.expect(page.locator("#browser-page tbody tr")).to_have_count(len(prediction))
        require_same(json.loads(saved(page, ".json")[1]), prediction)


def test_the_last_image_counts(loaded_page):
    page = loaded_page
    choose(page, "cells")
    image = Image.open(SAMPLES / "cells.jpg")
    for number in range(3):
        give(page, f"number{number}.png", encoded(image.resize((300 + number, 200))))
    answered(page, "number2.png")
    assert "302×200" in page.locator(".status").inner_text()
    choose(page, "street")
    assert page.locator("#browser-page .answer").is_hidden()
    assert not page.locator(".status").inner_text()  # the model is loaded


def test_a_name_is_text(loaded_page):
    name = "<img src=x onerror=document.title='run'>.jpg"
    choose(loaded_page, "cells")
    assert answer_of(loaded_page, name, (SAMPLES / "cells.jpg").read_bytes())["name"] == name
    assert loaded_page.title() != "run"


def test_a_phone_needs_no_sideways_scrolling_and_nothing_is_loaded_before_it_is_needed(browser, address):
    page = opened(browser, address, viewport={"width": 400, "height": 800})
    sizes = page.evaluate("performance.getEntriesByType('resource').map(({ name }) => name)")
    assert not [name for name in sizes if re.search(r"\.(onnx|wasm)", name)]
    sync_api.expect(page.locator(".status")).to_contain_text(re.compile(r"30\.\d MB"))
    choose(page, "cells")
    page.locator(".sample").focus()
    page.keyboard.press("Enter")
    answered(page, "cells.jpg")
    assert "WBC" in page.locator("canvas").get_attribute("aria-label")
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    page.close()
    assert not page.faults


def test_a_page_that_is_opened_as_a_file_says_how_to_serve_it(browser, address, site):
    page = browser.new_page()
    page.goto((site / "browser.html").as_uri())
    sync_api.expect(page.locator("#browser-page .file")).to_contain_text("python -m http.server")
    assert page.locator(".controls").is_hidden()
    page.close()


@pytest.mark.parametrize("cause", ["missing", "other version"])
def test_without_the_runtime_the_page_says_so(tmp_path, cause):
    modules = tmp_path / "node_modules"
    if cause == "other version":
        (modules / "onnxruntime-web").mkdir(parents=True)
        (modules / "onnxruntime-web/package.json").write_text('{"version": "1.2.3"}')
    source = tmp_path / "source"
    source.mkdir()
    shutil.copy(ROOT / "docs/browser.md", source / "index.md")
    text = f"import sys\nsys.path.insert(0, {str(ROOT / 'docs')!r})\n"
    text += "extensions = ['myst_parser', 'sphinx_design', 'browser_page']\n"
    text += f"browser_modules = {str(modules)!r}\nsuppress_warnings = ['myst.xref_missing']\n"
    (source / "conf.py").write_text(text)
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-W", "-q", str(source), str(tmp_path / "site")]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stderr
    page = (tmp_path / "site/index.html").read_text(encoding="utf-8")
    text = re.sub(r"<[^>]+>", "", page)
    assert "no interactive part: onnxruntime-web " in text
    assert "npm ci --ignore-scripts" in text
    assert 'id="browser-page"' not in page
    assert "page.js" not in page


PIXELS = """() => {
  const canvas = document.querySelector("#browser-page canvas");
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const text = Array.from(data, (value) => String.fromCharCode(value)).join("");
  return [canvas.height, canvas.width, btoa(text)];
}"""


def drawn(page, opacity):
    page.locator(".opacity input").fill(str(opacity))
    sync_api.expect(page.locator(".opacity output")).to_have_text(f"{opacity:.2f}")
    height, width, text = page.evaluate(PIXELS)
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(height, width, 4)


def test_the_opacity_of_the_mask(loaded_page):
    """From the image to the classes' colours, and back."""
    page = loaded_page
    choose(page, "street")
    answer = answer_of(page, "street.png", (SAMPLES / "street.jpg").read_bytes())
    image = read_rgb(SAMPLES / "street.jpg").astype(float)
    model = load_model("fchardnet70", weights="camvid_trainval")
    colours = np.asarray(model.palette)[mask_of(answer)].astype(float)
    for opacity in (0.0, 0.5, 1.0, 0.0):
        pixels = drawn(page, opacity)
        assert (pixels[..., 3] == 255).all()
        expected = image + opacity * (colours - image)
        assert np.abs(pixels[..., :3] - expected).max() <= 2
    assert page.faults == []


def test_a_page_whose_program_is_gone_says_so(browser, address, site, tmp_path):
    """As of a site that was built again, in a browser that kept the page."""
    shutil.copytree(site, tmp_path / "site")
    for path in (tmp_path / "site/_static/browser").glob("*/page.js"):
        path.unlink()
    with served(tmp_path) as host:
        page = browser.new_page()
        page.goto(f"{host}/site/browser.html")
        sync_api.expect(page.locator("#browser-page .old")).to_be_visible()
        page.close()


def test_earlier_builds_leave_nothing(extension, tmp_path):
    folder = tmp_path / extension.FOLDER
    for name in (
        "0123456789ab/page.js",
        "0123456789ab/ort.wasm",
        "page.js",
        "ort/a.js",
        "style.css",
        "models/m.onnx",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("old")
    (tmp_path / "new").write_text("new")
    files = {"ba9876543210/page.js": tmp_path / "new", "models/m.onnx": tmp_path / "new"}
    app = SimpleNamespace(outdir=tmp_path, browser_files=files)
    extension._copy(app, ValueError("a build that failed"))
    assert (folder / "page.js").is_file()
    extension._copy(app, None)
    left = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert left == {"style.css", *files}
    assert (folder / "models/m.onnx").read_text() == "new"
    assert not (folder / "ort").exists()


@pytest.mark.parametrize("changed", ["png.js", "runtime"])
def test_scripts_of_two_builds_have_no_address_in_common(extension, monkeypatch, tmp_path, changed):
    runtime, folder = tmp_path / "runtime", tmp_path / "scripts"
    runtime.mkdir()
    for name in extension._RUNTIME_FILES:
        (runtime / name).write_text(name)
    shutil.copytree(extension.SCRIPTS, folder)
    monkeypatch.setattr(extension, "SCRIPTS", folder)
    before = extension.scripts(runtime)
    assert extension.scripts(runtime) == before
    names = {path.name for path in folder.glob("*.js")} | set(extension._RUNTIME_FILES.values())
    assert {place.split("/")[1] for place in before} == names
    target = runtime / "ort.wasm.bundle.min.mjs" if changed == "runtime" else folder / changed
    target.write_text(target.read_text() + " ")
    after = extension.scripts(runtime)
    assert not set(before) & set(after)
    assert len({place.split("/")[0] for place in after}) == 1


def test_scripts_import_only_what_lies_beside_them(extension):
    names = {path.name for path in extension.SCRIPTS.glob("*.js")} | set(extension._RUNTIME_FILES.values())
    for path in extension.SCRIPTS.glob("*.js"):
        imported = re.findall(r'from "\./([^"]+)"|Worker\(address\("([^"]+)"', path.read_text())
        assert {one or other for one, other in imported} <= names, path.name


def test_models_are_exported_once(extension, address, monkeypatch):
    monkeypatch.setattr(extension, "export", lambda *_, **__: pytest.fail("exported again"))
    for model in extension.MODELS:
        assert extension.exported(model, ROOT / "work_dirs/browser").is_file()


def test_the_runtime_is_pinned_with_its_digest():
    package = json.loads((ROOT / "package.json").read_text())
    lock = json.loads((ROOT / "package-lock.json").read_text())["packages"]
    version = package["dependencies"]["onnxruntime-web"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    assert lock["node_modules/onnxruntime-web"]["version"] == version
    for name, entry in lock.items():
        assert not name or entry["integrity"].startswith("sha512-")
        assert entry.get("resolved", "https://registry.npmjs.org/").startswith("https://registry.npmjs.org/")
    assert f"npm onnxruntime-web {version}" in (ROOT / "docs/deploy.md").read_text(encoding="utf-8")
