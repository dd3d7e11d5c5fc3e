"""What a :class:`~plstm_graph.LineGraph` demands of its tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from plstm_graph.checks import FLOATS, describe, integer, refuse
from plstm_graph.dag.levels import find_cycle, longest_path_levels

if TYPE_CHECKING:
    from plstm_graph.dag.line_graph import LineGraph

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def index_tensor(name: str, value: Any, rows: int | None) -> Tensor:
    """Check that ``value`` is an int64 tensor, [rows, *] or, for ``rows=None``, [*]."""
    shape = "[*]" if rows is None else f"[{rows}, *]"
    if not isinstance(value, Tensor):
        raise ValueError(
            f"expected {name} as an int64 tensor of shape {shape}, got {type(value).__name__}; "
            f"convert it with torch.as_tensor"
        )
    if value.layout != torch.strided:
        refuse(name, "as a dense int64 tensor", describe(value), "call .to_dense()")
    if value.dtype != torch.int64:
        raise ValueError(f"expected {name} of dtype torch.int64, got {value.dtype}; call .long()")
    good = value.dim() == 1 if rows is None else value.dim() == 2 and value.size(0) == rows
    if not good:
        raise ValueError(f"expected {name} of shape {shape}, got {list(value.shape)}")
    return value


def check_range(name: str, value: Tensor, size: int, what: str) -> None:
    integer(f"num_{what}", size)
    if value.is_meta:
        refuse(name, "with values", "a tensor on the meta device")
    if value.numel() and (int(value.min()) < 0 or int(value.max()) >= size):
        raise ValueError(
            f"expected {name} between 0 and {size - 1} ({size} {what}), "
            f"got values from {int(value.min())} to {int(value.max())}"
        )


def check_batch(name: str, batch: Tensor, edge_index: Tensor, num_nodes: int) -> None:
    index_tensor(name, batch, None)
    if batch.device != edge_index.device:
        raise ValueError(
            f"expected {name} on {edge_index.device} like edge_index, got {batch.device}; "
            f"move it with .to()"
        )
    if batch.numel() != num_nodes:
        raise ValueError(
            f"expected {name} with {num_nodes} entries (one per node), got {batch.numel()}"
        )
    if batch.numel() and int(batch.min()) < 0:
        raise ValueError(f"expected {name} >= 0, got {int(batch.min())}")
    src, dst = edge_index
    between = batch[src] != batch[dst]
    if bool(between.any()):
        column = int(between.nonzero()[0])
        u, v = edge_index[:, column].tolist()
        raise ValueError(
            f"expected edges inside one graph, got an edge between two of {name}: column {column} "
            f"of edge_index joins node {u} of graph {int(batch[u])} and node {v} of graph "
            f"{int(batch[v])}; renumber the nodes of each graph by those of the graphs before it"
        )


def located(
    nodes: Sequence[int], batch: np.ndarray | None, columns: np.ndarray | None = None
) -> tuple[list[int], str]:
    """Nodes of one graph of a batch, numbered inside their graph, and which graph that is.

    Args:
        nodes: their numbers in the batch.
        batch: [N] graph of each node; without it the input is one graph.
        columns: [M] a node of each column; then ``nodes`` are numbers of columns.
    """
    if batch is None or not len(nodes):
        return [int(node) for node in nodes], ""
    of = batch if columns is None else batch[columns]
    graph = of[nodes[0]]
    members = np.flatnonzero(of == graph)
    return np.searchsorted(members, nodes).tolist(), f" of graph {graph}"


def feature_keys(name: str, value: Tensor | None, rows: int) -> list[np.ndarray]:
    """Features as what ``orientation="canonical"`` tells nodes or edges apart by, ``[]`` for none.

    Args:
        name: ``"x"`` or ``"edge_attr"``.
        value: [rows, *] of any real dtype, or ``None``.
        rows: their number.
    """
    if value is None:
        return []
    if not isinstance(value, Tensor) or value.dim() < 1 or value.size(0) != rows:
        got = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"expected {name} as a tensor [{rows}, *], got {got}")
    real = value.dtype in (*FLOATS, torch.bool) or value.dtype in INTEGERS
    if not real or value.is_meta:
        got = "a meta tensor" if value.is_meta else describe(value)
        refuse(name, f"as a tensor [{rows}, *] of real numbers", got)
    value = value.detach().cpu()
    value = value if value.layout == torch.strided else value.to_dense()
    value = value.flatten(1) if value.dim() > 2 else value
    return [(value.float() if value.dtype == torch.bfloat16 else value).numpy()]


def num_columns(graph: LineGraph) -> int:
    """M, the columns of the ``edge_index`` that a line graph was made of: one more than the last
    one that is an edge or the opposite of one. Cached."""
    return graph.plan("num_columns", _num_columns)


def _num_columns(graph: LineGraph) -> int:
    parts = (graph.edge_id, graph.opposite_id)
    last = [int(part.max()) for part in parts if part is not None and part.numel()]
    return max(last, default=-1) + 1


def check_line_graph(graph: LineGraph) -> None:
    """Raise ``ValueError`` naming the first invariant of ``graph`` that does not hold."""
    n, e = graph.num_nodes, graph.num_edges
    integer("num_nodes", n)
    if n < 0:
        raise ValueError(f"expected num_nodes >= 0, got {n}")
    index_tensor("edge_index", graph.edge_index, 2)
    index_tensor("line_index", graph.line_index, 2)
    index_tensor("edge_id", graph.edge_id, None)
    for name, tensor in {"line_index": graph.line_index, "edge_id": graph.edge_id}.items():
        if tensor.device != graph.device:
            raise ValueError(
                f"expected {name} on {graph.device} like edge_index, got {tensor.device}; "
                f"move it with .to()"
            )
    check_range("edge_index", graph.edge_index, n, "nodes")
    check_range("line_index", graph.line_index, e, "edges")
    if graph.edge_id.numel() != e:
        raise ValueError(f"expected edge_id with {e} entries, got {graph.edge_id.numel()}")
    if graph.edge_id.numel() and int(graph.edge_id.min()) < 0:
        raise ValueError(f"expected edge_id >= 0, got {int(graph.edge_id.min())}")
    if graph.node_batch is not None:
        check_batch("node_batch", graph.node_batch, graph.edge_index, n)
    e_in, e_out = graph.line_index
    meets = graph.edge_index[1, e_in] == graph.edge_index[0, e_out]
    if not bool(meets.all()):
        l = int((~meets).nonzero()[0])
        a, b = graph.line_index[:, l].tolist()
        (u, v), (w, x) = graph.edge_index[:, a].tolist(), graph.edge_index[:, b].tolist()
        raise ValueError(
            f"expected line_index to join edges that meet (dst of e_in == src of e_out), got "
            f"column {l}: edge {a} ({u}->{v}) to edge {b} ({w}->{x})"
        )
    _check_acyclic(graph)
    pairs = graph.line_index[0] * max(e, 1) + graph.line_index[1]
    if int(np.unique(pairs.cpu().numpy()).size) != pairs.numel():
        raise ValueError("expected each pair of edges once in line_index, got duplicates")


def _check_acyclic(graph: LineGraph) -> None:
    """The line graph has no cycle; the graph underneath may, as in a two-way line graph.

    A state that returns to its edge has gone round a cycle of nodes, so where the edges have none
    (the usual case, and the smaller graph) the line edges have none.
    """
    edges = graph.edge_index.cpu().numpy()
    if (longest_path_levels(edges, graph.num_nodes) >= 0).all():
        return
    lines = graph.line_index.cpu().numpy()
    level = longest_path_levels(lines, graph.num_edges)
    if (level >= 0).all():
        return
    # Along the cycle of edges, the nodes they start from, the last one repeating the first.
    cycle = find_cycle(lines, graph.num_edges, level)
    nodes = " -> ".join(str(int(edges[0, e])) for e in cycle)
    raise ValueError(
        f"expected line_index to be acyclic, got the directed cycle {nodes} (edges "
        f"{', '.join(map(str, cycle[:-1]))}); orient the graph with LineGraph.from_edge_index, or "
        f"leave out line edges"
    )
