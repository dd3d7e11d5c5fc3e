r"""The levelwise form: all edges of one topological level at once.

The payload is the states, with a backward written by hand: with X = S k v^T, C = (I - T)^-1 X and
g = dL/dh,

.. math::
    Y_e = M_e\, q_{dst(e)} g_{dst(e)}^\top, \qquad A = (I - T)^{-\top} Y, \qquad
    dT_l = \langle C_{e_{in}}, A_{e_{out}} \rangle

    dS_e = k^\top A_e v, \quad dk = \sum S_e A_e v, \quad dv = \sum S_e A_e^\top k \quad
    (k, v \text{ at } src(e))

    dM_e = q^\top C_e g, \quad dq = \sum M_e C_e g \quad (q, g \text{ at } dst(e))

Columns of V never mix, so both passes run over tiles of V and states are recomputed in backward:
memory is bounded by a tile, whatever the size of the graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from plstm_graph.ops.by_level import Levels, levels_of, plstm_by_level
from plstm_graph.ops.forms.base import Form, Problem
from plstm_graph.ops.inputs import Inputs
from plstm_graph.ops.scan import TILE_ELEMENTS, edge_dot, ends, scan_
from plstm_graph.ops.schedule import LevelSchedule, level_schedule


class StateTables(NamedTuple):
    """Indices of a line graph and the schedules of both directions."""

    edge_index: Tensor
    forward: LevelSchedule
    backward: LevelSchedule


def tiles(edges: int, heads: int, k: int, v: int) -> list[slice]:
    """Slices of V whose states hold at most ``TILE_ELEMENTS`` elements."""
    tile = max(1, min(v, TILE_ELEMENTS // max(1, edges * heads * k)))
    return [slice(i, min(i + tile, v)) for i in range(0, v, tile)]


def _scan_outer(
    left: Tensor, right: Tensor, gate: Tensor, node: Tensor, transition: Tensor, s: LevelSchedule
) -> Tensor:
    """Scan of gate_e left_node(e) right_node(e)^T: [E, H, K, V] in the order of the schedule. A
    channel of a diagonal transition is a head with keys of size one.

    Args:
        left: [N, H, K]; right: [N, H, V]; gate: [E, H]; node: [E] a node of each edge.
    """
    at = node.index_select(0, s.order)
    gated = left.index_select(0, at) * gate.index_select(0, s.order)[..., None]
    payload = gated[..., None] * right.index_select(0, at)[:, :, None, :]
    scan_(_channels(payload, transition), transition.flatten(1), s)
    return payload


def _channels(states: Tensor, transition: Tensor) -> Tensor:
    """[E, H, K, V], with diagonal transitions [E, H K, V]."""
    return states.flatten(1, transition.dim() - 1)


def _contract_rows(payload: Tensor, left: Tensor) -> Tensor:
    """[E, H, K, V] x [E, H, K] -> [E, H, V]"""
    return torch.matmul(left[:, :, None, :], payload).squeeze(2)


def _contract_columns(payload: Tensor, right: Tensor) -> Tensor:
    """[E, H, K, V] x [E, H, V] -> [E, H, K]"""
    return torch.matmul(payload, right[..., None]).squeeze(3)


def states_forward(inputs: Inputs, scale: float, tables: StateTables) -> Tensor:
    """The layer by states; shapes as :func:`plstm_graph.ops.plstm`, without J."""
    query, key, value, source, transition, mark, direct, _ = inputs
    src, dst = tables.edge_index
    schedule = tables.forward
    q = query * scale
    h = (direct * (q * key).sum(-1))[..., None] * value
    to = dst.index_select(0, schedule.order)
    marked = q.index_select(0, to) * mark.index_select(0, schedule.order)[..., None]
    for tile in tiles(src.numel(), *key.shape[1:], value.size(2)):
        states = _scan_outer(key, value[..., tile], source, src, transition, schedule)
        h[..., tile].index_add_(0, to, _contract_rows(states, marked))
    return h


def states_backward(
    grad: Tensor, inputs: Inputs, scale: float, tables: StateTables
) -> tuple[Tensor, ...]:
    """Gradients of the seven inputs of :func:`states_forward`."""
    query, key, value, source, transition, mark, direct, _ = inputs
    src, dst = tables.edge_index
    there, back = tables.forward, tables.backward
    q = query * scale
    qk = (q * key).sum(-1)
    gv = (grad * value).sum(-1)
    dq = (direct * gv)[..., None] * key
    dk = (direct * gv)[..., None] * q
    dv = (direct * qk)[..., None] * grad
    dsource, dmark = torch.zeros_like(source), torch.zeros_like(mark)
    dtransition = torch.zeros_like(transition)
    to = dst.index_select(0, there.order)
    start = src.index_select(0, back.order)
    e_in, e_out = ends(there, back)
    for tile in tiles(src.numel(), *key.shape[1:], value.size(2)):
        g, v = grad[..., tile], value[..., tile]
        states = _scan_outer(key, v, source, src, transition, there)
        read = _contract_columns(states, g.index_select(0, to))  # C_e g
        dmark.index_add_(0, there.order, (read * q.index_select(0, to)).sum(-1))
        dq.index_add_(0, to, read.mul_(mark.index_select(0, there.order)[..., None]))
        adjoint = _scan_outer(q, g, mark, dst, transition, back)
        dots = edge_dot(
            _channels(states, transition).flatten(2), _channels(adjoint, transition).flatten(2),
            there.position[e_in], back.position[e_out],
        )  # fmt: skip
        dtransition += dots.view_as(dtransition)
        del states
        gate = source.index_select(0, back.order)[..., None]
        read = _contract_columns(adjoint, v.index_select(0, start))  # A_e v
        k = key.index_select(0, start)
        dsource.index_add_(0, back.order, (read * k).sum(-1))
        dk.index_add_(0, start, read.mul_(gate))
        dv[..., tile].index_add_(0, start, _contract_rows(adjoint, k.mul_(gate)))
    return dq.mul_(scale), dk, dv, dsource, dtransition, dmark, (qk * gv)


class Levelwise(Form):
    name = "levelwise"
    kinds = ("line", "diagonal", "block")
    updates = True
    plan_size = 1 + 2 * len(LevelSchedule._fields)

    def worthwhile(self, problem: Problem) -> bool:
        return False

    def features(self, problem: Problem) -> dict[str, float]:
        graph, states = problem.line_graph, problem.heads * problem.key_size * problem.value_size
        return {
            "start": 1,
            "level": graph.num_levels,
            "state": states * graph.num_edges,
            "line": states * graph.num_line_edges,
        }

    def tables(self, problem: Problem) -> str:
        return "levels" if problem.updates or problem.kind == "block" else "edges"

    def plan(self, problem: Problem) -> list[Tensor]:
        graph = problem.line_graph
        if self.tables(problem) == "levels":
            return list(levels_of(graph))
        return [graph.edge_index, *level_schedule(graph), *level_schedule(graph.reverse())]

    def forward(self, inputs: Inputs, scale: float, plan: Sequence[Tensor]) -> tuple[Tensor, None]:
        if len(plan) == self.plan_size:
            return states_forward(inputs, scale, _tables(plan)), None
        with torch.no_grad():
            return plstm_by_level(inputs, scale, Levels(*plan)), None

    def backward(
        self, grad: Tensor, inputs: Inputs, scale: float, plan: Sequence[Tensor], kept: None
    ) -> Sequence[Tensor]:
        if len(plan) == self.plan_size:
            return states_backward(grad, inputs, scale, _tables(plan))
        # A custom operator, as which torch.compile calls this, runs below autograd.
        autograd = torch._C.DispatchKey.AutogradFunctionality
        with torch.enable_grad(), torch._C._SetExcludeDispatchKeyGuard(autograd, False):
            tensors = [x.detach().requires_grad_() for x in inputs.tensors]
            out = plstm_by_level(Inputs.of(tensors), scale, Levels(*plan))
            return torch.autograd.grad(out, tensors, grad, materialize_grads=True)


def _tables(plan: Sequence[Tensor]) -> StateTables:
    middle = 1 + len(LevelSchedule._fields)
    return StateTables(plan[0], LevelSchedule(*plan[1:middle]), LevelSchedule(*plan[middle:]))
