"""Batches: plain graphs for the baselines, graphs with their line graph for pLSTM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch.utils.data import DataLoader as TorchLoader
from torch_geometric.data import Batch, Data
from torch_geometric.loader import DataLoader

from experiments.models import ModelConfig

# Without gradients a batch may be larger.
EVAL_FACTOR = 4


def strip(graphs: Sequence[Data]) -> list[Data]:
    """Only what models read: strings and the like would slow every batch down."""
    keys = ("x", "edge_index", "edge_attr", "y")
    return [Data(**{key: graph[key] for key in keys if key in graph}) for graph in graphs]


def eval_batches(
    graphs: Sequence[Data], size: int, orientation: str | None = None, average: int = 1
) -> list[Batch]:
    """Batches in the order of ``graphs``, each graph ``average`` times, copies side by side.

    They are made once and kept, with all that models cache on them.

    Args:
        graphs: plain graphs.
        size: most graphs in a batch.
        orientation: None for plain graphs, else of the DAGs.
        average: copies of each graph; with orientation "random" each differs.
    """
    graphs = strip(graphs)
    step = max(1, size // average)
    return [Batch.from_data_list(graphs[i : i + step]) for i in range(0, len(graphs), step)]


@dataclass
class Views:
    """The three parts of a data set as one model reads them."""

    train: Sequence[Data]
    batches: dict[str, list[Batch]]
    batch_size: int
    orientation: str
    average: int

    @classmethod
    def of(cls, config: ModelConfig, parts, batch_size, orientation, average, seed) -> Views:
        batches = {
            part: eval_batches(parts[part], EVAL_FACTOR * batch_size) for part in ("valid", "test")
        }
        return cls(strip(parts["train"]), batches, batch_size, "none", 1)

    def train_loader(self, workers: int = 0) -> DataLoader:
        return DataLoader(
            self.train,
            self.batch_size,
            shuffle=True,
            num_workers=workers,
            persistent_workers=workers > 0,
        )

    def eval_loader(self, part: str) -> TorchLoader:
        """The batches of "valid" or "test"; under DDP each process gets some of them."""
        return TorchLoader(self.batches[part], batch_size=None)
