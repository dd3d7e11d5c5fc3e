"""Errors of numbers, scores of classes, and what is gathered of them over a part of a set."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torch_geometric.data import Batch
from torch_geometric.utils import scatter
from torchmetrics import MeanMetric

from datasets.longrange import Target
from datasets.longrange_directed import NONE

#: Least squared error whose logarithm is taken.
SMALLEST = 1e-20


def graph_errors(out: dict[str, Tensor], batch: Batch) -> tuple[Tensor, Tensor]:
    """Squared and absolute errors [B, T] of each graph for each number that is predicted; those
    of node targets are means over the nodes of the graph."""
    squared, absolute = [], []
    for level in ("node", "graph"):
        if level not in out:
            continue
        error = out[level] - batch[f"{level}_y"]
        both = torch.cat([error.square(), error.abs()], 1)
        if level == "node":
            both = scatter(both, batch.batch, 0, batch.num_graphs, "mean")
        for errors, found in zip((squared, absolute), both.chunk(2, 1)):
            errors.append(found)
    return torch.cat(squared, 1), torch.cat(absolute, 1)


def class_scores(logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Whether each node that has a class is right, whether all those of each graph are, and the
    cross entropy of each; graphs without classes are left out."""
    known = batch.class_y != NONE
    logits, classes, graph = logits[known], batch.class_y[known], batch.batch[known]
    right = (logits.argmax(-1) == classes).float()
    whole = scatter(right, graph, 0, batch.num_graphs, "min")
    some = graph.bincount(minlength=batch.num_graphs) > 0
    return right, whole[some], F.cross_entropy(logits, classes, reduction="none")


class Scores(torch.nn.Module):
    """The scores of a part, gathered over its batches.

    For each number that is predicted log_mse_TARGET, the decimal logarithm of the mean squared
    error of scaled labels, and mae_TARGET, the mean absolute error in units of the label; and
    their ``score``, the mean of the logarithms. For classes of roots accuracy_TARGET alone. For
    classes of nodes accuracy_TARGET, over all nodes that have one, whole_TARGET, the share of
    graphs all of whose nodes are right, and their ``score``, the mean cross entropy.
    """

    def __init__(self, targets: Sequence[Target]) -> None:
        super().__init__()
        self.targets = list(targets)
        self.nodes = self.targets[0].level == "node_class"
        count = 3 if self.nodes else 2 * len(targets)
        self.means = torch.nn.ModuleList(MeanMetric() for _ in range(count))

    def update(self, out: dict[str, Tensor], batch: Batch) -> None:
        if "root" in out:
            right = (out["root"].argmax(-1) == batch.root_y).float()
            self.means[0].update(right)
            return
        if "node_class" in out:
            for mean, values in zip(self.means, class_scores(out["node_class"], batch)):
                mean.update(values)
            return
        for kind, errors in enumerate(graph_errors(out, batch)):
            for mean, error in zip(self.means[kind::2], errors.unbind(1)):
                mean.update(error)

    def compute(self) -> dict[str, float]:
        values = [float(mean.compute()) if mean.update_called else 0.0 for mean in self.means]
        names = [target.name for target in self.targets]
        if self.nodes:
            right, whole, score = values
            return {"score": score, f"accuracy_{names[0]}": right, f"whole_{names[0]}": whole}
        if self.targets[0].classes:
            return {f"accuracy_{names[0]}": values[0]}
        logs = [math.log10(max(value, SMALLEST)) for value in values[::2]]
        return {
            "score": sum(logs) / len(logs),
            **{f"log_mse_{name}": value for name, value in zip(names, logs)},
            **{f"mae_{t.name}": t.scale * v for t, v in zip(self.targets, values[1::2])},
        }

    def reset(self) -> None:
        for mean in self.means:
            mean.reset()
