"""The Lightning module that trains every model, and the record of its epochs."""

from __future__ import annotations

import time

import lightning as L
import torch
from torch import Tensor
from torch.nn import functional as F
from torch_geometric.data import Batch

from experiments.metrics import epoch_metrics
from experiments.models import GraphNet, Inputs, ModelConfig
from plstm_graph.molecules import fitting

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
        hp = self.hparams
        return fitting.adamw(self, hp.lr, hp.weight_decay, hp.warmup_epochs)


class EpochModule(L.LightningModule):
    """What the modules have in common whose training batches are a data set with ``set_epoch``:
    each epoch is that of the seed and its number alone, and the optimizer is AdamW
    (:func:`plstm_graph.molecules.fitting.adamw`).

    Hyperparameters: seed, lr, weight_decay, warmup_epochs.
    """

    def on_train_epoch_start(self) -> None:
        self.trainer.train_dataloader.dataset.set_epoch(self.current_epoch)
        # Of the epoch alone, like the order, or a resumed run would not be the same.
        torch.manual_seed(1000 * self.hparams.seed + self.current_epoch)
        self._start = time.process_time()

    def cpu_seconds(self) -> float:
        """CPU time since the epoch began."""
        return time.process_time() - self._start

    def configure_optimizers(self) -> dict:
        hp = self.hparams
        return fitting.adamw(self, hp.lr, hp.weight_decay, hp.warmup_epochs)


class History(fitting.History):
    """It also has the seconds of each epoch without its validation, ``train_seconds``."""

    def on_train_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        super().on_train_epoch_start(trainer, module)
        self._trained = None

    def on_validation_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._trained = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        super().on_train_epoch_end(trainer, module)
        end = self._trained or self._start + self.epochs[-1]["seconds"]
        self.epochs[-1]["train_seconds"] = end - self._start

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
