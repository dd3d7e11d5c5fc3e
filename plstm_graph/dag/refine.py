r"""Colour refinement of many graphs at once, where work is proportional to what changes.

A *partition* gives each node a cell and each cell a colour, a 64-bit hash. :meth:`Partition.split`
divides cells by a signature; :meth:`Partition.refine` splits by the colours of neighbours until
the partition is *equitable*: of two nodes in one cell, each has as many neighbours in any cell,
over arcs of any mark, as the other.

Refinement is driven by a list of nodes whose colour is new. They send a hash of their colour and
of the arc's mark to their neighbours, and a cell is divided where its members received different
sums. Members that received nothing keep cell and colour, and so does a cell that stays whole. This
loses nothing: the members of a cell had equal counts before the last step, so they have equal
counts after it if and only if equally many of their neighbours have each new colour. For the same
reason, where all members received something, the largest group may keep cell and colour. A path
of n nodes can need n / 2 steps, but each of them then costs a few nodes only.

**Colours are functions of colours.** A new colour is a hash of the old one, of the signature and of
the size of the cell (which only shrinks, so that the same signature at another time gives another
colour). Neither node numbers nor the order in memory enter, sums of hashes stand for multisets, and
different components never exchange anything: a component's colours are the same under any
numbering and in any union. Hashes have 64 bits; collisions are neglected.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from plstm_graph.dag.levels import expand

_ODD = np.uint64(0xD1342543DE82EF95)
_SIZE = np.uint64(0x9FB21C651E98DF25)


def mix(value: np.ndarray) -> np.ndarray:
    """A 64-bit hash of integers (splitmix64): [...] any integer or bool dtype -> [...] uint64."""
    z = value.astype(np.uint64)  # a copy: the rest happens in place
    z += np.uint64(0x9E3779B97F4A7C15)
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


def mix_pair(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """A 64-bit hash of ordered pairs of integers."""
    return mix(mix(first) * _ODD + second.astype(np.uint64))


def unique_last(value: np.ndarray, scratch: np.ndarray) -> np.ndarray:
    """The distinct entries of ``value``, without sorting; ``scratch`` has an entry for each."""
    position = np.arange(value.size)
    scratch[value] = position
    return value[scratch[value] == position]


def is_least(value: np.ndarray, group: np.ndarray) -> np.ndarray:
    """[K] bool, entries of ``value`` (uint64) that are the least of their group."""
    least = np.full(int(group.max(initial=0)) + 1, np.iinfo(np.uint64).max, dtype=np.uint64)
    np.minimum.at(least, group, value)
    return value == least[group]


class Graphs(NamedTuple):
    """A disjoint union of C connected simple graphs with n nodes and m arcs, in CSR form.

    Nodes are sorted by component, arcs by the node they leave, and each arc has an opposite.
    """

    start: np.ndarray  #: [C + 1] int64, first node of each component
    component: np.ndarray  #: [n] int64
    ptr: np.ndarray  #: [n + 1] int64, first arc of each node
    neighbour: np.ndarray  #: [m] int64, the node that the arc enters
    mark: np.ndarray  #: [m] uint64, the arc's colour as the node that it enters sees it
    core: np.ndarray  #: [n] bool, nodes of the 2-core

    def arcs(self, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The arcs that leave the nodes, and the position in ``nodes`` of each one's tail."""
        begin = self.ptr[nodes]
        count = self.ptr[nodes + 1] - begin
        return expand(begin, count), np.repeat(np.arange(nodes.size), count)

    def around(self, nodes: np.ndarray) -> np.ndarray:
        """The neighbours of the nodes, one node after the other."""
        begin = self.ptr[nodes]
        return self.neighbour[expand(begin, self.ptr[nodes + 1] - begin)]

    def nodes(self, components: np.ndarray) -> np.ndarray:
        """The nodes of the components, one component after the other."""
        begin = self.start[components]
        return expand(begin, self.start[components + 1] - begin)

    def take(self, components: np.ndarray) -> tuple[Graphs, np.ndarray]:
        """The union of the components, which may repeat, and the node that each node copies."""
        begin, end = self.start[components], self.start[components + 1]
        nodes = expand(begin, end - begin)
        start = _running(end - begin)
        first_arc = self.ptr[begin]
        num_arcs = self.ptr[end] - first_arc
        arcs = expand(first_arc, num_arcs)
        copy = Graphs(
            start,
            np.repeat(np.arange(components.size), end - begin),
            _running(self.ptr[nodes + 1] - self.ptr[nodes]),
            self.neighbour[arcs] + np.repeat(start[:-1] - begin, num_arcs),
            self.mark[arcs],
            self.core[nodes],
        )
        return copy, nodes


def _running(count: np.ndarray) -> np.ndarray:
    """[K + 1] sums of the first 0, 1, ..., K counts."""
    total = np.zeros(count.size + 1, dtype=np.int64)
    np.cumsum(count, out=total[1:])
    return total


class Partition:
    """Cells and colours of the nodes of :class:`Graphs`; at first one cell for each component.

    Attributes:
        color: [n] uint64, equal exactly inside a cell (among nodes of one component).
        cell: [n] int64 number of the node's cell. Numbers carry no meaning.
        size: number of nodes of each cell, by its number.
    """

    def __init__(self, component: np.ndarray, cell: np.ndarray | None = None) -> None:
        cell = component.copy() if cell is None else cell
        count = np.bincount(cell)
        self.color = np.zeros(cell.size, dtype=np.uint64)
        self.cell = cell
        # Cells never become empty, so there are n new ones at most.
        self.size = np.concatenate([count, np.zeros(cell.size, dtype=np.int64)])
        self._used = count.size
        self._most = np.empty_like(self.size)
        self._least = np.empty(self.size.size, dtype=np.uint64)
        self._received = np.zeros(cell.size, dtype=np.uint64)
        self._scratch = np.empty(cell.size, dtype=np.int64)

    def take(self, component: np.ndarray, nodes: np.ndarray) -> Partition:
        """The same partition on the copies that :meth:`Graphs.take` made."""
        key = component * (int(self.cell.max(initial=0)) + 1) + self.cell[nodes]
        copy = Partition(component, np.unique(key, return_inverse=True)[1].reshape(-1))
        copy.color = self.color[nodes]
        return copy

    def tied(self) -> np.ndarray:
        """[n] bool, nodes that are not alone in their cell."""
        return self.size[self.cell] > 1

    def split(self, nodes: np.ndarray, signature: np.ndarray) -> np.ndarray:
        """Divide cells by the signatures of some of their nodes.

        Nodes of a cell with equal signatures move to a new cell together. Nodes that are not given
        stay where they are; in a cell all of whose nodes are given, the largest group stays.

        Args:
            nodes: [K] int64, different nodes.
            signature: [K] uint64.

        Returns:
            The nodes that moved: those with a new colour.
        """
        cell = self.cell[nodes]
        size = self.size[cell]
        color = mix(self.color[nodes] * _ODD + signature + size.astype(np.uint64) * _SIZE)
        # One sort by a hash of (cell, new colour) brings equals together.
        key = mix(color + cell.astype(np.uint64) * _ODD)
        order = np.argsort(key)
        key = key[order]
        first = np.ones(nodes.size, dtype=bool)
        np.not_equal(key[1:], key[:-1], out=first[1:])
        begin = np.flatnonzero(first)
        count = np.diff(begin, append=nodes.size)
        leader = order[begin]
        divided = np.flatnonzero(count < size[leader])
        if not divided.size:
            return nodes[:0]
        rest = leader[divided]
        divided = divided[~self._stays(cell[rest], count[divided], color[rest])]
        new = self._used + np.arange(divided.size)
        self._used += divided.size
        count = count[divided]
        np.subtract.at(self.size, cell[leader[divided]], count)
        self.size[new] = count
        position = order[expand(begin[divided], count)]
        moved = nodes[position]
        self.cell[moved] = np.repeat(new, count)
        self.color[moved] = color[position]
        return moved

    def _stays(self, cell: np.ndarray, count: np.ndarray, color: np.ndarray) -> np.ndarray:
        """[K] bool, groups that keep their cell: the largest one of a cell that has no other rest.

        Of equally large ones, the one of least colour.
        """
        most, least = self._most, self._least
        most[cell] = 0
        np.add.at(most, cell, count)
        stays = most[cell] == self.size[cell]
        most[cell] = 0
        np.maximum.at(most, cell, count)
        stays &= count == most[cell]
        least[cell[stays]] = color[stays]
        np.minimum.at(least, cell[stays], color[stays])
        stays[stays] = color[stays] == least[cell[stays]]
        return stays

    def refine(self, graphs: Graphs, fresh: np.ndarray) -> None:
        """Split by the colours of neighbours until the partition is equitable.

        Args:
            graphs: the graphs of this partition.
            fresh: the nodes whose colours have not been used yet; for the first call all nodes
                of a component.
        """
        while fresh.size:
            arc, tail = graphs.arcs(fresh)
            head = graphs.neighbour[arc]
            open_ = self.size[self.cell[head]] > 1  # a cell of one node cannot be divided
            arc, tail, head = arc[open_], tail[open_], head[open_]
            np.add.at(self._received, head, mix(self.color[fresh[tail]] + graphs.mark[arc]))
            reached = unique_last(head, self._scratch)
            signature = self._received[reached]
            self._received[reached] = 0
            fresh = self.split(reached, signature)

    def certificate(self, graphs: Graphs) -> np.ndarray:
        """[C] uint64, a hash of each component's colours and of the colours around each node.

        Equal certificates of equitable partitions mean equal quotients: equally many nodes of
        each colour, with equal numbers of neighbours in each colour over arcs of each mark.
        """
        received = np.zeros(self.color.size, dtype=np.uint64)
        tail = np.repeat(self.color, np.diff(graphs.ptr))
        np.add.at(received, graphs.neighbour, mix(tail + graphs.mark))
        total = np.zeros(graphs.start.size - 1, dtype=np.uint64)
        np.add.at(total, graphs.component, mix(self.color * _ODD + received))
        return total
