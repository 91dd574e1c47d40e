"""Pairing images with label images: endings, lists, links, and what to do where one is missing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from hardnet_suite.data.images import IMAGE_SUFFIXES
from hardnet_suite.data.segmentation import (
    LABEL_SETS,
    check_segmentation,
    find_pairs,
    labels_of,
    own_labels,
    prediction_path,
    require_pairs,
    take,
)
from hardnet_suite.data.segmentation.pairs import list_text
from hardnet_suite.errors import UserError
from hardnet_suite.evaluation.segmentation import evaluate_folders

LABELS = own_labels(("a", "b"), [(1, 2, 3), (4, 5, 6)])


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def paired(root, labels=LABELS, images="in", annotations="out", **options):
    pairs = require_pairs(root / images, root / annotations, labels, **options)
    return [tuple(path.relative_to(root).as_posix() for path in pair) for pair in pairs]


@pytest.mark.parametrize(
    ("image_ending", "label_ending"),
    [
        (".jpg", "_mask.png"),
        ("_img.png", "_mask.png"),
        (".png", ".bmp"),
        (".jpg", "_labels.tif"),
        ("_leftImg8bit.png", "_gt.png"),
    ],
)
@pytest.mark.parametrize("shared", [False, True])
def test_endings_of_images_and_labels(tmp_path, image_ending, label_ending, shared):
    out = "in" if shared else "out"
    touch(tmp_path, f"in/a{image_ending}", f"in/deep/b.c{image_ending}")
    touch(tmp_path, f"{out}/a{label_ending}", f"{out}/deep/b.c{label_ending}")
    labels = replace(LABELS, image_endings=(image_ending,), label_endings=(label_ending,))
    expected = [(f"in/{name}{image_ending}", f"{out}/{name}{label_ending}") for name in ("a", "deep/b.c")]
    assert paired(tmp_path, labels, annotations=out) == expected
    assert check_segmentation(tmp_path / "in", tmp_path / out, labels, read=False).findings == ()


@pytest.mark.parametrize("other", ["x/a.jpg", "x/a.PNG", "x/a.tif"])
def test_two_label_images_of_one_image(tmp_path, other):
    """Neither is taken silently, wherever pairs are made."""
    touch(tmp_path, "in/x/a.jpg", "in/b.jpg", "out/x/a.png", "out/b.png", f"out/{other}")
    labels = own_labels(("a",), [(1, 2, 3)], mask_threshold=128)
    reason = (
        rf"out/x holds both a\..* and a\..*, which are both the label of one image: remove .*{other[-4:]}"
    )
    for call in (
        lambda: paired(tmp_path, labels),
        lambda: check_segmentation(tmp_path / "in", tmp_path / "out", labels, read=False),
        lambda: evaluate_folders(tmp_path / "in", tmp_path / "out", labels),
    ):
        with pytest.raises(UserError, match=reason):
            call()
    if other.endswith(".PNG"):  # endings are told apart in any case
        return
    chosen = replace(labels, label_endings=(other[-4:],))
    assert dict(paired(tmp_path, chosen, list_file=listed(tmp_path, "x/a.jpg"))) == {
        "in/x/a.jpg": f"out/{other}"
    }


def test_grey_images_and_masks_in_one_folder(tmp_path):
    """No image is taken for its own mask."""
    touch(tmp_path, "in/a.jpg", "in/a.png", "in/b.jpg", "in/b.png")
    labels = replace(own_labels(("a",), [(1, 2, 3)], mask_threshold=128), image_endings=(".jpg",))
    assert paired(tmp_path, labels, annotations="in") == [("in/a.jpg", "in/a.png"), ("in/b.jpg", "in/b.png")]
    assert check_segmentation(tmp_path / "in", tmp_path / "in", labels, read=False).findings == ()


@pytest.mark.parametrize("place", ["in", "in/../in", "link"])
def test_images_and_labels_that_end_alike_in_one_folder(tmp_path, place):
    touch(tmp_path, "in/a.png", "in/b.png")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    for labels in (LABELS, replace(LABELS, image_endings=(".png",))):
        with pytest.raises(UserError, match=r"are those of one folder, .* end alike: .*seg_map_suffix"):
            require_pairs(tmp_path / "in", tmp_path / place, labels)


def listed(root, *names):
    (root / "list.txt").write_text("\n".join(names))
    return root / "list.txt"


def test_label_images_in_the_folder_of_the_images_are_not_images(tmp_path):
    touch(tmp_path, "in/a.jpg", "in/a_mask.png", "in/b.png", "in/b_mask.png")
    labels = replace(LABELS, label_endings=("_mask.png",))
    assert paired(tmp_path, labels, annotations="in") == [
        ("in/a.jpg", "in/a_mask.png"),
        ("in/b.png", "in/b_mask.png"),
    ]


@pytest.mark.parametrize("ending", ["_mask.png", "_MASK.PNG"])
def test_endings_in_any_case_in_one_folder(tmp_path, ending):
    touch(tmp_path, "in/a.jpg", "in/a_MASK.PNG", "in/b.PNG", "in/b_mask.png")
    labels = replace(LABELS, label_endings=(ending,))
    expected = [("in/a.jpg", "in/a_MASK.PNG"), ("in/b.PNG", "in/b_mask.png")]
    assert paired(tmp_path, labels, annotations="in") == expected
    with pytest.raises(UserError, match=r"are those of one folder, .*, and end alike"):
        find_pairs(tmp_path / "in", tmp_path / "in", replace(LABELS, label_endings=(".Png",)))


def test_the_ids_of_cityscapes_are_told_by_an_ending_in_any_case():
    cityscapes = LABEL_SETS["cityscapes"]
    for name in ("a_gtFine_labelIds.png", "A_GTFINE_LABELIDS.PNG"):
        assert labels_of(name, cityscapes) is LABEL_SETS["cityscapes_ids"]
    assert labels_of("a_gtFine_labelTrainIds.png", cityscapes) is cityscapes


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
@pytest.mark.parametrize("upper", [False, True])
def test_every_suffix_of_an_image_is_one(tmp_path, suffix, upper):
    suffix = suffix.upper() if upper else suffix
    touch(tmp_path, f"in/a{suffix}", "out/a.PNG" if upper else "out/a.png")
    assert paired(tmp_path)[0][0] == f"in/a{suffix}"


def test_links_are_followed_once(tmp_path):
    touch(tmp_path, "in/a.jpg", "elsewhere/b.jpg", "out/a.png", "labels/b.png")
    (tmp_path / "in/more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "out/more").symlink_to(tmp_path / "labels")
    (tmp_path / "elsewhere/loop").symlink_to(tmp_path / "in")
    (tmp_path / "labels/loop").symlink_to(tmp_path / "out")
    assert paired(tmp_path) == [("in/a.jpg", "out/a.png"), ("in/more/b.jpg", "out/more/b.png")]


def test_two_images_of_one_name_say_how_to_choose(tmp_path):
    touch(tmp_path, "in/x/a.jpg", "in/x/a.png", "out/x/a.png")
    with pytest.raises(UserError, match=r"in/x holds both a\.jpg and a\.png, .*img_suffix='\.jpg'"):
        paired(tmp_path)
    assert paired(tmp_path, replace(LABELS, image_endings=(".jpg",))) == [("in/x/a.jpg", "out/x/a.png")]


@pytest.mark.parametrize("file", ["a_mask.png", "a.bmp", "a-labels.png", "a_gtFine_labelIds.png"])
def test_a_missing_label_names_the_option_that_reads_what_is_there(tmp_path, file):
    touch(tmp_path, "in/deep/a.jpg", f"out/deep/{file}")
    message = rf"for .*in/deep/a\.jpg: expected deep/a\.png; there is {file}: .*seg_map_suffix='{file[1:]}'"
    with pytest.raises(UserError, match=message):
        paired(tmp_path)
    labels = replace(LABELS, label_endings=(file[1:],))
    assert paired(tmp_path, labels) == [("in/deep/a.jpg", f"out/deep/{file}")]
    (finding,) = (
        finding
        for finding in check_segmentation(tmp_path / "in", tmp_path / "out", LABELS, read=False).findings
        if finding.kind == "missing label"
    )
    assert f"seg_map_suffix='{file[1:]}'" in finding.what


@pytest.mark.parametrize(
    "content",
    [
        "x/b\na\n",
        "x/b.jpg\na.png\n",
        "\ufeffx/b\r\na\r\n",
        "  x\\b.jpg \n\n ./a\n",
    ],
)
def test_a_list_chooses_and_orders(tmp_path, content):
    touch(tmp_path, "in/a.png", "in/x/b.jpg", "in/c.png", "out/a.png", "out/x/b.png")
    (tmp_path / "list.txt").write_bytes(content.encode())
    expected = [("in/x/b.jpg", "out/x/b.png"), ("in/a.png", "out/a.png")]
    assert paired(tmp_path, list_file=tmp_path / "list.txt") == expected
    report = check_segmentation(
        tmp_path / "in", tmp_path / "out", LABELS, read=False, list_file=tmp_path / "list.txt"
    )
    assert (report.pairs, report.findings) == (2, ())


def test_names_with_spaces_and_dots_in_a_list(tmp_path):
    names = ["two words", "v1.2", "a.png"]
    touch(tmp_path, *(f"in/{name}.jpg" for name in names))
    (tmp_path / "list.txt").write_text("\n".join(names))
    pairs = find_pairs(tmp_path / "in", None, LABELS, tmp_path / "list.txt")
    assert [path.name for path, _ in pairs] == [f"{name}.jpg" for name in names]


@pytest.mark.parametrize("name", [" a.png", "a.png.png", "x\\b.png", "\u2028c.png", "\x85d.png", "\x0be.png"])
@pytest.mark.parametrize("is_first", [False, True])
def test_a_list_that_is_written_is_read_back(tmp_path, name, is_first):
    """Also beside the image that the line would name if it were tidied up."""
    ordinary = ["a.png", "x/b.png", "c.png", "d.png", "e.png"]
    touch(tmp_path, *(f"in/{each}" for each in (name, *ordinary)))
    names = [name, *ordinary] if is_first else [*ordinary, name]
    (tmp_path / "list.txt").write_text(list_text(names), encoding="utf-8")
    pairs = find_pairs(tmp_path / "in", None, LABELS, tmp_path / "list.txt")
    assert [path.relative_to(tmp_path / "in").as_posix() for path, _ in pairs] == names


@pytest.mark.parametrize("name", ["a\nb.png", "a\rb.png", "\ufeffa.png", "a\udcff.png"])
def test_a_name_that_no_list_holds(name):
    with pytest.raises(UserError, match="cannot stand in a list of images: rename the image"):
        list_text(["c.png", name])


@pytest.mark.parametrize("line", [".", "/", "..", "nothing/"])
def test_a_line_that_names_no_file(tmp_path, line):
    touch(tmp_path, "in/a.png")
    with pytest.raises(UserError, match=r"line 1: no image '.*' in"):
        find_pairs(tmp_path / "in", None, LABELS, listed(tmp_path, line))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no list of images .*list.txt: correct the data set's ann_file"),
        (b"\n \n", "list.txt lists no image"),
        (b"a\nnone\n", r"list.txt, line 2: no image 'none' in .*in"),
        (b"a\n\na.png\n", r"list.txt, line 3: 'a\.png' is listed twice"),
        (b"\xff\xfe\xff", "cannot read the list of images .*save it as UTF-8"),
    ],
)
def test_bad_lists(tmp_path, content, message):
    touch(tmp_path, "in/a.png")
    if content is not None:
        (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(UserError, match=message):
        find_pairs(tmp_path / "in", None, LABELS, tmp_path / "list.txt")


@pytest.mark.parametrize(
    ("indices", "expected"), [(None, "abcd"), (2, "ab"), (-1, "d"), ([3, 0], "da"), (0, "")]
)
def test_take_is_mmengines_indices(indices, expected):
    assert "".join(take("abcd", indices)) == expected


@pytest.mark.parametrize("saved", [".png", "_mask.png", "_MASK.PNG"])
def test_predictions_are_found_whatever_the_endings(tmp_path, saved):
    labels = replace(LABELS, image_endings=("_img.jpg",), label_endings=("_mask.png",))
    path = prediction_path(tmp_path / "in/x/a.b_img.jpg", tmp_path / "in", labels)
    assert path.as_posix() == "x/a.b.png"
    for place in (tmp_path / "truth/x/a.b_mask.png", tmp_path / f"predictions/x/a.b{saved}"):
        place.parent.mkdir(parents=True)
        Image.fromarray(np.array([[0, 1]], np.uint8)).save(place)
    scores = evaluate_folders(tmp_path / "predictions", tmp_path / "truth", labels)
    assert scores.metrics == {"mIoU": 1, "aAcc": 1, "mAcc": 1}


@pytest.mark.parametrize(("odd", "usual"), [(".jpg", ".png"), (".png", ".jpg"), (".webp", ".bmp")])
def test_the_odd_one_of_two_images_with_one_name_is_named(tmp_path, odd, usual):
    for name in (f"000{odd}", *(f"{index:03}{usual}" for index in range(4))):
        (tmp_path / name).touch()
    message = rf"remove \S*/000\{odd} \(4 of the 5 images are \*\{usual}\), .*img_suffix='\{usual}'"
    with pytest.raises(UserError, match=message):
        find_pairs(tmp_path, None, LABELS)
