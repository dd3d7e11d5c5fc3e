"""The cells that are not linear in a stack like that of :class:`plstm_graph.nn.PLSTM`."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from datasets.base import InputError
from plstm_graph import LineGraph
from plstm_graph import nn as layers

#: Layers of :mod:`plstm_graph.nn` by the name of the cell.
NONLINEAR = {"slstm": "SLSTMConv", "dag_lstm": "DAGLSTMConv"}


class NonlinearBlock(nn.Module):
    """``y = x + drop(conv(norm(x)))``, then ``y + drop(ffn(norm(y)))``, the blocks of pLSTM."""

    def __init__(self, conv: nn.Module, channels: int, dropout: float) -> None:
        super().__init__()
        self.conv, self.norm, self.ffn_norm = conv, nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.ffn = nn.Sequential(
            nn.Linear(channels, channels), nn.GELU(), nn.Dropout(dropout),
            nn.Linear(channels, channels),
        )  # fmt: skip
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, *graph: Any) -> Tensor:
        x = x + self.dropout(self.conv(self.norm(x), *graph))
        return x + self.dropout(self.ffn(self.ffn_norm(x)))


class NonlinearStack(nn.Module):
    """Encoders, blocks, norm and a linear map, called as :class:`plstm_graph.nn.PLSTM`.

    Args:
        cell: one of NONLINEAR.
        channels: width.
        num_layers: number of blocks.
        directed: read directed graphs forward; others in both directions, half of the channels in
            each.
        heads: heads of sLSTM.
        dropout: dropout.
        node_encoder: from ``x`` to [N, channels].
        edge_encoder: from ``edge_attr`` to [M, channels]; None without edge features.
        options: further arguments of the layer.

    Raises:
        InputError: where :mod:`plstm_graph.nn` has no such layer.
    """

    def __init__(
        self,
        cell: str,
        channels: int,
        num_layers: int,
        *,
        directed: bool,
        heads: int,
        dropout: float,
        node_encoder: nn.Module,
        edge_encoder: nn.Module | None,
        **options: Any,
    ) -> None:
        super().__init__()
        layer = getattr(layers, NONLINEAR[cell], None)
        if layer is None:
            raise InputError(f"expected {NONLINEAR[cell]} in plstm_graph.nn for cell {cell!r}")
        options["edge_dim"] = None if edge_encoder is None else channels
        options["direction"] = "forward" if directed else "auto"
        self.node_encoder, self.edge_encoder = node_encoder, edge_encoder
        self.blocks = nn.ModuleList()
        for i in range(num_layers):
            if cell == "slstm":  # heads of each direction, and the start of the forget gates
                more = {"heads": heads if directed else max(1, heads // 2)}
                options |= {**more, "depth": i / max(1, num_layers - 1)}
            conv = layer(channels, channels, **options)
            self.blocks.append(NonlinearBlock(conv, channels, dropout))
        self.norm, self.head = nn.LayerNorm(channels), nn.Linear(channels, channels)

    def forward(
        self,
        x: Tensor,
        edge_index: Tensor,
        edge_attr: Tensor | None,
        batch: Tensor,
        line_graph: LineGraph,
    ) -> Tensor:
        x = self.node_encoder(x)
        edge_attr = None if edge_attr is None else self.edge_encoder(edge_attr)
        for block in self.blocks:
            x = block(x, edge_index, edge_attr, batch, line_graph)
        return self.head(self.norm(x))
