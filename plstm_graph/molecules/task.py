"""Targets as a network reads them: scaled by those of the training part, weighted, balanced."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from plstm_graph.molecules.errors import InputError
from plstm_graph.molecules.targets import Targets, scale


@dataclass
class Task:
    """Targets of B molecules as a network reads them, scaled by those of the training part.

    Args:
        targets: of all molecules.
        weight: [B] of the molecules.
        train: rows of the training part.
        class_balance: whether classes get the same total weight.
    """

    targets: Targets
    weight: np.ndarray
    train: np.ndarray
    class_balance: bool = False

    def __post_init__(self) -> None:
        values = self.targets.values
        part, known = values[self.train], np.isfinite(values)
        empty = [n for n, some in zip(self.targets.names, known[self.train].any(0)) if not some]
        if empty:
            raise InputError(
                f"expected known values of each target in the training part, got none of "
                f"{', '.join(map(repr, empty))}; leave the target out, or choose another --split"
            )
        self.mean, self.std = np.zeros(values.shape[1]), np.ones(values.shape[1])
        if self.kind == "regression":
            self.mean, self.std = scale(part)
        scaled = np.where(known, (np.nan_to_num(values) - self.mean) / self.std, 0.0)
        self.y = torch.from_numpy(scaled).float()
        self.w = torch.from_numpy(known * self.weight[:, None]).float()

    @property
    def kind(self) -> str:
        return self.targets.task

    def class_weight(self) -> Tensor | None:
        """See :func:`plstm_graph.molecules.metrics.masked_loss`."""
        if not self.class_balance or self.kind == "regression":
            return None
        part, weight = self.targets.values[self.train], self.w.numpy()[self.train]
        if self.kind == "multiclass":
            sums = np.array([weight[part == i].sum() for i in range(len(self.targets.classes))])
            return torch.from_numpy(sums.sum() / np.maximum(sums, 1e-12) / (sums > 0).sum()).float()
        ones, zeros = (weight * (part == 1)).sum(0), (weight * (part == 0)).sum(0)
        both = (ones > 0) & (zeros > 0)
        return torch.from_numpy(np.where(both, zeros / np.maximum(ones, 1e-12), 1.0)).float()

    def notes(self) -> list[str]:
        """What cannot be learnt from the training part."""
        out = []
        part = self.targets.values[self.train]
        for name, column in zip(self.targets.names, part.T):
            kinds = np.unique(column[np.isfinite(column)])
            if kinds.size == 1:
                what = "value" if self.kind == "regression" else "class"
                out.append(
                    f"target {name!r} has one {what} ({kinds[0]:g}) in the training part: there is "
                    f"nothing to learn of it"
                )
        return out

    def readable(self, out: Tensor) -> Tensor:
        """Outputs of a network in the targets' units, or as probabilities."""
        if self.kind == "regression":
            mean, std = (torch.from_numpy(a).to(out) for a in (self.mean, self.std))
            return out * std + mean
        return out.softmax(-1) if self.kind == "multiclass" else out.sigmoid()
