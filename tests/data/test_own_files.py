"""The list of files that a command or a conversion wrote."""

import json

import pytest

from hardnet_suite.data.own_files import LIST, FileList, is_listed, own_files, require_own
from hardnet_suite.errors import UserError

MARK = {"program": "test"}


def listing(folder):
    return FileList(folder, MARK, lambda content: content["program"] == "test")


def test_a_list_is_read_as_it_was_written(tmp_path):
    digests = {"b.txt": {"22", "11"}, "a/ü.txt": {"33"}}
    listing(tmp_path).write(digests)
    assert listing(tmp_path).read() == digests
    content = json.loads((tmp_path / LIST).read_text())
    assert content == {"program": "test", "files": {"a/ü.txt": "33", "b.txt": ["11", "22"]}}
    other = FileList(tmp_path, MARK, lambda content: content["program"] == "other")
    assert other.read() is None
    assert listing(tmp_path / "missing").read() is None


@pytest.mark.parametrize(
    "files",
    [
        [],
        "",
        ["ab"],
        [["a.txt", "11"]],
        5,
        None,
        {"a.txt": 5},
        {"a.txt": None},
        {"a.txt": ["11", 5]},
        {"a.txt": [None]},
        {"a.txt": {"11": 1}},
    ],
)
def test_a_damaged_list_is_nobodys(tmp_path, files):
    (tmp_path / LIST).write_text(json.dumps({**MARK, "files": files}))
    assert listing(tmp_path).read() is None
    (tmp_path / LIST).write_text(json.dumps({"program": "hardnet-suite test", "files": files}))
    with pytest.raises(UserError, match=LIST):
        require_own(tmp_path, "test", ["a.txt"])


@pytest.mark.parametrize("text", ["", "[]", "3", "{", '{"files": {}}', '{"program": ["test"], "files": {}}'])
def test_what_is_no_list_is_nobodys(tmp_path, text):
    (tmp_path / LIST).write_text(text)
    assert listing(tmp_path).read() is None


def test_a_file_is_known_by_its_content(tmp_path):
    with own_files(tmp_path, "test", ["a.txt"]) as places:
        places["a.txt"].write_text("1")
    require_own(tmp_path, "test", ["a.txt", "new.txt"])
    digests = json.loads((tmp_path / LIST).read_text())["files"]
    assert is_listed({name: [known] for name, known in digests.items()}, "a.txt")(tmp_path / "a.txt")
    assert not is_listed(None, "a.txt")(tmp_path / "a.txt")
    (tmp_path / "a.txt").write_text("2")
    with pytest.raises(UserError, match=r"a\.txt"):
        require_own(tmp_path, "test", ["a.txt"])
    with pytest.raises(UserError, match=LIST):
        require_own(tmp_path, "other", ["b.txt"])
