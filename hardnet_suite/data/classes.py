"""Class identity: the names of the classes, in the order of their labels, compared in one function."""

from __future__ import annotations

import csv
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cache
from itertools import zip_longest
from pathlib import Path

from hardnet_suite.data.files import read_text
from hardnet_suite.data.report import counted
from hardnet_suite.errors import UserError


def class_names(value: object, where: str) -> tuple[str, ...]:
    """The class names that a config, file or caller gives, as a tuple of distinct strings.

    Args:
        value: a list or tuple of names. A string would be taken letter by letter, and is refused.
        where: what the error calls the place, such as ``train_dataloader.dataset.metainfo.classes``.

    Raises:
        UserError: anything but a non-empty list or tuple of distinct names, see ``is_class_name``.
    """
    if isinstance(value, str):
        raise UserError(f"{where} is the string {value!r}, expected a list of names, such as ({value!r},)")
    if not isinstance(value, list | tuple) or not value:
        raise UserError(f"{where} is {value!r}, expected a non-empty list of class names")
    for name in value:
        if not is_class_name(name):
            raise UserError(f"{where} contains {name!a}, expected printable text for every class")
    names = tuple(value)
    duplicates = sorted(name for name, count in Counter(names).items() if count > 1)
    if duplicates:
        raise UserError(f"{where} names {duplicates[0]!r} twice; class names must be distinct")
    return names


def read_class_names(path: Path) -> tuple[str, ...]:
    """The class names of a text file, one per line, in the order of their labels; empty lines may end it.

    Raises:
        UserError: it cannot be read, has an empty line before a name, which would shift the labels of all
            that follow, or does not hold distinct names.
    """
    try:
        lines = [line.strip() for line in read_text(path).splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}; save it as UTF-8 text") from None
    while lines and not lines[-1]:
        lines.pop()
    if "" in lines:
        raise UserError(
            f"{path}, line {lines.index('') + 1} is empty, but each line is the name of a class: remove it, "
            "or name the class there"
        )
    if not lines:
        raise UserError(f"{path} names no class: expected one name per line")
    return class_names(lines, str(path))


def is_class_name(value: object) -> bool:
    """Whether a value is text, not empty and without control characters, which could drive a terminal."""
    return isinstance(value, str) and bool(value) and not any(map(_is_control, value))


def require_lines(classes: Sequence[str], where: str) -> None:
    """Checks that a file with one name per line holds the names of classes as they are.

    Raises:
        UserError: a name has white space around it, or what ends a line, within it, or begins as a file may.
    """
    for name in classes:
        if name != name.strip() or len(name.splitlines()) != 1 or name.startswith("\ufeff"):
            raise UserError(f"the class {name!a} cannot stand in {where}: rename it")


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs")  # Cs: half of a character


@cache
def imagenet_classes() -> dict[str, str]:
    """WordNet id -> name of the 1000 classes of ImageNet, in the order of their indices (258: Samoyed)."""
    with Path(__file__).with_name("imagenet_classes.csv").open(encoding="utf-8") as stream:
        return {row["wnid"]: row["name"] for row in csv.DictReader(stream)}


def readable(classes: Sequence[str]) -> tuple[str, ...]:
    """The names of the classes for people: ImageNet's WordNet ids become its names, others stay."""
    names = imagenet_classes()
    return tuple(names.get(name, name) for name in classes)


def given_or_known(
    given: Sequence[str] | None, known: Sequence[str] | None, where: str
) -> tuple[str, ...] | None:
    """The names that a caller gives for the classes of some weights, otherwise those that the weights know.

    Raises:
        UserError: what is given are not class names, or those of the weights in another order.
    """
    if given is None:
        return None if known is None else tuple(known)
    names = class_names(given, where)
    if known is not None and sorted(readable(names)) == sorted(readable(known)):
        require_same_classes(
            names,
            known,
            where=where,
            expected_where="the weights",
            cure="leave out classes, the weights know their names",
        )
    return names


def require_same_classes(
    classes: Sequence[str], expected: Sequence[str], *, where: str, expected_where: str, cure: str
) -> None:
    """Checks that two lists of class names are equal, order included; ids of ImageNet equal their names.

    Args:
        classes: names in the order of their labels.
        expected: the names to compare with.
        where: what holds ``classes``, as the subject of the message ("val_dataloader", a path).
        expected_where: what holds ``expected``.
        cure: what to do about a difference, a clause in the imperative.

    Raises:
        UserError: the lists differ; one line that says where and how.
    """
    classes, expected = tuple(classes), tuple(expected)
    ours, theirs = readable(classes), readable(expected)
    if ours == theirs:
        return
    if sorted(ours) == sorted(theirs):
        kind = "the same classes in another order"
    elif len(classes) != len(expected):
        kind = f"{counted(len(classes), 'class')}, {expected_where} has {len(expected)}"
    else:
        kind = "other classes"
    index, (name, wanted) = next(
        (index, pair)
        for index, pair in enumerate(zip_longest(classes, expected, fillvalue=None))
        if ours[index : index + 1] != theirs[index : index + 1]
    )
    raise UserError(
        f"{where} has {kind}: class {index} is {_quoted(name)}, in {expected_where} it is "
        f"{_quoted(wanted)}; {cure}"
    )


def _quoted(name: str | None) -> str:
    return "absent" if name is None else repr(name)
