"""The models to compare with: PyG's own layers, in the stacks that are usual for them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.nn import (
    MLP,
    BatchNorm,
    GATConv,
    GATv2Conv,
    GCNConv,
    GINConv,
    GINEConv,
    GraphConv,
    NNConv,
    ResGatedGraphConv,
    SimpleConv,
    global_add_pool,
)
from torch_geometric.nn.resolver import aggregation_resolver

from experiments.attention import GPSLayer

LOCAL = ("gine", "gin", "gated_gcn", "gatv2", "gat", "gcn")
#: Layers that see whole graphs, so they are no local branch of another model.
GLOBAL = ("gps",)
RECURRENT = ("mpnn", "lstm_gnn")
NAMES = (*LOCAL, *GLOBAL, *RECURRENT)
#: Models that read no edge features.
EDGELESS = ("gin", "gcn", "lstm_gnn")
#: Batch norms of an MLP; one node, which has no variance, is no error: the last batch may have it.
BATCH_NORM = {"norm": "batch_norm", "norm_kwargs": {"allow_single_element": True}}
#: Hidden width of the map from the features of an edge to its matrix, in MPNN.
EDGE_HIDDEN = 16


def make_conv(name: str, channels: int, heads: int, with_edges: bool) -> nn.Module:
    """A layer [N, channels] -> [N, channels]; GINE without edge features is GIN."""
    if name in ("gat", "gatv2"):
        layer = GATConv if name == "gat" else GATv2Conv
        edge_dim = channels if with_edges else None
        return layer(channels, channels // heads, heads=heads, edge_dim=edge_dim)
    if name == "gcn":
        return GCNConv(channels, channels)
    if name == "gated_gcn":
        return ResGatedGraphConv(channels, channels, edge_dim=channels if with_edges else None)
    if name in ("gine", "gin"):
        mlp = MLP([channels, channels, channels], **BATCH_NORM)
        if name == "gin" or not with_edges:
            return GINConv(mlp, train_eps=True)
        return GINEConv(mlp, train_eps=True)  # the edges come in the layer's width
    raise ValueError(f"expected a layer out of {', '.join(LOCAL)}, got {name!r}")


class LocalLayer(nn.Module):
    """``relu(norm(conv(x)))`` [N, channels] -> [N, channels]; arguments as :func:`make_conv`."""

    def __init__(self, name: str, channels: int, heads: int, with_edges: bool) -> None:
        super().__init__()
        self.conv = make_conv(name, channels, heads, with_edges)
        self.norm = BatchNorm(channels, **BATCH_NORM["norm_kwargs"])

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor | None = None) -> Tensor:
        edges = {} if edge_attr is None else {"edge_attr": edge_attr}
        return self.norm(self.conv(x, edge_index, **edges)).relu()


class LocalGNN(nn.Module):
    r"""Message passing over one hop a layer: ``x + dropout(relu(norm(conv(x))))``, then readout.

    "gps" has attention between all nodes of a graph beside GINE; its block is a
    :class:`GPSLayer` as it stands.

    Args:
        conv: one of :data:`LOCAL` or :data:`GLOBAL`.
        channels: width.
        num_layers: layers.
        out_channels: outputs per graph, or per node without a readout.
        node_encoder: from ``x`` to [N, channels].
        edge_encoder: from ``edge_attr`` to [M, channels]; None without edge features.
        heads: heads of GAT, GATv2 and GPS.
        dropout: after each layer and before the last linear map.
        readout: "mean", "sum", "max" or a module: from nodes to graphs; None for node outputs.
        virtual_node: join all nodes of a graph by a further one, see :class:`VirtualNode`.

    Shapes:
        ``x`` [N, F], ``edge_index`` [2, M], ``edge_attr`` [M, F'], ``batch`` [N]
        -> [B, out_channels], or [N, out_channels] without a readout.
    """

    def __init__(
        self,
        conv: str,
        channels: int,
        num_layers: int,
        out_channels: int,
        *,
        node_encoder: nn.Module,
        edge_encoder: nn.Module | None = None,
        heads: int = 4,
        dropout: float = 0.0,
        readout: str | nn.Module | None = "sum",
        virtual_node: bool = False,
    ) -> None:
        super().__init__()
        self.node_encoder, self.edge_encoder = node_encoder, edge_encoder
        self.virtual = VirtualNode(channels, num_layers - 1, dropout) if virtual_node else None
        with_edges = edge_encoder is not None
        self.layers = nn.ModuleList(
            GPSLayer(make_conv("gine", channels, heads, with_edges), channels, heads, dropout)
            if conv in GLOBAL
            else LocalLayer(conv, channels, heads, with_edges)
            for _ in range(num_layers)
        )
        self.dropout = dropout
        self.readout = None if readout is None else aggregation_resolver(readout)
        self.head = MLP([channels, channels, out_channels], norm=None, dropout=dropout)

    def forward(
        self, x: Tensor, edge_index: Tensor, edge_attr: Tensor | None, batch: Tensor
    ) -> Tensor:
        x = self.node_encoder(x)
        edge_attr = None if self.edge_encoder is None else self.edge_encoder(edge_attr)
        states = None if self.virtual is None else self.virtual.start(batch)
        for i, layer in enumerate(self.layers):
            if states is not None:
                x = x + states[batch]
            if isinstance(layer, GPSLayer):
                y = layer(x, edge_index, edge_attr, batch)
            else:
                y = x + F.dropout(layer(x, edge_index, edge_attr), self.dropout, self.training)
            if states is not None and i + 1 < len(self.layers):
                states = self.virtual(i, x, states, batch)
            x = y
        return self.head(x if self.readout is None else self.readout(x, batch))


class VirtualNode(nn.Module):
    r"""A node joined to all others of its graph, between the layers of message passing.

    Its state starts from one learned vector, zero at first. Each layer adds it to all nodes, and
    then sets it to ``dropout(mlp(state + sum of the graph's nodes))``, as in the examples of the
    `"Open Graph Benchmark" <https://arxiv.org/abs/2005.00687>`_.

    Args:
        channels: width.
        updates: number of updates, one less than layers.
        dropout: after each update.

    Shapes:
        states [B, channels], ``x`` [N, channels], ``batch`` [N].
    """

    def __init__(self, channels: int, updates: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.initial = nn.Parameter(torch.zeros(channels))
        widths = [channels, 2 * channels, channels]
        options = {**BATCH_NORM, "plain_last": False, "dropout": 0.0}
        self.mlps = nn.ModuleList(MLP(widths, **options) for _ in range(updates))
        self.dropout = dropout

    def start(self, batch: Tensor) -> Tensor:
        """[B, channels], the same for all graphs."""
        count = int(batch[-1]) + 1 if len(batch) else 0
        return self.initial.expand(count, -1)

    def forward(self, index: int, x: Tensor, states: Tensor, batch: Tensor) -> Tensor:
        """Update number ``index``."""
        total = global_add_pool(x, batch, len(states)) + states
        return F.dropout(self.mlps[index](total), self.dropout, self.training)


class RecurrentGNN(nn.Module):
    r"""Message passing whose nodes are updated by a recurrent cell: ``h = cell(relu(conv(h)), h)``.

    * "mpnn": the `"Neural Message Passing for Quantum Chemistry"
      <https://arxiv.org/abs/1704.01212>`_ paper's choice, a matrix made of each edge's features
      (without any, one matrix for all) and a GRU cell.
    * "lstm_gnn": the mean of the neighbours and an LSTM cell, whose memory stays with the node.

    All rounds share one layer and one cell.

    Args:
        name: one of :data:`RECURRENT`.
        channels: width.
        num_layers: rounds.
        out_channels: outputs per graph.
        node_encoder: from ``x`` to [N, channels].
        edge_encoder: from ``edge_attr`` to [M, channels]; None without edge features.
        dropout: of the messages and before the last linear map.
        readout: "mean", "sum", "max" or a module: from nodes to graphs.

    Shapes:
        as :class:`LocalGNN`.
    """

    def __init__(
        self,
        name: str,
        channels: int,
        num_layers: int,
        out_channels: int,
        *,
        node_encoder: nn.Module,
        edge_encoder: nn.Module | None = None,
        dropout: float = 0.0,
        readout: str | nn.Module = "sum",
    ) -> None:
        super().__init__()
        self.node_encoder, self.edge_encoder = node_encoder, edge_encoder
        if name == "lstm_gnn":
            self.conv = SimpleConv("mean")
        elif edge_encoder is None:
            self.conv = GraphConv(channels, channels, aggr="mean")
        else:
            matrix = MLP([channels, EDGE_HIDDEN, channels * channels], norm=None)
            self.conv = NNConv(channels, channels, matrix, aggr="mean")
        self.cell = (nn.LSTMCell if name == "lstm_gnn" else nn.GRUCell)(channels, channels)
        self.num_layers, self.dropout = num_layers, dropout
        self.readout = aggregation_resolver(readout)
        self.head = MLP([channels, channels, out_channels], norm=None, dropout=dropout)

    def forward(
        self, x: Tensor, edge_index: Tensor, edge_attr: Tensor | None, batch: Tensor
    ) -> Tensor:
        hidden = self.node_encoder(x)
        memory = torch.zeros_like(hidden)  # of the LSTM cell
        edges = {} if self.edge_encoder is None else {"edge_attr": self.edge_encoder(edge_attr)}
        for _ in range(self.num_layers):
            message = self.conv(hidden, edge_index, **edges).relu()
            message = F.dropout(message, self.dropout, self.training)
            if isinstance(self.cell, nn.LSTMCell):
                hidden, memory = self.cell(message, (hidden, memory))
            else:
                hidden = self.cell(message, hidden)
        return self.head(self.readout(hidden, batch))
