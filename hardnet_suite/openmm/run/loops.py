"""A training loop that can stop and resume within an epoch."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy

from mmdet.datasets.samplers import MultiSourceSampler
from mmengine.dataset import InfiniteSampler
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import DATASETS, LOOPS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from mmengine.runner.base_loop import BaseLoop
from torch import nn

from hardnet_suite.data.report import counted
from hardnet_suite.errors import UserError
from hardnet_suite.openmm.data.parts import kind_of, walk
from hardnet_suite.openmm.data.sampling import (
    SeededBatches,
    SeededDataset,
    dropping_sampler,
    fingerprint,
    no_epochs,
    seed_all,
)

# augmentations of mmdet's that depend on earlier images, and one that draws a size for several iterations
_CACHES = ("CachedMosaic", "CachedMixUp")
_SIZES = ("BatchSyncRandomResize",)
_ENDLESS = (InfiniteSampler, MultiSourceSampler)


def _build_dataset(config: dict):
    try:
        return DATASETS.build(config)
    except ValueError as error:
        if "need at least one array" not in str(error):  # NumPy's message when mmengine packs an empty list
            raise
        raise UserError(
            "no training images are left: every image has no box of the config's classes, or a side below "
            "filter_cfg.min_size"
        ) from None


def require_epochs_to_save(loop: BaseLoop, hooks: Iterable[Hook]) -> None:
    """Checks that a loop completes the epochs that its checkpoints are saved by, and resumes within them.

    Args:
        loop: The training loop.
        hooks: Hooks of its run.

    Raises:
        UserError: It counts iterations, and a hook saves by epoch: what it saved would have the number of an
            epoch that never ends, and could not be resumed. Or it resumes whole epochs alone, and a hook has
            ``every_iters``.
    """
    if not isinstance(loop, ResumableEpochLoop) and any(getattr(hook, "every_iters", 0) for hook in hooks):
        raise UserError(
            f"default_hooks.checkpoint.every_iters would have no effect: {type(loop).__name__} (train_cfg) "
            "does not resume within an epoch; leave it out, or use train_cfg=dict(_delete_=True, "
            'type="ResumableEpochLoop", max_epochs=…)'
        )
    if not isinstance(loop, IterBasedTrainLoop):
        return
    if any(isinstance(hook, CheckpointHook) and hook.by_epoch for hook in hooks):
        raise UserError(
            f"{type(loop).__name__} has no epochs (train_cfg), but default_hooks.checkpoint saves by epoch: "
            'use train_cfg=dict(_delete_=True, type="ResumableEpochLoop", max_epochs=…), or mmengine\'s '
            'checkpoint=dict(_delete_=True, type="CheckpointHook", by_epoch=False, interval=…)'
        )


def require_epochs_to_end(loop: BaseLoop) -> None:
    """UserError if a loop counts epochs, but its sampler never ends one."""
    loader = getattr(loop, "dataloader", None)
    for place in (loader, getattr(loader, "batch_sampler", None)):
        sampler = getattr(place, "sampler", None)
        if isinstance(loop, EpochBasedTrainLoop) and isinstance(sampler, _ENDLESS):
            raise no_epochs(sampler)


@LOOPS.register_module()
class ResumableEpochLoop(EpochBasedTrainLoop):
    """mmengine's epoch loop, which can additionally resume at any iteration.

    All randomness is a function of the seed and of epoch and sample index (augmentation) or iteration and
    rank (model).

    Args:
        runner: The runner.
        dataloader: Config of the data loader; it is not modified.
        max_epochs: Number of epochs.
        options: Further options of ``EpochBasedTrainLoop``.

    Raises:
        UserError: No image is left after filtering, there are too few for a batch, ``num_batch_per_epoch`` or
            ``drop_last`` beside a ``batch_sampler``, a hook changes the number of batches, or a resumed
            checkpoint has another number of batches per epoch, or is of the middle of one that would go on
            with other images.
    """

    def __init__(self, runner, dataloader: dict, max_epochs: int, **options):
        dataloader = deepcopy(dict(dataloader))
        if dataloader.pop("num_batch_per_epoch", None) is not None:
            raise UserError(
                "train_dataloader.num_batch_per_epoch cannot be resumed by ResumableEpochLoop: remove it and "
                "set train_dataloader.dataset.indices to the number of images, or use "
                'train_cfg.type="EpochBasedTrainLoop"'
            )
        dataset = dataloader["dataset"]
        if isinstance(dataset, dict):
            dataset = _build_dataset(dataset)
        if hasattr(dataset, "full_init"):
            dataset.full_init()
        wrapper = SeededBatches if hasattr(dataset, "load_batch") else SeededDataset
        dataloader["dataset"] = wrapper(dataset, runner.seed)
        drop_last, inner = dataloader.pop("drop_last", False), dataloader.pop("batch_sampler", None)
        if drop_last and inner is not None:
            raise UserError(
                "train_dataloader.drop_last=True has no effect on its batch_sampler: remove it, and set "
                "batch_sampler.drop_last=True where that has the option"
            )
        if drop_last:
            dataloader["sampler"] = dropping_sampler(dataloader.get("sampler"), dataloader["batch_size"])
        dataloader["batch_sampler"] = {
            "type": "ResumableBatchSampler",
            "drop_last": drop_last,
            "inner": inner,
        }
        sampler = dataloader.get("sampler")
        self._sampler_seed = sampler.get("seed") if isinstance(sampler, dict) else None
        super().__init__(runner, dataloader, max_epochs, **options)
        # torch's is one of its own that nothing uses, and hooks change the sampler by this name
        object.__setattr__(self.dataloader, "sampler", self.dataloader.batch_sampler.sampler)
        self._batches = len(self.dataloader)
        if not len(self.dataloader):
            verb = "is" if len(dataset) == 1 else "are"
            raise UserError(
                f"{counted(len(dataset), 'image')} {verb} too few for a batch of {dataloader['batch_size']}, "
                "and drop_last drops incomplete batches: set a smaller train_dataloader.batch_size"
            )

    def run(self) -> nn.Module:
        # a resumed run keeps the seed of its checkpoint
        self.dataloader.dataset.seed = self.runner.seed
        self._settle_sampler_seed()
        self._require_same_epochs()
        self._warn_of_lost_state()
        self.runner.call_hook("before_train")
        if self._iter == self._epoch * len(self.dataloader) > 0:
            self._decide_current_val_interval()
            self._validate_if_due()  # an epoch's checkpoint is written before its validation
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self._decide_current_val_interval()
            self._validate_if_due()
        self.runner.call_hook("after_train")
        return self.runner.model

    def _settle_sampler_seed(self) -> None:
        """Gives the sampler the seed of the config, or else that of the run, which is the same on all ranks.

        Raises:
            UserError: The run is resumed within an epoch, and had another one.
        """
        differs = self.runner._randomness_cfg.get("diff_rank_seed", False)
        default = self.runner.seed - (get_rank() if differs else 0)
        seed = default if self._sampler_seed is None else self._sampler_seed
        hub = self.runner.message_hub
        saved = hub.runtime_info.get("sampler_seed", default)
        if self._iter > self._epoch * len(self.dataloader) and saved != seed:
            raise UserError(
                f"cannot resume within an epoch: the seed of the sampler is {saved} in the checkpoint, but "
                f"{seed} in this run, so that other images would follow; resume with "
                f"train_dataloader.sampler.seed={saved}"
            )
        self.dataloader.sampler.seed = seed
        hub.update_info("sampler_seed", seed)

    def _require_same_epochs(self) -> None:
        """Checks that the resumed checkpoint has the same number of batches per epoch, of as many images.

        Raises:
            UserError: It has not, so its position within the epoch is meaningless.
        """
        batches = len(self.dataloader)
        info = self.runner.message_hub.runtime_info
        saved = info.get("batches_per_epoch", batches)
        if self._iter > 0 and saved != batches:
            raise UserError(
                f"cannot resume: an epoch has {saved} batches in the checkpoint, but {batches} in this run; "
                "resume with the same data and global batch size (--global-batch-size keeps it on another "
                "number of ranks)"
            )
        images = self.dataloader.batch_sampler.batch_size * get_world_size()
        saved_images = info.get("images_per_step", images)
        if self._iter > self._epoch * batches and saved_images != images:
            raise UserError(
                f"cannot resume within an epoch: the global batch size is {saved_images} in the checkpoint, "
                f"but {images} in this run, so that other images would follow; resume with "
                f"--global-batch-size {saved_images}"
            )
        images_of_epoch = fingerprint(self.dataloader.dataset)
        if (
            self._iter > self._epoch * batches
            and info.get("images_of_epoch", images_of_epoch) != images_of_epoch
        ):
            raise UserError(
                "cannot resume within an epoch: the training images are others than those of the checkpoint, "
                "or in another order; resume with the same data, or from the checkpoint of a whole epoch"
            )
        ranks = get_world_size()
        saved_ranks = info.get("ranks", ranks)
        is_free = self.dataloader.batch_sampler.is_same_on_any_ranks
        if self._iter > self._epoch * batches and saved_ranks != ranks and not is_free:
            raise UserError(
                f"cannot resume within an epoch on {ranks} ranks: the batch sampler of this config groups "
                f"the images of each rank, so that others would follow; resume on {saved_ranks}, or from "
                "the checkpoint of a whole epoch"
            )
        self.runner.message_hub.update_info("images_of_epoch", images_of_epoch)
        self.runner.message_hub.update_info("ranks", ranks)
        self.runner.message_hub.update_info("batches_per_epoch", batches)
        self.runner.message_hub.update_info("images_per_step", images)

    def _warn_of_lost_state(self) -> None:
        """Logs which steps of a resumed run depend on earlier iterations, which no checkpoint holds."""
        if not self._iter:
            return
        # workers that end with their epoch begin the next one with empty caches in any case
        starts_afresh = self.dataloader.num_workers and not self.dataloader.persistent_workers
        is_whole = self._iter == self._epoch * len(self.dataloader)
        kinds = {*_SIZES, *(() if starts_afresh and is_whole else _CACHES)}
        found: set[str] = set()

        def look(node: dict) -> None:
            if node.get("type") is not None:
                found.update(kinds & {kind_of(node)})

        for key in ("model", "train_dataloader", "custom_hooks"):  # whose hooks may switch to a pipeline
            walk(self.runner.cfg.get(key), look)
        if found:
            self.runner.logger.warning(
                f"{' and '.join(sorted(found))}: what earlier iterations left there is in no checkpoint, so "
                "that the resumed training differs from an uninterrupted one"
            )

    def _validate_if_due(self) -> None:
        due = self._epoch % self.val_interval == 0 or self._epoch == self._max_epochs
        if self.runner.val_loop is not None and self._epoch >= self.val_begin and due:
            self.runner.val_loop.run()

    def run_epoch(self) -> None:
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        batches = self.dataloader.batch_sampler
        if len(batches) != self._batches:
            raise UserError(
                f"a hook changed the batches of an epoch from {self._batches} to {len(batches)}, which "
                "ResumableEpochLoop counts to resume within an epoch: use "
                'train_cfg.type="EpochBasedTrainLoop"'
            )
        batches.epoch = self._epoch
        batches.start = self._iter - self._epoch * len(self.dataloader)
        for number, batch in enumerate(self.dataloader, batches.start):
            self.run_iter(number, batch)
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1

    def run_iter(self, idx: int, data_batch) -> None:
        seed_all(self.runner.seed, self._iter, get_rank())
        super().run_iter(idx, data_batch)
