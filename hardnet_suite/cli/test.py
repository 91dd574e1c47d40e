"""``test CONFIG [CHECKPOINT]``."""

from __future__ import annotations

import argparse
from pathlib import Path

from hardnet_suite.cli._options import add_run_arguments, load_run_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_arguments(parser)
    parser.add_argument("checkpoint", nargs="?", help="a file, or a run's folder; default: published weights")
    parser.add_argument("--show-dir", help="draw predictions beside the ground truth into this folder")
    parser.add_argument("--show-score", type=float, default=0.3, help="least score drawn (default 0.3)")


def run(args: argparse.Namespace) -> None:
    cfg = load_run_config(args)
    from hardnet_suite.openmm import configs, running

    _, image_ids = running.test(cfg, args.checkpoint)
    if not running.is_main_process():
        return
    work_dir = Path(cfg.work_dir)
    print(f"figures: {work_dir / 'metrics.json'}\ndetections: {work_dir / 'detections.json'}")
    if args.show_dir:
        from hardnet_suite.visualization.detection import draw_results

        part = next(configs.coco_parts(cfg, ["test_dataloader"]))
        count = draw_results(
            part.annotation_file,
            work_dir / "detections.json",
            part.image_folder,
            args.show_dir,
            image_ids=image_ids,
            least_score=args.show_score,
        )
        print(f"{count} pictures: {args.show_dir}")
