r"""The smallest labelling of graphs whose ties are not known to be symmetries.

A *branch* is a copy of a component whose partition was made finer by a few choices: the root, then
single nodes told apart from their cells. All copies of all components are refined at once, as a
disjoint union. One level of the search, for each component:

1. Each branch that is left gets a child for every node of its target cell: the candidates for the
   root, then the smallest cell of tied core nodes (of equally large ones, that of least colour).
2. Only children with the smallest certificate stay. Certificates do not depend on numbering, so
   this keeps or drops children that an automorphism exchanges together.
3. If the children that stay have a discrete core, equal certificates make them isomorphic: any one
   is the result. (Equal certificates: either all of them have it or none.)
4. Otherwise each child is completed by arbitrary choices to a *leaf* with a discrete core. Equal
   certificates of two leaves give an automorphism that maps the choices of the one to those of the
   other, so the children have the same descendants up to automorphisms: one of them stays.

If both children have one parent, that automorphism fixes the parent. The group of such
automorphisms moves a node of the target cell along an orbit, and one child for each orbit is
enough. So children are made in batches, and a few of them do for a large symmetric graph.

What is dropped has an equal that stays, or is not smallest under any numbering, so the result is
the same labelled graph for every numbering. A component beyond the limit takes the smallest leaf
found so far.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from plstm_graph.dag.branches import Best, Branches, Orbits
from plstm_graph.dag.centre import distance
from plstm_graph.dag.refine import Graphs, Partition, is_least, mix
from plstm_graph.dag.symmetry import settle

#: Nodes of all copies of one component: bounds the time for large graphs without features.
MAX_COPIED_NODES = 1 << 21

#: Nodes of the copies that are refined at once: bounds the memory.
_CHUNK_NODES = 1 << 20

#: Children of one branch in the first batch; each batch is twice as large as the last.
_FIRST_BATCH = 4

_MAX = np.iinfo(np.uint64).max


class Found(NamedTuple):
    """The result of :func:`search` for K components with n nodes in all."""

    color: np.ndarray  #: [n] uint64, different at all nodes of one core
    root: np.ndarray  #: [K] int64, position of the root in its component
    limited: np.ndarray  #: [K] bool, the limit was reached


def search(
    graphs: Graphs, partition: Partition, root: np.ndarray, candidate: np.ndarray, limit: int
) -> Found:
    """Chooses a root where there is none, and breaks all ties of the cores.

    Args:
        graphs: K components.
        partition: equitable, with ties that :func:`settle` leaves.
        root: [K] int64 position of the root in its component, or -1.
        candidate: [n] bool, the candidates for the root of the components without one, each time
            a whole cell.
        limit: children of one component at most.
    """
    budget = np.minimum(limit, np.maximum(MAX_COPIED_NODES // np.diff(graphs.start), 2))
    best = Best(graphs)
    limited = np.zeros(root.size, dtype=bool)
    branches = Branches(graphs, partition, np.arange(root.size), root)
    is_target = np.where((root < 0)[graphs.component], candidate, _target(graphs, partition))
    while branches.owner.size:
        parent, pick = _survivors(branches, is_target, budget, limited, best)
        branches, stuck = _grow(branches, parent, pick)
        best.write(branches, np.flatnonzero(~stuck))
        branches = branches.take(np.flatnonzero(stuck))
        is_target = _target(branches.graphs, branches.partition)
    return Found(best.color, best.root, limited)


def split_by_depth(partition: Partition, depth: np.ndarray) -> np.ndarray:
    """Splits cells by the distance from the root ([n] int64, -1 where there is none).

    Returns:
        The nodes with a new colour, see :meth:`Partition.split`.
    """
    nodes = np.flatnonzero((depth >= 0) & partition.tied())
    return partition.split(nodes, mix(depth[nodes]))


def _target(graphs: Graphs, partition: Partition) -> np.ndarray:
    """[n] bool, the smallest cell of tied core nodes, of least colour, in each component."""
    nodes = np.flatnonzero(graphs.core & partition.tied())
    size = partition.size[partition.cell[nodes]].astype(np.uint64)
    nodes = nodes[is_least(size, graphs.component[nodes])]
    nodes = nodes[is_least(partition.color[nodes], graphs.component[nodes])]
    result = np.zeros(graphs.component.size, dtype=bool)
    result[nodes] = True
    return result


def _grow(branches: Branches, parent: np.ndarray, pick: np.ndarray) -> tuple[Branches, np.ndarray]:
    """The children, settled, and whether each still has ties in its core."""
    position = pick - branches.graphs.start[parent]
    graphs, partition, owner, root = branches.take(parent)
    picked = graphs.start[:-1] + position
    rooted = root >= 0
    fresh = partition.split(picked[rooted], np.zeros(np.count_nonzero(rooted), dtype=np.uint64))
    if not rooted.all():
        depth = distance(graphs, picked[~rooted])
        fresh = np.concatenate([fresh, split_by_depth(partition, depth)])
    is_stuck = np.zeros(parent.size, dtype=bool)
    is_stuck[settle(graphs, partition, fresh)] = True
    return Branches(graphs, partition, owner, np.where(rooted, root, position)), is_stuck


def _complete(branches: Branches, stuck: np.ndarray) -> Branches:
    """Breaks ties of the core one at a time, by any node of the target cell, until none is left."""
    graphs, partition = branches.graphs, branches.partition
    rest = np.flatnonzero(stuck)
    while rest.size:
        nodes = np.flatnonzero(_target(graphs, partition))
        first = nodes[np.diff(graphs.component[nodes], prepend=-1) != 0]
        fresh = partition.split(first, np.zeros(first.size, dtype=np.uint64))
        rest = settle(graphs, partition, fresh)
    return branches


def _survivors(
    branches: Branches,
    is_target: np.ndarray,
    budget: np.ndarray,
    limited: np.ndarray,
    best: Best,
) -> tuple[np.ndarray, np.ndarray]:
    """Branch and node of the children that stay, sorted by component.

    Args:
        branches: not settled yet.
        is_target: [n] bool, a cell of each branch.
        budget: [K] children that each component may still have; lowered.
        limited: [K] bool, set where the budget is not enough.
        best: gets all leaves.
    """
    graphs = branches.graphs
    orbits = Orbits(graphs, is_target)
    smallest = np.full(budget.size, _MAX, dtype=np.uint64)
    found = []
    batch = _FIRST_BATCH
    while True:
        pick = orbits.untried()
        pick = pick[_place(graphs.component[pick]) < batch]
        owner = branches.owner[graphs.component[pick]]
        allowed = _place(owner) < budget[owner]
        limited[owner[~allowed]] = True
        pick = pick[allowed]
        if not pick.size:
            break
        orbits.tried[pick] = True
        np.subtract.at(budget, owner[allowed], 1)
        for picked in _chunks(pick, np.diff(graphs.start)[graphs.component[pick]], owner[allowed]):
            parent = graphs.component[picked]
            children, stuck = _grow(branches, parent, picked)
            certificate = children.partition.certificate(children.graphs)
            np.minimum.at(smallest, children.owner, certificate)
            # A child that is smallest so far may have to go later, when ``found`` is complete.
            alive = np.flatnonzero(certificate == smallest[children.owner])
            parent, certificate = parent[alive], certificate[alive]
            leaves = _complete(children.take(alive), stuck[alive])
            leaf = leaves.partition.certificate(leaves.graphs)
            best.offer(leaves, leaf)
            orbits.merge(leaves, parent, certificate, leaf)
            found.append((parent, picked[alive], certificate, leaf))
        batch *= 2
    if not found:  # no budget is left: the smallest leaves in ``best`` are the result
        return pick, pick
    parent, pick, certificate, leaf = map(np.concatenate, zip(*found))
    owner = branches.owner[parent]
    order = np.lexsort((leaf, owner))
    order = order[certificate[order] == smallest[owner[order]]]
    first = np.ones(order.size, dtype=bool)
    first[1:] = (owner[order][1:] != owner[order][:-1]) | (leaf[order][1:] != leaf[order][:-1])
    return parent[order[first]], pick[order[first]]


def _chunks(pick: np.ndarray, size: np.ndarray, owner: np.ndarray) -> list[np.ndarray]:
    """Splits picks of the given sizes. The children of one component are split in the same way
    whatever the others are, so that its ranks are those that it gets alone.
    """
    total = np.bincount(owner, weights=size).astype(np.int64)
    before = np.cumsum(total) - total
    inside = (np.cumsum(size) - size - before[owner]) // _CHUNK_NODES
    outside = (before // _CHUNK_NODES)[owner]
    return np.split(pick, np.flatnonzero((np.diff(inside) != 0) | (np.diff(outside) != 0)) + 1)


def _place(group: np.ndarray) -> np.ndarray:
    """[K] position of each entry in its group; ``group`` is sorted."""
    return np.arange(group.size) - np.searchsorted(group, group)
