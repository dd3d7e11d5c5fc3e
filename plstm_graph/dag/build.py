"""From an edge_index to everything that is stored with a graph, on numpy arrays.

One graph or a disjoint union of thousands: the number of numpy calls is the same, which is what
makes building whole data sets fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from plstm_graph.dag.levels import line_index_of, longest_path_levels
from plstm_graph.dag.multitree import multitree_mask
from plstm_graph.dag.orient import orient


class LineParts(NamedTuple):
    """A line graph as arrays, in the order in which they are stored."""

    dag_edge_index: np.ndarray  #: [2, E] int64
    line_index: np.ndarray | None  #: [2, L] int64, if it was asked for
    edge_id: np.ndarray  #: [E] int64, ascending columns of the input
    opposite_id: np.ndarray | None  #: [E] int64, see :class:`plstm_graph.dag.orient.Oriented`
    node_rank: np.ndarray | None  #: [N], likewise
    level: np.ndarray  #: [E] int64
    multitree_mask: np.ndarray | None  #: [L] bool, if it was asked for


def build_line_parts(
    edge_index: np.ndarray,
    num_nodes: int,
    orientation: str | np.ndarray = "canonical",
    batch: np.ndarray | None = None,
    seed: int | list[int] | None = None,
    node_keys: Sequence[np.ndarray] = (),
    edge_keys: Sequence[np.ndarray] = (),
    *,
    lines: bool = True,
    multitree: bool = True,
) -> LineParts:
    """Orient a graph; its levels, with ``lines`` its line edges, with ``multitree`` its multitree.

    Args and errors: see :func:`plstm_graph.dag.orient.orient`. If the columns of ``edge_index``
    are sorted by graph, so is every result.
    """
    edge_id, opposite_id, rank = orient(
        edge_index, num_nodes, orientation, batch, seed, node_keys, edge_keys
    )
    dag = edge_index[:, edge_id]
    line = line_index_of(dag, num_nodes) if lines else None
    # On the whole line graph an edge's level is that of the node it starts from.
    level = longest_path_levels(dag, num_nodes)[dag[0]]
    mask = multitree_mask(dag, line, rank) if lines and multitree else None
    return LineParts(dag, line, edge_id, opposite_id, rank, level, mask)
