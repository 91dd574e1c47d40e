"""Which run's folder a word stands for, in the place of a config."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hardnet_suite.config_names import OWN_CONFIGS, own_configs
from hardnet_suite.errors import UserError
from hardnet_suite.run_folders import (
    CHOSEN,
    DUMPED,
    config_path,
    find_run,
    folder_word,
    is_written,
    run_folder,
    work_dir_of,
)

CONFIG = "ssd320_hardnet39ds_bccd"
ALIKE = ["ssd320_hardnet39ds-BCCD", "SSD320-HarDNet39ds-BCCD", "ssd320hardnet39dsbccd"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(folder, *names, text=""):
    folder = Path(folder)
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (["mine-voc.py", "other.py", "last_checkpoint"], "mine-voc.py"),
        (["config.py"], "config.py"),
        (["a.py", "b.py"], None),
        ([], None),
    ],
)
@pytest.mark.parametrize("place", ["work_dirs/mine-voc", "runs/mine-voc", "mine-voc"])
def test_the_folder_and_the_name_of_a_run(here, place, files, found):
    folder = run(place, *files)
    words = {place, f"./{place}/", str(here / place)}
    for word in words | ({"mine-voc"} if place.startswith("work_dirs") else set()):
        if found is None:
            assert run_folder(word) is None
        else:
            assert config_path(word).samefile(folder / found)
        assert work_dir_of(word) is None  # no training has been there
    run_again = run_folder(place)
    assert run_again is None or run_folder(str(run_again)) == run_again


@pytest.mark.parametrize("name", [CONFIG, f"{CONFIG}.py", "mine.py", "nothing", "", "x" * 5000, "a\0b"])
def test_other_words(name):
    """A config of the suite is not that of its run, which may be older."""
    run(f"work_dirs/{CONFIG}", f"{CONFIG}.py", "epoch_1.pth", text=DUMPED)
    Path("mine.py").touch()
    Path("one.py").touch()
    assert run_folder(name) is None
    assert work_dir_of(name) is None
    if name.startswith(CONFIG):
        assert config_path(name) == OWN_CONFIGS / f"{CONFIG}.py"


@pytest.mark.parametrize("place", ["work_dirs", "."])
@pytest.mark.parametrize("name", ALIKE)
@pytest.mark.parametrize(
    ("text", "checkpoint"), [(DUMPED, ""), (CHOSEN, ""), ("", "epoch_1.pth"), ("", "best_a.pth")]
)
def test_a_runs_folder_comes_before_a_config_in_another_spelling(place, name, text, checkpoint):
    assert config_path(name) == OWN_CONFIGS / f"{CONFIG}.py"
    folder = run(f"{place}/{name}", f"{name}.py", *filter(None, [checkpoint]), text=text)
    assert find_run(name, own_configs()) == run_folder(name) == work_dir_of(name) == folder
    assert config_path(name) == folder / f"{name}.py"
    for other in {*ALIKE, CONFIG} - {name}:  # folders have one spelling
        assert config_path(other) == OWN_CONFIGS / f"{CONFIG}.py"


@pytest.mark.parametrize("name", ALIKE)
def test_a_folder_of_something_else_does_not(name):
    run(name, "setup.py", "weights.pth")
    assert run_folder(name) is None
    assert config_path(name) == OWN_CONFIGS / f"{CONFIG}.py"


@pytest.mark.parametrize("name", ["mine", ALIKE[0]])
@pytest.mark.parametrize(
    ("files", "told"),
    [(["b.py", "a.py"], "has the configs a.py, b.py: give the path of one"), ([], "has no config")],
)
def test_a_run_whose_config_is_not_clear(name, files, told):
    """It is not that of another run whose name is alike."""
    run(f"work_dirs/{name}", *files, "epoch_3.pth")
    with pytest.raises(UserError, match=rf"^the folder of a run work_dirs/{name} {told}$"):
        config_path(name)


def test_the_first_place_with_a_run():
    run("mine", "tool.py")
    folder = run("work_dirs/mine", "mine.py", text=DUMPED)
    assert run_folder("mine") == folder
    assert run_folder("./mine") == Path("mine")


def test_a_file_that_training_wrote_beside_checkpoints():
    folder = run("first", "mine.py", text=DUMPED)
    assert work_dir_of("first/mine.py") is None  # such as a copy to be edited
    (folder / "epoch_1.pth").touch()
    assert work_dir_of("first/mine.py") == folder
    Path("first/own.py").touch()
    os.mkfifo("first/pipe.py")
    assert work_dir_of("first/own.py") is None
    assert [is_written(folder / name) for name in ("mine.py", "own.py", "none.py", "pipe.py", ".")] == [
        True,
        *[False] * 4,
    ]


def test_the_word_for_a_folder():
    folder = run(CONFIG, "epoch_1.pth", "a.py")
    assert folder_word(folder, own_configs()) == f"./{CONFIG}"
    assert run_folder(f"./{CONFIG}") == folder
    assert folder_word("work_dirs/mine", own_configs()) == "work_dirs/mine"
