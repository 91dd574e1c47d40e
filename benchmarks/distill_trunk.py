"""Trains the trunk of a model to compute what a pretrained network computes, on images without labels.

    python benchmarks/distill_trunk.py fchardnet70 --images PHOTOGRAPHS --out work_dirs/trunk --bf16
    hardnet-suite train fchardnet70_camvid \
        --cfg-options model.backbone.pretrained=work_dirs/trunk/trunk.safetensors

For a trunk without published weights, or where they cannot be had. At every stride that both have, a 1×1
convolution predicts the teacher's feature maps from the trunk's, and a linear layer predicts the classes of
the teacher from the means of the trunk's last two maps. The teacher is a convolutional network of timm, with
timm's weights or those of a file; it sees the same crops and is not trained. The loss is the mean squared
error of the maps, each channel standardised over the batch, plus half the Kullback-Leibler divergence of the
classes. An interrupted run resumes with the same images: what is drawn depends on the seed and the number of
the crop alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from hardnet_suite import create_model
from hardnet_suite.data.files import sha256
from hardnet_suite.data.images import IMAGE_SUFFIXES, read_rgb, walk_files
from hardnet_suite.errors import UserError
from hardnet_suite.losses import distillation_loss
from hardnet_suite.outputs import whole_file, write_file
from hardnet_suite.weights.file import read_checkpoint
from hardnet_suite.weights.save import save_weights

ASKED, STATE, LOG, TRUNK = "asked.json", "state.pth", "log.jsonl", "trunk.safetensors"
_WARM_UP = 100  # steps
_LOG_EVERY = 50
_SAVE_EVERY = 250  # a multiple of the above


class Crops(Dataset):
    """Crops of images, each of which depends on the seed and its number alone.

    Args:
        files: the images. All are drawn once before one is drawn again.
        size: height and width of the crops.
        seed: of the order and of the crops.
    """

    def __init__(self, files: Sequence[Path], size: int, seed: int):
        self.files, self.seed = files, seed
        self.change = v2.Compose(
            [
                v2.RandomResizedCrop(size, scale=(0.1, 1.0), antialias=True),
                v2.RandomHorizontalFlip(),
                v2.RandomApply([v2.ColorJitter(0.4, 0.3, 0.3, 0.05)], p=0.8),
            ]
        )

    def __getitem__(self, number: int) -> Tensor:
        """(3, size, size) uint8, RGB."""
        epoch, place = divmod(number, len(self.files))
        order = torch.randperm(len(self.files), generator=torch.Generator().manual_seed(self.seed + epoch))
        pixels = torch.from_numpy(read_rgb(self.files[order[place]])).permute(2, 0, 1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed((self.seed << 32) + number)
            return self.change(pixels)


class Teacher(nn.Module):
    """A network of timm: (N, 3, H, W) pixels, RGB, 0…255 -> its maps of strides 4 to 32, and logits."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network.requires_grad_(False)
        if not hasattr(network, "forward_intermediates") or not isinstance(network.feature_info, list):
            raise UserError("--teacher: timm gives no feature maps of this network")
        # the last map of each stride
        kept = {
            info["reduction"]: (index, info["num_chs"]) for index, info in enumerate(network.feature_info)
        }
        kept = {stride: kept[stride] for stride in (4, 8, 16, 32) if stride in kept}
        self.indices = [index for index, _ in kept.values()]
        self.channels = {stride: channels for stride, (_, channels) in kept.items()}
        self.num_classes = network.num_classes
        for name in ("mean", "std"):
            values = 255 * torch.tensor(network.pretrained_cfg[name])
            self.register_buffer(name, values.view(1, -1, 1, 1), persistent=False)
        self.eval()

    def forward(self, pixels: Tensor) -> tuple[dict[int, Tensor], Tensor]:
        last, maps = self.network.forward_intermediates((pixels - self.mean) / self.std, self.indices)
        return dict(zip(self.channels, maps, strict=True)), self.network.forward_head(last)


class Student(nn.Module):
    """The trunk of a model, and what predicts the teacher's maps and logits from its maps."""

    def __init__(self, arch: str, teacher: Teacher):
        super().__init__()
        self.trunk = create_model(arch, features_only=True)
        pairs = zip(self.trunk.strides, self.trunk.channels, strict=True)
        self.maps = nn.ModuleDict(
            {
                str(stride): nn.Conv2d(channels, teacher.channels[stride], 1)
                for stride, channels in pairs
                if stride in teacher.channels
            }
        )
        self.classes = nn.Linear(sum(self.trunk.channels[-2:]), teacher.num_classes)

    def forward(self, pixels: Tensor) -> tuple[dict[int, Tensor], Tensor]:
        maps = self.trunk(self.trunk.preprocess.normalize(pixels))
        by_stride = dict(zip(self.trunk.strides, maps, strict=True))
        means = torch.cat([each.mean((2, 3)) for each in maps[-2:]], dim=1)
        predicted = {int(stride): layer(by_stride[int(stride)]) for stride, layer in self.maps.items()}
        return predicted, self.classes(means)


def distillation_losses(
    student: tuple[dict[int, Tensor], Tensor], teacher: tuple[dict[int, Tensor], Tensor]
) -> dict[str, Tensor]:
    """The terms of the loss.

    Args:
        student: maps (N, C, H, W) by stride, and logits (N, K).
        teacher: the same; there may be more strides.

    Returns:
        "stride S": mean squared error to the teacher's map, each channel of which is standardised over the
        batch, so that a constant has 1; "classes": half the Kullback-Leibler divergence, in nats.

    Raises:
        ValueError: maps of one stride differ in shape.
    """
    losses = {}
    for stride, predicted in student[0].items():
        wanted = functional.batch_norm(teacher[0][stride].float(), None, None, training=True)
        if predicted.shape != wanted.shape:
            raise ValueError(f"stride {stride}: {tuple(predicted.shape)} instead of {tuple(wanted.shape)}")
        losses[f"stride {stride}"] = functional.mse_loss(predicted.float(), wanted)
    losses["classes"] = 0.5 * distillation_loss(student[1], teacher[1].float().softmax(1))
    return losses


def load_teacher(name: str, weights: Path | None) -> Teacher:
    """A network of timm with timm's own weights, or those of a file in its names.

    The file may also have the names of the package efficientnet_lite_pytorch.

    Raises:
        UserError: timm has no such network, or the file does not fit it.
    """
    if not timm.is_model(name):
        raise UserError(f"--teacher {name}: timm has no such network")
    if weights is None:
        return Teacher(timm.create_model(name, pretrained=True))
    network = timm.create_model(name)
    own = network.state_dict()
    state = read_checkpoint(weights)
    state = state.get("state_dict", state)
    if "_conv_stem.weight" in state:  # efficientnet_lite_pytorch: the same tensors in the same order
        if [key.split(".")[-1] for key in state] != [key.split(".")[-1] for key in own]:
            state = {}
        state = dict(zip(own, state.values(), strict=False))
    if {key: value.shape for key, value in state.items()} != {key: value.shape for key, value in own.items()}:
        raise UserError(f"{weights} does not hold the weights of timm's {name}")
    network.load_state_dict(state)
    return Teacher(network)


def learning_rate(step: int, steps: int, highest: float) -> float:
    """Linear warm-up, then a cosine to 0."""
    return highest * min(1.0, (step + 1) / _WARM_UP) * (1 + math.cos(math.pi * step / steps)) / 2


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("arch", help="a model of the suite whose trunk is trained")
    parser.add_argument("--images", nargs="+", required=True, type=Path, help="folders")
    parser.add_argument("--out", type=Path, required=True, help="a folder; a run in it resumes")
    parser.add_argument(
        "--teacher", default="tf_efficientnet_lite0", help="a name of timm (default %(default)s)"
    )
    parser.add_argument("--teacher-weights", type=Path, help="a file (default: timm downloads its own)")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--size", type=int, default=192, help="of the crops (default %(default)s pixels)")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16")
    args = parser.parse_args(arguments)
    for name in ("steps", "batch_size"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    if args.size < 64 or args.size % 64:
        parser.error("--size must be a multiple of 64")
    return args


def resume(
    args: argparse.Namespace, files: Sequence[Path], student: Student, optimizer: torch.optim.Optimizer
) -> list[dict[str, Any]]:
    """Continues the run in ``--out``, if there is one with the same arguments, images and teacher.

    Returns:
        Its log so far.

    Raises:
        UserError: it is another one.
    """
    asked = vars(args) | {"out": None}
    # by content, as folders may have moved
    asked["images"] = hashlib.sha256("".join(map(sha256, files)).encode()).hexdigest()
    asked["teacher_weights"] = args.teacher_weights and sha256(args.teacher_weights)
    text = json.dumps(asked, indent=1)
    path = args.out / ASKED
    if path.exists() and path.read_text() != text:
        raise UserError(
            f"{args.out} is of a run with other arguments, images or teacher ({ASKED}): choose another"
        )
    write_file(path, text)
    if not (args.out / STATE).exists():
        return []
    state = read_checkpoint(args.out / STATE)
    student.load_state_dict(state["student"])
    optimizer.load_state_dict(state["optimizer"])
    return state["history"]


def save(
    out: Path, student: Student, optimizer: torch.optim.Optimizer, history: list[dict[str, Any]]
) -> None:
    """Writes what ``resume`` reads, and the log."""
    state = {"student": student.state_dict(), "optimizer": optimizer.state_dict(), "history": history}
    with whole_file(out / STATE) as path:
        torch.save(state, path)
    write_file(out / LOG, "".join(json.dumps(row) + "\n" for row in history))


def main(arguments: Sequence[str] | None = None) -> Path:
    """Trains, and returns the file of the trunk's weights."""
    args = parse(arguments)
    files = [file for folder in args.images for file in walk_files(folder, IMAGE_SUFFIXES)]
    if not files:
        raise UserError(f"no images in {', '.join(map(str, args.images))}")
    torch.manual_seed(args.seed)
    torch.set_flush_denormal(True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    teacher = load_teacher(args.teacher, args.teacher_weights).to(device, memory_format=torch.channels_last)
    student = Student(args.arch, teacher).to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(student.parameters(), args.lr, weight_decay=0.02)
    history = resume(args, files, student, optimizer)
    first = history[-1]["step"] if history else 0
    numbers = range(first * args.batch_size, args.steps * args.batch_size)
    loader = DataLoader(Crops(files, args.size, args.seed), args.batch_size, sampler=numbers, num_workers=1)
    begun, terms = time.monotonic(), []
    for step, pixels in enumerate(loader, first):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args.steps, args.lr)
        pixels = pixels.to(device).float().contiguous(memory_format=torch.channels_last)
        with torch.autocast(device, torch.bfloat16, enabled=args.bf16):
            with torch.no_grad():
                wanted = teacher(pixels)
            predicted = student(pixels)
        losses = distillation_losses(predicted, wanted)
        loss = torch.stack([*losses.values()]).sum()
        if not torch.isfinite(loss):
            raise UserError(f"step {step + 1}: the loss is not finite; use a lower --lr")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 5.0)
        optimizer.step()
        terms.append(torch.stack([*losses.values()]).detach())
        done = step + 1
        if done % _LOG_EVERY == 0 or done == args.steps:
            means = torch.stack(terms).mean(0).tolist()
            terms.clear()
            history.append(
                {"step": done} | {name: round(mean, 4) for name, mean in zip(losses, means, strict=True)}
            )
            rate = (done - first) * args.batch_size / (time.monotonic() - begun)
            print(json.dumps(history[-1]), f"{rate:.1f} images/s", flush=True)
        if done % _SAVE_EVERY == 0 or done == args.steps:
            save(args.out, student, optimizer, history)
    trunk = student.trunk.eval().cpu()
    metadata = {
        "arch": args.arch,
        "teacher": args.teacher,
        "images": str(len(files)),
        "steps": str(args.steps),
    }
    save_weights(trunk.state_dict(), args.out / TRUNK, metadata=metadata, half=False)
    return args.out / TRUNK


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
