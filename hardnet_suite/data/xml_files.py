"""XML files of annotations: read without entities, and what may be written into one."""

from __future__ import annotations

import math
import re
from pathlib import Path
from xml.etree import ElementTree

from hardnet_suite.data.files import read_bytes
from hardnet_suite.errors import UserError

_DECLARED = re.compile(rb"""^(?:\xef\xbb\xbf)?\s*<\?xml[^>]*?encoding\s*=\s*["']([\w.:-]+)["']""")
_CHINESE = {"gb2312": "gb18030", "gbk": "gb18030"}  # what is declared as the smaller is often the larger
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def is_xml_text(text: str) -> bool:
    """Whether XML can hold a text, and readers that strip white space keep it."""
    return text == text.strip() and not _NOT_XML.search(text)


class _WithoutDoctype(ElementTree.TreeBuilder):
    """Refuses a document type, the only place for entities, before any is expanded and in every encoding.

    Tags lose their namespace, and comments are not part of the tree.
    """

    def __init__(self, path: Path):
        super().__init__()
        self._path = path

    def start(self, tag: str, attrs: dict[str, str]) -> ElementTree.Element:
        return super().start(tag.rpartition("}")[2], attrs)

    def end(self, tag: str) -> ElementTree.Element:
        return super().end(tag.rpartition("}")[2])

    def doctype(self, *_: str | None) -> None:
        raise UserError(f"{self._path} has a DOCTYPE, which could declare entities: remove it")


def read_xml(path: Path) -> ElementTree.Element:
    """The root of an XML file, in any namespace and any encoding that it declares.

    Raises:
        UserError: the file cannot be read or decoded, is not XML, or declares a document type.
    """
    try:
        content: bytes | str = read_bytes(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    declared = _DECLARED.match(content)
    encoding = declared[1].decode("ascii").lower() if declared else "utf-8"
    try:
        if encoding.startswith("gb") or encoding in ("big5", "shift_jis", "euc-jp", "euc-kr"):
            content = content.decode(_CHINESE.get(encoding, encoding))  # the parser knows no multi-byte ones
        return ElementTree.fromstring(content, ElementTree.XMLParser(target=_WithoutDoctype(path)))
    except ElementTree.ParseError as error:
        raise UserError(
            f"{path} is not valid XML, truncated, or in another encoding than {encoding}: {error}"
        ) from None
    except (LookupError, ValueError) as error:  # encodings that neither knows
        raise UserError(f"{path} cannot be decoded: {error}; save it as UTF-8") from None


def number(text: str | None) -> float | int | None:
    """The finite number that a text states; None for any other text."""
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    if "_" in text:  # which Python reads as 10 in "1_0"
        return None
    if not math.isfinite(value):
        return None
    return int(value) if value.is_integer() else value
