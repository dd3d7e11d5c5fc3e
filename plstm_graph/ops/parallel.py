r"""The parallel form: gating matrices by dense triangular solves, then gated attention.

Per part of the batch and head, with edges in topological order,

.. math::
    Y = (I - T)^{-1} S, \qquad G = M Y + \mathrm{diag}(D), \qquad H = (Q K^\top * G) V

where S places S_e at (e, src(e)) and M places M_e at (dst(e), e). The backward is written by
hand: with A = Q K^T * G and P = dH V^T,

.. math::
    dV = A^\top dH, \quad dQ = (P * G) K, \quad dK = (P * G)^\top Q, \quad dG = P * Q K^\top

    dM_e = \langle dG_{dst(e)}, Y_e \rangle, \quad X = (I - T)^{-\top} M^\top dG, \quad
    dS_e = X_{e, src(e)}, \quad dT_l = \langle Y_{e_{in}}, X_{e_{out}} \rangle

so it takes one transposed solve and edge-wise dots, never a dense E x E gradient.

Parts of similar size are padded together, and all matrices of a kind share one flat buffer
(:mod:`plstm_graph.dag.buckets`): small batches are bound by the number of operations, not by
arithmetic. Systems are solved from the right, Y^T (I - T)^T = S^T, in place: that keeps rows
contiguous and is three times faster than from the left with the row-major layout torch has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from plstm_graph.dag.buckets import BucketPlan
from plstm_graph.dag.schedule import LevelSchedule
from plstm_graph.ops import native
from plstm_graph.ops.scan import edge_dot, scan_levels_


class Saved(NamedTuple):
    """Flat buffers that backward needs."""

    query: Tensor  # [R_n, K]
    key: Tensor  # [R_n, K]
    value: Tensor  # [R_n, V]
    scores: Tensor  # Q K^T
    gating: Tensor  # G
    rows: Tensor  # Y


#: solve_(i, rows, adjoint): multiply the rows [B * H, E, n] of bucket i by (I - T)^-1, or by its
#: transpose, in place.
Solver = Callable[[int, Tensor, bool], None]
#: dot(left, right, i, j): <left[i], right[j]> for each pair of rows.
Dot = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def _stacks(buffer: Tensor, plan: BucketPlan, heads: int, row: int, column: int) -> list[Tensor]:
    """Each bucket's stack [B * H, *, *] in a flat buffer; row, column index ``plan.sizes``."""
    shapes = [(s[0] * heads, s[row], s[column]) for s in plan.sizes.tolist()]
    parts = buffer.view(-1).split([b * r * c for b, r, c in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes)]


def _rows(buffer: Tensor, plan: BucketPlan, heads: int, row: int) -> list[Tensor]:
    """Each bucket's stack [B * H, *, W] in a buffer of rows [R, W]."""
    shapes = [(s[0] * heads, s[row]) for s in plan.sizes.tolist()]
    parts = buffer.split([b * r for b, r in shapes])
    return [part.view(b, r, buffer.size(1)) for part, (b, r) in zip(parts, shapes)]


def _place(values: Tensor, position: Tensor, size: int) -> Tensor:
    """Zeros [size] with ``values`` at ``position``."""
    return values.new_zeros(size).index_copy_(0, position, values.reshape(-1))


def dense_solver(transition: Tensor, plan: BucketPlan) -> Solver:
    """Triangular solves with the dense I - T of each part and head.

    On CPUs a compiled loop (:mod:`plstm_graph.ops.native`) passes over what is zero in T, and does
    not depend on how a library of linear algebra spreads small systems over threads.
    """
    heads = transition.size(1)
    upper = bool(plan.upper)
    size = sum(b * heads * e * e for b, _, e, _ in plan.sizes.tolist())
    systems = _stacks(_place(transition.neg(), plan.line_entry, size), plan, heads, 2, 2)

    compiled = transition.device.type == "cpu" and not native.unavailable()

    def solve_(i: int, rows: Tensor, adjoint: bool) -> None:
        if compiled:
            units, edges, width = rows.shape
            native.run(
                "solve", rows.dtype, units, 0, systems[i], rows, edges, width, upper, adjoint
            )
            return
        system = systems[i] if adjoint else systems[i].mT
        torch.linalg.solve_triangular(
            system, rows.mT, upper=upper == adjoint, left=False, unitriangular=True, out=rows.mT
        )

    return solve_


def scan_solver(
    transition: Tensor, plan: BucketPlan, forward: LevelSchedule, backward: LevelSchedule
) -> Solver:
    """Levelwise scans of the gating rows of all parts together, in one bucket."""
    edge_row = plan.edge_row.view(-1, transition.size(1))

    def solve_(i: int, rows: Tensor, adjoint: bool) -> None:
        schedule = backward if adjoint else forward
        at = edge_row.index_select(0, schedule.order)
        flat = rows.view(-1, rows.size(2))
        payload = flat.index_select(0, at.view(-1)).view(*at.shape, rows.size(2))
        scan_levels_(payload, transition, schedule)
        flat.index_copy_(0, at.view(-1), payload.flatten(0, 1))

    return solve_


def _flat(x: Tensor) -> Tensor:
    """[N, H, W] -> [N * H, W]"""
    return x.contiguous().flatten(0, 1)


def gated_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    source: Tensor,
    mark: Tensor,
    direct: Tensor,
    scale: float,
    plan: BucketPlan,
    solve_: Solver,
) -> tuple[Tensor, Saved]:
    """The forward of the module docstring; the solver holds the transitions."""
    heads = query.size(1)
    nn = ne = 0
    for b, n, e, _ in plan.sizes.tolist():
        nn, ne = nn + b * heads * n * n, ne + b * heads * n * e
    q = _flat(query * scale).index_select(0, plan.node_pad)
    k = _flat(key).index_select(0, plan.node_pad)
    v = _flat(value).index_select(0, plan.node_pad)
    rows = _place(source, plan.edge_source, ne)
    marks = _place(mark, plan.edge_mark, ne)
    gating, scores = q.new_empty(nn), q.new_empty(nn)
    out = torch.empty_like(v)
    stacks = [
        _stacks(rows, plan, heads, 2, 1),
        _stacks(marks, plan, heads, 1, 2),
        _stacks(gating, plan, heads, 1, 1),
        _stacks(scores, plan, heads, 1, 1),
    ]
    for i, (y, m, g, s, q_b, k_b) in enumerate(
        zip(*stacks, _rows(q, plan, heads, 1), _rows(k, plan, heads, 1))
    ):
        if y.numel():
            solve_(i, y, False)
        torch.bmm(m, y, out=g)
        torch.bmm(q_b, k_b.mT, out=s)
    gating.scatter_add_(0, plan.node_diagonal, direct.reshape(-1))
    attention = _stacks(scores * gating, plan, heads, 1, 1)
    for a, v_b, o in zip(attention, _rows(v, plan, heads, 1), _rows(out, plan, heads, 1)):
        torch.bmm(a, v_b, out=o)
    out = out.index_select(0, plan.node_row).view(value.shape)
    return out, Saved(q, k, v, scores, gating, rows)


def gated_attention_backward(
    grad: Tensor,
    mark: Tensor,
    scale: float,
    plan: BucketPlan,
    solve_: Solver,
    saved: Saved,
    dot: Dot = edge_dot,
) -> tuple[Tensor, ...]:
    """Gradients of query, key, value, source, transition, mark and direct."""
    n, heads, _ = grad.shape
    q, k, v, scores, gating, rows = saved
    dout = torch.zeros_like(v).index_copy_(0, plan.node_row, _flat(grad))
    dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    p = torch.empty_like(scores)
    attention = _stacks(scores * gating, plan, heads, 1, 1)
    douts = _rows(dout, plan, heads, 1)
    for a, p_b, g, v_b, dv_b in zip(
        attention,
        _stacks(p, plan, heads, 1, 1),
        douts,
        _rows(v, plan, heads, 1),
        _rows(dv, plan, heads, 1),
    ):
        torch.bmm(a.mT, g, out=dv_b)
        torch.bmm(g, v_b.mT, out=p_b)
    dscores = _stacks(p * gating, plan, heads, 1, 1)
    dgating = p.mul_(scores)
    adjoint = torch.empty_like(rows)
    marks = _place(mark, plan.edge_row, plan.edge_pad_dst.numel())
    dmark = torch.empty_like(marks)
    edges = [s[0] * heads * s[2] for s in plan.sizes.tolist()]
    lines = [s[3] * heads for s in plan.sizes.tolist()]
    dtransition = []
    stacks = zip(
        dscores,
        _rows(q, plan, heads, 1),
        _rows(k, plan, heads, 1),
        _rows(dq, plan, heads, 1),
        _rows(dk, plan, heads, 1),
        _stacks(dgating, plan, heads, 1, 1),
        _stacks(rows, plan, heads, 2, 1),
        _stacks(adjoint, plan, heads, 2, 1),
        plan.edge_pad_dst.split(edges),
        marks.split(edges),
        dmark.split(edges),
        plan.line_in.split(lines),
        plan.line_out.split(lines),
    )
    for i, bucket in enumerate(stacks):
        ds, q_b, k_b, dq_b, dk_b, dg, y, x, at_dst, m, dm, l_in, l_out = bucket
        torch.bmm(ds, k_b, out=dq_b)
        torch.bmm(ds.mT, q_b, out=dk_b)
        if not y.numel():
            continue
        y_rows, x_rows = y.view(-1, y.size(2)), x.view(-1, y.size(2))
        torch.index_select(dg.view(-1, dg.size(2)), 0, at_dst, out=x_rows)
        torch.linalg.vecdot(x_rows, y_rows, out=dm)
        x_rows.mul_(m[:, None])
        solve_(i, x, True)
        dtransition.append(dot(y_rows, x_rows, l_in, l_out))
    lines_total = plan.line_position.numel()
    dt = torch.cat(dtransition) if dtransition else mark.new_zeros(0)
    return (
        dq.index_select(0, plan.node_row).unflatten(0, (n, heads)).mul_(scale),
        dk.index_select(0, plan.node_row).unflatten(0, (n, heads)),
        dv.index_select(0, plan.node_row).unflatten(0, (n, heads)),
        adjoint.index_select(0, plan.edge_source).view_as(mark),
        dt.view(lines_total, heads).index_select(0, plan.line_position),
        dmark.index_select(0, plan.edge_row).view_as(mark),
        dgating.index_select(0, plan.node_diagonal).view(n, heads),
    )
