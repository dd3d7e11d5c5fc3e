r"""c = x + T c with one program per (segment, head, tile of the payload): one launch a batch.

A program walks the levels of its segment. Inside a level it takes ``ROWS`` rows at a time, a row
being one state of one edge (row r of a level is state ``r % J`` of its edge ``r // J``), and sums
over the predecessors of all of them at once:

.. math:: c_{e,i} = x_{e,i} + \sum_{l = (e', e)} \sum_j T_{l,i,j}\, c_{e',j}

States written earlier are read again through global memory, by other threads of the program than
those that wrote them: a barrier follows each store. Programs have two warps or more, since on
gfx942 a one-warp program gets no workgroup barrier.

Sums run over predecessors in ascending order and over j in order, whatever the block sizes: the
result has the same bits for every configuration. States are stored as they are accumulated
(float32, or float64), so half-precision payloads are rounded once, by whoever reads the result.

The adjoint is the same kernel on the tables of the reversed graph, with T transposed in (i, j);
the gradient of T is :func:`edge_dot_kernel`:

.. math:: dT_{l,i,j} = \langle c_{e_{in},j}, dx_{e_{out},i} \rangle

**In place, by rows.** The gating rows of a batch lie in padded matrices, one after the other
(:mod:`plstm_graph.dag.buckets`). With a table of rows, state (e, h) is row ``rows[e * H + h]`` of
``c`` instead of row ``e * H + h``, and the payload is what stands there already.

**Few variants.** Triton compiles a kernel anew for every dtype, alignment and J. Launchers bring
operands into few shapes (:func:`scan_operands`), so that all that a launch may ask for is listed in
:func:`shipped`, which the tests compile. (A J above 4 is compiled when it is met.)
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from plstm_graph.ops.triton.aot import KernelSpec
from plstm_graph.ops.triton.autotune import Config, pick
from plstm_graph.ops.triton.common import (
    accumulator,
    aligned,
    launch_options,
    on_device,
    power_of_2,
)
from plstm_graph.ops.triton.scan_specs import ALIGN, MAX_REGISTERS, scan_spec, scan_specs
from plstm_graph.ops.triton.tables import ScanTables

#: Candidates for J = 1; of those as wide as the payload or narrower, the first is the default.
#: Stages prefetch predecessors, which pays for edges with several of them.
CONFIGS = (
    Config(8, 64, 4),
    Config(16, 32, 4),
    Config(32, 16, 4),
    Config(8, 64, 4, 3),
    Config(2, 256, 4),
    Config(16, 64, 8),
)
#: One for each width of a tile: all that J > 1 and gating rows have.
DEFAULTS = CONFIGS[:3]
#: float64 is for comparisons and has one configuration.
DOUBLE = Config(16, 32, 4)
#: edge_dot's sum over the payload depends on its blocks, so these are not tuned: the same
#: gradient, to the bit, in every run.
DOT_CONFIGS = (Config(8, 64, 4), Config(32, 16, 4))
#: Options of ``triton.jit``: arguments whose values lead to no variants of a kernel. Only payloads
#: are read in vectors.
_PLAIN = [
    "transition", "rows", "order", "line_ptr", "line_in", "line_out", "line_id", "level_ptr",
    "segment_ptr", "heads", "states", "lines", "units", "first", "last", "t_l", "t_h", "t_i", "t_j",
]  # fmt: skip
PLAIN = {"do_not_specialize": _PLAIN, "do_not_specialize_on_alignment": _PLAIN}


@triton.jit
def _row(edge, head, heads, rows, used, BY_ROWS: tl.constexpr):
    """The row of c that holds edge and head; int64."""
    row = edge * heads + head
    if BY_ROWS:
        row = tl.load(rows + row, mask=used, other=0)
    return row


@triton.jit
def scan_rows(
    c, x, transition, rows, order, line_ptr, line_in, line_id,
    first, last, start, head, heads, width, column, t_l, t_h, t_i, t_j,
    J: tl.constexpr, ROWS: tl.constexpr, BY_ROWS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Rows ``start`` to ``start + ROWS`` of the level at positions [first, last).

    Writes the tile [ROWS, WIDTH] of c at the columns ``column`` [WIDTH]; the caller owes a barrier
    before anything reads it.
    """
    r = start + tl.arange(0, ROWS)
    position = first + r // J
    state = r % J
    there = position < last
    edge = tl.cast(tl.load(order + position, mask=there, other=0), tl.int64)
    begin = tl.load(line_ptr + position, mask=there, other=0)
    end = tl.load(line_ptr + position + 1, mask=there, other=0)
    # Positions of a level stand by falling number of predecessors: the first of a run has most.
    front = line_ptr + first + start // J
    most = tl.load(front + 1) - tl.load(front)

    inside = there[:, None] & (column < width)[None, :]
    own = (_row(edge, head, heads, rows, there, BY_ROWS) * J + state) * width
    at = own[:, None] + column[None, :]
    acc = tl.load(x + at, mask=inside, other=0.0).to(c.dtype.element_ty)
    for i in tl.range(most, num_stages=STAGES):
        line = begin + i
        used = line < end
        edge_in = tl.cast(tl.load(line_in + line, mask=used, other=0), tl.int64)
        line_row = tl.cast(tl.load(line_id + line, mask=used, other=0), tl.int64)
        t_at = line_row * t_l + head * t_h + state * t_i
        before = _row(edge_in, head, heads, rows, used, BY_ROWS) * J
        for j in tl.static_range(J):
            t = tl.load(transition + t_at + j * t_j, mask=used, other=0.0)
            c_at = ((before + j) * width)[:, None] + column[None, :]
            acc += t[:, None] * tl.load(c + c_at, mask=inside & used[:, None], other=0.0)
    tl.store(c + at, acc, mask=inside)


@triton.jit(**PLAIN)
def segment_scan_kernel(
    c, x, transition, rows, order, line_ptr, line_in, line_id, level_ptr, segment_ptr,
    heads, units, t_l, t_h, t_i, t_j,
    J: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
    BY_ROWS: tl.constexpr, STAGES: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    """Program (segment * heads + head, tile); W = units * ALIGN."""
    width = units * ALIGN
    segment = tl.program_id(0) // heads
    head = tl.cast(tl.program_id(0) % heads, tl.int64)
    column = tl.cast(tl.program_id(1), tl.int64) * WIDTH + tl.arange(0, WIDTH)
    for level in range(tl.load(segment_ptr + segment), tl.load(segment_ptr + segment + 1)):
        first = tl.load(level_ptr + level)
        last = tl.load(level_ptr + level + 1)
        for start in range(0, (last - first) * J, ROWS):
            scan_rows(
                c, x, transition, rows, order, line_ptr, line_in, line_id,
                first, last, start, head, heads, width, column, t_l, t_h, t_i, t_j,
                J, ROWS, BY_ROWS, STAGES,
            )  # fmt: skip
            tl.debug_barrier()


@triton.jit(**PLAIN)
def edge_dot_kernel(
    dt, c, dx, line_in, line_out, line_id, lines, heads, states, units,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    """Program (block of line edges * heads + head, i, j); all contiguous, dt [L, H, J, J]."""
    width = units * ALIGN
    head = tl.cast(tl.program_id(0) % heads, tl.int64)
    i = tl.program_id(1)
    j = tl.program_id(2)
    line = tl.program_id(0) // heads * ROWS + tl.arange(0, ROWS)
    there = line < lines
    edge_in = tl.cast(tl.load(line_in + line, mask=there, other=0), tl.int64)
    edge_out = tl.cast(tl.load(line_out + line, mask=there, other=0), tl.int64)
    line_row = tl.cast(tl.load(line_id + line, mask=there, other=0), tl.int64)
    c_at = ((edge_in * heads + head) * states + j) * width
    dx_at = ((edge_out * heads + head) * states + i) * width
    acc = tl.zeros([ROWS, WIDTH], dtype=dt.dtype.element_ty)
    for start in range(0, width, WIDTH):
        column = start + tl.arange(0, WIDTH)
        inside = there[:, None] & (column < width)[None, :]
        left = tl.load(c + c_at[:, None] + column[None, :], mask=inside, other=0.0)
        right = tl.load(dx + dx_at[:, None] + column[None, :], mask=inside, other=0.0)
        acc += left * right
    dt_at = ((line_row * heads + head) * states + i) * states + j
    tl.store(dt + dt_at, tl.sum(acc, axis=1), mask=there)


def scan_configs(
    width: int, states: int, dtype: torch.dtype, configs: tuple[Config, ...] = CONFIGS
) -> list[Config]:
    """Those of ``configs`` for a payload of J states and W columns, accumulated in ``dtype``."""
    if dtype == torch.float64:
        return [DOUBLE]
    widest = max(power_of_2(width), min(c.width for c in configs))
    fitting = [c for c in configs if c.width <= widest]
    return fitting if states == 1 else fitting[:1]


def scan_operands(x: Tensor, transition: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """An empty c, x and T as the compiled kernels take them.

    c and x are contiguous and read in vectors of ALIGN columns, so a W that is no multiple of it is
    padded. T is small, and gets the dtype of c; x stays half-precision only where J = 1.
    """
    dtype = accumulator(x, transition)
    if dtype == torch.float64 or x.size(2) > 1:
        x = x.to(dtype)
    if x.size(3) % ALIGN:
        x = torch.nn.functional.pad(x, (0, -x.size(3) % ALIGN))
    c = torch.empty(x.shape, dtype=dtype, device=x.device)
    return c, aligned(x.contiguous()), transition.to(dtype)


def segment_scan(x: Tensor, transition: Tensor, tables: ScanTables) -> Tensor:
    """c = x + T c by :func:`segment_scan_kernel`.

    Tuned by (segments x H, W, mean size of a level) rounded to powers of two, J and the dtypes.

    Args:
        x: [E, H, J, W], any strides. transition: [L, H, J, J], any strides.
        tables: of the direction to scan.

    Returns:
        [E, H, J, W] in float32, or in float64 if an input is.
    """
    c, padded, transition = scan_operands(x, transition)
    if c.numel():
        _launch(c, padded, transition, None, tables)
    return c[..., : x.size(3)].contiguous()


def segment_scan_rows_(
    rows: Tensor, transition: Tensor, row_of: Tensor, tables: ScanTables
) -> Tensor:
    """Scan in place the rows [R, W] that ``row_of`` [E * H] (int64) names.

    Args:
        rows: [R, W] contiguous, of the accumulation dtype; other rows are left alone.
        transition: [L, H].
        tables: of the direction to scan.
    """
    if rows.numel() and row_of.numel():
        transition = transition[..., None, None].to(rows.dtype)
        _launch(rows, rows[:, None, None, :], transition, row_of, tables)
    return rows


def _launch(
    c: Tensor, x: Tensor, transition: Tensor, row_of: Tensor | None, tables: ScanTables
) -> None:
    heads, states, width = transition.size(1), x.size(2), x.size(3)
    segments = tables.segment_ptr.numel() - 1
    by_rows = row_of is not None
    align = 1 if by_rows else ALIGN

    def launch(config: Config) -> None:
        grid = (segments * heads, triton.cdiv(width, config.width))
        segment_scan_kernel[grid](
            c, x, transition, row_of if by_rows else tables.order,
            tables.order, tables.line_ptr, tables.line_in, tables.line_id,
            tables.level_ptr, tables.segment_ptr,
            heads, width // align, *transition.stride(),
            J=states, ROWS=config.rows, WIDTH=config.width, BY_ROWS=by_rows,
            STAGES=config.num_stages, ALIGN=align,
            num_warps=config.num_warps, num_stages=config.num_stages,
            **launch_options(c.device, MAX_REGISTERS),
        )  # fmt: skip

    configs = scan_configs(width, states, c.dtype)
    if by_rows:
        configs = configs[:1]  # timing would run the scan, which is in place, many times
    levels = max(1, tables.level_ptr.numel() - 1)
    sizes = (segments * heads, width, tables.order.numel() // levels)
    key = ("segment_scan", *map(power_of_2, sizes), states, str(x.dtype), str(transition.dtype))
    with on_device(c):
        launch(pick(key, configs, launch, c.device))


def edge_dot(c: Tensor, dx: Tensor, tables: ScanTables) -> Tensor:
    """dT of the module docstring.

    Args:
        c, dx: [E, H, J, W], of one dtype.
        tables: of the direction in which c was scanned.

    Returns:
        [L, H, J, J].
    """
    return _dot(c, dx, tables.line_in, tables.line_out, tables.line_id)


def row_dot(left: Tensor, right: Tensor, left_row: Tensor, right_row: Tensor) -> Tensor:
    """<left[i], right[j]> for each pair of rows: [R, W], [R, W], [M], [M] -> [M]."""
    pair = torch.arange(left_row.numel(), device=left_row.device, dtype=torch.int32)
    rows = left_row.int(), right_row.int()
    return _dot(left[:, None, None], right[:, None, None], *rows, pair).view(-1)


def _dot(c: Tensor, dx: Tensor, line_in: Tensor, line_out: Tensor, line_id: Tensor) -> Tensor:
    c, dx = aligned(c.contiguous()), aligned(dx.contiguous())
    lines, (_, heads, states, width) = line_id.numel(), c.shape
    dt = c.new_empty(lines, heads, states, states)
    if dt.numel() == 0 or width == 0:
        return dt.zero_()
    config = scan_configs(width, 1, c.dtype, DOT_CONFIGS)[0]
    align = 1 if width % ALIGN or c.dtype == torch.float64 else ALIGN
    grid = (triton.cdiv(lines, config.rows) * heads, states, states)
    with on_device(c):
        edge_dot_kernel[grid](
            dt, c, dx, line_in, line_out, line_id, lines, heads, states, width // align,
            ROWS=config.rows, WIDTH=config.width, ALIGN=align,
            num_warps=config.num_warps, num_stages=config.num_stages,
            **launch_options(c.device, MAX_REGISTERS),
        )  # fmt: skip
    return dt


def shipped() -> list[KernelSpec]:
    """Scans of states and of rows, and dots."""
    scan, dot = ("segment_scan", segment_scan_kernel), ("edge_dot", edge_dot_kernel)
    specs = scan_specs(*scan, CONFIGS, DEFAULTS, DOUBLE)
    for payload, configs in (("fp32", DEFAULTS), ("fp64", (DOUBLE,))):
        specs += [
            scan_spec(*scan, config, payload=payload, by_rows=True, align=1) for config in configs
        ]
    for align in (ALIGN, 1):
        specs += [scan_spec(*dot, config, align=align) for config in DOT_CONFIGS]
    return [*specs, scan_spec(*dot, DOUBLE, payload="fp64", align=1)]
