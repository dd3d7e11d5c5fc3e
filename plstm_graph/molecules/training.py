"""Trains one network: the Lightning module, its batches, and how it is stopped and resumed.

Everything that is random is a function of the seed, the epoch and the batch, and a checkpoint is
written after each epoch. So a run that was killed and resumed ends as one that never stopped,
whatever the number of worker processes.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    ModelCheckpoint,
    RichProgressBar,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader

from plstm_graph.molecules.batches import Batches, MoleculeBatch, Requests, draw_of
from plstm_graph.molecules.errors import InputError
from plstm_graph.molecules.fitting import History, adamw
from plstm_graph.molecules.metrics import choose_monitor, masked_loss, scores
from plstm_graph.molecules.options import TrainOptions
from plstm_graph.molecules.splits import Parts
from plstm_graph.molecules.task import Task

#: Without gradients a batch may be larger.
EVAL_FACTOR = 4


class TrainModule(L.LightningModule):
    """A network with its loss, its validation metrics and AdamW.

    Linear warm-up, then a cosine decay to zero over the whole run.

    Args:
        net: from a batch of B molecules to [B, outputs].
        task: the targets.
        options: learning rate and the like.
        seed: of dropout.
        monitor: the metric that picks the epoch.
    """

    def __init__(
        self, net: nn.Module, task: Task, options: TrainOptions, seed: int, monitor: str
    ) -> None:
        super().__init__()
        self.net, self.task, self.options, self.seed = net, task, options, seed
        self.monitor = monitor
        self.register_buffer("class_weight", task.class_weight(), persistent=False)
        self._valid: list[tuple[Tensor, Tensor, Tensor]] = []

    def training_step(self, batch: MoleculeBatch, index: int) -> Tensor:
        # Dropout must not depend on what else draws random numbers: loaders do, and not equally
        # often with worker processes or in a resumed run.
        torch.manual_seed(draw_of(self.seed, self.current_epoch, index))
        out = self.net(batch)
        loss = masked_loss(self.task.kind, out, batch.y, batch.weight, self.class_weight)
        if not torch.isfinite(loss):
            raise InputError(
                f"the training loss is {loss.item()} in epoch {self.current_epoch + 1}: training "
                f"diverged; lower --lr (it is {self.options.lr:g})"
            )
        self.log("loss", loss, on_step=False, on_epoch=True, batch_size=batch.size)
        return loss

    def validation_step(self, batch: MoleculeBatch, index: int) -> None:
        self._valid.append(
            tuple(t.detach().cpu() for t in (self.net(batch), batch.y, batch.weight))
        )

    def on_validation_epoch_end(self) -> None:
        out, y, weight = (torch.cat(parts).double() for parts in zip(*self._valid))
        self._valid.clear()
        balance = None if self.class_weight is None else self.class_weight.cpu().double()
        loss = float(masked_loss(self.task.kind, out, y, weight, balance))
        if not math.isfinite(loss):
            raise InputError(
                f"the validation loss is {loss} in epoch {self.current_epoch + 1}: training "
                f"diverged; lower --lr (it is {self.options.lr:g})"
            )
        values = {"loss": loss}
        if self.task.kind == "multiclass":
            correct = (out.argmax(-1) == y[:, 0]).double()
            values["accuracy"] = float(correct.mean())
        elif self.task.kind != "regression":
            targets = self.task.targets
            true = np.where(weight.numpy() > 0, y.numpy(), np.nan)
            found = scores(self.task.kind, targets.names, out.sigmoid().numpy(), true,
                           self.task.std)  # fmt: skip
            if found.overall["roc_auc"] is not None:
                values["roc_auc"] = found.overall["roc_auc"]
        else:
            values["rmse"] = math.sqrt(float(masked_loss("regression", out, y, (weight > 0) * 1.0)))
        for name, value in values.items():
            shown = name == self.monitor
            self.log(f"valid_{name}", torch.tensor(value, dtype=torch.float64), prog_bar=shown)

    def configure_optimizers(self) -> dict:
        options = self.options
        return adamw(self, options.lr, options.weight_decay, options.warmup_epochs)


@dataclass(frozen=True)
class Fit:
    """A trained network.

    Args:
        state: its best weights.
        epochs: what was logged in each epoch.
        best: the epoch of the weights, from 0.
        monitor: the metric that picked it.
        why: in words.
    """

    state: dict[str, Tensor]
    epochs: list[dict[str, float]]
    best: int
    monitor: str
    why: str


def fit(
    net: nn.Module,
    graphs: Sequence,
    seeds: np.ndarray,
    parts: Parts,
    task: Task,
    options: TrainOptions,
    seed: int,
    folder: Path,
    progress: bool = False,
    callbacks: Sequence[Callback] = (),
) -> Fit:
    """Train a network to the end, from its last checkpoint if there is one.

    Args:
        net: from a :class:`MoleculeBatch` to [B, outputs].
        graphs: all molecules.
        seeds: [B] uint64, of the molecules.
        parts: "train" and "valid" rows.
        task: the targets.
        options: how to train.
        seed: of the batches and dropout.
        folder: of checkpoints, which is removed at the end.
        progress: show a bar.
        callbacks: more of them.
    """
    rows = {part: parts[part].tolist() for part in ("train", "valid")}
    monitor, mode, why = choose_monitor(task.kind, task.targets.values[rows["valid"]])
    module = TrainModule(net, task, options, seed, monitor)
    data = Batches(graphs, seeds, options.orientation, task.y, task.w)
    workers = {"num_workers": options.workers, "persistent_workers": options.workers > 0}
    train = DataLoader(
        data, batch_size=None, sampler=Requests(rows["train"], options.batch_size, seed), **workers
    )
    size = EVAL_FACTOR * options.batch_size
    valid = DataLoader(data, batch_size=None, sampler=Requests(rows["valid"], size), **workers)
    history = History()
    keep = {"save_on_train_epoch_end": True, "enable_version_counter": False}
    best = ModelCheckpoint(folder, "best", monitor=f"valid_{monitor}", mode=mode, **keep)
    stop = EarlyStopping(
        f"valid_{monitor}", mode=mode, patience=options.patience, check_on_train_epoch_end=True
    )
    last = ModelCheckpoint(folder, "last", **keep)  # after the others, whose state it holds
    more = [RichProgressBar(leave=False)] if progress else []
    trainer = L.Trainer(
        max_epochs=options.epochs,
        accelerator=options.accelerator,
        devices=1,
        callbacks=[history, *callbacks, *more, best, stop, last],
        logger=False,
        enable_progress_bar=progress,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        gradient_clip_val=1.0,
    )
    checkpoint = folder / "last.ckpt"
    resumed = checkpoint if checkpoint.is_file() else None
    if resumed:
        check_checkpoint(checkpoint)
    trainer.fit(module, train, valid, ckpt_path=resumed, weights_only=True)
    values = [epoch[f"valid_{monitor}"] for epoch in history.epochs]
    chosen = values.index((min if mode == "min" else max)(values))
    state = _weights(folder / "best.ckpt")
    return Fit(state, history.epochs, chosen, monitor, why)


def check_checkpoint(path: Path) -> dict[str, Any]:
    """What a checkpoint holds.

    Raises:
        InputError: if it is broken.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a broken archive makes of itself
        raise InputError(
            f"expected {path} as a checkpoint of this run, got a broken file "
            f"({type(error).__name__}); remove its folder to train this model again"
        ) from error


def _weights(path: Path) -> dict[str, Tensor]:
    state = check_checkpoint(path)["state_dict"]
    return {key[4:]: value for key, value in state.items() if key.startswith("net.")}


def forget(folder: Path) -> None:
    """Remove the checkpoints of a network that has been saved."""
    shutil.rmtree(folder, ignore_errors=True)
