"""What happens around a training: each kind ends it with one line, or not at all."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.registry import DATASETS, HOOKS, METRICS
from toy_runs import ToyNumbers, toy_config

from hardnet_suite.errors import UserError, WriteError
from hardnet_suite.openmm.run.hooks import ResumableCheckpointHook
from hardnet_suite.openmm.run.lock import LOCK
from hardnet_suite.openmm.run.surroundings import explained


@HOOKS.register_module()
class CallAt(Hook):
    """Calls ``CallAt.function(runner)`` before an iteration."""

    function = None

    def __init__(self, iteration: int):
        self.iteration = iteration

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        if runner.iter == self.iteration:
            CallAt.function(runner)


@DATASETS.register_module()
class DeadlyNumbers(ToyNumbers):
    """Kills the process that loads its samples, from the second epoch on."""

    def __init__(self, signal: int):
        super().__init__()
        self.signal, self.count = signal, 0

    def __getitem__(self, index: int) -> dict:
        self.count += 1
        if self.count > 8:
            os.kill(os.getpid(), self.signal)
            time.sleep(60)
        return super().__getitem__(index)


@pytest.fixture
def train_with(toy_train):
    """Trains two epochs of 4 iterations, and calls the function before one of them."""

    def run(function, iteration: int = 5, **changes):
        CallAt.function = staticmethod(function)
        return toy_train(toy_config(custom_hooks=[{"type": "CallAt", "iteration": iteration}], **changes))

    run.folder = toy_train.folder
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield run
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def limit_files(size: int):
    def limit(runner) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    return limit


def open_files(folder: Path) -> list[str]:
    links = [Path(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
    paths = [str(link.readlink()) for link in links if link.is_symlink()]
    return [path for path in paths if path.startswith(str(folder))]


def test_a_removed_work_dir_is_created_again(train_with):
    runner, _ = train_with(lambda runner: shutil.rmtree(runner.work_dir))
    folder = train_with.folder()
    assert runner.iter == 8
    names = {path.name for path in folder.iterdir()}
    assert "epoch_2.pth" in names
    assert any(name.endswith(".py") for name in names)  # the config
    (log,) = folder.glob("*/*.log")
    assert "was removed during the training" in log.read_text()
    (scalars,) = folder.glob("*/vis_data/scalars.json")
    assert len(scalars.read_text().splitlines()) == 3
    assert LOCK not in names


def test_a_removed_lock_is_taken_again(train_with):
    held = []

    def remove(runner) -> None:
        (train_with.folder() / LOCK).unlink()
        held.append(runner)

    train_with(remove)
    (log,) = train_with.folder().glob("*/*.log")
    assert "was removed" not in log.read_text()
    assert not (train_with.folder() / LOCK).exists()


def test_a_file_in_the_place_of_the_work_dir(train_with):
    def replace(runner) -> None:
        shutil.rmtree(runner.work_dir)
        Path(runner.work_dir).write_text("mine")

    with pytest.raises(UserError, match=r"cannot write .*work: File exists.*epoch_1\.pth, is gone$"):
        train_with(replace)
    assert train_with.folder().read_text() == "mine"


def test_a_checkpoint_that_does_not_fit(train_with):
    with pytest.raises(UserError) as caught:
        train_with(limit_files(5000))
    folder, message = train_with.folder(), str(caught.value)
    assert message.startswith(f"cannot write {folder / 'epoch_2.pth'}: File too large (")
    assert "B to write" in message
    assert message.endswith(f"the last good checkpoint is {folder / 'epoch_1.pth'}: resume with --resume")
    assert torch.load(folder / "epoch_1.pth", weights_only=False)["meta"]["iter"] == 4
    assert not [name for name in os.listdir(folder) if name.endswith(".tmp")]


@pytest.mark.parametrize(("level", "name"), [("WARNING", "json"), ("INFO", "log")])
def test_a_log_that_does_not_fit(train_with, capfd, level, name):
    with pytest.raises(UserError, match=rf"cannot write .*\.{name}: File too large") as caught:
        train_with(limit_files(1), log_level=level)
    assert "\n" not in str(caught.value)
    assert "Traceback" not in capfd.readouterr().err
    assert not open_files(train_with.folder())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_tensorboards_file_does_not_fit(train_with):
    changes = {"visualizer": {"type": "Visualizer", "vis_backends": [{"type": "TensorboardVisBackend"}]}}
    with pytest.raises(UserError, match=r"cannot write .*File too large"):
        train_with(limit_files(1), **changes)


def test_before_the_first_checkpoint(train_with):
    with pytest.raises(UserError, match="no checkpoint has been saved yet"):
        train_with(limit_files(1), iteration=1)


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (signal.SIGKILL, r"was killed \(SIGKILL\): out of memory is the usual cause"),
        (signal.SIGSEGV, r"was ended by a signal \(Segmentation fault\)|exited unexpectedly"),
    ],
)
def test_a_killed_worker(toy_train, number, reason):
    cfg = toy_config()
    cfg.train_dataloader.update(num_workers=1, persistent_workers=True)
    cfg.train_dataloader.dataset = {"type": "DeadlyNumbers", "signal": int(number)}
    with pytest.raises(
        UserError, match=rf"data loader worker \d+ ({reason}).*epoch_1\.pth: resume with --res"
    ):
        toy_train(cfg)


@METRICS.register_module()
class CountMetric(BaseMetric):
    def process(self, data_batch, data_samples) -> None:
        self.results.append(1)

    def compute_metrics(self, results) -> dict:
        return {"count": len(results)}


def test_a_worker_that_is_killed_in_validation(toy_train):
    loader = {"batch_size": 2, "num_workers": 1, "persistent_workers": True}
    loader["dataset"] = {"type": "DeadlyNumbers", "signal": int(signal.SIGKILL)}
    loader["sampler"] = {"type": "DefaultSampler", "shuffle": False}
    cfg = toy_config(
        val_dataloader=loader, val_cfg={"type": "ValLoop"}, val_evaluator={"type": "CountMetric"}
    )
    with pytest.raises(UserError, match=r"data loader worker \d+ .*epoch_2\.pth: resume with --resume"):
        toy_train(cfg)


def test_a_worker_that_brings_nothing(toy_train):
    cfg = toy_config()
    cfg.train_dataloader.update(num_workers=1, persistent_workers=True, timeout=1)
    cfg.train_dataloader.dataset = {"type": "DeadlyNumbers", "signal": 0}
    with pytest.raises(UserError, match=r"brought no batch for 1 s.*epoch_1.pth: resume with --resume"):
        toy_train(cfg)


@pytest.mark.parametrize("timeout", [None, 7])
def test_the_wait_for_a_worker_has_an_end(toy_train, timeout):
    cfg = toy_config(epochs=1)
    cfg.train_dataloader.num_workers = 1
    if timeout is not None:
        cfg.train_dataloader.timeout = timeout
    runner, _ = toy_train(cfg)
    assert runner.train_dataloader.timeout == (timeout or 1800)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "memory of this machine is exhausted"),
        (torch.OutOfMemoryError("CUDA out of memory."), "memory of the GPU is exhausted"),
    ],
)
def test_exhausted_memory(train_with, error, reason):
    def fail(runner) -> None:
        raise error

    with pytest.raises(UserError, match=rf"{reason}.*epoch_1\.pth: resume with --resume"):
        train_with(fail)


def test_other_errors_stay_what_they_are(train_with):
    def fail(runner) -> None:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match=r"^a bug$"):
        train_with(fail)
    assert not open_files(train_with.folder())


def test_a_run_leaves_no_file_open(toy_train):
    cfg = toy_config()
    cfg.visualizer.vis_backends.append({"type": "TensorboardVisBackend"})
    toy_train(cfg)
    assert not open_files(toy_train.folder())
    cfg.model.type = "NoSuchModel"
    with pytest.raises(KeyError, match="NoSuchModel"):
        toy_train(cfg)
    assert not open_files(toy_train.folder())


@pytest.mark.parametrize("indicators", [["a"], ["a", "b"]])
@pytest.mark.parametrize("named", ["mine/thesis.txt", "mine", "mine/best_a_epoch_1.pth", 7, ["x"], None])
@pytest.mark.parametrize("score", [-1.0, "x"])
def test_what_a_resumed_checkpoint_names_is_not_removed(tmp_path, indicators, named, score):
    """The best checkpoint so far gives way to a better one: its path and score come from the file."""
    mine = tmp_path / "mine"
    mine.mkdir()
    for name in ("thesis.txt", "best_a_epoch_1.pth"):
        (mine / name).write_text("mine")
    work_dir = tmp_path / "work"
    work_dir.mkdir()
    suffixes = [""] if indicators == ["a"] else ["_a", "_b"]
    info: dict = {}
    for suffix in suffixes:
        info[f"best_ckpt{suffix}"] = str(tmp_path / named) if isinstance(named, str) else named
        info[f"best_score{suffix}"] = score
    hook = ResumableCheckpointHook(save_best=indicators, rule="greater")
    runner = best_runner(work_dir, info)
    runner._resume = True
    hook.before_train(runner)
    hook.after_val_epoch(runner, dict.fromkeys(indicators, 0.5))
    assert sorted(path.name for path in mine.iterdir()) == ["best_a_epoch_1.pth", "thesis.txt"]
    assert sorted(os.listdir(work_dir)) == sorted(f"best_{name}_epoch_1.pth" for name in indicators)


def test_the_best_checkpoint_of_a_copied_run_stays_in_the_original(tmp_path):
    for name in ("run", "copy"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "best_a_epoch_1.pth").write_text("old")
    info = {"best_ckpt": str(tmp_path / "run/best_a_epoch_1.pth"), "best_score": 0.1}
    hook, runner = (
        ResumableCheckpointHook(save_best="a", rule="greater"),
        best_runner(tmp_path / "copy", info),
    )
    runner._resume, runner.epoch = True, 2
    hook.before_train(runner)
    hook.after_val_epoch(runner, {"a": 0.5})
    assert os.listdir(tmp_path / "run") == ["best_a_epoch_1.pth"]
    assert os.listdir(tmp_path / "copy") == ["best_a_epoch_2.pth"]


def best_runner(work_dir: Path, info: dict) -> SimpleNamespace:
    """What the checkpoint hook needs of a runner to save the best checkpoint."""

    def save(folder, filename, **options) -> None:
        Path(folder, filename).write_bytes(b"weights")

    return SimpleNamespace(
        work_dir=str(work_dir),
        hooks=[],
        epoch=1,
        iter=1,
        save_checkpoint=save,
        logger=SimpleNamespace(info=lambda text: None),
        message_hub=SimpleNamespace(runtime_info=info, get_info=info.get, update_info=info.__setitem__),
        _resume=False,
        _load_from=None,
    )


@pytest.mark.parametrize("indicators", [["a"], ["a", "b"]])
def test_the_best_checkpoint_is_removed_once_a_better_one_is_saved(tmp_path, indicators):
    hook = ResumableCheckpointHook(save_best=indicators, rule="greater")
    info: dict = {}
    runner = best_runner(tmp_path, info)
    save = runner.save_checkpoint
    hook.before_train(runner)
    hook.after_val_epoch(runner, dict.fromkeys(indicators, 0.1))
    first = sorted(f"best_{name}_epoch_1.pth" for name in indicators)
    assert sorted(os.listdir(tmp_path)) == first

    def fail(*args, **options) -> None:
        raise WriteError(28, "No space left on device", "x")

    runner.epoch, runner.save_checkpoint = 2, fail
    with pytest.raises(WriteError):
        hook.after_val_epoch(runner, dict.fromkeys(indicators, 0.2))
    assert sorted(os.listdir(tmp_path)) == first

    hook.before_train(runner)
    info.clear()
    info.update({f"best_ckpt{'' if len(indicators) == 1 else f'_{name}'}": str(tmp_path / f"best_{name}_epoch_1.pth") for name in indicators})  # fmt: skip # noqa: E501
    hook.before_train(runner)
    runner.save_checkpoint = save
    hook.after_val_epoch(runner, {"a": 0.2, "b": 0.3})
    assert sorted(os.listdir(tmp_path)) == [name.replace("_1", "_2") for name in first]
    runner.epoch = 3
    hook.after_val_epoch(runner, {"a": 0.1, "b": 0.4})  # a has become worse
    kept = ["best_a_epoch_2.pth", "best_b_epoch_3.pth"]
    assert sorted(os.listdir(tmp_path)) == kept[: len(indicators)]


@pytest.mark.parametrize(("length", "batch_size"), [(9, 4), (2, 1)])
def test_a_batch_that_cannot_be_normalized(toy_train, length, batch_size):
    """One image, of one value per channel: where the last batch alone has one, other epochs' end is late."""
    cfg = toy_config(epochs=1)
    cfg.train_dataloader.update(batch_size=batch_size, dataset={"type": "ToyNumbers", "length": length})
    with pytest.raises(
        UserError, match=r"single value per channel, as in maps of 1×3: .*drop_last"
    ) as raised:
        toy_train(cfg)
    assert "\n" not in str(raised.value)
    cfg.train_dataloader.update(batch_size=2, drop_last=True)
    toy_train(cfg)


def test_groups_of_a_single_value_are_told_apart_from_batches(tmp_path):
    """torch refuses them at test time, too, where the size of training batches changes nothing."""
    norm = torch.nn.GroupNorm(32, 32).eval()
    with pytest.raises(UserError, match="more channels, or fewer groups"), explained(tmp_path):
        norm(torch.rand(1, 32, 1, 1))


def test_more_candidates_than_there_are(tmp_path):
    with pytest.raises(UserError, match=r"num_queries, .* larger images"), explained(tmp_path):
        torch.rand(5).topk(6)
