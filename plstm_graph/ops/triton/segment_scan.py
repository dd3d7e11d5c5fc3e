r"""c = x + T c with one program per (segment, head, tile of the payload): one launch a batch.

A program walks the levels of its segment. Inside a level it takes ``ROWS`` rows at a time, a row
being one state of one edge (row r of a level is state ``r % J`` of its edge ``r // J``), and sums
over the predecessors of all of them at once:

.. math:: c_{e,i} = x_{e,i} + \sum_{l = (e', e)} \sum_j T_{l,i,j}\, c_{e',j}

States written earlier are read again through global memory, by other threads of the program than
those that wrote them: a barrier follows each store. Programs have two warps or more, since a
one-warp program of gfx942 gets a wave barrier instead, which does not wait for memory.

Sums run over predecessors in ascending order and over j in order, whatever the block sizes: the
result has the same bits for every configuration. States are stored as they are accumulated
(float32, or float64), so half-precision payloads are rounded once, at the end.

The adjoint is the same kernel on the tables of the reversed graph, with T transposed in (i, j);
the gradient of T is :func:`edge_dot_kernel`:

.. math:: dT_{l,i,j} = \langle c_{e_{in},j}, dx_{e_{out},i} \rangle
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def scan_rows(
    c, x, transition, order, line_ptr, line_in, line_id,
    first, last, head, heads, width,
    x_e, x_h, x_j, x_w, t_l, t_h, t_i, t_j,
    row, column,
    J: tl.constexpr,
):  # fmt: skip
    """Rows ``row`` [ROWS] of the level at positions [first, last), columns ``column`` [WIDTH].

    Writes the tile [ROWS, WIDTH] of c; the caller owes a barrier before anything reads it.
    """
    position = first + row // J
    state = row % J
    there = position < last
    edge = tl.cast(tl.load(order + position, mask=there, other=0), tl.int64)
    begin = tl.load(line_ptr + position, mask=there, other=0)
    end = tl.load(line_ptr + position + 1, mask=there, other=0)
    # Positions of a level stand by falling number of predecessors: the first row has the most.
    head_of_run = first + tl.min(row) // J
    most = tl.load(line_ptr + head_of_run + 1) - tl.load(line_ptr + head_of_run)

    inside = there[:, None] & (column < width)[None, :]
    x_at = edge * x_e + head * x_h + state * x_j
    acc = tl.load(x + x_at[:, None] + (column * x_w)[None, :], mask=inside, other=0.0)
    acc = acc.to(c.dtype.element_ty)
    for i in range(most):
        line = begin + i
        used = line < end
        edge_in = tl.cast(tl.load(line_in + line, mask=used, other=0), tl.int64)
        line_row = tl.cast(tl.load(line_id + line, mask=used, other=0), tl.int64)
        t_at = line_row * t_l + head * t_h + state * t_i
        for j in tl.static_range(J):
            t = tl.load(transition + t_at + j * t_j, mask=used, other=0.0).to(acc.dtype)
            c_at = ((edge_in * heads + head) * J + j) * width
            before = tl.load(
                c + c_at[:, None] + column[None, :], mask=inside & used[:, None], other=0.0
            )
            acc += t[:, None] * before
    c_at = ((edge * heads + head) * J + state) * width
    tl.store(c + c_at[:, None] + column[None, :], acc, mask=inside)


@triton.jit
def segment_scan_kernel(
    c, x, transition,
    order, line_ptr, line_in, line_id, level_ptr, segment_ptr,
    heads, width,
    x_e, x_h, x_j, x_w, t_l, t_h, t_i, t_j,
    J: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Program (segment, head, tile); c [E, H, J, W] contiguous, x and T by strides."""
    segment = tl.program_id(0)
    head = tl.cast(tl.program_id(1), tl.int64)
    column = tl.cast(tl.program_id(2), tl.int64) * WIDTH + tl.arange(0, WIDTH)
    for level in range(tl.load(segment_ptr + segment), tl.load(segment_ptr + segment + 1)):
        first = tl.load(level_ptr + level)
        last = tl.load(level_ptr + level + 1)
        for start in range(0, (last - first) * J, ROWS):
            scan_rows(
                c, x, transition, order, line_ptr, line_in, line_id,
                first, last, head, heads, width,
                x_e, x_h, x_j, x_w, t_l, t_h, t_i, t_j,
                start + tl.arange(0, ROWS), column, J,
            )  # fmt: skip
            tl.debug_barrier()
