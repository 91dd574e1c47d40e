"""The score of a segmentation config on images of a place, video or camera that it was not trained on.

    python benchmarks/leave_group_out.py fchardnet70_camvid --group '[^_]+' \
        --data-root data/camvid --out work_dirs/leave_group_out

The training images are grouped by what a regular expression finds first in the names of their files, without
the folder, here the sequence of CamVid's ``0006R0_f01260.png``. For each group the config is trained from the
same initial weights on all other groups, for all its epochs and without validation, and its last weights are
scored on the group: no image selects anything. Use it to choose between recipes where the validation split
comes from the videos or places of the training split. Of several data sets that are joined, each is trained
on in full if the expression finds nothing in it; of those with the group, the first one is scored.
Arguments after ``--`` go to ``train``. Finished runs are not repeated, and an interrupted one resumes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from learning_curve import parser_of_runs, read_configs, require_whole, score, split_arguments
from mmengine.registry import DATASETS, init_default_scope

from hardnet_suite.errors import UserError
from hardnet_suite.openmm.data.parts.part import inner_datasets
from hardnet_suite.openmm.data.segmentation import SegmentationDataset
from hardnet_suite.outputs import write_file

# nothing but the left-out images is scored, and they select nothing
NO_VALIDATION = """val_dataloader = None
val_cfg = None
val_evaluator = None
default_hooks = dict(checkpoint=dict(save_best=None))
"""


def group_names(data: Sequence[Sequence[str]], pattern: str) -> list[list[str | None]]:
    """The group of each file.

    Args:
        data: paths of images, for each data set.
        pattern: a regular expression. The group is what it finds first in a file's name, or what its first
            parentheses enclose there.

    Returns:
        The groups, as many as files; None in a data set where the pattern finds nothing.

    Raises:
        UserError: an invalid pattern, a data set of files with and without a match, an empty match, or a
            single group.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UserError(f"--group {pattern!r} is not a regular expression: {error}") from error
    names = []
    for files in data:
        found = [expression.search(Path(file).name) for file in files]
        groups = [match and match.group(1 if expression.groups else 0) for match in found]
        if (len(data) == 1 or any(found)) and not all(groups):
            file = files[[bool(group) for group in groups].index(False)]
            raise UserError(f"--group {pattern!r} finds nothing in {Path(file).name}")
        names.append(groups)
    known = [group for groups in names for group in groups if group]
    if not known:
        raise UserError(f"--group {pattern!r} finds nothing in any of {len(data)} data sets")
    if len(set(known)) < 2:
        raise UserError(f"--group {pattern!r} puts all {len(known)} images into one group")
    return names


def files_of(cfg: Any) -> list[list[str]]:
    """The training images of a config, for each data set in the order of ``indices``."""
    init_default_scope(cfg.get("default_scope", "mmengine"))
    files = []
    for images in inner_datasets(cfg.train_dataloader.dataset):
        if not issubclass(DATASETS.get(images.type), SegmentationDataset):
            raise UserError(
                f"{cfg.filename}: the training data is a {images.type}, not a SegmentationDataset"
            )
        data = DATASETS.build({**images, "pipeline": []})
        files.append([data.get_data_info(index)["img_path"] for index in range(len(data))])
    return files


def without(dataset: dict[str, Any], kept: list[list[int] | None]) -> dict[str, Any] | None:
    """A config's data set with these images; None: with none.

    Args:
        dataset: in any wrappers.
        kept: indices for each data set that ``inner_datasets`` gives, None for all of them; what is used is
            removed from the front.
    """
    if dataset.get("dataset") is not None:
        inner = without(dataset["dataset"], kept)
        return inner and {**dataset, "dataset": inner}
    if dataset.get("datasets") is not None:
        parts = [part for inner in dataset["datasets"] if (part := without(inner, kept))]
        return {**dataset, "datasets": parts} if parts else None
    indices = kept.pop(0)
    if indices is None:
        return dataset
    return {**dataset, "indices": indices} if indices else None


def write_config(cfg: Any, path: Path, left_out: Sequence[Sequence[int]], counts: Sequence[int]) -> int:
    """Writes a config of ``cfg`` that is trained on the other images and tested on ``left_out``.

    What is left out of further data sets is not tested: ``test`` scores one.

    Args:
        cfg: a segmentation config.
        path: of the new one.
        left_out: indices of images, for each data set.
        counts: the number of images of each data set.

    Returns:
        How many images it is tested on.

    Raises:
        UserError: no image is left to train on.
    """
    dataset = cfg.train_dataloader.dataset.to_dict()
    images, indices = next(pair for pair in zip(inner_datasets(dataset), left_out, strict=True) if pair[1])
    test = {**images, "pipeline": cfg.test_dataloader.dataset.pipeline, "indices": list(indices)}
    kept = [
        sorted(set(range(count)) - set(indices)) if indices else None
        for count, indices in zip(counts, left_out, strict=True)
    ]
    train = without(dataset, kept)
    if train is None:
        raise UserError(f"{cfg.filename}: no image is left to train on")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(
        path,
        f"_base_ = {str(Path(cfg.filename).resolve())!r}\n"
        f"train_dataloader = dict(dataset={dict(_delete_=True, **train)!r})\n"
        f"test_dataloader = dict(dataset={dict(_delete_=True, **test)!r})\n"
        f"{NO_VALIDATION}",
    )
    return len(indices)


def table(rows: Sequence[tuple[str, int, dict[str, float]]]) -> str:
    """One row per group that was left out: its images, mIoU and pixel accuracy; then their mean."""
    lines = ["| left out | images | mIoU | pixel accuracy |", "|---|---:|---:|---:|"]
    for name, images, figures in rows:
        lines.append(f"| {name} | {images} | {figures['mIoU']:.3f} | {figures['aAcc']:.3f} |")
    means = [sum(figures[key] for _, _, figures in rows) / len(rows) for key in ("mIoU", "aAcc")]
    lines.append(f"| mean | | {means[0]:.3f} | {means[1]:.3f} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of_runs(__doc__)
    parser.add_argument("--group", required=True, metavar="REGEX", help="finds the group in a file's name")
    parser.add_argument("--leave-out", nargs="+", metavar="NAME", help="these groups alone (default: each)")
    parser.add_argument("--seed", type=int, default=0)
    own, train_options = split_arguments(arguments)
    args = parser.parse_args(own)

    cfg, data, options = read_configs(args)
    for images in inner_datasets(cfg.train_dataloader.dataset):
        require_whole(images, cfg)
    # what is set for the images is in the config that is written
    chosen = ("train_dataloader.dataset.", "test_dataloader.dataset.")
    rest = [option for option in args.cfg_options if not option.startswith(chosen)]
    options += ["--cfg-options", *rest] if rest else []
    groups = group_names(files_of(data), args.group)
    known = sorted({group for each in groups for group in each if group})
    if missing := sorted(set(args.leave_out or ()) - set(known)):
        raise UserError(f"no group {', '.join(missing)}; there are {', '.join(known)}")
    rows = []
    for name in args.leave_out or known:
        left_out = [[index for index, group in enumerate(each) if group == name] for each in groups]
        folder = args.out / f"without-{name}-seed-{args.seed}"
        config = args.out / f"{folder.name}.py"
        images = write_config(cfg, config, left_out, [len(each) for each in groups])
        figures = score(config, folder, options, [*train_options, "--seed", str(args.seed)])
        rows.append((name, images, figures))
    text = table(rows)
    write_file(args.out / "leave_group_out.md", text + "\n")
    print(text)


if __name__ == "__main__":
    main()
