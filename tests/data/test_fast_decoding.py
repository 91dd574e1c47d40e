"""The fast decoder gives Pillow's pixels, and leaves to Pillow what it would decode differently."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from hardnet_suite.data import fast_decoding
from hardnet_suite.data.fast_decoding import decode_plain
from hardnet_suite.data.images import read_rgb


def encode(image: Image.Image, form: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def drawn(seed: int, mode: str = "RGB") -> Image.Image:
    """Smooth shades with noise, of a random odd or even size."""
    random = np.random.default_rng(seed)
    width, height = random.integers(1, 90, 2).tolist()
    noise = random.normal(0, random.uniform(0, 30), (height, width, 3))
    shades = Image.fromarray(random.integers(0, 256, (5, 4, 3), np.uint8)).resize((width, height))
    return Image.fromarray((np.asarray(shades) + noise).clip(0, 255).astype(np.uint8)).convert(mode)


def by_pillow(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("seed", range(6))
def test_plain_files_have_pillows_pixels(seed, mode):
    image = drawn(seed, mode)
    files = [encode(image, "PNG")]
    for subsampling in (0, 1, 2):
        for options in ({}, {"progressive": True}, {"optimize": True}, {"restart_marker_blocks": 2}):
            quality = 10 + 17 * seed
            files.append(encode(image, "JPEG", quality=quality, subsampling=subsampling, **options))
    for content in files:
        pixels = decode_plain(content, "rgb")
        assert pixels is not None
        np.testing.assert_array_equal(pixels, by_pillow(content))
        np.testing.assert_array_equal(decode_plain(content, "bgr"), pixels[..., ::-1])


def test_photos_have_pillows_pixels(shared):
    paths = sorted((shared / "data/coco_mini/val2017").glob("*.jpg"))
    assert paths
    for path in paths:
        content = path.read_bytes()
        np.testing.assert_array_equal(read_rgb(path), by_pillow(content))


def test_what_the_decoders_treat_differently_is_left_to_pillow():
    image, exif, text = drawn(3), Image.Exif(), PngImagePlugin.PngInfo()
    exif[0x0112] = 6
    xmp = b"<x:xmpmeta><rdf:Description tiff:Orientation='6'/></x:xmpmeta>"
    text.add_text("Raw profile type exif", "…")
    jpeg, png = encode(image, "JPEG"), encode(image, "PNG")
    damaged = bytearray(png)
    damaged[len(png) // 2] ^= 1
    left = {
        "JPEG with EXIF": encode(image, "JPEG", exif=exif),
        "JPEG with XMP": encode(image, "JPEG", xmp=xmp),
        "RGB JPEG": encode(image, "JPEG", keep_rgb=True),
        "two images in a JPEG": encode(image, "MPO", save_all=True, append_images=[drawn(4)]),
        "CMYK JPEG": encode(image.convert("CMYK"), "JPEG"),
        "JPEG with a tail": jpeg + b"tail",
        "truncated JPEG": jpeg[:-2],
        "PNG with EXIF": encode(image, "PNG", exif=exif),
        "PNG with a raw profile": encode(image, "PNG", pnginfo=text),
        "PNG with alpha": encode(image.convert("RGBA"), "PNG"),
        "PNG with a transparent colour": encode(image, "PNG", transparency=(0, 0, 0)),
        "palette PNG": encode(image.convert("P"), "PNG"),
        "16-bit PNG": encode(Image.fromarray(np.zeros((4, 4), np.uint16)), "PNG"),
        "1-bit PNG": encode(image.convert("1"), "PNG"),
        "cut in its header": jpeg[:30],
        "PNG without a header": png[:20],
        "nothing": b"",
        "truncated PNG": png[:-12],
        "damaged PNG": bytes(damaged),
        "BMP": encode(image, "BMP"),
        "WebP": encode(image, "WEBP"),
    }
    assert [name for name, content in left.items() if decode_plain(content, "rgb") is not None] == []


def test_upright_exif_and_other_segments_are_plain():
    image, exif = drawn(5), Image.Exif()
    upright = b'<x:xmpmeta><rdf:Description tiff:Orientation="1"/></x:xmpmeta>'
    assert decode_plain(encode(image, "JPEG", xmp=upright), "rgb") is not None
    exif[0x010F], exif[0x0112] = "maker", 1
    for options in ({"exif": exif}, {"comment": b"text"}, {"icc_profile": b"x" * 99}, {"dpi": (72, 72)}):
        content = encode(image, "JPEG", **options)
        np.testing.assert_array_equal(decode_plain(content, "rgb"), by_pillow(content))


def test_pillows_limit_of_size_holds(monkeypatch):
    for content in (encode(drawn(6), "JPEG"), encode(drawn(6), "PNG")):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3)
        assert decode_plain(content, "rgb") is None
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
        assert decode_plain(content, "rgb") is not None


@pytest.fixture
def fresh():
    fast_decoding._proven_opencv.cache_clear()
    yield
    fast_decoding._proven_opencv.cache_clear()


def test_an_opencv_that_decodes_differently_is_not_used(fresh, monkeypatch):
    content = encode(drawn(1), "JPEG")
    expected = read_rgb(content)
    fast_decoding._proven_opencv.cache_clear()
    monkeypatch.setattr(cv2, "imdecode", lambda *a, decode=cv2.imdecode: decode(*a) ^ 1)
    assert decode_plain(content, "rgb") is None
    np.testing.assert_array_equal(read_rgb(content), expected)


def test_without_opencv_pillow_decodes(fresh, monkeypatch):
    content = encode(drawn(2), "PNG")
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    assert decode_plain(content, "rgb") is None
    np.testing.assert_array_equal(read_rgb(content), by_pillow(content))


@pytest.mark.parametrize("marker", [b"\xff\xe1", b"\xff\xe2", b"\xff\xee"])
def test_application_data_behind_the_frame_is_left_to_pillow(marker):
    """It may hold an orientation, a profile, or how the colours are stored."""
    jpeg = encode(drawn(5), "JPEG")
    exif = Image.Exif()
    exif[0x0112] = 6
    segment = exif.tobytes()
    start = jpeg.index(b"\xff\xda")
    content = jpeg[:start] + marker + (len(segment) + 2).to_bytes(2, "big") + segment + jpeg[start:]
    assert decode_plain(content, "rgb") is None
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB")
    assert np.array_equal(read_rgb(content), np.asarray(expected))
    assert (expected.size != drawn(5).size) == (marker == b"\xff\xe1")


def test_xmp_in_a_plain_text_is_left_to_pillow():
    text = PngImagePlugin.PngInfo()
    text.add_text("XML:com.adobe.xmp", "<tiff:Orientation>6</tiff:Orientation>")
    content = encode(drawn(5), "PNG", pnginfo=text)
    assert decode_plain(content, "rgb") is None
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    assert np.array_equal(read_rgb(content), np.asarray(expected))
