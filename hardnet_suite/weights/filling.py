"""Weights into a network, strictly."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from hardnet_suite.data.report import counted
from hardnet_suite.errors import UserError
from hardnet_suite.networks import HarDNetTrunk
from hardnet_suite.networks.layers import at_least_float32
from hardnet_suite.weights.checkpoint import Checkpoint, open_weights
from hardnet_suite.weights.convert import TARGETS, class_layers, differences, in_target
from hardnet_suite.weights.identification import SeveralNetworksError, common_prefixes, parts, require_one
from hardnet_suite.weights.tables import few, is_counter, require_sound

ALLOWED = ("classes", "in_chans", "heads")


@dataclass(frozen=True)
class LoadReport:
    """What was loaded, and the keys without a counterpart.

    Attributes:
        taken: tensors copied into the network.
        missing: keys of the network that are left as they were.
        unexpected: keys of the weights that are not used.
    """

    taken: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]

    def __str__(self) -> str:
        text = f"{counted(self.taken, 'tensor')} taken"
        if self.missing:
            text += f", {len(self.missing)} of the model not in the weights ({few(self.missing)})"
        if self.unexpected:
            text += f", {len(self.unexpected)} of the weights not used ({few(self.unexpected)})"
        return text


def fill(
    module: nn.Module, checkpoint: Checkpoint, *, allow: Collection[str] = (), classes: int | None = None
) -> LoadReport:
    """Copies the weights of a checkpoint into a network in place; the network is unchanged when this raises.

    The network may come from ``build_network``, be the trunk of one, or be an OpenMMLab model that holds one;
    the naming scheme is chosen by the keys. Every key and shape must match, except for what ``allow`` names.

    Args:
        module: the network.
        checkpoint: from ``open_weights``.
        allow: any of

            - "classes": layers that depend on the number of classes are left at initialisation where the
              numbers differ, and dropped where the network has no classes;
            - "in_chans": the first convolution of weights for three channels is adapted as in timm: summed
              for one channel, repeated and rescaled for more;
            - "heads": only the network's trunk must be in the file; other layers may be missing from either.
        classes: the number of classes of a network of another program, whose layers of classes are not known:
            with "classes", layers that take the class scores as input depend on it, too.

    Returns:
        The report: ``missing`` holds the keys left at initialisation, ``unexpected`` those dropped.

    Raises:
        UserError: the weights do not fit, hold NaN or infinity, or values too large for the network's type of
            number; the message begins with the file's path.
        ValueError: an unknown name in ``allow``.
    """
    allow = {allow} if isinstance(allow, str) else {*allow}
    if unknown := sorted(allow - {*ALLOWED}):
        raise ValueError(f"allow={unknown} is unknown; allowed: {', '.join(ALLOWED)}")
    own = module.state_dict()
    _compare_architectures(module, checkpoint, strictly="heads" not in allow)
    names = _named(own, checkpoint)
    if isinstance(module, HarDNetTrunk):
        names = replace(names, trunk="")  # each of its keys is the trunk's
    tensors = names.tensors
    dropped: list[str] = []
    if "classes" in allow:
        no_classes = getattr(module, "num_classes", None) == 0
        more = len(checkpoint.classes) - classes if checkpoint.classes and classes is not None else 0
        dropped = names.of_other_classes(own, whole=checkpoint.num_classes is not None, more=more)
        if no_classes:
            dropped += [key for key in tensors if key not in own and names.is_class(key)]
    first = _first_convolution(own)
    if "in_chans" in allow and first in tensors:
        tensors = tensors | {first: _adapted(tensors[first], own[first].shape[1])}
    kept = [key for key in dropped if key in own]
    try:
        report = load_weights(
            module,
            {key: value for key, value in tensors.items() if key not in dropped},
            may_miss=lambda key: key in kept or ("heads" in allow and not names.in_trunk(key)),
            strict="heads" not in allow,
        )
    except UserError as error:
        message = f"{checkpoint.path}: {error}"
        if "heads" in allow and (lacking := names.lacking_in_trunk(own)):
            message += (
                f"; the file lacks {counted(len(lacking), 'tensor')} of the backbone, such as {lacking[0]}"
            )
            if any(all(last in key for key in lacking) for last in _last_transitions(module)):
                message += (
                    ": its backbone ends before the last 1×1 convolution, as those of CenterNet and "
                    "FC-HarDNet do; take the maps before these convolutions, "
                    'features_only="block" (in a config tap="block"), or leave out the last map'
                )
        raise UserError(message) from None
    left = (key for key in dropped if key not in own)
    unused = (key for key in checkpoint.unused if key not in names.tensors)
    return LoadReport(report.taken, report.missing, (*report.unexpected, *left, *unused))


def input_channels(network: nn.Module, checkpoint: Checkpoint) -> int | None:
    """The number of input channels of the weights that ``fill`` would copy into a network.

    Args:
        network: the network, of any number of input channels; its values are not read.
        checkpoint: from ``open_weights``; of a whole network, of its trunk, or of a larger one around it.

    Returns:
        The number; None where the first convolution is not among the weights.

    Raises:
        UserError: the weights hold several networks.
    """
    own = network.state_dict()
    first = _first_convolution(own)
    weight = None if first is None else _named(own, checkpoint).tensors.get(first)
    return weight.shape[1] if weight is not None and weight.ndim == 4 and weight.shape[1] else None


def _first_convolution(own: Mapping[str, Tensor]) -> str | None:
    return next((key for key, value in own.items() if value.ndim == 4), None)


def _last_transitions(module: nn.Module) -> list[str]:
    """For each trunk in a module, what the keys of its last 1×1 convolution have in common."""
    trunks = [part for part in module.modules() if isinstance(part, HarDNetTrunk)]
    return [f"stages.{len(trunk.stages) - 1}.transition." for trunk in trunks]


def _compare_architectures(module: nn.Module, checkpoint: Checkpoint, *, strictly: bool) -> None:
    """Compares how the network and the one that the weights belong to compute, of which shapes say nothing.

    Args:
        module: the network.
        checkpoint: the weights.
        strictly: whether a difference is an error; else it is a warning, as a trunk may be trained further.
    """
    trunk = next((part for part in module.modules() if isinstance(part, HarDNetTrunk)), None)
    if trunk is None or checkpoint.arch is None:
        return
    theirs = getattr(checkpoint.arch, "trunk", checkpoint.arch)
    words = differences(theirs, trunk.arch)
    if words is None:
        return
    message = f"{checkpoint.path}: the weights are of a network with {words[0]}, this one has {words[1]}"
    if strictly:
        raise UserError(f"{message}: it would compute other answers; build it with arch={checkpoint.arch}")
    warnings.warn(message, stacklevel=4)


def load_weights(
    module: nn.Module,
    state_dict: Mapping[str, Tensor],
    *,
    strict: bool = True,
    may_miss: Callable[[str], bool] | None = None,
) -> LoadReport:
    """Copies ``state_dict`` into ``module``, in place; the module is untouched when this raises.

    Args:
        module: any torch module.
        state_dict: tensors under the module's names.
        strict: whether a key that is missing or unexpected is an error. Otherwise it is reported.
        may_miss: for a key of the module, whether it may be missing; None: all may unless ``strict``.

    Raises:
        UserError: a shape differs, no key fits, a key is missing or unexpected that may not be, a value is
            not finite, too large for the module's type of number, or of another kind (quantised weights), or
            the module is on the meta device.
    """
    may_miss = may_miss or (lambda key: not strict)
    own = module.state_dict()
    if any(value.is_meta for value in own.values()):
        raise UserError(f"the {type(module).__name__} is on the meta device, which holds no values")
    common = [key for key in own if key in state_dict]
    missing = tuple(key for key in own if key not in state_dict and not is_counter(key))
    unexpected = tuple(key for key in state_dict if key not in own)
    mismatched = [
        f"{key}: {tuple(state_dict[key].shape)} in the weights, {tuple(own[key].shape)} in the model"
        for key in common
        if state_dict[key].shape != own[key].shape
    ]

    require_sound({key: state_dict[key] for key in common}, {key: own[key].dtype for key in common})
    problems = []
    if not common:
        problems.append("no key in common")
    if lacking := [key for key in missing if not common or not may_miss(key)]:
        problems.append(f"{len(lacking)} missing ({few(lacking)})")
    if unexpected and (strict or not common):
        problems.append(f"{len(unexpected)} unexpected ({few(unexpected)})")
    if mismatched:
        problems.append(f"{len(mismatched)} of another shape ({few(mismatched)})")
    if problems:
        raise UserError(
            f"these weights do not fit {type(module).__name__}: {', '.join(problems)}; "
            "check the model's name and its number of classes"
        )
    module.load_state_dict({key: state_dict[key] for key in common}, strict=False)
    return LoadReport(len(common), missing, unexpected)


def load_pretrained(network: nn.Module, name: str, source: bool | str | Path) -> LoadReport:
    """Loads weights into ``network``, which ``build_network(name, …)`` made.

    The class predictions of another number of classes keep their fresh values, weights for three channels
    are adapted to another number, and a file of the trunk alone fills the trunk: see ``fill``.

    Args:
        network: the network.
        name: its name.
        source: True (the published weights), a tag of the registry, or a path.

    Raises:
        UserError: the weights are unavailable, do not fit, or are of a network that computes otherwise.
    """
    arch = None if isinstance(network, HarDNetTrunk) else network.arch
    weights = open_weights(source, name, arch=arch)
    # the architecture was given for the sake of its shapes: how the weights compute is the file's word
    return fill_what_fits(network, replace(weights, arch=weights.implied or arch))


def fill_what_fits(network: nn.Module, checkpoint: Checkpoint) -> LoadReport:
    """``fill`` as ``create_model`` does it: everything may differ that the network's options explain."""
    allow = {"classes", "in_chans"}
    if checkpoint.form == "trunk" or isinstance(network, HarDNetTrunk):
        allow.add("heads")
    return fill(network, checkpoint, allow=allow)


@dataclass(frozen=True)
class _Names:
    """A checkpoint's tensors under one choice of names.

    Attributes:
        tensors: under these names.
        class_layers: prefixes of the keys that depend on the number of classes; None where unknown.
        trunk: substring of the trunk's keys.
    """

    tensors: dict[str, Tensor]
    class_layers: tuple[str, ...] | None
    trunk: str

    def in_trunk(self, key: str) -> bool:
        return self.trunk in key

    def lacking_in_trunk(self, own: Mapping[str, Tensor]) -> list[str]:
        """The network's keys of the trunk that the checkpoint lacks."""
        return [key for key in own if self.in_trunk(key) and key not in self.tensors and not is_counter(key)]

    def is_class(self, key: str) -> bool:
        return self.class_layers is not None and key.startswith(self.class_layers)

    def of_other_classes(self, own: Mapping[str, Tensor], *, whole: bool, more: int = 0) -> list[str]:
        """The keys of layers of classes that differ from the network's for the number of classes alone.

        Of a whole network the shapes are those of its number of classes. Otherwise that number is the first
        dimension, in each tensor of a layer; where the layers of classes are not known, each tensor is one
        of its own, and other dimensions may differ by ``more`` classes, which the checkpoint has more than
        the network.
        """
        if self.class_layers is None:
            return [
                key
                for key, value in self.tensors.items()
                if key in own and _differ_by_classes(own[key].shape, value.shape, more)
            ]
        if whole:
            return [
                key
                for key, value in self.tensors.items()
                if key in own and self.is_class(key) and value.shape != own[key].shape
            ]
        layers: dict[str, list[str]] = {}
        for key in self.tensors:
            if key in own and self.is_class(key):
                layers.setdefault(key.rpartition(".")[0], []).append(key)

        def share(key: str) -> float | None:
            """Their classes as a share of ours; None where that is not the only difference."""
            ours, theirs = own[key].shape, self.tensors[key].shape
            fits = len(ours) == len(theirs) > 0 and ours[1:] == theirs[1:]
            return theirs[0] / ours[0] if fits else None

        shares = {layer: {share(key) for key in keys} for layer, keys in layers.items()}
        others = [layer for layer, found in shares.items() if len(found) == 1 and not found & {None, 1.0}]
        return [key for layer in others for key in layers[layer]]


def _differ_by_classes(ours: Sequence[int], theirs: Sequence[int], more: int) -> bool:
    """Whether two shapes differ for the number of classes: in the first dimension by any number, as a class
    may have several rows, in others by ``more``, as class scores beside other input are one channel each."""
    if len(ours) != len(theirs) or ours == theirs:
        return False
    return all(their - our in (0, more) for our, their in zip(ours[1:], theirs[1:], strict=True))


def _named(own: Mapping[str, Tensor], checkpoint: Checkpoint) -> _Names:
    """``_best_names``, whose error names the file."""
    try:
        return _best_names(own, checkpoint)
    except SeveralNetworksError as error:
        raise UserError(f"{checkpoint.path}: {error}") from None


def _best_names(own: Mapping[str, Tensor], checkpoint: Checkpoint) -> _Names:
    """The names under which most of the weights fit the module; of equally good ones the first.

    Raises:
        SeveralNetworksError: as many others fit under another prefix.
    """

    def fitting(names: _Names) -> dict[str, Tensor]:
        return {key: names.tensors[key] for key in own if key in names.tensors}

    best, place = max(_all_names(checkpoint), key=lambda names: len(fitting(names))), ""
    within = {
        prefix: _Names(tensors, None, "") for prefix, tensors in parts(checkpoint.state_dict, [*own][:1])
    }
    for prefix, names in within.items():
        if len(fitting(names)) > len(fitting(best)):
            best, place = names, prefix
    equal = [prefix for prefix, names in within.items() if len(fitting(names)) == len(fitting(best))]
    require_one({place: fitting(best)} | {prefix: fitting(within[prefix]) for prefix in equal})
    return best


def _all_names(checkpoint: Checkpoint) -> Iterator[_Names]:
    model = checkpoint.model
    if model is not None:
        ours = checkpoint.tensors
        layers = class_layers(model)
        rest = dict(checkpoint.left)  # reported by the loader, under the names they have
        yield _Names(ours | rest, layers, "trunk.")
        for target in TARGETS:
            try:
                theirs = in_target(model, ours, target)
                of_classes = tuple(_one_key(model, layer, target) for layer in layers)
            except ValueError:
                continue
            yield _Names(theirs | rest, of_classes, "trunk.")
        bare = {key.removeprefix("trunk."): value for key, value in ours.items()}
        yield _Names(bare | rest, layers, "")
    for prefix in common_prefixes(checkpoint.state_dict):
        raw = {key.removeprefix(prefix): value for key, value in checkpoint.state_dict.items()}
        yield _Names(raw, None, "")


def _one_key(model: str, layer: str, target: str) -> str:
    """The beginning of keys that ``layer`` has in a target's model."""
    (key,) = in_target(model, {layer.removesuffix("."): torch.empty(0)}, target)
    return f"{key}."


def _adapted(weight: Tensor, channels: int) -> Tensor:
    """(O, 3, h, w) to (O, channels, h, w), for inputs whose channels are alike; others stay as they are."""
    if weight.ndim != 4 or weight.shape[1] != 3 or channels == 3:
        return weight
    weight = at_least_float32(weight)  # sums in half precision would be rounded once more
    if channels == 1:
        return weight.sum(1, keepdim=True)
    return weight[:, torch.arange(channels) % 3] * (3 / channels)
