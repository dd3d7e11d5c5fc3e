"""Checks of the operators' arguments: what was expected, what was got, what to do."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.ops.triton.common import unavailable

FORMS = ("auto", "naive", "parallel", "levelwise", "chunkwise", "walk")
#: Forms without a Triton kernel.
TORCH_FORMS = ("naive", "chunkwise", "walk")
BACKENDS = ("auto", "torch", "triton")


def _check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"expected {name} as one of {', '.join(choices)}, got {value!r}")


def _check_line_graph(line_graph: Any) -> None:
    if not isinstance(line_graph, LineGraph):
        raise ValueError(
            f"expected line_graph as a LineGraph, got {type(line_graph).__name__}; build one with "
            f"LineGraph.from_edge_index or LineGraph.from_data"
        )


def _check_tensors(tensors: dict[str, Any], line_graph: LineGraph) -> None:
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(f"expected {name} as a tensor, got {type(tensor).__name__}")
        if not tensor.is_floating_point():
            raise ValueError(f"expected {name} of a floating-point dtype, got {tensor.dtype}")
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
    query: Tensor,
    key: Tensor,
    value: Tensor,
    source: Tensor,
    transition: Tensor,
    mark: Tensor,
    direct: Tensor,
    line_graph: LineGraph,
    form: str,
    backend: str,
) -> None:
    """Raise ``ValueError`` unless the arguments of ``plstm`` fit together."""
    _check_choice("form", form, FORMS)
    _check_choice("backend", backend, BACKENDS)
    if backend == "triton" and form in TORCH_FORMS:
        raise ValueError(f"expected backend 'auto' or 'torch' for form={form!r}, got 'triton'")
    _check_line_graph(line_graph)
    names = ("query", "key", "value", "source", "transition", "mark", "direct")
    tensors = dict(zip(names, (query, key, value, source, transition, mark, direct)))
    _check_tensors(tensors, line_graph)
    for name in ("query", "value"):
        if tensors[name].dim() != 3:
            raise ValueError(
                f"expected {name} with 3 axes [N, H, channels], got {list(tensors[name].shape)}"
            )
    n, e, l = line_graph.num_nodes, line_graph.num_edges, line_graph.num_line_edges
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
        _check_shape("transition", transition, (l, heads, j, j), "L, H, J, J")
    else:
        _check_shape("source", source, (e, heads), "E, H")
        _check_shape("mark", mark, (e, heads), "E, H")
        _check_shape("transition", transition, (l, heads), "L, H")


def check_scan(x: Tensor, transition: Tensor, line_graph: LineGraph, backend: str) -> None:
    """Raise ``ValueError`` unless the arguments of ``dag_scan`` fit together."""
    _check_choice("backend", backend, BACKENDS)
    _check_line_graph(line_graph)
    _check_tensors({"x": x, "transition": transition}, line_graph)
    e, l = line_graph.num_edges, line_graph.num_line_edges
    if x.dim() not in (3, 4):
        raise ValueError(f"expected x of shape [E, H, W] or [E, H, J, W], got {list(x.shape)}")
    if x.dim() == 3:
        _check_shape("x", x, (e, *x.shape[1:]), "E, H, W")
        _check_shape("transition", transition, (l, x.size(1)), "L, H")
    else:
        j = x.size(2)
        _check_shape("x", x, (e, *x.shape[1:]), "E, H, J, W")
        _check_shape("transition", transition, (l, x.size(1), j, j), "L, H, J, J")
