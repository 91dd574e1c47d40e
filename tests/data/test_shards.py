"""Shards: what they hold is what was put in, any image at any time; broken ones are told in one line."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hardnet_suite.data.classification import is_shards, read_shards, split_shards
from hardnet_suite.data.tar_files import expand_braces, tar_paths
from hardnet_suite.errors import UserError


def png(value: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((4, 5, 3), value, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def write(path: Path, files: dict[str, bytes], format: int = tarfile.USTAR_FORMAT) -> Path:
    with tarfile.open(path, "w", format=format) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def samples_of(*numbers: int, folder: str = "") -> dict[str, bytes]:
    files = {}
    for number in numbers:
        files[f"{folder}{number:04}.png"] = png(number)
        files[f"{folder}{number:04}.cls"] = str(number % 3).encode()
        files[f"{folder}{number:04}.json"] = b"{}"
    return files


@pytest.fixture
def shards(tmp_path):
    for index, format in enumerate((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)):
        numbers = range(10 * index, 10 * index + 10)
        write(
            tmp_path / f"train-{index:03}.tar",
            samples_of(*numbers, folder="a" * 120 + "/" if index else ""),
            format,
        )
    return tmp_path


def test_every_image_with_its_label(shards):
    samples = read_shards(f"{shards}/train-{{000..002}}.tar")
    assert len(samples) == 30
    assert samples.classes == ("0", "1", "2")
    for index in np.random.default_rng(0).permutation(30).tolist():
        pixels = np.asarray(samples.open(index))
        assert pixels.shape == (4, 5, 3)
        assert (pixels == index).all()
        assert samples.labels[index] == index % 3
        assert np.array_equal(np.asarray(samples.open_named(samples.name(index))), pixels)
    assert samples.dataset.name(0) == f"{shards}/train-000.tar/0000.png"


def test_images_are_found_by_their_names(tmp_path):
    """Also those of one name in two shards, in a shard below another's name, and beyond ASCII."""
    same = {"a.png": png(0), "a.cls": b"0", "bß/c.png": png(1), "bß/c.cls": b"1"}
    (tmp_path / "x.tar.d").mkdir()
    for number, name in enumerate(("x.tar", "x.tar.d/y.tar", "z.tar")):
        write(tmp_path / name, {key: value for key, value in same.items() if number < 2 or "a" in key})
    samples = read_shards(f"{tmp_path}/{{x,x.tar.d/y,z}}.tar")
    names = [samples.name(index) for index in range(len(samples))]
    assert names == [
        f"{tmp_path}/{name}"
        for name in (
            *("x.tar/a.png", "x.tar/bß/c.png", "x.tar.d/y.tar/a.png", "x.tar.d/y.tar/bß/c.png"),
            "z.tar/a.png",
        )
    ]
    assert [samples.dataset.find(name) for name in names] == [0, 1, 2, 3, 4]
    with pytest.raises(KeyError):
        samples.dataset.find(f"{tmp_path}/z.tar/bß/c.png")


@pytest.mark.parametrize("label", [1_000_000, 999_999_999])
def test_a_label_that_no_class_can_have(tmp_path, label):
    write(tmp_path / "train.tar", {"a.png": png(1), "a.cls": str(label).encode()})
    with pytest.raises(UserError, match=rf"train\.tar/a\.png: label {label}, expected one below 1,000,000"):
        read_shards(f"{tmp_path}/train.tar")


def test_names_of_classes(shards):
    samples = read_shards(f"{shards}/train-000.tar", ("cat", "dog", "fox"))
    assert samples.classes == ("cat", "dog", "fox")
    with pytest.raises(UserError, match=r"0002\.png: label 2, but there are 2 classes"):
        read_shards(f"{shards}/train-000.tar", ("cat", "dog"))


def test_files_are_read_by_forked_processes_at_once(shards):
    from multiprocessing import get_context

    samples = read_shards(f"{shards}/train-*.tar")
    with get_context("fork").Pool(4) as pool:
        values = pool.map(_value, [(samples, index) for index in range(30)] * 4)
    assert values == [*range(30)] * 4


def _value(item):
    samples, index = item
    return int(np.asarray(samples.open(index))[0, 0, 0])


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ({"a.png": png(1)}, "the image of a has no label"),
        ({"a.cls": b"1"}, "the label of a has no image"),
        ({"a.png": png(1), "a.cls": b"one"}, "holds no number of a class"),
        ({"a.png": png(1), "a.cls": b"-1"}, "holds no number of a class"),
        ({"a.png": png(1), "a.cls": b"1" * 30}, "holds no number of a class"),
        ({"a.png": png(1), "a.jpg": png(1), "a.cls": b"1"}, "two images a: a.png and a.jpg"),
        ({"a.b.png": png(1), "a.b.cls": b"1"}, r"a\.b\.png has several dots"),
        ({**samples_of(1), "a.b.png": png(1), "a.b.cls": b"1"}, "several dots"),
        ({"readme.txt": b"x"}, "no image in 1 shard"),
        ({}, "no image in 1 shard"),
    ],
)
def test_shards_that_do_not_fit(tmp_path, files, text):
    write(tmp_path / "train.tar", files)
    with pytest.raises(UserError, match=text):
        read_shards(f"{tmp_path}/train.tar")


def test_a_shard_that_is_cut_short(tmp_path):
    """Wherever: between files, too, where Python's tarfile takes it for the end."""
    path = write(tmp_path / "train.tar", samples_of(*range(4)))
    content = path.read_bytes()
    end = len(content.rstrip(b"\0"))
    for length in [*range(0, end, 128), end]:
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match=r"train\.tar"):
            read_shards(str(path))


def test_a_shard_that_changes_later(tmp_path):
    path = write(tmp_path / "train.tar", samples_of(0, 1))
    samples = read_shards(str(path))
    os.truncate(path, 600)
    with pytest.raises(UserError, match="cut short since"):
        samples.open(1)


def test_files_that_are_no_tar(tmp_path):
    import gzip

    path = tmp_path / "train.tar"
    path.write_bytes(gzip.compress(write(tmp_path / "other.tar", samples_of(1)).read_bytes()))
    with pytest.raises(UserError, match="is compressed"):
        read_shards(str(path))
    path.write_bytes(b"no tar at all" * 100)
    with pytest.raises(UserError, match="no tar file"):
        read_shards(str(path))
    os.remove(path)
    os.mkfifo(path)
    with pytest.raises(UserError, match=r"no shard|regular"):
        read_shards(str(path))


def test_further_images_of_a_sample_are_left_alone(tmp_path):
    write(tmp_path / "train.tar", {**samples_of(4), "0004.mask.png": png(9)})
    samples = read_shards(f"{tmp_path}/train.tar")
    assert len(samples) == 1
    assert (np.asarray(samples.open(0)) == 4).all()


def test_folders_and_devices_in_a_shard_are_left_alone(tmp_path):
    with tarfile.open(tmp_path / "train.tar", "w") as tar:
        for name, kind in (("c.png", tarfile.DIRTYPE), ("d.png", tarfile.FIFOTYPE)):
            member = tarfile.TarInfo(name)
            member.type = kind
            tar.addfile(member)
        for name, content in samples_of(5).items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    assert len(read_shards(f"{tmp_path}/train.tar")) == 1


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_in_a_shard_are_refused(tmp_path, kind):
    with tarfile.open(tmp_path / "train.tar", "w") as tar:
        member = tarfile.TarInfo("a.png")
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)
    with pytest.raises(UserError, match=r"a\.png is a link: pack the files themselves"):
        read_shards(f"{tmp_path}/train.tar")


@settings(deadline=None)  # a shell is started
@given(st.integers(0, 50), st.integers(0, 20), st.integers(1, 4))
def test_braces_are_those_of_a_shell(low, more, width):
    import subprocess

    pattern = f"a{{{low:0{width}}..{low + more:0{width}}}}-{{x,y}}.tar"
    given = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {pattern}"], capture_output=True, text=True, check=True
    )
    with pytest.raises(UserError) as caught:
        tar_paths(pattern)  # none of them is there: the first is named
    assert f"no shard {given.stdout.split()[0]}" in str(caught.value)
    assert f"(and {2 * (more + 1) - 1} more)" in str(caught.value)


@pytest.mark.parametrize("pattern", ["{5..3}.tar", "{0..99999999}.tar", "none-*.tar", "none.tar"])
def test_patterns_that_name_nothing(tmp_path, monkeypatch, pattern):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError):
        tar_paths(pattern)


def test_a_shard_named_twice(shards):
    with pytest.raises(UserError, match="named twice"):
        tar_paths(f"{shards}/train-{{000,000}}.tar")


def test_shards_of_the_other_split(shards):
    pattern = f"{shards}/train-{{000..002}}.tar"
    with pytest.raises(UserError, match=r"no shards .*val-\*\.tar"):
        split_shards(pattern, "val")
    write(shards / "val-00.tar", samples_of(1))
    assert split_shards(pattern, "val") == f"{shards}/val-*.tar"
    with pytest.raises(UserError, match="do not say train"):
        split_shards(f"{shards}/all-{{0..1}}.tar", "val")


@pytest.mark.parametrize(
    ("braces", "ends"),
    [
        ("{0..3}", ("0", "3")),
        ("{8..12}", ("8", "12")),
        ("{000..099}", ("000", "099")),
        ("{00..100}", ("000", "100")),  # both ends are as wide as the wider one
        ("{1..010}", ("001", "010")),
    ],
)
def test_zeros_of_ranges_are_those_of_bash(braces, ends):
    found = list(expand_braces(f"s-{braces}.tar"))
    assert (found[0], found[-1]) == tuple(f"s-{end}.tar" for end in ends)


@pytest.mark.parametrize("braces", ["{a..c}", "{0..8..2}", "{0,{1,2}}", "{{0..1},2}", "{0..x}"])
def test_braces_that_are_not_supported(shards, braces):
    with pytest.raises(UserError, match=r"expected braces of two numbers, .* or of words"):
        tar_paths(f"{shards}/train-{braces}.tar")
    with pytest.raises(UserError, match=r"expected braces of two numbers, .* or of words"):
        split_shards(f"{shards}/train-{braces}.tar", "val")


@pytest.mark.parametrize("name", ["train-{0..2}.tar", "a{b.tar", "{x}.tar", "..{}.tar"])
def test_a_shard_whose_name_has_braces(tmp_path, name):
    write(tmp_path / name, samples_of(1))
    assert tar_paths(f"{tmp_path}/{name}") == [f"{tmp_path}/{name}"]


def test_a_shard_named_twice_in_other_words(shards, tmp_path):
    with pytest.raises(UserError, match=r"train-000\.tar is named twice, also as "):
        tar_paths(f"{{{shards},{shards}/.}}/train-000.tar")
    (tmp_path / "link.tar").symlink_to(shards / "train-000.tar")
    with pytest.raises(UserError, match=r"named twice, also as .*link\.tar"):
        tar_paths(f"{{{tmp_path}/link,{shards}/train-000}}.tar")


@pytest.mark.parametrize(
    ("pattern", "answer"),
    [
        ("train-{a,b}.tar", "val-*.tar"),
        ("{x,y}/train-0.tar", "{x,y}/val-0.tar"),
        ("{x,y}/z/train-{0..1}.tar", "{x,y}/z/val-*.tar"),
        ("train/{x,y}-train-*.tar", "train/*-val-*.tar"),
        ("{train-a,train-b}.tar", None),
        ("{train,val}-000.tar", None),
        ("{train,other}-train.tar", None),
        ("{x/train-0,y/train-1}.tar", None),
        ("{x/a,y/b}-train.tar", None),
        ("train/{0..1}.tar", None),
    ],
)
def test_names_of_the_other_split(tmp_path, pattern, answer):
    for name in (
        *("val-a.tar", "val-0.tar", "x/val-0.tar", "y/val-0.tar", "x/z/val-0.tar", "y/z/val-0.tar"),
        *(
            "train-a.tar",
            "train-b.tar",
            "x/train-0.tar",
            "y/train-1.tar",
            "train/x-val-0.tar",
            "other-val.tar",
        ),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        write(tmp_path / name, samples_of(1))
    if answer is not None:
        assert split_shards(f"{tmp_path}/{pattern}", "val") == f"{tmp_path}/{answer}"
        return
    with pytest.raises(UserError, match=r"name folders and train outside of the braces|do not say train"):
        split_shards(f"{tmp_path}/{pattern}", "val")


def test_a_shard_of_both_splits(shards):
    (shards / "val-0.tar").symlink_to(shards / "train-000.tar")
    with pytest.raises(UserError, match=r"val-0\.tar, which is of training"):
        split_shards(f"{shards}/train-*.tar", "val")


@pytest.mark.parametrize("suffix", ["tar.gz", "tgz", "tar.zst", "TAR.GZ"])
def test_compressed_shards_are_told_by_their_names(tmp_path, suffix):
    assert is_shards(f"train-*.{suffix}")
    with pytest.raises(UserError, match=r"compressed shards .* unpack them"):
        split_shards(f"train-*.{suffix}", "val")


def test_what_shards_are(tmp_path):
    assert all(map(is_shards, ["a.tar", "train-{0..1}.TAR", "a.tar.gz"]))
    assert not is_shards("a")
    (tmp_path / "folder.tar").mkdir()
    assert not is_shards(f"{tmp_path}/folder.tar")
