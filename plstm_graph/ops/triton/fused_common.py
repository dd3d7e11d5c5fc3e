"""What the operators of the fused layer share: tiles, launch options, second derivatives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.ops.compose import composed_grads
from plstm_graph.ops.triton.common import MAX_KEY_SIZE, accumulator, power_of_2

#: Elements of a state tile, in all and of a thread: the key walk holds three tiles in registers.
TILE_ELEMENTS, ELEMENTS_PER_THREAD = 2048, 8
#: Columns of a state tile. Wider values take more programs.
MIN_BLOCK_V, MAX_BLOCK_V = 16, 32
#: Most registers of a thread, if V is a multiple of 4 and otherwise (more addresses and masks).
REGISTERS = {4: 128, 1: 168}


class Tile(NamedTuple):
    """The state tile of a program, its number of warps, and what is known to divide V."""

    block_k: int
    block_v: int
    num_warps: int
    align: int


def tile_of(key_size: int, value_size: int) -> Tile:
    """The tile for K and V: all of K, and as much of V as ``TILE_ELEMENTS`` allow.

    Raises:
        ValueError: if K passes ``MAX_KEY_SIZE``.
    """
    if key_size > MAX_KEY_SIZE:
        raise ValueError(
            f"expected at most {MAX_KEY_SIZE} key channels per head in the fused kernel, got "
            f"{key_size}; use more heads, or backend='torch'"
        )
    block_k = max(16, power_of_2(key_size))
    block_v = min(max(MIN_BLOCK_V, power_of_2(value_size)), MAX_BLOCK_V, TILE_ELEMENTS // block_k)
    # Two warps or more: a barrier of one warp does not order memory on every device.
    num_warps = max(2, block_k * block_v // (32 * ELEMENTS_PER_THREAD))
    return Tile(block_k, block_v, num_warps, 4 if value_size % 4 == 0 else 1)


def launch_options(device: torch.device, registers: int) -> dict[str, int]:
    """Let the compiler use up to ``registers`` a thread where it has that option (NVIDIA).

    Left to itself it aims at round numbers and spills a register or two to meet them.
    """
    return {"maxnreg": registers} if device.type == "cuda" and torch.version.hip is None else {}


def differentiable_grads(
    inputs: Sequence[Tensor],
    grad: Tensor,
    scale: float,
    edge_index: Tensor,
    line_index: Tensor,
) -> tuple[Tensor | None, ...]:
    """Gradients of the seven inputs with a graph of their own recorded.

    Args:
        inputs: query, key, value, source, transition, mark, direct, without J.
        grad: [N, H, V].
        scale: of the query.
        edge_index: [2, E]; line_index: [2, L].
    """
    edge_id = torch.arange(edge_index.size(1), device=edge_index.device)
    line_graph = LineGraph._trusted(inputs[0].size(0), edge_index, line_index, edge_id, None)
    dtype = accumulator(*inputs)
    wide = tuple(x.to(dtype) for x in inputs)
    grads = composed_grads(wide, grad.to(dtype), line_graph, scale)
    return tuple(None if g is None else g.to(x.dtype) for g, x in zip(grads, inputs))
