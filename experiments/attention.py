"""GPS: a layer of message passing and attention between all nodes of a graph, in one block."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch_geometric.nn import GPSConv


class GPSLayer(nn.Module):
    r"""A block of the `"Recipe for a General, Powerful, Scalable Graph Transformer"
    <https://arxiv.org/abs/2205.12454>`_ paper, without positional encodings.

    .. math::
        y &= \mathrm{norm}(x + \mathrm{drop}(\mathrm{conv}(x)))
           + \mathrm{norm}(x + \mathrm{drop}(\mathrm{attention}(x))) \\
        z &= \mathrm{norm}(y + \mathrm{mlp}(y))

    Residual connections, batch norms and dropout are inside: nothing is put around this layer.

    Args:
        conv: message passing, [N, channels] -> [N, channels].
        channels: width, a multiple of ``heads``.
        heads: heads of the attention.
        dropout: of both branches and inside the MLP.

    Shapes:
        ``x`` [N, channels], ``edge_index`` [2, M], ``edge_attr`` [M, channels] or None,
        ``batch`` [N], in ascending order, or None for one graph -> [N, channels].
    """

    def __init__(self, conv: nn.Module, channels: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.block = GPSConv(
            channels, conv, heads, dropout, norm="batch_norm",
            norm_kwargs={"allow_single_element": True}, attn_type="multihead",
        )  # fmt: skip

    def forward(
        self,
        x: Tensor,
        edge_index: Tensor,
        edge_attr: Tensor | None = None,
        batch: Tensor | None = None,
    ) -> Tensor:
        edges = {} if edge_attr is None else {"edge_attr": edge_attr}
        if batch is None:
            batch = torch.zeros(len(x), dtype=torch.long, device=x.device)
        return self.block(x, edge_index, batch, **edges)
