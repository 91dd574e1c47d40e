from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hardnet_suite.data.hpatches import LEVELS, STRIPS
from hardnet_suite.data.hpatches_tasks import official_splits
from hardnet_suite.errors import UserError
from hardnet_suite.evaluation import hpatches as module
from hardnet_suite.evaluation.hpatches import hpatches, hpatches_table, match_strips, strip_matching_ap

MINI = "golden/hpatches_mini"


def flat(results: dict, prefix: str = "") -> dict[str, float]:
    entries = {}
    for key, value in results.items():
        entries |= flat(value, f"{prefix}{key}/") if isinstance(value, dict) else {prefix + key: value}
    return entries


@pytest.fixture(scope="session")
def mini(shared):
    """The benchmark's answers to a small data set, and what they are for."""
    with np.load(shared / MINI / "descriptors.npz") as archive:
        descriptors: dict = {}
        for key in archive.files:
            _, sequence, strip = key.split("/")
            descriptors.setdefault(sequence, {})[strip] = archive[key]
    return descriptors, shared / MINI, json.loads((shared / MINI / "expected.json").read_text())


def test_the_benchmark_answers_the_same(mini):
    descriptors, folder, expected = mini
    results = hpatches(descriptors, folder, "mini")
    assert list(flat(results)) == list(flat(expected))
    assert flat(results) == pytest.approx(flat(expected), abs=1e-12)
    results = hpatches(descriptors, str(folder), "MINI", tasks=["retrieval"])
    assert flat(results) == pytest.approx(flat({"retrieval": expected["retrieval"]}), abs=1e-12)


def test_the_splits_are_the_official_ones(shared):
    table = json.loads((shared / MINI / "official_splits.json").read_text())
    assert {name: list(sequences) for name, sequences in official_splits().items()} == {
        name: entry["test"] for name, entry in table.items()
    }


def benchmark_ap(distances, labels, positives=None) -> float:
    """Precision and recall at each item of a stable order, integrated by trapezia."""
    order = np.argsort(distances, kind="stable")
    right, wrong = (np.cumsum([0, *(labels[order] == value)]) for value in (1, 0))
    recall = right / (labels.sum() if positives is None else positives)
    precision = np.maximum(right, 1e-10) / np.maximum(right + wrong, 1e-10)
    return np.trapezoid(precision, recall)


def benchmark_auc(distances, labels) -> float:
    order = np.argsort(distances, kind="stable")
    right, wrong = (np.cumsum([0, *(labels[order] == value)]) / (labels == value).sum() for value in (1, 0))
    return np.trapezoid(right, wrong)


def all_distances(first, second) -> np.ndarray:
    return np.linalg.norm(first[:, None].astype(float) - second[None], axis=-1)


@given(
    st.integers(1, 12).flatmap(
        lambda n: st.tuples(*[arrays(np.float32, (n, 2), elements=st.integers(-2, 2).map(float))] * 2)
    )
)
def test_matching_with_ties_is_that_of_the_benchmark(strips):
    distances = all_distances(*strips)
    nearest = distances.argmin(1)
    labels = nearest == np.arange(len(nearest))
    expected = benchmark_ap(distances.min(1), labels, len(labels)) if labels.any() else 0
    assert match_strips(*strips) == pytest.approx((expected, labels.mean()), abs=1e-9)


@pytest.mark.parametrize(
    ("other", "ap", "rate"),
    [
        ([0, 10, 20, 30], 1, 1),
        ([0, 10, 20, 24], 1, 1),
        ([20, 0, 10, 33], (0 + 1 / 4) / 2 / 4, 1 / 4),  # three wrong matches are nearer than the right one
        ([7, 7, 7, 7], (0 + 1 / 2) / 2 / 4, 1 / 4),  # of equal neighbours the first is taken
        ([30, 20, 10, 0], 0, 0),
    ],
)
def test_small_strips(other, ap, rate):
    ref, other = (np.array(values, np.uint8)[:, None] for values in ([0, 10, 20, 30], other))
    assert match_strips(ref, other) == pytest.approx((ap, rate), abs=1e-9)
    assert strip_matching_ap(ref, other) == match_strips(ref, other).ap


@pytest.mark.parametrize(
    ("ref", "other", "message"),
    [
        (np.zeros((2, 3)), np.zeros((3, 3)), r"got \(2, 3\) and \(3, 3\)"),
        (np.zeros((2, 3)), np.zeros((2, 4)), "one shape"),
        (np.zeros(3), np.zeros(3), "one shape"),
        (np.zeros((0, 3)), np.zeros((0, 3)), "one shape"),
        (np.full((2, 3), np.nan), np.zeros((2, 3)), "NaN"),
    ],
)
def test_strips_that_cannot_be_matched(ref, other, message):
    with pytest.raises(ValueError, match=message):
        match_strips(ref, other)


SIZES = {"i_one": 9, "v_two": 14, "v_three": 1}


class Small:
    """Integer descriptors of three sequences, so that many distances are equal, and task files."""

    def __init__(self, folder, seed: int = 0, pairs: int = 40, length: int = 2):
        self.folder = folder
        self.random = np.random.default_rng(seed)
        self.descriptors = {
            name: {strip: self.random.integers(-3, 4, (count, length)).astype(np.float32) for strip in STRIPS}
            for name, count in SIZES.items()
        }
        self.pairs = {
            kind: [self.pair(kind) for _ in range(pairs)] for kind in ("pos", "neg_intra", "neg_inter")
        }
        self.queries = [self.patch() for _ in range(15)]
        self.distractors = [self.patch() for _ in range(120)]
        self.write()

    def patch(self) -> tuple[str, int]:
        name = str(self.random.choice(list(SIZES)))
        return name, int(self.random.integers(SIZES[name]))

    def pair(self, kind: str) -> tuple:
        name, index = self.patch()
        other = self.patch() if kind == "neg_inter" else (name, int(self.random.integers(SIZES[name])))
        image, other_image = (int(each) for each in self.random.integers(0, 6, 2))
        return name, image, index, other[0], other_image, index if kind == "pos" else other[1]

    def write(self) -> None:
        tables = {f"verif_{kind}": ("s1,t1,idx1,s2,t2,idx2", rows) for kind, rows in self.pairs.items()}
        tables |= {"retr_queries": ("s,idx", self.queries), "retr_distractors": ("s,idx", self.distractors)}
        for name, (header, rows) in tables.items():
            lines = [header, *(",".join(map(str, row)) for row in rows)]
            (self.folder / f"{name}_split-small.csv").write_text("\n".join(lines) + "\n")

    def descriptor(self, level: str, name: str, image: int, index: int) -> np.ndarray:
        return self.descriptors[name][f"{level}{image}" if image else "ref"][index]

    def distances(self, level: str, kind: str) -> np.ndarray:
        return np.array(
            [
                np.linalg.norm(self.descriptor(level, *pair[:3]) - self.descriptor(level, *pair[3:]))
                for pair in self.pairs[kind]
            ]
        )

    def score(self, **options) -> dict:
        return hpatches(self.descriptors, self.folder, "small", **options)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("block", [3, 1 << 16])
def test_verification_with_ties_is_that_of_the_benchmark(tmp_path, monkeypatch, seed, block):
    monkeypatch.setattr(module, "_PAIRS", block)
    monkeypatch.setattr("hardnet_suite.data.hpatches_tasks._BLOCK", block)
    small = Small(tmp_path, seed)
    results = small.score(tasks=["verification"])["verification"]
    for level in LEVELS:
        positive = small.distances(level, "pos")
        for kind in ("intra", "inter"):
            distances = np.append(small.distances(level, f"neg_{kind}"), positive)
            labels = np.repeat([0, 1], len(positive))
            count = len(positive) + len(positive) // 5
            assert results[level][kind] == pytest.approx(
                {
                    "balanced_auc": benchmark_auc(distances, labels),
                    "imbalanced_ap": benchmark_ap(distances[:count], labels[:count]),
                },
                abs=1e-9,
            )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rows", [2, 256])
def test_retrieval_with_ties_is_that_of_the_benchmark(tmp_path, monkeypatch, seed, rows):
    monkeypatch.setattr(module, "_POOLS", (6, 20, 50, 200, 500))
    monkeypatch.setattr(module, "_QUERIES", rows)
    small = Small(tmp_path, seed)
    results = small.score(tasks=["retrieval"])["retrieval"]
    for level in LEVELS:
        assert list(results[level]) == ["6", "20", "50", "200"]  # 500 would be the same as 200
        for pool in (6, 20, 50, 200):
            scores = []
            for name, index in small.queries:
                right = [small.descriptor(level, name, image, index) for image in range(1, 6)]
                wrong = [small.descriptor(level, s, 0, i) for s, i in small.distractors if s != name]
                ranked = np.array([*right, *wrong][:pool])
                distances = np.linalg.norm(ranked - small.descriptor(level, name, 0, index), axis=1)
                scores.append(benchmark_ap(distances, np.arange(len(ranked)) < 5))
            assert results[level][str(pool)] == pytest.approx(np.mean(scores), abs=1e-9)


@pytest.mark.parametrize(
    ("dtype", "scale", "offset"),
    [(np.int64, 1, 2**40), (np.float64, 1, 2.0**45), (np.float64, 2.0**-30, 1.0), (np.float32, 1, 2.0**20)],
)
def test_a_common_offset_does_not_hide_the_distances(tmp_path, monkeypatch, dtype, scale, offset):
    """Distances, and which of them are equal, are the same: all these numbers are exact."""
    monkeypatch.setattr(module, "_POOLS", (6, 20, 50))
    small = Small(tmp_path)
    expected = small.score()
    for strips in small.descriptors.values():
        for strip, values in strips.items():
            strips[strip] = (values.astype(np.float64) * scale + offset).astype(dtype)
    found = small.score()
    assert flat(found) == pytest.approx(flat(expected), abs=1e-9)


@pytest.mark.parametrize(
    ("count", "pools"),
    [
        (1, ["100"]),
        (95, ["100"]),
        (96, ["100", "500"]),
        (97, ["100", "500"]),
        (100, ["100", "500"]),
        (300, ["100", "500"]),
        (495, ["100", "500"]),
        (496, ["100", "500", "1000"]),
    ],
)
@pytest.mark.parametrize("own", [0, 7])
def test_the_last_pool_is_the_first_with_room_for_all_distractors(tmp_path, count, pools, own):
    small = Small(tmp_path)
    small.queries = [("v_two", 3), ("v_two", 5)]
    small.distractors = [("v_two", 4)] * own + [("i_one", index % 9) for index in range(count)]
    small.write()
    results = small.score(tasks=["retrieval"])
    assert [*results["retrieval"]["e"]] == pools
    assert f"mAP of up to {int(pools[-1]):,}" in hpatches_table(results)


def test_a_pool_is_listed_if_it_differs_for_any_query(tmp_path):
    small = Small(tmp_path)
    small.queries = [("v_two", 3), ("i_one", 5)]
    small.distractors = [("v_two", 4)] * 3 + [("i_one", 2)] * 96
    small.write()
    assert [*small.score(tasks=["retrieval"])["retrieval"]["t"]] == ["100", "500"]


def test_a_table_beside_the_tasks_names_further_splits(tmp_path):
    small = Small(tmp_path)
    (tmp_path / "splits").mkdir()
    table = {"small": {"name": "small", "test": ["v_two"]}, "Half": {"test": ["i_one", "v_two"]}}
    (tmp_path / "splits" / "splits.json").write_text(json.dumps(table))
    for split, names in (("small", ["v_two"]), ("half", ["i_one", "v_two"])):
        results = hpatches(small.descriptors, tmp_path, split, tasks=["matching"])["matching"]
        scores = [
            match_strips(small.descriptors[name]["ref"], small.descriptors[name][f"h{image}"])
            for name in names
            for image in range(1, 6)
        ]
        assert results["h"] == pytest.approx(
            dict(zip(("ap", "success_rate"), np.mean(scores, 0), strict=True))
        )


def _without_sequence(small):
    del small.descriptors["v_two"]


def _without_strip(small):
    del small.descriptors["v_two"]["h3"]


def _with_more_strips(small):
    small.descriptors["v_two"] |= {f"{level}6": small.descriptors["v_two"]["e1"] for level in LEVELS}


def _with(strip, array):
    def change(small):
        small.descriptors["v_two"][strip] = array

    return change


def _row(kind, row):
    def change(small):
        table = small.pairs[kind] if kind in small.pairs else getattr(small, kind)
        table[3] = row
        small.write()

    return change


def _text(name, text):
    def change(small):
        (small.folder / f"{name}_split-small.csv").write_bytes(text.encode("latin-1"))

    return change


def _without_file(name):
    return lambda small: (small.folder / f"{name}_split-small.csv").unlink()


def _distractors_of(name):
    def change(small):
        small.queries = [("i_one", 0), (name, 0)]
        small.distractors = [(name, index) for index in range(9)]
        small.write()

    return change


def _fewer_pairs(small):
    del small.pairs["neg_inter"][5:]
    small.write()


def _few_pairs(small):
    for rows in small.pairs.values():
        del rows[4:]
    small.write()


NAN = np.zeros((14, 2), np.float32)
NAN[5, 1] = np.nan
INFINITE = np.where(np.isnan(NAN), -np.inf, NAN)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            _without_sequence,
            "verif_pos_split-small.csv has 3 sequences, the descriptors lack 1: v_two",
        ),
        (_without_strip, "sequence v_two lacks 1 of 16 strips: h3"),
        (_with_more_strips, "sequence v_two has 6 strips per level, expected 5"),
        (_with("e6", np.zeros((14, 2))), "sequence v_two lacks 2 of 19 strips: h6, t6"),
        (_with("h3", np.zeros((13, 2))), "v_two/h3: expected 14 as in ref, got 13"),
        (_with("ref", np.zeros((13, 2))), "v_two/e1: expected 13 as in ref, got 14"),
        (_with("t5", np.zeros((14, 3))), "v_two/t5: expected 2 numbers each, got 3"),
        (_with("t5", np.zeros(14)), r"v_two/t5: expected numbers of shape \(N, D\), got float64 \(14,\)"),
        (_with("ref", np.zeros((0, 2))), r"v_two/ref: expected numbers of shape \(N, D\)"),
        (_with("ref", np.float32(1)), r"v_two/ref: expected numbers of shape \(N, D\)"),
        (_with("t5", np.full((14, 2), "a")), "v_two/t5: expected numbers"),
        (_with("e2", NAN), "v_two/e2 hold NaN or infinity"),
        (_with("e2", INFINITE), "v_two/e2 hold NaN or infinity"),
        (_row("pos", ("v_two", 0, 14, "v_two", 1, 3)), "row 4: patch 14 of v_two does not exist"),
        (
            _row("queries", ("v_two", 14)),
            "queries_split-small.csv, row 4: patch 14 of v_two does not exist",
        ),
        (_row("distractors", ("v_four", 0)), "has 4 sequences, the descriptors lack 1: v_four"),
        (_row("neg_intra", ("v_two", 6, 0, "v_two", 1, 3)), "split-small.csv, line 5: expected s1,t1,idx1"),
        (
            _row("neg_inter", ("v_two", 1, -1, "v_two", 1, 3)),
            "line 5: .* got 'v_two,1,-1,v_two,1,3'",
        ),
        (_row("neg_inter", ("v_two", 1, "x", "v_two", 1, 3)), "line 5"),
        (_row("neg_inter", ("v_two", 1, 0)), "line 5: expected .* got 'v_two,1,0'"),
        (_row("queries", ("v_two", 10**30)), "line 5"),
        (_row("queries", ("v_two", 1, 1)), "line 5"),
        (_text("retr_queries", "idx,s\n1,v_two\n"), "expected the header s,idx, got 'idx,s'"),
        (_text("retr_queries", ""), "expected the header s,idx, got ''"),
        (_text("retr_queries", "s,idx\n"), "has no rows"),
        (_text("retr_queries", "s,idx\nv_two\xff,1\n"), "is not a CSV file in UTF-8"),
        (_without_file("retr_distractors"), "retr_distractors_split-small.csv does not exist"),
        (_without_file("verif_pos"), "verif_pos_split-small.csv does not exist"),
        (_distractors_of("v_two"), "split small has none for the queries of v_two"),
        (_fewer_pairs, r"differ in length: \[5, 40\]"),
        (_few_pairs, "needs 5 pairs of each kind, split small has 4"),
        (lambda small: (small.folder / "splits.json").write_text("[]"), 'splits.json: expected {"NAME"'),
        (
            lambda small: (small.folder / "splits.json").write_text('{"a": {"test": []}}'),
            "splits.json",
        ),
        (
            lambda small: (small.folder / "splits.json").write_text('{"a": {"test": [1]}}'),
            "splits.json",
        ),
        (lambda small: (small.folder / "splits.json").write_text("nonsense"), "splits.json"),
        (lambda small: shutil.rmtree(small.folder), "no such folder"),
        (lambda small: small.descriptors.clear(), "expected descriptors of HPatches sequences, got none"),
    ],
)
def test_bad_input_is_one_line(tmp_path, change, message):
    folder = tmp_path / "tasks"
    folder.mkdir()
    small = Small(folder)
    change(small)
    with pytest.raises(UserError, match=message) as error:
        small.score()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("split", "tasks", "message"),
    [
        (
            "fulll",
            ["matching"],
            "unknown HPatches split 'fulll': did you mean full\\? known: a, b, c, ",
        ),
        ("smal", ["matching"], "did you mean small\\?"),
        ("", ["matching"], "unknown HPatches split ''"),
        (
            "a",
            ["matching"],
            "split a has 40 sequences, the descriptors lack 40: i_ajuntament, i_re",
        ),
        ("small", ["matchin"], "unknown HPatches task 'matchin': did you mean matching\\?"),
    ],
)
def test_unknown_names(tmp_path, split, tasks, message):
    small = Small(tmp_path)
    with pytest.raises(UserError, match=message):
        hpatches(small.descriptors, tmp_path, split, tasks=tasks)


def test_other_tasks_need_their_files(tmp_path):
    copied = {name: {strip: np.zeros((1, 2)) for strip in STRIPS} for name in official_splits()["a"]}
    for folder, split in ((None, "a"), (tmp_path, None)):
        with pytest.raises(UserError, match="need the folder of the HPatches task files and a split"):
            hpatches(copied, folder, split)
    for split in ("a", None):
        assert hpatches(copied, None, split, tasks="matching")["matching"]["e"]["ap"] == 1


def test_the_table_is_in_percent(mini):
    descriptors, folder, _ = mini
    lines = hpatches_table(hpatches(descriptors, folder, "mini")).splitlines()
    assert lines[0].split() == ["percent", "easy", "hard", "tough", "mean"]
    assert lines[4].split() == [
        "verification",
        "AP,",
        "other",
        "sequences",
        "92.18",
        "71.07",
        "47.31",
        "70.19",
    ]
    assert lines[5].split() == ["matching", "mAP", "100.00", "75.64", "19.89", "65.18"]
    assert lines[7].split()[:6] == ["retrieval", "mAP", "of", "up", "to", "100"]
    assert lines[7].split()[6:] == ["100.00", "77.20", "11.01", "62.74"]
    assert len({len(line) for line in lines}) == 1


def test_matching_takes_any_number_of_strips(tmp_path):
    small = Small(tmp_path)
    before = small.score(tasks=["matching"])["matching"]["t"]["ap"]
    _with_more_strips(small)
    strips = small.descriptors["v_two"]
    added = match_strips(strips["ref"], strips["t6"]).ap
    assert small.score(tasks=["matching"])["matching"]["t"]["ap"] == pytest.approx((15 * before + added) / 16)
