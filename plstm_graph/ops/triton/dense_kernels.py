r"""Kernels of the dense form: a whole part of the batch on chip, one program for it and a head.

For parts of up to 64 edges and nodes all matrices of the parallel form fit in registers,

.. math:: Y = (I - T)^{-1} S, \qquad G = M Y + \mathrm{diag}(D), \qquad H = (Q K^\top * G) V,

where S places S_e at (e, src(e)) and M places M_e at (dst(e), e); both are formed by comparing
indices, and T by comparing predecessors slot by slot. Edges stand in topological order, so Y takes
the place of S row by row: with I + T known, row e of the result is

.. math:: Y_e = \sum_{e'} (I + T)_{e e'} Y_{e'} ,

where the unit entry takes up S_e and rows before e are final: one masked sum to pick the weights
and one to apply them, without memory. M_e Y_e is added to row dst(e) of G in the same step.
(Products (I + T)(I + T^2)(I + T^4)... need fewer steps, but hold three 64 x 64 operands at once and
spill.)

Only inputs, index tables and outputs cross the memory bus, each once.

Backward forms Y and G again and follows :mod:`plstm_graph.ops.forms.dense`: with dA = dH V^T,
dG = dA * Q K^T and W the rows dst(e) of dG,

.. math::
    X = (I - T)^{-\top} (M_e W_e)_e, \quad dS_e = X_{e, src(e)}, \quad
    dM_e = \langle W_e, Y_e \rangle, \quad dT_l = (X Y^\top)_{e_{out}, e_{in}} ;

X is the same row by row substitution, from the last edge to the first. Registers are scarce: there
are five 64 x 64 matrices at the worst moment. So rows of dG and Y are picked by index; products
with 0/1 matrices would need their operands, too.

Products of float32 matrices are formed in float32, not from rounded halves on tensor cores.
"""

import triton
import triton.language as tl

#: K and V are multiples of it, so that loads may be wide; launchers pad.
ALIGN = tl.constexpr(4)
#: Options of ``triton.jit``: arguments whose values lead to no variants of a kernel.
_PLAIN = [
    "source", "transition", "mark", "direct", "d_source", "d_transition", "d_mark", "d_direct",
    "node_ptr", "node", "edge_ptr", "edge", "src", "dst", "line_ptr", "line", "before",
    "first_part", "H", "K_UNITS", "V_UNITS", "scale",
]  # fmt: skip
PLAIN = {"do_not_specialize": _PLAIN, "do_not_specialize_on_alignment": _PLAIN}


@triton.jit
def rows_of(matrix, row, BLOCK: tl.constexpr):
    """The rows ``row`` [BLOCK] of a matrix [BLOCK, BLOCK]."""
    return tl.gather(matrix, tl.broadcast_to(row[:, None], [BLOCK, BLOCK]), 0)


@triton.jit
def product(a, b, acc, SIZE: tl.constexpr, TERMS: tl.constexpr):
    """acc + a b, [*, SIZE] x [SIZE, *], by even and odd terms until there are at most TERMS: the
    operands of a product are held in registers."""
    if SIZE <= TERMS:
        acc = tl.dot(a, b, acc=acc, input_precision="ieee", out_dtype=acc.dtype)
    else:
        a_even, a_odd = tl.split(tl.reshape(a, [a.shape[0], SIZE // 2, 2]))
        b_even, b_odd = tl.split(tl.trans(tl.reshape(b, [SIZE // 2, 2, b.shape[1]]), 0, 2, 1))
        acc = product(a_even, b_even, acc, SIZE // 2, TERMS)
        acc = product(a_odd, b_odd, acc, SIZE // 2, TERMS)
    return acc


@triton.jit
def load_nodes(x, n, node_in, size, DTYPE: tl.constexpr, CHANNELS: tl.constexpr):
    """Rows ``n`` [BLOCK] of x [*, size] as [BLOCK, CHANNELS]."""
    c = tl.arange(0, CHANNELS)
    inside = node_in[:, None] & (c < size)[None, :]
    return tl.load(x + n[:, None] * size + c[None, :], mask=inside, other=0).to(DTYPE)


@triton.jit
def store_nodes(x, values, n, node_in, size, CHANNELS: tl.constexpr):
    """The inverse of :func:`load_nodes`."""
    c = tl.arange(0, CHANNELS)
    inside = node_in[:, None] & (c < size)[None, :]
    tl.store(x + n[:, None] * size + c[None, :], values, mask=inside)


@triton.jit
def part_rows(ptr, row, part, head, H, BLOCK: tl.constexpr):
    """Rows of a part's nodes or edges and a head, which places are used, first place, number."""
    i = tl.arange(0, BLOCK)
    first = tl.load(ptr + part)
    number = tl.load(ptr + part + 1) - first
    used = i < number
    return tl.load(row + first + i, mask=used, other=0).to(tl.int64) * H + head, used, first, number


@triton.jit
def gating(
    source, transition, mark, direct, src, dst, line_ptr, line, before,
    e, edge_in, first, edges, n, node_in, head, H, DTYPE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Y and G of a part and head, with I + T: entry (e, e') is T_l of the line edge l = (e', e).

    Also: M, the ends of the edges, where each edge's line edges begin, and their number.
    """
    i = tl.arange(0, BLOCK)
    at_src = tl.load(src + first + i, mask=edge_in, other=-1)
    at_dst = tl.load(dst + first + i, mask=edge_in, other=-1)
    start = tl.load(line_ptr + first + i, mask=edge_in, other=0)
    degree = tl.load(line_ptr + first + 1 + i, mask=edge_in, other=0) - start
    t = tl.where(i[:, None] == i[None, :], 1.0, 0.0).to(DTYPE)
    for slot in range(tl.max(degree, 0)):
        used = slot < degree
        l = tl.load(line + start + slot, mask=used, other=0).to(tl.int64)
        b = tl.load(before + start + slot, mask=used, other=-1)
        gate = tl.load(transition + l * H + head, mask=used, other=0)
        t += tl.where(i[None, :] == b[:, None], gate[:, None], 0)
    s = tl.load(source + e, mask=edge_in, other=0)
    m = tl.load(mark + e, mask=edge_in, other=0)
    d = tl.load(direct + n, mask=node_in, other=0)
    y = tl.where(at_src[:, None] == i[None, :], s[:, None], 0)
    g = tl.where(i[:, None] == i[None, :], d[:, None], 0)
    for r in range(0, edges):
        weight = tl.sum(tl.where(i[:, None] == r, t, 0), 0)
        row = tl.sum(weight[:, None] * y, 0)
        y = tl.where(i[:, None] == r, row[None, :], y)
        gate = tl.sum(tl.where(i == r, m, 0), 0)
        end = tl.sum(tl.where(i == r, at_dst, 0), 0)
        g += tl.where(i[:, None] == end, (gate * row)[None, :], 0)
    return t, y, g, m, at_src, at_dst, start, degree


@triton.jit(**PLAIN)
def dense_forward_kernel(
    query,  # [N, H, K]
    key,  # [N, H, K]
    value,  # [N, H, V]
    source,  # [E, H]
    transition,  # [L, H]
    mark,  # [E, H]
    direct,  # [N, H]
    out,  # [N, H, V]
    node_ptr, node, edge_ptr, edge, src, dst, line_ptr, line, before,
    first_part, H, K_UNITS, V_UNITS,
    scale: tl.float64,
    BLOCK: tl.constexpr,
    CHANNELS: tl.constexpr,
    TERMS: tl.constexpr,
    DTYPE: tl.constexpr,
):  # fmt: skip
    K, V = K_UNITS * ALIGN, V_UNITS * ALIGN
    scale = tl.full([], scale, DTYPE)
    part = first_part + tl.program_id(0) // H
    head = tl.cast(tl.program_id(0) % H, tl.int64)
    e, edge_in, first, edges = part_rows(edge_ptr, edge, part, head, H, BLOCK)
    n, node_in, _, _ = part_rows(node_ptr, node, part, head, H, BLOCK)
    _, _, g, _, _, _, _, _ = gating(
        source, transition, mark, direct, src, dst, line_ptr, line, before,
        e, edge_in, first, edges, n, node_in, head, H, DTYPE, BLOCK,
    )  # fmt: skip
    q_n = load_nodes(query, n, node_in, K, DTYPE, CHANNELS) * scale
    k_n = load_nodes(key, n, node_in, K, DTYPE, CHANNELS)
    scores = product(q_n, tl.trans(k_n), tl.zeros([BLOCK, BLOCK], DTYPE), CHANNELS, TERMS)
    v_n = load_nodes(value, n, node_in, V, DTYPE, CHANNELS)
    h = product(scores * g, v_n, tl.zeros([BLOCK, CHANNELS], DTYPE), BLOCK, TERMS)
    store_nodes(out, h, n, node_in, V, CHANNELS)


@triton.jit(**PLAIN)
def dense_backward_kernel(
    query,  # [N, H, K]
    key,  # [N, H, K]
    value,  # [N, H, V]
    source,  # [E, H]
    transition,  # [L, H]
    mark,  # [E, H]
    direct,  # [N, H]
    grad,  # [N, H, V]
    d_query,  # [N, H, K]
    d_key,  # [N, H, K]
    d_value,  # [N, H, V]
    d_source,  # [E, H]
    d_transition,  # [L, H]
    d_mark,  # [E, H]
    d_direct,  # [N, H]
    node_ptr, node, edge_ptr, edge, src, dst, line_ptr, line, before,
    first_part, H, K_UNITS, V_UNITS,
    scale: tl.float64,
    BLOCK: tl.constexpr,
    CHANNELS: tl.constexpr,
    TERMS: tl.constexpr,
    DTYPE: tl.constexpr,
):  # fmt: skip
    K, V = K_UNITS * ALIGN, V_UNITS * ALIGN
    scale = tl.full([], scale, DTYPE)
    part = first_part + tl.program_id(0) // H
    head = tl.cast(tl.program_id(0) % H, tl.int64)
    i = tl.arange(0, BLOCK)
    e, edge_in, first, edges = part_rows(edge_ptr, edge, part, head, H, BLOCK)
    n, node_in, _, _ = part_rows(node_ptr, node, part, head, H, BLOCK)
    t, y, g, m, at_src, at_dst, start, degree = gating(
        source, transition, mark, direct, src, dst, line_ptr, line, before,
        e, edge_in, first, edges, n, node_in, head, H, DTYPE, BLOCK,
    )  # fmt: skip
    q_n = load_nodes(query, n, node_in, K, DTYPE, CHANNELS) * scale
    k_n = load_nodes(key, n, node_in, K, DTYPE, CHANNELS)
    scores = product(q_n, tl.trans(k_n), tl.zeros([BLOCK, BLOCK], DTYPE), CHANNELS, TERMS)
    h_n = load_nodes(grad, n, node_in, V, DTYPE, CHANNELS)
    dv = product(tl.trans(scores * g), h_n, tl.zeros([BLOCK, CHANNELS], DTYPE), BLOCK, TERMS)
    store_nodes(d_value, dv, n, node_in, V, CHANNELS)
    v_n = load_nodes(value, n, node_in, V, DTYPE, CHANNELS)
    da = product(h_n, tl.trans(v_n), tl.zeros([BLOCK, BLOCK], DTYPE), CHANNELS, TERMS)
    dg = da * scores
    da *= g
    dq = product(da, k_n, tl.zeros([BLOCK, CHANNELS], DTYPE), BLOCK, TERMS) * scale
    store_nodes(d_query, dq, n, node_in, K, CHANNELS)
    dk = product(tl.trans(da), q_n, tl.zeros([BLOCK, CHANNELS], DTYPE), BLOCK, TERMS)
    store_nodes(d_key, dk, n, node_in, K, CHANNELS)
    tl.store(d_direct + n, tl.sum(tl.where(i[:, None] == i[None, :], dg, 0), 1), mask=node_in)
    x = rows_of(dg, tl.maximum(at_dst, 0), BLOCK)
    tl.store(d_mark + e, tl.sum(x * y, 1), mask=edge_in)
    x *= m[:, None]
    for step in range(0, edges):
        last = edges - 1 - step
        weight = tl.sum(tl.where(i[None, :] == last, t, 0), 1)
        row = tl.sum(weight[:, None] * x, 0)
        x = tl.where(i[:, None] == last, row[None, :], x)
    ds = tl.sum(tl.where(at_src[:, None] == i[None, :], x, 0), 1)
    tl.store(d_source + e, ds, mask=edge_in)
    for slot in range(tl.max(degree, 0)):
        used = slot < degree
        l = tl.load(line + start + slot, mask=used, other=0).to(tl.int64)
        b = tl.load(before + start + slot, mask=used, other=0)
        dt = tl.sum(x * rows_of(y, b, BLOCK), 1)
        tl.store(d_transition + l * H + head, dt, mask=used)
