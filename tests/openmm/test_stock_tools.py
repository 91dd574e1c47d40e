"""mmdet's own tools on a plain config: one line of custom_imports, and nothing of ours imported before.

The subprocesses get what an installation gives: the start-up hook in a site directory.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import _hardnet_suite_mmcv
from hardnet_suite.openmm import repairs

ROOT = Path(__file__).resolve().parents[2]
TRAIN = Path(importlib.util.find_spec("mmdet").origin).parent / ".mim" / "tools" / "train.py"

CONFIG = """
custom_imports = dict(imports=["hardnet_suite.openmm"], allow_failed_imports=False)
default_scope = "mmdet"
model = dict(
    type="RetinaNet",
    data_preprocessor=dict(
        type="DetDataPreprocessor", mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True, pad_size_divisor=32),
    backbone=dict(type="HarDNet", arch="hardnet39ds", out_indices=(2, 3, 4)),
    neck=dict(type="FPN", in_channels=[320, 640, 1024], out_channels=32, num_outs=3),
    bbox_head=dict(
        type="RetinaHead", num_classes=6, in_channels=32, stacked_convs=1, feat_channels=32,
        anchor_generator=dict(type="AnchorGenerator", octave_base_scale=4, scales_per_octave=3,
                              ratios=[0.5, 1.0, 2.0], strides=[8, 16, 32]),
        bbox_coder=dict(type="DeltaXYWHBBoxCoder", target_means=[0.0] * 4, target_stds=[1.0] * 4),
        loss_cls=dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type="L1Loss", loss_weight=1.0)),
    train_cfg=dict(
        assigner=dict(type="MaxIoUAssigner", pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0,
                      ignore_iof_thr=-1),
        sampler=dict(type="PseudoSampler"), allowed_border=-1, pos_weight=-1, debug=False),
    test_cfg=dict(nms_pre=50, min_bbox_size=0, score_thr=0.0, nms=dict(type="nms", iou_threshold=0.5),
                  max_per_img=10))

data_root = "{data}/"
classes = dict(classes=("circle", "square", "triangle", "star", "ring", "cross"))
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(128, 128), keep_ratio=True),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="CocoDataset", data_root=data_root, metainfo=classes, indices=4,
        ann_file="annotations/instances_train2017.json", data_prefix=dict(img="train2017/"),
        pipeline=[
            dict(type="LoadImageFromFile"), dict(type="LoadAnnotations", with_bbox=True),
            dict(type="Resize", scale=(128, 128), keep_ratio=True), dict(type="RandomFlip", prob=0.5),
            dict(type="PackDetInputs")]))
val_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="CocoDataset", data_root=data_root, metainfo=classes, test_mode=True, indices=2,
        ann_file="annotations/instances_val2017.json", data_prefix=dict(img="val2017/"),
        pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type="CocoMetric", ann_file=data_root + "annotations/instances_val2017.json",
                     metric="bbox")
test_evaluator = val_evaluator
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=1, val_interval=1)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.001, momentum=0.9))
default_hooks = dict(logger=dict(type="LoggerHook", interval=1), checkpoint=dict(type="CheckpointHook"))
visualizer = dict(type="DetLocalVisualizer", vis_backends=[dict(type="LocalVisBackend")])
"""

USE = """
import sys
from mmdet.apis import {first}
assert "hardnet_suite.openmm" not in sys.modules
config, checkpoint, image = {arguments!r}
"""
INFERENCER = """
found = DetInferencer(config, checkpoint, device="cpu", show_progress=False)(image)["predictions"]
assert len(found) == 1 and len(found[0]["bboxes"]) > 0, found
"""
INIT_DETECTOR = """
from mmdet.apis import inference_detector, init_detector
detector = init_detector(config, checkpoint, device="cpu")
assert type(detector.backbone).__module__ == "hardnet_suite.openmm.models.backbone"
assert detector.dataset_meta["classes"][3] == "star"
assert len(inference_detector(detector, image).pred_instances) > 0
print("done")
"""


@pytest.fixture(scope="module")
def site_folder(tmp_path_factory) -> Path:
    """A site directory as an editable installation leaves it: a path file, and the start-up hook."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "_editable.pth").write_text(f"{ROOT}\n")
    shutil.copy(ROOT / "hardnet_suite_mmcv.pth", folder)
    return folder


# this tree and its hook, also where another one is installed
START = """
import site, sys
sys.path.insert(0, {root!r})
sys.modules.pop("_hardnet_suite_mmcv", None)
sys.meta_path[:] = [each for each in sys.meta_path if each.__module__ != "_hardnet_suite_mmcv"]
site.addsitedir({folder!r})
assert sys.modules["_hardnet_suite_mmcv"].__file__.startswith({root!r})
"""


def run(code: str, folder: Path, site_folder: Path | None = None) -> str:
    """Runs the code in a fresh Python, outside the source tree, and returns its output."""
    if site_folder is not None:
        code = START.format(root=str(ROOT), folder=str(site_folder)) + code
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    env |= {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def trained(tiny, site_folder, tmp_path_factory) -> Path:
    """The work folder of mmdet's train script: two iterations, then validation."""
    folder = tmp_path_factory.mktemp("stock")
    config = folder / "plain.py"
    config.write_text(CONFIG.replace("{data}", str(tiny[1])))
    arguments = ["train.py", str(config), "--work-dir", str(folder)]
    run(
        f"import runpy, sys\nsys.argv = {arguments!r}\nrunpy.run_path({str(TRAIN)!r}, run_name='__main__')",
        folder,
        site_folder,
    )
    return folder


SUITE = """
_base_ = "{root}/configs/ssd512_hardnet68.py"
arch = "ssd224_hardnet29"
model = dict(arch=arch, bbox_head=dict(num_classes=6), init_cfg=None)
classes = ("circle", "square", "triangle", "star", "ring", "cross")
data = dict(data_root="{data}/", metainfo=dict(classes=classes))
resize = dict(type="Resize", scale=(224, 224), keep_ratio=False)
train_pipeline = [*_base_.train_pipeline[:2], resize, dict(type="PackDetInputs")]
test_pipeline = [_base_.test_pipeline[0], resize, _base_.test_pipeline[-1]]
one_process = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(batch_size=2, dataset=dict(pipeline=train_pipeline, indices=4, **data), **one_process)
val_dataloader = dict(batch_size=1, dataset=dict(pipeline=test_pipeline, **data), **one_process)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file="{data}/annotations/instances_val2017.json")
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=1, val_interval=1)
optim_wrapper = dict(optimizer=dict(lr=1e-4))
param_scheduler = []
visualizer = dict(vis_backends=[dict(type="LocalVisBackend")])
auto_scale_lr = dict(enable=False)
"""
SUITE_USE = """
from mmdet.apis import inference_detector, init_detector
detector = init_detector({config!r}, {checkpoint!r}, device="cpu")
assert (type(detector).__name__, detector.arch) == ("HarDNetSSD", "ssd224_hardnet29")
assert detector.neck.channels == [128, 192, 256, 256, 256, 256]
found = inference_detector(detector, {image!r}).pred_instances
assert found.bboxes.shape[1] == 4
print("done")
"""


def test_mmdets_tools_on_a_config_of_the_suite(tiny, site_folder, tmp_path):
    config = tmp_path / "derived.py"
    config.write_text(SUITE.format(root=ROOT, data=tiny[1]))
    script = ["train.py", str(config), "--work-dir", str(tmp_path)]
    code = f"import runpy, sys\nsys.argv = {script!r}\nrunpy.run_path({str(TRAIN)!r}, run_name='__main__')"
    run(code, tmp_path, site_folder)
    image = str(next((tiny[1] / "val2017").glob("*.jpg")))
    checkpoint = str(tmp_path / "epoch_1.pth")
    code = SUITE_USE.format(config=str(config), checkpoint=checkpoint, image=image)
    assert run(code, tmp_path, site_folder).endswith("done\n")


def arguments(trained: Path, tiny: tuple[Path, Path]) -> tuple[str, str, str]:
    image = next((tiny[1] / "val2017").glob("*.jpg"))
    return str(trained / "plain.py"), str(trained / "epoch_1.pth"), str(image)


def test_mmdets_train_script(trained):
    (scalars,) = trained.glob("*/vis_data/scalars.json")
    records = [json.loads(line) for line in scalars.read_text().splitlines()]
    losses = [record["loss"] for record in records if "loss" in record]
    assert len(losses) == 2
    assert all(0 < loss < 100 for loss in losses)
    assert any("coco/bbox_mAP" in record for record in records)
    assert (trained / "epoch_1.pth").stat().st_size > 1_000_000


def test_mmdets_inference_tools(trained, tiny, site_folder):
    code = USE.format(first="DetInferencer", arguments=arguments(trained, tiny)) + INFERENCER + INIT_DETECTOR
    assert run(code, trained, site_folder).endswith("done\n")


def test_mmdets_inference_tools_as_installed(trained, tiny):
    try:
        importlib.metadata.distribution("hardnet-suite")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("hardnet-suite is not installed")
    code = USE.format(first="init_detector", arguments=arguments(trained, tiny)) + INIT_DETECTOR
    assert run(code, trained).endswith("done\n")


SHIPPED = ROOT / "hardnet_suite/weights/shipped"
BOXES = """
inferencer = DetInferencer(config, checkpoint, device="cpu", show_progress=False)
found = inferencer(image)["predictions"][0]
assert tuple(inferencer.model.dataset_meta["classes"]) == ("RBC", "WBC", "Platelets")

import numpy as np
from hardnet_suite import predict
(ours,) = predict(config, image, weights=checkpoint, score=0.01)
assert len(found["bboxes"]) == len(ours.boxes) > 0
assert found["labels"] == ours.labels.tolist()
np.testing.assert_allclose(found["bboxes"], ours.boxes, rtol=0, atol=0.01)
np.testing.assert_allclose(found["scores"], ours.scores, rtol=0, atol=1e-4)
print("done")
"""
MASKS = """
inferencer = MMSegInferencer(config, checkpoint, device="cpu")
found = inferencer(image, return_vis=False)["predictions"]
meta = inferencer.model.dataset_meta
assert (meta["classes"][0], list(meta["palette"][0])) == ("Sky", [128, 128, 128])

from hardnet_suite import predict
(ours,) = predict(config, image, weights=checkpoint)
assert found.shape == ours.mask.shape
assert (found != ours.mask).mean() < 0.001
assert len(ours.names) > 1
print("done")
"""


@pytest.mark.parametrize(
    ("package", "first", "config", "code"),
    [
        ("mmdet", "DetInferencer", "ssd320_hardnet39ds_bccd", BOXES),
        ("mmseg", "MMSegInferencer", "fchardnet70_camvid", MASKS),
    ],
)
def test_inferencers_on_configs_and_weights_of_the_suite(
    package, first, config, code, tiny, site_folder, tmp_path
):
    image = str(next((tiny[1] / "val2017").glob("*.jpg")))
    arguments = (str(ROOT / f"configs/{config}.py"), str(SHIPPED / f"{config}.safetensors"), image)
    code = USE.replace("mmdet", package).format(first=first, arguments=arguments) + code
    assert run(code, tmp_path, site_folder).endswith("done\n")


RESUME = """
import sys
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader, load_checkpoint
log = HistoryBuffer([1.5, 2.5], [1, 1])
content = {"state_dict": {"weight": torch.ones(2, 3)}, "meta": {"epoch": 1, "config": "raise SystemExit(3)"},
           "message_hub": {"log_scalars": {"train/loss": log}, "runtime_info": {}, "resumed_keys": {}}}
torch.save(content, "epoch_1.pth")
found = CheckpointLoader.load_checkpoint("epoch_1.pth", map_location="cpu")
buffer = found["message_hub"]["log_scalars"]["train/loss"]
assert type(buffer) is HistoryBuffer and buffer.mean() == 2.0, buffer
assert found["meta"] == {"epoch": 1}, found["meta"]  # the config is a program
layer = torch.nn.Linear(3, 2, bias=False)
load_checkpoint(layer, "epoch_1.pth")
assert torch.equal(layer.weight, torch.ones(2, 3))
assert "hardnet_suite.openmm" not in sys.modules
print("done")
"""
OTHERS_FILES = """
import torch
from mmengine.runner import CheckpointLoader
torch.save({"weight": torch.ones(2), "other": {"a": [1, "b"]}}, "plain.pth")
assert CheckpointLoader.load_checkpoint("plain.pth")["other"] == {"a": [1, "b"]}
class Program:
    def __reduce__(self):
        return print, ("it ran",)
torch.save({"weight": Program()}, "program.pth")
try:
    CheckpointLoader.load_checkpoint("program.pth")
except Exception as error:
    print(type(error).__name__, "|", type(error.__cause__).__name__, error.__cause__)
print("done")
"""
OLD_NAMES = """
import sys
import numpy
from mmdet.evaluation.functional import ytviseval
from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling as instances
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as pixels
assert ytviseval.np.zeros(2).astype(dtype=ytviseval.np.float).dtype == numpy.float64
for module in (instances, pixels):
    assert module.np.in1d([1, 2, 3], [2], invert=True).tolist() == [True, False, True]
    assert module.np.arange is numpy.arange
import inspect
assert "np.in1d" in inspect.getsource(pixels)
assert not hasattr(numpy, "float"), "others' programs see NumPy as it is"
assert "hardnet_suite.openmm" not in sys.modules
print("done")
"""


def test_checkpoints_of_a_run_load_without_an_import_of_ours(tmp_path, site_folder):
    assert run(RESUME, tmp_path, site_folder).endswith("done\n")


def test_other_files_are_left_to_mmengine(tmp_path, site_folder):
    refused, done = run(OTHERS_FILES, tmp_path, site_folder).splitlines()[-2:]
    assert refused.startswith("UnpicklingError | UserError ")
    assert "could run code" in refused
    assert done == "done"


NEWER = """
import sys
{modules}
repairs = sys.modules["_hardnet_suite_repairs"]
assert {{*repairs.REPAIRS}} <= {{*sys.modules}}
print("done")
"""


def test_releases_without_what_is_repaired_are_imported(tmp_path, site_folder):
    """Modules of the same names, empty: the start-up hook must not break what it does not know."""
    for name in repairs.REPAIRS:
        path = tmp_path.joinpath(*name.split(".")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    modules = "\n".join(f"import {name}" for name in repairs.REPAIRS)
    assert run(NEWER.format(modules=modules), tmp_path, site_folder).endswith("done\n")


def test_the_hook_knows_the_packages_that_are_repaired():
    assert {*_hardnet_suite_mmcv.REPAIRED} == {name.partition(".")[0] for name in repairs.REPAIRS}


LIGHT = """
import sys
assert "_hardnet_suite_mmcv" in sys.modules
heavy = {"torch", "numpy", "hardnet_suite", "_hardnet_suite_repairs", "pickle", "pathlib"}
print(sorted(heavy & {*sys.modules}))
"""


def test_the_hook_imports_next_to_nothing():
    """Every program of the installation waits for it."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import _hardnet_suite_mmcv\n{LIGHT}"
    command = [sys.executable, "-I", "-S", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr


def test_evaluations_find_the_names_that_numpy_dropped(tmp_path, site_folder):
    """Where cityscapesScripts is not installed, two modules of its names are enough to see them repaired."""
    package = tmp_path / "cityscapesscripts" / "evaluation"
    package.mkdir(parents=True)
    for name in ("Instance", "Pixel"):
        (package / f"eval{name}LevelSemanticLabeling.py").write_text(
            "import numpy as np\n\n\ndef ignored(labels, void):\n    return np.in1d(labels, void)\n"
        )
    assert run(OLD_NAMES, tmp_path, site_folder).endswith("done\n")
