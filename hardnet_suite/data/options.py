"""Options that a config gives: a name that nothing reads is an error with the nearest known one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from hardnet_suite.errors import UserError
from hardnet_suite.names import nearest
from hardnet_suite.numeric import is_integer


def require_known(given: Iterable[str], known: Collection[str], where: str) -> None:
    """Checks the names of options.

    Args:
        given: names, such as a dict of options.
        known: the names that have an effect.
        where: what has the options, the subject of the message.

    Raises:
        UserError: a name is not known.
    """
    for name in given:
        if name not in known:
            near = nearest(name, known)
            cure = f"did you mean {near}?" if near else f"known are {', '.join(known) or 'none'}"
            raise UserError(f"{where} has no option {name!r}; {cure}")


def require_local(options: Mapping[str, Any], where: str) -> None:
    """Checks that mmengine's option ``backend_args`` is None where it is given: files are local ones.

    Raises:
        UserError: it names another storage.
    """
    if options.get("backend_args") is not None:
        raise UserError(
            f"{where} has backend_args={options['backend_args']!r}, but reads local files; set it to None"
        )


def checked_indices(indices: Any, where: str) -> int | tuple[int, ...] | None:
    """mmengine's option ``indices``, a list as a tuple.

    Raises:
        UserError: it is neither an integer, nor integers, nor None.
    """
    if indices is None:
        return None
    if is_integer(indices):
        return int(indices)
    listed = isinstance(indices, Sequence) and not isinstance(indices, str | bytes)
    if not listed or not all(map(is_integer, indices)):
        raise UserError(f"{where} has indices={indices!r}, expected an integer or a list of integers")
    return tuple(map(int, indices))


def take(items: Sequence, indices: int | Sequence[int] | None, where: str = "the data set") -> list:
    """The items that mmengine's option ``indices`` keeps.

    Args:
        items: all of them.
        indices: N: the first N, all where there are fewer; N < 0: the last; a sequence: those listed; None:
            all.
        where: what has the option, the subject of the message.

    Raises:
        UserError: an index is out of range.
    """
    if indices is None:
        return list(items)
    if isinstance(indices, int):
        return list(items[:indices] if indices >= 0 else items[indices:])
    beyond = [index for index in indices if not -len(items) <= index < len(items)]
    if beyond:
        raise UserError(
            f"{where}: indices names {beyond[0]}, but there are {len(items)} images, numbered from 0 to "
            f"{len(items) - 1}"
        )
    return [items[index] for index in indices]
