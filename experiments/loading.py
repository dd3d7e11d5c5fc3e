"""Batches: plain graphs for the baselines, graphs with their line graph for pLSTM."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch.utils.data import DataLoader
from torch_geometric.data import Batch, Data

from experiments.models import ModelConfig
from plstm_graph.dag.orient import DRAWN
from plstm_graph.transforms import LineGraphCollater, to_line_graphs

# Without gradients a batch may be larger.
EVAL_FACTOR = 4

Collate = Callable[[list[Data]], Batch]


def strip(graphs: Sequence[Data]) -> list[Data]:
    """Only what models read: strings and the like would slow every batch down."""
    keys = ("x", "edge_index", "edge_attr", "y", "canonical_rank")
    return [Data(**{key: graph[key] for key in keys if key in graph}) for graph in graphs]


def collate_of(model: str, orientation: str, seed: int | None = None) -> Collate:
    """How a model's graphs become a batch.

    Args:
        model: name of the model; only pLSTM reads line graphs.
        orientation: of its DAGs; "random" and "random_bfs" are sampled for every batch.
        seed: of the draws; by default they follow the global generator.
    """
    if model == "plstm":
        return LineGraphCollater(orientation, seed)
    return Batch.from_data_list


def training_data(
    model: str, graphs: Sequence[Data], orientation: str
) -> tuple[list[Data], Collate]:
    """Graphs to train a model on, and how some of them become a batch.

    Where orientations are not drawn, line graphs are the same in each epoch and built here, once.
    """
    graphs = strip(graphs)
    if model == "plstm" and orientation not in DRAWN:
        return to_line_graphs(graphs, orientation), Batch.from_data_list
    return graphs, collate_of(model, orientation)


def eval_batches(
    graphs: Sequence[Data], size: int, collate: Collate, average: int = 1
) -> list[Batch]:
    """Batches in the order of ``graphs``, each graph ``average`` times, copies side by side.

    They are made once and kept, with all that models cache on them. Randomly oriented copies
    differ from each other, but not from one epoch to the next.

    Args:
        graphs: plain graphs.
        size: most graphs in a batch, copies counted.
        collate: of the model, see :func:`collate_of`.
        average: copies of each graph.
    """
    step = max(1, size // average)
    copies = [graph for graph in strip(graphs) for _ in range(average)]
    return [collate(copies[i : i + step * average]) for i in range(0, len(copies), step * average)]


@dataclass
class Views:
    """The parts of a data set as one model reads them."""

    train: list[Data]
    batches: dict[str, list[Batch]]  # of "valid" and "test"
    collate: Collate
    batch_size: int
    average: int

    @classmethod
    def of(
        cls,
        config: ModelConfig,
        parts: dict[str, list[Data]],
        batch_size: int,
        orientation: str = "canonical",
        average: int = 1,
        seed: int = 0,
    ) -> Views:
        """``average`` counts only where copies differ: for pLSTM with random orientations."""
        if config.name != "plstm" or orientation not in DRAWN:
            average = 1
        collate = collate_of(config.name, orientation, seed)
        size = EVAL_FACTOR * batch_size
        batches = {
            part: eval_batches(parts[part], size, collate, average) for part in ("valid", "test")
        }
        train, collate = training_data(config.name, parts["train"], orientation)
        return cls(train, batches, collate, batch_size, average)

    def train_loader(self, workers: int = 0) -> DataLoader:
        return DataLoader(
            self.train,
            self.batch_size,
            shuffle=True,
            collate_fn=self.collate,
            num_workers=workers,
            persistent_workers=workers > 0,
        )

    def eval_loader(self, part: str) -> DataLoader:
        """The batches of "valid" or "test"; under DDP each process gets some of them."""
        return DataLoader(self.batches[part], batch_size=None)
