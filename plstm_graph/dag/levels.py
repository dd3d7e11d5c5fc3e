r"""Topological levels and the line graph's index, on numpy arrays.

Graph building runs on the CPU in numpy: its arrays are small (one molecule) or its loops
short (one step per level), and a numpy call costs a quarter of a tensor operation.
"""

import numpy as np

#: Most line edges that are made; assign another number to change it.
MAX_LINE_EDGES = 50_000_000
#: Up to this many vertices, levels are found by the method with fewer numpy calls.
_SMALL = 512


def csr(index: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of each value: ``perm[ptr[i]:ptr[i + 1]]`` are the positions where ``index == i``.

    Args:
        index: [M] integers in [0, size).
        size: number of values.

    Returns:
        ``ptr`` [size + 1] and ``perm`` [M] (ascending inside each row).
    """
    ptr = np.zeros(size + 1, dtype=np.int64)
    np.cumsum(np.bincount(index, minlength=size), out=ptr[1:])
    return ptr, np.argsort(index, kind="stable")


def expand(start: np.ndarray, count: np.ndarray) -> np.ndarray:
    """The concatenation of ``arange(s, s + c)`` over all pairs of ``start`` and ``count``."""
    total = int(count.sum())
    offset = np.cumsum(count) - count
    return np.repeat(start - offset, count) + np.arange(total, dtype=np.int64)


def longest_path_levels(index: np.ndarray, size: int) -> np.ndarray:
    """Level of each vertex: the length of the longest path that ends there.

    Kahn's algorithm, one whole level a step: O(size + M) work, one step per level.

    Args:
        index: [2, M] arcs (tail, head) between vertices in [0, size).
        size: number of vertices.

    Returns:
        [size] levels, 0 at sources, -1 at vertices that no level reaches because they lie on
        or behind a directed cycle.
    """
    level = np.full(size, -1, dtype=np.int64)
    if index.shape[1] == 0:
        level[:] = 0
        return level
    if size <= _SMALL:
        return _small_levels(index, size)
    tail, head = index
    ptr, perm = csr(tail, size)
    head_by_tail = head[perm]
    waiting = np.bincount(head, minlength=size)
    frontier = np.flatnonzero(waiting == 0)
    step = 0
    while frontier.size:
        level[frontier] = step
        start = ptr[frontier]
        reached = head_by_tail[expand(start, ptr[frontier + 1] - start)]
        np.subtract.at(waiting, reached, 1)
        frontier = np.unique(reached[waiting[reached] == 0])
        step += 1
    return level


def _small_levels(index: np.ndarray, size: int) -> np.ndarray:
    """:func:`longest_path_levels` where the number of numpy calls counts, not their size.

    Each step looks at all arcs that are left: fewer calls a level, but size x depth work.
    """
    tail, head = index
    level = np.full(size, -1, dtype=np.int64)
    open_ = np.ones(size, dtype=bool)
    step = 0
    while True:
        waits = np.zeros(size, dtype=bool)
        waits[head] = True
        level[open_ & ~waits] = step
        rest = waits[tail]
        if rest.all():  # no arc is left, or only those on or behind a cycle
            return level
        tail, head, open_ = tail[rest], head[rest], waits
        step += 1


def find_cycle(index: np.ndarray, size: int, level: np.ndarray) -> list[int]:
    """One directed cycle among the vertices that :func:`longest_path_levels` left at -1.

    Returns:
        The vertices of the cycle in order, the first one repeated at the end.
    """
    tail, head = index
    stuck = (level[tail] < 0) & (level[head] < 0)
    before = np.full(size, -1, dtype=np.int64)
    before[head[stuck]] = tail[stuck]  # every stuck vertex keeps a stuck predecessor
    seen: dict[int, int] = {}
    walk: list[int] = []
    vertex = int(head[stuck][0])
    while vertex not in seen:
        seen[vertex] = len(walk)
        walk.append(vertex)
        vertex = int(before[vertex])
    cycle = walk[seen[vertex] :]
    return [*cycle[::-1], cycle[-1]]


def check_budget(lines: int, edges: int) -> None:
    """Raise ``ValueError`` where there are more line edges than :data:`MAX_LINE_EDGES`."""
    if lines > MAX_LINE_EDGES:
        raise ValueError(
            f"expected at most {MAX_LINE_EDGES} line edges "
            f"(plstm_graph.dag.levels.MAX_LINE_EDGES), got a graph of {edges} edges with {lines}: "
            f"its hubs join each entering edge with each leaving one; use "
            f"LineGraph.from_edge_index and transition='factored' (plstm_graph.ops.Factored), at "
            f"the cost of the edges, orientation='degree', which makes hubs ends of edges, or "
            f"mode='D' on trees"
        )


def line_index_of(edge_index: np.ndarray, num_nodes: int) -> np.ndarray:
    """All pairs of edges that meet: ``dst(e_in) == src(e_out)``, sorted by (e_in, e_out).

    Args:
        edge_index: [2, E] (src, dst).

    Returns:
        [2, L] (e_in, e_out).

    Raises:
        ValueError: where L passes :data:`MAX_LINE_EDGES`.
    """
    src, dst = edge_index
    ptr, perm = csr(src, num_nodes)
    start = ptr[dst]
    count = ptr[dst + 1] - start
    check_budget(int(count.sum()), src.size)
    e_in = np.repeat(np.arange(src.size, dtype=np.int64), count)
    return np.stack([e_in, perm[expand(start, count)]])


def components(edge_index: np.ndarray, num_nodes: int) -> np.ndarray:
    """[N] the lowest node index in each node's (weakly) connected component.

    Hook and jump: of two labels that an edge joins the higher one takes the lower, then labels
    are followed to their end; the number of rounds grows with the logarithm of the component, or
    little more.
    """
    label = np.arange(num_nodes)
    src, dst = edge_index
    while True:
        a, b = label[src], label[dst]
        differ = a != b
        if not differ.any():
            return label
        src, dst, a, b = src[differ], dst[differ], a[differ], b[differ]
        np.minimum.at(label, np.maximum(a, b), np.minimum(a, b))
        while not np.array_equal(further := label[label], label):
            label = further
