"""``test`` and ``predict`` give the same answers, for every config of the suite and for altered ones.

The images are those on which two implementations drift apart: odd sizes, turned by EXIF, with an alpha
channel, grey, tiny, and several sizes in one batch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hardnet_suite import create_model, predict
from hardnet_suite.config_names import OWN_CONFIGS
from hardnet_suite.data.coco import COCO_CLASSES
from hardnet_suite.data.segmentation import LABEL_SETS
from hardnet_suite.openmm.run.configs import load_config
from hardnet_suite.weights import find, save_weights

CELLS = ("RBC", "WBC", "Platelets")
SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")
CLASSES = {"ssd320_hardnet39ds_bccd": CELLS, "demo_ssd224_shapes": SHAPES}
ORIENTATION = 0x0112
MODES = {
    "odd.jpg": (97, 61),
    "turned.jpg": (60, 84),
    "alpha.png": (50, 72),
    "grey.png": (33, 64),
    "tiny.png": (7, 9),
}


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    """A folder of five images of the kinds above; smooth, with a bright blob that a detector may see."""
    folder = tmp_path_factory.mktemp("images")
    for number, (name, (height, width)) in enumerate(MODES.items()):
        coarse = np.random.default_rng(number).integers(0, 256, (4, 5, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        options = {}
        if name == "turned.jpg":
            exif = Image.Exif()
            exif[ORIENTATION] = 6
            options["exif"] = exif
        if name == "alpha.png":
            alpha = np.linspace(0, 255, height * width).reshape(height, width).astype(np.uint8)
            image.putalpha(Image.fromarray(alpha))
        if name == "grey.png":
            image = image.convert("L")
        image.save(folder / name, **options)
    return folder


def upright_size(name: str) -> tuple[int, int]:
    """(height, width) as it is seen."""
    return MODES[name][::-1] if name == "turned.jpg" else MODES[name]


def coco_config(images: Path, folder: Path, classes: tuple[str, ...]) -> dict:
    """Loader options of a COCO set of the images, every one with a box."""
    entries = [
        {"id": number, "file_name": name, "height": upright_size(name)[0], "width": upright_size(name)[1]}
        for number, name in enumerate(MODES, 1)
    ]
    content = {
        "images": entries,
        "categories": [{"id": 3 * k, "name": name} for k, name in enumerate(classes, 1)],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 3, "bbox": [1, 1, 5, 4], "area": 20, "iscrowd": 0}
            for n in range(1, len(entries) + 1)
        ],
    }
    (folder / "truth.json").write_text(json.dumps(content))
    return {
        "data_root": "",
        "ann_file": str(folder / "truth.json"),
        "data_prefix": {"img": str(images)},
        "metainfo": {"classes": classes},
        "indices": None,
        "filter_cfg": None,
        "test_mode": True,
    }


def label_config(images: Path, folder: Path, labels: str) -> dict:
    for name in MODES:
        stem = Path(name).stem + ("_gtFine_labelIds" if labels == "cityscapes" else "")
        path = folder / "labels" / f"{stem}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full(upright_size(name), 7, np.uint8)).save(path)
    place = images
    if labels == "cityscapes":
        place = folder / "frames"
        place.mkdir()
        for name in MODES:
            (place / f"{Path(name).stem}_leftImg8bit.png").write_bytes((images / name).read_bytes())
    return {"data_root": "", "data_prefix": {"img_path": str(place), "seg_map_path": str(folder / "labels")}}


def folder_config(images: Path, folder: Path, classes: tuple[str, ...]) -> dict:
    target = folder / "classes" / classes[0]
    target.mkdir(parents=True)
    for name in MODES:
        (target / name).write_bytes((images / name).read_bytes())
    return {
        "data_root": "",
        "folder": str(folder / "classes"),
        "classes": classes,
        "hold_out": 0,
        "held_out": False,
    }


@dataclass
class Case:
    """A config of the suite, altered by lines of Python."""

    base: str
    lines: str = ""


def pipeline(*steps: str, load: str = "", pack: str = "PackDetInputs", meta: bool = True) -> str:
    keys = ', meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")' if meta else ""
    made = [
        'dict(type="LoadImageFromFile")',
        *(f"dict({step})" for step in steps),
        *([f'dict(type="{load}")'] if load else []),
        f'dict(type="{pack}"{keys})',
    ]
    return f"test_dataloader = dict(dataset=dict(pipeline=[{', '.join(made)}]))"


def segmented(*steps: str) -> str:
    return pipeline(*steps, load="LoadLabels", pack="mmseg.PackSegInputs", meta=False)


def classified(*steps: str) -> str:
    made = ", ".join([*(f"dict({step})" for step in steps), 'dict(type="PackClass")'])
    return f"test_dataloader = dict(dataset=dict(pipeline=[{made}]))"


BCCD, KEEP, CAMVID, TINY = (
    "ssd320_hardnet39ds_bccd",
    "centernet_hardnet68_overfit8",
    "fchardnet70_camvid",
    "hardnet39ds_tiny_imagenet10",
)
RGB = "mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True"
SQUARE = 'type="Resize", scale=(320, 320)'
ALTERED = {
    "detection, own mean and RGB": Case(BCCD, f"model = dict(data_preprocessor=dict({RGB}))"),
    "detection, scores and NMS": Case(
        BCCD, 'model = dict(test_cfg=dict(score_thr=0.2, nms=dict(type="nms", iou_threshold=0.2, offset=0)))'
    ),
    "detection, few boxes": Case(BCCD, "model = dict(test_cfg=dict(max_per_img=3, nms_pre=20))"),
    "detection, across classes": Case(
        BCCD, 'model = dict(test_cfg=dict(nms=dict(type="nms", iou_threshold=0.3, class_agnostic=True)))'
    ),
    "detection, letterboxed": Case(
        BCCD,
        pipeline(f"{SQUARE}, keep_ratio=True", 'type="Pad", size=(320, 320), pad_val=dict(img=(7, 90, 200))'),
    ),
    "detection, stretched by another interpolation": Case(
        BCCD, pipeline(f'{SQUARE}, keep_ratio=False, interpolation="nearest"')
    ),
    "centernet, not square": Case(KEEP, pipeline('type="Resize", scale=(256, 192), keep_ratio=False')),
    "centernet, aspect ratio kept": Case(KEEP, pipeline('type="Resize", scale=(192, 160), keep_ratio=True')),
    "centernet, own size": Case(KEEP, pipeline('type="CenterPad", multiple=32')),
    "centernet, flip": Case(
        KEEP, "model = dict(test_cfg=dict(flip_test=True, clip_border=False, max_per_img=9))"
    ),
    "segmentation, own mean and RGB": Case(CAMVID, f"model = dict(data_preprocessor=dict({RGB}))"),
    "segmentation, sliding windows": Case(
        CAMVID,
        'model = dict(test_cfg=dict(_delete_=True, mode="slide", crop_size=(64, 64), stride=(42, 42)))\n'
        + segmented('type="mmseg.Resize", scale=(150, 130), keep_ratio=False'),
    ),
    "segmentation, stretched": Case(
        CAMVID, segmented('type="mmseg.Resize", scale=(64, 64), keep_ratio=False')
    ),
    "segmentation, plain Resize, not square": Case(
        CAMVID, segmented('type="Resize", scale=(96, 160), keep_ratio=False')
    ),
    "segmentation, aspect ratio kept": Case(
        CAMVID, segmented('type="Resize", scale=(128, 96), keep_ratio=True')
    ),
    "segmentation, by a factor": Case(CAMVID, segmented('type="Resize", scale_factor=1.5, keep_ratio=True')),
    "segmentation, padded": Case(
        CAMVID,
        "model = dict(data_preprocessor=dict(test_cfg=dict(_delete_=True, size_divisor=96), pad_val=1.5))\n"
        + segmented('type="Pad", size=(120, 110), pad_val=30'),
    ),
    "classification, stretched": Case(TINY, classified('type="torchvision/Resize", size=[64, 64]')),
    "classification, not square": Case(
        TINY,
        classified('type="torchvision/Resize", size=[48, 80], interpolation="bicubic"'),
    ),
    "classification, larger crop": Case(
        TINY,
        classified('type="torchvision/Resize", size=40', 'type="torchvision/CenterCrop", size=(72, 56)'),
    ),
    "classification, own mean": Case(
        TINY, "model = dict(data_preprocessor=dict(mean=[10.0, 20.0, 30.0], std=[100.0, 50.0, 70.0]))"
    ),
}
OWN = {
    path.stem: Case(path.stem)
    for path in sorted(OWN_CONFIGS.glob("*.py"))
    if "\ntrunk = " not in path.read_text(encoding="utf-8")  # predict runs the suite's own models
}
FAST = {"demo_ssd224_shapes", BCCD, KEEP, CAMVID, TINY, "hardnet39ds_imagenet"}


def cases():
    for name, case in ({**OWN, **ALTERED}).items():
        slow = name in OWN and name not in FAST
        yield pytest.param(case, id=name, marks=pytest.mark.slow if slow else ())


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """The shipped weights where there are some, otherwise an untrained network's, as a file."""
    folder = tmp_path_factory.mktemp("weights")
    saved: dict[str, Path] = {}

    def of(arch: str, tag: str | None, count: int) -> str | Path:
        key = f"{arch}_{tag or count}"
        if key not in saved:
            torch.manual_seed(0)
            shipped = tag is not None and find(arch, tag).shipped
            network = create_model(arch, num_classes=count, pretrained=tag if shipped else False)
            saved[key] = folder / f"{key}.pth"
            save_weights(network.state_dict(), saved[key], half=False)
        return saved[key]

    return of


@pytest.mark.parametrize("case", cases())
def test_test_and_predict_agree(case, cli, images, weights, tmp_path):
    cfg = load_config(OWN_CONFIGS / f"{case.base}.py")
    task, classes, data = write_data(cfg, case.base, images, tmp_path)
    config = tmp_path / "mine.py"
    loader = {"batch_size": 4, "num_workers": 0, "persistent_workers": False, "dataset": data}
    others = ""
    if task == "classification":  # all data sets of a config have the same classes
        others = "".join(
            f"{split}_dataloader = dict(dataset=dict(classes={classes!r}))\n" for split in ("train", "val")
        )
    evaluator = {"ann_file": data["ann_file"]} if task == "detection" else {}
    config.write_text(
        f"_base_ = {str(OWN_CONFIGS / f'{case.base}.py')!r}\n{case.lines}\n{others}"
        "test_dataloader = globals().get('test_dataloader', dict())\n"
        f"test_dataloader.setdefault('dataset', dict()).update({data!r})\n"
        f"test_dataloader.update({ {k: v for k, v in loader.items() if k != 'dataset'}!r})\n"
        f"test_evaluator = dict(**{evaluator!r})\n"
    )
    path = weights(cfg.arch, cfg.get("weights_tag"), len(classes))
    status, out, err = cli("test", config, path, "--work-dir", tmp_path / "run", "--seed", 0)
    assert status == 0, out + err
    predictions = predict(str(config), sources(task, data, images), weights=path, score=0.0, batch_size=4)
    assert len(predictions) == len(MODES)
    {"detection": same_boxes, "segmentation": same_masks, "classification": same_guesses}[task](
        tmp_path / "run", predictions, classes
    )


def write_data(cfg, base: str, images: Path, folder: Path) -> tuple[str, tuple[str, ...], dict]:
    """(task, class names, options of the data set)."""
    kind = cfg.test_dataloader.dataset.type
    if kind == "SegmentationDataset":
        labels = cfg.test_dataloader.dataset.labels
        return "segmentation", LABEL_SETS[labels].classes, label_config(images, folder, labels)
    if kind == "ClassificationDataset":
        count = cfg.model.num_classes
        classes = tuple(f"kind {index}" for index in range(count))
        return "classification", classes, folder_config(images, folder, classes)
    classes = CLASSES.get(base, COCO_CLASSES)
    return "detection", classes, coco_config(images, folder, classes)


def sources(task: str, data: dict, images: Path) -> str:
    if task == "segmentation":
        return data["data_prefix"]["img_path"]
    return f"{data['folder']}/kind 0" if task == "classification" else str(images)


def same_boxes(run: Path, predictions: list, classes: tuple[str, ...]) -> None:
    tested = json.loads((run / "detections.json").read_text())
    assert tested
    for prediction in predictions:
        image_id = 1 + list(MODES).index(Path(prediction.name).name)
        theirs = [entry for entry in tested if entry["image_id"] == image_id]
        assert len(theirs) == len(prediction.scores)
        corners = np.array([entry["bbox"] for entry in theirs]).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        scores = np.array([entry["score"] for entry in theirs])
        labels = np.array([entry["category_id"] // 3 - 1 for entry in theirs])
        np.testing.assert_allclose(prediction.scores, scores, atol=1e-5)
        # boxes of scores that are equal but for rounding may change places
        for box, score, label in zip(prediction.boxes, prediction.scores, prediction.labels, strict=True):
            same = (labels == label) & (np.abs(scores - score) < 1e-5)
            same &= np.isclose(corners, box, rtol=1e-4, atol=2e-3).all(1)
            assert same.any(), (box, score, label)
        height, width = upright_size(Path(prediction.name).name)
        assert prediction.size == (width, height)


def same_masks(run: Path, predictions: list, classes: tuple[str, ...]) -> None:
    files = {path.stem.removesuffix("_labelTrainIds"): path for path in (run / "predictions").rglob("*.png")}
    for prediction in predictions:
        tested = np.array(Image.open(files[Path(prediction.name).stem.removesuffix("_leftImg8bit")]))
        assert tested.shape == prediction.size[::-1]
        np.testing.assert_array_equal(prediction.mask, tested)


def same_guesses(run: Path, predictions: list, classes: tuple[str, ...]) -> None:
    rows = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    tested = {Path(row["name"]).name: row for row in rows}
    for prediction in predictions:
        row = tested[Path(prediction.name).name]
        assert [classes[label] for label in prediction.labels] == row["guesses"]
        np.testing.assert_allclose(prediction.scores, row["probabilities"], atol=2e-6)
