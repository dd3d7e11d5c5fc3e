"""networkx graphs to line graphs and back. For users and pictures; nothing else needs networkx."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from plstm_graph.checks import instance
from plstm_graph.dag.line_graph import LineGraph

if TYPE_CHECKING:
    import networkx


def from_networkx(g: networkx.Graph, orientation: str | Tensor = "canonical") -> LineGraph:
    """The line graph of a networkx graph of any of its four classes.

    Args:
        g: an acyclic directed graph is kept as it is; an undirected one, or a directed one with
            both directions of every edge, is oriented. Parallel edges of multigraphs stay,
            attributes are not read.
        orientation: see :func:`plstm_graph.dag.orient.orient`.

    Returns:
        Node i is the i-th of ``g.nodes``; ``edge_id`` counts ``g.edges`` (edge e is the e-th of
        them if all were kept, which is so but for symmetric directed graphs). In an undirected
        ``g`` both directions of an edge have the same number: ``opposite_id`` is ``edge_id``.

    Raises:
        ValueError: on a self-loop, a directed cycle, or something that is no graph.
    """
    if not all(hasattr(g, name) for name in ("nodes", "edges", "is_directed")):
        raise ValueError(f"expected g as a networkx graph, got {type(g).__name__}")
    number = {node: i for i, node in enumerate(g.nodes)}
    pairs = [(number[u], number[v]) for u, v in g.edges()]
    edge_index = torch.tensor(pairs, dtype=torch.int64).view(-1, 2).t().contiguous()
    directed = g.is_directed()
    if not directed:
        # Columns 2 e and 2 e + 1 are the two directions of edge e: one of them is kept.
        edge_index = torch.stack([edge_index, edge_index.flip(0)], dim=2).view(2, -1)
    out = LineGraph.from_edge_index(edge_index, len(number), orientation)
    if directed:
        return out
    opposite_id = None if out.opposite_id is None else out.opposite_id // 2
    return out.with_ids(out.edge_id // 2, opposite_id)


def to_networkx(line_graph: LineGraph) -> networkx.MultiDiGraph:
    """The edges as a ``networkx.MultiDiGraph`` with nodes 0 to N - 1: a DAG, or both directions of
    its edges where the graph is two-way.

    The key of an edge is its row e in the line graph, its attribute ``edge_id`` the input column it
    came from. ``networkx.line_graph`` of a DAG has the line edges that were not pruned.
    """
    import networkx

    instance("line_graph", line_graph, LineGraph, "a LineGraph")
    g = networkx.MultiDiGraph()
    g.add_nodes_from(range(line_graph.num_nodes))
    edges = zip(line_graph.edge_index.t().tolist(), line_graph.edge_id.tolist())
    g.add_edges_from((u, v, e, {"edge_id": i}) for e, ((u, v), i) in enumerate(edges))
    return g
