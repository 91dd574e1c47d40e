"""From a config to a trained or scored model: what ``train`` and ``test`` of the command line do."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import platform
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import mmdet
import mmengine
import torch
import torchvision
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import is_main_process
from mmengine.model import BaseTTAModel, MMDistributedDataParallel, is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from hardnet_suite import __version__
from hardnet_suite.data.classes import require_same_classes
from hardnet_suite.data.classification import readable
from hardnet_suite.errors import UserError
from hardnet_suite.evaluation.coco import without_nan
from hardnet_suite.openmm.compat import repair_ssd_heads
from hardnet_suite.openmm.data.parts import inner_datasets, parts, require_data
from hardnet_suite.openmm.models.initializers import load_checkpoint
from hardnet_suite.openmm.run.configs import (
    add_test_time_augmentation,
    drop_pretrained,
)
from hardnet_suite.openmm.run.hooks import saved_checkpoints
from hardnet_suite.openmm.run.records import prepared_loader, records_of
from hardnet_suite.visualization.classification import draw_confusion
from hardnet_suite.weights import WeightsRow, fetch, find, read_checkpoint


class SuiteRunner(Runner):
    """mmengine's Runner with channels-last weights (faster on CPUs and tensor cores) and ranks on the CPU."""

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        # before DistributedDataParallel takes the parameters: it relies on their layout
        model = model.to(memory_format=torch.channels_last)
        repair_ssd_heads(model)
        if self.distributed and get_device() == "cpu" and model_wrapper_cfg is None:
            return MMDistributedDataParallel(model, broadcast_buffers=False)
        return super().wrap_model(model_wrapper_cfg, model)

    @classmethod
    def from_cfg(cls, cfg: Config) -> SuiteRunner:
        """As mmengine's; what the suite's inference cannot express is refused before anything is built."""
        records = records_of(cfg)
        runner = super().from_cfg(cfg)
        runner._records = records
        return runner

    def build_val_loop(self, loop):
        self._val_dataloader = prepared_loader(self._val_dataloader, self.cfg, "val_dataloader")
        return super().build_val_loop(loop)

    def build_test_loop(self, loop):
        self._test_dataloader = prepared_loader(self._test_dataloader, self.cfg, "test_dataloader")
        return super().build_test_loop(loop)

    def load_checkpoint(self, filename: str, map_location="cpu", strict=False, **options):
        """Weights to begin with (``load_from``) must fit but for the number of classes, a run to go on with
        in every tensor; mmengine would take what fits and say nothing of the rest to the caller."""
        if self._resume:
            return super().load_checkpoint(filename, map_location, strict=True, **options)
        model = self.model.module if is_model_wrapper(self.model) else self.model
        report = load_checkpoint(model, filename, self.cfg.get("arch"), other_classes=True)
        self.logger.info(f"{filename}: {report}")
        loaded = {"state_dict": model.state_dict()}
        self.call_hook("after_load_checkpoint", checkpoint=loaded)  # averaged weights begin there too
        return loaded

    def build_param_scheduler(self, scheduler):
        """A warm-up over the first epoch, where that is a single batch, never ends in mmengine: left out."""
        if isinstance(scheduler, list) and len(self.train_dataloader) == 1:
            kept = [one for one in scheduler if not _lasts_one_epoch(one)]
            if len(kept) < len(scheduler):
                self.logger.warning("an epoch has one batch: no warm-up (a smaller batch_size gives more)")
            scheduler = kept
        return super().build_param_scheduler(scheduler)

    def save_checkpoint(self, *args, meta: dict | None = None, **options) -> None:
        """The checkpoint says how its input is made and its output is read, for ``predict``."""
        super().save_checkpoint(*args, meta=(meta or {}) | self._records, **options)

    def dump_config(self) -> None:
        if self._train_loop is not None:  # scoring must not overwrite the record of the training
            super().dump_config()


def _lasts_one_epoch(scheduler) -> bool:
    return (
        isinstance(scheduler, dict)
        and bool(scheduler.get("convert_to_iter_based"))
        and scheduler.get("end", 0) - scheduler.get("begin", 0) == 1
    )


def prepare(cfg: Config, *, work_dir: str | Path, launcher: str = "none", amp: bool = False) -> None:
    """What every run needs: a writable folder, fast CPU arithmetic, processes that find each other."""
    _require_writable(Path(work_dir))
    cfg.work_dir = str(work_dir)
    if get_device() == "cpu":
        torch.set_flush_denormal(True)  # denormal numbers slow random networks tenfold
        _keep_freed_memory()
    if amp:
        cfg.optim_wrapper.type = "BFloat16OptimWrapper"
        torch.set_autocast_dtype("cuda", torch.bfloat16)  # what mmengine's loops take where fp16=True
        for loop in filter(None, (cfg.get("val_cfg"), cfg.get("test_cfg"))):
            loop.fp16 = True
    cfg.launcher = launcher
    if launcher != "none" and get_device() == "cpu":
        torch.distributed.init_process_group("gloo")  # mmengine would look for a GPU for each rank


def train(cfg: Config, *, from_scratch: bool = False, resume: bool | str = False) -> Runner:
    """Trains as the config says. resume: True goes on from the run's newest checkpoint, where there is one;
    a path goes on from that one."""
    require_data(cfg, ["train_dataloader", "val_dataloader"])
    checkpoint = resume if isinstance(resume, str) else None
    if resume is True:
        saved = saved_checkpoints(cfg.work_dir)
        checkpoint = str(saved[-1]) if saved else None
    if checkpoint and not {"meta", "optimizer"} <= read_checkpoint(checkpoint).keys():
        raise UserError(
            f"{checkpoint} holds weights, but no run to go on with; "
            f"to begin with these weights: --cfg-options load_from={checkpoint}"
        )
    cfg.load_from, cfg.resume = checkpoint or cfg.get("load_from"), checkpoint is not None
    if from_scratch or cfg.load_from:
        drop_pretrained(cfg)
    runner = SuiteRunner.from_cfg(cfg)
    if is_main_process():
        _log_data(runner)
    runner.train()
    return runner


def _log_data(runner: Runner) -> None:
    """What of the data training leaves out, or may stumble over: nothing goes in silence."""
    for part in parts(runner.cfg, ["train_dataloader", "val_dataloader"]):
        report = part.check(read=False)
        lines = [] if report is None else report.brief()
        if part.task == "detection":
            if report.crowds:
                lines.append(
                    f"{report.crowds} regions marked iscrowd are not trained on, and count neither way"
                )
            least = (part.filter_cfg or {}).get("min_size", 0)
            if report.sizes and min(report.sizes[:2]) < least:
                lines.append(f"images with a side under {least} pixels are left out (filter_cfg.min_size)")
        for line in lines:
            runner.logger.warning(f"{part.loader}: {line}")


# the evaluators that ``test`` knows, and where in the work dir the predictions go
_PREDICTIONS = {
    "CocoDetection": "detections.json",
    "SegmentationIoU": "predictions",
    "ImageClassification": "predictions.jsonl",
}


@dataclass(frozen=True)
class TestOptions:
    """How ``test`` scores: ``flip`` adds each image's mirror image, ``scales`` (segmentation) looks at each
    in several sizes; ``format_only`` (segmentation) saves predictions as a test server wants them and needs
    no labels; ``heatmap_dir`` is where heat maps go, of a model that predicts them."""

    heatmap_dir: Path | None = None
    flip: bool = False
    scales: tuple[float, ...] = (1.0,)
    format_only: bool = False


def test(cfg: Config, checkpoint: str | Path | None, options: TestOptions) -> tuple[dict, list]:
    """Scores a checkpoint on the config's test data: a file, a run's folder (its newest one), or None for
    the weights of the registry that the config's ``weights_tag`` names, by default the published ones.

    Writes the predictions into the work dir, detections.json (COCO result format), predictions/ (label
    images) or predictions.jsonl (the first guesses) with confusion.png, and metrics.json: the figures and
    what they were measured with. Returns what that holds, and the images that were scored: COCO's ids, or
    paths.
    """
    evaluator = cfg.get("test_evaluator")
    kind = evaluator.get("type") if isinstance(evaluator, dict) else str(evaluator)
    if kind not in _PREDICTIONS:
        raise UserError(
            f"the config's test_evaluator is {kind}: what can be scored here is {', '.join(_PREDICTIONS)}"
        )
    if options.format_only:
        _without_labels(cfg)
    require_data(cfg, ["test_dataloader"])
    arch = cfg.get("arch")
    if checkpoint is None:
        if arch is None:
            raise UserError("no checkpoint given, and the config names no arch with published weights")
        try:
            row = find(arch, cfg.get("weights_tag") or "published")
            _require_same_classes(cfg, row)
            checkpoint = fetch(row)
        except ValueError as error:
            raise UserError(f"no checkpoint given, and none to be had: {error}") from None
    elif Path(checkpoint).is_dir():
        saved = saved_checkpoints(checkpoint)
        if not saved:
            raise UserError(f"no checkpoint epoch_N.pth or iter_N.pth in {checkpoint}; train first")
        checkpoint = saved[-1]
    drop_pretrained(cfg)
    settings = {key: value for key, value in cfg.items() if key not in ("work_dir", "launcher")}
    settings_hash = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()
    for key in ("train_dataloader", "train_cfg", "optim_wrapper", "param_scheduler", "auto_scale_lr"):
        cfg[key] = None
    work_dir = Path(cfg.work_dir)
    add_test_time_augmentation(cfg, scales=options.scales, flip=options.flip)
    if kind == "CocoDetection":
        cfg.test_evaluator.results_file = str(work_dir / _PREDICTIONS[kind])
        if options.heatmap_dir is not None and cfg.model.get("test_cfg") is not None:
            cfg.model.test_cfg.keep_heatmap = True
            cfg.test_evaluator.heatmap_dir = str(options.heatmap_dir)
    elif kind == "ImageClassification":
        cfg.test_evaluator.results_file = str(work_dir / _PREDICTIONS[kind])
    else:
        part = next(parts(cfg, ["test_dataloader"]), None)
        if part is None or part.task != "segmentation":
            raise UserError("SegmentationIoU scores one SegmentationDataset: make it the test_dataloader's")
        cfg.test_evaluator.image_folder = str(part.image_folder)
        cfg.test_evaluator.predictions_dir = str(work_dir / _PREDICTIONS[kind])
        if options.format_only and part.labels.name == "cityscapes":
            cfg.test_evaluator.prediction_ids = "labelIds"
    runner = SuiteRunner.from_cfg(cfg)
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    _require_the_checkpoints_classes(cfg, checkpoint)
    load_checkpoint(model.module if isinstance(model, BaseTTAModel) else model, checkpoint, arch)
    figures = runner.test()
    metric = runner.test_loop.evaluator.metrics[0]
    report = {
        "metrics": without_nan(figures),
        **metric.details,
        "images": len(metric.image_ids),
        "scales": list(options.scales),
        "flip": options.flip,
        "config": cfg.filename,
        "config_sha256": settings_hash,
        "checkpoint": str(checkpoint),
        "checkpoint_sha256": hashlib.sha256(Path(checkpoint).read_bytes()).hexdigest(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
    }
    if is_main_process():
        if kind == "ImageClassification":
            names = readable(metric.dataset_meta["classes"])
            draw_confusion(metric.confusion, names, work_dir / "confusion.png")
        (work_dir / "metrics.json").write_text(json.dumps(report, indent=2) + "\n")
    return report, metric.image_ids


def _without_labels(cfg: Config) -> None:
    if not any(part.task == "segmentation" for part in parts(cfg, ["test_dataloader"])):
        raise UserError("--format-only is for segmentation: it saves label images, without scoring them")
    for dataset in inner_datasets(cfg.test_dataloader.dataset):
        dataset.data_prefix.pop("seg_map_path", None)


def _require_same_classes(cfg: Config, row: WeightsRow) -> None:
    for part in parts(cfg, ["test_dataloader"]):
        if row.classes and part.classes != row.classes:
            raise UserError(
                f"no checkpoint given, and the weights {row.tag!r} know {', '.join(row.classes)}, not the "
                f"config's {', '.join(part.classes)}; give a checkpoint, and drop the config's weights_tag"
            )


def _require_the_checkpoints_classes(cfg: Config, checkpoint: str | Path) -> None:
    """A classifier's folders may be others than those that it was trained on, and as many."""
    meta = read_checkpoint(checkpoint).get("meta")
    trained = (meta.get("dataset_meta") or {}).get("classes") if isinstance(meta, dict) else None
    for part in parts(cfg, ["test_dataloader"]):
        if trained:
            require_same_classes(
                part.classes,
                tuple(trained),
                where=part.loader,
                expected_where=str(checkpoint),
                cure="list the classes of the data set in the order of the checkpoint",
            )


def versions() -> dict[str, str]:
    """What a figure was measured with."""
    return {
        "hardnet_suite": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "mmengine": mmengine.__version__,
        "mmdet": mmdet.__version__,
        "device": torch.cuda.get_device_name() if get_device() == "cuda" else platform.machine(),
    }


def _keep_freed_memory() -> None:
    """Tells glibc to keep freed blocks. By default it returns each large map to the kernel and asks for it
    anew, which costs a fifth of CPU training time in page faults. Elsewhere than on Linux: nothing."""
    trim_threshold, mmap_threshold = -1, -3  # malloc.h: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(mmap_threshold, 1 << 30)
        libc.mallopt(trim_threshold, (1 << 31) - 1)


def _require_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error.strerror}; choose another --work-dir") from None
