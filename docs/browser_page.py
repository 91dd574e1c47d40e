"""Sphinx extension: browser.html, on which ONNX Runtime Web computes the models in the package.

The build exports the models and copies the runtime from ``node_modules``, where ``npm ci`` installs it; if
one is missing, the page says so. What the scripts know of a model is what its exported file says of itself.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx
from sphinx.util import logging

import hardnet_suite
from hardnet_suite.cli.samples import SAMPLES
from hardnet_suite.data.files import sha256
from hardnet_suite.deploy.exporting import export
from hardnet_suite.deploy.formats import FORMATS
from hardnet_suite.deploy.record import ExportRecord
from hardnet_suite.errors import UserError
from hardnet_suite.networks import SegmentationPostprocess
from hardnet_suite.prediction import load_model
from hardnet_suite.prediction.batch import USUAL_SCORE
from hardnet_suite.weights import registry

ROOT = Path(__file__).resolve().parents[1]
FOLDER = "_static/browser"  # of the site
SCRIPTS = Path(__file__).with_name("browser")
RUNTIME = "onnxruntime-web"
_RUNTIME_FILES = {  # in its dist -> in the site: not every server knows the type of .mjs
    "ort.wasm.bundle.min.mjs": "ort.wasm.bundle.min.js",
    "ort-wasm-simd-threaded.wasm": "ort-wasm-simd-threaded.wasm",
}
_INSTALL = "npm ci --ignore-scripts"
_SOURCES = ("networks", "inference", "deploy")  # of what is exported, and how
_FORMAT = FORMATS["onnx"]


@dataclass(frozen=True)
class PageModel:
    """A model of the page.

    Attributes:
        name: of the model.
        tag: of its weights, which are in the package.
        title: what it is for.
        sample: the image of the package that it is for.
    """

    name: str
    tag: str
    title: str
    sample: str


MODELS = (
    PageModel("fchardnet70", "camvid_trainval", "Street scenes", "street.jpg"),
    PageModel("ssd320_hardnet39ds", "bccd", "Blood cells", "cells.jpg"),
)


class MissingError(Exception):
    """What a build lacks for the page, in words, and the command that installs it."""

    def __init__(self, message: str, command: str):
        super().__init__(f"{message}: {command}")
        self.message, self.command = message, command


def runtime_folder(modules: Path) -> Path:
    """The files of ONNX Runtime Web in ``node_modules``.

    Raises:
        MissingError: it is not installed, or in another version than package.json says.
    """
    package = json.loads((ROOT / "package.json").read_text(encoding="utf-8"))
    wanted = package["dependencies"][RUNTIME]
    try:
        installed = json.loads((modules / RUNTIME / "package.json").read_text(encoding="utf-8"))["version"]
    except FileNotFoundError:
        raise MissingError(f"{RUNTIME} {wanted} is not installed", _INSTALL) from None
    if installed != wanted:
        raise MissingError(f"{RUNTIME} is {installed}, expected {wanted}", _INSTALL)
    if lacking := [name for name in _RUNTIME_FILES if not (modules / RUNTIME / "dist" / name).is_file()]:
        raise MissingError(f"{RUNTIME} lacks {lacking[0]}", _INSTALL)
    return modules / RUNTIME / "dist"


def exported(model: PageModel, cache: Path) -> Path:
    """The model as an ONNX file that takes pixels, written if nothing like it is there.

    A detector's file returns answers. That of a segmentor returns logits: the classes of an image are those
    of its logits resized, and a mask of the input's size would be coarser.

    Raises:
        MissingError: the packages that write it are not installed.
    """
    try:
        _FORMAT.require_packages(to_write=True)
    except UserError:
        message = "the packages that write ONNX files are not installed"
        raise MissingError(message, f"pip install 'hardnet-suite[{_FORMAT.extra}]'") from None
    key = hashlib.sha256(repr(registry.find(model.name, model.tag)).encode())
    for package in ("torch", "onnx", "onnxscript", "onnxruntime"):
        key.update(f"{package} {metadata.version(package)}\n".encode())
    suite = Path(hardnet_suite.__file__).parent
    for path in (Path(__file__), *sorted(path for room in _SOURCES for path in (suite / room).rglob("*.py"))):
        key.update(path.read_bytes())
    stem = f"{model.name}_{model.tag}"
    path = cache / f"{stem}-{key.hexdigest()[:16]}.onnx"
    if not path.is_file():
        loaded = load_model(model.name, weights=model.tag, device="cpu")
        export(loaded, path, preprocess=True, postprocess=loaded.task == "detection")
        for other in set(cache.glob(f"{stem}-*.onnx")) - {path}:
            other.unlink(missing_ok=True)
    return path


def described(model: PageModel, path: Path) -> dict[str, Any]:
    """What the page's scripts know of a model: the record of its file, and where it lies in the site."""
    record = ExportRecord.from_json(_FORMAT.read_metadata(path) or "")
    _require_expressible(record)
    # with the usual colours where the file has none
    loaded = load_model(model.name, weights=model.tag, device="cpu")
    return {
        "name": f"{model.name}:{model.tag}",
        "title": model.title,
        "file": f"../models/{model.name}_{model.tag}.onnx",
        "bytes": path.stat().st_size,
        "sha256": sha256(path),
        "sample": f"../samples/{model.sample}",
        "least_side": record.least_side,
        "input": record.input_name,
        "task": loaded.task,
        "num_classes": record.num_classes,
        "classes": loaded.classes,
        "palette": loaded.palette,
        "score": USUAL_SCORE,
        "preprocess": record.usage.preprocess.to_dict(),
        "postprocess": record.usage.postprocess.to_dict(),
    }


def _require_expressible(record: ExportRecord) -> None:
    """ValueError for what the scripts do not do; the file itself normalises."""
    before, after = record.usage.preprocess, record.usage.postprocess
    if (
        before.pad is not None
        or before.resize not in ("stretch", "fit")
        or before.antialias
        or before.interpolation != "bilinear"
    ):
        raise ValueError(f"the scripts of browser.html cannot express the input rule {before}")
    if isinstance(after, SegmentationPostprocess) and (after.window is not None or record.num_classes == 1):
        raise ValueError(f"the scripts of browser.html cannot express the output rule {after}")


class BrowserPage(Directive):
    """Where browser.md has the interactive part, or what it lacks."""

    def run(self) -> list[nodes.Node]:
        environment = self.state.document.settings.env
        environment.note_reread()  # what is installed may change while the document does not
        data = environment.app.browser_page
        if isinstance(data, MissingError):
            text = nodes.paragraph("", f"This build of the site has no interactive part: {data.message}. ")
            text += [nodes.literal("", data.command), nodes.Text(", and a new build of the site, add it.")]
            return [nodes.warning("", text)]
        environment.metadata[environment.docname]["browser_page"] = True
        template = (Path(__file__).with_suffix(".html")).read_text(encoding="utf-8")
        text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
        return [nodes.raw("", template.replace("@DATA@", text), format="html")]


def scripts(runtime: Path) -> dict[str, Path]:
    """The page's scripts and runtime, by their places in the site.

    Their folder is named after what is in it, as scripts import each other by name: a browser that kept
    some from an earlier build would run them with new ones.
    """
    files = {path.name: path for path in sorted(SCRIPTS.glob("*.js"))}
    files |= {place: runtime / name for name, place in _RUNTIME_FILES.items()}
    digest = hashlib.sha256()
    for name, path in files.items():
        digest.update(f"{name} {sha256(path)}\n".encode())
    return {f"{digest.hexdigest()[:12]}/{name}": path for name, path in files.items()}


def _prepare(app: Sphinx) -> None:
    """Finds or makes what the page needs, before documents are read."""
    app.browser_page = MissingError("it is for HTML", "make docs")
    app.browser_files = {}
    if app.builder.format != "html":
        return
    try:
        files = scripts(runtime_folder(Path(app.config.browser_modules)))
        models = []
        for model in MODELS:
            path = exported(model, Path(app.config.browser_cache))
            models.append(described(model, path))
            files[f"models/{Path(models[-1]['file']).name}"] = path
            files[f"samples/{model.sample}"] = SAMPLES / model.sample
    except MissingError as error:
        logging.getLogger(__name__).info("browser.html has no interactive part: %s", error)
        app.browser_page = error
        return
    wasm = next(path for place, path in files.items() if place.endswith(".wasm"))
    place = next(name for name in _RUNTIME_FILES.values() if name.endswith(".wasm"))
    binary = {"file": place, "bytes": wasm.stat().st_size, "sha256": sha256(wasm)}
    app.browser_page = {"models": models, "runtime": binary}
    app.browser_files = files


def _add_scripts(app: Sphinx, pagename: str, *_: Any) -> None:
    if app.env.metadata.get(pagename, {}).get("browser_page"):
        page = next(place for place in app.browser_files if place.endswith("/page.js"))
        app.add_css_file("browser/style.css")
        app.add_js_file(f"browser/{page}", type="module")


def _copy(app: Sphinx, error: Exception | None) -> None:
    """Puts the page's files into the site, and removes those of earlier builds."""
    folder = Path(app.outdir, FOLDER)
    kept = {folder / place for place in app.browser_files} | {folder / "style.css"}
    for path in sorted(folder.rglob("*"), reverse=True) if error is None else ():
        if path.is_dir():
            if not any(path.iterdir()):
                path.rmdir()
        elif path not in kept:
            path.unlink()
    for place, source in app.browser_files.items() if error is None else ():
        target = Path(app.outdir, FOLDER, place)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_config_value("browser_modules", str(ROOT / "node_modules"), "", types=(str,))
    app.add_config_value("browser_cache", str(ROOT / "work_dirs/browser"), "", types=(str,))
    app.add_directive("browser-page", BrowserPage)
    app.connect("builder-inited", _prepare)
    app.connect("html-page-context", _add_scripts)
    app.connect("build-finished", _copy)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
