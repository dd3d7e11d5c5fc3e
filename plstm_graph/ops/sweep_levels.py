r"""The nonlinear cells in torch, all nodes of a topological level at once.

The definition, differentiable to any order and for any device; the compiled loop of
:mod:`plstm_graph.ops.sweep` is tested against it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from plstm_graph.ops.sweep_plan import NodeLevels


def levelwise_sweep(
    cell: str, gates: Tensor, weight: Tensor, edge: Tensor | None, plan: NodeLevels
) -> Tensor:
    """See :func:`plstm_graph.ops.sweep.sweep`; ``plan`` is that of the graph."""
    step = CELLS[cell]
    # Split once: the gradient of a slice of the whole would be as large as the whole.
    nodes = gates.index_select(0, plan.order).split([x.count.numel() for x in plan.levels])
    if edge is not None:
        edges = edge.index_select(0, plan.rows).split([x.place.numel() for x in plan.levels])
    live, out = _states(gates[:0, :, 0], gates[:0, :, :2], weight), []
    for i, level in enumerate(plan.levels):
        before = live.index_select(0, level.tail)
        bring, state = before[:, :, :4], before[:, :, 4:]
        if edge is not None:
            bring = bring + edges[i]
        h, state = step(nodes[i], bring, state, level.place, level.count.view(-1, 1, 1))
        out.append(h)
        h_new, state_new = h.index_select(0, level.new), state.index_select(0, level.new)
        live = torch.cat([live.index_select(0, level.keep), _states(h_new, state_new, weight)])
    return torch.cat(out).index_select(0, plan.position)


def _states(h: Tensor, state: Tensor, weight: Tensor) -> Tensor:
    """What later nodes read: R h, four gates, then c and log n. [n, H, 6, d]"""
    return torch.cat([torch.einsum("nhj,hgij->nhgi", h, weight), state], 2)


def _slstm(
    at_node: Tensor, bring: Tensor, state: Tensor, place: Tensor, count: Tensor
) -> tuple[Tensor, Tensor]:
    """A level of the sLSTM. Returns h [n, H, d] and (c, log n) [n, H, 2, d]."""
    total = torch.zeros_like(at_node[:, :, :3]).index_add(0, place, bring[:, :, :3])
    i, o, z = (at_node[:, :, :3] + total / count.unsqueeze(-1)).unbind(2)
    f = at_node[:, :, 3].index_select(0, place) + bring[:, :, 3]
    c_in, log_n_in = state.unbind(2)
    a = F.logsigmoid(f) + log_n_in
    # The largest exponent is a gauge: nothing depends on it, so it needs no gradient.
    with torch.no_grad():
        m = i.scatter_reduce(0, place.view(-1, 1, 1).expand_as(a), a, "amax")
    own, other = (i - m).exp(), (a - m.index_select(0, place)).exp()
    n = own.index_add(0, place, other)
    c = (own * z.tanh()).index_add(0, place, other * c_in) / n
    return o.sigmoid() * c, torch.stack([c, m + n.log()], 2)


def _child_sum(
    at_node: Tensor, bring: Tensor, state: Tensor, place: Tensor, count: Tensor
) -> tuple[Tensor, Tensor]:
    """A level of the child-sum LSTM. Returns h [n, H, d] and c [n, H, 2, d], its last part
    unused."""
    i, o, z = at_node[:, :, :3].index_add(0, place, bring[:, :, :3]).unbind(2)
    f = (at_node[:, :, 3].index_select(0, place) + bring[:, :, 3]).sigmoid()
    c = (i.sigmoid() * z.tanh()).index_add(0, place, f * state[:, :, 0])
    return o.sigmoid() * c.tanh(), torch.stack([c, torch.zeros_like(c)], 2)


CELLS = {"slstm": _slstm, "child_sum": _child_sum}
