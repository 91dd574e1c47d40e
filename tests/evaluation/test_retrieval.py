from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardnet_suite.errors import UserError
from hardnet_suite.evaluation.retrieval import (
    RetrievalQuery,
    average_precision,
    image_stem,
    read_ground_truth,
    read_ranked,
    retrieval_ap,
)

FILES = {
    "hall_1_query.txt": "oxc1_hall_000013 136.5 34.1 648.5 955.7\n",
    "hall_1_good.txt": "hall_000013\nhall_000026\n",
    "hall_1_ok.txt": "hall_000051\n",
    "hall_1_junk.txt": "hall_000006\n",
    "hall_1.txt": "x\n",
}


def compute_ap(ranked, positive, ignored) -> float:
    """Oxford's compute_ap.cpp, line by line."""
    old_recall, old_precision, ap = 0.0, 1.0, 0.0
    intersect_size = i = j = 0
    while i < len(ranked):
        if ranked[i] in ignored:
            i += 1
            continue
        if ranked[i] in positive:
            intersect_size += 1
        recall = intersect_size / len(positive)
        precision = intersect_size / (j + 1.0)
        ap += (recall - old_recall) * ((old_precision + precision) / 2.0)
        old_recall, old_precision = recall, precision
        j += 1
        i += 1
    return ap


@pytest.mark.parametrize(
    ("ranked", "positive", "ignored", "expected"),
    [
        ("ab", "ab", "", 1),
        ("xab", "ab", "", (0 + 1 / 2) / 2 / 2 + (1 / 2 + 2 / 3) / 2 / 2),
        ("axb", "ab", "", 1 / 2 + (1 / 2 + 2 / 3) / 2 / 2),
        ("jajb", "ab", "j", 1),  # junk takes no rank
        ("ajxb", "ab", "j", 1 / 2 + (1 / 2 + 2 / 3) / 2 / 2),
        ("a", "ab", "", 1 / 2),  # b is never found
        ("ba", "ab", "a", 1 / 2),  # junk, even where it is positive
        ("xyz", "a", "", 0),
        ("", "a", "", 0),
        ("xa", "a", "", (0 + 1 / 2) / 2),
    ],
)
def test_average_precision_of_hand_made_rankings(ranked, positive, ignored, expected):
    # junk may be several images
    ranked = [f"{name}{index}" if name == "j" else name for index, name in enumerate(ranked)]
    ignored = [*ignored, *(name for name in ranked if name[0] == "j")]
    assert average_precision(ranked, [*positive], ignored) == pytest.approx(expected, abs=1e-12)


@given(
    st.permutations(range(9)),
    st.integers(0, 9),
    st.sets(st.integers(0, 9), min_size=1),
    st.sets(st.integers(0, 9)),
)
def test_average_precision_equals_the_original_program(ranked, shown, positive, ignored):
    ranked, positive, ignored = (
        list(map(str, ranked[:shown])),
        set(map(str, positive)),
        set(map(str, ignored)),
    )
    assert average_precision(ranked, positive, ignored) == compute_ap(ranked, positive, ignored)


def test_average_precision_refuses_what_has_no_answer():
    with pytest.raises(ValueError, match="at least one positive"):
        average_precision(["a"], [])
    with pytest.raises(ValueError, match="ranked twice"):
        average_precision(["a", "b", "a"], ["a"])


def write(folder, **changes):
    folder.mkdir(exist_ok=True)
    for name, text in (FILES | changes).items():
        if text is not None:
            (folder / name).write_text(text)
    return folder


def test_oxford_files(tmp_path):
    queries = read_ground_truth(write(tmp_path / "gt"))
    assert queries == {
        "hall_1": RetrievalQuery(
            "hall_000013",
            (136.5, 34.1, 648.5, 955.7),
            frozenset({"hall_000013", "hall_000026"}),
            frozenset({"hall_000051"}),
            frozenset({"hall_000006"}),
        )
    }
    (tmp_path / "hall_1.txt").write_text(
        "hall_000013.jpg\nimages/hall_000006.jpg\nhall_000026\n\nv1.2\nhall_000051\n"
    )
    ranked = read_ranked(tmp_path, queries)
    assert ranked["hall_1"] == ["hall_000013", "hall_000006", "hall_000026", "v1.2", "hall_000051"]
    assert retrieval_ap(ranked, queries) == {"hall_1": pytest.approx(2 / 3 + (2 / 3 + 3 / 4) / 2 / 3)}
    with pytest.raises(UserError, match="no ranking of the query hall_1"):
        retrieval_ap({}, queries)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a/b.JPG", "b"), ("b", "b"), ("v1.2", "v1.2"), ("v1.2.png", "v1.2"), (" b.jpg\n", "b")],
)
def test_image_stem(name, expected):
    assert image_stem(name) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hall_1_query.txt": None}, "no queries"),
        ({"hall_1_ok.txt": None}, "hall_1_ok.txt does not exist"),
        ({"hall_1_query.txt": "hall 1 2 3"}, "expected an image and its region"),
        ({"hall_1_query.txt": ""}, "expected an image and its region"),
        ({"hall_1_query.txt": "hall 1 2 3 x"}, "expected an image and its region"),
        ({"hall_1_query.txt": "hall 5 2 3 4"}, "left < right"),
        ({"hall_1_query.txt": "hall 1 2 nan 4"}, "left < right"),
    ],
)
def test_malformed_ground_truth(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        read_ground_truth(write(tmp_path / "gt", **changes))


def test_malformed_rankings(tmp_path):
    with pytest.raises(UserError, match=r"hall_1\.txt does not exist"):
        read_ranked(tmp_path, ["hall_1"])
    (tmp_path / "hall_1.txt").write_text("a/x.jpg\nb/x.jpg\n")
    with pytest.raises(UserError, match="ranks x twice"):
        read_ranked(tmp_path, ["hall_1"])
    (tmp_path / "hall_1.txt").write_bytes(b"\xff\xfe\x00x")
    with pytest.raises(UserError, match="cannot be read as text"):
        read_ranked(tmp_path, ["hall_1"])
