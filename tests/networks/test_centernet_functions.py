"""CenterNet's targets and decoding; the losses are in tests/losses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from hardnet_suite.networks.centernet import decode, gaussian_radius, targets

PARTS = ("hm", "wh", "off", "weight")
KEPT_BOX = [4.0, 5.0, 12.0, 9.0]  # centre (8, 7)


@pytest.fixture(scope="module")
def reference(golden) -> dict[str, Tensor]:
    arrays = golden.arrays("functions.npz")
    return {key: torch.from_numpy(value) for key, value in arrays.items() if key.startswith("ct")}


def random_boxes(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    ends = torch.tensor([width, height])
    first = torch.rand(count, 2, generator=generator) * (ends - 1)
    last = first + 0.1 + torch.rand(count, 2, generator=generator) * ends * 0.8
    return torch.cat([first, last.minimum(ends)], 1)


def radius_by_three_roots(width: float, height: float, overlap: float) -> int:
    width, height = math.ceil(width), math.ceil(height)
    coefficients = (
        (1, height + width, width * height * (1 - overlap) / (1 + overlap)),
        (4, 2 * (height + width), (1 - overlap) * width * height),
        (4 * overlap, -2 * overlap * (height + width), (overlap - 1) * width * height),
    )
    return int(min((b + math.sqrt(b**2 - 4 * a * c)) / 2 for a, b, c in coefficients))


def targets_one_by_one(boxes: Tensor, classes: Tensor, num_classes: int, size: tuple[int, int]):
    """The rules of `targets`, a box and a cell at a time."""
    height, width = size
    hm = np.zeros((num_classes, height, width), np.float32)
    wh, off = np.zeros((2, height, width), np.float32), np.zeros((2, height, width), np.float32)
    weight = np.zeros((2, height, width), np.float32)
    for (x1, y1, x2, y2), label in zip(boxes.numpy(), classes.tolist(), strict=True):
        radius = radius_by_three_roots(x2 - x1, y2 - y1, 0.7)
        centre = (x1 + x2) / 2, (y1 + y2) / 2
        column, row = int(centre[0]), int(centre[1])
        reach = np.arange(-radius, radius + 1)
        square = reach[:, None] ** 2 + reach[None] ** 2
        sigma = (2 * radius + 1) / 6
        peak, narrow = np.exp(-square / (2 * sigma**2)), np.exp(-square * 8 / sigma**2)
        narrow[narrow < np.finfo(float).eps] = 0
        share = (narrow / narrow.sum()).astype(np.float32)
        for y in range(max(0, row - radius), min(height, row + radius + 1)):
            for x in range(max(0, column - radius), min(width, column + radius + 1)):
                at = y - row + radius, x - column + radius
                hm[label, y, x] = max(hm[label, y, x], peak[at])
                if share[at] >= weight[0, y, x]:
                    weight[:, y, x] = share[at]
                    wh[:, y, x] = x2 - x1, y2 - y1
                    off[:, y, x] = centre[0] - x, centre[1] - y
    return {"hm": hm, "wh": wh, "off": off, "weight": weight}


# --- gaussian_radius


def test_radius_is_the_references(reference):
    boxes = reference["ctt_boxes"]
    radius = gaussian_radius(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    assert_close(radius, reference["ctt_radius"], rtol=0, atol=0)


@pytest.mark.parametrize("overlap", [0.01, 0.3, 0.7, 0.99])
def test_radius_is_the_least_of_three_roots(overlap):
    generator = torch.Generator().manual_seed(1)
    sizes = 10 ** (torch.rand(500, 2, generator=generator) * 4 - 1)  # 0.1 to 1000
    radius = gaussian_radius(sizes[:, 0], sizes[:, 1], overlap)
    assert radius.tolist() == [radius_by_three_roots(w, h, overlap) for w, h in sizes.tolist()]


def test_radius_refuses_other_overlaps():
    for overlap in (0.0, 1.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="min_overlap"):
            gaussian_radius(torch.ones(1), torch.ones(1), overlap)


# --- targets


def test_targets_are_the_references(reference):
    made = targets(reference["ctt_boxes"], reference["ctt_classes"], 5, (40, 48))
    assert made.keys() == set(PARTS)
    for part in PARTS:
        assert_close(made[part], reference[f"ctt_{part}"], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("height", "width", "count"), [(20, 33, 60), (1, 1, 5), (40, 3, 20), (96, 96, 15)])
def test_targets_of_overlapping_boxes_are_those_drawn_one_by_one(height, width, count):
    """The reference data has no two windows that overlap."""
    boxes = random_boxes(count, height, width, seed=count)
    classes = torch.arange(count) % 3
    made = targets(boxes, classes, 4, (height, width))
    for part, expected in targets_one_by_one(boxes, classes, 4, (height, width)).items():
        assert_close(made[part].numpy(), expected, rtol=1e-6, atol=1e-7)
    assert not made["hm"][3].any()


@pytest.mark.parametrize("box", [[-20, -9, 24, 15], [1, -30, 15, 50], [10, 15, 50, 40], [-60, 29, 90, 30]])
def test_windows_end_at_the_border_of_the_map(box):
    """The window of a box that the caller did not clip, or of a long one, reaches beyond the map."""
    boxes, classes = torch.tensor([box]).float(), torch.tensor([1])
    made = targets(boxes, classes, 3, (30, 32))
    for part, expected in targets_one_by_one(boxes, classes, 3, (30, 32)).items():
        assert_close(made[part].numpy(), expected, rtol=1e-6, atol=1e-7)


def test_no_boxes_make_zeros():
    made = targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), 3, (5, 7))
    assert {part: tuple(value.shape) for part, value in made.items()} == {
        "hm": (3, 5, 7),
        "wh": (2, 5, 7),
        "off": (2, 5, 7),
        "weight": (2, 5, 7),
    }
    assert not any(value.any() for value in made.values())


@pytest.mark.parametrize("classes", [(1, 1), (0, 2)])
def test_two_centres_in_one_cell(classes):
    """The smaller box, whose weight is the larger; the later box where the weights are equal."""
    large, small = [0.0, 0.0, 20.0, 20.0], [9.0, 9.5, 12.0, 11.5]  # centres (10, 10) and (10.5, 10.5)
    for boxes in ([large, small], [small, large]):
        made = targets(torch.tensor(boxes), torch.tensor(classes), 3, (20, 20))
        assert (made["hm"] == 1).sum() == len(set(classes))
        assert made["wh"][:, 10, 10].tolist() == [3, 2]
        assert made["off"][:, 10, 10].tolist() == [0.5, 0.5]
    twin = [9.25, 9.5, 12.25, 11.5]
    made = targets(torch.tensor([twin, small]), torch.tensor(classes), 3, (20, 20))
    assert made["off"][:, 10, 10].tolist() == [0.5, 0.5]
    made = targets(torch.tensor([small, twin]), torch.tensor(classes), 3, (20, 20))
    assert made["off"][:, 10, 10].tolist() == [0.75, 0.5]


@pytest.mark.parametrize(
    "left_out",
    [
        [5.0, 5.0, 5.0, 9.0],  # no width
        [5.0, 9.0, 9.0, 9.0],  # no height
        [9.0, 5.0, 5.0, 9.0],  # corners exchanged
        [12.0, 2.0, 20.0, 4.0],  # centre on the right border, the first column outside
        [2.0, 14.0, 4.0, 30.0],  # below
        [-9.0, 2.0, 1.0, 4.0],
        [2.0, -3.0, 4.0, 2.0],  # above by half a cell
    ],
)
def test_boxes_without_area_or_with_their_centre_outside_are_left_out(left_out):
    made = targets(torch.tensor([left_out, KEPT_BOX]), torch.tensor([0, 1]), 2, (12, 16))
    alone = targets(torch.tensor([KEPT_BOX]), torch.tensor([1]), 2, (12, 16))
    for part in PARTS:
        assert_close(made[part], alone[part], rtol=0, atol=0)


def test_centres_in_the_corner_cells():
    boxes = torch.tensor([[0, 0, 0.5, 0.5], [15, 11, 16, 12]])
    made = targets(boxes, torch.tensor([0, 1]), 2, (12, 16))
    assert made["hm"][0, 0, 0] == made["hm"][1, 11, 15] == 1
    assert made["wh"][:, 0, 0].tolist() == [0.5, 0.5]
    assert made["off"][:, 11, 15].tolist() == [0.5, 0.5]


def test_weights_of_a_whole_window_add_up_to_1():
    for side in (1.0, 8.0, 30.0, 100.0):
        box = torch.tensor([[64 - side / 2, 64 - side / 2, 64 + side / 2, 64 + side / 2]])
        weight = targets(box, torch.tensor([0]), 1, (128, 128))["weight"]
        assert_close(weight.sum((1, 2)), torch.ones(2))
        assert_close(weight[0], weight[1], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("given", "returned"), [(torch.float64, torch.float64), (torch.float16, torch.float32)]
)
def test_targets_types(given, returned):
    boxes, classes = torch.tensor([KEPT_BOX, [1.0, 1.0, 4.0, 3.0]]), torch.tensor([1, 0])
    expected = targets(boxes, classes, 2, (12, 16))
    made = targets(boxes.to(given), classes.int(), 2, (12, 16))
    for part in PARTS:
        assert made[part].dtype == returned
        assert_close(made[part], expected[part], check_dtype=False)


@pytest.mark.parametrize(
    ("boxes", "classes", "num_classes", "size", "message"),
    [
        (torch.ones(2, 5), torch.zeros(2).long(), 1, (4, 4), r"boxes .*\(2, 5\)"),
        (torch.ones(4), torch.zeros(1).long(), 1, (4, 4), r"boxes .*\(4,\)"),
        (torch.ones(2, 4).long(), torch.zeros(2).long(), 1, (4, 4), "boxes .*int64"),
        (torch.ones(2, 4), torch.zeros(3).long(), 1, (4, 4), r"classes .*\(3,\)"),
        (torch.ones(2, 4), torch.zeros(2), 1, (4, 4), "classes .*float32"),
        (torch.ones(2, 4), torch.tensor([0, 3]), 3, (4, 4), r"\[0, 3\), got 3"),
        (torch.ones(2, 4), torch.tensor([-1, 0]), 3, (4, 4), r"\[0, 3\), got -1"),
        (torch.ones(2, 4), torch.zeros(2).long(), 0, (4, 4), "num_classes=0"),
        (torch.ones(2, 4), torch.zeros(2).long(), 1, (0, 4), r"size=\(0, 4\)"),
        (torch.tensor([[0, 0, math.nan, 1]]), torch.zeros(1).long(), 1, (4, 4), "finite, got .*nan"),
        (torch.tensor([[0, 0, math.inf, 1]]), torch.zeros(1).long(), 1, (4, 4), "finite, got .*inf"),
    ],
)
def test_targets_refuse_what_they_cannot_draw(boxes, classes, num_classes, size, message):
    with pytest.raises(ValueError, match=message):
        targets(boxes, classes, num_classes, size)


# --- decode


def test_detections_are_the_references(reference):
    made = decode(reference["ct_hm"], reference["ct_wh"], reference["ct_reg"])
    assert_close(made, reference["ct_dets"], rtol=1e-6, atol=1e-6)


def test_a_known_detection():
    hm, wh, reg = torch.zeros(1, 3, 8, 10), torch.zeros(1, 2, 8, 10), torch.zeros(1, 2, 8, 10)
    hm[0, 2, 3, 6], hm[0, 2, 4, 7] = 0.9, 0.8  # the second lies beside the first: no detection
    hm[0, 1, 4, 7] = 0.7  # but it is one of another class
    wh[0, :, 3, 6], reg[0, :, 3, 6] = torch.tensor([4.0, 2.0]), torch.tensor([0.25, 0.5])
    found = decode(hm, wh, reg, k=3)[0]
    assert_close(found[0], torch.tensor([4.25, 2.5, 8.25, 4.5, 0.9, 2]))
    assert_close(found[1], torch.tensor([7, 4, 7, 4, 0.7, 1]))
    assert found[2, 4] == 0


def test_targets_come_back_decoded():
    height, width = 64, 80
    corners = torch.cartesian_prod(torch.arange(5) * 16.0, torch.arange(4) * 16.0)
    generator = torch.Generator().manual_seed(3)
    first = corners + torch.rand(20, 2, generator=generator) * 5
    boxes = torch.cat([first, first + 2 + torch.rand(20, 2, generator=generator) * 9], 1)
    classes = torch.arange(20) % 3
    made = targets(boxes, classes, 3, (height, width))
    found = decode(made["hm"][None], made["wh"][None], made["off"][None], k=20)[0]
    assert (found[:, 4] == 1).all()
    expected = torch.cat([boxes, torch.ones(20, 1), classes[:, None]], 1)
    for rows in (found, expected):  # equal scores: in any order
        rows[:] = rows[rows[:, 0].argsort()]
    assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_batch_decodes_as_its_images_do_and_every_time_alike():
    generator = torch.Generator().manual_seed(4)
    maps = [torch.rand(3, channels, 9, 11, generator=generator) for channels in (4, 2, 2)]
    maps[0] = (maps[0] * 4).round() / 4  # many equal scores
    found = decode(*maps, k=30)
    singles = [decode(*(part[i : i + 1] for part in maps), k=30) for i in range(3)]
    assert_close(found, torch.cat(singles), rtol=0, atol=0)
    assert_close(found, decode(*maps, k=30), rtol=0, atol=0)
    assert (found[..., 4].diff() <= 0).all()


def test_fewer_cells_than_k():
    assert decode(torch.ones(2, 3, 1, 1), torch.ones(2, 2, 1, 1), torch.zeros(2, 2, 1, 1)).shape == (2, 3, 6)
    assert decode(torch.ones(0, 3, 4, 4), torch.ones(0, 2, 4, 4), torch.ones(0, 2, 4, 4)).shape == (0, 48, 6)


@pytest.mark.parametrize(
    ("given", "returned"),
    [(torch.bfloat16, torch.float32), (torch.float16, torch.float32), (torch.float64, torch.float64)],
)
def test_decode_types(given, returned):
    shape = (1, 2, 2, 1400)
    hm = torch.zeros(1, 1, 2, 1400, dtype=given)
    hm[0, 0, 1, 1301] = 0.5
    found = decode(hm, torch.full(shape, 2, dtype=given), torch.full(shape, 0.25, dtype=given), k=1)
    assert found.dtype == returned
    # neither half type has 1300.25
    assert found[0, 0].tolist() == [1300.25, 0.25, 1302.25, 2.25, 0.5, 0]


def test_decode_exports(reference):
    class Decode(torch.nn.Module):
        def forward(self, hm: Tensor, wh: Tensor, reg: Tensor) -> Tensor:
            return decode(hm, wh, reg, k=20)

    maps = [reference[f"ct_{part}"] for part in ("hm", "wh", "reg")]
    shifted = [part.roll(3, -1) for part in maps]  # other values than those it was recorded with
    exported = torch.export.export(Decode(), tuple(maps)).module()
    traced = torch.jit.trace(Decode(), tuple(maps))
    for program in (exported, traced):
        assert_close(program(*shifted), decode(*shifted, k=20), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("hm", "wh", "reg", "k", "message"),
    [
        ((3, 4, 4), (1, 2, 4, 4), (1, 2, 4, 4), 1, r"hm .*\(3, 4, 4\)"),
        ((1, 0, 4, 4), (1, 2, 4, 4), (1, 2, 4, 4), 1, r"hm .*\(1, 0, 4, 4\)"),
        ((1, 3, 4, 4), (1, 4, 4, 4), (1, 2, 4, 4), 1, r"wh .*\(1, 4, 4, 4\)"),
        ((1, 3, 4, 4), (1, 2, 4, 4), (1, 2, 4, 5), 1, r"reg .*\(1, 2, 4, 5\)"),
        ((1, 3, 4, 4), (1, 2, 4, 4), (1, 2, 4, 4), 0, "k must be at least 1, got 0"),
    ],
)
def test_decode_refuses_other_shapes(hm, wh, reg, k, message):
    with pytest.raises(ValueError, match=message):
        decode(torch.zeros(hm), torch.zeros(wh), torch.zeros(reg), k)
