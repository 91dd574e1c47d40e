"""From a network to what is deployed: faster forms, and files for other runtimes.

The names are imported when first asked for: the transforms need torch alone, and each engine its own package.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hardnet_suite.deploy.agreement import DisagreementError
    from hardnet_suite.deploy.exporting import export
    from hardnet_suite.deploy.formats import FORMATS
    from hardnet_suite.deploy.quantize import Quantization
    from hardnet_suite.deploy.record import ExportRecord
    from hardnet_suite.deploy.session import Session, is_exported, open_session
    from hardnet_suite.deploy.steps import transformed
    from hardnet_suite.deploy.transforms import (
        cast,
        channels_last,
        fold_normalization,
        fuse_batch_norms,
        merge_decoders,
        pack,
        pad_channels,
        separate_averages,
        split_concats,
    )
    from hardnet_suite.deploy.tuning import Choice, deploy

_HOMES = {
    "Choice": "tuning",
    "DisagreementError": "agreement",
    "ExportRecord": "record",
    "FORMATS": "formats",
    "Quantization": "quantize",
    "Session": "session",
    "cast": "transforms",
    "channels_last": "transforms",
    "deploy": "tuning",
    "export": "exporting",
    "fold_normalization": "transforms",
    "fuse_batch_norms": "transforms",
    "is_exported": "session",
    "merge_decoders": "transforms",
    "open_session": "session",
    "pack": "transforms",
    "pad_channels": "transforms",
    "separate_averages": "transforms",
    "split_concats": "transforms",
    "transformed": "steps",
}
__all__ = [
    "FORMATS",
    "Choice",
    "DisagreementError",
    "ExportRecord",
    "Quantization",
    "Session",
    "cast",
    "channels_last",
    "deploy",
    "export",
    "fold_normalization",
    "fuse_batch_norms",
    "is_exported",
    "merge_decoders",
    "open_session",
    "pack",
    "pad_channels",
    "separate_averages",
    "split_concats",
    "transformed",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
