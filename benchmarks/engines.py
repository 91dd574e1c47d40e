"""The figure of each shipped model on each engine: CamVid mIoU, BCCD AP50, top-1 of ten ImageNet classes.

    python benchmarks/engines.py --out engines --camvid data/camvid --bccd data/bccd --tiny data/tiny

Each cell of the table exports the model, runs ``hardnet-suite test`` on the file, so that the engine's
outputs are scored as a checkpoint's are, and keeps what it found in a JSON file. A cell is a process of its
own with a time limit; those that are done are not repeated, so an interrupted run goes on where it stopped.
Figures in float must be those of PyTorch within 0.1 point, in 8-bit integers at most 0.8 point less; the exit
status is 1 where one is not. A cell whose engine is missing says so.

ONNX Runtime Web runs in a headless Chromium; see ``benchmarks/web/browser.py``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path

from hardnet_suite.outputs import write_file

FLOAT_POINTS = 0.1  # a figure in float may differ by so much
INT8_POINTS = 0.8  # a figure in 8-bit integers may be less by so much


@dataclass(frozen=True)
class Model:
    """A shipped model and what scores it.

    Attributes:
        network: its name.
        tag: of its weights.
        config: that ``test`` runs.
        figure: key of ``metrics.json``, and what people call it.
        calibration: training images, below the root of the data: a folder, or the COCO annotations of
            images in ``images``.
        hold_out: how many of them per class folder the figure is of, as in the config: not calibrated on.
        options: of ``test``, further ones.
        size: height and width of the images; None: those of the input rule.
        keep: layers that stay in float in 8-bit files.
    """

    network: str
    tag: str
    config: str
    figure: tuple[str, str]
    calibration: str
    options: tuple[str, ...] = ()
    size: tuple[int, int] | None = None
    keep: tuple[str, ...] = ()
    hold_out: int = 0


MODELS = {
    "camvid": Model(
        "fchardnet70",
        "camvid",
        "fchardnet70_camvid",
        ("mIoU", "CamVid val mIoU"),
        "train",
        (
            "--cfg-options",
            "test_dataloader.dataset.data_prefix.img_path=val",
            "test_dataloader.dataset.data_prefix.seg_map_path=valannot",
        ),
        size=(360, 480),
    ),
    "bccd": Model(
        "ssd320_hardnet39ds",
        "bccd",
        "ssd320_hardnet39ds_bccd",
        ("coco/bbox_AP50", "BCCD test AP50"),
        "annotations/instances_train.json",
    ),
    "tiny": Model(
        "hardnet39ds",
        "tiny_imagenet10",
        "hardnet39ds_tiny_imagenet10",
        ("top1", "Tiny10 top-1"),
        "train",
        hold_out=50,
    ),
}


@dataclass(frozen=True)
class Engine:
    """An engine and how it is used.

    Attributes:
        words: what people call it.
        package: whose version is told.
        suffix: of its files; None: PyTorch, with the checkpoint.
        format: of its files.
        int8: whether the file is quantised.
        options: of ``test``, further ones.
    """

    words: str
    package: str
    suffix: str | None = None
    format: str = ""
    int8: bool = False
    options: tuple[str, ...] = ()


ENGINES = {
    "pytorch": Engine("PyTorch", "torch"),
    "onnxruntime": Engine("ONNX Runtime", "onnxruntime", ".onnx", "onnx"),
    "onnxruntime-int8": Engine("ONNX Runtime int8", "onnxruntime", ".int8.onnx", "onnx", int8=True),
    "onnxruntime-web": Engine("ONNX Runtime Web", "onnxruntime-web", ".onnx", "onnx"),
    "openvino": Engine("OpenVINO fp32", "openvino", ".xml", "openvino"),
    "openvino-bf16": Engine("OpenVINO bf16", "openvino", ".xml", "openvino", options=("--bf16",)),
    "openvino-int8": Engine("OpenVINO int8", "openvino", ".int8.xml", "openvino", int8=True),
    "torchscript": Engine("TorchScript", "torch", ".pt", "torchscript"),
    "litert": Engine("LiteRT", "ai-edge-litert", ".tflite", "litert"),
    "executorch": Engine("ExecuTorch", "executorch", ".pte", "executorch"),
    "ncnn": Engine("ncnn", "ncnn", ".param", "ncnn"),
}


@dataclass(frozen=True)
class Cell:
    """What a cell has found.

    Attributes:
        model: key of ``MODELS``.
        engine: key of ``ENGINES``.
        figure: in points, 0 to 100; None where there is none.
        version: of the engine.
        seconds: that the test took, decoding and scoring included.
        reason: why there is no figure; empty where there is one.
    """

    model: str
    engine: str
    figure: float | None = None
    version: str = ""
    seconds: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Table:
    """Cells, and what they say."""

    cells: Mapping[tuple[str, str], Cell] = field(default_factory=dict)

    def reference(self, model: str) -> float | None:
        """PyTorch's figure."""
        cell = self.cells.get((model, "pytorch"))
        return None if cell is None else cell.figure

    def is_right(self, cell: Cell) -> bool:
        """Whether a figure is within the bounds; a cell without one is, unless it failed to give one."""
        reference = self.reference(cell.model)
        if cell.figure is None or reference is None:
            return True
        if ENGINES[cell.engine].int8:
            return cell.figure >= reference - INT8_POINTS - 1e-9
        return abs(cell.figure - reference) <= FLOAT_POINTS + 1e-9

    def markdown(self) -> str:
        """One row per engine, one column per model; figures out of bounds are marked."""
        models = [model for model in MODELS if any(key[0] == model for key in self.cells)]
        lines = [
            f"| engine | version | {' | '.join(MODELS[model].figure[1] for model in models)} |",
            f"|---|---|{'---|' * len(models)}",
        ]
        notes = []
        for name, engine in ENGINES.items():
            row = [self.cells[key] for model in models if (key := (model, name)) in self.cells]
            if not row:
                continue
            version = next((cell.version for cell in row if cell.version), "–")
            shown = []
            for model in models:
                cell = self.cells.get((model, name))
                shown.append("" if cell is None else self._shown(cell))
                if cell is not None and cell.reason:
                    notes.append(f"{engine.words}, {model}: {cell.reason}")
            lines.append(f"| {engine.words} | {version} | {' | '.join(shown)} |")
        return "\n".join([*lines, *([""] if notes else []), *notes]) + "\n"

    def _shown(self, cell: Cell) -> str:
        if cell.figure is None:
            return "–"
        reference = self.reference(cell.model)
        text = f"{cell.figure:.2f}"
        if reference is not None and cell.engine != "pytorch":
            text += f" ({round(cell.figure - reference, 2) + 0.0:+.2f})"  # no −0.00
        return text if self.is_right(cell) else f"**{text}**"


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """``--camvid``, ``--bccd`` and ``--tiny``: the keys of ``MODELS``."""
    for name, words in (
        ("camvid", "CamVid, with train, trainannot, val and valannot"),
        ("bccd", "BCCD as convert-dataset writes it"),
        ("tiny", "Tiny-ImageNet's ten classes"),
    ):
        parser.add_argument(f"--{name}", type=Path, metavar="FOLDER", help=f"{words}; without it: no column")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_data_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder of the files, cells and tables")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--limit", type=float, default=1800, help="seconds that a cell may take")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU (default 1)")
    parser.add_argument("--again", action="store_true", help="repeat cells that are done")
    parser.add_argument("--cell", nargs=2, metavar=("MODEL", "ENGINE"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    roots = {name: root for name in MODELS if (root := getattr(args, name)) is not None}
    if args.cell:
        model, engine = args.cell
        cell = run_cell(model, engine, roots[model], args.out, args.threads)
        write_file(_place(args.out, model, engine), json.dumps(asdict(cell), indent=2) + "\n")
        return 0
    cells = {}
    for model, root in roots.items():
        for engine in dict.fromkeys(["pytorch", *args.engines]):
            place = _place(args.out, model, engine)
            if args.again or not _is_done(place):
                options = [f"--{model}", str(root), "--out", str(args.out), "--threads", str(args.threads)]
                _in_process([*options, "--cell", model, engine], model, engine, place, args.limit)
            cell = Cell(**json.loads(place.read_text()))
            cells[model, engine] = cell
            print(f"{model:7} {engine:17} {cell.reason or f'{cell.figure:.2f}'}", flush=True)
    table = Table(cells)
    write_file(args.out / "engines.md", table.markdown())
    rows = [asdict(cell) | {"within_bounds": table.is_right(cell)} for cell in cells.values()]
    write_file(args.out / "engines.json", json.dumps(rows, indent=2) + "\n")
    print(f"\n{table.markdown()}")
    return 0 if all(map(table.is_right, cells.values())) else 1


def _place(out: Path, model: str, engine: str) -> Path:
    return out / "cells" / f"{model}-{engine}.json"


def _is_done(place: Path) -> bool:
    """Whether a cell has its figure; one without is tried again."""
    return place.is_file() and not json.loads(place.read_text()).get("reason")


def _in_process(options: list[str], model: str, engine: str, place: Path, limit: float) -> None:
    """A cell in its own process; its failure is a cell with a reason."""
    try:
        done = subprocess.run(
            [sys.executable, __file__, *options], capture_output=True, text=True, timeout=limit
        )
    except subprocess.TimeoutExpired:
        reason = f"not done within {limit:g} s"
    else:
        if done.returncode == 0:
            return
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        reason = lines[-1][:300]
    write_file(place, json.dumps(asdict(Cell(model, engine, reason=reason)), indent=2) + "\n")


def run_cell(model: str, engine: str, root: Path, out: Path, threads: int) -> Cell:
    """Exports, tests and reads the figure."""
    from hardnet_suite.errors import UserError

    row, how = MODELS[model], ENGINES[engine]
    try:
        if engine == "onnxruntime-web":
            from web import browser

            if (reason := browser.missing()) is not None:
                raise UserError(reason)
            version = browser.version()
        else:
            version = metadata.version(how.package)
        path = None if how.suffix is None else _exported(row, how, root, out)
    except metadata.PackageNotFoundError:
        return Cell(model, engine, reason=f"{how.package} is not installed")
    except UserError as error:
        return Cell(model, engine, reason=str(error))
    folder = out / "tests" / f"{model}-{engine}"
    command = ["test", row.config, *([str(path)] if path else ["--weights", row.tag])]
    command += ["--data-root", str(root), "--work-dir", str(folder), "--threads", str(threads), *how.options]
    start = time.perf_counter()
    if engine == "onnxruntime-web":
        _test_in_browser([*command, *row.options], path, threads)
    else:
        _suite([*command, *row.options])
    seconds = time.perf_counter() - start
    metrics = json.loads((folder / "metrics.json").read_text())["metrics"]
    return Cell(model, engine, 100 * metrics[row.figure[0]], version, round(seconds, 1))


def _exported(row: Model, how: Engine, root: Path, out: Path) -> Path:
    """The exported file, written unless it is there."""
    from hardnet_suite import create_model
    from hardnet_suite.deploy.agreement import SAMPLES
    from hardnet_suite.deploy.exporting import export_file
    from hardnet_suite.deploy.quantize import Quantization

    path = out / "files" / how.format / f"{row.network}_{row.tag}{how.suffix}"
    if not path.is_file():
        # the figure is the check of a file in integers
        images = _calibration(root, row) if how.int8 else None
        integers = Quantization(images, keep=row.keep, max_drop=100) if how.int8 else None
        export_file(
            create_model(row.network, pretrained=row.tag),
            path,
            format=how.format,
            size=row.size,
            precision="int8" if how.int8 else "fp32",
            images=SAMPLES if how.int8 else None,
            quantization=integers,
        )
    return path


def _calibration(root: Path, row: Model) -> Path | list[Path]:
    """The images to calibrate on, see ``Model``."""
    from hardnet_suite.data.classification import hold_out, read_folder

    place = root / row.calibration
    if place.suffix == ".json":
        return [root / "images" / image["file_name"] for image in json.loads(place.read_text())["images"]]
    if row.hold_out:
        return list(hold_out(read_folder(place), row.hold_out)[0].images)
    return place


def _suite(arguments: list[str]) -> None:
    from hardnet_suite.cli import main as suite

    status = suite(arguments)
    if status:
        raise SystemExit(status)


def _test_in_browser(arguments: list[str], path: Path, threads: int) -> None:
    """``test`` with the outputs that the browser computes."""
    from web.browser import Browser

    from hardnet_suite.deploy import session

    usual: Callable = session.open_session
    with Browser(path, threads=threads) as browser:

        def opened(*args, **options):
            exported = usual(*args, **options)
            exported._run, exported.engine = browser, "onnxruntime-web"
            return exported

        session.open_session = opened
        try:
            _suite(arguments)
        finally:
            session.open_session = usual


if __name__ == "__main__":
    sys.exit(main())
