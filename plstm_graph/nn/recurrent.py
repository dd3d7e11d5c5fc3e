"""What the layers with nonlinear cells have in common; their states are on nodes."""

from typing import Any

import torch
from torch import Tensor
from torch_geometric.typing import Adj, OptTensor

from plstm_graph.checks import choice, refuse
from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.nn.checks import (
    check_batch_vector,
    check_heads,
    check_options,
    check_x,
)
from plstm_graph.nn.graphs import directed, resolve_edges
from plstm_graph.nn.norm import widened
from plstm_graph.nn.projection import LazyLinear
from plstm_graph.ops.sweep import FORMS, sweep
from plstm_graph.ops.sweep_plan import way_edges


class RecurrentConv(torch.nn.Module):
    r"""A recurrence on the nodes of a DAG, whose gates read states.

    :math:`x_n = W x_n + b` and :math:`u_e = U a_e` are the gates' parts of node and edge features;
    the cell is :func:`plstm_graph.ops.sweep.sweep`. Nodes wait for their predecessors, so this is
    no parallel recurrence, and there is no two-way line graph: a state that turns round would need
    the states of edges. With two directions, each has half of the channels and its own weights, and
    a node hears its ancestors in one half and its descendants in the other.

    Args:
        cell: of :func:`plstm_graph.ops.sweep.sweep`.
        in_channels, out_channels, heads, edge_dim, direction, orientation, bias, form: as in
            :class:`SLSTMConv`.
        node_bias: whether the bias belongs to W, and not to each head.
    """

    def __init__(
        self,
        cell: str,
        in_channels: int,
        out_channels: int,
        heads: int,
        *,
        edge_dim: int | None,
        direction: str,
        orientation: str | Tensor,
        bias: bool,
        form: str,
        node_bias: bool,
    ) -> None:
        super().__init__()
        check_options(
            in_channels=in_channels,
            edge_dim=edge_dim,
            direction=direction,
            orientation=orientation,
            bias=bias,
        )
        check_heads("out_channels", out_channels, heads)
        choice("form", form, FORMS)
        ways = 2 if direction in ("auto", "two_way") else 1
        if out_channels % (ways * heads):
            refuse(
                "out_channels",
                f"divisible by 2 * heads with direction={direction!r}",
                f"out_channels={out_channels} and heads={heads}",
                "each direction has half of the channels; or use direction='forward'",
            )
        self.cell, self.ways = cell, ways
        self.in_channels, self.out_channels, self.heads = in_channels, out_channels, heads
        self.edge_dim, self.direction, self.orientation = edge_dim, direction, orientation
        self.form = form
        size = out_channels // (ways * heads)
        self.lin_node = LazyLinear(in_channels, 4 * out_channels, bias=node_bias)
        self.lin_edge = None
        if edge_dim is not None:
            self.lin_edge = LazyLinear(edge_dim, 4 * out_channels, bias=False)
        self.weight = torch.nn.Parameter(torch.empty(ways * heads, 4, size, size))
        gates = torch.nn.Parameter(torch.empty(self.weight.shape[:3]))
        self.register_parameter("bias", gates if bias and not node_bias else None)

    def reset_parameters(self) -> None:
        """Resets all learnable parameters of the module."""
        self.lin_node.reset_parameters()
        if self.lin_edge is not None:
            self.lin_edge.reset_parameters()

    def forward(
        self,
        x: Tensor,
        edge_index: Adj | None,
        edge_attr: OptTensor = None,
        batch: OptTensor = None,
        line_graph: LineGraph | None = None,
    ) -> Tensor:
        """Run the layer. The arguments are those of :class:`PLSTMConv`."""
        weight = None if self.lin_node.lazy else self.weight
        check_x(x, self.lin_node.in_channels, weight)
        check_batch_vector(batch, x)
        edge_dim = None if self.lin_edge is None else self.lin_edge.in_channels
        line_graph, edge_attr, _ = resolve_edges(
            x, edge_index, edge_attr, batch, line_graph, self.orientation, edge_dim, weight
        )
        line_graph, ways = self._ways(line_graph)
        projected = self.lin_node(x)
        gates, recurrent = self._gates(projected), widened(self.weight)
        if self.bias is not None:
            gates = gates + widened(self.bias)
        edge = None if edge_attr is None else self._gates(self.lin_edge(edge_attr))
        parts = []
        with torch.autocast(x.device.type, enabled=False):
            for i, way in enumerate(ways):
                heads = slice(i * self.heads, (i + 1) * self.heads)
                at_edge = None
                if edge is not None:
                    rows = way_edges(line_graph, way).edge_id
                    at_edge = edge[:, heads].index_select(0, rows)
                options: dict[str, Any] = {"way": way, "form": self.form}
                part = gates[:, heads], recurrent[heads], line_graph, at_edge
                parts.append(sweep(self.cell, *part, **options))
        h = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        return self.output(h, projected.dtype)

    def output(self, h: Tensor, dtype: torch.dtype) -> Tensor:
        """[N, out_channels] of the states [N, ways * H, d], in the dtype of the maps."""
        return h.flatten(1).to(dtype)

    def _gates(self, x: Tensor) -> Tensor:
        """[*, 4 * out_channels] -> [*, ways * H, 4, d], halves as float32."""
        return widened(x).view(x.size(0), *self.weight.shape[:3])

    def _ways(self, line_graph: LineGraph) -> tuple[LineGraph, tuple[str, ...]]:
        """The graph, and the ways that its edges are walked."""
        if self.ways == 1:
            return directed(line_graph, self.direction), ("forward",)
        # Of a two-way graph, those edges that have both directions.
        known = self.direction == "auto" or line_graph.is_two_way
        return line_graph, ("forward", "opposite" if known else "reverse")

    def __repr__(self) -> str:
        heads = "" if self.cell == "child_sum" else f", heads={self.heads}"
        return (
            f"{type(self).__name__}({self.in_channels}, {self.out_channels}{heads}, "
            f"direction={self.direction!r})"
        )
