"""Class folders and lists as people have them: links, loops, other files, other headers."""

from __future__ import annotations

import numpy as np
import pytest
import torchvision.datasets
from PIL import Image

from hardnet_suite.data.classification import check_classification, read_csv, read_folder, read_torchvision
from hardnet_suite.data.images import IMAGE_SUFFIXES
from hardnet_suite.errors import UserError


@pytest.fixture
def folder(tmp_path):
    for name in ("bird", "cat", "dog"):
        for index in range(2):
            path = tmp_path / f"data/train/{name}/{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 6)).save(path)
    return tmp_path / "data/train"


def counts(samples):
    return {name: samples.labels.count(label) for label, name in enumerate(samples.classes)}


EVERY_TWO = {"bird": 2, "cat": 2, "dog": 2}


@pytest.mark.parametrize("link", ["loop", "cat/loop", "cat/deep/loop"])
@pytest.mark.parametrize("target", [".", "..", "../..", "dog", "cat"])
def test_links_back_into_the_data_set_are_cut(folder, link, target):
    """No image is counted twice or under another class, wherever the link is and whatever it leads to."""
    (folder / link).parent.mkdir(parents=True, exist_ok=True)
    (folder / link).symlink_to((folder / target).resolve(), target_is_directory=True)
    if link == "loop" and target in ("dog", "cat"):
        with pytest.raises(UserError, match=f"loop and .*{target} are one folder under two class names"):
            read_folder(folder)
        return
    assert counts(read_folder(folder)) == EVERY_TWO


def test_links_to_folders_elsewhere_are_followed(folder, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    (folder / "cat").rename(elsewhere)
    (folder / "cat").symlink_to(elsewhere, target_is_directory=True)
    Image.new("RGB", (8, 6)).save((tmp_path / "more").with_suffix(".png"))
    (tmp_path / "extra").mkdir()
    Image.new("RGB", (8, 6)).save(tmp_path / "extra/9.png")
    (folder / "dog/more").symlink_to(tmp_path / "extra", target_is_directory=True)
    (folder / "bird/2.png").symlink_to(tmp_path / "more.png")
    assert counts(read_folder(folder)) == {"bird": 3, "cat": 2, "dog": 3}


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_every_suffix_of_an_image_is_one(folder, suffix):
    (folder / f"cat/x{suffix.upper()}").touch()
    (folder / f"dog/x{suffix}").touch()
    assert counts(read_folder(folder)) == {"bird": 2, "cat": 3, "dog": 3}


def test_other_files_are_reported_and_hidden_ones_skipped(folder):
    for name in (
        "cat/notes.txt",
        "cat/deep/clip.mp4",
        "dog/none",
        "dog/.hidden.png",
        "loose.jpg",
        "list.csv",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    (folder / ".cache").mkdir()
    samples = read_folder(folder)
    assert counts(samples) == EVERY_TWO
    findings = check_classification(samples, read=False).findings
    assert {(f.level, f.kind) for f in findings} == {("warning", "unused file")}
    names = sorted(finding.where.removeprefix(f"{folder}/") for finding in findings)
    assert names == ["cat/deep/clip.mp4", "cat/notes.txt", "dog/none", "loose.jpg"]


def test_folders_that_differ_in_case_are_two_classes_and_an_empty_one_is_reported(folder):
    (folder / "Cat").mkdir()
    samples = read_folder(folder)
    assert counts(samples) == {"Cat": 0} | EVERY_TWO
    (finding,) = check_classification(samples).findings
    assert (finding.kind, finding.where) == ("class without images", "Cat")


@pytest.mark.parametrize("order", [("dog", "cat", "bird"), ("cat", "bird", "dog", "cow")])
def test_a_given_order_is_honoured_by_every_reader(folder, order, tmp_path):
    (tmp_path / "list.csv").write_text("file,label\nbird/0.png,bird\ncat/0.png,cat\ndog/0.png,dog\n")
    for samples in (
        read_folder(folder, order),
        read_csv(tmp_path / "list.csv", folder, order),
        read_torchvision("ImageFolder", folder, order),
    ):
        assert samples.classes == order
        names = {path.parent.name for path in folder.glob("*/*")}
        assert {samples.classes[label] for label in samples.labels} == names
        for index, label in enumerate(samples.labels):
            image = samples.images[index]
            path = samples.dataset.samples[image][0] if samples.dataset else str(image)
            assert f"/{samples.classes[label]}/" in path
    assert torchvision.datasets.ImageFolder(folder).classes == sorted(names)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("imagenet1k", "the string 'imagenet1k'"),
        (("a", "a"), "'a' twice"),
        ((), "non-empty list"),
        ((1, 2), "contains 1"),
    ],
)
def test_classes_that_cannot_be(folder, classes, message, tmp_path):
    (tmp_path / "list.csv").write_text("file,label\n0.png,1\n")
    for read in (
        lambda: read_folder(folder, classes),
        lambda: read_csv(tmp_path / "list.csv", folder, classes),
        lambda: read_torchvision("ImageFolder", folder, classes),
    ):
        with pytest.raises(UserError, match=message):
            read()


def test_torchvisions_classes_that_are_not_listed(folder):
    with pytest.raises(UserError, match="has the class 'bird', which is not listed: known are cat, dog"):
        read_torchvision("ImageFolder", folder, ("cat", "dog"))


@pytest.mark.parametrize(
    "content",
    [
        "file,label\na.png,cat\n",
        "\ufefflabel,file\r\ncat,a.png\r\n",
        "file, label, note\na.png, cat , x\n",
        'file,label\n"a.png","cat"\n',
    ],
)
def test_lists_as_programs_write_them(tmp_path, content):
    (tmp_path / "a.csv").write_bytes(content.encode())
    samples = read_csv(tmp_path / "a.csv", tmp_path)
    assert (samples.classes, samples.images) == (("cat",), (tmp_path / "a.png",))


def test_paths_of_a_list(tmp_path):
    (tmp_path / "a.csv").write_text(
        f"file,label\n{tmp_path}/abs.png,b\nsub\\win.png,a\n'c, d.png',a\n".replace("'", '"')
    )
    samples = read_csv(tmp_path / "a.csv", "images")
    assert [str(path) for path in samples.images] == [
        f"{tmp_path}/abs.png",
        "images/sub/win.png",
        "images/c, d.png",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("File,Label\na,b\n", "line 1: the columns are File, Label, expected file and label"),
        ("image,class\na,b\n", "the columns are image, class, expected file and label"),
        ("file;label\na;b\n", "separate its values by commas, not by ';'"),
        ("file\tlabel\na\tb\n", r"separate its values by commas, not by '\\t'"),
        ("file,label,file\na,b,c\n", "expected file and label once each"),
        ("a.png,cat\nb.png,dog\n", "the columns are a.png, cat, expected file and label"),
        ("file,label\na, b.png,cat\n", "line 2: more values than columns"),
        ("file,label\na.png\n", "line 2: expected a value in the columns file and label"),
        ("file,label\n ,cat\n", "line 2: expected a value"),
    ],
)
def test_bad_lists_are_named_by_line(tmp_path, content, message):
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(UserError, match=message):
        read_csv(tmp_path / "a.csv", tmp_path)


def test_indices_in_place_of_names(tmp_path):
    (tmp_path / "a.csv").write_text("file,label\na.png,0\n")
    with pytest.raises(UserError, match="'0' is not a class: known are cat; labels are names, not indices"):
        read_csv(tmp_path / "a.csv", tmp_path, ("cat",))


def test_pixels_are_still_those_of_the_decoder(folder):
    assert np.array(read_folder(folder).open(0)).shape == (6, 8, 3)


@pytest.mark.parametrize("kind", ["a folder elsewhere", "a file elsewhere", "a file of the other class"])
def test_one_file_under_two_classes_is_refused(tmp_path, kind):
    """Whichever links make it so: the same conflict in a list is an error as well."""
    root, extra = tmp_path / "train", tmp_path / "extra"
    for folder in (root / "a", root / "b", extra):
        folder.mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(folder / f"{folder.name}.png")
    if kind == "a folder elsewhere":
        for name in "ab":
            (root / name / "more").symlink_to(extra)
    elif kind == "a file elsewhere":
        for name in "ab":
            (root / name / f"x{name}.png").symlink_to(extra / "extra.png")
    else:
        (root / "b" / "copy.png").symlink_to(root / "a" / "a.png")
    with pytest.raises(UserError, match="are one file under two class names: remove one of the links"):
        read_folder(root)


def test_one_file_twice_in_one_class_is_two_samples_of_it(tmp_path):
    (tmp_path / "a").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "a/x.png")
    (tmp_path / "a/y.png").symlink_to(tmp_path / "a/x.png")
    assert read_folder(tmp_path).labels == (0, 0)
