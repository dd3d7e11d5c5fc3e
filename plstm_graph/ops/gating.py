r"""The gating matrix of a graph: the layer's recurrence without its queries, keys and values.

.. math::
    G = M (I - T)^{-1} S + \mathrm{diag}(D), \qquad H = (Q K^\top * G) V

It is one ``dag_scan``. Give every node a virtual edge to one node outside of the graph. A virtual
edge is entered from the edges e into its node, with transition M_e, and starts out with D_n in
column n; an ordinary edge starts out with S_e in column src(e):

.. math::
    \begin{pmatrix} C \\ G \end{pmatrix} = \begin{pmatrix} S \\ D \end{pmatrix}
    + \begin{pmatrix} T & 0 \\ M & 0 \end{pmatrix} \begin{pmatrix} C \\ G \end{pmatrix}

so the mark's gradient is one more transition's. On CPUs a compiled kernel
(:mod:`plstm_graph.ops.native`) walks the edges instead, without the virtual ones; it is an order
of magnitude faster, since the rows of a head never leave the cache.

A matrix holds N^2 numbers, where states hold E K V: it pays for small graphs with wide heads, and
where heads share it. Several *views* of one set of nodes (a grid and its mirror images) are summed
while they are made, and attention then runs once for all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from plstm_graph.checks import dense, refuse
from plstm_graph.dag.family import Family, Member
from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.dag.tracing import transformed, untraced
from plstm_graph.ops import native
from plstm_graph.ops.checks import (
    check_line_graph,
    check_plstm,
    compute_dtype,
    resolve_backend,
)
from plstm_graph.ops.cost import least_cost
from plstm_graph.ops.expand import expand_states, unfold_edges, unfold_lines
from plstm_graph.ops.forms import Problem
from plstm_graph.ops.gating_plan import walk
from plstm_graph.ops.inputs import Inputs
from plstm_graph.ops.scan import levelwise_dag_scan
from plstm_graph.ops.schedule import level_schedule

#: Elements of the rows that the native kernel scans together (half a megabyte of floats).
TILE_ELEMENTS = 1 << 17
#: Most elements of all matrices for which :func:`gating_pays`.
MAX_GATING = 1 << 27
#: Microseconds, forward plus backward: per element of the scanned rows, and of the attention, whose
#: cost grows by itself for each so many elements of all matrices (they leave the cache).
ROW_COST, ATTENTION_COST, CACHE = 1e-3, 1e-2, 1 << 24

Scan = Callable[[Tensor, Tensor, LineGraph], Tensor]


def with_readout(line_graph: LineGraph) -> LineGraph:
    """The graph with a virtual edge E + n from each node n to a new node N. Planned once."""
    return line_graph.plan("with_readout", _with_readout)


def _with_readout(line_graph: LineGraph) -> LineGraph:
    n, e, device = line_graph.num_nodes, line_graph.num_edges, line_graph.device
    nodes = torch.arange(n, device=device)
    edges = torch.stack([nodes, torch.full_like(nodes, n)])
    lines = torch.stack([torch.arange(e, device=device), e + line_graph.edge_index[1]])
    member = Member(
        torch.cat([line_graph.edge_index, edges], 1), torch.arange(e + n, device=device)
    )
    lines = torch.cat([line_graph.line_index, lines], 1)
    graph = LineGraph.of(Family(n + 1, member, line_index=lines))
    for directed in (graph, graph.reverse()):
        level_schedule(directed)  # of both directions: the backward may be traced first
    return graph


def composed_gating(
    source: Tensor,
    transition: Tensor,
    mark: Tensor,
    direct: Tensor,
    views: Tensor,
    line_graph: LineGraph,
    scan: Scan = levelwise_dag_scan,
) -> Tensor:
    """One scan and differentiable operations; shapes as :func:`gating_matrix`, without J."""
    graph = with_readout(line_graph)
    (o, n), e = views.shape, line_graph.num_edges
    start = torch.cat([source, direct]).unflatten(1, (o, -1))  # [E + N, O, H]
    column = views[:, graph.edge_index[0]].t()[:, :, None, None].expand(*start.shape, 1)
    x = start.new_zeros(*start.shape, n).scatter(3, column, start[..., None]).flatten(1, 2)
    rows = scan(x, torch.cat([transition, mark]), graph)[e:].unflatten(1, (o, -1))
    out = rows.new_zeros(n, rows.size(2), n)
    for i, view in enumerate(views):
        out = out.index_add(0, view, rows[:, i])
    return out.transpose(0, 1)


class _NativeGating(torch.autograd.Function):
    """The kernel; shapes as :func:`composed_gating`."""

    @staticmethod
    def forward(ctx: Any, source, transition, mark, direct, views, line_graph):
        gates = tuple(x.t().contiguous() for x in (source, transition, mark, direct))
        (o, n), heads = views.shape, source.size(1) // views.size(0)
        e, l = line_graph.num_edges, line_graph.num_line_edges
        out = source.new_empty(heads, n, n)
        width = _tile(e, n)
        native.run(
            "gating_forward", source.dtype, heads, (e + n) * width, *gates, out,
            heads, o, n, e, l, width, views, *walk(line_graph),
        )  # fmt: skip
        ctx.save_for_backward(source, transition, mark, direct, views)
        ctx.line_graph = line_graph
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor):
        *inputs, views = ctx.saved_tensors
        line_graph = ctx.line_graph
        if torch.is_grad_enabled():  # create_graph=True: a backward with a graph of its own
            return *_composed_grads(inputs, views, line_graph, grad), None, None
        gates = tuple(x.t().contiguous() for x in inputs)
        (o, n), heads = views.shape, grad.size(0)
        e, l = line_graph.num_edges, line_graph.num_line_edges
        grads = tuple(torch.empty_like(gate) for gate in gates)
        width = _tile(e, n)
        native.run(
            "gating_backward", grad.dtype, heads, (2 * e + n) * width, grad.contiguous(),
            *gates[:3], *grads, heads, o, n, e, l, width, views, *walk(line_graph),
        )  # fmt: skip
        return *(g.t() for g in grads), None, None


def _tile(edges: int, nodes: int) -> int:
    """Columns that are scanned together: a multiple of 16, a cache line of floats, or all."""
    return max(1, min(nodes, max(16, TILE_ELEMENTS // max(1, edges) // 16 * 16)))


def _composed_grads(inputs, views, line_graph, grad) -> tuple[Tensor | None, ...]:
    with torch.enable_grad():
        out = composed_gating(*inputs, views, line_graph)
        wanted = [x for x in inputs if x.requires_grad]
        grads = iter(torch.autograd.grad(out, wanted, grad, create_graph=True, allow_unused=True))
    return tuple(next(grads) if x.requires_grad else None for x in inputs)


def _check_views(views: Tensor, line_graph: LineGraph, heads: int) -> None:
    n = line_graph.num_nodes
    remedy = "each of the O views is a renumbering of the nodes"
    like = {"dtype": torch.int64, "device": line_graph.device, "like": "line_graph"}
    dense("views", views, "O", n, sizes=remedy, **like)
    if views.size(0) < 1 or heads % views.size(0):
        refuse(
            "views", f"as many as divide the {heads} heads (heads are view-major)", views,
            "give each view the same number of heads",
        )  # fmt: skip
    if torch.compiler.is_compiling():
        return  # nothing is compared
    if not torch.equal(views.sort(1)[0], torch.arange(n, device=views.device).expand_as(views)):
        raise ValueError("expected each row of views to be a permutation of the nodes")


def gating_matrix(
    source: Tensor,
    transition: Tensor,
    mark: Tensor,
    direct: Tensor,
    line_graph: LineGraph,
    *,
    views: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    r"""G = M (I - T)^-1 S + diag(D), dense: how much each node takes from each other one.

    Args:
        source, mark: [E, H], or [E, H, J] with state tracking.
        transition: [L, H], or [L, H, J, J].
        direct: [N, H].
        line_graph: the DAG with its line graph; gates follow its rows.
        views: [O, N], permutations: the heads are those of O views of the same nodes,
            view-major, and node n of the graph is node ``views[o, n]`` in view o. Their matrices
            are summed. Default: one view, the nodes as they are.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``. Default ``"auto"``.

    Returns:
        [H / O, N, N], entry (n, m) for what node n takes from node m; zero where no directed path
        leads from m to n. Differentiable. It holds N^2 H / O numbers: meant for single graphs.

    Raises:
        ValueError: on a wrong shape, dtype, device or backend.
    """
    check_line_graph(line_graph)
    like = {"device": line_graph.device, "like": "line_graph", "sizes": "N is that of line_graph"}
    dense("direct", direct, line_graph.num_nodes, "H", **like)
    for name, gate in {"source": source, "mark": mark}.items():
        dense(name, gate, line_graph.num_edges, direct.size(1), "*", sizes="H is that of direct")
    one = direct.new_ones(*direct.shape, 1)
    inputs = Inputs(one, one, one, source, transition, mark, direct)
    check_plstm(inputs, line_graph, 1.0, "auto", backend)
    if inputs.factored:
        transition = transition.expand(line_graph.line_index)
    dtype = compute_dtype(source, transition, mark, direct)
    gates = (x.to(dtype) for x in (source, transition, mark, direct))
    source, transition, mark, direct = gates
    n, heads = direct.shape
    if views is None:
        views = torch.arange(n, device=direct.device)[None]
    else:
        _check_views(views, line_graph, heads)
    if source.dim() == 3:
        line_graph = expand_states(line_graph, source.size(2))
        source, mark = unfold_edges(source), unfold_edges(mark)
        transition = unfold_lines(transition)
    inputs = (source, transition, mark, direct, views.contiguous(), line_graph)
    if torch.compiler.is_compiling() and not line_graph.has_plan("with_readout"):
        return _gate_eagerly(inputs, backend)
    return _gate(inputs, backend)


def _gate(inputs: tuple, backend: str) -> Tensor:
    *_, direct, _, line_graph = inputs
    with torch.autocast(direct.device.type, enabled=False):
        if resolve_backend(backend, line_graph.device) == "triton":
            from plstm_graph.ops.triton.scan import triton_dag_scan

            return composed_gating(*inputs, triton_dag_scan)
        traced = torch.compiler.is_compiling() or transformed()
        if traced or direct.device.type != "cpu" or native.unavailable():
            return composed_gating(*inputs)
        return _NativeGating.apply(*inputs)


_gate_eagerly = untraced(
    _gate, "call gating_matrix once before, in torch.compile, or run the layer"
)


def gating_pays(
    line_graph: LineGraph, query: Tensor, value: Tensor, views: int, backend: str
) -> bool:
    """Whether ``views`` views with the same query, key and value are cheaper by one summed gating
    matrix than by :func:`plstm_graph.ops.plstm` with a head for each.

    Args:
        line_graph: one connected graph.
        query: [B, N, H, K]; value: [B, N, H, V].
        views: O.
        backend: as for the operators. On GPUs the fused kernel is taken.
    """
    if resolve_backend(backend, line_graph.device) == "triton":
        return False
    n, e = line_graph.num_nodes, line_graph.num_edges
    heads = query.size(0) * query.size(2)
    if heads * n * n > MAX_GATING:
        return False
    attention = ATTENTION_COST * (1 + heads * n * n / CACHE)
    problem = Problem(line_graph, views * heads, query.size(-1), value.size(-1), "line", "torch")
    ours = heads * n * (views * ROW_COST * e + attention * n)
    return ours < least_cost(problem)
