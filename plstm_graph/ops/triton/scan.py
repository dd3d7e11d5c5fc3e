r"""``dag_scan`` by Triton kernels, as a differentiable operator. Imports no triton itself.

The adjoint is the same operator on the tables of the reversed graph, with T transposed; dT is a
kernel of its own. Where the backward is itself differentiated, dT is made of tensor operations
instead, so that derivatives of any order exist. Kernels: :mod:`.scan_kernels`.

**Which of the two kernels.** A segment (a part of the batch) is walked by one program per head and
tile, ``RUN`` rows at a time; a run waits for the one before (a round of dependent loads and a
barrier, about as long on any payload). A level of its own costs a launch, worth some ``LAUNCH``
runs. With the longest walk of any segment, in runs, and the number of levels of the whole graph:

.. math:: \text{by level if}\quad \max_s \sum_{levels\ of\ s} \lceil width\, J / RUN \rceil
    \; > \; LAUNCH \cdot levels

So batches of small graphs, deep graphs and single paths are segments; one graph whose levels
average more than RUN x LAUNCH = 64 rows goes level by level. The constants are estimates from
latencies (a run some 1.5 microseconds, a launch some 6); they choose a speed, never a result.

**Few variants.** Triton compiles a kernel for every dtype, alignment and J. Operands are
brought into few shapes. Tuning keys are ("segment_scan" or "level_scan", number of segments (1 by
level) x H, W, mean size of a level, all rounded to powers of two, J, the dtype of x, that of c).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.ops.triton import common
from plstm_graph.ops.triton.autotune import Config, pick
from plstm_graph.ops.triton.common import (
    ALIGN,
    accumulator,
    aligned,
    launch_options,
    node_parts,
    on_device,
    padded,
    power_of_2,
)

#: Rows that a program takes at once, and what launching a level costs in such runs.
RUN, LAUNCH = 16, 4
#: One for each width of a tile; of those as wide as the payload or narrower, the first is the
#: default. With J > 1 the default is taken. Dots take the default, too: their sum over the payload
#: depends on the blocks.
CONFIGS = (Config(8, 64, 4), Config(16, 32, 4), Config(32, 16, 4))
#: float64 is for comparisons and has one configuration.
DOUBLE = Config(16, 32, 4)
#: Most registers of a thread.
MAX_REGISTERS = 128


class ScanTables(NamedTuple):
    """CSR predecessor lists in topological order, int32; P segments.

    Edges are ordered by (segment, level, falling number of predecessors). Inside a level no edge
    depends on another, so a program may take any run of them at once; and since the first of a run
    has the most predecessors, its count bounds the loop over predecessors of the whole run.

    Attributes:
        order: [E] edge at each position.
        line_ptr: [E + 1] predecessors of the edge at position p are ``line_ptr[p]`` to
            ``line_ptr[p + 1]`` (exclusive) of the next three, ascending in e_in.
        line_in: [L] e_in. line_out: [L] e_out. line_id: [L] column of ``line_index``.
        level_ptr: [levels + 1] first position of each level of each segment, one segment after
            the other.
        segment_ptr: [P + 1] first level of each segment. A segment without edges has none.
        host_level_ptr: ``level_ptr`` on the CPU, for launches level by level.
    """

    order: Tensor
    line_ptr: Tensor
    line_in: Tensor
    line_out: Tensor
    line_id: Tensor
    level_ptr: Tensor
    segment_ptr: Tensor
    host_level_ptr: Tensor


def scan_tables(line_graph: LineGraph, *, whole: bool = False) -> ScanTables:
    """The tables of ``line_graph``, cached on it.

    Args:
        line_graph: the line graph; its :meth:`~LineGraph.reverse` has those of the backward.
        whole: all graphs of the batch as one segment, whose levels then run across graphs.
    """
    key = ("triton_scan_tables", whole)
    return line_graph.plan(key, lambda graph: _scan_tables(graph, whole))


def _scan_tables(line_graph: LineGraph, whole: bool) -> ScanTables:
    e = line_graph.num_edges
    e_in, e_out = line_graph.line_index.cpu().numpy()
    level = line_graph.level.cpu().numpy()
    node_part = node_parts(line_graph)
    part, parts = node_part[line_graph.edge_index[0].cpu().numpy()], node_part.max(initial=-1) + 1
    if whole:
        part, parts = np.zeros_like(part), 1
    indegree = np.bincount(e_out, minlength=e)
    order = np.lexsort((-indegree, level, part))
    position = np.empty(e, dtype=np.int64)
    position[order] = np.arange(e)
    line_ptr = np.concatenate([[0], np.cumsum(indegree[order])])
    line_id = np.lexsort((e_in, position[e_out]))

    at_part, at_level = part[order], level[order]
    starts = np.ones(e, dtype=bool)
    starts[1:] = (np.diff(at_part) != 0) | (np.diff(at_level) != 0)
    first = np.flatnonzero(starts)
    level_ptr = np.append(first, e)
    levels = np.bincount(at_part[first], minlength=parts)
    segment_ptr = np.concatenate([[0], np.cumsum(levels)])
    arrays = (order, line_ptr, e_in[line_id], e_out[line_id], line_id, level_ptr, segment_ptr)
    return ScanTables(
        *common.tables(line_graph.device, *arrays), torch.from_numpy(level_ptr.astype(np.int32))
    )


def goes_by_level(line_graph: LineGraph, states: int = 1) -> bool:
    """Whether the kernel of levels is expected to be the faster one; J states. Cached."""

    def make(line_graph: LineGraph) -> bool:
        tables = scan_tables(line_graph)
        rows = np.diff(tables.host_level_ptr.numpy()) * states
        runs = np.concatenate([[0], np.cumsum(-(-rows // RUN))])
        longest = int(np.diff(runs[tables.segment_ptr.cpu().numpy()]).max(initial=0))
        return longest > LAUNCH * line_graph.num_levels

    return line_graph.plan(("triton_scan_by_level", states), make)


def make_plan(line_graph: LineGraph, states: int = 1) -> tuple[list[Tensor], list[Tensor], bool]:
    """Tables of both directions, and whether to go by level; cached on the line graph."""
    by_level = ("triton_scan_by_level", states)
    if torch.compiler.is_compiling() and not line_graph.has_plan(by_level):
        raise ValueError(
            "expected a line_graph prepared for backend='triton' under torch.compile, got a bare "
            "one; call plstm_graph.ops.prepare(line_graph, ...), or dag_scan itself with these "
            "sizes, before the compiled function"
        )
    whole = goes_by_level(line_graph, states)
    forward, backward = (scan_tables(g, whole=whole) for g in (line_graph, line_graph.reverse()))
    return list(forward), list(backward), whole


def configs_for(width: int, states: int, dtype: torch.dtype) -> list[Config]:
    """Those of ``CONFIGS`` for a payload of J states and W columns, accumulated in ``dtype``."""
    if dtype == torch.float64:
        return [DOUBLE]
    widest = max(power_of_2(width), min(c.width for c in CONFIGS))
    fitting = [c for c in CONFIGS if c.width <= widest]
    return fitting if states == 1 else fitting[:1]


def _options(config: Config, device: torch.device) -> dict[str, int]:
    return {
        "ROWS": config.rows, "WIDTH": config.width,
        "num_warps": config.num_warps, "num_stages": config.num_stages,
        **launch_options(device, MAX_REGISTERS),
    }  # fmt: skip


def scan(x: Tensor, transition: Tensor, tables: ScanTables, by_level: bool) -> Tensor:
    """c = x + T c.

    Args:
        x: [E, H, J, W]. transition: [L, H, J, J].
        tables: of the direction to scan, with the whole batch as one segment if ``by_level``.

    Returns:
        [E, H, J, W] in float32, or in float64 if an input is.
    """
    from plstm_graph.ops.triton import scan_kernels

    # T is small and gets the dtype of c; x stays half-precision only where J = 1.
    dtype = accumulator(x, transition)
    given = x
    if dtype == torch.float64 or x.size(2) > 1:
        x = x.to(dtype)
    x, transition = aligned(padded(x).contiguous()), transition.to(dtype).contiguous()
    c = torch.empty(x.shape, dtype=dtype, device=x.device)
    if c.numel() == 0:
        return torch.empty(given.shape, dtype=dtype, device=x.device)
    _, heads, states, width = c.shape
    lists = tables.order, tables.line_ptr, tables.line_in, tables.line_id
    segments = 1 if by_level else tables.segment_ptr.numel() - 1
    steps = tables.host_level_ptr.tolist()

    def launch(config: Config) -> None:
        tiles, options = -(-width // config.width), _options(config, c.device)
        if not by_level:
            scan_kernels.segment_scan_kernel[(segments * heads, tiles)](
                c, x, transition, *lists, tables.level_ptr, tables.segment_ptr,
                heads, width // ALIGN, J=states, **options,
            )  # fmt: skip
            return
        for first, last in pairwise(steps):
            runs = -(-(last - first) * states // config.rows)
            scan_kernels.level_scan_kernel[(runs * heads, tiles)](
                c, x, transition, *lists, first, last,
                heads, width // ALIGN, J=states, **options,
            )  # fmt: skip

    sizes = (segments * heads, width, tables.order.numel() // max(1, len(steps) - 1))
    name = "level_scan" if by_level else "segment_scan"
    key = (name, *map(power_of_2, sizes), states, str(x.dtype), str(dtype))
    with on_device(c):
        launch(pick(key, configs_for(width, states, dtype), launch, c.device))
    return c[..., : given.size(3)].contiguous()


def edge_dot(c: Tensor, dx: Tensor, tables: ScanTables) -> Tensor:
    """dT: [E, H, J, W], [E, H, J, W] of one dtype -> [L, H, J, J].

    ``tables`` are those with which c was scanned.
    """
    from plstm_graph.ops.triton import scan_kernels

    c, dx = (aligned(padded(a).contiguous()) for a in (c, dx))
    lines, (_, heads, states, width) = tables.line_id.numel(), c.shape
    dt = c.new_empty(lines, heads, states, states)
    if dt.numel() == 0 or width == 0:
        return dt.zero_()
    config = configs_for(width, 1, c.dtype)[0]
    with on_device(c):
        scan_kernels.edge_dot_kernel[(-(-lines // config.rows) * heads, states, states)](
            dt, c, dx, tables.line_in, tables.line_out, tables.line_id,
            lines, heads, states, width // ALIGN, **_options(config, c.device),
        )  # fmt: skip
    return dt


@torch.library.custom_op("plstm_graph::triton_dag_scan", mutates_args=())
def triton_dag_scan_op(
    x: Tensor,
    transition: Tensor,
    forward: Sequence[Tensor],
    backward: Sequence[Tensor],
    by_level: bool,
) -> Tensor:
    """x [E, H, J, W], transition [L, H, J, J], tables of both directions -> [E, H, J, W]."""
    return scan(x, transition, ScanTables(*forward), by_level)


@triton_dag_scan_op.register_fake
def _(x, transition, forward, backward, by_level):
    return x.new_empty(x.shape, dtype=accumulator(x, transition))


@torch.library.custom_op("plstm_graph::triton_edge_dot", mutates_args=())
def _edge_dot_op(c: Tensor, dx: Tensor, tables: Sequence[Tensor]) -> Tensor:
    return edge_dot(c, dx, ScanTables(*tables))


@_edge_dot_op.register_fake
def _(c, dx, tables):
    _, heads, states, _ = c.shape
    return c.new_empty(tables[4].numel(), heads, states, states)


def _differentiable_dot(c: Tensor, dx: Tensor, tables: ScanTables) -> Tensor:
    """:func:`edge_dot` in tensor operations."""
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
    return triton_dag_scan_op(x, transition, *make_plan(line_graph, x.size(2)))
