r"""Kernels of c = x + T c, for ``dag_scan``.

In :func:`segment_scan_kernel` a program owns a segment, a head and a tile of the payload, and walks
the levels of its segment. Inside a level it takes ``ROWS`` rows at a time, a row being one state of
one edge (row r of a level is state ``r % J`` of its edge ``r // J``), and sums over the
predecessors of all of them at once:

.. math:: c_{e,i} = x_{e,i} + \sum_{l = (e', e)} \sum_j T_{l,i,j}\, c_{e',j}

States written earlier are read again through global memory, by other threads of the program than
those that wrote them: a barrier follows each store. Programs have two warps or more, since on
gfx942 a one-warp program gets no workgroup barrier. :func:`level_scan_kernel` makes one level; the
end of a launch is the barrier between levels.

Sums run over predecessors in ascending order and over j in order, whatever the block sizes: the
result has the same bits for every configuration and both kernels. States are stored as they are
accumulated (float32, or float64), so half-precision payloads are rounded once, by the caller.

The adjoint is the same kernel on the tables of the reversed graph, with T transposed in (i, j);
the gradient of T is :func:`edge_dot_kernel`:

.. math:: dT_{l,i,j} = \langle c_{e_{in},j}, dx_{e_{out},i} \rangle
"""

import triton
import triton.language as tl

ALIGN = tl.constexpr(4)
#: Options of ``triton.jit``: arguments whose values lead to no variants of a kernel. Only payloads
#: are read in vectors.
_PLAIN = [
    "transition", "order", "line_ptr", "line_in", "line_out", "line_id", "level_ptr",
    "segment_ptr", "heads", "j_size", "lines", "units", "first", "last",
]  # fmt: skip
PLAIN = {"do_not_specialize": _PLAIN, "do_not_specialize_on_alignment": _PLAIN}


@triton.jit
def scan_rows(
    c, x, transition, order, line_ptr, line_in, line_id, first, last, start, head, heads, width,
    column, J: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Rows ``start`` to ``start + ROWS`` of the level at positions [first, last).

    Writes the tile [ROWS, WIDTH] of c at the columns ``column`` [WIDTH]; a barrier has to follow
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
    at = (((edge * heads + head) * J + state) * width)[:, None] + column[None, :]
    acc = tl.load(x + at, mask=inside, other=0.0).to(c.dtype.element_ty)
    for i in range(most):
        line = begin + i
        used = line < end
        edge_in = tl.cast(tl.load(line_in + line, mask=used, other=0), tl.int64)
        line_row = tl.cast(tl.load(line_id + line, mask=used, other=0), tl.int64)
        t_at = ((line_row * heads + head) * J + state) * J
        before = (edge_in * heads + head) * J
        for j in tl.static_range(J):
            t = tl.load(transition + t_at + j, mask=used, other=0.0)
            c_at = ((before + j) * width)[:, None] + column[None, :]
            acc += t[:, None] * tl.load(c + c_at, mask=inside & used[:, None], other=0.0)
    tl.store(c + at, acc, mask=inside)


@triton.jit(**PLAIN)
def segment_scan_kernel(
    c,  # [E, H, J, W], its dtype is that of the arithmetic
    x,  # [E, H, J, W]
    transition,  # [L, H, J, J]
    order, line_ptr, line_in, line_id, level_ptr, segment_ptr, heads, units,
    J: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Program (segment * heads + head, tile); W = units * ALIGN."""
    segment = tl.program_id(0) // heads
    head = tl.cast(tl.program_id(0) % heads, tl.int64)
    column = tl.cast(tl.program_id(1), tl.int64) * WIDTH + tl.arange(0, WIDTH)
    for level in range(tl.load(segment_ptr + segment), tl.load(segment_ptr + segment + 1)):
        first = tl.load(level_ptr + level)
        last = tl.load(level_ptr + level + 1)
        for start in range(0, (last - first) * J, ROWS):
            scan_rows(
                c, x, transition, order, line_ptr, line_in, line_id, first, last, start, head,
                heads, units * ALIGN, column, J, ROWS,
            )  # fmt: skip
            tl.debug_barrier()


@triton.jit(**PLAIN)
def level_scan_kernel(
    c, x, transition, order, line_ptr, line_in, line_id, first, last, heads, units,
    J: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Program (run of the level * heads + head, tile), level at positions [first, last)."""
    head = tl.cast(tl.program_id(0) % heads, tl.int64)
    column = tl.cast(tl.program_id(1), tl.int64) * WIDTH + tl.arange(0, WIDTH)
    start = tl.program_id(0) // heads * ROWS
    scan_rows(
        c, x, transition, order, line_ptr, line_in, line_id, first, last, start, head,
        heads, units * ALIGN, column, J, ROWS,
    )  # fmt: skip


@triton.jit(**PLAIN)
def edge_dot_kernel(
    dt,  # [L, H, J, J]
    c,  # [E, H, J, W]
    dx,  # [E, H, J, W]
    line_in, line_out, line_id, lines, heads, j_size, units,
    ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Program (block of line edges * heads + head, i, j)."""
    width = units * ALIGN
    head = tl.cast(tl.program_id(0) % heads, tl.int64)
    i = tl.program_id(1)
    j = tl.program_id(2)
    line = tl.program_id(0) // heads * ROWS + tl.arange(0, ROWS)
    there = line < lines
    edge_in = tl.cast(tl.load(line_in + line, mask=there, other=0), tl.int64)
    edge_out = tl.cast(tl.load(line_out + line, mask=there, other=0), tl.int64)
    line_row = tl.cast(tl.load(line_id + line, mask=there, other=0), tl.int64)
    c_at = ((edge_in * heads + head) * j_size + j) * width
    dx_at = ((edge_out * heads + head) * j_size + i) * width
    acc = tl.zeros([ROWS, WIDTH], dtype=dt.dtype.element_ty)
    for start in range(0, width, WIDTH):
        column = start + tl.arange(0, WIDTH)
        inside = there[:, None] & (column < width)[None, :]
        left = tl.load(c + c_at[:, None] + column[None, :], mask=inside, other=0.0)
        right = tl.load(dx + dx_at[:, None] + column[None, :], mask=inside, other=0.0)
        acc += left * right
    dt_at = ((line_row * heads + head) * j_size + i) * j_size + j
    tl.store(dt + dt_at, tl.sum(acc, axis=1), mask=there)
