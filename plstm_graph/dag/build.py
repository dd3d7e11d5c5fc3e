"""From an edge_index to everything that is stored with a graph, on numpy arrays.

One graph or a disjoint union of thousands: the number of numpy calls is the same, which is what
makes building whole data sets fast.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from plstm_graph.dag.levels import line_index_of, longest_path_levels
from plstm_graph.dag.multitree import multitree_mask
from plstm_graph.dag.orient import orient_numpy


class LineParts(NamedTuple):
    """A line graph as arrays, in the order in which they are stored."""

    dag_edge_index: np.ndarray  #: [2, E] int64
    line_index: np.ndarray  #: [2, L] int64
    edge_id: np.ndarray  #: [E] int64, ascending columns of the input
    level: np.ndarray  #: [E] int64
    multitree_mask: np.ndarray  #: [L] bool


def build_line_parts(
    edge_index: np.ndarray,
    num_nodes: int,
    orientation: str | np.ndarray = "auto",
    batch: np.ndarray | None = None,
    seed: int | list[int] | None = None,
) -> LineParts:
    """Orient a graph and build its line graph, levels and multitree.

    Args and errors: see :func:`plstm_graph.dag.orient.orient`. If the columns of ``edge_index``
    are sorted by graph, so is every result.
    """
    edge_id = orient_numpy(edge_index, num_nodes, orientation, batch, seed)
    dag = edge_index[:, edge_id]
    line = line_index_of(dag, num_nodes)
    # On the whole line graph an edge's level is that of the node it starts from.
    level = longest_path_levels(dag, num_nodes)[dag[0]]
    return LineParts(dag, line, edge_id, level, multitree_mask(dag, line))
