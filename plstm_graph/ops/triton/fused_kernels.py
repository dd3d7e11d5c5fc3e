r"""Kernels of the fused layer: outer product, scan and readout in one walk over the nodes.

A program owns one run of nodes, one head and one tile of V (columns of V never mix). At node n it
takes the edges e = (u -> n) one by one and keeps in registers, as [BLOCK_K, BLOCK_V] tiles,

.. math::
    C_e = S_e\, k_u v_u^\top + \sum_{l = (e', e)} T_l C_{e'}, \qquad
    h_n = \sum_{e \to n} M_e C_e^\top q_n + D_n (q_n \cdot k_n) v_n .

Only C_e is written, since successors read it: one write for each state, one read for each line
edge; S k v^T never exists in memory, h_n is written once.

Backward takes two walks (q stands for the scaled query, g for dL/dh, all sums over the tile's
columns are partial and added up afterwards). The *query walk* is the forward one; it forms the
states again, or reads those that forward kept, and with r = C_e g_n gives

.. math:: dM_e = q_n \cdot r, \qquad dq_n = \sum_{e \to n} M_e r + D_n (g_n \cdot v_n) k_n .

The *key walk* goes along the adjoint tables. At node n it takes the edges e = (n -> w), forms

.. math:: A_e = M_e\, q_w g_w^\top + \sum_{l = (e, e'')} T_l A_{e''}

and reads C_e once, which gives all of :math:`dT_l = \langle C_e, A_{e''} \rangle`, and with
r = A_e v_n also

.. math::
    dS_e = k_n \cdot r, \qquad dk_n = \sum_{e} S_e r + D_n (g_n \cdot v_n) q_n, \qquad
    dv_n = \sum_{e} S_e A_e^\top k_n + D_n (q_n \cdot k_n) g_n .

C_e is not needed after that, so A_e may take its place in memory.

Threads of a program read states that others of its threads wrote: a barrier follows every store
(next to the latency of a dependent load it costs nothing). The dots dT_l of an edge are therefore
collected, LINES at a time, and stored together. Tables hold 32-bit rows, which become 64-bit
offsets. V comes as a multiple of ALIGN, which tells the compiler how wide its loads may be.
"""

import triton
import triton.language as tl

ALIGN = tl.constexpr(4)
#: Options of ``triton.jit``: arguments whose values lead to no variants of a kernel.
_PLAIN = [
    "source", "transition", "mark", "direct", "d_mark", "d_source", "d_transition", "d_direct",
    "run_ptr", "node", "edge_ptr", "edge", "end", "line_ptr", "line", "before",
    "first_run", "N", "E", "L", "H", "K", "V_UNITS", "scale",
]  # fmt: skip
PLAIN = {"do_not_specialize": _PLAIN, "do_not_specialize_on_alignment": _PLAIN}


@triton.jit(**PLAIN)
def fused_forward_kernel(
    query,  # [N, H, K]
    key,  # [N, H, K]
    value,  # [N, H, V]
    source,  # [E, H]
    transition,  # [L, H]
    mark,  # [E, H]
    direct,  # [N, H]
    out,  # [N, H, V]
    states,  # [E, H, K, V], its dtype is that of the arithmetic
    run_ptr,
    node,
    edge_ptr,
    edge,
    end,
    line_ptr,
    line,
    before,
    first_run,
    H,
    K,
    V_UNITS,
    scale: tl.float64,
    BLOCK_K: tl.constexpr,
    BLOCK_V: tl.constexpr,
):
    dtype = states.dtype.element_ty
    V = V_UNITS * ALIGN
    scale = tl.full([], scale, dtype)
    run = first_run + tl.program_id(0) // H
    head = tl.cast(tl.program_id(0) % H, tl.int64)
    k = tl.arange(0, BLOCK_K)
    v = tl.program_id(1) * BLOCK_V + tl.arange(0, BLOCK_V)
    k_in, v_in = k < K, v < V
    tile = k[:, None] * V + v[None, :]
    tile_in = k_in[:, None] & v_in[None, :]
    for i in range(tl.load(run_ptr + run), tl.load(run_ptr + run + 1)):
        n = tl.cast(tl.load(node + i), tl.int64) * H + head
        q_n = tl.load(query + n * K + k, mask=k_in, other=0).to(dtype) * scale
        k_n = tl.load(key + n * K + k, mask=k_in, other=0).to(dtype)
        v_n = tl.load(value + n * V + v, mask=v_in, other=0).to(dtype)
        h = tl.load(direct + n).to(dtype) * tl.sum(q_n * k_n, 0) * v_n
        for j in range(tl.load(edge_ptr + i), tl.load(edge_ptr + i + 1)):
            e = tl.cast(tl.load(edge + j), tl.int64) * H + head
            u = tl.cast(tl.load(end + j), tl.int64) * H + head
            k_u = tl.load(key + u * K + k, mask=k_in, other=0).to(dtype)
            v_u = tl.load(value + u * V + v, mask=v_in, other=0).to(dtype)
            c = (tl.load(source + e).to(dtype) * k_u)[:, None] * v_u[None, :]
            for p in range(tl.load(line_ptr + j), tl.load(line_ptr + j + 1)):
                l = tl.cast(tl.load(line + p), tl.int64) * H + head
                b = tl.cast(tl.load(before + p), tl.int64) * H + head
                c_b = tl.load(states + b * K * V + tile, mask=tile_in, other=0)
                c += tl.load(transition + l).to(dtype) * c_b
            tl.store(states + e * K * V + tile, c, mask=tile_in)
            tl.debug_barrier()
            h += tl.load(mark + e).to(dtype) * tl.sum(q_n[:, None] * c, 0)
        tl.store(out + n * V + v, h, mask=v_in)
        tl.debug_barrier()


@triton.jit(**PLAIN)
def fused_query_kernel(
    query,  # [N, H, K]
    key,  # [N, H, K]
    value,  # [N, H, V]
    source,  # [E, H]
    transition,  # [L, H]
    mark,  # [E, H]
    direct,  # [N, H]
    grad,  # [N, H, V]
    states,  # [E, H, K, V], written if RECOMPUTE and read otherwise
    d_query,  # [tiles of V, N, H, K]
    d_mark,  # [tiles of V, E, H]
    run_ptr,
    node,
    edge_ptr,
    edge,
    end,
    line_ptr,
    line,
    before,
    first_run,
    N,
    E,
    H,
    K,
    V_UNITS,
    scale: tl.float64,
    BLOCK_K: tl.constexpr,
    BLOCK_V: tl.constexpr,
    RECOMPUTE: tl.constexpr,
):
    dtype = states.dtype.element_ty
    V = V_UNITS * ALIGN
    scale = tl.full([], scale, dtype)
    run = first_run + tl.program_id(0) // H
    head = tl.cast(tl.program_id(0) % H, tl.int64)
    part = tl.cast(tl.program_id(1), tl.int64)
    k = tl.arange(0, BLOCK_K)
    v = tl.program_id(1) * BLOCK_V + tl.arange(0, BLOCK_V)
    k_in, v_in = k < K, v < V
    tile = k[:, None] * V + v[None, :]
    tile_in = k_in[:, None] & v_in[None, :]
    for i in range(tl.load(run_ptr + run), tl.load(run_ptr + run + 1)):
        n = tl.cast(tl.load(node + i), tl.int64) * H + head
        q_n = tl.load(query + n * K + k, mask=k_in, other=0).to(dtype) * scale
        k_n = tl.load(key + n * K + k, mask=k_in, other=0).to(dtype)
        v_n = tl.load(value + n * V + v, mask=v_in, other=0).to(dtype)
        g_n = tl.load(grad + n * V + v, mask=v_in, other=0).to(dtype)
        dq = tl.load(direct + n).to(dtype) * tl.sum(g_n * v_n, 0) * k_n
        for j in range(tl.load(edge_ptr + i), tl.load(edge_ptr + i + 1)):
            e = tl.cast(tl.load(edge + j), tl.int64) * H + head
            if RECOMPUTE:
                u = tl.cast(tl.load(end + j), tl.int64) * H + head
                k_u = tl.load(key + u * K + k, mask=k_in, other=0).to(dtype)
                v_u = tl.load(value + u * V + v, mask=v_in, other=0).to(dtype)
                c = (tl.load(source + e).to(dtype) * k_u)[:, None] * v_u[None, :]
                for p in range(tl.load(line_ptr + j), tl.load(line_ptr + j + 1)):
                    l = tl.cast(tl.load(line + p), tl.int64) * H + head
                    b = tl.cast(tl.load(before + p), tl.int64) * H + head
                    c_b = tl.load(states + b * K * V + tile, mask=tile_in, other=0)
                    c += tl.load(transition + l).to(dtype) * c_b
                tl.store(states + e * K * V + tile, c, mask=tile_in)
                tl.debug_barrier()
            else:
                c = tl.load(states + e * K * V + tile, mask=tile_in, other=0)
            r = tl.sum(c * g_n[None, :], 1)
            dq += tl.load(mark + e).to(dtype) * r
            tl.store(d_mark + part * E * H + e, tl.sum(q_n * r, 0))
            if RECOMPUTE:
                tl.debug_barrier()
        tl.store(d_query + (part * N * H + n) * K + k, dq * scale, mask=k_in)
        if RECOMPUTE:
            tl.debug_barrier()


@triton.jit(**PLAIN)
def fused_key_kernel(
    query,  # [N, H, K]
    key,  # [N, H, K]
    value,  # [N, H, V]
    source,  # [E, H]
    transition,  # [L, H]
    mark,  # [E, H]
    direct,  # [N, H]
    grad,  # [N, H, V]
    states,  # [E, H, K, V]
    adjoint,  # [E, H, K, V], may be the same buffer
    d_key,  # [tiles of V, N, H, K]
    d_value,  # [N, H, V]
    d_source,  # [tiles of V, E, H]
    d_transition,  # [tiles of V, L, H]
    d_direct,  # [tiles of V, N, H]
    run_ptr,
    node,
    edge_ptr,
    edge,
    end,
    line_ptr,
    line,
    before,
    first_run,
    N,
    E,
    L,
    H,
    K,
    V_UNITS,
    scale: tl.float64,
    BLOCK_K: tl.constexpr,
    BLOCK_V: tl.constexpr,
    LINES: tl.constexpr,
):
    dtype = states.dtype.element_ty
    V = V_UNITS * ALIGN
    scale = tl.full([], scale, dtype)
    run = first_run + tl.program_id(0) // H
    head = tl.cast(tl.program_id(0) % H, tl.int64)
    part = tl.cast(tl.program_id(1), tl.int64)
    place = tl.arange(0, LINES)
    k = tl.arange(0, BLOCK_K)
    v = tl.program_id(1) * BLOCK_V + tl.arange(0, BLOCK_V)
    k_in, v_in = k < K, v < V
    tile = k[:, None] * V + v[None, :]
    tile_in = k_in[:, None] & v_in[None, :]
    for i in range(tl.load(run_ptr + run), tl.load(run_ptr + run + 1)):
        n = tl.cast(tl.load(node + i), tl.int64) * H + head
        q_n = tl.load(query + n * K + k, mask=k_in, other=0).to(dtype) * scale
        k_n = tl.load(key + n * K + k, mask=k_in, other=0).to(dtype)
        v_n = tl.load(value + n * V + v, mask=v_in, other=0).to(dtype)
        g_n = tl.load(grad + n * V + v, mask=v_in, other=0).to(dtype)
        d_n = tl.load(direct + n).to(dtype)
        qk, gv = tl.sum(q_n * k_n, 0), tl.sum(g_n * v_n, 0)
        dk, dv = d_n * gv * q_n, d_n * qk * g_n
        for j in range(tl.load(edge_ptr + i), tl.load(edge_ptr + i + 1)):
            e = tl.cast(tl.load(edge + j), tl.int64) * H + head
            w = tl.cast(tl.load(end + j), tl.int64) * H + head
            q_w = tl.load(query + w * K + k, mask=k_in, other=0).to(dtype) * scale
            g_w = tl.load(grad + w * V + v, mask=v_in, other=0).to(dtype)
            a = (tl.load(mark + e).to(dtype) * q_w)[:, None] * g_w[None, :]
            c = tl.load(states + e * K * V + tile, mask=tile_in, other=0)
            last_line = tl.load(line_ptr + j + 1)
            for first_line in range(tl.load(line_ptr + j), last_line, LINES):
                dots = tl.zeros([LINES], dtype)
                for p in range(first_line, tl.minimum(first_line + LINES, last_line)):
                    l = tl.cast(tl.load(line + p), tl.int64) * H + head
                    b = tl.cast(tl.load(before + p), tl.int64) * H + head
                    a_b = tl.load(adjoint + b * K * V + tile, mask=tile_in, other=0)
                    a += tl.load(transition + l).to(dtype) * a_b
                    dot = tl.sum(tl.sum(c * a_b, 1), 0)
                    dots = tl.where(place == p - first_line, dot, dots)
                used = first_line + place < last_line
                l = tl.load(line + first_line + place, mask=used, other=0).to(tl.int64) * H + head
                tl.store(d_transition + part * L * H + l, dots, mask=used)
                tl.debug_barrier()
            s_e = tl.load(source + e).to(dtype)
            r = tl.sum(a * v_n[None, :], 1)
            dk += s_e * r
            dv += s_e * tl.sum(a * k_n[:, None], 0)
            # Where the buffers are one: no thread may write before all have read C_e.
            tl.debug_barrier()
            tl.store(adjoint + e * K * V + tile, a, mask=tile_in)
            tl.store(d_source + part * E * H + e, tl.sum(k_n * r, 0))
            tl.debug_barrier()
        tl.store(d_direct + part * N * H + n, qk * gv)
        tl.store(d_key + (part * N * H + n) * K + k, dk, mask=k_in)
        tl.store(d_value + n * V + v, dv, mask=v_in)
        tl.debug_barrier()
