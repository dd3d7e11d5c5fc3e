"""Models of directed acyclic graphs on equal terms: pLSTM, a DAG-LSTM and GCN.

All have the same encoder, readout and head. The layers of each take turns in reading a graph along
its edges and against them, as ``directions`` says.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch
from torch_geometric.nn import MLP, GCNConv
from torch_geometric.nn.resolver import aggregation_resolver
from torch_geometric.utils import degree

from datasets import InputError
from experiments.models import closest_width, count_parameters
from plstm_graph import LineGraph
from plstm_graph.nn import PLSTM, DAGLSTMConv
from plstm_graph.nn.model import layer_directions

NAMES = ("plstm", "dag_lstm", "gcn")
READOUTS = ("mean", "sum", "max", "output", "ends")


@dataclass(frozen=True)
class DagConfig:
    """A model: everything needed to rebuild it from a checkpoint.

    Args:
        name: one of :data:`NAMES`.
        in_channels: width of the node features.
        hidden: width.
        layers: number of layers.
        heads: heads of pLSTM.
        dropout: dropout.
        readout: from nodes to graphs: "mean", "sum", "max", "output" (nodes without successors)
            or "ends" (these beside those without predecessors).
        directions: as in :class:`plstm_graph.nn.PLSTM`.
        options: further arguments of :class:`plstm_graph.nn.PLSTM`.
    """

    name: str
    in_channels: int
    hidden: int
    layers: int
    heads: int = 4
    dropout: float = 0.0
    readout: str = "ends"
    directions: str = "alternate"
    options: dict[str, Any] = field(default_factory=dict)


def match_budget(config: DagConfig, budget: int) -> DagConfig:
    """The config with the width whose parameter count is closest to ``budget``."""

    def size(width: int) -> int:
        return count_parameters(DagNet(replace(config, hidden=width)))

    return replace(config, hidden=closest_width(size, budget, config.heads))


class DagNet(nn.Module):
    """A batch of graphs with line graphs -> [B].

    Raises:
        InputError: on an unknown name or options that do not go together.
    """

    def __init__(self, config: DagConfig) -> None:
        super().__init__()
        c = config
        if c.name not in NAMES:
            raise InputError(f"expected model one of {', '.join(NAMES)}, got {c.name!r}")
        if c.readout not in READOUTS:
            raise InputError(f"expected readout one of {', '.join(READOUTS)}, got {c.readout!r}")
        try:
            self.core = _core(c)
        except ValueError as error:
            raise InputError(str(error)) from None
        self.readout = c.readout
        ends = c.readout in ("output", "ends")
        self.pool = aggregation_resolver("sum" if ends else c.readout)
        width = 2 * c.hidden if c.readout == "ends" else c.hidden
        self.head = MLP([width, c.hidden, 1], norm=None, dropout=c.dropout)

    def forward(self, batch: Batch) -> Tensor:
        line_graph = LineGraph.from_data(batch)
        x = self.core(batch.x, batch.edge_index, batch=batch.batch, line_graph=line_graph)
        src, dst = line_graph.edge_index
        parts = [x]
        if self.readout in ("output", "ends"):
            starts = (src, dst) if self.readout == "ends" else (src,)
            parts = [x * (degree(index, len(x)) == 0).unsqueeze(-1) for index in starts]
        pooled = [self.pool(part, batch.batch, dim_size=batch.num_graphs) for part in parts]
        return self.head(torch.cat(pooled, -1)).view(-1)


def _core(c: DagConfig) -> nn.Module:
    if c.name == "plstm":
        return PLSTM(
            c.in_channels, c.hidden, c.layers, c.hidden, heads=c.heads, dropout=c.dropout,
            directions=c.directions, head_layers=1, **c.options,
        )  # fmt: skip
    return ResidualStack(c)


class ResidualStack(nn.Module):
    """Layers of a DAG-LSTM or of GCN, ``x + dropout(layer(norm(x)))``, as the blocks of pLSTM."""

    def __init__(self, config: DagConfig) -> None:
        super().__init__()
        c = config
        self.reverse = [way == "reverse" for way in layer_directions(c.directions, "P", c.layers)]
        self.encoder = nn.Linear(c.in_channels, c.hidden)
        self.layers = nn.ModuleList(
            DAGLSTMConv(c.hidden, c.hidden, direction="forward")
            if c.name == "dag_lstm"
            else GCN(c.hidden)
            for _ in range(c.layers)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(c.hidden) for _ in range(c.layers))
        self.dropout = nn.Dropout(c.dropout)
        self.norm = nn.LayerNorm(c.hidden)

    def forward(
        self, x: Tensor, edge_index: Tensor, batch: Tensor, line_graph: LineGraph
    ) -> Tensor:
        graphs = {False: line_graph, True: line_graph.reverse() if any(self.reverse) else None}
        x = self.encoder(x)
        for layer, norm, reverse in zip(self.layers, self.norms, self.reverse):
            x = x + self.dropout(layer(norm(x), None, line_graph=graphs[reverse]))
        return self.norm(x)


class GCN(nn.Module):
    """``relu(conv(x))`` with PyG's layer, along the edges of the DAG."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = GCNConv(channels, channels)

    def forward(self, x: Tensor, edge_index: None, line_graph: LineGraph) -> Tensor:
        """The edges are those of ``line_graph``, as where :class:`DAGLSTMConv` is called so."""
        return self.conv(x, line_graph.edge_index).relu()
