"""Trains as the command line does, and records what each rank saw: ``record_training.py OUT ARGS…``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch.nn.modules.batchnorm import _BatchNorm

from hardnet_suite.openmm.run import configs
from hardnet_suite.openmm.run.runner import prepare
from hardnet_suite.openmm.run.train import train


@HOOKS.register_module()
class Record(Hook):
    """Image ids and loss of every iteration; the gradients of the first. Batch norms are frozen."""

    def before_train(self, runner) -> None:
        self.rows, self.gradients = [], {}
        runner.optim_wrapper.optimizer.register_step_pre_hook(lambda *_: self.keep_gradients(runner))

    def keep_gradients(self, runner) -> None:
        if not self.gradients:
            for name, parameter in runner.model.named_parameters():
                self.gradients[name.removeprefix("module.")] = parameter.grad.clone()

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        for module in runner.model.modules():
            if isinstance(module, _BatchNorm):
                module.eval()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        ids = [sample.img_id for sample in data_batch["data_samples"]]
        sums = [float(image.sum()) for image in data_batch["inputs"]]
        self.rows.append({"ids": ids, "sums": sums, "loss": float(outputs["loss"])})

    def after_train(self, runner) -> None:
        folder = Path(sys.argv[1])
        folder.mkdir(parents=True, exist_ok=True)
        content = {"rows": self.rows, "gradients": self.gradients}
        torch.save(content, folder / f"rank{os.environ.get('RANK', 0)}.pth")


config, data, work_dir, batch, launcher = sys.argv[2:]
cfg = configs.load_config(config, {"train_dataloader.batch_size": int(batch)})
configs.set_data_root(cfg, data)
cfg.train_cfg.max_epochs = 1
cfg.optim_wrapper.clip_grad = None
cfg.custom_hooks = [*cfg.custom_hooks, {"type": "Record"}]
train(prepare(cfg, work_dir=work_dir, launcher=launcher))
