r"""Ties that are symmetries: nodes of one cell that an automorphism exchanges.

All statements are about an equitable partition of a connected simple graph with marked arcs; an
automorphism is one that keeps cells and marks. If all choices among some nodes are exchanged by
automorphisms, any choice leads to the same labelled graph, so no search is needed.

**Pendant trees.** A node outside the 2-core has one neighbour towards the core and finite trees
behind the others, so its colour tells the tree (equal colours mean equal universal covers). Once
the core is discrete, two such nodes of one colour with one parent have isomorphic trees, and
exchanging these is an automorphism. In a component that is a tree, the one or two centre nodes
are exchanged if they are tied. So only cells of the core need care; the core's partition is
equitable by itself, since cells do not mix the core with the rest.

**Pieces.** Take from the core the nodes that are alone in their cell, and all arcs between two
cells (or inside one) if they join every pair with the same mark. Neither matters to whether a
permutation that keeps cells is an automorphism, and the rest, R, is still equitable. A *piece* is a
connected component of R. Pieces that share one cell share all their cells. A permutation of R's
pieces by isomorphisms is an automorphism. The nodes of a cell are exchanged if, for every piece K
of the cell, one of these holds:

* *K has at most one cycle, and the pieces of its cells have equal sizes.* Nodes of one colour have
  equal universal covers. If K is a tree, it is its cover. Else the cover is an infinite path with
  trees; an isomorphism between two covers maps the paths, hence translations to translations, and
  as the pieces' cycles have the same length, it descends to the pieces.
* *K meets each of its cells once.* Then K is the quotient, as is each other piece of its cells that
  passes.
* *The cells of K have at most two nodes.* Let {a, a'} and {b, b'} be such cells, and xy be 1 if an
  arc of a given mark runs from x to y, else 0. Equitable means ab + a'b = ab' + a'b', and with the
  opposite arcs ab + ab' = a'b + a'b'. The difference of the two equations is a'b = ab', so
  ab = a'b': exchanging both pairs at once keeps all arcs. The same holds inside a cell, where only
  arcs from a to a' and back are possible. So exchanging the two nodes of every cell that K meets
  is an automorphism.

:func:`settle` numbers the pieces of such a cell in any order, picks any one node of the cell in
each, and refines, until the core is discrete or only other ties are left.
"""

from __future__ import annotations

import numpy as np

from plstm_graph.dag.levels import components
from plstm_graph.dag.refine import Graphs, Partition, mix, mix_pair


def settle(
    graphs: Graphs, partition: Partition, fresh: np.ndarray, is_open: np.ndarray | None = None
) -> np.ndarray:
    """Refines, and breaks the ties of the core that are symmetries.

    Args:
        graphs: C components.
        partition: changed in place.
        fresh: nodes whose colours are new, see :meth:`Partition.refine`.
        is_open: [C] bool, the components in which ties may be broken; default all.

    Returns:
        The components, ascending, of which some ties in the core may not be symmetries.
    """
    while True:
        partition.refine(graphs, fresh)
        tied = graphs.core & partition.tied()
        if is_open is not None:
            tied &= is_open[graphs.component]
        nodes = np.flatnonzero(tied)
        if not nodes.size:
            return nodes
        piece, exchanged = pieces(graphs, partition, nodes)
        if not exchanged.any():
            return np.unique(graphs.component[nodes])
        picked = _pick(partition, nodes[exchanged], piece[exchanged])
        # Pieces that share a cell get different numbers.
        cell = partition.cell[picked]
        order = np.argsort(cell, kind="stable")
        first = np.diff(cell[order], prepend=-1) != 0
        count = np.arange(picked.size)
        number = count - np.maximum.accumulate(np.where(first, count, 0))
        fresh = partition.split(picked[order], mix(number))


def pieces(
    graphs: Graphs, partition: Partition, nodes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The piece of each tied node of the core, and whether its cell's ties are symmetries.

    Args:
        graphs, partition: an equitable partition.
        nodes: [K] all tied nodes of the cores of some components.

    Returns:
        piece: [K] int64, numbers from 0.
        exchanged: [K] bool.
    """
    tail, head = _arcs_between(graphs, partition, nodes)
    label = components(np.stack([tail, head]), nodes.size)
    is_first = label == np.arange(nodes.size)
    piece = (np.cumsum(is_first) - 1)[label]
    num_nodes = np.bincount(piece)
    num_arcs = np.bincount(piece[tail], minlength=num_nodes.size)
    names, cell = np.unique(partition.cell[nodes], return_inverse=True)
    pair, share = np.unique(piece * names.size + cell.reshape(-1), return_counts=True)
    of_piece, of_cell = np.divmod(pair, names.size)
    # Quantities of a cell, then of a piece: the largest over its cells.
    least = np.full(names.size, nodes.size, dtype=np.int64)
    most = np.zeros(names.size, dtype=np.int64)
    np.minimum.at(least, of_cell, num_nodes[of_piece])
    np.maximum.at(most, of_cell, num_nodes[of_piece])
    same_size = ~_any(num_nodes.size, of_piece, (least != most)[of_cell])
    once = ~_any(num_nodes.size, of_piece, share > 1)
    pairs = ~_any(num_nodes.size, of_piece, (partition.size[names] > 2)[of_cell])
    good = ((num_arcs <= 2 * num_nodes) & same_size) | once | pairs
    bad_cell = _any(names.size, of_cell, ~good[of_piece])
    return piece, ~bad_cell[cell.reshape(-1)]


def _arcs_between(
    graphs: Graphs, partition: Partition, nodes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The arcs of R, as positions in ``nodes`` of tail and head."""
    local = np.full(graphs.component.size, -1, dtype=np.int64)
    local[nodes] = np.arange(nodes.size)
    arc, tail = graphs.arcs(nodes)
    head = local[graphs.neighbour[arc]]
    inside = head >= 0
    arc, tail, head = arc[inside], tail[inside], head[inside]
    first, second = partition.cell[nodes[tail]], partition.cell[nodes[head]]
    block = mix_pair(mix_pair(first, second), graphs.mark[arc])
    _, block, count = np.unique(block, return_inverse=True, return_counts=True)
    size = partition.size
    pairs = size[first] * (size[second] - (first == second))
    rest = count[block.reshape(-1)] < pairs
    return tail[rest], head[rest]


def _pick(partition: Partition, nodes: np.ndarray, piece: np.ndarray) -> np.ndarray:
    """From each piece a node of its cell of smallest colour."""
    color = partition.color[nodes]
    smallest = np.full(int(piece.max()) + 1, np.iinfo(np.uint64).max, dtype=np.uint64)
    np.minimum.at(smallest, piece, color)
    lowest = color == smallest[piece]
    choice = np.full(smallest.size, -1, dtype=np.int64)
    choice[piece[lowest]] = nodes[lowest]  # of several the last assignment stays
    return choice[choice >= 0]


def _any(size: int, index: np.ndarray, value: np.ndarray) -> np.ndarray:
    """[size] bool, whether any value is true at the index."""
    result = np.zeros(size, dtype=bool)
    result[index[value]] = True
    return result
