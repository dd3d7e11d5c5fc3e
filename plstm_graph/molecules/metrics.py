"""Metrics of targets with gaps; one that cannot be computed is None, with the reason.

A metric without a value never becomes 0 or NaN: one class has no ROC curve, targets without
variance have no R2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional import (
    mean_absolute_error,
    mean_squared_error,
    pearson_corrcoef,
    r2_score,
)
from torchmetrics.functional.classification import (
    binary_accuracy,
    binary_auroc,
    binary_average_precision,
    multiclass_accuracy,
    multiclass_auroc,
)

#: Metrics of which more is better; of all others less is.
HIGHER = ("roc_auc", "average_precision", "accuracy", "balanced_accuracy", "r2", "pearson")
#: Of each task, those of a target, the most telling one first.
METRICS = {
    "regression": ("rmse", "mae", "r2", "pearson"),
    "binary": ("roc_auc", "average_precision", "accuracy"),
    "multilabel": ("roc_auc", "average_precision", "accuracy"),
    "multiclass": ("accuracy", "balanced_accuracy", "roc_auc", "cross_entropy"),
}


@dataclass
class Scores:
    """Metrics of a set of molecules.

    Args:
        targets: target -> metric -> value, or None.
        overall: the mean over the targets that have a value; the errors of several regressed
            targets are divided by their standard deviations first.
        why: "target: metric" -> the reason for None.
        counts: target -> known values.
    """

    targets: dict[str, dict[str, float | None]] = field(default_factory=dict)
    overall: dict[str, float | None] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict:
        return {
            "overall": self.overall,
            "targets": self.targets,
            "undefined": self.why,
            "known_values": self.counts,
        }


def undefined(task: str, metric: str, target: np.ndarray, classes: int = 0) -> str | None:
    """Why a metric of known values has none; None if it has one."""
    if not target.size:
        return "no known values"
    kinds = np.unique(target)
    if metric in ("roc_auc", "average_precision") and task != "multiclass":
        return f"one class ({kinds[0]:g})" if kinds.size < 2 else None
    if metric == "roc_auc" and kinds.size < classes:
        return f"{kinds.size} of {classes} classes"
    if metric in ("r2", "pearson"):
        if target.size < 2:
            return "one known value"
        return "no variance" if kinds.size < 2 else None
    return None


def scores(
    task: str,
    names: list[str],
    pred: np.ndarray,
    target: np.ndarray,
    std: np.ndarray,
    classes: list[str] | None = None,
) -> Scores:
    """All metrics of a set.

    Args:
        task: of the targets.
        names: of the T targets.
        pred: [B, T] in the targets' units or probabilities; of "multiclass" [B, classes].
        target: [B, T], NaN for gaps.
        std: [T] standard deviations of the training targets.
        classes: names of the classes.
    """
    out = Scores()
    for i, name in enumerate(names):
        known = np.isfinite(target[:, i])
        true = target[known, i]
        column = pred[known] if task == "multiclass" else pred[known, i]
        out.counts[name] = int(known.sum())
        out.targets[name] = {}
        for metric in METRICS[task]:
            reason = undefined(task, metric, true, len(classes or ()))
            value = None if reason else _value(metric, task, column, true, len(classes or ()))
            if value is not None and not math.isfinite(value):
                value, reason = None, "predictions without variance"
            if reason:
                out.why[f"{name}: {metric}"] = reason
            out.targets[name][metric] = value
    units = std if task == "regression" and len(names) > 1 else np.ones(len(names))
    for metric in METRICS[task]:
        unit = units if metric in ("rmse", "mae") else np.ones(len(names))
        values = [
            value / unit[i]
            for i, name in enumerate(names)
            if (value := out.targets[name][metric]) is not None
        ]
        out.overall[metric] = sum(values) / len(values) if values else None
    return out


def _value(metric: str, task: str, pred: np.ndarray, true: np.ndarray, classes: int) -> float:
    p, y = torch.from_numpy(np.ascontiguousarray(pred)), torch.from_numpy(true.copy())
    if metric == "rmse":
        return float(mean_squared_error(p, y, squared=False))
    if metric == "mae":
        return float(mean_absolute_error(p, y))
    if metric == "r2":
        return float(r2_score(p, y))
    if metric == "pearson":
        return float(pearson_corrcoef(p, y)) if float(p.std()) > 0 else math.nan
    y = y.long()
    if metric == "cross_entropy":
        return float(torch.nn.functional.nll_loss(p.clamp_min(1e-12).log(), y))
    if task == "multiclass":
        if metric == "roc_auc":
            return float(multiclass_auroc(p, y, classes))
        average = "micro" if metric == "accuracy" else "macro"
        return float(multiclass_accuracy(p, y, classes, average=average))
    function = {
        "roc_auc": binary_auroc,
        "average_precision": binary_average_precision,
        "accuracy": binary_accuracy,
    }[metric]
    return float(function(p, y))


def choose_monitor(task: str, target: np.ndarray) -> tuple[str, str, str]:
    """The validation metric that picks the epoch: its name, "min" or "max", and why.

    It is one that the validation targets define, in every epoch the same way.

    Args:
        task: of the targets.
        target: [B, T] of the validation set, NaN for gaps.
    """
    if task == "regression":
        name = "rmse" if target.shape[1] == 1 else "standardised rmse"
        return "loss", "min", f"the validation {name} picks the epoch"
    if task == "multiclass":
        return "loss", "min", "the validation cross-entropy picks the epoch"
    columns = [column[np.isfinite(column)] for column in target.T]
    defined = [column for column in columns if not undefined(task, "roc_auc", column)]
    if not defined:
        return (
            "loss", "min",
            "no target has both classes in the validation set, so ROC-AUC is undefined there: the "
            "validation loss picks the epoch",
        )  # fmt: skip
    few = "" if len(defined) == len(columns) else f" of {len(defined)} of {len(columns)} targets"
    return "roc_auc", "max", f"the validation ROC-AUC{few} picks the epoch"


def masked_loss(
    task: str, out: Tensor, y: Tensor, weight: Tensor, class_weight: Tensor | None = None
) -> Tensor:
    """The mean loss over known targets, weighted; 0 where there are none.

    Args:
        task: of the targets.
        out: [B, T] standardised predictions or logits; [B, classes] of "multiclass".
        y: [B, T] standardised targets or classes, 0 in gaps.
        weight: [B, T], 0 in gaps.
        class_weight: balance: of "binary" and "multilabel" [T] the weight of class 1, of
            "multiclass" [classes]; None for none.
    """
    functional = torch.nn.functional
    if task == "regression":
        loss = (out - y).square()
    elif task == "multiclass":
        labels = y[:, 0].long()
        loss = functional.cross_entropy(out, labels, reduction="none")[:, None]
        if class_weight is not None:
            weight = weight * class_weight.to(weight.dtype)[labels][:, None]
    else:
        loss = functional.binary_cross_entropy_with_logits(
            out, y, reduction="none", pos_weight=class_weight
        )
    total = weight.sum()
    return (loss * weight).sum() / total.clamp_min(torch.finfo(total.dtype).tiny)
