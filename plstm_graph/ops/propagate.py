r"""The fast forms as one differentiable operator.

A form is a forward and a backward over plain tensors: the inputs and the *tables* derived from
the line graph. In eager mode an ``autograd.Function`` keeps what the forward computed; under
``torch.compile`` the same two functions run behind ``torch.library.custom_op`` (opaque to the
tracer, whose backward computes the forward anew). Second derivatives go through the
differentiable composition of :mod:`plstm_graph.ops.compose`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from plstm_graph.dag.buckets import BucketPlan, bucket_plan
from plstm_graph.dag.chunk_plan import ChunkPlan, ChunkTables, chunk_tables
from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.dag.schedule import LevelSchedule, level_schedule
from plstm_graph.dag.walk import PartWalk, part_walk
from plstm_graph.ops.chunkwise import Kept as ChunksKept
from plstm_graph.ops.chunkwise import chunks_backward, chunks_forward
from plstm_graph.ops.compose import composed_grads
from plstm_graph.ops.levelwise import StateTables, states_backward, states_forward
from plstm_graph.ops.parallel import (
    Saved,
    Solver,
    dense_solver,
    gated_attention,
    gated_attention_backward,
    scan_solver,
)
from plstm_graph.ops.scan import edge_dot
from plstm_graph.ops.triton.tables import ScanTables, bucket_tables
from plstm_graph.ops.walk import walk_backward, walk_forward

#: The forms of this module: dense gating rows, scanned gating rows, scanned states, chunks, walks.
FORMS = ("dense", "rows", "states", "chunks", "walk")
#: One more, where Triton kernels can run: gating rows, one program per segment, head and tile.
SEGMENTS = "segments"

_PLAN, _SCHEDULE = len(BucketPlan._fields), len(LevelSchedule._fields)


def tables_of(line_graph: LineGraph, form: str, heads: int) -> list[Tensor]:
    """The tensors that ``form`` needs of ``line_graph``, cached on it."""
    key = ("tables", form, heads)
    if key not in line_graph._cache:
        if torch.compiler.is_compiling():
            raise ValueError(
                f"expected a line_graph prepared for {heads} heads under torch.compile, got a bare "
                "one; call plstm_graph.ops.prepare(line_graph, ...) before the compiled function"
            )
        tables: list[Tensor] = []
        if form in ("dense", "rows", SEGMENTS):
            tables += bucket_plan(line_graph, heads, split=form != "rows")
        if form == SEGMENTS:
            forward, backward, *rest = bucket_tables(line_graph, heads)
            tables += [*forward, *backward, *rest]
        if form in ("rows", "states"):
            tables += [*level_schedule(line_graph), *level_schedule(line_graph.reverse())]
        if form == "chunks":
            plan, *schedules = chunk_tables(line_graph, heads)
            tables += [*plan, *(tensor for schedule in schedules for tensor in schedule)]
        if form == "states":
            tables.append(line_graph.edge_index)
        if form == "walk":
            tables += part_walk(line_graph)
        line_graph._cache[key] = tables
    return line_graph._cache[key]


def _schedules(tables: Sequence[Tensor]) -> tuple[LevelSchedule, LevelSchedule]:
    return (
        LevelSchedule(*tables[:_SCHEDULE]),
        LevelSchedule(*tables[_SCHEDULE : 2 * _SCHEDULE]),
    )


def _state_tables(tables: Sequence[Tensor]) -> StateTables:
    return StateTables(*tables[2 * _SCHEDULE :], *_schedules(tables))


def _chunk_tables(tables: Sequence[Tensor]) -> ChunkTables:
    plan, rest = len(ChunkPlan._fields), tables[len(ChunkPlan._fields) :]
    return ChunkTables(
        ChunkPlan(*tables[:plan]), *_schedules(rest), *_schedules(rest[2 * _SCHEDULE :])
    )


def _solver(form: str, transition: Tensor, tables: Sequence[Tensor]) -> tuple[BucketPlan, Solver]:
    plan = BucketPlan(*tables[:_PLAN])
    if form == "dense":
        return plan, dense_solver(transition, plan)
    if form == SEGMENTS:
        return plan, _segment_solver(transition, tables[_PLAN:])
    return plan, scan_solver(transition, plan, *_schedules(tables[_PLAN:]))


def _segment_solver(transition: Tensor, tables: Sequence[Tensor]) -> Solver:
    """One launch for the gating rows of all segments of a bucket."""
    from plstm_graph.ops.triton.segment_scan import segment_scan_rows_

    n = len(ScanTables._fields)
    there, back = ScanTables(*tables[:n]), ScanTables(*tables[n : 2 * n])
    row_of, bucket_ptr = tables[2 * n :]
    ends = bucket_ptr.tolist()

    def solve_(i: int, rows: Tensor, adjoint: bool) -> None:
        scan = back if adjoint else there
        scan = scan._replace(segment_ptr=scan.segment_ptr[ends[i] : ends[i + 1] + 1])
        segment_scan_rows_(rows.view(-1, rows.size(2)), transition, row_of, scan)

    return solve_


Kept = tuple[BucketPlan, Solver, Saved] | ChunksKept | None


def _forward(
    inputs: Sequence[Tensor], scale: float, form: str, tables: Sequence[Tensor]
) -> tuple[Tensor, Kept]:
    if form == "states":
        return states_forward(*inputs, scale, _state_tables(tables)), None
    if form == "walk":
        return walk_forward(inputs, scale, PartWalk(*tables)), None
    if form == "chunks":
        return chunks_forward(*inputs, scale, _chunk_tables(tables))
    query, key, value, source, transition, mark, direct = inputs
    plan, solve_ = _solver(form, transition, tables)
    out, saved = gated_attention(query, key, value, source, mark, direct, scale, plan, solve_)
    return out, (plan, solve_, saved)


def _backward(
    grad: Tensor,
    inputs: Sequence[Tensor],
    scale: float,
    form: str,
    tables: Sequence[Tensor],
    kept: Kept,
) -> tuple[Tensor, ...]:
    if form == "states":
        return states_backward(grad, inputs, scale, _state_tables(tables))
    if form == "walk":
        return walk_backward(grad, inputs, scale, PartWalk(*tables))
    if kept is None:
        kept = _forward(inputs, scale, form, tables)[1]
    if form == "chunks":
        return chunks_backward(grad, inputs, scale, _chunk_tables(tables), kept)
    plan, solve_, saved = kept
    dot = edge_dot
    if form == SEGMENTS:
        from plstm_graph.ops.triton.segment_scan import row_dot as dot
    return gated_attention_backward(grad, inputs[5], scale, plan, solve_, saved, dot)


class _Propagate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query, key, value, source, transition, mark, direct, scale, form, line_graph
    ):
        inputs = (query, key, value, source, transition, mark, direct)
        ctx.tables = tables_of(line_graph, form, query.size(1))
        out, ctx.kept = _forward(inputs, scale, form, ctx.tables)
        ctx.save_for_backward(*inputs)
        ctx.scale, ctx.form, ctx.line_graph = scale, form, line_graph
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor):
        inputs = ctx.saved_tensors
        with torch.autocast(grad.device.type, enabled=False):
            return *_Propagate._grads(ctx, inputs, grad), None, None, None

    @staticmethod
    def _grads(ctx: Any, inputs: tuple[Tensor, ...], grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph=True: a backward with a graph of its own
            return composed_grads(inputs, grad, ctx.line_graph, ctx.scale)
        # Buffers go at once; a second backward through a retained graph computes them anew.
        kept, ctx.kept = ctx.kept, None
        return _backward(grad, inputs, ctx.scale, ctx.form, ctx.tables, kept)


@torch.library.custom_op("plstm_graph::propagate", mutates_args=())
def propagate_op(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    source: Tensor,
    transition: Tensor,
    mark: Tensor,
    direct: Tensor,
    scale: float,
    form: str,
    tables: Sequence[Tensor],
) -> Tensor:
    """The forward of ``form``; shapes as :func:`plstm_graph.ops.plstm`, without J."""
    inputs = (query, key, value, source, transition, mark, direct)
    return _forward(inputs, scale, form, tables)[0].contiguous()


@propagate_op.register_fake
def _(query, key, value, source, transition, mark, direct, scale, form, tables):
    return value.new_empty(value.shape)


@torch.library.custom_op("plstm_graph::propagate_backward", mutates_args=())
def _propagate_backward_op(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    source: Tensor,
    transition: Tensor,
    mark: Tensor,
    direct: Tensor,
    scale: float,
    form: str,
    tables: Sequence[Tensor],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    inputs = (query, key, value, source, transition, mark, direct)
    grads = _backward(grad, inputs, scale, form, tables, None)
    return tuple(g.contiguous() for g in grads)


@_propagate_backward_op.register_fake
def _(grad, query, key, value, source, transition, mark, direct, scale, form, tables):
    inputs = (query, key, value, source, transition, mark, direct)
    return tuple(x.new_empty(x.shape) for x in inputs)


def _setup_context(ctx, inputs, output):
    *tensors, ctx.scale, ctx.form, ctx.tables = inputs
    ctx.save_for_backward(*tensors)


def _autograd_backward(ctx, grad):
    grads = _propagate_backward_op(
        grad.contiguous(), *ctx.saved_tensors, ctx.scale, ctx.form, ctx.tables
    )
    return *grads, None, None, [None] * len(ctx.tables)


propagate_op.register_autograd(_autograd_backward, setup_context=_setup_context)


def propagate(
    inputs: Sequence[Tensor], line_graph: LineGraph, *, scale: float, form: str
) -> Tensor:
    """The layer by one of ``FORMS`` or ``SEGMENTS``: seven tensors of ``plstm`` -> [N, H, V]."""
    if torch.compiler.is_compiling():
        return propagate_op(*inputs, scale, form, tables_of(line_graph, form, inputs[0].size(1)))
    return _Propagate.apply(*inputs, scale, form, line_graph)
