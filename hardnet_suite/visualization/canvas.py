"""What all drawings share: colours, text, titles, contact sheets, reading and writing of images."""

from __future__ import annotations

import colorsys
import io
import math
import os
import unicodedata
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from hardnet_suite.data.files import read_bytes
from hardnet_suite.data.images import open_rgb
from hardnet_suite.errors import UserError, WriteError
from hardnet_suite.failures import explain
from hardnet_suite.outputs import short_stem, whole_file, write_file
from hardnet_suite.visualization.fonts import Font

Color = tuple[int, int, int]

INK: Color = (28, 30, 34)
PAPER: Color = (245, 245, 242)
_GAP = 6  # pixels between images
_SPACE = 28  # pixels between captioned images
_CAPTION = 19  # size of the font of captions
_FAINT: Color = (110, 113, 120)
_MARK = "hardnet-suite plot (replaced by the next)"  # never shorten it: other files name the program
_DRAWING = "hardnet-suite prediction (replaced by the next)"
_LARGEST_FIGURE = 1 << 26  # bytes
_SVG_HEAD = 4096  # bytes, within which Matplotlib writes the creator
# how a figure of each format names its creator, for Matplotlib
_CREATOR = {
    "png": {"metadata": {"Software": _MARK}},
    "jpg": {"pil_kwargs": {"comment": _MARK}},
    "jpeg": {"pil_kwargs": {"comment": _MARK}},
    "pdf": {"metadata": {"Creator": _MARK}},
    "svg": {"metadata": {"Creator": _MARK}},
}
_LEGEND_NAME = 30  # times the size of the font: where the image is narrower, longer names are cut


def class_color(index: int) -> Color:
    """The RGB colour (0–255) of a class: the same in every image, with distant hues for adjacent indices."""
    hue = (0.02 + index * (math.sqrt(5) - 1) / 2) % 1  # steps of the golden ratio never repeat a hue
    value, saturation = ((0.98, 0.78), (0.80, 0.90), (1.0, 0.52))[index % 3]
    return tuple(round(255 * channel) for channel in colorsys.hsv_to_rgb(hue, saturation, value))


def beside(*images: np.ndarray, titles: Sequence[str] = ("ground truth", "prediction")) -> np.ndarray:
    """Images (H, W, 3) uint8 side by side, each under its title; a wider title widens the cell.

    Raises:
        ValueError: an image of another shape or type, or a number of titles that differs from that of images.
    """
    images = [as_image(image) for image in images]
    if not len(images) == len(titles) > 0:
        raise ValueError(f"beside needs one title per image, got {len(titles)} for {len(images)} images")
    font = title_font(images[0])
    bar = round(2 * font.size)
    titled = []
    for image, title in zip(images, titles, strict=True):
        height, width = image.shape[:2]
        cell = max(width, math.ceil(font.getlength(title)))
        canvas = Image.new("RGB", (cell, height + bar), PAPER)
        canvas.paste(Image.fromarray(image), ((cell - width) // 2, bar))
        font.draw(ImageDraw.Draw(canvas), (cell / 2, bar / 2), title, fill=INK, anchor="m")
        titled.append(np.array(canvas))
    return grid(titled, len(titled))


def title_font(image: np.ndarray) -> Font:
    """The font of titles and legends of an image (H, W, 3); its size grows with the image."""
    return Font(max(11, round(math.sqrt(image.shape[0] * image.shape[1]) / 28)))


def grid(images: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """A contact sheet, row by row: each image (H, W, 3) uint8 centred in a cell of the largest size.

    Raises:
        ValueError: no images, fewer than one column, or an image of another shape or type.
    """
    if not len(images) or columns < 1:
        raise ValueError(f"grid needs images and at least 1 column, got {len(images)} and {columns}")
    drawings = [as_image(image) for image in images]
    columns = min(columns, len(drawings))
    rows = math.ceil(len(drawings) / columns)
    cell_h = max(drawing.shape[0] for drawing in drawings)
    cell_w = max(drawing.shape[1] for drawing in drawings)
    shape = (rows * (cell_h + _GAP) - _GAP, columns * (cell_w + _GAP) - _GAP, 3)
    sheet = np.full(shape, PAPER, np.uint8)
    for index, drawing in enumerate(drawings):
        row, column = divmod(index, columns)
        top = row * (cell_h + _GAP) + (cell_h - drawing.shape[0]) // 2
        left = column * (cell_w + _GAP) + (cell_w - drawing.shape[1]) // 2
        sheet[top : top + drawing.shape[0], left : left + drawing.shape[1]] = drawing
    return sheet


def fitted(image: np.ndarray, side: int) -> np.ndarray:
    """An image (H, W, 3) uint8 resized so that its longer side has ``side`` pixels."""
    return resized(as_image(image), side / max(image.shape[:2]), Image.Resampling.BICUBIC)


def resized(image: np.ndarray, scale: float, method: Image.Resampling) -> np.ndarray:
    """An image (H, W, 3) or a map (H, W), uint8, at another scale; no side is shorter than a pixel."""
    height, width = (max(1, round(scale * side)) for side in image.shape[:2])
    return np.array(Image.fromarray(image).resize((width, height), method))


def captioned(image: np.ndarray, lines: Sequence[str]) -> np.ndarray:
    """The image (H, W, 3) uint8 above lines of text, each cut with an ellipsis where it is wider."""
    image = as_image(image)
    height, width = image.shape[:2]
    font = Font(_CAPTION)
    step = round(1.5 * font.size)
    canvas = Image.new("RGB", (width, height + step * len(lines) + font.size), PAPER)
    canvas.paste(Image.fromarray(image))
    draw = ImageDraw.Draw(canvas)
    for number, line in enumerate(lines):
        place = (width / 2, height + font.size / 2 + (number + 0.5) * step)
        text = font.shorten(line, width - font.size)
        font.draw(draw, place, text, fill=INK if not number else _FAINT, anchor="m")
    return np.array(canvas)


def sheet(cells: Sequence[np.ndarray]) -> np.ndarray:
    """A contact sheet of captioned images (H, W, 3) uint8, three in a row, with space around each.

    Columns are as wide as the widest image, each row as high as its highest; captions are at one height.
    """
    columns = min(3, len(cells))
    width = max(cell.shape[1] for cell in cells) + _SPACE
    rows = []
    for start in range(0, len(cells), columns):
        row = cells[start : start + columns]
        height = max(cell.shape[0] for cell in row) + _SPACE
        canvas = np.full((height, columns * width, 3), PAPER, np.uint8)
        for index, cell in enumerate(row):
            bottom, left = height - _SPACE // 2, index * width + (width - cell.shape[1]) // 2
            canvas[bottom - cell.shape[0] : bottom, left : left + cell.shape[1]] = cell
        rows.append(canvas)
    return np.concatenate(rows)


def with_legend(image: np.ndarray, entries: Sequence[tuple[Color, str]], font: Font) -> np.ndarray:
    """The image above a legend of colours and names, in as many rows as needed; unchanged without entries.

    A name much wider than the image is cut with an ellipsis.
    """
    if not entries:
        return image
    height, width = image.shape[:2]
    size = font.size
    margin, row_height = size // 2, 2 * size
    longest = max(width - 2 * margin - 1.5 * size, _LEGEND_NAME * size)
    rows: list[list[tuple[Color, str, int]]] = [[]]
    texts = [font.shorten(name, longest) for _, name in entries]
    # a chip, a gap of half its width, the name
    widths = [round(1.5 * size + font.getlength(text)) for text in texts]
    room = max(width - 2 * margin, *widths)
    for (color, _), text, needed in zip(entries, texts, widths, strict=True):
        if rows[-1] and sum(other + size for *_, other in rows[-1]) + needed > room:
            rows.append([])
        rows[-1].append((color, text, needed))

    sheet = Image.new("RGB", (max(width, room + 2 * margin), height + len(rows) * row_height + margin), PAPER)
    sheet.paste(Image.fromarray(image), ((sheet.width - width) // 2, 0))
    draw = ImageDraw.Draw(sheet)
    for number, row in enumerate(rows):
        middle = height + margin // 2 + (number + 0.5) * row_height
        left = (sheet.width - sum(needed for *_, needed in row) - size * (len(row) - 1)) // 2
        top = round(middle - size / 2)
        for color, text, needed in row:
            draw.rectangle((left, top, left + size, top + size), fill=color, outline=INK)
            font.draw(draw, (left + 1.5 * size, middle), text, fill=INK)
            left += needed + size
    return np.array(sheet)


def with_corner_text(image: np.ndarray, text: str) -> np.ndarray:
    """The image with a text on a light chip in its lower left corner; unchanged if the chip does not fit."""
    font = title_font(image)
    height, width = image.shape[:2]
    chip_w, chip_h = round(font.getlength(text)) + font.size, round(1.6 * font.size)
    if chip_w > width or chip_h > height // 2:
        return image
    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    draw.rectangle((0, height - chip_h, chip_w - 1, height - 1), fill=PAPER)
    font.draw(draw, (chip_w / 2, height - chip_h / 2), text, fill=INK, anchor="m")
    return np.array(canvas)


def read_rgb(path: Path) -> np.ndarray:
    """An image file as (H, W, 3) uint8, by the suite's one decoder (``hardnet_suite.data.images``).

    Raises:
        UserError: the file does not exist or cannot be decoded.
    """
    return np.array(open_rgb(path))


def ranked_name(name: str, rank: int | None, count: int) -> str:
    """A name with the rank of its image in front, so that names sort by it; unchanged without a rank.

    Args:
        name: of a file.
        rank: from 1.
        count: the highest rank.
    """
    return name if rank is None else f"{rank:0{max(3, len(str(count)))}d}_{name}"


def free_path(path: Path, numbers: dict[str, int]) -> Path:
    """``path``, or with the first number after its stem ("a_2.jpg") that makes it free.

    A path is free if nothing exists there and no earlier call with the same ``numbers`` has returned it, in
    upper or lower case, so that each image of a call has its own file on every file system and no file is
    overwritten. A stem that leaves no room in a file's name is cut to its last 200 bytes.

    Args:
        path: where a drawing would be written.
        numbers: what was returned before; start with an empty dict, it is updated.
    """
    path = path.with_name(short_stem(path.stem) + path.suffix)
    key = _folded(path)
    number = numbers.get(key, 0)
    while True:
        number += 1
        candidate = path if number == 1 else path.with_name(f"{path.stem}_{number}{path.suffix}")
        folded = _folded(candidate)
        if folded not in numbers and not os.path.lexists(candidate):
            numbers[key] = number
            numbers.setdefault(folded, 1)
            return candidate


def _folded(path: Path) -> str:
    """A path as file systems that ignore case and composition compare it."""
    return unicodedata.normalize("NFC", str(path)).casefold()


def save_image(path: Path, image: np.ndarray) -> None:
    """Write an image (H, W, 3) uint8 RGB in the format of the suffix; missing folders are created.

    Raises:
        UserError: the file cannot be written.
    """
    _save(path, image)


def save_drawing(path: Path, image: np.ndarray) -> None:
    """``save_image`` of a prediction's drawing, JPEG or PNG, with a mark that ``is_drawing`` recognises."""
    text = PngInfo()
    text.add_text("Software", _DRAWING)
    _save(path, image, pnginfo=text, comment=_DRAWING)


def is_drawing(path: Path) -> bool:
    """Whether ``save_drawing`` wrote a file."""
    return _has_mark(path, _DRAWING)


def write_image(path: Path, image: np.ndarray, **options: object) -> None:
    """``save_image`` for a caller that tells errors in its own words.

    Args:
        path: the file.
        image: (H, W, 3) uint8 RGB.
        options: of Pillow, for the format of the suffix.

    Raises:
        WriteError: the file cannot be written.
    """
    # JPEG without chroma subsampling, which would take the hue of thin lines; PNG ignores both options
    with whole_file(path) as temporary:
        image_format = Image.registered_extensions()[path.suffix.lower()]
        Image.fromarray(image).save(temporary, image_format, quality=92, subsampling=0, **options)


def _save(path: Path, image: np.ndarray, **options: object) -> None:
    try:
        write_image(path, image, **options)
    except WriteError as error:
        raise UserError(explain(error)) from None


def save_figure(figure, path: str | Path) -> None:
    """Write a Matplotlib figure in the format of the suffix, by default PNG; missing folders are created.

    PNG, JPEG, PDF and SVG files name the suite's plot as their creator, which ``is_figure`` recognises.

    Raises:
        ValueError: there is no such format.
        WriteError: the file cannot be written.
    """
    stream = io.BytesIO()
    image_format = Path(path).suffix.removeprefix(".").lower() or "png"
    figure.savefig(stream, format=image_format, **_CREATOR.get(image_format, {}))
    write_file(path, stream.getvalue())


def is_figure(path: Path) -> bool:
    """Whether ``save_figure`` wrote a file: its mark is where the file's format names the creator."""
    if path.stat().st_size >= _LARGEST_FIGURE:
        return False
    content = read_bytes(path)
    mark = _MARK.encode()
    if content.startswith(b"%PDF"):
        escaped = mark.replace(b"(", rb"\(").replace(b")", rb"\)")
        return any(b"/Creator (" + each + b")" in content for each in (mark, escaped))
    if content.startswith(b"<?xml"):
        return b"<dc:title>" + mark + b"</dc:title>" in content[:_SVG_HEAD]
    return _has_mark(io.BytesIO(content), _MARK)


def _has_mark(file: Path | io.BytesIO, mark: str) -> bool:
    """Whether a PNG or JPEG file names its creator so."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # nothing is decoded
            with Image.open(file, formats=("PNG", "JPEG")) as image:
                creators = image.info.get("comment"), str(image.info.get("Software")).encode()
                return mark.encode() in creators
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


def as_image(image: np.ndarray) -> np.ndarray:
    """``image`` as a contiguous array.

    Raises:
        ValueError: it is not (H, W, 3) uint8 with H, W >= 1.
    """
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(f"an image must be (H, W, 3) uint8, got shape {image.shape} of {image.dtype}")
    return np.ascontiguousarray(image)
