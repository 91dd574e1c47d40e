"""Image retrieval, mAP by Oxford's protocol: VLAD and bag of words, with and without spatial verification.

The collection is made of a folder of photographs: of each object (a photograph), views through random
homographies in another light, among other photographs. A query is a region of one more view; images that show
more than 60 % of it are good, more than 25 % ok, others junk. The codebooks are of other photographs still.

    python benchmarks/retrieval.py PHOTOGRAPHS --codebook OTHERS --weights best.pth
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from hardnet_suite.data.images import IMAGE_SUFFIXES, read_grey, walk_files
from hardnet_suite.data.patch_frames import project_points
from hardnet_suite.data.views import change_light, random_homography, warp_image
from hardnet_suite.evaluation.retrieval import RetrievalQuery, image_stem, retrieval_ap
from hardnet_suite.matching import Features, HardNetDetector
from hardnet_suite.matching.index import build_index

_GRID = 20  # points per axis of a region, of which the visible ones are counted
_GOOD, _OK = 0.6, 0.25


class _Remembering(HardNetDetector):
    """Describes each image once, by name."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self._known: dict[str, Features] = {}

    def features(self, image: Any, mask: np.ndarray | None = None, *, name: str | None = None) -> Features:
        if name not in self._known:
            self._known[name] = super().features(image, mask, name=name)
        return self._known[name]


def collection(
    photographs: list[Path], objects: int, views: int, rng: np.random.Generator
) -> tuple[dict[str, Image.Image], dict[str, Image.Image], dict[str, RetrievalQuery]]:
    """Images by name, regions of queries by name, and the ground truth."""
    images, regions, truth = {}, {}, {}
    for path in photographs[objects:]:
        images[path.stem] = Image.fromarray(read_grey(path))
    for path in photographs[:objects]:
        photograph = read_grey(path)
        height, width = photograph.shape
        into_query = random_homography(width, height, rng)
        size = rng.uniform(0.5, 0.7, 2) * [width, height]
        left, top = corner = rng.uniform(0, 1, 2) * ([width, height] - size)
        region = (left, top, *(corner + size))
        view = Image.fromarray(change_light(warp_image(photograph, into_query), rng))
        regions[path.stem] = view.crop(tuple(map(round, region)))
        steps = np.linspace(0, 1, _GRID)
        points = corner + size * np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 2)
        points = project_points(points, np.linalg.inv(into_query))[0]
        seen = _within(points, width, height)
        sets: dict[str, set[str]] = {"good": set(), "ok": set(), "junk": set()}
        for number in range(views):
            homography = random_homography(width, height, rng)
            name = f"{path.stem}_view_{number}"
            images[name] = Image.fromarray(change_light(warp_image(photograph, homography), rng))
            visible = seen & _within(project_points(points, homography)[0], width, height)
            share = visible.mean()
            sets["good" if share > _GOOD else "ok" if share > _OK else "junk"].add(name)
        if sets["good"] | sets["ok"]:
            frozen = {kind: frozenset(names) for kind, names in sets.items()}
            truth[path.stem] = RetrievalQuery(path.stem, region, **frozen)
    return images, {name: regions[name] for name in truth}, truth


def _within(points: np.ndarray, width: int, height: int) -> np.ndarray:
    return ((points >= 0) & (points <= [width - 1, height - 1])).all(1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photographs", nargs="+", type=Path, help="folders of at least --objects photographs")
    parser.add_argument("--codebook", required=True, type=Path, help="folder of other photographs")
    parser.add_argument("--weights", help="a tag, a file or a run's folder (default: those in the package)")
    parser.add_argument("--objects", type=int, default=40)
    parser.add_argument("--views", type=int, default=3)
    parser.add_argument("--top-k", type=int, default=500, help="keypoints per image")
    parser.add_argument("--words", type=int, nargs=2, default=[64, 4096], help="of VLAD, of bag of words")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_flush_denormal(True)

    rng = np.random.default_rng(args.seed)
    photographs = [path for folder in args.photographs for path in walk_files(folder, IMAGE_SUFFIXES)]
    photographs = [photographs[index] for index in rng.permutation(len(photographs))]
    images, regions, truth = collection(photographs, args.objects, args.views, rng)
    detector = _Remembering(weights=args.weights, top_k=args.top_k, channels="rgb")
    print(f"weights: {detector.model.weights}")
    junk = sum(len(query.junk) for query in truth.values())
    print(f"{len(images)} images, {len(truth)} queries, {junk} junk images in all", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        for name, image in images.items():
            image.save(Path(folder, f"{name}.png"))
        print("| method | words | mAP, % | with verification | ms per query | with verification |")
        print("|---|---:|---:|---:|---:|---:|", flush=True)
        for method, words in zip(("vlad", "bow"), args.words, strict=True):
            others = build_index(str(args.codebook), detector=detector, method=method, words=words)
            index = build_index(folder, detector=detector, method=method, codebook=others.codebook)
            cells = [method, f"{words:,}"]
            times = []
            for verify in (False, True):
                ranked, seconds = {}, []
                for name, region in regions.items():
                    index.search(region, name=name, top=1)  # describes it, and builds what ranks
                    start = time.perf_counter()
                    hits = index.search(region, name=name, top=None, verify=verify)
                    seconds.append(time.perf_counter() - start)
                    ranked[name] = [image_stem(hit.name) for hit in hits]
                cells.append(f"{100 * statistics.mean(retrieval_ap(ranked, truth).values()):.1f}")
                times.append(f"{1000 * statistics.median(seconds):.0f}")
            print(f"| {' | '.join(cells + times)} |", flush=True)


if __name__ == "__main__":
    main()
