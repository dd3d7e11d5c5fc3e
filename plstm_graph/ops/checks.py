"""Checks of the operators' arguments: what was expected, what was got, what to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.ops.forms import names
from plstm_graph.ops.inputs import Factored, Inputs
from plstm_graph.ops.triton.common import unavailable

BACKENDS = ("auto", "torch", "triton")
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def _check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"expected {name} as one of {', '.join(choices)}, got {value!r}")


def check_size(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"expected {name} as an integer of 1 or more, got {value!r}")


def check_line_graph(line_graph: Any) -> None:
    if not isinstance(line_graph, LineGraph):
        raise ValueError(
            f"expected line_graph as a LineGraph, got {type(line_graph).__name__}; build one with "
            f"LineGraph.from_edge_index or LineGraph.from_data"
        )


def check_tensor(name: str, value: Any, axes: int) -> None:
    if not isinstance(value, Tensor) or value.dim() != axes:
        got = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"expected {name} as a tensor with {axes} axes, got {got}")


def _check_tensors(tensors: dict[str, Any], line_graph: LineGraph) -> None:
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(f"expected {name} as a tensor, got {type(tensor).__name__}")
        if tensor.layout != torch.strided:
            raise ValueError(
                f"expected {name} as a dense tensor, got layout {tensor.layout}; call .to_dense()"
            )
        if tensor.dtype not in DTYPES:
            raise ValueError(
                f"expected {name} of dtype float16, bfloat16, float32 or float64, got "
                f"{tensor.dtype}; convert it with .float()"
            )
        if tensor.device != line_graph.device:
            raise ValueError(
                f"expected {name} on {line_graph.device} like line_graph, got {tensor.device}; "
                f"move one of them with .to()"
            )
    dtypes = {tensor.dtype for tensor in tensors.values()}
    if torch.float64 in dtypes and len(dtypes) > 1:
        others = [name for name, tensor in tensors.items() if tensor.dtype != torch.float64]
        raise ValueError(
            f"expected all inputs of dtype torch.float64 where one is, got {', '.join(others)} of "
            f"other dtypes; convert them with .double()"
        )


def _check_shape(name: str, tensor: Tensor, shape: tuple[int, ...], letters: str) -> None:
    if tuple(tensor.shape) != shape:
        raise ValueError(
            f"expected {name} of shape {list(shape)} ({letters}), got {list(tensor.shape)}"
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


def check_plstm(
    inputs: Inputs, line_graph: LineGraph, scale: float, form: str, backend: str
) -> None:
    """Raise ``ValueError`` or ``TypeError`` unless the arguments of ``plstm`` fit together."""
    _check_choice("form", form, ("auto", *names()))
    _check_choice("backend", backend, BACKENDS)
    check_line_graph(line_graph)
    if isinstance(scale, bool) or not isinstance(scale, (int, float)):
        raise TypeError(
            f"expected scale as a number, got {type(scale).__name__}; a tensor's gradient would be "
            f"lost: multiply the query with it instead"
        )
    tensors = inputs._asdict()
    if inputs.factored:
        tensors |= {"transition.a": inputs.transition.a, "transition.b": inputs.transition.b}
        del tensors["transition"]
    _check_tensors(tensors, line_graph)
    query, key, value, source, transition, mark, direct = inputs
    for name in ("query", "value"):
        if tensors[name].dim() != 3:
            raise ValueError(
                f"expected {name} with 3 axes [N, H, channels], got {list(tensors[name].shape)}"
            )
    n, e = line_graph.num_nodes, line_graph.num_edges
    heads, k, v = query.size(1), query.size(2), value.size(2)
    if min(heads, k, v) < 1:
        raise ValueError(
            f"expected at least one head and channel, got query {list(query.shape)} and value "
            f"{list(value.shape)}"
        )
    _check_shape("query", query, (n, heads, k), "N, H, K")
    _check_shape("key", key, (n, heads, k), "N, H, K")
    _check_shape("value", value, (n, heads, v), "N, H, V")
    _check_shape("direct", direct, (n, heads), "N, H")
    if source.dim() == 3:
        j = source.size(2)
        _check_shape("source", source, (e, heads, j), "E, H, J")
        _check_shape("mark", mark, (e, heads, j), "E, H, J")
        if inputs.factored:
            raise ValueError(
                "expected source [E, H] with transition as Factored, got [E, H, J]; state tracking "
                "takes transition [L, H, J, J]"
            )
        lines = line_graph.num_line_edges
        _check_shape("transition", transition, (lines, heads, j, j), "L, H, J, J")
    else:
        _check_shape("source", source, (e, heads), "E, H")
        _check_shape("mark", mark, (e, heads), "E, H")
        _check_transition(transition, line_graph, heads)


def _check_transition(transition: Tensor | Factored, line_graph: LineGraph, heads: int) -> None:
    if isinstance(transition, Factored):
        for name, x in transition._asdict().items():
            _check_shape(f"transition.{name}", x, (line_graph.num_edges, heads), "E, H")
    else:
        _check_shape("transition", transition, (line_graph.num_line_edges, heads), "L, H")


def check_scan(
    x: Tensor, transition: Tensor | Factored, line_graph: LineGraph, backend: str
) -> None:
    """Raise ``ValueError`` unless the arguments of ``dag_scan`` fit together."""
    _check_choice("backend", backend, BACKENDS)
    check_line_graph(line_graph)
    tensors = {"x": x, "transition": transition}
    if isinstance(transition, Factored):
        tensors = {"x": x, "transition.a": transition.a, "transition.b": transition.b}
    _check_tensors(tensors, line_graph)
    e = line_graph.num_edges
    if x.dim() not in (3, 4):
        raise ValueError(f"expected x of shape [E, H, W] or [E, H, J, W], got {list(x.shape)}")
    if x.dim() == 3:
        _check_shape("x", x, (e, *x.shape[1:]), "E, H, W")
        _check_transition(transition, line_graph, x.size(1))
    else:
        j, lines = x.size(2), line_graph.num_line_edges
        _check_shape("x", x, (e, *x.shape[1:]), "E, H, J, W")
        if isinstance(transition, Factored):
            raise ValueError(
                "expected x [E, H, W] with transition as Factored, got [E, H, J, W]; state "
                "tracking takes transition [L, H, J, J]"
            )
        _check_shape("transition", transition, (lines, x.size(1), j, j), "L, H, J, J")
