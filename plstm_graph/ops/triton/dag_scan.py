r"""``dag_scan`` by Triton kernels, as a differentiable operator. Imports no triton itself.

The adjoint is the same operator on the tables of the reversed graph, with T transposed; dT is a
kernel of its own. Where the backward is itself differentiated, dT is made of tensor operations
instead, so that derivatives of any order exist.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.ops.triton.common import accumulator
from plstm_graph.ops.triton.tables import ScanTables, scan_tables

#: Rows that a program takes at once, and what launching a level costs in such runs: the rule of
#: :mod:`plstm_graph.ops.triton.level_scan`.
RUN, LAUNCH = 16, 4


def goes_by_level(line_graph: LineGraph, states: int = 1) -> bool:
    """Whether level_scan is expected to be faster than segment_scan; J states. Cached."""
    key = ("goes_by_level", states)
    if key not in line_graph._cache:
        tables = scan_tables(line_graph)
        rows = np.diff(tables.host_level_ptr.numpy()) * states
        runs = np.concatenate([[0], np.cumsum(-(-rows // RUN))])
        ends = tables.segment_ptr.cpu().numpy()
        longest = int(np.diff(runs[ends]).max(initial=0))
        line_graph._cache[key] = longest > LAUNCH * line_graph.num_levels
    return line_graph._cache[key]


def tables_of_scan(
    line_graph: LineGraph, states: int = 1
) -> tuple[list[Tensor], list[Tensor], bool]:
    """Tables of both directions, and whether to go by level; cached on the line graph."""
    if torch.compiler.is_compiling() and ("goes_by_level", states) not in line_graph._cache:
        raise ValueError(
            "expected a line_graph prepared for backend='triton' under torch.compile, got a bare "
            "one; call plstm_graph.ops.prepare(line_graph, ...), or dag_scan itself with these "
            "sizes, before the compiled function"
        )
    whole = goes_by_level(line_graph, states)
    forward, backward = (scan_tables(g, whole=whole) for g in (line_graph, line_graph.reverse()))
    return list(forward), list(backward), whole


@torch.library.custom_op("plstm_graph::triton_dag_scan", mutates_args=())
def triton_dag_scan_op(
    x: Tensor,
    transition: Tensor,
    forward: Sequence[Tensor],
    backward: Sequence[Tensor],
    by_level: bool,
) -> Tensor:
    """x [E, H, J, W], transition [L, H, J, J], tables of both directions -> [E, H, J, W]."""
    from plstm_graph.ops.triton.level_scan import level_scan
    from plstm_graph.ops.triton.segment_scan import segment_scan

    scan = level_scan if by_level else segment_scan
    return scan(x, transition, ScanTables(*forward))


@triton_dag_scan_op.register_fake
def _(x, transition, forward, backward, by_level):
    return x.new_empty(x.shape, dtype=accumulator(x, transition))


@torch.library.custom_op("plstm_graph::triton_edge_dot", mutates_args=())
def _edge_dot_op(c: Tensor, dx: Tensor, tables: Sequence[Tensor]) -> Tensor:
    from plstm_graph.ops.triton.segment_scan import edge_dot

    return edge_dot(c, dx, ScanTables(*tables))


@_edge_dot_op.register_fake
def _(c, dx, tables):
    _, heads, states, _ = c.shape
    return c.new_empty(tables[4].numel(), heads, states, states)


def _differentiable_dot(c: Tensor, dx: Tensor, tables: ScanTables) -> Tensor:
    """:func:`plstm_graph.ops.triton.segment_scan.edge_dot` in tensor operations."""
    left, right = c.index_select(0, tables.line_in), dx.index_select(0, tables.line_out)
    dots = torch.matmul(right, left.mT)  # [L, H, J (i), J (j)]
    return torch.empty_like(dots).index_copy(0, tables.line_id.long(), dots)


def _setup_context(ctx, inputs, output):
    x, transition, ctx.forward, ctx.backward, ctx.by_level = inputs
    ctx.dtype = x.dtype
    ctx.save_for_backward(transition, output)


def _backward(ctx, grad):
    transition, c = ctx.saved_tensors
    dx = triton_dag_scan_op(grad, transition.mT, ctx.backward, ctx.forward, ctx.by_level)
    dt = None
    if ctx.needs_input_grad[1]:
        if torch.is_grad_enabled():  # create_graph=True
            dt = _differentiable_dot(c, dx, ScanTables(*ctx.forward))
        else:
            dt = _edge_dot_op(c, dx, ctx.forward)
        dt = dt.to(transition.dtype)
    tables = [None] * len(ctx.forward)
    return dx.to(ctx.dtype), dt, tables, tables, None


triton_dag_scan_op.register_autograd(_backward, setup_context=_setup_context)


def triton_dag_scan(x: Tensor, transition: Tensor, line_graph: LineGraph) -> Tensor:
    """c = x + T c.

    Args:
        x: [E, H, W] or [E, H, J, W]. transition: [L, H] or [L, H, J, J].
        line_graph: the line graph.

    Returns:
        The shape of x, in float32 (float64 if an input is).
    """
    if x.dim() == 3:
        return triton_dag_scan(x[:, :, None], transition[..., None, None], line_graph).squeeze(2)
    return triton_dag_scan_op(x, transition, *tables_of_scan(line_graph, x.size(2)))
