r"""The walk: outer product, scan and readout of the layer in one kernel. Imports no triton itself.

The forward moves the inputs, the outputs, one write of each state and one read of a state per line
edge (with factored transitions: per edge); the edge inputs S k v^T of a scan never exist. Backward
forms the states again, and the adjoint states then take their place: nothing but the inputs is
kept. The kernels and their derivation are in :mod:`.walk_kernels`, the order of the walk in
:mod:`.walk_plan`. Any acyclic line graph can be walked.

Every sum is formed in one program, in a fixed order, or added up over tiles of V and copies of
nodes by one reduction: results are bitwise repeatable.

**Tuning.** The columns of a tile and the number of warps, once for each direction; keys are
(``"walk_forward"`` or ``"walk_backward"``, followed by ``"_factored"`` or ``"_diagonal"`` where
transitions are; largest number of runs of a launch x H, K, V (all rounded to powers of two),
dtype). Both change the order of sums, so the last bits: a choice once made is kept, and none is
made where torch's deterministic mode is on. There are no stages: a load of a state may not pass the
store before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch_geometric.utils import segment

from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.ops.inputs import Inputs
from plstm_graph.ops.triton import common
from plstm_graph.ops.triton.autotune import Config, Key, pick
from plstm_graph.ops.triton.common import (
    ALIGN,
    MAX_KEY_SIZE,
    aligned,
    launch_options,
    like,
    on_device,
    operands,
    padded,
    power_of_2,
)
from plstm_graph.ops.triton.walk_plan import Plan, Walk, build_plan

#: State tiles [rows, width] and warps: all of K, and as much of V as leaves the tiles of the key
#: walk in registers. The first of as many rows as K needs is the default. Two warps or more: a
#: barrier of one warp does not order memory on every device. Narrow V get no tile of their own
#: where a wide one, with lanes idle, has as many warps.
CONFIGS = (
    Config(16, 32, 2),
    Config(32, 32, 4),
    Config(32, 16, 2),
    Config(64, 32, 8),
    Config(64, 16, 4),
    Config(128, 16, 8),
    Config(256, 8, 8),
)
#: Most registers of a thread.
REGISTERS = {torch.float32: 128, torch.float64: 255}
#: Gradients of transitions that the key walk stores at a time.
LINES = 16


def unavailable(device: torch.device, key_size: int) -> str | None:
    """Why the walk cannot run on ``device`` for K = ``key_size`` (with a remedy), or ``None``."""
    if key_size > MAX_KEY_SIZE:
        return (
            f"expected at most {MAX_KEY_SIZE} key channels per head in the Triton walk, got "
            f"{key_size}; use more heads, or backend='torch'"
        )
    return common.unavailable(device)


def make_plan(line_graph: LineGraph, factored: bool) -> list[Tensor]:
    """The tables of :class:`~plstm_graph.ops.triton.walk_plan.Plan`, cached on the line graph.

    Args:
        line_graph: any acyclic line graph; if ``factored``, one that has every pair of edges that
            meet (in a two-way graph: that may follow each other). Its line edges are not looked at
            then.
        factored: whether the transitions are :class:`~plstm_graph.ops.inputs.Factored`.
    """
    key = ("triton_walk", factored)
    return line_graph.plan(key, lambda graph: build_plan(graph, factored).flat())


def configs_for(key_size: int, value_size: int, dtype: torch.dtype) -> list[Config]:
    """Those of ``CONFIGS`` for K and V, arithmetic in ``dtype``; the first is the default.

    float64 is for comparisons and has one for each K.
    """
    rows = max(CONFIGS[0].rows, power_of_2(key_size))
    fitting = [c for c in CONFIGS if c.rows == rows]
    if dtype == torch.float64:
        return fitting[:1]
    widest = max(power_of_2(value_size), min(c.width for c in fitting))
    return [c for c in fitting if c.width <= widest]


class _Call:
    """One call of the operator: its operands, sizes and walks."""

    def __init__(self, inputs: Inputs, scale: float, plan: Sequence[Tensor]) -> None:
        self.plan = plan = Plan.of(list(plan))
        self.kind, self.scale = inputs.kind, scale
        tensors = operands(inputs)
        if self.kind != "factored":  # the kernels' place for b
            tensors.insert(5, tensors[3])
        if plan.copy_ptr.numel():  # the first copy of a node has the node's own term
            direct = tensors[-1].new_zeros(plan.copy_node.numel(), *tensors[-1].shape[1:])
            tensors[-1] = direct.index_copy_(0, plan.copy_ptr[:-1], tensors[-1])
        self.tensors = tensors
        (_, self.heads, self.k), self.v = tensors[0].shape, tensors[2].size(2)
        self.rows, self.edges, self.lines = (tensors[i].size(0) for i in (-1, 3, 4))
        self.gate = tensors[3]
        states = self.rows if self.kind == "factored" else self.edges
        self.states = self.empty(states, self.heads, self.k, self.v)

    def empty(self, *shape: int) -> Tensor:
        """A tensor in the dtype of the arithmetic."""
        return self.gate.new_empty(shape)

    def launch(
        self, kernel: Any, tensors: list[Tensor], walk: Walk, config: Config, **constexprs: Any
    ) -> None:
        tiles = -(-self.v // config.width)
        for first, runs in walk.steps.tolist():
            kernel[(runs * self.heads, tiles)](
                *self.tensors, *tensors, *walk[:-1], first, self.rows, self.edges, self.lines,
                self.heads, self.k, self.v // ALIGN, self.scale,
                BLOCK_K=config.rows, BLOCK_V=config.width, KIND=self.kind, **constexprs,
                num_warps=config.num_warps, num_stages=config.num_stages,
                **launch_options(self.gate.device, REGISTERS[self.gate.dtype]),
            )  # fmt: skip

    def tune(self, name: str, launch: Any) -> None:
        """Run ``launch`` with the best configuration."""
        runs = int(self.plan.there.steps[:, 1].max())
        sizes = map(power_of_2, (runs * self.heads, self.k, self.v))
        name += "" if self.kind == "line" else f"_{self.kind}"
        key: Key = (name, *sizes, str(self.tensors[2].dtype))
        configs = configs_for(self.k, self.v, self.gate.dtype)
        with on_device(self.gate):
            launch(pick(key, configs, launch, self.gate.device))

    def per_node(self, x: Tensor) -> Tensor:
        """[C, *] -> [N, *], the sum over the copies of each node."""
        ptr = self.plan.copy_ptr
        return segment(x.contiguous(), ptr, reduce="sum") if ptr.numel() else x


def forward(inputs: Inputs, scale: float, plan: Sequence[Tensor]) -> Tensor:
    """The layer.

    Args:
        inputs: of any floating-point dtypes; arithmetic is in float32, or float64 where one is.
        scale: multiplies the query, in the direct term too.
        plan: of :func:`make_plan`.

    Returns:
        [N, H, V] in the dtype of ``value``.
    """
    from plstm_graph.ops.triton import walk_kernels

    call = _Call(inputs, scale, plan)
    out = call.empty(call.rows, call.heads, call.v)

    def launch(config: Config) -> None:
        # value and a gate stand for the gradients, which are not used without GRADS.
        tensors = [call.tensors[2], out, call.gate, call.states]
        call.launch(walk_kernels.query_walk_kernel, tensors, call.plan.there, config, GRADS=False)

    if out.numel():
        call.tune("walk_forward", launch)
    return like([call.per_node(out)], [inputs.value])[0]


def backward(grad: Tensor, inputs: Inputs, scale: float, plan: Sequence[Tensor]) -> list[Tensor]:
    """Gradients of ``inputs.tensors``, in their dtypes.

    Args:
        grad: [N, H, V], the gradient of the result of :func:`forward`; else as there.
    """
    from plstm_graph.ops.triton import walk_kernels

    if not grad.numel():
        return [torch.zeros_like(x) for x in inputs.tensors]
    call = _Call(inputs, scale, plan)
    there, back = call.plan.there, call.plan.back
    grad = aligned(padded(grad.to(call.tensors[2].dtype)).contiguous())
    results: list[Tensor] = []

    def launch(config: Config) -> None:
        tiles = -(-call.v // config.width)
        rows, edges = (tiles, call.rows, call.heads), (tiles, call.edges, call.heads)
        d_query, d_key = (call.empty(*rows, call.k) for _ in range(2))
        d_value, d_direct = call.empty(call.rows, call.heads, call.v), call.empty(*rows)
        d_source, d_enter, d_mark = (call.empty(*edges) for _ in range(3))
        d_transition = call.empty(tiles, *call.tensors[4].shape)
        made = [d_query, d_key, d_value[None], d_source, d_transition, d_enter, d_mark, d_direct]
        results[:] = made if call.kind == "factored" else [*made[:5], *made[6:]]
        tensors = [grad, d_query, d_mark, call.states]
        call.launch(walk_kernels.query_walk_kernel, tensors, there, config, GRADS=True)
        tensors = [grad, call.states, d_key, d_value, d_source, d_transition, d_enter, d_direct]
        tensors.append(there.carry)
        call.launch(walk_kernels.key_walk_kernel, tensors, back, config, LINES=LINES)

    call.tune("walk_backward", launch)
    sums = [x[0] if x.size(0) == 1 else x.sum(0) for x in results]
    sums[:3] = [call.per_node(x) for x in sums[:3]]
    if call.plan.copy_ptr.numel():  # all copies have it
        sums[-1] = sums[-1].index_select(0, call.plan.copy_ptr[:-1])
    return like(sums, inputs.tensors)
