"""Channels padded with zeros to a multiple that matrix units and blocked layouts prefer."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hardnet_suite.deploy.transforms.blocks import SplitHarDBlock
from hardnet_suite.deploy.transforms.decoders import (
    MergedCenterNetDecoder,
    MergedConv,
    MergedFCHarDNetDecoder,
    SeparableContext,
)
from hardnet_suite.networks import (
    MSEG,
    SSD,
    CenterNet,
    FCHarDNet,
    HarDBlock,
    HarDNetClassifier,
    HarDNetTrunk,
    PatchDescriptor,
)
from hardnet_suite.networks.centernet import CenterNetDecoder, ContextConcat
from hardnet_suite.networks.fchardnet import FCHarDNetDecoder, TransposedDecoder
from hardnet_suite.networks.layers import (
    ACTIVATIONS,
    POOLS,
    DilatedPool,
    L2Norm,
    PadSame,
    ReceptiveFieldBlock,
)

_UNCHANGED = (
    nn.Identity,
    nn.Dropout,
    DilatedPool,
    PadSame,
    *ACTIVATIONS.values(),
    *POOLS.values(),
)  # they map zeros to zeros


@dataclass(frozen=True)
class Layout:
    """Where the channels of a padded map come from.

    Attributes:
        sources: For each channel, the channel of the original map; −1: padding, all zeros.
        count: Channels of the original map.
    """

    sources: tuple[int, ...]
    count: int

    @classmethod
    def of(cls, count: int, multiple: int = 1) -> Layout:
        return cls((*range(count), *[-1] * (-count % multiple)), count)

    @classmethod
    def joined(cls, layouts: Iterable[Layout]) -> Layout:
        """That of concatenated maps."""
        sources: list[int] = []
        count = 0
        for layout in layouts:
            sources += [source if source < 0 else source + count for source in layout.sources]
            count += layout.count
        return cls(tuple(sources), count)

    def spread(self, values: Tensor, dim: int = 0, fill: float = 0.0) -> Tensor:
        """Numbers per original channel -> per padded channel."""
        index = torch.tensor(self.sources, device=values.device)
        return values.index_select(dim, index.clamp(min=0)).index_fill(dim, (index < 0).nonzero()[:, 0], fill)


def pad_channels(network: nn.Module, multiple: int = 16) -> nn.Module:
    """A copy for inference whose maps have a multiple of ``multiple`` channels inside; the others are zero.

    Input and output are those of the network: what leaves it, feature maps included, is not padded.

    Args:
        network: Of ``create_model``, in any of the forms of this package, with batch norms folded or not.
        multiple: 8, 16 or 32, as the matrix unit has it.

    Returns:
        The copy in eval mode.

    Raises:
        ValueError: ``multiple`` is not an integer of at least 1, or another kind of network.
    """
    if type(multiple) is not int or multiple < 1:
        raise ValueError(f"multiple={multiple!r} must be an integer of at least 1")
    padded = copy.deepcopy(network).eval()
    _NETWORKS.get(_kind(padded, _NETWORKS), _unknown)(padded, multiple)
    return padded


def _kind(module: nn.Module, kinds: Iterable[type]) -> type | None:
    return next((kind for kind in kinds if isinstance(module, kind)), None)


def _unknown(module: nn.Module, *_: object) -> Layout:
    raise ValueError(f"cannot pad the channels of a {type(module).__name__}")


def _parameter(values: Tensor, like: Tensor) -> nn.Parameter:
    layout = torch.channels_last if values.ndim == 4 and _is_channels_last(like) else None
    return nn.Parameter(
        values.detach().contiguous(memory_format=layout or torch.contiguous_format), like.requires_grad
    )


def _is_channels_last(weight: Tensor) -> bool:
    return weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()


def _conv(conv: nn.Conv2d, inputs: Layout, outputs: Layout) -> Layout:
    weight = conv.weight
    if conv.groups > 1:  # depthwise: each channel by itself
        outputs = inputs
        conv.groups = len(outputs.sources)
    spread = outputs.spread(weight.detach())
    if conv.groups == 1 and inputs.sources != tuple(range(inputs.count)):
        spread = inputs.spread(spread, 1)
    conv.weight = _parameter(spread, weight)
    if conv.bias is not None:
        conv.bias = _parameter(outputs.spread(conv.bias.detach()), conv.bias)
    conv.in_channels, conv.out_channels = len(inputs.sources), len(outputs.sources)
    return outputs


def _transposed(conv: nn.ConvTranspose2d, inputs: Layout, outputs: Layout) -> Layout:
    weight = conv.weight
    conv.weight = _parameter(outputs.spread(inputs.spread(weight.detach()), 1), weight)
    conv.bias = _parameter(outputs.spread(conv.bias.detach()), conv.bias)
    conv.in_channels, conv.out_channels = len(inputs.sources), len(outputs.sources)
    return outputs


def _norm(norm: nn.BatchNorm2d, layout: Layout) -> None:
    if norm.affine:
        norm.weight = _parameter(layout.spread(norm.weight.detach()), norm.weight)
        norm.bias = _parameter(layout.spread(norm.bias.detach()), norm.bias)
    if norm.track_running_stats:
        norm.running_mean = layout.spread(norm.running_mean)
        norm.running_var = layout.spread(norm.running_var, fill=1.0)
    norm.num_features = len(layout.sources)


def _chain(module: nn.Module, inputs: Layout, multiple: int, last: int | None = None) -> Layout:
    """Pads what runs module by module.

    Args:
        module: A layer, or a container of layers, one after the other.
        inputs: Of the input.
        multiple: Of the outputs of its convolutions.
        last: That of its last convolution; default: ``multiple``.
    """
    layers = list(_flat(module))
    convs = [layer for layer in layers if isinstance(layer, nn.Conv2d) and layer.groups == 1]
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            own = last if last is not None and convs and layer is convs[-1] else multiple
            inputs = _conv(layer, inputs, Layout.of(layer.out_channels, own))
        elif isinstance(layer, nn.BatchNorm2d):
            _norm(layer, inputs)
        elif isinstance(layer, L2Norm):
            layer.weight = _parameter(inputs.spread(layer.weight.detach()), layer.weight)
        elif isinstance(layer, ReceptiveFieldBlock):
            branches = Layout.joined([_chain(branch, inputs, multiple) for branch in layer.branches])
            _chain(layer.joined, branches, multiple)
            inputs = _chain(layer.shortcut, inputs, multiple)
        elif not isinstance(layer, _UNCHANGED):
            _unknown(layer)
    return inputs


def _flat(module: nn.Module) -> Iterable[nn.Module]:
    if isinstance(module, nn.Sequential):
        for child in module:
            yield from _flat(child)
    else:
        yield module


def _block(block: nn.Module, inputs: Layout, multiple: int, visible: bool = False) -> Layout:
    """Pads a HarDBlock in any form; ``visible``: its output leaves the network."""
    visible_layers = block.outputs if visible else ()

    def own(layer: int) -> int:
        return 1 if layer in visible_layers else multiple

    maps = [inputs]
    if isinstance(block, SplitHarDBlock):
        layouts = {k + 1: Layout.of(width, own(k + 1)) for k, width in enumerate(block.widths)}
        for i, users in enumerate(block.users):
            if i:
                maps.append(_chain(block.tails[i - 1], layouts[i], own(i)))
            if users:
                _conv(block.convs[str(i)], maps[i], Layout.joined(layouts[k] for k in users))
        block.widths = [len(layouts[k + 1].sources) for k in range(len(block.widths))]
    elif isinstance(block, HarDBlock):
        for k, (links, layer) in enumerate(zip(block.links, block.layers, strict=True), start=1):
            maps.append(_chain(layer, Layout.joined(maps[i] for i in links), own(k)))
    else:
        _unknown(block)
    outputs = Layout.joined(maps[k] for k in block.outputs)
    block.out_channels = len(outputs.sources)
    return outputs


def _trunk(trunk: HarDNetTrunk, multiple: int, visible: Sequence[int] = ()) -> list[Layout]:
    """Pads a trunk and returns the layouts of its maps; those of the stages ``visible`` are not padded."""
    outputs: dict[int, Layout] = {}
    inputs = Layout.of(_first_channels(trunk))

    def last(seen: int, following: int) -> int:
        """Multiple of the last convolution before stage ``following``; that of ``seen`` leaves the trunk."""
        stages = trunk.stages[following : following + 1]
        kept = trunk.tap == "block" and following in visible and any(0 in s.block.outputs for s in stages)
        return 1 if kept or (seen in visible and (seen < 0 or trunk.tap == "transition")) else multiple

    x = outputs[-1] = _chain(trunk.stem, inputs, multiple, last(-1, 0))
    x = _chain(trunk.stem_down, x, multiple, last(-1, 0))
    for index, stage in enumerate(trunk.stages):
        x = _block(stage.block, x, multiple, visible=index in visible and trunk.tap == "block")
        if trunk.tap == "block":
            outputs[index] = x
        x = _chain(stage.transition, x, multiple, last(index, index + 1))
        if trunk.tap == "transition":
            outputs[index] = x
        x = _chain(stage.down, x, multiple)
    return [outputs[trunk.features[i].stage] for i in trunk.out_indices]


def _first_channels(trunk: HarDNetTrunk) -> int:
    return next(layer.in_channels for layer in trunk.modules() if isinstance(layer, nn.Conv2d))


def _trunk_alone(trunk: HarDNetTrunk, multiple: int) -> None:
    _trunk(trunk, multiple, [trunk.features[i].stage for i in trunk.out_indices])


def _classifier(network: HarDNetClassifier, multiple: int) -> None:
    _trunk_alone(network.trunk, multiple)  # the last map is what forward_features returns


def _ssd(network: SSD, multiple: int) -> None:
    first, second = _trunk(network.trunk, multiple)
    neck = network.neck
    levels = [_chain(neck.norm, first, multiple), _chain(neck.bridge, second, multiple)]
    for extra in neck.extras:
        levels.append(_chain(extra, levels[-1], multiple))
    neck.channels = [len(level.sources) for level in levels]
    for heads in (network.cls, network.box):
        for head, level in zip(heads, levels, strict=True):
            _chain(head, level, 1)


def _fchardnet(network: FCHarDNet, multiple: int) -> None:
    *skips, last = _trunk(network.trunk, multiple)
    decoder = network.decoder
    if isinstance(decoder, TransposedDecoder):
        x = last
        for up, block, skip in zip(decoder.ups, decoder.blocks, reversed(skips), strict=True):
            x = Layout.joined([_transposed(up, x, Layout.of(up.out_channels, multiple)), skip])
            x = _block(block, x, multiple)
    elif isinstance(decoder, FCHarDNetDecoder | MergedFCHarDNetDecoder):
        x = _chain(decoder.last_proj, last, multiple)
        for conv, block, skip in zip(decoder.convs, decoder.blocks, reversed(skips), strict=True):
            x = _block(block, _merge(conv, x, skip, multiple), multiple)
    else:
        _unknown(decoder)
    decoder.channels = len(x.sources)
    _chain(network.classifier, x, 1)


def _mseg(network: MSEG, multiple: int) -> None:
    decoder, fields = network.decoder, []
    for block, x in zip(decoder.blocks, _trunk(network.trunk, multiple), strict=True):
        fields.append(_chain(block, x, multiple))
    _, middle, coarse = fields  # maps that are multiplied have one layout
    both, _ = _chain(decoder.ups[0], coarse, multiple), _chain(decoder.ups[1], coarse, multiple)
    all_three = _chain(decoder.ups[2], middle, multiple)
    joined = Layout.joined([both, _chain(decoder.ups[3], coarse, multiple)])
    joined = _chain(decoder.ups[4], _chain(decoder.concat2, joined, multiple), multiple)
    joined = _chain(decoder.concat3, Layout.joined([all_three, joined]), multiple)
    joined = _chain(decoder.last, joined, multiple)
    decoder.channels = len(joined.sources)
    _chain(network.classifier, joined, 1)


def _merge(conv: nn.Module, coarse: Layout, fine: Layout | None, multiple: int, shortcut: int = 0) -> Layout:
    """Pads the 1×1 convolution of a decoder's step; its last ``shortcut`` channels are not padded."""
    merged = isinstance(conv, MergedConv)
    first, *tail = [conv.coarse, conv.tail] if merged else _flat(conv)
    outputs = Layout.joined([Layout.of(first.out_channels - shortcut, multiple), Layout.of(shortcut)])
    if merged:
        _conv(conv.coarse, coarse, outputs)
        if fine is not None:
            _conv(conv.fine, fine, outputs)
    else:
        _conv(first, Layout.joined([coarse] if fine is None else [coarse, fine]), outputs)
    for layer in tail:
        _chain(layer, outputs, multiple)
    return outputs


def _centernet(network: CenterNet, multiple: int) -> None:
    skips = _trunk(network.trunk, multiple)
    decoder = network.decoder
    if not isinstance(decoder, CenterNetDecoder | MergedCenterNetDecoder) or not isinstance(
        decoder.context, ContextConcat | SeparableContext
    ):
        _unknown(decoder)

    def block(module: nn.Module, x: Layout) -> Layout:
        return _block(module, Layout.joined([x, x, x]), multiple)

    x = block(decoder.last_block, _chain(decoder.last_proj, skips[-1], multiple))
    shortcuts: list[Layout] = []
    for step, conv, module in zip(decoder.arch.steps, decoder.convs, decoder.blocks, strict=True):
        x = _merge(conv, x, skips.pop() if step.skip else None, multiple, step.shortcut)
        main = len(x.sources) - step.shortcut
        if step.shortcut:
            shortcuts.insert(0, Layout.of(step.shortcut))
            x = Layout(x.sources[:main], x.count - step.shortcut)
        x = block(module, x)
    outputs = Layout.joined([*shortcuts, x])
    decoder.channels = len(outputs.sources)
    for head in (network.hm, network.wh):
        _chain(head, outputs, multiple, 1)


def _descriptor(network: PatchDescriptor, multiple: int) -> None:
    _chain(network.features, Layout.of(network.features[0].in_channels), multiple, 1)


_NETWORKS = {
    HarDNetTrunk: _trunk_alone,
    HarDNetClassifier: _classifier,
    SSD: _ssd,
    FCHarDNet: _fchardnet,
    MSEG: _mseg,
    CenterNet: _centernet,
    PatchDescriptor: _descriptor,
}
