"""The parts of a batch: graphs, or connected components where no batch is known."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from plstm_graph.dag.levels import components, longest_path_levels
from plstm_graph.dag.line_graph import LineGraph


class Segments(NamedTuple):
    """The parts of a graph (numpy arrays; P parts).

    Attributes:
        node_part: [N] part of each node; node_local: [N] its number inside the part.
        edge_part: [E] part of each edge.
        num_nodes, num_edges: [P] sizes.
    """

    node_part: np.ndarray
    node_local: np.ndarray
    edge_part: np.ndarray
    num_nodes: np.ndarray
    num_edges: np.ndarray


def segments(line_graph: LineGraph) -> Segments:
    """Parts by ``node_batch`` where it is given, by connected components otherwise.

    Planned once for a graph, its reverse and its multitree.
    """
    return line_graph.root.plan("segments", _segments)


def largest_part(line_graph: LineGraph) -> int:
    """The nodes of the largest part. Planned once."""
    return line_graph.root.plan(
        "largest_part", lambda graph: int(segments(graph).num_nodes.max(initial=0))
    )


def _segments(line_graph: LineGraph) -> Segments:
    edge_index = line_graph.edge_index.cpu().numpy()
    if line_graph.node_batch is None:
        node_part = components(edge_index, line_graph.num_nodes)
    else:
        node_part = line_graph.node_batch.cpu().numpy()
    # Labels with gaps would be parts without nodes.
    node_part = np.unique(node_part, return_inverse=True)[1].reshape(-1)
    parts = int(node_part.max(initial=-1)) + 1
    edge_part = node_part[edge_index[0]]
    return Segments(
        node_part,
        _rank_within(node_part, np.argsort(node_part, kind="stable"), parts),
        edge_part,
        np.bincount(node_part, minlength=parts),
        np.bincount(edge_part, minlength=parts),
    )


def edge_numbers(line_graph: LineGraph) -> np.ndarray:
    """[E] the topological number of each edge inside its part, in the direction of the graph that
    is not reversed (a reversed graph has the opposite order). Planned once."""
    return line_graph.root.plan("edge_numbers", _edge_numbers)


def _edge_numbers(line_graph: LineGraph) -> np.ndarray:
    part = segments(line_graph).edge_part
    # Levels order the edges of the multitree too, and reversed those of the reverse.
    if line_graph.is_two_way and line_graph.is_complete:
        # Those of nodes do as well: first up, the deepest edges first, then down.
        src, dst = line_graph.edge_index.cpu().numpy()
        along = line_graph.direction.cpu().numpy() == 1
        up, down = (
            longest_path_levels(ends[:, along], line_graph.num_nodes)
            for ends in (np.stack([dst, src]), np.stack([src, dst]))
        )
        keys = np.where(along, down[src], up[src]), along
    else:
        keys = (line_graph.level.cpu().numpy(),)
    return _rank_within(part, np.lexsort((*keys, part)), int(part.max(initial=-1)) + 1)


def _rank_within(group: np.ndarray, order: np.ndarray, groups: int) -> np.ndarray:
    """The place of each item inside its group, when items stand in ``order`` (sorted by group)."""
    count = np.bincount(group, minlength=groups)
    rank = np.empty(group.size, dtype=np.int64)
    rank[order] = np.arange(group.size) - np.repeat(np.cumsum(count) - count, count)
    return rank
