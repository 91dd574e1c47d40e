"""The HTTP application: the answers of ``predict``, and what it refuses."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import threading
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("starlette", reason="the extra serve is not installed")
pytest.importorskip("httpx", reason="starlette's test client needs httpx")

from starlette.testclient import TestClient
from tiny_networks import tiny

from hardnet_suite import export, load_model
from hardnet_suite.cli.samples import SAMPLES
from hardnet_suite.matching import match_images
from hardnet_suite.serving import ServeLimits, create_app

MODELS = {
    "bus": ("hardnet39ds", "tiny_imagenet10", "bus.jpg"),
    "cells": ("ssd320_hardnet39ds", "bccd", "cells.jpg"),
    "street": ("fchardnet70", "camvid", "street.jpg"),
}
IMAGES = {name: (SAMPLES / image).read_bytes() for name, (_, _, image) in MODELS.items()}


@pytest.fixture(scope="module")
def models():
    return {name: load_model(model, weights=tag) for name, (model, tag, _) in MODELS.items()}


@pytest.fixture(scope="module")
def client(models):
    app = create_app(models, matcher=lambda a, b: match_images(a, b, weights="homography", top_k=256))
    with TestClient(app) as client:
        yield client


def png(size: tuple[int, int] = (8, 8), mode: str = "RGB") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("options", [{}, {"score": 0.6}, {"top": 2, "score": 0.1}])
def test_answers_are_those_of_predict(client, models, name, options):
    (prediction,) = models[name](IMAGES[name], **options)
    response = client.post("/v1/predict", params={"model": name, **options}, content=IMAGES[name])
    assert response.status_code == 200
    assert response.json() == {"model": name, **prediction.to_dict()}


@pytest.mark.parametrize("kind", ["alpha", "turned", "grey", "palette"])
def test_images_of_other_kinds_are_read_as_predict_reads_them(client, models, kind):
    image, stream, turned = Image.open(SAMPLES / "cells.jpg"), io.BytesIO(), Image.Exif()
    turned[0x0112] = 6
    if kind == "alpha":
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    image = image.convert({"grey": "L", "palette": "P"}.get(kind, image.mode))
    image.save(stream, "JPEG" if kind == "turned" else "PNG", exif=turned if kind == "turned" else b"")
    (prediction,) = models["cells"](stream.getvalue())
    response = client.post("/v1/predict", params={"model": "cells"}, content=stream.getvalue())
    assert response.json() == {"model": "cells", **prediction.to_dict()}


def test_the_first_model_is_the_default_and_a_form_is_the_same(client):
    answer = client.post("/v1/predict", content=IMAGES["bus"]).json()
    assert answer["model"] == "bus"
    form = client.post("/v1/predict", files={"file": ("any.jpg", IMAGES["bus"])})
    assert form.json() == answer


def test_drawing_and_mask_are_the_files_of_predict(client, models, tmp_path):
    (prediction,) = models["street"](IMAGES["street"])
    prediction.save(tmp_path, "street")
    answer = client.post(
        "/v1/predict", params={"model": "street", "include": "drawing,mask"}, content=IMAGES["street"]
    ).json()
    drawing = Image.open(io.BytesIO(base64.b64decode(answer["drawing"])))
    np.testing.assert_array_equal(np.array(drawing), np.array(prediction.draw()))
    mask = Image.open(io.BytesIO(base64.b64decode(answer["mask_png"])))
    written = Image.open(tmp_path / "street_mask.png")
    assert (mask.mode, mask.getpalette()) == (written.mode, written.getpalette())
    np.testing.assert_array_equal(np.array(mask), prediction.mask)


def test_matches(client):
    answer = client.post("/v1/match", files={"a": IMAGES["street"], "b": IMAGES["street"]}).json()
    assert answer["matches"] == len(answer["points_a"]) == len(answer["points_b"]) > 50
    assert answer["inliers"] == sum(answer["is_inlier"])
    np.testing.assert_allclose(answer["matrix"], np.eye(3), atol=1e-3)
    assert Image.open(io.BytesIO(base64.b64decode(answer["drawing"]))).mode == "RGB"


@pytest.mark.parametrize(
    ("params", "content", "status", "text"),
    [
        ({}, b"", 422, "not an image"),
        ({}, b"no image", 422, "not an image"),
        ({}, IMAGES["bus"][:2000], 422, "cannot read the image"),
        ({}, b"\x80\x04cos\nsystem\n", 422, "not an image"),
        ({}, png(mode="I;16") + b"more", 200, ""),
        ({"model": "none"}, IMAGES["bus"], 404, "there are bus, cells, street"),
        ({"top": "0"}, IMAGES["bus"], 400, "top=0"),
        ({"top": "many"}, IMAGES["bus"], 400, "top='many': expected an integer"),
        ({"score": "2"}, IMAGES["bus"], 400, "score=2.0"),
        ({"score": "nan"}, IMAGES["bus"], 400, "score=nan"),
        ({"include": "weights"}, IMAGES["bus"], 400, "include='weights'"),
        ({"path": "/etc/passwd"}, IMAGES["bus"], 400, "unknown option 'path'"),
    ],
)
def test_refusals_are_one_line(client, params, content, status, text):
    response = client.post("/v1/predict", params=params, content=content)
    assert response.status_code == status
    if status != 200:
        (line,) = response.json().values()
        assert text in line
        assert "\n" not in line


@pytest.mark.parametrize(
    ("files", "status"),
    [
        ({"a": IMAGES["street"]}, 400),
        ({"a": IMAGES["street"], "c": IMAGES["street"]}, 400),
        ({"a": IMAGES["street"], "b": b"no image"}, 422),
        ({str(index): b"x" for index in range(9)}, 400),
    ],
)
def test_forms_that_are_refused(client, files, status):
    response = client.post("/v1/match", files=files)
    assert (response.status_code, list(response.json())) == (status, ["error"])


def test_an_empty_file_is_no_image(client):
    told = {
        client.post("/v1/predict", **sent).text
        for sent in ({"content": b""}, {"content": b"no image"}, {"files": {"image": ("a", b"")}})
    }
    assert len(told) == 1
    assert client.post("/v1/predict", files=[("c", b""), ("d", b"")]).json() == {
        "error": "expected one image, got 2"
    }


@pytest.mark.parametrize("bad", ["a", "b"])
@pytest.mark.parametrize(
    ("content", "status", "reason"),
    [
        (b"", 422, "cannot read the image sent: it is not an image"),
        (b"\0\0\1\0", 422, "cannot read the image sent: icons"),
        (png(size=(8000, 8000), mode="1"), 413, "the image has 8000×8000 pixels"),
    ],
)
def test_which_of_two_images_is_bad(client, bad, content, status, reason):
    files = dict.fromkeys("ab", IMAGES["street"]) | {bad: content}
    response = client.post("/v1/match", files=files)
    assert response.status_code == status
    assert response.json()["error"].startswith(f"image {bad}: {reason}")


FORM = (
    b'--x\r\nContent-Disposition: form-data; name="a"; filename="a"\r\n\r\n'
    + IMAGES["bus"]
    + b"\r\n--x--\r\n"
)


@pytest.mark.parametrize(
    ("kind", "content", "status"),
    [
        ("multipart/form-data; boundary=x", FORM, 200),
        ("Multipart/Form-Data; boundary=x", FORM, 200),
        ("multipart/form-data; boundary=x", FORM[:-6], 400),
        ("multipart/form-data; boundary=x", FORM[: len(FORM) // 2], 400),
        ("multipart/form-data; boundary=y", FORM, 400),
        *(
            (f"multipart/form-data; boundary=x; charset={charset}", FORM, status)
            for charset, status in [("utf-8", 200), ("undefined", 400)]
        ),
        ("multipart/form-data", FORM, 400),
        ("multipart/form-data; boundary=x", FORM[:-8] + b"\r\n" + FORM, 400),  # two images of one name
        ("multipart/form-data; boundary=x", FORM[: len(FORM) // 2] + b"--", 400),
        ("multipart/form-data; boundary=x", FORM + b"an epilogue, which RFC 2046 has ignored", 200),
        ('multipart/form-data; boundary="x"', FORM, 200),
    ],
)
def test_forms_as_they_come(client, kind, content, status):
    response = client.post("/v1/predict", content=content, headers={"content-type": kind})
    assert response.status_code == status, response.text


def test_a_form_that_is_cut_is_told_so(client):
    content = FORM[: len(FORM) // 2] + b"--"
    kind = {"content-type": "multipart/form-data; boundary=x"}
    response = client.post("/v1/predict", content=content, headers=kind)
    assert response.json() == {"error": "not a form: it is cut short"}


def test_refused_requests_are_counted(models):
    with TestClient(create_app(models, hosts=("testserver",)), raise_server_exceptions=False) as client:
        image = IMAGES["bus"]
        foreign = {"sec-fetch-site": "cross-site"}
        answers = [
            client.post("/v1/predict", content=image, headers=foreign),
            client.post("/v1/predict", content=image, headers={"host": "other"}),
            client.put("/v1/predict", content=image),
            client.get("/v1/nothing"),
        ]
        assert [answer.status_code for answer in answers] == [403, 400, 405, 404]
        client.get("/nothing", headers={"host": "other"})  # no prediction was asked for
        text = client.get("/metrics").text
    for status in (403, 400, 405, 404):
        assert f'hardnet_requests_total{{model="",status="{status}"}} 1.0' in text


def test_no_model_is_named_as_matching_is(models):
    (model,) = list(models.values())[:1]
    create_app({"match": model})
    with pytest.raises(ValueError, match="a model is named match, as the matching of images is"):
        create_app({"match": model}, matcher=lambda a, b: None)


def test_a_form_takes_no_place_on_a_disk(models, monkeypatch):
    import tempfile

    def fail(*_, **__):
        raise AssertionError("written to a disk")

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", fail)
    with TestClient(create_app({"bus": models["bus"]})) as client:
        noise = np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), np.uint8)
        stream = io.BytesIO()
        Image.fromarray(noise).save(stream, "PNG")
        assert stream.tell() > 2 << 20
        assert client.post("/v1/predict", files={"a": stream.getvalue()}).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/none",
        "/page/none.js",
        "/page/..%2fapp.py",
        "/page/%2e%2e/app.py",
        "/samples/match/..%2f..%2fetc",
        "/v1/predict/",
    ],
)
def test_no_other_path_is_reachable(client, path):
    assert client.get(path).status_code == 404


def test_the_page_loads_nothing_from_elsewhere(client):
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for name in ("page.js", "style.css"):
        response = client.get(f"/page/{name}")
        assert response.status_code == 200
        assert "http://" not in response.text.replace("http://127", "")
        assert "https://" not in response.text


def test_limits_of_size(models):
    limits = ServeLimits(size=20_000, pixels=10_000)
    with TestClient(create_app({"bus": models["bus"]}, limits=limits)) as client:
        assert client.post("/v1/predict", content=png((100, 100))).status_code == 200
        response = client.post("/v1/predict", content=png((101, 100)))
        assert (response.status_code, "101×100" in response.json()["error"]) == (413, True)
        assert client.post("/v1/predict", content=b"x" * 20_001).status_code == 413
        parts = client.post("/v1/predict", content=(b"x" * 7000 for _ in range(4)))  # of no stated length
        assert parts.status_code == 413


@pytest.mark.parametrize("size", [(20_000, 2), (2, 20_000)])
def test_an_image_that_would_become_huge(models, size):
    """A classifier resizes the shorter side: of a line of pixels it would make a billion."""
    with TestClient(create_app({"bus": models["bus"]})) as client:
        response = client.post("/v1/predict", content=png(size))
        assert (response.status_code, f"{size[0]}×{size[1]}" in response.json()["error"]) == (413, True)


@pytest.mark.parametrize("side", [13_000, 20_000, 60_000])
def test_the_header_of_a_large_image_is_enough(client, side):
    """Pillow itself refuses the larger two."""
    ihdr = b"IHDR" + side.to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
    content = b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4, "big") + ihdr + zlib.crc32(ihdr).to_bytes(4, "big")
    data = b"IDAT" + zlib.compress(b"\0" * 9)
    content += (len(data) - 4).to_bytes(4, "big") + data + zlib.crc32(data).to_bytes(4, "big")
    response = client.post("/v1/predict", content=content)
    assert (response.status_code, "pixels" in response.json()["error"]) == (413, True), response.text


def test_icons_are_not_decoded_to_learn_their_size(client):
    stream = io.BytesIO()
    Image.new("RGB", (64, 64)).save(stream, "ICO")
    response = client.post("/v1/predict", content=stream.getvalue())
    assert (response.status_code, "icons" in response.json()["error"]) == (422, True)


def test_an_exported_file_that_does_not_take_an_image(tmp_path):
    """It is refused, and the answer does not say where the file is."""
    pytest.importorskip("onnxruntime")
    from hardnet_suite import create_model

    network = create_model("fchardnet70", num_classes=11, pretrained="camvid")
    path = export(network, tmp_path / "street.onnx", dynamic="size", preprocess=True)
    with TestClient(create_app({"street": load_model(path)})) as client:
        assert client.post("/v1/predict", content=png((128, 128))).status_code == 200
        response = client.post("/v1/predict", content=png((8, 96)))
    assert (response.status_code, "takes inputs of at least" in response.json()["error"]) == (422, True)
    assert str(tmp_path) not in response.text


@pytest.mark.parametrize("name", ["fchardnet70", "centernet_hardnet68"])
def test_an_exported_file_that_pads(tmp_path, name):
    """It takes pixels before they are padded; images of another size than its own are refused."""
    network = tiny(name)
    rule = replace(network.usage.preprocess, input_divisor=32)
    classes = tuple(map(str, range(network.num_classes)))
    network.usage = replace(network.usage, preprocess=rule, classes=classes)
    model = load_model(export(network, tmp_path / "net.pt", size=(72, 100), preprocess=True))
    with TestClient(create_app({"net": model})) as client:
        response = client.post("/v1/predict", content=IMAGES["street"])
    assert (response.status_code, response.json()["task"]) == (200, model.task), response.text
    (prediction,) = model(IMAGES["street"])
    assert response.json() == {"model": "net", **prediction.to_dict()}
    other = replace(model, preprocess=rule if rule.resize == "keep" else replace(rule, size=(64, 64)))
    with TestClient(create_app({"net": other})) as client:
        response = client.post("/v1/predict", content=png((160, 160)))
    assert response.status_code == 422, response.text
    assert f"{name} takes inputs of 96×128 pixels, got " in response.json()["error"]
    assert str(tmp_path) not in response.text


class Slow:
    """A model whose network waits until it may go on."""

    def __init__(self, model, monkeypatch):
        self.go_on, self.batches = threading.Event(), []
        answers = type(model).answers

        def wait(this, pixels, placements):
            self.batches.append(len(placements))
            assert self.go_on.wait(30)
            return answers(this, pixels, placements)

        monkeypatch.setattr(type(model), "answers", wait)


def test_more_than_the_queue_takes_is_told_to_come_again(models, monkeypatch):
    slow = Slow(models["bus"], monkeypatch)
    app = create_app({"bus": models["bus"]}, limits=ServeLimits(queue=3, batch_size=8))

    def post(client, found):
        found.append(client.post("/v1/predict", content=IMAGES["bus"]))

    with TestClient(app) as client:
        found: list = []
        threads = [threading.Thread(target=post, args=(client, found)) for _ in range(3)]
        for thread in threads:
            thread.start()
        assert in_progress(client, 3)
        refused = client.post("/v1/predict", content=IMAGES["bus"])
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200
        slow.go_on.set()
        for thread in threads:
            thread.join()
        assert [response.status_code for response in found] == [200] * 3
        assert sum(slow.batches) == 3
        assert client.post("/v1/predict", content=IMAGES["bus"]).status_code == 200
        text = client.get("/metrics").text
    assert 'hardnet_requests_total{model="bus",status="200"} 4.0' in text
    assert 'hardnet_requests_total{model="bus",status="503"} 1.0' in text
    assert 'hardnet_batch_images_sum{model="bus"} 4.0' in text


def test_an_answer_that_takes_too_long_keeps_its_place(models, monkeypatch):
    """Until its thread is done: what a server works on stays bounded. What only waited is dropped."""
    slow = Slow(models["bus"], monkeypatch)
    app = create_app({"bus": models["bus"]}, limits=ServeLimits(seconds=0.5, queue=2, batch_size=1))
    with TestClient(app) as client:
        statuses = [client.post("/v1/predict", content=IMAGES["bus"]).status_code for _ in range(3)]
        assert statuses == [504, 504, 503]
        assert 'requests_in_progress{model="bus"} 2.0' in client.get("/metrics").text
        slow.go_on.set()
        assert in_progress(client, 0)
        assert slow.batches == [1]
        assert client.post("/v1/predict", content=IMAGES["bus"]).status_code == 200


class Receiving:
    """A client that reads an answer as far as it is let: an ASGI ``send`` that waits after the first part."""

    def __init__(self, content: bytes, query: bytes = b"include=drawing"):
        self.go_on, self.parts, self.status = asyncio.Event(), [], None
        self.scope = {
            **{"type": "http", "method": "POST", "path": "/v1/predict", "raw_path": b"/v1/predict"},
            **{"query_string": query, "headers": [], "scheme": "http", "http_version": "1.1"},
            **{"server": ("testserver", 80), "client": ("testclient", 9), "root_path": ""},
        }
        self.body = [{"type": "http.request", "body": content, "more_body": False}]

    async def receive(self):
        if self.body:
            return self.body.pop()
        await asyncio.Event().wait()

    async def send(self, message):
        if message["type"] == "http.response.start":
            self.status = message["status"]
            return
        if self.parts:
            await self.go_on.wait()
        self.parts.append(message["body"])

    async def first_part(self):
        for _ in range(1000):
            if self.parts:
                return
            await asyncio.sleep(0.02)
        raise AssertionError("no answer")


def noise_png() -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def test_an_answer_keeps_its_place_until_it_is_received(models):
    app = create_app({"bus": models["bus"]}, limits=ServeLimits(queue=1))

    async def run():
        async with app.router.lifespan_context(app):
            slow, second, third = (Receiving(noise_png()) for _ in range(3))
            answer = asyncio.create_task(app(slow.scope, slow.receive, slow.send))
            await slow.first_part()
            await app(second.scope, second.receive, second.send)
            assert second.status == 503
            slow.go_on.set()
            await answer
            assert slow.status == 200
            assert len(slow.parts) > 2
            assert json.loads(b"".join(slow.parts))["drawing"]
            third.go_on.set()
            await app(third.scope, third.receive, third.send)
            assert (third.status, third.parts) == (200, slow.parts)

    asyncio.run(run())


def test_a_client_that_does_not_receive_its_answer_is_cut_off(models, caplog):
    caplog.set_level("WARNING", logger="hardnet_suite.serving")  # whatever other programs set for all
    app = create_app({"bus": models["bus"]}, limits=ServeLimits(queue=1, seconds=3))

    async def run():
        async with app.router.lifespan_context(app):
            slow, next_one = Receiving(noise_png()), Receiving(noise_png())
            await asyncio.wait_for(app(slow.scope, slow.receive, slow.send), 30)
            assert (slow.status, len(slow.parts)) == (200, 1)
            next_one.go_on.set()
            await app(next_one.scope, next_one.receive, next_one.send)
            assert next_one.status == 200

    asyncio.run(run())
    assert "an answer was cut off: not received within 3 s" in caplog.text


def in_progress(client, count: int) -> bool:
    """Whether so many requests are in progress within ten seconds."""
    for _ in range(200):
        if f'requests_in_progress{{model="bus"}} {float(count)}' in client.get("/metrics").text:
            return True
        threading.Event().wait(0.05)
    return False


def test_a_failure_is_500_for_its_own_request_alone(models, monkeypatch, caplog):
    caplog.set_level("WARNING", logger="hardnet_suite.serving")
    answers = type(models["bus"]).answers

    def fail_on_black(this, pixels, placements):
        if any(not each.any() for each in pixels):
            raise RuntimeError("secret of the machine")
        return answers(this, pixels, placements)

    monkeypatch.setattr(type(models["bus"]), "answers", fail_on_black)
    found: dict = {}
    with TestClient(create_app({"bus": models["bus"]}, limits=ServeLimits(delay=0.2))) as client:

        def post(name, content):
            found[name] = client.post("/v1/predict", content=content)

        threads = [
            threading.Thread(target=post, args=item)
            for item in {"black": png(), "bus": IMAGES["bus"]}.items()
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert {name: response.status_code for name, response in found.items()} == {"black": 500, "bus": 200}
    assert "secret" not in found["black"].text
    assert "secret of the machine" in caplog.text


def test_hosts(models):
    with TestClient(create_app({"bus": models["bus"]}, hosts=("localhost", "[::1]"))) as client:
        for host in ("localhost:8000", "LOCALHOST", "[::1]:8000"):
            assert client.get("/healthz", headers={"host": host}).status_code == 200, host
        for host in ("other.example", "localhost.other.example", "", "[::2]:8000"):
            response = client.get("/healthz", headers={"host": host})
            assert (response.status_code, list(response.json())) == (400, ["error"]), host


@pytest.mark.parametrize("host", ["name:8000", "*.name", "a b", ""])
def test_hosts_that_are_none(models, host):
    with pytest.raises(ValueError, match="without port"):
        create_app({"bus": models["bus"]}, hosts=(host,))


def test_pages_of_other_sites_are_refused(client):
    headers = {"sec-fetch-site": "cross-site"}
    response = client.post("/v1/predict", content=IMAGES["bus"], headers=headers)
    assert (response.status_code, list(response.json())) == (403, ["error"])
    headers = {"sec-fetch-site": "same-origin"}
    assert client.post("/v1/predict", content=IMAGES["bus"], headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://camera.lan:8001", "host": "camera.lan:8000"}, 403),
        ({"origin": "http://camera.lan.evil.example:8000", "host": "camera.lan:8000"}, 403),
        ({"origin": "http://camera.lan:8000", "host": "camera.lan:8000"}, 200),
        ({"origin": "https://CAMERA.lan", "host": "camera.lan"}, 200),
        ({"origin": "https://evil.example", "sec-fetch-site": "same-origin"}, 200),  # a proxy changed Host
        ({"origin": "http://camera.lan", "host": "camera.lan", "sec-fetch-site": "cross-site"}, 403),
        ({}, 200),
    ],
    ids=str,
)
def test_pages_of_other_sites_where_the_browser_says_only_the_origin(models, headers, status):
    """Browsers send Sec-Fetch-Site to https and localhost alone."""
    with TestClient(create_app({"bus": models["bus"]})) as client:
        response = client.post("/v1/predict", content=IMAGES["bus"], headers=headers)
        assert response.status_code == status
        assert client.get("/healthz", headers=headers).status_code == 200


def test_an_allowed_host_may_be_the_origin_behind_a_proxy(models):
    with TestClient(create_app({"bus": models["bus"]}, hosts=("cells.example", "127.0.0.1"))) as client:
        for origin, status in (("https://cells.example", 200), ("https://evil.example", 403)):
            headers = {"host": "127.0.0.1:8000", "origin": origin}
            response = client.post("/v1/predict", content=IMAGES["bus"], headers=headers)
            assert response.status_code == status, origin


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("model=bus&model=cells", "model is given 2 times"),
        ("top=1&top=1", "top is given 2 times"),
        ("include=mask", "include=mask: bus is for classification, and its answers have none"),
        ("model=cells&include=drawing,mask", "include=mask: cells is for detection"),
        ("top=1.5", "top='1.5': expected an integer"),
        ("score=", "score='': expected a number"),
    ],
)
def test_options_that_would_have_no_effect_are_refused(client, query, error):
    response = client.post(f"/v1/predict?{query}", content=IMAGES["bus"])
    assert response.status_code == 400
    assert error in response.json()["error"]


def test_options_in_a_form_are_refused(client):
    """They would be ignored: the first model would answer."""
    files = {"image": ("bus.jpg", IMAGES["bus"])}
    response = client.post("/v1/predict", files=files, data={"model": "cells"})
    assert response.status_code == 400
    assert "field 'model' is not a file" in response.json()["error"]
    assert client.post("/v1/predict", files=files).status_code == 200


@pytest.mark.parametrize(("method", "status"), [("PUT", 405), ("GET", 405), ("OPTIONS", 405)])
def test_other_methods(client, method, status):
    response = client.request(method, "/v1/predict")
    assert (response.status_code, list(response.json())) == (status, ["error"])
    assert response.headers["allow"] == "POST"


@pytest.mark.parametrize(
    "limits",
    [
        {"size": 0},
        {"queue": 0},
        {"batch_size": 0},
        {"delay": -1},
        {"delay": 9, "seconds": 5},
        {"seconds": float("inf")},
        {"pixels": 10**12},
    ],
)
def test_limits_out_of_range(limits):
    with pytest.raises(ValueError, match=r"expected|no image"):
        ServeLimits(**limits)


def test_no_model():
    with pytest.raises(ValueError, match="at least one model"):
        create_app({})


def test_batches_hold_images_of_one_size_and_every_answer_is_its_own(models, monkeypatch):
    """Images of two sizes, all at once: the answers are those of each alone."""
    from hardnet_suite.data.sources import images_of
    from hardnet_suite.serving import Batcher

    model = models["street"]
    images = [
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64 + 32 * (seed % 2), 96, 3), np.uint8))
        for seed in range(10)
    ]
    alone = [model(image)[0].mask for image in images]
    sizes = []

    async def run():
        options = {"batch_size": 4, "delay": 0.05, "observe": lambda count, _: sizes.append(count)}
        async with Batcher(model, **options) as batcher:
            sources = [next(images_of(image)) for image in images]
            return await asyncio.gather(*map(batcher.predict, sources))

    found = asyncio.run(run())
    assert sum(sizes) == 10
    assert max(sizes) > 1
    for mask, prediction in zip(alone, found, strict=True):
        assert (mask != prediction.mask).mean() < 0.01  # a batch rounds differently


def test_a_batch_has_at_most_so_many_pixels(models):
    from hardnet_suite.data.sources import images_of
    from hardnet_suite.serving import Batcher

    images = [Image.new("RGB", (96, 64), (seed, 0, 0)) for seed in range(6)]
    sizes = []

    async def run():
        options = {"batch_pixels": 2 * 96 * 64, "delay": 0.1, "observe": lambda count, _: sizes.append(count)}
        async with Batcher(models["street"], **options) as batcher:
            await asyncio.gather(*(batcher.predict(next(images_of(image))) for image in images))

    asyncio.run(run())
    assert sum(sizes) == 6
    assert max(sizes) == 2


def test_an_observer_that_fails_stops_nothing(models):
    from hardnet_suite.data.sources import images_of
    from hardnet_suite.serving import Batcher

    async def run():
        async with Batcher(models["street"], observe=lambda *_: 1 / 0) as batcher:
            for _ in range(2):
                await batcher.predict(next(images_of(Image.new("RGB", (64, 64)))))

    asyncio.run(asyncio.wait_for(run(), 60))


def test_page_files_are_in_the_package():
    import hardnet_suite.serving

    folder = Path(hardnet_suite.serving.__file__).parent / "page"
    assert {path.name for path in folder.iterdir()} == {"index.html", "page.js", "style.css"}
