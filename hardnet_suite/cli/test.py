"""``test CONFIG [CHECKPOINT]``."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from hardnet_suite.cli._options import add_run_arguments, load_run_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_arguments(parser)
    parser.add_argument("checkpoint", nargs="?", help="a file, or a run's folder; default: published weights")
    parser.add_argument(
        "--show-dir",
        help="draw predictions beside the ground truth into this folder, and heat maps where there are some",
    )
    parser.add_argument("--show-score", type=float, default=0.3, help="least score drawn (default 0.3)")


def run(args: argparse.Namespace) -> None:
    cfg = load_run_config(args)
    from hardnet_suite.openmm import configs, running

    work_dir = Path(cfg.work_dir)
    heatmaps = work_dir / "heatmaps"
    if running.is_main_process():
        shutil.rmtree(heatmaps, ignore_errors=True)  # an earlier run's
    _, image_ids = running.test(cfg, args.checkpoint, heatmap_dir=heatmaps if args.show_dir else None)
    if not running.is_main_process():
        return
    print(f"figures: {work_dir / 'metrics.json'}\ndetections: {work_dir / 'detections.json'}")
    if args.show_dir:
        from hardnet_suite.visualization.detection import draw_results
        from hardnet_suite.visualization.heatmap import draw_heatmaps

        part = next(configs.coco_parts(cfg, ["test_dataloader"]))
        count = draw_results(
            part.annotation_file,
            work_dir / "detections.json",
            part.image_folder,
            args.show_dir,
            image_ids=image_ids,
            least_score=args.show_score,
        )
        if heatmaps.is_dir():
            count += draw_heatmaps(
                part.annotation_file, heatmaps, part.image_folder, args.show_dir, image_ids=image_ids
            )
        print(f"{count} pictures: {args.show_dir}")
