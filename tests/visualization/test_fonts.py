"""Text of any script: the font of each character, code points for what no font has, never an empty box."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from PIL import Image, ImageDraw

from hardnet_suite.visualization import fonts
from hardnet_suite.visualization.classification import draw_confusion, draw_guesses
from hardnet_suite.visualization.curves import plot_training
from hardnet_suite.visualization.detection import draw_boxes
from hardnet_suite.visualization.fonts import Font, drawable, font_for, matplotlib_style
from hardnet_suite.visualization.segmentation import overlay_labels

SIZE = 24


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The one folder of system fonts, empty at first."""
    monkeypatch.setattr(fonts, "FONT_FOLDERS", (str(tmp_path / "fonts"),))
    fonts.forget_fonts()
    yield tmp_path / "fonts"
    fonts.forget_fonts()


def build_font(path, text, *, empty_notdef=False, mapped_to_notdef=""):
    """A font whose glyphs are full squares, one per character of ``text``."""

    def square(empty=False):
        pen = TTGlyphPen(None)
        if not empty:
            pen.moveTo((0, 0))
            for corner in ((0, 1000), (1000, 1000), (1000, 0)):
                pen.lineTo(corner)
            pen.closePath()
        return pen.glyph()

    names = {ord(character): f"u{ord(character):04X}" for character in text}
    order = [".notdef", *names.values()]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(order)
    builder.setupCharacterMap(names | {ord(character): ".notdef" for character in mapped_to_notdef})
    builder.setupGlyf({name: square(name == ".notdef" and empty_notdef) for name in order})
    builder.setupHorizontalMetrics(dict.fromkeys(order, (1000, 0)))
    builder.setupHorizontalHeader(ascent=1000, descent=0)
    builder.setupNameTable({"familyName": path.stem, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    path.parent.mkdir(parents=True, exist_ok=True)
    builder.save(path)
    fonts.forget_fonts()


def ink(text):
    """The pixels of a text, black on white."""
    image = Image.new("RGB", (600, 60), (255, 255, 255))
    Font(SIZE).draw(ImageDraw.Draw(image), (5, 30), text, (0, 0, 0))
    return np.asarray(image)[..., 0] < 128


@pytest.mark.parametrize(
    "text",
    ["wine glass 0.87", "caf\u00e9", "кошка", "Ёлка, їжак", "σκύλος", "שלום", "café кот σ", "x", "…", ""],
)
def test_scripts_of_the_shipped_fonts_are_drawn_as_they_are(text):
    assert drawable(text) == text
    assert font_for(text, SIZE) is not None
    assert ink(text).any() == bool(text)


def test_letters_are_drawn_as_themselves():
    """An empty box per character would make texts of equal length equal."""
    for texts in (("кот", "дом", "мир"), ("αβγ", "δεζ"), ("猫", "犬"), ("dog", "cat")):
        drawings = [ink(text) for text in texts]
        for index, drawing in enumerate(drawings):
            for other in drawings[:index]:
                assert not np.array_equal(drawing, other)


def test_every_printable_ascii_character_is_built_in():
    assert all(fonts._has(fonts._BUILT_IN, chr(point)) for point in range(32, 127))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("猫", "U+732B"),
        ("猫 cat", "U+732B cat"),
        ("cat猫", "cat U+732B"),
        ("猫犬x", "U+732B U+72AC x"),
        ("кот 猫", "кот U+732B"),
        ("고양이", "U+ACE0 U+C591 U+C774"),
        ("\U0001fae0", "U+1FAE0"),  # an emoji of 2021
        ("\ue000", "U+E000"),  # private use
        ("bad\ud83d", "bad U+D83D"),  # half of a surrogate pair
        ("e\u0301te\u0301", "\u00e9t\u00e9"),  # combining marks are composed
        ("\u732b\ufe0f\u200d", "U+732B"),  # selectors and joiners are invisible
        ("two\nlines\tand\x00", "two lines and "),
    ],
)
def test_characters_without_a_font_are_drawn_as_code_points(text, expected):
    assert drawable(text) == expected
    assert np.array_equal(ink(text), ink(expected))


@pytest.mark.parametrize("suffix", [".ttf", ".TTF", ".otf"])
@pytest.mark.parametrize("empty_notdef", [False, True])
def test_fonts_of_the_system_are_used(folder, suffix, empty_notdef):
    build_font(folder / "sub" / f"ideographs{suffix}", "猫犬", empty_notdef=empty_notdef)
    assert drawable("猫") == "猫"
    assert font_for("猫犬", SIZE).path == str(folder / "sub" / f"ideographs{suffix}")
    assert font_for("猫 cat", SIZE) is None  # no font has both, so the text is drawn in parts
    assert drawable("cat 猫 кот 鳥") == "cat 猫 кот U+9CE5"
    assert ink("猫").sum() == pytest.approx(SIZE * SIZE, rel=0.1)  # the square
    assert Font(SIZE).getlength("cat 猫") == pytest.approx(
        Font(SIZE).getlength("cat ") + Font(SIZE).getlength("猫"), abs=1
    )


def test_regular_styles_come_first(folder):
    for name in ("A-Bold.ttf", "B-Regular.ttf", "A-Italic.ttf"):
        build_font(folder / name, "猫")
    assert font_for("猫", SIZE).path == str(folder / "B-Regular.ttf")


def test_placeholder_and_broken_fonts_are_ignored(folder):
    build_font(folder / "LastResort-Regular.ttf", "猫")
    build_font(folder / "mapped.ttf", "犬", mapped_to_notdef="猫")
    (folder / "broken.ttf").write_bytes(b"\x00\x01\x00\x00 broken")
    (folder / "empty.otf").touch()
    fonts.forget_fonts()
    assert drawable("猫犬") == "U+732B 犬"


@pytest.mark.parametrize("name", ["x" * 5000, "кошка " * 500, "猫" * 500, "a", ""])
@pytest.mark.parametrize("width", [1, 40, 300])
def test_long_names_are_cut_to_the_width(name, width):
    font = Font(SIZE)
    short = font.shorten(name, width)
    assert short == drawable(name) or short.endswith("…")
    assert font.getlength(short) <= max(width, font.getlength("…"))


NAMES = ["кошка", "σκύλος", "猫", "cat 犬", "🐱", "שלום", "a$b$\\c_{", "two\nlines", "x" * 300, "bad\ud83d"]


@pytest.mark.parametrize("with_font", [False, True])
def test_every_drawing_takes_names_of_any_script_without_warnings(folder, tmp_path, with_font):
    if with_font:
        build_font(folder / "ideographs.ttf", "猫犬")
    image, count = np.zeros((240, 320, 3), np.uint8), len(NAMES)
    labels = (np.arange(240)[:, None] * count // 240).repeat(320, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_boxes(image, [[10, 10, 90, 90]] * count, range(count), names=NAMES)
        draw_guesses(image, NAMES, np.linspace(1, 0, count))
        overlay_labels(image, labels, [(9, 9, index) for index in range(count)], names=NAMES)
        draw_confusion(np.eye(count, dtype=int), NAMES, tmp_path / "confusion.png")
        draw_confusion(np.eye(1, dtype=int), NAMES[-2:-1], tmp_path / "long.png")
        for index, name in enumerate(NAMES):
            plot_training([{"loss": 1.0, "step": 1}], tmp_path / f"{index}.png", title=name)


def test_names_of_one_script_make_different_drawings(tmp_path):
    image = np.zeros((120, 160, 3), np.uint8)
    for first, second in (("кот", "дом"), ("猫", "犬"), ("σ", "λ")):
        chips, guesses, legends = (
            [draw(name) for name in (first, second)]
            for draw in (
                lambda name: draw_boxes(image, [[20, 50, 120, 100]], [0], names=[name]),
                lambda name: draw_guesses(image, [name], np.ones(1)),
                lambda name: overlay_labels(image, image[..., 0], [(9, 9, 9)], names=[name]),
            )
        )
        for drawings in (chips, guesses, legends):
            assert drawings[0].shape != drawings[1].shape or (drawings[0] != drawings[1]).any()


def test_matplotlib_takes_the_font_that_has_most_of_a_text(folder):
    build_font(folder / "ideographs.ttf", "猫犬cat ")
    whole = matplotlib_style("猫 cat", 8)
    assert whole["text"] == "猫 cat"
    assert whole["fontproperties"].get_file() == str(folder / "ideographs.ttf")
    mixed = matplotlib_style("кошка 猫", 8)
    assert mixed["text"] == "кошка U+732B"
    assert mixed["fontproperties"].get_file().endswith("DejaVuSans.ttf")


@pytest.mark.parametrize("width", [160, 640])
def test_the_score_of_a_long_name_stays_visible(width):
    image = np.zeros((120, width, 3), np.uint8)
    drawings = [
        draw_boxes(image, [[20, 50, 100, 100]], [0], names=["кошка " * 50], scores=[score])
        for score in (0.25, 0.75)
    ]
    assert not np.array_equal(*drawings)
