"""Images and weights at addresses of servers that are hostile or broken."""

from __future__ import annotations

import http.client
import io
import os
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from hostile_server import RIGHT, HostileServer
from PIL import Image

from hardnet_suite import create_model
from hardnet_suite.data.fetching import FetchError, Limits, fetch_bytes, receive, shown
from hardnet_suite.data.sources import images_of
from hardnet_suite.errors import UserError
from hardnet_suite.prediction import predict
from hardnet_suite.weights import fetch
from hardnet_suite.weights.registry import Address, WeightsRow

LIMITS = Limits(size=1 << 20)
HASTY = replace(LIMITS, wait=0.4, window=0.8)
BAD = {
    "loop": "more than 5 redirects",
    "nowhere": "more than 5 redirects",
    "to_file": "only http and https addresses are fetched, got file:///etc/passwd",
    "to_ftp": "only http and https addresses are fetched, got ftp://",
    "to_data": "only http and https addresses are fetched, got data:",
    "to_password": "a user name or password, which is not supported",
    "to_nonsense": "an invalid address",
    "short": "cut short: ",
    "long": None,  # the reader's own words
    "negative": "expected a Content-Length in bytes, got '-5'",
    "wordy": "expected a Content-Length in bytes, got 'abc'",
    "contradictory": "expected a Content-Length in bytes, got ",
    "huge": "4611686018427387904 bytes, the limit is 1048576",
    "compressed": "compresses the file ('gzip')",
    "bomb": "compresses the file ('gzip')",
    "endless": "more than 1048576 bytes, the limit",
    "endless_chunks": "more than 1048576 bytes, the limit",
    "slow": "timed out: fewer than 61440 bytes in 0.8 s",
    "slow_chunks": "timed out: fewer than 61440 bytes in 0.8 s",
    "slow_headers": "timed out: fewer than 61440 bytes in 0.8 s",
    "slow_status": "timed out: fewer than 61440 bytes in 0.8 s",
    "slow_continue": "timed out: fewer than 61440 bytes in 0.8 s",
    "endless_header": "not valid HTTP",
    "endless_headers": "not valid HTTP",
    "never": "timed out: no answer for 0.4 s",
    "stalled": "timed out: ",
    "html": None,
    "empty": "empty",
    "no_content": "HTTP 204",
    "partial": "HTTP 206",
    "garbage": "not valid HTTP",
    "escape": "HTTP 404",
    "closed": "Remote end closed connection",
    "bad_chunks": "cut short",
    "missing": "HTTP 404",
}


@pytest.fixture(scope="module")
def jpeg() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (64, 48), "red").save(stream, "JPEG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def weights() -> bytes:
    stream = io.BytesIO()
    torch.save({"weight": torch.arange(100.0)}, stream)
    return stream.getvalue()


@pytest.fixture
def serve(monkeypatch):
    """Starts a hostile server of a file."""
    monkeypatch.setenv("no_proxy", "*")
    servers = []

    def start(body: bytes) -> HostileServer:
        servers.append(HostileServer(body))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("HARDNET_WEIGHTS_DIR", raising=False)
    return tmp_path / "hub" / "checkpoints"


def limits_of(behaviour: str) -> Limits:
    """Short times only where they are to run out, for the sake of a busy machine."""
    return HASTY if "timed out" in (BAD[behaviour] or "") else LIMITS


def row_of(*urls: str) -> WeightsRow:
    return WeightsRow("some_model", "published", tuple(map(Address, urls)), "classification", "MIT", "", "")


def one_line(call, *args, **kwargs) -> str:
    with pytest.raises(UserError) as caught:
        call(*args, **kwargs)
    message = str(caught.value)
    assert message.isprintable()
    return message


@pytest.mark.parametrize("behaviour", RIGHT)
def test_an_image_arrives(serve, jpeg, behaviour):
    (image,) = images_of(f"{serve(jpeg).address}/{behaviour}.jpg", limits=LIMITS)
    assert image.open().size == (64, 48)


@pytest.mark.parametrize("behaviour", RIGHT)
def test_weights_arrive(serve, weights, cache, behaviour):
    row = row_of(f"{serve(weights).address}/{behaviour}.pth")
    assert fetch(row, limits=LIMITS).read_bytes() == weights
    assert [path.name for path in cache.iterdir()] == [f"{behaviour}.pth"]


@pytest.mark.parametrize("behaviour", BAD)
def test_a_bad_image_address_is_one_line(serve, jpeg, behaviour):
    url = f"{serve(jpeg).address}/{behaviour}.jpg"
    (image,) = images_of(url, limits=limits_of(behaviour))
    message = one_line(image.open)
    assert url in message
    assert (BAD[behaviour] or "cannot read the image") in message
    assert "secret" not in message


@pytest.mark.parametrize("behaviour", BAD)
def test_a_bad_weights_address_is_one_line_and_leaves_nothing(serve, weights, cache, behaviour):
    url = f"{serve(weights).address}/{behaviour}.pth"
    message = one_line(fetch, row_of(url), limits=limits_of(behaviour))
    assert f"{url} (" in message
    assert (BAD[behaviour] or "weights") in message
    assert "secret" not in message
    assert list(cache.iterdir()) == []


def test_a_slow_first_address_leaves_the_second(serve, weights, cache):
    address = serve(weights).address
    row = row_of(f"{address}/slow.pth", f"{address}/ok.pth")
    assert fetch(row, limits=replace(LIMITS, window=1)).read_bytes() == weights


def test_bad_addresses_do_not_end_a_list(serve, jpeg, monkeypatch):
    monkeypatch.setattr("hardnet_suite.data.sources.IMAGE_LIMITS", replace(LIMITS, window=1))
    address = serve(jpeg).address
    names = ("ok", "slow", "endless", "to_file", "moved", "huge", "chunked")
    failed = []
    urls = [f"{address}/{name}.jpg" for name in names]
    network = create_model("hardnet39ds", num_classes=3)
    results = predict(network, [*urls, f"{address}/to_file.mp4"], failed=failed)
    assert [result.name for result in results] == [urls[0], urls[4], urls[6]]
    assert [name for name, _ in failed] == [urls[1], urls[2], urls[3], urls[5], f"{address}/to_file.mp4"]


def test_no_more_than_the_limit_is_ever_held(serve):
    for behaviour in ("endless", "endless_chunks", "huge"):
        stream = io.BytesIO()
        with pytest.raises(FetchError, match="the limit"):
            receive(f"{serve(b'').address}/{behaviour}.jpg", stream, LIMITS)
        assert stream.tell() <= LIMITS.size


def test_the_total_time_is_limited_however_much_arrives(serve):
    limits = replace(LIMITS, total=0.3, least=1)
    with pytest.raises(FetchError, match=r"timed out: not complete after 0\.3 s"):
        fetch_bytes(f"{serve(b'').address}/slow.jpg", limits)


def test_a_server_that_drops_every_connection_is_given_up(serve):
    """Although each brings one byte more."""
    with pytest.raises(FetchError, match="cut short: 100 of 1000000 bytes"):
        fetch_bytes(f"{serve(b'').address}/dropped.jpg", LIMITS)


def test_a_limit_is_inclusive(serve):
    server = serve(bytes(1000))
    for behaviour in ("ok", "unsized", "chunked"):
        url = f"{server.address}/{behaviour}.jpg"
        assert fetch_bytes(url, replace(LIMITS, size=1000)) == bytes(1000)
        with pytest.raises(FetchError, match="the limit"):
            fetch_bytes(url, replace(LIMITS, size=999))


def test_a_proxy_of_the_environment_is_used(serve, monkeypatch, jpeg):
    """And one that never answers a request for a tunnel is given up."""
    server = serve(jpeg)
    monkeypatch.delenv("no_proxy")
    monkeypatch.setenv("http_proxy", server.address)
    monkeypatch.setattr("hostile_server._Handler.do_GET", lambda self: self.ok(jpeg))
    assert fetch_bytes("http://host.invalid/a.jpg", LIMITS) == jpeg
    monkeypatch.setenv("https_proxy", server.address)
    monkeypatch.setattr("hostile_server._Handler.do_CONNECT", lambda self: self.slowly(b"H"), raising=False)
    with pytest.raises(FetchError, match="timed out: fewer than"):
        fetch_bytes("https://host.invalid/a.jpg", HASTY)


def test_a_host_without_tls_is_one_line(serve, jpeg):
    url = f"https{serve(jpeg).address.removeprefix('http')}/ok.jpg"
    (image,) = images_of(url, limits=LIMITS)
    assert "SSL" in one_line(image.open)


@pytest.mark.parametrize("pinned", [True, False])
def test_a_redirect_from_https_to_http_needs_a_hash(serve, jpeg, monkeypatch, pinned):
    address = serve(jpeg).address
    host = address.removeprefix("http://")
    # https in name only: the server of the test has no certificate
    monkeypatch.setattr("http.client.HTTPSConnection", http.client.HTTPConnection)
    monkeypatch.setattr(
        "hostile_server._Handler.moved", lambda self, _: self.head(302, Location=f"{address}/ok.jpg")
    )
    stream = io.BytesIO()
    if pinned:
        receive(f"https://{host}/moved.jpg", stream, LIMITS, pinned=True)
        assert stream.getvalue() == jpeg
    else:
        with pytest.raises(FetchError, match=f"a redirect from https to http: {address}/ok.jpg"):
            receive(f"https://{host}/moved.jpg", stream, LIMITS)


@pytest.mark.parametrize(
    "url",
    [
        "http://user:secret@127.0.0.1:1/a.jpg",
        "http://user:secret@127.0.0.1:1/a\nb.jpg",
        "https://:secret@[::1/a.jpg",
        "http://user:secret@127.0.0.1:1/a.mp4",
        "ftp://user:secret@host/a.jpg",
        "http://\x1b[31mhost.invalid/a.jpg",
        "http://127.0.0.1:1/\x1b\r\nHost: x/\u202e\udce9.jpg",
        "http://127.0.0.1:99999/a.jpg",
        f"http://{'a' * 70}.invalid/a.jpg",
    ],
)
def test_odd_addresses_are_one_line_without_passwords(url, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    (image,) = images_of([url], limits=LIMITS)
    message = one_line(image.open)
    assert "secret" not in message + image.name
    assert message.isprintable()


def test_addresses_as_messages_show_them():
    assert shown("http://user:pass@host/a@b.jpg?c=d@e") == "http://***@host/a@b.jpg?c=d@e"
    assert shown("http://host/gh/x@1/é f\n.jpg") == "http://host/gh/x@1/é f%0A.jpg"


# ---------------------------------------------------------------- videos


@pytest.fixture
def video(tmp_path, monkeypatch):
    """A video of three frames in the current folder."""
    monkeypatch.chdir(tmp_path)
    writer = cv2.VideoWriter("secret.avi", cv2.VideoWriter_fourcc(*"MJPG"), 5, (32, 24))
    for _ in range(3):
        writer.write(np.zeros((24, 32, 3), np.uint8))
    writer.release()
    return tmp_path / "secret.avi"


def test_a_video_at_an_address(serve, video):
    address = serve(video.read_bytes()).address
    for behaviour in ("ok", "moved"):
        assert len(list(images_of(f"{address}/{behaviour}.avi", limits=LIMITS))) == 3


@pytest.mark.parametrize("behaviour", ["slow", "slow_headers", "never", "endless", "loop", "missing", "html"])
def test_a_bad_video_address_is_one_line(serve, behaviour):
    message = one_line(list, images_of(f"{serve(b'').address}/{behaviour}.mp4", limits=HASTY))
    assert message.startswith("cannot open http://127.0.0.1")


@pytest.mark.parametrize("target", ["file://{}", "concat:{}", "subfile,,start,0,end,0,,:{}"])
def test_a_redirected_video_opens_no_local_file(serve, video, monkeypatch, target):
    location = target.format(video)
    monkeypatch.setattr("hostile_server._Handler.moved", lambda self, _: self.head(302, Location=location))
    assert "cannot open" in one_line(list, images_of(f"{serve(b'').address}/moved.avi", limits=LIMITS))


PLAYLISTS = {
    "ffconcat": "ffconcat version 1.0\nfile {}\n",
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{}\n#EXT-X-ENDLIST\n",
    "dash": "<?xml version='1.0'?><MPD><Period><BaseURL>{}</BaseURL></Period></MPD>",
    "sdp": "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns={}\r\nt=0 0\r\n",
}


@pytest.mark.parametrize("target", ["secret.avi", "file://{folder}/secret.avi", "concat:{folder}/secret.avi"])
@pytest.mark.parametrize("kind", PLAYLISTS)
def test_a_playlist_opens_no_local_file(serve, video, tmp_path, monkeypatch, kind, target):
    playlist = PLAYLISTS[kind].format(target.format(folder=tmp_path))
    (tmp_path / "a.mp4").write_text(playlist)
    message = one_line(list, images_of(tmp_path / "a.mp4"))
    assert "is a playlist that names other files" in message
    address = serve(playlist.encode()).address
    monkeypatch.setattr(
        "hostile_server._Handler.unsized",
        lambda self, body: (self.head(Content_Type="application/vnd.apple.mpegurl"), self.wfile.write(body)),
    )
    for behaviour in ("ok", "unsized"):
        assert one_line(list, images_of(f"{address}/{behaviour}.mp4", limits=HASTY))


@pytest.mark.skipif(os.name == "nt", reason="colons are not allowed in file names")
def test_a_file_named_like_a_protocol_is_a_file(video, tmp_path):
    (tmp_path / "concat:secret.avi").write_text("no video")
    assert "cannot open concat:secret.avi" in one_line(list, images_of("concat:secret.avi"))
