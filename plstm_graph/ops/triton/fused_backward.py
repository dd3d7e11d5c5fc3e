"""The backward of the fused layer: two walks, one on each side of the attention."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from plstm_graph.ops.triton.autotune import Config
from plstm_graph.ops.triton.common import launch_options
from plstm_graph.ops.triton.fused_common import ALIGN, REGISTERS
from plstm_graph.ops.triton.fused_kernels import fused_key_kernel, fused_query_kernel
from plstm_graph.ops.triton.fused_tables import Walk

#: Gradients of transitions that the key walk stores at a time.
LINES = 16


def fused_backward(
    grad: Tensor,
    inputs: Sequence[Tensor],
    kept: Tensor | None,
    scale: float,
    there: Walk,
    back: Walk,
    config: Config,
) -> tuple[Tensor, ...]:
    """Gradients of query, key, value, source, transition, mark and direct.

    Args:
        grad: [N, H, V], an operand as ``inputs``.
        inputs: the operands of the forward.
        kept: [E, H, K, V] states of the forward, or None to form them again.
        scale: of the query.
        there, back: the walks of both directions.
        config: the tile of the states; gradients that sum over V are partial in each tile.

    Returns:
        Gradients of the operands, those of query and key in the dtype of the arithmetic.
    """
    query, key, value, source, transition, mark, direct = inputs
    (n, heads, k), v = query.shape, value.size(2)
    e, l = source.size(0), transition.size(0)
    dtype = source.dtype
    tiles = -(-v // config.width)
    states = value.new_empty((e, heads, k, v), dtype=dtype) if kept is None else kept
    # Kept states may serve a second backward: they stay as they are.
    adjoint = states if kept is None else torch.empty_like(states)

    def partial(like: Tensor) -> Tensor:
        return like.new_empty((tiles, *like.shape), dtype=dtype)

    d_query, d_key = partial(query), partial(key)
    d_value = torch.empty_like(value)
    d_source, d_transition = partial(source), partial(transition)
    d_mark, d_direct = partial(mark), partial(direct)
    blocks = {
        "BLOCK_K": config.rows,
        "BLOCK_V": config.width,
        "num_warps": config.num_warps,
        "num_stages": config.num_stages,
        **launch_options(grad.device, REGISTERS[dtype]),
    }
    for first, runs in there.steps.tolist():
        fused_query_kernel[(runs * heads, tiles)](
            *inputs,
            grad,
            states,
            d_query,
            d_mark,
            *there[:-1],
            first,
            n,
            e,
            heads,
            k,
            v // ALIGN,
            scale,
            RECOMPUTE=kept is None,
            **blocks,
        )
    for first, runs in back.steps.tolist():
        fused_key_kernel[(runs * heads, tiles)](
            *inputs,
            grad,
            states,
            adjoint,
            d_key,
            d_value,
            d_source,
            d_transition,
            d_direct,
            *back[:-1],
            first,
            n,
            e,
            l,
            heads,
            k,
            v // ALIGN,
            scale,
            LINES=LINES,
            **blocks,
        )

    partials = (d_query, d_key, d_source, d_transition, d_mark, d_direct)
    sums = [part[0] if tiles == 1 else part.sum(0) for part in partials]
    return *sums[:2], d_value, *sums[2:]
