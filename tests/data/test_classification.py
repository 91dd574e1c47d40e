from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
import torchvision.datasets
from PIL import Image

from hardnet_suite.data.classes import imagenet_classes, readable, require_same_classes
from hardnet_suite.data.classification import (
    Samples,
    check_classification,
    csv_text,
    hold_out,
    read_csv,
    read_folder,
    read_torchvision,
)
from hardnet_suite.errors import UserError


def image(path, color="red", size=(8, 6)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    for name, count in (("cat", 2), ("ant", 3)):
        for index in range(count):
            image(tmp_path / f"set/{name}/{index}.png")
    return tmp_path / "set"


def test_imagenet_is_torchvisions():
    from torchvision.models import ResNet50_Weights

    names = imagenet_classes()
    assert len(names) == 1000
    assert list(names.values()) == ResNet50_Weights.DEFAULT.meta["categories"]
    assert list(names.items())[258] == ("n02111889", "Samoyed")
    assert list(names) == sorted(names)


def test_imagenet_is_in_the_published_order(shared):
    ids = (shared / "data/imagenet_mini/wnids.txt").read_text().split()
    assert list(imagenet_classes()) == ids


def test_names_for_people():
    assert readable(("n02111889", "dog")) == ("Samoyed", "dog")


def test_folder_as_torchvisions_image_folder(folder):
    image(folder / "cat/deep/er.JPG")
    (folder / "cat/notes.txt").touch()
    (folder / ".git").mkdir()
    (folder / "readme.md").touch()
    found = read_folder(folder)
    assert found.classes == ("ant", "cat")
    theirs = torchvision.datasets.ImageFolder(folder, allow_empty=True, is_valid_file=lambda p: p[-1] in "gG")
    expected = [(path, label - 1) for path, label in theirs.samples]  # they count .git
    assert sorted(zip(map(str, found.images), found.labels, strict=True)) == sorted(expected)
    assert found.open(0).size == (8, 6)


def test_folder_with_classes_given(folder):
    found = read_folder(folder, ("dog", "cat", "ant"))
    assert found.classes == ("dog", "cat", "ant")
    assert found.labels == (2, 2, 2, 1, 1)
    with pytest.raises(UserError, match=r"set/ant is not the folder of a class: known are cat"):
        read_folder(folder, ("cat",))


def test_folders_that_will_not_do(tmp_path):
    with pytest.raises(UserError, match=r"no folder .*none: expected FOLDER/CLASS/IMAGE"):
        read_folder(tmp_path / "none")
    (tmp_path / "train-000.tar").touch()
    with pytest.raises(
        UserError, match=r"none, but tar files beside it: .*, such as .*/train-\{000..099\}.tar"
    ):
        read_folder(tmp_path / "none")
    with pytest.raises(UserError, match="has no folder per class"):
        read_folder(tmp_path)
    (tmp_path / "cat").mkdir()
    with pytest.raises(UserError, match="has 1 class folders, but not a single image"):
        read_folder(tmp_path)


def test_csv(tmp_path):
    (tmp_path / "a.csv").write_text("\ufefflabel,file,note\ncat,x/1.png,\nant,2.png,é\n", encoding="utf-8")
    found = read_csv(tmp_path / "a.csv", tmp_path)
    assert found.classes == ("ant", "cat")
    assert found.images == (tmp_path / "x/1.png", tmp_path / "2.png")
    assert found.labels == (1, 0)
    assert read_csv(tmp_path / "a.csv", tmp_path, ("cat", "ant")).labels == (0, 1)


def test_numbers_in_a_list_are_sorted_as_numbers(tmp_path):
    rows = [f"{label}.png,{label}" for label in (10, 2, 0, 9)]
    (tmp_path / "a.csv").write_text("\n".join(["file,label", *rows]))
    found = read_csv(tmp_path / "a.csv", tmp_path)
    assert (found.classes, found.labels) == (("0", "2", "9", "10"), (3, 1, 0, 2))


def test_numbers_that_differ_in_leading_zeros_have_one_order(tmp_path):
    """Labels are collected in a set, whose order of strings differs from process to process."""
    names = [f"{'0' * count}{number}" for number in (2, 1) for count in range(8)]
    path = tmp_path / "list.csv"
    path.write_text("file,label\n" + "".join(f"{name}.png,{name}\n" for name in names))
    expected = tuple(sorted(names, key=lambda name: (int(name), name)))
    assert read_csv(path, tmp_path).classes == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no CSV list"),
        ("", "lists no image"),
        ("file,label\n", "lists no image"),
        ("name,label\na,b\n", "line 1: the columns are name, label, expected file and label"),
        ("file,label\na,cat\nb,\n", "line 3: expected a value in the columns file and label"),
        ("file,label\na,cat\nb,dog\n", "line 3: 'dog' is not a class: known are cat"),
    ],
)
def test_bad_csv(tmp_path, content, message):
    if content is not None:
        (tmp_path / "a.csv").write_text(content)
    with pytest.raises(UserError, match=message):
        read_csv(tmp_path / "a.csv", tmp_path, ("cat",))
    (tmp_path / "a.csv").write_bytes(b"file,label\n\xff\xfe,cat\n")
    with pytest.raises(UserError, match="cannot be read as CSV"):
        read_csv(tmp_path / "a.csv", tmp_path)


def test_data_sets_that_torchvision_does_not_give(tmp_path):
    for name, message in (
        ("CIFAR10", "torchvision's CIFAR10 in .*Dataset not found.*download=True"),
        ("Nothing", "torchvision has no data set 'Nothing'"),
        ("vision", "torchvision has no data set 'vision'"),
    ):
        with pytest.raises(UserError, match=message):
            read_torchvision(name, tmp_path)


@pytest.mark.parametrize(
    ("name", "train", "key", "meta"),
    [
        ("CIFAR10", "data_batch_1", "labels", "batches.meta"),
        ("CIFAR100", "train", "fine_labels", "meta"),
    ],
)
def test_cifar_as_its_files_are(tmp_path, monkeypatch, name, train, key, meta):
    """Files in the sets' own form, of random pixels."""
    kind = getattr(torchvision.datasets, name)
    files = tmp_path / kind.base_folder
    files.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (7, 3072), dtype=np.uint8)
    labels, names = [3, 0, 9, 9, 1, 2, 5], ["airplane", "automobile", *"cdefghij"]
    for file, values in (
        (train, {"data": pixels, key: labels}),
        (meta, {kind.meta["key"]: names}),
    ):
        (files / file).write_bytes(pickle.dumps(values))
    monkeypatch.setattr(kind, "train_list", [[train, None]])  # without the true files' hashes
    monkeypatch.setattr(kind, "test_list", [])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": None})
    found = read_torchvision(name, tmp_path, train=True)
    assert found.classes == tuple(names)
    assert found.labels == tuple(labels)
    for index in found.images:
        image, label = found.dataset[index]
        assert label == labels[index]
        assert image.size == (32, 32)
        assert np.array(image)[5, 7].tolist() == pixels[index].reshape(3, 32, 32)[:, 5, 7].tolist()


def test_labels_wherever_torchvision_keeps_them(monkeypatch):
    def of(**kept):
        made = type("Made", (), {"__init__": lambda self, root: self.__dict__.update(kept)})
        monkeypatch.setattr(torchvision.datasets, "Made", made, raising=False)
        found = read_torchvision("Made", "somewhere")
        return found.labels, found.classes

    assert of(targets=torch.tensor([1, 0])) == ((1, 0), ("0", "1"))  # MNIST
    assert of(labels=np.array([2, 0])) == ((2, 0), ("0", "1", "2"))  # SVHN, STL10
    assert of(_labels=[1, 1], classes=["a", "b"]) == ((1, 1), ("a", "b"))  # Food101, Flowers102
    assert of(y=[1, 0]) == ((1, 0), ("0", "1"))  # Caltech101
    pairs = [("x.jpg", 1), ("y.jpg", 0)]  # Imagenette, GTSRB
    assert of(_samples=pairs, classes=[("tench", "Tinca tinca"), ("cab",)]) == (
        (1, 0),
        ("tench, Tinca tinca", "cab"),
    )
    with pytest.raises(UserError, match="has no list of labels"):
        of(_samples=[("x.jpg", None)])  # FER2013's test split


def test_torchvisions_image_folder_has_labels(folder):
    found = read_torchvision("ImageFolder", folder)
    assert (found.classes, found.labels) == (("ant", "cat"), (0, 0, 0, 1, 1))
    assert found.open(4).size == (8, 6)


def test_images_are_held_out_by_class_and_seed(folder):
    for index in range(2, 9):
        image(folder / f"cat/{index}.png")
    samples = read_folder(folder)
    rest, drawn = hold_out(samples, 2)
    assert {*rest.images} | {*drawn.images} == {*samples.images}
    assert not {*rest.images} & {*drawn.images}
    assert sorted(drawn.labels) == [0, 0, 1, 1]
    assert [path.parent.name for path in drawn.images] == ["ant", "ant", "cat", "cat"]
    assert hold_out(samples, 2)[1] == drawn
    assert any(hold_out(samples, 2, seed)[1] != drawn for seed in range(1, 4))
    with pytest.raises(UserError, match="the class ant has 3 images, 3 cannot be kept aside"):
        hold_out(samples, 3)


def test_check(folder):
    report = check_classification(read_folder(folder))
    assert (report.findings, report.images) == ((), 5)
    assert report.per_class == {"ant": 3, "cat": 2}
    assert report.sizes == (8, 6, 8, 6)
    (folder / "cat/1.png").write_bytes((folder / "cat/1.png").read_bytes()[:50])
    image(folder / "cat/2.png", size=(3, 9))
    samples = read_folder(folder, ("ant", "cat", "dog"))
    (folder / "ant/0.png").unlink()
    report = check_classification(samples)
    assert report.sizes == (3, 6, 8, 9)
    assert [(f.level, f.kind) for f in report.findings] == [
        ("error", "missing image"),
        ("error", "unreadable image"),
        ("warning", "class without images"),
    ]
    quick = check_classification(samples, read=False)
    assert [f.kind for f in quick.findings] == ["missing image", "class without images"]
    assert "classes with images   2 of 3" in report.table()


FORMS = ["a/0.png", "./a/0.png", "a//0.png", "a\\0.png", "b/../a/0.png", "{}/a/0.png"]


@pytest.mark.parametrize("other", FORMS)
@pytest.mark.parametrize("label", ["cat", "dog"])
def test_one_image_has_one_label(tmp_path, other, label):
    image(tmp_path / "a/0.png")
    image(tmp_path / "b/0.png")
    rows = ["a/0.png,cat", "b/0.png,dog", f"{other.format(tmp_path)},{label}"]
    (tmp_path / "a.csv").write_text("\n".join(["file,label", *rows]))
    if label == "dog":
        with pytest.raises(UserError, match=r"line 2 labels a/0\.png 'cat', line 4 labels .*0\.png 'dog'"):
            read_csv(tmp_path / "a.csv", tmp_path)
        return
    report = check_classification(read_csv(tmp_path / "a.csv", tmp_path))
    assert [(found.level, found.kind) for found in report.findings] == [("warning", "image listed twice")]


@pytest.mark.parametrize("of", ["file", "folder"])
def test_links_to_an_image_have_its_label(tmp_path, of):
    image(tmp_path / "a/0.png")
    if of == "file":
        (tmp_path / "b").mkdir()
        (tmp_path / "b/0.png").symlink_to("../a/0.png")
    else:
        (tmp_path / "b").symlink_to("a")
    for label in ("cat", "dog"):
        (tmp_path / f"{label}.csv").write_text(f"file,label\na/0.png,cat\nb/0.png,{label}\n")
    assert len(read_csv(tmp_path / "cat.csv", tmp_path)) == 2
    with pytest.raises(UserError, match=r"labels a/0\.png 'cat', line 3 labels b/0\.png 'dog'"):
        read_csv(tmp_path / "dog.csv", tmp_path)


def test_lists_are_read_back(tmp_path):
    names = ["a b.png", "ü, 1.png", 'q"uote.png', "#.PNG", "deep/er.png", "no\u00a0break.png"]
    for name in names:
        image(tmp_path / "cat, dog" / name)
    image(tmp_path / "eel/0.png")
    samples = read_folder(tmp_path)
    (tmp_path / "list.csv").write_text(csv_text(samples, tmp_path), encoding="utf-8")
    read = read_csv(tmp_path / "list.csv", tmp_path, samples.classes)
    assert (read.images, read.labels, read.classes) == (samples.images, samples.labels, samples.classes)


@pytest.mark.parametrize("name", ["a\n.png", "b\\.png", "\udcff.png"])
def test_a_name_that_no_csv_list_holds(tmp_path, name):
    samples = Samples("", ("cat",), (tmp_path / "cat" / name,), (0,))
    with pytest.raises(UserError, match=r"the name 'cat/.*\.png' cannot stand in a list"):
        csv_text(samples, tmp_path)


def test_ids_and_names_of_imagenet_are_the_same_classes():
    ids, names = ("n01443537", "n02123045", "mine"), ("goldfish", "tabby", "mine")
    for ours, theirs in ((ids, names), (names, ids), (ids, ids), (("n01443537", "tabby", "mine"), ids)):
        require_same_classes(ours, theirs, where="data", expected_where="weights", cure="cure")
    for ours, theirs, message in (
        (
            ids[::-1],
            names,
            "the same classes in another order: class 0 is 'mine', in weights it is 'goldfish'",
        ),
        (
            ("n01443537", "n02123159", "mine"),
            names,
            "other classes: class 1 is 'n02123159', in weights it is",
        ),
        (ids[:2], names, "2 classes, weights has 3: class 2 is absent, in weights it is 'mine'"),
    ):
        with pytest.raises(UserError, match=message):
            require_same_classes(ours, theirs, where="data", expected_where="weights", cure="cure")
