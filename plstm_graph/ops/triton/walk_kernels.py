r"""Kernels of the walk: outer product, scan and readout of the layer, node by node.

A program owns one run of nodes, one head and one tile of V (columns of V never mix). The *query
walk* visits the nodes in topological order. At node n it takes the edges e = (u -> n) one by one
and keeps in registers, as [BLOCK_K, BLOCK_V] tiles,

.. math::
    C_e = S_e\, k_u v_u^\top + \sum_{l = (e', e)} T_l C_{e'}, \qquad
    h_n = \sum_{e \to n} M_e C_e^\top q_n + D_n (q_n \cdot k_n) v_n .

Only C_e is written, since successors read it; S k v^T never exists in memory, h_n is written once.

Backward takes two walks (q stands for the scaled query, g for dL/dh, all sums over the tile's
columns are partial and added up afterwards). The query walk forms the states again (``GRADS``),
and with r = C_e g_n gives

.. math:: dM_e = q_n \cdot r, \qquad dq_n = \sum_{e \to n} M_e r + D_n (g_n \cdot v_n) k_n .

The *key walk* goes along the adjoint tables. At node n it takes the edges e = (n -> w), forms

.. math:: A_e = dL/dC_e = M_e\, q_w g_w^\top + \sum_{l = (e, e'')} T_l A_{e''}

and reads C_e once, which gives all of :math:`dT_l = \langle C_e, A_{e''} \rangle`, and with
r = A_e v_n also

.. math::
    dS_e = k_n \cdot r, \qquad dk_n = \sum_{e} S_e r + D_n (g_n \cdot v_n) q_n, \qquad
    dv_n = \sum_{e} S_e A_e^\top k_n + D_n (q_n \cdot k_n) g_n .

C_e is not needed after that, so A_e takes its place in memory.

**Diagonal transitions**, T_l [K]: the rows of a state are scaled one by one, and the sum over
columns alone is the gradient, :math:`dT_{l,i} = \sum_j (C_e)_{ij} (A_{e''})_{ij}`.

**Factored transitions**, T_l = a[e_in] b[e_out]. The sum over predecessors is the same for all
edges that leave a node, so states live on nodes:

.. math::
    Z_n = \sum_{e \to n} a_e C_e, \qquad C_e = b_e Z_u + S_e\, k_u v_u^\top \quad (e = (u \to n)).

The adjoint has the same form with a and b, S k v^T and M q g^T exchanged: with
:math:`Y_n = dL/dZ_n`,

.. math::
    Y_n = \sum_{e = (n \to w)} b_e A_e, \quad A_e = a_e Y_w + M_e\, q_w g_w^\top, \quad
    da_e = \langle C_e, Y_w \rangle, \quad db_e = \langle Z_n, A_e \rangle .

The key walk needs Z of its own node only, in whose place it puts Y.

**Two-way graphs** have two copies of a node n (:mod:`.walk_plan`): n0 for its against edges, n1 for
its along edges. An against edge takes the sum of the against edges into its start; an along
edge f = (u1 -> w1) takes those of both kinds, but not that of its twin f' = (w0 -> u0). So
:math:`Z_{n1}` starts from :math:`Z_{n0}` (table ``carry``) and

.. math::
    C_f = b_f (Z_{u1} - a_{f'} C_{f'}) + S_f k_u v_u^\top, \qquad
    C_{f'} = b_{f'} Z_{w0} + S_{f'} k_w v_w^\top .

The walk is at w1 then, so :math:`Z_{w0}` is what its own sum started from. Derivatives: Z_{u1}
holds Z_{u0}, so :math:`Y_{u0}` starts from :math:`Y_{u1}`; C_{f'} occurs in Z_{u0} and in C_f, so
the adjoint of an against edge is

.. math::
    A_{f'} = a_{f'} (Y_{u0} - b_f A_f) + M_{f'} q_u g_u^\top, \qquad
    A_f = a_f Y_{w1} + M_f q_w g_w^\top ,

which is the rule of C_f read backwards: the key walk is at w0 then, whose own sum started from
:math:`Y_{w1}`. With the terms in parentheses in the places of Z and Y,
:math:`\hat Z_f = Z_{u1} - a_{f'} C_{f'}` and :math:`\hat Y_{f'} = Y_{u0} - b_f A_f`,

.. math::
    da_e = \langle b_e \hat Z_e + S_e k v^\top, \hat Y_e \rangle, \qquad
    db_e = \langle \hat Z_e, A_e \rangle

for all edges. :math:`\hat Z_f` takes one more tile, :math:`Z_{w0}`, which is still in memory: the
key walk visits w0 after u0, and u0 after u1.

Threads of a program read what others of its threads wrote: a barrier follows every store (next to
the latency of a dependent load it costs nothing). The dots dT_l of an edge are therefore collected,
LINES at a time, and stored together; the K dots of a diagonal transition are stored at once.
Tables hold 32-bit rows, which become 64-bit offsets. V comes as a multiple of ALIGN, which tells
the compiler how wide its loads may be.
"""

import triton
import triton.language as tl

ALIGN = tl.constexpr(4)
#: Options of ``triton.jit``: arguments whose values lead to no variants of a kernel.
_PLAIN = [
    "source", "transition", "enter", "mark", "direct", "d_mark", "d_source", "d_transition",
    "d_enter", "d_direct", "against", "run_ptr", "node", "row", "edge_ptr", "edge", "end",
    "line_ptr", "line", "before", "carry", "origin", "twin",
    "first_run", "C", "E", "L", "H", "K", "V_UNITS", "scale",
]  # fmt: skip
PLAIN = {"do_not_specialize": _PLAIN, "do_not_specialize_on_alignment": _PLAIN}


@triton.jit
def row_at(table, place, H, head):
    """The row of a table's entry and a head; int64."""
    return tl.cast(tl.load(table + place), tl.int64) * H + head


@triton.jit
def load_row(x, row, size, at, inside, dtype: tl.constexpr):
    """Row ``row`` of x [*, size], at the places ``at``."""
    return tl.load(x + row * size + at, mask=inside, other=0).to(dtype)


@triton.jit
def line_gate(transition, l, K, k, k_in, KIND: tl.constexpr):
    """T_l: one number, or if diagonal a column [BLOCK_K, 1]."""
    if KIND == "diagonal":
        gate = tl.load(transition + l * K + k, mask=k_in, other=0)[:, None]
    else:
        gate = tl.load(transition + l)
    return gate


@triton.jit
def scaled_state(gate, enter, own, e, total, outer):
    """gate_e (enter_e total + own_e outer): what the state of edge e adds to a sum."""
    return tl.load(gate + e) * (tl.load(enter + e) * total + tl.load(own + e) * outer)


@triton.jit(**PLAIN)
def query_walk_kernel(
    query,  # [N, H, K]
    key,  # [N, H, K]
    value,  # [N, H, V]
    source,  # [E, H]
    transition,  # [L, H], diagonal [L, H, K], factored a [E, H]
    enter,  # b [E, H] if factored
    mark,  # [E, H]
    direct,  # [C, H]
    grad,  # [N, H, V] if GRADS
    out,  # [C, H, V], or d_query [tiles of V, C, H, K] if GRADS
    d_mark,  # [tiles of V, E, H] if GRADS
    states,  # [E, H, K, V], factored [C, H, K, V]; its dtype is that of the arithmetic
    run_ptr, node, row, edge_ptr, edge, end, line_ptr, line, before, carry, origin, twin,
    first_run, C, E, L, H, K, V_UNITS,
    scale: tl.float64,
    BLOCK_K: tl.constexpr,
    BLOCK_V: tl.constexpr,
    KIND: tl.constexpr,  # of the transitions: "line", "diagonal", "factored"
    GRADS: tl.constexpr,
):  # fmt: skip
    dtype: tl.constexpr = states.dtype.element_ty
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
        n, r = row_at(node, i, H, head), row_at(row, i, H, head)
        q_n = load_row(query, n, K, k, k_in, dtype) * scale
        k_n = load_row(key, n, K, k, k_in, dtype)
        v_n = load_row(value, n, V, v, v_in, dtype)
        if GRADS:
            g_n = load_row(grad, n, V, v, v_in, dtype)
            dq = tl.load(direct + r) * tl.sum(g_n * v_n, 0) * k_n
        else:
            read = tl.zeros([BLOCK_K, BLOCK_V], dtype)
        if KIND == "factored":
            other = row_at(carry, tl.load(row + i), H, head)
            z_other = tl.zeros([BLOCK_K, BLOCK_V], dtype)
            if other >= 0:
                z_other = tl.load(states + other * K * V + tile, mask=tile_in, other=0)
            z = z_other
        for j in range(tl.load(edge_ptr + i), tl.load(edge_ptr + i + 1)):
            e, u = row_at(edge, j, H, head), row_at(end, j, H, head)
            k_u = load_row(key, u, K, k, k_in, dtype)
            v_u = load_row(value, u, V, v, v_in, dtype)
            c = (tl.load(source + e) * k_u)[:, None] * v_u[None, :]
            if KIND == "factored":
                at = row_at(origin, j, H, head) * K * V
                z_u = tl.load(states + at + tile, mask=tile_in, other=0)
                if tl.load(twin + j) >= 0:
                    t = row_at(twin, j, H, head)
                    outer = k_n[:, None] * v_n[None, :]
                    z_u -= scaled_state(transition, enter, source, t, z_other, outer)
                c += tl.load(enter + e) * z_u
                z += tl.load(transition + e) * c
            else:
                for p in range(tl.load(line_ptr + j), tl.load(line_ptr + j + 1)):
                    at = row_at(before, p, H, head) * K * V
                    c_p = tl.load(states + at + tile, mask=tile_in, other=0)
                    c += line_gate(transition, row_at(line, p, H, head), K, k, k_in, KIND) * c_p
                tl.store(states + e * K * V + tile, c, mask=tile_in)
                tl.debug_barrier()
            if GRADS:
                dots = tl.sum(c * g_n[None, :], 1)
                dq += tl.load(mark + e) * dots
                tl.store(d_mark + part * E * H + e, tl.sum(q_n * dots, 0))
                tl.debug_barrier()
            else:
                read += tl.load(mark + e) * c
        if KIND == "factored":
            tl.store(states + r * K * V + tile, z, mask=tile_in)
        if GRADS:
            tl.store(out + (part * C * H + r) * K + k, dq * scale, mask=k_in)
        else:
            h = tl.sum(q_n[:, None] * read, 0)
            h += tl.load(direct + r) * tl.sum(q_n * k_n, 0) * v_n
            tl.store(out + r * V + v, h, mask=v_in)
        tl.debug_barrier()


@triton.jit(**PLAIN)
def key_walk_kernel(
    query,  # [N, H, K]
    key,  # [N, H, K]
    value,  # [N, H, V]
    source,  # [E, H]
    transition,  # [L, H], diagonal [L, H, K], factored a [E, H]
    enter,  # b [E, H] if factored
    mark,  # [E, H]
    direct,  # [C, H]
    grad,  # [N, H, V]
    states,  # of the query walk; adjoint states take their place
    d_key,  # [tiles of V, C, H, K]
    d_value,  # [C, H, V]
    d_source,  # [tiles of V, E, H]
    d_transition,  # [tiles of V, *transition.shape]
    d_enter,  # [tiles of V, E, H] if factored
    d_direct,  # [tiles of V, C, H]
    against,  # ``carry`` of the query walk
    run_ptr, node, row, edge_ptr, edge, end, line_ptr, line, before, carry, origin, twin,
    first_run, C, E, L, H, K, V_UNITS,
    scale: tl.float64,
    BLOCK_K: tl.constexpr,
    BLOCK_V: tl.constexpr,
    KIND: tl.constexpr,  # of the transitions: "line", "diagonal", "factored"
    LINES: tl.constexpr,
):  # fmt: skip
    dtype: tl.constexpr = states.dtype.element_ty
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
        n, r = row_at(node, i, H, head), row_at(row, i, H, head)
        q_n = load_row(query, n, K, k, k_in, dtype) * scale
        k_n = load_row(key, n, K, k, k_in, dtype)
        v_n = load_row(value, n, V, v, v_in, dtype)
        g_n = load_row(grad, n, V, v, v_in, dtype)
        d_n = tl.load(direct + r)
        qk, gv = tl.sum(q_n * k_n, 0), tl.sum(g_n * v_n, 0)
        dk, dv = d_n * gv * q_n, d_n * qk * g_n
        if KIND == "factored":
            z = tl.load(states + r * K * V + tile, mask=tile_in, other=0)
            other = row_at(carry, tl.load(row + i), H, head)
            y_other = tl.zeros([BLOCK_K, BLOCK_V], dtype)
            if other >= 0:
                y_other = tl.load(states + other * K * V + tile, mask=tile_in, other=0)
            y = y_other
        for j in range(tl.load(edge_ptr + i), tl.load(edge_ptr + i + 1)):
            e, w = row_at(edge, j, H, head), row_at(end, j, H, head)
            q_w = load_row(query, w, K, k, k_in, dtype) * scale
            g_w = load_row(grad, w, V, v, v_in, dtype)
            s_e = tl.load(source + e)
            a = (tl.load(mark + e) * q_w)[:, None] * g_w[None, :]
            if KIND == "factored":
                at = row_at(origin, j, H, head) * K * V
                y_w = tl.load(states + at + tile, mask=tile_in, other=0)
                z_n = z
                if tl.load(twin + j) >= 0:
                    t = row_at(twin, j, H, head)
                    if other >= 0:  # this is the against copy, and the edge an against edge
                        outer = q_n[:, None] * g_n[None, :]
                        y_w -= scaled_state(enter, transition, mark, t, y_other, outer)
                    else:
                        at = row_at(against, tl.load(origin + j), H, head) * K * V
                        z_w = tl.load(states + at + tile, mask=tile_in, other=0)
                        k_w = load_row(key, w, K, k, k_in, dtype)
                        v_w = load_row(value, w, V, v, v_in, dtype)
                        outer = k_w[:, None] * v_w[None, :]
                        z_n -= scaled_state(transition, enter, source, t, z_w, outer)
                a += tl.load(transition + e) * y_w
                b_e = tl.load(enter + e)
                y += b_e * a
                c = (s_e * k_n)[:, None] * v_n[None, :] + b_e * z_n
                d_a, d_b = tl.sum(tl.sum(c * y_w, 1), 0), tl.sum(tl.sum(z_n * a, 1), 0)
            else:
                c = tl.load(states + e * K * V + tile, mask=tile_in, other=0)
                last = tl.load(line_ptr + j + 1)
                for first in range(tl.load(line_ptr + j), last, LINES):
                    dots = tl.zeros([LINES], dtype)
                    for p in range(first, tl.minimum(first + LINES, last)):
                        at = row_at(before, p, H, head) * K * V
                        a_p = tl.load(states + at + tile, mask=tile_in, other=0)
                        l_p = row_at(line, p, H, head)
                        a += line_gate(transition, l_p, K, k, k_in, KIND) * a_p
                        dot = tl.sum(c * a_p, 1)
                        if KIND == "diagonal":
                            at = (part * L * H + l_p) * K
                            tl.store(d_transition + at + k, dot, mask=k_in)
                            tl.debug_barrier()
                        else:
                            dots = tl.where(place == p - first, tl.sum(dot, 0), dots)
                    if KIND == "line":
                        used = first + place < last
                        l = tl.load(line + first + place, mask=used, other=0)
                        l = l.to(tl.int64) * H + head
                        tl.store(d_transition + part * L * H + l, dots, mask=used)
                        tl.debug_barrier()
            ds = tl.sum(a * v_n[None, :], 1)
            dk += s_e * ds
            dv += s_e * tl.sum(a * k_n[:, None], 0)
            tl.debug_barrier()  # no thread writes before all have read C_e
            tl.store(d_source + part * E * H + e, tl.sum(k_n * ds, 0))
            if KIND == "factored":
                tl.store(d_transition + part * E * H + e, d_a)
                tl.store(d_enter + part * E * H + e, d_b)
            else:
                tl.store(states + e * K * V + tile, a, mask=tile_in)
            tl.debug_barrier()
        if KIND == "factored":
            tl.debug_barrier()  # no thread writes before all have read Z_n
            tl.store(states + r * K * V + tile, y, mask=tile_in)
        tl.store(d_direct + part * C * H + r, qk * gv)
        tl.store(d_key + (part * C * H + r) * K + k, dk, mask=k_in)
        tl.store(d_value + r * V + v, dv, mask=v_in)
        tl.debug_barrier()
