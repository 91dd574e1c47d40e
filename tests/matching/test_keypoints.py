from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from drawn_pairs import drawn_pair, save_pair, small_descriptor
from PIL import Image

from hardnet_suite.data.images import to_grey
from hardnet_suite.data.patch_frames import MEASUREMENT_REGION
from hardnet_suite.errors import UserError
from hardnet_suite.matching import HardNetDetector, Keypoints, match_features


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    return small_descriptor()


@pytest.fixture(scope="module")
def detector(network) -> HardNetDetector:
    return HardNetDetector(network, top_k=120, channels="rgb")


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return drawn_pair()[0]


def places(keypoints) -> np.ndarray:
    return np.array([[*point.pt, point.size, point.angle] for point in keypoints])


def test_the_methods_of_opencv(detector, image):
    keypoints, descriptors = detector.detectAndCompute(image, None)
    assert isinstance(keypoints, tuple)
    assert isinstance(keypoints[0], cv2.KeyPoint)
    assert descriptors.shape == (len(keypoints), 128) == (120, 128)
    assert descriptors.dtype == np.float32
    sift = cv2.SIFT_create()
    assert detector.descriptorSize() == sift.descriptorSize() == 128
    assert detector.descriptorType() == sift.descriptorType()
    assert detector.defaultNorm() == sift.defaultNorm()
    np.testing.assert_array_equal(places(detector.detect(image)), places(keypoints))
    same, computed = detector.compute(image, keypoints)
    assert same == keypoints
    np.testing.assert_allclose(computed, descriptors, atol=1e-5)
    assert not detector.empty()
    assert (sift.getDefaultName(), detector.getDefaultName()) == ("Feature2D.SIFT", "Feature2D.HardNet")


def test_keypoints_are_provided_to_compute_alone(detector, image):
    keypoints, descriptors = detector.detectAndCompute(image, None, None, False)
    np.testing.assert_array_equal(places(detector.detect(image)), places(keypoints))
    for arguments in ((keypoints, True), (None, True), (keypoints,), (descriptors, False)):
        with pytest.raises(ValueError, match=r"call compute\(image, keypoints\)"):
            detector.detectAndCompute(image, None, *arguments)


def test_opencvs_matcher_takes_the_descriptors(detector):
    (a, da), (b, db) = (detector.detectAndCompute(image, None) for image in drawn_pair())
    matches = cv2.BFMatcher(detector.defaultNorm(), crossCheck=True).match(da, db)
    points_a = np.array([a[match.queryIdx].pt for match in matches])
    points_b = np.array([b[match.trainIdx].pt for match in matches])
    _, inliers = cv2.findHomography(points_a, points_b, cv2.USAC_MAGSAC, 3.0)
    assert inliers.sum() > 20


def test_the_strongest_keypoints_come_first(network, image):
    every = HardNetDetector(network, top_k=None).detect(image)
    few = HardNetDetector(network, top_k=7).detect(image)
    responses = [point.response for point in every]
    assert responses == sorted(responses, reverse=True)
    assert len(every) > 120
    np.testing.assert_array_equal(places(few), places(every[:7]))


def test_keypoints_are_unbiased(network):
    """OpenCV's SIFT lies 0.25 pixels off without enable_precise_upscale."""
    y, x = np.mgrid[:121, :121]
    center = (60.3, 58.7)
    blob = 255 * np.exp(-((x - center[0]) ** 2 + (y - center[1]) ** 2) / 2 / 5**2)
    (point, *_) = HardNetDetector(network).detect(blob.astype(np.uint8))
    np.testing.assert_allclose(point.pt, center, atol=0.1)


def test_a_mask_says_where_keypoints_may_lie(detector, image):
    mask = np.zeros(image.shape[:2], np.uint8)
    mask[:, 150:] = 1
    keypoints = places(detector.detect(image, mask))
    assert len(keypoints) > 10
    assert (np.rint(keypoints[:, 0]) >= 150).all()
    np.testing.assert_array_equal(places(detector.detect(image, mask.astype(bool))), keypoints)
    assert detector.detectAndCompute(image, np.zeros_like(mask)) == ((), None)


@pytest.mark.parametrize(
    "mask", [np.ones((3, 3), np.uint8), np.ones((320, 320, 1), np.uint8), np.ones((320, 320), np.float32)]
)
def test_other_masks_are_refused(detector, image, mask):
    with pytest.raises(ValueError, match="expected a mask"):
        detector.detectAndCompute(image, mask)


def test_upright_keypoints_have_no_angle_and_one_place_each(network, image):
    turned = HardNetDetector(network, top_k=None).detect(image)
    upright = HardNetDetector(network, top_k=None, upright=True).detect(image)
    assert {point.angle for point in upright} == {0.0}
    assert len({(*point.pt, point.size) for point in upright}) == len(upright) < len(turned)


def test_turned_images_match_but_upright_ones_do_not(network, image):
    turned = np.ascontiguousarray(np.rot90(image))
    counts = {}
    for upright in (False, True):
        detector = HardNetDetector(network, top_k=150, upright=upright, channels="rgb")
        matches = match_features(detector.features(image), detector.features(turned))
        counts[upright] = 0 if matches.geometry is None else matches.geometry.count
    assert counts[False] > 60
    assert counts[True] < 15


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((1, 1), np.uint8),
        np.zeros((1, 900), np.uint8),
        np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8),
        np.full((200, 300), 128, np.uint8),
        np.zeros((64, 64, 3), np.uint8),
    ],
    ids=["pixel", "row", "tiny", "constant", "black"],
)
def test_images_without_keypoints(detector, image):
    assert detector.detect(image) == ()
    assert detector.compute(image, []) == ((), None)
    assert detector.detectAndCompute(image, None) == ((), None)
    assert detector.detect_lafs(image).shape == (1, 0, 2, 3)
    features = detector.features(image)
    assert features.descriptors.shape == (0, 128)
    assert len(features.keypoints) == 0


def test_colours_are_bgr_as_opencv_reads_them(network, image):
    grey = to_grey(image)
    bgr, rgb = HardNetDetector(network, top_k=20), HardNetDetector(network, top_k=20, channels="rgb")
    expected = places(rgb.detect(grey))
    np.testing.assert_array_equal(places(bgr.detect(image[..., ::-1])), expected)
    np.testing.assert_array_equal(places(rgb.detect(image)), expected)
    np.testing.assert_array_equal(places(rgb.detect(Image.fromarray(image))), expected)


def test_files_rotated_by_exif_and_of_16_bits_are_read_as_everywhere(detector, image, tmp_path):
    expected = places(detector.detect(image))
    path = save_pair(tmp_path)[0]
    np.testing.assert_array_equal(places(detector.detect(path)), expected)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    Image.fromarray(np.rot90(image)).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(places(detector.detect(tmp_path / "turned.png")), expected)
    grey = to_grey(image)
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(
        places(detector.detect(tmp_path / "deep.png")), places(detector.detect(grey))
    )


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (np.zeros((40, 40), np.uint16), ValueError, "convert the values to uint8"),
        (np.full((40, 40), np.nan), ValueError, "convert the values to uint8"),
        (np.zeros((0, 40), np.uint8), ValueError, "with pixels"),
        (torch.full((3, 40, 40), torch.nan), ValueError, "NaN or infinity"),
        ("missing.png", UserError, "no such file"),
        (b"no image", UserError, "not an image"),
        (None, ValueError, "expected an image, got None, as cv2.imread returns"),
    ],
)
def test_what_is_no_image(detector, given, error, message):
    with pytest.raises(error, match=message):
        detector.detectAndCompute(given, None)


def test_several_images_are_refused(detector, image):
    with pytest.raises(UserError, match=r"^expected one image, got several: a list$"):
        detector.features([image, image])


def test_keypoints_of_other_detectors(detector, image):
    """Without an orientation (-1), a patch is upright."""
    points = [cv2.KeyPoint(100.0, 90.0, 9.0), cv2.KeyPoint(100.0, 90.0, 9.0, 0.0)]
    same, descriptors = detector.compute(image, points)
    assert list(same) == points
    np.testing.assert_array_equal(descriptors[0], descriptors[1])
    with pytest.raises(ValueError, match="positive sizes"):
        detector.compute(image, [cv2.KeyPoint(100.0, 90.0, 0.0)])
    with pytest.raises(ValueError, match="outside the image"):
        detector.compute(image, [cv2.KeyPoint(-100.0, 90.0, 3.0)])
    for others in (np.array([[1.0, 2.0], [3.0, 4.0]]), [(1, 2)], "ab"):
        with pytest.raises(ValueError, match=r"expected keypoints of OpenCV, cv2.KeyPoint, got a \w+"):
            detector.compute(image, others)


def test_keypoints_as_arrays_and_back(detector, image):
    keypoints = detector.detect(image)
    arrays = Keypoints.from_opencv(keypoints)
    assert len(arrays) == len(keypoints)
    np.testing.assert_array_equal(places(arrays.to_opencv()), places(keypoints))
    assert len(arrays[arrays.size > 5]) == (arrays.size > 5).sum()
    assert len(Keypoints.from_opencv([])) == 0
    assert Keypoints.from_opencv([]).to_opencv() == ()


def test_frames_there_and_back(detector, image):
    keypoints, expected = detector.detectAndCompute(image, None)
    lafs = detector.detect_lafs(image)
    assert lafs.shape == (1, len(keypoints), 2, 3)
    assert lafs.dtype == torch.float32
    sizes = lafs[0, :, :, :2].double().det().sqrt() * 2 / MEASUREMENT_REGION
    np.testing.assert_allclose(sizes, [point.size for point in keypoints], rtol=1e-5)
    descriptors = detector.describe_lafs(image, lafs)
    assert descriptors.shape == (1, len(keypoints), 128)
    assert (descriptors[0].numpy() * expected).sum(1).min() > 0.999


def test_patches_as_kornia_has_them(detector):
    patches = torch.rand(2, 5, 1, 32, 32)
    descriptors = detector.describe_patches(patches)
    assert descriptors.shape == (2, 5, 128)
    torch.testing.assert_close(descriptors[1], detector.describe_patches(patches[1:])[0])
    assert detector.describe_patches(patches[:, :0]).shape == (2, 0, 128)
    with pytest.raises(ValueError, match=r"\(B, N, 1, h, h\), got \(5, 1, 32, 32\)"):
        detector.describe_patches(patches[0])
    with pytest.raises(ValueError, match=r"\(1, N, 2, 3\)"):
        detector.describe_lafs(np.zeros((40, 40), np.uint8), torch.zeros(2, 4, 2, 3))


def test_frames_and_patches_are_those_of_kornia(detector, image):
    feature = pytest.importorskip("kornia.feature")
    keypoints = Keypoints.from_opencv(detector.detect(image))
    xy, size, angle = (torch.from_numpy(v)[None] for v in (keypoints.xy, keypoints.size, keypoints.angle))
    scale = (MEASUREMENT_REGION / 2 * size)[..., None, None]
    expected = feature.laf_from_center_scale_ori(xy, scale, -angle[..., None])
    lafs = detector.detect_lafs(image)
    torch.testing.assert_close(lafs, expected, atol=1e-3, rtol=1e-5)

    grey = torch.from_numpy(to_grey(image))[None, None].float() / 255
    patches = feature.extract_patches_from_pyramid(grey, lafs, 32)
    theirs = detector.describe_patches(patches)[0]
    ours = detector.describe_lafs(grey, lafs)[0]
    inside = ((lafs[0, :, :, 2] > 40) & (lafs[0, :, :, 2] < 280)).all(1)  # kornia repeats the border
    assert inside.sum() > 40
    assert (ours * theirs).sum(1)[inside].median() > 0.95


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(({"top_k": top_k}, "top_k") for top_k in (0, 2.5, "5", True)),
        ({"region": 0}, "region"),
        ({"region": float("nan")}, "region"),
        ({"contrast": -1}, "contrast"),
        ({"channels": "grey"}, "channels"),
        ({"weights": "homography"}, "a network has its own"),
        ({"device": "cpu"}, "a network has its own"),
    ],
)
def test_bad_options(network, options, message):
    with pytest.raises(ValueError, match=message):
        HardNetDetector(network, **options)


def test_a_network_that_describes_no_patches():
    with pytest.raises(ValueError, match="expected a patch descriptor"):
        HardNetDetector(torch.nn.Identity())


def test_options_have_an_effect(network, image):
    default = HardNetDetector(network, top_k=20)
    keypoints, descriptors = default.detectAndCompute(image)
    _, other = HardNetDetector(network, top_k=20, region=3).compute(image, keypoints)
    assert not np.allclose(descriptors, other, atol=1e-3)
    assert len(HardNetDetector(network, top_k=None, contrast=0.2).detect(image)) < len(
        HardNetDetector(network, top_k=None).detect(image)
    )
    _, half = HardNetDetector(network, bf16=True).compute(image, keypoints)
    assert not np.array_equal(descriptors, half)


def test_opencv_describes_the_keypoints_as_its_own(detector, image):
    """SIFT computes on the level of its pyramid that a keypoint's octave tells."""
    sift = cv2.SIFT_create(enable_precise_upscale=True)
    keypoints = detector.detect(image)
    grey = to_grey(image)
    own = {(*point.pt, point.size, point.angle): point for point in sift.detect(grey)}
    theirs = [own[(*point.pt, point.size, point.angle)] for point in keypoints]
    assert len({point.octave for point in keypoints}) > 1
    np.testing.assert_array_equal(sift.compute(grey, keypoints)[1], sift.compute(grey, theirs)[1])


def test_upright_descriptors_of_given_keypoints(network, image):
    upright = HardNetDetector(network, upright=True, channels="rgb")
    turned = HardNetDetector(network, channels="rgb")
    points = [cv2.KeyPoint(100.0, 90.0, 9.0, angle) for angle in (0.0, 40.0)]
    same, descriptors = upright.compute(image, points)
    assert list(same) == points
    np.testing.assert_array_equal(descriptors[0], descriptors[1])
    zero, other = turned.compute(image, points)[1]
    np.testing.assert_array_equal(descriptors[0], zero)
    assert np.abs(zero - other).max() > 0.01
