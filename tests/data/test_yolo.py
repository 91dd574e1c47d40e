from __future__ import annotations

import re
import unicodedata
import zlib
from dataclasses import replace

import pytest
from PIL import Image

from hardnet_suite.data.boxes import BoxData
from hardnet_suite.data.conversion.convert import convert_dataset, detect_format, read_boxes
from hardnet_suite.data.conversion.yolo import write_yolo
from hardnet_suite.data.yolo import read_yolo
from hardnet_suite.errors import UserError

ROW = "0 0.5 0.5 0.5 0.25\n"  # on 64×48: (16, 18, 32, 12)
BOX = (16, 18, 32, 12)


def image(path, size=(64, 48), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 120, zlib.crc32(bytes(path)) % 256)).save(path, **options)
    return path


def put(folder, name="a.jpg", rows=ROW, split="train", **options):
    """An image in images/SPLIT and its rows in labels/SPLIT."""
    path = image(folder / "images" / split / name, **options)
    if rows is not None:
        label = (folder / "labels" / split / name).with_suffix(".txt")
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_bytes(rows if isinstance(rows, bytes) else rows.encode())
    return path


def describe(folder, text="train: images/train\nnames: [cat, dog]\n"):
    (folder / "data.yaml").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def yolo(tmp_path):
    folder = tmp_path / "yolo"
    put(folder)
    return describe(folder)


def boxes(data, split="train", index=0):
    return [(box.name, tuple(box.bbox)) for box in data.splits[split][index].boxes]


def kinds(data):
    return [finding.kind for finding in data.findings]


def test_a_box(yolo):
    data = read_yolo(yolo)
    assert data.classes == ("cat", "dog")
    assert boxes(data) == [("cat", BOX)]
    assert data.splits["train"][0].size == (64, 48)
    assert data.splits["train"][0].name == "train/a.jpg"
    assert not data.findings


@pytest.mark.parametrize(
    "names",
    [
        "names: [cat, dog]",
        "names:\n  0: cat\n  1: dog",
        "names: {1: dog, 0: cat}",
        "nc: 2\nnames: ['cat', 'dog']",
    ],
)
def test_names_as_list_or_dict(yolo, names):
    assert read_yolo(describe(yolo, f"train: images/train\n{names}\n")).classes == ("cat", "dog")


def test_names_that_are_numbers(yolo):
    describe(yolo, "train: images/train\nnames: [0, 12, 1.5, '010', 08]\nversion: 0x10\n")
    assert read_yolo(yolo).classes == ("0", "12", "1.5", "010", "08")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: images/train\n", "has no names"),
        ("train: images/train\nnames: []\n", "expected a list of names"),
        ("train: images/train\nnames: cat\n", "expected a list of names"),
        *(
            (f"train: images/train\nnames: {value}\n", "expected a list")
            for value in ("-1", "1.5", "true", "''")
        ),
        (f"train: {'é' * 200}\nnames: [cat]\n", "which does not exist"),
        ("train: images/train\nnames: [yes, no]\n", "write it in quotes"),
        *(
            (
                f"train: images/train\nnames: {names}\n",
                rf"names has {re.escape(name)} for the class 1: write it",
            )
            for name in ("010", "1.10", "12:30", "1_0", "0x1F", "+3", ".inf", "1.0e+3")
            for names in (f"[cat, {name}]", f"{{0: cat, 1: {name}}}")
        ),
        ("train: images/train\nnames: {010: cat}\n", "names has the id 010, expected 0, 1, 2"),
        ("train: images/train\nnames: 010\n", "has names: 010, expected a list of names"),
        ("train: images/train\nnames: [cat, cat]\n", "names 'cat' twice"),
        ("train: images/train\nnames: {a: cat}\n", "has the id 'a'"),
        ("train: images/train\nnc: 3\nnames: [cat, dog]\n", "nc: 3, but 2 names"),
        ("train: nowhere\nnames: [cat]\n", "train is nowhere, which does not exist"),
        ("names: [cat]\n", "names no folder of images"),
        ("train: [1]\nnames: [cat]\n", "expected the path of a folder"),
        ("train: images/train\nval: images/train\nvalid: images/train\nnames: [cat]\n", "both val and valid"),
        ("train: 'images\nnames: [cat]\n", "not valid YAML"),
        ("- a\n- b\n", "has no names"),
        ("train: images/train\nnames: [cat]\nnames: [dog]\n", "the key 'names' twice"),
        ("train: images/train\nnames:\n  0: cat\n  0: dog\n", "the key '0' twice"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nnames: [*b, *b]\n", r"has an alias \(\*name\)"),
        ("train: !!python/object/apply:os.system [ls]\nnames: [cat]\n", "not valid YAML"),
        ("train: images/train\nnames: [cat]\nkpt_shape: 17\n", "kpt_shape"),
    ],
)
def test_a_wrong_yaml_is_one_error(yolo, text, message):
    with pytest.raises(UserError, match=message):
        read_yolo(describe(yolo, text))


@pytest.mark.parametrize(
    "path",
    ["path: .", "path: {root}", "path: ../yolo", "path: /on/another/machine", f"path: {'another/é' * 99}"],
)
def test_path(yolo, path):
    describe(yolo, f"{path.format(root=yolo)}\ntrain: images/train\nnames: [cat]\n")
    data = read_yolo(yolo)
    assert boxes(data) == [("cat", BOX)]
    assert kinds(data) == (["path of another machine"] if "another" in path else [])


def test_roboflow(tmp_path):
    """SPLIT/images beside SPLIT/labels, paths that begin with ../, "valid", a test split that is missing."""
    for split in ("train", "valid"):
        image(tmp_path / split / "images/a.jpg")
        (tmp_path / split / "labels").mkdir()
        (tmp_path / split / "labels/a.txt").write_text(ROW)
    describe(
        tmp_path,
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnc: 1\nnames: [cat]\n",
    )
    data = read_yolo(tmp_path)
    assert {split: len(images) for split, images in data.splits.items()} == {"train": 1, "val": 1}
    assert [images[0].name for images in data.splits.values()] == ["train/a.jpg", "valid/a.jpg"]
    assert kinds(data) == ["split without images"]


@pytest.mark.parametrize("name", [" a.jpg", "x\\a.jpg", "\u2028a.jpg"])
def test_a_line_that_is_the_name_of_an_image(yolo, name):
    """Also beside the image that the line would name if it were tidied up."""
    put(yolo, "x/a.jpg")
    image = put(yolo, name)
    (yolo / "images/train/list.txt").write_text(f"{name}\n", encoding="utf-8")
    data = read_yolo(describe(yolo, "train: images/train/list.txt\nnames: [cat, dog]\n"))
    assert [each.path for each in data.splits["train"]] == [image]


@pytest.mark.parametrize(
    "line",
    ["images/train/a.jpg", "./images/train/a.jpg", "{root}/images/train/a.jpg", "images\\train\\a.jpg"],
)
def test_lists(yolo, line):
    put(yolo, "not listed.jpg", rows=None)
    (yolo / "train.txt").write_text(f"{line.format(root=yolo)}\r\n\r\n{line.format(root=yolo)}\r\n")
    data = read_yolo(describe(yolo, "train: train.txt\nnames: [cat]\n"))
    assert boxes(data) == [("cat", BOX)]
    assert kinds(data) == ["image named twice", "images left out"]


def test_a_list_with_a_missing_image(yolo):
    (yolo / "train.txt").write_text("images/train/b.jpg\n")
    with pytest.raises(UserError, match=r"train\.txt names images/train/b\.jpg, which does not exist"):
        read_yolo(describe(yolo, "train: train.txt\nnames: [cat]\n"))


def test_several_folders(yolo):
    put(yolo, "b.jpg", split="more")
    data = read_yolo(describe(yolo, "train: [images/train, images/more]\nnames: [cat]\n"))
    assert [image.name for image in data.splits["train"]] == ["train/a.jpg", "more/b.jpg"]


def test_without_yaml(tmp_path):
    put(tmp_path)
    put(tmp_path, "b.jpg", split="val")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    assert detect_format(tmp_path) == "yolo"
    data = read_yolo(tmp_path)
    assert data.classes == ("cat", "dog")
    assert [*data.splits] == ["train", "val"]


def test_images_beside_the_splits_are_told(tmp_path):
    put(tmp_path)
    put(tmp_path, "b.jpg", split="street")
    put(tmp_path, "c.jpg", split=".")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    (finding,) = read_yolo(tmp_path).findings
    told = "left out: street, those of images/ itself; YOLO data sets have train, val and test"
    assert (finding.kind, finding.what) == ("splits", told)


def test_an_empty_line_would_shift_the_classes(tmp_path):
    put(tmp_path)
    for name in ("classes.txt", "obj.names"):
        (tmp_path / name).write_text("cat\n\ndog\n\n")
        with pytest.raises(UserError, match=f"{name}, line 2 is empty"):
            read_yolo(tmp_path)
        (tmp_path / name).unlink()


def test_labels_beside_the_images(tmp_path):
    image(tmp_path / "data/a.jpg")
    (tmp_path / "data/a.txt").write_text(ROW)
    assert boxes(read_yolo(describe(tmp_path, "train: data\nnames: [cat]\n"))) == [("cat", BOX)]


def test_images_without_labels_have_no_objects(yolo):
    put(yolo, "b.jpg", rows=None)
    put(yolo, "c.jpg", rows="\n")
    data = read_yolo(yolo)
    assert [len(image.boxes) for image in data.splits["train"]] == [1, 0, 0]
    assert [finding.what for finding in data.findings] == ["1 of 3; kept as images without objects"]


def test_no_label_at_all(tmp_path):
    put(tmp_path, rows=None)
    with pytest.raises(UserError, match=r"none of its 1 images .*labels/train/a\.txt"):
        read_yolo(describe(tmp_path))


@pytest.mark.parametrize("value", ["images/minival", "[images/minival]", "minival.txt"])
@pytest.mark.parametrize("has_yaml", [True, False])
def test_splits_of_other_names_are_told(yolo, value, has_yaml):
    put(yolo, "b.jpg", split="minival")
    (yolo / "minival.txt").write_text("images/minival/b.jpg\n")
    (yolo / "README.txt").write_text("read me")
    lines = ["train: images/train", f"minival: {value}", "names: [cat]", "license: README.txt"]
    lines += ["download: ''", "channels: 3", "author: someone", "other: [1, images]", "urls: []"]
    describe(yolo, "\n".join(lines))
    if not has_yaml:
        (yolo / "data.yaml").rename(yolo / "classes.txt")
        (yolo / "classes.txt").write_text("cat")
        (yolo / "images/empty").mkdir()
    data = read_yolo(yolo)
    assert [*data.splits] == ["train"]
    assert [f.what for f in data.findings] == ["left out: minival; YOLO data sets have train, val and test"]


def test_label_files_without_image_are_told(yolo):
    (yolo / "labels/train/b.txt").write_text(ROW)
    assert kinds(read_yolo(yolo)) == ["label files without image"]


@pytest.mark.parametrize("rows", [b"\xef\xbb\xbf" + ROW.encode(), ROW.encode().replace(b"\n", b"\r\n")])
def test_windows(yolo, rows):
    put(yolo, rows=rows)
    assert boxes(read_yolo(yolo)) == [("cat", BOX)]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_accents_and_subfolders(tmp_path, form):
    name = unicodedata.normalize("NFC", "süd/café 猫.jpg")
    image(tmp_path / "images/train" / name)
    label = tmp_path / "labels/train/süd" / unicodedata.normalize(form, "café 猫.txt")
    label.parent.mkdir(parents=True)
    label.write_text("1 0.5 0.5 0.5 0.25")
    assert boxes(read_yolo(describe(tmp_path))) == [("dog", BOX)]


def test_the_size_is_of_the_upright_image(yolo):
    exif = Image.Exif()
    exif[0x0112] = 6
    put(yolo, size=(48, 64), exif=exif)
    data = read_yolo(yolo)
    assert data.splits["train"][0].size == (64, 48)
    assert boxes(data) == [("cat", BOX)]


@pytest.mark.parametrize(
    ("row", "expected", "kind"),
    [
        ("0 0.5 0.5 0 0.25", [], "box dropped"),
        ("0 0.5 0.5 0.5 -0.25", [], "box dropped"),
        ("0 nan 0.5 0.5 0.25", [], "box dropped"),
        ("0 0.5 0.5 inf 0.25", [], "box dropped"),
        ("0 1.5 0.5 0.5 0.25", [], "box dropped"),
        ("0 0 0.5 0.5 0.25", [("cat", (0, 18, 16, 12))], "box cut"),
        ("0 0.5 0.5 1.000001 0.25", [("cat", (0, 18, 64, 12))], None),
        ("0.0 0.5 0.5 0.5 0.25", [("cat", BOX)], None),
        (f"{ROW}{ROW}", [("cat", BOX)], "box dropped"),
        ("1 0.25 0.375 0.75 0.375 0.75 0.625 0.25 0.625", [("dog", BOX)], "polygons"),
        ("1 0.25 0.375 0.75 0.5 0.5 0.625", [("dog", BOX)], "polygons"),
    ],
)
def test_rows(yolo, row, expected, kind):
    put(yolo, rows=row)
    data = read_yolo(yolo)
    assert boxes(data) == expected
    assert kinds(data) == ([kind] if kind else [])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("2 0.5 0.5 0.5 0.25", "has the class 2, but names has 0 to 1"),
        ("-1 0.5 0.5 0.5 0.25", "has the class -1"),
        ("0.5 0.5 0.5 0.5 0.25", r"has the class 0\.5"),
        ("nan 0.5 0.5 0.5 0.25", "has the class nan"),
        ("0 0.5 0.5 0.5", "has 4 values"),
        ("0 0.5 0.5 0.5 0.25 0.9", "predictions with scores"),
        ("0 0.5 0.5 0.5 0.25 0.9 0.1 0.3", "has 8 values"),
        ("cat 0.5 0.5 0.5 0.25", "expected numbers"),
        ("0 0,5 0,5 0,5 0,25", "expected numbers"),
        ("1_0 0.5 0.5 0.5 0.25", "expected numbers"),
        ("0 32 24 32 12", "got pixels"),
    ],
)
def test_a_row_that_means_something_else_is_an_error(yolo, row, message):
    put(yolo, rows=f"{ROW}{row}\n")
    with pytest.raises(UserError, match=rf"a\.txt, line 2: .*{message}"):
        read_yolo(yolo)


def test_keypoints_are_left_out(yolo):
    put(yolo, rows="0 0.5 0.5 0.5 0.25 0.4 0.4 2 0.6 0.6 0\n")
    data = read_yolo(describe(yolo, "train: images/train\nnames: [cat]\nkpt_shape: [2, 3]\n"))
    assert boxes(data) == [("cat", BOX)]
    assert kinds(data) == ["keypoints"]


def test_labels_in_another_encoding(yolo):
    put(yolo, rows=b"0 0.5 0.5 0.5 0.25 \xff\n")
    with pytest.raises(UserError, match="save it as UTF-8"):
        read_yolo(yolo)


def test_a_broken_image(yolo):
    (yolo / "images/train/a.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"a\.jpg"):
        read_yolo(yolo)


def test_two_yaml_files(yolo):
    (yolo / "data.yaml").rename(yolo / "one.yaml")
    (yolo / "two.yaml").write_text((yolo / "one.yaml").read_text())
    with pytest.raises(UserError, match="each describe a YOLO data set"):
        detect_format(yolo)
    assert boxes(read_yolo(yolo / "two.yaml")) == [("cat", BOX)]


def test_a_label_file_of_two_images_is_told(yolo):
    image(yolo / "images/train/a.png")
    data = read_yolo(yolo)
    assert boxes(data, index=0) == boxes(data, index=1)
    assert kinds(data) == ["label file of several images"]


def test_two_folders_of_one_split(tmp_path):
    for split in ("val", "valid"):
        put(tmp_path, split=split)
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    with pytest.raises(UserError, match="are both of the split val"):
        read_yolo(tmp_path)


@pytest.mark.parametrize("target", ["coco", "yolo", "voc", "labelme", "cvat"])
def test_images_beside_the_folder_of_the_yaml_file_stay_in_the_target(tmp_path, target):
    source = tmp_path / "source"
    put(source, "sub/a.jpg")
    (source / "yaml").mkdir()
    (source / "yaml/data.yaml").write_text("train: ../images/train\nnames: [cat, dog]\n")
    (data,) = read_yolo(source / "yaml/data.yaml").splits["train"]
    assert data.name == "train/sub/a.jpg"
    convert_dataset(source / "yaml/data.yaml", tmp_path / "parent/out", target_format=target)
    assert [path.name for path in (tmp_path / "parent").iterdir()] == ["out"]
    (again,) = read_boxes(tmp_path / "parent/out").splits["train"]
    assert [box.name for box in again.boxes] == [box.name for box in data.boxes]


def test_a_folder_called_images_in_the_images(tmp_path):
    """Labels lie in the place of the last such folder, in this reader as in others."""
    put(tmp_path / "source", "a.jpg")
    describe(tmp_path / "source")
    (data,) = read_yolo(tmp_path / "source").splits["train"]
    made = BoxData(
        data.path,
        "a test",
        ("cat", "dog"),
        {"train": [replace(data, name="seq/images/a.jpg")]},
        (),
        frozenset(),
    )
    write_yolo(made, tmp_path / "out")
    back = read_yolo(tmp_path / "out")
    assert boxes(back) == [(box.name, pytest.approx(box.bbox)) for box in data.boxes]
    assert kinds(back) == []


@pytest.mark.parametrize(
    ("numbers", "told"),
    [((0, 1, 2), "0 to 2"), ((0, 2), "0, 2"), ((0, 2, 3, 5), "0, 2 to 3, 5"), ((4,), "4")],
)
def test_an_unknown_class_beside_those_that_are_there(tmp_path, numbers, told):
    put(tmp_path, rows="1 0.5 0.5 0.5 0.25\n" if 1 not in numbers else "9 0.5 0.5 0.5 0.25\n")
    names = ", ".join(f"{number}: class{number}" for number in numbers)
    describe(tmp_path, f"train: images/train\nnames: {{{names}}}\n")
    with pytest.raises(UserError, match=f"but names has {told}: correct one"):
        read_yolo(tmp_path)
