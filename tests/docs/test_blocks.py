"""The Python blocks of the README and the documents run, their commands parse, their links lead somewhere."""

from __future__ import annotations

import importlib
import re
import shlex
import shutil
from pathlib import Path

import pytest

from hardnet_suite.cli import COMMANDS, main
from hardnet_suite.config_names import own_configs
from hardnet_suite.networks import list_models
from hardnet_suite.openmm.run.config_copies import flat_copy
from hardnet_suite.openmm.run.configs import load_config

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")),
]


def text_of(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


BLOCKS = re.compile(r"```python\n(.*?)```", re.DOTALL)
# run here with the sample images, and whose blocks another test runs
RUN = [
    "README.md",
    *(
        f"docs/{name}.md"
        for name in (
            *("index", "quickstart", "models", "classification", "detection", "segmentation"),
            *("custom_data", "deploy", "design", "performance", "serving"),
        )
    ),
]
# test_backbone.py, test_descriptor.py, tests/test_ray.py
RUN_ELSEWHERE = ["docs/backbone.md", "docs/descriptor.md", "docs/scaling.md"]


@pytest.mark.parametrize("document", RUN)
def test_python_blocks_run(document, tmp_path, monkeypatch):
    """In a folder with the sample images and what else the documents name; configs are loaded."""
    monkeypatch.chdir(tmp_path)
    assert main(["samples"]) == 0
    for name in ("ssd320_hardnet39ds_bccd", "fchardnet70_camvid"):
        Path(f"{name}.py").write_text(flat_copy(name))
    if document == "docs/deploy.md":
        pytest.importorskip("onnxruntime")
        model = ["--model", "fchardnet70", "--weights", "camvid_trainval"]
        assert main(["export", *model, "--out", "street.onnx"]) == 0
        Path("frames").mkdir()
        shutil.copy("street.jpg", "frames")
    blocks = BLOCKS.findall(text_of(document))
    assert blocks
    namespace: dict = {}
    for block in blocks:
        if block.startswith("_base_"):
            Path("mine.py").write_text(block)
            load_config("mine.py", warn=pytest.fail)
        else:
            exec(compile(block, document, "exec"), namespace)


def test_every_document_with_python_blocks_is_run():
    assert sorted(name for name in DOCUMENTS if BLOCKS.search(text_of(name))) == sorted(RUN + RUN_ELSEWHERE)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_and_images_exist(document):
    path = ROOT / document
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text_of(document))
    missing = [target for target in targets if not (path.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS)
def test_tables_have_a_header(document):
    """An empty line within a table makes a paragraph of what follows."""
    text = re.sub(r"^```.*?^```", "", text_of(document), flags=re.MULTILINE | re.DOTALL)
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert re.match(r".*\n\|[ :|-]+\|\n", table), table


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_into_documents_name_headings(document):
    path = ROOT / document
    for target, anchor in re.findall(r"\]\(([^)#: ]*)#([^)]+)\)", text_of(document)):
        headings = re.findall(
            r"^#+ (.+)$", (path.parent / target if target else path).read_text(), re.MULTILINE
        )
        anchors = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
        assert anchor in anchors, f"{target}#{anchor}"


def commands(document: str) -> list[list[str]]:
    """Arguments of every ``hardnet-suite`` command of a document's shell blocks."""
    found = []
    for block in re.findall(r"```sh\n(.*?)```", text_of(document), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if "hardnet-suite" in words[:1]:
                found.append(words[1:])
            elif "hardnet_suite" in words:
                found.append(words[words.index("hardnet_suite") + 1 :])
    return found


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_parse_and_their_configs_and_models_exist(document, monkeypatch):
    """Each command is parsed as the program does, and not run."""
    parsed = []
    for name in COMMANDS:
        monkeypatch.setattr(
            importlib.import_module(f"hardnet_suite.cli.{name.replace('-', '_')}"), "run", parsed.append
        )
    given = commands(document)
    for arguments in given:
        assert main(arguments) == 0, shlex.join(arguments)
        if arguments[0] in ("train", "test", "check-data") and not arguments[1].endswith(".py"):
            known = list_models() if "--data" in arguments else own_configs()
            assert arguments[1] in known, shlex.join(arguments)
    assert len(parsed) == len(given)


def test_only_one_line_speaks_of_the_tools_of_a_source_checkout():
    """An installed package has none; mmdet has some of its own."""
    lines = [line for document in DOCUMENTS for line in text_of(document).splitlines()]
    assert sum("tools/" in line and "mmdet" not in line for line in lines) == 1
