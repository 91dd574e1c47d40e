"""The figures of the shipped models in each deployed form, beside those of the plain network.

    python benchmarks/transforms_accuracy.py --out forms --camvid data/camvid --bccd data/bccd \\
      --tiny data/tiny

Each transform alone in float32, then all together, and in bfloat16 and float16: the transformed network takes
the place of the model's own in ``hardnet-suite test``, which scores it on the images of engines.py as it
scores a checkpoint. Figures in points with the difference from the plain network; the exit status is 1 where
one in float32 differs by more than 0.05. Both files in ``--out`` are written anew after each form.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from engines import MODELS, Model, add_data_arguments
from torch import Tensor, nn

from hardnet_suite import create_model
from hardnet_suite.cli._options import add_run_arguments, load_run_config
from hardnet_suite.deploy import fold_normalization, transformed
from hardnet_suite.networks import Preprocess, find_arch
from hardnet_suite.outputs import write_file
from hardnet_suite.weights import open_weights

FP32_POINTS = 0.05  # a figure in float32 may differ by so much

FIGURES = {  # of metrics.json
    "camvid": {"mIoU": "CamVid val mIoU"},
    "bccd": {"coco/bbox_AP50": "BCCD test AP50", "coco/bbox_mAP": "BCCD test mAP"},
    "tiny": {"top1": "Tiny10 top-1"},
}
ALL = ("fuse", "fold", "merge", "pad8", "split")
DEPLOYED = ("fuse", "merge")  # what `deploy` begins with
AUTOCAST = ("autocast",)  # `test --bf16`, not a transform
FORMS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("fp32", ()),
    *(
        ("fp32", (step,))
        for step in ("fuse", "fold", "merge", "split", "pad8", "pad16", "pad32", "channels_last", "pack")
    ),
    ("fp32", (*DEPLOYED, "channels_last", "pack")),
    ("fp32", (*ALL, "channels_last", "pack")),
    ("bf16", AUTOCAST),
    ("bf16", ("bf16",)),
    ("bf16", ("fold", "bf16")),
    ("bf16", ("bf16", "channels_last")),
    ("bf16", ("bf16", "channels_last", "pack")),
    ("bf16", (*DEPLOYED, "bf16", "channels_last", "pack")),
    ("bf16", (*ALL, "bf16", "channels_last", "pack")),
    ("fp16", ("fp16",)),
    ("fp16", ("fp16", "channels_last")),
    ("fp16", (*DEPLOYED, "fp16", "channels_last", "pack")),
    ("fp16", (*ALL, "fp16", "channels_last", "pack")),
)
ONLY_DECODERS = {"camvid"}  # that "merge" changes


@dataclass(frozen=True)
class Row:
    """What a form of a model scores.

    Attributes:
        model: key of ``engines.MODELS``.
        precision: "fp32", "bf16" or "fp16".
        steps: of ``deploy.steps.STEPS``, or "fold" (the input normalisation), or "autocast"; in order.
        figures: in points, 0 to 100, by their keys in metrics.json.
        differences: from the plain network's, in points.
        seconds: that the test took, decoding and scoring included.
    """

    model: str
    precision: str
    steps: tuple[str, ...]
    figures: dict[str, float]
    differences: dict[str, float]
    seconds: float

    @property
    def is_right(self) -> bool:
        """Whether a figure in float32 is the plain network's; others are told as they are."""
        return self.precision != "fp32" or all(
            abs(value) <= FP32_POINTS + 1e-9 for value in self.differences.values()
        )


def steps_of(model: str, steps: Sequence[str]) -> tuple[str, ...]:
    """Those that change a model."""
    return tuple(step for step in steps if step != "merge" or model in ONLY_DECODERS)


def markdown(rows: Iterable[Row]) -> str:
    """One line per form, one column per figure; float32 out of bounds is marked."""
    rows = list(rows)
    columns = [
        (model, key, words)
        for model, figures in FIGURES.items()
        if any(row.model == model for row in rows)
        for key, words in figures.items()
    ]
    lines = [
        f"| form | {' | '.join(words for *_, words in columns)} |",
        f"|---|{'---:|' * len(columns)}",
    ]
    for precision, steps in FORMS:
        cells = []
        for model, key, _ in columns:
            row = next((row for row in rows if _is_of(row, model, precision, steps)), None)
            cells.append("" if row is None else _shown(row, key))
        if any(cells):
            lines.append(f"| {precision}: {' + '.join(steps) or 'plain'} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _is_of(row: Row, model: str, precision: str, steps: Sequence[str]) -> bool:
    own = steps_of(model, steps)
    return (row.model, row.precision, row.steps) == (model, precision, own) and bool(own) == bool(steps)


def _shown(row: Row, key: str) -> str:
    text = f"{row.figures[key]:.2f}"
    if not row.steps:
        return text
    text += f" ({round(row.differences[key], 2) + 0.0:+.2f})"  # not -0.00
    return text if row.is_right else f"**{text}**"


def score(model: str, precision: str, steps: Sequence[str], root: Path, out: Path, threads: int) -> dict:
    """The figures of a form, as ``metrics.json`` has them."""
    from hardnet_suite.openmm.run.test import DeployedNetwork, TestOptions, registry_weights, test

    row = MODELS[model]
    parser = argparse.ArgumentParser()
    add_run_arguments(parser)
    folder = out / "tests" / f"{model}-{'-'.join(steps) or 'plain'}"
    command = [row.config, "--data-root", str(root), "--work-dir", str(folder), "--threads", str(threads)]
    command += ["--bf16"] * (tuple(steps) == AUTOCAST)
    cfg = load_run_config(parser.parse_args([*command, *row.options]))
    weights = registry_weights(cfg, row.tag)
    if steps and tuple(steps) != AUTOCAST:
        network = transformed_network(row, steps)
        weights = DeployedNetwork(
            checkpoint=open_weights(weights, row.network),
            arch=find_arch(row.network),
            forward=lambda inputs: network(inputs),  # copies of the model share it: packed ones must
            engine="pytorch",
            engine_version=torch.__version__,
            precision=precision,
            weights=f"{row.tag}, {' + '.join(steps)}",
        )
    _, outcome = test(cfg, weights, TestOptions())
    return dict(outcome.figures)


def transformed_network(row: Model, steps: Sequence[str]) -> nn.Module:
    """A form of a model, which takes the inputs that the network does."""
    network = create_model(row.network, pretrained=row.tag).eval()
    rule = network.usage.preprocess
    example = torch.zeros(1, len(rule.mean), *(row.size or rule.height_width))
    is_raw = False
    for step in steps:
        if step == "fold":
            network, example, is_raw = fold_normalization(network), rule.denormalize(example), True
        else:
            network = transformed(network, [step], example)
    return _OfInputs(network, rule) if is_raw else network


class _OfInputs(nn.Module):
    """A network of raw pixels, as one of normalised inputs; ``prepare`` makes pixels of 8 bits."""

    def __init__(self, network: nn.Module, rule: Preprocess):
        super().__init__()
        self.network, self.rule = network, rule

    def forward(self, inputs: Tensor) -> Any:
        return self.network(self.rule.denormalize(inputs).round())


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_data_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder of the tests and the table")
    parser.add_argument("--only", nargs="+", help="forms with one of these steps, and the plain one")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU (default 1)")
    args = parser.parse_args(argv)
    roots = {name: root for name in MODELS if (root := getattr(args, name)) is not None}
    rows: dict[tuple, Row] = {}
    for model, root in roots.items():
        for precision, listed in FORMS:
            steps = steps_of(model, listed)
            wanted = not steps or not args.only or {*steps} & {*args.only}
            if not wanted or (model, precision, steps) in rows or (listed and not steps):
                continue
            start = time.perf_counter()
            found = score(model, precision, steps, root, args.out, args.threads)
            figures = {key: 100 * found[key] for key in FIGURES[model]}
            plain = rows[model, "fp32", ()].figures if steps else figures
            differences = {key: value - plain[key] for key, value in figures.items()}
            row = Row(model, precision, steps, figures, differences, round(time.perf_counter() - start, 1))
            rows[model, precision, steps] = row
            _write(args.out, rows.values())
            print(f"{model:7} {precision}: {' + '.join(steps) or 'plain'}: {figures}", flush=True)
    print(f"\n{markdown(rows.values())}")
    return 0 if all(row.is_right for row in rows.values()) else 1


def _write(out: Path, rows: Iterable[Row]) -> None:
    import platform

    from hardnet_suite.openmm.run.runner import versions

    rows = list(rows)
    machine = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    content = {"versions": versions(), **machine, "rows": [asdict(row) for row in rows]}
    write_file(out / "transforms_accuracy.json", json.dumps(content, indent=1) + "\n")
    write_file(out / "transforms_accuracy.md", markdown(rows))


if __name__ == "__main__":
    sys.exit(main())
