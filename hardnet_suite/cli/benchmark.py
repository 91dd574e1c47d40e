"""``benchmark MODEL…``: times models side by side."""

from __future__ import annotations

import argparse
import json
import re
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardnet_suite.cli._options import (
    add_threads_argument,
    choose_device,
    flush_denormals,
    require_threads,
    set_threads,
    show,
)
from hardnet_suite.config_names import own_configs
from hardnet_suite.data.report import counted
from hardnet_suite.errors import UserError
from hardnet_suite.names import known_name
from hardnet_suite.run_folders import find_run

if TYPE_CHECKING:
    from hardnet_suite.deploy.benchmark import Comparison, Timing
    from hardnet_suite.deploy.roofline import Roofline

_LAYOUTS = {"nchw": False, "nhwc": True}
_ROUNDS, _PASSES = 10, 3
_MIB = 1 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "models",
        nargs="+",
        metavar="MODEL",
        help="names (`hardnet-suite models`), peers, or files of weights; with --training configs",
    )
    parser.add_argument(
        "--peers",
        nargs="*",
        metavar="NAME",
        help="networks of other packages in the same run, such as resnet50; without names those of the "
        "models' tasks",
    )
    parser.add_argument(
        "--size",
        nargs="+",
        metavar="PIXELS",
        help="224, 1024x2048, …: of the input (default: the usual ones)",
    )
    parser.add_argument("--batch", type=int, nargs="+", metavar="N", help="images per pass (default: 1)")
    parser.add_argument(
        "--engine",
        nargs="+",
        default=["eager"],
        metavar="NAME",
        help="eager, fused, packed, split, compile, cudagraphs, or one of exported files: onnxruntime, …",
    )
    parser.add_argument(
        "--precision",
        nargs="+",
        default=["fp32"],
        metavar="NAME",
        help="fp32, bf16, fp16; int8 in onnxruntime and openvino, calibrated on the random input that is "
        "timed: for the speed alone, export and test say how accurate it is; int8+bf16 in openvino: bf16 for "
        "what stays in float",
    )
    parser.add_argument(
        "--layout",
        nargs="+",
        choices=list(_LAYOUTS),
        help="of maps and weights in PyTorch: nhwc is channels last (default: nchw, with --training nhwc)",
    )
    parser.add_argument("--rounds", type=int, metavar="N", help=f"turns of each (default: {_ROUNDS})")
    parser.add_argument("--passes", type=int, metavar="N", help=f"timed passes per turn (default: {_PASSES})")
    parser.add_argument(
        "--warmup", type=int, default=3, metavar="N", help="passes before, not timed (default: 3)"
    )
    parser.add_argument(
        "--protocol",
        choices=["paper-1024", "nano-320"],
        help="the authors' own: random input of that size, 300 or 500 passes (--rounds shortens)",
    )
    parser.add_argument("--no-memory", action="store_true", help="do not measure the peak memory")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything, each pass too")
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="FILE",
        help="draw latency against published accuracy, of the models that have one, at its size, in float",
    )
    parser.add_argument(
        "--roofline",
        nargs="?",
        const=True,
        metavar="FILE",
        help="measure bandwidth and matrix rate, of the GPU where one is timed, and show (and draw) where "
        "each model on that device stands",
    )
    parser.add_argument(
        "--training", action="store_true", help="time training steps of configs, and their data loaders"
    )
    parser.add_argument("--data-root", help="with --training: folder of the data, to time the data loaders")
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: a GPU where there is one)")
    add_threads_argument(parser)


def run(args: argparse.Namespace) -> int:
    require_threads(args.threads)
    _require_files(args)
    if args.training:
        return _run_training(args)
    if args.data_root is not None:
        raise UserError("--data-root goes with --training")
    rounds, passes, sizes = _counts(args)
    choose_device(args.device)
    set_threads(args.threads)
    flush_denormals()
    from hardnet_suite.deploy.benchmark import compare, reason_for_no_chart

    models = _models(args)
    if args.plot is not None:
        reason = reason_for_no_chart(models, sizes=sizes, precisions=args.precision)
        if reason:
            raise UserError(f"--plot {args.plot}: nothing can be drawn: {reason}")
    comparison = compare(
        models,
        engines=args.engine,
        precisions=args.precision,
        channels_last=[_LAYOUTS[layout] for layout in args.layout or ["nchw"]],
        sizes=sizes,
        batches=args.batch or [1],
        device=args.device,
        threads=args.threads,
        rounds=rounds,
        passes=passes,
        warmup=args.warmup,
        memory=not args.no_memory,
        say=lambda line: show(line, sys.stderr),
    )
    roofline = None
    if args.roofline:
        from hardnet_suite.deploy.roofline import measure_roofline

        devices = {each.setting.device for each in comparison.timings} - {"cpu"}  # one at most
        device = next(iter(devices), "cpu")
        roofline = measure_roofline(device, list(dict.fromkeys(["fp32", *args.precision])))
    _report(args, comparison, roofline)
    measured = {each.model for each in comparison.timings}
    return 1 if {each.model for each in comparison.failures} - measured else 0


def _require_files(args: argparse.Namespace) -> None:
    """UserError where a result would replace another file, before anything is measured."""
    from hardnet_suite.outputs import require_different, require_replaceable
    from hardnet_suite.visualization.canvas import is_figure

    if args.json is not None:
        require_replaceable(args.json, _is_report, writer="benchmark", option="--json")
    drawn = {"--plot": args.plot}
    if args.roofline not in (None, True):
        args.roofline = Path(args.roofline)
        drawn["--roofline"] = args.roofline
    require_different({"--json": args.json, **drawn})
    for option, path in drawn.items():
        if path is not None:
            if path.suffix.lower() not in (".png", ".jpg", ".jpeg", ".pdf", ".svg"):
                raise UserError(f"{option} {path}: the name must end in .png, .jpg, .pdf or .svg")
            require_replaceable(path, is_figure, writer="benchmark", option=option)


def _is_report(path: Path) -> bool:
    with path.open("rb") as file:
        return b'"hardnet-suite benchmark"' in file.read(100)


def _counts(args: argparse.Namespace) -> tuple[int, int, list[tuple[int, int]] | None]:
    """Rounds, passes per round and sizes, by the protocol where one is given."""
    sizes = None if args.size is None else [_size(text) for text in args.size]
    if args.protocol is None:
        return _given(args.rounds, _ROUNDS), _given(args.passes, _PASSES), sizes
    from hardnet_suite.deploy.benchmark import PROTOCOLS

    protocol = PROTOCOLS[args.protocol]
    if sizes is not None or args.batch is not None:
        raise UserError(f"--protocol {args.protocol} sets size and batch: leave out --size and --batch")
    passes = _given(args.passes, 10)
    rounds = _given(args.rounds, -(-protocol.passes // max(passes, 1)))
    show(f"protocol: {protocol.source}, {rounds * passes} of {protocol.passes} passes")
    return rounds, passes, [protocol.size]


def _given(value: int | None, default: int) -> int:
    return default if value is None else value


def _size(text: str) -> tuple[int, int]:
    sides = re.fullmatch(r"([0-9]{1,6})(?:[x×]([0-9]{1,6}))?", text)
    if sides is None:
        raise UserError(f"--size {text}: expected a side such as 224, or HEIGHTxWIDTH such as 1024x2048")
    height = int(sides[1])
    return height, int(sides[2] or height)


def _models(args: argparse.Namespace) -> list[Any]:
    """What to time: models and peers, each once."""
    from hardnet_suite.deploy.peers import peers_of

    models = list(map(_model_of, dict.fromkeys(args.models)))
    peers = list(map(_model_of, dict.fromkeys(args.peers or [])))
    if args.peers == []:
        tasks = dict.fromkeys(filter(None, map(_task_of, models)))
        peers = [peer for task in tasks for peer in peers_of(task)]
        if not peers:
            raise UserError(
                "--peers without names takes those of the models' tasks, of which there are none here"
            )
    return list({each if isinstance(each, str) else id(each): each for each in [*models, *peers]}.values())


def _task_of(model: Any) -> str | None:
    """The task of one of the suite's models; None of a peer."""
    from hardnet_suite.networks import default_usage, list_models

    if not isinstance(model, str):
        return getattr(model, "task", "descriptor")
    if model not in list_models():
        return None
    rule = default_usage(model).postprocess
    return "descriptor" if rule is None else rule.task


def _model_of(model: str) -> Any:
    """A name as it is spelt; a file, a run's folder or a config as a network with its weights."""
    from hardnet_suite.deploy.peers import PEERS
    from hardnet_suite.networks import list_models

    names, run = [*list_models(), *PEERS], find_run(model, [*list_models(), *own_configs(), *PEERS])
    if run is None and (name := known_name(model, names)):
        return name
    from hardnet_suite.cli.predict import is_path, load_any_model

    if run is not None or Path(model).exists():
        return load_any_model(model)
    if is_path(model):
        raise UserError(f"{model}: no such file or folder")
    return model


def _report(args: argparse.Namespace, comparison: Comparison, roofline: Roofline | None) -> None:
    from hardnet_suite.outputs import write_file

    show(_where(comparison.machine, _processors(comparison.machine, comparison.timings)))
    if roofline is not None:
        rates = ", ".join(f"{name} {rate / 1e9:.1f}" for name, rate in roofline.rates.items())
        others = any(each.setting.device != roofline.device for each in comparison.timings)
        of = f"{comparison.machine['gpu']}: " if others else ""
        show(f"{of}bandwidth {roofline.bandwidth / 1e9:.1f} GB/s; matrix products, GMAC/s: {rates}")
    for (height, width, batch), timings in comparison.groups():
        show(f"\n{height}×{width}, batch {batch}")
        show(timing_table(timings, roofline))
        for line in summary(timings):
            show(line)
    for failure in comparison.failures:
        setting = f"{failure.setting.engine} {failure.setting.precision}"
        show(f"not measured: {failure.model} in {setting}: {failure.reason}", sys.stderr)
    if args.json is not None:
        more = {} if roofline is None else {"roofline": roofline.to_dict()}
        write_file(args.json, comparison.to_json(**more))
        show(f"json: {args.json}")
    if args.plot is not None:
        _draw(args.plot, "plot", lambda: _plot(args.plot, comparison))
    if isinstance(args.roofline, Path) and roofline is not None:
        _draw(args.roofline, "roofline", lambda: _plot_roofline(args.roofline, comparison, roofline))


def _where(machine: dict[str, Any], processors: str) -> str:
    version = machine["versions"].get("torch")
    return f"{processors}, {counted(machine['threads'], 'thread')}, load {machine['load']}, torch {version}"


def _processors(machine: dict[str, Any], timings: Iterable[Timing]) -> str:
    """What computed timings: exported files run on the CPU, on a machine with a GPU, too."""
    kinds = dict.fromkeys("cpu" if each.setting.device == "cpu" else "gpu" for each in timings)
    return " and ".join(machine[kind] for kind in kinds) or machine["gpu"] or machine["cpu"]


def timing_table(timings: list[Timing], roofline: Roofline | None = None) -> str:
    """One line per timing; ``ratio`` is the median over the rounds of its time by that of the first line."""
    from hardnet_suite.deploy.benchmark import label
    from hardnet_suite.evaluation.tables import class_table

    def number(value: float | None) -> float:
        return float("nan") if value is None else value

    columns: dict[str, list[float | int]] = {
        "ms": [1e3 * each.median for each in timings],
        "min": [1e3 * each.minimum for each in timings],
        "p95": [1e3 * each.p95 for each in timings],
        "images/s": [each.throughput for each in timings],
        "ratio": [each.ratio_to(timings[0]) for each in timings],
        "input ms": [number(each.input_seconds) * 1e3 for each in timings],
        "peak MiB": [number(each.peak_memory) / _MIB for each in timings],
        "M params": [each.parameters / 1e6 for each in timings],
        "GMACs": [each.macs / 1e9 for each in timings],
        "M CIO": [each.cio / 1e6 for each in timings],
    }
    if roofline is not None:
        standings = [roofline.standing(each) for each in timings]
        columns["% of rate"] = [100 * number(each and each.rate_share) for each in standings]
        columns["% of bandwidth"] = [100 * number(each and each.bandwidth_share) for each in standings]
    names = [f"{each.model} {label(each.setting)}" for each in timings]
    return class_table(names, columns, digits=2, heading="model, engine, precision", longest=None)


def summary(timings: list[Timing]) -> list[str]:
    """The fastest setting of the first model beside that of each other one; in float, then with int8, too."""
    from hardnet_suite.deploy.runners import is_integer

    in_float = [each for each in timings if not is_integer(each.setting.precision)]
    lines = _fastest(in_float, "best")
    return lines if len(in_float) == len(timings) else lines + _fastest(timings, "best, int8 too")


def _fastest(timings: list[Timing], title: str) -> list[str]:
    from hardnet_suite.deploy.benchmark import best_of_each, label

    best = best_of_each(timings)
    if len(best) < 2:
        return []
    first, *others = best.values()
    return [
        f"{title}: {first.model} ({label(first.setting)}, {1e3 * first.median:.2f} ms) takes "
        f"{first.ratio_to(other):.2f} of {other.model}'s time ({label(other.setting)}, "
        f"{1e3 * other.median:.2f} ms)"
        for other in others
    ]


def _draw(path: Path, name: str, draw: Any) -> None:
    try:
        draw()
    except ValueError as error:
        raise UserError(f"cannot write {path}: {error}") from None
    show(f"{name}: {path}")


def _plot(path: Path, comparison: Comparison) -> None:
    from hardnet_suite.deploy.benchmark import figure_of, has_place, label, without_place
    from hardnet_suite.deploy.peers import PEERS
    from hardnet_suite.visualization.speed import ChartPoint, plot_latency

    cases = [
        (each.model, figure_of(each.model, each.weights), (each.height, each.width), each.setting.precision)
        for each in comparison.timings
    ]
    drawn = [
        (timing, figure)
        for timing, (_, figure, size, precision) in zip(comparison.timings, cases, strict=True)
        if figure is not None and has_place(figure, size, precision)
    ]
    if left_out := without_place(cases):
        show(f"not drawn: {left_out}", sys.stderr)
    if not drawn:
        raise UserError(f"--plot {path}: nothing that has a published accuracy was measured")
    timings = [timing for timing, _ in drawn]
    several = len({(each.height, each.width, each.batch) for each in timings}) > 1
    panels: dict[str, list[ChartPoint]] = {}
    for timing, figure in drawn:
        size = f", {timing.height}×{timing.width}×{timing.batch}" if several else ""
        setting = f"{label(timing.setting)}{size}"
        ours = timing.model not in PEERS
        point = ChartPoint(timing.model, setting, 1e3 * timing.median, figure.value, ours)
        panels.setdefault(figure.metric, []).append(point)
    plot_latency(panels, path, _title(comparison, timings))


def _plot_roofline(path: Path, comparison: Comparison, roofline: Roofline) -> None:
    from hardnet_suite.deploy.benchmark import label
    from hardnet_suite.deploy.peers import PEERS
    from hardnet_suite.visualization.speed import ChartPoint, plot_roofline

    timings = [each for each in comparison.timings if each.setting.device == roofline.device]
    points = [
        ChartPoint(
            each.model, label(each.setting), standing.intensity, standing.rate, each.model not in PEERS
        )
        for each in timings
        if (standing := roofline.standing(each)) is not None
    ]
    title = _title(comparison, timings)
    plot_roofline(roofline.bandwidth, roofline.rates, points, path, title)


def _title(comparison: Comparison, timings: list[Timing]) -> str:
    machine = comparison.machine
    where = _processors(machine, timings)
    if any(each.setting.device == "cpu" for each in timings):
        where += f", {counted(machine['threads'], 'thread')}"
    sizes = {(each.height, each.width, each.batch) for each in timings}
    if len(sizes) != 1:
        return where
    ((height, width, batch),) = sizes
    return f"{height}×{width}, batch {batch}; {where}"


def _run_training(args: argparse.Namespace) -> int:
    for option in ("protocol", "plot", "roofline"):
        if getattr(args, option) is not None:
            raise UserError(f"--{option} is of forward passes: leave it out with --training")
    if args.no_memory:
        raise UserError("--no-memory is of forward passes: leave it out with --training")
    sizes = [_size(text) for text in args.size or []]
    if len(sizes) > 1 or len(args.batch or []) > 1:
        raise UserError("--training takes one --size and one --batch")
    choose_device(args.device)
    set_threads(args.threads)
    flush_denormals()
    import torch

    from hardnet_suite.deploy.benchmark import MARK, SCHEMA, machine
    from hardnet_suite.openmm.run.training_speed import PEERS, time_training, training_table
    from hardnet_suite.outputs import write_file

    where = machine("cuda" if torch.cuda.is_available() else "cpu", args.threads)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of the models, about sizes
        timings = time_training(
            [*args.models, *(list(PEERS) if args.peers == [] else args.peers or [])],
            engines=args.engine,
            precisions=args.precision,
            channels_last=[_LAYOUTS[layout] for layout in args.layout or ["nhwc"]],
            batch=args.batch[0] if args.batch else None,
            size=sizes[0] if sizes else None,
            data_root=args.data_root,
            rounds=_given(args.rounds, _ROUNDS),
            passes=_given(args.passes, 1),
            warmup=args.warmup,
            say=lambda line: show(line, sys.stderr),
        )
    show(_where(where, where["gpu"] or where["cpu"]))
    show(training_table(timings))
    if args.json is not None:
        content = {MARK: SCHEMA, "machine": where, "training": [each.to_dict() for each in timings]}
        write_file(args.json, json.dumps(content, indent=1) + "\n")
        show(f"json: {args.json}")
    return 0
