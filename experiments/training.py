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
from torchmetrics import MeanAbsoluteError, MeanSquaredError, MetricCollection
from torchmetrics.classification import BinaryAccuracy, BinaryAUROC

from experiments.models import GraphNet, Inputs, ModelConfig

# The metric that picks the best epoch, and whether more of it is better.
MONITOR = {"regression": ("rmse", "min"), "binary": ("roc_auc", "max")}


def epoch_metrics(task: str) -> MetricCollection:
    """Metrics of one epoch, from predictions in the target's unit or from probabilities."""
    if task == "regression":
        return MetricCollection(
            {"rmse": MeanSquaredError(squared=False), "mae": MeanAbsoluteError()}
        )
    return MetricCollection({"roc_auc": BinaryAUROC(), "accuracy": BinaryAccuracy()})


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

    Regression is trained on the standardised target, binary classification on logits. AdamW,
    linear warm-up, cosine decay to zero over the whole run, gradients clipped by the trainer.

    Args:
        model: fields of :class:`ModelConfig`.
        inputs: fields of :class:`Inputs`.
        task: "regression" or "binary".
        mean: mean of the training targets (0 for binary).
        std: their standard deviation (1 for binary).
        lr: peak learning rate.
        weight_decay: of AdamW.
        warmup_epochs: epochs of linear warm-up.
        average: copies of each graph in a validation batch, next to each other, whose
            predictions are averaged.
        orientation: how the graphs of pLSTM were oriented; kept for prediction.
    """

    def __init__(
        self,
        model: dict,
        inputs: dict,
        task: str,
        *,
        mean: float = 0.0,
        std: float = 1.0,
        lr: float = 1e-3,
        weight_decay: float = 1e-2,
        warmup_epochs: int = 5,
        average: int = 1,
        orientation: str = "canonical",
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = GraphNet(ModelConfig(**model), Inputs(**inputs))
        # Validation reads one or two sets; the second, if any, is only recorded.
        self.parts = ("valid", "test")
        self.scores = torch.nn.ModuleList(epoch_metrics(task) for _ in self.parts)

    def forward(self, batch: Batch) -> Tensor:
        """[B] standardised predictions or logits, averaged over the copies of each graph."""
        return self.net(batch)

    def predict(self, batch: Batch) -> Tensor:
        """[B / average] predictions in the target's unit, or probabilities of class 1."""
        out = self.net(batch)
        hp = self.hparams
        out = out.sigmoid() if hp.task == "binary" else out * hp.std + hp.mean
        return out.view(-1, hp.average).mean(1)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        hp = self.hparams
        out = self.net(batch)
        if hp.task == "binary":
            loss = F.binary_cross_entropy_with_logits(out, batch.y)
        else:
            loss = F.mse_loss(out, (batch.y - hp.mean) / hp.std)
        options = {"on_step": False, "on_epoch": True, "sync_dist": True}
        self.log("loss", loss, batch_size=batch.num_graphs, **options)
        return loss

    def validation_step(self, batch: Batch, index: int, dataloader_idx: int = 0) -> None:
        pred, target = self.predict(batch), batch.y[:: self.hparams.average]
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
    optimizer = torch.optim.AdamW(groups, lr=hp.lr, weight_decay=hp.weight_decay)
    steps = max(1, module.trainer.estimated_stepping_batches)
    warmup = max(1, steps * hp.warmup_epochs // max(1, module.trainer.max_epochs))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class History(Callback):
    """Every logged value of every epoch, and the seconds it took with its validation.

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

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        values["seconds"] = time.perf_counter() - self._start
        self.epochs.append(values)

    @property
    def seconds(self) -> float:
        """All epochs together."""
        return sum(epoch["seconds"] for epoch in self.epochs)

    @property
    def seconds_per_epoch(self) -> float:
        """Mean over all epochs but the first, which pays for every start-up."""
        seconds = [epoch["seconds"] for epoch in self.epochs]
        return sum(seconds[1:] or seconds) / max(1, len(seconds[1:] or seconds))
