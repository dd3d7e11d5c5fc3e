r"""``dense_plstm``: the layer with one program per part of the batch and head, all on chip.

For parts of up to ``MAX_BLOCK`` edges and K, V up to ``CHANNELS``: only inputs, index tables and
outputs cross the memory bus, in one launch per block size. Kernels and derivation are in
:mod:`.dense_kernels`. Nothing but the inputs is kept for backward.

**Tuning.** The number of warps, for each block and both directions; keys are
("dense_forward" or "dense_backward", block, parts x H rounded to a power of two, dtype). It changes
the order of sums, so the last bits: a choice once made is kept, and none is made where torch's
deterministic mode is on. There are no stages: no loop of these kernels loads tiles.

float64 does not fit on chip: :func:`.fused.fused_plstm` sends it by the walk. The operator takes
it for comparisons.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton.language as tl
from torch import Tensor

from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.ops.triton.autotune import Config, pick
from plstm_graph.ops.triton.common import launch_options, on_device, power_of_2
from plstm_graph.ops.triton.dense_kernels import dense_backward_kernel, dense_forward_kernel
from plstm_graph.ops.triton.dense_tables import DenseTables, dense_tables
from plstm_graph.ops.triton.fused_common import (
    ALIGN,
    differentiable_grads,
    like_inputs,
    operands,
    padded_grad,
)

#: Largest K and V, and the columns of their tiles.
CHANNELS = 32
#: Warps of a program for each block; the first is the default.
CONFIGS = {
    block: tuple(Config(block, CHANNELS, warps) for warps in some)
    for block, some in {16: (4, 2), 32: (8, 4), 64: (8,)}.items()
}
#: Upper bound of registers of a thread: the compiler may use as many, and need not spill.
MAX_REGISTERS = 255

_TABLES = len(DenseTables._fields)


def terms(block: int, hip: bool) -> int:
    """Terms of a product at a time, as found by compiling: with these no register is spilled.

    Operands of products on NVIDIA's scalar units stay in registers as a whole, so few at a time;
    AMD's matrix units take them in pieces, and splitting only costs registers.
    """
    return 16 if block == 64 and not hip else 64


def tables_of(line_graph: LineGraph) -> list[Tensor]:
    """The dense tables and the index tensors of ``line_graph``, cached on it."""
    key = ("tables", "fused_dense")
    if key not in line_graph._cache:
        indices = [line_graph.edge_index, line_graph.line_index]
        line_graph._cache[key] = [*dense_tables(line_graph), *indices]
    return line_graph._cache[key]


def _launch(name: str, tensors: Sequence[Tensor], scale: float, tables: DenseTables) -> None:
    """One of the kernels over all parts and heads; ``tensors`` begin with query, key and value."""
    kernel = {"dense_forward": dense_forward_kernel, "dense_backward": dense_backward_kernel}[name]
    query, (heads, k), v = tensors[0], tensors[1].shape[1:], tensors[2].size(2)
    wide = tensors[3].dtype == torch.float64
    hip = torch.version.hip is not None
    for block, first, parts in tables.launches.tolist():

        def launch(config: Config, block: int = block, first: int = first, parts: int = parts):
            kernel[(parts * heads,)](
                *tensors,
                *tables[:-1],
                first,
                heads,
                k // ALIGN,
                v // ALIGN,
                scale,
                BLOCK=block,
                CHANNELS=config.width,
                TERMS=terms(block, hip),
                DTYPE=tl.float64 if wide else tl.float32,
                num_warps=config.num_warps,
                num_stages=config.num_stages,
                **launch_options(query.device, MAX_REGISTERS),
            )

        configs = CONFIGS[block][:1] if wide else CONFIGS[block]
        key = (name, block, power_of_2(parts * heads), str(query.dtype))
        with on_device(query):
            launch(pick(key, configs, launch, query.device))


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
    inputs = operands(query, key, value, source, transition, mark, direct, pad_keys=True)
    out = torch.empty_like(inputs[2])
    if out.numel():
        _launch("dense_forward", [*inputs, out], scale, DenseTables(*tables[:_TABLES]))
    return like_inputs([out], [value])[0]


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
    given = (query, key, value, source, transition, mark, direct)
    inputs = operands(*given, pad_keys=True)
    if not grad.numel():
        return tuple(torch.zeros_like(x) for x in given)
    grads = [torch.empty_like(x) for x in inputs]
    tensors = [*inputs, padded_grad(grad, inputs[2]), *grads]
    _launch("dense_backward", tensors, scale, DenseTables(*tables[:_TABLES]))
    return like_inputs(grads, given)


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
