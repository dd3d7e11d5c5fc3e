"""``dag_scan``: checks, the choice of backend, diagonal and block transitions, precision."""

from __future__ import annotations

import torch
from torch import Tensor

from plstm_graph.checks import flag, refuse
from plstm_graph.dag import levels
from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.ops.checks import check_scan, compute_dtype, resolve_backend
from plstm_graph.ops.expand import expand_states, unfold_edges, unfold_lines
from plstm_graph.ops.inputs import Factored
from plstm_graph.ops.junctions import junctions, transitions
from plstm_graph.ops.scan import levelwise_dag_scan
from plstm_graph.ops.semiring import semiring_scan


def dag_scan(
    x: Tensor,
    transition: Tensor | Factored,
    line_graph: LineGraph,
    *,
    reverse: bool = False,
    semiring: str = "sum",
    backend: str = "auto",
) -> Tensor:
    r"""c = x + T c along the line graph: :math:`c_e = x_e + \sum_{l = (e', e)} T_l c_{e'}`.

    The one primitive: W = K V gives states, W = nodes of the graph gives gating rows. In the other
    semirings (:mod:`plstm_graph.ops.semiring`) x, T and c are logarithms, -inf that of zero:

    .. math::
        \text{max}\quad c_e = \max\bigl(x_e, \max_l (t_l + c_{e'})\bigr) \qquad
        \text{logsumexp}\quad c_e = \log\bigl(e^{x_e} + \sum_l e^{t_l + c_{e'}}\bigr)

    With ``"max"`` and transitions of -1 an edge learns, as -c, its distance from the nearest edge
    with x = 0; with 1 its distance from the farthest one. ``"logsumexp"`` with
    :math:`-1 / \tau` gives a soft distance :math:`-\tau c`, which counts all paths.
    Differentiable to any order; the backward is an ordinary scan on the reversed line graph. Where
    several values are the maximum, the gradient goes to x_e if it is one of them, otherwise to the
    line edge that comes first in ``line_graph.line_index``.

    Args:
        x: [E, H, W]; or [E, H, K] or [E, H, K, V] with diagonal transitions, [E, H, J, W] with
            state tracking.
        transition: [L, H]; diagonal [L, H, K], which multiplies row k of x; state tracking
            [L, H, J, J]; or ``Factored(a, b)`` (x [E, H, W]), whose logarithms are added in the
            other semirings, where it is expanded to all line edges.
        line_graph: the DAG with its line graph.
        reverse: run along the reversed line graph with transposed transitions: the adjoint scan.
        semiring: ``"sum"``, ``"max"`` or ``"logsumexp"``.
        backend: ``"auto"`` (see :mod:`plstm_graph.ops.plstm`), ``"torch"``, ``"triton"`` (for
            ``semiring="sum"``).

    Returns:
        c, the shape and dtype of x. bfloat16 and float16 compute in float32.

    Raises:
        ValueError: on a wrong shape, dtype, device, semiring or backend, if ``"triton"`` cannot run
            here, and if ``Factored`` has too many line edges to be expanded.
    """
    flag("reverse", reverse)
    check_scan(x, transition, line_graph, semiring, backend)
    if isinstance(transition, Factored) and semiring != "sum":
        transition = _expand_logs(transition, line_graph)
    elif isinstance(transition, Factored) and not line_graph.is_complete:
        transition = transition.expand(line_graph.line_index)
    if isinstance(transition, Factored):
        if reverse:
            transition, line_graph = Factored(*transition[::-1]), line_graph.reverse()
        graph = junctions(line_graph)
        more = x.new_zeros(graph.num_edges - x.size(0), *x.shape[1:])
        lines = transitions(*transition, line_graph)
        return dag_scan(torch.cat([x, more]), lines, graph, backend=backend)[: x.size(0)]
    if transition.dim() == 3:
        # Each row of the state is a head of its own.
        rows = x.flatten(1, 2) if x.dim() == 4 else x.flatten(1).unsqueeze(2)
        options = {"reverse": reverse, "semiring": semiring, "backend": backend}
        return dag_scan(rows, transition.flatten(1), line_graph, **options).view_as(x)
    if reverse:
        line_graph = line_graph.reverse()
        if transition.dim() == 4:
            transition = transition.mT
    with torch.autocast(x.device.type, enabled=False):
        if semiring == "sum" and resolve_backend(backend, line_graph.device) == "triton":
            from plstm_graph.ops.triton.scan import triton_dag_scan

            return triton_dag_scan(x, transition, line_graph).to(x.dtype)
        dtype = compute_dtype(x, transition)
        payload, transition = x.to(dtype), transition.to(dtype)
        if x.dim() == 3:
            return _scan(payload, transition, line_graph, semiring).to(x.dtype)
        e, h, j, w = x.shape
        expanded = expand_states(line_graph, j)
        c = _scan(unfold_edges(payload), unfold_lines(transition), expanded, semiring)
        return c.view(e, j, h, w).transpose(1, 2).to(x.dtype)


def _scan(x: Tensor, transition: Tensor, line_graph: LineGraph, semiring: str) -> Tensor:
    if semiring == "sum":
        return levelwise_dag_scan(x, transition, line_graph)
    return semiring_scan(x, transition, line_graph, semiring)


def _expand_logs(transition: Factored, line_graph: LineGraph) -> Tensor:
    """[L, H] logarithms of the products. A two-way junction takes a term back, which logarithms
    cannot, so there is no graph of junctions for them."""
    if line_graph.num_line_edges > levels.MAX_LINE_EDGES:
        refuse(
            "transition", f"with at most {levels.MAX_LINE_EDGES} line edges for this semiring",
            f"Factored with {line_graph.num_line_edges}", "use semiring='sum', or a pruned graph",
        )  # fmt: skip
    e_in, e_out = line_graph.line_index
    return transition.a.index_select(0, e_in) + transition.b.index_select(0, e_out)
