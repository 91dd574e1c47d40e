"""What needs a CUDA GPU: marked tests, latency in every mode, TensorRT, training; as JSON and Markdown.

Each step is a process of its own with what is left of the time; one that fails or runs out of time is named
in the report, and the others are there. Within a step all contenders take turns.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from hardnet_suite.deploy.benchmark import (
    Comparison,
    Timing,
    compare,
    label,
    machine,
)
from hardnet_suite.deploy.roofline import Roofline, measure_roofline
from hardnet_suite.errors import UserError
from hardnet_suite.outputs import require_replaceable, write_file

ROOT = Path(__file__).resolve().parents[1]
MARK = "hardnet_suite on a GPU"
_MINUTES = 8.5
_LEAST = 20  # seconds left, under which no step begins
_HALVES = ("fp32", "bf16", "fp16")
_MODES = ("eager", "fused", "split", "cudagraphs")
_DRY_MODES = ("eager", "fused", "split")
_CLASSIFIERS = ("hardnet68", "resnet50", "hardnet85", "resnet101")

Step = Callable[[bool], dict[str, Any]]


def _latency(
    models: Sequence[str], size: int | tuple[int, int], *, dry: tuple[str, int] | None = None, **options: Any
) -> Step:
    """A step that compares models at a size; for --dry-run the first two at 64 pixels, or ``dry``."""

    def run(is_dry: bool) -> dict[str, Any]:
        common = {"memory": False, "say": lambda line: print(line, flush=True)}
        if is_dry:
            few, side = ([dry[0]], dry[1]) if dry else (list(models[:2]), 64)
            batches = [2] if "batches" in options else [1]
            settings = {"engines": _DRY_MODES, "channels_last": [True], "device": "cpu", "batches": batches}
            counts = {"rounds": 1, "passes": 1, "warmup": 0}
            return _content(compare(few, sizes=[side], **settings, **counts, **common), is_dry)
        modes = {"engines": _MODES, "precisions": _HALVES, "channels_last": (False, True)} | options
        counts = {"rounds": 10, "passes": 5, "warmup": 5}
        return _content(compare(models, sizes=[size], device="cuda", **modes, **counts, **common), is_dry)

    return run


def _content(comparison: Comparison, dry: bool) -> dict[str, Any]:
    small = {"rounds": 1, "elements": 1 << 12, "side": 32} if dry else {}
    roofline = measure_roofline("cpu" if dry else "cuda", **small)
    content = json.loads(comparison.to_json(roofline=roofline.to_dict()))
    content["tables"] = [table(group, roofline) for _, group in comparison.groups()]
    return content


def table(timings: Sequence[Timing], roofline: Roofline) -> str:
    """Markdown: one line per timing, beside the first one and the limits of the machine."""
    first = timings[0]
    title = f"{first.height}×{first.width}, batch {first.batch}"
    head = "| model | mode | ms | p95 | images/s | ratio | % of rate | % of bandwidth | ms / floor |"
    lines = [f"### {title}", "", head, "|---|---|---:|---:|---:|---:|---:|---:|---:|"]
    for each in timings:
        standing = roofline.standing(each)
        shares = ["–"] * 3
        if standing is not None:
            shares = [f"{100 * standing.rate_share:.0f}", f"{100 * standing.bandwidth_share:.0f}"]
            shares.append(f"{each.median / standing.floor:.2f}")
        numbers = [f"{1e3 * each.median:.3f}", f"{1e3 * each.p95:.3f}", f"{each.throughput:.0f}"]
        cells = [each.model, label(each.setting), *numbers, f"{each.ratio_to(first):.2f}", *shares]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def run_tests(dry: bool) -> dict[str, Any]:
    """The tests marked ``gpu``; with --dry-run they are collected alone."""
    options = ["--collect-only"] if dry else []
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", *options, "tests"]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [*command, "--basetemp", str(Path(folder, "tests"))],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    lines = done.stdout.strip().splitlines()
    return {"status": done.returncode, "summary": lines[-1] if lines else "", "output": lines[-60:]}


def run_training(dry: bool) -> dict[str, Any]:
    """Training steps of SSD512-HarDNet68 beside mmdet's SSD512-VGG16, and of the other tasks."""
    from hardnet_suite.openmm.run.training_speed import StepTiming, time_training

    def steps(configs: Sequence[str], **options: Any) -> list[StepTiming]:
        quick = {"rounds": 1, "warmup": 0, "batch": 2, "size": (64, 64)} if dry else {}
        return time_training(configs, **options | quick, say=lambda line: print(line, flush=True))

    precisions = ["fp32"] if dry else ["fp32", "bf16"]
    groups = [steps(["hardnet39ds_tiny_imagenet10"], precisions=precisions)]
    if not dry:
        groups = [
            steps(["ssd512_hardnet68", "ssd512_vgg16"], precisions=precisions, batch=16),
            steps(["fchardnet70_cityscapes"], precisions=precisions, batch=8),
            steps(["hardnet68_imagenet"], precisions=precisions, batch=128),
            steps(["hardnet_descriptor_liberty"], precisions=precisions),
        ]
    lines = ["| training | batch | input | images/s | ms | ratio |", "|---|---:|---|---:|---:|---:|"]
    for group in groups:
        for each in group:
            setting, ratio = each.setting, each.ratio_to(group[0])
            cells = [setting.label, str(setting.batch), f"{setting.height}×{setting.width}"]
            cells += [f"{each.images_per_second:.1f}", f"{1e3 * each.median:.1f}", f"{ratio:.2f}"]
            lines.append(f"| {' | '.join(cells)} |")
    return {
        "training": [each.to_dict() for group in groups for each in group],
        "tables": ["\n".join(lines)],
    }


def run_tensorrt(dry: bool) -> dict[str, Any]:
    """HarDNet-68 and ResNet-50 in TensorRT, from the ONNX files that ``export`` writes for it."""
    try:
        import tensorrt
    except ImportError:
        return {"skipped": "tensorrt is not installed (pip install tensorrt)"}
    if dry:
        return {"skipped": "--dry-run"}
    from hardnet_suite.deploy.benchmark import _subject
    from hardnet_suite.deploy.runners import Setting, prepare
    from hardnet_suite.timing import interleaved, median_ratio

    runs: dict[str, Callable[[], object]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, half in ((name, half) for name in ("hardnet68", "resnet50") for half in (False, True)):
            subject = _subject(name)
            inputs = subject.input(1, 1024, 1024)
            form = prepare(subject.network, inputs, Setting("onnxruntime"), Path(folder))
            runs[f"{name} {'fp16' if half else 'fp32'}"] = _tensorrt_pass(tensorrt, form.file, inputs, half)
        seconds = interleaved(runs, rounds=10, passes=5, warmup=5, synchronize=torch.cuda.synchronize)
    lines = ["### TensorRT, 1024×1024, batch 1", "", "| model | ms | times ResNet-50's |", "|---|---:|---:|"]
    for name, each in seconds.items():
        ratio = median_ratio(each, seconds[f"resnet50 {name.split()[1]}"])
        lines.append(f"| {name} | {1e3 * sorted(each)[len(each) // 2]:.3f} | {ratio:.2f} |")
    return {
        "tensorrt": {
            "version": tensorrt.__version__,
            "ms": {k: [1e3 * s for s in v] for k, v in seconds.items()},
        },
        "tables": ["\n".join(lines)],
    }


def _tensorrt_pass(tensorrt: Any, file: Path, inputs: torch.Tensor, half: bool) -> Callable[[], object]:
    logger = tensorrt.Logger(tensorrt.Logger.ERROR)
    builder = tensorrt.Builder(logger)
    definition = builder.create_network(0)
    parser = tensorrt.OnnxParser(definition, logger)
    if not parser.parse(file.read_bytes()):
        raise RuntimeError(f"TensorRT cannot read the file: {parser.get_error(0)}")
    options = builder.create_builder_config()
    if half:
        options.set_flag(tensorrt.BuilderFlag.FP16)
    plan = builder.build_serialized_network(definition, options)
    engine = tensorrt.Runtime(logger).deserialize_cuda_engine(plan)
    context = engine.create_execution_context()
    tensors = {}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        shape = tuple(engine.get_tensor_shape(name))
        is_input = engine.get_tensor_mode(name) == tensorrt.TensorIOMode.INPUT
        tensors[name] = inputs.cuda() if is_input else torch.empty(shape, device="cuda")
        context.set_tensor_address(name, tensors[name].data_ptr())
    keep = (engine, tensors)
    return lambda: (context.execute_async_v3(torch.cuda.current_stream().cuda_stream), keep)


STEPS: dict[str, Step] = {
    "tests": run_tests,
    "classifiers, 1024": _latency(_CLASSIFIERS, 1024),
    "segmentation": _latency(("fchardnet70", "lraspp_mobilenet_v3_large"), (1024, 2048)),
    "training": run_training,
    "classifiers, 224": _latency(_CLASSIFIERS[:2], 224),
    "detectors": _latency(
        ("ssd512_hardnet68", "centernet_hardnet68", "centernet_hardnet85"), 512, dry=("ssd224_hardnet29", 224)
    ),
    "light classifiers": _latency(("hardnet39ds", "mobilenet_v2", "hardnet68ds"), 320),
    "descriptor": _latency(
        ("hardnet_descriptor", "kornia_hardnet"), 32, dry=("hardnet_descriptor", 32), batches=[1024]
    ),
    "tensorrt": run_tensorrt,
    "compiled classifiers": _latency(
        _CLASSIFIERS[:2],
        1024,
        engines=["eager", "compile"],
        precisions=["fp32", "bf16"],
        channels_last=[True],
    ),
    "compiled segmentation": _latency(
        ["fchardnet70"], (1024, 2048), engines=["eager", "compile"], precisions=["bf16"], channels_last=[True]
    ),
    "batches": _latency(_CLASSIFIERS[:2], 224, batches=[64], engines=["fused"], precisions=["fp32", "bf16"]),
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where gpu.json and gpu.md are written")
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes on the CPU, to see that all runs")
    parser.add_argument("--only", nargs="+", metavar="STEP", help=f"of {', '.join(STEPS)}")
    parser.add_argument("--minutes", type=float, default=_MINUTES, help=f"of all steps (default {_MINUTES})")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.step is not None:  # one of the processes of the steps
        torch.set_flush_denormal(True)
        args.folder.write_text(json.dumps(STEPS[args.step](args.dry_run)))
        return 0
    unknown = [name for name in args.only or [] if name not in STEPS]
    if unknown:
        raise UserError(f"unknown step {unknown[0]!r}; known: {', '.join(STEPS)}")
    if not args.dry_run and not torch.cuda.is_available():
        raise UserError("there is no CUDA GPU here; --dry-run tries everything on the CPU")
    files = [args.folder / "gpu.json", args.folder / "gpu.md"]
    for file in files:
        require_replaceable(file, lambda path: MARK in path.read_text()[:200], writer="run", option="folder")
    end = time.monotonic() + 60 * args.minutes
    steps = {name: _run_step(name, end, args.dry_run) for name in args.only or STEPS}
    report = {MARK: 1, "machine": machine("cpu" if args.dry_run else "cuda"), "steps": steps}
    write_file(files[0], json.dumps(report, indent=1) + "\n")
    write_file(files[1], markdown(report))
    print(f"written: {files[0]}, {files[1]}")
    return 1 if any("failed" in step for step in steps.values()) else 0


def _run_step(name: str, end: float, dry: bool) -> dict[str, Any]:
    """What a step gives, in a process of its own; {"failed": why} or {"skipped": why} otherwise."""
    left = end - time.monotonic()
    if left < _LEAST:
        return {"skipped": "no time was left"}
    print(f"{name} ({left:.0f} s left)", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "step.json")
        command = [sys.executable, __file__, str(file), "--step", name, *(["--dry-run"] if dry else [])]
        try:
            done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=left, check=False)
        except subprocess.TimeoutExpired:
            return {"failed": f"not finished after {left:.0f} s"}
        if done.returncode or not file.exists():
            return {
                "failed": (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1][:300]
            }
        return json.loads(file.read_text())


def markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    where = report["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    lines = [f"<!-- {MARK} -->", f"# {where['gpu'] or where['cpu']}", "", f"{where['date']}: {versions}", ""]
    for name, step in report["steps"].items():
        lines += [f"## {name[0].upper()}{name[1:]}", ""]
        for key in ("failed", "skipped", "summary"):
            if step.get(key):
                lines += [f"{key}: {step[key]}" if key != "summary" else step[key], ""]
        for text in step.get("tables", []):
            lines += [text, ""]
        for failure in step.get("failures", []):
            mode = f"{failure['engine']} {failure['precision']}"
            lines += [f"not measured: {failure['model']} in {mode}: {failure['reason']}", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
