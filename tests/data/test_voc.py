"""VOC folders to COCO: each rule on a tiny hand-made folder, and the real blood cells."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from hardnet_suite.data.coco import check_coco
from hardnet_suite.data.conversion.convert import convert_dataset, read_boxes
from hardnet_suite.data.voc import convert_voc
from hardnet_suite.errors import UserError

OBJECT = """<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>
<xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox></object>"""


def xml(*objects, size=(64, 48), filename="") -> str:
    parts = [
        OBJECT.format(*box, name=name, difficult=int("difficult" in more)) for name, box, *more in objects
    ]
    stated = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>" if size else ""
    return f"<annotation><filename>{filename}</filename>{stated}{''.join(parts)}</annotation>"


def make(root: Path, images: dict[str, str], splits: dict[str, str] | None = None, suffix=".jpg") -> Path:
    """A VOC folder of 64×48 images with these XML texts; by default all in train."""
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for stem, text in images.items():
        (root / "Annotations" / f"{stem}.xml").write_text(text)
        Image.new("RGB", (64, 48)).save(root / "JPEGImages" / (stem + suffix))
    for split, text in (splits or {"train": "\n".join(images)}).items():
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text(text)
    return root


def convert(root: Path, tmp_path: Path, **options):
    """(report, the COCO content of train)."""
    report = convert_voc(root, tmp_path / "coco", **options)
    return report, json.loads((tmp_path / "coco/annotations/instances_train.json").read_text())


@pytest.fixture
def voc(tmp_path) -> Path:
    return tmp_path / "voc"


def test_pixels_count_from_one_and_both_ends_belong_to_the_box(voc, tmp_path):
    make(voc, {"a": xml(("cat", (1, 1, 64, 48)), ("dog", (11, 21, 12, 40)), ("cat", (1.5, 2, 3.5, 4)))})
    report, content = convert(voc, tmp_path)
    assert [entry["bbox"] for entry in content["annotations"]] == [
        [0, 0, 64, 48],
        [10, 20, 2, 20],
        [0.5, 1, 3.0, 3],
    ]
    assert content["annotations"][1] == {
        "id": 2,
        "image_id": 1,
        "category_id": 2,
        "bbox": [10, 20, 2, 20],
        "area": 40,
        "iscrowd": 0,
    }
    digest = hashlib.sha256((voc / "JPEGImages/a.jpg").read_bytes()).hexdigest()
    expected = {"id": 1, "file_name": "a.jpg", "width": 64, "height": 48, "sha256": digest}
    assert content["images"] == [expected]
    assert content["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    assert report.findings == ()
    assert report.splits["train"].per_class == {"cat": 2, "dog": 1}


@pytest.mark.parametrize(
    ("box", "kept", "reason"),
    [
        ((5, 5, 5, 9), None, "no width or no height"),
        ((5, 9, 8, 9), None, "no width or no height"),
        (("", 5, 5, 9), None, "missing or not a number"),
        (("nan", 5, 5, 9), None, "missing or not a number"),
        ((70, 5, 80, 9), None, "outside the image of 64×48"),
        ((60, 5, 80, 9), [59, 4, 5, 5], "leaves the image of 64×48"),
        ((-3, -3, 10, 10), [0, 0, 10, 10], "leaves the image"),
        ((0, 0, 10, 10), [0, 0, 10, 10], ""),
    ],
)
def test_bad_boxes_are_named(voc, tmp_path, box, kept, reason):
    make(voc, {"a": xml(("cat", box), ("cat", (20, 20, 30, 30)))})
    report, content = convert(voc, tmp_path)
    boxes = [entry["bbox"] for entry in content["annotations"]]
    assert boxes == ([kept] if kept else []) + [[19, 19, 11, 11]]
    if not reason:
        assert report.findings == ()
        return
    (finding,) = report.findings
    assert finding.kind == ("box cut" if kept else "box dropped")
    assert finding.where.startswith("a.xml, cat ")
    assert reason in finding.what
    assert f"{finding.kind}: {finding.where}" in report.table()


def test_difficult_objects_neither_count_as_found_nor_as_missed(voc, tmp_path):
    make(voc, {"a": xml(("cat", (1, 1, 9, 9)), ("cat", (20, 20, 30, 30), "difficult"))})
    _, content = convert(voc, tmp_path)
    assert [entry["iscrowd"] for entry in content["annotations"]] == [0, 1]
    _, content = convert(voc, tmp_path, difficult="keep")
    assert [entry["iscrowd"] for entry in content["annotations"]] == [0, 0]
    with pytest.raises(ValueError, match="difficult must be 'ignore' or 'keep', got 'drop'"):
        convert(voc, tmp_path, difficult="drop")


def test_chosen_classes_in_the_order_given(voc, tmp_path):
    boxes = [(name, (1, 1, 9, 9)) for name in ("cat", "dog", "axolotl", "axolotl")]
    make(voc, {"a": xml(*boxes)})
    report, content = convert(voc, tmp_path, classes=["dog", "cat"])
    assert [category["name"] for category in content["categories"]] == ["dog", "cat"]
    assert [entry["category_id"] for entry in content["annotations"]] == [2, 1]
    (finding,) = report.findings
    assert (finding.kind, finding.where) == ("class left out", "axolotl")
    assert finding.what.endswith("boxes dropped: 2")
    with pytest.raises(UserError, match="has no box of horse"):
        convert(voc, tmp_path, classes=["horse"])
    with pytest.raises(UserError, match="repeated in the classes: cat;"):
        convert(voc, tmp_path, classes=["cat", "dog", "cat"])


def test_splits(voc, tmp_path):
    """The classes are those of all splits, lists of one class have a second column, blank lines are none."""
    images = {"a": xml(("cat", (1, 1, 9, 9))), "b": xml(("dog", (1, 1, 9, 9))), "c": xml()}
    make(voc, images, {"train": "c 1\n\na  -1\nc 1\n", "test": "b", "trainval": "a\nb"})
    Image.new("RGB", (64, 48), "blue").save(voc / "JPEGImages/b.jpg")
    report, content = convert(voc, tmp_path)
    assert {*report.splits} == {"train", "test"}
    assert [image["file_name"] for image in content["images"]] == ["c.jpg", "a.jpg"]
    assert len(content["categories"]) == 2
    assert [finding.kind for finding in report.findings] == ["image named twice", "splits"]
    assert {path.name for path in (tmp_path / "coco/images").iterdir()} == {"a.jpg", "b.jpg", "c.jpg"}
    only = convert_voc(voc, tmp_path / "other", splits=["trainval"])
    assert {*only.splits} == {"trainval"}


def test_an_image_by_its_stated_name_by_its_stem_and_its_size_from_itself(voc, tmp_path):
    make(voc, {"a": xml(("cat", (1, 1, 9, 9)), size=None)}, suffix=".png")
    _, content = convert(voc, tmp_path)
    digest = hashlib.sha256((voc / "JPEGImages/a.png").read_bytes()).hexdigest()
    expected = {"id": 1, "file_name": "a.png", "width": 64, "height": 48, "sha256": digest}
    assert content["images"] == [expected]
    (voc / "JPEGImages" / "a.png").rename(voc / "JPEGImages" / "other.png")
    (voc / "Annotations" / "a.xml").write_text(
        xml(("cat", (1, 1, 9, 9)), filename="x/other.png", size=(0, 0))
    )
    _, content = convert(voc, tmp_path)
    assert content["images"][0]["file_name"] == "other.png"


def test_a_wrong_filename_does_not_fetch_another_image(voc, tmp_path):
    """Copied XML files keep the name of the image they were made for."""
    make(voc, {"a": xml(("cat", (1, 1, 9, 9))), "b": xml(("cat", (1, 1, 9, 9)), filename="a.jpg")})
    _, content = convert(voc, tmp_path)
    assert [image["file_name"] for image in content["images"]] == ["a.jpg", "b.jpg"]
    (voc / "JPEGImages" / "b.jpg").unlink()
    with pytest.raises(UserError, match=r"a\.xml and .*b\.xml both describe .*a\.jpg"):
        convert(voc, tmp_path)


def test_images_are_brought_anew_when_they_changed(voc, tmp_path):
    make(voc, {"a": xml(("cat", (1, 1, 9, 9)))})
    convert_voc(voc, tmp_path / "coco", link=True)
    convert(voc, tmp_path)
    copy, original = tmp_path / "coco/images/a.jpg", voc / "JPEGImages/a.jpg"
    assert not copy.is_symlink()
    data = bytearray(original.read_bytes())
    data[-3] ^= 1  # of the same length
    original.write_bytes(data)
    convert(voc, tmp_path)
    assert copy.read_bytes() == bytes(data)


def test_images_are_copied_or_linked_and_not_twice(voc, tmp_path):
    make(voc, {"a": xml(("cat", (1, 1, 9, 9)))})
    convert(voc, tmp_path)
    copy = tmp_path / "coco/images/a.jpg"
    assert not copy.is_symlink()
    before = copy.stat().st_mtime_ns
    convert(voc, tmp_path)
    assert copy.stat().st_mtime_ns == before
    convert_voc(voc, tmp_path / "linked", link=True)
    assert (tmp_path / "linked/images/a.jpg").is_symlink()
    assert not list(tmp_path.rglob("*.partial"))


def test_what_is_missing_or_broken_is_named_and_nothing_is_written(voc, tmp_path):
    target = tmp_path / "coco"
    with pytest.raises(UserError, match=r"no folder .*Annotations"):
        convert_voc(voc, target)
    make(voc, {"a": xml(("cat", (1, 1, 9, 9)))}, {"other": "a"})
    with pytest.raises(UserError, match=r"none of train.txt, val.txt, test.txt .*--splits"):
        convert_voc(voc, target)
    with pytest.raises(UserError, match=r"no split mine: .*there are: other"):
        convert_voc(voc, target, splits=["mine"])
    (voc / "ImageSets/Main/train.txt").write_text(" \n")
    with pytest.raises(UserError, match="names no image"):
        convert_voc(voc, target)
    (voc / "ImageSets/Main/train.txt").write_text("a\nb\n")
    with pytest.raises(UserError, match=r"no image b \(with a suffix"):
        convert_voc(voc, target)
    (voc / "Annotations/b.xml").write_text(xml()[:40])
    with pytest.raises(UserError, match=r"b.xml is not valid XML, truncated"):
        convert_voc(voc, target)
    (voc / "Annotations/b.xml").write_text('<!DOCTYPE a [<!ENTITY x "y">]>' + xml())
    with pytest.raises(UserError, match=r"b.xml has a DOCTYPE"):
        convert_voc(voc, target)
    (voc / "Annotations/b.xml").write_text(xml())
    with pytest.raises(UserError, match=r"no image b \(with a suffix such as"):
        convert_voc(voc, target)
    (voc / "Annotations/b.xml").write_text(xml(size=None))
    (voc / "JPEGImages/b.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"cannot read the image .*b.jpg"):
        convert_voc(voc, target)
    assert not target.exists()


ENTITY = '<!DOCTYPE a [<!ENTITY x "cat">]><annotation>&x;</annotation>'


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (f'<?xml version="1.0" encoding="utf-16"?>{ENTITY}'.encode("utf-16"), "has a DOCTYPE"),
        (b'<?xml version="1.0" encoding="gbk"?><annotation>\xff</annotation>', "cannot be decoded: .*UTF-8"),
        (b'<?xml version="1.0" encoding="none"?><annotation/>', "cannot be decoded: .*save it as UTF-8"),
    ],
)
def test_encodings_of_xml(voc, tmp_path, content, reason):
    make(voc, {"a": xml(("cat", (1, 1, 9, 9)))})
    (voc / "Annotations/a.xml").write_bytes(content)
    with pytest.raises(UserError, match=f"a.xml {reason}"):
        convert_voc(voc, tmp_path / "coco")


def test_encodings_of_lists(voc, tmp_path):
    make(voc, {"ä": xml(("cat", (1, 1, 9, 9)))})
    path = voc / "ImageSets/Main/train.txt"
    path.write_bytes("ä\n".encode("utf-8-sig"))
    _, content = convert(voc, tmp_path)
    assert content["images"][0]["file_name"] == "ä.jpg"
    path.write_bytes("ä\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"train.txt cannot be read: .*save it as UTF-8"):
        convert(voc, tmp_path)


def test_images_of_one_name_do_not_overwrite_each_other(voc, tmp_path):
    for folder in ("x", "y"):
        for parent in ("Annotations", "JPEGImages"):
            (voc / parent / folder).mkdir(parents=True)
    make(voc, {"x/a": xml(("cat", (1, 1, 9, 9))), "y/a": xml(("cat", (1, 1, 9, 9)))})
    _, content = convert(voc, tmp_path)
    assert [image["file_name"] for image in content["images"]] == ["x/a.jpg", "y/a.jpg"]


@pytest.mark.parametrize("name", ["a.jpg", "x/a.jpg", "x/y/a b.jpg"])
def test_images_stay_in_their_subfolders(voc, tmp_path, name):
    stem = name.removesuffix(".jpg")
    for parent in ("Annotations", "JPEGImages"):
        (voc / parent / stem).parent.mkdir(parents=True, exist_ok=True)
    make(voc, {stem: xml(("cat", (1, 1, 9, 9)))}, {"train": stem})
    for to in ("voc", "yolo", "coco"):
        convert_dataset(voc, tmp_path / "out" / to, target_format=to)
        (image,) = read_boxes(tmp_path / "out" / to).splits["train"]
        assert image.name == ("train/" * (to == "yolo")) + name


def test_lists_of_other_names_are_told(voc, tmp_path):
    """But not the lists of one class, which are no splits, nor those that train and val make up."""
    names = {name: xml(("cat", (1, 1, 9, 9))) for name in ("a", "b")}
    splits = {"train": "a", "val": "b", "trainval": "a\nb", "cat_train": "a  1", "cat_val": "b -1\n"}
    make(voc, names, splits)
    Image.new("RGB", (64, 48), "red").save(voc / "JPEGImages/b.jpg")
    assert not convert_voc(voc, tmp_path / "coco").findings
    (voc / "JPEGImages/c 1.jpg").write_bytes((voc / "JPEGImages/a.jpg").read_bytes())
    (finding,) = convert_voc(voc, tmp_path / "coco").findings
    assert finding.what.endswith("names: c 1.jpg")
    for name, text in (("minival", "b"), ("c 1", "c 1")):
        (voc / f"ImageSets/Main/{name}.txt").write_text(text)
    (finding,) = convert_voc(voc, tmp_path / "coco").findings
    assert finding.what == "left out: c 1, minival; --splits chooses them"
    assert not convert_voc(voc, tmp_path / "minival", splits=["minival"]).findings
    for split in ("train", "val"):
        (voc / f"ImageSets/Main/{split}.txt").unlink()
    with pytest.raises(UserError, match=r"with --splits \(there are: c 1, minival, trainval\)$"):
        convert_voc(voc, tmp_path / "coco")


def test_a_target_that_cannot_be_written(voc, tmp_path):
    """A file in the place of a folder is met before anything is written."""
    make(voc, {"a": xml(("cat", (1, 1, 9, 9)))})
    for name in ("images", "annotations", ""):
        place = tmp_path / "coco" / name
        place.parent.mkdir(exist_ok=True)
        place.write_text("a file")
        with pytest.raises(UserError, match=f"{place} is not a folder: move it away"):
            convert_voc(voc, tmp_path / "coco")
        assert place.read_text() == "a file"
        assert [*place.parent.iterdir()] == [place] or not name
        place.unlink()
        if name == "annotations":
            (tmp_path / "coco").rmdir()
    (tmp_path / "coco").symlink_to("nowhere")
    with pytest.raises(UserError, match="coco is not a folder"):
        convert_voc(voc, tmp_path / "coco")


def state(root: Path) -> dict[str, tuple[str | bytes | None, int]]:
    """What a folder holds: path -> (where a link leads, or the bytes of a file; the time of its change)."""
    return {
        str(path.relative_to(root)): (
            str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else None,
            path.lstat().st_mtime_ns,
        )
        for path in root.rglob("*")
    }


def two_images(root: Path) -> Path:
    """A VOC folder with two different images, and a way in by another name."""
    make(root, {"a": xml(("cat", (1, 1, 9, 9))), "b": xml(("dog", (1, 1, 9, 9)))})
    Image.new("RGB", (64, 48), "red").save(root / "JPEGImages/b.jpg")
    return root


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("case", ["folder", "chain", "images", "folder in between", "links to images"])
def test_an_image_in_its_own_place_is_left_alone(voc, tmp_path, link, case):
    """However the target's images lead to the source's, the source is as it was, and the target is whole."""
    two_images(voc)
    images, places = voc / "JPEGImages", tmp_path / "coco/images"
    places.parent.mkdir()
    if case == "folder":
        places.symlink_to("../voc/JPEGImages")
    elif case == "chain":
        (tmp_path / "way").symlink_to(images)
        places.symlink_to(tmp_path / "way")
    elif case == "folder in between":  # the source's folder is a link to the target's
        images.rename(places)
        images.symlink_to(places)
    elif case == "images":  # the images of the source are hard links
        places.mkdir()
        for name in ("a.jpg", "b.jpg"):
            (places / name).hardlink_to(images / name)
    else:  # a source made of links
        places.symlink_to(images)
        (tmp_path / "pool").mkdir()
        for name in ("a.jpg", "b.jpg"):
            (images / name).rename(tmp_path / "pool" / name)
            (images / name).symlink_to(tmp_path / "pool" / name)
    before, placed = state(tmp_path / "voc"), state(places)
    for _ in range(2):
        convert_voc(voc, tmp_path / "coco", link=link)
        assert (state(tmp_path / "voc"), state(places)) == (before, placed)
        report = check_coco(tmp_path / "coco/annotations/instances_train.json", places, ("cat", "dog"))
        assert (report.errors, report.boxes) == ((), 2)


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("inner", ["", "coco", "images"])
def test_a_target_at_or_in_the_source(voc, link, inner):
    two_images(voc)
    if inner == "images":  # the tool that made the data set calls its folder so
        (voc / "JPEGImages").rename(voc / "images")
        (voc / "JPEGImages").symlink_to("images")
    target = voc / inner if inner == "coco" else voc
    before = state(voc)
    for _ in range(2):
        convert_voc(voc, target, link=link)
        after = state(voc)
        ours = ("annotations", "images", "coco")
        assert {name: after[name] for name in before} == before
        assert {name for name in after.keys() - before.keys() if not name.startswith(ours)} == set()
        report = check_coco(target / "annotations/instances_train.json", target / "images", ("cat", "dog"))
        assert (report.errors, report.boxes) == ((), 2)


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize(
    ("place", "to"),
    [
        ("annotations", "voc/Annotations"),
        ("annotations", "voc/JPEGImages/new"),
        ("annotations", "voc/ImageSets/Main"),
        ("images", "voc/JPEGImages/s"),
        ("images", "voc/Annotations"),
        ("images", "elsewhere"),
        (".", "voc/JPEGImages"),
    ],
)
def test_a_target_in_a_folder_of_the_source_is_refused(voc, tmp_path, link, place, to):
    two_images(voc)
    (tmp_path / "elsewhere").mkdir()
    Image.new("RGB", (64, 48), "blue").save(tmp_path / "elsewhere/c.jpg")
    (voc / "JPEGImages/linked").symlink_to(tmp_path / "elsewhere")
    (voc / "ImageSets/Main/train.txt").write_text("a\nb\nlinked/c\n")
    (tmp_path / to).mkdir(exist_ok=True)
    target = tmp_path / "coco"
    if place == ".":
        target.symlink_to(tmp_path / to)
    else:
        target.mkdir()
        (target / place).symlink_to(tmp_path / to)
    before = state(tmp_path)
    with pytest.raises(UserError, match="a folder of the data set to convert: choose another folder"):
        convert_voc(voc, target, link=link)
    assert state(tmp_path) == before


@pytest.mark.parametrize("link", [False, True])
def test_a_place_that_an_image_of_the_source_is_a_link_to(voc, tmp_path, link):
    """Whoever replaced the images of the source by links to the copies keeps both."""
    two_images(voc)
    convert(voc, tmp_path)
    copies = tmp_path / "coco/images"
    (voc / "JPEGImages/a.jpg").unlink()
    (voc / "JPEGImages/a.jpg").symlink_to(copies / "b.jpg")
    before = state(copies)
    Image.new("RGB", (64, 48), "blue").save(voc / "JPEGImages/b.jpg")
    with pytest.raises(UserError, match=r"JPEGImages/a\.jpg is a link to .*images/b\.jpg: choose another"):
        convert_voc(voc, tmp_path / "coco", link=link)
    assert state(copies) == before
    Image.open(copies / "b.jpg").save(voc / "JPEGImages/b.jpg")
    for name in ("a.jpg", "b.jpg"):
        (voc / "JPEGImages" / name).unlink()
        (voc / "JPEGImages" / name).symlink_to(copies / name)
    convert_voc(voc, tmp_path / "coco", link=link)
    assert state(copies) == before


def test_nothing_half_written_stays(voc, tmp_path, monkeypatch):
    make(voc, {"a": xml(("cat", (1, 1, 9, 9)))})

    def full(_, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(UserError, match="No space left on device"):
        convert_voc(voc, tmp_path / "coco")
    assert not [path for path in (tmp_path / "coco").rglob("*") if path.is_file()]


def test_no_box_at_all(voc, tmp_path):
    make(voc, {"a": xml()})
    with pytest.raises(UserError, match="has no box of any class"):
        convert_voc(voc, tmp_path / "coco")


def test_an_object_without_a_name_is_dropped(voc, tmp_path):
    make(voc, {"a": xml(("", (1, 1, 9, 9)), ("cat", (1, 1, 9, 9)))})
    report, content = convert(voc, tmp_path)
    assert len(content["annotations"]) == 1
    assert report.findings[0].what == "has no class name"


def test_the_blood_cells(shared, tmp_path):
    report = convert_voc(shared / "data/bccd", tmp_path, link=True)
    assert report.classes == ("Platelets", "RBC", "WBC")
    assert {name: split.images for name, split in report.splits.items()} == {
        "train": 205,
        "val": 87,
        "test": 72,
    }
    assert sum(split.boxes for split in report.splits.values()) == 4155 + 372 + 361 - 2
    assert {finding.where.split(",")[0] for finding in report.findings} == {
        "BloodImage_00338.xml",
        "BloodImage_00343.xml",
    }
    assert {finding.kind for finding in report.findings} == {"box dropped"}
    for split in report.splits:
        path = tmp_path / "annotations" / f"instances_{split}.json"
        found = check_coco(path, tmp_path / "images", ("RBC", "WBC", "Platelets"), read_images=False)
        assert found.errors == ()
        assert found.boxes == report.splits[split].boxes


@pytest.mark.parametrize("name", ["annotations/instances_train.json", "images/BloodImage_00001.jpg"])
def test_files_of_others_in_the_target_are_kept(tmp_path, name):
    """A second conversion replaces what the first one wrote, and nothing else."""
    voc = tmp_path / "voc"
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (voc / folder).mkdir(parents=True)
    Image.new("RGB", (40, 30)).save(voc / "JPEGImages/BloodImage_00001.jpg")
    (voc / "ImageSets/Main/train.txt").write_text("BloodImage_00001\n")
    box = "<bndbox><xmin>2</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    xml = f"<annotation><object><name>cat</name>{box}</object></annotation>"
    (voc / "Annotations/BloodImage_00001.xml").write_text(xml)
    path = tmp_path / "target" / name
    path.parent.mkdir(parents=True)
    path.write_text('{"images": []}')
    with pytest.raises(UserError, match=f"{path} exists, and no earlier conversion wrote it"):
        convert_voc(voc, tmp_path / "target")
    assert path.read_text() == '{"images": []}'
    assert [each for each in (tmp_path / "target").rglob("*") if each.is_file()] == [path]
    path.unlink()
    convert_voc(voc, tmp_path / "target")
    Image.new("RGB", (40, 30), "red").save(voc / "JPEGImages/BloodImage_00001.jpg")
    convert_voc(voc, tmp_path / "target")
    expected = (voc / "JPEGImages/BloodImage_00001.jpg").read_bytes()
    assert (tmp_path / "target/images/BloodImage_00001.jpg").read_bytes() == expected


def test_class_names_with_control_characters_are_dropped(voc, tmp_path):
    """XML allows those of 0x80 to 0x9f; the annotations would be refused when they are read."""
    make(voc, {"a": xml(("cat", (1, 1, 20, 20)), ("c\x9b2J", (1, 1, 20, 20)))})
    report, content = convert(voc, tmp_path)
    assert report.classes == ("cat",)
    assert len(content["annotations"]) == 1
    assert "its class name contains control characters" in report.table()
    assert "\x9b" not in report.table()
    with pytest.raises(UserError, match="expected printable text"):
        convert(voc, tmp_path, classes=["c\x1b[2J"])


@pytest.mark.parametrize(
    "old",
    ["<name>cat</name>", "<xmin>1</xmin>", "<difficult>0</difficult>"],
)
@pytest.mark.parametrize("kind", ["twice", "split"])
def test_values_that_are_there_twice_or_in_parts_are_refused(voc, tmp_path, old, kind):
    tag = re.match(r"<(\w+)>", old)[1]
    text = xml(("cat", (1, 1, 9, 9)))
    if old not in text:
        text, old = text.replace("<bndbox>", f"{old}<bndbox>"), old
    assert old in text
    new = old + old if kind == "twice" else old.replace("</", "<b/></")
    make(voc, {"a": text.replace(old, new)})
    with pytest.raises(UserError, match=rf"the object 'cat' has (several|elements in its) <(bndbox/)?{tag}>"):
        convert_voc(voc, tmp_path / "coco")


def paint(path: Path, colour: str) -> bytes:
    Image.new("RGB", (64, 48), colour).save(path)
    return path.read_bytes()


@pytest.mark.parametrize("link", [False, True])
def test_every_image_has_its_digest_and_readers_do_not_mind(voc, tmp_path, link):
    two_images(voc)
    _, content = convert(voc, tmp_path, link=link)
    images = tmp_path / "coco/images"
    for entry in content["images"]:
        expected = hashlib.sha256((images / entry["file_name"]).read_bytes()).hexdigest()
        assert entry["sha256"] == expected
    assert len({entry["sha256"] for entry in content["images"]}) == 2
    report = check_coco(tmp_path / "coco/annotations/instances_train.json", images, ("cat", "dog"))
    assert (report.findings, report.boxes) == ((), 2)


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("case", ["retouched", "link", "no digest", "digest of another", "no mark"])
def test_an_image_that_no_conversion_wrote_is_kept(voc, tmp_path, link, case):
    """A mark in the annotations is not enough: the image must still be the one that they list."""
    two_images(voc)
    convert(voc, tmp_path)
    target = tmp_path / "coco"
    place, file = target / "images/a.jpg", target / "annotations/instances_train.json"
    content = json.loads(file.read_text())
    if case == "retouched":
        paint(place, "green")
    elif case == "link":
        paint(tmp_path / "my.jpg", "green")
        place.unlink()
        place.symlink_to(tmp_path / "my.jpg")
    elif case == "no digest":
        del content["images"][0]["sha256"]
    elif case == "digest of another":
        content["images"][0]["sha256"] = content["images"][1]["sha256"]
    else:
        file.rename(target / "annotations/mine.json")
        del content["info"]
        file = target / "annotations/mine.json"
    content.get("info", {}).pop("sha256", None)  # as earlier versions wrote it: the annotations may be edited
    file.write_text(json.dumps(content))
    paint(voc / "JPEGImages/a.jpg", "yellow")
    (voc / "JPEGImages/0.jpg").write_bytes((voc / "JPEGImages/b.jpg").read_bytes())  # comes first
    (voc / "ImageSets/Main/train.txt").write_text("0\na\nb\n")
    before = state(tmp_path)
    with pytest.raises(UserError, match=f"^{place} exists, and no earlier conversion wrote it: move it away"):
        convert(voc, tmp_path, link=link)
    assert state(tmp_path) == before
    place.unlink()
    convert(voc, tmp_path, link=link)
    assert place.read_bytes() == (voc / "JPEGImages/a.jpg").read_bytes()


@pytest.mark.parametrize("link", [False, True])
def test_another_data_set_does_not_change_the_images_of_the_first(tmp_path, link):
    """The boxes of the first one's annotations, which stay, are those of its own image."""
    box = xml(("cat", (1, 1, 9, 9)))
    first, second = make(tmp_path / "A", {"1": box}), make(tmp_path / "B", {"1": box}, {"val": "1"})
    paint(second / "JPEGImages/1.jpg", "blue")
    convert_voc(first, tmp_path / "T", link=link)
    place = tmp_path / "T/images/1.jpg"
    for _ in range(2):
        before = state(tmp_path)
        with pytest.raises(UserError, match=r"instances_train\.json lists another image 1\.jpg: convert its"):
            convert_voc(second, tmp_path / "T", link=link)
        assert state(tmp_path) == before
        place.unlink(missing_ok=True)
    (second / "ImageSets/Main/val.txt").rename(second / "ImageSets/Main/train.txt")
    convert_voc(second, tmp_path / "T", link=link)  # takes the place of the first one
    assert place.read_bytes() == (second / "JPEGImages/1.jpg").read_bytes()
    assert place.is_symlink() == link


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("before", [False, True])
def test_what_a_conversion_wrote_is_replaced(voc, tmp_path, link, before):
    """Images that changed, copies for links and links for copies, and links to where the source was."""
    two_images(voc)
    convert(voc, tmp_path, link=before)
    place = tmp_path / "coco/images/a.jpg"
    convert(voc, tmp_path, link=link)
    assert place.is_symlink() == link
    expected = paint(voc / "JPEGImages/a.jpg", "yellow")
    convert(voc, tmp_path, link=link)
    assert (place.is_symlink(), place.read_bytes()) == (link, expected)
    moved = voc.rename(tmp_path / "moved")
    convert(moved, tmp_path, link=link)
    assert (place.is_symlink(), place.read_bytes()) == (link, expected)
    assert not link or place.resolve() == moved / "JPEGImages/a.jpg"


def test_a_link_that_leads_nowhere_and_to_no_listed_image_is_kept(voc, tmp_path):
    two_images(voc)
    place = tmp_path / "coco/images/a.jpg"
    place.parent.mkdir(parents=True)
    place.symlink_to("a disk that is not there")
    with pytest.raises(UserError, match=f"{place} exists, and no earlier conversion wrote it"):
        convert(voc, tmp_path)
    assert [*(tmp_path / "coco").rglob("*")] == [place.parent, place]


def test_a_conversion_goes_on_where_it_was_stopped(voc, tmp_path, monkeypatch):
    """What was brought before is the image to be written, though no annotations list it yet."""
    two_images(voc)
    with monkeypatch.context() as patch:
        patch.setattr("hardnet_suite.data.conversion.coco.write_file", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            convert(voc, tmp_path)
    _, content = convert(voc, tmp_path)
    assert len(content["images"]) == 2


@pytest.mark.parametrize(("value", "difficult"), [("1", True), ("Yes", True), ("0", False), ("", False)])
def test_difficult_is_0_or_1(voc, tmp_path, value, difficult):
    text = xml(("cat", (1, 1, 9, 9))).replace("<difficult>0<", f"<difficult>{value}<")
    report, content = convert(make(voc, {"a": text}), tmp_path)
    assert content["annotations"][0]["iscrowd"] == difficult
    assert not report.findings


@pytest.mark.parametrize("value", ["2", "on", "nan", "x"])
def test_another_difficult_is_told(voc, tmp_path, value):
    text = xml(("cat", (1, 1, 9, 9))).replace("<difficult>0<", f"<difficult>{value}<")
    report, content = convert(make(voc, {"a": text}), tmp_path)
    assert content["annotations"][0]["iscrowd"] == 0
    assert [finding.what for finding in report.findings] == [
        f"difficult is {value!r}, read as not difficult; write 0 or 1"
    ]


def test_a_line_longer_than_any_path_is_refused(voc, tmp_path):
    make(voc, {"a": xml(("cat", (1, 1, 9, 9)))}, {"train": "a\n" + 60_000 * "/a"})
    with pytest.raises(UserError, match="a line longer than any path"):
        convert_voc(voc, tmp_path / "coco")
