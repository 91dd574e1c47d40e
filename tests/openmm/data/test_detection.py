"""DetectionDataset: labels by name, the same boxes as check-data and scoring, one error before training."""

from __future__ import annotations

import copy
import itertools
import json
import pickle

import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, TRANSFORMS
from PIL import Image

import hardnet_suite.openmm  # noqa: F401, registers the data sets
from hardnet_suite.data.coco import annotation_lines, check_coco, read_coco
from hardnet_suite.errors import UserError
from hardnet_suite.evaluation.coco import evaluate_coco
from hardnet_suite.openmm.data.parts import parts
from hardnet_suite.openmm.run.metrics.detection import CocoDetection

from mmdet.datasets.transforms import LoadAnnotations  # isort: skip

CLASSES = ("cat", "dog", "owl")
SQUARE = [[4, 4, 24, 4, 24, 24, 4, 24]]


@pytest.fixture
def content(tmp_path):
    """Four images of 64×48 with two boxes each; the categories are in another order than the classes."""
    folder = tmp_path / "images"
    folder.mkdir()
    images, annotations = [], []
    for key, category in zip(range(1, 5), itertools.cycle((3, 1, 8)), strict=False):
        Image.new("RGB", (64, 48), (key * 9, 80, 99)).save(folder / f"{key}.jpg")
        images.append({"id": key, "file_name": f"{key}.jpg", "width": 64, "height": 48})
        for side in (20, 12):
            entry = {"image_id": key, "category_id": category, "bbox": [4, 4, side, side], "iscrowd": 0}
            entry |= {"id": len(annotations) + 1, "area": side * side, "segmentation": SQUARE}
            annotations.append(entry)
    names = {8: "owl", 1: "cat", 3: "dog"}
    categories = [{"id": key, "name": name} for key, name in names.items()]
    return {"images": images, "categories": categories, "annotations": annotations}


def options(tmp_path, **more):
    given = {"ann_file": "a.json", "data_root": str(tmp_path), "data_prefix": {"img": "images"}}
    return {"type": "DetectionDataset", "metainfo": {"classes": CLASSES}, **given, **more}


def write(content, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    return path


def build(tmp_path, **more):
    return DATASETS.build(options(tmp_path, **more))


def part_of(tmp_path, loader="train_dataloader", **more):
    cfg = Config({"default_scope": "mmdet", loader: {"dataset": options(tmp_path, **more)}})
    return next(iter(parts(cfg, [loader])))


def require(tmp_path, **more):
    part_of(tmp_path, **more).require()


def instances(dataset):
    return [
        instance for index in range(len(dataset)) for instance in dataset.get_data_info(index)["instances"]
    ]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_labels_go_by_name_whatever_the_order_of_the_categories(content, tmp_path, order):
    content["categories"] = [content["categories"][index] for index in order]
    content["categories"].insert(order[0], {"id": 0, "name": "animals"})
    write(content, tmp_path)
    names = {entry["id"]: entry["name"] for entry in content["categories"]}
    dataset = build(tmp_path)
    labels = [CLASSES[instance["bbox_label"]] for instance in instances(dataset)]
    assert labels == [names[entry["category_id"]] for entry in content["annotations"]]
    assert dataset.metainfo["classes"] == CLASSES


def test_items_are_those_of_mmdet_where_mmdet_is_right(shared):
    root = shared / "data/coco_mini"
    given = {
        "ann_file": str(root / "annotations/instances_train2017.json"),
        "data_prefix": {"img": str(root / "train2017")},
        "filter_cfg": {"filter_empty_gt": True, "min_size": 32},
    }
    ours, theirs = (
        DATASETS.build({"type": kind, **given}) for kind in ("DetectionDataset", "mmdet.CocoDataset")
    )
    assert len(ours) == len(theirs) > 50
    for index in range(len(ours)):
        assert ours.get_data_info(index) == theirs.get_data_info(index)


def of_annotations(change):
    return lambda content: [change(entry) for entry in content["annotations"]]


def of_images(change):
    return lambda content: [change(entry) for entry in content["images"]]


def of_first(key, **values):
    return lambda content: content[key][0].update(values)


def every_other(**values):
    return lambda content: [entry.update(values) for entry in content["annotations"][::2]]


def image_ids_of(kind, step=1):
    def change(content):
        for entry in content["annotations"][::step]:
            entry["image_id"] = kind(entry["image_id"])

    return change


def every_third_normalised(content):
    for entry in content["annotations"][::3]:
        entry["bbox"] = [value / 64 for value in entry["bbox"]]


def texts_everywhere(content):
    for entry in content["images"]:
        entry["id"] = f"a/b {entry['id']}"
    for entry in content["annotations"]:
        entry["image_id"] = f"a/b {entry['image_id']}"


# change -> (boxes, crowd regions) that check-data, training and scoring use, or the error that all give
CASES = {
    "plain": (lambda content: None, (8, 0)),
    "no area": (of_annotations(lambda entry: entry.pop("area")), (8, 0)),
    "one area missing": (lambda content: content["annotations"][3].pop("area"), (8, 0)),
    "area null": (of_annotations(lambda entry: entry.update(area=None)), (8, 0)),
    "area 0": (of_annotations(lambda entry: entry.update(area=0)), (8, 0)),
    "area text": (of_annotations(lambda entry: entry.update(area="400")), (8, 0)),
    "no iscrowd, no mask": (of_annotations(lambda e: [e.pop("iscrowd"), e.pop("segmentation")]), (8, 0)),
    "no annotation ids": (of_annotations(lambda entry: entry.pop("id")), (8, 0)),
    "duplicate annotation ids": (of_annotations(lambda entry: entry.update(id=1)), "annotation id 1 occurs"),
    "iscrowd text 0": (of_annotations(lambda entry: entry.update(iscrowd="0")), (8, 0)),
    "iscrowd false": (of_annotations(lambda entry: entry.update(iscrowd=False)), (8, 0)),
    "iscrowd text 1": (every_other(iscrowd="1"), (4, 4)),
    "iscrowd true": (every_other(iscrowd=True), (4, 4)),
    "iscrowd 2": (of_first("annotations", iscrowd=2), "has iscrowd 2, expected 0 or 1"),
    "iscrowd list": (of_first("annotations", iscrowd=[0]), r"has iscrowd \[0\], expected 0 or 1"),
    "all crowd": (of_annotations(lambda entry: entry.update(iscrowd=1)), "no box but crowd regions"),
    "ignore 1": (every_other(ignore=1), (4, 4)),
    "ignore all": (of_annotations(lambda entry: entry.update(ignore=1)), "no box but crowd regions"),
    "ignore text 0": (of_annotations(lambda entry: entry.update(ignore="0")), (8, 0)),
    "no sizes": (of_images(lambda entry: [entry.pop("width"), entry.pop("height")]), (8, 0)),
    "sizes -1": (of_images(lambda entry: entry.update(width=-1, height=-1)), (8, 0)),
    "sizes 0": (of_images(lambda entry: entry.update(width=0, height=0)), (8, 0)),
    "sizes text": (of_images(lambda entry: entry.update(width="64", height="48")), (8, 0)),
    "image ids text in annotations": (image_ids_of(str), (8, 0)),
    "half the image ids text": (image_ids_of(str, 2), (8, 0)),
    "image ids float": (image_ids_of(float), (8, 0)),
    "image ids text everywhere": (texts_everywhere, (8, 0)),
    "image ids float everywhere": (
        lambda content: [
            image_ids_of(float)(content),
            of_images(lambda e: e.update(id=float(e["id"])))(content),
        ],
        (8, 0),
    ),
    "image ids of both types": (of_first("images", id="1"), (8, 0)),
    "image ids equal but for type": (of_first("images", id="2"), "image id 2 occurs as '2' and as 2"),
    "image id boolean": (of_first("images", id=True), "image True lacks a valid id"),
    "image ids boolean in annotations": (
        of_annotations(lambda entry: entry.update(image_id=True)),
        "annotation 1 lacks a valid image_id",
    ),
    **{
        f"one {part} that is {value!r}": (
            of_first("annotations", **{part: value}),
            f"annotation 1 lacks a valid {part}",
        )
        for part in ("image_id", "category_id")
        for value in (True, None, 1.5, [1], {})
    },
    "one unknown image": (
        of_first("annotations", image_id=99),
        "annotation 1 of image 99 has image_id 99, which is not among the images",
    ),
    "unknown images": (
        of_annotations(lambda entry: entry.update(image_id=99)),
        "image_id 99, which is not among the images.*and 8 more",
    ),
    "category null": (
        of_annotations(lambda entry: entry.update(category_id=None)),
        "lacks a valid category_id",
    ),
    "categories text": (of_annotations(lambda e: e.update(category_id=str(e["category_id"]))), (8, 0)),
    "one unknown category": (
        of_first("annotations", category_id=5),
        "annotation 1 of image 1 has category_id 5, which is not among the categories",
    ),
    "an unknown category as text": (
        of_first("annotations", category_id="dog"),
        "category_id 'dog', which is not",
    ),
    **{
        f"two images of the file {name}": (
            of_first("images", file_name=name),
            r"file_name 2\.jpg belongs to the images 1 and 2",
        )
        for name in ("2.jpg", "./2.jpg", "x/../2.jpg")
    },
    "duplicate image id": (
        lambda content: content["images"].append(dict(content["images"][0])),
        "image id 1 occurs 2 times",
    ),
    "duplicate category id": (
        lambda content: content["categories"].append({"id": 8, "name": "rat"}),
        "category id 8 occurs 2 times",
    ),
    "root category of a class's name": (
        lambda content: content["categories"].insert(0, {"id": 0, "name": "cat"}),
        (8, 0),
    ),
    "two used categories of one name": (
        lambda content: [
            content["categories"].append({"id": 0, "name": "cat"}),
            content["annotations"][0].update(category_id=0),
        ],
        "category name cat belongs to the ids 1 and 0",
    ),
    "category without a name": (
        lambda content: content["categories"].append({"id": 77}),
        "category 77 lacks a valid name",
    ),
    "normalised": (
        of_annotations(lambda entry: entry.update(bbox=[value / 64 for value in entry["bbox"]])),
        "all boxes of the file are between 0 and 1",
    ),
    **{
        f"normalised but for one {kind}": (
            lambda content, values=values: [
                of_annotations(lambda e: e.update(bbox=[value / 64 for value in e["bbox"]]))(content),
                of_first("annotations", bbox=[4, 4, 20, 20], **values)(content),
            ],
            "7 of the 8 boxes of the file are between 0 and 1",
        )
        for kind, values in {"box": {}, "crowd": {"iscrowd": 1}, "ignored box": {"ignore": 1}}.items()
    },
    "a few normalised": (every_third_normalised, (8, 0)),
    "one box empty": (of_first("annotations", bbox=[]), (7, 0)),
    "one box null": (of_first("annotations", bbox=None), (7, 0)),
    "one box NaN": (of_first("annotations", bbox=[float("nan"), 1, 5, 5]), (7, 0)),
    "one box text": (of_first("annotations", bbox=["4", "4", "9", "9"]), (7, 0)),
    "one box of three": (of_first("annotations", bbox=[4, 4, 9]), (7, 0)),
    "one box negative": (of_first("annotations", bbox=[4, 4, -9, 9]), (7, 0)),
    "one box without width": (of_first("annotations", bbox=[4, 4, 0, 9]), (7, 0)),
    "one box outside": (of_first("annotations", bbox=[64, 4, 9, 9]), (7, 0)),
    "one box partly outside": (of_first("annotations", bbox=[-20, -20, 60, 60]), (8, 0)),
    "one box tiny": (of_first("annotations", bbox=[4, 4, 0.5, 9]), (8, 0)),
    "one box huge": (of_first("annotations", bbox=[4, 4, 10**400, 9]), (7, 0)),
    "boxes text": (of_annotations(lambda e: e.update(bbox=list(map(str, e["bbox"])))), "none can be used"),
    "no boxes": (lambda content: content["annotations"].clear(), "holds no box"),
    "half the images empty": (
        lambda content: content.update(annotations=[e for e in content["annotations"] if e["image_id"] % 2]),
        (4, 0),
    ),
    "images without id": (of_images(lambda entry: entry.pop("id")), "image number 0 lacks a valid id"),
}


def used_by_check(path, tmp_path):
    report = check_coco(path, tmp_path / "images", CLASSES, read_images=False)
    return report.boxes, report.crowds


def used_by_training(path, tmp_path, monkeypatch):
    require(tmp_path)
    loaded = instances(build(tmp_path))
    crowds = sum(instance["ignore_flag"] for instance in loaded)
    return len(loaded) - crowds, crowds


def used_by_scoring(path, tmp_path, monkeypatch):
    from pycocotools.cocoeval import COCOeval

    seen = []
    evaluate = COCOeval.evaluate

    def spy(evaluation):
        crowds = [entry["iscrowd"] for entry in evaluation.cocoGt.dataset["annotations"]]
        seen.append((crowds.count(0), crowds.count(1)))
        evaluate(evaluation)

    monkeypatch.setattr(COCOeval, "evaluate", spy)
    evaluate_coco(path, [], classes=CLASSES)
    return seen[0]


@pytest.mark.parametrize("name", CASES)
def test_check_training_and_scoring_use_the_same_boxes_or_give_the_same_error(
    content, tmp_path, name, monkeypatch
):
    change, expected = CASES[name]
    change(content)
    path = write(content, tmp_path)
    uses = (used_by_training, used_by_scoring)
    if isinstance(expected, tuple):
        assert used_by_check(path, tmp_path) == expected
        assert [use(path, tmp_path, monkeypatch) for use in uses] == [expected] * 2
        return
    messages = set()
    for use in uses:
        with pytest.raises(UserError, match=expected) as caught:
            use(path, tmp_path, monkeypatch)
        messages.add(str(caught.value))
    assert len(messages) == 1
    message = messages.pop()
    assert str(path) in message
    assert "\n" not in message
    # check-data tells it too
    report = part_of(tmp_path).check(read=False)
    assert report.errors
    assert set(read_coco(path).fatal) <= set(report.errors)


@pytest.mark.parametrize(
    "name", [name for name, (_, expected) in CASES.items() if isinstance(expected, tuple)]
)
def test_no_box_is_lost_without_a_finding(content, tmp_path, name):
    change, (boxes, crowds) = CASES[name]
    change(content)
    report = check_coco(write(content, tmp_path), tmp_path / "images", CLASSES, read_images=False)
    dropped = [finding for finding in report.findings if finding.kind in report.LEFT_OUT]
    assert len(content["annotations"]) - boxes - crowds == len({finding.where for finding in dropped})
    assert all(finding.level == "error" for finding in dropped)


def test_perfect_detections_score_one_whatever_the_ids(content, tmp_path):
    results = [{**entry, "score": 0.5} for entry in content["annotations"]]
    for change in (
        lambda content: None,
        image_ids_of(str),
        image_ids_of(float, 2),
        of_first("images", id="1"),
    ):
        changed = copy.deepcopy(content)
        change(changed)
        assert evaluate_coco(write(changed, tmp_path), results).metrics["mAP"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"metainfo": {"classes": "cat"}}, "metainfo.classes is the string 'cat'"),
        ({"metainfo": {"classes": ["cat", "cat"]}}, "names 'cat' twice"),
        ({"metainfo": {"clases": CLASSES}}, "has no option 'clases'; did you mean classes"),
        ({"metainfo": {"classes": (*CLASSES, "rat")}}, "lacks 'rat' of the config's 4"),
        ({"metainfo": {"classes": CLASSES, "palette": [(1, 2, 3)]}}, "palette is .*expected"),
        ({"ann_fil": "b.json"}, "has no option 'ann_fil'; did you mean ann_file"),
        ({"return_classes": True}, "has no option 'return_classes'"),
        ({"backend_args": {"backend": "petrel"}}, "but reads local files; set it to None"),
        ({"ann_file": ""}, "ann_file='', expected the path"),
        ({"data_prefix": {"image": "images"}}, "has no option 'image'"),
        ({"data_prefix": {}}, r"expected dict\(img=…\)"),
        ({"filter_cfg": {"min_sise": 3}}, "has no option 'min_sise'; did you mean min_size"),
        ({"filter_cfg": {"min_size": "3"}}, "min_size='3', expected pixels"),
        ({"filter_cfg": {"filter_empty_gt": "no"}}, "filter_empty_gt='no', expected True or False"),
        ({"filter_cfg": {"filter_empty_gt": True}, "test_mode": True}, "no effect with test_mode=True"),
        ({"filter_cfg": {"min_size": 900}}, "no image of .* is left after filter_cfg and indices"),
        ({"indices": 0}, "no image of .* is left after filter_cfg and indices"),
    ],
)
def test_bad_options_are_one_line(content, tmp_path, more, message):
    write(content, tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        require(tmp_path, **more)
    assert "\n" not in str(caught.value)


def test_a_base_of_mmdets_may_set_no_backend(content, tmp_path):
    write(content, tmp_path)
    require(tmp_path, backend_args=None)
    assert len(build(tmp_path, backend_args=None)) == len(build(tmp_path))


def test_filters_and_indices_have_their_effect(content, tmp_path):
    content["annotations"] = content["annotations"][2:]
    content["images"][3].update(width=20, height=30)
    Image.new("RGB", (20, 30)).save(tmp_path / "images/4.jpg")
    write(content, tmp_path)

    def ids(**more):
        dataset = build(tmp_path, **more)
        return [dataset.get_data_info(index)["img_id"] for index in range(len(dataset))]

    assert ids() == [1, 2, 3, 4]
    assert ids(filter_cfg={"filter_empty_gt": True}) == [2, 3, 4]
    assert ids(filter_cfg={"min_size": 32}) == [1, 2, 3]
    assert ids(filter_cfg={"filter_empty_gt": True}, indices=1) == [2]
    assert ids(indices=[3, 0]) == [4, 1]
    assert ids(test_mode=True) == [1, 2, 3, 4]
    with pytest.raises(UserError, match=r"the 1 images used of .* have no box of the 3 classes"):
        require(tmp_path, indices=1)


@pytest.mark.parametrize("loader", ["train_dataloader", "val_dataloader", "test_dataloader"])
def test_missing_images_and_boxes_are_told_before_the_first_iteration(content, tmp_path, loader):
    content["images"][2]["file_name"] = "nope.jpg"
    write(content, tmp_path)
    with pytest.raises(UserError, match=r"an image .* image 3 has no file .*nope\.jpg; add the files"):
        part_of(tmp_path, loader).require()
    content["images"][3]["file_name"] = None
    content["images"][2]["file_name"] = "3.jpg"
    write(content, tmp_path)
    with pytest.raises(UserError, match="image 4 lacks a valid file_name"):
        part_of(tmp_path, loader).require()
    content["images"][3]["file_name"] = "4.jpg"
    content["categories"].append({"id": 99, "name": "rat"})
    write(content, tmp_path)
    with pytest.raises(UserError, match="have no box of the 1 class"):
        part_of(tmp_path, loader, metainfo={"classes": ["rat"]}).require()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"indices": 0}, "is left after filter_cfg and indices"),
        ({"filter_cfg": {"min_size": 900}}, "is left after filter_cfg and indices"),
        ({"type": "CocoDataset"}, "numbers labels by the order"),
    ],
)
def test_check_data_tells_what_training_refuses(content, tmp_path, more, message):
    write(content, tmp_path)
    (finding,) = part_of(tmp_path, **more).check(read=False).errors
    assert message in finding.what
    with pytest.raises(UserError) as caught:
        require(tmp_path, **more)
    assert str(caught.value) == finding.what


@pytest.mark.parametrize(
    ("name", "path"),
    [
        (".\\1.jpg", "1.jpg"),
        ("sub\\x.jpg", "sub/x.jpg"),
        ("sub\\..\\1.jpg", "1.jpg"),
        ("a\\b.jpg", "a\\b.jpg"),
    ],
)
def test_backslashes_are_read_as_slashes_where_that_file_exists(content, tmp_path, name, path):
    content["images"][0]["file_name"] = name
    target = tmp_path / "images" / path
    target.parent.mkdir(exist_ok=True)
    Image.new("RGB", (64, 48)).save(target)
    write(content, tmp_path)
    require(tmp_path)
    pipeline = [{"type": "LoadImageFromFile"}]
    assert build(tmp_path, pipeline=pipeline)[0]["img_path"] == str(target)
    report = part_of(tmp_path).check()
    assert not report.errors
    assert len(report.warnings) == (name != path)
    content["images"][0]["file_name"] = "nowhere\\1.jpg"
    write(content, tmp_path)
    with pytest.raises(UserError, match=r"an image does not exist: image 1 has no file"):
        require(tmp_path)


def save_turned(path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 48)).save(path, exif=exif)


@pytest.mark.parametrize("loader", ["train_dataloader", "val_dataloader", "test_dataloader"])
@pytest.mark.parametrize(
    ("stated", "suffix", "turned", "message"),
    [
        ((640, 480), "jpg", False, "the file says 640×480, the image is 64×48; correct width and height"),
        ((48, 64), "jpg", False, "the file says 48×64, the image is 64×48"),
        ((32, 24), "png", False, "the file says 32×24, the image is 64×48"),
        *[((64, 48), suffix, True, "upright by its EXIF orientation") for suffix in ("jpg", "png", "webp")],
        *[((48, 64), suffix, True, None) for suffix in ("jpg", "png", "webp", "tif")],
    ],
)
def test_sizes_are_those_of_the_upright_images(content, tmp_path, loader, stated, suffix, turned, message):
    """A box beyond the stated size would be dropped as outside."""
    for image in content["images"][1:3]:
        image.update(file_name=f"{image['id']}.{suffix}", width=stated[0], height=stated[1])
        path = tmp_path / "images" / image["file_name"]
        save_turned(path) if turned else Image.new("RGB", (64, 48)).save(path)
    write(content, tmp_path)
    if message is None:
        part_of(tmp_path, loader).require()
        return
    with pytest.raises(UserError, match=message) as caught:
        part_of(tmp_path, loader).require()
    assert f"(2 of the 4 images): image 2, {tmp_path / 'images' / '2.'}" in str(caught.value)
    assert "\n" not in str(caught.value)
    for read in (True, False):
        findings = part_of(tmp_path, loader).check(read=read).errors
        assert [finding.where for finding in findings if finding.kind == "image size differs"] == [
            "image 2",
            "image 3",
        ]


@pytest.mark.parametrize("sizes", [{}, {"width": True, "height": True}, {"width": "64", "height": 48}])
def test_boxes_are_checked_against_the_file_where_no_size_is_stated(content, tmp_path, sizes):
    for image in content["images"]:
        del image["width"], image["height"]
        image.update(sizes)
    content["annotations"][0]["bbox"] = [70, 4, 20, 20]
    path = write(content, tmp_path)
    require(tmp_path)
    report = part_of(tmp_path).check()
    assert (report.boxes, report.sizes) == (7, (64, 48, 64, 48))
    assert len(instances(build(tmp_path))) == 7
    scorer = CocoDetection(str(path))
    scorer.dataset_meta = build(tmp_path, test_mode=True).metainfo
    boxes = [entry["bbox"] for entry in content["annotations"][1:2]]
    assert scorer.compute_metrics([(1, boxes, [0.5], [1])])["bbox_mAP"] == pytest.approx(1)
    (line,) = [line for line in annotation_lines(read_coco(path)) if "not checked" in line]
    assert line.startswith("warning: 4 of the 4 images state no valid width and height")


@pytest.mark.parametrize("wrap", ["ConcatDataset", "RepeatDataset", "ClassBalancedDataset"])
def test_wrappers(content, tmp_path, wrap):
    write(content, tmp_path)
    inner = options(tmp_path)
    given = {
        "ConcatDataset": {"datasets": [inner, inner]},
        "RepeatDataset": {"dataset": inner, "times": 2},
        "ClassBalancedDataset": {"dataset": inner, "oversample_thr": 1e-3},
    }[wrap]
    dataset = DATASETS.build({"type": wrap, **given})
    assert len(dataset) == (4 if wrap == "ClassBalancedDataset" else 8)
    assert dataset.metainfo["classes"] == CLASSES
    cfg = Config({"default_scope": "mmdet", "train_dataloader": {"dataset": {"type": wrap, **given}}})
    (part,) = parts(cfg, ["train_dataloader"])
    part.require()


def test_palette_of_the_config(content, tmp_path):
    write(content, tmp_path)
    palette = [(1, 2, 3), (4, 5, 6), (7, 8, 9)]
    metainfo = {"classes": CLASSES, "palette": palette}
    assert part_of(tmp_path, metainfo=metainfo).palette == tuple(palette)
    assert build(tmp_path, metainfo=metainfo).metainfo["palette"] == list(map(list, palette))
    assert part_of(tmp_path).palette is None


@pytest.mark.parametrize("kind", ["CocoDataset", "mmdet.CocoDataset"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: None, "numbers labels by the order of the categories"),
        (of_first("annotations", ignore=1), "reads .* otherwise than scoring does: annotation 1"),
        (lambda content: content["annotations"][0].pop("area"), "reads .* otherwise than scoring does"),
        (lambda content: content["categories"].insert(0, {"id": 0, "name": "cat"}), "otherwise|order"),
    ],
)
def test_mmdets_own_data_set_is_refused_where_it_reads_otherwise(content, tmp_path, kind, change, message):
    if message.startswith("reads"):
        content["categories"].sort(key=lambda entry: entry["name"])
    write(content, tmp_path)
    if message.startswith("reads"):
        require(tmp_path, type=kind)
    change(content)
    write(content, tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        require(tmp_path, type=kind)
    assert "set type='DetectionDataset' in train_dataloader.dataset" in str(caught.value)


def test_images_without_annotations_are_for_prediction_only(content, tmp_path):
    del content["annotations"]
    write(content, tmp_path)
    with pytest.raises(UserError, match="has no 'annotations'"):
        require(tmp_path)
    part = part_of(tmp_path, annotated=False)
    part.require()
    assert part.check() is None
    assert [
        len(item["instances"])
        for item in (build(tmp_path, annotated=False).get_data_info(i) for i in range(4))
    ] == [0] * 4


def test_malformed_masks_never_reach_a_pipeline(content, tmp_path):
    content["annotations"][0]["segmentation"] = [1, 2, 3, 4, 5, 6]
    content["annotations"][1]["segmentation"] = {"size": [48, 64], "counts": [10, 5]}
    write(content, tmp_path)
    pipeline = [
        {"type": "LoadImageFromFile"},
        {"type": "LoadBoxesAndMasks"},
        {"type": "RandomScaleStretchCrop", "size": 64, "short_sides": (40, 90)},
    ]
    dataset = build(tmp_path, pipeline=pipeline)
    assert ["mask" in instance for instance in instances(dataset)] == [False] * 2 + [True] * 6
    assert instances(dataset)[2]["mask"] == SQUARE
    for index in list(range(4)) * 5:
        assert dataset[index]["img"].shape == (64, 64, 3)
    pickle.dumps(dataset)


@TRANSFORMS.register_module()
class OwnMasks(LoadAnnotations):
    """A user's step with other defaults."""

    def __init__(self, with_mask=True, **options):
        super().__init__(with_mask=with_mask, **options)


MASKS = {"type": "mmdet.LoadAnnotations", "with_mask": True}


@pytest.mark.parametrize(
    "step",
    [
        MASKS,
        {"type": LoadAnnotations, "with_mask": True},
        {"type": "OwnMasks"},
        {"type": OwnMasks},
        OwnMasks(),
        {"type": "RandomApply", "transforms": [MASKS]},
        {"type": "RandomChoice", "transforms": [[{"type": "OwnMasks"}]]},
    ],
)
def test_whatever_loads_masks_needs_one_for_each_box(content, tmp_path, step):
    del content["annotations"][0]["segmentation"]
    write(content, tmp_path)
    message = r"valid mask .*, which (LoadAnnotations|OwnMasks)\(with_mask=True\) needs"
    with pytest.raises(UserError, match=message):
        build(tmp_path, pipeline=[{"type": "LoadImageFromFile"}, step])
    for other in (
        {"type": "mmdet.LoadAnnotations"},
        OwnMasks(with_mask=False),
        {"type": "LoadBoxesAndMasks"},
    ):
        assert len(build(tmp_path, pipeline=[{"type": "LoadImageFromFile"}, other])) == 4
