"""A tiny drawn data set, and a config that trains the smallest SSD on it with the full augmentation."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hardnet_suite.data.shapes import write_shapes

ROOT = Path(__file__).resolve().parents[2]

TINY = """
_base_ = "{root}/configs/demo_ssd224_shapes.py"
mean = [104.0, 117.0, 123.0]
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="PhotoMetricDistortion"),
    dict(type="Expand", mean=mean, to_rgb=False, ratio_range=(1, 4)),
    dict(type="MinIoURandomCrop", min_ious=(0.1, 0.3, 0.5, 0.7, 0.9), min_crop_size=0.3),
    dict(type="Resize", scale=(224, 224), keep_ratio=False),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
train_dataloader = dict(batch_size=2, num_workers=2, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False)
test_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False)
train_cfg = dict(max_epochs=2, val_interval=2)
visualizer = dict(vis_backends=[dict(type="LocalVisBackend")])
default_hooks = dict(checkpoint=dict(every_iters=4, save_best=None))
custom_hooks = [*_base_.custom_hooks, dict(type="EMAHook", momentum=0.1)]
"""


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> tuple[Path, Path]:
    """(config file, data folder): 12 training images, 3 held out."""
    folder = tmp_path_factory.mktemp("tiny")
    config = folder / "tiny.py"
    config.write_text(TINY.format(root=ROOT))
    return config, write_shapes(folder / "shapes", train=12, val=3, size=128)


@pytest.fixture(scope="session")
def launch():
    """Starts ``python ARGS…`` in the source tree with one thread, the same everywhere."""

    def start(*args: object, **options) -> subprocess.Popen:
        env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
        command = [sys.executable, *map(str, args)]
        return subprocess.Popen(
            command, env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
        )

    return start


@pytest.fixture(scope="session")
def run(launch):
    """Runs ``python ARGS…`` to its end and returns its output; fails the test where it fails."""

    def finish(*args: object) -> str:
        process = launch(*args)
        output, _ = process.communicate(timeout=600)
        assert process.returncode == 0, output[-4000:]
        return output

    return finish
