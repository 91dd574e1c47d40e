"""A weights file as a record: the model, its tensors and the file's metadata."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from hardnet_suite.data.classes import class_names
from hardnet_suite.data.report import counted
from hardnet_suite.errors import UserError
from hardnet_suite.names import did_you_mean, known_name
from hardnet_suite.networks import (
    ARCHS,
    PREPROCESS,
    Arch,
    HarDNetArch,
    Palette,
    Postprocess,
    Preprocess,
    Usage,
    build_network,
    default_usage,
    find_arch,
)
from hardnet_suite.networks.usage import palette_of, plain_records
from hardnet_suite.weights import graphs, registry
from hardnet_suite.weights.containers import (
    Container,
    container_of,
    has_layers,
    unknown_container,
)
from hardnet_suite.weights.convert import alike
from hardnet_suite.weights.download import obtain
from hardnet_suite.weights.file import BadFileError, WeightsFile, expanded, part_by_name
from hardnet_suite.weights.identification import (
    Identified,
    SeveralNetworksError,
    best_form,
    ends_within_head,
    identify,
    nearest,
    network_within,
    shapes_fit,
    split_trunk,
    trunk_below,
    trunk_within,
    without_copies,
)
from hardnet_suite.weights.layouts import LAYOUTS, OPENMM, OWN, find_layout, keys_of
from hardnet_suite.weights.registry import WeightsRow
from hardnet_suite.weights.runs import run_checkpoint, whole_one_beside
from hardnet_suite.weights.tables import few, state_dict_of

UNKNOWN = "unknown"  # in a file's metadata, as its "input_rule"
INPUT_IS_UNKNOWN = (
    "how images become inputs is not in the file, as its weights come from a graph or a .pdparams, which do "
    "not say it: ask their source"
)
_RECORDS = ("classes", "palette", "preprocess", "postprocess")


@dataclass(frozen=True)
class WeightsSource:
    """The file that a network's weights come from.

    Attributes:
        path: of the file.
        digest: SHA-256 of the file, in hex.
        row: the registry's row that the file is, if it is one.
    """

    path: Path
    digest: str
    row: WeightsRow | None = None

    def to_dict(self) -> dict[str, str | None]:
        """As values of JSON."""
        tag = None if self.row is None else self.row.tag
        return {"path": str(self.path), "sha256": self.digest, "tag": tag}


@dataclass(frozen=True)
class Checkpoint:
    """A weights file as ``open_weights`` reads it.

    Attributes:
        path: path of the file.
        digest: SHA-256 of the file, in hex.
        model: name of the model, one of ``list_models()``; None if it is not known.
        form: naming scheme of the file's keys: "network" (``create_model``), "official" or another of
            ``layouts.LAYOUTS``; "trunk" for a file of the trunk alone, "" where ``model`` is None.
        tensors: the tensors that belong to the model, under the names of its network.
        left: the remaining tensors, under the file's names.
        state_dict: all tensors under the file's names, without wrappers such as "state_dict".
        num_classes: number of classes; None unless the file is the whole model.
        in_chans: number of input channels; None unless the file is the whole model.
        arch: architecture of the network that the weights belong to, as the caller, the naming scheme or the
            file's metadata has it; None: the row of ``model``.
        classes: class names in the order of their labels, if known.
        palette: one (red, green, blue) per class, if known.
        preprocess: input rule, if the file has one.
        postprocess: output rule, if the file has one.
        metadata: everything in the file besides the tensors.
        content: the file's content as it was read; of a run's checkpoint, its optimizer and schedules too.
        row: the registry's row, if the source is one or a hash says that the file is a row's.
        container: the network of another program whose trunk ``tensors`` are, if the file holds one of those
            known.
        other_model: the model that the metadata name, where ``model`` is another one with the same tensors,
            which computes otherwise; only of initial weights.
        implied: architecture that the naming scheme or the metadata imply, also where the caller gave
            another; None where they imply none.
        unused: keys that the file's network has and never uses, and that are neither in ``tensors`` nor in
            ``left``: such as the last layer of a trunk in a larger network.
        layout: like ``form``, but of a trunk alone, too, the naming scheme of its keys.
        has_records: whether such a file has a place for records beside its tensors: a .pdparams has none,
            and neither have the files of Paddle's programs.
    """

    path: Path
    digest: str
    model: str | None
    form: str
    tensors: Mapping[str, Tensor] = field(repr=False)
    left: Mapping[str, Tensor] = field(repr=False)
    state_dict: Mapping[str, Tensor] = field(repr=False)
    num_classes: int | None
    in_chans: int | None
    arch: Arch | None
    classes: tuple[str, ...] | None
    palette: Palette | None
    preprocess: Preprocess | None
    postprocess: Postprocess | None
    metadata: Mapping[str, Any] = field(repr=False)
    content: Mapping[str, Any] = field(repr=False)
    row: WeightsRow | None
    container: Container | None = None
    other_model: str | None = None
    implied: Arch | None = None
    unused: tuple[str, ...] = ()
    layout: str = ""
    has_records: bool = True

    def require_whole(self) -> Checkpoint:
        """Returns the checkpoint itself.

        Raises:
            UserError: it is not a whole network: tensors are missing, unexpected or of other shapes.
        """
        if self.num_classes is None:
            if self.form == "trunk":
                part = f"only its trunk (form {self.form})"
            else:
                keys = ", ".join(list(self.state_dict)[:3])
                part = nearest(self.state_dict, self.model, self.arch) or f"keys such as {keys}"
            if self.container:
                part = f"only a trunk, in {self.container.name}: beside it are {few(self.left)}"
                if not self.container.source:
                    part += f"; where its last layer is trained, name the model: {self.model}"
            raise UserError(f"{self.path}: these are not the weights of {self.model} ({part})")
        return self

    def require_part(self) -> Checkpoint:
        """Returns the checkpoint itself.

        Raises:
            UserError: it is neither a whole network nor a trunk of one, with the model's shapes.
        """
        if self.form != "trunk":
            return self.require_whole()
        is_cut = ends_within_head(self.model, self.tensors, self.arch)
        if is_cut or not shapes_fit(self.model, self.tensors, self.arch):
            near = nearest(self.state_dict, self.model, self.arch) or "other shapes"
            raise UserError(f"{self.path}: these are not the weights of {self.model} ({near})")
        return self

    def rule_differences(self, preprocess: Preprocess | None, postprocess: Postprocess | None) -> str:
        """Where a config's rules differ from those in the file, as one line; "" where they do not.

        Args:
            preprocess: the config's input rule, if it has one.
            postprocess: the config's output rule, if it has one.
        """
        pairs = ((self.preprocess, preprocess), (self.postprocess, postprocess))
        names = [name for ours, theirs in pairs if ours and theirs for name in ours.differences(theirs)]
        if not names:
            return ""
        return (
            f"at test time the config's {', '.join(names)} differ from those that {self.path} was trained "
            "with; the config's are used"
        )

    @property
    def source(self) -> WeightsSource:
        """The file alone, without what is in it."""
        return WeightsSource(self.path, self.digest, self.row)

    @property
    def input_is_unknown(self) -> bool:
        """Whether nothing says how images become inputs, as of weights that were read out of a graph.

        A .pdparams does not say it either: its rule is the published one if it may be the published file.
        """
        said = self.form == "onnx" or self.metadata.get("input_rule") == UNKNOWN
        unsaid = self.row is None and not may_be_published(self.has_records, self.model, self.num_classes)
        return (said or unsaid) and self.preprocess is None

    def twins_remark(self, cure: str) -> str:
        """Which models, that compute otherwise, have the same keys; "" where there is no doubt.

        Args:
            cure: how the user names the model.
        """
        twins = [name for name in alike(self.model) if name != self.model]
        suites_own = self.form == OWN.name or self.form in OPENMM  # other programs have one of them at most
        is_known = "model" in self.metadata or (self.row is not None and self.row.model == self.model)
        if not twins or not suites_own or is_known:
            return ""
        return (
            f"the keys are also those of {' and '.join(twins)}, which compute otherwise: for a file of one "
            f"of them give {cure}"
        )

    @property
    def usage(self) -> Usage:
        """Input rule, output rule and class names: the file's own, otherwise those of the published model.

        Warns:
            UserWarning: the file's input rule is unknown.
        """
        if self.input_is_unknown:
            warnings.warn(f"{self.path}: {INPUT_IS_UNKNOWN}; the published one is taken", stacklevel=2)
        usual = default_usage(self.model)
        own, task = self.postprocess, usual.postprocess and usual.postprocess.task
        if own is not None and own.task != task:
            raise UserError(
                f"{self.path}: its metadata has an output rule for {own.task}, but {self.model} is for "
                f"{task or 'none'}"
            )
        return Usage(
            name=self.model,
            preprocess=self.preprocess or usual.preprocess,
            postprocess=self.postprocess or usual.postprocess,
            classes=self.classes,
            palette=self.palette,
        )

    def records(self) -> dict[str, str]:
        """Class names, palette and rules as JSON, as the metadata of a weights file has them."""
        values = plain_records(self.classes, self.palette, self.preprocess, self.postprocess)
        return {key: json.dumps(value) for key, value in values.items()}


def open_weights(
    source: WeightsRow | WeightsFile | bool | str | Path,
    model: str | None = None,
    *,
    arch: Arch | None = None,
    layout: str | None = None,
    known: bool = True,
    initial: bool = False,
) -> Checkpoint:
    """Reads a weights file once and identifies its model.

    Args:
        source: a row of the registry, True (the published weights of ``model``), a tag of ``model``, a path
            ("~" is the home folder), or a file that was read. The folder of a run stands for its best
            checkpoint, or its newest where it has no best one.
        model: name of the model, one of ``list_models()``. If given, the file may hold only a part of it, or
            not fit at all, which ``fill`` reports. Otherwise the file must be a whole network.
        arch: architecture in place of that of ``model``, which the weights belong to. Default: what the file
            implies, as some programs compute otherwise than the authors'.
        layout: the program that wrote the file, a name of ``layouts.LAYOUTS``; some write the keys of
            another, and compute otherwise. Default: that of the registry's row whose weights these are, else
            told by the keys.
        known: without ``model``, whether weights of an unknown model are an error.
        initial: whether a training begins with them. Then they may be those of another model with the same
            tensors, which ``Checkpoint.other_model`` names.

    Raises:
        UserError: the source is neither a tag nor a file; the weights are unavailable or unreadable; they fit
            no model or more than one, or are not of ``layout``; the file's metadata contradicts its tensors;
            the row's file is a graph, which has to be converted first.
        ValueError: an unknown model, tag or layout.
    """
    if layout is not None:
        find_layout(layout)
    given = source if isinstance(source, WeightsFile) else None
    row = source if isinstance(source, WeightsRow) else None if given else chosen_row(model, source)
    if row is not None and model is None:
        model = row.model
    path = given.path if given else expanded(source) if row is None else None
    if given is None and path is not None and path.is_dir():
        given, _ = run_checkpoint(path)
    try:
        file = given or (WeightsFile.read(path) if row is None else obtain(row))
        path = file.path
        if given is None and path.suffix.lower() == ".onnx":
            raise UserError(
                "a graph, not a file of weights: write its weights to one with "
                f"`hardnet-suite convert-weights {shlex.quote(str(path))} "
                f"{shlex.quote(f'{path.stem}.safetensors')}`, and give that"
            )
        row = row or _row_of_file(file, model)
        if row is not None and row.layout:
            layout = _layout_of_row(row, layout)
        return _describe(file, model, arch, layout, known, initial, row)
    except BadFileError as error:
        raise UserError(f"{path}: {error}{whole_one_beside(path)}") from error
    except UserError as error:
        message, part = str(error), "" if path is None else part_by_name(path)
        if path is None or (message.startswith(str(path)) and not part):
            raise
        start = "" if message.startswith(str(path)) else f"{path}: "
        raise UserError(f"{start}{message}{part}") from None


def chosen_row(model: str | None, source: bool | str | Path) -> WeightsRow | None:
    """Resolves ``pretrained=`` to a row of the registry; None for a path.

    Raises:
        UserError: the source is an address, or neither a tag of ``model`` nor a file.
        ValueError: the source is of another type, or the model has no published weights.
    """
    tags = [row.tag for row in registry.ROWS if row.model == model]
    if source is True and model is not None:
        return registry.find(model, "published")
    tag = known_name(source, tags) if isinstance(source, str) else None
    if tag is not None and (tag == source or not os.path.lexists(expanded(source))):  # a file comes first
        return registry.find(model, tag)
    if not isinstance(source, str | Path) or source == "":
        raise ValueError(f"pretrained={source!r} must be True, False, a tag or a path")
    if "://" in str(source):
        raise UserError(f"{source} is an address: download the file, and give its path")
    if model is not None and not Path(source).suffix and not expanded(source).exists():
        tags_of = f"tags of {model}: {', '.join(tags)}" if tags else f"{model} has no tags"
        raise UserError(
            f"no weights {source}: neither a file nor a tag; {did_you_mean(str(source), tags)}{tags_of}"
        )
    return None


def _whole_network(
    path: Path, state: Mapping[str, Tensor], model: str | None, arch: Arch | None
) -> tuple[str, Identified, dict[str, Tensor]]:
    """The network that the tensors are; failing that, the one that is among them, with a warning.

    Returns:
        The prefix of the network's keys, where other tensors are beside it; the network; and those others,
        without copies of the network.
    """
    try:
        return "", identify(state, model, arch), {}
    except UserError as error:
        if container_of(state) is not None:
            raise
        single, copies = state, {}
        try:
            single, copies = without_copies(state)
            prefix, whole = network_within(single, model, arch)
        except SeveralNetworksError:
            raise
        except UserError:
            if copies:
                identify(single, model, arch)  # says what the one copy lacks
            raise error from None
    beside = {key: value for key, value in single.items() if not key.startswith(prefix)}
    start = prefix or next(iter(copies.values()))
    names = few([*(f"{copy}*" for copy in copies), *beside])
    warnings.warn(
        f"{path}: the network is {start}*; left out are the tensors beside it: {names}", stacklevel=2
    )
    return prefix, whole, beside


def _describe(
    file: WeightsFile,
    model: str | None,
    arch: Arch | None,
    layout: str | None,
    known: bool,
    initial: bool,
    row: WeightsRow | None,
) -> Checkpoint:
    state, metadata = state_dict_of(file.content), _metadata(file)
    said = metadata.get("model")
    said = said if isinstance(said, str) and said in ARCHS else None
    named = model
    form, tensors, left, classes, channels = "", {}, {}, None, None
    implied, container, scheme, unused = None, None, "", ()
    try:
        prefix, whole, beside = _whole_network(file.path, state, model, arch)
        if model is None and said is not None and said != whole.model:
            with contextlib.suppress(UserError):  # the metadata tell models with the same tensors apart
                prefix, whole, beside = _whole_network(file.path, state, said, arch)
        model, form, tensors = whole.model, whole.form, whole.tensors
        implied = whole.arch
        scheme, unused = whole.form, whole.unused
        within_others = isinstance(find_arch(model), HarDNetArch) and has_layers(beside)
        if within_others and named is not None:
            warnings.warn(
                f"{file.path}: the layers beside the network may read its maps, and then nothing has trained "
                "its own last layer: features_only=True takes the trunk alone",
                stacklevel=3,
            )
        if within_others and named is None:
            container, form = unknown_container(prefix), "trunk"
            left = {key: value for key, value in state.items() if not key.startswith(prefix)}
            tensors = {key: value for key, value in tensors.items() if key.startswith("trunk.")}
            unused = _last_layer(state, prefix, model, scheme, arch)
        else:
            classes, channels = whole.num_classes, whole.in_chans
    except UserError as error:
        if file.path.suffix.lower() == ".onnx":  # only the answers of a whole network can be compared
            raise
        container = container_of(state)
        single = without_copies(state)[0] if container is None else state
        if container is not None:
            model, tensors, scheme = _trunk_of_container(state, container, model, arch)
            start = container.prefix_in(state)
            form, left = "trunk", {key: state[key] for key in state if not key.startswith(start)}
            unused = _last_layer(state, start, model, scheme, arch)
            implied = LAYOUTS[scheme].arch_of(model, arch)
        elif not isinstance(error, SeveralNetworksError) and (
            within := _trunk_of_unknown(single, model or said, arch, known)
        ):
            prefix, model, tensors, scheme = within
            container, form = unknown_container(prefix), "trunk"
            left = {key: value for key, value in state.items() if not key.startswith(prefix)}
            unused = _last_layer(state, prefix, model, scheme, arch)
            implied = LAYOUTS[scheme].arch_of(model, arch)
        elif known and (
            isinstance(error, SeveralNetworksError)
            or (model is None and not (said and split_trunk(said, single, arch)))
        ):
            raise
        elif (model := model or said) is not None and (trunk := split_trunk(model, single, arch)) is not None:
            form, tensors, left = "trunk", trunk[0], {key: state[key] for key in trunk[1]}
            left |= {key: value for key, value in state.items() if key not in single}
            scheme = trunk[2]
            implied = LAYOUTS[scheme].arch_of(model, arch)
        elif model is not None:
            form, tensors, left = best_form(model, single, arch)
            scheme = form
        if container is not None and (nearly := nearest(single, None, beyond_trunk=True)):
            warnings.warn(
                f"{file.path}: nearly the weights {nearly}: only their trunk is taken", stacklevel=3
            )
    program = metadata.get("computes_as")
    if None not in (layout, program) and layout != program:
        raise UserError(f"its metadata says that it computes as {program!r}, not as {layout!r}")
    program = layout or program
    if program is not None:
        scheme, implied = _as_written_by(program, model, scheme, arch)
        form = "trunk" if form == "trunk" else scheme
    if form == "onnx":
        if file.path.suffix.lower() != ".onnx":
            raise UserError(
                "its keys are those of a graph, but it is none: nothing says how the graph computes"
            )
        usual = arch or find_arch(model)
        read = replace(usual, act=metadata["activation"])  # a graph always states it
        metadata["returns"] = _require_same_answers(file, whole, read)
        implied = None if read == usual else read
    named_otherwise = said is not None and model is not None and said != model
    if named_otherwise and form != "trunk" and not initial:
        which = f"not {model}" if classes is None else f"but its weights are those of {model}"
        raise UserError(f"its metadata says that it is {said}, {which}")
    for key, count in (("num_classes", classes), ("in_chans", channels)):
        told = metadata.get(key)
        if count is not None and isinstance(told, str | int) and str(told) != str(count):
            raise UserError(f"its metadata says {key}={few([str(told)])}, but its tensors {count}")
    names = metadata.get("classes") or (row.classes if row else None) or None
    if names and classes and len(names) != classes:
        raise UserError(f"its metadata names {counted(len(names), 'class')}, but the weights have {classes}")
    colours = metadata.get("palette")
    if colours and classes and len(colours) != classes:
        raise UserError(
            f"its metadata's palette has {counted(len(colours), 'colour')} for {counted(classes, 'class')}"
        )
    rule = _record(metadata, "preprocess", partial(Preprocess.from_dict, base=PREPROCESS.get(model)))
    writer = LAYOUTS.get(program or scheme)
    written_in = LAYOUTS.get(scheme)
    has_records = file.suffix != ".pdparams" and (written_in is None or written_in.records)
    is_told = row is not None or may_be_published(has_records, model, classes)
    is_told = is_told and metadata.get("input_rule") != UNKNOWN
    if rule is None and writer is not None and model is not None and is_told:
        rule = writer.preprocess_of(model)
    return Checkpoint(
        path=file.path,
        digest=file.sha256,
        model=model,
        form=form,
        tensors=tensors,
        left=left,
        state_dict=state,
        num_classes=classes,
        in_chans=channels,
        arch=arch or implied,
        implied=implied,
        classes=names,
        palette=metadata.get("palette"),
        preprocess=rule,
        postprocess=_record(metadata, "postprocess", Postprocess.from_dict),
        metadata=metadata,
        content=file.content,
        row=row,
        container=container,
        other_model=said if named_otherwise and form != "trunk" and said in alike(model) else None,
        unused=unused,
        layout=scheme,
        has_records=has_records,
    )


def may_be_published(has_records: bool, model: str | None, num_classes: int | None) -> bool:
    """Whether a file, if it has no place for records, may be the published one of its program.

    Args:
        has_records: whether it has one.
        model: whose weights they are.
        num_classes: number of classes; None for a part of a network.
    """
    if has_records or model is None:
        return True
    return num_classes in (None, getattr(find_arch(model), "num_classes", 0))


def _trunk_of_container(
    state: Mapping[str, Tensor], container: Container, model: str | None, arch: Arch | None
) -> tuple[str, dict[str, Tensor], str]:
    """The trunk in a network of another program: its model, its tensors and their naming scheme."""
    prefix = container.prefix_in(state)
    below = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    trunk = trunk_below(below, container.models if model is None else [model], arch)
    if trunk is None:
        near = nearest(state, model, arch)
        reason = container.reason or near or f"its trunk is not that of {model or 'a model of this suite'}"
        raise UserError(f"these are the weights of {container.name} ({container.source}): {reason}")
    return trunk


def _trunk_of_unknown(
    state: Mapping[str, Tensor], model: str | None, arch: Arch | None, known: bool
) -> tuple[str, str, dict[str, Tensor], str] | None:
    """``trunk_within``, if layers other than the classifier's own are beside the trunk.

    Several trunks count as none where the model need not be ``known``.
    """
    try:
        within = trunk_within(state, model, arch)
    except SeveralNetworksError:
        if known:
            raise
        return None
    if within is None:
        return None
    prefix, name, _, layout = within
    last = tuple(theirs for ours, theirs in keys_of(name, LAYOUTS[layout]).items() if ours.startswith("fc."))
    beside = {
        key: value for key, value in state.items() if not key.startswith(prefix) and not key.endswith(last)
    }
    return within if has_layers(beside) else None  # otherwise it is a damaged classifier


def _last_layer(
    state: Mapping[str, Tensor], prefix: str, model: str, layout: str, arch: Arch | None
) -> tuple[str, ...]:
    """Keys of a classifier's last layer below the prefix of its trunk in a larger network."""
    names = keys_of(model, LAYOUTS[layout], arch).items()
    last = [f".{theirs}" for ours, theirs in names if not ours.startswith("trunk.")]
    below = [key for key in state if key.startswith(prefix)]
    return tuple(key for key in below if any(name.endswith(f".{key.removeprefix(prefix)}") for name in last))


def _as_written_by(
    program: Any, model: str | None, scheme: str, arch: Arch | None
) -> tuple[str, Arch | None]:
    """The naming scheme and the architecture of weights, on the word of the user or of the file's metadata.

    Args:
        program: name of the program whose network they belong to.
        model: whose weights they are.
        scheme: the naming scheme as the keys have it, of a trunk too; "" where they tell none.
        arch: architecture in place of that of ``model``.
    """
    layout = LAYOUTS.get(program) if isinstance(program, str) else None
    if layout is None:
        raise UserError(f"its metadata's program, computes_as, is unknown: {str(program)[:60]!r}")
    if model is None or not layout.has(model):
        raise UserError(f"{layout.program} has no {model or 'such model'}")
    implied = layout.arch_of(model, arch)
    if scheme in ("", OWN.name):  # our keys are those of any program's weights once they are converted
        return scheme, implied
    if keys_of(model, LAYOUTS[scheme]) != keys_of(model, layout):
        raise UserError(f"its keys are those of {LAYOUTS[scheme].program}, not of {layout.program}")
    return layout.name, implied


def _require_same_answers(file: WeightsFile, whole: Identified, arch: Arch) -> str:
    """What the graph that tensors were read from returns; UserError where it computes something else."""
    network = build_network(whole.model, num_classes=whole.num_classes, in_chans=whole.in_chans, arch=arch)
    network.load_state_dict(whole.tensors, strict=False)  # all but the counters
    try:
        return graphs.require_same_answers(file.data, network.eval(), whole.in_chans)
    except graphs.GraphError as error:
        raise UserError(f"its weights have the shapes of {whole.model}, but {error}") from None


def _metadata(file: WeightsFile) -> dict[str, Any]:
    """What a file says beside its tensors, its records as values.

    The head of a .safetensors file has strings alone: there "classes", "palette", "preprocess" and
    "postprocess" are JSON. A run's checkpoint keeps classes and palette under "dataset_meta". The older key
    "input" is read as "preprocess".

    Raises:
        UserError: an entry is not JSON; "classes" or "palette" are not what they should be.
    """
    meta = dict(file.metadata)
    if "input" in meta:
        meta.setdefault("preprocess", meta.pop("input"))
    for key in _RECORDS:
        if isinstance(meta.get(key), str):
            try:
                meta[key] = json.loads(meta[key])
            except (ValueError, RecursionError):
                raise UserError(f"in its metadata, {key!r} is not JSON") from None
            if meta[key] is None:
                raise UserError(f"in its metadata, {key!r} is null")
    dataset = meta.get("dataset_meta")
    if isinstance(dataset, Mapping) and dataset.get("classes") is not None:
        meta["classes"] = dataset["classes"]
    if meta.get("classes") is not None:
        meta["classes"] = class_names(meta["classes"], f"{file.path}: its metadata's classes")
    if isinstance(dataset, Mapping) and dataset.get("classes") is not None:
        colours = dataset.get("palette")
        if isinstance(colours, list | tuple) and len(colours) == len(meta["classes"]):
            meta["palette"] = colours
    if meta.get("palette") is not None:
        meta["palette"] = _palette(meta["palette"], meta.get("classes"))
    return meta


def _palette(value: Any, classes: tuple[str, ...] | None) -> Palette:
    try:
        palette = palette_of(value)
    except ValueError as error:
        raise UserError(f"its metadata's {error}") from None
    if classes is not None and len(palette) != len(classes):
        raise UserError(
            f"its metadata's palette has {counted(len(palette), 'colour')} for "
            f"{counted(len(classes), 'class')}"
        )
    return palette


def _record(metadata: Mapping[str, Any], key: str, read: Callable[[Any], Any]) -> Any | None:
    """The record of that key; None where there is none."""
    values = metadata.get(key)
    if values is None:
        return None
    try:
        return read(values)
    except (ValueError, TypeError) as error:
        raise UserError(f"in its metadata, {error}") from None


def _row_of_file(file: WeightsFile, model: str | None) -> WeightsRow | None:
    """The row whose weights a file is, by its hashes."""
    rows = [row for row in registry.ROWS if model in (None, row.model)]
    return next((row for row in rows if row.is_file(file.sha256, file.git_blob, file.sha1)), None)


def _layout_of_row(row: WeightsRow, layout: str | None) -> str:
    """The row's layout; UserError where another one is asked for."""
    if layout not in (None, row.layout):
        raise UserError(
            f"these are the weights {row.tag!r} of {row.model}, of {LAYOUTS[row.layout].program}: they "
            f"cannot be read as those of {LAYOUTS[layout].program}"
        )
    return row.layout
