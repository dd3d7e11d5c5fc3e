r"""Cells: gate modules that return the tensors of :func:`plstm_graph.ops.plstm`.

A linear recurrent cell of sequences reads its state after the update of the same step,

.. math::
    C_t = A_t (f_t \odot C_{t-1}) + i_t\, k_t v_t^\top, \qquad h_t = C_t^\top q_t

while the operator reads the states of the edges that *end* at a node. Give each node one virtual
out-edge with gates of its own and read that one. With a forget gate f, an input gate i and
reflections A of the node n this is

.. math::
    T_l &= f(z_{node(l)} + a_{e_{in}} + b_{e_{out}}) \qquad S_e = i(y_{src(e)} + c_e) \\
    M_e &= f(z_{dst(e)} + a_e) \qquad D_n = i(y_n) \qquad
    \text{edge\_query}_n = A_n^\top q_n

for a scalar f; for one that acts on each key channel, the factor f(z_n) of the Mark is part of
edge_query instead, and M = 1. The logits z and y are linear maps of node features; a, b and c are
linear maps of the edge features (and of the direction of an edge), zero without them. On a path
without edge features the layer then equals the published cell.

**Modes.** ``"P"`` keeps all line edges. Where several of them leave an edge, their forget gates
are divided by max(1, the sum of their sizes), so that nothing is multiplied by branching; a path
stays as it is. What the virtual edge reads is not divided. ``"D"`` prunes the line edges to a
multitree. ``"N"`` keeps all line edges as they are and is for cells that bound the state otherwise.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.nn.projection import Part
from plstm_graph.ops import plstm
from plstm_graph.ops.inputs import LogGate, Reflections


class CellTensors(NamedTuple):
    """What a cell gives to :func:`plstm_graph.ops.plstm`, with the letters that are used there.

    ``own`` [N, H, V] is what a node adds to its result without the operator.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    source: Tensor | LogGate
    transition: Tensor | LogGate
    mark: Tensor | LogGate
    direct: Tensor | LogGate
    edge_query: Tensor | None = None
    update: Reflections | None = None
    own: Tensor | None = None

    def folded(self, axes: int) -> CellTensors:
        """Fold ``axes`` axes behind the first one into that of the heads."""

        def fold(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value.flatten(1, 1 + axes)
            return value if value is None else type(value)(*map(fold, value))

        return CellTensors(*map(fold, self)) if axes else self


class Cell(torch.nn.Module, ABC):
    """The gates of a cell.

    A cell says which linear maps of the features it wants (:attr:`node_parts`,
    :attr:`edge_parts`), which a :class:`~plstm_graph.nn.projection.Projection` multiplies in one
    product, and makes the operator's tensors of them.

    Args:
        channels: C, width of the layer's output, all heads.
        heads: H; K = V = C / H unless the cell says otherwise.
        mode: one of :attr:`modes`.

    Attributes:
        name: of the cell.
        modes: the modes that it has, the default first.
        normalizer, stabilizer: of the operator.
        node_parts, edge_parts: lists of :class:`~plstm_graph.nn.projection.Part`.
        features: names of the node parts that are no gates (queries, keys, values).

    Shapes:
        - **input:** node parts by name [N, *, width], edge parts by name [E, width] or ``None``;
          ``*`` stands for axes that share the graph, such as a batch of equal grids
        - **output:** :class:`CellTensors`, whose heads are folded with ``*``
    """

    name = ""
    modes: tuple[str, ...] = ("P", "D")
    normalizer: str | None = None
    stabilizer: str | None = None
    features: tuple[str, ...] = ("query", "key", "value")

    def __init__(self, channels: int, heads: int, mode: str) -> None:
        super().__init__()
        self.channels, self.heads, self.mode = channels, heads, mode
        self.node_parts: list[Part] = []
        self.edge_parts: list[Part] = []

    def reset_parameters(self) -> None:
        """Resets the parameters of the cell itself; the projection resets the maps."""

    @abstractmethod
    def node_tensors(self, node: dict[str, Tensor]) -> CellTensors:
        """The cell on a path: node n has one edge that ends there and one that starts there.

        Returns:
            Tensors with a row for each node: ``transition`` between its two edges, ``source`` of
            the edge that starts there, ``mark`` of the edge that ends there. Not folded.
        """

    @abstractmethod
    def edge_tensors(
        self, node: dict[str, Tensor], edge: dict[str, Tensor] | None, line_graph: LineGraph
    ) -> CellTensors:
        """The cell on a line graph, not folded."""

    def forward(
        self, node: dict[str, Tensor], edge: dict[str, Tensor] | None, line_graph: LineGraph
    ) -> CellTensors:
        extra = next(iter(node.values())).dim() - 2
        return self.edge_tensors(node, edge, line_graph).folded(extra)

    def run(
        self, tensors: CellTensors, line_graph: LineGraph, *, form: str, backend: str
    ) -> Tensor:
        """The operator, and what nodes add to it: the heads [N, H, V] or [N, H, J, V]."""
        *inputs, own = tensors
        options = dict(zip(("edge_query", "update"), inputs[7:]))
        options |= {"normalizer": self.normalizer, "stabilizer": self.stabilizer}
        out = plstm(*inputs[:7], line_graph, form=form, backend=backend, **options)
        return out if own is None else out + own

    def split(self, part: Tensor) -> Tensor:
        """[N, *, H w] -> [N, *, H, w]."""
        return part.unflatten(-1, (self.heads, -1))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.channels}, heads={self.heads}, mode={self.mode!r})"
