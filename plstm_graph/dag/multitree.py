r"""Pruning the line graph to a multitree: at most one directed path between any two edges.

D-mode lets transitions have size one, so a state may reach an edge along one path only. Line
edges are dropped until that holds. Call an edge without predecessors a *root*. Two predecessors
of an edge may both be kept if and only if no edge precedes both of them, that is (every edge
that precedes both is itself preceded by a root) if and only if the sets of roots above them are
disjoint. So, in topological order, each edge keeps predecessors with pairwise disjoint root
sets, chosen greedily: fewest roots first, then the source node of the smaller rank. The result does
not depend on the order of edges, except among parallel edges, which are interchangeable, nor on
the numbers of nodes where their ranks do not.

Root sets are expensive on large graphs and almost never needed. Seen as a DAG of vertices and
arcs, three steps decide most arcs without them, all exactly as the greedy choice would:

* a vertex with one arc has the set of its predecessor: it becomes an alias of it;
* two arcs with one tail and one head share everything: the worse one is dropped;
* a root with a single arc left can meet nothing: the arc is kept, and the root forgotten,
  because whatever comes after it comes after the head of its arc too.

What is left after some rounds (nothing in a forest, a few vertices in a molecule) is solved one
level at a time with explicit sets.
"""

import numpy as np

from plstm_graph.checks import describe, pairs, refuse
from plstm_graph.dag.levels import csr, expand, longest_path_levels

#: Stored (vertex, root) pairs beyond which sets are compressed (8 bytes each).
_POOL_LIMIT = 1 << 21

#: Rounds of the three steps at most; each costs a pass over the arcs that are left.
_ROUNDS = 50


def multitree_mask(
    edge_index: np.ndarray, line_index: np.ndarray, rank: np.ndarray | None = None
) -> np.ndarray:
    """Which line edges to keep so that at most one path joins any two edges.

    Args:
        edge_index: [2, E] int64, edges (src, dst).
        line_index: [2, L] int64, distinct line edges (e_in, e_out); any acyclic part of the line
            graph.
        rank: [N] ranks of the nodes, which break ties. Default: the node's index.

    Returns:
        [L] bool. Every edge with predecessors keeps at least one of them.
    """
    src, dst = pairs("edge_index", edge_index)
    e_in, e_out = pairs("line_index", line_index, src.size)
    if rank is not None and (not isinstance(rank, np.ndarray) or rank.ndim != 1):
        refuse("rank", "as a numpy array [N]", describe(rank))
    if e_in.size < 2:
        return np.ones(e_in.size, dtype=bool)
    num_edges = src.size
    tie = src if rank is None else rank[src]
    size = int(max(src.max(), dst.max())) + 1
    in_degree = np.bincount(dst, minlength=size)
    if int(in_degree @ np.bincount(src, minlength=size)) != e_in.size:
        return _prune(e_in, e_out, num_edges, tie[e_in])
    # The whole line graph: all edges out of a node have the same predecessors and choose alike,
    # so nodes can stand for them: one arc per edge instead of one per line edge. An edge out of
    # a node without predecessors is a root, with a vertex of its own.
    tail = np.where(in_degree[src] > 0, src, np.arange(size, size + num_edges))
    return _prune(tail, dst, size + num_edges, tie)[e_in]


def _prune(tail: np.ndarray, head: np.ndarray, size: int, tie: np.ndarray) -> np.ndarray:
    """The greedy choice on a DAG of ``size`` vertices; ``tie`` orders arcs of equal size.

    Returns:
        [number of arcs] bool.
    """
    keep = np.ones(head.size, dtype=bool)
    degree = np.bincount(head, minlength=size)
    if degree.max() < 2:
        return keep
    # weight[v]: the number of roots above v that are no longer represented by arcs (for a root,
    # itself). offset[arc]: those picked up between the arc's current tail and the arc.
    weight = (degree == 0).astype(np.int64)
    arc = np.arange(head.size)
    offset = np.zeros(head.size, dtype=np.int64)
    vertex = np.arange(size)
    for _ in range(_ROUNDS):
        before = arc.size
        # Aliases, by pointer jumping to the nearest vertex that is none.
        single = degree[head] == 1
        alias = vertex.copy()
        alias[head[single]] = tail[single]
        passed = np.zeros(size, dtype=np.int64)
        passed[head[single]] = weight[head[single]] + offset[single]
        while True:
            further = alias[alias]
            if np.array_equal(further, alias):
                break
            passed += passed[alias]
            alias = further
        rest = ~single
        arc, head, offset = arc[rest], head[rest], offset[rest] + passed[tail[rest]]
        tail = alias[tail[rest]]
        if not arc.size:
            break
        # Arcs from one tail to one head: the one with fewer roots wins, then the smaller node.
        order = np.lexsort((arc, tie[arc], offset, tail, head))
        arc, head, tail, offset = arc[order], head[order], tail[order], offset[order]
        first = np.ones(arc.size, dtype=bool)
        first[1:] = (head[1:] != head[:-1]) | (tail[1:] != tail[:-1])
        keep[arc[~first]] = False
        arc, head, tail, offset = arc[first], head[first], tail[first], offset[first]
        # Roots with one arc.
        degree = np.bincount(head, minlength=size)
        alone = (degree[tail] == 0) & (np.bincount(tail, minlength=size)[tail] == 1)
        np.add.at(weight, head[alone], weight[tail[alone]] + offset[alone])
        rest = ~alone
        arc, head, tail, offset = arc[rest], head[rest], tail[rest], offset[rest]
        degree = np.bincount(head, minlength=size)
        if arc.size == before or not arc.size:
            break
    if arc.size:
        _prune_by_sets(arc, tail, head, offset, weight, tie, keep)
    return keep


def _prune_by_sets(
    arc: np.ndarray,
    tail: np.ndarray,
    head: np.ndarray,
    offset: np.ndarray,
    weight: np.ndarray,
    tie: np.ndarray,
    keep: np.ndarray,
) -> None:
    """Decide the arcs that are left with explicit root sets; writes ``keep``."""
    label, ends = np.unique(np.concatenate([tail, head]), return_inverse=True)
    tail, head = ends.reshape(2, -1)
    size = label.size
    weight = weight[label]
    level = longest_path_levels(np.stack([tail, head]), size)
    last_use = np.zeros(size, dtype=np.int64)
    np.maximum.at(last_use, tail, level[head])
    pool = _RootSets(np.flatnonzero(level == 0), size)
    ptr, by_level = csr(level[head], int(level.max()) + 1)
    for step in range(1, ptr.size - 1):
        now = by_level[ptr[step] : ptr[step + 1]]
        count = weight[tail[now]] + offset[now]
        order = np.lexsort((arc[now], tie[arc[now]], count, head[now]))
        now, count = now[order], count[order]
        position, root = pool.gather(tail[now])
        accepted = _disjoint(head[now], position, root)
        keep[arc[now[~accepted]]] = False
        # Kept sets are disjoint: their sizes add up, and their union is their concatenation.
        np.add.at(weight, head[now[accepted]], count[accepted])
        taken = accepted[position]
        pool.append(head[now][position[taken]], root[taken])
        pool.compress(last_use > step)


def _disjoint(head: np.ndarray, position: np.ndarray, root: np.ndarray) -> np.ndarray:
    """Greedy choice of arcs with disjoint root sets, for all heads at once.

    An arc that claims each of its roots before every other undecided arc of its head is
    accepted, and those that share a root with it are rejected, until all are decided: the same
    choice as going through the arcs one by one.

    Args:
        head: [A] the head of each arc; arcs sorted by head, best first.
        position: [P] arc of each pair (arc, root), ascending.
        root: [P] root of each pair.

    Returns:
        [A] bool.
    """
    accepted = np.zeros(head.size, dtype=bool)
    pair = head[position] * (int(root.max()) + 1) + root
    claim, claim_size = np.unique(pair, return_inverse=True)[1].reshape(-1), pair.size
    while position.size:
        first = np.empty(claim_size, dtype=np.int64)
        first[claim[::-1]] = position[::-1]  # of repeated indices the last assignment stays
        undecided = np.zeros(head.size, dtype=bool)
        undecided[position] = True
        undecided[position[first[claim] != position]] = False  # these have to wait
        accepted |= undecided
        done = np.zeros(claim_size, dtype=bool)
        done[claim[accepted[position]]] = True
        decided = np.zeros(head.size, dtype=bool)
        decided[position[done[claim]]] = True
        rest = ~decided[position]
        position, claim = position[rest], claim[rest]
    return accepted


class _RootSets:
    """The root set of each vertex: slices of one array of roots."""

    def __init__(self, roots: np.ndarray, size: int) -> None:
        self.start = np.zeros(size, dtype=np.int64)
        self.count = np.zeros(size, dtype=np.int64)
        self.start[roots] = np.arange(roots.size)
        self.count[roots] = 1
        self.data = roots
        self.used = roots.size
        self.limit = max(_POOL_LIMIT, 2 * roots.size)

    def gather(self, vertex: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All pairs (position in ``vertex``, root)."""
        count = self.count[vertex]
        position = np.repeat(np.arange(vertex.size), count)
        return position, self.data[expand(self.start[vertex], count)]

    def append(self, vertex: np.ndarray, root: np.ndarray) -> None:
        """Store the sets of new vertices, given as pairs sorted by vertex."""
        first = np.flatnonzero(np.diff(vertex, prepend=-1))
        self.start[vertex[first]] = self.used + first
        self.count[vertex[first]] = np.diff(first, append=vertex.size)
        end = self.used + root.size
        if end > self.data.size:
            grown = np.empty(max(end, 2 * self.data.size), dtype=np.int64)
            grown[: self.used] = self.data[: self.used]
            self.data = grown
        self.data[self.used : end] = root
        self.used = end

    def compress(self, alive: np.ndarray) -> None:
        """Once there are many pairs: forget sets nobody will read again, and all but one of the
        roots that occur in the same sets (they say the same: whether two of those sets meet).
        """
        if self.used <= self.limit:
            return
        vertex = np.flatnonzero(alive & (self.count > 0))
        position, root = self.gather(vertex)
        # Roots in the same sets, found by a sum of random numbers over the sets they occur in.
        number = np.random.default_rng(0).integers(2**63, size=vertex.size, dtype=np.uint64)
        total = np.zeros(self.count.size, dtype=np.uint64)
        np.add.at(total, root, number[position])
        _, first, group = np.unique(total, return_index=True, return_inverse=True)
        rest = first[group.reshape(-1)][root] == root
        self.count[:] = 0
        self.used = 0
        self.data = np.empty(0, dtype=np.int64)
        self.append(vertex[position[rest]], root[rest])
        self.limit = max(_POOL_LIMIT, 2 * self.used)
