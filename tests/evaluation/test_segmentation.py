"""Confusion, intersection over union, categories and folders; equal to cityscapesScripts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from hardnet_suite.data.segmentation import IGNORE, LABEL_SETS, LabelSet
from hardnet_suite.errors import UserError
from hardnet_suite.evaluation.segmentation import confusion_matrix, evaluate_folders, score_confusion

LABELS = LabelSet(
    name="drawn",
    classes=("car", "bus", "tree", "sky"),
    palette=((255, 0, 0), (0, 255, 0), (0, 0, 255), (9, 9, 9)),
    stored={},
    categories={"vehicle": ("car", "bus"), "nature": ("tree", "sky")},
)
TRUTH = np.array([[0, 0, 1, 1], [2, 2, 2, IGNORE]])
CITY, CITY_IDS = LABEL_SETS["cityscapes"], LABEL_SETS["cityscapes_ids"]
NAN = math.nan


def score(target, prediction, labels=LABELS):
    return score_confusion(confusion_matrix(target, prediction, len(labels.classes)), labels)


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, dtype=np.uint8)).save(path)


def test_identity():
    scores = score(TRUTH, np.where(TRUTH == IGNORE, 0, TRUTH))
    assert scores.metrics == {"mIoU": 1, "aAcc": 1, "mAcc": 1}
    np.testing.assert_array_equal(scores.iou, [1, 1, 1, NAN])
    assert scores.category_iou == {"vehicle": 1, "nature": 1}


def test_one_wrong_pixel():
    prediction = np.where(TRUTH == IGNORE, 0, TRUTH)
    prediction[0, 0] = 1  # a car taken for a bus
    scores = score(TRUTH, prediction)
    np.testing.assert_allclose(scores.iou, [1 / 2, 2 / 3, 1, NAN])
    np.testing.assert_allclose(scores.accuracy, [1 / 2, 1, 1, NAN])
    assert scores.miou == pytest.approx((1 / 2 + 2 / 3 + 1) / 3)
    assert scores.pixel_accuracy == pytest.approx(6 / 7)
    assert scores.mean_accuracy == pytest.approx(5 / 6)
    assert scores.category_iou["vehicle"] == 1  # both are vehicles


def test_hand_made_matrix():
    confusion = confusion_matrix(np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 0]), 2)
    assert confusion.dtype == np.int64
    assert confusion.tolist() == [[2, 1], [1, 1]]
    labels = LabelSet("two", ("a", "b"), ((0, 0, 0), (1, 1, 1)), {}, {})
    scores = score_confusion(confusion, labels)
    np.testing.assert_allclose(scores.iou, [2 / 4, 1 / 3])
    np.testing.assert_allclose(scores.accuracy, [2 / 3, 1 / 2])
    assert scores.category_iou == {}


def test_ignored_pixels_do_not_count_whatever_is_predicted_there():
    prediction = np.where(TRUTH == IGNORE, 0, TRUTH)
    for value in (0, 3, 99, IGNORE):
        prediction[1, 3] = value
        confusion = confusion_matrix(TRUTH, prediction, 4)
        assert confusion.sum() == 7
        assert np.trace(confusion) == 7
    assert confusion_matrix([0, 1, 7], [0, 1, 1], 2, ignore=7).tolist() == [[1, 0], [0, 1]]


def test_a_predicted_class_absent_from_the_ground_truth_scores_zero():
    scores = score(np.zeros(4, int), np.array([0, 0, 0, 3]))
    np.testing.assert_array_equal(scores.iou, [0.75, NAN, NAN, 0])
    np.testing.assert_array_equal(scores.accuracy, [0.75, NAN, NAN, NAN])
    assert scores.miou == 0.375
    assert scores.mean_accuracy == 0.75
    assert scores.category_iou == {"vehicle": 0.75, "nature": 0}


def test_pixels_of_no_class_are_missed_and_charged_to_no_other():
    confusion = np.zeros((4, 5), int)
    confusion[0] = [3, 0, 0, 0, 1]
    scores = score_confusion(confusion, LABELS)
    np.testing.assert_array_equal(scores.iou, [0.75, NAN, NAN, NAN])
    assert scores.category_iou["vehicle"] == 0.75
    assert math.isnan(scores.category_iou["nature"])
    assert scores.pixel_accuracy == 0.75


def test_nothing_counted_is_nan():
    scores = score(np.full((2, 2), IGNORE), np.zeros((2, 2), int))
    assert all(math.isnan(value) for value in scores.metrics.values())
    assert "n/a" in scores.table(LABELS.classes)


def test_a_class_outside_the_categories_is_charged_to_them():
    labels = LabelSet("drawn", LABELS.classes, LABELS.palette, {}, {"vehicle": ("car", "bus")})
    scores = score(np.array([0, 0, 0, 2]), np.array([0, 1, 2, 1]), labels)
    assert scores.category_iou == {"vehicle": 2 / 4}


def test_a_batch_adds_up():
    random = np.random.default_rng(0)
    target = random.choice([0, 1, 2, 3, IGNORE], (3, 5, 7)).astype(np.uint8)
    prediction = random.integers(0, 4, (3, 5, 7)).astype(np.uint8)
    single = [confusion_matrix(*pair, 4) for pair in zip(target, prediction, strict=True)]
    np.testing.assert_array_equal(confusion_matrix(target, prediction, 4), sum(single))


def test_many_classes_do_not_overflow_small_types():
    confusion = confusion_matrix(np.array([200], np.uint8), np.array([3], np.uint8), 201)
    assert confusion[200, 3] == confusion.sum() == 1


@pytest.mark.parametrize(
    ("target", "prediction", "message"),
    [
        ([0, 1], [0, 4], r"expected prediction in \[0, 4\) or ignored, got 4"),
        ([0, 1], [-1, 0], "expected prediction in .* got -1"),
        ([0, 1], [0, IGNORE], "expected prediction in .* got 255"),
        ([0, 9], [0, 1], "expected target in .* got 9"),
        ([0, 1], [[0, 1]], r"the same shape, got \(2,\) and \(1, 2\)"),
        ([0, 1], [0.0, 1.0], "expected an integer prediction, got float64"),
    ],
)
def test_bad_arrays(target, prediction, message):
    with pytest.raises(ValueError, match=message):
        confusion_matrix(target, prediction, 4)


def test_matrix_of_another_size():
    with pytest.raises(ValueError, match=r"\(4, 4\) or \(4, 5\) or \(5, 5\), got \(3, 3\)"):
        score_confusion(np.eye(3, dtype=int), LABELS)


def test_tables():
    prediction = np.where(TRUTH == IGNORE, 0, TRUTH)
    prediction[0, 0] = 1
    scores = score(TRUTH, prediction)
    rows = [line.split() for line in scores.table(LABELS.classes).splitlines()]
    assert rows[1] == ["car", "0.5000", "0.5000", "0.2857"]
    assert rows[4] == ["sky", "n/a", "n/a", "0.0000"]
    assert rows[5] == ["mean", "0.7222", "0.8333"]
    assert rows[6] == ["all", "pixels", "0.8571"]
    rows = [line.split() for line in scores.category_table().splitlines()]
    assert rows == [["category", "IoU"], ["vehicle", "1.0000"], ["nature", "1.0000"], ["mean", "1.0000"]]
    with pytest.raises(ValueError, match="expected 4 class names, got 2"):
        scores.table(("a", "b"))


def test_a_folder_is_scored_as_its_images_together(tmp_path):
    random = np.random.default_rng(1)
    total = np.zeros((4, 4), int)
    for name in ("a.png", "b.png", "deeper/a.png"):
        target, prediction = random.choice([0, 1, 2, 3, IGNORE], (6, 4)), random.integers(0, 4, (6, 4))
        save(tmp_path / "truth" / name, target)
        save(tmp_path / "found" / name, prediction)
        total += confusion_matrix(target, prediction, 4)
    save(tmp_path / "found" / "of_another_image.png", np.zeros((9, 9)))
    scores = evaluate_folders(tmp_path / "found", tmp_path / "truth", LABELS)
    np.testing.assert_array_equal(scores.confusion[:, :4], total)
    assert scores.metrics == score_confusion(total, LABELS).metrics


def test_predictions_are_train_labels_however_the_truth_is_stored(tmp_path):
    shifted = LabelSet("ade", LABELS.classes, LABELS.palette, {0: IGNORE, 1: 0, 2: 1, 3: 2, 4: 3}, {})
    save(tmp_path / "truth" / "a.png", [[0, 1, 2, 3, 4]])
    save(tmp_path / "found" / "a.png", [[0, 0, 1, 2, 3]])
    assert evaluate_folders(tmp_path / "found", tmp_path / "truth", shifted).miou == 1


def test_camvid_void_counts_nowhere_in_the_truth_and_as_missed_in_a_prediction(tmp_path):
    save(tmp_path / "truth" / "a.png", [[0, 0, 11]])
    save(tmp_path / "found" / "a.png", [[0, 11, 0]])
    scores = evaluate_folders(tmp_path / "found", tmp_path / "truth", LABEL_SETS["camvid"])
    assert scores.pixel_accuracy == 0.5
    assert scores.iou[0] == 0.5


@pytest.mark.parametrize("form", ["labelTrainIds", "labelIds"])
@pytest.mark.parametrize("ending", ["_leftImg8bit", "_gtFine_labelIds", ""])
def test_cityscapes_layout(tmp_path, form, ending):
    stored = {"labelTrainIds": [[0, 13, 255]], "labelIds": [[7, 26, 9]]}[form]
    save(tmp_path / f"gtFine/ulm/ulm_000000_000019_gtFine_{form}.png", stored)
    save(tmp_path / "gtFine/ulm/ulm_000000_000019_gtFine_instanceIds.png", [[7, 26, 9]])
    save(tmp_path / f"trained/ulm_000000_000019{ending}.png", [[0, 14, 0]])
    save(tmp_path / f"server/any/ulm_000000_000019{ending}.png", [[7, 27, 0]])
    for folder, stored_as in (("trained", None), ("server", CITY_IDS)):
        scores = evaluate_folders(tmp_path / folder, tmp_path / "gtFine", CITY, prediction_labels=stored_as)
        assert scores.pixel_accuracy == 0.5
        assert scores.category_iou["vehicle"] == 1
        assert [scores.iou[index] for index in (0, 13, 14)] == [1, 0, 0]


def test_train_ids_are_preferred_where_a_frame_has_both_forms(tmp_path):
    for form, values in (("labelIds", [[1, 1]]), ("labelTrainIds", [[2, 2]])):
        save(tmp_path / f"gtFine/ulm_000000_000019_gtFine_{form}.png", values)
    save(tmp_path / "found/ulm_000000_000019.png", [[2, 2]])
    scores = evaluate_folders(tmp_path / "found", tmp_path / "gtFine", CITY)
    assert (scores.confusion.sum(), scores.pixel_accuracy) == (2, 1)


def test_the_true_cityscapes_layout(shared, tmp_path):
    truth = shared / "data" / "pseudo_cityscapes" / "gtFine" / "val"
    [frame] = truth.rglob("*_labelTrainIds.png")
    with Image.open(frame) as image:
        save(tmp_path / "frankfurt_000000_000294_leftImg8bit.png", image)
    scores = evaluate_folders(tmp_path, truth, CITY)
    assert (scores.miou, scores.pixel_accuracy) == (1, 1)


@pytest.fixture
def folders(tmp_path):
    save(tmp_path / "truth" / "a.png", [[0, 1, 2]])
    save(tmp_path / "found" / "a.png", [[0, 1, 2]])
    return tmp_path / "found", tmp_path / "truth"


def error(folders, labels=LABELS) -> str:
    with pytest.raises(UserError) as caught:
        evaluate_folders(*folders, labels)
    return str(caught.value)


def test_missing_prediction(folders):
    save(folders[1] / "b.png", [[0]])
    save(folders[1] / "c.png", [[0]])
    message = error(folders)
    assert "has no b.png" in message
    assert "and 1 more of 3 are missing" in message


def test_missing_cityscapes_prediction(tmp_path):
    save(tmp_path / "truth" / "ulm_000000_000019_gtFine_labelIds.png", [[7]])
    save(tmp_path / "found" / "ulm_000000_000020.png", [[0]])
    assert "has no ulm_000000_000019*.png" in error((tmp_path / "found", tmp_path / "truth"), CITY)


def test_two_predictions_of_one_frame(tmp_path):
    save(tmp_path / "truth" / "ulm_000000_000019_gtFine_labelIds.png", [[7]])
    for ending in ("color", "pred"):
        save(tmp_path / "found" / f"ulm_000000_000019_{ending}.png", [[0]])
    message = error((tmp_path / "found", tmp_path / "truth"), CITY)
    assert "both ulm_000000_000019_color.png and ulm_000000_000019_pred.png" in message


def test_another_size(folders):
    save(folders[0] / "a.png", [[0, 1], [2, 2]])
    assert f"{folders[0] / 'a.png'} is 2x2 pixels, but {folders[1] / 'a.png'} is 3x1" in error(folders)


def test_an_unknown_id(folders):
    save(folders[0] / "a.png", [[0, 1, 77]])
    message = error(folders)
    assert "a.png" in message
    assert "77" in message


def test_a_truncated_image(folders):
    save(folders[0] / "a.png", np.random.default_rng(0).integers(0, 4, (90, 90)))
    content = (folders[0] / "a.png").read_bytes()
    (folders[0] / "a.png").write_bytes(content[: len(content) // 2])
    assert str(folders[0] / "a.png") in error(folders)


def test_no_folder_and_no_images(folders, tmp_path):
    found, truth = folders
    assert f"{tmp_path / 'none'} is not a folder" in error((tmp_path / "none", truth))
    (tmp_path / "empty").mkdir()
    assert f"{tmp_path / 'empty'} has no PNG" in error((tmp_path / "empty", truth))
    assert f"{tmp_path / 'empty'} has no PNG" in error((found, tmp_path / "empty"))


def test_only_void_pixels(folders):
    save(folders[1] / "a.png", [[IGNORE] * 3])
    assert "every pixel is void" in error(folders)


def test_equals_cityscapesscripts(tmp_path):
    official = pytest.importorskip(
        "cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling",
        reason="needs PyPI's cityscapesScripts, the official program",
    )
    random = np.random.default_rng(2)
    truth, found = [], []
    for frame in range(3):
        # every id, ignored ones among both; bicycles (33) nowhere, trains (31) only predicted
        target = random.choice([*range(31), 32], (40, 60))
        prediction = np.where(random.random((40, 60)) < 0.6, target, random.integers(0, 33, (40, 60)))
        truth.append(tmp_path / f"gtFine/ulm_000000_00000{frame}_gtFine_labelIds.png")
        found.append(tmp_path / f"found/ulm_000000_00000{frame}_pred.png")
        save(truth[-1], target)
        save(found[-1], prediction)
    official.args.quiet, official.args.JSONOutput, official.args.evalInstLevelScore = True, False, False
    theirs = official.evaluateImgLists([*map(str, found)], [*map(str, truth)], official.args)

    ours = evaluate_folders(tmp_path / "found", tmp_path / "gtFine", CITY, prediction_labels=CITY_IDS)
    expected = [theirs["classScores"][name] for name in CITY.classes]
    assert expected[CITY.classes.index("train")] == 0
    assert math.isnan(expected[CITY.classes.index("bicycle")])
    np.testing.assert_allclose(ours.iou, expected, rtol=1e-12)
    assert ours.miou == pytest.approx(theirs["averageScoreClasses"], rel=1e-12)
    categories = {name: value for name, value in theirs["categoryScores"].items() if name != "void"}
    assert ours.category_iou == pytest.approx(categories, rel=1e-12)
