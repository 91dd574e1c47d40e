"""Local features on image pairs with a known homography, in one Markdown table.

    python benchmarks/matching.py --sequences SEQUENCES --photographs FOLDER --weights homography best.pth \
        --hardtfeat HardTFeat.pth --keynet keynet_pytorch.pth --affnet AffNet.pth --orinet OriNet.pth \
        --aliked aliked-n16.pth --xfeat xfeat.onnx

Pairs are image 1 and each other image of a sequence (HPatches' or Oxford's layout), and photographs with a
random view of them in another light (``data.views``). Every method gets the same images, no longer than
``--size``, and at most ``--keypoints`` keypoints each; matches are mutual nearest neighbours (``--ratio``),
and the homography is ``matching.estimate_geometry``'s. Methods take turns on every pair, and a time is the
median over the pairs of both images' features, their matches and the homography.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import hardtfeat
import numpy as np
import torch

from hardnet_suite.data.homography import read_sequences
from hardnet_suite.data.images import IMAGE_SUFFIXES, to_grey
from hardnet_suite.data.patch_frames import create_sift, cut_patches
from hardnet_suite.data.views import change_light, random_homography, warp_image
from hardnet_suite.errors import UserError
from hardnet_suite.evaluation.geometry import (
    homography_auc,
    homography_error,
    inlier_count,
    mean_matching_accuracy,
)
from hardnet_suite.matching import HardNetDetector, KeyNetDetector, estimate_geometry, mutual_matches
from hardnet_suite.matching.images import read_image
from hardnet_suite.matching.keynet import fill_published
from hardnet_suite.matching.sift import root_sift
from hardnet_suite.outputs import write_file

THRESHOLDS = (1, 3, 5, 10)
XFEAT_SIDE = 640  # pixels of its ONNX file's input

Method = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""(H, W, 3) uint8 RGB -> (N, 2) points and (N, D) descriptors."""


@dataclass(frozen=True)
class Pair:
    """Two images (H, W, 3) uint8 RGB, and the homography that maps the first to the second."""

    group: str
    first: np.ndarray
    second: np.ndarray
    homography: np.ndarray


def sequence_pairs(root: str, longest: int) -> Iterator[Pair]:
    for sequence in read_sequences(root):
        first, scaling = _reduced(read_image(sequence.images[0])[1], longest)
        for path, homography in zip(sequence.images[1:], sequence.homographies, strict=True):
            second, other_scaling = _reduced(read_image(path)[1], longest)
            yield Pair("sequences", first, second, other_scaling @ homography @ np.linalg.inv(scaling))


def warped_pairs(folder: str, count: int, longest: int, seed: int) -> Iterator[Pair]:
    paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise UserError(f"no images in {folder}")
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        grey = to_grey(_reduced(read_image(paths[index % len(paths)])[1], longest)[0])
        homography = random_homography(*grey.shape[::-1], rng)
        view = change_light(warp_image(grey, homography), rng)
        yield Pair("warps", _rgb(grey), _rgb(view), homography)


def _rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[:, :, None], 3, 2)


def _reduced(image: np.ndarray, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """The image with at most so many pixels a side, and the (3, 3) scaling of its points."""
    height, width = image.shape[:2]
    factor = min(1.0, longest / max(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    x, y = size[0] / width, size[1] / height
    scaling = np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]])  # pixel centres at integers
    return (image if factor == 1 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)), scaling


def rootsift(image: np.ndarray, keypoints: int) -> tuple[np.ndarray, np.ndarray]:
    sift = create_sift()
    found = sorted(sift.detect(to_grey(image)), key=lambda point: -point.response)[:keypoints]
    if not found:
        return np.zeros((0, 2), np.float32), np.zeros((0, 128), np.float32)
    found, descriptors = sift.compute(to_grey(image), found)
    return np.array([point.pt for point in found], np.float32), root_sift(descriptors)


def with_hardnet(detector: HardNetDetector, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    features = detector.features(image)
    return features.keypoints.xy, features.descriptors


def with_hardtfeat(
    detector: HardNetDetector, network: torch.nn.Module, image: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """HardTFeat of the patches that HardNet gets."""
    frames = detector.detect_lafs(image)[0].double().numpy()
    if not len(frames):
        return np.zeros((0, 2), np.float32), np.zeros((0, 128), np.float32)
    descriptors = hardtfeat.describe(network, cut_patches(to_grey(image), frames))
    return frames[:, :, 2].astype(np.float32), descriptors


def load_aliked(file: str, keypoints: int) -> torch.nn.Module:
    """The strongest keypoints, without a threshold."""
    feature = _kornia("ALIKED")
    network = feature.ALIKED("aliked-n16", max_num_keypoints=keypoints, detection_threshold=0)
    fill_published(network, file, "ALIKED-n16", computed=["dkd.hw_grid"])
    return network.eval()


@torch.inference_mode()
def aliked(network: torch.nn.Module, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    (features,) = network(_tensor(image))
    return features.keypoints.numpy(), features.descriptors.numpy()


class OnnxNetwork(torch.nn.Module):
    """XFeat's network from its ONNX file: (1, 3, 640, 640) -> features, keypoint logits, reliability."""

    def __init__(self, file: str):
        super().__init__()
        try:
            import onnxruntime
        except ImportError:
            raise UserError("XFeat's file needs onnxruntime: pip install onnxruntime") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self.session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise UserError(f"{file} is not an ONNX file: {str(error).splitlines()[0]}") from None
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        side = XFEAT_SIDE // 8
        shapes = [[1, channels, side, side] for channels in (64, 65, 1)]
        if [each.shape for each in inputs] != [[1, 3, XFEAT_SIDE, XFEAT_SIDE]] or [
            each.shape for each in outputs
        ] != shapes:
            raise UserError(f"{file} is not XFeat for images of {XFEAT_SIDE}×{XFEAT_SIDE} pixels")
        self.input = inputs[0].name

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs = self.session.run(None, {self.input: image.numpy()})
        return tuple(torch.from_numpy(values) for values in outputs)


def load_xfeat(file: str) -> Any:
    """Kornia's XFeat, which finds keypoints in the maps, with the file's network."""
    network = _kornia("XFeat").XFeat().eval()
    network.net = OnnxNetwork(file)
    return network


def xfeat(network: Any, keypoints: int, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The image stays as it is, and is continued by its reflection to the size that the file takes."""
    height, width = image.shape[:2]
    padded = np.pad(image, ((0, XFEAT_SIDE - height), (0, XFEAT_SIDE - width), (0, 0)), mode="symmetric")
    (found,) = network.detectAndCompute(_tensor(padded), top_k=XFEAT_SIDE**2)
    points, descriptors = found["keypoints"].numpy(), found["descriptors"].numpy()
    inside = np.flatnonzero((points < [width, height]).all(1))[:keypoints]  # the best first
    return points[inside], descriptors[inside]


def _tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None].float() / 255


def _kornia(name: str) -> Any:
    try:
        import kornia.feature
    except ImportError:
        raise UserError(f"{name} needs Kornia: pip install 'kornia>=0.9'") from None
    if not hasattr(kornia.feature, name):
        raise UserError(f"this Kornia has no {name}: pip install 'kornia>=0.9'")
    return kornia.feature


def methods(args: argparse.Namespace) -> dict[str, Method]:
    functions: dict[str, Method] = {"RootSIFT": partial(rootsift, keypoints=args.keypoints)}
    detectors = {}
    for source in args.weights:
        from hardnet_suite.matching import load_descriptor

        name = Path(source).stem
        detectors[f" {name}" if len(args.weights) > 1 else ""] = load_descriptor(weights=source, device="cpu")
    options = {"top_k": args.keypoints, "channels": "rgb"}
    if args.hardtfeat is not None:
        sift = HardNetDetector(next(iter(detectors.values())), **options) if detectors else None
        if sift is None:
            from hardnet_suite import create_model

            sift = HardNetDetector(create_model("hardnet_descriptor"), **options)  # its keypoints alone
        network = hardtfeat.load_hardtfeat(args.hardtfeat)
        functions["SIFT + HardTFeat"] = partial(with_hardtfeat, sift, network)
    keynet = None
    if args.keynet is not None:
        keynet = KeyNetDetector(args.keynet, affnet=args.affnet, orinet=args.orinet)
    elif args.affnet or args.orinet:
        raise UserError("--affnet and --orinet are for the keypoints of --keynet")
    for name, model in detectors.items():
        functions[f"SIFT + HardNet{name}"] = partial(with_hardnet, HardNetDetector(model, **options))
        if keynet is not None:
            parts = "".join(
                f" + {label}"
                for label, file in (("AffNet", args.affnet), ("OriNet", args.orinet))
                if file is not None
            )
            functions[f"Key.Net{parts} + HardNet{name}"] = partial(
                with_hardnet, HardNetDetector(model, detector=keynet, **options)
            )
    if keynet is not None and not detectors:
        raise UserError("--keynet finds keypoints for HardNet: give --weights, too")
    if args.aliked is not None:
        functions["ALIKED-n16"] = partial(aliked, load_aliked(args.aliked, args.keypoints))
    if args.xfeat is not None:
        if args.size > XFEAT_SIDE:
            raise UserError(f"XFeat's file takes images of up to {XFEAT_SIDE} pixels, got --size {args.size}")
        functions["XFeat"] = partial(xfeat, load_xfeat(args.xfeat), args.keypoints)
    return functions


def measure(method: Method, pair: Pair, ratio: float | None) -> dict[str, float]:
    start = time.perf_counter()
    (points_a, a), (points_b, b) = method(pair.first), method(pair.second)
    matches, _ = mutual_matches(a, b, ratio)
    points_a, points_b = points_a[matches[:, 0]], points_b[matches[:, 1]]
    geometry = estimate_geometry(points_a, points_b, "homography")
    milliseconds = 1000 * (time.perf_counter() - start)
    height, width = pair.first.shape[:2]
    estimate = None if geometry is None else geometry.matrix
    return {
        "error": homography_error(estimate, pair.homography, (width, height)),
        "inliers": inlier_count(points_a, points_b, pair.homography, 3),
        "mma": float(mean_matching_accuracy(points_a, points_b, pair.homography, [3])[0]),
        "keypoints": (len(a) + len(b)) / 2,
        "ms": milliseconds,
    }


def summary(scores: list[dict[str, float]]) -> dict[str, float]:
    columns = {key: [score[key] for score in scores] for key in scores[0]}
    areas = homography_auc(columns["error"], THRESHOLDS)
    return {
        **{f"AUC@{limit}": 100 * float(area) for limit, area in zip(THRESHOLDS, areas, strict=True)},
        "inliers": float(np.mean(columns["inliers"])),
        "MMA@3": 100 * float(np.mean(columns["mma"])),
        "keypoints": float(np.mean(columns["keypoints"])),
        "ms": float(np.median(columns["ms"])),
    }


def markdown(results: dict[str, dict[str, dict[str, float]]], counts: dict[str, int]) -> str:
    keys = list(next(iter(next(iter(results.values())).values())))
    lines = [
        "| pairs | method | " + " | ".join("ms/pair" if key == "ms" else key for key in keys) + " |",
        "|---|---|" + "---:|" * len(keys),
    ]
    for group, rows in results.items():
        for name, row in rows.items():
            cells = [
                f"{row[key]:.1f}" if key.startswith(("AUC", "MMA")) else f"{row[key]:.0f}" for key in keys
            ]
            lines.append(f"| {counts[group]} {group} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sequences", metavar="FOLDER", help="a sequence with homographies, or several")
    parser.add_argument("--photographs", metavar="FOLDER", help="of images to make random views of")
    parser.add_argument("--pairs", type=int, default=20, help="of random views (default 20)")
    parser.add_argument("--weights", nargs="+", default=[], help="of HardNet: tags, files or runs' folders")
    for name in ("hardtfeat", "keynet", "affnet", "orinet", "aliked", "xfeat"):
        parser.add_argument(f"--{name}", metavar="FILE", help="published weights of this peer")
    parser.add_argument("--keypoints", type=int, default=2048, help="per image at most (default 2048)")
    parser.add_argument("--size", type=int, default=640, help="longest side in pixels (default 640)")
    parser.add_argument("--ratio", type=float, default=1.0, help="nearest to second nearest (default 1: any)")
    parser.add_argument("--seed", type=int, default=0, help="of the random views")
    parser.add_argument("--threads", type=int, help="of the CPU (default: torch's)")
    parser.add_argument("--json", metavar="FILE", help="write the scores, those of every pair included")
    args = parser.parse_args(argv)
    if min(args.pairs, args.keypoints, args.size) < 1 or not 0 < args.ratio <= 1:
        raise UserError("--pairs, --keypoints and --size must be at least 1, --ratio above 0 and at most 1")
    if args.json is not None and Path(args.json).exists():
        raise UserError(f"{args.json} exists: move it away, or choose another --json")
    if args.sequences is None and args.photographs is None:
        raise UserError("no pairs: give --sequences or --photographs")
    if args.threads:
        torch.set_num_threads(args.threads)
    cv2.setNumThreads(torch.get_num_threads())
    torch.set_flush_denormal(True)
    functions = methods(args)
    pairs = [] if args.sequences is None else list(sequence_pairs(args.sequences, args.size))
    if args.photographs is not None:
        pairs += warped_pairs(args.photographs, args.pairs, args.size, args.seed)

    ratio = None if args.ratio == 1 else args.ratio
    for function in functions.values():
        function(pairs[0].first)  # first calls are slower
    scores: dict[str, dict[str, list]] = {pair.group: {name: [] for name in functions} for pair in pairs}
    names = list(functions)
    for index, pair in enumerate(pairs):
        for name in names[index % len(names) :] + names[: index % len(names)]:
            scores[pair.group][name].append(measure(functions[name], pair, ratio))
    results = {
        group: {name: summary(rows) for name, rows in methods.items()} for group, methods in scores.items()
    }
    counts = {group: len(next(iter(rows.values()))) for group, rows in scores.items()}
    setting = {
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        **{key: getattr(args, key) for key in ("keypoints", "size", "ratio", "seed", "weights")},
    }
    print(markdown(results, counts))
    print(f"\n{', '.join(f'{key} {value}' for key, value in setting.items())}")
    if args.json is not None:
        for rows in scores.values():
            for row in (row for each in rows.values() for row in each):
                row["error"] = row["error"] if np.isfinite(row["error"]) else None  # JSON has no infinity
        content = {"setting": setting, "scores": results, "pairs": scores}
        write_file(args.json, json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
