"""Batches of the long-range tasks, and the module that trains every model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch_geometric.data import Batch, Data

from datasets.longrange import LongRange, Target
from datasets.longrange_directed import NONE
from experiments.dag_training import PARTS, GraphBatches, loader
from experiments.fitting import Protocol
from experiments.loading import EVAL_FACTOR
from experiments.longrange.models import LongRangeNet, Signature, mean_outputs
from experiments.longrange.scores import SMALLEST, Scores, graph_errors
from experiments.models import ModelConfig, to_dict
from experiments.training import EpochModule
from plstm_graph.dag.orient import DRAWN
from plstm_graph.transforms import LineGraphCollater, to_line_graphs

LOSSES = ("mse", "log_mse")
#: Line graphs of sets with more columns of ``edge_index`` are built batch by batch, in each epoch.
PREBUILT = 2_000_000

Collate = Callable[[list[Data], list[int]], Batch]


def collater(model: str, orientation: str) -> Collate:
    """How graphs and the numbers that seed their orientations become a batch.

    Orientations that are drawn follow from the numbers alone, e.g. seed, epoch and batch: a
    resumed run draws the same ones.
    """
    if model != "plstm":
        return lambda graphs, numbers: Batch.from_data_list(graphs)

    def collate(graphs: list[Data], numbers: list[int]) -> Batch:
        (seed,) = np.random.SeedSequence(numbers).generate_state(1).tolist()
        return LineGraphCollater(orientation, seed if orientation in DRAWN else None)(graphs)

    return collate


def evaluated(data: LongRange) -> list[str]:
    """The parts that are not trained on: validation, which picks the epoch, and test."""
    return [part for part in data.parts if part != "train"]


class TrainBatches(GraphBatches):
    """Training batches, in an order of seed and epoch alone.

    Args:
        graphs: plain, or with line graphs that are not drawn.
        batch_size: graphs of a batch.
        seed: of the order and of the orientations.
        collate: see :func:`collater`.
    """

    def __init__(
        self, graphs: Sequence[Data], batch_size: int, seed: int, collate: Collate
    ) -> None:
        self.collate = collate
        super().__init__(graphs, batch_size, seed)

    def set_epoch(self, epoch: int) -> None:
        super().set_epoch(epoch)
        self.epoch = epoch

    def __getitem__(self, index: int) -> Batch:
        rows = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        return self.collate([self.graphs[row] for row in rows], [self.seed, self.epoch, index])


def loaders(
    data: LongRange, config: ModelConfig, protocol: Protocol, orientation: str, average: int
) -> tuple[torch.utils.data.DataLoader, list[torch.utils.data.DataLoader]]:
    """The training batches, and those of the other parts.

    The latter are lists of ``average`` batches of the same graphs, each with orientations of its
    own, which stay the same in all epochs; of one batch where orientations are not drawn.
    """
    collate = collater(config.name, orientation)
    drawn = config.name == "plstm" and orientation in DRAWN
    size, copies = EVAL_FACTOR * protocol.batch_size, average if drawn else 1
    evaluation = []
    for number, part in enumerate(evaluated(data)):
        graphs = data.parts[part]
        batches = [
            [collate(graphs[i : i + size], [protocol.seed, number, i, k]) for k in range(copies)]
            for i in range(0, len(graphs), size)
        ]
        evaluation.append(loader(batches))
    graphs = data.parts["train"]
    columns = sum(graph.num_edges for graph in graphs)
    if config.name == "plstm" and not drawn and columns <= PREBUILT:
        graphs, collate = to_line_graphs(graphs, orientation), collater("none", "")
    return loader(TrainBatches(graphs, protocol.batch_size, protocol.seed, collate)), evaluation


class LongRangeModule(EpochModule):
    """A model with its loss, scores and optimizer (:class:`EpochModule`).

    Models predict standardised labels. The loss is the mean over targets of their mean squared
    error, or of the decimal logarithm of that of scaled labels; for classes the cross entropy. An
    epoch is judged by the validation score, or where classes of roots are predicted by the accuracy
    on the training batches, which is what is published.

    Args:
        model: fields of :class:`ModelConfig`.
        signature: fields of :class:`Signature`.
        targets: fields of each :class:`Target`.
        standard: mean and standard deviation of the training labels of each target.
        loss: "mse" or "log_mse".
        seed: of dropout.
        lr: peak learning rate.
        weight_decay: of AdamW.
        warmup_epochs: epochs of linear warm-up.
        parts: names of the parts that are validated on, see :func:`evaluated`.
    """

    def __init__(
        self,
        model: dict,
        signature: dict,
        targets: list[dict],
        standard: list[tuple[float, float]],
        *,
        loss: str = "mse",
        seed: int = 0,
        lr: float = 1e-3,
        weight_decay: float = 1e-2,
        warmup_epochs: int = 2,
        parts: Sequence[str] = PARTS,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = LongRangeNet(ModelConfig(**model), Signature(**signature))
        found = [Target(**target) for target in targets]
        mean, deviation = torch.tensor(standard).T
        # Known from the hyperparameters, so no part of the weights.
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("deviation", deviation, persistent=False)
        self.scores = torch.nn.ModuleList(Scores(found) for _ in parts)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Scaled labels by level, or the logits of classes."""
        out = self.net(batch)
        if "root" in out or "node_class" in out:
            return out
        sizes = [value.size(1) for value in out.values()]
        mean, deviation = self.mean.split(sizes), self.deviation.split(sizes)
        return {level: value * d + m for (level, value), m, d in zip(out.items(), mean, deviation)}

    def training_step(self, batch: Batch, index: int) -> Tensor:
        out = self(batch)
        options = {"on_step": False, "on_epoch": True, "batch_size": batch.num_graphs}
        if "root" in out:
            loss = F.cross_entropy(out["root"], batch.root_y)
            right = (out["root"].argmax(-1) == batch.root_y).float().mean()
            self.log("train_accuracy", right, **options)
        elif "node_class" in out:
            known = (batch.class_y != NONE).sum().clamp(min=1)  # a batch may have none
            total = F.cross_entropy(
                out["node_class"], batch.class_y, ignore_index=NONE, reduction="sum"
            )
            loss = total / known
        else:
            means = graph_errors(out, batch)[0].mean(0)
            if self.hparams.loss == "log_mse":
                loss = means.clamp(min=SMALLEST).log10().mean()
            else:
                loss = (means / self.deviation.square()).mean()
        self.log("loss", loss, **options)
        return loss

    def validation_step(self, batches: list[Batch], index: int, dataloader_idx: int = 0) -> None:
        out = mean_outputs([self(batch) for batch in batches])
        self.scores[dataloader_idx].update(out, batches[0])

    def on_validation_epoch_end(self) -> None:
        for part, scores in zip(self.hparams.parts, self.scores):
            values = {f"{part}_{name}": value for name, value in scores.compute().items()}
            self.log_dict(values, prog_bar=part == "valid")
            scores.reset()
        self.log("cpu_seconds", self.cpu_seconds())


def standard(data: LongRange) -> list[tuple[float, float]]:
    """Mean and standard deviation of the training labels of each target; 0 and 1 for classes."""
    found = []
    for level in ("node", "graph"):
        if any(target.level == level for target in data.targets):
            labels = torch.cat([graph[f"{level}_y"] for graph in data.parts["train"]])
            deviation = labels.std(0, correction=0)
            deviation = deviation.where(deviation > 0, 1.0)
            found += list(zip(labels.mean(0).tolist(), deviation.tolist()))
    return found or [(0.0, 1.0)] * len(data.targets)


def make_module(
    data: LongRange, config: ModelConfig, protocol: Protocol, loss: str
) -> LongRangeModule:
    """A module with the learning rate and so on of a protocol."""
    return LongRangeModule(
        to_dict(config), asdict(Signature.of(data)), [asdict(target) for target in data.targets],
        standard(data), loss=loss, seed=protocol.seed, lr=protocol.lr,
        weight_decay=protocol.weight_decay, warmup_epochs=protocol.warmup_epochs,
        parts=evaluated(data),
    )  # fmt: skip
