import zipfile

import pytest
from deploy.exported import a_record

from hardnet_suite.deploy.formats.appended import append_record, appended_record
from hardnet_suite.deploy.record import ExportRecord


def test_a_record_comes_back_and_the_content_stays(tmp_path):
    path = tmp_path / "net.tflite"
    path.write_bytes(b"content" * 100)
    record = a_record(weights="é")
    append_record(path, record)
    assert ExportRecord.from_json(appended_record(path)) == record
    assert path.read_bytes().startswith(b"content" * 100)


@pytest.mark.parametrize("content", [b"", b"PK", b"PK\5\6" + b"\0" * 18, b"TFL3" * 50])
def test_files_without_a_record(content, tmp_path):
    path = tmp_path / "net.tflite"
    path.write_bytes(content)
    assert appended_record(path) is None


def test_other_archives_and_what_is_missing(tmp_path):
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("archive/extra/hardnet_suite.json", "{}")  # as PyTorch has it
    assert appended_record(tmp_path / "other.zip") is None
    assert appended_record(tmp_path / "missing.zip") is None
    assert appended_record(tmp_path) is None


def test_a_damaged_record(tmp_path):
    path = tmp_path / "net.pte"
    path.write_bytes(b"content")
    append_record(path, a_record(weights="x" * 100))
    content = bytearray(path.read_bytes())
    content[content.index(b"xxx")] ^= 1  # the check sum tells
    path.write_bytes(content)
    assert appended_record(path) is None
