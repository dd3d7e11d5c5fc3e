"""The choice of form and backend for a problem, and all that is computed beforehand for it.

**Backends.** ``backend="auto"`` is ``"triton"`` for tensors on a GPU (CUDA or ROCm) where triton
can be imported and a form has kernels for the problem, and ``"torch"`` elsewhere, which on CPUs
includes the compiled kernels; ``plstm_graph.backends()`` tells.
"""

from __future__ import annotations

from itertools import product

import torch

from plstm_graph.checks import choice, integer
from plstm_graph.dag import levels
from plstm_graph.dag.checks import num_columns
from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.ops.autograd import has_plan_of, plan_of
from plstm_graph.ops.checks import check_line_graph, form_names, resolve_backend
from plstm_graph.ops.cost import cheapest, is_chosen
from plstm_graph.ops.forms import FORMS, Form, Problem
from plstm_graph.ops.junctions import followers
from plstm_graph.ops.lowering import as_seen_by, has_kind, unavailable
from plstm_graph.ops.schedule import level_schedule

#: Kinds of transitions, and whether there are updates, that :func:`prepare` is for.
PREPARED = (
    *(("line", False), ("factored", False), ("diagonal", False), ("block", False)),
    *(("line", True), ("diagonal", True)),
)


def prepare(
    line_graph: LineGraph, heads: int, key_size: int, value_size: int, *, form: str = "auto"
) -> LineGraph:
    """Compute now what ``plstm`` needs of a line graph, its reverse, its multitree and that
    one's reverse, and of the same four of its two-way graph where the input was undirected. It is
    otherwise computed at first use, which ``torch.compile(fullgraph=True)`` cannot trace.

    Args:
        line_graph: the line graph. For layers with ``direction="two_way"`` on directed graphs
            prepare ``line_graph.two_way()``.
        heads: H; key_size: K; value_size: V of the layers that will use it, V + 1 with a
            normalizer that divides.
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
                level_schedule(directed)  # for stabilizers and scans
            if directed.is_complete:
                followers(directed)
            for (kind, updates), dtype in product(PREPARED, (torch.float32, torch.float64)):
                if not (directed.is_complete if kind == "factored" else few):
                    continue
                sizes = heads, key_size, value_size
                problem = Problem(directed, *sizes, kind, "auto", dtype, updates)
                if kind == "block" and resolve_backend("auto", directed.device) == "triton":
                    continue  # copies of edges, whose number is not known here
                if form != "auto" and not has_kind(FORMS["torch"][form], problem):
                    continue
                problem, chosen = choose(form, problem)
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
    return known[form], unavailable(known[form], problem)


def choose(form: str, problem: Problem) -> tuple[Problem, Form]:
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
