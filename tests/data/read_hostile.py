"""Reads every file of FOLDER/KIND as that kind of data, in a process of its own: a crash is seen.

A JSON line per file: [kind, name, outcome, seconds]. The outcome is "answered", "refused" or what went wrong.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import unicodedata
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
hostile_data = importlib.import_module("hostile_data")

LIMIT = 4 << 30  # bytes of address space beyond what the imports take
SECONDS = 20


class FaultError(Exception):
    """An outcome that is neither an answer nor a refusal in one line."""


class RefusalError(Exception):
    """An error in one line, by the status of a command."""


def command(*arguments: object) -> tuple[str, str]:
    """(standard output, standard error) of a command that answers; Refusal for one line and exit status 2."""
    from hardnet_suite.cli import main

    streams = [io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2)]
    with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            status = stop.code
    output, errors = (stream.buffer.getvalue().decode() for stream in streams)
    control = [c for c in output + errors if unicodedata.category(c) == "Cc" and c != "\n"]
    if control:
        raise FaultError(f"prints the control character {control[0]!r}")
    if status == 2 and errors.count("\n") == 1 and "--debug" not in errors:
        raise RefusalError
    if status not in (0, 1) or "--debug" in errors or "Traceback" in errors:
        raise FaultError(f"status {status}: {errors[-300:]}")
    return output, errors


def scored(good: Path, path: Path, annotations: Path, results: Path) -> None:
    out = good / "scores.json"
    out.unlink(missing_ok=True)
    _, lines = command("eval", "coco", "--annotations", annotations, "--results", results, "--out", out)
    metrics = json.loads(out.read_text())["metrics"]
    if "poison" in path.name and not lines and metrics != _expected(good):
        raise FaultError(f"silent: mAP {metrics['mAP']}")


def _expected(good: Path) -> dict[str, float]:
    return json.loads((good / "expected.json").read_text())["metrics"]


def read_coco(good: Path, path: Path) -> None:
    from hardnet_suite.data.coco import check_coco

    print_lines(check_coco(path, good).table())
    scored(good, path, path, good / "results.json")


def read_results(good: Path, path: Path) -> None:
    scored(good, path, good / "annotations.json", path)


def print_lines(text: str) -> None:
    """What ``check-data`` does with a table."""
    if any(unicodedata.category(c) in ("Cc", "Cs") and c != "\n" for c in text):
        raise FaultError(f"a table with a control character: {text!a}")


def voc_folder(good: Path) -> Path:
    folder = good / "voc"
    shutil.rmtree(folder, ignore_errors=True)
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    for k in (1, 2):
        shutil.copy(good / f"{k}.png", folder / "JPEGImages")
        (folder / f"Annotations/{k}.xml").write_text(hostile_data.GOOD_XML.replace("1.png", f"{k}.png"))
    (folder / "ImageSets/Main/train.txt").write_text("1\n2\n")
    return folder


def converted(good: Path, folder: Path) -> None:
    """The conversion writes only into its folder, and what every command then reads without an error."""
    from hardnet_suite.data.coco import check_coco

    target = good / "converted"
    shutil.rmtree(target, ignore_errors=True)
    before = set(good.rglob("*"))
    command("convert-dataset", "voc", folder, target)
    if {path for path in good.rglob("*") if target not in (path, *path.parents)} != before:
        raise FaultError("the conversion wrote outside its folder")
    report = check_coco(target / "annotations/instances_train.json", target / "images")
    if report.errors:
        raise FaultError(f"converted with an error: {report.errors[0]}")


def read_voc(good: Path, path: Path) -> None:
    folder = voc_folder(good)
    shutil.copy(path, folder / "Annotations/1.xml")
    converted(good, folder)


def read_list(good: Path, path: Path) -> None:
    folder = voc_folder(good)
    shutil.copy(path, folder / "ImageSets/Main/train.txt")
    converted(good, folder)


def read_table(good: Path, path: Path) -> None:
    from hardnet_suite.data.classification import check_classification, read_csv

    print_lines(check_classification(read_csv(path, good)).table())


def read_log(good: Path, path: Path) -> None:
    folder = good / "run"
    (folder / "1/vis_data").mkdir(parents=True, exist_ok=True)
    shutil.copy(path, folder / "1/vis_data/scalars.json")
    command("plot", folder)


def read_rows(good: Path, path: Path) -> None:
    from hardnet_suite.data.sources import images_of
    from hardnet_suite.prediction import PredictionWriter

    folder = good / "predictions"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for k in (1, 2):
        shutil.copy(good / f"{k}.png", folder / f"{k}.jpg")
        shutil.copy(good / f"{k}.png", folder)
    shutil.copy(path, folder / "predictions.jsonl")
    for image in images_of(folder):
        image.open()
    PredictionWriter(folder).create()


def read_image(good: Path, path: Path) -> None:
    """The pixels, and that every other reader of the file agrees with them."""
    import numpy as np
    from PIL import Image, ImageOps

    from hardnet_suite.data import images
    from hardnet_suite.data.segmentation.label_images import read_stored
    from hardnet_suite.errors import UserError

    with contextlib.suppress(UserError):
        stored = read_stored(path)
        if stored.dtype != np.uint8 or stored.ndim != 2:
            raise FaultError(f"label image of shape {stored.shape}, {stored.dtype}")
    with contextlib.suppress(UserError):
        images.exif_orientation(path)
    with contextlib.suppress(UserError):
        images.header_sizes(path)
    pixels = images.read_rgb(path)
    if pixels.dtype != np.uint8 or pixels.shape[2:] != (3,):
        raise FaultError(f"image of shape {pixels.shape}, {pixels.dtype}")
    if pixels.shape[1::-1] != images.header_sizes(path)[1]:
        raise FaultError(f"decoded as {pixels.shape}, its header says {images.header_sizes(path)[1]}")
    if images.decode_plain(path.read_bytes(), "rgb") is not None:
        with Image.open(path) as image:
            try:
                slow = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
            except Exception as error:
                raise FaultError(f"OpenCV decodes what Pillow refuses: {error}") from None
        if not np.array_equal(slow, pixels):
            raise FaultError("OpenCV and Pillow decode other pixels")


def read_labels(good: Path, path: Path) -> None:
    """Scored as a prediction and as the truth; a good prediction scores what it should."""
    import numpy as np
    from PIL import Image

    folders = [good / "truth", good / "predicted"]
    values = np.arange(48 * hostile_data.SIZE).reshape(48, -1).astype(np.uint8) % 11
    for folder in folders:
        folder.mkdir(exist_ok=True)
        Image.fromarray(values).save(folder / "2.png")
    refused = 0
    for spoilt, other in (folders, folders[::-1]):
        shutil.copy(path, spoilt / "1.png")
        Image.fromarray(values).save(other / "1.png")
        try:
            command("eval", "segmentation", "--annotations", folders[0], "--predictions", folders[1],
                    "--dataset", "camvid")  # fmt: skip
        except RefusalError:
            refused += 1
    if refused == 2:
        raise RefusalError


READERS = {
    "coco": read_coco,
    "results": read_results,
    "voc": read_voc,
    "lists": read_list,
    "tables": read_table,
    "logs": read_log,
    "rows": read_rows,
    "images": read_image,
    "labels": read_labels,
}


def outcome_of(kind: str, good: Path, path: Path) -> str:
    from hardnet_suite.errors import UserError

    try:
        READERS[kind](good, path)
        return "answered"
    except RefusalError:
        return "refused"
    except UserError as error:
        return "refused" if "\n" not in str(error) else f"several lines: {error}"
    except FaultError as error:
        return str(error)
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} in {Path(place.filename).name}:{place.lineno}: {str(error)[:300]}"


def main(folder: str) -> None:
    warnings.simplefilter("ignore")
    kinds = sorted(os.listdir(folder))
    good = Path(tempfile.mkdtemp())
    hostile_data.write_good_folder(good)
    paths = ("--annotations", good / "annotations.json", "--results", good / "results.json")
    command("eval", "coco", *paths, "--out", good / "expected.json")
    if "rows" in kinds:
        import hardnet_suite.prediction  # noqa: F401
    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (size + LIMIT, size + LIMIT))
    for path in sorted(path for kind in kinds for path in Path(folder, kind).iterdir()):
        where = [path.parent.name, path.name]
        print(json.dumps(where), flush=True)
        signal.alarm(SECONDS)
        began = time.monotonic()
        outcome = outcome_of(path.parent.name, good, path)
        print(json.dumps([*where, outcome, time.monotonic() - began]), flush=True)
    signal.alarm(0)
    shutil.rmtree(good)


if __name__ == "__main__":
    main(*sys.argv[1:])
