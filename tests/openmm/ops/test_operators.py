"""Further operators of the stand-in for mmcv._ext, against loops that follow their definitions."""

from __future__ import annotations

import importlib
import math
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import _hardnet_suite_mmcv

_hardnet_suite_mmcv.install()
ops = importlib.import_module("mmcv.ops")
OURS = sys.modules["mmcv._ext"].__file__.endswith("mmcv_ext.py")
# a compiled mmcv has its own tests, and some of these operators on CUDA alone
pytestmark = pytest.mark.skipif(not OURS, reason="a compiled mmcv is installed and in use")

HALF = [torch.float16, torch.bfloat16]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- CARAFE


def carafe_by_loops(x, masks, kernel, groups, scale):
    n, channels, height, width = x.shape
    out = torch.zeros(n, channels, height * scale, width * scale, dtype=x.dtype)
    for channel in range(channels):
        group = channel // (channels // groups)
        for row, column in np.ndindex(height * scale, width * scale):
            for tap, (i, j) in enumerate(np.ndindex(kernel, kernel)):
                y, z = row // scale + i - kernel // 2, column // scale + j - kernel // 2
                if 0 <= y < height and 0 <= z < width:
                    mask = masks[:, group * kernel * kernel + tap, row, column]
                    out[:, channel, row, column] += x[:, channel, y, z] * mask
    return out


@pytest.mark.parametrize("function", ["carafe", "carafe_naive"])
@pytest.mark.parametrize(("kernel", "groups", "scale"), [(3, 1, 2), (5, 2, 2), (1, 4, 3), (3, 2, 1)])
def test_carafe(function, kernel, groups, scale):
    x, masks = random(2, 4, 3, 4), random(2, groups * kernel**2, 3 * scale, 4 * scale, seed=1)
    out = getattr(ops, function)(x, masks, kernel, groups, scale)
    torch.testing.assert_close(out, carafe_by_loops(x, masks, kernel, groups, scale))


def test_carafe_gradients():
    x, masks = random(1, 4, 3, 2).requires_grad_(), random(1, 18, 6, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, masks: ops.carafe(x, masks, 3, 2, 2), (x, masks))


@pytest.mark.parametrize("dtype", HALF)
def test_carafe_of_half_precision(dtype):
    x, masks = random(1, 2, 3, 3).to(dtype), random(1, 9, 6, 6, seed=1).to(dtype)
    expected = ops.carafe(x.float(), masks.float(), 3, 1, 2)
    torch.testing.assert_close(ops.carafe(x, masks, 3, 1, 2), expected.to(dtype))


def test_carafe_layer_trains():
    layer = ops.CARAFEPack(8, 2)
    out = layer(torch.randn(2, 8, 5, 7))
    assert out.shape == (2, 8, 10, 14)
    out.square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in layer.parameters())


# --- masked convolution


@pytest.mark.parametrize(("kernel", "padding"), [(3, 1), (1, 0), ((3, 5), (1, 2))])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_masked_convolution(kernel, padding, share):
    layer = ops.MaskedConv2d(3, 4, kernel, padding=padding).double()
    x = random(1, 3, 6, 7)
    mask = (torch.rand(1, 6, 7, generator=torch.Generator().manual_seed(1)) < share).double()
    with torch.no_grad():
        torch.testing.assert_close(layer(x, mask), F.conv2d(x, layer.weight, layer.bias, 1, padding) * mask)


@pytest.mark.parametrize("features", [torch.float32, *HALF])
@pytest.mark.parametrize("precision", HALF)
def test_masked_convolution_in_mixed_precision(features, precision):
    layer = ops.MaskedConv2d(3, 4, 3, padding=1)
    x, mask = random(1, 3, 6, 7).to(features), torch.ones(1, 6, 7)
    with torch.no_grad(), torch.autocast("cpu", dtype=precision):
        out, expected = layer(x, mask), layer(x)
    assert out.dtype == features
    torch.testing.assert_close(out.float(), expected.float(), rtol=2e-2, atol=2e-2)


# --- PSAMask


def psa_by_loops(x, kind, shape):
    n, _, height, width = x.shape
    out = torch.zeros(n, height * width, height, width, dtype=x.dtype)
    for h, w, i, j in np.ndindex(height, width, *shape):
        y, z = h + i - (shape[0] - 1) // 2, w + j - (shape[1] - 1) // 2
        if 0 <= y < height and 0 <= z < width:
            value = x[:, i * shape[1] + j, h, w]
            if kind == "collect":
                out[:, y * width + z, h, w] = value
            else:
                out[:, h * width + w, y, z] = value
    return out


@pytest.mark.parametrize("kind", ["collect", "distribute"])
@pytest.mark.parametrize("shape", [(5, 7), (3, 3), (9, 1), (4, 6)])
def test_psamask(kind, shape):
    x = random(2, math.prod(shape), 3, 4).requires_grad_()
    layer = ops.PSAMask(kind, shape)
    torch.testing.assert_close(layer(x), psa_by_loops(x, kind, shape))
    assert torch.autograd.gradcheck(layer, (x,), fast_mode=True)


# --- deformable RoI pooling


def bilinear(image, y, x):
    """A sample of (C, H, W)."""
    _, height, width = image.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return torch.zeros_like(image[:, 0, 0])
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    dy, dx = y - top, x - left
    upper = (1 - dx) * image[:, top, left] + dx * image[:, top, right]
    return (1 - dy) * upper + dy * ((1 - dx) * image[:, bottom, left] + dx * image[:, bottom, right])


def pooled_by_loops(x, rois, offset, shape, scale, ratio, gamma):
    out = torch.zeros(len(rois), x.shape[1], *shape, dtype=x.dtype)
    for k, (image, *corners) in enumerate(rois.tolist()):
        left, top, right, bottom = (corner * scale - 0.5 for corner in corners)
        bin_h, bin_w = (bottom - top) / shape[0], (right - left) / shape[1]
        rows, columns = (ratio or math.ceil(size) for size in (bin_h, bin_w))
        for i, j in np.ndindex(*shape):
            shift_x, shift_y = (0.0, 0.0) if offset is None else offset[k, :, i, j].tolist()
            start_y = top + gamma * (bottom - top) * shift_y + i * bin_h
            start_x = left + gamma * (right - left) * shift_x + j * bin_w
            for a, b in np.ndindex(rows, columns):
                y, z = start_y + (a + 0.5) * bin_h / rows, start_x + (b + 0.5) * bin_w / columns
                out[k, :, i, j] += bilinear(x[int(image)], y, z) / (rows * columns)
    return out


ROIS = torch.tensor(
    [[0, 2.0, 3, 17, 15], [1, 5, 1, 9, 22], [0, -9, -4, 5, 5], [1, 3, 3, 3, 9], [0, 12, 9, 40, 50]],
    dtype=torch.float64,
)


@pytest.mark.parametrize("with_offset", [False, True])
@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("shape", [(2, 3), (1, 1)])
def test_deform_roi_pool(with_offset, ratio, shape):
    x = random(2, 3, 6, 5)
    offset = random(len(ROIS), 2, *shape, seed=1) if with_offset else None
    out = ops.deform_roi_pool(x, ROIS, offset, shape, 0.25, ratio, 0.3)
    torch.testing.assert_close(out, pooled_by_loops(x, ROIS, offset, shape, 0.25, ratio, 0.3))


def test_deform_roi_pool_without_rois():
    x = random(2, 3, 6, 5).requires_grad_()
    out = ops.deform_roi_pool(x, ROIS[:0], random(0, 2, 2, 3), (2, 3), 0.25)
    assert out.shape == (0, 3, 2, 3)
    out.sum().backward()
    assert not x.grad.any()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("column", [1, 2, 3, 4])
def test_regions_that_are_not_finite_have_no_samples(value, column):
    rois = ROIS[:2].clone()
    rois[0, column] = value
    x = random(2, 3, 6, 5)
    maxima, means = ops.roi_align(x, rois, 2, 0.25, 0, "max"), ops.deform_roi_pool(x, rois, None, 2, 0.25)
    assert (maxima[0] == -10000).all()
    assert not means[0].any()
    torch.testing.assert_close(maxima[1:], ops.roi_align(x, ROIS[1:2], 2, 0.25, 0, "max"))
    torch.testing.assert_close(means[1:], ops.deform_roi_pool(x, ROIS[1:2], None, 2, 0.25))


@pytest.mark.parametrize("image", [-1, 2])
def test_regions_of_no_image(image):
    rois = torch.tensor([[image, 4.0, 4, 12, 12]], dtype=torch.float64)
    for pool in (
        lambda x: ops.roi_align(x, rois, 2, 0.25, 0, "max"),
        lambda x: ops.deform_roi_pool(x, rois, None, 2),
    ):
        with pytest.raises(ValueError, match=f"a region is of image {image}, got a batch of 2"):
            pool(random(2, 3, 6, 5))


@pytest.mark.parametrize("ratio", [0, 2])
def test_deform_roi_pool_gradients(ratio):
    x, offset = random(2, 2, 6, 5).requires_grad_(), random(5, 2, 2, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, offset: ops.deform_roi_pool(x, ROIS, offset, 2, 0.25, ratio, 0.3), (x, offset)
    )
    assert torch.autograd.gradcheck(lambda x: ops.deform_roi_pool(x, ROIS, None, 2, 0.25, ratio), (x,))


@pytest.mark.parametrize("layer", ["DeformRoIPoolPack", "ModulatedDeformRoIPoolPack"])
@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_deform_roi_pool_layers_train(layer, dtype):
    pool = getattr(ops, layer)(3, 4, 16, 0.25).to(dtype)
    x = random(2, 4, 12, 12).to(dtype).requires_grad_()
    out = pool(x, ROIS.to(dtype))
    assert out.shape == (len(ROIS), 4, 3, 3)
    out.float().square().sum().backward()
    last = pool.offset_fc[-1]
    assert x.grad.abs().sum() > 0
    assert last.bias.grad.abs().sum() > 0


# --- softmax focal loss


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (1.5, 0.6), (0.0, 1.0)])
@pytest.mark.parametrize("weighted", [False, True])
def test_softmax_focal_loss(gamma, alpha, weighted):
    logits = random(8, 4).requires_grad_()
    target = torch.arange(8) % 4
    weight = torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=torch.float64) if weighted else None
    probability = logits.softmax(1)[torch.arange(8), target]
    expected = -alpha * (1 - probability) ** gamma * probability.log()
    expected = expected if weight is None else expected * weight[target]
    loss = ops.softmax_focal_loss(logits, target, gamma, alpha, weight, "none")
    torch.testing.assert_close(loss, expected)
    for reduction in ("mean", "sum"):
        assert torch.autograd.gradcheck(
            lambda x, how=reduction: ops.softmax_focal_loss(x, target, gamma, alpha, weight, how), (logits,)
        )


def test_softmax_focal_loss_of_ignored_and_certain_samples():
    logits = torch.tensor([[200.0, -200.0], [0.0, 0.0], [-200.0, 200.0]], requires_grad=True)
    for gamma in (0.0, 0.5, 2.0):
        logits.grad = None
        loss = ops.softmax_focal_loss(logits, torch.tensor([0, -1, 0]), gamma, 1.0, None, "none")
        assert loss[:2].tolist() == [0, 0]
        assert loss.isfinite().all()
        ops.softmax_focal_loss(logits, torch.tensor([0, -1, 0]), gamma, 1.0, None, "sum").backward()
        assert logits.grad[:2].abs().sum() == 0
        assert logits.grad.isfinite().all()


# --- deformable convolution


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_offsets_of_a_larger_map_are_read_from_the_front(version):
    """As in DyHead and in GLIP's neck: each sample's first C · H · W numbers."""
    x, weight = random(2, 3, 5, 6).requires_grad_(), random(4, 3, 3, 3, seed=1).requires_grad_()
    offset, mask = random(2, 18, 9, 11, seed=2).requires_grad_(), random(2, 9, 9, 11, seed=3).sigmoid()

    def convolve(offset, mask):
        if version == "v1":
            return ops.deform_conv2d(x, offset, weight, 1, 1)
        return ops.modulated_deform_conv2d(x, offset, mask, weight, None, 1, 1)

    first = offset.detach().flatten(1)[:, : 18 * 30].reshape(2, 18, 5, 6).requires_grad_()
    masked = mask.flatten(1)[:, : 9 * 30].reshape(2, 9, 5, 6)
    out, expected = convolve(offset, mask), convolve(first, masked)
    torch.testing.assert_close(out, expected, rtol=0, atol=0)
    direction = random(*out.shape, seed=4)
    (out * direction).sum().backward()
    (expected * direction).sum().backward()
    torch.testing.assert_close(offset.grad.flatten(1)[:, : 18 * 30], first.grad.flatten(1))
    assert offset.grad.flatten(1)[:, 18 * 30 :].abs().sum() == 0


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_offsets_of_a_smaller_map_are_refused(version):
    x, weight, offset, mask = random(1, 3, 5, 6), random(4, 3, 3, 3), random(1, 18, 4, 6), random(1, 9, 5, 6)
    functions = {
        "v1": lambda: ops.deform_conv2d(x, offset, weight, 1, 1),
        "v2": lambda: ops.modulated_deform_conv2d(x, offset, mask, weight, None, 1, 1),
    }
    with pytest.raises(ValueError, match="an output of 5×6, got offsets or a mask of 4×6"):
        functions[version]()
    with pytest.raises(ValueError, match="an output of 5×6, got offsets or a mask of 5×5"):
        ops.modulated_deform_conv2d(x, random(1, 18, 5, 6), mask[..., :5], weight, None, 1, 1)


def test_offsets_get_no_gradient_on_the_border():
    """Compiled mmcv's: a sample at −1, as every padded one with offsets of 0, moves by no gradient."""
    layer = ops.ModulatedDeformConv2dPack(
        1, 1, kernel_size=2, stride=1, padding=1, deform_groups=1, bias=False
    )
    layer.conv_offset.weight.data.zero_()
    layer.conv_offset.bias.data.zero_()
    layer.weight.data.fill_(1.0)
    x = torch.tensor([[[[1.0, 2, 3], [0, 1, 2], [3, 5, 2]]]])
    out = layer(x)
    out.sum().backward()
    assert layer.conv_offset.bias.grad[0] == -3.0  # 0.0 with torchvision's gradient at −1


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize(
    "beyond", [(-1.0, 0.0), (0.0, -1.0), (-2.0, 1.0), (5.0, 0.0), (1.0, 6.0), (7.0, 9.0)]
)
def test_samples_beyond_the_border_move_by_no_gradient(version, beyond):
    x, weight = torch.ones(1, 1, 5, 6, dtype=torch.float64), torch.ones(1, 1, 1, 1, dtype=torch.float64)
    offset = torch.zeros(1, 2, 5, 6, dtype=torch.float64)
    offset[0, :, 0, 0] = torch.tensor(beyond)  # the place of the sample
    offset[0, :, 2, 3] = 0.25  # one inside, between unlike pixels
    x[0, 0, 3, 3] = 3.0
    offset.requires_grad_()
    if version == "v1":
        out = ops.deform_conv2d(x, offset, weight)
    else:
        out = ops.modulated_deform_conv2d(x, offset, torch.ones(1, 1, 5, 6).double(), weight, None, 1, 0)
    out.sum().backward()
    assert offset.grad[0, :, 0, 0].tolist() == [0, 0]
    assert offset.grad[0, 0, 2, 3] != 0


@pytest.mark.gpu
def test_on_cuda():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    gpu = torch.device("cuda")
    x, masks = random(2, 4, 3, 4), random(2, 18, 6, 8, seed=1)
    torch.testing.assert_close(
        ops.carafe(x.to(gpu), masks.to(gpu), 3, 2, 2).cpu(), ops.carafe(x, masks, 3, 2, 2)
    )
    maps, offset = random(2, 3, 6, 5), random(len(ROIS), 2, 2, 3, seed=1)
    pooled = ops.deform_roi_pool(maps.to(gpu), ROIS.to(gpu), offset.to(gpu), (2, 3), 0.25, 0, 0.3)
    torch.testing.assert_close(pooled.cpu(), ops.deform_roi_pool(maps, ROIS, offset, (2, 3), 0.25, 0, 0.3))
    highest = ops.roi_align(maps.to(gpu), ROIS.to(gpu), (2, 3), 0.25, 2, "max", True)
    torch.testing.assert_close(highest.cpu(), ops.roi_align(maps, ROIS, (2, 3), 0.25, 2, "max", True))
    psa = random(2, 15, 3, 4)
    torch.testing.assert_close(ops.psa_mask(psa.to(gpu), 1, (3, 5)).cpu(), ops.psa_mask(psa, 1, (3, 5)))
    logits, target = random(6, 4), torch.arange(6) % 4
    focal = ops.softmax_focal_loss(logits.to(gpu), target.to(gpu), 2.0, 0.25, None, "mean")
    torch.testing.assert_close(focal.cpu(), ops.softmax_focal_loss(logits, target, 2.0, 0.25, None, "mean"))
    layer = ops.MaskedConv2d(3, 4, 3, padding=1).double()
    image, mask = random(1, 3, 6, 7), (random(1, 6, 7) > 0).double()
    with torch.no_grad():
        expected = layer(image, mask)
        torch.testing.assert_close(layer.to(gpu)(image.to(gpu), mask.to(gpu)).cpu(), expected)
    conv = ops.ModulatedDeformConv2dPack(4, 6, 3, padding=1).to(gpu)
    with torch.autocast("cuda", dtype=torch.float16):
        out = conv(torch.randn(2, 4, 8, 8, device=gpu))
    out.float().square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in conv.parameters())
