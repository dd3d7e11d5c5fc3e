"""Regression on directed acyclic graphs: the batches, and the module that trains every model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torch_geometric.data import Batch, Data
from torchmetrics import MeanSquaredError, MetricCollection, PearsonCorrCoef

from experiments.dag_models import DagConfig, DagNet
from experiments.fitting import Protocol
from experiments.training import EpochModule, is_repeat

PARTS = ("valid", "test")


class GraphBatches(Dataset):
    """Training batches, in an order of seed and epoch alone: a resumed run reads the same ones.

    Args:
        graphs: with their line graphs.
        batch_size: graphs of a batch.
        seed: of the order, a new one for each epoch.
    """

    def __init__(self, graphs: Sequence[Data], batch_size: int, seed: int) -> None:
        self.graphs, self.batch_size, self.seed = graphs, batch_size, seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        self.order = np.random.default_rng([self.seed, epoch]).permutation(len(self.graphs))

    def __len__(self) -> int:
        return -(-len(self.graphs) // self.batch_size)

    def __getitem__(self, index: int) -> Batch:
        rows = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        return Batch.from_data_list([self.graphs[row] for row in rows])


def loader(batches: Dataset | list[Batch]) -> DataLoader:
    """Batches that are made whole."""
    # Its own generator: drawing from the global one would shift what dropout draws.
    return DataLoader(batches, batch_size=None, generator=torch.Generator())


def eval_batches(graphs: Sequence[Data], size: int) -> list[Batch]:
    """Batches in order, made once and kept, with all that models cache on them."""
    return [Batch.from_data_list(graphs[i : i + size]) for i in range(0, len(graphs), size)]


class DagModule(EpochModule):
    """A model with its loss, metrics and optimizer (:class:`EpochModule`).

    The training batches, a data set with ``set_epoch``, are told of each epoch. Validation reads
    the sets :data:`PARTS`; all but the first are only recorded.

    Args:
        model: fields of :class:`DagConfig`.
        seed: of dropout.
        lr: peak learning rate.
        weight_decay: of AdamW.
        warmup_epochs: epochs of linear warm-up.
    """

    def __init__(
        self,
        model: dict,
        *,
        seed: int = 0,
        lr: float = 1e-3,
        weight_decay: float = 1e-2,
        warmup_epochs: int = 2,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = DagNet(DagConfig(**model))
        self.scores = torch.nn.ModuleList(
            MetricCollection({"rmse": MeanSquaredError(squared=False), "r": PearsonCorrCoef()})
            for _ in PARTS
        )

    def forward(self, batch: Batch) -> Tensor:
        """[B] predictions of the standardised target."""
        return self.net(batch)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        loss = F.mse_loss(self(batch), batch.y)
        options = {"on_step": False, "on_epoch": True, "sync_dist": True}
        self.log("loss", loss, batch_size=batch.num_graphs, **options)
        return loss

    def validation_step(self, batch: Batch, index: int, dataloader_idx: int = 0) -> None:
        pred = self(batch)
        if not is_repeat(self.trainer, index, dataloader_idx):
            self.scores[dataloader_idx].update(pred, batch.y)

    def on_validation_epoch_end(self) -> None:
        for part, scores in zip(PARTS, self.scores):
            values = {f"{part}_{name}": value for name, value in scores.compute().items()}
            self.log_dict(values, prog_bar=part == "valid", sync_dist=True)
            scores.reset()


def make_module(config: DagConfig, protocol: Protocol) -> DagModule:
    """A module with the learning rate and so on of a protocol."""
    return DagModule(
        asdict(config), seed=protocol.seed, lr=protocol.lr, weight_decay=protocol.weight_decay,
        warmup_epochs=protocol.warmup_epochs,
    )  # fmt: skip
