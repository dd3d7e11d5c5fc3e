"""Checks of the operators' arguments: what was expected, what was got, what to do."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from plstm_graph.checks import choice, dense, instance, real, refuse
from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.ops.forms import names
from plstm_graph.ops.gauge import COUNTING, NORMALIZERS, STABILIZERS
from plstm_graph.ops.inputs import EdgeStates, Factored, Inputs, LogGate, Reflections
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
    """The tensors of a transition of a scan by name, checked."""
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


def _gate(name: str, gate: Any, logs: bool, *shape: int | str, **like: Any) -> dict[str, Tensor]:
    """The tensors of a gate by name, checked."""
    if not logs:
        if isinstance(gate, LogGate):
            refuse(name, "as a tensor without stabilizer", "LogGate", "choose stabilizer=")
        return {name: dense(name, gate, *shape, **like)}
    instance(name, gate, LogGate, "a LogGate with stabilizer", "take the logarithm of the gate")
    log = dense(f"{name}.log_abs", gate.log_abs, *shape, **like)
    if gate.sign is None:
        return {f"{name}.log_abs": log}
    return {f"{name}.log_abs": log, f"{name}.sign": dense(f"{name}.sign", gate.sign, *log.shape)}


def _axes(value: Any) -> int:
    """The number of axes of a gate, 0 for what is none."""
    value = value.log_abs if isinstance(value, LogGate) else value
    return value.dim() if isinstance(value, Tensor) else 0


def check_plstm(
    inputs: Inputs,
    line_graph: LineGraph,
    scale: float,
    form: str,
    backend: str,
    stabilizer: str | None = None,
) -> None:
    """Raise ``ValueError`` unless the arguments of ``plstm`` fit together."""
    choice("form", form, form_names())
    choice("backend", backend, BACKENDS)
    if stabilizer is not None:
        choice("stabilizer", stabilizer, STABILIZERS, "None for none")
    check_line_graph(line_graph)
    remedy = "a tensor's gradient would be lost: multiply the query with it instead"
    real("scale", scale, remedy=remedy if isinstance(scale, Tensor) else "")
    n, e, l = line_graph.num_nodes, line_graph.num_edges, None
    like = {"device": line_graph.device, "like": "line_graph"}
    like["sizes"] = "N and E are those of line_graph, H and K those of query"
    query = dense("query", inputs.query, n, "H", "K", **like)
    _, heads, k = query.shape
    logs, transition = stabilizer is not None, inputs.transition
    block = _axes(transition) == 4 and not isinstance(transition, Factored)
    channels = block and _axes(inputs.source) == 4, block and _axes(inputs.mark) == 4
    axes = ("J_S", "V") if channels[0] else ("V",)
    value = dense("value", inputs.value, n, heads, *axes, **like)
    if min(heads, k, *value.shape[2:]) < 1:
        refuse("query and value", "with at least one head and channel", [query.shape, value.shape])
    found = {"query": query, "key": dense("key", inputs.key, n, heads, k, **like), "value": value}
    if isinstance(transition, Factored):
        if logs:
            refuse("transition", "as a LogGate with stabilizer", "Factored", "use [L, H] logs")
        found |= _transition(transition, line_graph, heads, None)
        source, mark, direct = (), (), ()
    else:
        l = line_graph.num_line_edges
        states: tuple[int | str, ...] = ()
        if block:
            size = transition.log_abs if isinstance(transition, LogGate) else transition
            states = (size.size(2), size.size(2))
        elif _axes(transition) == 3:
            states = (k,)
        found |= _gate("transition", transition, logs, l, heads, *states, **like)
        j = states[:1] if block else ()
        s, m = (value.size(2) if channels[0] else 1), ("J_M" if channels[1] else 1)
        source = (s, *j) if channels[0] else j
        mark = (*j, m) if channels[1] else j
        m = inputs.mark.size(3) if channels[1] else 1
        direct = (s, m) if any(channels) else ()
    found |= _gate("source", inputs.source, logs, e, heads, *source, **like)
    found |= _gate("mark", inputs.mark, logs, e, heads, *mark, **like)
    found |= _gate("direct", inputs.direct, logs, n, heads, *direct, **like)
    if block and logs:
        refuse("transition", "[L, H] or [L, H, K] with stabilizer", "block transitions")
    _check_one_dtype(found)


def check_options(inputs: Inputs, options: Any, line_graph: LineGraph) -> None:
    """Raise ``ValueError`` unless the further arguments of ``plstm`` fit to its inputs."""
    n, heads, k = inputs.query.shape
    like = {"device": line_graph.device, "like": "line_graph"}
    found = {"value": inputs.value}
    if options.normalizer is not None:
        choice("normalizer", options.normalizer, NORMALIZERS, "None for none")
    counting = options.normalizer in COUNTING
    if options.edge_query is not None:
        found["edge_query"] = dense("edge_query", options.edge_query, n, heads, k, **like)
    update, v = inputs.update, inputs.value.size(-1)
    block = inputs.kind == "block"
    if update is not None:
        instance("update", update, Reflections, "Reflections(key, beta, value)")
        key = dense("update.key", update.key, n, heads, "R", k, **like)
        r = key.size(2)
        found |= {"update.key": key}
        found["update.beta"] = dense("update.beta", update.beta, n, heads, r, **like)
        if update.value is not None:
            found["update.value"] = dense("update.value", update.value, n, heads, r, v, **like)
            if block:
                refuse("update.value", "as None with block transitions", update.value)
        if counting:
            remedy = "use normalizer=None, or leave out the update"
            refuse("normalizer", "as None or 'norm' with update", repr(options.normalizer), remedy)
    if options.initial is not None:
        initial = instance("initial", options.initial, EdgeStates, "EdgeStates(edge, state)")
        edge = _edges("initial.edge", initial.edge, line_graph)
        axes = (inputs.transition.size(2),) if block else ()
        shape = (edge.numel(), heads, *axes, k, v + counting)
        found["initial.state"] = dense("initial.state", initial.state, *shape, **like)
        if initial.log_scale is not None:
            if options.stabilizer is None:
                refuse("initial.log_scale", "as None without stabilizer", initial.log_scale)
            dense("initial.log_scale", initial.log_scale, edge.numel(), heads, **like)
    if options.return_state is not None:
        _edges("return_state", options.return_state, line_graph)
    _check_one_dtype(found)


def _edges(name: str, value: Any, line_graph: LineGraph) -> Tensor:
    """Numbers of edges, [I] int64."""
    edge = dense(name, value, "I", dtype=torch.int64, device=line_graph.device, like="line_graph")
    if edge.numel() and (int(edge.min()) < 0 or int(edge.max()) >= line_graph.num_edges):
        got = f"{int(edge.min())} to {int(edge.max())}"
        refuse(name, f"with numbers of edges, 0 to {line_graph.num_edges - 1}", got)
    return edge


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
