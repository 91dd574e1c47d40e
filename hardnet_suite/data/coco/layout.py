"""COCO's JSON files as they are on disk, and their outer form."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from hardnet_suite.data.files import read_bytes
from hardnet_suite.errors import UserError

_LISTS = ("images", "annotations", "categories")


def read_json(path: str | Path) -> Any:
    """The content of a JSON file in UTF-8, with or without a byte order mark.

    Raises:
        UserError: the file is missing, unreadable, empty, truncated, in another encoding, not JSON, or has a
            key twice in one object.
    """
    path = Path(path)
    try:
        content = read_bytes(path)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: check the path") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    try:
        return json.loads(content.decode("utf-8-sig"), object_pairs_hook=_object)
    except _RepeatedKeyError as error:
        raise UserError(f"{path} has {error}: JSON keeps the last alone; remove one of them") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not valid JSON: it is not UTF-8; save it again in UTF-8") from None
    except (ValueError, RecursionError) as error:
        reason = "the file is empty" if not content.strip() else error
        raise UserError(
            f"{path} is not valid JSON, or is truncated ({reason}): write or download it again"
        ) from None


class _RepeatedKeyError(Exception):
    """An object of JSON that holds a key twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        repeated = next(key for key, count in counts.items() if count > 1)
        where = f" of id {values['id']!r}" if "id" in values else ""
        raise _RepeatedKeyError(f"the key {repeated!a} twice in one object{where}")
    return values


def load_annotations(path: str | Path) -> dict[str, Any]:
    """The raw content of a COCO annotation file: lists "images", "annotations" and "categories".

    Only this outer form is checked here; ``read_coco`` reads what the lists hold.

    Raises:
        UserError: as ``read_json``, or the outer form is another.
    """
    return check_layout(read_json(path), str(path))


def check_layout(annotations: Any, source: str, *, labelled: bool = True) -> dict[str, Any]:
    """``annotations``, if it has the outer form of COCO's.

    Args:
        annotations: content of a JSON file.
        source: what errors call it.
        labelled: whether it must have "annotations", which the files of test sets lack.

    Raises:
        UserError: it has another form.
    """
    if not isinstance(annotations, dict):
        kind = type(annotations).__name__
        raise UserError(
            f"{source} holds a JSON {kind}, expected COCO annotations (an object): is it a results file?"
        )
    for key in _LISTS:
        if key == "annotations" and key not in annotations and not labelled:
            continue
        entries = annotations.get(key)
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            problem = (
                f"has no '{key}'" if key not in annotations else f"has '{key}' that is no list of objects"
            )
            raise UserError(f"{source} {problem}: COCO annotations need images, annotations and categories")
    return annotations
