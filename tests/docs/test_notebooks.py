"""The notebooks of docs/notebooks: valid, without outputs, linked to existing documents; and they run."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import sys
from pathlib import Path

import pytest
from PIL import Image

REASON = "the notebooks are run with nbclient and ipykernel, of the extra dev"
nbclient = pytest.importorskip("nbclient", reason=REASON)
nbformat = pytest.importorskip("nbformat", reason=REASON)
pytest.importorskip("ipykernel", reason=REASON)

from jupyter_client import AsyncKernelManager  # noqa: E402
from jupyter_client.kernelspec import KernelSpecManager  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs/notebooks"
NOTEBOOKS = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
# the images that a notebook shows, and the packages of extras that it needs
IMAGES = {"quickstart": 5, "own_data": 4, "deployment": 2, "matching": 5}
NEEDS = {"deployment": ("onnx", "onnxscript", "onnxruntime", "openvino"), "matching": ("faiss",)}
CELL_SECONDS = 900  # the machine may be busy


def read(name: str):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=nbformat.NO_CONVERT)


def execute(notebook, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the cells in an empty folder with this interpreter, whatever kernels are installed."""
    working, home = folder / "working", folder / "home"
    spec = home / "kernels/tests/kernel.json"
    spec.parent.mkdir(parents=True)
    working.mkdir()
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec.write_text(json.dumps({"argv": argv, "display_name": "tests", "language": "python"}))
    for variable in ("IPYTHONDIR", "TORCH_HOME", "JUPYTER_RUNTIME_DIR"):  # nobody's settings or weights
        monkeypatch.setenv(variable, str(home / variable.lower()))
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):  # nothing is downloaded
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.delenv("MPLBACKEND", raising=False)  # figures are shown in the notebook
    specs = KernelSpecManager(kernel_dirs=[str(home / "kernels")], ensure_native_kernel=False)
    manager = AsyncKernelManager(kernel_name="tests", kernel_spec_manager=specs)
    client = nbclient.NotebookClient(
        notebook, km=manager, timeout=CELL_SECONDS, resources={"metadata": {"path": str(working)}}
    )
    client.execute()


def shown_images(notebook) -> list[Image.Image]:
    data = [
        output.data["image/png"]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    return [Image.open(io.BytesIO(base64.b64decode(each))) for each in data]


def test_every_notebook_is_known():
    assert sorted(IMAGES) == NOTEBOOKS


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_is_valid_and_has_no_outputs(name):
    notebook = read(name)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook.metadata.language_info == {"name": "python"}
    for cell in notebook.cells:
        assert not cell.metadata
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
        assert re.fullmatch("[a-z]+(-[a-z]+)*", cell.id), cell.id  # by hand: diffs stay small
    assert notebook.cells[0].source.startswith("# ")
    text = (FOLDER / f"{name}.ipynb").read_text(encoding="utf-8")
    assert text == nbformat.writes(notebook) + "\n"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_failing_command_cannot_pass_unnoticed(name):
    """IPython goes on after a failed ``!command``, and bash after a failed line but the last one."""
    for cell in read(name).cells:
        if cell.cell_type == "code":
            lines = cell.source.splitlines()
            assert not [line for line in lines if re.match(r"\s*(!|%(sx|system)\b|\w+ *= *!)", line)], cell.id
            if lines[0].startswith("%%"):
                assert lines[0] == "%%bash", cell.id
                assert len(lines) == 2, f"{cell.id}: one command per cell"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_links_lead_to_documents_and_their_headings(name):
    text = "\n".join(cell.source for cell in read(name).cells if cell.cell_type == "markdown")
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"https?://", link)]
    assert links
    for link in links:
        target, _, anchor = link.partition("#")
        document = FOLDER / target
        assert document.is_file(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = [re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings]
            assert anchor in anchors, link


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_runs_in_an_empty_folder(name, tmp_path, monkeypatch):
    for package in NEEDS.get(name, ()):
        pytest.importorskip(package, reason=f"{name}.ipynb needs {package}")
    notebook = read(name)
    execute(notebook, tmp_path, monkeypatch)
    if folder := os.environ.get("HARDNET_NOTEBOOKS"):  # to look at the outputs
        nbformat.write(notebook, Path(folder) / f"{name}.ipynb")
    images = shown_images(notebook)
    assert len(images) >= IMAGES[name]
    for image in images:
        image.load()
        assert min(image.size) >= 100
        assert any(low < high for low, high in image.convert("RGB").getextrema())  # not blank
    assert not any((tmp_path / "home/torch_home").rglob("*.*")), "weights were downloaded"


@pytest.mark.parametrize(
    "source", ["assert 1 == 2", "%%bash\nhardnet-suite predict missing.jpg --model nothing"]
)
def test_a_failing_cell_fails_the_test(source, tmp_path, monkeypatch):
    cells = [cell.source for cell in read("quickstart").cells if cell.id == "setup"] + [source]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(each) for each in cells])
    with pytest.raises(nbclient.exceptions.CellExecutionError):
        execute(notebook, tmp_path, monkeypatch)
