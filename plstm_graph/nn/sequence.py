"""The pLSTM on sequences: grids of one axis."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from plstm_graph.nn.checks import check_options
from plstm_graph.nn.grid import PLSTMGrid


class PLSTMSequence(torch.nn.Module):
    r"""The pLSTM layer on sequences: :class:`PLSTMGrid` with one axis.

    A path graph has one line edge at each node, so this is gated linear attention: with the
    decays T, every state is :math:`C_i = T_i C_{i-1} + S_i k_i v_i^{\top}`. Long sequences are cut
    in chunks (``form="chunkwise"``, chosen by ``"auto"``): time and memory grow linearly.

    Args:
        channels: C, width of input and output.
        heads: H.
        bidirectional: also run from the end to the start, with gates of its own. Otherwise no
            output depends on a later input. Default ``False``.
        **kwargs: of :class:`PLSTMGrid`: ``cell``, ``mode``, ``conv``, ``passthrough``, ...

    Shapes:
        - **input, output:** x [B, length, C], any length

    Raises:
        ValueError: as :class:`PLSTMGrid`.
    """

    def __init__(
        self, channels: int, heads: int, *, bidirectional: bool = False, **kwargs: Any
    ) -> None:
        super().__init__()
        check_options(bidirectional=bidirectional)
        self.bidirectional = bidirectional
        directions = ((1,), (-1,)) if bidirectional else ((1,),)
        self.grid = PLSTMGrid(
            channels, heads, ndim=1, directions=directions, causal=not bidirectional, **kwargs
        )

    def reset_parameters(self) -> None:
        """Resets all learnable parameters of the module."""
        self.grid.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Run the layer on x [B, length, C]."""
        return self.grid(x)

    def __repr__(self) -> str:
        grid = self.grid
        cell = "" if grid.cell == "plstm" else f"cell={grid.cell!r}, "
        return (
            f"{type(self).__name__}({grid.channels}, {cell}heads={grid.heads}, "
            f"bidirectional={self.bidirectional})"
        )
