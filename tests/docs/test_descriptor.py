"""The Python blocks of docs/descriptor.md, in a folder with the files that they name."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import hardnet_suite
from hardnet_suite import create_model

TEXT = (Path(__file__).resolve().parents[2] / "docs/descriptor.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
KEYNET = "KeyNetDetector("


def picture(seed: int) -> np.ndarray:
    """(240, 320, 3) uint8, blobs of many sizes."""
    rng = np.random.default_rng(seed)
    image = np.full((240, 320, 3), 128, np.uint8)
    for _ in range(150):
        x, y, radius = rng.integers([0, 0, 3], [320, 240, 20]).tolist()
        cv2.circle(image, (x, y), radius, rng.integers(0, 256, 3).tolist(), -1)
    return image


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("graf", "photographs", "more"):
        Path(name).mkdir()
    cv2.imwrite("graf/1.png", picture(0))
    cv2.imwrite("a.jpg", picture(1))
    moved = np.float32([[1, 0.05, 4], [-0.05, 1, 6]])
    cv2.imwrite("b.jpg", cv2.warpAffine(picture(1), moved, (320, 240)))
    for seed in range(2, 6):
        cv2.imwrite(f"{'photographs' if seed < 5 else 'more'}/{seed}.jpg", picture(seed))
    cv2.imwrite("query.jpg", picture(3))
    run = Path("work_dirs/hardnet_descriptor_liberty")
    run.mkdir(parents=True)
    trained = create_model("hardnet_descriptor", pretrained="homography")
    torch.save(trained.state_dict(), run / "best_fpr95_epoch_10.pth")


def test_python_blocks_run(folder):
    namespace = {"hardnet_suite": hardnet_suite, "image": picture(1), "mask": None}
    for block in BLOCKS:
        if KEYNET not in block:
            exec(compile(block, "docs/descriptor.md", "exec"), namespace)


def test_the_block_of_keynet_runs(folder, shared):
    (block,) = (block for block in BLOCKS if KEYNET in block)
    weights = shared / "data" / "local_features"
    for name in re.findall(r'"([\w.]+\.pth)"', block):
        found = [path for path in weights.rglob("*") if path.name.lower() == name.lower()]
        if not found:
            pytest.skip(f"no {name} in {weights}")
        Path(name).write_bytes(found[0].read_bytes())
    exec(compile(block, "docs/descriptor.md", "exec"), {})
