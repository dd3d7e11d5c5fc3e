"""The choice of ``form="auto"``: the form with the least estimated time, of the compiled ones where
one of them can run.

The estimate of a form is linear in its features (:meth:`plstm_graph.ops.forms.Form.features`). The
constants, microseconds of forward and backward per unit of a feature, are in ``costs.json``, one
table for each kind of device and backend; ``python -m experiments.kernels.calibrate`` measures
them.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from plstm_graph.ops import native
from plstm_graph.ops.forms import FORMS, Form, Problem
from plstm_graph.ops.lowering import as_seen_by, unavailable


@cache
def constants() -> dict[str, dict[str, dict[str, float]]]:
    """Microseconds by table, form and feature."""
    return json.loads((Path(__file__).parent / "costs.json").read_text())["constants"]


def table_of(problem: Problem) -> str:
    """The name of the table for a device and backend."""
    if problem.backend == "triton":
        return "triton"
    if problem.line_graph.device.type != "cpu":
        return "gpu"
    return "cpu" if native.unavailable() is None else "torch"


def cost(form: Form, problem: Problem) -> float:
    """Estimated microseconds, infinite where the form is not for ``form="auto"``."""
    known = constants()[table_of(problem)].get(form.name)
    if known is None or unavailable(form, problem) is not None:
        return float("inf")
    # A graph with copies of edges is not built for an estimate where another form has blocks.
    others = FORMS[problem.backend].values()
    has_blocks = "block" in form.kinds or not any("block" in other.kinds for other in others)
    if problem.kind == "block" and not has_blocks:
        return float("inf")
    problem = as_seen_by(form, problem)
    return sum(known.get(name, 0.0) * size for name, size in form.features(problem).items())


def _key(what: str, problem: Problem) -> tuple:
    # The dtype matters to Triton kernels alone.
    dtype = str(problem.dtype) if problem.backend == "triton" else ""
    return (what, *problem._replace(line_graph=None, dtype=dtype, states=None))


def least_cost(problem: Problem) -> float:
    """The estimated microseconds of the form that :func:`cheapest` names. Planned once."""

    def make(_: object) -> float:
        best = _cheapest(problem)
        return float("inf") if best is None else cost(FORMS[problem.backend][best], problem)

    return problem.line_graph.plan(_key("least_cost", problem), make)


def cheapest(problem: Problem) -> str | None:
    """The form that is expected to be fastest, ``None`` if none can run. Planned once for each
    size."""
    found = problem.line_graph.plan(_key("cheapest", problem), lambda _: _cheapest(problem))
    if found is None or unavailable(FORMS[problem.backend][found], problem) is not None:
        return _cheapest(problem)  # kernels were switched on or off since
    return found


def _cheapest(problem: Problem) -> str | None:
    forms = FORMS[problem.backend].values()
    for some in (True, False):
        costs = {f.name: cost(f, problem) for f in forms if f.worthwhile(problem) == some}
        best = min(costs, key=costs.get, default=None)
        if best is not None and costs[best] < float("inf"):
            return best
    return None


def is_chosen(problem: Problem) -> bool:
    """Whether :func:`cheapest` is known."""
    return problem.line_graph.has_plan(_key("cheapest", problem))
