"""Metrics of one set of graphs, and the one that picks the best epoch."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import MeanAbsoluteError, MeanSquaredError, Metric, MetricCollection
from torchmetrics.classification import (
    BinaryAccuracy,
    BinaryAUROC,
    MultilabelAveragePrecision,
)

# The metric that picks the best epoch, and whether more of it is better.
MONITOR = {
    "regression": ("rmse", "min"),
    "binary": ("roc_auc", "max"),
    "multilabel": ("average_precision", "max"),
}
#: In place of the RMSE, which would mix units, where several targets are regressed.
SEVERAL = ("standardised_rmse", "min")


def monitor_of(task: str, targets: int = 1) -> tuple[str, str]:
    """The metric that picks the best epoch, and "min" or "max" of it.

    Args:
        task: "regression", "binary" or "multilabel".
        targets: targets of a graph.
    """
    return SEVERAL if task == "regression" and targets > 1 else MONITOR[task]


def standardised_errors(pred: Tensor, target: Tensor, std: Tensor | float) -> Tensor:
    """[T]: RMSE of each target, in standard deviations of the training targets.

    Args:
        pred: [B, T] predictions in the targets' units.
        target: [B, T].
        std: [T] standard deviations, or one of all.
    """
    return ((pred - target) / std).square().mean(0).sqrt()


class StandardisedRMSE(Metric):
    """The mean over targets of :func:`standardised_errors`, accumulated over batches.

    Args:
        std: [T] standard deviations of the training targets.

    Shapes:
        predictions and targets [B, T], in the targets' units.
    """

    full_state_update = False
    is_differentiable = True
    higher_is_better = False

    def __init__(self, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("std", std.clone(), persistent=False)
        self.add_state("squares", torch.zeros_like(std), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, pred: Tensor, target: Tensor) -> None:
        self.squares += ((pred - target) / self.std).square().sum(0)
        self.count += len(pred)

    def compute(self) -> Tensor:
        return (self.squares / self.count).sqrt().mean()


def epoch_metrics(task: str, targets: int = 1, std: Tensor | None = None) -> MetricCollection:
    """Metrics of one epoch, from predictions in the target's unit or from probabilities.

    Args:
        task: "regression", "binary" or "multilabel".
        targets: targets of a graph.
        std: of regression: standard deviation of the training targets, [T] or one of all.
            Default: 1.
    """
    if task == "multilabel":  # the mean over labels of each one's average precision
        return MetricCollection({"average_precision": MultilabelAveragePrecision(targets)})
    if task == "binary":
        return MetricCollection({"roc_auc": BinaryAUROC(), "accuracy": BinaryAccuracy()})
    if targets == 1:
        rmse = {"rmse": MeanSquaredError(squared=False)}
    else:
        std = torch.ones(targets) if std is None else std.expand(targets)
        rmse = {SEVERAL[0]: StandardisedRMSE(std)}
    return MetricCollection({**rmse, "mae": MeanAbsoluteError()})
