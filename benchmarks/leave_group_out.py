"""The score of a segmentation config on images of a place, video or camera that it was not trained on.

    python benchmarks/leave_group_out.py fchardnet70_camvid --group '[^_]+' \
        --data-root data/camvid --out work_dirs/leave_group_out

The training images are grouped by what a regular expression finds first in the names of their files, without
the folder, here the sequence of CamVid's ``0006R0_f01260.png``. For each group the config is trained from the
same initial weights on all other groups, for all its epochs and without validation, and its last weights are
scored on the group: no image selects anything. Use it to choose between recipes where the validation split
comes from the videos or places of the training split. Arguments after ``--`` go to ``train``. Finished runs
are not repeated, and an interrupted one resumes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from learning_curve import images_of, inside, parser_of_runs, read_configs, score, split_arguments
from mmengine.registry import DATASETS, init_default_scope

from hardnet_suite.errors import UserError
from hardnet_suite.openmm.data.segmentation import SegmentationDataset
from hardnet_suite.outputs import write_file

# nothing but the left-out images is scored, and they select nothing
NO_VALIDATION = """val_dataloader = None
val_cfg = None
val_evaluator = None
default_hooks = dict(checkpoint=dict(save_best=None))
"""


def group_names(files: Sequence[str], pattern: str) -> list[str]:
    """The group of each file.

    Args:
        files: paths of images.
        pattern: a regular expression. The group is what it finds first in a file's name, or what its first
            parentheses enclose there.

    Returns:
        The groups, as many as files.

    Raises:
        UserError: an invalid pattern, a file without a match or with an empty one, or a single group.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UserError(f"--group {pattern!r} is not a regular expression: {error}") from error
    names = []
    for file in files:
        found = expression.search(Path(file).name)
        name = found and found.group(1 if expression.groups else 0)
        if not name:
            raise UserError(f"--group {pattern!r} finds nothing in {Path(file).name}")
        names.append(name)
    if len(set(names)) < 2:
        raise UserError(f"--group {pattern!r} puts all {len(names)} images into one group")
    return names


def files_of(cfg: Any) -> list[str]:
    """The training images of a config, in the order of ``indices``."""
    init_default_scope(cfg.get("default_scope", "mmengine"))
    images, _ = images_of(cfg)
    if not issubclass(DATASETS.get(images.type), SegmentationDataset):
        raise UserError(f"{cfg.filename}: the training data is a {images.type}, not a SegmentationDataset")
    data = DATASETS.build({**images, "pipeline": []})
    return [data.get_data_info(index)["img_path"] for index in range(len(data))]


def write_config(cfg: Any, path: Path, left_out: Sequence[int], count: int) -> None:
    """Writes a config of ``cfg`` that is trained on the other images and tested on ``left_out``."""
    kept = [index for index in range(count) if index not in set(left_out)]
    dataset, depth = images_of(cfg)
    images = dataset.to_dict()
    test = {**images, "pipeline": cfg.test_dataloader.dataset.pipeline, "indices": list(left_out)}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(
        path,
        f"_base_ = {str(Path(cfg.filename).resolve())!r}\n"
        f"train_dataloader = {inside(depth, {'indices': kept})!r}\n"
        f"test_dataloader = dict(dataset={dict(_delete_=True, **test)!r})\n"
        f"{NO_VALIDATION}",
    )


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
    options += ["--cfg-options", *args.cfg_options] if args.cfg_options else []
    groups = group_names(files_of(data), args.group)
    names = args.leave_out or sorted(set(groups))
    if missing := sorted(set(names) - set(groups)):
        raise UserError(f"no group {', '.join(missing)}; there are {', '.join(sorted(set(groups)))}")
    rows = []
    for name in names:
        left_out = [index for index, group in enumerate(groups) if group == name]
        folder = args.out / f"without-{name}-seed-{args.seed}"
        config = args.out / f"{folder.name}.py"
        write_config(cfg, config, left_out, len(groups))
        figures = score(config, folder, options, [*train_options, "--seed", str(args.seed)])
        rows.append((name, len(left_out), figures))
    text = table(rows)
    write_file(args.out / "leave_group_out.md", text + "\n")
    print(text)


if __name__ == "__main__":
    main()
