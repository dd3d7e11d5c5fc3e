r"""The layer composed of ``dag_scan`` and differentiable tensor operations.

Edge states as one scan of the payload S k v^T, then the readout. It is what second derivatives
go through, and what a layer uses that needs the edge states themselves; the forms with a
backward of their own save its memory.
"""

from __future__ import annotations

import torch
from torch import Tensor

from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.ops.scan import levelwise_dag_scan


def composed_plstm(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    source: Tensor,
    transition: Tensor,
    mark: Tensor,
    direct: Tensor,
    line_graph: LineGraph,
    *,
    scale: float = 1.0,
) -> Tensor:
    """Shapes as :func:`plstm_graph.ops.plstm`, without J."""
    src, dst = line_graph.edge_index
    query = query * scale
    x = source[..., None, None] * key[src][..., None] * value[src][:, :, None, :]
    state = levelwise_dag_scan(x.flatten(2), transition, line_graph).view_as(x)
    message = mark[..., None] * (query[dst][..., None] * state).sum(2)
    h = (direct * (query * key).sum(-1))[..., None] * value
    return h.index_add(0, dst, message)


def composed_grads(
    inputs: tuple[Tensor, ...], grad: Tensor, line_graph: LineGraph, scale: float
) -> tuple[Tensor | None, ...]:
    """Gradients of the seven inputs of :func:`composed_plstm` with their own graph recorded."""
    with torch.enable_grad():
        out = composed_plstm(*inputs, line_graph, scale=scale)
        wanted = [x for x in inputs if x.requires_grad]
        grads = iter(torch.autograd.grad(out, wanted, grad, create_graph=True, allow_unused=True))
    return tuple(next(grads) if x.requires_grad else None for x in inputs)
