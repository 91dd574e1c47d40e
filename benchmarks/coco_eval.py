"""COCO figures by each backend on drawn detections, timed in turn, in a Markdown table.

    python benchmarks/coco_eval.py --images 5000

Every image has drawn boxes of 80 classes, some of them crowds, and 100 detections: jittered boxes and false
ones. A time is that of ``evaluate_coco`` on annotations and results in memory; "figures" is the part in which
the backend computes. The figures of all backends are compared.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
from typing import Any

import numpy as np

from hardnet_suite.data.coco import read_coco
from hardnet_suite.evaluation import coco
from hardnet_suite.evaluation.coco import COCO_BACKENDS, evaluate_coco
from hardnet_suite.timing import interleaved, median_ratio

CLASSES, SIDE = 80, 640


def drawn_detections(images: int, per_image: int, seed: int = 0) -> tuple[dict[str, Any], list[dict]]:
    """Annotations as COCO has them (7 boxes per image, 1 in 70 a crowd), and a detector's results."""
    random = np.random.default_rng(seed)
    boxes, results = [], []
    for image in range(1, images + 1):
        count = random.poisson(7)
        corners, sides = random.uniform(0, SIDE / 2, (count, 2)), random.lognormal(4, 1, (count, 2))
        true = np.hstack([corners, np.minimum(sides + 1, SIDE / 2)])
        labels = random.integers(1, CLASSES + 1, count)
        for box, label in zip(true, labels, strict=True):
            boxes.append(
                {
                    "id": len(boxes) + 1,
                    "image_id": image,
                    "category_id": int(label),
                    "bbox": box.tolist(),
                    "area": float(0.6 * box[2] * box[3]),
                    "iscrowd": int(random.random() < 1 / 70),
                }
            )
        near = random.integers(0, max(count, 1), min(3 * count, per_image))
        shift = random.normal(0, 0.08, (len(near), 4)) * true[near][:, [2, 3, 2, 3]]
        found = np.vstack([true[near] + shift, random.uniform(1, SIDE / 2, (per_image - len(near), 4))])
        found[:, 2:] = np.maximum(found[:, 2:], 1)
        classes = np.r_[labels[near], random.integers(1, CLASSES + 1, per_image - len(near))]
        scores = random.random(per_image)
        results += [
            {"image_id": image, "category_id": int(label), "bbox": box, "score": float(score)}
            for label, box, score in zip(classes, found.tolist(), scores, strict=True)
        ]
    annotations = {
        "images": [{"id": image, "width": SIDE, "height": SIDE} for image in range(1, images + 1)],
        "categories": [{"id": label, "name": f"class {label}"} for label in range(1, CLASSES + 1)],
        "annotations": boxes,
    }
    return annotations, results


def compare(images: int, per_image: int, rounds: int) -> str:
    """The table.

    Raises:
        AssertionError: a backend gives another figure.
    """
    annotations, results = drawn_detections(images, per_image)
    truth = read_coco(annotations)
    names = [name for name in COCO_BACKENDS if importlib.util.find_spec(name.replace("-", "_"))]
    scores: dict[str, coco.CocoScores] = {}
    parts: dict[str, list[float]] = {name: [] for name in names}
    run_backend = coco._run_backend

    def timed(name: str, *arguments: Any) -> Any:
        answer: list[Any] = []
        part = interleaved({name: lambda: answer.append(run_backend(name, *arguments))}, rounds=1, warmup=0)
        parts[name] += part[name]
        return answer[0]

    def evaluate(name: str) -> None:
        scores[name] = evaluate_coco(truth, results, backend=name)

    coco._run_backend = timed
    try:
        seconds = interleaved(
            {name: lambda name=name: evaluate(name) for name in names}, rounds=rounds, warmup=0
        )
    finally:
        coco._run_backend = run_backend
    reference = scores["pycocotools"].metrics
    lines = [
        f"{images} images, {len(annotations['annotations'])} boxes, {len(results)} detections; "
        f"median of {rounds} rounds, in turn",
        "",
        "| backend | seconds | × as fast | figures alone, s | × as fast | largest difference of the 12 |",
        "|---|---|---|---|---|---|",
    ]
    for name in names:
        metrics = scores[name].metrics
        difference = max(abs(metrics[key] - value) for key, value in reference.items())
        assert difference < 1e-9, f"{name}: {metrics} against {reference}"
        whole, part = (median_ratio(times["pycocotools"], times[name]) for times in (seconds, parts))
        lines.append(
            f"| {name} | {statistics.median(seconds[name]):.2f} | {whole:.1f} | "
            f"{statistics.median(parts[name]):.2f} | {part:.1f} | {difference:.1e} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=100, help="per image")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    print(compare(args.images, args.detections, args.rounds))
