"""What makes today's OpenMMLab releases work together: scopes, safe checkpoints, whole files, bfloat16."""

from __future__ import annotations

import io
import logging
import math
import os
import pickle
import stat
import warnings
from collections import Counter, OrderedDict

import mmengine.fileio
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.fileio.backends import LocalBackend
from mmengine.infer import BaseInferencer
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.registry import OPTIM_WRAPPERS, DefaultScope
from mmengine.runner import CheckpointLoader, load_checkpoint, save_checkpoint
from torch import nn

import hardnet_suite.openmm
from hardnet_suite import outputs
from hardnet_suite.errors import UserError
from hardnet_suite.openmm import compat
from hardnet_suite.openmm.compat import AtomicLocalBackend
from hardnet_suite.weights import read_checkpoint, state_dict_of

_multiarray = (np._core if hasattr(np, "_core") else np.core).multiarray


# --- segmentation and detection in one process

BESIDE = """
import sys
import torch
import hardnet_suite.openmm
from hardnet_suite.openmm.run.configs import load_config, set_data_root
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, TRANSFORMS, init_default_scope
from mmengine.runner import Runner
from mmseg.structures import SegDataSample

config, data = sys.argv[1:]
torch.set_flush_denormal(True)
transforms = lambda: type(TRANSFORMS.build(dict(type="LoadAnnotations"))).__module__.split(".")[0]

# segmentation
init_default_scope("mmseg")
head = dict(type="FCNHead", in_channels=1024, in_index=0, channels=8, num_classes=4, num_convs=1)
segmentor = MODELS.build(ConfigDict(
    type="EncoderDecoder",
    data_preprocessor=dict(type="SegDataPreProcessor", mean=[0.0] * 3, std=[255.0] * 3, size=(64, 64)),
    backbone=dict(type="HarDNet", arch="hardnet39ds", out_indices=(4,)),
    decode_head=dict(concat_input=False, **head), train_cfg=dict(), test_cfg=dict(mode="whole"))).eval()
assert transforms() == "mmseg"
sample = SegDataSample(metainfo=dict(img_shape=(64, 64), ori_shape=(64, 64)))
with torch.no_grad():
    (found,) = segmentor.test_step(dict(inputs=[torch.zeros(3, 64, 64)], data_samples=[sample]))
assert found.pred_sem_seg.data.shape == (1, 64, 64)

# detection: data of training and of testing, the detector, its loss and its boxes
cfg = load_config(config, {"model.init_cfg": None})
set_data_root(cfg, data)
assert transforms() == "mmseg"  # a config that is loaded changes nothing in the process
init_default_scope(cfg.default_scope)
assert transforms() == "mmdet"
detector = MODELS.build(cfg.model)
for loader in (cfg.train_dataloader, cfg.test_dataloader):
    loader.num_workers, loader.persistent_workers = 0, False
batch = next(iter(Runner.build_dataloader(cfg.train_dataloader, seed=0)))
loss, _ = detector.parse_losses(detector(**detector.data_preprocessor(batch, True), mode="loss"))
assert loss.isfinite() and loss > 0
batch = next(iter(Runner.build_dataloader(cfg.test_dataloader)))
with torch.no_grad():
    found = detector.eval().test_step(batch)
assert len(found) == len(batch["inputs"]) and all("bboxes" in one.pred_instances for one in found)

# and segmentation again
init_default_scope("mmseg")
assert transforms() == "mmseg"
print("done")
"""


def test_detection_after_segmentation_in_one_process(run, tiny, tmp_path):
    script = tmp_path / "beside.py"
    script.write_text(BESIDE)
    assert run(script, *tiny).endswith("done\n")


BOTH_ORDERS = """
import sys
import torch
import hardnet_suite.openmm.segmentation
from hardnet_suite.config_names import OWN_CONFIGS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmseg.structures import SegDataSample

TASKS = {
    "detection": ("demo_ssd224_shapes", 224, DetDataSample, "pred_instances", "mmdet"),
    "heat maps": ("centernet_hardnet68", 64, DetDataSample, "pred_instances", "mmdet"),
    "segmentation": ("fchardnet70_camvid", 64, SegDataSample, "pred_sem_seg", "mmseg"),
}


def build(task):
    cfg = Config.fromfile(OWN_CONFIGS / f"{TASKS[task][0]}.py").model
    cfg.init_cfg = None
    torch.manual_seed(0)
    return MODELS.build(cfg).eval()


def answer(task, model):
    _, size, sample, key, _ = TASKS[task]
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (3, size, size), generator=generator, dtype=torch.uint8)
    meta = dict(img_shape=(size, size), ori_shape=(size, size), scale_factor=(1.0, 1.0))
    with torch.inference_mode():
        (found,) = model.test_step(dict(inputs=[images], data_samples=[sample(metainfo=meta)]))
    found = getattr(found, key)
    return found.data if key == "pred_sem_seg" else torch.cat([found.bboxes, found.scores[:, None]], 1)


expected = {}
for scoped in (False, True):  # the default scope follows each task, or stays the other one's
    for order in (list(TASKS), list(TASKS)[::-1]):
        models = {}
        for task in order:
            init_default_scope(TASKS[task if scoped else order[0]][-1])
            models[task] = build(task)
        for task in (*order, *order[::-1]):
            if scoped:
                init_default_scope(TASKS[task][-1])
            found = answer(task, models[task])
            assert torch.equal(found, expected.setdefault(task, found)), (task, order)
print("same")
"""


def test_the_models_of_all_tasks_work_in_one_process_in_either_order(run, tmp_path):
    script = tmp_path / "orders.py"
    script.write_text(BOTH_ORDERS)
    assert run(script).endswith("same\n")


# --- checkpoints under weights_only


def training_state() -> dict:
    """What mmengine's runner saves beside the weights: log buffers and NumPy numbers among it."""
    losses = HistoryBuffer([3.0, 2.5], [1, 1], max_length=10)
    losses.update(2.0)
    return {
        "state_dict": {"weight": torch.arange(3.0)},
        "optimizer": {
            "state": {0: {"step": torch.tensor(1.0)}},
            "param_groups": [{"lr": 0.1, "params": [0]}],
        },
        "message_hub": {
            "log_scalars": {"train/loss": losses},
            "runtime_info": {
                "best": np.float64(0.5),
                "count": np.int64(7),
                "single": np.float32(0.25),
                "flag": np.bool_(True),
                "pixels": np.arange(4, dtype=np.uint8),
            },
            "resumed_keys": {"train/loss": True},
        },
        "meta": {"epoch": 1, "iter": 3, "seed": 0},
    }


def test_a_runs_checkpoint_loads_without_running_code(tmp_path):
    path = tmp_path / "epoch_1.pth"
    save_checkpoint(training_state(), str(path))
    loaded = CheckpointLoader.load_checkpoint(str(path), "cpu")
    buffer = loaded["message_hub"]["log_scalars"]["train/loss"]
    assert type(buffer) is HistoryBuffer
    np.testing.assert_array_equal(buffer.data[0], [3.0, 2.5, 2.0])
    assert (buffer.mean(), buffer.max_length) == (2.5, 10)
    for content in (loaded, read_checkpoint(path)):
        info = content["message_hub"]["runtime_info"]
        assert (info["best"], info["count"], info["single"], info["flag"]) == (0.5, 7, 0.25, True)
        np.testing.assert_array_equal(info["pixels"], np.arange(4))
    assert torch.equal(state_dict_of(read_checkpoint(path))["weight"], torch.arange(3.0))
    layer = nn.Linear(3, 1, bias=False)
    save_checkpoint(training_state() | {"state_dict": layer.state_dict()}, str(path))
    assert load_checkpoint(nn.Linear(3, 1, bias=False), str(path))["meta"]["epoch"] == 1


def test_what_was_read_is_saved_as_mmengine_saves_it(tmp_path):
    """The stand-ins of the reader leave no trace in the next checkpoint, nor in what torch allows."""
    first, second = tmp_path / "epoch_1.pth", tmp_path / "epoch_2.pth"
    before = {*torch.serialization.get_safe_globals()}
    save_checkpoint(training_state(), str(first))
    save_checkpoint(CheckpointLoader.load_checkpoint(str(first), "cpu"), str(second))
    assert b"hardnet_suite" not in second.read_bytes()
    again = CheckpointLoader.load_checkpoint(str(second), "cpu")
    np.testing.assert_array_equal(again["message_hub"]["runtime_info"]["pixels"], np.arange(4))
    assert again["message_hub"]["log_scalars"]["train/loss"].current() == 2.0
    assert {*torch.serialization.get_safe_globals()} == before


PROGRAM = "open({trace!r}, 'w').close()\n"


@pytest.mark.parametrize("key", ["config", "cfg"])
def test_programs_in_a_checkpoint_never_reach_mmengine(tmp_path, key):
    """``Runner.resume`` and ``BaseInferencer`` run these entries where they find them."""
    trace, path = tmp_path / "trace", tmp_path / "epoch_1.pth"
    program = PROGRAM.format(trace=str(trace)) + "model = dict(type='Linear')\n"
    state = training_state()
    state["meta"][key] = state["message_hub"]["runtime_info"][key] = program
    save_checkpoint(state, str(path))
    loaded = CheckpointLoader.load_checkpoint(str(path), "cpu")
    assert loaded["meta"] == {"epoch": 1, "iter": 3, "seed": 0}
    assert key not in loaded["message_hub"]["runtime_info"]
    with pytest.raises(ValueError, match="Cannot find the config in the checkpoint"):
        BaseInferencer._init_model(None, Config(), str(path), "cpu")
    assert not trace.exists()


def test_a_missing_checkpoint_is_mmengines_own_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="can not be found"):
        load_checkpoint(nn.Linear(3, 1), str(tmp_path / "absent.pth"))


def test_tensors_are_moved_to_the_device(tmp_path):
    path = tmp_path / "epoch_1.pth"
    save_checkpoint(training_state(), str(path))
    loaded = CheckpointLoader.load_checkpoint(str(path), "meta")
    assert loaded["state_dict"]["weight"].is_meta
    assert loaded["optimizer"]["state"][0]["step"].is_meta


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_containers_keep_their_kind_on_every_device(device, tmp_path):
    """The milestones of ``MultiStepLR`` are a Counter: with other keys, none would ever be reached."""
    content = {
        "milestones": Counter([8, 11, 11]),
        "buffers": OrderedDict(weight=torch.ones(2)),
        "shape": torch.ones(2, 3).shape,
        "betas": (0.9, 0.999),
        "lists": [[1], [torch.ones(1)]],
    }
    torch.save({"state_dict": {}, "meta": {}, "content": content}, tmp_path / "w.pth")
    loaded = CheckpointLoader.load_checkpoint(str(tmp_path / "w.pth"), device)["content"]
    assert {key: type(value) for key, value in loaded.items()} == {
        key: type(value) for key, value in content.items()
    }
    for key in ("milestones", "shape", "betas"):
        assert loaded[key] == content[key]
    assert loaded["buffers"]["weight"].device.type == loaded["lists"][1][0].device.type == device


@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
def test_files_of_numpy_1_and_2_both_load(core, tmp_path):
    path = tmp_path / "checkpoint.pth"

    class Renaming(pickle._Pickler):  # the one in Python, which can be overridden
        """Names NumPy's functions as NumPy ``core`` names them."""

        def save_global(self, obj, name=None):
            if obj in (_multiarray.scalar, _multiarray._reconstruct):
                self.write(f"c{core}.multiarray\n{obj.__name__}\n".encode())
                self.memoize(obj)
            else:
                super().save_global(obj, name)

    class Module:
        Pickler = Renaming

    value = {"state_dict": {"w": torch.ones(1)}, "best": np.float64(0.75), "row": np.arange(3.0)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(value, path, pickle_module=Module, pickle_protocol=2)
    assert core.encode() + b".multiarray" in path.read_bytes()
    loaded = read_checkpoint(path)
    assert loaded["best"] == 0.75
    np.testing.assert_array_equal(loaded["row"], np.arange(3.0))


class Intruder:
    """A pickle that would leave a file behind if its code ran."""

    def __init__(self, path: str):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_a_checkpoint_that_carries_code_is_refused(tmp_path):
    path, trace = tmp_path / "epoch_1.pth", tmp_path / "trace"
    save_checkpoint(training_state() | {"hook": Intruder(str(trace))}, str(path))
    with pytest.raises(UserError, match=r"could run code \(it asks for io\.open\)"):
        load_checkpoint(nn.Linear(3, 1), str(path))
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    assert not trace.exists()


# --- whole files


@pytest.fixture
def backend() -> AtomicLocalBackend:
    return mmengine.fileio.get_file_backend("some/path", backend_args=compat.ATOMIC)


def names(folder) -> list[str]:
    return sorted(os.listdir(folder))


def test_mmengine_writes_through_it_where_it_is_named(backend, tmp_path):
    assert type(backend) is AtomicLocalBackend
    assert type(mmengine.fileio.get_file_backend("some/path")) is LocalBackend
    backend.put(b"one", tmp_path / "new" / "folder" / "file.bin")
    backend.put_text("zwei ü", tmp_path / "text.txt")
    assert backend.get(tmp_path / "new" / "folder" / "file.bin") == b"one"
    assert (tmp_path / "text.txt").read_text(encoding="utf-8") == "zwei ü"
    backend.put(b"two", tmp_path / "new" / "folder" / "file.bin")
    assert (tmp_path / "new" / "folder" / "file.bin").read_bytes() == b"two"
    assert names(tmp_path / "new" / "folder") == ["file.bin"]


def test_a_relative_path(backend, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    backend.put(b"one", "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == b"one"


def full_disk(*_):
    raise OSError(28, "No space left on device")


def interrupt(*_):
    raise KeyboardInterrupt


def broken_write(monkeypatch, failure):
    """Files whose writing stops half-way."""

    class File(io.FileIO):
        def write(self, data):
            super().write(data[: len(data) // 2])
            failure()

    monkeypatch.setattr(outputs.Path, "open", lambda path, mode: File(path, mode))


BREAKS = {
    "write": broken_write,
    "fsync": lambda monkeypatch, failure: monkeypatch.setattr(outputs.os, "fsync", failure),
    "replace": lambda monkeypatch, failure: monkeypatch.setattr(outputs.os, "replace", failure),
}


@pytest.mark.parametrize(("failure", "error"), [(full_disk, OSError), (interrupt, KeyboardInterrupt)])
@pytest.mark.parametrize("where", BREAKS)
def test_a_write_that_fails_leaves_the_old_file_whole(where, failure, error, tmp_path, monkeypatch):
    path = tmp_path / "epoch_1.pth"
    save_checkpoint({"state_dict": {"w": torch.zeros(1000)}}, str(path), backend_args=compat.ATOMIC)
    old = path.read_bytes()
    with monkeypatch.context() as patch:
        BREAKS[where](patch, failure)
        with pytest.raises(error):
            save_checkpoint({"state_dict": {"w": torch.ones(1000)}}, str(path), backend_args=compat.ATOMIC)
        with pytest.raises(error):
            save_checkpoint(
                {"state_dict": {"w": torch.ones(1000)}},
                str(tmp_path / "epoch_2.pth"),
                backend_args=compat.ATOMIC,
            )
    assert path.read_bytes() == old
    assert names(tmp_path) == ["epoch_1.pth"]
    save_checkpoint({"state_dict": {"w": torch.ones(1000)}}, str(path), backend_args=compat.ATOMIC)
    assert torch.load(path)["state_dict"]["w"].sum() == 1000


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_file_mode_follows_the_umask(backend, umask, mode, tmp_path):
    before = os.umask(umask)
    try:
        backend.put(b"one", tmp_path / "file.bin")
        assert os.umask(umask) == umask  # as it was
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file.bin").stat().st_mode) == mode


def test_installing_again_changes_nothing(backend, tmp_path):
    compat.install()
    again = mmengine.fileio.get_file_backend(str(tmp_path), backend_args=compat.ATOMIC)
    assert type(again) is type(backend) is AtomicLocalBackend
    assert issubclass(AtomicLocalBackend, LocalBackend)


# --- mmdet's SSDHead


def test_a_stock_ssd_head_is_repaired_and_its_class_is_not():
    from mmdet.models import SSDHead

    class OfANewerRelease(SSDHead):
        loss_cls = "its own"

    model = nn.ModuleList(kind.__new__(kind) for kind in (SSDHead, OfANewerRelease))
    for head in model:
        nn.Module.__init__(head)
    assert not hasattr(model[0], "loss_cls")
    compat.repair_ssd_heads(model)
    assert [head.loss_cls for head in model] == [None, "its own"]
    assert not hasattr(SSDHead, "loss_cls")


# --- what importing changes in a process

UNCHANGED = """
import random, warnings, logging
import _hardnet_suite_mmcv
import numpy as np
import cv2
import torch
import mmcv.transforms, mmdet.apis, mmdet.models, mmdet.datasets, mmdet.evaluation
import mmseg.models, mmseg.datasets
import mmengine.registry.root, mmengine.runner, mmengine.optim, mmengine.visualization
from mmengine.fileio import backends
from mmengine.registry import DefaultScope, Registry, root

modules = (mmdet.models, mmdet.datasets, mmseg.models, mmseg.datasets, mmengine.runner, mmengine.hooks)
classes = [one for module in modules for one in vars(module).values() if isinstance(one, type)]
assert mmdet.models.SSDHead in classes
registries = {name: value for name, value in vars(root).items() if isinstance(value, Registry)}


def state():
    return {
        "backends": {key: value for key, value in backends.backends.items() if key != "atomic_local"},
        "prefixes": dict(backends.prefix_to_backends),
        "classes": [(one, dict(vars(one))) for one in classes],
        "scope": DefaultScope.get_current_instance(),
        "threads": (torch.get_num_threads(), cv2.getNumThreads()),
        "dtype": torch.get_default_dtype(),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "denormal": float(torch.tensor(1e-40) * 1),
        "tf32": torch.backends.cuda.matmul.allow_tf32,
        "random": (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()),
        "filters": list(warnings.filters),
        "handlers": list(logging.getLogger().handlers),
        "numpy": sorted(vars(np)),
    }


def held():
    registered = [registries[name] for name in registries]
    for registry in list(registered):
        registered += registry.children.values()
    return {(registry.name, registry.scope, key): value
            for registry in registered for key, value in registry.module_dict.items()}


before, entries = state(), held()
safe = torch.serialization.get_safe_globals()
import hardnet_suite.openmm
import hardnet_suite.openmm.segmentation
after = state()
for key in before:
    assert before[key] == after[key], key
replaced = {key for key, value in entries.items() if held().get(key) is not value}
assert {key[2] for key in replaced} <= {"LoadImageFromFile"}, replaced
added = {key for key in held() if key not in entries}
ours = {key for key in added if held()[key].__module__.startswith("hardnet_suite.")}
assert {("model", "mmengine", name) for name in ("HarDNet", "HarDNetSSD", "HarDNetSegmentor")} <= ours
assert added == ours, added - ours
assert set(map(str, safe)) <= set(map(str, torch.serialization.get_safe_globals()))
print("unchanged")
"""


def test_importing_adds_and_changes_nothing_else(run, tmp_path):
    script = tmp_path / "unchanged.py"
    script.write_text(UNCHANGED)
    assert run(script).endswith("unchanged\n")


# --- bfloat16


class Toy(BaseModel):
    def __init__(self):
        super().__init__()
        self.backbone = hardnet_suite.openmm.models.backbone.HarDNet("hardnet39ds", out_indices=(1, 2))

    def forward(self, inputs, data_samples=None, mode="loss"):
        assert mode == "loss"
        return {"loss": sum(m.float().square().mean() for m in self.backbone(inputs))}


def bfloat16_step(device: str) -> None:
    torch.manual_seed(0)
    model = Toy().to(device).train()
    dtypes = set()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _, inputs, output: dtypes.add(output.dtype))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    wrapper = OPTIM_WRAPPERS.build({"type": "BFloat16OptimWrapper", "optimizer": optimizer})
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)).to(device)
    log = model.train_step({"inputs": images}, wrapper)

    assert log["loss"].isfinite()
    assert dtypes == {torch.bfloat16}
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.float32, name
        assert parameter.isfinite().all(), name
    convolutions = [name for name, parameter in model.named_parameters() if parameter.ndim == 4]
    assert all(not torch.equal(before[name], model.get_parameter(name)) for name in convolutions)
    assert all(buffer.dtype in (torch.float32, torch.int64) for buffer in model.buffers())

    # outside the wrapper nothing is left of it
    assert not torch.is_autocast_enabled(device)
    dtypes.clear()
    model(images)
    assert dtypes == {torch.float32}


def test_a_training_step_in_bfloat16():
    bfloat16_step("cpu")


@pytest.mark.gpu
def test_a_training_step_in_bfloat16_on_cuda():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    bfloat16_step("cuda")


@pytest.mark.parametrize("skip_empty", [True, False])
@pytest.mark.parametrize(
    "box",
    [
        (-30, -20, -5, -4),
        (70, 5, 90, 30),
        (5, 50, 20, 60),
        (-9, 10, -3, 30),
        (60, 36, 61, 37),
        (4, 4, 40, 30),
    ],
)
def test_masks_of_boxes_outside_of_the_image(box, skip_empty):
    """As on a GPU, where mmdet pastes into the whole image."""
    from mmdet.models.roi_heads.mask_heads import fcn_mask_head

    masks, boxes = torch.ones(1, 1, 7, 7), torch.tensor([box], dtype=torch.float32)
    images = []
    for skips in (skip_empty, False):
        image = torch.zeros(1, 32, 60)
        pasted, place = fcn_mask_head._do_paste_mask(masks, boxes, 32, 60, skip_empty=skips)
        image[(torch.arange(1), *place)] = pasted
        images.append(image > 0.5)
    assert torch.equal(*images)
    assert images[0].any() == (box == (4, 4, 40, 30))


@pytest.mark.parametrize("box", [(math.nan,) * 4, (5, 5, math.nan, 9), (-math.inf, 5, math.inf, 9)])
def test_masks_of_boxes_that_are_not_finite(box, monkeypatch):
    """A diverged model's: empty, and beside them masks as ever."""
    from mmdet.models.roi_heads.mask_heads import fcn_mask_head

    arange = torch.arange

    def bounded(start, end, **options):
        assert -100 < start <= end < 100  # mmdet would fill the memory
        return arange(start, end, **options)

    monkeypatch.setattr(torch, "arange", bounded)
    boxes = torch.tensor([(4, 4, 40, 30), box], dtype=torch.float32)
    pasted, place = fcn_mask_head._do_paste_mask(torch.ones(2, 1, 7, 7), boxes, 32, 60, skip_empty=True)
    image = torch.zeros(2, 32, 60)
    image[(arange(2), *place)] = pasted
    (expected, _) = fcn_mask_head._do_paste_mask(torch.ones(1, 1, 7, 7), boxes[:1], 32, 60, skip_empty=False)
    assert torch.equal(image[:1], expected)
    assert not (image[1] > 0.5).any()


def test_heat_maps_of_mmdet_are_decoded_by_the_suites_runner():
    """In channels-last memory, as the runner has other models, mmdet's decoding raises an error."""
    from mmdet.models import CenterNetHead

    from hardnet_suite.openmm.run.runner import SuiteRunner

    runner = SuiteRunner.__new__(SuiteRunner)
    runner.cfg, runner._distributed, runner.logger = Config({}), False, logging.getLogger(__name__)
    options = Config({"topk": 5, "local_maximum_kernel": 3, "max_per_img": 5})
    with DefaultScope.overwrite_default_scope("mmdet"):
        head = CenterNetHead(8, 8, 3, test_cfg=options)
    runner.wrap_model(None, nn.ModuleList([head]))
    runner.wrap_model(None, other := nn.Conv2d(8, 8, 3))
    assert other.weight.is_contiguous(memory_format=torch.channels_last)
    meta = {
        "border": (0, 32, 0, 32),
        "img_shape": (32, 32),
        "scale_factor": (1, 1),
        "batch_input_shape": (32, 32),
    }
    with torch.inference_mode():
        maps = head.eval()([torch.rand(2, 8, 8, 8)])
        found = head.predict_by_feat(*maps, batch_img_metas=[meta] * 2, rescale=False)
    assert [len(each.scores) for each in found] == [5, 5]
