r"""``plstm`` and ``dag_scan``: checks, the choice of form, state tracking, half precision.

**The form.** ``form="auto"`` sends each part of the batch through the form in which it is cheapest
(:mod:`plstm_graph.ops.cost`). A batch is only split if several kinds of parts occur; one that goes
levelwise as a whole carries the smaller of its two payloads
(:func:`plstm_graph.ops.levelwise.payload_of`).

**Backends.** ``backend="auto"`` is ``"triton"`` for tensors on a GPU (CUDA or ROCm) where triton
can be imported, and ``"torch"`` elsewhere; ``plstm_graph.backends()`` tells. With Triton, the
forms auto and levelwise are the fused kernel (source, scan and readout in one launch), and
parallel scans gating rows, one launch a bucket: a scan reads a row of E once per line edge where
a dense solve reads it E times, so no triangular solve is left. Keys wider than the fused kernel
takes go through torch under ``backend="auto"``. float64 takes the fused walk, never its on-chip
variant. ``form="chunkwise"`` goes through torch, too, whose operations are its steps on any device;
with ``backend="triton"`` it is refused, as is ``form="walk"``, which is compiled for CPUs.

**State tracking.** J x J transitions are scalar ones on a line graph whose edges are repeated J
times, with J^2 line edges for each one: that graph goes through the same forms.
"""

from __future__ import annotations

import torch
from torch import Tensor

from plstm_graph.dag.checks import num_columns
from plstm_graph.dag.expand import expand_states, unfold_edges, unfold_lines
from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.dag.segments import segments
from plstm_graph.dag.split import SubGraph, subgraph
from plstm_graph.ops.checks import (
    TORCH_FORMS,
    check_plstm,
    check_scan,
    compute_dtype,
    resolve_backend,
)
from plstm_graph.ops.cost import cheapest
from plstm_graph.ops.levelwise import payload_of
from plstm_graph.ops.naive import naive_plstm
from plstm_graph.ops.propagate import SEGMENTS, propagate, tables_of
from plstm_graph.ops.scan import levelwise_dag_scan
from plstm_graph.ops.triton.common import MAX_KEY_SIZE, unavailable
from plstm_graph.ops.triton.dag_scan import tables_of_scan, triton_dag_scan
from plstm_graph.ops.walk import unavailable as walk_unavailable

#: Most elements that the dense systems of form="parallel" may hold together.
MAX_DENSE = 1 << 30


def _plan_auto(
    line_graph: LineGraph, heads: int, k: int, v: int
) -> list[tuple[str, SubGraph | None]]:
    """Pairs of form and parts (None: the whole graph), cached on the line graph."""

    def make(line_graph: LineGraph) -> list[tuple[str, SubGraph | None]]:
        parts = cheapest(line_graph, heads, k, v).parts
        return [
            (form, None if len(parts) == 1 else subgraph(line_graph, members))
            for form, members in parts.items()
        ]

    return line_graph.plan(("auto", heads, k, v), make)


def prepare(line_graph: LineGraph, heads: int, key_size: int, value_size: int) -> LineGraph:
    """Compute now what ``form="auto"`` needs of a line graph, its reverse, its multitree and that
    one's reverse, and of the same four of its two-way graph where the input was undirected. It is
    otherwise computed at first use, which ``torch.compile`` cannot trace.

    Args:
        line_graph: the line graph. For layers with ``direction="two_way"`` on directed graphs
            prepare ``line_graph.two_way()``.
        heads: H; key_size: K; value_size: V of the layers that will use it.

    Returns:
        The line graph.
    """
    num_columns(line_graph)
    graphs = [line_graph, line_graph.multitree()]
    if not line_graph.is_multitree:
        two_way = line_graph.two_way_where_undirected()
        graphs += [two_way, two_way.multitree()]
    for graph in graphs:
        for directed in (graph, graph.reverse()):
            directed.direction  # noqa: B018, made at first use
            for form, sub in _plan_auto(directed, heads, key_size, value_size):
                whole = directed if sub is None else sub.line_graph
                tables_of(whole, _inner_form(form, whole, heads, key_size, value_size), heads)
            if unavailable(line_graph.device) is None:
                _prepare_triton(directed)
    return line_graph


def _prepare_triton(line_graph: LineGraph) -> None:
    from plstm_graph.ops.triton import fused

    fused.tables_of(line_graph)
    tables_of_scan(line_graph)


def _inner_form(form: str, line_graph: LineGraph, heads: int, k: int, v: int) -> str:
    """The form of :mod:`plstm_graph.ops.propagate` for a public one."""
    if form == "parallel":
        return "dense"
    if form == "chunkwise":
        return "chunks"
    if form == "walk":
        return form
    return line_graph.plan(("payload", heads, k, v), lambda graph: payload_of(graph, heads, k, v))


def _auto(inputs: tuple[Tensor, ...], line_graph: LineGraph, scale: float) -> Tensor:
    out = None
    for form, sub in _plan_auto(line_graph, *inputs[0].shape[1:], inputs[2].size(2)):
        if sub is None:
            return _run(form, inputs, line_graph, scale)
        rows = (*(sub.node_id,) * 3, sub.edge_id, sub.line_id, sub.edge_id, sub.node_id)
        parts = tuple(x.index_select(0, i) for x, i in zip(inputs, rows))
        h = _run(form, parts, sub.line_graph, scale)
        out = h.new_zeros(inputs[2].shape) if out is None else out
        out = out.index_copy(0, sub.node_id, h)
    return out


def _check_dense(line_graph: LineGraph, heads: int) -> None:
    seg = segments(line_graph)
    elements = heads * int((seg.num_edges**2).sum())
    if elements > MAX_DENSE:
        raise ValueError(
            f"expected form='parallel' on graphs whose dense systems hold at most {MAX_DENSE} "
            f"elements, got {elements} (largest graph: {int(seg.num_edges.max())} edges); "
            f"use form='auto' or 'levelwise'"
        )


def _run(
    form: str,
    inputs: tuple[Tensor, ...],
    line_graph: LineGraph,
    scale: float,
    backend: str = "torch",
) -> Tensor:
    if form == "auto":
        return _auto(inputs, line_graph, scale)
    heads, k, v = inputs[0].size(1), inputs[0].size(2), inputs[2].size(2)
    inner = SEGMENTS if backend == "triton" else _inner_form(form, line_graph, heads, k, v)
    if not line_graph.has_plan(("tables", inner, heads)):
        if form == "parallel":
            _check_dense(line_graph, heads)
        if form == "walk" and (why := walk_unavailable(line_graph.device)) is not None:
            raise ValueError(f"expected form='walk' where it can run, but {why}; use form='auto'")
    return propagate(inputs, line_graph, scale=scale, form=inner)


def plstm(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    source: Tensor,
    transition: Tensor,
    mark: Tensor,
    direct: Tensor,
    line_graph: LineGraph,
    *,
    scale: float = 1.0,
    form: str = "auto",
    backend: str = "auto",
) -> Tensor:
    r"""Propagate along a DAG with linear source, transition and mark gates (arXiv 2506.11997).

    .. math::
        C_e = \sum_{l = (e', e)} T_l C_{e'} + S_e\, k_{src(e)} v_{src(e)}^\top
        \qquad
        h_n = \sum_{e \to n} M_e C_e^\top q_n + D_n (q_n \cdot k_n) v_n

    All forms give the same values and gradients (first and second).

    Args:
        query, key: [N, H, K].
        value: [N, H, V].
        source, mark: [E, H], or [E, H, J] with state tracking; rows as ``line_graph.edge_index``.
        transition: [L, H], or [L, H, J, J] (``C_out[i] += sum_j T[i, j] C_in[j]``); rows as
            ``line_graph.line_index``.
        direct: [N, H].
        line_graph: the DAG with its line graph.
        scale: multiplies the query, in the direct term too.
        form: ``"auto"`` (by cost, see the module), ``"naive"``, ``"parallel"``, ``"levelwise"``,
            ``"chunkwise"``, ``"walk"`` (CPUs with a C compiler).
        backend: ``"auto"`` (see the module), ``"torch"``, ``"triton"`` (not for ``"naive"``,
            ``"chunkwise"`` and ``"walk"``).

    Returns:
        [N, H, V] in the dtype of ``value``. float32 and float64 compute in their own precision,
        bfloat16 and float16 in float32.

    Raises:
        ValueError: on a wrong shape, dtype, device, form or backend, and if ``"triton"`` or
            ``"walk"`` cannot run here.
    """
    inputs = (query, key, value, source, transition, mark, direct)
    check_plstm(*inputs, line_graph, form, backend)
    if backend == "auto" and (form in TORCH_FORMS or key.size(2) > MAX_KEY_SIZE):
        backend = "torch"
    backend = resolve_backend(backend, line_graph.device)
    if backend == "triton" and form != "parallel":
        from plstm_graph.ops.triton.fused import fused_plstm

        return fused_plstm(*inputs, line_graph, scale=scale)
    dtype = compute_dtype(*inputs)
    query, key, value_, source, transition, mark, direct = (x.to(dtype) for x in inputs)
    if form == "naive":
        inputs = (query, key, value_, source, transition, mark, direct)
        return naive_plstm(*inputs, line_graph, scale=scale).to(value.dtype)
    if source.dim() == 3:
        line_graph = expand_states(line_graph, source.size(2))
        source, mark = unfold_edges(source), unfold_edges(mark)
        transition = unfold_lines(transition)
    inputs = (query, key, value_, source, transition, mark, direct)
    # The recurrence accumulates in its own precision, whatever autocast would make of products.
    with torch.autocast(value.device.type, enabled=False):
        return _run(form, inputs, line_graph, scale, backend).to(value.dtype)


def dag_scan(
    x: Tensor,
    transition: Tensor,
    line_graph: LineGraph,
    *,
    reverse: bool = False,
    backend: str = "auto",
) -> Tensor:
    r"""c = x + T c along the line graph: :math:`c_e = x_e + \sum_{l = (e', e)} T_l c_{e'}`.

    The one primitive: W = K V gives states, W = nodes of the graph gives gating rows.
    Differentiable to any order; the backward is the same scan on the reversed line graph.

    Args:
        x: [E, H, W], or [E, H, J, W] with state tracking.
        transition: [L, H], or [L, H, J, J].
        line_graph: the DAG with its line graph.
        reverse: run along the reversed line graph with transposed transitions: the adjoint scan.
        backend: ``"auto"`` (see the module), ``"torch"``, ``"triton"``.

    Returns:
        c, the shape and dtype of x.

    Raises:
        ValueError: on a wrong shape, dtype, device or backend, and if ``"triton"`` cannot run here.
    """
    check_scan(x, transition, line_graph, backend)
    if reverse:
        line_graph = line_graph.reverse()
        if transition.dim() == 4:
            transition = transition.mT
    if resolve_backend(backend, line_graph.device) == "triton":
        return triton_dag_scan(x, transition, line_graph).to(x.dtype)
    dtype = compute_dtype(x, transition)
    payload, transition = x.to(dtype), transition.to(dtype)
    if x.dim() == 3:
        return levelwise_dag_scan(payload, transition, line_graph).to(x.dtype)
    e, h, j, w = x.shape
    expanded = expand_states(line_graph, j)
    c = levelwise_dag_scan(unfold_edges(payload), unfold_lines(transition), expanded)
    return c.view(e, j, h, w).transpose(1, 2).to(x.dtype)
