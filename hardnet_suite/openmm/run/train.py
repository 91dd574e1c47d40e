"""Training: from a config to checkpoints."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import closing, suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.runner import Runner

from hardnet_suite.data.classes import readable, require_same_classes
from hardnet_suite.data.files import looking_once
from hardnet_suite.errors import UserError
from hardnet_suite.networks import ARCHS, PREPROCESS, Preprocess
from hardnet_suite.openmm.data.parts import parts, require_data, sharing_folders, trained_on
from hardnet_suite.openmm.models.config import is_others
from hardnet_suite.openmm.models.initializers import initial_row
from hardnet_suite.openmm.run.amp import bfloat16_loops, training_precision
from hardnet_suite.openmm.run.compilation import compile_options, require_compiler
from hardnet_suite.openmm.run.configs import drop_pretrained
from hardnet_suite.openmm.run.keys import require_supported
from hardnet_suite.openmm.run.lock import sole_training
from hardnet_suite.openmm.run.precision import precision_in
from hardnet_suite.openmm.run.records import (
    postprocess_of,
    preprocess_of,
    records_of,
    trunk_input_differences,
)
from hardnet_suite.openmm.run.runner import SuiteRunner
from hardnet_suite.openmm.run.summary import announce_training, initial_weights, pretrained_parts
from hardnet_suite.openmm.run.surroundings import WorkDirHook, explained, how_to_resume
from hardnet_suite.weights import Checkpoint, open_weights
from hardnet_suite.weights.file import WeightsFile
from hardnet_suite.weights.layouts import LAYOUTS
from hardnet_suite.weights.runs import newest_checkpoint

_DATA = ("train_dataloader", "val_dataloader")


def train(
    cfg: Config,
    *,
    from_scratch: bool = False,
    resume: bool | str = False,
    stop: threading.Event | None = None,
    begun: threading.Event | None = None,
) -> SuiteRunner:
    """Trains as the config says; the data and the classes are checked before anything is built.

    Args:
        cfg: as ``prepare`` returns it; left unchanged.
        from_scratch: starts from random weights: no published ones are fetched.
        resume: True resumes from the run's newest checkpoint, if there is one; a path from that checkpoint,
            or from the newest of another run's folder.
        stop: once set, by another thread or a signal, the run is saved after the current iteration and ends.
        begun: is set once nothing can refuse the training any more; until then, nothing of a run that it
            resumes is replaced.

    Raises:
        Stopped: ``stop`` was set; it is a ``KeyboardInterrupt``.
        UserError: data, classes, weights or a checkpoint that do not fit; ``compile`` where torch.compile
            does not work; a training that diverges; another one in the same work dir; space, memory or files
            that run out.
    """
    with looking_once():  # until the first iteration
        return _train(cfg, from_scratch=from_scratch, resume=resume, stop=stop, begun=begun)


def _train(
    cfg: Config,
    *,
    from_scratch: bool,
    resume: bool | str,
    stop: threading.Event | None,
    begun: threading.Event | None,
) -> SuiteRunner:
    given, cfg = cfg, deepcopy(cfg)
    options = compile_options(cfg)
    require_supported(cfg)
    require_data(cfg, _DATA)
    if options is not None:
        require_compiler(options)
    if not resume and cfg.get("resume"):  # mmengine's own entries for it
        resume = cfg.get("load_from") or True
    source: WeightsFile | str | None = None
    if isinstance(resume, str) and not Path(resume).is_dir():
        source = resume
    elif resume:
        folder = cfg.work_dir if resume is True else resume
        source = newest_checkpoint(folder)
        if source is None and isinstance(resume, str):
            raise UserError(f"{folder} has no checkpoint epoch_N.pth or iter_N.pth to resume from")
    checkpoint = str(source.path) if isinstance(source, WeightsFile) else source
    if from_scratch and cfg.get("load_from"):
        raise UserError(f"--from-scratch starts from random weights: drop it, or load_from={cfg.load_from}")
    notes, opened = [], None
    cfg.load_from, cfg.resume = checkpoint or cfg.get("load_from"), checkpoint is not None
    if cfg.load_from:
        source = source if isinstance(source, WeightsFile) else Path(cfg.load_from)
        opened = open_weights(source, cfg.get("arch"), known=False, initial=not cfg.resume)
        cfg.load_from = str(opened.path)  # of a run's folder
        notes = (_require_same_run if cfg.resume else _compare_initial_weights)(cfg, opened)
    if from_scratch or cfg.load_from:
        drop_pretrained(cfg)
    else:
        notes = _compare_published(cfg) + _compare_trunks(cfg)
    runner = None
    with (
        explained(cfg.work_dir, lambda: how_to_resume(runner, cfg.work_dir)),
        sole_training(cfg.work_dir, main=is_main_process()) as lock,
    ):
        runner = SuiteRunner.from_cfg(cfg, opened)
        runner.stop, runner.begun = stop, begun
        if cfg.resume:
            runner.given = given
        if lock:
            runner.register_hook(WorkDirHook(lock))
        with closing(runner), bfloat16_loops(bool(cfg.get("bf16"))):
            if is_main_process():
                announce_training(runner, initial_weights(cfg, opened, from_scratch=from_scratch))
            for note in notes:
                runner.logger.warning(note)
            if is_main_process():
                _log_data(runner)
            runner.train()
    return runner


def _require_same_run(cfg: Config, weights: Checkpoint) -> list[str]:
    """UserError unless the file is a run's checkpoint, of the config's classes in the config's order.

    Returns what a log should say of other input or output rules.
    """
    path, trained = cfg.load_from, weights.classes
    if not {"meta", "optimizer"} <= weights.content.keys():
        raise UserError(
            f"{path} holds weights, but no run to resume; "
            f"to start from these weights: --cfg-options load_from={path}"
        )
    for part in parts(cfg, ["train_dataloader"]):
        if trained:
            require_same_classes(
                part.classes,
                trained,
                where=part.loader,
                expected_where=path,
                cure="resume with the classes of the run, or start a new one in another --work-dir",
            )
    return _compare_rules(cfg, weights) + _compare_precision(cfg, weights)


def _compare_precision(cfg: Config, weights: Checkpoint) -> list[str]:
    before, now = precision_in(weights.content["meta"]), training_precision(cfg)
    if before in (None, now):
        return []
    cures = {"bfloat16": "--bf16, or --precision auto", "float32": "leave out --bf16, or --precision auto"}
    cure = cures.get(before, "the optim_wrapper that it began with")
    return [f"the run computed in {before} so far, and resumes in {now}; to keep it: {cure}"]


def _compare_rules(cfg: Config, weights: Checkpoint) -> list[str]:
    """The line about rules of test time that differ between the config and the file, if they do."""
    records = records_of(cfg)
    if not records:
        return []
    preprocess = preprocess_of(cfg) if "preprocess" in records else None
    different = weights.rule_differences(preprocess, postprocess_of(cfg))
    return [different] if different else []


def _compare_initial_weights(cfg: Config, weights: Checkpoint) -> list[str]:
    """What a log should say of weights to start from that were trained on other classes, or other input.

    The same names in another order would start every class from another's weights: a UserError.
    """
    notes = []
    if weights.other_model:
        notes.append(
            f"{cfg.load_from} has weights of {weights.other_model}, which has the tensors of {weights.model} "
            "but computes otherwise: they fit after some training"
        )
    return notes + _compare_rules(cfg, weights) + _compare_classes(cfg, cfg.load_from, weights.classes)


def _compare_published(cfg: Config) -> list[str]:
    """``_compare_initial_weights`` for a whole model that starts from weights of the registry.

    That layers of another number of classes are re-initialised is what such a config is for: the log has it.
    """
    init = cfg.model.get("init_cfg") or {}
    if not isinstance(init, dict) or init.get("type") != "HarDNetPretrained" or init.get("file"):
        return []
    row = initial_row(init.get("model"), init.get("tag"), cfg.model.get("arch"))
    same_count = all(len(part.classes) == len(row.classes) for part in parts(cfg, ["train_dataloader"]))
    return _compare_classes(cfg, f"{row.model}:{row.tag}", row.classes) if same_count else []


def _compare_trunks(cfg: Config) -> list[str]:
    """What a log should say of pretrained trunks that another program's model gives other input."""
    notes = []
    for init, arch in pretrained_parts(cfg) if is_others(cfg) else ():
        if arch not in ARCHS:
            continue
        with suppress(UserError, ValueError):  # told when the model is built
            name, rule = _trunk_input(init, arch)
            if rule is None or not (different := trunk_input_differences(cfg, rule)):
                continue
            mean, std = (
                ", ".join(f"{value:g}" for value in values) for values in (rule.pixel_mean, rule.pixel_std)
            )
            notes.append(
                f"{name}: model.data_preprocessor has other {', '.join(different)} than the trunk was "
                f"trained with: set mean=[{mean}], std=[{std}], bgr_to_rgb={rule.channels == 'rgb'}"
            )
    return notes


def _trunk_input(init: Mapping[str, Any], arch: str) -> tuple[str, Preprocess | None]:
    """What an ``init_cfg`` loads, and the input rule of these weights, None where nothing says it."""
    if file := init.get("file") or init.get("checkpoint"):
        weights = open_weights(file, init.get("model") or arch, initial=True)
        is_whole = weights.num_classes is not None and not weights.input_is_unknown
        return str(file), weights.usage.preprocess if is_whole else weights.preprocess
    row = initial_row(init.get("model"), init.get("tag"), arch)
    name = f"{row.model}:{row.tag}"
    if row.shipped:
        return name, open_weights(row).usage.preprocess
    if row.base_only:  # of a training that is not published
        return name, None
    usual = PREPROCESS[row.model]  # as long as the file is not there
    return name, LAYOUTS[row.layout].preprocess(usual) if row.layout else usual


def _compare_classes(cfg: Config, path: str, trained: tuple[str, ...] | None) -> list[str]:
    notes = []
    for part in parts(cfg, ["train_dataloader"]):
        if not trained or readable(part.classes) == readable(trained):
            continue
        if sorted(readable(part.classes)) == sorted(readable(trained)):
            require_same_classes(
                part.classes,
                trained,
                where=part.loader,
                expected_where=path,
                cure=f"list the classes in the checkpoint's order ({part.classes_key})",
            )
        same = len(part.classes) == len(trained)
        start = "start from the file's" if same else "are re-initialised"
        notes.append(
            f"{path} was trained on other classes than {part.loader} has ({', '.join(trained[:5])} …, "
            f"{len(trained)} in all): the layers that depend on the classes {start}"
        )
    return notes


def _log_data(runner: Runner) -> None:
    """Logs what training leaves out of the data, may fail on, or scores although it trains on it."""
    for part in parts(runner.cfg, _DATA):
        report = part.check(read=False)
        for line in [] if report is None else part.log_lines(report):
            runner.logger.warning(f"{part.loader}: {line.removeprefix('warning: ')}")
    training = list(parts(runner.cfg, ["train_dataloader"]))
    for part in parts(runner.cfg, ["val_dataloader"]):
        if line := trained_on(part, sharing_folders(part, training), copies=False).warning:
            runner.logger.warning(line)
