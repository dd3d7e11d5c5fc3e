r"""The gating matrix of a graph: the layer's recurrence without its queries, keys and values.

.. math::
    G = M (I - T)^{-1} S + \mathrm{diag}(D), \qquad H = (Q K^\top * G) V

It is one ``dag_scan``. Give every node a virtual edge to one node outside of the graph. A virtual
edge is entered from the edges e into its node, with transition M_e, and starts out with D_n in
column n; an ordinary edge starts out with S_e in column src(e):

.. math::
    \begin{pmatrix} C \\ G \end{pmatrix} = \begin{pmatrix} S \\ D \end{pmatrix}
    + \begin{pmatrix} T & 0 \\ M & 0 \end{pmatrix} \begin{pmatrix} C \\ G \end{pmatrix}

so the mark's gradient is one more transition's. The start is sparse, and only the rows of nodes
are wanted. Hence :class:`_Gating`, which works through the heads in pieces that a cache holds.

A matrix holds N^2 numbers, where states hold E K V: it pays for small graphs with wide heads, and
where heads share it. Several *views* of one set of nodes (a grid and its mirror images) are summed
while they are made, and attention then runs once for all of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from plstm_graph.dag.expand import expand_states, unfold_edges, unfold_lines
from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.dag.schedule import LevelSchedule, level_schedule
from plstm_graph.ops.checks import check_plstm, compute_dtype, resolve_backend
from plstm_graph.ops.dispatch import plstm_cost
from plstm_graph.ops.scan import levelwise_dag_scan, scan_levels_
from plstm_graph.ops.triton.dag_scan import triton_dag_scan

#: Elements of the rows that are scanned together (float32: 8 MB).
PIECE_ELEMENTS = 1 << 21
#: Most elements of all matrices for which :func:`gating_pays`.
MAX_GATING = 1 << 27
#: Microseconds, forward plus backward: per element of the scanned rows, and of the attention.
ROW_COST, ATTENTION_COST = 4.5e-3, 1e-2


def with_readout(line_graph: LineGraph) -> LineGraph:
    """The graph with a virtual edge E + n from each node n to a new node N. Cached."""
    cache = line_graph._cache
    if "with_readout" not in cache:
        if torch.compiler.is_compiling():
            raise ValueError(
                "expected a line_graph whose gating matrix was computed before under "
                "torch.compile, got a new one; call gating_matrix once outside"
            )
        n, e, device = line_graph.num_nodes, line_graph.num_edges, line_graph.device
        nodes = torch.arange(n, device=device)
        edges = torch.stack([nodes, torch.full_like(nodes, n)])
        lines = torch.stack([torch.arange(e, device=device), e + line_graph.edge_index[1]])
        cache["with_readout"] = LineGraph._trusted(
            n + 1,
            torch.cat([line_graph.edge_index, edges], 1),
            torch.cat([line_graph.line_index, lines], 1),
            torch.arange(e + n, device=device),
            None,
        )
        for graph in (cache["with_readout"], cache["with_readout"].reverse()):
            level_schedule(graph)  # of both directions: the backward may be traced first
    return cache["with_readout"]


def _pieces(heads: int, rows: int, columns: int) -> list[slice]:
    """Slices of one view's heads."""
    count = max(1, -(-heads * rows * columns // PIECE_ELEMENTS))
    size = max(1, -(-heads // count))
    return [slice(i, min(i + size, heads)) for i in range(0, heads, size)]


class _Workspace:
    """Buffers [R, h, columns] that all pieces share: new memory costs more than the scans."""

    def __init__(self, like: Tensor, rows: int, pieces: list[slice], columns: int) -> None:
        self.shape = rows, pieces[0].stop if pieces else 0, columns
        self.like = like
        self.buffers: dict[str, Tensor] = {}

    def __call__(self, name: str, heads: int) -> Tensor:
        """The buffer of a name, for so many heads; what it holds is old."""
        rows, most, columns = self.shape
        if name not in self.buffers:
            self.buffers[name] = self.like.new_empty(rows * most * columns)
        return self.buffers[name][: rows * heads * columns].view(rows, heads, columns)


def _places(position: Tensor, column: Tensor, heads: int, columns: int) -> Tensor:
    """[R * heads] the flat place of each start in rows [R, heads, columns]."""
    head = torch.arange(heads, device=position.device)
    return ((position[:, None] * heads + head) * columns + column[:, None]).view(-1)


class _Gating(torch.autograd.Function):
    """start [O, R, H], transition [O, L', H], views [O, N] -> [H, N, N], of ``with_readout``."""

    @staticmethod
    def forward(ctx: Any, start: Tensor, transition: Tensor, views: Tensor, graph: LineGraph):
        n, heads = views.size(1), start.size(2)
        schedule = level_schedule(graph)
        src, nodes = graph.edge_index[0], schedule.position[graph.num_edges - n :]
        out = start.new_empty(heads, n, n)
        pieces = _pieces(heads, graph.num_edges, n)
        space = _Workspace(start, graph.num_edges, pieces, n)
        for o, view in enumerate(views):
            # Columns are written where the nodes of this view stand, rows are read from there.
            there = torch.empty_like(view).index_copy_(0, view, nodes)
            for piece in pieces:
                rows = _scan_rows(
                    start[o, :, piece], transition[o, :, piece], view[src], schedule, space
                )
                part = rows.index_select(0, there).transpose(0, 1)
                out[piece] = part if o == 0 else out[piece].add_(part)
        ctx.save_for_backward(start, transition, views)
        ctx.graph = graph
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor):
        start, transition, views = ctx.saved_tensors
        graph = ctx.graph
        if torch.is_grad_enabled():  # create_graph=True: a backward with a graph of its own
            return *_composed_grads(start, transition, views, graph, grad), None, None
        n, heads = views.size(1), start.size(2)
        there, back = level_schedule(graph), level_schedule(graph.reverse())
        src, nodes = graph.edge_index[0], back.position[graph.num_edges - n :]
        as_back = there.position.index_select(0, back.order)
        d_start, d_transition = torch.empty_like(start), torch.empty_like(transition)
        pieces = _pieces(heads, graph.num_edges, n)
        space = _Workspace(start, graph.num_edges, pieces, n)
        for o, view in enumerate(views):
            column = view[src]
            for piece in pieces:
                t, h = transition[o, :, piece], piece.stop - piece.start
                # Rows are scanned anew: that is faster than memory that keeps them.
                rows = _scan_rows(start[o, :, piece], t, column, there, space)
                pair, adjoint = space("pair", h), space("adjoint", h).zero_()
                torch.index_select(rows, 0, as_back, out=pair)
                adjoint.index_copy_(0, nodes, grad[piece].transpose(0, 1).index_select(0, view))
                d_transition[o, :, piece] = scan_levels_(adjoint, t, back, pair)
                places = _places(back.position, column, h, n)
                d_start[o, :, piece] = adjoint.view(-1)[places].view(-1, h)
        return d_start, d_transition, None, None


def _scan_rows(
    start: Tensor,
    transition: Tensor,
    column: Tensor,
    schedule: LevelSchedule,
    space: _Workspace,
) -> Tensor:
    """Scanned rows [R, h, columns] in the order of the schedule."""
    heads = start.size(1)
    rows = space("rows", heads).zero_()
    places = _places(schedule.position, column, heads, rows.size(2))
    rows.view(-1).index_copy_(0, places, start.reshape(-1))
    scan_levels_(rows, transition, schedule)
    return rows


def composed_gating(start: Tensor, transition: Tensor, views: Tensor, graph: LineGraph, scan=None):
    """The same, composed of ``dag_scan`` (or another ``scan``) and differentiable operations."""
    scan = levelwise_dag_scan if scan is None else scan
    (o, rows, heads), n = start.shape, views.size(1)
    column = views[:, graph.edge_index[0]]  # [O, R]
    x = start.new_zeros(o, rows, heads, n)
    x = x.scatter(3, column[:, :, None, None].expand(-1, -1, heads, 1), start[..., None])
    x = x.transpose(0, 1).flatten(1, 2)  # [R, O * H, n]
    g = scan(x, transition.transpose(0, 1).flatten(1), graph)[rows - n :].unflatten(1, (o, heads))
    out = start.new_zeros(n, heads, n)
    for i, view in enumerate(views):
        out = out.index_add(0, view, g[:, i])
    return out.transpose(0, 1)


def _composed_grads(start, transition, views, graph, grad) -> tuple[Tensor | None, Tensor | None]:
    with torch.enable_grad():
        out = composed_gating(start, transition, views, graph)
        wanted = [x for x in (start, transition) if x.requires_grad]
        grads = iter(torch.autograd.grad(out, wanted, grad, create_graph=True, allow_unused=True))
    return tuple(next(grads) if x.requires_grad else None for x in (start, transition))


def _check_views(views: Tensor, line_graph: LineGraph, heads: int) -> None:
    n = line_graph.num_nodes
    if views.dim() != 2 or views.size(1) != n or views.dtype != torch.int64:
        raise ValueError(
            f"expected views as int64 of shape [O, {n}] (a renumbering of the nodes for each "
            f"view), got {views.dtype} {list(views.shape)}"
        )
    if views.size(0) < 1 or heads % views.size(0):
        raise ValueError(
            f"expected a number of heads that {views.size(0)} views divide (heads view-major), "
            f"got {heads}"
        )
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
    one = direct.new_ones(*direct.shape, 1)
    check_plstm(one, one, one, source, transition, mark, direct, line_graph, "auto", backend)
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
    graph = with_readout(line_graph)
    start, step = (
        torch.cat(pair).unflatten(1, (views.size(0), -1)).transpose(0, 1)
        for pair in ((source, direct), (transition, mark))
    )
    with torch.autocast(direct.device.type, enabled=False):
        if resolve_backend(backend, line_graph.device) == "triton":
            return composed_gating(start, step, views, graph, triton_dag_scan)
        if torch.compiler.is_compiling():
            return composed_gating(start, step, views, graph)
        return _Gating.apply(start, step, views, graph)


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
    if query.size(0) * query.size(2) * n * n > MAX_GATING:
        return False
    ours = ROW_COST * (e + n) * n + ATTENTION_COST * n * n / views
    return ours < plstm_cost(line_graph, query.size(-1), value.size(-1))
