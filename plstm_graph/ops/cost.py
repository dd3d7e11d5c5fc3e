"""The choice of ``form="auto"``: the form with the least estimated time.

The estimate of a form is linear in its features (:meth:`plstm_graph.ops.forms.Form.features`). The
constants, microseconds of forward and backward per unit of a feature, are in ``costs.json``, one
table for each kind of device and backend; ``python -m experiments.kernels.calibrate`` measures
them.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from plstm_graph.ops.forms import FORMS, Form, Problem
from plstm_graph.ops.junctions import junctions


@cache
def constants() -> dict[str, dict[str, dict[str, float]]]:
    """Microseconds by table, form and feature."""
    return json.loads((Path(__file__).parent / "costs.json").read_text())["constants"]


def table_of(problem: Problem) -> str:
    """The name of the table for a device and backend."""
    if problem.backend == "triton":
        return "triton"
    return "cpu" if problem.line_graph.device.type == "cpu" else "gpu"


def as_seen_by(form: Form, problem: Problem) -> Problem:
    """The problem on the graph of junctions, where a form cannot do with factored transitions."""
    if not problem.factored or form.factored:
        return problem
    return problem._replace(line_graph=junctions(problem.line_graph), factored=False)


def cost(form: Form, problem: Problem) -> float:
    """Estimated microseconds, infinite where the form is not for ``form="auto"``."""
    known = constants()[table_of(problem)].get(form.name)
    if known is None or form.unavailable(problem) is not None:
        return float("inf")
    problem = as_seen_by(form, problem)
    return sum(known.get(name, 0.0) * size for name, size in form.features(problem).items())


def costs(problem: Problem) -> dict[str, float]:
    """The cost of each form. Planned once for each size."""

    def estimate(_: object) -> dict[str, float]:
        return {form.name: cost(form, problem) for form in FORMS[problem.backend].values()}

    return problem.line_graph.plan(("costs", *problem[1:]), estimate)


def cheapest(problem: Problem) -> str | None:
    """The form that is expected to be fastest, ``None`` if none can run. Planned once for each
    size."""

    def choose(_: object) -> str | None:
        found = costs(problem)
        best = min(found, key=found.get)
        return best if found[best] < float("inf") else None

    return problem.line_graph.plan(("cheapest", *problem[1:]), choose)


def is_chosen(problem: Problem) -> bool:
    """Whether :func:`cheapest` is known."""
    return problem.line_graph.has_plan(("cheapest", *problem[1:]))
