"""Options that a config gives: a name that nothing reads is an error with the nearest known one."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from difflib import get_close_matches

from hardnet_suite.errors import UserError


def nearest(name: str, known: Collection[str], cutoff: float = 0.5) -> str | None:
    """The known name that is spelt most like ``name``; None where none is alike."""
    return next(iter(get_close_matches(str(name), sorted(map(str, known)), n=1, cutoff=cutoff)), None)


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
