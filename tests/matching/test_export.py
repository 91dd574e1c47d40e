from __future__ import annotations

import builtins
import json
import os
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from drawn_pairs import drawn_pair, save_pair, small_descriptor
from PIL import ExifTags, Image

from hardnet_suite.data.files import sha256
from hardnet_suite.data.own_files import LIST
from hardnet_suite.errors import UserError, WriteError
from hardnet_suite.matching import HardNetDetector, export, match_features, write_colmap, write_hloc
from hardnet_suite.matching.pair import Matches


@pytest.fixture(scope="module")
def matches(tmp_path_factory) -> Matches:
    detector = HardNetDetector(small_descriptor(), top_k=80)
    features = [detector.features(path) for path in save_pair(tmp_path_factory.mktemp("images"))]
    return match_features(*features)


def test_hlocs_files(matches, tmp_path):
    h5py = pytest.importorskip("h5py")
    assert write_hloc(tmp_path / "out", [matches]) == tmp_path / "out"
    with h5py.File(tmp_path / "out/features.h5") as file:
        assert sorted(key for key in file) == ["a.png", "b.png"]
        group = file["a.png"]
        np.testing.assert_array_equal(group["keypoints"], matches.keypoints_a.xy)
        assert group["keypoints"].attrs["uncertainty"] == 1
        np.testing.assert_array_equal(group["descriptors"], matches.a.descriptors.T)
        assert group["descriptors"].shape == (128, 80)
        np.testing.assert_array_equal(group["scores"], matches.keypoints_a.response)
        assert group["image_size"][()].tolist() == [320, 320]
    with h5py.File(tmp_path / "out/matches.h5") as file:
        partners, scores = (file["a.png/b.png"][key][()] for key in ("matches0", "matching_scores0"))
    # as hloc.utils.io.get_matches reads them
    found = np.flatnonzero(partners != -1)
    assert np.stack([found, partners[found]], -1).tolist() == matches.pairs.tolist()
    cosines = (matches.a.descriptors[found] * matches.b.descriptors[partners[found]]).sum(1)
    np.testing.assert_allclose(scores[found], (1 + cosines) / 2, atol=1e-5)
    assert (scores[partners == -1] == 0).all()
    assert (tmp_path / "out/pairs.txt").read_text() == "a.png b.png\n"


def test_names_within_the_common_folder_and_their_pairs(tmp_path):
    h5py = pytest.importorskip("h5py")
    detector = HardNetDetector(small_descriptor(), top_k=10)
    for name in ("left", "right/inner"):
        (tmp_path / name).mkdir(parents=True)
        save_pair(tmp_path / name)
    paths = [tmp_path / "left/a.png", tmp_path / "right/inner/a.png", tmp_path / "left/b.png"]
    first, second, third = (detector.features(path) for path in paths)
    pairs = [match_features(first, second, geometry="none"), match_features(third, second, geometry="none")]
    write_hloc(tmp_path / "out", pairs)
    with h5py.File(tmp_path / "out/features.h5") as file:
        assert set(file) == {"left", "right"}
        assert set(file["right/inner"]) == {"a.png"}
    with h5py.File(tmp_path / "out/matches.h5") as file:
        assert set(file) == {"left-a.png", "left-b.png"}
        assert set(file["left-b.png"]) == {"right-inner-a.png"}
    lines = (tmp_path / "out/pairs.txt").read_text().splitlines()
    assert lines == ["left/a.png right/inner/a.png", "left/b.png right/inner/a.png"]


def test_images_in_memory_need_names(tmp_path):
    pytest.importorskip("h5py")
    detector = HardNetDetector(small_descriptor(), top_k=10, channels="rgb")
    features = [detector.features(image) for image in drawn_pair()]
    matches = match_features(*features, geometry="none")
    with pytest.raises(UserError, match="two images are called image"):
        write_hloc(tmp_path, [matches])
    write_hloc(tmp_path, [matches], {id(each): f"{i}.jpg" for i, each in enumerate(features)})
    assert (tmp_path / "pairs.txt").read_text() == "0.jpg 1.jpg\n"


@pytest.mark.parametrize(
    "names", [("a.png", "b.png", "a.png", "b.png"), ("x/y.png", "b.png", "x-y.png", "b.png")]
)
def test_two_pairs_that_are_one_to_hloc(matches, tmp_path, names):
    pytest.importorskip("h5py")
    pairs, known = [matches], {id(matches.a): names[0], id(matches.b): names[1]}
    if names[2] == names[0]:
        pairs.append(matches)
    else:
        other = replace(matches.a, name=names[2])
        pairs.append(replace(matches, a=other))
        known[id(other)] = names[2]
    with pytest.raises(UserError, match=r"hloc takes one set of matches of (a|x-y)\.png and b\.png"):
        write_hloc(tmp_path, pairs, known)
    assert not list(tmp_path.iterdir())


def renamed(matches: Matches, *names: str) -> tuple[list[Matches], dict[int, str]]:
    """Pairs of the first image with each other one, and the names of all."""
    first, *others = (replace(matches.a, name=f"image {index}") for index in range(len(names)))
    pairs = [replace(matches, a=first, b=other) for other in others]
    return pairs, {id(each): name for each, name in zip((first, *others), names, strict=True)}


@pytest.mark.parametrize("order", ["same", "reverse"])
def test_a_pair_twice_is_one_to_colmap(matches, tmp_path, order):
    other = matches if order == "same" else match_features(matches.b, matches.a)
    with pytest.raises(UserError, match=r"COLMAP takes one set of matches of .*[ab]\.png and .*[ab]\.png$"):
        write_colmap(tmp_path, [matches, other])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("write", [write_colmap, write_hloc])
def test_a_file_holds_descriptors_of_one_network(matches, tmp_path, write):
    pytest.importorskip("h5py")
    description = replace(matches.b.description, network="0" * 64)
    others = [
        replace(features, name=f"other {features.name}", description=description)
        for features in (matches.a, matches.b)
    ]
    with pytest.raises(ValueError, match="features of two networks"):
        write(tmp_path, [matches, match_features(*others)])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("write", [write_colmap, write_hloc])
def test_pairs_are_added_and_not_lost(matches, tmp_path, write):
    pytest.importorskip("h5py")
    pairs, names = renamed(matches, "a.png", "b.png", "ç/日.png", "d.png")
    write(tmp_path, pairs[:1], names)
    write(tmp_path, pairs[:2], names)  # that one and another
    with pytest.raises(UserError, match=r"holds matches of a\.png b\.png, which would be lost"):
        write(tmp_path, pairs[1:], names)
    write(tmp_path, pairs, names)
    with pytest.raises(
        UserError, match=r"holds matches of a\.png b\.png, and of 1 other pair, which would be"
    ):
        write(tmp_path, pairs[1:2], names)


@pytest.mark.parametrize("write", [write_colmap, write_hloc])
def test_an_image_with_itself_is_no_pair(matches, tmp_path, write):
    pytest.importorskip("h5py")
    with pytest.raises(UserError, match=r"takes matches of two images, got .*a\.png with itself"):
        write(tmp_path, [match_features(matches.a, matches.a)])
    assert not list(tmp_path.iterdir())


def test_a_pair_in_both_orders_is_one_to_hloc(matches, tmp_path):
    pytest.importorskip("h5py")
    with pytest.raises(UserError, match=r"hloc takes one set of matches of [ab]\.png and [ab]\.png"):
        write_hloc(tmp_path, [matches, match_features(matches.b, matches.a)])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("write", "names", "message"),
    [
        (
            write_colmap,
            ("matches", "b.png"),
            r"matches: COLMAP's files have matches\.txt for other data",
        ),
        (write_colmap, ("a", "a.txt/b"), r"a\.txt/b: .* have a\.txt for other"),
        (write_colmap, ("a.png", "matches.txt/b"), r"matches\.txt/b: .* have matches\.txt"),
        (write_colmap, ("a.png", "hardnet_suite.json/b"), r"have hardnet_suite\.json"),
        (write_hloc, ("a.png", "a.png/keypoints"), r"have a\.png/keypoints"),
        (write_hloc, ("a.png/oris/x/y", "a.png"), r"have a\.png/oris"),
        *(
            (write, ("a.png", name), "path within a folder")
            for write in (write_hloc, write_colmap)
            for name in (
                "",
                ".",
                "/a.png",
                "../b.png",
                "x/../b.png",
                "./b.png",
                "x//b.png",
                "b/",
                "b\0",
                "\udcff",
            )
        ),
    ],
)
def test_names_that_the_files_cannot_hold(matches, tmp_path, write, names, message):
    if write is write_hloc:
        pytest.importorskip("h5py")
    with pytest.raises(UserError, match=message):
        write(tmp_path / "out", *renamed(matches, *names))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("write", [write_hloc, write_colmap])
@pytest.mark.parametrize(
    "names",
    [("x/y.png", "x-y.png"), ("matches.png", "x/matches"), ("a", "a.png", "a/b"), ("keypoints", "x/scores")],
)
def test_names_next_to_those(matches, tmp_path, write, names):
    if write is write_hloc:
        pytest.importorskip("h5py")
    pairs, known = renamed(matches, *names)
    write(tmp_path, pairs, known)
    write(tmp_path, pairs, known)


@pytest.mark.parametrize("write", [write_hloc, write_colmap])
@pytest.mark.parametrize("name", [None, 7])
def test_an_image_without_a_name(matches, tmp_path, write, name):
    if write is write_hloc:
        pytest.importorskip("h5py")
    names = {id(matches.a): "a.png"} if name is None else {id(matches.a): "a.png", id(matches.b): name}
    with pytest.raises(UserError, match=r"names has no name of the image .*b\.png"):
        write(tmp_path, [matches], names)
    assert not list(tmp_path.iterdir())


def test_a_file_in_place_of_a_folder(matches, tmp_path):
    (tmp_path / "x").write_text("notes")
    with pytest.raises(UserError, match="x: expected a folder"):
        write_colmap(tmp_path, *renamed(matches, "a.png", "x/b.png"))
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_colmaps_files(matches, tmp_path):
    write_colmap(tmp_path, [matches])
    header, *rows = (tmp_path / "a.png.txt").read_text().splitlines()
    assert header == "80 128"
    values = np.array([row.split() for row in rows], float)
    assert values.shape == (80, 4 + 128)
    # pixel centres at 0.5, σ, radians
    np.testing.assert_allclose(values[:, :2] - 0.5, matches.keypoints_a.xy, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(values[:, 2], matches.keypoints_a.size / 2, rtol=1e-5)
    np.testing.assert_allclose(values[:, 3], np.radians(matches.keypoints_a.angle), rtol=1e-5)
    descriptors = values[:, 4:]
    assert descriptors.min() >= 0
    assert descriptors.max() <= 255
    assert (descriptors == descriptors.round()).all()
    np.testing.assert_allclose((descriptors - 128) / 256, matches.a.descriptors.clip(-0.5, 0.5), atol=3e-3)
    pair, *rows, last = (tmp_path / "matches.txt").read_text().split("\n")[:-1]
    assert pair == "a.png b.png"
    assert last == ""
    assert [list(map(int, row.split())) for row in rows] == matches.pairs.tolist()


@pytest.mark.parametrize("write", [write_hloc, write_colmap])
def test_own_files_are_replaced_and_no_others(matches, tmp_path, write):
    if write is write_hloc:
        pytest.importorskip("h5py")
    write(tmp_path, [matches])
    write(tmp_path, [matches])
    name = "features.h5" if write is write_hloc else "matches.txt"
    (tmp_path / name).write_text("notes of a person\n")
    with pytest.raises(UserError, match=f"{name} exists"):
        write(tmp_path, [matches])
    assert (tmp_path / name).read_text() == "notes of a person\n"


@pytest.mark.parametrize("steps", range(5))  # the list, three files, the list again
@pytest.mark.parametrize("write", [write_hloc, write_colmap])
def test_an_interrupted_call_is_repeated(matches, tmp_path, monkeypatch, write, steps):
    if write is write_hloc:
        pytest.importorskip("h5py")
    fewer = replace(matches, pairs=matches.pairs[:3], distances=matches.distances[:3])
    replaced: list[str] = []

    def interrupt(source, target) -> None:
        if len(replaced) == steps:
            raise KeyboardInterrupt
        replaced.append(str(target))
        os_replace(source, target)

    os_replace = os.replace
    for earlier, later in ((fewer, matches), (matches, fewer)):  # into an empty folder, then over other files
        monkeypatch.setattr(os, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path, [earlier])
        monkeypatch.undo()
        replaced.clear()
        write(tmp_path, [later])
        listed = json.loads((tmp_path / LIST).read_text())["files"]
        assert listed == {name: sha256(tmp_path / name) for name in listed}
    edited = tmp_path / ("pairs.txt" if write is write_hloc else "matches.txt")
    edited.write_text(f"{edited.read_text()}\n")
    with pytest.raises(UserError, match="no earlier match wrote it"):
        write(tmp_path, [matches])


@pytest.mark.parametrize(
    ("write", "name"), [(write_hloc, "matches.h5"), (write_hloc, "pairs.txt"), (write_colmap, "b.png.txt")]
)
def test_a_full_disk_is_told_of_the_file_that_it_stops(matches, tmp_path, monkeypatch, write, name):
    if write is write_hloc:
        pytest.importorskip("h5py")
    real = export.own_files

    @contextmanager
    def full(folder, command, names):
        with real(folder, command, names) as places:
            yield places | {name: Path("/dev/full") if name.endswith("txt") else tmp_path / "none/x.h5"}

    monkeypatch.setattr(export, "own_files", full)
    with pytest.raises(WriteError) as error:
        write(tmp_path / "out", [matches])
    assert error.value.filename == str(tmp_path / "out" / name)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_images_without_keypoints_are_written(tmp_path):
    h5py = pytest.importorskip("h5py")
    detector = HardNetDetector(small_descriptor(), top_k=10)
    features = [detector.features(np.zeros((40, 60), np.uint8), name=name) for name in ("a.png", "b.png")]
    matches = match_features(*features)
    write_hloc(tmp_path, [matches])
    write_colmap(tmp_path, [matches])
    with h5py.File(tmp_path / "features.h5") as file:
        assert file["a.png/keypoints"].shape == (0, 2)
        assert file["a.png/descriptors"].shape == (128, 0)
        assert file["a.png/image_size"][()].tolist() == [60, 40]
    assert (tmp_path / "a.png.txt").read_text() == "0 128\n"
    assert (tmp_path / "matches.txt").read_text() == "a.png b.png\n\n"
    write_colmap(tmp_path, [matches])


@pytest.mark.parametrize(
    ("write", "name", "content"),
    [
        (write_hloc, "pairs.txt", "a.png b.png\n"),
        (write_colmap, "matches.txt", "a.png b.png\n0 0\n\n"),
        (write_colmap, "a.png.txt", "0 128\n"),
    ],
)
def test_files_of_other_programs_are_kept(matches, tmp_path, write, name, content):
    if write is write_hloc:
        pytest.importorskip("h5py")
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=f"{name} exists"):
        write(tmp_path, [matches])
    assert [path.name for path in tmp_path.iterdir()] == [name]
    (tmp_path / name).unlink()
    write(tmp_path, [matches])
    edited = (tmp_path / name).read_text() + "0 0\n"
    (tmp_path / name).write_text(edited)
    with pytest.raises(UserError, match=f"{name} exists"):
        write(tmp_path, [matches])
    assert (tmp_path / name).read_text() == edited


def test_hloc_and_colmap_share_a_folder(matches, tmp_path):
    pytest.importorskip("h5py")
    for _ in range(2):
        write_hloc(tmp_path, [matches])
        write_colmap(tmp_path, [matches])


@pytest.mark.parametrize("write", [write_hloc, write_colmap])
def test_names_that_no_list_of_pairs_can_hold(tmp_path, write):
    if write is write_hloc:
        pytest.importorskip("h5py")
    detector = HardNetDetector(small_descriptor())
    blank = np.zeros((40, 60), np.uint8)
    matches = match_features(
        detector.features(blank, name="my house.png"), detector.features(blank, name="b")
    )
    with pytest.raises(UserError, match="no spaces in names"):
        write(tmp_path, [matches])
    assert not list(tmp_path.iterdir())


def test_without_h5py_there_is_one_clear_line(matches, tmp_path, monkeypatch):
    original = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "h5py":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UserError, match=r"hardnet-suite\[descriptor\]"):
        write_hloc(tmp_path, [matches])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("write", [write_hloc, write_colmap])
@pytest.mark.parametrize("orientation", [1, 2, 3, 6, 8])
def test_images_that_are_stored_rotated(tmp_path, write, orientation):
    """Both programs read the stored pixels, where keypoints of the upright image lie elsewhere."""
    first, second = save_pair(tmp_path)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    image = Image.open(second).convert("RGB")
    image.save(tmp_path / "b.jpg", exif=exif)
    detector = HardNetDetector(small_descriptor(), top_k=40)
    pair = match_features(detector.features(first), detector.features(str(tmp_path / "b.jpg")))
    if orientation == 1:
        assert write(tmp_path / "out", [pair]).is_dir()
        return
    with pytest.raises(UserError, match=rf"b\.jpg: .* ignores its EXIF orientation, {orientation}"):
        write(tmp_path / "out", [pair])
    assert not (tmp_path / "out").exists()


def test_places_in_colmaps_files_are_exact(matches, tmp_path):
    far = replace(matches.a.keypoints, xy=matches.a.keypoints.xy + np.float32(123_456))
    pair = replace(matches, a=replace(matches.a, keypoints=far))
    write_colmap(tmp_path, [pair])
    rows = np.loadtxt(tmp_path / "a.png.txt", skiprows=1)[:, :2]
    np.testing.assert_array_equal((rows - 0.5).astype(np.float32), far.xy)
