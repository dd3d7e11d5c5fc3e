"""Branches of the search for canonical ranks, what is known of them, and the best leaf."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from plstm_graph.dag.levels import components, expand
from plstm_graph.dag.refine import Graphs, Partition

_MAX = np.iinfo(np.uint64).max


class Branches(NamedTuple):
    """B copies of components, each with a partition of its own."""

    graphs: Graphs
    partition: Partition
    owner: np.ndarray  #: [B] component that each branch copies, ascending
    root: np.ndarray  #: [B] position of the root in the component, -1 before it is chosen

    def take(self, chosen: np.ndarray) -> Branches:
        """Copies of the chosen branches, which may repeat."""
        graphs, nodes = self.graphs.take(chosen)
        partition = self.partition.take(graphs.component, nodes)
        return Branches(graphs, partition, self.owner[chosen], self.root[chosen])


class Orbits:
    """Nodes of the target cells that known automorphisms exchange.

    Each branch has a *leader*, a leaf of one of its children; automorphisms come from leaves that
    equal it. ``order`` lists the leader's nodes by colour.
    """

    def __init__(self, graphs: Graphs, is_target: np.ndarray) -> None:
        self.graphs, self.is_target = graphs, is_target
        self.orbit = np.arange(is_target.size)  # the lowest node of the orbit
        self.tried = np.zeros(is_target.size, dtype=bool)
        count = graphs.start.size - 1
        self.order = np.zeros(is_target.size, dtype=np.int64)
        self.certificate = np.full(count, _MAX, dtype=np.uint64)
        self.leaf = np.full(count, _MAX, dtype=np.uint64)

    def untried(self) -> np.ndarray:
        """One node of each orbit of which no node was tried, ascending."""
        known = np.zeros(self.orbit.size, dtype=bool)
        known[self.orbit[self.tried]] = True
        return np.flatnonzero(self.is_target & ~known & (self.orbit == np.arange(known.size)))

    def merge(
        self, leaves: Branches, parent: np.ndarray, certificate: np.ndarray, leaf: np.ndarray
    ) -> None:
        """Orbits become larger by the automorphisms that leaves of children of one parent give.

        Args:
            leaves: a leaf of each child.
            parent: [A] branch of each child, ascending.
            certificate: [A] uint64 of the children.
            leaf: [A] uint64 certificates of the leaves.
        """
        component = leaves.graphs.component
        order = np.lexsort((leaves.partition.color, component))
        # The same nodes, as nodes of the parents.
        order += (self.graphs.start[parent] - leaves.graphs.start[:-1])[component]
        smaller = np.flatnonzero(certificate < self.certificate[parent])
        smaller = smaller[np.diff(parent[smaller], prepend=-1) != 0]
        self.order[self.graphs.nodes(parent[smaller])] = order[leaves.graphs.nodes(smaller)]
        self.certificate[parent[smaller]] = certificate[smaller]
        self.leaf[parent[smaller]] = leaf[smaller]
        equal = np.flatnonzero(leaf == self.leaf[parent])
        one = self.order[self.graphs.nodes(parent[equal])]
        other = order[leaves.graphs.nodes(equal)]
        moved = self.is_target[one] & (one != other)
        pairs = self.orbit[np.stack([one[moved], other[moved]])]
        self.orbit = components(pairs, self.orbit.size)[self.orbit]


class Best:
    """For each component the colours and the root of the smallest leaf, then of the result."""

    def __init__(self, graphs: Graphs) -> None:
        count = graphs.start.size - 1
        self.start = graphs.start
        self.color = np.zeros(graphs.component.size, dtype=np.uint64)
        self.root = np.full(count, -1, dtype=np.int64)
        self.leaf = np.full(count, _MAX, dtype=np.uint64)

    def write(self, branches: Branches, chosen: np.ndarray) -> None:
        """Takes the chosen branches, at most one of a component."""
        owner = branches.owner[chosen]
        begin = self.start[owner]
        nodes = expand(begin, self.start[owner + 1] - begin)
        self.color[nodes] = branches.partition.color[branches.graphs.nodes(chosen)]
        self.root[owner] = branches.root[chosen]

    def offer(self, leaves: Branches, certificate: np.ndarray) -> None:
        """Takes leaves that are smaller than what there is."""
        order = np.lexsort((certificate, leaves.owner))
        order = order[np.diff(leaves.owner[order], prepend=-1) != 0]
        owner = leaves.owner[order]
        better = (certificate[order] < self.leaf[owner]) | (self.root[owner] < 0)
        self.leaf[owner[better]] = certificate[order[better]]
        self.write(leaves, order[better])
