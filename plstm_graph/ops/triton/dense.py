r"""The dense form: one program per part of the batch and head, all on chip.

For parts of up to ``MAX_BLOCK`` edges and nodes, and K, V up to ``CHANNELS``: only inputs, index
tables and outputs cross the memory bus, in one launch per block size. Kernels and derivation are in
:mod:`.dense_kernels`; this module imports no triton itself. Nothing but the inputs is kept for
backward. float64 does not fit on chip: it is for comparisons in the interpreter.

**Tuning.** The number of warps, for each block and both directions; keys are
("dense_forward" or "dense_backward", block, parts x H rounded to a power of two, dtype). It changes
the order of sums, so the last bits: a choice once made is kept, and none is made where torch's
deterministic mode is on. There are no stages: no loop of these kernels loads tiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from plstm_graph.dag.levels import csr
from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.ops.inputs import Inputs
from plstm_graph.ops.triton import common
from plstm_graph.ops.triton.autotune import Config, pick
from plstm_graph.ops.triton.common import (
    ALIGN,
    aligned,
    launch_options,
    like,
    node_parts,
    on_device,
    operands,
    padded,
    power_of_2,
)

#: Largest K and V, and the columns of their tiles.
CHANNELS = 32
#: Edges of the smallest and of the largest block.
MIN_BLOCK, MAX_BLOCK = 16, 64
#: Warps of a program for each block; the first is the default.
CONFIGS = {
    block: tuple(Config(block, CHANNELS, warps) for warps in some)
    for block, some in {16: (4, 2), 32: (8, 4), 64: (8,)}.items()
}
#: Most registers of a thread: the compiler may use as many, and need not spill.
MAX_REGISTERS = 255


class Plan(NamedTuple):
    """Tables, int32 (P parts by falling block size); ``launches`` is on the CPU.

    Attributes:
        node_ptr: [P + 1] offsets of the parts into ``node``; node: [N].
        edge_ptr: [P + 1] offsets of the parts into ``edge``; edge: [E] in topological order.
        src, dst: [E] ends of ``edge``, counted inside the part.
        line_ptr: [E + 1] offsets of the line edges into each ``edge``; line: [L];
            before: [L] the edge each one comes from, counted inside the part.
        launches: [blocks, 3] block size, first part and number of parts.
    """

    node_ptr: Tensor
    node: Tensor
    edge_ptr: Tensor
    edge: Tensor
    src: Tensor
    dst: Tensor
    line_ptr: Tensor
    line: Tensor
    before: Tensor
    launches: Tensor


def _sizes(line_graph: LineGraph) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[N] part of each node, [E] part of each edge, [P] the larger number of both in each part."""
    node_part = node_parts(line_graph)
    edge_part = node_part[line_graph.edge_index[0].cpu().numpy()]
    nodes = np.bincount(node_part)
    return node_part, edge_part, np.maximum(nodes, np.bincount(edge_part, minlength=nodes.size))


def fits(line_graph: LineGraph) -> bool:
    """Whether all parts have at most ``MAX_BLOCK`` edges and ``MAX_BLOCK`` nodes. Cached."""
    key = "triton_dense_fits"
    return line_graph.plan(key, lambda g: int(_sizes(g)[2].max(initial=0)) <= MAX_BLOCK)


def unavailable(line_graph: LineGraph, key_size: int, value_size: int) -> str | None:
    """Why the form cannot run on this graph for these K and V (with a remedy), or ``None``."""
    if max(key_size, value_size) > CHANNELS:
        return (
            f"expected at most {CHANNELS} channels per head in the dense Triton kernels, got "
            f"K = {key_size} and V = {value_size}; use more heads, or form='walk'"
        )
    if not fits(line_graph):
        return (
            f"expected graphs of at most {MAX_BLOCK} nodes and edges in the dense Triton kernels, "
            f"got a larger one; use form='walk'"
        )
    return common.unavailable(line_graph.device)


def make_plan(line_graph: LineGraph) -> list[Tensor]:
    """The tables of :class:`Plan`, cached on the line graph, which :func:`fits`."""
    return line_graph.plan("triton_dense", lambda graph: list(_make_plan(graph)))


def _make_plan(line_graph: LineGraph) -> Plan:
    src, dst = line_graph.edge_index.cpu().numpy()
    e_in, e_out = line_graph.line_index.cpu().numpy()
    level = line_graph.level.cpu().numpy()
    node_part, edge_part, widest = _sizes(line_graph)
    block = np.array([max(MIN_BLOCK, power_of_2(w)) for w in widest.tolist()], dtype=np.int64)
    part = np.argsort(-block, kind="stable")
    rank = np.empty_like(part)
    rank[part] = np.arange(part.size)
    node_part, edge_part = rank[node_part], rank[edge_part]
    # Nodes and edges by part: their places, counted from the first of the part.
    node_ptr, node = csr(node_part, part.size)
    edge_ptr = np.append(0, np.cumsum(np.bincount(edge_part, minlength=part.size)))
    edge = np.lexsort((level, edge_part))
    node_place, edge_place = np.empty_like(node), np.empty_like(edge)
    node_place[node] = np.arange(node.size) - node_ptr[node_part[node]]
    edge_place[edge] = np.arange(edge.size) - edge_ptr[edge_part[edge]]
    line_ptr, line = csr((edge_ptr[edge_part] + edge_place)[e_out], edge.size)
    size, first, count = np.unique(-block[part], return_index=True, return_counts=True)
    tables = common.tables(
        line_graph.device, node_ptr, node, edge_ptr, edge, node_place[src[edge]],
        node_place[dst[edge]], line_ptr, line, edge_place[e_in[line]],
    )  # fmt: skip
    return Plan(*tables, torch.from_numpy(np.stack([-size, first, count], 1)))


def terms(block: int, hip: bool, half: bool) -> int:
    """Terms of a product at a time, as found by compiling: with these no register is spilled.

    Operands of products on NVIDIA's scalar units stay in registers as a whole, so few at a time;
    AMD's matrix units take them in pieces, and splitting only costs registers if query, key and
    value are not in half precision.
    """
    if block < 64:
        return 64
    return (32 if half else 64) if hip else 16


def _launch(name: str, tensors: Sequence[Tensor], scale: float, plan: Plan) -> None:
    """One of the kernels over all parts and heads; ``tensors`` begin with query, key and value."""
    import triton.language as tl

    from plstm_graph.ops.triton import dense_kernels

    kernel = getattr(dense_kernels, f"{name}_kernel")
    query, (heads, k), v = tensors[0], tensors[1].shape[1:], tensors[2].size(2)
    wide = tensors[3].dtype == torch.float64
    for block, first, parts in plan.launches.tolist():

        def launch(config: Config, block: int = block, first: int = first, parts: int = parts):
            kernel[(parts * heads,)](
                *tensors, *plan[:-1], first, heads, k // ALIGN, v // ALIGN, scale,
                BLOCK=block, CHANNELS=config.width,
                TERMS=terms(block, torch.version.hip is not None, query.dtype.itemsize == 2),
                DTYPE=tl.float64 if wide else tl.float32,
                num_warps=config.num_warps, num_stages=config.num_stages,
                **launch_options(query.device, MAX_REGISTERS),
            )  # fmt: skip

        configs = CONFIGS[block][:1] if wide else CONFIGS[block]
        key = (name, block, power_of_2(parts * heads), str(query.dtype))
        with on_device(query):
            launch(pick(key, configs, launch, query.device))


def forward(inputs: Inputs, scale: float, plan: Sequence[Tensor]) -> Tensor:
    """The layer, see :func:`plstm_graph.ops.triton.walk.forward`; transitions are not factored."""
    tensors = operands(inputs, pad_keys=True)
    out = torch.empty_like(tensors[2])
    if out.numel():
        _launch("dense_forward", [*tensors, out], scale, Plan(*plan))
    return like([out], [inputs.value])[0]


def backward(grad: Tensor, inputs: Inputs, scale: float, plan: Sequence[Tensor]) -> list[Tensor]:
    """Gradients of ``inputs.tensors``, in their dtypes. ``grad``: [N, H, V]."""
    if not grad.numel():
        return [torch.zeros_like(x) for x in inputs.tensors]
    tensors = operands(inputs, pad_keys=True)
    grads = [torch.empty_like(x) for x in tensors]
    grad = aligned(padded(grad.to(tensors[2].dtype)).contiguous())
    _launch("dense_backward", [*tensors, grad, *grads], scale, Plan(*plan))
    return like(grads, inputs.tensors)
