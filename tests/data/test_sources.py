"""Images from files, folders, patterns, addresses, arrays and videos, in order."""

from __future__ import annotations

import http.server
import io
import os
import pickle
import struct
import threading

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from hardnet_suite.data.images import open_rgb
from hardnet_suite.data.sources import (
    VIDEO_SUFFIXES,
    SourceImage,
    count_of,
    images_of,
    is_camera,
    is_one_video,
    is_single,
)
from hardnet_suite.errors import UserError


@pytest.fixture
def folder(tmp_path):
    for name in ("b.png", "a.jpg", "deep/c.webp", ".hidden.png"):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), "red").save(tmp_path / "set" / name)
    (tmp_path / "set/notes.txt").write_text("no image")
    return tmp_path / "set"


def names(source) -> list[str]:
    return [image.name for image in images_of(source)]


def test_files_folders_and_patterns(folder):
    expected = [str(folder / name) for name in ("a.jpg", "b.png", "deep/c.webp")]
    assert names(folder) == names(str(folder)) == expected
    assert names(folder / "b.png") == [expected[1]]
    assert names(f"{folder}/*.jpg") == [expected[0]]
    assert names([folder / "b.png", f"{folder}/*.jpg"]) == [expected[1], expected[0]]
    assert [count_of(s) for s in (folder, f"{folder}/*.jpg", folder / "a.jpg", [folder, folder])] == [
        3,
        1,
        1,
        6,
    ]
    (image,) = images_of(folder / "b.png")
    assert image.open().size == (8, 6)
    assert image.stem == "b"


def test_an_earlier_runs_drawings_are_no_images(folder):
    rows = ['{"drawing": "a.jpg", "mask": "a_mask.png"}', "no JSON", "[1]", '{"drawing": 3}']
    (folder / "out").mkdir()
    for name in ("out/a.jpg", "out/a_mask.png", "out/own.jpg"):
        Image.new("RGB", (8, 6)).save(folder / name)
    (folder / "out/predictions.jsonl").write_text("\n".join(rows))
    expected = [str(folder / name) for name in ("a.jpg", "b.png", "deep/c.webp", "out/own.jpg")]
    assert names(folder) == expected
    assert count_of(folder) == 4
    assert names(f"{folder}/out/*.*g") == [expected[-1]]
    assert names(folder / "out/a.jpg") == [str(folder / "out/a.jpg")]  # asked for by name


def test_iterators_are_read_as_they_come(folder):
    source = iter([folder / "b.png", Image.new("RGB", (3, 2))])
    assert count_of(source) is None
    assert not is_single(source)
    images = images_of(source)
    assert next(images).name == str(folder / "b.png")
    assert isinstance(next(source), Image.Image)  # the second had not been asked for
    assert len(names(path for path in folder.glob("*.jpg"))) == 1


def test_odd_sources_are_refused(folder, monkeypatch):
    for bad in ({"a": 1}, None, {"a.png"}, 1.5):
        with pytest.raises(ValueError, match="expected an image, path, array, tensor, bytes, an open file"):
            names(bad)
    with pytest.raises(UserError, match="expected an image, got an empty name"):
        names("")
    with pytest.raises(UserError, match=r"cannot fetch ftp://a/b\.jpg: only http and https"):
        names("ftp://a/b.jpg")
    first, failing = images_of([folder / "b.png", "file:///b.jpg"])
    assert first.open().size == (8, 6)
    with pytest.raises(UserError, match="only http and https"):
        failing.open()
    monkeypatch.setenv("HOME", str(folder))
    assert names("~/b.png") == [str(folder / "b.png")]


def test_images_can_be_pickled(folder):
    for source in (folder / "b.png", np.zeros((3, 2), np.uint8), Image.new("RGB", (2, 3)), [folder / "none"]):
        (image,) = images_of(source)
        again = pickle.loads(pickle.dumps(image))
        assert again.name == image.name
    with pytest.raises(UserError, match="no such file"):
        again.open()


def test_a_name_with_brackets_is_a_name_if_it_is_there(tmp_path):
    path = tmp_path / "a[1].png"
    Image.new("RGB", (8, 6)).save(path)
    assert names(path) == [str(path)]


def test_images_and_arrays():
    values = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    for source in (values, Image.fromarray(values)):
        (image,) = images_of(source)
        assert np.array_equal(np.asarray(image.open()), values)
    for grey in (values[..., 0], values[..., :1]):
        (image,) = images_of(grey)
        assert np.array_equal(np.asarray(image.open()), np.repeat(values[..., :1], 3, 2))
    assert names([values, Image.fromarray(values)]) == ["image_0", "image_1"]
    assert {image.origin for image in images_of([values, Image.fromarray(values)])} == {"memory"}
    for bad in (
        values.astype(float),
        values[None],
        values[..., :2],
        np.zeros((0, 3, 3), np.uint8),
        True,
        1.5,
    ):
        with pytest.raises(ValueError, match=r"expected an (array|image)"):
            list(images_of(bad))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (torch.zeros(6, 8, 3, dtype=torch.uint8), r"got shape \(6, 8, 3\), .*: tensor\.permute\(2, 0, 1\)"),
        (torch.zeros(2, 6, 8, 3), r"got shape \(2, 6, 8, 3\), .*: tensor\.permute\(0, 3, 1, 2\)"),
        (torch.zeros(6, 8), r"expected a tensor of shape \(3, H, W\) or \(N, 3, H, W\), got shape \(6, 8\)"),
        (torch.zeros(2, 6, 8), r"got shape \(2, 6, 8\), torch\.float32$"),
        (torch.zeros(1, 1, 3, 6, 8), r"got shape \(1, 1, 3, 6, 8\)"),
        (torch.zeros(3, 0, 8), "expected a tensor with pixels"),
        (torch.zeros(0, 3, 6, 8), "expected a tensor with pixels"),
        (torch.zeros(3, 6, 8, dtype=torch.int64), r"torch\.int64; convert the values to uint8"),
        (torch.zeros(3, 6, 8, dtype=torch.bool), r"torch\.bool; convert the values to uint8"),
        (255 * torch.ones(3, 6, 8), r"got values from 255 to 255: divide by 255"),
        (torch.linspace(-2, 2, 144).view(3, 6, 8), r"from -2 to 2: a normalised input\?"),
        (torch.linspace(-0.1, 1.02, 144).view(3, 6, 8), r"from -0\.1 to 1\.02: tensor\.clamp\(0, 1\)"),
        (torch.full((3, 6, 8), float("nan")), "it holds NaN or infinity"),
        (torch.full((3, 6, 8), float("inf")), "it holds NaN or infinity"),
        (np.zeros((3, 6, 8), np.uint8), r"got shape \(3, 6, 8\), uint8; transpose \(C, H, W\)"),
        (np.zeros((3, 6, 8), np.float32), r"float32; transpose .*; convert the values to uint8"),
        (np.zeros((6, 8, 3)), r"float64; convert the values to uint8 in 0…255$"),
        (np.zeros((6, 8, 3), np.uint16), r"uint16; convert the values"),
    ],
)
def test_tensors_and_other_arrays_are_refused_with_the_cure(values, words):
    for source in (values, [values]):
        with pytest.raises(ValueError, match=words) as caught:
            list(images_of(source))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_tensors(dtype):
    values = torch.randint(0, 256, (3, 3, 5, 4), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    given = values if dtype == torch.uint8 else values.to(dtype) / 255
    off = 1 if dtype in (torch.float16, torch.bfloat16) else 0
    images = list(images_of(given.requires_grad_() if dtype.is_floating_point else given))
    assert [image.name for image in images] == ["image_0", "image_1", "image_2"]
    assert (count_of(given), is_single(given), count_of(given[0]), is_single(given[0])) == (3, False, 1, True)
    for image, expected in zip(images, values, strict=True):
        difference = np.asarray(image.open()).astype(int) - expected.permute(1, 2, 0).numpy()
        assert np.abs(difference).max() <= off
    (image,) = images_of(given[0])
    assert (image.name, image.origin) == ("image", "memory")
    (bgr,) = images_of(given[0].flip(0), channels="bgr")
    assert np.array_equal(np.asarray(bgr.open()), np.asarray(image.open()))
    (grey,) = images_of(given[0, :1])
    assert np.array_equal(np.asarray(grey.open())[..., 2], np.asarray(image.open())[..., 0])
    assert names([given, "a.png", given[0]]) == ["image_0_0", "image_0_1", "image_0_2", "a.png", "image_2"]


def test_the_floats_of_torchvision_come_back_exactly():
    values = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    (image,) = images_of(torch.from_numpy(values).permute(2, 0, 1).float() / 255)
    assert np.array_equal(np.asarray(image.open()), values)


def test_bytes_and_open_files(folder):
    path = folder / "b.png"
    expected = open_rgb(path).tobytes()
    content = path.read_bytes()
    written = io.BytesIO()
    Image.open(path).save(written, "PNG")  # its end is where reading would begin
    for source in (content, bytearray(content), memoryview(content), io.BytesIO(content), written):
        assert (count_of(source), is_single(source)) == (1, True)
        (image,) = images_of(source)
        assert (image.name, image.origin, image.open().tobytes()) == ("image", "memory", expected)
        assert names([source, source]) == ["image_0", "image_1"]
    with path.open("rb") as file:
        (image,) = images_of(file)
    assert (image.name, image.stem, image.open().tobytes()) == (str(path), "b", expected)
    assert image.origin == "stored"
    assert pickle.loads(pickle.dumps(image)).open().tobytes() == expected

    class Upload:  # neither seekable nor named
        def read(self):
            return content

    assert names([Upload()]) == ["image_0"]


def test_bytes_and_files_that_hold_no_image(folder):
    for source in (b"", b"xx", io.BytesIO(b"xx"), (folder / "b.png").read_bytes()[:50]):
        (image,) = images_of(source)
        with pytest.raises(UserError, match="cannot read the image in memory"):
            image.open()
    with (folder / "notes.txt").open() as text, pytest.raises(ValueError, match=r"open\(path, 'rb'\)"):
        names(text)
    with pytest.raises(ValueError, match="opened in binary mode"):
        names(io.StringIO("a"))
    with pytest.raises(ValueError, match="got a VideoCapture whose read"):
        names(cv2.VideoCapture())
    (folder / "clip.mp4").write_bytes(b"video")
    with (folder / "clip.mp4").open("rb") as file, pytest.raises(ValueError, match="the path of a video"):
        names(file)
    file = (folder / "b.png").open("rb")
    file.close()
    with pytest.raises(ValueError, match="closed"):
        names(file)


def test_digits_are_a_camera_unless_something_has_that_name(folder, monkeypatch):
    monkeypatch.chdir(folder)
    for name in ("0", "12", "camera:0"):
        assert is_camera(name)
        assert is_one_video(name)
        assert count_of(name) is None
    (folder / "b.png").rename(folder / "0")
    (folder / "deep").rename(folder / "12")
    assert names("0") == ["0"]
    assert names("12") == ["12/c.webp"]
    assert not is_camera("0")
    assert not is_one_video("12")
    assert is_camera("camera:0")


def test_one_video(folder):
    (folder / "folder.mp4").mkdir()
    assert is_one_video("clip.mp4")
    assert is_one_video("https://h/clip.MP4?x=1")
    assert is_one_video(0)
    for source in ("a.png", folder, folder / "folder.mp4", "*.mp4", ["clip.mp4"], [0], b"xx"):
        assert not is_one_video(source)


def test_the_order_of_an_arrays_channels():
    rgb = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    rgba = np.dstack([rgb, np.full((4, 4), 255, np.uint8)])
    for source, bgr in ((rgb, rgb[..., ::-1]), (rgba, rgba[..., [2, 1, 0, 3]]), (rgb[..., 0], rgb[..., 0])):
        (expected,) = images_of(source)
        for given in (bgr, [bgr], iter([bgr])):
            (image,) = images_of(given, channels="bgr")
            assert np.array_equal(np.asarray(image.open()), np.asarray(expected.open()))
    with pytest.raises(ValueError, match="expected channels 'rgb' or 'bgr', got 'brg'"):
        list(images_of(rgb, channels="brg"))


@pytest.mark.parametrize("suffix", VIDEO_SUFFIXES)
def test_every_video_suffix_is_a_video(folder, suffix):
    for name in (f"clip{suffix}", f"clip{suffix.upper()}"):
        (folder / name).write_bytes(b"no video")
    assert count_of(folder) is None
    *_, first, second = [image for image in images_of(folder) if "clip" in image.name]
    for image in (first, second):
        with pytest.raises(
            UserError, match=r"clip.*(not a single frame|not a video that OpenCV)|cannot open .*clip"
        ):
            image.open()


def test_nothing_with_an_image_suffix_is_dropped(folder):
    (folder / "photo.heic").write_bytes(b"no format of Pillow's")
    (folder / "gone.jfif").symlink_to(folder / "nowhere")
    images = {image.name: image for image in images_of(folder)}
    for name in ("photo.heic", "gone.jfif"):
        with pytest.raises(UserError, match=name):
            images[str(folder / name)].open()


def test_linked_folders_are_followed_and_loops_end(folder, tmp_path):
    (folder / "deep/up").symlink_to(folder)
    (tmp_path / "all").mkdir()
    (tmp_path / "all/linked").symlink_to(folder)
    expected = ["a.jpg", "b.png", "deep/c.webp"]
    assert names(folder) == [str(folder / name) for name in expected]
    assert names(tmp_path / "all") == [str(tmp_path / "all/linked" / name) for name in expected]


def test_a_name_that_is_not_utf8(folder):
    path = os.fsdecode(os.fsencode(folder) + b"/caf\xe9.png")
    Image.new("RGB", (4, 4)).save(path)
    image = next(image for image in images_of(folder) if "caf" in image.name)
    assert image.name == path
    assert image.stem == "caf_"
    assert image.open().size == (4, 4)


def test_what_is_not_there(tmp_path):
    for source, words in (
        (f"{tmp_path}/*.png", "no images in"),
        (tmp_path, "no images in"),
        (tmp_path / "a.mp4", "no video"),
    ):
        with pytest.raises(UserError, match=words):
            list(images_of(source))
    (image,) = images_of(tmp_path / "a.png")  # known to be missing when it is opened
    with pytest.raises(UserError, match=r"cannot read the image .*a\.png: no such file"):
        image.open()


def test_single_or_not(folder):
    assert is_single(folder / "a.jpg")
    for address in ("http://a/b.jpg", "https://a/b.png?size=[1]*"):
        assert is_single(address)
        assert count_of(address) == 1
    assert not is_single("http://a/b.mp4?x=1")
    assert count_of("http://a/b.mp4?x=1") is None
    assert is_single(np.zeros((2, 2, 3), np.uint8))
    assert not is_single(folder)
    assert not is_single(f"{folder}/*.jpg")
    assert not is_single([folder / "a.jpg", folder / "b.png"])
    assert not is_single(0)


def test_names_fit_for_files():
    stems = {
        "a/b c.tar.png": "b c.tar",
        "/d/12:30/x*?.avi#000012": "x___000012",
        "https://h/p%2Fq%20r.jpg?x=/y.png": "q r",
        "camera:0#000003": "camera_0_000003",
        "...": "image",
        "#1.png": "_1",
        "a" * 300 + "_end.png": "a" * 116 + "_end",
    }
    assert {name: SourceImage(name, None).stem for name in stems} == stems


def test_a_cameras_frames_come_as_they_are_asked_for(monkeypatch, tmp_path):
    class Camera:
        asked = 0

        def __init__(self, number):
            assert number == 1

        def isOpened(self):  # noqa: N802
            return True

        def read(self):
            Camera.asked += 1
            return True, np.full((4, 6, 3), (0, 0, Camera.asked), np.uint8)  # BGR

        def get(self, key):
            return 90_000.0  # the ticks of a clock, no rate

        def release(self):
            Camera.asked = -1

    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    monkeypatch.chdir(tmp_path)
    for source in (1, "camera:1", "1", "camera:01"):
        Camera.asked = 0
        images = images_of(source)
        first, second = next(images), next(images)
        assert Camera.asked == 2
        assert first.fps is None
        assert [first.name, second.name] == ["camera:1#000000", "camera:1#000001"]
        assert first.origin == second.origin == "camera"
        assert np.asarray(second.open())[0, 0].tolist() == [2, 0, 0]
        images.close()
        assert Camera.asked == -1  # let go


def test_a_video_that_breaks_off_says_so(tmp_path, monkeypatch):
    class Broken:
        left = 3

        def __init__(self, source, *options):
            pass

        def isOpened(self):  # noqa: N802
            return True

        def read(self):
            self.left -= 1
            return self.left >= 0, np.zeros((4, 4, 3), np.uint8)

        def get(self, key):
            return 9.0

        def release(self):
            pass

    monkeypatch.setattr(cv2, "VideoCapture", Broken)
    (tmp_path / "a.mp4").touch()
    *frames, end = images_of(tmp_path / "a.mp4")
    assert [frame.open().size for frame in frames] == [(4, 4)] * 3
    with pytest.raises(UserError, match=r"a\.mp4 breaks off after 3 of 9 frames"):
        end.open()
    monkeypatch.setattr(Broken, "get", lambda *a: 4.0)  # an estimate may be off by one
    assert len(list(images_of(tmp_path / "a.mp4"))) == 3


def write_noise(path, codec: str) -> None:
    """100 frames of 4 s, which hardly compress."""
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), 25, (64, 48))
    assert writer.isOpened()
    for seed in range(100):
        writer.write(np.random.default_rng(seed).integers(0, 256, (48, 64, 3), np.uint8))
    writer.release()


def edit_list(path, start: float, seconds: float) -> None:
    """Shows a part of an MP4, as a lossless cut does; its header comes before its frames then."""
    content = bytearray(path.read_bytes())
    at = content.index(b"mdhd") + 16
    (scale,) = struct.unpack_from(">I", content, at)
    struct.pack_into(">Ii", content, content.index(b"elst") + 12, round(1000 * seconds), round(start * scale))
    media, header = content.index(b"mdat") - 4, content.index(b"moov") - 4
    table = content.index(b"stco") + 8  # of the places of frames in the file
    (count,) = struct.unpack_from(">I", content, table)
    for place in range(table + 4, table + 4 + 4 * count, 4):
        (old,) = struct.unpack_from(">I", content, place)
        struct.pack_into(">I", content, place, old + len(content) - header)
    path.write_bytes(content[:media] + content[header:] + content[media:header])


def end_of(path) -> tuple[int, str]:
    """How many frames a video has, and the error after them."""
    *frames, last = images_of(path)
    try:
        last.open()
    except UserError as error:
        return len(frames), str(error)
    return len(frames) + 1, ""


def test_a_losslessly_trimmed_video_is_whole(tmp_path):
    path = tmp_path / "a.mp4"
    write_noise(path, "mp4v")
    edit_list(path, 3, 1)
    assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT) == 100
    assert end_of(path) == (25, "")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 9 // 10])
    number, error = end_of(path)
    assert 10 < number < 20
    assert error == f"{path} breaks off after {number} of 25 frames"
    path.write_bytes(content[: len(content) * 85 // 100].ljust(len(content), b"\0"))  # not complete yet
    number, error = end_of(path)
    assert error == f"{path} breaks off after {number} of 25 frames"


def test_a_video_whose_rate_varies_is_whole(tmp_path):
    write_noise(tmp_path / "a.avi", "MJPG")
    frames = cv2.VideoCapture(str(tmp_path / "a.avi"), cv2.CAP_FFMPEG, [cv2.CAP_PROP_FORMAT, -1])
    path = tmp_path / "b.mkv"
    codec, raw = int(frames.get(cv2.CAP_PROP_FOURCC)), [cv2.VIDEOWRITER_PROP_RAW_VIDEO, 1]
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, codec, 25, (64, 48), raw)
    for number in range(100):
        writer.set(cv2.VIDEOWRITER_PROP_PTS, number if number < 20 else 20 + 4 * (number - 20))
        writer.set(cv2.VIDEOWRITER_PROP_KEY_FLAG, 1)
        writer.write(frames.read()[1])
    writer.release()
    assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT) > 300  # its duration, times 25
    assert end_of(path) == (100, "")
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], content[: len(content) // 2] + bytes(len(content) // 2)):
        path.write_bytes(damaged)
        number, error = end_of(path)
        assert 40 < number < 60
        assert f"b.mkv breaks off after {number} of 3" in error


@pytest.mark.parametrize(
    ("suffix", "codec"), [("avi", "MJPG"), ("mkv", "mp4v"), ("mkv", "MJPG"), ("avi", "mp4v")]
)
def test_a_cut_video_breaks_off(tmp_path, suffix, codec):
    path = tmp_path / f"a.{suffix}"
    write_noise(path, codec)
    assert end_of(path) == (100, "")
    content = path.read_bytes()
    for share in (0.2, 0.5, 0.9):
        path.write_bytes(content[: int(share * len(content))])
        number, error = end_of(path)
        assert 0 < number < 95
        assert error == f"{path} breaks off after {number} of 100 frames"


def test_video_frames_in_order(tmp_path):
    path = str(tmp_path / "clip.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"MJPG"), 5, (32, 24))
    for shade in (0, 120, 240):
        writer.write(np.dstack([np.full((24, 32), v, np.uint8) for v in (0, 0, shade)]))  # BGR: red
    writer.release()
    assert count_of(path) is None
    images = list(images_of(path))
    assert [image.stem for image in images] == ["clip_000000", "clip_000001", "clip_000002"]
    shades = [np.asarray(image.open())[12, 16].tolist() for image in images]
    assert [round(shade[0], -1) for shade in shades] == [0, 120, 240]
    assert max(shade[2] for shade in shades) < 30
    (tmp_path / "broken.mp4").write_bytes(b"no video at all")
    with pytest.raises(UserError, match=r"cannot open .*broken\.mp4"):
        list(images_of(tmp_path / "broken.mp4"))


@pytest.fixture
def server(folder):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_addresses(server):
    (image,) = images_of(f"{server}/b.png?size=big")
    assert (image.stem, image.open().size) == ("b", (8, 6))
    for name, words in (
        ("none.png", "cannot fetch .*none.png: "),
        ("notes.txt", "cannot read the image"),
    ):
        (image,) = images_of(f"{server}/{name}")
        with pytest.raises(UserError, match=words):
            image.open()


def test_odd_addresses(server, folder):
    """Spaces are sent as browsers send them; what is no address at all is one bad image, no more."""
    Image.new("RGB", (5, 4)).save(folder / "é f.png")
    for address in (f"{server}/é f.png", f"{server}/%C3%A9%20f.png", f"HTTP{server[4:]}/é f.png"):
        (image,) = images_of(address)
        assert image.open().size == (5, 4)
    for bad in ("http://[::1/b.jpg", "http://127.0.0.1:port/b.jpg", "http:///b.jpg"):
        (image,) = images_of(bad)
        with pytest.raises(UserError, match="cannot fetch"):
            image.open()


def test_an_address_is_asked_once(server, monkeypatch):
    (image,) = images_of(f"{server}/b.png")
    first = image.open()
    monkeypatch.setattr("hardnet_suite.data.sources.fetch_bytes", lambda *a: pytest.fail("asked again"))
    assert image.open().tobytes() == first.tobytes()


def test_images_in_memory_that_cannot_be_decoded_are_one_line(tmp_path):
    Image.effect_noise((64, 64), 50).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content[: len(content) // 2])
    for image in (Image.open(tmp_path / "a.png"), Image.new("RGB", (0, 5)), Image.new("RGB", (5, 0))):
        (source,) = images_of(image)
        with pytest.raises(UserError, match="cannot read the image in memory") as caught:
            source.open()
        assert "\n" not in str(caught.value)


def test_frames_have_pillows_limit(tmp_path, monkeypatch):
    path = tmp_path / "huge.mp4"
    Image.new("RGB", (64, 64)).save(tmp_path / "huge.png")
    (tmp_path / "huge.png").rename(path)
    assert [image.open().size for image in images_of(path)] == [(64, 64)]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    with pytest.raises(UserError, match=r"frames of 64×64 pixels, beyond Pillow's limit of 4000"):
        list(images_of(path))
