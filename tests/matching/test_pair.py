from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn_pairs import HOMOGRAPHY, corner_error, drawn_pair, save_pair, small_descriptor
from PIL import Image

from hardnet_suite import HardNetDetector, match_images
from hardnet_suite.data.images import read_grey, to_grey
from hardnet_suite.data.patch_frames import MEASUREMENT_REGION, project_points
from hardnet_suite.errors import UserError
from hardnet_suite.matching import estimate_geometry, load_descriptor, match_features, mutual_matches
from hardnet_suite.matching.patches import DESCRIPTOR, SHIPPED
from hardnet_suite.weights import ROWS


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    return small_descriptor()


@pytest.fixture(scope="module")
def features(network):
    detector = HardNetDetector(network, top_k=200, channels="rgb")
    return [detector.features(image) for image in drawn_pair()]


@pytest.fixture(scope="module")
def matches(features):
    return match_features(*features)


def test_a_known_homography_is_found(matches):
    assert matches.kind == matches.geometry.kind == "homography"
    assert corner_error(matches.matrix) < 1.5
    assert matches.matrix[2, 2] == 1
    assert 50 < matches.geometry.count <= len(matches) == len(matches.inliers)
    expected, _ = project_points(matches.points_a, HOMOGRAPHY)
    errors = np.linalg.norm(expected - matches.points_b, axis=1)
    assert (errors[matches.inliers] < 4).all()
    assert matches.summary() == f"{matches.geometry.count} inliers of {len(matches)} matches (homography)"


def test_pairs_are_of_keypoints_and_descriptors(matches):
    assert matches.pairs.dtype == np.int64
    assert len(np.unique(matches.pairs[:, 0])) == len(np.unique(matches.pairs[:, 1])) == len(matches)
    np.testing.assert_array_equal(matches.points_b, matches.keypoints_b.xy[matches.pairs[:, 1]])
    a = matches.a.descriptors[matches.pairs[:, 0]]
    b = matches.b.descriptors[matches.pairs[:, 1]]
    np.testing.assert_allclose(matches.distances, np.linalg.norm(a - b, axis=1), rtol=1e-5)


def test_every_form_of_image_gives_the_same_matches(network, matches, tmp_path):
    a, b = drawn_pair()
    paths = save_pair(tmp_path)
    forms = [
        (a, b),
        paths,
        (Image.fromarray(a), Path(paths[1]).read_bytes()),
        (torch.from_numpy(a).permute(2, 0, 1), torch.from_numpy(b).permute(2, 0, 1).float() / 255),
    ]
    for pair in forms:
        found = match_images(*pair, model=network, top_k=200)
        np.testing.assert_array_equal(found.pairs, matches.pairs)
        np.testing.assert_allclose(found.matrix, matches.matrix, rtol=1e-6)
    bgr = match_images(a[..., ::-1], b[..., ::-1], model=network, top_k=200, channels="bgr")
    np.testing.assert_array_equal(bgr.pairs, matches.pairs)


def test_grey_and_colour_images_match(network, matches):
    a, b = drawn_pair()
    found = match_images(to_grey(a), b, model=network, top_k=200)
    np.testing.assert_array_equal(found.pairs, matches.pairs)


def test_matching_is_deterministic_and_symmetric(features, matches):
    again = match_features(*features)
    np.testing.assert_array_equal(again.matrix, matches.matrix)
    back = match_features(features[1], features[0])
    assert sorted(back.pairs[:, ::-1].tolist()) == matches.pairs.tolist()
    assert corner_error(np.linalg.inv(back.matrix)) < 1.5


def test_an_image_matches_itself(features):
    found = match_features(features[0], features[0])
    assert (found.pairs[:, 0] == found.pairs[:, 1]).all()
    assert found.geometry.count == len(found)
    np.testing.assert_allclose(found.matrix, np.eye(3), atol=1e-4)


def test_a_fundamental_matrix_holds_for_its_inliers(features):
    found = match_features(*features, geometry="fundamental")
    assert found.geometry.kind == "fundamental"
    a, b = (np.column_stack([points, np.ones(len(points))]) for points in (found.points_a, found.points_b))
    lines = a @ found.matrix.T  # in image b
    distances = np.abs((lines * b).sum(1)) / np.linalg.norm(lines[:, :2], axis=1)
    assert (distances[found.inliers] < 6).all()
    assert abs(np.linalg.det(found.matrix / np.linalg.norm(found.matrix))) < 1e-6
    assert "fundamental matrix" in found.summary()


def test_without_geometry(features, matches):
    found = match_features(*features, geometry="none")
    np.testing.assert_array_equal(found.pairs, matches.pairs)
    assert found.geometry is found.inliers is found.matrix is None
    assert found.summary() == f"{len(matches)} matches"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "other"}, r"features of two networks \(digests \w{12} and \w{12}\) cannot be matched"),
        ({"region": 8.0}, "features of region 6.0 and 8.0 cannot be matched"),
        ({"upright": True}, "features of upright False and True cannot be matched"),
    ],
)
def test_descriptors_that_cannot_be_compared_are_not_matched(network, features, options, message):
    options = {"model": network} | options
    if options["model"] == "other":
        options["model"] = small_descriptor(seed=1)
    detector = HardNetDetector(options.pop("model"), top_k=200, channels="rgb", **options)
    with pytest.raises(ValueError, match=message):
        match_features(features[0], detector.features(drawn_pair()[1]))


def test_what_does_not_change_descriptors_may_differ(network, features):
    detector = HardNetDetector(network, top_k=100, contrast=0.02, channels="rgb", bf16=True)
    assert len(match_features(features[0], detector.features(drawn_pair()[1])))
    unknown = replace(features[1], description=None)  # made by hand
    assert len(match_features(features[0], unknown))


def test_ratio_and_threshold_have_an_effect(features, matches):
    assert (
        len(match_features(*features, ratio=None)) > len(matches) > len(match_features(*features, ratio=0.5))
    )
    assert match_features(*features, threshold=0.3).geometry.count < matches.geometry.count
    assert match_features(*features, min_inliers=len(matches) + 1).geometry is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 8.5, True, "8", 3, 0, -1])
def test_a_number_of_inliers_is_a_count(features, bad):
    with pytest.raises(ValueError, match="expected min_inliers of at least 4 for a homography, an integer"):
        match_features(*features, min_inliers=bad)
    with pytest.raises(ValueError, match="expected min_inliers"):
        estimate_geometry(np.zeros((5, 2)), np.zeros((5, 2)), min_inliers=bad)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 0, -1.0, "3", True])
def test_a_threshold_is_a_number_of_pixels(features, bad):
    with pytest.raises(ValueError, match="expected a positive threshold in pixels, got"):
        match_features(*features, threshold=bad)


@pytest.mark.parametrize("option", [{"threshold": 3.0}, {"min_inliers": 8}])
def test_options_of_a_geometry_are_refused_without_one(features, option):
    with pytest.raises(ValueError, match=rf"{next(iter(option))} is for a geometry, got geometry='none'"):
        match_features(*features, geometry="none", **option)


@pytest.mark.parametrize("geometry", ["homography", "fundamental", "none"])
@pytest.mark.parametrize(
    "other",
    [
        np.zeros((1, 1), np.uint8),
        np.full((120, 90, 3), 200, np.uint8),
        np.random.default_rng(0).integers(0, 256, (80, 80), np.uint8),
    ],
    ids=["pixel", "constant", "noise"],
)
def test_nothing_to_match_is_an_answer(network, geometry, other):
    image = drawn_pair()[0]
    for pair in ((image, other), (other, image), (other, np.zeros((1, 1), np.uint8))):
        found = match_images(*pair, model=network, top_k=60, geometry=geometry)
        assert found.pairs.shape == (len(found), 2)
        assert found.geometry is None
        assert np.array(found.draw(outliers=True)).ndim == 3
        assert json.loads(json.dumps(found.to_dict()))["matrix"] is None


def test_different_images_have_no_geometry(network):
    from hardnet_suite.data.shapes import draw_scene

    a, b = (np.array(draw_scene(1, index, size=200).image) for index in (5, 6))
    found = match_images(a, b, model=network, top_k=150)
    assert found.geometry is None
    assert "no homography" in found.summary()


def test_the_dictionary_holds_everything(matches):
    found = json.loads(json.dumps(matches.to_dict()))
    assert found["geometry"] == "homography"
    assert found["matches"] == matches.pairs.tolist()
    assert found["inliers"] == matches.inliers.tolist()
    assert [len(image["keypoints"]) for image in found["images"]] == [200, 200]
    assert found["images"][0]["width"] == 320


def test_the_drawing(matches):
    plain, full = (np.array(matches.draw(outliers=outliers)) for outliers in (False, True))
    assert plain.shape == full.shape
    assert plain.shape[1] > 2 * 320
    assert (plain != full).any()


def random_matches(count: int, homography: np.ndarray = HOMOGRAPHY, noise: float = 0.2):
    rng = np.random.default_rng(count)
    points = rng.uniform(0, 320, (count, 2))
    return points, project_points(points, homography)[0] + rng.normal(scale=noise, size=(count, 2))


def test_the_fewest_matches_with_a_geometry():
    """Four matches agree with some homography, whatever they are: that verifies nothing."""
    assert estimate_geometry(*random_matches(8)).count == 8
    assert estimate_geometry(*random_matches(7)) is None
    assert estimate_geometry(*random_matches(5), min_inliers=4).count >= 4
    assert estimate_geometry(*random_matches(15), "fundamental") is None
    for count in range(4):
        assert estimate_geometry(*random_matches(count)) is None
        assert estimate_geometry(*random_matches(count), "fundamental") is None


@pytest.mark.parametrize(("kind", "places"), [("homography", 8), ("fundamental", 16)])
@pytest.mark.parametrize("repeated", ["both", "a", "b"])
def test_keypoints_at_one_place_count_once(kind, places, repeated):
    """SIFT has one keypoint for every strong orientation: they verify no more than one of them."""
    points, others = random_matches(places - 1)
    rows = np.arange(places - 1).repeat(3)
    shift = np.tile([[0.0, 0.0], [0.2, 0.0], [0.0, 0.2]], (places - 1, 1))
    points, others = points[rows] + shift * (repeated == "b"), others[rows] + shift * (repeated == "a")
    assert estimate_geometry(points, others, kind) is None
    assert estimate_geometry(points, others, kind, min_inliers=places - 1) is not None
    more, others_more = random_matches(places)
    found = estimate_geometry(more.repeat(3, 0), others_more.repeat(3, 0), kind)
    assert found.count == len(found.inliers) == 3 * places


def test_inliers_at_too_few_places_are_no_geometry():
    points, others = random_matches(6)
    noise, elsewhere = np.random.default_rng(0).uniform(0, 320, (2, 6, 2))
    points, others = (
        np.concatenate(parts) for parts in ((points.repeat(2, 0), noise), (others.repeat(2, 0), elsewhere))
    )
    assert estimate_geometry(points, others) is None
    assert estimate_geometry(points, others, min_inliers=6).count >= 12


def test_outliers_are_left_out():
    points, others = random_matches(60)
    others[::3] += np.random.default_rng(0).uniform(30, 90, (20, 2))
    found = estimate_geometry(points, others)
    assert found.inliers[::3].sum() <= 1
    assert found.count >= 38
    assert corner_error(found.matrix) < 1


@pytest.mark.parametrize("kind", ["homography", "fundamental"])
@pytest.mark.parametrize("form", ["alike", "line", "one place", "noise"])
def test_points_without_geometry(kind, form):
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 300, (40, 2))
    others = points + 5
    if form == "alike":
        points, others = np.full((40, 2), 7.0), np.full((40, 2), 9.0)
    elif form == "line":
        points[:, 1] = 2 * points[:, 0] + 1
        others = points + 5
    elif form == "one place":
        others = np.full((40, 2), 9.0)
    else:
        others = rng.uniform(0, 300, (40, 2))
    assert estimate_geometry(points, others, kind) is None


@pytest.mark.parametrize(
    ("points", "others", "options", "message"),
    [
        (np.zeros((9, 2)), np.zeros((8, 2)), {}, "matched points"),
        (np.zeros((9, 3)), np.zeros((9, 3)), {}, "matched points"),
        (np.full((9, 2), np.nan), np.zeros((9, 2)), {}, "NaN or infinite"),
        (np.zeros((9, 2)), np.zeros((9, 2)), {"kind": "affine"}, "homography"),
        (np.zeros((9, 2)), np.zeros((9, 2)), {"kind": "none"}, "homography"),
        (np.zeros((9, 2)), np.zeros((9, 2)), {"threshold": 0}, "positive threshold"),
        (np.zeros((9, 2)), np.zeros((9, 2)), {"min_inliers": 3}, "at least 4"),
    ],
)
def test_points_that_are_refused(points, others, options, message):
    with pytest.raises(ValueError, match=message):
        estimate_geometry(points, others, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"geometry": "affine"}, "homography, fundamental, none"),
        ({"ratio": 0}, "ratio"),
        ({"ratio": 1.2}, "ratio"),
        ({"threshold": -1}, "threshold"),
        ({"threshold": float("nan")}, "threshold"),
        ({"min_inliers": 2}, "min_inliers of at least 4"),
        ({"geometry": "fundamental", "min_inliers": 7}, "min_inliers of at least 8"),
        ({"geometry": "none", "min_inliers": 9}, "is for a geometry"),
        ({"top_k": 0}, "top_k"),
        ({"channels": "rbg"}, "channels"),
    ],
)
def test_bad_options(network, options, message):
    with pytest.raises(ValueError, match=message):
        match_images("a.png", "b.png", model=network, **options)


def test_images_that_cannot_be_read(network, tmp_path):
    with pytest.raises(UserError, match="no such file"):
        match_images(tmp_path / "no.png", tmp_path / "no.png", model=network)


def correct_matches(folder: Path, other: int, network: torch.nn.Module, top_k: int) -> dict[float, int]:
    """Factor of the default region -> matches of images 1 and ``other`` within 3 pixels of the truth."""
    if not folder.exists():
        pytest.skip(f"no images at {folder}")
    truth = np.loadtxt(folder / f"H_1_{other}")
    images = [read_grey(folder / f"{number}.png") for number in (1, other)]
    keypoints = [HardNetDetector(network, top_k=top_k).detect(image) for image in images]
    points_a, points_b = (np.array([point.pt for point in points]) for points in keypoints)
    correct = {}
    for factor in (0.5, 1, 2):
        detector = HardNetDetector(network, region=factor * MEASUREMENT_REGION)
        described = [detector.compute(image, points) for image, points in zip(images, keypoints, strict=True)]
        pairs, _ = mutual_matches(described[0][1], described[1][1], 0.9)
        places, _ = project_points(points_a[pairs[:, 0]], truth)
        errors = np.linalg.norm(places - points_b[pairs[:, 1]], axis=1)
        correct[factor] = int((errors < 3).sum())
    return correct


def test_the_default_region_beats_half_and_double_on_real_images(shared):
    """It does so for filters that know no region: it is the one that SIFT's keypoints are chosen for."""
    network = small_descriptor(layers=((16, 1), (32, 2), (32, 2)))
    correct = correct_matches(shared / "data/homography/v_churchill", 4, network, 500)
    assert correct[1] > 30
    assert correct[1] > max(correct[0.5], correct[2])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sequence", "other"), [(name, k) for name in ("graf", "v_churchill") for k in (2, 3, 4)]
)
def test_the_default_region_beats_half_and_double_with_the_shipped_weights(shared, sequence, other):
    if SHIPPED not in {row.tag for row in ROWS if row.model == DESCRIPTOR}:
        pytest.skip("no weights of the patch descriptor in the package")
    correct = correct_matches(shared / "data/homography" / sequence, other, load_descriptor(), 1500)
    assert correct[1] > max(correct[0.5], correct[2])


def test_the_threshold_of_a_fundamental_matrix_is_a_sampson_distance():
    """Image b is enlarged four times: distances from its lines are √17 times as large."""
    rng = np.random.default_rng(0)
    points = rng.uniform([-1, -1, 4], [1, 1, 6], (200, 3))
    points_a = 400 * points[:, :2] / points[:, 2:] + 300
    points_b = 1600 * (points[:, :2] + [0.5, 0]) / points[:, 2:] + 1200  # lines of b are horizontal
    offsets = np.where(np.arange(200) % 10, 0, np.where(np.arange(200) % 20, 6.0, 40.0))
    points_b[:, 1] += offsets
    geometry = estimate_geometry(points_a, points_b, "fundamental", threshold=3)
    np.testing.assert_array_equal(geometry.inliers, offsets / np.sqrt(17) < 3)
