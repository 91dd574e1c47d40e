"""Which evaluator scores a data set, and against which annotations: one check for training and testing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.evaluator import DumpResults
from mmengine.registry import METRICS

from hardnet_suite.errors import UserError
from hardnet_suite.openmm.data.parts.detection import DetectionPart, require_same_annotations
from hardnet_suite.openmm.data.parts.part import Part, kind_of

# packages whose evaluators expect the labels of their own data sets
_OPENMMLAB = ("mmdet", "mmseg", "mmpretrain", "mmcls", "mmyolo", "mmrotate")
_DOCS = 'docs/models.md, "As a backbone of other models"'


def evaluators_in(given: Any) -> Iterator[Any]:
    """The evaluators of a config's ``val_evaluator`` or ``test_evaluator``, which may be one, a list of them
    or mmengine's ``Evaluator`` of several."""
    if isinstance(given, list | tuple):
        for evaluator in given:
            yield from evaluators_in(evaluator)
    elif isinstance(given, Mapping) and "metrics" in given:
        yield from evaluators_in(given["metrics"])
    elif given is not None:
        yield given


def require_scored(given: Any, data_parts: Sequence[Part], name: str, loader: str) -> None:
    """Checks that evaluators score the suite's data sets as ``test`` does.

    A user's own evaluators may stand beside the suite's or in their place. Those of OpenMMLab may not: they
    take the labels of their own data sets, such as an index of a background, or classes by position.

    Args:
        given: ``name`` in the config.
        data_parts: The data sets of ``loader``, in the config's default scope.
        name: "val_evaluator" or "test_evaluator".
        loader: "val_dataloader" or "test_dataloader".

    Raises:
        UserError: An evaluator is of another task or of OpenMMLab, takes one data set but gets several, or
            has an ``ann_file`` other than that of its data set.
    """
    own = [part for part in data_parts if part.is_own]
    for evaluator in evaluators_in(given):
        kind = evaluator_kind(evaluator)
        if kind in Part.evaluators():
            if any(part.evaluator != kind for part in data_parts):
                raise wrong_data(kind, data_parts, loader)
            if len(data_parts) > 1 and data_parts[0].scores_one_file:
                raise wrong_data(kind, data_parts, loader)
        elif own and _is_openmmlabs(evaluator):
            raise unknown_evaluator(kind, own, name)
        annotation_file = evaluator.get("ann_file") if isinstance(evaluator, Mapping) else None
        annotated = [part for part in data_parts if isinstance(part, DetectionPart) and part.annotated]
        if annotation_file and annotated:
            require_same_annotations(annotation_file, annotated[0].annotation_file, name, loader)


def evaluator_kind(evaluator: Any) -> str:
    """The type of an evaluator, without a scope."""
    return kind_of(evaluator) if isinstance(evaluator, Mapping) and "type" in evaluator else str(evaluator)


def unknown_evaluator(kind: str, data_parts: Sequence[Part], name: str) -> UserError:
    """The error about an evaluator that is not the suite's."""
    known = ", ".join(sorted(Part.evaluators()))
    cure = (
        "; ".join(dict.fromkeys(_cure(part, name) for part in data_parts))
        or f"set its type to one of {known}"
    )
    return UserError(f"the config's {name} is {kind}, which the suite does not score with: {cure} ({_DOCS})")


def wrong_data(kind: str, data_parts: Sequence[Part], loader: str) -> UserError:
    """The error about an evaluator of the suite whose loader has not the one data set that it scores."""
    given = " and ".join(f"a {part.task} data set" for part in data_parts) or "none that the suite reads"
    return UserError(f"{kind} scores one {Part.evaluators()[kind]}: make it the {loader}'s (it has {given})")


def _cure(part: Part, name: str) -> str:
    """What to write into a config, so that the suite's evaluator scores a data set."""
    if part.task != "detection":
        return f'set {name}=dict(_delete_=True, type="{part.evaluator}")'
    loader = name.replace("_evaluator", "_dataloader")
    return (
        f'set {name}=dict(_delete_=True, type="{part.evaluator}", ann_file=…), and '
        f'type="DetectionDataset" in {loader}.dataset'
    )


def _is_openmmlabs(evaluator: Any) -> bool:
    """Whether an evaluator is a class of OpenMMLab's; one that only saves the predictions is not meant."""
    kind = evaluator.get("type") if isinstance(evaluator, Mapping) else type(evaluator)
    with METRICS.switch_scope_and_registry(None) as registry:  # the default scope's
        found = registry.get(kind) if isinstance(kind, str) else kind
    if not isinstance(found, type) or issubclass(found, DumpResults):
        return False
    return found.__module__.partition(".")[0] in _OPENMMLAB
