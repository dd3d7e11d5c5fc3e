"""Checks of the operators' arguments: what was expected, what was got, what to do."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from plstm_graph.checks import choice, dense, instance, real, refuse
from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.ops.forms import names
from plstm_graph.ops.inputs import Factored, Inputs
from plstm_graph.ops.semiring import SEMIRINGS
from plstm_graph.ops.triton.common import unavailable

BACKENDS = ("auto", "torch", "triton")


def form_names() -> list[str]:
    """What ``form=`` may be."""
    return ["auto", *names()]


def check_line_graph(line_graph: Any) -> None:
    remedy = "build one with LineGraph.from_edge_index or LineGraph.from_data"
    instance("line_graph", line_graph, LineGraph, "a LineGraph", remedy)
    if not torch.compiler.is_compiling() and line_graph.is_changed:
        refuse(
            "line_graph", "with the tensors that it was made of", "ones changed in place", remedy
        )


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    """The inputs' dtype, or float32 where they are halves."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def resolve_backend(backend: str, device: torch.device) -> str:
    """``"torch"`` or ``"triton"``: auto takes Triton on GPUs, where it can be imported.

    Raises:
        ValueError: if ``backend`` is triton and no kernel can run on ``device``.
    """
    if backend == "torch" or (backend == "auto" and device.type != "cuda"):
        return "torch"
    reason = unavailable(device)
    if backend == "triton" and reason is not None:
        raise ValueError(f"backend='triton' cannot run here: {reason}")
    return "torch" if reason is not None else "triton"


def _check_one_dtype(tensors: dict[str, Tensor]) -> None:
    dtypes = {tensor.dtype for tensor in tensors.values()}
    if torch.float64 in dtypes and len(dtypes) > 1:
        double = [name for name, x in tensors.items() if x.dtype == torch.float64]
        others = [name for name in tensors if name not in double]
        refuse(
            "all inputs", "of dtype torch.float64 where one is",
            f"{', '.join(double)} in float64, {', '.join(others)} in others", "call .double()",
        )  # fmt: skip


def _transition(
    transition: Any, line_graph: LineGraph, heads: int, states: int | None
) -> dict[str, Tensor]:
    """The tensors of a transition by name, checked."""
    like = {"device": line_graph.device, "like": "line_graph"}
    if not isinstance(transition, Factored):
        axes = () if states is None else (states, states)
        shape = (line_graph.num_line_edges, heads, *axes)
        return {"transition": dense("transition", transition, *shape, **like)}
    if states is not None:
        refuse(
            "transition", f"[L, H, {states}, {states}] with state tracking", "Factored",
            "leave out the axis J of the other inputs",
        )  # fmt: skip
    return {
        f"transition.{name}": dense(f"transition.{name}", x, line_graph.num_edges, heads, **like)
        for name, x in transition._asdict().items()
    }


def check_plstm(
    inputs: Inputs, line_graph: LineGraph, scale: float, form: str, backend: str
) -> None:
    """Raise ``ValueError`` unless the arguments of ``plstm`` fit together."""
    choice("form", form, form_names())
    choice("backend", backend, BACKENDS)
    check_line_graph(line_graph)
    remedy = "a tensor's gradient would be lost: multiply the query with it instead"
    real("scale", scale, remedy=remedy if isinstance(scale, Tensor) else "")
    n, e = line_graph.num_nodes, line_graph.num_edges
    like = {"device": line_graph.device, "like": "line_graph"}
    like["sizes"] = "N and E are those of line_graph, H and K those of query"
    query = dense("query", inputs.query, n, "H", "K", **like)
    value = dense("value", inputs.value, n, query.size(1), "V", **like)
    _, heads, k = query.shape
    if min(heads, k, value.size(2)) < 1:
        refuse("query and value", "with at least one head and channel", [query.shape, value.shape])
    key = dense("key", inputs.key, n, heads, k, **like)
    direct = dense("direct", inputs.direct, n, heads, **like)
    states = None
    if isinstance(inputs.source, Tensor) and inputs.source.dim() == 3:
        states = inputs.source.size(2)
    axes = () if states is None else (states,)
    source = dense("source", inputs.source, e, heads, *axes, **like)
    mark = dense("mark", inputs.mark, e, heads, *axes, **like)
    _check_one_dtype(
        {
            "query": query,
            "key": key,
            "value": value,
            "source": source,
            "mark": mark,
            "direct": direct,
            **_transition(inputs.transition, line_graph, heads, states),
        }
    )


def check_scan(
    x: Tensor,
    transition: Tensor | Factored,
    line_graph: LineGraph,
    semiring: str,
    backend: str,
) -> None:
    """Raise ``ValueError`` unless the arguments of ``dag_scan`` fit together."""
    choice("semiring", semiring, SEMIRINGS)
    choice("backend", backend, BACKENDS)
    check_line_graph(line_graph)
    if backend == "triton" and semiring != "sum":
        refuse("backend", f"with semiring={semiring!r}", "'triton'", "use 'auto' or 'torch'")
    diagonal = isinstance(transition, Tensor) and transition.dim() == 3
    wide = isinstance(x, Tensor) and x.dim() == 4
    axes = (("K", "V") if wide else ("K",)) if diagonal else (("J", "W") if wide else ("W",))
    shape = (line_graph.num_edges, "H", *axes)
    like = {"device": line_graph.device, "like": "line_graph"}
    x = dense("x", x, *shape, **like, sizes="E is that of line_graph")
    if diagonal:
        shape = (line_graph.num_line_edges, *x.shape[1:3])
        tensors = {"transition": dense("transition", transition, *shape, **like)}
    else:
        tensors = _transition(transition, line_graph, x.size(1), x.size(2) if wide else None)
    _check_one_dtype({"x": x, **tensors})
