r"""The scan of :mod:`.scan` in two other semirings, on logarithms.

.. math::
    \text{max}\quad c_e = \max\bigl(x_e, \max_l (t_l + c_{e'})\bigr) \qquad
    \text{logsumexp}\quad c_e = \log\bigl(e^{x_e} + \sum_l e^{t_l + c_{e'}}\bigr),
    \qquad l = (e', e)

The first is the longest path that ends in each edge, the second the logarithm of the ordinary scan
of :math:`e^x` with :math:`e^t`, which it calculates without overflow. An edge's *shares* say how
much of it came from where; they are numbers from 0 to 1 whose sum is 1:

.. math::
    p_e = e^{x_e - c_e}, \qquad p_l = e^{t_l + c_{e'} - c_e}
    \qquad \text{(max: 1 for the winner, 0 for the others)}

The backward is the ordinary scan a of the incoming gradient on the reversed line graph with the
transitions p_l; then :math:`dx_e = a_e p_e` and :math:`dt_l = a_e p_l`. All of it is made of
differentiable operations, so derivatives of any order exist. Where values are equal, the maximum
is x_e, then that of the first line edge in the order of ``line_index``. An edge that only meets
-inf is -inf, and its gradients are zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.ops import native
from plstm_graph.ops.scan import _dag_scan, ends, levelwise_dag_scan
from plstm_graph.ops.schedule import LevelSchedule, level_schedule
from plstm_graph.ops.transforms import Transformed, map_one_by_one

SEMIRINGS = ("sum", "max", "logsumexp")


def semiring_scan_(c: Tensor, transition: Tensor, schedule: LevelSchedule, semiring: str) -> None:
    """Scan in place, by a compiled loop on CPUs (:mod:`plstm_graph.ops.native`).

    Args:
        c: [E, H, W] contiguous payload in the order of ``schedule.order``; overwritten by the
            result.
        transition: [L, H] in the caller's order of line edges.
        schedule: the level schedule.
        semiring: ``"max"`` or ``"logsumexp"``.
    """
    steps = schedule.steps.tolist()
    if not steps or c.numel() == 0:
        return
    if c.device.type == "cpu" and native.unavailable() is None:
        (edges, heads, width), sums = c.shape, semiring == "logsumexp"
        native.run(
            "semiring", c.dtype, heads, edges * width if sums else 0, c, transition.contiguous(),
            heads, width, int(sums), edges, len(steps),
            schedule.steps, schedule.line_order, schedule.tail, schedule.segment_ptr,
        )  # fmt: skip
        return
    t = transition.index_select(0, schedule.line_order).unsqueeze(-1)
    lines = [step[3] for step in steps]
    for (row, rows, _, _, ptr), t_step, tail in zip(
        steps, t.split(lines), schedule.tail.split(lines)
    ):
        value, block = c.index_select(0, tail).add_(t_step), c.narrow(0, row, rows)
        if ptr >= 0:
            value = _reduce(value, schedule.segment_ptr[ptr : ptr + rows + 1], semiring)
        block.copy_(torch.maximum(block, value) if semiring == "max" else block.logaddexp(value))


def _reduce(value: Tensor, offsets: Tensor, semiring: str) -> Tensor:
    """The maximum or log-sum-exp over segments, none of which is empty."""
    # torch_scatter's maximum starts at the least finite number, not at -inf.
    most = torch.segment_reduce(value, "max", offsets=offsets)
    if semiring == "max":
        return most
    finite = _finite(most).repeat_interleave(offsets.diff(), 0)
    sums = torch.segment_reduce((value - finite).exp_(), "sum", offsets=offsets)
    return sums.log_().add_(_finite(most))


def _finite(c: Tensor) -> Tensor:
    """c with 0 for -inf, to be subtracted from what is -inf as well."""
    return c.masked_fill(c == -torch.inf, 0)


def _shares(
    x: Tensor, transition: Tensor, c: Tensor, e_in: Tensor, e_out: Tensor, semiring: str
) -> tuple[Tensor, Tensor]:
    """p_e [E, H, W] and p_l [L, H, W] of the module; differentiable for log-sum-exp."""
    value = transition.unsqueeze(-1) + c.index_select(0, e_in)
    if semiring == "logsumexp":
        # exp(-inf - 0) is 0, and so is its derivative.
        finite = _finite(c)
        return (x - finite).exp(), (value - finite.index_select(0, e_out)).exp()
    own = x == c
    best = (value == c.index_select(0, e_out)) & ~own.index_select(0, e_out)
    number = torch.arange(e_in.numel(), device=c.device)[:, None, None]
    index = e_out[:, None, None].expand_as(value)
    none = torch.full_like(c, e_in.numel(), dtype=torch.int64)
    first = none.scatter_reduce(0, index, torch.where(best, number, e_in.numel()), "amin")
    best = best & (number == first.index_select(0, e_out))
    return (own & (c != -torch.inf)).to(c.dtype), best.to(c.dtype)


def _gradients(
    tensors: Sequence[Tensor],
    grad: Tensor,
    semiring: str,
    forward: LevelSchedule,
    backward: LevelSchedule,
    adjoint: Callable[[Tensor, Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """dx and dt from x, t and c; ``adjoint`` is the ordinary scan on the reversed line graph."""
    e_in, e_out = ends(forward, backward)
    own, share = _shares(*tensors, e_in, e_out, semiring)
    # Shares differ from channel to channel: each is a head of the adjoint scan.
    a = adjoint(grad.flatten(1).unsqueeze(2), share.flatten(1)).view_as(grad)
    return a * own, torch.linalg.vecdot(a.index_select(0, e_out), share)


def _forward(x: Tensor, transition: Tensor, semiring: str, schedule: LevelSchedule) -> Tensor:
    c = x.index_select(0, schedule.order)
    semiring_scan_(c, transition, schedule, semiring)
    return c.index_select(0, schedule.position)


@torch.library.custom_op("plstm_graph::semiring_scan", mutates_args=())
def _semiring_scan(
    x: Tensor,
    transition: Tensor,
    semiring: str,
    forward: Sequence[Tensor],
    backward: Sequence[Tensor],
) -> Tensor:
    """What ``torch.compile`` sees. ``forward`` and ``backward`` are the schedules of the line graph
    and of its reverse."""
    return _forward(x, transition, semiring, LevelSchedule(*forward))


@_semiring_scan.register_fake
def _(x, transition, semiring, forward, backward):
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _setup_context(ctx, inputs, output):
    x, transition, ctx.semiring, ctx.forward, ctx.backward = inputs
    ctx.save_for_backward(x, transition, output)


def _backward(ctx, grad):
    def adjoint(grad: Tensor, share: Tensor) -> Tensor:
        return _dag_scan(grad, share, ctx.backward, ctx.forward)

    schedules = LevelSchedule(*ctx.forward), LevelSchedule(*ctx.backward)
    gradients = _gradients(ctx.saved_tensors, grad, ctx.semiring, *schedules, adjoint)
    return *gradients, None, [None] * len(ctx.forward), [None] * len(ctx.backward)


_semiring_scan.register_autograd(_backward, setup_context=_setup_context)
map_one_by_one(_semiring_scan)


def semiring_scan(x: Tensor, transition: Tensor, line_graph: LineGraph, semiring: str) -> Tensor:
    """The scan of the module, all edges of a level at once.

    Args:
        x: [E, H, W] float32 or float64 logarithms; -inf for zero.
        transition: [L, H] logarithms of the same dtype.
        line_graph: the line graph.
        semiring: ``"max"`` or ``"logsumexp"``.

    Returns:
        c [E, H, W].
    """
    forward = level_schedule(line_graph)
    if torch.compiler.is_compiling():
        backward = level_schedule(line_graph.reverse())
        return _semiring_scan(x, transition, semiring, list(forward), list(backward))

    def call(x: Tensor, transition: Tensor) -> Tensor:
        return _forward(x, transition, semiring, forward)

    def derivative(tensors: Sequence[Tensor], outputs: Sequence[Tensor], grads: Sequence[Tensor]):
        reverse = line_graph.reverse()

        def adjoint(grad: Tensor, share: Tensor) -> Tensor:
            return levelwise_dag_scan(grad, share, reverse)

        schedules = forward, level_schedule(reverse)
        return _gradients((*tensors, *outputs), grads[0], semiring, *schedules, adjoint)

    return Transformed.apply(call, derivative, x, transition)
