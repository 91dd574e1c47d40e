"""Text of any script in images: each character in a font that has it, or as its code point."""

from __future__ import annotations

import functools
import importlib.util
import io
import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import ImageDraw, ImageFont

FONT_FOLDERS = (
    *("/usr/share/fonts", "/usr/local/share/fonts", "~/.fonts", "~/.local/share/fonts"),
    *("/System/Library/Fonts", "/Library/Fonts", "~/Library/Fonts"),
    *("C:/Windows/Fonts", "~/AppData/Local/Microsoft/Windows/Fonts"),
)
_SUFFIXES = (".ttf", ".otf", ".ttc")
_PLACEHOLDERS = ("lastresort", "adobeblank", "adobenotdef")  # these "have" every character, as a box
_STYLES = ("bold", "italic", "oblique", "light", "thin", "black", "heavy", "mono", "condensed")
_BUILT_IN = ""  # stands for the path of Pillow's built-in font
_Fill = tuple[int, int, int]


def font_for(text: str, size: float) -> ImageFont.FreeTypeFont | None:
    """The first font that has a glyph for every character of a text, or None where no font has all.

    The order: Pillow's built-in font, the DejaVu Sans that ships with matplotlib, the fonts of the system's
    folders (``FONT_FOLDERS``), regular styles first.
    """
    path = _path_for(_normalised(text))
    return None if path is None else _load(path, size)


def drawable(text: str) -> str:
    """A text as it is drawn: composed (NFC), on one line, a character without a font as its code point.

    "猫 cat" becomes "U+732B cat" where no font has the ideograph.
    """
    return "".join(run for _, run in _runs(_normalised(text)))


def matplotlib_style(text: str, size: float) -> dict[str, Any]:
    """Properties of a matplotlib ``Text`` that show a text in a font with its glyphs, never as mathematics.

    One font is selected per text: the first that has all of it, otherwise the one that has most of it, with
    code points for the rest.

    Args:
        text: in any script.
        size: of the font, in points.
    """
    from matplotlib.font_manager import FontProperties

    text = _normalised(text)
    fonts = _fonts()[1:]  # without the built-in one, which is not a file
    path = _path_for(text, fonts) or max(fonts, key=lambda path: sum(_has(path, char) for char in text))
    shown = "".join(run for _, run in _runs(text, (path,)))
    return {"text": shown, "fontproperties": FontProperties(fname=path, size=size), "parse_math": False}


def chart_name(name: str, longest: int = 32) -> str:
    """A class name as charts show it: ``drawable``, cut with an ellipsis."""
    name = drawable(name)
    return name if len(name) <= longest else name[: longest - 1].rstrip() + "…"


@dataclass(frozen=True)
class Font:
    """Text of one size in any script; each part is set in the first font that has its characters."""

    size: int

    def getlength(self, text: str) -> float:
        """The width of a text in pixels."""
        return sum(_load(path, self.size).getlength(run) for path, run in _runs(_normalised(text)))

    def shorten(self, text: str, width: float) -> str:
        """``text`` as it is drawn, cut with an ellipsis where it is wider than ``width`` pixels."""
        text = drawable(text)
        if self.getlength(text) <= width:
            return text
        fits, stop = 0, min(len(text), 4 * max(1, int(width)))
        while fits < stop:  # the longest beginning that fits, found by bisection
            middle = (fits + stop + 1) // 2
            if self.getlength(text[:middle].rstrip() + "…") <= width:
                fits = middle
            else:
                stop = middle - 1
        return text[:fits].rstrip() + "…"

    def draw(
        self, draw: ImageDraw.ImageDraw, place: tuple[float, float], text: str, fill: _Fill, anchor: str = "l"
    ) -> None:
        """Draw a text on one line, its middle at the height of ``place``.

        Args:
            draw: draws on the image.
            place: (x, y) in pixels.
            text: on one line; line breaks are drawn as spaces.
            fill: the RGB colour.
            anchor: what lies at x: "l" the left end, "m" the middle, "r" the right end.
        """
        runs = _runs(_normalised(text))
        x, y = place
        x -= {"l": 0.0, "m": 0.5, "r": 1.0}[anchor] * self.getlength(text)
        ascent, descent = _load(runs[0][0] if len(runs) == 1 else _BUILT_IN, self.size).getmetrics()
        for path, run in runs:
            font = _load(path, self.size)
            draw.text((x, y + (ascent - descent) / 2), run, fill=fill, font=font, anchor="ls")
            x += font.getlength(run)


def _normalised(text: str) -> str:
    text = "".join(" " if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in text)
    return unicodedata.normalize("NFC", text)


def _clusters(text: str) -> Iterator[str]:
    """The characters of a text, each with the marks and joiners that belong to it."""
    cluster = ""
    for character in text:
        if cluster and not _is_mark(character) and not cluster.endswith("\u200d"):
            yield cluster
            cluster = ""
        cluster += character
    if cluster:
        yield cluster


def _is_mark(character: str) -> bool:
    return unicodedata.category(character).startswith(("M", "Cf"))


def _runs(text: str, fonts: tuple[str, ...] | None = None) -> list[tuple[str, str]]:
    """A normalised text as (path of a font, part drawn with it); at least one part."""
    path = _path_for(text, fonts)
    if path is not None:
        return [(path, text)]
    runs: list[tuple[str, str]] = []

    def add(path: str, part: str) -> None:
        if runs and runs[-1][0] == path:
            runs[-1] = (path, runs[-1][1] + part)
        else:
            runs.append((path, part))

    escaped = False  # whether a code point was written last
    for cluster in _clusters(text):
        last = (runs[-1][0],) if runs else ()
        path = next((font for font in last if _has(font, cluster)), None) or _path_for(cluster, fonts)
        if path is not None:
            add(path, f" {cluster}" if escaped and cluster[0].isalnum() else cluster)
            escaped = False
            continue
        for character in cluster:  # no font has the whole cluster
            path = _path_for(character, fonts)
            if path is not None and (not _is_mark(character) or cluster[0] == character):
                add(path, character)
                escaped = False
            elif _is_mark(character) and (
                unicodedata.category(character) == "Cf" or "\ufe00" <= character <= "\ufe0f"
            ):
                continue  # invisible
            else:
                apart = escaped or (runs and runs[-1][1][-1:].isalnum())
                escape = f"{' ' * bool(apart)}U+{ord(character):04X}"
                last = runs[-1][0] if runs else _BUILT_IN
                add(fonts[0] if fonts else last if _has(last, escape) else _BUILT_IN, escape)
                escaped = True
    return runs or [(_BUILT_IN, "")]


@functools.lru_cache(maxsize=4096)
def _path_for(text: str, fonts: tuple[str, ...] | None = None) -> str | None:
    """The path of the first font that has all of a normalised text."""
    if fonts is None:
        if text.isascii():
            return _BUILT_IN  # without reading any table
        fonts = _fonts()
    return next((path for path in fonts if _has(path, text)), None)


def _has(path: str, text: str) -> bool:
    return all(ord(character) in _code_points(path) for character in text)


@functools.cache
def _fonts() -> tuple[str, ...]:
    """The paths of all fonts, in the order in which they are asked."""
    paths = [_BUILT_IN]
    matplotlib = importlib.util.find_spec("matplotlib")
    for folder in matplotlib.submodule_search_locations if matplotlib else ():
        paths.append(str(Path(folder, "mpl-data", "fonts", "ttf", "DejaVuSans.ttf")))
    for folder in FONT_FOLDERS:
        files = [
            Path(parent, name)
            for parent, _, names in os.walk(Path(folder).expanduser())
            for name in names
            if name.lower().endswith(_SUFFIXES) and not name.lower().startswith(_PLACEHOLDERS)
        ]
        paths += map(str, sorted(files, key=lambda path: (_is_styled(path), path)))
    return tuple(paths)


def _is_styled(path: Path) -> bool:
    return any(style in path.stem.lower() for style in _STYLES)


@functools.cache
def _code_points(path: str) -> frozenset[int]:
    """What a font has glyphs for; nothing where it is broken or holds no outlines (bitmaps of one size)."""
    from fontTools.ttLib import TTFont

    try:
        source = path or io.BytesIO(ImageFont.load_default(size=10).font_bytes)
        with TTFont(source, fontNumber=0, lazy=True) as font:
            if not any(table in font for table in ("glyf", "CFF ", "CFF2")):
                return frozenset()
            glyphs = font.getBestCmap() or {}
            points = frozenset(point for point, glyph in glyphs.items() if glyph != ".notdef")
        _load(path, 10)
    except Exception:  # fontTools and FreeType raise many types on broken files
        return frozenset()
    return points


@functools.lru_cache(maxsize=256)
def _load(path: str, size: float) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size) if path else ImageFont.load_default(size=size)


def forget_fonts() -> None:
    """Look at the folders again at the next text: after fonts were installed."""
    for cached in (_fonts, _code_points, _path_for, _load):
        cached.cache_clear()
