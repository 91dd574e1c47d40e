"""HarDNet's classifiers in timm: ``import hardnet_suite.timm``, then ``timm.create_model("hardnet68", ...)``.

The import registers the classifiers of the architecture table. timm offers no entry point through which a
package could register models without being imported.
"""

# no postponed annotations: torch.fx copies those of ``forward`` into its code, where TorchScript needs types
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

try:
    from timm.models import (
        DefaultCfg,
        FeatureDictNet,
        FeatureGraphNet,
        FeatureInfo,
        FeatureListNet,
        PretrainedCfg,
        build_model_with_cfg,
        register_model,
        resolve_pretrained_cfg,
    )
except ModuleNotFoundError as error:
    if str(error.name).partition(".")[0] != "timm":
        raise
    raise ModuleNotFoundError(
        "hardnet_suite.timm needs timm: pip install 'hardnet-suite[timm]', or pip install 'timm>=1.0.31'",
        name="timm",
    ) from None

from hardnet_suite.models import create_model
from hardnet_suite.networks import ARCHS, HarDNetArch, build_network, default_usage
from hardnet_suite.networks.factory import require_no_head
from hardnet_suite.weights import ROWS, Checkpoint, WeightsRow, open_weights

__all__ = ["HarDNetFeatureDict", "HarDNetFeatureGraph", "HarDNetFeatures", "default_cfgs"]


class HarDNetFeatures(nn.Module):
    """A classifier as a list of feature maps: what ``timm.create_model(..., features_only=True)`` returns.

    The maps are those after the transitions, in the order of ``out_indices``; later stages are removed.

    Args:
        model: The classifier, which is changed.
        out_indices: Feature maps to return; an integer takes so many of the last.

    Attributes:
        feature_info: timm's ``FeatureInfo`` of the maps.
    """

    def __init__(self, model: nn.Module, out_indices: int | Sequence[int] = (0, 1, 2, 3, 4)):
        super().__init__()
        indices = model.prune_intermediate_layers(out_indices)
        self.feature_info = FeatureInfo(model.feature_info.info, tuple(indices))
        self.model = model
        self.return_layers = {info["module"]: str(info["index"]) for info in self.feature_info.get_dicts()}

    @property
    @torch.jit.unused
    def return_layers(self) -> dict[str, str]:
        """Module -> name of the map, of each map that is returned; transformers' ``TimmBackbone`` sets it."""
        return self._return_layers

    @return_layers.setter
    @torch.jit.unused
    def return_layers(self, layers: dict[str, str]) -> None:
        stages = {
            info["module"]: feature.stage
            for info, feature in zip(self.feature_info.info, self.model.trunk.features, strict=True)
        }
        self._return_layers = layers
        self._stages = [stages[module] for module in layers]
        self._names = list(layers.values())

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Saves memory in training by recomputing the blocks in the backward pass."""
        self.model.set_grad_checkpointing(enable)

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.model.trunk.maps(x, self._stages)


class HarDNetFeatureDict(HarDNetFeatures):
    """The same as a dict, by the index of the map as a string: ``feature_cls="dict"``."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = self.model.trunk.maps(x, self._stages)
        return {name: maps[index] for index, name in enumerate(self._names)}


class HarDNetFeatureGraph(FeatureGraphNet):
    """timm's own for ``feature_cls="fx"``, with the maps in the order of ``out_indices``.

    timm returns them in the order in which the graph computes them, unlike its ``feature_info``.

    Args:
        model: The classifier.
        out_indices: Feature maps to return; an integer takes so many of the last.
        out_map: Their names, with ``return_dict``; default: their indices.
        options: As of timm's class.
    """

    def __init__(
        self,
        model: nn.Module,
        out_indices: int | Sequence[int],
        out_map: Sequence[int | str] | None = None,
        **options: Any,
    ):
        super().__init__(model, out_indices, out_map, **options)
        self._names = [str(name) for name in (self.feature_info.out_indices if out_map is None else out_map)]

    def forward(self, x: Tensor):  # a list or a dict: TorchScript infers which
        maps = self.graph_module(x)
        ordered = {name: maps[name] for name in self._names}
        if self.return_dict:
            return ordered
        return list(ordered.values())


# in place of timm's: the first two rebuild a network from its children
_FEATURES = {
    "list": HarDNetFeatures,
    "dict": HarDNetFeatureDict,
    "fx": HarDNetFeatureGraph,
    FeatureListNet: HarDNetFeatures,
    FeatureDictNet: HarDNetFeatureDict,
    FeatureGraphNet: HarDNetFeatureGraph,
}


def _of_weights(name: str, weights: Checkpoint) -> dict[str, Any]:
    """What a weights file says, as the entries of a pretrained cfg."""
    values = {"num_classes": weights.num_classes, "label_names": weights.classes}
    values = {key: value for key, value in values.items() if value is not None}
    return _rule(name, weights.usage.preprocess.timm_config()) | values


def _rule(name: str, rule: dict[str, Any]) -> dict[str, Any]:
    return rule | {"pool_size": _pool_size(name, tuple(rule["input_size"]))}


@cache
def _pool_size(name: str, size: tuple[int, int, int]) -> tuple[int, int]:
    """Height and width of the last map of a classifier; size is (channels, height, width) of the input."""
    with torch.device("meta"):
        network = build_network(name, in_chans=size[0]).eval()
        height, width = network.forward_features(torch.empty(1, *size)).shape[-2:]
    return height, width


def _cfg(name: str, row: WeightsRow | None = None) -> PretrainedCfg:
    values = {
        "num_classes": ARCHS[name].num_classes,
        "first_conv": "trunk.stem.0.conv",
        "classifier": "fc",
        "paper_name": "HarDNet: A Low Memory Traffic Network",
        "paper_ids": "arXiv:1909.00948",
    } | _rule(name, default_usage(name).preprocess.timm_config())
    if row is not None:
        values |= {"license": row.licence, "origin_url": row.source, "description": row.metric or None}
        if row.shipped:
            weights = open_weights(row)
            values |= _of_weights(name, weights) | {"file": str(weights.path)}
        else:
            values["url"] = row.urls[0].url
    return PretrainedCfg(**values)


def _default_cfg(name: str) -> DefaultCfg:
    """The weights of the registry by tag, but for graphs: the published ones first, or else none."""
    rows = {row.tag: row for row in ROWS if row.model == name and row.layout != "onnx"}
    cfgs = {tag: _cfg(name, row) for tag, row in rows.items()}
    if "published" not in cfgs:
        cfgs = {"": _cfg(name), **cfgs}
    tags = sorted(cfgs, key=lambda tag: tag not in ("published", ""))
    return DefaultCfg(tags=deque(tags), cfgs=cfgs, is_pretrained=bool(rows))


def _own_source(name: str, cfg: PretrainedCfg) -> str | None:
    """The tag or path of the weights where this suite reads them; None where timm does."""
    if cfg.state_dict or cfg.hf_hub_id or cfg.source in ("hf-hub", "local-dir"):
        return None
    if cfg.file:
        return cfg.file
    return next(
        (row.tag for row in ROWS if row.model == name and row.urls and row.urls[0].url == cfg.url), None
    )


def _build(
    name: str,
    source: str | None,
    *,
    device: Any = None,
    dtype: torch.dtype | None = None,
    **options: Any,
) -> nn.Module:
    with nullcontext() if device is None else torch.device(device):
        return create_model(name, pretrained=source, **options).to(dtype=dtype)


def _create(name: str, pretrained: bool, **options: Any) -> nn.Module:
    kind = options.pop("feature_cls", None)
    feature_cfg = dict(options.pop("feature_cfg", None) or {})
    kind = feature_cfg.pop("feature_cls", "list") if kind is None else kind
    feature_cfg["feature_cls"] = _FEATURES.get(kind.lower() if isinstance(kind, str) else kind, kind)
    if options.get("features_only"):
        # a classifier that timm saved brings its own options along
        saved = options.get("pretrained_model_args") or {}
        require_no_head({key: value for key, value in options.items() if value != saved.get(key)})
    source = None
    if pretrained:
        overlay = options.get("pretrained_cfg_overlay") or {}
        cfg = resolve_pretrained_cfg(name, options.get("pretrained_cfg"), overlay)
        source = _own_source(name, cfg)
        if source is not None and options.get("cache_dir") is not None:
            raise ValueError(
                "cache_dir has no effect on the weights of this suite: set TORCH_HOME or HARDNET_WEIGHTS_DIR"
            )
        own_files = {own.file for own in default_cfgs[name].cfgs.values()}
        if source is not None and source == cfg.file and source not in own_files:
            # a file of the user's own has its own classes and input rule
            options["pretrained_cfg_overlay"] = _of_weights(name, open_weights(source, name)) | overlay
    network = build_model_with_cfg(
        partial(_build, name, source),
        name,
        pretrained and source is None,
        feature_cfg=feature_cfg,
        **options,
    )
    if pretrained:  # or transformers' TimmBackbone would reset the running statistics
        for tensor in network.state_dict(keep_vars=True).values():
            tensor._is_hf_initialized = True
    return network


def _entry(name: str) -> Callable[..., nn.Module]:
    def build(pretrained: bool = False, **options: Any) -> nn.Module:
        return _create(name, pretrained, **options)

    build.__name__ = build.__qualname__ = name
    build.__doc__ = (
        f"Builds {name}.\n\nArgs:\n    pretrained: Load the weights that the tag names.\n"
        "    **options: num_classes, in_chans, drop_rate, global_pool, output_stride, features_only, "
        "out_indices, feature_cls, device, dtype and timm's own."
    )
    return build


default_cfgs = {name: _default_cfg(name) for name, row in ARCHS.items() if isinstance(row, HarDNetArch)}
globals().update({name: register_model(_entry(name)) for name in default_cfgs})
