"""What the operators of the fused layer share: operands, tiles, launch options, second derivatives.

Triton compiles a kernel anew for each dtype and alignment of its arguments. :func:`operands` brings
what the layer is given into the few forms that the kernels are compiled for ahead of time.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.ops.compose import composed_grads
from plstm_graph.ops.triton.autotune import Config
from plstm_graph.ops.triton.common import MAX_KEY_SIZE, accumulator, aligned, power_of_2

#: V (in the dense kernels K, too) is a multiple of it, so that loads may be wide.
ALIGN = 4
#: State tiles [rows, width] and warps of the walks: all of K, and as much of V as leaves three
#: tiles in registers (the key walk's). The first of as many rows as K needs is the default. Two
#: warps or more: a barrier of one warp does not order memory on every device. Narrow V get no tile
#: of their own where a wide one, with lanes idle, has as many warps.
WALK_CONFIGS = (
    Config(16, 32, 2),
    Config(32, 32, 4),
    Config(32, 32, 2),
    Config(32, 16, 2),
    Config(64, 32, 8),
    Config(64, 16, 4),
    Config(128, 16, 8),
    Config(256, 8, 8),
)
#: Most registers of a thread in the walks.
REGISTERS = {torch.float32: 128, torch.float64: 255}


def walk_configs(key_size: int, value_size: int, dtype: torch.dtype) -> list[Config]:
    """Those of ``WALK_CONFIGS`` for K and V, arithmetic in ``dtype``; the first is the default.

    float64 is for comparisons and has one for each K.

    Raises:
        ValueError: if K passes ``MAX_KEY_SIZE``.
    """
    if key_size > MAX_KEY_SIZE:
        raise ValueError(
            f"expected at most {MAX_KEY_SIZE} key channels per head in the fused kernel, got "
            f"{key_size}; use more heads, or backend='torch'"
        )
    rows = max(WALK_CONFIGS[0].rows, power_of_2(key_size))
    fitting = [c for c in WALK_CONFIGS if c.rows == rows]
    if dtype == torch.float64:
        return fitting[:1]
    widest = max(power_of_2(value_size), min(c.width for c in fitting))
    return [c for c in fitting if c.width <= widest]


def operands(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    source: Tensor,
    transition: Tensor,
    mark: Tensor,
    direct: Tensor,
    *,
    pad_keys: bool = False,
) -> list[Tensor]:
    """The inputs as the kernels take them: contiguous, at aligned addresses.

    Query, key and value get one dtype: their own if they agree (and no input is float64), that of
    the arithmetic otherwise. Gates, which are small, get that of the arithmetic. V is padded to a
    multiple of ``ALIGN``; with ``pad_keys`` K is, too.
    """
    rows, gates = [query, key, value], [source, transition, mark, direct]
    wide = accumulator(*rows, *gates)
    agree = query.dtype == key.dtype == value.dtype and wide == torch.float32
    dtype = value.dtype if agree else wide
    rows = [x.to(dtype) for x in rows]
    rows = [_padded(x) if pad_keys or i == 2 else x for i, x in enumerate(rows)]
    return [aligned(x.contiguous()) for x in (*rows, *(gate.to(wide) for gate in gates))]


def _padded(x: Tensor) -> Tensor:
    return torch.nn.functional.pad(x, (0, -x.size(-1) % ALIGN)) if x.size(-1) % ALIGN else x


def padded_grad(grad: Tensor, value: Tensor) -> Tensor:
    """dL/dh in the form of the operand ``value``."""
    return aligned(_padded(grad.to(value.dtype)).contiguous())


def like_inputs(results: Sequence[Tensor], given: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Results of kernels in the shapes and dtypes of the layer's own tensors."""
    cut = [
        r if r.shape == g.shape else r[..., : g.size(-1)].contiguous()
        for r, g in zip(results, given)
    ]
    return tuple(r.to(g.dtype) for r, g in zip(cut, given))


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
