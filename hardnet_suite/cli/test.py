"""``test CONFIG [CHECKPOINT]``."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from hardnet_suite.cli._options import add_run_arguments, load_run_config
from hardnet_suite.data.segmentation import find_pairs, prediction_path
from hardnet_suite.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_arguments(parser)
    parser.add_argument("checkpoint", nargs="?", help="a file, or a run's folder; default: published weights")
    parser.add_argument(
        "--pretrained", action="store_true", help="the published weights, as without a checkpoint"
    )
    parser.add_argument("--flip", action="store_true", help="look at the mirror image too, and take the mean")
    parser.add_argument(
        "--scales",
        type=float,
        nargs="+",
        default=[1.0],
        metavar="S",
        help="segmentation: look at the image in these sizes, and take the mean (e.g. 0.75 1 1.25)",
    )
    parser.add_argument(
        "--format-only",
        action="store_true",
        help="segmentation: save predictions for a test server, without labels and scores",
    )
    parser.add_argument(
        "--show-dir",
        help="draw predictions beside the ground truth into this folder, and heat maps where there are some",
    )
    parser.add_argument(
        "--show-score", type=float, default=0.3, help="least score of a box drawn (default 0.3)"
    )


def run(args: argparse.Namespace) -> None:
    if args.pretrained and args.checkpoint:
        raise UserError(f"--pretrained is for the published weights: leave out {args.checkpoint}, or it")
    cfg = load_run_config(args)
    from hardnet_suite.openmm.data import parts
    from hardnet_suite.openmm.run import running

    part = next(parts.parts(cfg, ["test_dataloader"]), None)
    if args.show_dir and part is not None and part.task == "classification":
        raise UserError(
            "--show-dir is not for classifiers: hardnet-suite predict FOLDER --out DIR draws them"
        )
    work_dir = Path(cfg.work_dir)
    heatmaps, predictions = work_dir / "heatmaps", work_dir / "predictions"
    if running.is_main_process():
        for folder in (heatmaps, predictions):  # an earlier run's
            shutil.rmtree(folder, ignore_errors=True)
    options = running.TestOptions(
        heatmap_dir=heatmaps if args.show_dir else None,
        flip=args.flip,
        scales=tuple(args.scales),
        format_only=args.format_only,
    )
    _, images = running.test(cfg, args.checkpoint, options)
    if not running.is_main_process():
        return
    part = next(parts.parts(cfg, ["test_dataloader"]), None)
    print(f"figures: {work_dir / 'metrics.json'}")
    if cfg.test_evaluator.type == "ImageClassification":
        print(f"predictions: {work_dir / 'predictions.jsonl'}\nconfusion: {work_dir / 'confusion.png'}")
        return
    if part is None or part.task != "segmentation":
        print(f"detections: {work_dir / 'detections.json'}")
    else:
        print(f"predictions: {predictions}")
    if not args.show_dir:
        return
    if part is None or part.task != "segmentation":
        count = _draw_detections(part, args, images, work_dir / "detections.json", heatmaps)
    else:
        from hardnet_suite.visualization.segmentation import draw_segmentation_results

        pairs = dict(find_pairs(part.image_folder, part.label_folder, part.labels))
        ids = "labelIds" if args.format_only and part.labels.name == "cityscapes" else "trainIds"
        count = draw_segmentation_results(
            (
                (
                    image,
                    pairs[Path(image)],
                    predictions / prediction_path(image, part.image_folder, part.labels, ids),
                )
                for image in images
            ),
            part.labels,
            args.show_dir,
        )
    print(f"{count} images: {args.show_dir}")


def _draw_detections(
    part, args: argparse.Namespace, image_ids: list, detections: Path, heatmaps: Path
) -> int:
    from hardnet_suite.visualization.detection import draw_results
    from hardnet_suite.visualization.heatmap import draw_heatmaps

    place = part.annotation_file, detections, part.image_folder, args.show_dir
    count = draw_results(*place, image_ids=image_ids, least_score=args.show_score)
    if heatmaps.is_dir():
        place = part.annotation_file, heatmaps, part.image_folder, args.show_dir
        count += draw_heatmaps(*place, image_ids=image_ids)
    return count
