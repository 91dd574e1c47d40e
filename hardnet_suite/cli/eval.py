"""``eval coco --annotations A.json --results R.json``, ``eval segmentation``, ``eval hpatches``, …."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from hardnet_suite.cli._options import set_threads, show
from hardnet_suite.cli.describe import add_descriptor_arguments, choose_descriptor_device
from hardnet_suite.data.coco import annotation_lines, read_coco
from hardnet_suite.data.coco.layout import read_json
from hardnet_suite.data.descriptors import (
    SUFFIXES,
    DescriptorFolder,
    is_descriptors,
    read_descriptors,
    require_described,
    write_descriptors,
)
from hardnet_suite.data.files import is_file
from hardnet_suite.data.patches import read_brown
from hardnet_suite.data.segmentation import LABEL_SETS
from hardnet_suite.errors import UserError
from hardnet_suite.evaluation.coco import COCO_BACKENDS, evaluate_coco, find_mistakes, require_backend
from hardnet_suite.evaluation.retrieval import (
    read_ground_truth,
    read_ranked,
    retrieval_ap,
    retrieval_table,
)
from hardnet_suite.evaluation.segmentation import evaluate_folders
from hardnet_suite.outputs import require_different, require_replaceable, write_file
from hardnet_suite.visualization.canvas import is_figure
from hardnet_suite.visualization.classification import CONFUSION, draw_confusion
from hardnet_suite.visualization.detection_charts import CHARTS, draw_detection_charts

_PROGRAM = "hardnet-suite eval"  # the mark of its reports


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    coco = kinds.add_parser("coco", help="score boxes or masks in COCO result format")
    coco.add_argument("--annotations", required=True, help="COCO annotation file")
    coco.add_argument("--results", required=True, help="COCO result file")
    coco.add_argument(
        "--masks", action="store_true", help="score the results' masks (segmentation) instead of their boxes"
    )
    coco.add_argument("--classwise", action="store_true", help="also print AP, AP50, AP75 and AR per class")
    coco.add_argument(
        "--backend",
        choices=COCO_BACKENDS,
        default="pycocotools",
        help="what computes the figures, which are the same (default: pycocotools)",
    )
    coco.set_defaults(score=_score_coco, charts=tuple(CHARTS.values()))

    segmentation = kinds.add_parser("segmentation", help="score label images")
    segmentation.add_argument("--annotations", required=True, type=Path, help="folder of true label images")
    segmentation.add_argument(
        "--predictions", required=True, type=Path, help="folder of predicted label images"
    )
    segmentation.add_argument(
        "--dataset", required=True, choices=("cityscapes", "camvid"), help="classes and stored values"
    )
    segmentation.add_argument(
        "--prediction-ids",
        choices=("trainIds", "labelIds"),
        default="trainIds",
        help="pixel values of the predictions: class indices (default) or Cityscapes' label ids",
    )
    segmentation.set_defaults(score=_score_segmentation, charts=(CONFUSION,))

    strips = kinds.add_parser("hpatches", help="score descriptors of HPatches strips")
    strips.add_argument(
        "descriptors",
        help="folder of SEQUENCE/ref.npz, SEQUENCE/e1.npz, … as describe writes them, or .csv, .txt",
    )
    strips.add_argument("--tasks", metavar="DIR", help="the folder tasks of hpatches-benchmark")
    strips.add_argument(
        "--split", help="a, b, c, full, illum, view, or one of --tasks (default: all sequences)"
    )
    strips.add_argument(
        "--only",
        nargs="+",
        metavar="TASK",
        help="verification, matching, retrieval (default: all with --tasks, else matching)",
    )
    strips.set_defaults(score=_score_hpatches, charts=(), plots=None)

    patches = kinds.add_parser(
        "patches", help="score a descriptor, or stored descriptors, on pairs of patches"
    )
    patches.add_argument(
        "data", nargs="+", type=Path, help="folders in Brown's layout: liberty, notredame, …"
    )
    patches.add_argument(
        "--pairs", type=int, metavar="N", help="use the file m50_N_N_0.txt (default: 100000, or the largest)"
    )
    patches.add_argument(
        "--stored", type=Path, metavar="FOLDER", help="score FOLDER/SET.npz (or .csv, .txt), without a model"
    )
    patches.add_argument(
        "--save", type=Path, metavar="FOLDER", help="write the descriptors to FOLDER/SET.npz"
    )
    add_descriptor_arguments(patches)
    patches.set_defaults(score=_score_patches, charts=(), plots=None, descriptor=None)

    retrieval = kinds.add_parser("retrieval", help="score rankings of images by the protocol of Oxford5k")
    retrieval.add_argument(
        "ranked", help="folder of QUERY.txt, one image per line, as search --ranked writes them"
    )
    retrieval.add_argument(
        "--ground-truth",
        required=True,
        metavar="DIR",
        help="folder of QUERY_query.txt, QUERY_good.txt, QUERY_ok.txt and QUERY_junk.txt",
    )
    retrieval.set_defaults(score=_score_retrieval, charts=(), plots=None)

    for kind in (coco, segmentation, strips, patches, retrieval):
        kind.add_argument("--out", help="write the scores to this file as JSON")
        kind.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
        )
    coco.add_argument(
        "--plots", type=Path, metavar="FOLDER", help="draw precision-recall curves and the confusion matrix"
    )
    segmentation.add_argument("--plots", type=Path, metavar="FOLDER", help="draw the confusion matrix")


def run(args: argparse.Namespace) -> None:
    if args.out is not None:
        require_replaceable(args.out, _is_report, writer="eval", option="--out")
    for name in args.charts if args.plots is not None else ():
        require_replaceable(args.plots / name, is_figure, writer="eval", option="--plots")
    if args.plots is not None:
        require_different({"--out": args.out, "--plots": [args.plots / name for name in args.charts]})
    figures = args.score(args)
    for name in args.charts if args.plots is not None else ():
        show(f"plot: {args.plots / name}")
    if args.out is not None:
        write_file(args.out, json.dumps({"program": _PROGRAM, **figures}, indent=2) + "\n")


def _is_report(path: Path) -> bool:
    """Whether a file is what an earlier run wrote."""
    try:
        return read_json(path)["program"] == _PROGRAM
    except (UserError, TypeError, KeyError):
        return False


def _score_coco(args: argparse.Namespace) -> dict[str, Any]:
    require_backend(args.backend)
    if args.masks and args.plots is not None:
        raise UserError("--plots counts confused boxes: leave out --masks, or --plots")
    annotations = read_coco(args.annotations)
    iou_type = "segm" if args.masks else "bbox"
    scores = evaluate_coco(annotations, args.results, backend=args.backend, iou_type=iou_type)
    for line in (*annotation_lines(annotations), *scores.warnings):
        show(line, sys.stderr)
    show(scores.table())
    if args.classwise:
        show(scores.class_table())
    if args.plots is not None:
        draw_detection_charts(scores, find_mistakes(annotations, args.results), args.plots)
    return scores.report()


def _score_segmentation(args: argparse.Namespace) -> dict[str, Any]:
    labels, prediction_labels = LABEL_SETS[args.dataset], None
    if args.prediction_ids == "labelIds":
        if args.dataset != "cityscapes":
            raise UserError(
                f"--prediction-ids labelIds exist for cityscapes only, {args.dataset} has trainIds"
            )
        prediction_labels = LABEL_SETS["cityscapes_ids"]
    scores = evaluate_folders(args.predictions, args.annotations, labels, prediction_labels=prediction_labels)
    show(scores.table(labels.classes))
    if labels.categories:
        show(scores.category_table())
    if args.plots is not None:
        draw_confusion(*scores.chart(labels.classes), args.plots / CONFUSION, unit="pixels")
    return scores.report(labels.classes)


def _score_hpatches(args: argparse.Namespace) -> dict[str, Any]:
    from hardnet_suite.evaluation.hpatches import TASKS, hpatches, hpatches_table  # with torch

    descriptors = DescriptorFolder(args.descriptors)
    if args.tasks is not None and args.split is None:
        raise UserError("--tasks needs --split: a, b, c, full, illum, view, or another one that it has")
    tasks = args.only or (TASKS if args.tasks is not None else ["matching"])
    try:
        results = hpatches(descriptors, args.tasks, args.split, tasks=tasks)
    except ValueError as error:  # descriptors of a type, or of sizes, that no distances are computed of
        raise UserError(f"{args.descriptors}: {error}") from None
    show(hpatches_table(results))
    if args.split is None:  # a split says which
        sequences = "the only sequence" if len(descriptors) == 1 else f"all {len(descriptors)} sequences"
        show(f"{sequences} of {args.descriptors}")
    return {"split": args.split, "sequences": None if args.split else list(descriptors), **results}


def _score_patches(args: argparse.Namespace) -> dict[str, Any]:
    for option in ("descriptor", "weights", "save", "device", "bf16") if args.stored is not None else ():
        if getattr(args, option):
            raise UserError(f"--stored scores without a model: leave out --{option}")
    folders = {_set_name(folder): _brown_folder(folder) for folder in args.data}
    if len(folders) < len(args.data):
        raise UserError("two folders of one name: score them one by one")
    if args.save is not None:
        saved = [args.save / f"{name}.npz" for name in folders]
        for path in saved:
            require_replaceable(path, is_descriptors, writer="eval", option="--save")
        require_different({"--out": args.out, "--save": saved})
    choose_descriptor_device(args)
    set_threads(args.threads)
    from hardnet_suite.evaluation.descriptor import fpr95, fpr95_table, pair_distances

    model = None
    if args.stored is None:
        from hardnet_suite.matching.patches import describe, digest_of, open_descriptor

        descriptor = args.descriptor or "hardnet_descriptor"
        model = open_descriptor(descriptor, weights=args.weights, bf16=args.bf16)
        show(f"weights: {model.weights}")
    rates, counts = {}, {}
    for name, folder in folders.items():
        patch_set = read_brown(folder, args.pairs)
        pairs = patch_set.pairs
        if pairs is None:
            raise UserError(f"{folder} has no pairs to score, such as m50_100000_100000_0.txt")
        if len(np.unique(pairs[:, 2])) < 2:
            raise UserError(f"{folder}: expected pairs that match and pairs that do not")
        if args.stored is not None:
            descriptors = _stored(args.stored, name, patch_set.patches)
        elif args.save is not None:
            descriptors = describe(model, patch_set.patches, bf16=args.bf16)
            write_descriptors(
                args.save / f"{name}.npz", descriptors, weights=digest_of(model), patches=patch_set.patches
            )
        else:  # those of the pairs alone
            used, places = np.unique(pairs[:, :2], return_inverse=True)
            descriptors = describe(model, patch_set.patches[used], bf16=args.bf16)
            pairs = np.column_stack([places.reshape(-1, 2), pairs[:, 2]])
        rates[name] = fpr95(pairs[:, 2], pair_distances(descriptors, pairs))
        counts[name] = len(pairs)
    mean = sum(rates.values()) / len(rates)
    show(fpr95_table(rates, counts))
    per_set = {name: {"fpr95": rate, "pairs": counts[name]} for name, rate in rates.items()}
    return {"metrics": {"fpr95": mean}, "per_set": per_set}


def _score_retrieval(args: argparse.Namespace) -> dict[str, Any]:
    queries = read_ground_truth(args.ground_truth)
    scores = retrieval_ap(read_ranked(args.ranked, queries), queries)
    show(retrieval_table(scores))
    return {"metrics": {"mAP": sum(scores.values()) / len(scores)}, "per_query": scores}


def _set_name(folder: Path) -> str:
    return Path(os.path.abspath(folder)).name


def _brown_folder(folder: Path) -> Path:
    """The folder of a set in Brown's layout: itself, or within what make-patches wrote."""
    if not folder.is_dir():
        raise UserError(f"no folder {folder}")
    for place in (folder, folder / "brown"):
        if is_file(place / "info.txt"):
            return place
    raise UserError(f"no patches in {folder}: expected info.txt and patches0000.bmp, …")


def _stored(folder: Path, name: str, patches: np.ndarray) -> np.ndarray:
    """The descriptors of a set, one per patch."""
    files = [path for path in (folder / f"{name}{suffix}" for suffix in SUFFIXES) if path.exists()]
    if len(files) != 1:
        found = " and ".join(path.name for path in files) or "none"
        raise UserError(f"{folder}: expected one of {name}.npz, {name}.csv and {name}.txt, found {found}")
    descriptors = read_descriptors(files[0])
    if len(descriptors) != len(patches):
        raise UserError(
            f"{files[0]} has {len(descriptors)} descriptors, expected one for each of {len(patches)} patches"
        )
    require_described(files[0], patches=patches)
    return descriptors
