r"""The walk form: one compiled loop over the edges of each part and head, states in the cache.

It is the definition, with the states of a part kept next to each other: for each edge in
topological order, S_e k v^T and what its line edges bring are added up and read at once. The
backward is written by hand, with the terms of :mod:`plstm_graph.ops.levelwise`; the adjoint states
come along the same line edges against the order. So a graph and its reverse share their tables, and
one that was oriented anew costs a sort. Elements of states never mix: states too large for the
cache are made tile by tile.

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
#: A tile of V (backward of K) has some multiple of so many columns, and up to so many: see walk.c.
STEP, MAX_TILE = 8, 32


def unavailable(device: torch.device) -> str | None:
    """Why the form cannot run on ``device``; ``None`` if it can."""
    if device.type != "cpu":
        return f"it runs on CPUs only, not on {device}"
    return native.unavailable()


def _tile(walk: PartWalk, k: int, v: int) -> int:
    """Columns of a tile of states [k, v]."""
    most = TILE_ELEMENTS // max(1, int(walk.longest) * k) // STEP * STEP
    most = min(MAX_TILE, max(STEP, most))
    return -(-v // -(-v // most) // STEP) * STEP  # as few as that many tiles need


def _run(
    name: str,
    inputs: Sequence[Tensor],
    walk: PartWalk,
    shape: tuple[int, int],
    buffers: int,
    *tensors: Tensor,
) -> None:
    """Call a kernel that makes states of a shape, tiles of its columns, in so many buffers."""
    query, key, value = inputs[:3]
    _, heads, k = query.shape
    tile = _tile(walk, *shape)
    against, longest, *tables = walk
    steps = [x.stride(0) for x in (query, key, value)]
    native.run(
        name, query.dtype, (walk.node_ptr.numel() - 1) * heads,
        buffers * int(longest) * shape[0] * tile,
        *tensors, heads, k, value.size(2), tile, *steps, int(against), *tables,
    )  # fmt: skip


def _readable(inputs: Sequence[Tensor], scale: float) -> list[Tensor]:
    """The inputs as the kernels read them, the query scaled: nodes may be any stride apart, so
    query, key and value may be columns of one product."""
    query, *rest = inputs
    inputs = [query if scale == 1 else query * scale, *rest]
    return [
        x if i < 3 and x.stride()[1:] == (x.size(2), 1) else x.contiguous()
        for i, x in enumerate(inputs)
    ]


def walk_forward(inputs: Sequence[Tensor], scale: float, walk: PartWalk) -> Tensor:
    """The layer; shapes as :func:`plstm_graph.ops.plstm`, without J."""
    inputs = _readable(inputs, scale)
    query, _, value = inputs[:3]
    out = value.new_empty(value.shape)
    _run("walk_forward", inputs, walk, (query.size(2), value.size(2)), 1, *inputs, out)
    return out


def walk_backward(
    grad: Tensor, inputs: Sequence[Tensor], scale: float, walk: PartWalk
) -> tuple[Tensor, ...]:
    """Gradients of the seven inputs of :func:`walk_forward`."""
    inputs = _readable(inputs, scale)
    query, _, value = inputs[:3]
    grads = [x.new_empty(x.shape) for x in inputs]
    for of_edges in grads[3:6]:
        of_edges.zero_()  # they are added to, tile by tile
    shape = value.size(2), query.size(2)
    _run("walk_backward", inputs, walk, shape, 2, grad.contiguous(), *inputs, *grads)
    return tuple(grads) if scale == 1 else (grads[0].mul_(scale), *grads[1:])
