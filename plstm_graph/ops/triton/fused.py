r"""``fused_plstm``: outer product, scan and readout of the layer in one kernel.

The forward moves the inputs, the outputs, one write of each state and one read of a state per
line edge; the edge inputs S k v^T of a scan never exist. States have to be written because
successors read them; ``recompute=True`` drops them after the forward and forms them again in
backward, where the adjoint states then take their place. Kernels and derivations are in
:mod:`.fused_kernels`, the order of the walk in :mod:`.fused_tables`.

Where :mod:`.dense` fits, it is used instead: then not even the states are written. float64 always
goes by the walk.

Every sum is formed in one program, in a fixed order, or added up over tiles of V by one reduction:
results are bitwise repeatable. State tracking goes through the graph with J copies of each edge.

**Tuning.** The columns of a tile and the number of warps, once for each direction; keys are
("fused_forward", "fused_backward" or "fused_backward_kept", largest number of runs of a launch x H,
K, V (all rounded to powers of two), dtype). Both change the order of sums, so the last bits: a
choice once made is kept, and none is made where torch's deterministic mode is on. There are no
stages: a load of a state may not pass the store before it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from plstm_graph.dag.expand import expand_states
from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.dag.unroll import unroll
from plstm_graph.ops.triton import dense
from plstm_graph.ops.triton.autotune import Config, Key, pick
from plstm_graph.ops.triton.common import accumulator, launch_options, on_device, power_of_2
from plstm_graph.ops.triton.dense_tables import dense_fits
from plstm_graph.ops.triton.fused_backward import fused_backward
from plstm_graph.ops.triton.fused_common import (
    ALIGN,
    REGISTERS,
    differentiable_grads,
    like_inputs,
    operands,
    padded_grad,
    walk_configs,
)
from plstm_graph.ops.triton.fused_kernels import fused_forward_kernel
from plstm_graph.ops.triton.fused_tables import Walk, walk_tables

_WALK = len(Walk._fields)


def tables_of(line_graph: LineGraph) -> list[Tensor]:
    """The tables of the walk, cached on ``line_graph`` with those of the dense form, if it fits."""
    if "dense_fits" not in line_graph._cache:
        if torch.compiler.is_compiling():
            raise ValueError(
                "expected a prepared line_graph under torch.compile, got a bare one; call "
                "plstm_graph.ops.prepare(line_graph, ...) before the compiled function"
            )
        line_graph._cache["dense_fits"] = dense_fits(line_graph)
        if line_graph._cache["dense_fits"]:
            dense.tables_of(line_graph)
    return walk_tables(_walkable(line_graph))


def _walkable(line_graph: LineGraph) -> LineGraph:
    """The graph, or its copies where its nodes have no topological order (cached)."""
    copies = unroll(line_graph)
    if copies is None:
        return line_graph
    copies.line_graph._cache.setdefault("node_levels", copies.level)
    return copies.line_graph


@torch.library.custom_op("plstm_graph::fused_plstm", mutates_args=())
def fused_plstm_op(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    source: Tensor,
    transition: Tensor,
    mark: Tensor,
    direct: Tensor,
    scale: float,
    recompute: bool,
    tables: Sequence[Tensor],
) -> tuple[Tensor, Tensor]:
    """Outputs [N, H, V] and states [E, H, K, V] (empty with ``recompute``)."""
    inputs = operands(query, key, value, source, transition, mark, direct)
    walk = Walk(*tables[:_WALK])
    _, heads, k = query.shape
    v = inputs[2].size(2)
    out = torch.empty_like(inputs[2])
    states = out.new_empty((source.size(0), heads, k, v), dtype=inputs[3].dtype)

    def launch(config: Config) -> None:
        for first, runs in walk.steps.tolist():
            fused_forward_kernel[(runs * heads, -(-v // config.width))](
                *inputs,
                out,
                states,
                *walk[:-1],
                first,
                heads,
                k,
                v // ALIGN,
                scale,
                BLOCK_K=config.rows,
                BLOCK_V=config.width,
                num_warps=config.num_warps,
                num_stages=config.num_stages,
                **launch_options(out.device, REGISTERS[states.dtype]),
            )

    if out.numel():
        key_ = tuning_key("fused_forward", walk, heads, k, v, out.dtype)
        with on_device(out):
            launch(pick(key_, walk_configs(k, v, states.dtype), launch, out.device))
    return like_inputs([out], [value])[0], states.new_empty(0) if recompute else states


def tuning_key(name: str, walk: Walk, heads: int, k: int, v: int, dtype: torch.dtype) -> Key:
    """What a choice may depend on; see the module's docstring."""
    runs = int(walk.steps[:, 1].max())
    return (name, *map(power_of_2, (runs * heads, k, v)), str(dtype))


@fused_plstm_op.register_fake
def _(query, key, value, source, transition, mark, direct, scale, recompute, tables):
    dtype = accumulator(query, key, value, source, transition, mark, direct)
    out = value.new_empty(value.shape)
    if recompute:
        return out, value.new_empty(0, dtype=dtype)
    v = -(-value.size(2) // ALIGN) * ALIGN
    shape = (source.size(0), *query.shape[1:], v)
    return out, value.new_empty(shape, dtype=dtype)


@torch.library.custom_op("plstm_graph::fused_plstm_backward", mutates_args=())
def _backward_op(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    source: Tensor,
    transition: Tensor,
    mark: Tensor,
    direct: Tensor,
    states: Tensor,
    scale: float,
    recompute: bool,
    tables: Sequence[Tensor],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    given = (query, key, value, source, transition, mark, direct)
    inputs = operands(*given)
    there, back = Walk(*tables[:_WALK]), Walk(*tables[_WALK : 2 * _WALK])
    grad, kept = padded_grad(grad, inputs[2]), None if recompute else states
    if not grad.numel():
        return tuple(torch.zeros_like(x) for x in given)
    results: list[Sequence[Tensor]] = []

    def launch(config: Config) -> None:
        results[:] = [fused_backward(grad, inputs, kept, scale, there, back, config)]

    heads, k, v = query.size(1), query.size(2), grad.size(2)
    name = "fused_backward" if recompute else "fused_backward_kept"
    key_ = tuning_key(name, there, heads, k, v, grad.dtype)
    with on_device(grad):
        launch(pick(key_, walk_configs(k, v, inputs[3].dtype), launch, grad.device))
    return like_inputs(results[0], given)


@_backward_op.register_fake
def _(grad, query, key, value, source, transition, mark, direct, *rest):
    inputs = (query, key, value, source, transition, mark, direct)
    return tuple(x.new_empty(x.shape) for x in inputs)


def _setup_context(ctx, inputs, output):
    *tensors, ctx.scale, ctx.recompute, ctx.tables = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*tensors, output[1])


def _autograd_backward(ctx, grad, _):
    *inputs, states = ctx.saved_tensors
    if torch.is_grad_enabled():  # create_graph=True: a backward with a graph of its own
        grads = differentiable_grads(inputs, grad, ctx.scale, *ctx.tables[-2:])
    else:
        grads = _backward_op(grad, *inputs, states, ctx.scale, ctx.recompute, ctx.tables)
    return *grads, None, None, [None] * len(ctx.tables)


fused_plstm_op.register_autograd(_autograd_backward, setup_context=_setup_context)


def _unfold_states(
    source: Tensor, transition: Tensor, mark: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gates of J states [*, H, J] as those of J copies of each edge [* J, H]."""
    return (
        source.transpose(1, 2).flatten(0, 1),
        transition.permute(0, 2, 3, 1).flatten(0, 2),
        mark.transpose(1, 2).flatten(0, 1),
    )


def fused_plstm(
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
    recompute: bool = True,
) -> Tensor:
    """The layer by fused kernels: the dense form where it fits, the walk otherwise.

    Differentiable (second derivatives go through composed operations).

    Args:
        query, key: [N, H, K]; value: [N, H, V], of any floating-point dtype; arithmetic is in
            float32, or float64 where an input is.
        source, mark: [E, H], or [E, H, J].
        transition: [L, H], or [L, H, J, J].
        direct: [N, H].
        line_graph: the DAG with its line graph.
        scale: multiplies the query, in the direct term too.
        recompute: form the states again in backward instead of keeping [E, H, K, V] (the dense
            form keeps none in any case).

    Returns:
        [N, H, V] in the dtype of ``value``.

    Raises:
        ValueError: if K is larger than the kernel takes.
    """
    if source.dim() == 3:
        line_graph = expand_states(line_graph, source.size(2))
        source, transition, mark = _unfold_states(source, transition, mark)
    tables_of(line_graph)  # all of them, where torch.compile does not trace
    inputs = (query, key, value, source, transition, mark, direct)
    wide = accumulator(*inputs)
    on_chip = max(key.size(2), value.size(2)) <= dense.CHANNELS and wide == torch.float32
    if on_chip and line_graph._cache["dense_fits"]:
        return dense.dense_plstm_op(*inputs, scale, dense.tables_of(line_graph))
    walk_configs(key.size(2), value.size(2), wide)  # raises where K is too large
    return walk_plstm(*inputs, line_graph, scale=scale, recompute=recompute)


def walk_plstm(
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
    recompute: bool = True,
) -> Tensor:
    """The layer by the fused walk, on any acyclic line graph; see :func:`fused_plstm`."""
    inputs = (query, key, value, source, transition, mark, direct)
    tables = walk_tables(_walkable(line_graph))
    copies = unroll(line_graph)
    if copies is None:
        return fused_plstm_op(*inputs, scale, recompute, tables)[0]
    # Each copy of a node adds its part; the first one has the node's own term.
    wide = accumulator(*inputs)
    rows = (x.to(wide).index_select(0, copies.node) for x in (query, key, value))
    own = direct.index_select(0, copies.node) * copies.first.unsqueeze(-1)
    parts = fused_plstm_op(*rows, source, transition, mark, own, scale, recompute, tables)[0]
    out = parts.new_zeros(value.shape).index_add(0, copies.node, parts)
    return out.to(value.dtype)
