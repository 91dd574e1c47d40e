from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hardnet_suite.networks import ARCHS, HarDBlock, harmonic_links, layer_width

LINKS = {  # HarDNet, section 3, by hand
    1: [0],
    2: [1, 0],
    3: [2],
    4: [3, 2, 0],
    5: [4],
    6: [5, 4],
    7: [6],
    8: [7, 6, 4, 0],
    9: [8],
    10: [9, 8],
    11: [10],
    12: [11, 10, 8],
    13: [12],
    14: [13, 12],
    15: [14],
    16: [15, 14, 12, 8, 0],
}


@pytest.mark.parametrize(("layer", "links"), LINKS.items())
def test_links_by_hand(layer, links):
    assert harmonic_links(layer) == links


@pytest.mark.parametrize("layer", [0, -4])
def test_layers_count_from_one(layer):
    with pytest.raises(ValueError, match=f"from 1, got {layer}"):
        harmonic_links(layer)


@pytest.mark.parametrize(
    ("layer", "growth", "growth_mul", "width"),
    [
        (1, 14, 1.7, 14),
        (2, 14, 1.7, 24),  # 23.8
        (4, 14, 1.7, 40),  # 40.46
        (8, 14, 1.7, 68),  # 68.782: plain rounding says 69
        (16, 14, 1.7, 116),  # 116.93: plain rounding says 117
        (4, 24, 1.7, 70),  # 69.36: int(70.36) / 2 · 2, where rounding down to even says 68
        (2, 16, 1.6, 26),  # 25.6
        (4, 16, 1.6, 40),  # 40.96
        (8, 16, 1.6, 66),  # 65.536
    ],
)
def test_widths_by_hand(layer, growth, growth_mul, width):
    assert layer_width(layer, growth, growth_mul) == width


@pytest.mark.parametrize(
    ("layer", "growth", "growth_mul", "multiple", "width"),
    [
        (1, 20, 1.7, 16, 16),
        (1, 24, 1.7, 16, 32),
        (4, 16, 2.0, 16, 64),
        (4, 14, 1.7, 8, 40),
        (1, 3, 1.7, 16, 16),
    ],
)
def test_widths_rounded_to_a_multiple(layer, growth, growth_mul, multiple, width):
    assert layer_width(layer, growth, growth_mul, multiple) == width


@given(layer=st.integers(1, 64), growth=st.integers(1, 400), growth_mul=st.floats(1, 2.2))
def test_the_official_rounding_is_to_even(layer, growth, growth_mul):
    width = float(growth)
    for _ in harmonic_links(layer)[1:]:
        width *= growth_mul
    assert layer_width(layer, growth, growth_mul) == max(int(int(width + 1) / 2) * 2, 2)


@pytest.mark.parametrize("name", ["hardnet39ds", "hardnet68ds", "hardnet68", "hardnet85"])
def test_widths_are_those_of_the_official_checkpoints(golden, name):
    blocks: dict[int, list[int]] = {}
    layer_weight = re.compile(r"base\.(\d+)\.layers\.\d+\.(?:conv|layer1\.conv)\.weight")
    for key, shape in golden.entries[name]["state_dict"]:
        if match := layer_weight.fullmatch(key):
            blocks.setdefault(int(match[1]), []).append(shape[0])
    arch = ARCHS[name]
    assert list(blocks.values()) == [
        [layer_width(k, stage.growth, arch.growth_mul) for k in range(1, stage.layers + 1)]
        for stage in arch.stages
    ]


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("layers", [1, 3, 4, 8])
def test_a_block_is_its_links_written_out(layers, depthwise):
    torch.manual_seed(0)
    block = HarDBlock(6, 4, 1.7, layers, depthwise=depthwise).double().eval()
    x = torch.randn(2, 6, 7, 5, dtype=torch.float64)
    with torch.inference_mode():
        maps = {0: x}
        for k in range(1, layers + 1):
            maps[k] = block.layers[k - 1](torch.cat([maps[i] for i in LINKS[k]], dim=1))
        kept = [maps[k] for k in maps if k % 2 or k == layers]
        out = block(x)
    assert out.shape == (2, block.out_channels, 7, 5)
    torch.testing.assert_close(out, torch.cat(kept, dim=1), rtol=0, atol=0)


def test_a_block_leaves_its_input_alone():
    block = HarDBlock(6, 4, 1.7, 4)
    x = torch.randn(2, 6, 8, 8)
    before = x.clone()
    block(x)
    torch.testing.assert_close(x, before, rtol=0, atol=0)
