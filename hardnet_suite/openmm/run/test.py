"""Scoring: ``plan_test`` is a function of config and options, ``run_test`` does what the plan says, and
``report_test`` writes the figures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import closing
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import Tensor

from hardnet_suite.config_names import own_configs
from hardnet_suite.data.classes import require_same_classes
from hardnet_suite.data.report import counted
from hardnet_suite.errors import UserError
from hardnet_suite.evaluation.coco import without_nan
from hardnet_suite.networks import Arch, find_arch
from hardnet_suite.openmm.data.parts import (
    Overlap,
    Part,
    ScoreSummary,
    class_counts,
    evaluator_kind,
    inner_datasets,
    parts,
    require_data,
    sharing_folders,
    trained_on,
    unknown_evaluator,
    wrong_data,
)
from hardnet_suite.openmm.data.parts.part import DRAWN_SCORE
from hardnet_suite.openmm.models.inference import ReplaceableNetwork
from hardnet_suite.openmm.models.initializers import load_checkpoint
from hardnet_suite.openmm.run.amp import bfloat16_features, bfloat16_loops
from hardnet_suite.openmm.run.checks import require_finite_weights
from hardnet_suite.openmm.run.configs import drop_pretrained, load_config, set_data_root
from hardnet_suite.openmm.run.logs import quiet_console
from hardnet_suite.openmm.run.records import decodes_itself, is_suites, postprocess_of, preprocess_of
from hardnet_suite.openmm.run.results import publish, require_replaceable, staging_folder
from hardnet_suite.openmm.run.runner import SuiteRunner, versions
from hardnet_suite.openmm.run.surroundings import explained
from hardnet_suite.outputs import write_file
from hardnet_suite.run_folders import is_run
from hardnet_suite.weights import ROWS, Checkpoint, WeightsRow, find, open_weights
from hardnet_suite.weights.runs import is_of_run, run_checkpoint

_LARGEST_SCALE = 16
_TRAINING = ("train_dataloader", "train_cfg", "optim_wrapper", "param_scheduler", "auto_scale_lr")
METRICS = "metrics.json"


@dataclass(frozen=True)
class TestOptions:
    """How ``test`` scores.

    Attributes:
        flip: adds each image's mirror image and takes the mean.
        scales: sizes of each image, relative to its own, whose mean is taken.
        format_only: saves predictions as a test server expects them, without labels and scores.
        draw: folder that the predictions will be drawn into, if at all; then the heat maps of a model that
            predicts them are saved, too.
        score: boxes below it are neither drawn nor counted as confusions and mistakes (None: 0.3).
        worst: draws this many images with the most mistakes; None: all images.
        verbose: shows the whole log on the console.
    """

    __test__ = False  # not a class of tests

    flip: bool = False
    scales: tuple[float, ...] = (1.0,)
    format_only: bool = False
    draw: Path | None = None
    score: float | None = None
    worst: int | None = None
    verbose: bool = False

    @property
    def least_score(self) -> float:
        """Boxes below it are neither drawn nor counted as confusions and mistakes."""
        return DRAWN_SCORE if self.score is None else self.score


@dataclass(frozen=True)
class DeployedNetwork:
    """A network that another engine computes, scored in place of a checkpoint.

    Attributes:
        checkpoint: what its file says of itself, without tensors.
        arch: its row of the architecture table.
        forward: takes and returns what the network of ``create_model`` does, at test time.
        engine: what computes it, such as "onnxruntime".
        engine_version: the engine's version.
        precision: what it computes in, such as "fp32".
        weights: which file this is, in words.
        finished: whether the postprocessing of ``checkpoint`` is inside: a detector returns boxes, and of
            masks there are no probabilities.
    """

    checkpoint: Checkpoint
    arch: Arch
    forward: Callable[[Tensor], Any]
    engine: str
    engine_version: str
    precision: str
    weights: str
    finished: bool = False


@dataclass(frozen=True)
class TestPlan:
    """What a test run does.

    Attributes:
        cfg: the config that the runner is built from; without the training, with test-time augmentation.
        part: the data set.
        checkpoint: the weights, or the row of the registry whose weights are fetched.
        deployed: computes the network in place of the checkpoint's weights; None: PyTorch does.
        weights: which weights these are, in words.
        options: how it scores.
        work_dir: where the results go.
        settings_sha256: digest of the config as the user gave it.
        overlap: what of the data set the weights were trained on; None: nothing is scored.
    """

    __test__ = False

    cfg: Config
    part: Part
    checkpoint: Checkpoint | WeightsRow
    weights: str
    options: TestOptions
    work_dir: Path
    settings_sha256: str
    deployed: DeployedNetwork | None = None
    overlap: Overlap | None = None

    @property
    def draws_heatmaps(self) -> bool:
        """Whether heat maps are drawn, too: a file with the postprocessing inside has none."""
        is_finished = self.deployed is not None and self.deployed.finished
        return self.options.draw is not None and self.part.has_heatmaps(self.cfg) and not is_finished

    @property
    def files(self) -> list[str]:
        """The results that are known before the run, relative to the work dir."""
        return [METRICS, *self.part.result_files(format_only=self.options.format_only)]


@dataclass(frozen=True)
class Outcome:
    """What ``run_test`` found.

    Attributes:
        figures: name -> value, NaN for a figure that is not defined on these data.
        details: further figures, such as those of each class.
        images: what was scored: COCO's ids, or paths.
        checkpoint: the weights.
        summary: the figures as a table; empty without any.
        files: what messages call each result -> its name in the work dir.
        order: the images, the worst first; empty without labels.
        mistaken: how many of them, from the first on, have mistakes.
    """

    figures: dict[str, float]
    details: dict[str, Any]
    images: list
    checkpoint: Checkpoint
    summary: str = ""
    files: dict[str, str] = field(default_factory=dict)
    order: list = field(default_factory=list)
    mistaken: int = 0


def plan_test(
    cfg: Config, checkpoint: str | Path | WeightsRow | DeployedNetwork | None, options: TestOptions
) -> TestPlan:
    """What a test run does, as a function of config and options; nothing is built, written or fetched.

    Args:
        cfg: as ``prepare`` returns it; left unchanged.
        checkpoint: a file; a run's folder, which stands for its best checkpoint, or its newest where it has
            no best one; a row of the registry; a network in another engine; or None for the run in the work
            dir.
        options: how it scores.

    Raises:
        UserError: no such checkpoint; data, classes or options that do not fit; weights that would be scored
            into the folder of a run and are not its own.
    """
    given = {key: value for key, value in cfg.items() if key not in ("work_dir", "launcher")}
    digest = hashlib.sha256(json.dumps(given, sort_keys=True, default=str).encode()).hexdigest()
    cfg = deepcopy(cfg)
    part = _only_part(cfg)
    if options.format_only:
        if not part.format_only:
            raise UserError("--format-only saves label images or boxes for a test server, not classes")
        for dataset in inner_datasets(cfg.test_dataloader.dataset):
            part.drop_labels(dataset)
        part = _only_part(cfg)
    for folder in part.folders if options.draw else ():
        drawings = Path(options.draw).resolve()
        if drawings.is_relative_to(folder.resolve()):
            raise UserError(f"--show-dir {options.draw} lies in the data, {folder}; choose another folder")
    if options.draw and not part.drawable:
        raise UserError(f"--show-dir cannot draw a {part.dataset_name}; {part.drawn_by}")
    if options.score is not None and not 0 <= options.score <= 1:
        raise UserError(f"--score {options.score}: expected a number from 0 to 1")
    if options.score is not None and not (part.has_scores and (options.draw or not options.format_only)):
        raise UserError(
            "--score chooses the boxes of a detector that are drawn and counted as mistakes: leave it out"
        )
    if options.worst is not None and options.worst < 1:
        raise UserError(f"--worst {options.worst}: expected a number of images, from 1")
    if options.worst is not None and not (options.draw and not options.format_only):
        raise UserError(
            "--worst chooses the images that --show-dir draws beside their labels; leave it out here"
        )
    require_data(cfg, ["test_dataloader"])
    deployed = checkpoint if isinstance(checkpoint, DeployedNetwork) else None
    source, weights = _choose_checkpoint(cfg, checkpoint)
    _require_checkpoint_classes(part, source)
    if deployed is not None:
        _require_network(cfg, deployed)
    overlap = None if options.format_only else _overlap(cfg, part, source)
    require_replaceable(Path(cfg.work_dir), [METRICS, *part.result_files(format_only=options.format_only)])
    drop_pretrained(cfg)
    for key in _TRAINING:
        cfg[key] = None
    cfg.load_from, cfg.resume = None, False  # mmengine's runner would load it over the checkpoint
    _augment(cfg, part, options)
    if deployed is not None:
        _settle_deployed(cfg, deployed)
        if deployed.finished and not options.format_only and part.scores_probabilities(cfg):
            raise UserError(
                f"{deployed.checkpoint.path} returns masks, but the evaluator's masks=True also scores "
                "probabilities: export it without --with postprocess, or score the masks alone with "
                "--cfg-options test_evaluator.masks=False"
            )
    return TestPlan(cfg, part, source, weights, options, Path(cfg.work_dir), digest, deployed, overlap)


def run_test(plan: TestPlan, folder: Path) -> tuple[Outcome, BaseMetric]:
    """Builds the model, loads the checkpoint and scores it; the predictions are written into ``folder``.

    Raises:
        UserError: weights that do not fit the model, or are not finite.
    """
    cfg, options = deepcopy(plan.cfg), plan.options
    given = plan.part.evaluator_options(
        folder, format_only=options.format_only, heatmaps=options.draw is not None
    )
    cfg.test_evaluator.update(given)
    if plan.draws_heatmaps:
        plan.part.keep_heatmaps(cfg)
    checkpoint = plan.checkpoint
    if isinstance(checkpoint, WeightsRow):
        checkpoint = open_weights(checkpoint, cfg.get("arch"))
    with quiet_console(options.verbose), closing(SuiteRunner.from_cfg(cfg)) as runner:
        if plan.overlap is not None and plan.overlap.warning:
            runner.logger.warning(plan.overlap.warning)
        if is_suites(cfg):
            rule = None if plan.deployed and plan.deployed.finished else postprocess_of(cfg)
            different = checkpoint.rule_differences(preprocess_of(cfg), rule)
            if different and not isinstance(runner.model, BaseTTAModel):
                runner.logger.warning(different)
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        model = model.module if isinstance(model, BaseTTAModel) else model
        if plan.deployed is None:
            load_checkpoint(model, checkpoint, cfg.get("arch"))
            require_finite_weights(model.state_dict(), checkpoint.path)
        elif not isinstance(model, ReplaceableNetwork):
            raise UserError(
                f"{cfg.filename} has a {type(model).__name__}: an exported file takes the place of the "
                "suite's own models alone"
            )
        else:
            boxes = plan.deployed.finished and plan.part.task == "detection"
            model.replace_network(plan.deployed.forward, returns_boxes=boxes)
        bf16 = bool(cfg.get("bf16"))
        with bfloat16_loops(bf16), bfloat16_features(model, bf16 and not decodes_itself(cfg)):
            figures = runner.test()
    metric = runner.test_loop.evaluator.metrics[0]
    return Outcome(figures, metric.details, metric.image_ids, checkpoint, metric.summary), metric


def report_test(plan: TestPlan, outcome: Outcome, folder: Path) -> dict:
    """Writes metrics.json into ``folder``: the figures and what they were measured with. Returns them."""
    deployed, bf16 = plan.deployed, bool(plan.cfg.get("bf16"))
    engine = "pytorch" if deployed is None else deployed.engine
    others = {} if deployed is None else {engine: deployed.engine_version}
    content = {
        "metrics": without_nan(outcome.figures),
        **outcome.details,
        "images": len(outcome.images),
        "training_files": None if plan.overlap is None else plan.overlap.count,
        "scales": list(plan.options.scales),
        "flip": plan.options.flip,
        "engine": engine,
        "precision": deployed.precision if deployed else "bf16" if bf16 else "fp32",
        "bf16": bf16,
        "config": plan.cfg.filename,
        "config_sha256": plan.settings_sha256,
        "checkpoint": str(outcome.checkpoint.path),
        "checkpoint_sha256": outcome.checkpoint.digest,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions() | others,
    }
    write_file(folder / METRICS, json.dumps(content, indent=2, allow_nan=False) + "\n")
    return content


def draw(plan: TestPlan, outcome: Outcome, out_dir: Path) -> int:
    """Draws the published results beside the labels, all or the worst; returns the number of images.

    The worst come first, by their ranks in front of the names; without labels there are no ranks.
    """
    options, ranked = plan.options, not plan.options.format_only
    if options.worst is None:
        images = list(dict.fromkeys([*outcome.order, *outcome.images]))
    else:
        images = outcome.order[: min(options.worst, outcome.mistaken)]
    place = out_dir, plan.work_dir, images
    look = {"score": options.least_score, "format_only": options.format_only}
    count = plan.part.draw(*place, ranked=ranked, **look)
    if plan.draws_heatmaps:
        count += plan.part.draw_heatmaps(*place, ranked=ranked)
    return count


def test(
    cfg: Config,
    checkpoint: str | Path | WeightsRow | DeployedNetwork | None,
    options: TestOptions,
    *,
    announce: Callable[[str], None] | None = None,  # noqa: PT028
) -> tuple[TestPlan, Outcome]:
    """Plans, runs and reports; the results replace those of an earlier test in the work dir at the end.

    The arguments and errors are those of ``plan_test`` and ``run_test``; ``announce`` is called first, on the
    main rank, with a line that says which weights are scored.
    """
    plan = plan_test(cfg, checkpoint, options)
    if announce is not None and is_main_process():
        announce(plan.weights)
    with explained(plan.work_dir), staging_folder(plan.work_dir) as folder:
        outcome, metric = run_test(plan, folder)
        if is_main_process():
            report_test(plan, outcome, folder)
            summary = ScoreSummary()
            if not options.format_only:
                summary = plan.part.draw_summary(metric, folder, score=options.least_score)
            files = {"figures": METRICS, **plan.part.outputs, **summary.files}
            outcome = replace(outcome, files=files, order=summary.order, mistaken=summary.mistaken)
            publish(folder, plan.work_dir)
    return plan, outcome


test.__test__ = False


def is_scored(cfg: Config) -> bool:
    """Whether ``test`` takes the evaluator and the test data of a config: OpenMMLab's own it does not."""
    try:
        _only_part(cfg)
    except UserError:
        return False
    return True


def _only_part(cfg: Config) -> Part:
    """The test data set; UserError unless there is one, with the evaluator of its task."""
    loader = "test_dataloader"
    test_parts = list(parts(cfg, [loader]))
    kind = evaluator_kind(cfg.get("test_evaluator"))
    if kind not in Part.evaluators():
        raise unknown_evaluator(kind, test_parts, "test_evaluator")
    if len(test_parts) != 1 or test_parts[0].evaluator != kind:
        raise wrong_data(kind, test_parts, loader)
    return test_parts[0]


def registry_weights(cfg: Config, tag: str | None = None) -> WeightsRow:
    """The row of the registry for a config's network.

    Args:
        cfg: names the network (``arch``).
        tag: of the row; None: the config's ``weights_tag``, by default "published".

    Raises:
        UserError: there is no such row.
    """
    if cfg.get("arch") is None:
        raise UserError(f"{cfg.filename} names no arch of the suite, which weights of the registry are for")
    try:
        return find(cfg.arch, cfg.get("weights_tag") or "published" if tag is None else tag)
    except ValueError as error:
        raise UserError(str(error)) from None


def _overlap(cfg: Config, part: Part, source: Checkpoint | WeightsRow) -> Overlap:
    """What of a data set the weights were trained on, by path: lists of training data elsewhere are not read.

    They are taken for weights of the config, unless the registry names the config that they come from.
    """
    row = source if isinstance(source, WeightsRow) else source.row
    try:
        training = [part for trained in _trained(cfg, row) for part in parts(trained, ["train_dataloader"])]
    except UserError:
        return trained_on(part, (), copies=False).unknown()
    return trained_on(part, sharing_folders(part, training), copies=False)


def _trained(cfg: Config, row: WeightsRow | None) -> list[Config]:
    """The config that trained the weights, with its own ``data_root`` and with that of the config."""
    own = own_configs().get(Path(row.source).stem) if row is not None and row.source.endswith(".py") else None
    if own is None:
        return [cfg]
    trained = [load_config(own)]
    if cfg.get("data_root"):
        trained.append(load_config(own))
        set_data_root(trained[1], cfg.data_root)
    return trained


def _choose_checkpoint(
    cfg: Config, checkpoint: str | Path | WeightsRow | DeployedNetwork | None
) -> tuple[Checkpoint | WeightsRow, str]:
    """The weights to score, and which these are in words."""
    if isinstance(checkpoint, DeployedNetwork):
        if is_run(cfg.work_dir):  # also where the file lies in it: the run's own figures are its checkpoints'
            raise _of_others(cfg, str(checkpoint.checkpoint.path))
        return checkpoint.checkpoint, checkpoint.weights
    if isinstance(checkpoint, WeightsRow):
        if is_run(cfg.work_dir):
            raise _of_others(cfg, f"the weights {checkpoint.tag!r}")
        return checkpoint, f"{checkpoint.file}, the weights {checkpoint.tag!r} of {checkpoint.model}"
    if checkpoint is None and not is_run(cfg.work_dir):
        raise UserError(
            f"{cfg.work_dir} has no checkpoint to score: train first, give a file or a run's folder, or "
            f"score {_available(cfg)}"
        )
    path = Path(cfg.work_dir if checkpoint is None else checkpoint).expanduser()
    if path.exists() and is_run(cfg.work_dir) and not is_of_run(path, cfg.work_dir):
        raise _of_others(cfg, str(path))
    source, which = run_checkpoint(path) if path.is_dir() else (path, "")
    opened = open_weights(source, cfg.get("arch"), known=False)
    return opened, f"{opened.path}, {which}" if which else str(opened.path)


def _require_network(cfg: Config, deployed: DeployedNetwork) -> None:
    """UserError unless a config's model is the one that another engine computes."""
    file = deployed.checkpoint
    if not is_suites(cfg):
        raise UserError(
            f"{cfg.filename} has arch={cfg.get('arch')!r}: an exported file is scored with a config of its "
            f"model, {file.model}"
        )
    if cfg.arch != file.model:
        raise UserError(f"{file.path}: this is {file.model}, but {cfg.filename} is for {cfg.arch}")
    if deployed.arch != find_arch(cfg.arch):
        raise UserError(f"{file.path}: this is another {file.model} than that of {cfg.filename}")
    wrong = [count for count in class_counts(cfg) if count != file.num_classes]
    if wrong:
        raise UserError(
            f"{file.path} has {counted(file.num_classes, 'class')}, but {cfg.filename} has "
            f"num_classes={wrong[0]}"
        )


def _settle_deployed(cfg: Config, deployed: DeployedNetwork) -> None:
    """Takes out of a config what a deployed network does itself: its precision, and the rule inside of it.

    Raises:
        UserError: the config's output rule is another one.
    """
    cfg.bf16 = False
    if cfg.get("test_cfg"):
        cfg.test_cfg.fp16 = False
    if not deployed.finished:
        return
    own, wanted = deployed.checkpoint.postprocess, postprocess_of(cfg)
    different = own.differences(wanted) if own is not None and wanted is not None else []
    if different or "module" in cfg.model:
        what = ", ".join(different) or "its test-time augmentation"
        raise UserError(
            f"{deployed.checkpoint.path} has its output rule inside, which differs in {what}: export it "
            "without --with postprocess, or with this rule"
        )
    options = cfg.model.get("test_cfg") or {}
    if options.get("mode") == "slide":
        cfg.model.test_cfg = {"mode": "whole"}
    elif options.get("flip_test"):
        cfg.model.test_cfg = {**options, "flip_test": False}


def _of_others(cfg: Config, weights: str) -> UserError:
    return UserError(
        f"{cfg.work_dir} is the folder of a run: figures of {weights} would be taken for its own; choose "
        "another --work-dir"
    )


def _available(cfg: Config) -> str:
    """What of the registry can be scored, for a message."""
    tags = [row.tag for row in ROWS if row.model == cfg.get("arch") and not row.base_only]
    default = cfg.get("weights_tag") or "published"
    others = [f"--weights {tag}" for tag in tags if tag != default]
    options = ["--pretrained"] * (default in tags) + others
    return f"weights of the registry: {' or '.join(options)}" if options else "published weights (none)"


def _require_checkpoint_classes(part: Part, source: Checkpoint | WeightsRow) -> None:
    """The data set's classes must be those that the weights were trained on, in their order."""
    if isinstance(source, Checkpoint):
        where = str(source.path)
        cure = f"list the classes of the data set in the order of the checkpoint ({part.classes_key})"
    else:
        where = f"the weights {source.tag!r} of {source.model}"
        cure = "give a checkpoint, and drop the config's weights_tag"
    if source.classes:
        require_same_classes(part.classes, source.classes, where=part.loader, expected_where=where, cure=cure)


def _augment(cfg: Config, part: Part, options: TestOptions) -> None:
    """Puts test-time augmentation into the config, if the options ask for it."""
    scales: Sequence[float] = options.scales
    if tuple(scales) == (1.0,) and not options.flip:
        return
    if not scales or not all(0 < scale <= _LARGEST_SCALE for scale in scales):
        given = " ".join(map(str, scales))
        raise UserError(f"--scales {given}: expected numbers above 0, up to {_LARGEST_SCALE}")
    part.augment_test(cfg, scales=tuple(scales), flip=options.flip)
