"""The Lightning module that trains every model, and the record of its epochs."""

from __future__ import annotations

import math
import time

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.nn import functional as F
from torch_geometric.data import Batch

from experiments.metrics import epoch_metrics
from experiments.models import GraphNet, Inputs, ModelConfig

LOSSES = {"mse": F.mse_loss, "l1": F.l1_loss}


def chosen_epoch(epochs: list[dict[str, float]], metric: str, mode: str) -> int:
    """The first epoch (from 0) that reaches the best value of ``metric``: "min" or "max" of it."""
    values = [epoch[metric] for epoch in epochs]
    return values.index((min if mode == "min" else max)(values))


def is_repeat(trainer: L.Trainer, index: int, loader: int = 0) -> bool:
    """Whether a validation batch is one that another process counts.

    Under DDP each process gets every n-th batch, and so that all get equally many, Lightning's
    sampler hands some out twice. They are run, because processes wait for each other in each
    batch, but must not enter the metrics again.

    Args:
        trainer: of the module that validates.
        index: of the batch in this process.
        loader: index of the validation loader, whose data set consists of whole batches.
    """
    loaders = trainer.val_dataloaders
    loaders = loaders if isinstance(loaders, list) else [loaders]
    return index * trainer.world_size + trainer.global_rank >= len(loaders[loader].dataset)


class GraphModule(L.LightningModule):
    """A model with its loss, metrics and optimizer.

    Regression is trained on standardised targets, classification on logits. AdamW, linear
    warm-up, cosine decay to zero over the whole run, gradients clipped by the trainer.

    Args:
        model: fields of :class:`ModelConfig`.
        inputs: fields of :class:`Inputs`.
        task: "regression", "binary" or "multilabel".
        mean: mean of the training targets, or one for each of several (0 for classes).
        std: their standard deviation, likewise (1 for classes).
        loss: of regression: "mse" or "l1".
        lr: peak learning rate.
        weight_decay: of AdamW.
        warmup_epochs: epochs of linear warm-up.
        average: copies of each graph in a validation batch, next to each other, whose
            predictions are averaged.
        orientation: how the graphs of pLSTM were oriented; kept for prediction.
        target_names: one for each target; kept for prediction.
    """

    def __init__(
        self,
        model: dict,
        inputs: dict,
        task: str,
        *,
        mean: float | list[float] = 0.0,
        std: float | list[float] = 1.0,
        loss: str = "mse",
        lr: float = 1e-3,
        weight_decay: float = 1e-2,
        warmup_epochs: int = 5,
        average: int = 1,
        orientation: str = "canonical",
        target_names: list[str] | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        signature = Inputs(**inputs)
        self.net = GraphNet(ModelConfig(**model), signature)
        # Known from the hyperparameters, so no part of the weights.
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)
        # Validation reads one or two sets; the second, if any, is only recorded.
        self.parts = ("valid", "test")
        self.scores = torch.nn.ModuleList(
            epoch_metrics(task, signature.targets, self.std) for _ in self.parts
        )

    def forward(self, batch: Batch) -> Tensor:
        """[B] or [B, T] standardised predictions or logits."""
        return self.net(batch)

    def predict(self, batch: Batch) -> Tensor:
        """[B / average] or [B / average, T]: predictions in the target's unit or probabilities
        of class 1, averaged over the copies of each graph."""
        out = self.net(batch)
        out = out * self.std + self.mean if self.hparams.task == "regression" else out.sigmoid()
        return out.unflatten(0, (-1, self.hparams.average)).mean(1)

    def training_loss(self, batch: Batch) -> Tensor:
        out = self.net(batch)
        if self.hparams.task == "regression":
            return LOSSES[self.hparams.loss](out, (batch.y - self.mean) / self.std)
        return F.binary_cross_entropy_with_logits(out, batch.y)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        loss = self.training_loss(batch)
        options = {"on_step": False, "on_epoch": True, "sync_dist": True}
        self.log("loss", loss, batch_size=batch.num_graphs, **options)
        return loss

    def validation_step(self, batch: Batch, index: int, dataloader_idx: int = 0) -> None:
        # Contiguous: torchmetrics views the targets of a batch as one row.
        pred, target = self.predict(batch), batch.y[:: self.hparams.average].contiguous()
        target = target if self.hparams.task == "regression" else target.long()
        if not is_repeat(self.trainer, index, dataloader_idx):
            self.scores[dataloader_idx].update(pred, target)

    def on_validation_epoch_end(self) -> None:
        # As many sets as there are loaders: a process without a batch of its own takes part.
        for part, scores, _ in zip(self.parts, self.scores, self.trainer.num_val_batches):
            values = {f"{part}_{name}": value for name, value in scores.compute().items()}
            self.log_dict(values, prog_bar=part == "valid", sync_dist=True)
            scores.reset()

    def configure_optimizers(self) -> dict:
        return adamw(self)


def adamw(module: L.LightningModule) -> dict:
    """AdamW with linear warm-up and cosine decay to zero over the whole run.

    Args:
        module: with the hyperparameters lr, weight_decay and warmup_epochs, and a trainer.
    """
    hp = module.hparams
    # Norms, biases and gains are not decayed.
    plain = [p for p in module.parameters() if p.dim() < 2]
    decayed = [p for p in module.parameters() if p.dim() >= 2]
    groups = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=hp.lr, weight_decay=hp.weight_decay, fused=True)
    steps = max(1, module.trainer.estimated_stepping_batches)
    warmup = max(1, steps * hp.warmup_epochs // max(1, module.trainer.max_epochs))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class History(Callback):
    """Every logged value of every epoch, the seconds it took, and those without its validation.

    It is part of a checkpoint, so that a resumed run has all epochs.
    """

    def __init__(self) -> None:
        self.epochs: list[dict[str, float]] = []

    def state_dict(self) -> dict:
        return {"epochs": self.epochs}

    def load_state_dict(self, state: dict) -> None:
        self.epochs = state["epochs"]

    def on_train_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._start = time.perf_counter()
        self._trained = None

    def on_validation_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._trained = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        end = time.perf_counter()
        values["seconds"] = end - self._start
        values["train_seconds"] = (self._trained or end) - self._start
        self.epochs.append(values)

    @property
    def seconds(self) -> float:
        """All epochs together."""
        return sum(epoch["seconds"] for epoch in self.epochs)

    @property
    def seconds_per_epoch(self) -> float:
        return seconds_per_epoch(self.epochs)


def seconds_per_epoch(epochs: list[dict[str, float]], key: str = "seconds") -> float:
    """Mean over all epochs but the first, which pays for every start-up."""
    seconds = [epoch[key] for epoch in epochs]
    return sum(seconds[1:] or seconds) / max(1, len(seconds[1:] or seconds))
