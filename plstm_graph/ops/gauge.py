r"""Exponential gates without overflow: the gauge (stabilizer) and the normalizer of mLSTM.

For *any* numbers m on edges and nodes, the gates

.. math::
    \tilde S_e = S_e e^{-m_e} \qquad \tilde T_l = T_l e^{m_{e'} - m_e} \qquad
    \tilde M_e = M_e e^{m_e - m_n} \qquad \tilde D_n = D_n e^{-m_n}

give the states :math:`C_e e^{-m_e}` and the outputs :math:`h_n e^{-m_n}`: a change of gauge. It
cancels in a ratio of two outputs. So m is a constant for the derivatives, and any m will do that
keeps all of this small. The gauges here are scans of the logarithms (:mod:`.semiring`):

* ``"logsumexp"``: :math:`e^{m_e} = |S_e| + \sum_l |T_l| e^{m_{e'}}` and
  :math:`e^{m_n} = |D_n| + \sum_e |M_e| e^{m_e}`. The absolute values of the new gates then add
  up to 1 at each edge and node: a state is a signed convex combination of the :math:`k v^\top` on
  any graph, however many paths it has.
* ``"max"``: the maximum in place of the sums. Each new gate is at most 1, but a state grows with
  the number of paths. On a path this is the gauge of mLSTM (xLSTM, arXiv 2405.04517).

Where nothing arrives (all gates are zero) m is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from plstm_graph.checks import choice, refuse
from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.ops import native
from plstm_graph.ops.inputs import LogGate
from plstm_graph.ops.schedule import LevelSchedule, level_schedule
from plstm_graph.ops.semiring import semiring_scan_
from plstm_graph.ops.transforms import Transformed, map_one_by_one

STABILIZERS = ("max", "logsumexp")
NORMALIZERS = ("max1", "sum", "norm")
#: Those that divide by what a column of ones beside the values comes to.
COUNTING = ("max1", "sum")


class Gauged(NamedTuple):
    """Gates in a gauge: source, mark [E, H], transition [L, H] or [L, H, K], direct [N, H]."""

    source: Tensor
    transition: Tensor
    mark: Tensor
    direct: Tensor


def gauge(
    source: LogGate,
    transition: LogGate,
    mark: LogGate,
    direct: LogGate,
    line_graph: LineGraph,
    kind: str,
) -> tuple[Gauged, Tensor, Tensor]:
    """The gates in the gauge of the module. Differentiable; m itself is a constant.

    Args:
        source, mark: [E, H].
        transition: [L, H]; or diagonal [L, H, K], of which the largest channel of each line edge
            enters the scan, so that the bounds of the module hold for every channel.
        direct: [N, H].
        line_graph: the line graph.
        kind: ``"max"`` or ``"logsumexp"``.

    Returns:
        The gates, m_e [E, H] and m_n [N, H], in float32, or float64 where a gate is. m is finite.

    Raises:
        ValueError: if the kind is unknown or the transition has other axes.
    """
    choice("stabilizer", kind, STABILIZERS)
    if transition.log_abs.dim() not in (2, 3):
        refuse("transition", "[L, H] or [L, H, K] with a stabilizer", transition.log_abs)
    dtype = torch.float32
    for gate in (source, transition, mark, direct):
        dtype = torch.promote_types(dtype, gate.log_abs.dtype)
    gates = (source, transition, mark, direct)
    logs = [gate.log_abs.to(dtype) for gate in gates]
    tables = list(level_schedule(line_graph)), line_graph.line_index, line_graph.edge_index

    if torch.compiler.is_compiling():
        *gated, m_edge, m_node = _gauge(*logs, kind, *tables)
    else:
        call = partial(_forward, kind=kind, tables=tables)
        *gated, m_edge, m_node = Transformed.apply(call, _derivative, *logs)
    signed = [x if gate.sign is None else x * gate.sign.to(dtype) for x, gate in zip(gated, gates)]
    return Gauged(*signed), m_edge.detach(), m_node.detach()


def _forward(*logs: Tensor, kind: str, tables: tuple) -> tuple[Tensor, ...]:
    """The new gates without signs, m_e and m_n."""
    source, transition, mark, direct = logs
    schedule, line_index, edge_index = tables
    plan = LevelSchedule(*schedule)
    (e_in, e_out), dst = line_index.contiguous(), edge_index[1]
    largest = transition if transition.dim() == 2 else transition.amax(2)
    m_edge = source.index_select(0, plan.order).unsqueeze(2)
    semiring_scan_(m_edge, largest, plan, kind)
    m_edge = m_edge.squeeze(2).index_select(0, plan.position)
    logs = [x.contiguous() for x in (source, transition, mark, direct)]
    if source.device.type == "cpu" and native.unavailable() is None:
        new = [torch.empty_like(x) for x in (*logs, m_edge, logs[3])]
        (edges, heads), lines, nodes = source.shape, e_in.numel(), direct.size(0)
        channels = 1 if transition.dim() == 2 else transition.size(2)
        native.run(
            "gauge", source.dtype, heads, nodes, *logs, m_edge, *new, heads, channels,
            int(kind == "logsumexp"), nodes, edges, lines, e_in, e_out, dst,
        )  # fmt: skip
    else:
        m_node = finite(_at_nodes(mark + m_edge, direct, dst, kind))
        # The state behind m_e = -inf is zero; whatever follows it may stay zero, too.
        base = finite(m_edge)
        step = m_edge.index_select(0, e_in) - base.index_select(0, e_out)
        new = [
            source - base,
            transition + (step if transition.dim() == 2 else step.unsqueeze(2)),
            mark + (m_edge - m_node.index_select(0, dst)),
            direct - m_node,
            base,
            m_node,
        ]
    return *(x.exp_() for x in new[:4]), *new[4:]


@torch.library.custom_op("plstm_graph::gauge", mutates_args=())
def _gauge(
    source: Tensor,
    transition: Tensor,
    mark: Tensor,
    direct: Tensor,
    kind: str,
    schedule: Sequence[Tensor],
    line_index: Tensor,
    edge_index: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """What ``torch.compile`` sees of :func:`_forward`."""
    tables = schedule, line_index, edge_index
    return _forward(source, transition, mark, direct, kind=kind, tables=tables)


@_gauge.register_fake
def _(source, transition, mark, direct, kind, schedule, line_index, edge_index):
    like = (source, transition, mark, direct, source, direct)
    return tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in like)


def _derivative(_: Sequence[Tensor], outputs: Sequence[Tensor], grads: Sequence[Tensor]):
    """Of the logarithms: m is a constant, so each new gate is its own derivative."""
    return tuple(grad * gate for grad, gate in zip(grads, outputs[:4]))


def _setup_context(ctx, inputs, output):
    ctx.tables = len(inputs[5])
    ctx.save_for_backward(*output[:4])


def _backward(ctx, *grads):
    return *_derivative((), ctx.saved_tensors, grads), None, [None] * ctx.tables, None, None


_gauge.register_autograd(_backward, setup_context=_setup_context)
map_one_by_one(_gauge)


def _at_nodes(arriving: Tensor, direct: Tensor, dst: Tensor, kind: str) -> Tensor:
    """The maximum or log-sum-exp of direct [N, H] and of the arriving [E, H] at each node."""
    index = dst.unsqueeze(1).expand_as(arriving)
    most = direct.scatter_reduce(0, index, arriving, "amax")
    if kind == "max":
        return most
    base = finite(most)
    terms = (arriving - base.index_select(0, dst)).exp()
    return base + (direct - base).exp().scatter_add(0, index, terms).log()


def finite(m: Tensor) -> Tensor:
    """m with 0 in place of -inf."""
    return m.masked_fill(m == -torch.inf, 0)


def normalize(
    out: Tensor, normalizer: str | None, m_node: Tensor | None = None, eps: float = 0.0
) -> Tensor:
    r"""The output of a recurrence over its normalizer, den: the same recurrence with payload 1.

    ``"max1"`` is that of mLSTM (arXiv 2405.04517), ``"sum"`` an average for positive features:

    .. math::
        \text{max1}\quad h_n = \frac{num_n}{\max(|den_n|, e^{-m_n}) + \epsilon}
        \qquad \text{sum}\quad h_n = \frac{num_n}{den_n + \epsilon}

    Args:
        out: [N, H, V + 1], den in the last column; [N, H, V] for ``"norm"`` and ``None``.
        normalizer: ``"max1"``; ``"sum"``, which gives 0 where den is 0; ``"norm"``, for a norm
            behind the layer that takes away the gauge, as it does every factor per node and head;
            or ``None``, which takes back the gauge and may overflow there.
        m_node: [N, H] of :func:`gauge`; ``None`` without one, as if it were 0.
        eps: added to the denominator inside the gauge, so that a gauge changes nothing only with 0.

    Returns:
        [N, H, V] in the dtype of ``out``.
    """
    if normalizer is None:
        return out if m_node is None else out * m_node.exp().unsqueeze(2)
    choice("normalizer", normalizer, NORMALIZERS)
    if normalizer == "norm":
        return out
    num, den = out[..., :-1], out[..., -1:]
    if normalizer == "max1":
        floor = torch.ones_like(den) if m_node is None else m_node.neg().exp().unsqueeze(2)
        # Behind a large m it underflows, and 0 / 0 were no number.
        floor = floor.clamp(min=torch.finfo(den.dtype).tiny)
        return num / (torch.maximum(den.abs(), floor) + eps)
    silent = den == 0
    return (num / (den + eps).masked_fill(silent, 1)).masked_fill(silent, 0)
