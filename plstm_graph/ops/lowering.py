"""What a form gets that cannot take the transitions as they are: the same layer without them.

Factored transitions are expanded where that makes the graph no larger, and otherwise summed at
junctions (:mod:`plstm_graph.ops.junctions`). Blocks become scalar transitions between copies of
edges (:mod:`plstm_graph.ops.expand`).
"""

from __future__ import annotations

from torch import Tensor

from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.ops.expand import expand_states, unfold_edges, unfold_lines
from plstm_graph.ops.forms import FORMS, Form, Problem
from plstm_graph.ops.inputs import Inputs
from plstm_graph.ops.junctions import junctions, with_junctions


def is_expanded(line_graph: LineGraph) -> bool:
    """Whether there are no more line edges than the graph of junctions has (two for each edge)."""
    return line_graph.num_line_edges <= 2 * line_graph.num_edges


def as_seen_by(form: Form, problem: Problem) -> Problem:
    """The problem as the form gets it."""
    graph = problem.line_graph
    if problem.kind in form.kinds or problem.kind == "diagonal":
        return problem
    if problem.kind == "block":
        graph = expand_states(graph, problem.states[1])
    elif not is_expanded(graph):
        graph = junctions(graph)
    return problem._replace(line_graph=graph, kind="line", states=(1, 1, 1))


def needed_plan(form: Form, problem: Problem) -> object:
    """The key of the plan without which :func:`as_seen_by` has to build a graph, or ``None``."""
    if problem.kind in form.kinds or problem.kind == "diagonal":
        return None
    if problem.kind == "block":
        return ("states", problem.states[1])
    return "line_index" if is_expanded(problem.line_graph) else "junctions"


def lowered(inputs: Inputs, problem: Problem, seen: Problem) -> Inputs:
    """The inputs of the problem as it is seen. Differentiable."""
    if seen.kind == problem.kind:
        return inputs
    if problem.kind == "factored":
        if seen.line_graph is not problem.line_graph:
            return with_junctions(inputs, problem.line_graph)[0]
        lines = inputs.transition.expand(problem.line_graph.line_index)
        return inputs._replace(transition=lines)
    return inputs._replace(
        value=inputs.value.squeeze(2),
        source=unfold_edges(inputs.source.squeeze(2)),
        transition=unfold_lines(inputs.transition),
        mark=unfold_edges(inputs.mark.squeeze(3)),
        direct=inputs.direct.flatten(1),
    )


def restored(out: Tensor, problem: Problem, seen: Problem) -> Tensor:
    """The result of the problem, from that of the problem as it was seen."""
    return out if seen.kind == problem.kind or problem.kind != "block" else out.unsqueeze(2)


def has_kind(form: Form, problem: Problem) -> bool:
    """Whether the form has the kind of transitions, or factors in their place, and the updates."""
    has = problem.kind in (*form.kinds, "factored")
    return has and (form.updates or not problem.updates)


def unavailable(form: Form, problem: Problem) -> str | None:
    """Why the form cannot compute the problem, with a remedy; ``None`` if it can."""
    if problem.updates and not form.updates:
        return f"it has no reflections (update=); use {_others(problem)}"
    if problem.kind not in form.kinds:
        if problem.kind == "diagonal":
            return f"it has no diagonal transitions [L, H, K]; use {_others(problem)}"
        if problem.kind == "block" and problem.states[::2] != (1, 1):
            return f"it has one state channel in and out (J_S = J_M = 1); use {_others(problem)}"
    return form.unavailable(problem)


def _others(problem: Problem) -> str:
    """The forms that can, for an error."""
    can = {
        backend: [
            repr(form.name)
            for form in FORMS[backend].values()
            if problem.kind in form.kinds and has_kind(form, problem)
        ]
        for backend in (problem.backend, "torch")
    }
    if can[problem.backend]:
        return f"form='auto', or one of {', '.join(can[problem.backend])}"
    return f"backend='torch' with form='auto', or one of {', '.join(can['torch'])}"
