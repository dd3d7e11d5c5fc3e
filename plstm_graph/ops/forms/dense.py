r"""The dense form: the gating matrix of each part and head, then gated attention.

Per part of the batch and head, with the edges in topological order,

.. math::
    Y = (I - T)^{-1} S, \qquad G = M Y + \mathrm{diag}(D), \qquad H = (Q K^\top * G) V

where S places S_e at (e, src(e)) and M places M_e at (dst(e), e). Y is made as a scan over the
edges. The backward is written by hand: with A = Q K^T * G and P = dH V^T,

.. math::
    dV = A^\top dH, \quad dQ = (P * G) K, \quad dK = (P * G)^\top Q, \quad dG = P * Q K^\top

    dM_e = \langle dG_{dst(e)}, Y_e \rangle, \quad X = (I - T)^{-\top} M^\top dG, \quad
    dS_e = X_{e, src(e)}, \quad dT_l = \langle Y_{e_{in}}, X_{e_{out}} \rangle

A state has K V numbers where a row of Y has one for each node of the part: graphs of some tens of
nodes are cheaper so, in particular two-way ones, which have many edges. A compiled kernel
(``native/dense.c``) makes everything of a part and head in the cache.

Nodes that do not hear each other have a zero in G, which is multiplied, so where inputs are not
finite the form gives way to the walk, whose tables it shares.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from plstm_graph.dag.segments import largest_part, segments
from plstm_graph.ops import native
from plstm_graph.ops.forms.base import Form, Problem
from plstm_graph.ops.forms.walk import EdgeWalk, edge_walk, readable, strides, unavailable
from plstm_graph.ops.inputs import Inputs

#: Most nodes of a part: matrices [n, n] are to stay in the cache.
MAX_NODES = 2048


def _eights(x: int) -> int:
    return -(-x // 8) * 8


class Dense(Form):
    name = "dense"
    gives_way_to = "walk"

    def unavailable(self, problem: Problem) -> str | None:
        graph = problem.line_graph
        if (reason := unavailable(problem)) is not None:
            return reason
        largest = largest_part(graph)
        if largest > MAX_NODES:
            return (
                f"its matrices are for graphs of at most {MAX_NODES} nodes, not {largest}; use "
                f"form='auto' or 'walk'"
            )
        return None

    def features(self, problem: Problem) -> dict[str, float]:
        seg, heads = segments(problem.line_graph), problem.heads
        n = seg.num_nodes.astype(float)
        lines = np.bincount(seg.edge_part, minlength=n.size) * (
            1 + problem.line_graph.num_line_edges / max(1, problem.line_graph.num_edges)
        )
        columns = _eights(problem.key_size) + _eights(problem.value_size)
        return {
            "start": 1,
            "unit": heads * n.size,
            "pair": heads * float((n * n).sum()) * columns,
            "square": heads * float((n * n).sum()),
            "node": heads * float(n.sum()) * columns,
            "row": heads * float((lines * n).sum()),
        }

    def plan(self, problem: Problem) -> list[Tensor]:
        return list(edge_walk(problem.line_graph))

    def forward(self, inputs: Inputs, scale: float, plan: Sequence[Tensor]) -> tuple[Tensor, None]:
        tensors = readable(inputs, scale)
        out = inputs.value.new_empty(inputs.value.shape)
        k, v = inputs.query.size(2), inputs.value.size(2)
        edges, nodes = EdgeWalk(*plan).longest.tolist()
        n8 = _eights(nodes)
        work = n8 * (edges + 2 * nodes + k) + nodes * (_eights(v) + max(_eights(k), _eights(v)))
        _run("dense_forward", tensors, plan, work, *tensors, out)
        return out, None

    def backward(
        self, grad: Tensor, inputs: Inputs, scale: float, plan: Sequence[Tensor], kept: None
    ) -> list[Tensor]:
        tensors = readable(inputs, scale)
        grads = [x.new_empty(x.shape) for x in tensors]
        k, v = inputs.query.size(2), inputs.value.size(2)
        edges, nodes = EdgeWalk(*plan).longest.tolist()
        n8, k8, v8 = map(_eights, (nodes, k, v))
        work = n8 * (2 * edges + 3 * nodes + max(k, v)) + nodes * (2 * k8 + v8 + max(k8, v8))
        _run("dense_backward", tensors, plan, work, grad.contiguous(), *tensors, *grads)
        return grads if scale == 1 else [grads[0].mul_(scale), *grads[1:]]


def _run(
    name: str, tensors: Sequence[Tensor], plan: Sequence[Tensor], work: int, *arguments: Tensor
) -> None:
    walk = EdgeWalk(*plan)
    _, heads, k = tensors[0].shape
    native.run(
        name, tensors[0].dtype, (walk.node_ptr.numel() - 1) * heads, work, *arguments,
        heads, k, tensors[2].size(2), *strides(tensors), int(walk.reversed), *walk[2:],
    )  # fmt: skip
