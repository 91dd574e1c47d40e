"""HarDNet for classification, detection and segmentation, and the HardNet patch descriptor.

The public face: ``create_model``, ``list_models``, ``load_model``, ``predict``, ``match_images``,
``HardNetDetector``, ``describe``, ``convert_official``, ``export``, ``benchmark``. They are imported when
first asked for, so that the command line starts at once and ``doctor`` runs even where torch does not.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hardnet_suite.deploy.benchmark import Timing, benchmark
    from hardnet_suite.deploy.exporting import export
    from hardnet_suite.matching import HardNetDetector, Matches, describe, match_images
    from hardnet_suite.models import create_model
    from hardnet_suite.networks import list_models
    from hardnet_suite.prediction import LoadedModel, Prediction, load_model, predict
    from hardnet_suite.weights import convert_official

__version__ = "0.1.0"
__all__ = [
    "HardNetDetector",
    "LoadedModel",
    "Matches",
    "Prediction",
    "Timing",
    "benchmark",
    "convert_official",
    "create_model",
    "describe",
    "export",
    "list_models",
    "load_model",
    "match_images",
    "predict",
]

_HOMES = {
    "HardNetDetector": "hardnet_suite.matching",
    "LoadedModel": "hardnet_suite.prediction",
    "Matches": "hardnet_suite.matching",
    "Prediction": "hardnet_suite.prediction",
    "Timing": "hardnet_suite.deploy.benchmark",
    "benchmark": "hardnet_suite.deploy.benchmark",
    "convert_official": "hardnet_suite.weights",
    "create_model": "hardnet_suite.models",
    "describe": "hardnet_suite.matching",
    "export": "hardnet_suite.deploy.exporting",
    "list_models": "hardnet_suite.networks",
    "load_model": "hardnet_suite.prediction",
    "match_images": "hardnet_suite.matching",
    "predict": "hardnet_suite.prediction",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
