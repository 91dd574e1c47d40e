"""Class identity: the names of the classes, in the order of their labels, compared in one function."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest

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


def is_class_name(value: object) -> bool:
    """Whether a value is text, not empty and without control characters, which could drive a terminal."""
    return isinstance(value, str) and bool(value) and not any(map(_is_control, value))


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs")  # Cs: half of a character


def require_same_classes(
    classes: Sequence[str], expected: Sequence[str], *, where: str, expected_where: str, cure: str
) -> None:
    """Checks that two lists of class names are equal, order included.

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
    if classes == expected:
        return
    if sorted(classes) == sorted(expected):
        kind = "the same classes in another order"
    elif len(classes) != len(expected):
        kind = f"{len(classes)} classes, {expected_where} has {len(expected)}"
    else:
        kind = "other classes"
    index, (name, wanted) = next(
        (index, pair)
        for index, pair in enumerate(zip_longest(classes, expected, fillvalue=None))
        if pair[0] != pair[1]
    )
    raise UserError(
        f"{where} has {kind}: class {index} is {_quoted(name)}, in {expected_where} it is "
        f"{_quoted(wanted)}; {cure}"
    )


def _quoted(name: str | None) -> str:
    return "absent" if name is None else repr(name)
