"""The Dockerfile: what it copies is there and sent to the builder, and its command is one of the suite's."""

from __future__ import annotations

import json
import re
from pathlib import Path

from hardnet_suite.cli import main

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")


def instructions(name: str) -> list[str]:
    return re.findall(rf"^{name} +(.+)$", TEXT, re.MULTILINE)


def test_what_is_copied_is_sent_to_the_builder():
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    copied = {
        source
        for line in instructions("COPY")
        if "--from" not in line
        for source in line.split()[:-1]
        if source != "."
    }
    assert copied <= allowed
    assert all((ROOT / name).exists() for name in allowed)
    assert allowed - copied == {"Dockerfile"}


def test_the_wheel_needs_nothing_else():
    """Everything that pyproject.toml puts into the wheel or reads for it."""
    text = (ROOT / "pyproject.toml").read_text()
    copied = " ".join(instructions("COPY"))
    for name in re.findall(r'"(hardnet_suite|configs|[\w.]+\.py|[\w.]+\.pth|README\.md|LICENSE)"', text):
        if "/" not in name and (ROOT / name).exists():
            assert name in copied, name


def test_the_command_is_one_of_the_suite(monkeypatch):
    given = []
    monkeypatch.setattr("hardnet_suite.cli.serve.run", given.append)
    assert instructions("ENTRYPOINT") == ['["hardnet-suite"]']
    (command,) = (line for line in instructions("CMD") if line.startswith('["serve"'))
    assert main(json.loads(command)) == 0
    assert given[0].host == "0.0.0.0"
    assert str(given[0].port) in instructions("EXPOSE")
