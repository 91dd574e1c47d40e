"""What teachers predict reaches the loss: their input, their mean, padding, classes, and what is saved."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.model import BaseModule
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from PIL import Image
from torch import nn

import hardnet_suite.openmm.segmentation  # noqa: F401
from hardnet_suite import create_model
from hardnet_suite.data.segmentation import LABEL_SETS
from hardnet_suite.errors import UserError
from hardnet_suite.inference.prepare import to_input
from hardnet_suite.networks import PREPROCESS
from hardnet_suite.openmm.models.segmentor import FCHarDNetHead
from hardnet_suite.openmm.run.configs import load_config
from hardnet_suite.openmm.run.distillation import DistillationHook, MeanOfTeachers, Teacher
from hardnet_suite.openmm.run.runner import prepare
from hardnet_suite.openmm.run.train import train
from hardnet_suite.weights.file import read_checkpoint
from hardnet_suite.weights.save import save_weights

ROOT = Path(__file__).resolve().parents[3]
CLASSES = LABEL_SETS["camvid"].classes
SHIPPED = {"model": "fchardnet70", "weights": "camvid"}


@MODELS.register_module()
class RedTeacher(nn.Module):
    """The logit of the first class is the red of the pixel over 51, that of the second its green."""

    def __init__(self, classes=CLASSES, scale: float = 51.0):
        super().__init__()
        self.classes, self.scale = classes, scale

    def forward(self, pixels):
        assert not self.training
        logits = pixels.new_zeros(len(pixels), len(self.classes), *pixels.shape[2:])
        logits[:, 0], logits[:, 1] = pixels[:, 0] / self.scale, pixels[:, 1] / self.scale
        return logits


def a_head(num_classes=11):
    init_default_scope("mmseg")
    loss = {"type": "CrossEntropyLoss", "use_sigmoid": num_classes == 1}
    return FCHarDNetHead("fchardnet70", num_classes=num_classes, loss_decode=loss)


def a_runner(head=None, metainfo=None, lines=None):
    model = nn.Module()
    model.decode_head = head or a_head()
    say = [].append if lines is None else lines.append
    return SimpleNamespace(
        cfg=load_config("fchardnet70_camvid"),
        model=model,
        train_dataloader=SimpleNamespace(
            dataset=SimpleNamespace(metainfo={"classes": CLASSES} if metainfo is None else metainfo)
        ),
        logger=SimpleNamespace(info=lambda line: None, warning=say),
        optim_wrapper=SimpleNamespace(optim_context=lambda module: nullcontext()),
    )


def a_batch(*sizes, seed=0):
    random = np.random.default_rng(seed)
    images = [torch.from_numpy(random.integers(0, 256, (3, *size), np.uint8)) for size in sizes]
    return {"inputs": images, "data_samples": [SegDataSample() for _ in sizes]}


def taught(teachers, batch, **options):
    """The probabilities that the samples of a batch get."""
    hook, runner = DistillationHook(teachers, **options), a_runner()
    hook.before_train(runner)
    hook.before_train_iter(runner, 0, batch)
    return [sample.teacher.data for sample in batch["data_samples"]]


def test_a_teacher_sees_rgb_pixels_and_each_sample_gets_its_own_answer():
    batch = a_batch((40, 64), (32, 48), (40, 64))
    for image, answer in zip(batch["inputs"], taught([{"type": "RedTeacher"}], batch), strict=True):
        logits = torch.zeros(len(CLASSES), *image.shape[1:])
        logits[0], logits[1] = image[2] / 51.0, image[1] / 51.0  # of blue, green, red
        torch.testing.assert_close(answer, logits.softmax(0))


def test_a_network_of_the_suite_teaches_what_it_predicts():
    batch = a_batch((64, 96))
    network = create_model("fchardnet70", pretrained="camvid").eval()
    pixels = batch["inputs"][0].flip(0)[None]
    with torch.no_grad():
        expected = (network(to_input(pixels, PREPROCESS["fchardnet70"])) / 2).softmax(1)
    torch.testing.assert_close(taught([SHIPPED], batch, temperature=2.0)[0], expected[0])


def test_several_teachers_teach_the_mean_of_their_probabilities():
    several = [{"type": "RedTeacher"}, SHIPPED, {"type": "RedTeacher", "scale": 10.0}]
    apart = [taught([one], a_batch((64, 64)), temperature=3.0)[0] for one in several]
    torch.testing.assert_close(
        taught(several, a_batch((64, 64)), temperature=3.0)[0], torch.stack(apart).mean(0)
    )


@pytest.mark.parametrize("num_classes", [11, 1])
def test_the_loss_of_the_head_leaves_out_what_pads_the_batch(num_classes):
    torch.manual_seed(0)
    head = a_head(num_classes)
    size, inside = (64, 64), (40, 48)
    likely = torch.rand(num_classes, *inside)
    likely = likely / likely.sum(0) if num_classes > 1 else likely
    sample = SegDataSample(
        gt_sem_seg=PixelData(data=torch.zeros(1, *size, dtype=torch.long)), teacher=PixelData(data=likely)
    )
    hook = DistillationHook([{"type": "RedTeacher"}], weight=3.0, temperature=2.0)
    logits = torch.randn(1, num_classes, 16, 16)
    assert "loss_distillation" not in head.loss_by_feat(logits, [sample])
    head.distillation = hook._loss
    full = head._distillation_loss(logits, [sample])
    large = nn.functional.interpolate(logits, size, mode="bilinear", align_corners=True)
    cut = large[..., : inside[0], : inside[1]]
    kind = {1: lambda x: torch.cat([x.sigmoid(), 1 - x.sigmoid()], 1)}.get(
        num_classes, lambda x: x.softmax(1)
    )
    wanted = torch.cat([likely, 1 - likely]) if num_classes == 1 else likely
    divergence = (wanted * (wanted.log() - kind(cut / 2)[0].log())).sum(0).mean()
    torch.testing.assert_close(full, 3 * 4 * divergence)
    assert head.loss_by_feat(logits, [sample])["loss_distillation"] == full


def a_mean(*modules, classes=CLASSES):
    return MeanOfTeachers([Teacher(each, type(each).__name__) for each in modules], len(classes))


def test_teachers_stay_in_eval_mode_and_learn_nothing():
    convolution = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
    mean = a_mean(convolution, RedTeacher(("a", "b")), classes="ab")
    mean.train()
    assert not any(module.training for module in mean.modules())
    before = {key: value.clone() for key, value in mean.state_dict().items()}
    assert not mean(torch.rand(2, 3, 8, 8)).requires_grad
    assert all(torch.equal(before[key], value) for key, value in mean.state_dict().items())


def test_a_teacher_cannot_change_what_the_next_one_sees():
    class InPlace(RedTeacher):
        def forward(self, pixels):
            return super().forward(pixels.sub_(128).div_(50))

    pixels = torch.rand(1, 3, 8, 8) * 255
    before = pixels.clone()
    torch.testing.assert_close(
        a_mean(InPlace(), RedTeacher())(pixels), a_mean(RedTeacher(), InPlace())(pixels)
    )
    assert torch.equal(pixels, before)


class Answers(RedTeacher):
    """What the teacher makes of the right logits."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def forward(self, pixels):
        return self.change(super().forward(pixels))


@pytest.mark.parametrize(
    "change",
    [
        lambda logits: nn.functional.avg_pool2d(logits, 4),  # at the stride of mmseg's heads
        lambda logits: logits[:, :1],
        lambda logits: torch.cat([logits, logits[:, :1]], 1),
        lambda logits: logits[0],
        lambda logits: logits[..., :-1],
        lambda logits: nn.functional.pad(logits, (0, 8)),
    ],
)
def test_answers_of_another_shape_are_an_error(change):
    with pytest.raises(UserError, match=r"the teacher Answers returns \(.*expected logits \(2, 11, 16, 24\)"):
        a_mean(Answers(change))(torch.rand(2, 3, 16, 24))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_teacher_whose_answers_are_not_finite_is_named(value):
    def spoil(logits):
        logits[0, 3, 2, 1] = value
        return logits

    with pytest.raises(UserError, match="the teacher Answers returns NaN or infinity"):
        a_mean(RedTeacher(), Answers(spoil))(torch.rand(2, 3, 16, 24))


@pytest.mark.parametrize("pixels", [torch.full((1, 3, 4, 4), -2.1), torch.full((1, 3, 4, 4), 300.0)])
def test_pixels_that_were_normalised_are_an_error(pixels):
    with pytest.raises(UserError, match="leave the normalisation to the data preprocessor"):
        a_mean(RedTeacher())(pixels)


@MODELS.register_module()
class FileTeacher(BaseModule):
    """Has weights that its init_cfg names."""

    def __init__(self, classes=CLASSES, init_cfg=None):
        super().__init__(init_cfg)
        self.classes, self.last = classes, nn.Conv2d(3, len(classes), 1)

    def forward(self, pixels):
        return self.last(pixels / 255)


def test_the_file_of_a_teachers_init_cfg_is_read(tmp_path):
    torch.manual_seed(0)
    trained = FileTeacher()
    torch.save(trained.state_dict(), tmp_path / "trained.pth")
    pretrained = {"type": "Pretrained", "checkpoint": str(tmp_path / "trained.pth")}
    batch = a_batch((16, 24))
    answer = taught([{"type": "FileTeacher", "init_cfg": pretrained}], batch)[0]
    with torch.no_grad():
        expected = trained(batch["inputs"][0].flip(0)[None].float()).softmax(1)[0]
    torch.testing.assert_close(answer, expected)


def test_a_teacher_trained_on_images_of_another_size_is_told(tmp_path):
    lines = []
    record = {**PREPROCESS["fchardnet70"].to_dict(), "resize": "factor", "factor": (0.5, 0.5)}
    small = a_file(tmp_path / "small.safetensors", CLASSES, preprocess=json.dumps(record))
    DistillationHook([str(small)]).before_train(a_runner(lines=lines))
    assert len(lines) == 1
    assert "is used with another resize, factor than the training" in lines[0]
    DistillationHook([SHIPPED, {"type": "RedTeacher"}]).before_train(a_runner(lines=lines))
    assert len(lines) == 1


@pytest.mark.parametrize(
    "change", [{"test_dataloader": None, "val_dataloader": None}, {"arch": None, "model": {}}]
)
def test_configs_that_only_train_and_other_models_with_the_head(change):
    runner = a_runner()
    for key, value in change.items():
        runner.cfg[key] = value
    DistillationHook([SHIPPED]).before_train(runner)
    assert runner.model.decode_head.distillation is not None


def test_a_second_hook_is_an_error_and_a_training_leaves_the_model_as_it_was():
    runner = a_runner()
    hook = DistillationHook([{"type": "RedTeacher"}])
    hook.before_train(runner)
    with pytest.raises(UserError, match="two DistillationHooks: give all teachers to one"):
        DistillationHook([{"type": "RedTeacher"}]).before_train(runner)
    hook.after_train(runner)
    assert runner.model.decode_head.distillation is None


@pytest.mark.parametrize("bf16", [False, True])
def test_teachers_without_parameters_in_each_precision(bf16):
    wrapper = build_optim_wrapper(
        nn.Linear(1, 1),
        {"type": "BFloat16OptimWrapper" if bf16 else "OptimWrapper", "optimizer": {"type": "SGD", "lr": 0.1}},
    )
    hook, runner, batch = DistillationHook([{"type": "RedTeacher"}]), a_runner(), a_batch((32, 32))
    runner.optim_wrapper = wrapper
    hook.before_train(runner)
    hook.before_train_iter(runner, 0, batch)
    assert batch["data_samples"][0].teacher.data.shape == (len(CLASSES), 32, 32)


def a_file(path, classes, *, num_classes=11, in_chans=3, **metadata):
    network = create_model("fchardnet70", num_classes=num_classes, in_chans=in_chans)
    names = {"classes": json.dumps(classes)} if classes else {}
    save_weights(network.state_dict(), path, metadata=names | metadata)
    return path


def swapped():
    return (CLASSES[1], CLASSES[0], *CLASSES[2:])


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ({"type": "RedTeacher", "classes": ("a", "b")}, r"teachers\[0\] \(RedTeacher\) has 2 classes"),
        ({"type": "RedTeacher", "classes": swapped()}, "the same classes in another order"),
        ({"type": "RedTeacher", "classes": None}, "RedTeacher has no attribute classes"),
        ({"model": "fchardnet70", "weights": "nothing"}, "neither a file nor a tag"),
        ({"model": "hardnet39ds", "weights": "tiny_imagenet10"}, "expected a segmentation model"),
        ({"type": "RedTeacher", "classes": "ab"}, "the classes of RedTeacher is the string 'ab'"),
        ({"type": "RedTeacher", "scal": 3}, "scal"),
        ({"type": "RedTeacher", "weights": "x.pth"}, "weights"),
        ({"type": "NoSuchTeacher"}, "NoSuchTeacher"),
        ({"weights": 5}, "expected weights"),
        ({"weights": ""}, "expected weights"),
        ("camvid", r"a tag needs its model: dict\(model=…, weights=…\)"),
        ({"model": "fchardnet70"}, "expected weights=…, a path, or the type of a registered module"),
        ({"weights": "x.pth", "wieght": 1}, "wieght"),
        ("no_such_file.pth", "no_such_file.pth"),
    ],
)
def test_bad_teachers(teacher, message):
    with pytest.raises(UserError, match=message):
        DistillationHook([teacher]).before_train(a_runner())


def test_the_classes_of_a_file_are_those_of_the_data(tmp_path):
    named = a_file(tmp_path / "named.safetensors", CLASSES)
    bare = a_file(tmp_path / "bare.safetensors", None)
    other = a_file(tmp_path / "other.safetensors", swapped())
    DistillationHook([str(named)]).before_train(a_runner())
    DistillationHook([{"weights": str(bare), "classes": CLASSES}]).before_train(a_runner())
    with pytest.raises(UserError, match="does not name its classes: add classes"):
        DistillationHook([str(bare)]).before_train(a_runner())
    with pytest.raises(UserError, match="the same classes in another order"):
        DistillationHook([str(other)]).before_train(a_runner())
    with pytest.raises(UserError, match="the same classes in another order"):
        DistillationHook([{"weights": str(other), "classes": CLASSES}]).before_train(a_runner())
    with pytest.raises(UserError, match="expected a non-empty list of class names"):
        DistillationHook([{"weights": str(bare), "classes": []}]).before_train(a_runner())


@pytest.mark.parametrize("num_classes", [1, 12])
def test_as_many_names_as_the_file_has_classes(tmp_path, num_classes):
    path = a_file(tmp_path / "bare.safetensors", None, num_classes=num_classes)
    message = rf"teachers\[0\].classes has 11 names, but .* has {num_classes} class"
    with pytest.raises(UserError, match=message):
        DistillationHook([{"weights": str(path), "classes": CLASSES}]).before_train(a_runner())


def test_teachers_of_grey_images_are_an_error(tmp_path):
    path = a_file(tmp_path / "grey.safetensors", CLASSES, in_chans=1)
    with pytest.raises(UserError, match="takes 1 channels, expected 3"):
        DistillationHook([str(path)]).before_train(a_runner())


def test_data_without_class_names_are_an_error():
    with pytest.raises(UserError, match="has no classes in metainfo"):
        DistillationHook([SHIPPED]).before_train(a_runner(metainfo={}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teachers": []}, "expected a list of at least one"),
        ({"teachers": "run"}, "expected a list of at least one"),
        ({"teachers": {"weights": "run"}}, "expected a list of at least one"),
        *(({"teachers": each}, "expected a list of at least one") for each in (5, None, {"run"})),
        *(
            ({"teachers": ["run", each]}, r"teachers\[1\]: expected a path or a dict")
            for each in (5, None, "", {})
        ),
        *(
            ({"teachers": ["run"], name: value}, f"{name} must be a number from")
            for name in ("weight", "temperature")
            for value in (0, -1.0, float("nan"), float("inf"), 1e-40, 1e40, "1", True, None)
        ),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(UserError, match=message):
        DistillationHook(**options)


def test_other_models_are_an_error():
    with pytest.raises(UserError, match="expected a HarDNetSegmentor to train, got a Module"):
        DistillationHook([SHIPPED]).before_train(a_runner(head=nn.Identity()))


CONFIG = """
_base_ = "{root}/configs/fchardnet70_camvid.py"
crop = (64, 64)
model = dict(data_preprocessor=dict(size=crop), init_cfg=None)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadLabels"),
    dict(type="mmseg.RandomCrop", crop_size=crop),
    dict(type="mmseg.PackSegInputs"),
]
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False)
train_dataloader["dataset"] = dict(pipeline=train_pipeline)
val_dataloader = None
val_cfg = None
val_evaluator = None
train_cfg = dict(max_epochs=2, val_interval=2)
param_scheduler = []
default_hooks = dict(logger=dict(interval=1))
"""


@pytest.fixture
def a_config(tmp_path, monkeypatch):
    """Writes a config of four images to train on, with more hooks; returns it as prepared."""
    random = np.random.default_rng(0)
    for name in "abcd":
        labels = np.zeros((64, 96), np.uint8)
        labels[:, 48:], labels[:4] = 3, 11
        for folder, values in (
            ("train", random.integers(0, 256, (64, 96, 3), np.uint8)),
            ("trainannot", labels),
        ):
            (tmp_path / "data/camvid" / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(tmp_path / "data/camvid" / folder / f"{name}.png")
    monkeypatch.chdir(tmp_path)

    def config(name, hooks=()):
        path = tmp_path / f"{name}.py"
        path.write_text(
            CONFIG.replace("{root}", str(ROOT))
            + "custom_hooks = [*_base_.custom_hooks, "
            + ", ".join(map(repr, hooks))
            + "]\n"
        )
        return prepare(load_config(path), work_dir=tmp_path / "runs" / name)

    return config


def losses_of(runner):
    log = next(Path(runner.work_dir).rglob("scalars.json")).read_text()
    return [line for line in map(json.loads, log.splitlines()) if "loss" in line]


def test_a_training_adds_the_loss_and_saves_the_model_alone(a_config):
    hook = {"type": "DistillationHook", "teachers": [SHIPPED, {"type": "RedTeacher"}], "weight": 0.5}
    plain = train(a_config("plain"), from_scratch=True)
    distilled = train(a_config("distilled", [hook]), from_scratch=True)
    first, other = losses_of(plain)[0], losses_of(distilled)[0]
    added = other["decode.loss_distillation"]
    assert added > 0.1
    assert other["loss"] == pytest.approx(first["loss"] + added, rel=1e-4)  # the same weights and crops
    assert not any("distillation" in key for key in first)
    states = [read_checkpoint(f"{run.work_dir}/epoch_2.pth")["state_dict"] for run in (plain, distilled)]
    assert states[0].keys() == states[1].keys()
    assert any(not torch.equal(states[0][key], states[1][key]) for key in states[0])
    again = train(a_config("distilled", [hook]), resume=True)
    assert again.iter == 4
    network = create_model("fchardnet70", pretrained=f"{distilled.work_dir}/epoch_2.pth")  # needs no teacher
    assert network.usage.classes == CLASSES
