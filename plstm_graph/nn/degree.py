"""Degrees of nodes as features."""

import math

import torch
from torch import Tensor

from plstm_graph.checks import choice, integer
from plstm_graph.dag.line_graph import LineGraph

DEGREES = ("undirected", "dag")


class SinusoidalDegree(torch.nn.Module):
    r"""Degrees as sines and cosines, without parameters.

    .. math::
        [\sin(d\, \omega_i), \cos(d\, \omega_i)]_i, \quad \omega_i = 10000^{-i / n},
        \quad i = 0, \dots, n - 1

    Args:
        channels: width of the encoding.
        kind: ``"undirected"``, the number of edges at a node, or ``"dag"``, those that enter
            and those that leave it, half of the channels each.

    Shapes:
        - **output:** [N, channels], float32 or float64: halves cannot count
    """

    def __init__(self, channels: int, kind: str = "undirected") -> None:
        super().__init__()
        choice("degree_encoding", kind, DEGREES)
        self.channels, self.kind = integer("channels", channels, 1), kind

    def forward(self, line_graph: LineGraph, dtype: torch.dtype = torch.float) -> Tensor:
        """Encode in ``dtype``, at least float32."""
        src, dst = line_graph.edge_index
        # Of a two-way graph the edges along the order, each of which stands for both directions.
        along = line_graph.direction.to(torch.promote_types(dtype, torch.float))
        d_in, d_out = (
            along.new_zeros(line_graph.num_nodes).scatter_add_(0, ends, along)
            for ends in (dst, src)
        )
        degrees = [d_in + d_out] if self.kind == "undirected" else [d_in, d_out]
        count = math.ceil(self.channels / (2 * len(degrees)))
        steps = torch.arange(count, dtype=torch.float, device=along.device)
        omega = (10000.0 ** (-steps / count)).to(along.dtype)
        angles = [d.unsqueeze(-1) * omega for d in degrees]
        parts = [part for angle in angles for part in (angle.sin(), angle.cos())]
        return torch.cat(parts, -1)[:, : self.channels]
