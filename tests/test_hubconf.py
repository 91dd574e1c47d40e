"""torch.hub loads every model from a local folder, as the original's is used."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hardnet_suite import list_models
from hardnet_suite.errors import UserError
from hardnet_suite.weights import find

ROOT = str(Path(__file__).resolve().parents[1])


@pytest.fixture(autouse=True)
def weights(tmp_path, monkeypatch):
    monkeypatch.setenv("HARDNET_WEIGHTS_DIR", str(tmp_path))
    return tmp_path


def load(name, **options):
    return torch.hub.load(ROOT, name, source="local", **options)


def test_every_model_has_an_entry():
    import importlib.util

    spec = importlib.util.spec_from_file_location("hubconf", Path(ROOT, "hubconf.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    entries = {name for name, value in vars(module).items() if callable(value) and not name.startswith("_")}
    assert entries == {*list_models()}


def test_as_the_original_is_used(weights, golden):
    state = golden.state_dict("hardnet39ds")
    torch.save(state, weights / find("hardnet39ds").file)
    model = load("hardnet39ds", pretrained=True).eval()
    with torch.inference_mode():
        found = model(golden.input("hardnet39ds"))
    torch.testing.assert_close(found, golden.outputs("hardnet39ds")["out"], rtol=1e-4, atol=1e-4)
    assert load("hardnet39ds").num_classes == 1000
    assert load("hardnet39ds", num_classes=7).num_classes == 7


def test_a_tag_and_weights_that_are_not_there():
    assert load("ssd320_hardnet39ds", pretrained="bccd").num_classes == 3
    with pytest.raises(UserError, match=r"none\.pth: no such file"):
        load("hardnet39ds", pretrained="none.pth")
