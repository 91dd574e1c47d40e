"""Images of every kind come as upright 8-bit RGB, broken ones as one line."""

from __future__ import annotations

import io
import os
import zlib

import numpy as np
import pytest
from PIL import Image
from stored_images import png, tiff

from hardnet_suite.data.images import (
    IMAGE_SUFFIXES,
    exif_orientation,
    header_sizes,
    open_image,
    open_rgb,
    read_grey,
    read_rgb,
    stored_size,
    to_grey,
    walk_files,
)
from hardnet_suite.data.in_memory import upright
from hardnet_suite.data.segmentation.label_images import read_stored
from hardnet_suite.errors import UserError


def pixels(*arguments) -> np.ndarray:
    image = open_rgb(*arguments)
    assert image.mode == "RGB"
    return np.asarray(image)


def test_grey_is_spread_over_the_channels(tmp_path):
    Image.fromarray(np.array([[0, 90, 255]], np.uint8)).save(tmp_path / "a.png")
    assert pixels(tmp_path / "a.png").tolist() == [[[0] * 3, [90] * 3, [255] * 3]]


def test_grey_images_keep_their_values_and_colours_become_luma(tmp_path):
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(values).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_grey(tmp_path / "grey.png"), values)
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "colour.png")
    luma = read_grey(tmp_path / "colour.png")
    assert luma.shape == (9, 7)
    assert luma.dtype == np.uint8
    assert np.abs(luma - pixels @ np.array([0.299, 0.587, 0.114])).max() < 1


def test_16_bits_become_8(tmp_path):
    for suffix in ("png", "tif"):
        Image.fromarray(np.array([[0, 257, 32896, 65535]], np.uint16)).save(tmp_path / f"a.{suffix}")
        assert pixels(tmp_path / f"a.{suffix}")[0, :, 1].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12, 16])
def test_grey_of_a_tiff_is_as_it_is_displayed(bits, photometric, orientation):
    white = 2**bits - 1
    values = np.unique(np.linspace(0, white, 7).astype(int))[None]
    content = tiff(values, bits, photometric=photometric, orientation=orientation)
    if (bits, photometric) == (12, 0):  # unknown to Pillow
        with pytest.raises(UserError, match="not an image in a format that is read"):
            read_rgb(content)
        return
    expected = (values if photometric else white - values) * 255 // white
    expected = np.rot90(expected, -1) if orientation == 6 else expected
    np.testing.assert_array_equal(read_grey(content), expected)
    with Image.open(io.BytesIO(content)) as opened:
        np.testing.assert_array_equal(np.asarray(upright(opened))[..., 0], expected)


@pytest.mark.parametrize("bits", [8, 16])
def test_pixels_with_a_sign_are_refused(bits):
    with pytest.raises(UserError, match="integers with a sign, which have no defined white; save it"):
        read_rgb(tiff(np.array([[-5, 0, 100]]), bits, sample_format=2))


@pytest.mark.parametrize(
    ("bits", "upper"), [(1, 0), (2, 0), (4, 0), (8, 0), (2, 0x500), (4, 0x500), (8, 0x500)]
)  # the upper bits do not count
def test_a_transparent_grey_of_few_bits_is_white(bits, upper):
    values = np.arange(2**bits)[None]
    for clear in range(0, 2**bits, max(1, 2**bits // 16)):
        content = png(values, bits, clear + upper)
        expected = values * 255 // (2**bits - 1)
        expected[values == clear] = 255
        np.testing.assert_array_equal(read_grey(content), expected)
        with Image.open(io.BytesIO(content)) as opened:
            for _ in range(2):
                np.testing.assert_array_equal(np.asarray(upright(opened))[..., 0], expected)


def test_cmyk(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg")
    red, green, blue = pixels(tmp_path / "a.jpg")[4, 4].tolist()
    assert red > 200
    assert max(green, blue) < 60


def test_transparent_pixels_lie_on_white(tmp_path):
    Image.fromarray(np.array([[[200, 0, 0, 255], [200, 0, 0, 0]]], np.uint8)).save(tmp_path / "a.png")
    assert pixels(tmp_path / "a.png").tolist() == [[[200, 0, 0], [255, 255, 255]]]
    image = Image.fromarray(np.array([[0, 1]], np.uint8), mode="P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.save(tmp_path / "b.png", transparency=1)
    assert pixels(tmp_path / "b.png").tolist() == [[[10, 20, 30], [255, 255, 255]]]
    Image.new("RGB", (1, 1), (9, 8, 7)).save(tmp_path / "d.png", transparency=(9, 8, 7))
    assert pixels(tmp_path / "d.png").tolist() == [[[255] * 3]]
    Image.new("LA", (1, 1), (50, 0)).save(tmp_path / "e.png")
    assert pixels(tmp_path / "e.png").tolist() == [[[255] * 3]]
    image.save(tmp_path / "c.png")
    assert pixels(tmp_path / "c.png").tolist() == [[[10, 20, 30], [40, 50, 60]]]


@pytest.mark.parametrize("key", [(0, 0, 0), (18, 18, 18), (4615, 4615, 4615), (255, 256, 65535)])
def test_of_16_bits_all_tell_the_transparent_colour(monkeypatch, key):
    monkeypatch.setattr("hardnet_suite.data.images._BAND", 4)
    near = [[value ^ bit for value in key] for bit in (0, 1, 128, 256, 0x8000)]
    rows = np.array([[*near, [200, 200, 200]], [[5000, 0, 0], *near[::-1]]], np.uint16)
    expected = np.where((rows == key).all(2, keepdims=True), 255, rows >> 8)
    content = png(rows, 16, key)
    assert read_rgb(content).tolist() == expected.tolist()
    with Image.open(io.BytesIO(content)) as image:
        assert np.asarray(upright(image)).tolist() == expected.tolist()


def test_of_8_bits_the_lower_8_of_the_transparent_colour_count():
    rows = np.array([[[1, 2, 3], [4, 2, 3]]], np.uint8)
    assert read_rgb(png(rows, 8, (257, 514, 3))).tolist() == [[[255] * 3, [4, 2, 3]]]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("bits", [8, 16])
def test_a_turned_grey_tiff_is_upright(tmp_path, orientation, bits):
    """By its path, Pillow 13 reads such a file at the wrong width, and says nothing."""
    values = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    stored = values if bits == 8 else values.astype(np.uint16) * 257
    Image.fromarray(stored).save(tmp_path / "a.tif", tiffinfo={0x0112: orientation})
    turned = {
        1: values,
        2: values[:, ::-1],
        3: values[::-1, ::-1],
        4: values[::-1],
        5: values.T,
        6: np.rot90(values, -1),
        7: values[::-1, ::-1].T,
        8: np.rot90(values),
    }[orientation]
    assert np.array_equal(np.asarray(open_rgb(tmp_path / "a.tif"))[..., 0], turned)


def test_an_image_beyond_pillows_limit_says_how_to_raise_it(tmp_path, monkeypatch):
    Image.new("RGB", (40, 40)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UserError, match=r"large\.png: .*MAX_IMAGE_PIXELS raises the limit"):
        open_rgb(tmp_path / "large.png")


def test_exif_turns_the_image(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90° clockwise to be seen upright
    values = np.zeros((2, 3, 3), np.uint8)
    values[0, 0] = 255
    Image.fromarray(values).save(tmp_path / "a.png", exif=exif)
    found = pixels(tmp_path / "a.png")
    assert found.shape == (3, 2, 3)
    assert found[0, 1].tolist() == [255] * 3


EXIF = Image.Exif()
EXIF[0x0112] = 6
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><tiff:Orientation>6</tiff:Orientation></x:xmpmeta>'
CHUNKS = {
    "eXIf": b"eXIf" + EXIF.tobytes().removeprefix(b"Exif\0\0"),
    "XMP": b"iTXtXML:com.adobe.xmp\0\0\0\0\0" + XMP,
    "raw profile": b"zTXtRaw profile type exif\0\0"
    + zlib.compress(b"\nexif\n%8d\n" % len(EXIF.tobytes()) + EXIF.tobytes().hex().encode() + b"\n"),
    "none": b"tEXtComment\0Orientation",
}


def png_with(chunk: bytes, place: bytes) -> bytes:
    """A PNG file of 3×2 pixels with a chunk before another one."""
    stream = io.BytesIO()
    Image.new("RGB", (3, 2)).save(stream, "PNG")
    content = stream.getvalue()
    start = content.index(place) - 4
    whole = (len(chunk) - 4).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    return content[:start] + whole + content[start:]


@pytest.mark.parametrize("place", [b"IDAT", b"IEND"])
@pytest.mark.parametrize("kind", CHUNKS)
def test_the_header_of_a_png_says_what_is_decoded(tmp_path, kind, place):
    path = tmp_path / "a.png"
    path.write_bytes(png_with(CHUNKS[kind], place))
    turned = kind != "none"
    assert read_rgb(path).shape[:2] == ((3, 2) if turned else (2, 3))
    assert header_sizes(path) == ((3, 2), (2, 3) if turned else (3, 2))
    assert exif_orientation(path) == (6 if turned else 1)


@pytest.mark.parametrize("kind", ["eXIf", "XMP", "raw profile"])
def test_what_precedes_the_pixels_of_a_png_is_read_without_them(tmp_path, kind):
    content = png_with(CHUNKS[kind], b"IDAT")
    path = tmp_path / "a.png"
    path.write_bytes(content[: content.index(b"IDAT") + 4])
    assert header_sizes(path)[1] == (2, 3)


@pytest.mark.parametrize(
    "tags", [{274: 6}, {700: XMP}, {274: 6, 700: XMP}, {274: 1, 700: XMP}, {274: 3, 700: XMP}, {}]
)
def test_the_header_of_a_tiff_says_what_is_decoded(tmp_path, tags):
    path = tmp_path / "a.tif"
    Image.new("RGB", (3, 2)).save(path, tiffinfo=tags)
    orientation = tags.get(274, 6 if tags else 1)
    assert header_sizes(path) == ((3, 2), (2, 3) if orientation == 6 else (3, 2))
    assert read_rgb(path).shape[1::-1] == header_sizes(path)[1]
    assert exif_orientation(path) == orientation


def test_the_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    for suffix, options in (("gif", {}), ("png", {}), ("webp", {"lossless": True})):
        path = tmp_path / f"a.{suffix}"
        frames[0].save(path, save_all=True, append_images=frames[1:], **options)
        assert pixels(path)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_pixels_of_32_bits_are_refused(tmp_path, kind):
    Image.fromarray(np.ones((2, 2), kind)).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match=r"a\.tif: its pixels are 32-bit (integers|floating-point numbers), "):
        open_rgb(tmp_path / "a.tif")


def test_bytes_and_open_files(tmp_path):
    stream = io.BytesIO()
    Image.new("RGB", (2, 1), "blue").save(stream, "PNG")
    assert pixels(stream.getvalue()).tolist() == [[[0, 0, 255]] * 2]
    stream.seek(0)
    assert pixels(stream).shape == (1, 2, 3)


def test_bad_files_are_one_line(tmp_path):
    Image.effect_noise((64, 64), 80).save(tmp_path / "a.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:900])
    (tmp_path / "page.jpg").write_text("<html>404</html>")
    (tmp_path / "empty.jpg").touch()
    for name, words in {
        "none.jpg": "none.jpg: no such file",
        "": ": it is a folder",
        "cut.jpg": "truncated",
        "page.jpg": "it is not an image",
        "empty.jpg": "it is not an image",
    }.items():
        with pytest.raises(UserError, match=words) as caught:
            open_rgb(tmp_path / name)
        assert str(caught.value).startswith(f"cannot read the image {tmp_path / name}")
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="cannot read the image http://a"):
        open_rgb(b"<html>", "http://a")


def tree(root, *names) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def walked(root, *arguments) -> list[str]:
    return [str(path.relative_to(root)) for path in walk_files(root, *arguments)]


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_every_image_suffix_is_walked_in_any_case(tmp_path, suffix):
    tree(tmp_path, f"a{suffix}", f"b/c{suffix.upper()}", "d.txt")
    assert walked(tmp_path, IMAGE_SUFFIXES) == [f"a{suffix}", f"b/c{suffix.upper()}"]


def test_a_walk_follows_linked_folders(tmp_path):
    tree(tmp_path, "elsewhere/x.png", "elsewhere/deep/y.png", "root/a.png")
    (tmp_path / "root/linked").symlink_to(tmp_path / "elsewhere")
    assert walked(tmp_path / "root") == ["a.png", "linked/deep/y.png", "linked/x.png"]


@pytest.mark.parametrize(
    ("link", "target"),
    [("up", "."), ("a/up", ".."), ("a/b/self", "."), ("a/b/top", "../.."), ("0first", "a"), ("z", "a/b")],
)
def test_a_walk_lists_each_real_file_once_by_its_own_path(tmp_path, link, target):
    tree(tmp_path, "a/b/x.png", "a/y.png", "z.png")
    (tmp_path / link).symlink_to(target)
    assert walked(tmp_path) == ["a/b/x.png", "a/y.png", "z.png"]


def test_two_folders_that_link_to_each_other(tmp_path):
    tree(tmp_path, "one/a.png", "two/b.png")
    (tmp_path / "one/other").symlink_to(tmp_path / "two")
    (tmp_path / "two/other").symlink_to(tmp_path / "one")
    assert walked(tmp_path) == ["one/a.png", "two/b.png"]
    assert walked(tmp_path / "one") == ["a.png", "other/b.png"]


def test_a_walk_skips_hidden_files_and_lists_broken_links(tmp_path):
    tree(tmp_path, ".a.png", "._b.png", ".ipynb_checkpoints/c.png", "d_mask.PNG", "e.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    assert walked(tmp_path, [".png"]) == ["d_mask.PNG", "e.png", "gone.png"]
    assert walked(tmp_path, ["_mask.png"]) == ["d_mask.PNG"]
    with pytest.raises(UserError, match=r"gone\.png: no such file"):
        open_rgb(tmp_path / "gone.png")


def test_a_walk_of_no_folder(tmp_path):
    with pytest.raises(UserError, match=r"cannot read the folder .*none: No such file"):
        walk_files(tmp_path / "none")


@pytest.mark.parametrize(
    "palette", [(0, 0, 0, 255, 255, 255), (255, 255, 255, 0, 0, 0), (9, 8, 7, 90, 80, 70)]
)
def test_a_bmp_with_a_palette_of_two_colours(tmp_path, palette):
    """Pillow takes 8 bits per pixel for one each where the palette is black and white."""
    indices = np.zeros((12, 20), np.uint8)
    indices[3:9, 5:15] = 1
    image = Image.fromarray(indices, "P")
    image.putpalette(palette)
    image.save(tmp_path / "a.bmp")
    expected = np.array(palette, np.uint8).reshape(2, 3)[indices]
    np.testing.assert_array_equal(pixels(tmp_path / "a.bmp"), expected)
    np.testing.assert_array_equal(read_stored(tmp_path / "a.bmp"), indices)
    opened = open_image((tmp_path / "a.bmp").read_bytes())
    assert opened.size == (20, 12)
    assert opened.tile, "decoded to learn its size"


def test_a_portable_greymap_of_16_bits(tmp_path):
    values = np.array([[0, 257, 32896, 65535]], ">u2")
    (tmp_path / "a.pgm").write_bytes(b"P5 4 1 65535\n" + values.tobytes())
    assert pixels(tmp_path / "a.pgm")[0, :, 1].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize("suffixes", [IMAGE_SUFFIXES, None])
def test_a_link_to_itself_is_listed_and_ends_nothing(tmp_path, suffixes):
    (tmp_path / "x.png").symlink_to(tmp_path / "x.png")
    (tmp_path / "ring").symlink_to(tmp_path / "gnir.png")
    (tmp_path / "gnir.png").symlink_to(tmp_path / "ring")
    Image.new("RGB", (4, 4)).save(tmp_path / "y.png")
    names = [path.name for path in walk_files(tmp_path, suffixes)]
    assert {"x.png", "y.png", "gnir.png"} <= {*names}
    with pytest.raises(UserError, match="cannot read the image"):
        open_rgb(tmp_path / "x.png")


def test_a_file_larger_than_any_image_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "a.bmp"
    Image.new("RGB", (8, 6)).save(path)
    os.truncate(path, 1 << 40)
    with pytest.raises(UserError, match=r"a\.bmp: 1099511627776 bytes, the limit is 1432704336; PIL"):
        read_rgb(path)
    with pytest.raises(UserError, match=r"a\.bmp: .*the limit is 1432704336"):
        read_stored(path)
    os.truncate(path, 2 << 20)
    assert read_rgb(path).shape == (6, 8, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64)
    with pytest.raises(UserError, match="2097152 bytes, the limit is 1049600"):
        read_rgb(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert read_rgb(path).shape == (6, 8, 3)


def test_postscript_is_no_image(tmp_path, monkeypatch):
    """Pillow would start Ghostscript for it, which runs it as a program."""
    script = tmp_path / "gs"
    script.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    path = tmp_path / "a.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\n%%EOF\n")
    for read in (read_rgb, stored_size):
        with pytest.raises(UserError, match="not an image in a format that is read"):
            read(path)
    assert not (tmp_path / "ran").exists()


def test_a_jpeg_of_endless_scans_is_refused():
    stream = io.BytesIO()
    Image.new("L", (16, 16)).save(stream, "JPEG", progressive=True)
    content = stream.getvalue()
    assert read_rgb(content).shape == (16, 16, 3)
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x01\x01\x00"
    with pytest.raises(UserError, match="more than 200 scans"):
        read_rgb(content[:-2] + 201 * scan + b"\xff\xd9")


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGB", "RGBA"])
def test_grey_of_a_bmp_is_that_of_its_rgb(tmp_path, mode):
    values = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    Image.fromarray(values).convert(mode).save(tmp_path / "a.bmp")
    np.testing.assert_array_equal(read_grey(tmp_path / "a.bmp"), to_grey(read_rgb(tmp_path / "a.bmp")))
