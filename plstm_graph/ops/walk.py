r"""The walk form: one compiled loop over the edges of each part and head, states in the cache.

It is the definition, with the states of a part kept next to each other: form all S_e k v^T, pass
them on along the line edges in topological order, read them. The backward is written by hand, with
the terms of :mod:`plstm_graph.ops.levelwise`; the adjoint states pass along the same line edges
against the order. So a graph and its reverse share their tables, and one that was oriented anew
costs a sort. Columns of V never mix: states too large for the cache are made tile by tile.

Only for CPUs with a compiler (:mod:`plstm_graph.ops.native`). On GPUs the fused Triton kernels walk
likewise.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from plstm_graph.dag.walk import PartWalk
from plstm_graph.ops import native

#: Elements of the states that are made together (a megabyte of floats).
TILE_ELEMENTS = 1 << 18
#: A tile of V has some multiple of so many columns, and up to so many: see walk.c.
STEP, MAX_TILE = 8, 32


def unavailable(device: torch.device) -> str | None:
    """Why the form cannot run on ``device``; ``None`` if it can."""
    if device.type != "cpu":
        return f"it runs on CPUs only, not on {device}"
    return native.unavailable()


def _tile(walk: PartWalk, k: int, v: int) -> int:
    most = TILE_ELEMENTS // max(1, int(walk.longest) * k) // STEP * STEP
    most = min(MAX_TILE, max(STEP, most))
    return -(-v // -(-v // most) // STEP) * STEP  # as few as that many tiles need


def _run(name: str, query: Tensor, v: int, walk: PartWalk, buffers: int, *tensors: Tensor) -> None:
    _, heads, k = query.shape
    tile = _tile(walk, k, v)
    against, longest, *tables = walk
    native.run(
        name, query.dtype, (walk.node_ptr.numel() - 1) * heads, buffers * int(longest) * k * tile,
        *tensors, heads, k, v, tile, int(against), *tables,
    )  # fmt: skip


def _contiguous(inputs: Sequence[Tensor], scale: float) -> list[Tensor]:
    """The inputs as the kernels read them, the query scaled."""
    query, *rest = inputs
    return [x.contiguous() for x in (query if scale == 1 else query * scale, *rest)]


def walk_forward(inputs: Sequence[Tensor], scale: float, walk: PartWalk) -> Tensor:
    """The layer; shapes as :func:`plstm_graph.ops.plstm`, without J."""
    query, *rest = _contiguous(inputs, scale)
    out = torch.empty_like(rest[1])
    _run("walk_forward", query, out.size(2), walk, 1, query, *rest, out)
    return out


def walk_backward(
    grad: Tensor, inputs: Sequence[Tensor], scale: float, walk: PartWalk
) -> tuple[Tensor, ...]:
    """Gradients of the seven inputs of :func:`walk_forward`."""
    query, *rest = _contiguous(inputs, scale)
    grads = tuple(map(torch.zeros_like, (query, *rest)))
    _run(
        "walk_backward", query, grad.size(2), walk, 2, grad.contiguous(), query, *rest, *grads
    )  # fmt: skip
    return grads if scale == 1 else (grads[0].mul_(scale), *grads[1:])
