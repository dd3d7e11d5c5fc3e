r"""The one primitive, ``dag_scan``: c = x + T c along the line graph, i.e. c = (I - T)^-1 x.

Its adjoint is the same operator on the reversed line graph,

.. math:: dx = (I - T)^{-T} dc, \qquad dT_l = \langle c_{e_{in}}, dx_{e_{out}} \rangle,

so backward is another ``dag_scan`` and an edge-wise dot product, to any order of derivative.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch_geometric.utils import segment

from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.dag.tracing import transformed
from plstm_graph.ops import native
from plstm_graph.ops.schedule import LevelSchedule, level_schedule
from plstm_graph.ops.transforms import Transformed, map_one_by_one

#: Elements that a temporary of the operators may hold (float32: 256 MB).
TILE_ELEMENTS = 1 << 26
#: Elements that :func:`edge_dot` gathers at a time (float32: 512 KB, what a core's cache holds).
DOT_ELEMENTS = 1 << 17


def scan_(c: Tensor, transition: Tensor, schedule: LevelSchedule) -> None:
    """Scan in place, by a compiled loop on CPUs (:mod:`plstm_graph.ops.native`).

    Args:
        c: [E, H, *] contiguous payload in the order of ``schedule.order``; overwritten by the
            result.
        transition: [L, H] in the caller's order of line edges.
        schedule: the level schedule.
    """
    steps = schedule.steps.tolist()
    if not steps or c.numel() == 0:
        return
    if c.device.type == "cpu" and native.unavailable() is None:
        (_, heads), width = transition.shape, c[0, 0].numel()
        native.run(
            "scan", c.dtype, heads, 0, c, transition.contiguous(), heads, width, len(steps),
            schedule.steps, schedule.line_order, schedule.tail, schedule.segment_ptr,
        )  # fmt: skip
        return
    t = transition.index_select(0, schedule.line_order)
    t = t.view(*t.shape, *(1,) * (c.dim() - 2))
    lines = [step[3] for step in steps]
    for (row, rows, _, _, ptr), t_step, tail in zip(
        steps, t.split(lines), schedule.tail.split(lines)
    ):
        before, block = c.index_select(0, tail), c.narrow(0, row, rows)
        if ptr < 0:
            block.addcmul_(t_step, before)
        else:
            offsets = schedule.segment_ptr[ptr : ptr + rows + 1]
            block.add_(segment(before.mul_(t_step), offsets, reduce="sum"))


def edge_dot(left: Tensor, right: Tensor, e_in: Tensor, e_out: Tensor) -> Tensor:
    """sum over the payload of left[e_in] * right[e_out]: [E, H, W] x [E, H, W] -> [L, H].

    Differentiable; temporaries are bounded unless a graph is recorded.
    """
    width = left[0].numel() if left.size(0) else 1
    chunk = max(1, DOT_ELEMENTS // max(width, 1))
    dots = [
        torch.linalg.vecdot(left.index_select(0, i), right.index_select(0, o))
        for i, o in zip(e_in.split(chunk), e_out.split(chunk))
    ]
    return dots[0] if len(dots) == 1 else torch.cat(dots)


def ends(forward: LevelSchedule, backward: LevelSchedule) -> tuple[Tensor, Tensor]:
    """[L] e_in and [L] e_out, in the caller's order of line edges."""
    # Line edges in scan order know their e_in; those of the reversed schedule their e_out.
    at, e_in = forward.line_order, forward.order[forward.tail]
    back, e_out = backward.line_order, backward.order[backward.tail]
    return torch.empty_like(at).index_copy_(0, at, e_in), torch.empty_like(at).index_copy_(
        0, back, e_out
    )


@torch.library.custom_op("plstm_graph::dag_scan", mutates_args=())
def _dag_scan(
    x: Tensor, transition: Tensor, forward: Sequence[Tensor], backward: Sequence[Tensor]
) -> Tensor:
    """``forward`` and ``backward`` are the schedules of the line graph and of its reverse."""
    schedule = LevelSchedule(*forward)
    c = x.index_select(0, schedule.order)
    scan_(c, transition, schedule)
    return c.index_select(0, schedule.position)


@_dag_scan.register_fake
def _(x, transition, forward, backward):
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _setup_context(ctx, inputs, output):
    _, transition, ctx.forward, ctx.backward = inputs
    ctx.save_for_backward(transition, output)


def _backward(ctx, grad):
    transition, c = ctx.saved_tensors
    dx = _dag_scan(grad, transition, ctx.backward, ctx.forward)
    dt = None
    if ctx.needs_input_grad[1]:
        dt = edge_dot(c, dx, *ends(LevelSchedule(*ctx.forward), LevelSchedule(*ctx.backward)))
    return dx, dt, [None] * len(ctx.forward), [None] * len(ctx.backward)


_dag_scan.register_autograd(_backward, setup_context=_setup_context)
map_one_by_one(_dag_scan)


def _transformed(
    x: Tensor, transition: Tensor, forward: LevelSchedule, backward: LevelSchedule
) -> Tensor:
    """The operator where ``torch.func`` transforms the caller."""

    def derivative(tensors: Sequence[Tensor], outputs: Sequence[Tensor], grads: Sequence[Tensor]):
        dx = _transformed(grads[0], tensors[1], backward, forward)
        return dx, edge_dot(outputs[0], dx, *ends(forward, backward))

    def call(x: Tensor, transition: Tensor) -> Tensor:
        return _dag_scan(x, transition, list(forward), list(backward))

    return Transformed.apply(call, derivative, x, transition)


def levelwise_dag_scan(x: Tensor, transition: Tensor, line_graph: LineGraph) -> Tensor:
    """c = x + T c, all edges of a level at once. x [E, H, W], transition [L, H] -> [E, H, W]."""
    forward, backward = level_schedule(line_graph), level_schedule(line_graph.reverse())
    if transformed() and not torch.compiler.is_compiling():
        return _transformed(x, transition, forward, backward)
    return _dag_scan(x, transition, list(forward), list(backward))
