"""Small graphs and slow, obviously right versions of what the tests of dag/ check."""

import networkx as nx
import numpy as np
from hypothesis import strategies as st


def symmetric(g) -> np.ndarray:
    """[2, 2M] both directions of each edge of a networkx graph with nodes 0..N-1."""
    ends = np.array(list(g.edges()), dtype=np.int64).reshape(-1, 2).T
    return np.concatenate([ends, ends[::-1]], axis=1)


def undirected_graphs() -> dict:
    number = nx.convert_node_labels_to_integers
    return {
        "no_edges": nx.empty_graph(4),
        "one_edge": nx.path_graph(2),
        "path": nx.path_graph(30),
        "ring": nx.cycle_graph(6),
        "star": nx.star_graph(20),
        "petersen": nx.petersen_graph(),
        "grid": number(nx.grid_2d_graph(4, 5)),
        "tree": nx.balanced_tree(2, 4),
        "disjoint": nx.disjoint_union(nx.cycle_graph(5), nx.path_graph(4)),
        "random": nx.gnm_random_graph(60, 90, seed=2),
    }


@st.composite
def dags(draw, max_nodes: int = 14, max_edges: int = 40) -> tuple[np.ndarray, int]:
    """A random DAG with parallel edges and nodes numbered at random: edge_index, N."""
    num_nodes = draw(st.integers(2, max_nodes))
    pair = st.tuples(st.integers(0, num_nodes - 1), st.integers(0, num_nodes - 1))
    pairs = draw(st.lists(pair.filter(lambda p: p[0] != p[1]), min_size=1, max_size=max_edges))
    order = np.array(draw(st.permutations(range(num_nodes))))
    ends = np.sort(np.array(pairs, dtype=np.int64), axis=1).T
    return order[ends], num_nodes


def longest_paths(index: np.ndarray, size: int) -> np.ndarray:
    """Levels by relaxation, one arc at a time."""
    level = np.zeros(size, dtype=np.int64)
    for _ in range(size):
        for tail, head in index.T.tolist():
            level[head] = max(level[head], level[tail] + 1)
    return level


def max_paths(num_edges: int, line_index: np.ndarray) -> int:
    """The largest number of directed paths between any two vertices of a line graph."""
    arcs = np.zeros((num_edges, num_edges), dtype=np.int64)
    np.add.at(arcs, (line_index[1], line_index[0]), 1)
    total = step = np.eye(num_edges, dtype=np.int64)
    for _ in range(num_edges):
        step = np.minimum(arcs @ step, 1_000)  # two are too many already; no overflow
        total = total + step
        if not step.any():
            break
    return int(total.max(initial=0))


def sequential_multitree(edge_index: np.ndarray, line_index: np.ndarray) -> np.ndarray:
    """The greedy pruning, one edge and one predecessor at a time."""
    num_edges = edge_index.shape[1]
    before: list[list[tuple[int, int]]] = [[] for _ in range(num_edges)]
    for l, (e_in, e_out) in enumerate(line_index.T.tolist()):
        before[e_out].append((l, e_in))
    keep = np.zeros(line_index.shape[1], dtype=bool)
    roots: list[set[int]] = [set() for _ in range(num_edges)]
    for e in np.argsort(longest_paths(line_index, num_edges), kind="stable").tolist():
        if not before[e]:
            roots[e] = {e}
        for l, e_in in sorted(
            before[e], key=lambda p: (len(roots[p[1]]), edge_index[0, p[1]], p[1])
        ):
            if not roots[e] & roots[e_in]:
                roots[e] |= roots[e_in]
                keep[l] = True
    return keep
