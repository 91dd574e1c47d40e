"""Identifies the model of a state dict by its keys and shapes alone."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import product

import torch
from torch import Tensor

from hardnet_suite.data.report import escaped
from hardnet_suite.errors import UserError
from hardnet_suite.networks import (
    ARCHS,
    Arch,
    DescriptorArch,
    HarDNetArch,
    build_network,
    find_arch,
    list_models,
)
from hardnet_suite.weights.convert import (
    alike,
    class_layers,
    forms_of_key,
    is_bare_trunk,
    split_forms,
    unused_prefixes,
)
from hardnet_suite.weights.layouts import LAYOUTS, keys_of, layouts_of
from hardnet_suite.weights.tables import COUNTER, few, is_counter, is_plain

_TRUNK = "trunk."
_OPENMM_TRUNK = "backbone.trunk."  # of a model of mmdet or mmseg, or of one that is built alike
_MOST_NETWORKS = 1000  # in one file: each is compared with every model
_LACKS = ("missing", "of another shape", "unexpected")
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Identified:
    """A complete state dict of a model.

    Attributes:
        model: name of the model, one of ``list_models()``.
        form: naming scheme of the keys: the name of one of ``layouts.LAYOUTS``.
        num_classes: number of classes; 0 for the patch descriptor.
        tensors: the tensors under the names of ``create_model``'s network.
        in_chans: number of input channels.
        arch: architecture that the naming scheme implies; None: that of ``model``, or the one that was given.
        unused: keys that the program which wrote them has and never uses, without a common prefix.
    """

    model: str
    form: str
    num_classes: int
    tensors: dict[str, Tensor]
    in_chans: int
    arch: Arch | None = None
    unused: tuple[str, ...] = ()


@cache
def _shapes(model: str, num_classes: int | None = None, arch: Arch | None = None) -> Shapes:
    """Shapes of a network's tensors by key, without the batch norms' counters."""
    with torch.device("meta"):
        state = build_network(model, num_classes=num_classes, arch=arch).state_dict()
    return {key: tuple(value.shape) for key, value in state.items() if not is_counter(key)}


@cache
def _feature_keys(model: str, arch: Arch | None = None) -> frozenset[str]:
    """Keys of the ``features_only`` network with the prefix ``trunk.``, without the batch norms' counters."""
    with torch.device("meta"):
        keys = build_network(model, arch=arch, features_only=True).state_dict()
    return frozenset(f"{_TRUNK}{key}" for key in keys if not is_counter(key))


@cache
def _class_rule(model: str, arch: Arch | None = None) -> tuple[str, int, int, int]:
    """(key, its first dimension at the usual number of classes, that number, what each more class adds)."""
    with torch.device("meta"):
        usual = build_network(model, arch=arch).num_classes
    shapes, others = _shapes(model, None, arch), _shapes(model, usual + 1, arch)
    key = [key for key in shapes if shapes[key] != others[key]][-1]
    return key, shapes[key][0], usual, others[key][0] - shapes[key][0]


def identify(
    state_dict: Mapping[str, Tensor], model: str | None = None, arch: Arch | None = None
) -> Identified:
    """Identifies the model and the naming scheme of a complete state dict.

    The numbers of classes and of input channels may be any. A prefix common to all keys (``module.``,
    ``net.``, ``model.net.`` …) is dropped if the remaining keys are those of a model.

    Args:
        state_dict: the tensors by name.
        model: name of the only model to compare with; None compares with all of them. Of two models with the
            same tensors, such as fchardnet70 and fchardnet70_paddleseg, the first in the architecture table
            is meant unless the other is named.
        arch: architecture in place of that of ``model``.

    Returns:
        The model, its naming scheme and its tensors under the names of ``create_model``'s network.

    Raises:
        UserError: no model fits, or more than one does.
    """
    if (found := _identified(state_dict, model, arch)) is not None:
        return found
    keys = ", ".join(list(state_dict)[:3])
    if any(key.startswith(_OPENMM_TRUNK) for key in state_dict):
        raise UserError(
            f"these are the weights of a model of another program on HarDNet (keys such as {keys}): one of "
            f"mmdet or mmseg is scored and drawn with its config, {OTHERS_MODEL}; the trunk of any is loaded "
            "with create_model(NAME, features_only=True, pretrained=FILE)"
        )
    of = "any model of this suite" if model is None else model
    near = nearest(state_dict, model, arch)
    raise UserError(f"these are not the weights of {of} ({near or f'keys such as {keys}'})")


def _identified(state_dict: Mapping[str, Tensor], model: str | None, arch: Arch | None) -> Identified | None:
    """``identify``; None where no model fits, without the search for the nearest one."""
    for prefix in common_prefixes(state_dict):
        tensors = {key.removeprefix(prefix): value for key, value in state_dict.items()}
        matches = [
            match
            for name in (_by_keys() if model is None else [model])
            if (match := _whole(name, tensors, arch)) is not None
        ]
        if len(matches) == 1:
            return matches[0] if model is not None else _by_arch(matches[0])
        if matches:
            names = " and ".join(match.model for match in matches)
            raise UserError(f"these weights fit {names}: say which it is")
    return None


def nearest(
    state_dict: Mapping[str, Tensor],
    model: str | None,
    arch: Arch | None = None,
    *,
    beyond_trunk: bool = False,
) -> str:
    """What a state dict lacks of the model that it nearly is, in words; "" where it is not nearly any.

    Nearly: nine tenths of the model's tensors are there, with their shapes, and at most as many others; or
    all those of its trunk, and no others.

    Args:
        state_dict: the tensors by name.
        model: name of the only model to compare with; None compares with all of them.
        arch: architecture in place of that of ``model``.
        beyond_trunk: look only for models other than classifiers, half of whose tensors beside the trunk are
            there: a larger network on the same trunk has none of them.
    """
    names = _by_keys() if model is None else [model]
    if beyond_trunk:
        names = [name for name in names if not isinstance(find_arch(name), HarDNetArch)]
    count = sum(not is_counter(key) for key in state_dict)
    best: tuple[float, str, str] = (0.0, "", "")
    for name in names:
        expected = _shapes(name, None, arch)
        if count < 0.9 * len(expected):  # before the key maps, which take long for all models
            continue
        of_classes = class_layers(name)
        first = next(key for key, shape in expected.items() if len(shape) == 4)  # its input channels may vary
        for prefix in common_prefixes(state_dict):
            tensors = {key.removeprefix(prefix): value for key, value in state_dict.items()}
            for form, converted, left in split_forms(name, tensors, arch):
                wrong = [
                    key
                    for key, value in converted.items()
                    if key in expected
                    and tuple(value.shape) != expected[key]
                    and (
                        not value.numel()
                        or not (
                            (key.startswith(of_classes) and tuple(value.shape[1:]) == expected[key][1:])
                            or (key == first and value.ndim == 4 and value.shape[2:] == expected[key][2:])
                        )
                    )
                ]
                missing = [key for key in expected if key not in converted]
                share = 1 - (len(missing) + len(wrong)) / len(expected)
                if share < 0.9 or len(left) > len(expected) or share <= best[0]:
                    continue
                beside = [key for key in expected if not key.startswith(_TRUNK)]
                if beyond_trunk and 2 * sum(key in missing or key in wrong for key in beside) > len(beside):
                    continue
                lacks = [
                    f"{len(keys)} {what} ({few(keys)})"
                    for what, keys in zip(_LACKS, (missing, wrong, left), strict=True)
                    if keys
                ]
                if not lacks:  # each class layer alone fits some number of classes
                    heads = [key for key in expected if key.startswith(of_classes)]
                    lacks = [f"{few(heads)} are of different numbers of classes"] if heads else []
                if lacks:
                    best = share, name, f"of {name} in the layout {form}, but {', '.join(lacks)}"
    trunks = [name for name in names if not beyond_trunk and _is_trunk(name, state_dict, arch)]
    if trunks and best[1] not in trunks:  # else it lacks the last layer of a classifier
        return f"a trunk alone, as that of {' or '.join(trunks)}"
    return best[2]


def _is_trunk(model: str, state_dict: Mapping[str, Tensor], arch: Arch | None) -> bool:
    """Whether a state dict is the whole trunk of a model, and nothing else."""
    if len(state_dict) < _trunk_size(model, arch):
        return False
    trunk = split_trunk(model, state_dict, arch)
    if trunk is None or trunk[1] or lacking_in_trunk(model, trunk[0], arch):
        return False
    return shapes_fit(model, trunk[0], arch)


# what to do with a model of mmdet or mmseg that has HarDNet as its backbone
OTHERS_MODEL = (
    "`hardnet-suite test CONFIG --show-dir DIR`, or predict with mmdet's DetInferencer or mmseg's "
    "MMSegInferencer (docs/backbone.md)"
)


def _by_arch(found: Identified) -> Identified:
    """The same, as the model of the table whose architecture the file implies, if there is one."""
    row = next((name for name in list_models() if found.arch is not None and ARCHS[name] == found.arch), None)
    return found if row is None else replace(found, model=row, arch=None)


@cache
def _by_keys() -> tuple[str, ...]:
    """The models that keys and shapes tell: of several with the same, the first of the table."""
    return tuple(name for name in list_models() if alike(name)[0] == name)


def common_prefixes(keys: Iterable[str]) -> Iterator[str]:
    """The dotted prefixes that all keys share, the shortest first, beginning with the empty one."""
    split = [key.split(".")[:-1] for key in keys]
    prefix = ""
    yield prefix
    for parts in zip(*split, strict=False):
        if len({*parts}) > 1:
            return
        prefix += f"{parts[0]}."
        yield prefix


class SeveralNetworksError(UserError):
    """Weights of more than one network, none of which is meant more than the others."""


def network_within(
    state_dict: Mapping[str, Tensor], model: str | None = None, arch: Arch | None = None
) -> tuple[str, Identified]:
    """Finds the one network among other tensors, under a dotted prefix of its own.

    A training module, such as Lightning's, keeps its losses and metrics beside the network.

    Args:
        state_dict: the tensors by name.
        model: name of the only model to compare with; None compares with all of them.
        arch: architecture in place of that of ``model``.

    Returns:
        The shortest prefix below which all tensors, and no others, are those of a model; and the model.

    Raises:
        UserError: there is no such network.
        SeveralNetworksError: there are several, and they differ.
    """
    found: dict[str, Identified] = {}
    mixed = []  # prefixes of networks with other tensors among theirs
    for prefix, tensors in (("", dict(state_dict)), *parts(state_dict, _first_keys())):
        if prefix.startswith(tuple(found)):
            continue  # a part of one that is found
        try:
            network = _identified(tensors, model, arch)
        except UserError:  # it fits several models
            network = None
        if network is not None:
            found[prefix] = network
        elif any(_is_within(name, tensors, arch) for name in (_by_keys() if model is None else [model])):
            mixed.append(prefix)
    if not found:
        raise UserError("no network among these tensors")
    if mixed:
        raise _several([*mixed, *found])
    require_one({prefix: network.tensors for prefix, network in found.items()})
    return next(iter(found.items()))


def require_one(networks: Mapping[str, Mapping[str, Tensor]]) -> None:
    """SeveralNetworksError unless the networks under these prefixes are equal, such as two names of one."""
    distinct: dict[str, Mapping[str, Tensor]] = {}
    for prefix, tensors in networks.items():
        alias = next((known for known in distinct if _are_equal(distinct[known], tensors)), None)
        if not alias:  # a name with a prefix tells more than one without
            distinct[prefix] = tensors if alias is None else distinct.pop(alias)
    if len(distinct) > 1:
        raise _several(distinct)


def without_copies(state_dict: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Leaves out all but the first of equal networks, such as two names of one module.

    Returns:
        The remaining tensors; and the prefix of each copy -> that of the network it is a copy of.

    Raises:
        UserError: there are more networks than in any checkpoint.
    """
    kept: dict[str, Mapping[str, Tensor]] = {}
    copies: dict[str, str] = {}
    for prefix, tensors in parts(state_dict, _first_keys()):
        if prefix.startswith(tuple(copies)):
            continue
        original = next((known for known in kept if _are_equal(kept[known], tensors)), None)
        if original is None:
            kept[prefix] = tensors
        else:
            copies[prefix] = original
    return {key: value for key, value in state_dict.items() if not key.startswith(tuple(copies))}, copies


def _are_equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    if one.keys() != other.keys():
        return False
    pairs = [(one[key], other[key]) for key in one]
    are_plain = all(is_plain(value) for pair in pairs for value in pair)  # others cannot be compared
    return are_plain and all(torch.equal(*pair) for pair in pairs)


def _several(prefixes: Iterable[str]) -> SeveralNetworksError:
    names = " and ".join(escaped(f"{prefix}*") if prefix else "one without a prefix" for prefix in prefixes)
    return SeveralNetworksError(
        f"these weights hold several networks, {names}: save the one that you mean in a file of its own"
    )


def parts(
    state_dict: Mapping[str, Tensor], first_keys: Iterable[str]
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The entries below each dotted prefix of one of ``first_keys``, by the length of the prefix.

    Raises:
        UserError: there are more prefixes than in any checkpoint.
    """
    ends = tuple(f".{key}" for key in first_keys)
    prefixes = {key.removesuffix(end) + "." for key in state_dict for end in ends if key.endswith(end)}
    if len(prefixes) > _MOST_NETWORKS:
        raise UserError(f"a network could begin at {len(prefixes)} of its keys, more than in any checkpoint")
    keys = sorted(state_dict)
    for prefix in sorted(prefixes, key=lambda prefix: (len(prefix), prefix)):
        after = prefix.removesuffix(".") + "/"  # the character that follows the dot
        below = keys[bisect_left(keys, prefix) : bisect_left(keys, after)]
        yield prefix, {key.removeprefix(prefix): state_dict[key] for key in below}


@cache
def _first_keys() -> frozenset[str]:
    """The first key of every model in each of its forms."""
    models = {model: next(iter(_shapes(model))) for model in list_models()}
    return frozenset(form for model, key in models.items() for form in forms_of_key(model, key))


def split_trunk(
    model: str, state_dict: Mapping[str, Tensor], arch: Arch | None = None
) -> tuple[dict[str, Tensor], list[str], str] | None:
    """Splits a state dict of a trunk alone into the trunk's entries and the remaining keys.

    The forms are: an official trunk, whose keys begin with ``base.`` or a bare number; the ``trunk.`` entries
    of ``create_model``'s network, or of another layout; and a ``features_only`` network; each with or without
    a common prefix.

    Args:
        model: name of the model.
        state_dict: the tensors by name.
        arch: architecture in place of that of ``model``.

    Returns:
        The trunk's entries under the names of ``create_model``'s network, the keys that are not part of it,
        and the layout; None for any other state dict. An official trunk with numbered keys may be incomplete.
    """
    if isinstance(find_arch(model), DescriptorArch):
        return None
    trunk = {key for key in _shapes(model, None, arch) if key.startswith(_TRUNK)}
    for prefix in common_prefixes(state_dict):
        tensors = {key.removeprefix(prefix): value for key, value in state_dict.items()}
        for form, converted, left in split_forms(model, tensors, arch):
            bare = form == "official" and is_bare_trunk(tensors) and not prefix.endswith("base.")
            base = form == "official" and all(key.startswith("base.") for key in tensors)
            own = form != "official" and all(key.startswith(_TRUNK) for key in converted)
            if bare and converted:
                return converted, [prefix + key for key in left], form
            if (base or own) and not left and trunk <= converted.keys():
                return converted, left, form
        features = {f"{_TRUNK}{key}": value for key, value in tensors.items()}
        counted = {key for key in features if not is_counter(key)}
        if trunk <= counted <= trunk | _feature_keys(model, arch):
            # the last 1×1 convolution of a features_only network may be absent from the whole one
            beyond = [
                key
                for key in features
                if (key.removesuffix(COUNTER) + ".weight" if is_counter(key) else key) not in trunk
            ]
            kept = {key: value for key, value in features.items() if key not in beyond}
            return kept, [prefix + key.removeprefix(_TRUNK) for key in beyond], "network"
    return None


def trunk_within(
    state_dict: Mapping[str, Tensor], model: str | None = None, arch: Arch | None = None
) -> tuple[str, str, dict[str, Tensor], str] | None:
    """Finds the one trunk of a classifier in a larger network that the suite knows nothing of.

    Such a network has the classifier without its last layer below a dotted prefix, such as
    ``encoder.base.*``, or the modules of its trunk in one of its own, such as ``encoder.*``. The backbones
    of OpenMMLab's models (``backbone.trunk.*``) are left out: their configs build them.

    Args:
        state_dict: the tensors by name.
        model: name of the only classifier to compare with; None compares with all of them.
        arch: architecture in place of that of ``model``.

    Returns:
        The prefix of the trunk's keys, its model, its tensors under the names of ``create_model``'s network,
        and its layout; None where there is no such trunk.

    Raises:
        SeveralNetworksError: there are several, and they differ.
    """
    models = [name for name in ([model] if model else _by_keys()) if isinstance(find_arch(name), HarDNetArch)]
    found: dict[str, tuple[str, dict[str, Tensor], str]] = {}
    for prefix, below in parts(state_dict, _trunk_starts()):
        if prefix.startswith((_OPENMM_TRUNK, *found)):
            continue
        if (trunk := trunk_below(below, models, arch)) is not None:
            found[prefix] = trunk
    if not found:
        return None
    require_one({prefix: tensors for prefix, (_, tensors, _) in found.items()})
    prefix, (name, tensors, layout) = next(iter(found.items()))
    return prefix, name, tensors, layout


def trunk_below(
    tensors: Mapping[str, Tensor], models: Iterable[str], arch: Arch | None = None
) -> tuple[str, dict[str, Tensor], str] | None:
    """Reads the tensors below one prefix of a larger network as a trunk, complete and with nothing left over.

    A classifier's last layer may be among them: the larger network neither trains nor reads it, and it is
    left out.

    Args:
        tensors: the tensors by name, without the prefix and the start of a layout's keys (``base.``).
        models: names of the models to compare with.
        arch: architecture in place of that of the model.

    Returns:
        The first model that fits, its tensors under the names of ``create_model``'s network, and its layout;
        None where none fits.
    """
    for name, (first, start) in product(models, _trunk_starts().items()):
        if first not in tensors or len(tensors) < _trunk_size(name, arch):
            continue
        trunk = split_trunk(name, {start + key: value for key, value in tensors.items()}, arch)
        if trunk is None or trunk[1] or lacking_in_trunk(name, trunk[0], arch):
            continue
        own = {key: value for key, value in trunk[0].items() if key.startswith(_TRUNK)}
        if shapes_fit(name, own, arch):
            return name, own, trunk[2]
    return None


@cache
def _trunk_size(name: str, arch: Arch | None) -> int:
    """How many tensors a whole trunk has at least."""
    return sum(key.startswith(_TRUNK) for key in _shapes(name, None, arch))


@cache
def _trunk_starts() -> dict[str, str]:
    """First key of a classifier's trunk in each layout, without the start of all its keys -> that start."""
    starts: dict[str, str] = {}
    for name in list_models():
        if isinstance(find_arch(name), HarDNetArch):
            for layout in layouts_of(name):
                forms = [theirs for ours, theirs in keys_of(name, layout).items() if ours.startswith(_TRUNK)]
                start = [*common_prefixes(forms)][-1]
                if start:  # the numbers of a graph's convolutions have none
                    starts.setdefault(forms[0].removeprefix(start), start)
    return starts


def shapes_fit(model: str, tensors: Mapping[str, Tensor], arch: Arch | None = None) -> bool:
    """Whether tensors of ``model``, under our names, have its shapes.

    The number of input channels may be any.
    """
    expected = _shapes(model, None, arch)
    first = next(key for key, shape in expected.items() if len(shape) == 4)
    return all(
        tuple(value.shape) == expected[key]
        or (
            key == first
            and value.ndim == 4
            and value.shape[1] > 0
            and (value.shape[0], *value.shape[2:]) == (expected[key][0], *expected[key][2:])
        )
        for key, value in tensors.items()
        if not is_counter(key)
    )


def lacking_in_trunk(
    model: str, tensors: Mapping[str, Tensor], arch: Arch | None = None, *, features_only: bool = False
) -> list[str]:
    """The keys of the trunk of ``model`` that are not among the tensors, which have our names.

    Args:
        model: name of the model.
        tensors: the tensors by name.
        arch: architecture in place of that of ``model``.
        features_only: the trunk of the ``features_only`` network, which may end in a further convolution.
    """
    keys = _feature_keys(model, arch) if features_only else _shapes(model, None, arch)
    return [key for key in keys if key.startswith(_TRUNK) and key not in tensors]


def ends_within_head(model: str, tensors: Mapping[str, Tensor], arch: Arch | None = None) -> bool:
    """Whether some tensors of ``model`` beside its trunk are among these, under our names, but not all."""
    present = [key in tensors for key in _shapes(model, None, arch) if not key.startswith(_TRUNK)]
    return any(present) and not all(present)


def best_form(
    model: str, state_dict: Mapping[str, Tensor], arch: Arch | None = None
) -> tuple[str, dict[str, Tensor], dict[str, Tensor]]:
    """Reads a state dict that fits no model completely, in the form in which most of its entries fit.

    Returns:
        The form, the entries under the names of ``create_model``'s network, and the remaining entries.
    """
    candidates = []
    for prefix in common_prefixes(state_dict):
        tensors = {key.removeprefix(prefix): value for key, value in state_dict.items()}
        for form, converted, left in split_forms(model, tensors, arch):
            if is_bare_trunk(tensors) and prefix.endswith("base."):
                continue  # those keys have their own names already
            candidates.append((form, converted, {key: tensors[key] for key in left}))
    return max(candidates, key=lambda candidate: len(candidate[1]))


def _whole(model: str, state_dict: Mapping[str, Tensor], arch: Arch | None) -> Identified | None:
    if sum(not is_counter(key) for key in state_dict) < len(_shapes(model, None, arch)):
        return None
    for form, tensors, left in split_forms(model, state_dict, arch):
        sizes = None if left else _sizes_if_whole(model, tensors, arch)
        if sizes is not None:
            unused = tuple(key for key in state_dict if key.startswith(unused_prefixes(model, form)))
            implied = LAYOUTS[form].arch_of(model, arch)
            return Identified(model, form, sizes[0], tensors, sizes[1], implied, unused)
    return None


def _is_within(model: str, state_dict: Mapping[str, Tensor], arch: Arch | None) -> bool:
    """Whether a complete model is among the tensors, in whatever form."""
    if len(state_dict) < len(_shapes(model, None, arch)):
        return False
    forms = split_forms(model, state_dict, arch)
    return any(_sizes_if_whole(model, tensors, arch) is not None for _, tensors, _ in forms)


def _sizes_if_whole(
    model: str, tensors: Mapping[str, Tensor], arch: Arch | None = None
) -> tuple[int, int] | None:
    """Numbers of classes and input channels if the tensors are complete and fit; None otherwise."""
    given = {key: tuple(value.shape) for key, value in tensors.items() if not is_counter(key)}
    classes = 0
    if class_layers(model):
        key, usual_size, usual, step = _class_rule(model, arch)
        if not given.get(key):
            return None
        classes = usual + (given[key][0] - usual_size) // step
        if classes < 1:
            return None
    expected = dict(_shapes(model, classes or None, arch))
    first = next(key for key, shape in expected.items() if len(shape) == 4)  # takes the input
    if len(given.get(first, ())) != 4:
        return None
    channels = given[first][1]
    if channels < 1:
        return None
    expected[first] = (expected[first][0], channels, *expected[first][2:])
    return (classes, channels) if given == expected else None
