"""The stand-in for mmcv._ext, asked through mmcv.ops as mmdet asks it, against compiled mmcv 2.1.0."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision.ops

import _hardnet_suite_mmcv

_hardnet_suite_mmcv.install()
ops = importlib.import_module("mmcv.ops")
OURS = sys.modules["mmcv._ext"].__file__.endswith("mmcv_ext.py")
stand_in = pytest.mark.skipif(not OURS, reason="a compiled mmcv is installed and in use")


@pytest.fixture(scope="module")
def ref(golden) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(value) for key, value in golden.arrays("mmcv_ops.npz").items()}


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_dets(actual: tuple[torch.Tensor, torch.Tensor], ref: dict[str, torch.Tensor], name: str) -> None:
    dets, keep = actual
    torch.testing.assert_close(keep, ref[f"{name}_keep"], rtol=0, atol=0)
    torch.testing.assert_close(dets, ref[f"{name}_dets"], rtol=1e-6, atol=1e-7)


# --- registration


@stand_in
def test_registered_with_a_spec_that_import_machinery_finds():
    spec = importlib.util.find_spec("mmcv._ext")
    assert spec.name == "mmcv._ext"
    assert spec.loader is not None
    import mmcv
    from mmcv import _ext

    assert mmcv._ext is _ext is sys.modules["mmcv._ext"]
    from mmengine.utils.dl_utils import mmcv_full_available

    if hasattr(pkgutil, "find_loader"):  # until Python 3.13
        assert mmcv_full_available()


@stand_in
def test_install_twice_adds_one_finder():
    _hardnet_suite_mmcv.install()
    assert sys.meta_path.count(_hardnet_suite_mmcv.MMCVExtFinder) == 1
    order = sys.meta_path.index
    assert order(_hardnet_suite_mmcv.MMCVExtFinder) > order(importlib.machinery.PathFinder)


def test_compiled_part_on_disk_is_left_alone(monkeypatch, tmp_path):
    import mmcv

    (tmp_path / "_ext.py").write_text("compiled = True\n")
    monkeypatch.delitem(sys.modules, "mmcv._ext")
    monkeypatch.setattr(mmcv, "__path__", [*mmcv.__path__, str(tmp_path)])
    assert importlib.import_module("mmcv._ext").compiled


@stand_in
def test_missing_op_is_refused_when_called():
    ext = sys.modules["mmcv._ext"]
    assert hasattr(ext, "nms_rotated")
    with pytest.raises(NotImplementedError, match=r"'nms_rotated'.*mmcv-lite.*install a compiled mmcv"):
        ops.nms_rotated(torch.zeros(2, 5), torch.ones(2), 0.5)


@stand_in
def test_every_refused_operator_names_who_needs_it():
    """The names that mmcv.ops asks for are all provided or among those that doctor and the docs list."""
    ext = sys.modules["mmcv._ext"]
    asked = set()
    for path in Path(ops.__file__).parent.glob("*.py"):
        for names in re.findall(r"load_ext\(\s*'_ext',\s*\[(.*?)\]", path.read_text(), re.DOTALL):
            asked |= set(re.findall(r"'(\w+)'", names))
    assert len(asked) > 100
    refused = asked - set(vars(ext))
    assert {"nms_rotated", "ball_query_forward", "upfirdn2d", "indice_conv_forward"} <= refused
    starts = [start for names in ext.NOT_PROVIDED.values() for start in names]
    for name in refused:
        with pytest.raises(
            NotImplementedError, match=rf"'{name}' of mmcv\.ops, which .+ use, needs the compiled"
        ):
            getattr(ext, name)()
    for start in starts:
        assert any(name.startswith(start) for name in refused), start


@stand_in
def test_underscored_names_are_ordinary_missing_attributes():
    ext = sys.modules["mmcv._ext"]
    assert not hasattr(ext, "__path__")
    assert not hasattr(ext, "__wrapped__")


@stand_in
def test_build_information_as_of_mmcv_lite():
    assert (ops.get_compiler_version(), ops.get_compiling_cuda_version()) == ("n/a", "n/a")


# --- non-maximum suppression


@pytest.mark.parametrize("offset", [0, 1])
def test_nms(ref, offset):
    assert_dets(ops.nms(ref["boxes"], ref["scores"], 0.5, offset), ref, f"nms_off{offset}")


def test_nms_with_score_threshold_and_max_num(ref):
    actual = ops.nms(ref["boxes"], ref["scores"], 0.5, score_threshold=0.3, max_num=20)
    assert_dets(actual, ref, "nms_thr")


def test_nms_of_numpy_arrays(ref):
    dets, keep = ops.nms(ref["boxes"].numpy(), ref["scores"].numpy(), 0.5)
    assert isinstance(dets, np.ndarray)
    np.testing.assert_array_equal(keep, ref["nms_off0_keep"].numpy())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_nms_of_half_precision(dtype):
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]], dtype=dtype)
    dets, keep = ops.nms(boxes, torch.tensor([0.5, 0.75, 0.25], dtype=dtype), 0.5)
    assert keep.tolist() == [1, 2]
    assert dets.dtype == dtype


def test_nms_threshold_is_a_float32():
    # IoU 3/10: as float32 it is above the double 0.3, but not above the float32 0.3
    boxes = torch.tensor([[0.0, 0, 10, 1], [0, 0, 3, 1]])
    assert len(ops.nms(boxes, torch.tensor([0.9, 0.8]), 0.3)[1]) == 2
    assert len(ops.nms(boxes, torch.tensor([0.9, 0.8]), 0.2999)[1]) == 1


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
def test_soft_nms(ref, method, offset):
    actual = ops.soft_nms(ref["boxes"], ref["scores"], method=method, offset=offset)
    assert_dets(actual, ref, f"softnms_{method}_off{offset}")


def test_soft_nms_among_equal_scores_follows_the_compiled_order():
    # Boxes 1 and 2 fall away under box 0; the last boxes, 4 then 3, take their places and so come first.
    boxes = torch.tensor([[0.0, 0, 10, 10]] * 3 + [[20, 0, 30, 10], [40, 0, 50, 10]])
    dets, keep = ops.soft_nms(boxes, torch.tensor([0.9, 0.8, 0.7, 0.5, 0.5]), 0.3, method="naive")
    assert keep.tolist() == [0, 4, 3]
    torch.testing.assert_close(dets[:, 4], torch.tensor([0.9, 0.5, 0.5]))


@pytest.mark.parametrize("agnostic", [False, True])
def test_batched_nms(ref, agnostic):
    cfg = {"type": "nms", "iou_threshold": 0.5}
    actual = ops.batched_nms(ref["boxes"], ref["scores"], ref["ids"], cfg, class_agnostic=agnostic)
    assert_dets(actual, ref, f"batched_agn{int(agnostic)}")


def test_nms_match(ref):
    groups = ops.nms_match(torch.cat([ref["boxes"], ref["scores"][:, None]], 1), 0.5)
    assert [len(group) for group in groups] == ref["nms_match_lens"].tolist()
    assert torch.cat(groups).tolist() == ref["nms_match_flat"].tolist()


def test_no_boxes():
    boxes, scores = torch.zeros(0, 4), torch.zeros(0)
    for dets, keep in (ops.nms(boxes, scores, 0.5, offset=1), ops.soft_nms(boxes, scores)):
        assert dets.shape == (0, 5)
        assert keep.shape == (0,)
        assert keep.dtype == torch.long
    assert ops.nms_match(torch.zeros(0, 5), 0.5) == []


# --- RoIAlign


@pytest.mark.parametrize("aligned", [0, 1])
@pytest.mark.parametrize("ratio", [0, 2])
def test_roi_align(ref, aligned, ratio):
    out = ops.roi_align(ref["feat"], ref["rois"], (5, 7), 0.25, ratio, "avg", bool(aligned))
    torch.testing.assert_close(out, ref[f"roialign_avg_al{aligned}_sr{ratio}"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [0, 2])
def test_roi_align_gradient(aligned, ratio, mode):
    rois = torch.tensor([[0, 2.0, 3, 17, 15], [1, 5, 1, 9, 22], [0, -4, -4, 5, 5]], dtype=torch.float64)
    x = random(2, 2, 6, 5).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: ops.roi_align(x, rois, (2, 3), 0.25, ratio, mode, aligned), (x,)
    )


@pytest.mark.parametrize("aligned", [0, 1])
@pytest.mark.parametrize("ratio", [0, 2])
def test_roi_align_of_maxima(ref, aligned, ratio):
    out = ops.roi_align(ref["feat"], ref["rois"], (5, 7), 0.25, ratio, "max", bool(aligned))
    torch.testing.assert_close(out, ref[f"roialign_max_al{aligned}_sr{ratio}"], rtol=1e-5, atol=1e-5)


def test_a_region_of_no_size_has_no_maximum():
    """As where a training diverges: sides that are not numbers are bins without samples, as compiled."""
    rois = torch.tensor([[0, float("nan"), 1, 5, 5], [0, 1, 1, 5, 5]])
    out = ops.roi_align(torch.ones(1, 1, 8, 8), rois, (2, 1), 1.0, 0, "max", True)
    assert out.flatten(1).tolist() == [[-10000.0] * 2, [1.0] * 2]


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_roi_align_without_rois(mode):
    x = torch.ones(1, 3, 8, 8, requires_grad=True)
    out = ops.roi_align(x, torch.zeros(0, 5), (5, 7), 0.25, 0, mode, True)
    assert out.shape == (0, 3, 5, 7)
    out.sum().backward()
    assert torch.equal(x.grad, torch.zeros_like(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_roi_align_of_half_precision(dtype):
    rois = torch.tensor([[0, 4.0, 8, 20, 24]])
    x = random(1, 2, 8, 8).to(dtype).requires_grad_()
    out = ops.roi_align(x, rois.to(dtype), 2, 0.25, 2, "avg", True)
    expected = torchvision.ops.roi_align(x.detach().float(), rois, 2, 0.25, 2, True)
    torch.testing.assert_close(out, expected.to(dtype))
    out.sum().backward()
    assert x.grad.dtype == dtype


# --- deformable convolution


def test_deform_conv(ref):
    out = ops.deform_conv2d(ref["feat"], ref["dcn_off"], ref["dcn_w"], 1, 1)
    torch.testing.assert_close(out, ref["dcn_v1"], rtol=1e-5, atol=1e-5)


def test_modulated_deform_conv(ref):
    args = [ref[key] for key in ("feat", "dcn_off", "dcn_mask", "dcn_w", "dcn_bias")]
    torch.testing.assert_close(ops.modulated_deform_conv2d(*args, 1, 1), ref["dcn_v2"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("step", [1, 2, 32])
def test_deform_conv_im2col_step_changes_nothing(ref, step):
    conv = ops.DeformConv2d(6, 8, 3, padding=1, im2col_step=step)
    conv.weight.data = ref["dcn_w"]
    torch.testing.assert_close(conv(ref["feat"], ref["dcn_off"]), ref["dcn_v1"], rtol=1e-5, atol=1e-5)


# (groups, deform_groups, stride, padding, dilation), height and width unlike
LAYOUTS = [(1, 1, 1, 1, 1), (2, 1, 1, 1, 1), (1, 2, 1, 1, 1), (2, 2, (2, 1), (1, 2), (1, 2))]


def conv_inputs(groups: int, deform_groups: int, stride, padding, dilation) -> dict[str, torch.Tensor]:
    x, weight = random(2, 4, 5, 6), random(4, 4 // groups, 3, 2, seed=1)
    size = F.conv2d(x, weight, None, stride, padding, dilation, groups).shape[2:]
    return {
        "x": x,
        "offset": random(2, deform_groups * 12, *size, seed=2),
        "mask": random(2, deform_groups * 6, *size, seed=3).sigmoid(),
        "weight": weight,
        "bias": random(4, seed=4),
    }


@pytest.mark.parametrize("layout", LAYOUTS)
def test_deform_conv_without_offsets_is_a_convolution(layout):
    groups, deform_groups, stride, padding, dilation = layout
    t = conv_inputs(*layout)
    zero, one = torch.zeros_like(t["offset"]), torch.ones_like(t["mask"])
    geometry = (stride, padding, dilation, groups, deform_groups)
    plain = F.conv2d(t["x"], t["weight"], None, stride, padding, dilation, groups)
    torch.testing.assert_close(ops.deform_conv2d(t["x"], zero, t["weight"], *geometry), plain)
    out = ops.modulated_deform_conv2d(t["x"], zero, one, t["weight"], t["bias"], *geometry)
    torch.testing.assert_close(out, plain + t["bias"][:, None, None])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("version", ["v1", "v2", "v2 without bias"])
def test_deform_conv_gradients(layout, version):
    groups, deform_groups, stride, padding, dilation = layout
    geometry = (stride, padding, dilation, groups, deform_groups)
    t = {key: value.requires_grad_() for key, value in conv_inputs(*layout).items()}
    inputs, function = {
        "v1": (
            (t["x"], t["offset"], t["weight"]),
            lambda x, offset, weight: ops.deform_conv2d(x, offset, weight, *geometry, False, 1),
        ),
        "v2": (tuple(t.values()), lambda *tensors: ops.modulated_deform_conv2d(*tensors, *geometry)),
        "v2 without bias": (
            tuple(t.values())[:-1],
            lambda *tensors: ops.modulated_deform_conv2d(*tensors, None, *geometry),
        ),
    }[version]
    # along a random direction: the full Jacobian takes a hundred times longer and finds no more
    torch.manual_seed(0)
    assert torch.autograd.gradcheck(function, inputs, fast_mode=True)


def test_deform_conv_layers_train():
    torch.manual_seed(0)
    x = torch.randn(2, 4, 8, 8)
    for layer in (
        ops.DeformConv2dPack(4, 6, 3, padding=1, groups=2, deform_groups=2, im2col_step=1),
        ops.ModulatedDeformConv2dPack(4, 6, 3, padding=1, deform_groups=2),
    ):
        layer(x).square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in layer.parameters())


@stand_in
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"offset": torch.zeros(1, 18, 5, 5)},
            r"expected offset to begin with shape \[2, 18\], got \[1, 18, 5, 5\]",
        ),
        ({"mask": torch.ones(2, 4, 5, 5)}, r"expected mask to begin with shape \[2, 9\], got \[2, 4, 5, 5\]"),
        ({"mask": torch.ones(1, 9, 5, 5)}, r"expected mask to begin with shape \[2, 9\]"),
        ({"bias": torch.zeros(3)}, r"expected bias to begin with shape \[6\], got \[3\]"),
    ],
)
def test_deform_conv_of_shapes_that_do_not_fit(change, message):
    tensors = {
        "input": torch.ones(2, 4, 5, 5),
        "offset": torch.zeros(2, 18, 5, 5),
        "mask": torch.ones(2, 9, 5, 5),
        "weight": torch.ones(6, 4, 3, 3),
        "bias": torch.zeros(6),
    } | change
    with pytest.raises(ValueError, match=message):
        ops.modulated_deform_conv2d(*tensors.values(), 1, 1)


def test_deform_conv_with_wrong_groups():
    t = conv_inputs(2, 1, 1, 1, 1)
    with pytest.raises(
        ValueError, match=r"groups=1 and deform_groups=1 takes 2 input and 12 offset channels"
    ):
        ops.deform_conv2d(t["x"], t["offset"], t["weight"], 1, 1, 1, 1, 1)
    with pytest.raises(
        ValueError, match=r"deform_groups=2 takes 4 input and 24 offset channels, got 4 and 12"
    ):
        ops.modulated_deform_conv2d(t["x"], t["offset"], t["mask"], t["weight"], None, 1, 1, 1, 2, 2)


# --- sigmoid focal loss


def focal_case(device: str = "cpu") -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits from -30 to 30 (20, 3), targets with background 3, and the same one-hot."""
    logits = (random(20, 3) * 3).float()
    logits[0], logits[1] = 30, -30
    target = torch.arange(20) % 4
    return logits.to(device), target.to(device), F.one_hot(target, 4)[:, :3].float().to(device)


def focal_on_device(device: str, gamma: float, alpha: float) -> None:
    logits, target, one_hot = focal_case(device)
    expected_in = logits.clone().requires_grad_()
    expected = torchvision.ops.sigmoid_focal_loss(expected_in, one_hot, alpha, gamma)
    actual_in = logits.clone().requires_grad_()
    actual = ops.sigmoid_focal_loss(actual_in, target, gamma, alpha, None, "none")
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)
    direction = torch.linspace(-1, 1, logits.numel(), device=device).view_as(logits)
    (expected * direction).sum().backward()
    (actual * direction).sum().backward()
    torch.testing.assert_close(actual_in.grad, expected_in.grad, rtol=1e-4, atol=1e-6)


@stand_in
@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (1.5, 0.6), (0.0, 0.5)])
def test_sigmoid_focal_loss(gamma, alpha):
    focal_on_device("cpu", gamma, alpha)


@stand_in
def test_sigmoid_focal_loss_as_in_mmdet():
    focal_loss = pytest.importorskip("mmdet.models.losses.focal_loss")
    logits, target, one_hot = focal_case()
    expected = focal_loss.py_sigmoid_focal_loss(logits, one_hot, gamma=2.0, alpha=0.25, avg_factor=7)
    actual = focal_loss.sigmoid_focal_loss(logits, target, gamma=2.0, alpha=0.25, avg_factor=7)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-7)


@stand_in
def test_sigmoid_focal_loss_gradient_and_class_weights():
    logits, target, weight = random(6, 4).requires_grad_(), torch.arange(6) % 4, torch.rand(4).double()
    assert torch.autograd.gradcheck(
        lambda x: ops.sigmoid_focal_loss(x, target, 2.0, 0.3, weight, "mean"), (logits,)
    )
    weighted = ops.sigmoid_focal_loss(logits, target, 2.0, 0.3, weight, "none")
    plain = ops.sigmoid_focal_loss(logits, target, 2.0, 0.3, None, "none")
    torch.testing.assert_close(weighted, plain * weight[target][:, None])


@stand_in
def test_sigmoid_focal_loss_of_nothing_and_of_half_precision():
    assert ops.sigmoid_focal_loss(torch.zeros(0, 3), torch.zeros(0).long(), 2.0, 0.25, None, "sum") == 0
    logits, target, _ = focal_case()
    half = ops.sigmoid_focal_loss(logits.half(), target, 2.0, 0.25, None, "none")
    full = ops.sigmoid_focal_loss(logits.half().float(), target, 2.0, 0.25, None, "none")
    torch.testing.assert_close(half, full.half())


@pytest.mark.gpu
def test_on_cuda(ref):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    focal_on_device("cuda", 2.0, 0.25)
    cuda = {key: value.cuda() for key, value in ref.items()}
    dets, keep = ops.nms(cuda["boxes"], cuda["scores"], 0.5, 1)
    assert_dets((dets.cpu(), keep.cpu()), ref, "nms_off1")
    dets, keep = ops.soft_nms(cuda["boxes"], cuda["scores"])
    assert_dets((dets.cpu(), keep.cpu()), ref, "softnms_linear_off0")
    out = ops.roi_align(cuda["feat"], cuda["rois"], (5, 7), 0.25, 2, "avg", True)
    torch.testing.assert_close(out.cpu(), ref["roialign_avg_al1_sr2"], rtol=1e-4, atol=1e-4)
    tensors = [cuda[key].requires_grad_() for key in ("feat", "dcn_off", "dcn_mask", "dcn_w", "dcn_bias")]
    out = ops.modulated_deform_conv2d(*tensors, 1, 1)
    torch.testing.assert_close(out.cpu(), ref["dcn_v2"], rtol=1e-3, atol=1e-3)
    out.sum().backward()
    assert all(tensor.grad.isfinite().all() for tensor in tensors)


# --- multi-scale deformable attention


def test_ms_deform_attn_gradient():
    attention = importlib.import_module("mmcv.ops.multi_scale_deform_attn")
    shapes, starts = torch.tensor([[3, 4], [2, 2]]), torch.tensor([0, 12])
    value = random(2, 16, 2, 3).requires_grad_()
    locations = random(2, 5, 2, 2, 2, 2, seed=1).sigmoid().requires_grad_()
    weights = random(2, 5, 2, 2, 2, seed=2).softmax(-1).requires_grad_()

    def function(value, locations, weights):
        return attention.MultiScaleDeformableAttnFunction.apply(value, shapes, starts, locations, weights, 64)

    expected = attention.multi_scale_deformable_attn_pytorch(value, shapes, locations, weights)
    torch.testing.assert_close(function(value, locations, weights), expected)
    assert torch.autograd.gradcheck(function, (value, locations, weights), fast_mode=True)
