"""The suite's runner, and what every run needs before one is built."""

from __future__ import annotations

import math
import platform
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from copy import copy, deepcopy
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import mmdet
import mmengine
import torch
import torchvision
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import get_world_size, master_only
from mmengine.hooks import EMAHook, Hook, LoggerHook
from mmengine.logging import MessageHub, MMLogger
from mmengine.model import MMDistributedDataParallel, is_model_wrapper
from mmengine.registry import VISBACKENDS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, LogProcessor, Runner, load_state_dict
from mmengine.utils import is_method_overridden
from mmengine.visualization import LocalVisBackend, Visualizer
from torch import nn
from torch.utils.data import DataLoader

from hardnet_suite import __version__
from hardnet_suite.data.files import stop_looking
from hardnet_suite.data.report import counted
from hardnet_suite.errors import UserError
from hardnet_suite.openmm.checkpoints import for_mmengine
from hardnet_suite.openmm.compat import needs_contiguous_maps, repair_ssd_heads
from hardnet_suite.openmm.data.parts import kind_of, walk
from hardnet_suite.openmm.models.initializers import load_checkpoint
from hardnet_suite.openmm.run.accumulation import (
    GRADIENTS,
    accumulated_gradients,
    is_between_steps,
    recorded_step,
    restore_gradients,
)
from hardnet_suite.openmm.run.amp import training_precision, wrapper_in_precision
from hardnet_suite.openmm.run.averages import compare_averages, load_averages, record_averages
from hardnet_suite.openmm.run.buffers import (
    RANK_BUFFERS,
    AverageBuffersHook,
    averaged_buffers,
    restore_buffers,
)
from hardnet_suite.openmm.run.checks import (
    require_candidates,
    require_finite_weights,
    require_integer,
    require_numbers,
)
from hardnet_suite.openmm.run.compilation import compile_networks, compile_options
from hardnet_suite.openmm.run.drawings import DrawPredictionsHook
from hardnet_suite.openmm.run.hooks import (
    ResumableCheckpointHook,
    StopHook,
    require_pipeline_to_switch,
    require_single_hooks,
)
from hardnet_suite.openmm.run.keys import without_unread
from hardnet_suite.openmm.run.launch import require_launched, start_ranks
from hardnet_suite.openmm.run.logs import close_log, handle_errors, set_console
from hardnet_suite.openmm.run.loops import ResumableEpochLoop, require_epochs_to_end, require_epochs_to_save
from hardnet_suite.openmm.run.optimizers import (
    recorded_optimizer,
    require_paramwise,
    require_same_optimizer,
    use_own_options,
)
from hardnet_suite.openmm.run.precision import recorded_precision
from hardnet_suite.openmm.run.progress import ProgressLineHook
from hardnet_suite.openmm.run.records import decodes_itself, own_decoder, prepared_loader, records_of
from hardnet_suite.openmm.run.schedules import (
    require_iterations,
    resume_schedules,
    warn_of_early_end,
    without_single_steps,
)
from hardnet_suite.openmm.run.summary import classes_of
from hardnet_suite.openmm.run.workers import shield_workers
from hardnet_suite.outputs import require_replaceable, write_file, writing
from hardnet_suite.run_folders import DUMPED
from hardnet_suite.weights import Checkpoint, open_weights, state_dict_of
from hardnet_suite.weights.file import WeightsFile
from hardnet_suite.weights.tables import few

_MOST_IMAGES, _MOST_WORKERS = 1_000_000, 1024  # per data loader
_TIMES = ("time", "data_time")  # of an iteration, as IterTimerHook logs them
_LONGEST_WAIT = 30 * 60  # seconds for a batch: with a full /dev/shm it would never come
# what a data loader without worker processes refuses or has no use for
_WORKER_OPTIONS = ("persistent_workers", "prefetch_factor", "timeout", "multiprocessing_context")
# entries of a run's checkpoint that hooks find beside its weights
_BESIDE_WEIGHTS = ("meta", "message_hub", "optimizer", "param_schedulers")


class _RunConfig(Config):
    """A config whose text is formatted once, and not again for every log and checkpoint of a run."""

    _texts: ClassVar[dict[str, str]] = {}

    @property
    def pretty_text(self) -> str:
        content = repr(self._cfg_dict)
        if content not in self._texts:
            text = super().pretty_text
            self._texts.clear()  # of earlier runs
            self._texts[content] = text
        return self._texts[content]


def _forget(name: str, *managed: type) -> None:
    """Drops what an earlier run of that name has of these classes and their subclasses.

    mmengine would give it to the next run, which would write into the earlier one's folder.
    """
    kinds = list(managed)
    for kind in kinds:
        kinds += kind.__subclasses__()
        kind._instance_dict.pop(name, None)


# in a checkpoint's meta: a loop that cannot resume within an epoch saved it there
_WITHIN_EPOCH = "within_epoch"


class SuiteRunner(Runner):
    """mmengine's Runner with channels-last weights (faster on CPUs and tensor cores), ranks on the CPU,
    strict loading, schedules that follow the config on resume, and an end at the first non-finite loss."""

    _meta: ClassVar[dict] = {}  # what every checkpoint says beside mmengine's own
    _opened: Checkpoint | None = None  # the file of ``load_from``, until it is loaded
    _rank_buffers: list[dict[str, torch.Tensor]] | None = None  # while a checkpoint is saved
    _gradients: Any = None  # accumulated; while a checkpoint is saved, and from the one that is resumed
    _lost_gradients = False  # of the checkpoint that is resumed, for all it says
    _is_within_epoch = False  # between its beginning and its end, in which hooks save whole epochs
    _resumed_within_epoch = False  # what the checkpoint that is resumed says
    _is_visualizer_closed = False  # by mmengine's hook that logs
    stop: threading.Event | None = None  # once set, the run is saved and ends with ``hooks.Stopped``
    begun: threading.Event | None = None  # is set once nothing can refuse the training any more
    given: Config | None = None  # of a run that is resumed, the config before it was
    _is_begun = False
    last_saved: Path | None = None  # the checkpoint that this run saved last, or was resumed from

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        # before DistributedDataParallel takes the parameters: it relies on their layout
        if not needs_contiguous_maps(model):
            model = model.to(memory_format=torch.channels_last)
        repair_ssd_heads(model)
        if self.distributed and get_device() == "cpu" and model_wrapper_cfg is None:
            if self.cfg.get("sync_bn") and self._train_loop is not None:
                raise UserError(
                    "sync_bn synchronizes ranks on GPUs alone: remove it (sync_bn = None) to train on CPUs"
                )
            unused = self.cfg.get("find_unused_parameters", False)
            return MMDistributedDataParallel(model, broadcast_buffers=False, find_unused_parameters=unused)
        return super().wrap_model(model_wrapper_cfg, model)

    @classmethod
    def from_cfg(cls, cfg: Config, opened: Checkpoint | None = None) -> SuiteRunner:
        """As mmengine's; what the suite's inference cannot express is refused before anything is built.

        Args:
            cfg: the config of the run.
            opened: the file of ``cfg.load_from``, if it has been read already.
        """
        records = records_of(cfg)
        cfg = copy(cfg)
        object.__setattr__(cfg, "__class__", _RunConfig)  # a config's own takes it for an entry
        try:
            runner = super().from_cfg(cfg)
        except BaseException:
            close_log(MMLogger.get_current_instance())
            raise
        runner._meta, runner._opened = records | recorded_precision(training_precision(cfg)), opened
        return runner

    def build_logger(self, *args, **options) -> MMLogger:
        """A log file that cannot be written ends the run; Python would print a traceback for every line.

        The console shows what ``quiet_console`` leaves of it.
        """
        _forget(self.experiment_name, MMLogger, MessageHub, Visualizer)  # the config and second
        logger = super().build_logger(*args, **options)
        set_console(logger)
        handle_errors(logger)
        return logger

    def close(self) -> None:
        """Closes the run's files, and the live line."""
        for hook in self.hooks:
            if isinstance(hook, ProgressLineHook):
                hook.close()
        if not self._is_visualizer_closed:
            with suppress(OSError):  # what a full disk did not take
                self.visualizer.close()
        close_log(self.logger)

    def build_train_loop(self, loop):
        require_single_hooks(self.hooks)
        loop = super().build_train_loop(loop)
        require_epochs_to_save(loop, self.hooks)
        require_epochs_to_end(loop)
        require_pipeline_to_switch(self.hooks, loop.dataloader.dataset)
        return loop

    def build_val_loop(self, loop):
        require_candidates(getattr(self.model, "module", self.model))
        self._val_dataloader = prepared_loader(self._val_dataloader, self.cfg)
        return super().build_val_loop(loop)

    def build_test_loop(self, loop):
        require_candidates(getattr(self.model, "module", self.model))
        self._test_dataloader = prepared_loader(self._test_dataloader, self.cfg)
        return super().build_test_loop(loop)

    @staticmethod
    def build_dataloader(dataloader: DataLoader | dict, *args, **options) -> DataLoader:
        """Without worker processes (``num_workers=0``) the options for them are dropped, with them a wait for
        a batch ends; every pipeline loads its images with the suite's decoder, also where it names mmcv's by
        its scope."""
        if isinstance(dataloader, dict) and isinstance(dataloader.get("dataset"), dict):
            dataloader = deepcopy(dataloader)
            walk(dataloader["dataset"], _decode_by_suite)
        for key, least, most in (("batch_size", 1, _MOST_IMAGES), ("num_workers", 0, _MOST_WORKERS)):
            value = dataloader.get(key, least) if isinstance(dataloader, dict) else least
            require_integer(value, least, most, f"a data loader's {key}")
        if isinstance(dataloader, dict):
            _require_one_batch_size(dataloader)
        if isinstance(dataloader, dict) and not dataloader.get("num_workers"):
            dataloader = {key: value for key, value in dataloader.items() if key not in _WORKER_OPTIONS}
        elif isinstance(dataloader, dict):
            dataloader = {"timeout": _LONGEST_WAIT, **dataloader}
        return shield_workers(Runner.build_dataloader(dataloader, *args, **options))

    def build_log_processor(self, log_processor: LogProcessor | dict) -> LogProcessor:
        """Times of validation, whose step is the epoch, are named apart from those of training."""
        processor = super().build_log_processor(log_processor)
        processor.get_log_after_epoch = partial(_log_after_epoch, processor.get_log_after_epoch)
        return processor

    def _maybe_compile(self, target: str) -> None:
        """Compiles the networks; mmengine would compile the whole step, which is no single graph."""
        options = compile_options(self.cfg)
        if options is None:
            return
        model = self.model.module if is_model_wrapper(self.model) else self.model
        names = compile_networks(model, options)
        if not names:  # of another model
            super()._maybe_compile(target)
            return
        self.logger.info(f"torch.compile: {', '.join(names)}; the first iterations take long")

    def load_checkpoint(self, filename: str, *args, **options):
        """Initial weights (``load_from``) must fit except for the number of classes, those of a resumed run
        in every tensor; mmengine would load what fits and report the rest to nobody."""
        opened, self._opened = self._opened, None
        weights = opened or open_weights(
            Path(filename), self.cfg.get("arch"), known=False, initial=not self._resume
        )
        model = self.model.module if is_model_wrapper(self.model) else self.model
        if self._resume:
            checkpoint = for_mmengine(weights.content)
            load_averages(self, checkpoint, filename)
            _require_fit(model, state_dict_of(checkpoint), filename)
            require_same_optimizer(self.optim_wrapper, checkpoint, filename)
            schedulers = self.param_schedulers if isinstance(self.param_schedulers, list) else []
            use_own_options(self.optim_wrapper, checkpoint, schedulers, self.logger)
            load_state_dict(model, state_dict_of(checkpoint), strict=True, logger=self.logger)
            require_finite_weights(self.model.state_dict(), filename)
            restore_buffers(self, checkpoint.get(RANK_BUFFERS))
            self._resumed_schedules = checkpoint.get("param_schedulers")
            self._gradients = checkpoint.pop(GRADIENTS, None)
            self._lost_gradients = self._gradients is None and not is_between_steps(checkpoint.get("meta"))
            self._resumed_within_epoch = bool((checkpoint.get("meta") or {}).get(_WITHIN_EPOCH))
            return checkpoint
        dataset = getattr(getattr(self.train_loop, "dataloader", None), "dataset", None)
        classes = len(classes_of(dataset)) or None
        report = load_checkpoint(model, self._as_hooks_change(weights), other_classes=True, classes=classes)
        require_finite_weights(model.state_dict(), filename)
        self.logger.info(f"{filename}: {report}")
        loaded = {"state_dict": model.state_dict()}
        for hook in self.hooks:
            if isinstance(hook, EMAHook):  # averaged weights begin there too, in the shapes of the model
                hook.after_load_checkpoint(self, checkpoint=loaded)
        return loaded

    def _as_hooks_change(self, weights: Checkpoint) -> Checkpoint:
        """Initial weights as the ``after_load_checkpoint`` of the run's hooks leave them."""
        hooks = [
            hook
            for hook in self.hooks
            if not isinstance(hook, EMAHook) and is_method_overridden("after_load_checkpoint", Hook, hook)
        ]
        if not hooks:
            return weights
        content = for_mmengine(weights.content)
        checkpoint = {key: content[key] for key in _BESIDE_WEIGHTS if key in content}
        checkpoint["state_dict"] = OrderedDict(weights.state_dict)
        for hook in hooks:
            hook.after_load_checkpoint(self, checkpoint=checkpoint)
        file = WeightsFile.read(weights.path).with_content(checkpoint)
        return open_weights(file, self.cfg.get("arch"), known=False, initial=True)

    def resume(self, filename: str, *args, **options) -> None:
        """Resumes a run; the learning rate follows the config's schedule, also if the run began with another.

        Raises:
            UserError: the checkpoint lies beyond the end of the training, or its schedule cannot be
                recomputed.
        """
        fresh = [
            {key: value for key, value in group.items() if key != "params"}
            for group in self.optim_wrapper.param_groups
        ]
        seed = self._randomness_cfg.get("seed")
        try:
            super().resume(filename, *args, **options | {"resume_param_scheduler": False})
        except (UserError, MemoryError, OSError):
            raise
        except Exception as error:  # of whatever reads an entry that is not what a run writes
            reason = str(error).partition("\n")[0][:200]
            raise UserError(
                f"cannot resume: {filename} is damaged, or not a checkpoint of such a run "
                f"({type(error).__name__}: {reason}); resume from another"
            ) from error
        self._require_position(filename)
        by_epoch = isinstance(self.train_loop, EpochBasedTrainLoop)
        unit, now, end = (
            ("epoch", self.epoch, self.max_epochs) if by_epoch else ("iter", self.iter, self.max_iters)
        )
        if now > end:
            raise UserError(
                f"cannot resume: {filename} is at {unit} {now}, beyond the end of the training at {end}; "
                f"set a larger train_cfg.max_{unit}s"
            )
        if seed is not None and seed != self._randomness_cfg.get("seed"):
            self.logger.warning(
                f"the run keeps its seed {self._randomness_cfg['seed']}: the config's {seed} (--seed, "
                "randomness.seed) has no effect on resuming"
            )
        compare_averages(self)
        resume_schedules(self, fresh, self._resumed_schedules)
        self.last_saved = Path(filename)

    def _require_position(self, filename: str) -> None:
        """UserError unless the checkpoint's iteration lies within its epoch."""
        if not isinstance(self.train_loop, EpochBasedTrainLoop):
            return
        batches, is_within = (
            self.message_hub.runtime_info.get("batches_per_epoch"),
            self._resumed_within_epoch,
        )
        if batches is not None:  # of the suite's loop
            is_count = all(type(number) is int and number >= 0 for number in (self.epoch, self.iter, batches))
            if not is_count or not self.epoch * batches <= self.iter <= (self.epoch + 1) * batches:
                place = f"epoch {self.epoch!a}, iteration {self.iter!a}, with {batches!a} batches per epoch"
                raise UserError(
                    f"cannot resume: {filename} is at {place}: it is damaged; resume from another"
                )
            is_within = self.iter != self.epoch * batches
        if is_within and not isinstance(self.train_loop, ResumableEpochLoop):
            raise UserError(
                f"cannot resume: {filename} is of the middle of an epoch, which "
                f"{type(self.train_loop).__name__} would begin again: resume from the end of an epoch, or "
                'set train_cfg.type="ResumableEpochLoop"'
            )

    def _settle_loop(self) -> None:
        """What ``ResumableEpochLoop`` does itself and others do not: keeping the number of batches per epoch,
        and telling where a resumed run differs from an uninterrupted one."""
        if isinstance(self.train_loop, ResumableEpochLoop):
            return
        self.message_hub.runtime_info.pop("batches_per_epoch", None)  # of an earlier part of the run
        if self._resume and self.iter:
            self.logger.warning(
                f"{type(self.train_loop).__name__} (train_cfg) does not resume random numbers, so that the "
                "resumed training differs from an uninterrupted one; ResumableEpochLoop does"
            )

    def build_optim_wrapper(self, optim_wrapper):
        """Options for some parameters alone are checked, of which mmengine ignores those it does not know."""
        if isinstance(optim_wrapper, Mapping):
            model = self.model.module if is_model_wrapper(self.model) else self.model
            require_paramwise(optim_wrapper, model, self.logger)
        return super().build_optim_wrapper(optim_wrapper)

    def build_param_scheduler(self, scheduler):
        """A warm-up over a single iteration, such as an epoch of one batch, never ends in mmengine: it is
        dropped.

        Raises:
            UserError: a schedule in epochs, in a loop that completes none.
        """
        if isinstance(self.train_loop, IterBasedTrainLoop):
            require_iterations(scheduler)
        batches = len(self.train_dataloader)
        scheduler, dropped = without_single_steps(scheduler, batches)
        if batches == 1 and any(one.get("by_epoch", True) for one in dropped):
            self.logger.warning("an epoch has one batch: no warm-up (a smaller batch_size gives more)")
        elif dropped:
            kinds = ", ".join(map(kind_of, dropped))
            self.logger.warning(f"param_scheduler: {kinds} of a single iteration has no effect: left out")
        return super().build_param_scheduler(scheduler)

    def build_visualizer(self, visualizer=None):
        """Local logs are JSON that every parser reads: a figure that is not a number becomes null."""
        if isinstance(visualizer, dict):
            visualizer = deepcopy(dict(visualizer))
            for backend in visualizer.get("vis_backends") or []:
                if isinstance(backend, dict) and backend.get("type") == "LocalVisBackend":
                    backend["type"] = "StrictJsonVisBackend"
            _forget(visualizer.get("name") or self.experiment_name, Visualizer)
        return super().build_visualizer(visualizer)

    def register_default_hooks(self, hooks: dict | None = None) -> None:
        super().register_default_hooks(hooks)
        for kind in ("FiniteLossHook", "KnownMetricsHook"):
            self.register_hook({"type": kind})

    def register_hooks(self, default_hooks: dict | None = None, custom_hooks: list | None = None) -> None:
        hooks = [
            {**hook, "switch_pipeline": own_decoder(hook["switch_pipeline"])}
            if isinstance(hook, dict) and "switch_pipeline" in hook
            else hook
            for hook in custom_hooks or ()
        ]
        super().register_hooks(default_hooks, hooks)
        for kind in (AverageBuffersHook, ProgressLineHook, DrawPredictionsHook):
            if not any(isinstance(hook, kind) for hook in self.hooks):
                self.register_hook(kind())
        if not any(isinstance(hook, ResumableCheckpointHook) for hook in self.hooks):
            self.register_hook(StopHook())

    def save_checkpoint(
        self, out_dir: str, filename: str, *args, meta: dict | None = None, **options
    ) -> None:
        """The checkpoint says how its input is made and its output is read, for ``predict``.

        Its running statistics are the averages over the ranks; those of each rank are saved beside them, and
        so are the gradients of a step that is under way.
        """
        require_finite_weights(self.model.state_dict(), f"the model after iteration {self.iter}")
        is_resumable = options.get("save_optimizer", True)  # the best one is saved without
        self._gradients = accumulated_gradients(self) if is_resumable else None
        meta = (meta or {}) | self._meta
        if is_resumable:
            meta |= recorded_optimizer(self.optim_wrapper) | recorded_step(self._gradients)
            if self._is_within_epoch and not isinstance(self.train_loop, ResumableEpochLoop):
                meta[_WITHIN_EPOCH] = True
        with averaged_buffers(self) as self._rank_buffers, writing(Path(out_dir, filename)):
            super().save_checkpoint(out_dir, filename, *args, meta=meta, **options)
        self._gradients = None
        if is_resumable:
            self.last_saved = Path(out_dir, filename)

    def call_hook(self, fn_name: str, **options) -> None:
        """As mmengine's; a checkpoint that is about to be saved gets the buffers and accumulated gradients of
        all ranks, and a resumed run has its gradients before it trains."""
        if fn_name == "before_train":
            stop_looking()
            record_averages(self)
            self._settle_loop()
            gradients, self._gradients = self._gradients, None
            if self._resume:
                restore_gradients(self, gradients, lost=self._lost_gradients)
            warn_of_early_end(self)
        if fn_name in ("before_train_epoch", "after_train_epoch"):
            is_counted = isinstance(self.train_loop, EpochBasedTrainLoop)
            self._is_within_epoch = is_counted and fn_name == "before_train_epoch"
        if fn_name == "before_save_checkpoint" and self._gradients is not None:
            options["checkpoint"][GRADIENTS] = self._gradients
        if fn_name == "before_save_checkpoint" and self._rank_buffers:
            options["checkpoint"][RANK_BUFFERS] = self._rank_buffers
        super().call_hook(fn_name, **options)
        if fn_name == "before_train":  # a run that is refused leaves the config of the one that it resumes
            self._is_begun = True
            self.dump_config()
            if self.begun is not None:
                self.begun.set()
        if fn_name == "after_run":  # closed a second time, MLflow's would begin another run
            self._is_visualizer_closed = any(isinstance(hook, LoggerHook) for hook in self.hooks)

    @master_only
    def dump_config(self) -> None:
        """Writes the config into the work dir, unless a file of the user's is in the way.

        Variables that only served to build it are left out, so that the copy is a config itself. That of a
        run that is resumed begins anew, as the run did. The log's ``vis_data/config.py`` has all of them in
        any case.

        Nothing is written before the training begins, as mmengine would: it may be refused until then, and
        the folder is that of the run that it resumes or replaces. Nor does scoring write anything.
        """
        if self._train_loop is None or not self._is_begun:
            return
        target = Path(self.work_dir, Path(self.cfg.filename or self.timestamp).stem + ".py")
        try:
            require_replaceable(target, _is_dump, writer="training", option="--work-dir")
        except UserError:
            self.logger.info(f"{target} exists and stays as it is: vis_data/config.py has the whole config")
            return
        cfg = without_unread(self.given or self.cfg)
        if self.given is not None:
            initial = None if self.given.get("resume") else self.given.get("load_from")
            cfg.resume, cfg.load_from = False, initial
        write_file(target, DUMPED + cfg.pretty_text)


def _require_one_batch_size(dataloader: dict) -> None:
    """Refuses what a batch sampler's config says beside the data loader's: mmengine would let it win, so that
    batches have another size than the log, ``--global-batch-size`` and the checks of a resumed run assume."""
    sampler = dataloader.get("batch_sampler")
    for options in (sampler, sampler.get("inner") if isinstance(sampler, dict) else None):
        if not isinstance(options, dict):
            continue
        if "sampler" in options:
            raise UserError("a data loader's batch_sampler takes the data loader's sampler: set that instead")
        size, given = dataloader.get("batch_size"), options.get("batch_size")
        if given is not None and given != size:
            raise UserError(
                f"a data loader has batch_size={size!r}, but its batch_sampler has batch_size={given!r}: "
                "leave out the latter"
            )


def _decode_by_suite(dataset: dict) -> None:
    """Gives the pipeline of a data set, or of a wrapper, the suite's decoder."""
    if dataset.get("pipeline"):
        dataset["pipeline"] = own_decoder(dataset["pipeline"])


def _log_after_epoch(
    log: Callable[..., tuple[dict, str]], runner: Runner, batch_idx: int, mode: str, *args, **options
) -> tuple[dict, str]:
    """What a ``LogProcessor`` logs after an epoch; the times of validation are ``val/time`` and the like."""
    values, line = log(runner, batch_idx, mode, *args, **options)
    times = _TIMES if mode == "val" else ()
    return {f"{mode}/{key}" if key in times else key: value for key, value in values.items()}, line


def _is_dump(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(len(DUMPED)) == DUMPED.encode()


def _require_fit(model: nn.Module, state: Mapping[str, torch.Tensor], path: str) -> None:
    """UserError unless a resumed checkpoint has the model's tensors, no other ones, in their shapes."""
    own = model.state_dict()
    faults = {
        "missing": [key for key in own if key not in state],
        "unexpected": [key for key in state if key not in own],
        "of another shape": [key for key in own if key in state and own[key].shape != state[key].shape],
        "of complex numbers": [key for key in own if key in state and state[key].is_complex()],
    }
    told = "; ".join(
        f"{counted(len(keys), 'tensor')} {fault} ({few(keys)})" for fault, keys in faults.items() if keys
    )
    if told:
        raise UserError(
            f"cannot resume: {path} is of another model: {told}; resume with the config of that run"
        )


@VISBACKENDS.register_module()
class StrictJsonVisBackend(LocalVisBackend):
    """mmengine's ``LocalVisBackend``, whose JSON lines never hold NaN or Infinity."""

    def _dump(self, value_dict: dict, file_path: str, file_format: str) -> None:
        strict = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in value_dict.items()
        }
        with writing(file_path):
            super()._dump(strict, file_path, file_format)


def prepare(
    cfg: Config,
    *,
    work_dir: str | Path,
    launcher: str = "none",
    bf16: bool | None = None,
    trains: bool = True,
    global_batch_size: int | None = None,
) -> Config:
    """A copy of the config, ready to run: its work dir, launcher and arithmetic.

    Args:
        cfg: left unchanged.
        work_dir: folder of checkpoints, logs and results; made if missing.
        launcher: "pytorch" for a process that torchrun started; "none" otherwise.
        bf16: whether it computes under autocast to bfloat16, in training and scoring; None: as the config
            says. A model of another program is validated in float32, and tested on features in bfloat16.
        trains: whether the config is to train; scoring needs no optimizer wrapper, which is then left alone.
        global_batch_size: images per training step on all ranks together, from which follows the
            ``batch_size`` of each; None: as the config's entry of that name says, if it has one.

    Raises:
        UserError: a number of the config is out of range; the optimizer wrapper has a precision of its own;
            the ranks cannot share the global batch equally; the folder cannot be written; the process was not
            started as the launcher starts them, or the ranks cannot reach each other.
    """
    require_numbers(cfg)
    launcher = launcher if launcher != "none" else cfg.get("launcher", "none")
    started = torch.distributed.is_initialized()
    if not started:
        require_launched(launcher)
    _require_writable(Path(work_dir))
    cfg = deepcopy(cfg)
    cfg.work_dir = str(work_dir)
    loops = list(filter(None, (cfg.get("val_cfg"), cfg.get("test_cfg"))))
    if bf16 or (bf16 is None and cfg.get("bf16")):
        cfg.bf16 = True
        if trains and cfg.get("optim_wrapper"):
            cfg.optim_wrapper = wrapper_in_precision(cfg.optim_wrapper, bf16=True)
        decodes = decodes_itself(cfg)
        for loop in loops:
            # "autocast" in mmengine's loops; its type is set by amp.bfloat16_loops. Other programs decode
            # their boxes under it: such a model validates in float32, and test sets amp.bfloat16_features
            loop.fp16 = decodes
    elif bf16 is False:  # also of a run's config, which has been through here
        cfg.bf16 = False
        if trains and cfg.get("optim_wrapper"):
            cfg.optim_wrapper = wrapper_in_precision(cfg.optim_wrapper, bf16=False)
        for loop in loops:
            loop.fp16 = False
    cfg.launcher = launcher
    if launcher != "none" and not started:
        start_ranks(launcher, cfg.get("env_cfg") or {})
    if global_batch_size is not None:
        cfg.global_batch_size = global_batch_size
    if trains and cfg.get("global_batch_size") is not None and cfg.get("train_dataloader"):
        cfg.train_dataloader.batch_size = _share_of_batch(cfg.global_batch_size, get_world_size())
    return cfg


def _share_of_batch(size: int, ranks: int) -> int:
    """Images per step of one rank.

    Raises:
        UserError: the ranks cannot share them equally.
    """
    require_integer(size, 1, _MOST_IMAGES, "the global batch size")
    if size % ranks:
        raise UserError(
            f"a global batch of {counted(size, 'image')} cannot be shared equally by {ranks} ranks"
        )
    return size // ranks


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


def _require_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error.strerror}; choose another --work-dir") from None
