"""The score of a config against the share of its training data, as a Markdown table.

    python benchmarks/learning_curve.py hardnet39ds_tiny_imagenet10 --metric top1 \
        --data-root data/tiny_imagenet10 --out work_dirs/learning_curve

Each share is trained for as many iterations as all images would be: the drawn images are repeated, and some
of them once more for the rest. With the same seed, the images of a smaller share are among those of a larger
one; classes of a classification data set keep their shares. The config's validation split selects the
checkpoint, and its test split is scored once per run. Arguments after ``--`` go to ``train``. Finished runs
are not repeated, and an interrupted one resumes.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from hardnet_suite.errors import UserError
from hardnet_suite.openmm.data.classification import ClassificationDataset
from hardnet_suite.openmm.run.configs import load_config, parse_options, set_data_root
from hardnet_suite.outputs import write_file

DONE = "metrics.json"
ASKED = "asked.json"  # what a run's folder is of


def draw(groups: Sequence[int], share: float, seed: int) -> list[int]:
    """Draws items, of each group the same share and at least one.

    Args:
        groups: (N,) group of each item.
        share: in (0, 1].
        seed: of the order in which items are taken.

    Returns:
        Their indices, rising. Those of a smaller share are among those of a larger one.
    """
    if not 0 < share <= 1:
        raise UserError(f"a share must be above 0 and at most 1, got {share:g}")
    order = np.random.default_rng(seed).permutation(len(groups))
    groups = np.asarray(groups)[order]
    kept = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    kept = [items[: max(1, round(share * len(items)))] for items in kept]
    return sorted(order[np.concatenate(kept)].tolist())


def require_whole(images: Any, cfg: Any) -> None:
    """UserError where a data set of the config is a part already."""
    if images.get("indices") is not None:
        raise UserError(f"{cfg.filename}: indices are set for the training images, remove them")


def images_of(cfg: Any) -> tuple[Any, int]:
    """The data set of the training images, and how many wrappers of one data set are around it.

    Raises:
        UserError: its images are a part already, or it joins several data sets.
    """
    dataset, depth = cfg.train_dataloader.dataset, 0
    while dataset.get("dataset") is not None:
        dataset, depth = dataset.dataset, depth + 1
    if dataset.get("datasets") is not None:
        raise UserError(f"{cfg.filename}: the training images are of {len(dataset.datasets)} data sets")
    require_whole(dataset, cfg)
    return dataset, depth


def inside(depth: int, dataset: dict[str, Any]) -> dict[str, Any]:
    """What a config sets of ``train_dataloader`` for a data set with that many wrappers around it."""
    for _ in range(depth + 1):
        dataset = {"dataset": dataset}
    return dataset


def groups_of(cfg: Any) -> list[int]:
    """The class of each training image of a classifier; 0 for each of another model."""
    init_default_scope(cfg.get("default_scope", "mmengine"))
    images, _ = images_of(cfg)
    data = DATASETS.build({**images, "pipeline": []})
    if not isinstance(data, ClassificationDataset):
        return [0] * len(data)
    return [data.get_data_info(index)["label"] for index in range(len(data))]


def repeated(groups: Sequence[int], share: float, seed: int) -> list[tuple[int, list[int]]]:
    """A share of the items, repeated up to the number of all.

    Args:
        groups: (N,) group of each item.
        share: in (0, 1].
        seed: as for ``draw``.

    Returns:
        How often, and which items: those of the share as often as all of them fit into N, then a part of
        them once for the rest.
    """
    kept = draw(groups, share, seed)
    times, rest = divmod(len(groups), len(kept))
    parts = [(times, kept)]
    if rest:
        parts.append((1, draw(groups, rest / len(groups), seed)))
    return parts


def write_config(cfg: Any, path: Path, parts: Sequence[tuple[int, Sequence[int]]]) -> None:
    """Writes a config of ``cfg`` with some of the training images, as often in an epoch as ``parts`` say."""
    innermost, depth = images_of(cfg)
    images = innermost.to_dict()
    repeats = [
        {"type": "RepeatDataset", "times": times, "dataset": {**images, "indices": list(indices)}}
        for times, indices in parts
    ]
    joined = repeats[0] if len(repeats) == 1 else {"type": "ConcatDataset", "datasets": repeats}
    loader = inside(depth, {"_delete_": True, **joined})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(
        path,
        f"_base_ = {str(Path(cfg.filename).resolve())!r}\ntrain_dataloader = {loader!r}\n",
    )


def run(command: Sequence[str]) -> None:
    """Runs a command to its end; SIGTERM and Ctrl+C are passed on: a training writes its checkpoint first.

    Raises:
        SystemExit: the command failed, or the program was asked to end, also where the command was through
            before it noticed.
    """
    asked: list[int] = []
    children: list[subprocess.Popen] = []

    def end(number: int, _: object) -> None:
        asked.append(number)
        for child in children:
            child.send_signal(number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        # in a session of its own, as a terminal would send Ctrl+C to the command, too: two end it at once
        children.append(subprocess.Popen(command, start_new_session=True))
        if asked:  # before there was a command
            children[0].send_signal(asked[0])
        code = children[0].wait()
    finally:
        for number, handle in before.items():
            signal.signal(number, handle)
    if asked and code == 0:
        code = 128 + asked[0]
    if code:
        raise SystemExit(code if code > 0 else 128 - code)


def score(config: Path, folder: Path, options: Sequence[str], train_options: Sequence[str]) -> dict[str, Any]:
    """Trains and tests what is not done yet; the figures of ``test``.

    The folder keeps what was asked for, so that figures of other options are never taken for these.

    Args:
        config: as ``write_config`` writes it.
        folder: of the run.
        options: of ``train`` and ``test``.
        train_options: of ``train`` alone.

    Raises:
        UserError: the folder is of a run with another config or other options.
    """
    asked = {
        "config": repr(Config.fromfile(config).to_dict()),  # with what it inherits
        "options": list(options),
        "train_options": list(train_options),
    }
    if not folder.exists():
        folder.mkdir(parents=True)
        write_file(folder / ASKED, json.dumps(asked))
    if not (folder / ASKED).is_file() or json.loads((folder / ASKED).read_text(encoding="utf-8")) != asked:
        raise UserError(f"{folder} is of a run with another config or other options: choose another --out")
    if not (folder / DONE).is_file():
        command = [sys.executable, "-m", "hardnet_suite"]
        options = ["--work-dir", str(folder), *options]
        run([*command, "train", str(config), "--resume", *options, *train_options])
        run([*command, "test", str(config), str(folder), *options])
    return json.loads((folder / DONE).read_text(encoding="utf-8"))["metrics"]


def table(scores: dict[float, list[float]], images: dict[float, int], metric: str) -> str:
    """One row per share: images, the mean of the metric, and each seed's where there are several."""
    lines = [f"| share | images | {metric} |", "|---:|---:|---:|"]
    for share, values in sorted(scores.items()):
        each = f" ({', '.join(f'{value:.3f}' for value in values)})" if len(values) > 1 else ""
        lines.append(f"| {100 * share:g} % | {images[share]} | {mean(values):.3f}{each} |")
    return "\n".join(lines)


def parser_of_runs(description: str | None) -> argparse.ArgumentParser:
    """The arguments of a program that trains a config several times."""
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s [options] config [-- options of train]",
    )
    parser.add_argument("config", help="a path or a name")
    parser.add_argument("--data-root", help="folder of the data")
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and the table")
    return parser


def split_arguments(arguments: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """The arguments before and after ``--``, as argparse gives the latter to an option with several values.

    Args:
        arguments: None: those of the command line.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    end = given.index("--") if "--" in given else len(given)
    return given[:end], given[end + 1 :]


def read_configs(args: argparse.Namespace) -> tuple[Any, Any, list[str]]:
    """The config of the command line, the same on its data, and the options that say where these are."""
    cfg = load_config(args.config, parse_options(args.cfg_options))
    data, options = cfg.copy(), []
    if args.data_root:
        set_data_root(data, args.data_root)
        options = ["--data-root", args.data_root]
    return cfg, data, options


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of_runs(__doc__)
    parser.add_argument("--metric", required=True, help="of metrics.json, as top1, coco/bbox_AP50 or mIoU")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.05, 0.1, 0.25, 0.5, 1.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    own, train_options = split_arguments(arguments)
    args = parser.parse_args(own)

    cfg, data, options = read_configs(args)
    # what is set for the training images is in the config that is written
    _, depth = images_of(cfg)
    key = ".".join(["train_dataloader", *["dataset"] * (depth + 1), ""])
    rest = [option for option in args.cfg_options if not option.startswith(key)]
    options += ["--cfg-options", *rest] if rest else []
    groups = groups_of(data)
    scores: dict[float, list[float]] = {share: [] for share in args.shares}
    images = {}
    for seed in args.seeds:
        for share in scores:
            parts = repeated(groups, share, seed)
            images[share] = len(parts[0][1])
            folder = args.out / f"share-{share:g}-seed-{seed}"
            config = args.out / f"{folder.name}.py"
            write_config(cfg, config, parts)
            figures = score(config, folder, options, [*train_options, "--seed", str(seed)])
            if args.metric not in figures:
                raise UserError(f"no metric {args.metric!r}; there are {', '.join(figures)}")
            scores[share].append(figures[args.metric])
    text = table(scores, images, args.metric)
    write_file(args.out / "learning_curve.md", text + "\n")
    print(text)


if __name__ == "__main__":
    main()
