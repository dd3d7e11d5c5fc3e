r"""The state tracking extension of the pLSTM."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from plstm_graph.checks import integer, refuse
from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.nn.cells.base import Cell, CellTensors
from plstm_graph.nn.cells.gated import outflow
from plstm_graph.nn.projection import Part

#: Slope of the tanh of the singular values.
SLOPE = 5.0


class StateTracking(Cell):
    r"""State tracking from the `"pLSTM: parallelizable Linear Source Transition Mark networks"
    <https://arxiv.org/abs/2506.11997>`_ paper, appendix B.

    Each edge has J states [K, V / J] that Transitions mix by matrices

    .. math::
        T_l = U_{e_{out}}\, \mathrm{diag}(\tanh 5 \lambda_l)\, V_{e_{in}}^\top, \qquad
        U, V = \exp(X - X^\top)

    whose entries X and :math:`\lambda` are linear in the features of the junction (and of the edges
    that meet there): U and V are rotations, and singular values may be negative. Source and
    Mark are a sigmoid for each state, so that an edge writes :math:`k\, (S_e \odot v)^\top` in the
    J parts of the value, and the result has J parts, too:

    .. math::
        C_t = T_t C_{t-1} + S_t \odot k_t v_t^\top \qquad h_t = M_t \odot C_t^\top q_t

    with the transition acting on the axis J. Permutations are such transitions, hence words of the
    permutation group of J elements can be tracked.

    **Bound.** Singular values are below one; in P-mode each T is divided by max(1, the sum of the
    largest singular values of those that leave the same edge).

    **Mark** [J, J] is the transition into the virtual edge that leaves a node, times M; Direct is
    M S.

    **Start.** X is zero, so that U and V are the identity, :math:`\lambda` is one; Source and Mark
    start as PyTorch ``Linear``.

    Args:
        states: J, which divides V = C / H. Default 4.
    """

    name = "state_tracking"

    def __init__(self, channels: int, heads: int, mode: str, *, states: int = 4) -> None:
        super().__init__(channels, heads, mode)
        self.states = J = integer("states", states, 1)
        if channels // heads % J:
            remedy = "set cell_options={'states': J}"
            got = f"{J} with {channels // heads} channels for each head"
            refuse("states", "to divide the channels of a head", got, remedy)
        zero, one = torch.nn.init.zeros_, partial(torch.nn.init.constant_, val=1.0)
        turn, size, gate = heads * (J * (J - 1) // 2), heads * J, Part("", heads * J, (1, 1))
        self.node_parts = [Part(name, channels) for name in self.features]
        self.node_parts += [Part(name, turn, (1, 1), zero, zero) for name in ("right", "left")]
        self.node_parts.append(Part("singular", size, (1, 2), zero, one))
        self.node_parts += [gate._replace(name=name) for name in ("source", "mark")]
        self.edge_parts = [Part(name, turn, (1, 1)) for name in ("right", "left")]
        self.edge_parts += [Part(f"singular_{end}", size, (1, 2)) for end in ("in", "out")]
        self.edge_parts += [gate._replace(name=name) for name in ("source", "mark")]

    def rotation(self, part: Tensor) -> Tensor:
        """[N, *, width] -> orthogonal matrices [N, *, H, J, J]."""
        J = self.states
        rows, columns = torch.triu_indices(J, J, 1, device=part.device)
        upper = part.new_zeros(*part.shape[:-1], self.heads, J * J)
        index = (rows * J + columns).expand(*upper.shape[:-1], -1)
        upper = upper.scatter(-1, index, self.split(part)).unflatten(-1, (J, J))
        return torch.linalg.matrix_exp(upper - upper.mT)

    def node_tensors(self, node: dict[str, Tensor]) -> CellTensors:
        left, right = self.rotation(node["left"]), self.rotation(node["right"])
        transition = product(left, self.size(self.split(node["singular"])), right)
        source, mark = (self.split(node[name]).sigmoid() for name in ("source", "mark"))
        return self.tensors(node, source, transition, mark, transition, mark * source)

    def edge_tensors(
        self, node: dict[str, Tensor], edge: dict[str, Tensor] | None, line_graph: LineGraph
    ) -> CellTensors:
        src, dst = line_graph.edge_index
        e_in, e_out = line_graph.line_index
        left, right, middle = node["left"], node["right"], self.split(node["singular"])
        source, mark = self.split(node["source"]), self.split(node["mark"])
        direct = source.sigmoid() * mark.sigmoid()
        source, mark = source.index_select(0, src), mark.index_select(0, dst)
        if edge is None:
            size = self.size(middle)
            path = product(self.rotation(left), size, self.rotation(right))
            junction = src.index_select(0, e_out)
            transition, into = path.index_select(0, junction), path.index_select(0, dst)
            size = size.index_select(0, junction)
        else:
            before = self.split(edge["singular_in"])
            behind = self.split(edge["singular_out"]) + middle.index_select(0, src)
            size = self.size(before.index_select(0, e_in) + behind.index_select(0, e_out))
            start = self.rotation(right.index_select(0, dst) + edge["right"])
            end = self.rotation(left.index_select(0, src) + edge["left"])
            transition = product(end.index_select(0, e_out), size, start.index_select(0, e_in))
            last = self.size(before + middle.index_select(0, dst))
            into = product(self.rotation(left).index_select(0, dst), last, start)
            source = source + self.split(edge["source"])
            mark = mark + self.split(edge["mark"])
        if self.mode == "P":
            norms = size.abs().amax(-1)
            transition = transition / outflow(norms, line_graph)[..., None, None]
        return self.tensors(node, source.sigmoid(), transition, mark.sigmoid(), into, direct)

    @staticmethod
    def size(logit: Tensor) -> Tensor:
        """Singular values, with their signs."""
        return (SLOPE * logit).tanh()

    def tensors(
        self, node: dict[str, Tensor], source: Tensor, transition: Tensor, mark: Tensor,
        into: Tensor, direct: Tensor,
    ) -> CellTensors:  # fmt: skip
        """Of gates [*, J] and transitions [*, J, J] between edges and ``into`` virtual ones."""
        query, key, value = (self.split(node[name]) for name in self.features)
        value = value.unflatten(-1, (self.states, -1))
        source, direct = torch.diag_embed(source), torch.diag_embed(direct)
        mark = (mark.unsqueeze(-1) * into).mT
        return CellTensors(
            query * query.size(-1) ** -0.5, key, value, source, transition, mark, direct
        )


def product(left: Tensor, size: Tensor, right: Tensor) -> Tensor:
    """U diag(size) V^T."""
    return (left * size.unsqueeze(-2)) @ right.mT
