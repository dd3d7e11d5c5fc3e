r"""The block diagonal linear recurrent unit."""

from __future__ import annotations

import torch
from torch import Tensor

from plstm_graph.checks import integer, refuse
from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.nn.cells.base import Cell, CellTensors
from plstm_graph.nn.cells.softmax import joint_softmax
from plstm_graph.nn.projection import Part


class BDLRU(Cell):
    r"""BD-LRU from the `"Improved state mixing in higher-order and block diagonal linear recurrent
    networks" <https://arxiv.org/abs/2602.12021>`_ paper.

    Blocks of m states, mixed by positive matrices whose rows share a softmax with the input gate:

    .. math::
        c_t = A_t c_{t-1} + a_t \odot v_t \in \mathbb{R}^m, \qquad
        (A_{t, ij},\ a_{t, i}) = \mathrm{softmax}_j(W x_t + b)_i, \qquad h_t = c_t

    There is neither query nor key; the layer has C / m blocks. On a DAG the softmax runs over all
    predecessors of an edge, the j of each and the input (:mod:`plstm_graph.nn.cells.softmax`). In
    D-mode it runs over those that are left after pruning.

    **Bound.** :math:`\|c\|_\infty \le \max \|v\|_\infty` on any graph; eigenvalues may be negative
    or complex.

    **Mark** [m, m] and Direct are the transition into, and the input gate of, the virtual edge that
    leaves a node: a softmax over all edges that enter it.

    Args:
        block: m, which divides C. Default 4.
    """

    name = "bd_lru"
    modes = ("N", "D")
    features = ("value",)

    def __init__(self, channels: int, heads: int, mode: str, *, block: int = 4) -> None:
        super().__init__(channels, heads, mode)
        self.block = integer("block", block, 1)
        if channels % block:
            remedy = "set cell_options={'block': m}"
            refuse("block", f"to divide out_channels={channels}", str(block), remedy)
        self.blocks = channels // block
        self.node_parts = [Part("value", channels)]
        width = self.blocks * self.rows * block
        self.node_parts += [Part("forget", width, (1, 2))]
        self.node_parts += [Part("input", self.blocks * self.rows, (1, 1))]
        self.edge_parts = [Part("forget_in", width, (1, 2)), Part("forget_out", width, (1, 2))]
        self.edge_parts.append(Part("input", self.blocks * self.rows, (1, 1)))

    @property
    def rows(self) -> int:
        """Rows of a block that have gates."""
        return self.block

    def matrix(self, part: Tensor) -> Tensor:
        """[N, *, width] -> [N, *, C / m, rows, m]."""
        return part.unflatten(-1, (self.blocks, self.rows, self.block))

    def rows_of(self, part: Tensor) -> Tensor:
        """[N, *, width] -> [N, *, C / m, rows]."""
        return part.unflatten(-1, (self.blocks, self.rows))

    def whole(self, rows: Tensor, group: Tensor, groups: int) -> Tensor:
        """Transitions [L, *, m, m] of their rows with gates."""
        return rows

    def node_tensors(self, node: dict[str, Tensor]) -> CellTensors:
        logit, write = self.matrix(node["forget"]), self.rows_of(node["input"])
        path = torch.arange(logit.size(0), device=logit.device)
        transition, write = joint_softmax(logit, write, logit, path)
        transition = self.whole(transition, path, len(path))
        source = self.written(write)
        return self.tensors(node["value"], source, transition, transition.mT, source)

    def edge_tensors(
        self, node: dict[str, Tensor], edge: dict[str, Tensor] | None, line_graph: LineGraph
    ) -> CellTensors:
        src, dst = line_graph.edge_index
        e_in, e_out = line_graph.line_index
        logit, write = self.matrix(node["forget"]), self.rows_of(node["input"])
        sent, virtual = write.index_select(0, src), logit.index_select(0, src)
        marks = logit.index_select(0, dst)
        if edge is None:
            lines = virtual.index_select(0, e_out)
        else:
            sent = sent + self.rows_of(edge["input"])
            virtual = virtual + self.matrix(edge["forget_out"])
            inward = self.matrix(edge["forget_in"])
            lines = virtual.index_select(0, e_out) + inward.index_select(0, e_in)
            marks = marks + inward
        transition, sent = joint_softmax(lines, sent, virtual, e_out)
        marks, own = joint_softmax(marks, write, logit, dst)
        transition = self.whole(transition, e_out, line_graph.num_edges)
        marks = self.whole(marks, dst, line_graph.num_nodes)
        source, direct = self.written(sent), self.written(own)
        return self.tensors(node["value"], source, transition, marks.mT, direct)

    def written(self, write: Tensor) -> Tensor:
        """Source or Direct [*, rows, m] of the input gates [*, rows]."""
        return torch.diag_embed(write)

    def tensors(self, value: Tensor, source, transition, mark, direct) -> CellTensors:
        value = self.rows_of(value).unsqueeze(-1)
        ones = value.new_ones(1).expand(*value.shape[:-2], 1)
        return CellTensors(ones, ones, value, source, transition, mark, direct)
