r"""``plstm``: checks, the choice of form and backend, state tracking, precision.

**Backends.** ``backend="auto"`` is ``"triton"`` for tensors on a GPU (CUDA or ROCm) where triton
can be imported and a form has kernels for the problem, and ``"torch"`` elsewhere, which on CPUs
includes the compiled kernels; ``plstm_graph.backends()`` tells.

**State tracking.** J x J transitions are scalar ones on a line graph whose edges are repeated J
times, with J^2 line edges for each one: that graph goes through the same forms.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from plstm_graph.checks import choice, integer
from plstm_graph.dag import levels
from plstm_graph.dag.checks import num_columns
from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.dag.tracing import untraced
from plstm_graph.ops.autograd import has_plan_of, plan_of, propagate
from plstm_graph.ops.checks import (
    check_line_graph,
    check_plstm,
    compute_dtype,
    form_names,
    resolve_backend,
)
from plstm_graph.ops.cost import as_seen_by, cheapest, is_chosen
from plstm_graph.ops.expand import expand_states, unfold_edges, unfold_lines
from plstm_graph.ops.forms import FORMS, Form, Problem
from plstm_graph.ops.forms.naive import naive_plstm
from plstm_graph.ops.inputs import Factored, Inputs
from plstm_graph.ops.junctions import followers


def prepare(
    line_graph: LineGraph, heads: int, key_size: int, value_size: int, *, form: str = "auto"
) -> LineGraph:
    """Compute now what ``plstm`` needs of a line graph, its reverse, its multitree and that
    one's reverse, and of the same four of its two-way graph where the input was undirected. It is
    otherwise computed at first use, which ``torch.compile(fullgraph=True)`` cannot trace.

    Args:
        line_graph: the line graph. For layers with ``direction="two_way"`` on directed graphs
            prepare ``line_graph.two_way()``.
        heads: H; key_size: K; value_size: V of the layers that will use it.
        form: of these layers. ``torch.export`` of a layer with a form of its own gives a program
            for all line graphs that are prepared for it; ``"auto"`` chooses one for each batch, and
            a program only takes those with the same choice. Default ``"auto"``.

    Returns:
        The line graph.

    Raises:
        ValueError: if ``line_graph`` is no LineGraph, a size is not a positive integer, or the form
            is unknown or cannot run.
    """
    check_line_graph(line_graph)
    choice("form", form, form_names())
    for name, size in {"heads": heads, "key_size": key_size, "value_size": value_size}.items():
        integer(name, size, 1)
    num_columns(line_graph)
    graphs = [line_graph, line_graph.multitree()]
    if not line_graph.is_multitree:
        two_way = line_graph.two_way_where_undirected()
        graphs += [two_way, two_way.multitree()]
    for graph in graphs:
        for directed in (graph, graph.reverse()):
            directed.direction  # noqa: B018, made at first use
            few = directed.num_line_edges <= levels.MAX_LINE_EDGES
            if few:
                directed.line_index, directed.line_node  # noqa: B018
            if directed.is_complete:
                followers(directed)
            for factored, dtype in product((False, True), (torch.float32, torch.float64)):
                if not (directed.is_complete if factored else few):
                    continue
                problem = Problem(directed, heads, key_size, value_size, factored, "auto", dtype)
                problem, chosen = _choose(form, problem)
                if chosen.name != "naive":
                    plan_of(chosen, as_seen_by(chosen, problem))
    return line_graph


def is_prepared(form: str, problem: Problem) -> bool:
    """Whether a form can run without new plans."""
    for backend in _backends(problem):
        asked = problem._replace(backend=backend)
        if form == "auto" and not is_chosen(asked):
            return False
        chosen, reason = _form(form, asked)
        if reason is None:
            return has_plan_of(chosen, asked)
    return True  # nothing can run: an error


def _backends(problem: Problem) -> list[str]:
    device, asked = problem.line_graph.device, problem.backend
    found = [resolve_backend(asked, device)]
    # Behind the kernels, torch for what has none.
    return [*found, "torch"] if asked == "auto" and found == ["triton"] else found


def _form(form: str, problem: Problem) -> tuple[Form | None, str | None]:
    """The form of a name with the problem's backend, and why it cannot run."""
    known = FORMS[problem.backend]
    if form == "auto":
        best = cheapest(problem)
        if best is not None:
            return known[best], None
        form = next(iter(known))
    if form not in known:
        return None, f"it has no {problem.backend} kernels; use backend='auto', or form='walk'"
    return known[form], known[form].unavailable(problem)


def _choose(form: str, problem: Problem) -> tuple[Problem, Form]:
    """The problem with its backend, and the form that computes it.

    Raises:
        ValueError: if nothing can.
    """
    asked = problem.backend
    for backend in _backends(problem):
        problem = problem._replace(backend=backend)
        chosen, reason = _form(form, problem)
        if reason is None:
            return problem, chosen
    raise ValueError(
        f"expected form={form!r} with backend={asked!r} where it can run, but {reason}"
    )


def plstm(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    source: Tensor,
    transition: Tensor | Factored,
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
        transition: [L, H], or [L, H, J, J] (``C_out[i] += sum_j T[i, j] C_in[j]``), rows as
            ``line_graph.line_index``; or ``Factored(a, b)`` with a and b [E, H], for T_l =
            a[e_in] b[e_out], whose cost is that of the edges instead of the line edges.
        direct: [N, H].
        line_graph: the DAG with its line graph.
        scale: a number that multiplies the query, in the direct term too.
        form: ``"auto"`` (the fastest by :mod:`plstm_graph.ops.cost`), ``"naive"`` (the
            definition, slow), ``"levelwise"``, ``"walk"``, ``"dense"``, ``"chunkwise"``.
        backend: ``"auto"`` (see the module), ``"torch"``, ``"triton"`` (for ``"walk"`` and
            ``"dense"``).

    Returns:
        [N, H, V] in the dtype of ``value``. float32 and float64 compute in their own precision,
        bfloat16 and float16 in float32.

    Raises:
        ValueError: on a wrong shape, dtype, device, form or backend, and if the form or backend
            cannot run here.
    """
    inputs = Inputs(query, key, value, source, transition, mark, direct)
    check_plstm(inputs, line_graph, scale, form, backend)
    if torch.compiler.is_compiling() and not _is_prepared(inputs, line_graph, form, backend):
        return _run_eagerly(inputs, line_graph, scale, form, backend)
    return _run(inputs, line_graph, scale, form, backend)


def _run(inputs: Inputs, line_graph: LineGraph, scale: float, form: str, backend: str) -> Tensor:
    dtype = inputs.value.dtype
    with torch.autocast(inputs.value.device.type, enabled=False):
        if form == "naive":
            _choose(form, _problem(inputs, line_graph, backend))
            inputs = inputs.to(compute_dtype(*inputs.tensors))
            return naive_plstm(*inputs, line_graph, scale=scale).to(dtype)
        if inputs.source.dim() == 3:
            line_graph = expand_states(line_graph, inputs.source.size(2))
            inputs = inputs._replace(
                source=unfold_edges(inputs.source),
                transition=unfold_lines(inputs.transition),
                mark=unfold_edges(inputs.mark),
            )
        if inputs.factored and not line_graph.is_complete:
            lines = inputs.transition.expand(line_graph.line_index)
            inputs = inputs._replace(transition=lines)
        problem, chosen = _choose(form, _problem(inputs, line_graph, backend))
        if problem.backend == "torch":
            inputs = inputs.to(compute_dtype(*inputs.tensors))
        return propagate(inputs, scale, chosen, problem).to(dtype)


_run_eagerly = untraced(_run)


def _problem(inputs: Inputs, line_graph: LineGraph, backend: str) -> Problem:
    sizes = (*inputs.query.shape[1:], inputs.value.size(2))
    dtype = compute_dtype(*inputs.tensors)
    return Problem(line_graph, *sizes, inputs.factored, backend, dtype)


def _is_prepared(inputs: Inputs, line_graph: LineGraph, form: str, backend: str) -> bool:
    """Whether all that :func:`_run` needs of the line graph is there."""
    if form == "naive" or inputs.source.dim() == 3:
        return False
    factored = inputs.factored
    if factored and not line_graph.has_plan("is_complete"):
        return False
    problem = _problem(inputs, line_graph, backend)
    problem = problem._replace(factored=factored and line_graph.is_complete)
    return is_prepared(form, problem)
