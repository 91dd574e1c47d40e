"""VOC folders as tools and people write them: each case gives the right boxes or one clear error."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hardnet_suite.data.images import image_size, stored_size
from hardnet_suite.data.voc import convert_voc
from hardnet_suite.errors import UserError

BOX = (11, 11, 30, 30)
COCO_BOX = [10, 10, 20, 20]


def element(name="cat", box=BOX, more="") -> str:
    ends = "".join(
        f"<{end}>{value}</{end}>" for end, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    return f"<object><name>{name}</name>{more}<bndbox>{ends}</bndbox></object>"


def xml(*objects: str, size: tuple | str | None = (60, 40), filename="a.jpg") -> str:
    if isinstance(size, tuple):
        size = "<size><width>{}</width><height>{}</height></size>".format(*size)
    objects = "".join(objects) or element()
    return f"<annotation><filename>{filename}</filename>{size or ''}{objects}</annotation>"


def make(root: Path, images: dict[str, int], annotations: dict[str, str | bytes], names: str) -> Path:
    """60×40 images by path -> EXIF orientation, and XML by stem."""
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    for name, orientation in images.items():
        path = root / "JPEGImages" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(pixels).save(path, exif=exif) if orientation > 1 else Image.fromarray(pixels).save(
            path
        )
    for stem, content in annotations.items():
        path = root / "Annotations" / f"{stem}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    (root / "ImageSets/Main/train.txt").write_text(names, encoding="utf-8")
    return root


@pytest.fixture
def convert(tmp_path):
    """Makes a folder and converts it; returns (report, {file name: boxes}, the COCO content)."""

    def run(images, annotations, names="a"):
        if not isinstance(images, dict):
            images = dict.fromkeys([images] if isinstance(images, str) else images, 1)
        if not isinstance(annotations, dict):
            annotations = {"a": annotations}
        root = make(tmp_path / "voc", images, annotations, names)
        report = convert_voc(root, tmp_path / "coco")
        content = json.loads((tmp_path / "coco/annotations/instances_train.json").read_text())
        boxes = {
            image["file_name"]: [
                entry["bbox"] for entry in content["annotations"] if entry["image_id"] == image["id"]
            ]
            for image in content["images"]
        }
        for image in content["images"]:
            path = tmp_path / "coco/images" / image["file_name"]
            assert image_size(path) == (image["width"], image["height"])
        return report, boxes, content

    return run


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [None, (0, 0), ("", ""), (-1, "x"), "upright", "stored", (30, 20)])
def test_boxes_refer_to_the_upright_image(convert, tmp_path, orientation, size):
    upright = (40, 60) if orientation >= 5 else (60, 40)
    stated = {"upright": upright, "stored": (60, 40)}.get(size, size)
    annotation = xml(element(box=(5, 20, 35, 40)), size=stated)
    if stated == (30, 20) or (size == "stored" and orientation >= 5):
        with pytest.raises(UserError, match=r"a\.xml: <size> is \d+×\d+, but .*a\.jpg") as error:
            convert({"a.jpg": orientation}, annotation)
        assert "{}×{}".format(*upright) in str(error.value)
        assert not (tmp_path / "coco").exists()
        return
    report, boxes, content = convert({"a.jpg": orientation}, annotation)
    assert boxes == {"a.jpg": [[4, 19, 31, 21]]}
    assert (content["images"][0]["width"], content["images"][0]["height"]) == upright
    assert report.findings == ()
    assert stored_size(tmp_path / "voc/JPEGImages/a.jpg") == (60, 40)


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("absent", [0, "", -1])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_size_of_one_side_is_compared_with_the_image(convert, tmp_path, side, absent, orientation):
    upright = (40, 60) if orientation == 6 else (60, 40)
    annotation = xml(element(box=(5, 20, 35, 40)), size=(*upright[:side], absent, *upright[side + 1 :]))
    _, boxes, _ = convert({"a.jpg": orientation}, annotation)
    assert boxes == {"a.jpg": [[4, 19, 31, 21]]}
    stated = [900, 900]
    stated[side] = absent
    told = "×".join("?" if value == absent else "900" for value in stated).replace("?", r"\?")
    with pytest.raises(UserError, match=rf"a\.xml: <size> is {told}, but .*a\.jpg is {upright[0]}×"):
        convert({"a.jpg": orientation}, xml(element(box=(5, 20, 35, 40)), size=tuple(stated)))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_boxes_drawn_on_the_stored_image_are_refused(convert, suffix):
    annotation = xml(element(box=(5, 20, 55, 35)), size=None)
    with pytest.raises(
        UserError, match=r"boxes reach to \(55, 35\).* stored as 60×40 and displayed as 40×60"
    ):
        convert({f"a{suffix}": 6}, annotation)


def test_a_tall_box_in_a_rotated_photo_is_kept_whole(convert):
    report, boxes, _ = convert({"a.jpg": 6}, xml(element(box=(5, 20, 35, 55)), size=None))
    assert boxes == {"a.jpg": [[4, 19, 31, 36]]}
    assert report.findings == ()


NAMES = ["my cat 1", "my cat -1", "图片 é", "猫", "a.b", "2007 01", "img (1)", "s/a", "s t/a 0", "cat.jpg"]


@pytest.mark.parametrize("stem", NAMES)
@pytest.mark.parametrize("form", ["{}", "{}.jpg", "{} 1", "{}  -1", "{}.jpg 1", "{}.xml", "./{}", "{}\r"])
def test_every_form_of_a_line(convert, stem, form):
    report, boxes, _ = convert(f"{stem}.jpg", {stem: xml()}, form.format(stem) + "\n\n")
    assert boxes == {f"{stem}.jpg": [COCO_BOX]}
    assert report.findings == ()


def test_windows_separators_and_composed_accents(convert):
    composed, decomposed = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    _, boxes, _ = convert([f"s/{decomposed}.jpg"], {f"s/{composed}": xml()}, f"s\\{composed}")
    assert [*boxes.values()] == [[COCO_BOX]]


def test_a_second_column_ends_every_line(convert):
    """'cat 1' is a name where another line has no column, even if 'cat' exists too."""
    _, boxes, _ = convert(["cat 1.jpg", "cat.jpg", "dog.jpg"], {"cat 1": xml(), "cat": xml()}, "cat 1\ndog")
    assert boxes == {"cat 1.jpg": [COCO_BOX], "dog.jpg": []}
    _, boxes, _ = convert([], {}, "cat 1\ndog 1")
    assert [*boxes] == ["cat.jpg", "dog.jpg"]
    with pytest.raises(UserError, match="can be read in two ways, as 'cat 1' and 'cat' both exist"):
        convert([], {}, "cat 1")
    _, boxes, _ = convert([], {}, "cat 1.jpg")
    assert [*boxes] == ["cat 1.jpg"]


def test_repeated_in_several_forms(convert):
    report, boxes, _ = convert("a.jpg", xml(), "a\na.jpg\n./a")
    assert boxes == {"a.jpg": [COCO_BOX]}
    assert [finding.kind for finding in report.findings] == ["image named twice"]


@pytest.mark.parametrize(
    "suffix", [".jpg", ".JPG", ".jpe", ".jfif", ".jpeg", ".bmp", ".webp", ".TIFF", ".PNG"]
)
@pytest.mark.parametrize("filename", ["a.jpg", "IMG_0001.jpg", "C:\\Users\\me\\a.bmp", "x/y/a", ""])
def test_an_image_is_found_by_its_stem(convert, suffix, filename):
    _, boxes, _ = convert(f"a{suffix}", xml(filename=filename))
    assert boxes == {f"a{suffix}": [COCO_BOX]}


@pytest.mark.parametrize(
    "filename", ["photo 1.JPG", "photo 1.jpg", "C:\\Users\\me\\photo 1.JPG", "x/photo 1.JPG", "photo 1"]
)
@pytest.mark.parametrize("folder", ["", "s/"])
def test_an_image_is_found_by_the_stated_name_where_none_has_the_stem(convert, filename, folder):
    _, boxes, _ = convert(f"{folder}photo 1.JPG", {f"{folder}a": xml(filename=filename)}, f"{folder}a")
    assert boxes == {f"{folder}photo 1.JPG": [COCO_BOX]}


def test_two_images_with_one_stem(convert):
    with pytest.raises(UserError, match=r"a stands for several images in .*a\.jpg and a\.png"):
        convert(["a.png", "a.jpg"], xml(filename="b.jpg"))
    _, boxes, _ = convert([], xml(filename="a.png"))
    assert [*boxes] == ["a.png"]
    _, boxes, _ = convert([], xml(filename="a.png"), "a.jpg")
    assert [*boxes] == ["a.jpg"]


@pytest.mark.parametrize("box", [(30, 30, 11, 11), (30, 11, 11, 30), (11, 30, 30, 11)])
def test_swapped_corners(convert, box):
    report, boxes, _ = convert("a.jpg", xml(element(box=box)))
    assert boxes == {"a.jpg": [COCO_BOX]}
    assert [finding.kind for finding in report.findings] == ["corners swapped"]


@pytest.mark.parametrize(
    ("text", "difficult"),
    [("1", 1), (" 1 ", 1), ("true", 1), ("True", 1), ("0", 0), ("false", 0), ("Unspecified", 0), ("", 0)],
)
def test_difficult(convert, text, difficult):
    _, _, content = convert("a.jpg", xml(element(more=f"<difficult>{text}</difficult>")))
    assert [entry["iscrowd"] for entry in content["annotations"]] == [difficult]


@pytest.mark.parametrize(
    ("encoding", "declared"),
    [
        ("utf-8", ""),
        ("utf-8-sig", ""),
        ("utf-8-sig", "utf-8"),
        ("utf-16", "utf-16"),
        ("gb2312", "gb2312"),
        ("gbk", "GBK"),
        ("gbk", "gb2312"),
        ("gb18030", "gb18030"),
        ("big5", "big5"),
        ("shift_jis", "Shift_JIS"),
    ],
)
def test_encodings(convert, encoding, declared):
    head = f'<?xml version="1.0" encoding="{declared}"?>' if declared else ""
    report, boxes, _ = convert("a.jpg", (head + xml(element("山"))).encode(encoding))
    assert report.classes == ("山",)
    assert boxes == {"a.jpg": [COCO_BOX]}


PART = (
    "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></part>"
)


@pytest.mark.parametrize(
    "content",
    [
        xml().replace("<annotation>", '<annotation xmlns="http://x.y">'),
        xml().replace("<annotation>", '<annotation verified="yes">'),
        xml(element(more=PART)),
        xml(element(more="<robndbox><cx>1</cx></robndbox>")),
        xml(element(more="<pose>Unspecified</pose><!-- checked -->")),
        xml(element(name="\n  cat  ", box=(" 11.0 ", "11", "3e1", "30"))),
    ],
)
def test_what_tools_add_changes_nothing(convert, content):
    report, boxes, _ = convert("a.jpg", content)
    assert boxes == {"a.jpg": [COCO_BOX]}
    assert report.classes == ("cat",)
    assert report.findings == ()


def test_rotated_boxes_alone_are_named(convert):
    rotated = "<object><name>ship</name><robndbox><cx>5</cx></robndbox></object>"
    report, boxes, _ = convert("a.jpg", xml(element(), rotated))
    assert boxes == {"a.jpg": [COCO_BOX]}
    assert "rotated boxes and polygons are not supported" in report.findings[0].what


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (xml(element(box=(0.1, 0.2, 0.5, 0.75))), "expected coordinates in pixels, got fractions"),
        (xml(element(box=(0.4, 0.3, 1.01, 0.9))), "expected coordinates in pixels, got fractions"),
        (xml(element(box=(-0.02, 0, 1.2, 0.5))), "expected coordinates in pixels, got fractions"),
        (xml(element().replace("object>", "Object>")), "1 <bndbox> that are not in an <object>"),
        (xml(f"<objects>{element()}{element()}</objects>"), "2 <bndbox> that are not in an <object>"),
        (
            xml(element(), "<shape>" + element() + "</shape>"),
            "1 <bndbox> that are not in an <object>",
        ),
        (
            xml(element().replace("</object>", "<bndbox><xmin>1</xmin></bndbox></object>")),
            "has several <bndbox>; write one <object> for each",
        ),
        ("<annotations><image/></annotations>", "expected VOC's <annotation>, got <annotations>"),
        (xml(element("汽车")).encode("gbk"), "in another encoding than utf-8"),
    ],
)
def test_what_cannot_be_read_is_one_clear_error(convert, content, message):
    with pytest.raises(UserError, match=message):
        convert("a.jpg", content)


def test_an_image_without_annotation_file_is_background(convert):
    report, boxes, _ = convert(["a.jpg", "bg1.jpg"], xml(), "a\nbg1")
    assert boxes == {"a.jpg": [COCO_BOX], "bg1.jpg": []}
    (finding,) = report.findings
    assert (finding.kind, finding.where) == ("image without annotation file", "bg1.jpg")
    with pytest.raises(UserError, match="no image bg2 "):
        convert([], {}, "a\nbg2")


@pytest.mark.parametrize("form", ["{}", "{}.jpg", "./{}", "{} 1"])
def test_an_image_in_two_splits_is_told(tmp_path, form):
    root = make(tmp_path / "voc", {"a.jpg": 1, "b.jpg": 1}, {"a": xml(), "b": xml()}, "a\nb")
    (root / "ImageSets/Main/val.txt").write_text(form.format("b"))
    report = convert_voc(root, tmp_path / "coco")
    found = [(finding.level, finding.kind, finding.where, finding.what) for finding in report.findings]
    assert found == [("warning", "image in several splits", "b.jpg", "is in train and val")]
    assert "image in several splits: b.jpg: is in train and val" in report.table()


PLACES = [
    "JPEGImages/",
    "./JPEGImages/",
    "VOC2007/JPEGImages/",
    "/data/VOC/JPEGImages/",
    "/data/",
    "Annotations/",
]
WINDOWS = ["JPEGImages\\", "C:\\VOC\\JPEGImages\\", "C:\\data\\", "d:/data/"]


@pytest.mark.parametrize("place", PLACES + WINDOWS)
@pytest.mark.parametrize("stem", ["a", "s/a", "my cat 1"])
@pytest.mark.parametrize("suffix", ["", ".jpg", ".jpg 1"])
def test_a_line_may_hold_the_path_of_another_machine(convert, place, stem, suffix):
    stem_in_line = stem.replace("/", "\\") if "\\" in place else stem
    report, boxes, _ = convert(f"{stem}.jpg", {stem: xml()}, f"{place}{stem_in_line}{suffix}")
    assert boxes == {f"{stem}.jpg": [COCO_BOX]}
    assert report.findings == ()


@pytest.mark.parametrize("line", ["images/a.jpg", "images/a", "JPEGImages/s/a.jpg"])
def test_a_line_with_another_folder_is_told_what_to_write(convert, line):
    with pytest.raises(UserError, match=r"no image .*, or write a for a in that folder"):
        convert("a.jpg", xml(), line)
