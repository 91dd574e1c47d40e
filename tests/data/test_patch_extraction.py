"""Patches of keypoints in images of known geometry."""

import json

import cv2
import numpy as np
import pytest
from PIL import Image

from hardnet_suite.data.homography import read_sequence
from hardnet_suite.data.hpatches import read_sequence_strips
from hardnet_suite.data.images import read_grey
from hardnet_suite.data.patch_extraction import (
    JITTERS,
    Extraction,
    FrameJitter,
    Source,
    View,
    detect_keypoints,
    distinct_keypoints,
    extract,
    jitter_frames,
    sources_of_photographs,
    sources_of_sequences,
    write_patches,
)
from hardnet_suite.data.patch_frames import cut_patches, frames_of_keypoints
from hardnet_suite.data.patches import read_brown, read_patch_set
from hardnet_suite.errors import UserError

HOMOGRAPHY = np.array([[0.95, -0.1, 15.0], [0.12, 1.02, -12.0], [2e-4, -1e-4, 1.0]])


def textured(width=320, height=240, seed=0):
    """Blobs of many sizes: keypoints everywhere."""
    rng = np.random.default_rng(seed)
    image = np.zeros((height, width), np.float32)
    for sigma in (2, 4, 8, 16):
        layer = cv2.GaussianBlur(rng.standard_normal((height, width)).astype(np.float32), (0, 0), sigma)
        image += layer / layer.std()
    return cv2.normalize(image, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A sequence of three images."""
    folder = tmp_path_factory.mktemp("data") / "v_wall"
    folder.mkdir()
    image = textured()
    Image.fromarray(image).save(folder / "1.png")
    for number, matrix in ((2, HOMOGRAPHY), (3, np.linalg.inv(HOMOGRAPHY))):
        view = cv2.warpPerspective(image, matrix, (340, 260), flags=cv2.INTER_CUBIC)
        Image.fromarray(view).save(folder / f"{number}.png")
        np.savetxt(folder / f"H_1_{number}", matrix)
    return folder


@pytest.fixture(scope="module")
def made(folder):
    (source,) = sources_of_sequences([read_sequence(folder)])
    return extract(source, Extraction())


def correlations(one, other):
    flat = [patches.reshape(len(patches), -1).astype(float) for patches in (one, other)]
    return np.array([np.corrcoef(a, b)[0, 1] for a, b in zip(*flat, strict=True)])


def overlaps(jitter, count=300):
    """Intersection over union of ellipses, (count,)."""
    grid = np.stack(np.meshgrid(*[np.linspace(-3, 3, 121)] * 2), -1).reshape(-1, 2)
    frames = jitter_frames(np.tile(np.eye(2, 3), (count, 1, 1)), jitter, np.random.default_rng(0))
    before = (grid**2).sum(1) <= 1
    inverse = np.linalg.inv(frames[:, :, :2])
    local = (grid[None] - frames[:, None, :, 2]) @ np.swapaxes(inverse, 1, 2)
    after = (local**2).sum(2) <= 1
    return (before & after).sum(1) / (before | after).sum(1)


@pytest.mark.parametrize(("level", "documented"), [("e", 0.85), ("h", 0.72)])
def test_jitter_overlaps_as_hpatches_documents(level, documented):
    assert np.median(overlaps(JITTERS[level])) == pytest.approx(documented, abs=0.035)


def test_levels_are_in_order():
    easy, hard, tough = (np.median(overlaps(JITTERS[level])) for level in "eht")
    assert easy > hard > tough > 0.5


def test_each_range_of_a_jitter_changes_what_it_says():
    frames = frames_of_keypoints([[10, 20]] * 500, [4] * 500, [30] * 500)
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(jitter_frames(frames, FrameJitter(0, 0, 0, 0), rng), frames)
    turned = jitter_frames(frames, FrameJitter(20, 0, 0, 0), rng)
    angles = np.degrees(np.arctan2(turned[:, 1, 0], turned[:, 0, 0])) - 30
    assert -20 <= angles.min() < -19 < 19 < angles.max() <= 20
    shifted = jitter_frames(frames, FrameJitter(0, 0.5, 0, 0), rng)
    local = np.linalg.inv(frames[0, :, :2]) @ (shifted - frames)[:, :, 2].T
    assert (local >= -0.5).all()
    assert (local <= 0.5).all()
    assert np.ptp(local, 1).min() > 0.95
    scaled = np.linalg.det(jitter_frames(frames, FrameJitter(0, 0, 0.5, 0), rng)[:, :, :2]) / 144
    assert 0.5 <= scaled.min() < 0.52 < 1.9 < scaled.max() <= 2
    stretched = np.linalg.svd(jitter_frames(frames, FrameJitter(0, 0, 0, 1), rng)[:, :, :2], compute_uv=False)
    np.testing.assert_allclose(stretched.prod(1), 144)
    assert 1.9 < (stretched[:, 0] / stretched[:, 1]).max() <= 2


def test_one_of_each_overlapping_pair_is_left():
    xy = np.array([[50.0, 50], [50.5, 50], [50, 50], [90, 50], [50, 50], [50, 50]])
    size = np.array([4.0, 4, 4.5, 4, 9, 2])
    left = {
        frozenset(distinct_keypoints(xy, size, np.random.default_rng(seed)).tolist()) for seed in range(40)
    }
    assert left == {frozenset({3, 4, 5, one}) for one in (0, 1, 2)}  # at random; other sizes, another place


@pytest.mark.parametrize(("distance", "alive"), [(0, 1), (6.2, 1), (6.6, 2), (24, 2), (100, 2)])
def test_half_of_the_area_is_too_much(distance, alive):
    """Circles of radius 12 share half of their area at a distance of 0.530 radii."""
    xy = np.array([[50.0, 50], [50 + distance, 50]])
    kept = distinct_keypoints(xy, np.array([4.0, 4]), np.random.default_rng(0))
    assert len(kept) == alive


def test_no_keypoints_are_distinct():
    assert len(distinct_keypoints(np.zeros((0, 2)), np.zeros(0), np.random.default_rng(0))) == 0


def test_detectors():
    sift, orb, both = (
        len(detect_keypoints(textured(), names)[1]) for names in (["sift"], ["orb"], ["sift", "orb"])
    )
    assert sift > 50
    assert orb > 50
    assert both == sift + orb
    _, size, angle = detect_keypoints(textured(), ["orb"])
    assert size.min() == pytest.approx(31 / 4)
    assert (angle >= 0).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (5, 5), (100, 100)])
def test_images_without_keypoints(shape):
    for name in ("sift", "orb"):
        xy, size, angle = detect_keypoints(np.full(shape, 9, np.uint8), [name])
        assert (xy.shape, size.shape, angle.shape) == ((0, 2), (0,), (0,))
    source = Source("flat", lambda rng: (np.full(shape, 9, np.uint8), iter([])))
    made = extract(source, Extraction())
    assert made.counts.points == 0
    assert made.training.shape == (0, 64, 64)
    assert made.strips == {}


def test_corresponding_patches_show_the_same(made):
    ref = made.strips["ref"]
    assert len(ref) > 20
    medians = [
        np.median([np.median(correlations(ref, made.strips[f"{level}{number}"])) for number in (1, 2)])
        for level in "eht"
    ]
    assert medians[0] > 0.85
    assert medians[0] > medians[1] + 0.05 > medians[2] + 0.1
    assert np.median(correlations(ref, np.roll(made.strips["e1"], 1, 0))) < 0.4


def test_without_jitter_views_agree(folder, monkeypatch):
    monkeypatch.setattr(
        "hardnet_suite.data.patch_extraction.JITTERS", {level: FrameJitter(0, 0, 0, 0) for level in "eht"}
    )
    (source,) = sources_of_sequences([read_sequence(folder)])
    made = extract(source, Extraction())
    for name, strip in made.strips.items():
        assert np.median(correlations(made.strips["ref"], strip)) > 0.97, name
    firsts = np.unique(made.points, return_index=True)[1]
    for number in range(2, 4):
        later = [np.flatnonzero(made.points == point)[-1] for point in made.points[firsts]]
        assert np.median(correlations(made.training[firsts], made.training[later])) > 0.97, number


def test_the_training_set_has_two_patches_or_more_of_each_point(made):
    counts = np.bincount(made.points)
    assert set(counts.tolist()) <= {2, 3}
    assert made.counts.patches == len(made.training) == len(made.points)
    assert made.counts.points >= len(counts)


@pytest.mark.parametrize("min_size", [2.5, 12])
def test_counts_add_up(folder, min_size):
    made = extract(*sources_of_sequences([read_sequence(folder)]), Extraction(min_size=min_size))
    counts = made.counts
    dropped = counts.small + counts.duplicates + counts.outside + counts.flat + counts.unused
    assert counts.keypoints == dropped + counts.points
    assert (counts.small > 50) == (min_size == 12)
    assert counts.outside > 0
    assert counts.duplicates > 0
    assert list(made.strips) == ["ref", "e1", "e2", "h1", "h2", "t1", "t2"]
    assert {strip.shape for strip in made.strips.values()} == {(counts.strips, 65, 65)}


def test_a_limit_keeps_as_many_of_each_octave(folder):
    (source,) = sources_of_sequences([read_sequence(folder)])
    made = extract(source, Extraction(patches_per_image=12))
    assert 4 <= made.counts.points <= 12
    assert made.counts.unused > 20


def test_points_that_leave_all_views_are_dropped():
    image = textured()
    far = View(image, np.array([[1, 0, 5000.0], [0, 1, 0], [0, 0, 1]]))
    made = extract(Source("far", lambda rng: (image, iter([far]))), Extraction())
    assert made.counts.points == len(made.training) == 0
    assert made.counts.outside > 50
    tiny = View(image, np.diag([0.01, 0.01, 1.0]))
    assert extract(Source("tiny", lambda rng: (image, iter([tiny]))), Extraction()).counts.points == 0


def test_patches_of_a_single_grey_value_are_left_out():
    image = textured()
    dark = image.copy()
    dark[:, : image.shape[1] // 2] = 0
    views = [View(dark, np.eye(3)), View(image, np.eye(3))]
    made = extract(Source("dark", lambda rng: (image, iter(views))), Extraction())
    complete = extract(Source("light", lambda rng: (image, iter([views[1]] * 2))), Extraction())
    assert 0 < made.counts.strips < complete.counts.strips
    # the first image and the other view suffice, unless the region leaves that
    assert made.counts.points + made.counts.flat == complete.counts.points
    assert len(made.training) < len(complete.training)
    for patches in (made.training, *made.strips.values()):
        assert (patches.min((1, 2)) < patches.max((1, 2))).all()
    black = extract(Source("black", lambda rng: (image, iter([View(dark * 0, np.eye(3))]))), Extraction())
    assert black.counts.flat > 50
    assert black.counts.points == len(black.training) == 0


def test_the_horizon_is_no_view():
    image = textured()
    ground = View(image, np.array([[1, 0, 0], [0, 1, 0], [0, 0.01, -1]]))  # the horizon crosses the image
    made = extract(Source("ground", lambda rng: (image, iter([ground]))), Extraction())
    assert made.counts.outside > 0


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("strips", [True, False])
def test_only_what_is_asked_for_is_cut(folder, training, strips, monkeypatch):
    if not (training or strips):
        with pytest.raises(ValueError, match="both"):
            Extraction(training=training, strips=strips)
        return
    (source,) = sources_of_sequences([read_sequence(folder)])
    both = extract(source, Extraction())
    sides = set()

    def cut(image, frames, side):
        sides.add(side)
        return cut_patches(image, frames, side)

    monkeypatch.setattr("hardnet_suite.data.patch_extraction.cut_patches", cut)
    made = extract(source, Extraction(training=training, strips=strips))
    assert (len(made.training) > 0) == training
    assert (len(made.strips) > 0) == strips
    assert sides == {side for side, is_asked_for in ((64, training), (65, strips)) if is_asked_for}
    np.testing.assert_array_equal(made.training, both.training if training else both.training[:0])
    np.testing.assert_array_equal(made.points, both.points if training else both.points[:0])
    assert list(made.strips) == (list(both.strips) if strips else [])
    for name, strip in made.strips.items():
        np.testing.assert_array_equal(strip, both.strips[name])


def write_images(folder, count=3):
    folder.mkdir()
    for number in range(count):
        Image.fromarray(textured(200, 160, seed=number)).save(folder / f"{number}.png")
    return sorted(folder.iterdir())


def test_the_same_seed_gives_the_same_files(tmp_path):
    images = write_images(tmp_path / "images")
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        write_patches(tmp_path / name, sources_of_photographs(images, 2), Extraction(seed=seed))
    a, b, c = (
        {str(path.relative_to(tmp_path / name)): path.read_bytes() for path in (tmp_path / name).rglob("*.*")}
        for name in "abc"
    )
    assert a == b
    assert a["brown/patches0000.bmp"] != c["brown/patches0000.bmp"]


def test_what_is_written_can_be_read(tmp_path):
    images = write_images(tmp_path / "images")
    seen = []
    total = write_patches(
        tmp_path / "out",
        sources_of_photographs(images, 2),
        Extraction(),
        report=lambda source, counts: seen.append((source.name, counts.points)),
    )
    assert [name for name, _ in seen] == ["0", "1", "2"]
    assert sum(points for _, points in seen) == total.points > 30
    patch_set = read_patch_set(tmp_path / "out")
    assert len(patch_set) == total.patches
    assert len(patch_set.pairs) == 2 * total.patches
    assert (np.bincount(patch_set.point_ids) >= 2).all()
    rows = 0
    for folder in sorted((tmp_path / "out" / "hpatches").iterdir()):
        rows += len(read_sequence_strips(folder)["t2"])
    assert rows == total.strips > 0
    record = json.loads((tmp_path / "out" / "make-patches.json").read_text())
    assert record["counts"]["points"] == total.points
    assert record["sources"] == ["0", "1", "2"]
    same = patch_set.pairs[patch_set.pairs[:, 2] == 1]
    other = patch_set.pairs[patch_set.pairs[:, 2] == 0]
    alike = [
        correlations(patch_set.patches[p[:, 0]], patch_set.patches[p[:, 1]]).mean() for p in (same, other)
    ]
    assert alike[0] > 0.5 > 0.3 > alike[1]


def test_images_of_one_name_have_folders_of_their_own(tmp_path):
    for folder in ("a", "b", "c"):
        (tmp_path / folder).mkdir()
        Image.fromarray(textured()).save(tmp_path / folder / ("X.png" if folder == "c" else "x.png"))
    names = [source.name for source in sources_of_photographs(sorted(tmp_path.rglob("*.png")), 1)]
    assert names == ["x", "x_2", "X_3"]


@pytest.mark.parametrize("content", ["file", "folder"])
def test_nothing_is_overwritten(tmp_path, content):
    images = write_images(tmp_path / "images", 1)
    out = tmp_path / "out"
    if content == "file":
        out.write_text("mine")
    else:
        out.mkdir()
        (out / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty" if content == "folder" else "exists and is no folder"):
        write_patches(out, sources_of_photographs(images, 1), Extraction())
    assert (out if content == "file" else out / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("place", ["file/out", "file/a/out"])
def test_a_place_where_no_folder_can_be(tmp_path, place):
    (tmp_path / "file").write_text("mine")
    sources = sources_of_photographs(write_images(tmp_path / "images", 1), 1)
    with pytest.raises(UserError, match="cannot write patches to"):
        write_patches(tmp_path / place, sources, Extraction())
    assert (tmp_path / "file").read_text() == "mine"


def test_an_empty_folder_is_used(tmp_path):
    (tmp_path / "out").mkdir()
    write_patches(
        tmp_path / "out", sources_of_photographs(write_images(tmp_path / "images", 1), 1), Extraction()
    )
    assert len(read_brown(tmp_path / "out" / "brown")) > 0


def test_no_patches_are_an_error_and_leave_nothing(tmp_path):
    Image.new("L", (100, 100), 7).save(tmp_path / "flat.png")
    Image.new("L", (1, 1), 7).save(tmp_path / "pixel.png")
    sources = sources_of_photographs([tmp_path / "flat.png", tmp_path / "pixel.png"], 2)
    with pytest.raises(UserError, match="no patches: no keypoints were found in 2 images"):
        write_patches(tmp_path / "out", sources, Extraction())
    assert {path.name for path in tmp_path.iterdir()} == {"flat.png", "pixel.png"}


def test_a_broken_image_is_an_error_and_leaves_nothing(tmp_path):
    images = write_images(tmp_path / "images", 2)
    images[1].write_bytes(b"no image")
    with pytest.raises(UserError, match=r"cannot read the image .*1\.png"):
        write_patches(tmp_path / "out", sources_of_photographs(images, 1), Extraction())
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_colours_depths_and_orientations_are_read_alike(tmp_path):
    grey = textured()
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(np.repeat(grey[..., None], 3, 2)).save(tmp_path / "rgb.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    turned = Image.fromarray(np.rot90(grey).copy())
    exif = turned.getexif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    turned.save(tmp_path / "turned.png", exif=exif)
    options = Extraction()
    expected = extract(sources_of_photographs([tmp_path / "grey.png"], 1)[0], options)
    for name in ("rgb", "deep", "turned"):
        np.testing.assert_array_equal(read_grey(tmp_path / f"{name}.png"), grey)
        made = extract(sources_of_photographs([tmp_path / f"{name}.png"], 1)[0], options)
        np.testing.assert_array_equal(made.training, expected.training)


@pytest.mark.parametrize(
    "wrong",
    [
        {"detectors": ("surf",)},
        {"detectors": ()},
        {"patches_per_image": 0},
        {"region": 0},
        {"region": float("nan")},
        {"region": 1000},
        {"min_size": 0},
        {"min_size": float("inf")},
        {"seed": -1},
    ],
)
def test_options_out_of_range(wrong):
    with pytest.raises(ValueError, match=r"detector|=\S+: expected"):
        Extraction(**wrong)


def test_real_sequences(shared):
    source = sources_of_sequences([read_sequence(shared / "data" / "homography" / "graf")])[0]
    made = extract(source, Extraction(patches_per_image=150))
    assert made.counts.points > 100
    medians = [np.median(correlations(made.strips["ref"], made.strips[f"{level}1"])) for level in "eht"]
    assert medians[0] > 0.5
    assert medians[0] > medians[1] > medians[2] > 0.1
