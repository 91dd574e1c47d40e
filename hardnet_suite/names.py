"""Names that people type, in any case, with hyphens or underscores: which is meant, and which is repeated."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from fnmatch import fnmatchcase


def known_name(name: str, known: Iterable[str]) -> str | None:
    """The known name that is meant by ``name``; None where there is none.

    An exact spelling comes first; otherwise one that differs in case, hyphens, underscores and spaces alone.
    """
    known = list(known)
    if name in known or not isinstance(name, str):
        return name if name in known else None
    alike = [other for other in known if _plain(other) == _plain(name)]
    return alike[0] if len(alike) == 1 else None


def matching(pattern: str, known: Iterable[str]) -> list[str]:
    """The known names that match a pattern with the wildcards of file names, in their order.

    An exact spelling comes first; where nothing matches it, case, hyphens and underscores may differ.
    """
    known = list(known)
    for form in (str, _alike, _plain):
        names = [name for name in known if fnmatchcase(form(name), _outside_brackets(form, pattern))]
        if names:
            return names
    return []


def nearest(name: str, known: Iterable[str], cutoff: float = 0.5) -> str | None:
    """The known name that is spelt most like ``name``; None where none is alike."""
    return next(iter(get_close_matches(str(name), sorted(map(str, known)), n=1, cutoff=cutoff)), None)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """ "did you mean NAME? ", for the middle of a message; empty where no known name is alike."""
    plain = {_plain(other): other for other in known}
    near = nearest(_plain(str(name)), plain, cutoff=0.6)
    return f"did you mean {plain[near]}? " if near is not None else ""


def first_repeated(names: Iterable[str]) -> str | None:
    """The first name that comes more than once; None where all differ."""
    return next((name for name, count in Counter(names).items() if count > 1), None)


def _alike(name: str) -> str:
    return re.sub(r"[-\s]", "_", name.casefold())


def _outside_brackets(form: Callable[[str], str], pattern: str) -> str:
    """A pattern of which sets, such as ``[0-9]``, stay as they are."""
    parts = re.split(r"(\[[^]]*\])", pattern)
    return "".join(part if index % 2 else form(part) for index, part in enumerate(parts))


def _plain(name: str) -> str:
    return re.sub(r"[-_\s]", "", name.casefold())
