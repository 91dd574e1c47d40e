"""The built-in drawn data set: scenes keep their contract, and other programs read the folder."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from hardnet_suite.data import shapes
from hardnet_suite.data.shapes import SHAPES, Scene, draw_scene, names_of_set, write_shapes
from hardnet_suite.errors import UserError

SIZE = 128
SMALL = {"train": 8, "val": 4, "size": SIZE, "seed": 3}


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw_scene(0, index, SIZE) for index in range(150)]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("drawn") / "set", **SMALL)


def _files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def _hulls(scene: Scene) -> list[np.ndarray]:
    """Box of each visible part, xyxy."""
    found = []
    for mask in scene.masks:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        found.append(np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]))
    return found


def test_a_scene_is_a_pure_function_of_its_arguments():
    np.random.seed(0)  # the global generator plays no part
    first = draw_scene(1, 2, SIZE)
    np.random.seed(1)
    again = draw_scene(1, 2, SIZE)
    for field in ("image", "boxes", "labels", "masks", "semantic"):
        np.testing.assert_array_equal(getattr(first, field), getattr(again, field))
    for other in (draw_scene(2, 2, SIZE), draw_scene(1, 3, SIZE), draw_scene(2, 1, SIZE)):
        assert not np.array_equal(first.image, other.image)


@pytest.mark.parametrize("size", [96, 200, 321])
def test_kinds_and_shapes(size):
    scene = draw_scene(0, 0, size)
    count = len(scene.labels)
    assert (scene.image.shape, scene.image.dtype) == ((size, size, 3), np.uint8)
    assert (scene.boxes.shape, scene.boxes.dtype) == ((count, 4), np.float32)
    assert (scene.labels.shape, scene.labels.dtype) == ((count,), np.int64)
    assert (scene.masks.shape, scene.masks.dtype) == ((count, size, size), np.bool_)
    assert (scene.semantic.shape, scene.semantic.dtype) == ((size, size), np.uint8)


def test_counts_are_two_to_eight_and_all_occur(scenes):
    assert {len(scene.labels) for scene in scenes} == set(range(2, 9))


def test_boxes_lie_inside_and_their_sizes_cover_the_range_evenly_in_logarithm(scenes):
    boxes = np.concatenate([scene.boxes for scene in scenes])
    assert boxes.min() >= 0
    assert boxes.max() <= SIZE
    longer = (boxes[:, 2:] - boxes[:, :2]).max(1) / SIZE
    assert longer.min() > 1 / 12 - 2 / SIZE  # faint tips are not counted
    assert longer.max() < 1 / 2 + 1 / SIZE
    assert longer.min() < 0.1
    assert longer.max() > 0.47
    # the middle of a log-uniform range is its geometric mean, 0.20; of a uniform one 0.29
    assert np.median(longer) == pytest.approx(np.sqrt(1 / 24), abs=0.03)


def test_boxes_are_tight_around_objects_that_nothing_covers(scenes):
    for scene in scenes:
        np.testing.assert_array_equal(scene.boxes[-1], _hulls(scene)[-1])  # the last is on top
        for box, hull in zip(scene.boxes, _hulls(scene), strict=True):
            assert (hull[:2] >= box[:2]).all()
            assert (hull[2:] <= box[2:]).all()


def test_classes_are_about_even(scenes):
    counts = np.bincount(np.concatenate([scene.labels for scene in scenes]), minlength=len(SHAPES))
    assert len(counts) == len(SHAPES) >= 5
    assert counts.min() > 0.75 * counts.mean()


def test_masks_are_apart_and_make_up_the_semantic_map(scenes):
    for scene in scenes:
        assert scene.masks.sum(0).max() == 1
        expected = (scene.masks * (scene.labels + 1)[:, None, None]).sum(0)
        np.testing.assert_array_equal(scene.semantic, expected)


def test_objects_overlap_and_stay_visible(scenes, monkeypatch):
    """Against the same shapes with nothing on top: their alphas, in the order of drawing."""
    wholes: list[int] = []
    draw_alpha = shapes._alpha

    def record(*args):
        alpha = draw_alpha(*args)
        wholes.append(int((alpha >= 0.5).sum()))
        return alpha

    monkeypatch.setattr(shapes, "_alpha", record)
    covered = total = 0
    for index in range(60):
        wholes.clear()
        scene = draw_scene(0, index, SIZE)
        assert len(wholes) == len(scene.labels)
        visible = scene.masks.sum((1, 2)) / wholes
        assert visible.min() >= 0.4
        covered, total = covered + (visible < 0.95).sum(), total + len(visible)
    assert 0.1 < covered / total < 0.6


def test_objects_stand_off_from_the_ground_and_carry_texture(scenes):
    gaps, spreads = [], []
    for scene in scenes:
        ground = scene.image[scene.semantic == 0].mean(0)
        for mask in scene.masks:
            pixels = scene.image[mask].astype(np.float32)
            gaps.append(np.linalg.norm(pixels.mean(0) - ground))
            if mask.sum() > 600:  # on small ones the blended edges count for too much
                spreads.append(np.ptp(np.percentile(pixels, (10, 90), axis=0), axis=0).max())
        assert scene.image[scene.semantic == 0].std(0).max() > 8
    assert np.percentile(gaps, 5) > 60
    assert np.percentile(spreads, 5) > 18  # the pixel noise alone gives 10


def test_colour_says_nothing_about_the_class(scenes):
    colors = np.array([s.image[mask].mean(0) for s in scenes for mask in s.masks])
    labels = np.concatenate([s.labels for s in scenes])
    means = np.array([colors[labels == label].mean(0) for label in range(len(SHAPES))])
    assert np.abs(means - colors.mean(0)).max() < 30  # a class's mean has a standard error of about 8


@pytest.mark.parametrize("arguments", [(0, 0, 95), (-1, 0, 128), (0, -1, 128)])
def test_bad_arguments_of_a_scene(arguments):
    with pytest.raises(ValueError, match=r"at least"):
        draw_scene(*arguments)


@pytest.mark.parametrize(("split", "first", "count"), [("train", 0, 8), ("val", 1_000_000, 4)])
def test_pycocotools_reads_the_same_objects(drawn, split, first, count):
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(drawn / "annotations" / f"instances_{split}2017.json"))
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == list(SHAPES)
    assert coco.getCatIds() == list(range(1, len(SHAPES) + 1))
    assert len(coco.getImgIds()) == count
    for image in coco.loadImgs(sorted(coco.getImgIds())):
        scene = draw_scene(SMALL["seed"], first + image["id"] - 1, SIZE)
        stored = np.asarray(Image.open(drawn / f"{split}2017" / image["file_name"]), np.float32)
        assert stored.shape == (image["height"], image["width"], 3)
        assert np.abs(stored - scene.image).mean() < 8  # JPEG
        annotations = coco.loadAnns(coco.getAnnIds(image["id"]))
        assert len(annotations) == len(scene.labels)
        for annotation, box, label, mask in zip(
            annotations, scene.boxes, scene.labels, scene.masks, strict=True
        ):
            np.testing.assert_array_equal(coco.annToMask(annotation), mask)
            assert annotation["area"] == mask.sum()
            assert annotation["category_id"] == label + 1
            assert annotation["iscrowd"] == 0
            np.testing.assert_array_equal(annotation["bbox"], [*box[:2], *(box[2:] - box[:2])])
        name = Path(image["file_name"]).with_suffix(".png")
        np.testing.assert_array_equal(Image.open(drawn / "masks" / f"{split}2017" / name), scene.semantic)


def test_a_mask_that_begins_in_the_first_pixel_is_encoded():
    mask = np.zeros((3, 2), bool)
    mask[0, 0] = mask[2, 1] = True
    assert shapes._run_lengths(mask) == [0, 1, 4, 1]
    assert shapes._run_lengths(~mask) == [1, 4, 1]
    assert shapes._run_lengths(np.zeros((3, 2), bool)) == [6]
    assert shapes._run_lengths(np.ones((3, 2), bool)) == [0, 6]


def test_class_folders_hold_hardly_covered_objects_of_their_class(drawn):
    for split in ("train", "val"):
        folders = sorted(p.name for p in (drawn / "classes" / split).iterdir())
        assert folders == sorted(SHAPES)
    kept = 0
    for index in range(SMALL["train"]):
        scene = draw_scene(SMALL["seed"], index, SIZE)
        for (x1, y1, x2, y2), label, mask in zip(
            scene.boxes.astype(int), scene.labels, scene.masks, strict=True
        ):
            window = slice(y1, y2), slice(x1, x2)
            crop = scene.image[window]
            others = ((scene.semantic[window] > 0) & ~mask[window]).mean()
            folder = drawn / "classes" / "train" / SHAPES[label]
            stored = [np.asarray(Image.open(path)) for path in folder.iterdir()]
            is_stored = any(np.array_equal(crop, image) for image in stored)
            assert not (is_stored and others > 0.15)
            kept += is_stored
            assert len(stored) <= (SMALL["train"] + 1) // 2
    assert kept == len(list((drawn / "classes" / "train").glob("*/*.png"))) > len(SHAPES)


def test_the_same_parameters_give_the_same_bytes(drawn, tmp_path):
    assert _files(write_shapes(tmp_path / "again", **SMALL)) == _files(drawn)


def test_held_out_images_are_never_training_images_of_a_larger_set(drawn, tmp_path):
    larger = write_shapes(tmp_path / "larger", **{**SMALL, "train": SMALL["train"] + SMALL["val"]})
    held_out = {path.read_bytes() for path in (drawn / "val2017").iterdir()}
    assert len(held_out) == SMALL["val"]
    assert held_out == {path.read_bytes() for path in (larger / "val2017").iterdir()}
    assert held_out.isdisjoint(path.read_bytes() for path in (larger / "train2017").iterdir())


def test_a_second_call_does_nothing(drawn, monkeypatch):
    monkeypatch.setattr(shapes, "draw_scene", lambda *_: pytest.fail("drawn again"))
    before = {path: path.stat().st_mtime_ns for path in drawn.rglob("*")}
    assert write_shapes(drawn, **SMALL) == drawn
    assert {path: path.stat().st_mtime_ns for path in drawn.rglob("*")} == before


def test_other_parameters_or_another_version_are_refused(drawn, monkeypatch):
    before = _files(drawn)
    for name in SMALL:
        with pytest.raises(UserError, match="choose another folder"):
            write_shapes(drawn, **{**SMALL, name: SMALL[name] + 1})
    monkeypatch.setattr(shapes, "VERSION", shapes.VERSION + 1)
    with pytest.raises(UserError, match="choose another folder"):
        write_shapes(drawn, **SMALL)
    assert _files(drawn) == before


@pytest.mark.parametrize("name", ["holiday.jpg", "shapes.json"])
def test_a_foreign_folder_is_refused_and_untouched(tmp_path, name):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_text("not a record")
    with pytest.raises(UserError, match="is not this set"):
        write_shapes(tmp_path / "mine", **SMALL)
    assert _files(tmp_path) == {f"mine/{name}": b"not a record"}


def test_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "empty").mkdir()
    root = write_shapes(tmp_path / "empty", train=1, val=1, size=96)
    assert json.loads((root / "shapes.json").read_text())["train"] == 1
    assert root.stat().st_mode & 0o777 == 0o755


def test_a_path_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", tmp_path / "file" / "set", tmp_path / "file" / "deep" / "set"):
        with pytest.raises(UserError, match="choose another folder"):
            write_shapes(root, **SMALL)


@pytest.mark.parametrize(
    ("error", "raised"), [(KeyboardInterrupt(), KeyboardInterrupt), (OSError(28, "No space left"), UserError)]
)
def test_an_interrupted_run_leaves_nothing(tmp_path, error, raised):
    def stop(done: int, total: int) -> None:
        if done == 3:
            raise error

    with pytest.raises(raised):
        write_shapes(tmp_path / "set", **SMALL, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_progress_counts_every_image(tmp_path):
    seen = []
    write_shapes(tmp_path / "set", train=2, val=1, size=96, progress=lambda *now: seen.append(now))
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    "bad", [{"train": 0}, {"val": 0}, {"train": 1_000_001}, {"size": 95}, {"seed": -1}], ids=str
)
def test_bad_arguments_of_a_set(tmp_path, bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        write_shapes(tmp_path / "deep" / "set", **{**SMALL, **bad})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("lost", "what"),
    [
        ("train2017", "4 of 12 images"),
        ("val2017/000000000002.jpg", "11 of 12 images"),
        ("annotations/instances_val2017.json", "no annotations/instances_val2017.json"),
        ("annotations", "no annotations/instances_train2017.json"),
    ],
)
def test_a_set_that_lacks_files_is_damaged(drawn, tmp_path, lost, what):
    root = shutil.copytree(drawn, tmp_path / "set")
    shutil.rmtree(root / lost) if (root / lost).is_dir() else (root / lost).unlink()
    before = _files(root)
    with pytest.raises(UserError) as caught:
        write_shapes(root, **SMALL)
    assert str(caught.value) == f"{root} is damaged ({what}): remove it, or choose another folder"
    assert _files(root) == before


def test_the_folder_of_a_killed_run_goes_with_the_next(tmp_path):
    code = """if True:
        import os, sys
        from hardnet_suite.data.shapes import write_shapes
        write_shapes(sys.argv[1], train=2, val=1, size=96, progress=lambda *_: os.kill(os.getpid(), 9))
    """
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "set")], timeout=300)
    assert len(os.listdir(tmp_path)) == 1
    write_shapes(tmp_path / "set", train=1, val=1, size=96)
    assert os.listdir(tmp_path) == ["set"]


# --- other objects


def test_symbols_are_none_of_the_shapes():
    symbols = names_of_set("symbols")
    assert len(set(symbols)) == len(symbols) > len(SHAPES)
    assert not set(symbols) & set(SHAPES)
    drawn = {
        (name, turn): shapes._alpha(outline, 64, turn)
        for kind in ("shapes", "symbols")
        for name, outline in shapes._OUTLINES[kind].items()
        for turn in np.linspace(0, 2 * np.pi, 24, endpoint=False)
    }
    for symbol in symbols:
        alike = max(
            _overlap(drawn[symbol, 0.0], other) for (name, _), other in drawn.items() if name in SHAPES
        )
        assert alike < 0.9, symbol


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """The intersection over union of two outlines, each with its box at the origin."""
    size = [max(pair) for pair in zip(a.shape, b.shape, strict=True)]
    a, b = (np.pad(x, [(0, s - n) for s, n in zip(size, x.shape, strict=True)]) >= 0.5 for x in (a, b))
    return np.count_nonzero(a & b) / np.count_nonzero(a | b)


def test_a_set_of_symbols(tmp_path):
    root = write_shapes(tmp_path / "symbols", train=2, val=1, size=96, objects="symbols")
    content = json.loads((root / "annotations/instances_train2017.json").read_text())
    assert [row["name"] for row in content["categories"]] == list(names_of_set("symbols"))
    assert sorted(path.name for path in (root / "classes/train").iterdir()) == sorted(names_of_set("symbols"))
    assert write_shapes(root, train=2, val=1, size=96, objects="symbols") == root
    with pytest.raises(UserError, match="is not this set of drawn shapes"):
        write_shapes(root, train=2, val=1, size=96)
    scene = draw_scene(0, 1, 96, "symbols")
    boxes = [row["bbox"][:2] for row in content["annotations"] if row["image_id"] == 2]
    assert boxes == scene.boxes[:, :2].tolist()


def test_an_unknown_set_is_told(tmp_path):
    with pytest.raises(ValueError, match="unknown set of objects 'toys', expected one of shapes, symbols"):
        write_shapes(tmp_path / "toys", objects="toys")
