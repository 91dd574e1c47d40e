"""The record of an exported file as a ZIP archive behind its content, as TensorFlow Lite has its metadata."""

from __future__ import annotations

import zipfile
from pathlib import Path

from hardnet_suite.deploy.record import KEY, ExportRecord, sealed

_ENTRY = f"{KEY}.json"
_MOST = 1 << 24  # bytes of a record


def append_record(path: Path, record: ExportRecord) -> None:
    """Adds a record to a file; what reads the file by its own header does not see it."""
    text = sealed(record, path).to_json()
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(_ENTRY, text)


def appended_record(path: Path) -> str | None:
    """The record behind a file; None where there is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            entry = archive.getinfo(_ENTRY)
            return archive.read(entry).decode() if entry.file_size <= _MOST else None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, NotImplementedError, RuntimeError):
        return None
