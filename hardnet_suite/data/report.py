"""What a look over a data set found wrong with it, as a table and as lines for a training log."""

from __future__ import annotations

import os
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TextIO

_EXAMPLES = 3  # findings of one kind that a table shows in full
_BRIEF = 12  # lines that a training log has room for
_LONGEST = 300  # characters of such a line; a polygon in the place of a box would fill pages

_DIRECTIONS = frozenset("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def escaped(text: str) -> str:
    """The text with escapes for what could drive a terminal or disguise a name, and for lone surrogates.

    These are control characters, line and paragraph separators and marks of writing direction. Line ends
    stay.
    """
    plain = "".join(_escape(c) if c != "\n" and _is_hidden(c) else c for c in text)
    return plain.encode("utf-8", "backslashreplace").decode()


def counted(count: int, noun: str) -> str:
    """A number and its noun: "1 image", "2,804 boxes"."""
    ending = "es" if noun.endswith(("s", "x", "tch")) else "s"
    return f"{count:,} {noun}{ending * (count != 1)}"


def printable(text: str, stream: TextIO | None = None) -> str:
    """The text with escapes for control characters, which could drive a terminal, and for what the stream
    cannot encode, such as file names that are not UTF-8."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return escaped(text).encode(encoding, "backslashreplace").decode(encoding)


def has_live_line(stream: TextIO | None) -> bool:
    """Whether a line that changes can be shown: on a terminal that says its size, as tqdm needs it."""
    if stream is None or not stream.isatty():
        return False
    try:
        size = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):  # a terminal in name only
        return True
    return size.lines > 0 and size.columns > 0


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong (``error``) or odd (``warning``): of which kind, where, and what exactly."""

    level: Literal["error", "warning"]
    kind: str
    where: str
    what: str


@dataclass(frozen=True, kw_only=True)
class Report(ABC):
    """The findings in a data set, beside what the report of its kind holds.

    ``LEFT_OUT``: the kinds of findings that training leaves out.
    """

    LEFT_OUT: ClassVar[frozenset[str]] = frozenset()

    findings: tuple[Finding, ...]

    @abstractmethod
    def summary(self) -> dict[str, str]:
        """What the set holds, by name."""

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.level == "error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.level == "warning")

    def table(self) -> str:
        """A plain-text summary, then the findings by kind (errors first), each kind with a few examples."""
        rows = {
            **self.summary(),
            "errors": str(len(self.errors)),
            "warnings": str(len(self.warnings)),
        }
        lines = [f"{name:<22}{value}" for name, value in rows.items()]

        for (level, kind), group in self._groups().items():
            lines += ["", f"{level.upper()}  {kind} ({len(group)})"]
            lines += [f"    {_one_line(finding)}" for finding in group[:_EXAMPLES]]
            if len(group) > _EXAMPLES:
                lines.append(f"    … and {len(group) - _EXAMPLES} more")
        return escaped("\n".join(lines))

    def brief(self) -> list[str]:
        """At most a dozen lines for a training log, errors first; none where nothing was found.

        One a kind: how many, whether training leaves them out, and the first of them.
        """
        return brief_lines(self.findings, self.LEFT_OUT, "left out of training")

    def _groups(self) -> dict[tuple[str, str], list[Finding]]:
        return _by_kind(self.findings)


def first_of(source: object, findings: Sequence[Finding]) -> str:
    """The first of what is wrong with a file, and how many more there are."""
    more = f" (and {len(findings) - 1} more: `hardnet-suite check-data` shows all)" if findings[1:] else ""
    return f"{source}: {findings[0].where} {findings[0].what}{more}"


def brief_lines(findings: Sequence[Finding], left_out: frozenset[str], fate: str) -> list[str]:
    """At most a dozen lines, one per kind of finding, errors first: how many, and the first of them.

    Args:
        findings: what was found.
        left_out: kinds of findings whose entries are not used.
        fate: what messages say of these.
    """
    lines = []
    for (level, kind), group in _by_kind(findings).items():
        note = f", {fate}" if kind in left_out else ""
        such_as = ", e.g." if len(group) > 1 else ":"
        start = f"{level}: {kind} ({len(group)}{note}){such_as} "
        lines.append(start + example(group[0], _LONGEST - len(start)))
    if len(lines) > _BRIEF:
        rest = len(lines) - _BRIEF + 1
        lines[_BRIEF - 1 :] = [f"… and {rest} more kinds of findings: `hardnet-suite check-data` shows all"]
    return lines


def example(finding: Finding, most: int) -> str:
    """Where a finding is and what it is, in one line of at most ``most`` characters, 100 or more."""
    most = max(most, 100)
    where = shortened(finding.where, most // 2)
    return f"{where}: {shortened(finding.what, most - len(where) - 2)}"


def shortened(text: str, most: int) -> str:
    """A text in one line of at most ``most`` characters, which lacks its middle: the ends of paths matter."""
    line = escaped(text).replace("\n", "\\n")
    if len(line) <= most:
        return line
    end = (most - 1) // 2
    return f"{line[: most - 1 - end]}…{line[-end:]}"


def _is_hidden(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Zl", "Zp") or character in _DIRECTIONS


def _escape(character: str) -> str:
    return f"\\x{ord(character):02x}" if ord(character) < 256 else f"\\u{ord(character):04x}"


def _one_line(finding: Finding) -> str:
    return f"{finding.where}: {finding.what}".replace("\n", "\\n")


def _by_kind(findings: Sequence[Finding]) -> dict[tuple[str, str], list[Finding]]:
    """The findings by (level, kind), errors first."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in sorted(findings, key=lambda finding: finding.level != "error"):
        groups.setdefault((finding.level, finding.kind), []).append(finding)
    return groups
