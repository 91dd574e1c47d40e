from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from reference import assert_parity, formula_tensor
from torch import nn
from torch.nn import functional as F

from hardnet_suite.networks import (
    ARCHS,
    HarDNetTrunk,
    build_network,
    convolutional_io,
    count_parameters,
    feature_channels,
    multiply_adds,
)
from hardnet_suite.networks.arch import Stage
from hardnet_suite.networks.fchardnet import FCHarDNetDecoder, TransposedDecoder
from hardnet_suite.networks.hardnet import least_side
from hardnet_suite.weights import convert_official, identify
from hardnet_suite.weights.convert import in_target
from hardnet_suite.weights.layouts import FOREIGN, keys_of

NAME = "fchardnet70"


@pytest.fixture(scope="module")
def network():
    """Random weights and norm statistics, in eval mode; tests must not change it."""
    torch.manual_seed(0)
    network = build_network(NAME, num_classes=5)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network.eval()


def test_outputs_are_the_official_ones(golden):
    network = build_network(NAME).eval()
    network.load_state_dict(convert_official(NAME, golden.state_dict(NAME)), strict=True)
    with torch.inference_mode():
        out = network(golden.input(NAME))
    assert count_parameters(network) == golden.entries[NAME]["params"]
    assert_parity(out, golden.outputs(NAME)["out"])


def test_multiply_adds_are_the_official_ones():
    with torch.device("meta"):
        network = build_network(NAME)
    assert multiply_adds(network, (1, 3, 1024, 2048)) / 1e9 == pytest.approx(35.22, abs=0.006)


@pytest.mark.parametrize("size", [(64, 64), (65, 97), (360, 480), (127, 64), (1024, 2048)])
@pytest.mark.parametrize("classes", [1, 11, 19])
def test_odd_sizes_and_any_number_of_classes(size, classes):
    with torch.device("meta"):
        network = build_network(NAME, num_classes=classes).eval()
        images = torch.empty(2, 3, *size)
        assert network(images).shape == (2, classes, *size)
        quarter = (-(-size[0] // 4), -(-size[1] // 4))
        assert network.forward_head(images).shape == (2, classes, *quarter)


def test_the_output_is_the_head_enlarged(network):
    images = torch.randn(1, 3, 72, 101)
    with torch.inference_mode():
        head = network.forward_head(images)
        expected = F.interpolate(head, size=(72, 101), mode="bilinear", align_corners=True)
        assert torch.equal(network(images), expected)


def test_a_batch_is_its_images(network):
    images = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        together = network(images)
        for i in range(2):
            torch.testing.assert_close(together[i : i + 1], network(images[i : i + 1]), rtol=1e-4, atol=1e-4)


def test_every_parameter_learns():
    torch.manual_seed(0)
    network = build_network(NAME, num_classes=3)
    network(torch.randn(2, 3, 64, 128)).square().mean().backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (1, 3, 63, 64), (1, 1, 64, 64), (3, 64, 64)])
def test_other_inputs_are_refused(shape):
    with torch.device("meta"), pytest.raises(ValueError, match="input"):
        build_network(NAME)(torch.empty(shape))


def test_the_decoder_asks_for_its_maps():
    with pytest.raises(ValueError, match="5 entries"):
        FCHarDNetDecoder(ARCHS[NAME], [48, 78, 160])


@pytest.mark.parametrize("count", [3, 6])
def test_the_decoder_takes_one_map_per_stage(network, count):
    maps = [torch.zeros(1, 1, 4, 4)] * count
    with pytest.raises(ValueError, match=rf"expected \d maps, got {count}"):
        network.decoder(maps)


# ---------------------------------------------------------------- with a step to the stem's stride


@pytest.mark.parametrize("size", [(64, 64), (65, 97), (360, 480), (127, 66)])
def test_detail_ends_at_the_stems_stride(size):
    with torch.device("meta"):
        network = build_network("fchardnet70_detail", num_classes=11).eval()
        images = torch.empty(2, 3, *size)
        assert network(images).shape == (2, 11, *size)
        half = (-(-size[0] // 2), -(-size[1] // 2))
        assert network.forward_head(images).shape == (2, 11, *half)


def test_detail_is_the_decoder_without_it_and_one_step(network):
    """All other tensors are those of FC-HarDNet-70; the step is read plainly."""
    torch.manual_seed(1)
    detailed = build_network("fchardnet70_detail", num_classes=5).eval()
    ours = detailed.state_dict()
    plain = {key: value for key, value in network.state_dict().items() if not key.startswith("classifier.")}
    assert ours.keys() >= plain.keys()
    detailed.load_state_dict(ours | plain)
    images = torch.randn(1, 3, 65, 98)
    step, conv = detailed.decoder.blocks[-1], detailed.decoder.convs[-1]
    with torch.inference_mode():
        coarse = network.decoder(network.trunk(images))
        stem = network.trunk.stem(images)
        assert stem.shape[2:] == (33, 49)
        coarse = F.interpolate(coarse, size=(33, 49), mode="bilinear", align_corners=True)
        x = conv(torch.cat([coarse, stem], 1))
        first = step.layers[0](x)
        second = step.layers[1](torch.cat([first, x], 1))  # layer 2 is linked to 1 and to the input
        expected = detailed.classifier(torch.cat([first, second], 1))
        torch.testing.assert_close(detailed.forward_head(images), expected)


def test_every_parameter_learns_with_detail():
    torch.manual_seed(0)
    network = build_network("fchardnet70_detail", num_classes=3)
    network(torch.randn(2, 3, 64, 128)).square().mean().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_detail_needs_a_stem_of_its_own_stride():
    arch = replace(ARCHS["fchardnet68"], detail=Stage(growth=4, layers=2, channels=8))
    with torch.device("meta"), pytest.raises(ValueError, match="detail requires first_step=2"):
        build_network("fchardnet68", arch=arch)


def test_the_detailed_decoder_asks_for_its_maps():
    with pytest.raises(ValueError, match="6 entries"):
        FCHarDNetDecoder(ARCHS["fchardnet70_detail"], [48, 78, 160, 214, 310])


# ---------------------------------------------------------------- the networks of the paper's section 4.1

# tables 2 and 3 of arXiv 1909.00948: layers, parameters in millions, flops in G and CIO in MB at 352×480
PAPER = [
    ("fchardnet68", 68, 1.4, 15, 473),
    ("fchardnet76", 76, 3.5, 54, 932),
    ("fchardnet84", 84, 8.4, 100, 1267),
]
of_the_paper = pytest.mark.parametrize("name", [name for name, *_ in PAPER])


@pytest.mark.parametrize(("name", "layers", "millions", "flops", "cio"), PAPER)
def test_the_papers_figures(name, layers, millions, flops, cio):
    """What the paper calls MACs is twice the multiply-adds, for FC-DenseNet too."""
    with torch.device("meta"):
        network = build_network(name)
    shape = (1, 3, 352, 480)
    convs = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert len(convs) == layers
    assert count_parameters(network) / 1e6 == pytest.approx(millions, abs=0.06)
    assert 2 * multiply_adds(network, shape) / 1e9 == pytest.approx(flops, abs=0.7)
    assert 4 * convolutional_io(network, shape) // 10**6 == cio  # to the megabyte


@of_the_paper
def test_transitions_keep_the_channels(name):
    """As the rows state them: block outputs with their inputs, and the last one without."""
    stages = ARCHS[name].trunk.stages
    blocks = feature_channels(name, range(6), tap="block")
    assert blocks == feature_channels(name, range(6)) == [stage.channels for stage in stages]


@of_the_paper
@pytest.mark.parametrize("size", [(32, 32), (33, 63), (360, 480), (45, 127)])
def test_any_size_at_full_resolution(name, size):
    with torch.device("meta"):
        network = build_network(name).eval()
        images = torch.empty(2, 3, *size)
        assert network.trunk.strides == [1, 2, 4, 8, 16, 32]
        assert network.forward_head(images).shape == network(images).shape == (2, 11, *size)


@of_the_paper
def test_smaller_images_are_refused(name):
    assert least_side(ARCHS[name].trunk) == 32
    with torch.device("meta"), pytest.raises(ValueError, match="at least 32×32"):
        build_network(name)(torch.empty(1, 3, 31, 32))


def dense_unet(network, x):
    """FC-DenseNet with HarDBlocks, computed by the layers of ``network`` one by one."""
    skips, trunk = [], network.trunk
    x = trunk.stem(x)
    for index, stage in enumerate(trunk.stages):
        bottom = index == len(trunk.stages) - 1
        x = harmonic(stage.block.layers, x, keep=not bottom)
        if not bottom:
            skips.append(x)
            x = F.max_pool2d(stage.transition(x), 2)
    for up, block in zip(network.decoder.ups, network.decoder.blocks, strict=True):
        skip = skips.pop()
        x = F.conv_transpose2d(x, up.weight, up.bias, stride=2)
        x = x[..., : skip.shape[2], : skip.shape[3]]
        x = harmonic(block.layers, torch.cat([x, skip], 1), keep=False)
    return F.conv2d(x, network.classifier.weight, network.classifier.bias)


def harmonic(layers, x, *, keep):
    maps = [x]
    for k, layer in enumerate(layers, start=1):
        steps = [2**n for n in range(5) if k % 2**n == 0]
        maps.append(layer(torch.cat([maps[k - step] for step in steps], 1)))
    odd = [maps[k] for k in range(1, len(maps)) if k % 2]
    return torch.cat([*([x] if keep else []), *odd, maps[-1]], 1)


def test_the_outputs_are_those_of_a_plain_reading():
    torch.manual_seed(0)
    network = build_network("fchardnet68").eval()
    images = torch.randn(1, 3, 45, 70)
    with torch.inference_mode():
        torch.testing.assert_close(network(images), dense_unet(network, images))


def test_every_parameter_of_the_papers_network_learns():
    torch.manual_seed(0)
    network = build_network("fchardnet68", num_classes=3)
    network(torch.randn(2, 3, 64, 64)).square().mean().backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"up": "transposed"}, "last_channels=320 does not fit up='transposed'"),
        ({"last_channels": 0}, "last_channels=0 does not fit up='bilinear'"),
        ({"up": "nearest"}, "up='nearest' is unknown; allowed: bilinear, transposed"),
    ],
)
def test_decoders_that_do_not_exist(changes, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        build_network(NAME, arch=replace(ARCHS[NAME], **changes))


@pytest.mark.parametrize("count", [5, 7])
def test_the_transposed_decoder_takes_one_map_per_stage(count):
    arch = ARCHS["fchardnet68"]
    decoder = TransposedDecoder(arch, HarDNetTrunk(arch.trunk, out_indices=range(6), tap="block").channels)
    with pytest.raises(ValueError, match=f"expected 6 maps, got {count}"):
        decoder([torch.zeros(1, 1, 4, 4)] * count)


# ---------------------------------------------------------------- steps of the stem


@pytest.mark.parametrize(
    ("changes", "strides"),
    [
        ({}, [2, 4, 8, 16, 32, 64]),
        ({"stem_stride": 1}, [1, 2, 4, 8, 16, 32]),
        ({"first_step": 1}, [2, 4, 8, 16, 32]),
        ({"stem_stride": 1, "first_step": 1}, [1, 2, 4, 8, 16]),
        ({"stem_stride": 1, "first_step": 1, "stem_down": ()}, [1, 2, 4, 8, 16]),
        ({"stem_down": ()}, [2, 4, 8, 16, 32, 64]),
    ],
)
@pytest.mark.parametrize("tap", ["block", "transition"])
def test_strides_of_the_stem(changes, strides, tap):
    arch = replace(ARCHS[NAME].trunk, **changes)
    with torch.device("meta"):
        trunk = HarDNetTrunk(arch, out_indices=range(len(strides)), tap=tap)
        sizes = [feature.shape[2] for feature in trunk(torch.empty(1, 3, 192, 192))]
        assert trunk.strides == strides
        assert sizes == [192 // stride for stride in strides]
        for index, stride in enumerate(strides):
            (alone,) = HarDNetTrunk(arch, out_indices=[index], tap=tap)(torch.empty(1, 3, 192, 192))
            assert alone.shape[1:] == (trunk.channels[index], 192 // stride, 192 // stride)


@pytest.mark.parametrize("stride", [8, 16])
def test_a_full_resolution_stem_with_an_output_stride(stride):
    arch = replace(ARCHS[NAME].trunk, stem_stride=1, first_step=1)
    with torch.device("meta"):
        trunk = HarDNetTrunk(arch, output_stride=stride)
        assert trunk(torch.empty(1, 3, 64, 64))[0].shape[2:] == (64 // stride, 64 // stride)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stem_stride": 3}, "stem_stride=3 and first_step=2 must be 1 or 2 each"),
        ({"first_step": 0}, "stem_stride=2 and first_step=0 must be 1 or 2 each"),
        ({"same_padding": True, "first_step": 1}, "same_padding=True requires stem_down and first_step=2"),
        ({"same_padding": True, "stem_down": ()}, "same_padding=True requires stem_down and first_step=2"),
    ],
)
def test_steps_of_a_stem_that_do_not_exist(changes, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        HarDNetTrunk(replace(ARCHS[NAME].trunk, **changes))


# ---------------------------------------------------------------- PaddleSeg's program


def paddle_links(layer):
    """Farthest first."""
    return sorted(layer - 2**n for n in range(6) if layer % 2**n == 0)


class PaddleSegReading:
    """An independent reading of paddleseg/models/hardnet.py: its keys and shapes, and what it computes."""

    stem = ((3, 16, 1), (16, 24, 1), (24, 32, 2), (32, 48, 1))
    growth, depths, transitions = (10, 16, 18, 24, 32), (4, 4, 8, 8, 8), (64, 96, 160, 224, 320)

    def __init__(self, classes=19):
        self.state = {}
        for index, (before, after, _) in enumerate(self.stem):
            self._declare(f"stem.{index}", before, after, 3)
        channels, position, self.skips = 48, 0, []
        for growth, depth, width in zip(self.growth, self.depths, self.transitions, strict=True):
            channels = self._declare_block(f"encoder.blks.{position}", channels, growth, depth)
            self.skips.append(channels)
            self._declare(f"encoder.blks.{position + 1}", channels, width, 1)
            channels, position = width, position + 3  # a pooling follows
        for step in range(4):
            total = channels + self.skips[3 - step]
            self._declare(f"decoder.conv1x1_up.{step}", total, total // 2, 1)
            channels = self._declare_block(
                f"decoder.dense_blocks_up.{step}", total // 2, self.growth[3 - step], self.depths[3 - step]
            )
        self._put("cls_head.weight", (classes, channels, 1, 1))
        self._put("cls_head.bias", (classes,))

    def _put(self, key, shape):
        self.state[key] = formula_tensor(key, list(shape))

    def _declare(self, name, before, after, kernel):
        self._put(f"{name}._conv.weight", (after, before, kernel, kernel))
        norm = f"{name}._batch_norm"
        for key in ("weight", "bias", "_mean"):
            self._put(f"{norm}.{key}", (after,))
        self.state[f"{norm}._variance"] = formula_tensor(f"{norm}.running_var", [after])

    def _declare_block(self, name, channels, growth, depth):
        widths = [channels]
        for layer in range(1, depth + 1):
            links = paddle_links(layer)
            width = growth * 1.7 ** (len(links) - 1)
            widths.append(int(int(width + 1) / 2) * 2)
            self._declare(f"{name}.layers.{layer - 1}", sum(widths[i] for i in links), widths[layer], 3)
        return sum(widths[k] for k in range(1, depth + 1) if k % 2 or k == depth)

    def conv(self, name, x, stride=1):
        weight = self.state[f"{name}._conv.weight"]
        pads = []
        for size in (x.shape[3], x.shape[2]):  # "SAME"
            total = max((-(-size // stride) - 1) * stride + weight.shape[2] - size, 0)
            pads += [total // 2, total - total // 2]
        x = F.conv2d(F.pad(x, pads), weight, stride=stride)
        norm = [self.state[f"{name}._batch_norm.{key}"] for key in ("_mean", "_variance", "weight", "bias")]
        return F.batch_norm(x, *norm).relu()

    def block(self, name, x, depth):
        maps = [x]
        for layer in range(1, depth + 1):
            inputs = torch.cat([maps[i] for i in paddle_links(layer)], 1)
            maps.append(self.conv(f"{name}.layers.{layer - 1}", inputs))
        return torch.cat([maps[k] for k in range(1, depth + 1) if k % 2 or k == depth], 1)

    def __call__(self, images):
        x, skips = images, []
        for index, (_, _, stride) in enumerate(self.stem):
            x = self.conv(f"stem.{index}", x, stride)
        for index, depth in enumerate(self.depths):
            x = self.block(f"encoder.blks.{3 * index}", x, depth)
            skips.append(x)
            x = self.conv(f"encoder.blks.{3 * index + 1}", x)
            if index < 4:
                x = F.avg_pool2d(x, 2)
        for step in range(4):
            skip = skips[3 - step]
            x = F.interpolate(x, skip.shape[2:], mode="bilinear", align_corners=False)
            x = self.conv(f"decoder.conv1x1_up.{step}", torch.cat([x, skip], 1))
            x = self.block(f"decoder.dense_blocks_up.{step}", x, self.depths[3 - step])
        x = F.conv2d(x, self.state["cls_head.weight"], self.state["cls_head.bias"])
        return F.interpolate(x, images.shape[2:], mode="bilinear", align_corners=False)


@pytest.mark.parametrize("size", [(64, 96), (65, 97), (70, 51)])
def test_the_outputs_are_those_of_paddlesegs_program(size):
    """Both paddings of the strided convolution, and the other order of the blocks' inputs."""
    reading = PaddleSegReading()
    found = identify(reading.state)
    assert (found.model, found.form, found.arch) == ("fchardnet70_paddleseg", "paddleseg", None)
    network = build_network(found.model).eval()
    network.load_state_dict(found.tensors, strict=False)
    assert network.trunk.strides == [2, 4, 8, 16, 32]
    images = torch.randn(1, 3, *size)
    with torch.inference_mode():
        expected = reading(images)
        assert_parity(network(images), expected)
        kept = {
            key: reading.state[theirs] for key, theirs in keys_of(found.model, FOREIGN["paddleseg"]).items()
        }
        network.load_state_dict(kept, strict=False)
        assert not torch.allclose(network(images), expected)  # the order counts
    back = in_target(found.model, found.tensors, "paddleseg")
    assert back.keys() == reading.state.keys()
    assert all(torch.equal(back[key], value) for key, value in reading.state.items())
