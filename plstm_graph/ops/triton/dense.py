r"""``dense_plstm``: the layer with one program per part of the batch and head, all on chip.

For parts of up to ``MAX_BLOCK`` edges and K, V up to ``MAX_CHANNELS``: only inputs, index tables
and outputs cross the memory bus, in one launch per block size. Kernels and derivation are in
:mod:`.dense_kernels`. Nothing but the inputs is kept for backward, which is dense, too, for parts
of up to ``BACKWARD_BLOCK`` edges: beyond, its matrices would not stay in registers, and the batch
takes the walks of :mod:`.fused_backward`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.ops.triton.common import accumulator, on_device, power_of_2
from plstm_graph.ops.triton.dense_kernels import dense_backward_kernel, dense_forward_kernel
from plstm_graph.ops.triton.dense_tables import DenseTables, dense_tables
from plstm_graph.ops.triton.fused_backward import fused_backward
from plstm_graph.ops.triton.fused_common import differentiable_grads, launch_options, tile_of
from plstm_graph.ops.triton.fused_tables import Walk, walk_tables

#: Largest K and V.
MAX_CHANNELS = 32
#: Largest block of the dense backward.
BACKWARD_BLOCK = 32
#: Warps of a program for each block.
NUM_WARPS = {16: 4, 32: 8, 64: 8}
#: Upper bound of registers of a thread: the compiler may use as many, and need not spill.
MAX_REGISTERS = 255

_TABLES, _WALK = len(DenseTables._fields), len(Walk._fields)


def tables_of(line_graph: LineGraph) -> list[Tensor]:
    """The dense tables, the walks and the index tensors of ``line_graph``, cached on it."""
    key = ("tables", "fused_dense")
    if key not in line_graph._cache:
        line_graph._cache[key] = [*dense_tables(line_graph), *walk_tables(line_graph)]
    return line_graph._cache[key]


def _constants(inputs: Sequence[Tensor], scale: float) -> dict[str, Any]:
    k, v = inputs[1].size(2), inputs[2].size(2)
    return {
        "SCALE": scale,
        "ALIGN": 4 if k % 4 == 0 and v % 4 == 0 else 1,
        "BLOCK_K": max(16, power_of_2(max(k, v))),
        "BLOCK_V": max(16, power_of_2(max(k, v))),
        "DTYPE": tl.float64 if accumulator(*inputs) == torch.float64 else tl.float32,
    }


def _launch(kernel, tensors: Sequence[Tensor], tables: DenseTables, constants) -> None:
    """``kernel`` over all parts and heads; the first three tensors are query, key and value."""
    heads, k = tensors[1].shape[1:]
    v, align = tensors[2].size(2), constants["ALIGN"]
    with on_device(tensors[0]):
        for block, first, parts in tables.launches.tolist():
            kernel[(parts * heads,)](
                *tensors,
                *tables[:-1],
                first,
                heads,
                k // align,
                v // align,
                BLOCK=block,
                num_warps=NUM_WARPS[block],
                num_stages=1,
                **launch_options(tensors[0].device, MAX_REGISTERS),
                **constants,
            )


@torch.library.custom_op("plstm_graph::dense_plstm", mutates_args=())
def dense_plstm_op(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    source: Tensor,
    transition: Tensor,
    mark: Tensor,
    direct: Tensor,
    scale: float,
    tables: Sequence[Tensor],
) -> Tensor:
    """Outputs [N, H, V]; shapes as :func:`plstm_graph.ops.plstm`, without J."""
    inputs = [x.contiguous() for x in (query, key, value, source, transition, mark, direct)]
    out = torch.empty_like(inputs[2])
    if out.numel():
        tables_ = DenseTables(*tables[:_TABLES])
        _launch(dense_forward_kernel, [*inputs, out], tables_, _constants(inputs, scale))
    return out


@dense_plstm_op.register_fake
def _(query, key, value, source, transition, mark, direct, scale, tables):
    return value.new_empty(value.shape)


@torch.library.custom_op("plstm_graph::dense_plstm_backward", mutates_args=())
def _backward_op(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    source: Tensor,
    transition: Tensor,
    mark: Tensor,
    direct: Tensor,
    scale: float,
    tables: Sequence[Tensor],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    inputs = [x.contiguous() for x in (query, key, value, source, transition, mark, direct)]
    grad, tables_ = grad.contiguous(), DenseTables(*tables[:_TABLES])
    if any(block > BACKWARD_BLOCK for block, _, _ in tables_.launches.tolist()):
        there, back = (Walk(*tables[i : i + _WALK]) for i in (_TABLES, _TABLES + _WALK))
        tile = tile_of(key.size(2), value.size(2))
        with on_device(grad):
            return fused_backward(grad, inputs, None, scale, there, back, tile)
    grads = [torch.empty_like(x) for x in inputs]
    if grad.numel():
        tensors = [*inputs, grad, *grads]
        _launch(dense_backward_kernel, tensors, tables_, _constants(inputs, scale))
    return tuple(grads)


@_backward_op.register_fake
def _(grad, query, key, value, source, transition, mark, direct, scale, tables):
    inputs = (query, key, value, source, transition, mark, direct)
    return tuple(x.new_empty(x.shape) for x in inputs)


def _setup_context(ctx, inputs, output):
    *tensors, ctx.scale, ctx.tables = inputs
    ctx.save_for_backward(*tensors)


def _autograd_backward(ctx, grad):
    inputs = ctx.saved_tensors
    if torch.is_grad_enabled():  # create_graph=True: a backward with a graph of its own
        grads = differentiable_grads(inputs, grad, ctx.scale, *ctx.tables[-2:])
    else:
        grads = _backward_op(grad, *inputs, ctx.scale, ctx.tables)
    return *grads, None, [None] * len(ctx.tables)


dense_plstm_op.register_autograd(_autograd_backward, setup_context=_setup_context)
