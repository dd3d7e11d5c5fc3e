r"""Nonlinear recurrences on the nodes of a DAG: their gates read states, so nodes wait for nodes.

With the pre-activations x of a node, the recurrent weights R (block-diagonal: one block of each
head), and for each edge e = (p -> n) what it brings, :math:`r_e = R h_p + u_e`:

**slstm**, the sLSTM of "xLSTM: Extended Long Short-Term Memory" (arXiv 2405.04517). The gates i, o
and z read the mean over the P edges into n, the forget gate is one of each edge (child-sum):

.. math::
    (\tilde i, \tilde o, \tilde z)_n &= x_n + \tfrac1P \textstyle\sum_e r_e, \qquad
    \tilde f_e = x_n + r_e \\
    c_n &= e^{\tilde i_n} \tanh \tilde z_n + \textstyle\sum_e \sigma(\tilde f_e)\, c_p, \qquad
    n_n = e^{\tilde i_n} + \textstyle\sum_e \sigma(\tilde f_e)\, n_p \\
    h_n &= \sigma(\tilde o_n)\, c_n / n_n

On a path that is the published cell. Its stabiliser m is a gauge: c and n are stored times
:math:`e^{-m}`, and h does not depend on m. The maximum over predecessors would leave n as large as
the number of paths; with :math:`m_n = \log n_n` (the log-sum-exp in the place of the maximum)
n is 1, and c is a convex combination on any DAG:

.. math::
    (\alpha_0, \alpha_e) = \mathrm{softmax}(\tilde i_n,\ \log \sigma(\tilde f_e) + m_p), \qquad
    c_n = \alpha_0 \tanh \tilde z_n + \textstyle\sum_e \alpha_e c_p .

Backward, with the adjoints of h, c and m, where :math:`\dot c_n` has :math:`\sigma(\tilde o)\dot h`
already,

.. math::
    \dot{\tilde i} = \alpha_0 (\dot c\, (\tanh \tilde z - c) + \dot m), \qquad
    \dot a_e = \alpha_e (\dot c\, (c_p - c) + \dot m), \qquad
    \dot m_p \mathrel{+}= \dot a_e, \quad \dot{\tilde f}_e = \dot a_e (1 - \sigma(\tilde f_e)).

**child_sum**, the LSTM of "Improved Semantic Representations From Tree-Structured Long Short-Term
Memory Networks" (arXiv 1503.00075), whose children are the predecessors:

.. math::
    (\tilde i, \tilde o, \tilde z)_n &= x_n + \textstyle\sum_e r_e, \qquad
    \tilde f_e = x_n + r_e \\
    c_n &= \sigma(\tilde i_n) \tanh \tilde z_n + \textstyle\sum_e \sigma(\tilde f_e)\, c_p, \qquad
    h_n = \sigma(\tilde o_n) \tanh c_n

The **compiled** form (CPU) takes one node of a part and head after the other, forward and against
the order. It returns the gradients of all :math:`R h_p`; that of R is one matrix product of these
and h, so nothing depends on the number of threads.
"""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor

from plstm_graph.checks import choice, dense, instance, refuse
from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.dag.tracing import transformed
from plstm_graph.ops import native
from plstm_graph.ops.sweep_levels import CELLS, levelwise_sweep
from plstm_graph.ops.sweep_plan import (
    WAYS,
    NodeLevels,
    NodeTables,
    node_levels,
    node_tables,
    way_edges,
)

FORMS = ("auto", "compiled", "levelwise")


def sweep(
    cell: str,
    gates: Tensor,
    weight: Tensor,
    line_graph: LineGraph,
    edge: Tensor | None = None,
    *,
    way: str = "forward",
    form: str = "auto",
) -> Tensor:
    """A nonlinear cell along the edges of a DAG, see :mod:`plstm_graph.ops.sweep`.

    Args:
        cell: ``"slstm"`` or ``"child_sum"``.
        gates: [N, H, 4, d] pre-activations x of the gates i, o, z and f, float32 or float64.
        weight: [H, 4, d, d] recurrent weights R, in the same order: ``R[h, g] @ h_p``.
        line_graph: of a DAG; of a two-way graph the along edges are walked.
        edge: [E, H, 4, d] u, a row for each column of ``way_edges(line_graph, way).edge_index``.
            Default: none.
        way: ``"forward"``, along the edges; ``"reverse"``, against them; ``"opposite"``, against
            those of undirected graphs and along the others. Default ``"forward"``.
        form: ``"levelwise"`` (torch, any device, any derivative), ``"compiled"`` (CPUs), or
            ``"auto"``: compiled where it can run. Default ``"auto"``.

    Returns:
        [N, H, d] h.

    Raises:
        ValueError: on an unknown name, a wrong shape, dtype or device, a graph with a cycle of
            nodes, and where ``form="compiled"`` cannot run.
    """
    choice("cell", cell, tuple(CELLS))
    choice("way", way, WAYS)
    choice("form", form, FORMS)
    instance("line_graph", line_graph, LineGraph, "a LineGraph", "LineGraph.from_edge_index")
    dense("gates", gates, line_graph.num_nodes, "H", 4, "d", device=line_graph.device,
          like="line_graph", sizes="one row for each node of line_graph")  # fmt: skip
    if gates.dtype not in (torch.float32, torch.float64):
        refuse("gates", "of dtype float32 or float64", gates, "call .float()")
    _, heads, _, d = gates.shape
    same = {"dtype": gates.dtype, "device": gates.device, "like": "gates"}
    dense("weight", weight, heads, 4, d, d, **same)
    if edge is not None:
        rows = way_edges(line_graph, way).edge_id.numel()
        dense("edge", edge, rows, heads, 4, d, **same)
    reason = _not_compiled(gates)
    if form == "compiled" and reason is not None:
        refuse("form", "to be 'levelwise' or 'auto' here", repr(form), reason)
    if form == "levelwise" or reason is not None:
        return levelwise_sweep(cell, gates, weight, edge, node_levels(line_graph, way))
    return _Sweep.apply(cell, line_graph, way, gates, weight, edge)


def _not_compiled(gates: Tensor) -> str | None:
    """Why the compiled loop cannot run."""
    if torch.compiler.is_compiling() or transformed():
        return "torch.compile and torch.func see through torch operations only"
    if gates.device.type != "cpu":
        return f"its kernels run on CPUs only, not on {gates.device}"
    reason = native.unavailable()
    return None if reason is None else f"its kernels are not there ({reason})"


class _Sweep(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        cell: str,
        line_graph: LineGraph,
        way: str,
        gates: Tensor,
        weight: Tensor,
        edge: Tensor | None,
    ) -> Tensor:
        tables = node_tables(line_graph, way)
        out, *kept = _forward(cell, gates, weight, edge, tables)
        ctx.save_for_backward(gates, weight, edge, out)
        ctx.kept, ctx.cell, ctx.line_graph, ctx.way = kept, cell, line_graph, way
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, out = ctx.saved_tensors
        with torch.autocast("cpu", enabled=False):
            if torch.is_grad_enabled():  # create_graph=True: a backward with a graph of its own
                levels = node_levels(ctx.line_graph, ctx.way)
                return None, None, None, *_composed_grads(ctx.cell, inputs, grad, levels)
            tables = node_tables(ctx.line_graph, ctx.way)
            gates, weight, edge = inputs
            # Buffers are freed at once; a second backward computes them again.
            kept, ctx.kept = ctx.kept, None
            if kept is None:
                _, *kept = _forward(ctx.cell, gates, weight, edge, tables)
            grads = _backward(ctx.cell, grad, weight, edge, out, *kept, tables)
        return None, None, None, *grads

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> NoReturn:
        raise NotImplementedError(
            "expected reverse-mode derivatives of the compiled form, got forward mode; use "
            "form='levelwise'"
        )


def _forward(
    cell: str, gates: Tensor, weight: Tensor, edge: Tensor | None, tables: NodeTables
) -> tuple[Tensor, Tensor, Tensor]:
    """h [N, H, d], what is kept of nodes [N, H, 4, d] and of edges, see ``native/sweep.c``."""
    nodes, heads, _, d = gates.shape
    out, kept = gates.new_empty(nodes, heads, d), gates.new_empty(gates.shape)
    each = 2 if cell == "slstm" else 1
    edge_kept = gates.new_empty(tables.row.numel(), heads, each, d)
    _run(
        "sweep_forward", cell, gates, tables, 5 * int(tables.longest) * d + 5 * d, edge is not None,
        gates.contiguous(), weight.permute(0, 3, 1, 2).contiguous(), _or_empty(edge, gates),
        out, kept, edge_kept,
    )  # fmt: skip
    return out, kept, edge_kept


def _backward(
    cell: str,
    grad: Tensor,
    weight: Tensor,
    edge: Tensor | None,
    out: Tensor,
    kept: Tensor,
    edge_kept: Tensor,
    tables: NodeTables,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The gradients of gates, weight and edge."""
    d_gates, d_bring = kept.new_empty(kept.shape), kept.new_empty(kept.shape)
    d_edge = None if edge is None else kept.new_empty(edge.shape)
    d = kept.size(-1)
    _run(
        "sweep_backward", cell, kept, tables, 2 * int(tables.longest) * d + 2 * d, edge is not None,
        grad.contiguous(), weight.contiguous(), kept, edge_kept, d_gates, d_bring,
        _or_empty(d_edge, kept),
    )  # fmt: skip
    return d_gates, torch.einsum("nhgi,nhj->hgij", d_bring, out), d_edge


def _or_empty(edge: Tensor | None, like: Tensor) -> Tensor:
    return like.new_empty(0) if edge is None else edge.contiguous()


def _run(
    name: str,
    cell: str,
    like: Tensor,
    tables: NodeTables,
    work: int,
    has_edge: bool,
    *tensors: Tensor,
) -> None:
    heads, d = like.size(1), like.size(3)
    native.run(
        name, like.dtype, (tables.node_ptr.numel() - 1) * heads, work, *tensors, heads, d,
        int(cell == "slstm"), int(has_edge), int(tables.longest), *tables[1:],
    )  # fmt: skip


def _composed_grads(
    cell: str, inputs: list[Tensor | None], grad: Tensor, levels: NodeLevels
) -> list[Tensor | None]:
    """Gradients with their own graph recorded."""
    with torch.enable_grad():
        out = levelwise_sweep(cell, *inputs, levels)
        wanted = [x for x in inputs if x is not None and x.requires_grad]
        grads = torch.autograd.grad(out, wanted, grad, create_graph=True, allow_unused=True)
    found = iter(grads)
    return [next(found) if x is not None and x.requires_grad else None for x in inputs]
