"""Annotations, lists, logs and images made to hurt: mutations of small good files, with fixed seeds.

A good file is mutated as what it holds (a value of its JSON, an element of its XML), so that most mutations
reach the reader's own checks, and as text or bytes.
"""

from __future__ import annotations

import copy
import io
import json
import os
import random
import re
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from PIL import Image

READER = Path(__file__).with_name("data") / "read_hostile.py"
ROOT = Path(__file__).resolve().parents[1]
SIZE = 64
CLASSES = ("circle", "square", "star")
_RUNS = [10 * SIZE + 10, 20, SIZE * SIZE - 10 * SIZE - 30]  # of the mask of the second box

# JSON texts of values that no field of an annotation file may have; none of them is another good value
POISON = (
    *("[]", "{}", "[1]", '{"a": 1}', "[[[]]]", '["a", "a", "a", "a"]', "[null, null, null, null]"),
    *("NaN", "Infinity", "-Infinity", "1e400", "-1e308", "1" * 400, "1" * 5000),
    *("[NaN, NaN, NaN, NaN]", "[0, 0, 1e308, 1e308]", f"[{10**400}, 1, 1, 1]", "[1e308, 1e308, 1, 1]"),
    *('"x"', '""', '"\\ud800"', '"\\u001b[2J\\u009b1m"', '"a\\u0000b"', '"../../etc/passwd"', '"/dev/zero"'),
    *(f'"{"a" * 5000}"', f'"{"ü" * 200}"', "[" * 10_000 + "]" * 10_000, '{"a":' * 9_999 + "1" + "}" * 9_999),
    '{"size": [64, 64], "counts": "rubbish"}',
    '{"size": [64, 64], "counts": "oooooooooooooooooooooooooooooooo"}',
    '{"size": [64, 64], "counts": [-1, 4097]}',
    '{"size": [64, 64], "counts": [4095.0, 1.0]}',
    '{"size": [1000000000, 1000000000], "counts": [1000000000000000000]}',
    f'{{"size": [{10**15}, {10**15}], "counts": [0, {10**30}]}}',
    f'{{"size": [1, {"9" * 4300}], "counts": [{"9" * 4300}, {"9" * 4300}]}}',
    "[[1, 2, 3, 4, 5]]",
    "[[1, 2, 3]]",
    "[[1e308, 1, 5, 1e308, 9, 9]]",
    f"[[{10**400}, 1, 5, 5, 9, 9]]",
)
# values that may be right in one field or another
ODD = (
    *("0", "1", "-1", "1.5", "2", "1.0", "-0.0", "1e-300", '"1"', '"0"', "false", "true", "[1, 2, 3, 4]"),
    *('"é"', "null", "1e9", "1e308", "9223372036854775808"),
)


def coco(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Annotation files; the names of those that hold nothing but good values and poison say so."""
    yield from _json_files(good_coco(), count, seed)


def results(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Results files of ``good_coco``."""
    yield from _json_files(good_results(), count, seed)


def good_coco() -> dict[str, Any]:
    boxes = [[8, 8, 20, 20], [10, 10, 20, 1], [30, 30, 25, 20]]
    boxes += [[5, 40, 30, 12], [20, 6, 8, 30], [2, 2, 50, 50]]
    masks = [[[8, 8, 28, 8, 28, 28, 8, 28]], {"size": [SIZE, SIZE], "counts": _RUNS}, None, None, [], None]
    return {
        "info": {"description": "drawn"},
        "images": [{"id": k, "file_name": f"{k}.png", "width": SIZE, "height": SIZE} for k in (1, 2, 3)],
        "annotations": [
            {
                "id": k + 1,
                "image_id": k // 2 + 1,
                "category_id": k % 3 + 1,
                "bbox": box,
                "area": 1500 if k == 3 else box[2] * box[3],
                "iscrowd": int(k == 5),
                **({} if mask is None else {"segmentation": mask}),
            }
            for k, (box, mask) in enumerate(zip(boxes, masks, strict=True))
        ],
        "categories": [{"id": k, "name": name} for k, name in enumerate(CLASSES, 1)],
    }


def good_results() -> list[dict[str, Any]]:
    return [
        {
            "image_id": entry["image_id"],
            "category_id": entry["category_id"],
            "bbox": [entry["bbox"][0] + 1, *entry["bbox"][1:]],
            "score": 0.9 - 0.1 * index,
        }
        for index, entry in enumerate(good_coco()["annotations"])
    ]


def _json_files(good: Any, count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    draw = random.Random(seed)
    for k in range(count):
        kind = draw.choices(("poison", "odd", "text"), (6, 3, 1))[0]
        if kind == "text":
            yield f"{k}_text.json", _as_other_text(json.dumps(good), draw)
        else:
            text = _with_values(good, draw, POISON if kind == "poison" else POISON + 4 * ODD, kind == "odd")
            yield f"{k}_{kind}.json", text.encode("utf-8", "surrogatepass")


def _with_values(good: Any, draw: random.Random, values: tuple[str, ...], reordered: bool) -> str:
    """The JSON text of ``good``, some of its values replaced; if ``reordered``, entries lost and repeated."""
    changed, raw = copy.deepcopy(good), []
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        parent, key = draw.choice(list(_places(changed)))
        action = draw.choice(["set", "set", "lose", "repeat"]) if reordered else "set"
        if action == "lose":
            del parent[key]
        elif action == "repeat" and isinstance(parent, list):
            parent.append(copy.deepcopy(parent[key]))
        else:
            parent[key] = f"@{len(raw)}@"
            raw.append(draw.choice(values))
        if not changed:
            break
    text = re.sub(r'"@(\d+)@"', lambda match: raw[int(match[1])], json.dumps(changed))
    if reordered and draw.random() < 0.1:  # a key twice in one object
        text = re.sub(r'"(bbox|id|score|annotations)": ', r'"\1": 1, "\1": ', text, count=1)
    return text


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of every value inside."""
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


def _as_other_text(text: str, draw: random.Random) -> bytes:
    at = draw.randrange(1, len(text))
    match draw.choice(["cut", "mark", "byte", "utf-16", "nul", "drop", "again"]):
        case "cut":
            text = text[:at]
        case "mark":
            text = "\ufeff" + text
        case "byte":
            return text[:at].encode() + draw.randbytes(1) + text[at + 1 :].encode()
        case "utf-16":
            return text.encode("utf-16")
        case "nul":
            text = text[:at] + "\0" + text[at:]
        case "drop":
            text = text[:at] + text[at + draw.randrange(1, 9) :]
        case _:
            text += text
    return text.encode()


GOOD_XML = f"""<?xml version="1.0" encoding="utf-8"?>
<annotation><folder>JPEGImages</folder><filename>1.png</filename>
<size><width>{SIZE}</width><height>{SIZE}</height><depth>3</depth></size><segmented>0</segmented>
<object><name>circle</name><pose>left</pose><truncated>0</truncated><difficult>0</difficult>
<bndbox><xmin>5</xmin><ymin>6</ymin><xmax>30</xmax><ymax>40</ymax></bndbox></object>
<object><name>star</name><difficult>1</difficult>
<bndbox><xmin>20</xmin><ymin>16</ymin><xmax>50</xmax><ymax>60</ymax></bndbox>
<part><name>hand</name><bndbox><xmin>21</xmin><ymin>17</ymin><xmax>25</xmax><ymax>22</ymax></bndbox></part></object>
</annotation>
"""
_TEXTS = (
    *("", "nan", "NaN", "inf", "-inf", "1e308", "-1e308", "1e400", "1" * 400, "1" * 5000, "0x10", "1_0"),
    *("１２", "-1", "0", "1.5", " 7 ", "7,5", "7px", "x", "ü", "\x9b2J", "\u202e", "a" * 5000, "a\nb", "\t"),
    *("true", "2", "99999999999", "../../x", "/etc/passwd", "C:\\a\\1.png", "1.png/", ".", ".."),
    *("[1]", "<b/>", "\U0001f600", "1\u2028"),
)


def voc(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """VOC annotation files."""
    draw = random.Random(seed)
    for k in range(count):
        kind = draw.choices(("tree", "text"), (3, 1))[0]
        yield f"{k}_{kind}.xml", _other_tree(draw) if kind == "tree" else _other_xml(draw)


def _other_tree(draw: random.Random) -> bytes:
    root = ElementTree.fromstring(GOOD_XML.encode())
    for _ in range(draw.choice([1, 1, 1, 2, 4])):
        parent = draw.choice([element for element in root.iter() if len(element)] or [root])
        if not len(parent):
            break
        child = draw.choice(list(parent))
        match draw.choice(["text", "text", "text", "lose", "repeat", "rename", "move", "deep", "attribute"]):
            case "text":
                leaf = draw.choice([element for element in root.iter() if not len(element)])
                leaf.text = draw.choice(_TEXTS)
            case "lose":
                parent.remove(child)
            case "repeat":
                parent.append(copy.deepcopy(child))
            case "rename":
                tags = [element.tag for element in root.iter()]
                child.tag = draw.choice([*tags, "BNDBOX", "polygon", "x:y"])
            case "move":
                parent.remove(child)
                draw.choice([element for element in root.iter() if element is not child]).append(child)
            case "deep":
                for _ in range(draw.choice([3, 500])):
                    parent = ElementTree.SubElement(parent, child.tag)
                parent.text = "1"
            case _:
                child.set("xmlns", draw.choice(["", "http://a/b", "a" * 5000]))
    encoding = draw.choice(["utf-8", "utf-8", "utf-8", "us-ascii", "utf-16", "iso-8859-1"])
    return ElementTree.tostring(root, encoding=encoding, xml_declaration=True)


_DOCTYPES = (
    '<!DOCTYPE annotation [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>',
    '<!DOCTYPE annotation [<!ENTITY a SYSTEM "file:///etc/passwd">]>',
    '<!DOCTYPE annotation SYSTEM "http://127.0.0.1:9/a.dtd">',
)
_ENCODINGS = (
    *("utf-16", "utf-7", "utf-32", "cp037", "idna", "punycode", "unicode_escape", "hex", "zip", "rot13"),
    *(
        "undefined",
        "gb2312",
        "gb_x",
        "big5",
        "shift_jis",
        "euc-jp",
        "mbcs",
        "latin-1",
        "x" * 300,
        "utf-8-sig",
    ),
)


def _other_xml(draw: random.Random) -> bytes:
    """The good file with other text around and between its elements."""
    at = draw.choice([match.end() for match in re.finditer(r">", GOOD_XML)][1:-2])
    head, tail = GOOD_XML[:at], GOOD_XML[at:]
    match draw.choice(["doctype", "encoding", "encoding", "cut", "byte", "insert", "insert", "deep"]):
        case "doctype":
            return GOOD_XML.replace("<annotation>", draw.choice(_DOCTYPES) + "<annotation>").encode()
        case "encoding":
            return GOOD_XML.replace("utf-8", draw.choice(_ENCODINGS)).encode()
        case "cut":
            return head.encode()
        case "byte":
            return head.encode() + draw.randbytes(draw.choice([1, 3])) + tail.encode()
        case "deep":
            return (head + "<object>" * 100_000 + "</object>" * 100_000 + tail).encode()
        case _:
            markup = ("<!-- --><b/>", "<?php x?>", "<![CDATA[<]]>", "&lol;", "&#x9b;", "&#0;", "&#xd800;")
            return (head + draw.choice(markup) + tail).encode()


_LINES = (
    *("1", "1.png", "../1", "/etc/passwd", "/a/JPEGImages/1.png", "..", ".", "/", "a" * 5000, "a\0b", "1 1"),
    *("1 -1", "x 1", "C:\\JPEGImages\\1.png", "JPEGImages", "\x1b[2J", "ü", "/" * 5000, "1 1 1", "2.xml"),
    *("~", "1\x85", "\u2028", "*"),
)


def lists(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Lists of images, as in ImageSets/Main."""
    draw = random.Random(seed)
    for k in range(count):
        lines = draw.choices(_LINES, k=draw.choice([1, 1, 2, 4]))
        text = draw.choice(["\n", "\r\n", "\r", "\n\n"]).join(lines)
        content = text.encode(draw.choice(["utf-8", "utf-8", "utf-16"]))
        yield f"{k}_list.txt", content + draw.choice([b"", b"\n", b"\xff", b"\0"])


_CELLS = (
    *(*_LINES, "1" * 5000, "²", "٣", '"', '""', "a,b", '"a\nb"', "a" * 200_000, "\ufeff", "0", "-1"),
    *("circle", ""),
)


def tables(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """CSV lists of images and labels."""
    draw = random.Random(seed)
    for k in range(count):
        rows = [["file", "label"], ["1.png", "circle"], ["2.png", "star"]]
        for _ in range(draw.choice([1, 1, 2, 3])):
            row = draw.choice(rows)
            match draw.choice(["cell", "cell", "cell", "lose", "more", "row"]):
                case "cell":
                    row[draw.randrange(len(row))] = draw.choice(_CELLS)
                case "lose" if len(row) > 1:
                    row.pop()
                case "more":
                    row.append(draw.choice(_CELLS))
                case _:
                    rows.append(list(row))
        lines = [draw.choice([",", ",", ",", ";"]).join(row) for row in rows]
        text = draw.choice(["\n", "\r\n", "\r"]).join(lines)
        yield f"{k}_table.csv", text.encode() + draw.choice([b"", b"\n", b"\xff"])


def good_log() -> list[dict[str, Any]]:
    rows = [{"loss": 2.0 - 0.1 * k, "loss_cls": 1.0, "epoch": 1, "iter": k, "step": k} for k in range(1, 5)]
    scores = {"coco/bbox_mAP": 0.1, "coco/bbox_AP50": 0.2, "step": 1}
    return [*rows, scores, {"mIoU": 50.0, "aAcc": 60.0, "step": 2}]


def good_rows() -> list[dict[str, Any]]:
    """Of a ``predictions.jsonl``."""
    return [
        {"name": f"{k}.png", "task": "detection", "boxes": [], "source": f"/a/{k}.png", "drawing": f"{k}.jpg"}
        for k in (1, 2)
    ]


def logs(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    yield from _json_lines(good_log(), count, seed, "log")


def rows(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    yield from _json_lines(good_rows(), count, seed, "rows")


def _json_lines(good: list, count: int, seed: int, suffix: str) -> Iterator[tuple[str, bytes]]:
    draw = random.Random(seed)
    for k in range(count):
        if draw.random() < 0.1:
            text = _as_other_text("\n".join(map(json.dumps, good)) + "\n", draw)
        else:
            lines = [
                _with_values(row, draw, POISON + 4 * ODD, True) if draw.random() < 0.3 else json.dumps(row)
                for row in good
            ]
            text = "\n".join(lines).encode()
        yield f"{k}_{suffix}.jsonl", text


def good_images() -> dict[str, bytes]:
    """Small images in the formats that this Pillow writes, by a name with their suffix."""
    waves = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    color = Image.fromarray(waves).resize((SIZE, 48), Image.Resampling.BICUBIC)
    grey = color.convert("L")
    deep = Image.fromarray(np.arange(48 * SIZE, dtype=np.uint16).reshape(48, SIZE) * 21)
    turned = Image.Exif()
    turned[0x0112] = 6
    forms = {
        "plain.jpg": (color, "JPEG", {}),
        "progressive.jpg": (color, "JPEG", {"progressive": True}),
        "turned.jpg": (color, "JPEG", {"exif": turned}),
        "cmyk.jpg": (color.convert("CMYK"), "JPEG", {}),
        "plain.png": (color, "PNG", {}),
        "deep.png": (deep, "PNG", {}),
        "alpha.png": (color.convert("RGBA"), "PNG", {"exif": turned}),
        "palette.png": (color.convert("P"), "PNG", {"transparency": 3}),
        "bits.png": (color.convert("1"), "PNG", {}),
        "labels.png": (grey.point(lambda value: value // 90), "PNG", {}),
        "strips.tif": (color, "TIFF", {"tiffinfo": {278: 8}}),
        "lzw.tif": (color, "TIFF", {"compression": "tiff_lzw"}),
        "deflate.tif": (grey, "TIFF", {"compression": "tiff_adobe_deflate", "exif": turned}),
        "animated.webp": (color, "WEBP", {"save_all": True, "append_images": [color.rotate(9), color]}),
        "plain.webp": (color, "WEBP", {}),
        "animated.gif": (color.convert("P"), "GIF", {"save_all": True, "append_images": [grey.convert("P")]}),
        "plain.bmp": (color, "BMP", {}),
        "palette.bmp": (color.convert("P"), "BMP", {}),
        "plain.ppm": (color, "PPM", {}),
        "plain.tga": (color, "TGA", {"compression": "tga_rle"}),
        "plain.jp2": (color, "JPEG2000", {}),
        "plain.ico": (color, "ICO", {}),
        "plain.avif": (color, "AVIF", {}),
    }
    files = {}
    for name, (image, form, options) in forms.items():
        stream = io.BytesIO()
        try:
            image.save(stream, form, **options)
        except (KeyError, OSError):  # this Pillow was built without it
            continue
        files[name] = stream.getvalue()
    files["tiles.tif"] = _tiled_tiff(np.asarray(grey))
    return files


def _tiled_tiff(pixels: np.ndarray) -> bytes:
    """A grey TIFF in tiles of 16 × 16, which Pillow does not write."""
    height, width = pixels.shape
    corners = [(y, x) for y in range(0, height, 16) for x in range(0, width, 16)]
    tiles = [pixels[y : y + 16, x : x + 16].tobytes() for y, x in corners]
    count, first = len(tiles), 8
    entries = [
        *((256, 3, 1, width), (257, 3, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)),
        *((277, 3, 1, 1), (322, 3, 1, 16), (323, 3, 1, 16)),
    ]
    after = first + 2 + 12 * (len(entries) + 2) + 4
    data = after + 8 * count
    entries += [(324, 4, count, after), (325, 4, count, after + 4 * count)]
    content = b"II*\0" + first.to_bytes(4, "little") + len(entries).to_bytes(2, "little")
    for tag, kind, number, value in entries:
        content += tag.to_bytes(2, "little") + kind.to_bytes(2, "little")
        content += number.to_bytes(4, "little") + value.to_bytes(4, "little")
    content += bytes(4) + b"".join((data + 256 * k).to_bytes(4, "little") for k in range(count))
    return content + count * (256).to_bytes(4, "little") + b"".join(tiles)


def images(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Images with flipped, lost, repeated or other bytes; half of the PNGs have the right checksums."""
    draw = random.Random(seed)
    goods = list(good_images().items())
    for k in range(count):
        name, content = goods[k % len(goods)]
        yield f"{k}_{name}", _mutated(content, draw)


def labels(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Label images: bytes mutated, or values, modes and sizes that no label image should have."""
    draw = random.Random(seed)
    grey = Image.fromarray(np.arange(48 * SIZE, dtype=np.uint16).reshape(48, SIZE).astype(np.uint8) % 11)
    deep = Image.fromarray(np.full((48, SIZE), 300, np.uint16))
    turned = Image.Exif()
    turned[0x0112] = draw.choice([3, 6, 8])
    forms = [
        *((grey.convert(mode), "PNG", {}) for mode in ("L", "P", "1", "RGB", "RGBA", "LA")),
        *(
            (deep, "PNG", {}),
            (grey.point(lambda value: value + 200), "PNG", {}),
            (grey.rotate(90), "PNG", {}),
        ),
        *((grey.resize((size, 48)), "PNG", {}) for size in (1, SIZE - 1, SIZE + 1)),
        *((grey, "PNG", {"exif": turned}), (grey, "TIFF", {}), (grey.convert("F"), "TIFF", {})),
        *((grey, "BMP", {}), (grey, "JPEG", {}), (grey.convert("P"), "GIF", {}), (grey, "WEBP", {})),
    ]
    for k in range(count):
        image, form, options = forms[k % len(forms)]
        stream = io.BytesIO()
        image.save(stream, form, **options)
        content = stream.getvalue()
        yield f"{k}_label.png", _mutated(content, draw) if draw.random() < 0.6 else content


def _mutated(content: bytes, draw: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.choice([1, 1, 1, 2, 5, 20])):
        at = draw.randrange(len(changed))
        match draw.choice(["flip", "head", "head", "cut", "drop", "repeat", "zeros", "ones", "noise"]):
            case "flip":
                changed[at] ^= 1 << draw.randrange(8)
            case "head":
                value = draw.choice([0, 1, 127, 128, 255, draw.randrange(256)])
                changed[draw.randrange(min(64, len(changed)))] = value
            case "cut":
                del changed[max(at, 1) :]
            case "drop":
                del changed[at : at + draw.randrange(1, 16)]
            case "repeat":
                changed[at:at] = changed[at : at + draw.randrange(1, 200)]
            case "zeros":
                changed[at : at + 8] = bytes(len(changed[at : at + 8]))
            case "ones":
                changed[at : at + 4] = b"\xff" * len(changed[at : at + 4])
            case _:
                changed[at:at] = draw.randbytes(draw.randrange(1, 40))
        if not changed:
            return b"\0"
    if changed.startswith(b"\x89PNG") and draw.random() < 0.5:
        return _with_checksums(bytes(changed))
    return bytes(changed)


def _with_checksums(content: bytes) -> bytes:
    """A PNG whose mutations pass the checksums of its chunks."""
    parts, start = [content[:8]], 8
    while start + 12 <= len(content):
        length = int.from_bytes(content[start : start + 4], "big")
        body = content[start + 4 : start + 8 + length]
        parts += [content[start : start + 4], body, zlib.crc32(body).to_bytes(4, "big")]
        start += 12 + length
    return b"".join(parts) + content[start:]


def write_good_folder(folder: Path) -> None:
    """What the mutated files refer to: images 1.png to 3.png, annotations and results."""
    pixels = np.zeros((SIZE, SIZE, 3), np.uint8)
    for k in (1, 2, 3):
        Image.fromarray(pixels + 40 * k).save(folder / f"{k}.png")
    (folder / "annotations.json").write_text(json.dumps(good_coco()))
    (folder / "results.json").write_text(json.dumps(good_results()))


MAKERS: dict[str, Callable[[int, int], Iterator[tuple[str, bytes]]]] = {
    "coco": coco,
    "results": results,
    "voc": voc,
    "lists": lists,
    "tables": tables,
    "logs": logs,
    "rows": rows,
    "images": images,
    "labels": labels,
}


def counted(folder: Path, counts: dict[str, int], seed: int) -> dict[str, Counter]:
    """Kind -> how many files of it were answered and refused; fails on any other outcome.

    Args:
        folder: where the files are written.
        counts: kind, a key of ``MAKERS`` -> number of files.
        seed: of the mutations.
    """
    for kind, count in counts.items():
        (folder / kind).mkdir()
        for name, content in MAKERS[kind](count, seed):
            (folder / kind / name).write_bytes(content)
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, str(READER), str(folder)], env=env, capture_output=True, text=True, check=False
    )
    lines = [json.loads(line) for line in result.stdout.splitlines() if line.startswith('["')]
    assert result.returncode == 0, f"died on {lines[-1] if lines else 'nothing'}: {result.stderr[-2000:]}"
    outcomes = {(kind, name): outcome for kind, name, outcome, _ in (x for x in lines if len(x) == 4)}
    assert len(outcomes) == sum(counts.values())
    assert {at: what for at, what in outcomes.items() if what not in ("answered", "refused")} == {}
    tables = {kind: Counter(what for (of, _), what in outcomes.items() if of == kind) for kind in counts}
    for kind, table in tables.items():
        print(
            f"{kind}: {table.total()} tried, {table['answered']} read, {table['refused']} refused, 0 crashed"
        )
    return tables
