"""GIN, GINE and GATv2: PyG's own layers in the residual stack that is usual for them."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.nn import MLP, BatchNorm, GATv2Conv, GINConv, GINEConv
from torch_geometric.nn.resolver import aggregation_resolver

NAMES = ("gine", "gin", "gatv2")


def make_conv(name: str, channels: int, heads: int, with_edges: bool) -> nn.Module:
    """A layer [N, channels] -> [N, channels]; GINE without edge features is GIN."""
    if name == "gatv2":
        edge_dim = channels if with_edges else None
        return GATv2Conv(channels, channels // heads, heads=heads, edge_dim=edge_dim)
    if name in ("gine", "gin"):
        mlp = MLP([channels, channels, channels], norm="batch_norm")
        if name == "gin" or not with_edges:
            return GINConv(mlp, train_eps=True)
        return GINEConv(mlp, train_eps=True)  # the edges come in the layer's width
    raise ValueError(f"expected a baseline out of {', '.join(NAMES)}, got {name!r}")


class LocalLayer(nn.Module):
    """``relu(norm(conv(x)))`` [N, channels] -> [N, channels]; arguments as :func:`make_conv`."""

    def __init__(self, name: str, channels: int, heads: int, with_edges: bool) -> None:
        super().__init__()
        self.conv = make_conv(name, channels, heads, with_edges)
        self.norm = BatchNorm(channels)

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor | None = None) -> Tensor:
        edges = {} if edge_attr is None else {"edge_attr": edge_attr}
        return self.norm(self.conv(x, edge_index, **edges)).relu()


class LocalGNN(nn.Module):
    r"""Message passing over one hop a layer: ``x + dropout(relu(norm(conv(x))))``, then readout.

    Args:
        conv: one of :data:`NAMES`.
        channels: width.
        num_layers: layers.
        out_channels: outputs per graph.
        node_encoder: from ``x`` to [N, channels].
        edge_encoder: from ``edge_attr`` to [M, channels]; None without edge features.
        heads: heads of GATv2.
        dropout: after each layer and before the last linear map.
        readout: "mean", "sum", "max" or a module: from nodes to graphs.

    Shapes:
        ``x`` [N, F], ``edge_index`` [2, M], ``edge_attr`` [M, F'], ``batch`` [N]
        -> [B, out_channels].
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
        readout: str | nn.Module = "sum",
    ) -> None:
        super().__init__()
        self.node_encoder, self.edge_encoder = node_encoder, edge_encoder
        self.layers = nn.ModuleList(
            LocalLayer(conv, channels, heads, edge_encoder is not None) for _ in range(num_layers)
        )
        self.dropout = dropout
        self.readout = aggregation_resolver(readout)
        self.head = MLP([channels, channels, out_channels], norm=None, dropout=dropout)

    def forward(
        self, x: Tensor, edge_index: Tensor, edge_attr: Tensor | None, batch: Tensor
    ) -> Tensor:
        x = self.node_encoder(x)
        edge_attr = None if self.edge_encoder is None else self.edge_encoder(edge_attr)
        for layer in self.layers:
            x = x + F.dropout(layer(x, edge_index, edge_attr), self.dropout, self.training)
        return self.head(self.readout(x, batch))
