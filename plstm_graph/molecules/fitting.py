"""What all trainings have in common: the optimizer, and the record of the epochs."""

from __future__ import annotations

import math
import time

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback


def adamw(module: L.LightningModule, lr: float, weight_decay: float, warmup_epochs: float) -> dict:
    """AdamW with linear warm-up and cosine decay to zero over the whole run.

    Args:
        module: with a trainer.
        lr: peak learning rate.
        weight_decay: of matrices; norms, biases and gains are not decayed.
        warmup_epochs: epochs of linear warm-up.

    Returns:
        What ``configure_optimizers`` returns.
    """
    gains = [p for p in module.parameters() if p.dim() < 2]
    matrices = [p for p in module.parameters() if p.dim() >= 2]
    groups = [{"params": matrices}, {"params": gains, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay, fused=True)
    steps = max(1, module.trainer.estimated_stepping_batches)
    warmup = max(1, steps * warmup_epochs // max(1, module.trainer.max_epochs))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class History(Callback):
    """Every logged value of every epoch, and its seconds; part of a checkpoint."""

    def __init__(self) -> None:
        self.epochs: list[dict[str, float]] = []

    def state_dict(self) -> dict:
        return {"epochs": self.epochs}

    def load_state_dict(self, state: dict) -> None:
        self.epochs = state["epochs"]

    def on_train_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.epochs.append({**values, "seconds": time.perf_counter() - self._start})
