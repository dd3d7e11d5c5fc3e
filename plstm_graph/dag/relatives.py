"""How the members of a family follow from each other: edges, line edges, levels.

Functions of a line graph that are its plans (:meth:`plstm_graph.LineGraph.plan`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from plstm_graph.dag.family import Kind, Member
from plstm_graph.dag.levels import (
    check_budget,
    components,
    line_index_of,
    longest_path_levels,
)
from plstm_graph.dag.multitree import multitree_mask as prune
from plstm_graph.dag.two_way import two_way_line_index, two_way_multitree_mask

if TYPE_CHECKING:
    from plstm_graph.dag.line_graph import LineGraph


def member(graph: LineGraph, kind: int) -> Member:
    """The edges of the member ``kind`` (not pruned) of the family of ``graph``."""
    if kind & Kind.REVERSED:
        graph = graph.relative(kind ^ Kind.REVERSED)
        edge_id, opposite_id = _turned(graph)
        direction = 1 - graph.direction if graph.is_two_way else None
        return Member(graph.edge_index.flip(0), edge_id, opposite_id, direction, graph.twin)
    graph = graph.relative(Kind.REVERSED if kind & Kind.TURNED else Kind.ORIGINAL)
    dag, device = graph.edge_index, graph.device
    rows = torch.arange(graph.num_edges, device=device)
    turning = rows if kind & Kind.TWO_WAY else graph.undirected.nonzero().view(-1)
    count = turning.numel()
    edge_id, opposite_id = _turned(graph)
    if opposite_id is not None:
        opposite_id = torch.cat([opposite_id[turning], graph.opposite_id])
    twin = torch.full((count + graph.num_edges,), -1, device=device)
    twin[:count] = turning + count
    twin[turning + count] = torch.arange(count, device=device)
    direction = torch.arange(twin.numel(), device=device).ge(count).long()
    return Member(
        torch.cat([dag.flip(0)[:, turning], dag], dim=1),
        torch.cat([edge_id[turning], graph.edge_id]),
        opposite_id,
        direction,
        twin,
    )


def _turned(graph: LineGraph) -> tuple[Tensor, Tensor | None]:
    """``edge_id`` and ``opposite_id`` of the edges turned round."""
    if graph.opposite_id is None:
        return graph.edge_id, None
    known = graph.opposite_id >= 0
    edge_id = torch.where(known, graph.opposite_id, graph.edge_id)
    return edge_id, torch.where(known, graph.edge_id, graph.opposite_id)


def share_undirected(graph: LineGraph) -> str:
    """Whether "all", "some" or "none" of the edges are of undirected graphs."""
    undirected = graph.undirected
    if bool(undirected.all()):
        return "all"
    return "some" if bool(undirected.any()) else "none"


def _one_way(graph: LineGraph) -> LineGraph:
    """The one-way graph that a two-way member was made of."""
    turned = graph.kind & Kind.TURNED
    return graph.relative(Kind.REVERSED if turned else Kind.ORIGINAL)


def _derived(graph: LineGraph) -> bool:
    return graph.kind & (Kind.TWO_WAY | Kind.MIXED) != 0


# -------------------------------------------------------------------- line edges


def is_complete(graph: LineGraph) -> bool:
    if graph.kind & Kind.REVERSED:
        return graph.reverse().is_complete
    if graph.kind & Kind.MULTITREE:
        whole = graph.root
        return whole.is_complete and (_is_forest(whole) or bool(multitree_mask(whole).all()))
    if _derived(graph):
        return _one_way(graph).is_complete
    return graph.line_index.size(1) == _count_pairs(graph)


def _is_forest(graph: LineGraph) -> bool:
    """Whether pruning has nothing to do: no component has a cycle, and in a two-way graph each has
    one root."""
    dag = graph.edge_index.cpu().numpy()
    if graph.is_two_way:
        dag = dag[:, graph.direction.cpu().numpy() == 1]
    label = components(dag, graph.num_nodes)
    count = np.unique(label).size
    if dag.shape[1] != graph.num_nodes - count:
        return False
    if not graph.is_two_way:
        return True
    entered = np.zeros(graph.num_nodes, dtype=bool)
    entered[dag[1]] = True
    return int((~entered).sum()) == count


def _count_pairs(graph: LineGraph) -> int:
    """How many pairs of edges may follow each other."""
    n = graph.num_nodes
    src, dst = graph.edge_index
    leaving, entering = torch.bincount(src, minlength=n), torch.bincount(dst, minlength=n)
    if not graph.is_two_way:
        return int((entering * leaving).sum())
    along = graph.direction == 1
    if graph.is_reversed:
        along = ~along
        src, dst = dst, src
    in_along, out_along = (torch.bincount(x[along], minlength=n) for x in (dst, src))
    in_against, out_against = (torch.bincount(x[~along], minlength=n) for x in (dst, src))
    pairs = in_along * out_along + in_against * out_against + in_against * out_along
    # Never straight back over the same edge.
    return int(pairs.sum()) - int((graph.twin >= 0).sum()) // 2


def num_line_edges(graph: LineGraph) -> int:
    if graph.kind & Kind.REVERSED:
        return graph.reverse().num_line_edges
    if graph.is_complete:
        return _count_pairs(graph)
    return graph.line_index.size(1)


def line_index(graph: LineGraph) -> Tensor:
    """[2, L]; see :attr:`plstm_graph.LineGraph.line_index`."""
    if graph.kind & Kind.REVERSED:
        return graph.reverse().line_index.flip(0)
    if graph.kind & Kind.MULTITREE:
        return graph.root.line_index[:, graph.line_id]
    if not _derived(graph):
        lines = line_index_of(graph.edge_index.cpu().numpy(), graph.num_nodes)
        return torch.from_numpy(lines).to(graph.device)
    if graph.is_complete:
        check_budget(_count_pairs(graph), graph.num_edges)
    source = _one_way(graph)
    turning = graph.twin[graph.direction == 0] - int((graph.direction == 0).sum())
    lines = two_way_line_index(
        source.edge_index.cpu().numpy(),
        source.line_index.cpu().numpy(),
        source.num_nodes,
        None if turning.numel() == source.num_edges else turning.cpu().numpy(),
    )
    return torch.from_numpy(lines).to(graph.device)


def line_id(graph: LineGraph) -> Tensor:
    """[L]; see :attr:`plstm_graph.LineGraph.line_id`."""
    if graph.kind & Kind.REVERSED:
        return graph.reverse().line_id
    if not graph.kind & Kind.MULTITREE:  # pruned from the start, by nobody knows what
        return torch.arange(graph.num_line_edges, device=graph.device)
    whole = graph.root
    if whole.is_complete and _is_forest(whole):
        return torch.arange(whole.num_line_edges, device=graph.device)
    return multitree_mask(whole).nonzero().view(-1)


def multitree_mask(graph: LineGraph) -> Tensor:
    """[L] bool, the line edges of the multitree of an unpruned, unreversed graph."""
    return graph.plan("multitree_mask", _multitree_mask)


def _multitree_mask(graph: LineGraph) -> Tensor:
    edges, lines = graph.edge_index.cpu().numpy(), graph.line_index.cpu().numpy()
    rank = None if graph.node_rank is None else graph.node_rank.cpu().numpy()
    if not graph.is_two_way:
        return torch.from_numpy(prune(edges, lines, rank)).to(graph.device)
    along = graph.direction.cpu().numpy() == 1
    rank = np.arange(graph.num_nodes) if rank is None else rank
    twin = graph.twin.cpu().numpy()
    number = np.arange(twin.size)
    original = np.where(twin >= 0, np.minimum(number, twin), number)
    mask = two_way_multitree_mask(edges, lines, graph.num_nodes, along, original, rank)
    return torch.from_numpy(mask).to(graph.device)


# -------------------------------------------------------------------- levels


def level(graph: LineGraph) -> Tensor:
    """[E]; see :attr:`plstm_graph.LineGraph.level`."""
    if not graph.is_two_way and graph.is_complete:
        # On the whole line graph an edge's level is that of the node it starts from.
        dag = graph.edge_index.cpu().numpy()
        found = longest_path_levels(dag, graph.num_nodes)[dag[0]]
        if (found >= 0).all():
            return torch.from_numpy(found).to(graph.device)
    found = longest_path_levels(graph.line_index.cpu().numpy(), graph.num_edges)
    return torch.from_numpy(found).to(graph.device)
