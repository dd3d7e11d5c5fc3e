r"""The gates of a pLSTM, conditioned on nodes and edges.

Every gate is a linear map of a concatenation, followed by a squashing:

.. math::
    S_e &= \sigma(W_S [x_{src(e)}, a_e]) \qquad
    M_e = \sigma(W_M [x_{dst(e)}, a_e]) \qquad
    D_n = \sigma(W_D x_n) \\
    t_l &= W_T [a_{e_{in}}, a_{e_{out}}, x_{node(l)}]

with the node features x, the edge features a and a line edge :math:`l = (e_{in}, e_{out})`. A
linear map of a concatenation is a sum of linear maps of its parts, and each part lives on nodes
or on edges. So the parts are multiplied there, once, into H columns each
(:mod:`plstm_graph.nn.projection`), and only these are gathered and added: nothing as wide as
features is ever as long as the line edges.

The node of the Transition hangs on one of its two edges: the junction is where e_out starts.
Hence its part is added on edges too, and a line edge costs two gathers of H numbers.

**Factored transitions** (``transition="factored"``) are a product of a gate of each edge, so that
nothing is made for line edges at all (:class:`plstm_graph.ops.Factored`); both gates read the
junction:

.. math::
    T_l = a_{e_{in}} b_{e_{out}}, \qquad
    a_e = \tanh(W_A [x_{dst(e)}, a_e]), \qquad b_e = W_B [x_{src(e)}, a_e]

with b after tanh in D-mode. In P-mode a is divided by 0.5 plus the sum of abs(b) over the edges
that follow e, so that what leaves an edge is bounded as it is without factors.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch_geometric.utils import scatter

from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.nn.norm import widened
from plstm_graph.ops.inputs import Factored, LogGate
from plstm_graph.ops.junctions import followers


class Gates(NamedTuple):
    """The gates of one forward pass and the line graph whose rows they follow."""

    source: Tensor  # [E, H]
    transition: Tensor | Factored  # [L, H], or a and b [E, H]
    mark: Tensor  # [E, H]
    direct: Tensor  # [N, H]
    line_graph: LineGraph


def normalize_transition(t: Tensor, index: Tensor, size: int, alpha: float = 0.5) -> Tensor:
    r"""P-mode: scale t so that the sum of |T| over each group is below one.

    .. math::
        T_l = t_l \,/\, (\alpha + \sum_{l' : index(l') = index(l)} |t_{l'}|)

    Args:
        t: [L, H].
        index: [L] the group of each line edge: e_in, so that what leaves an edge is bounded
            (``normalization="source"``), or e_out, what enters it (``"target"``).
        size: number of groups, E.
        alpha: keeps the sum below one. Default 0.5.

    Returns:
        [L, H], float32 for halves.
    """
    wide = widened(t)  # the sum at a hub leaves the range of halves
    total = scatter(wide.abs(), index, dim=0, dim_size=size, reduce="sum")
    return wide / (total + alpha).index_select(0, index)


def normalize_factors(a: Tensor, b: Tensor, line_graph: LineGraph, alpha: float = 0.5) -> Factored:
    r"""P-mode: scale a so that the sum of |T| over the line edges that leave an edge is below one.

    .. math::
        T_l = a_{e_{in}} b_{e_{out}} \,/\, (\alpha + \sum_{f \text{ behind } e_{in}} |b_f|)

    Args:
        a, b: [E, H], a between -1 and 1.
        line_graph: one-way or two-way, with all pairs of edges that may follow each other.
        alpha: keeps the sum below one. Default 0.5.
    """
    a, b = widened(a), widened(b)
    sums, rows, *twin = followers(line_graph)
    size = b.abs()
    leaving = scatter(size, sums, dim=0, dim_size=2 * line_graph.num_nodes + 1, reduce="sum")
    total = leaving.index_select(0, rows[0])
    if twin:
        total = total + leaving.index_select(0, rows[1])
        turned = torch.cat([size, size.new_zeros(1, size.size(1))]).index_select(0, twin[0])
        # A difference of sums is not exactly zero where nothing is left.
        total = (total - turned).clamp(min=0)
    return Factored(a / (alpha + total), b)


def edge_logits(
    at_source: Tensor, at_target: Tensor, edge: Tensor | None, transition_node: str
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Add up the parts that each edge has.

    Args:
        at_source: [E, 2H] (or 3H) node parts gathered at the source of each edge.
        at_target: [E, H] (or 2H) node parts gathered at its target.
        edge: [E, 4H] edge parts (Source, Mark, Transition in, Transition out) or ``None``: of
            edge features, and of the direction of an edge in a two-way graph.
        transition_node: ``"junction"``, ``"start"``, ``"all"`` or ``"factored"``.

    Returns:
        Source and Mark [E, H] and the Transition's parts for the edge as e_in and as e_out
        [E, H], all before squashing; ``None`` stands for a part that is zero.
    """
    if transition_node == "all":
        source, t_in, t_out = at_source.chunk(3, -1)
        mark, end = at_target.chunk(2, -1)
        t_out = t_out + end
    elif transition_node == "factored":
        source, t_out = at_source.chunk(2, -1)
        mark, t_in = at_target.chunk(2, -1)
    else:
        source, t_node = at_source.chunk(2, -1)
        mark = at_target
        t_in, t_out = (t_node, None) if transition_node == "start" else (None, t_node)
    if edge is None:
        return source, mark, t_in, t_out
    e_source, e_mark, e_in, e_out = edge.chunk(4, -1)
    t_in = e_in if t_in is None else t_in + e_in
    t_out = e_out if t_out is None else t_out + e_out
    return source + e_source, mark + e_mark, t_in, t_out


def line_logits(t_in: Tensor | None, t_out: Tensor | None, line_index: Tensor) -> Tensor:
    """The Transition before squashing, [L, H]: what its two edges have for it."""
    if t_in is None:
        return t_out.index_select(0, line_index[1])
    t = t_in.index_select(0, line_index[0])
    return t if t_out is None else t + t_out.index_select(0, line_index[1])


def mask_states(
    source: Tensor | LogGate,
    transition: Tensor | Factored | LogGate,
    mask: Tensor,
    line_graph: LineGraph,
    columns: int,
) -> tuple[Tensor | LogGate, Tensor | Factored | LogGate]:
    r"""Scale the state of each edge: all that enters it, new or passed on, is scaled.

    .. math::
        m_e C_e = \sum_{l = (e', e)} (m_e T_l)\, C_{e'} + (m_e S_e)\, k v^{\top}

    Args:
        source: [E, H, *].
        transition: [L, H, *], or factors [E, H].
        mask: [M], one entry per column of the input ``edge_index``.
        line_graph: whose ``edge_id`` picks the entries.
        columns: M.

    Returns:
        source, transition.

    Raises:
        ValueError: if the mask is of another size.
    """
    if mask.dim() != 1 or mask.size(0) != columns:
        raise ValueError(
            f"expected an edge mask of {columns} entries (one per column of edge_index), got "
            f"{list(mask.shape)}; do not add or remove edges before the layer"
        )
    mask = mask.index_select(0, line_graph.edge_id)
    if isinstance(transition, Factored):
        return scaled(source, mask), transition._replace(b=scaled(transition.b, mask))
    return scaled(source, mask), scaled(transition, mask.index_select(0, line_graph.line_index[1]))


def scaled(gate: Tensor | LogGate, factor: Tensor) -> Tensor | LogGate:
    """Each row of a gate [E, *] times its factor [E], which of logarithms is at least tiny."""
    value = gate.log_abs if isinstance(gate, LogGate) else gate
    factor = factor.to(value.dtype).view(-1, *[1] * (value.dim() - 1))
    if isinstance(gate, LogGate):
        return gate._replace(log_abs=value + factor.clamp(min=torch.finfo(value.dtype).tiny).log())
    return gate * factor
