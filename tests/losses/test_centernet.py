from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from hardnet_suite.losses.centernet import LOSS_WEIGHTS, centernet_loss
from hardnet_suite.networks.centernet import targets

BOXES = torch.tensor([[1.0, 1.0, 8.0, 9.0], [2.0, 3.0, 11.0, 6.0], [9.0, 7.0, 10.0, 9.5]])
CLASSES = torch.tensor([0, 2, 1])
SIZE = (10, 12)


def made_targets(*counts: int) -> dict[str, Tensor]:
    """A batch: the first ``count`` boxes in each image."""
    images = [targets(BOXES[:count], CLASSES[:count], 3, SIZE) for count in counts]
    return {part: torch.stack([image[part] for image in images]) for part in images[0]}


def random_outputs(n: int, scale: float = 3.0, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(n)
    channels = {"hm": 3, "wh": 2, "reg": 2}
    return {
        part: (torch.randn(n, c, *SIZE, generator=generator) * scale).to(dtype)
        for part, c in channels.items()
    }


def perfect_outputs(target: dict[str, Tensor]) -> dict[str, Tensor]:
    hm = torch.where(target["hm"] == 1, 20.0, -20.0)
    return {"hm": hm, "wh": target["wh"].clone(), "reg": target["off"].clone()}


def test_losses_are_the_references(golden):
    arrays = {
        key.removeprefix("ctt_"): torch.from_numpy(value)
        for key, value in golden.arrays("functions.npz").items()
        if key.startswith("ctt_")
    }
    target = targets(arrays["boxes"], arrays["classes"], 5, (40, 48))
    losses = centernet_loss(
        {part: arrays[f"out_{part}"] for part in ("hm", "wh", "reg")},
        {part: value[None] for part, value in target.items()},
    )
    assert losses.keys() == LOSS_WEIGHTS.keys()
    for part, loss in losses.items():
        assert_close(loss, arrays[f"{part}_loss"], rtol=1e-6, atol=0)


def test_perfect_outputs_cost_next_to_nothing():
    target = made_targets(3)
    losses = centernet_loss(perfect_outputs(target), target)
    assert losses["wh"] == losses["off"] == 0
    assert 0 <= losses["hm"] < 1e-5


def test_losses_of_one_cell_by_hand():
    """A map of one cell and two classes; each factor of the focal loss, and the clamp, by its value."""
    target = {
        "hm": torch.tensor([[[[1.0]], [[0.5]]]]),
        "wh": torch.tensor([[[[3.0]], [[5.0]]]]),
        "off": torch.tensor([[[[0.25]], [[0.5]]]]),
        "weight": torch.full((1, 2, 1, 1), 0.5),
    }
    hm = torch.tensor([0.8, 0.3]).logit().view(1, 2, 1, 1)
    outputs = {"hm": hm, "wh": torch.full((1, 2, 1, 1), 2.0), "reg": torch.full((1, 2, 1, 1), 0.5)}
    losses = centernet_loss(outputs, target)
    focal = -(0.2**2 * math.log(0.8) + 0.5**4 * 0.3**2 * math.log(0.7))
    assert losses["hm"].item() == pytest.approx(focal, rel=1e-5)
    assert losses["wh"].item() == pytest.approx((1 + 3) * 0.5 / 1.0001, rel=1e-5)
    assert losses["off"].item() == pytest.approx(0.25 * 0.5 / 1.0001, rel=1e-5)

    outputs["hm"] = torch.tensor([-50.0, 50.0]).view(1, 2, 1, 1)
    worst = -math.log(1e-4) * (1 - 1e-4) ** 2 * (1 + 0.5**4)
    assert centernet_loss(outputs, target)["hm"].item() == pytest.approx(worst, rel=1e-3)


def test_the_sum_is_divided_by_the_number_of_centres():
    outputs, target = random_outputs(1), made_targets(1)
    twice = {part: torch.cat([value, value]) for part, value in outputs.items()}
    with_empty = made_targets(1, 0)  # the second image adds misses, and no centre to divide by
    empty_alone = centernet_loss(outputs, made_targets(0))["hm"]
    one = centernet_loss(outputs, target)["hm"]
    assert_close(centernet_loss(twice, made_targets(1, 1))["hm"], one)
    assert_close(centernet_loss(twice, with_empty)["hm"], one + empty_alone)


def test_a_batch_is_the_mean_of_its_images():
    """By the number of centres, and by the weights' sum (+ 1e-4, once)."""
    counts = (3, 1, 2)
    outputs, target = random_outputs(3), made_targets(*counts)
    singles, sums = [], []
    for i in range(3):
        part = {key: value[i : i + 1] for key, value in target.items()}
        singles.append(centernet_loss({key: value[i : i + 1] for key, value in outputs.items()}, part))
        sums.append(part["weight"].sum())
    losses = centernet_loss(outputs, target)
    centres = sum(loss["hm"] * count for loss, count in zip(singles, counts, strict=True))
    assert_close(losses["hm"], centres / sum(counts))
    for part in ("wh", "off"):
        total = sum(loss[part] * (weight + 1e-4) for loss, weight in zip(singles, sums, strict=True))
        assert_close(losses[part], total / (sum(sums) + 1e-4))


def test_images_without_boxes():
    losses = centernet_loss(random_outputs(2), made_targets(0, 0))
    assert losses["wh"] == losses["off"] == 0
    assert 0 < losses["hm"] < math.inf


@pytest.mark.parametrize("counts", [(0, 0), (3, 1)])
@pytest.mark.parametrize("scale", [0.0, 3.0, 1e4])
def test_gradients_are_finite_and_reach_every_output(counts, scale):
    outputs = {part: value.requires_grad_() for part, value in random_outputs(2, scale).items()}
    losses = centernet_loss(outputs, made_targets(*counts))
    sum(LOSS_WEIGHTS[part] * loss for part, loss in losses.items()).backward()
    assert all(value.grad.isfinite().all() for value in outputs.values())
    if scale == 3.0:
        assert outputs["hm"].grad.any()
        assert outputs["wh"].grad.any() == outputs["reg"].grad.any() == (sum(counts) > 0)


def test_a_step_downhill_lowers_every_loss():
    outputs = {part: value.requires_grad_() for part, value in random_outputs(1, 1.0).items()}
    before = centernet_loss(outputs, made_targets(3))
    sum(before.values()).backward()
    after = centernet_loss(
        {key: value - 0.01 * value.grad for key, value in outputs.items()}, made_targets(3)
    )
    assert all(after[part] < before[part] for part in before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_types(dtype):
    """Half precision is only the outputs' own: what follows is float32, which 1 - 1e-4 needs."""
    outputs = random_outputs(2, 12.0, dtype)
    target = made_targets(3, 1)
    losses = centernet_loss(outputs, target)
    expected = centernet_loss({part: value.float() for part, value in outputs.items()}, target)
    for part, loss in losses.items():
        assert loss.dtype == (dtype if dtype == torch.float64 else torch.float32)
        # float32 holds 1 - 0.9999 to 1e-3 of it
        assert_close(loss, expected[part], check_dtype=False, rtol=1e-4, atol=0)


def test_float64_gradients_are_the_losses_slopes():
    target = {part: value.double() for part, value in made_targets(2).items()}
    outputs = random_outputs(1, 1.0, torch.float64)
    parts = tuple(outputs)

    def total(*values: Tensor) -> Tensor:
        return sum(centernet_loss(dict(zip(parts, values, strict=True)), target).values())

    inputs = tuple(outputs[part].requires_grad_() for part in parts)
    assert torch.autograd.gradcheck(total, inputs, fast_mode=True)


def test_other_shapes_and_missing_entries_are_refused():
    outputs, target = random_outputs(1), made_targets(1)
    with pytest.raises(
        ValueError, match=r"\(1, 1, 10, 12\) for outputs\['wh'\] and \(1, 2, 10, 12\) for targets\['wh'\]"
    ):
        centernet_loss(outputs | {"wh": outputs["wh"][:, :1]}, target)
    with pytest.raises(ValueError, match=r"\(2, 10, 12\) for targets\['weight'\]"):
        centernet_loss(outputs, target | {"weight": target["weight"][0]})
    one = {part: value[:1] for part, value in outputs.items()}
    batch = {part: torch.cat([value, value]) for part, value in outputs.items()}
    both = {part: torch.cat([value, value]) for part, value in target.items()}
    with pytest.raises(ValueError, match=r"hm and \(N, 2, h, w\) for reg, got .* and \(1, 2, 10, 12\)"):
        centernet_loss(batch | {"reg": one["reg"]}, both | {"off": target["off"][:1]})  # one offset for all
    with pytest.raises(ValueError, match=r"\(N, 2, h, w\) for wh"):
        centernet_loss(outputs | {"hm": outputs["hm"][0]}, target | {"hm": target["hm"][0]})
    with pytest.raises(ValueError, match="'off'"):
        centernet_loss(outputs, {part: value for part, value in target.items() if part != "off"})
    with pytest.raises(ValueError, match="'reg'"):
        centernet_loss({"hm": outputs["hm"], "wh": outputs["wh"]}, target)
