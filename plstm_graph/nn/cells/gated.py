"""Cells with forget and input gates, in the form that :mod:`plstm_graph.nn.cells.base` gives."""

from __future__ import annotations

from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.utils import scatter

from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.nn.cells.base import Cell, CellTensors
from plstm_graph.nn.projection import Part
from plstm_graph.ops.inputs import LogGate, each

#: Logit of gates that the published cell has not, and that edge features alone move.
OPEN = 4.0


class GatedCell(Cell):
    """A cell with forget and input gates of the form above.

    Either gate may be missing in the published cell: then it is 1. Edge features move gates of
    either kind: a gate that the published cell has not then is sigmoid(4 + their part), and 1 in
    Direct.

    Attributes:
        diagonal: whether a forget gate acts on each channel of the key.
        forget_part, input_part: names of the node parts that are their logits, or ``None``.
    """

    diagonal = False
    forget_part: str | None = None
    input_part: str | None = None

    def add_gates(self, *parts: Part) -> None:
        """Add node parts of gates, and the edge parts of both gates."""
        self.node_parts += parts
        widths = {part.name: part.width for part in parts}
        wide = widths.get(self.forget_part, self.heads)
        fan = (self.forget_part is not None, 2)
        self.edge_parts = [Part("forget_in", wide, fan), Part("forget_out", wide, fan)]
        self.edge_parts.append(Part("input", self.heads, (self.input_part is not None, 1)))

    # What a cell defines.

    @abstractmethod
    def heads_of(self, node: dict[str, Tensor]) -> CellTensors:
        """Query, key, value, edge_query before the forget gate (``None`` for the query), update
        and own; gates are ``None``."""

    def forget_logit(self, part: Tensor, bias: bool) -> Tensor:
        """Of a part [N, *, width]: [N, *, H], or [N, *, H, K] where diagonal. The logit is the sum
        of this for all parts, one of which has the bias."""
        return part

    def log_forget(self, logit: Tensor) -> Tensor:
        """The logarithm of the forget gate."""
        return F.logsigmoid(OPEN + logit)

    def write(self, logit: Tensor) -> Tensor | LogGate:
        """The input gate."""
        return torch.sigmoid(OPEN + logit)

    def gate(self, log_gate: Tensor) -> Tensor | LogGate:
        """A forget gate as the operator takes it."""
        return log_gate.exp()

    # What follows from it.

    def node_tensors(self, node: dict[str, Tensor]) -> CellTensors:
        return self._nodes(node)[0]

    def _nodes(self, node: dict[str, Tensor]) -> tuple[CellTensors, Tensor | None]:
        """:meth:`node_tensors`, and the logit of the forget gate."""
        heads = self.heads_of(node)
        ones = torch.ones_like(heads.query[..., 0])
        logit, forget, write = None, ones, ones
        if self.forget_part is not None:
            logit = self.forget_logit(node[self.forget_part], True)
            forget = self.gate(self.log_forget(logit))
        if self.input_part is not None:
            write = self.write(node[self.input_part])
        mark, edge_query = forget, heads.edge_query
        if self.diagonal:
            mark = ones
            edge_query = forget * (heads.query if edge_query is None else edge_query)
        gates = {"source": write, "transition": forget, "mark": mark, "direct": write}
        return heads._replace(**gates, edge_query=edge_query), logit

    def edge_tensors(
        self, node: dict[str, Tensor], edge: dict[str, Tensor] | None, line_graph: LineGraph
    ) -> CellTensors:
        tensors, logit = self._nodes(node)
        src, dst = line_graph.edge_index
        e_in, e_out = line_graph.line_index
        mark = gather(tensors.mark, dst)
        if edge is None:
            transition = gather(tensors.transition, src.index_select(0, e_out))
            source = gather(tensors.source, src)
        else:
            before = self.forget_logit(edge["forget_in"], False)
            behind = self.forget_logit(edge["forget_out"], False)
            if logit is not None:
                behind = behind + logit.index_select(0, src)
            transition = before.index_select(0, e_in) + behind.index_select(0, e_out)
            transition = self.gate(self.log_forget(transition))
            if not self.diagonal:
                mark = before if logit is None else before + logit.index_select(0, dst)
                mark = self.gate(self.log_forget(mark))
            write = edge["input"]
            if self.input_part is not None:
                write = write + node[self.input_part].index_select(0, src)
            source = self.write(write)
        if self.mode == "P":
            transition = limited(transition, line_graph)
        return tensors._replace(transition=transition, mark=mark, source=source)


def gather(gate: Tensor | LogGate, index: Tensor) -> Tensor | LogGate:
    """Rows of a gate."""
    return each(lambda x: x.index_select(0, index), gate)


def outflow(size: Tensor, line_graph: LineGraph) -> Tensor:
    r"""What P-mode divides by: :math:`\max(1, \sum_{l' : e_{in}(l') = e_{in}(l)} |f_{l'}|)`.

    At most 1 leaves an edge then, and a path is as it is.

    Args:
        size: [L, *], sizes of forget gates.
        line_graph: of L line edges.

    Returns:
        [L, *].
    """
    e_in = line_graph.line_index[0]
    total = scatter(size, e_in, dim=0, dim_size=line_graph.num_edges, reduce="sum")
    return total.clamp(min=1).index_select(0, e_in)


def limited(gate: Tensor | LogGate, line_graph: LineGraph) -> Tensor | LogGate:
    """Positive forget gates [L, *], or their logarithms, divided by their :func:`outflow`."""
    if isinstance(gate, LogGate):
        divisor = outflow(gate.log_abs.exp(), line_graph).log()
        return gate._replace(log_abs=gate.log_abs - divisor)
    return gate / outflow(gate, line_graph)
