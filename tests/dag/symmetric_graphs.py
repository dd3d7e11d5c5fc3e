"""Graphs with symmetries, under all kinds of features, for the tests of canonical ranks."""

import networkx as nx
import numpy as np

from tests.dag.dag_helpers import symmetric

number = nx.convert_node_labels_to_integers


def largest_component(graph: nx.Graph) -> nx.Graph:
    return graph.subgraph(max(nx.connected_components(graph), key=len)).copy()


def shrikhande() -> nx.Graph:
    steps = ((0, 1), (1, 0), (1, 1))
    nodes = [(i, j) for i in range(4) for j in range(4)]
    return number(
        nx.Graph([(v, ((v[0] + a) % 4, (v[1] + b) % 4)) for v in nodes for a, b in steps])
    )


def rook() -> nx.Graph:
    return number(nx.line_graph(nx.complete_bipartite_graph(4, 4)))


def around_a_hub(*parts: nx.Graph) -> nx.Graph:
    """The parts, all of whose nodes are joined to one more node: refinement may confuse them."""
    graph = nx.disjoint_union_all(parts)
    hub = len(graph)
    graph.add_edges_from((hub, v) for v in range(hub))
    return graph


def rings_on_a_ring(*sizes: int) -> nx.Graph:
    graph = nx.cycle_graph(len(sizes))
    for anchor, size in enumerate(sizes):
        first = len(graph)
        nx.add_cycle(graph, range(first, first + size))
        graph.add_edge(anchor, first)
    return graph


def double_cover(graph: nx.Graph, crossed: list) -> nx.Graph:
    """Two copies of a graph in which the given edges change the copy."""
    size = len(graph)
    cover = nx.Graph()
    for u, v in graph.edges():
        for copy in (0, 1):
            cover.add_edge(u + copy * size, v + (copy ^ ((u, v) in crossed)) * size)
    return cover


K4 = nx.complete_graph(4)
MARKED_RING = nx.Graph([(0, 1), (1, 2), (0, 2), (1, 3), (2, 4), (4, 5)])
R, S = rook(), shrikhande()
GRAPHS = {
    "edge": nx.path_graph(2),
    "path": nx.path_graph(9),
    "even_path": nx.path_graph(8),
    "ring": nx.cycle_graph(6),
    "star": nx.star_graph(7),
    "ladder": nx.ladder_graph(5),
    "complete": nx.complete_graph(5),
    "multipartite": nx.complete_multipartite_graph(2, 2, 3),
    "cubane": nx.cubical_graph(),
    "petersen": nx.petersen_graph(),
    "prism_3": nx.circular_ladder_graph(3),
    "prism_5": nx.circular_ladder_graph(5),
    "paley": nx.paley_graph(13).to_undirected(),
    "rook": R,
    "shrikhande": S,
    "dodecahedron": nx.dodecahedral_graph(),
    "cospectral_1": nx.circulant_graph(20, (2, 3)),
    "cospectral_2": nx.circulant_graph(20, (3, 6)),
    "regular": nx.random_regular_graph(3, 20, seed=1),
    "regular_2": nx.random_regular_graph(4, 16, seed=2),
    "frucht": nx.frucht_graph(),
    "grid": number(nx.grid_2d_graph(4, 5)),
    "square_grid": number(nx.grid_2d_graph(4, 4)),
    "tree": nx.random_labeled_tree(25, seed=3),
    "tree_2": nx.random_labeled_tree(24, seed=4),
    "balanced": nx.balanced_tree(2, 4),
    "random": largest_component(nx.gnm_random_graph(40, 50, seed=2)),
    "phenyls": rings_on_a_ring(6, 6, 6),
    "rings": rings_on_a_ring(3, 6, 3, 5),
    "hub_of_rings": around_a_hub(nx.cycle_graph(3), nx.cycle_graph(3), nx.cycle_graph(6)),
    "hub_of_regular": around_a_hub(R, S),
    "hub_of_covers": around_a_hub(
        double_cover(K4, [(0, 1)]), double_cover(K4, []), double_cover(K4, [(0, 1), (1, 2), (0, 2)])
    ),
    "hub_of_marked_rings": around_a_hub(
        double_cover(MARKED_RING, []), double_cover(MARKED_RING, [(0, 1)])
    ),
    "join_of_regular": nx.complement(nx.disjoint_union(nx.complement(R), nx.complement(S))),
    "hub_of_pairs": around_a_hub(nx.path_graph(2), nx.path_graph(2), nx.path_graph(3)),
}
GRAPHS = {name: number(graph) for name, graph in GRAPHS.items()}


def case(name: str) -> tuple[np.ndarray, int]:
    """A graph, or with a suffix: a DAG, with directed cycles, with parallel edges, complete."""
    name, _, kind = name.partition("/")
    edge_index = symmetric(GRAPHS[name])
    size = len(GRAPHS[name])
    if kind == "dag":
        order = np.random.default_rng(0).permutation(size)
        edge_index = edge_index[:, order[edge_index[0]] < order[edge_index[1]]]
    if kind == "cycles":
        edge_index = edge_index[:, np.random.default_rng(0).random(edge_index.shape[1]) < 0.7]
    if kind == "complete":
        edge_index = symmetric(nx.complete_graph(size))
    if kind == "parallel":
        edge_index = edge_index[:, np.tile(np.arange(edge_index.shape[1]), 2)]
    return edge_index, size


CASES = [
    *GRAPHS,
    *(f"{name}/dag" for name in ("path", "ring", "tree", "grid", "paley", "regular", "random")),
    "grid/cycles",
    "ring/parallel",
    "petersen/parallel",
    "tree/parallel",
]


def features(kind: str, edge_index: np.ndarray, size: int) -> tuple[list, list]:
    rng = np.random.default_rng(5)
    columns = edge_index.shape[1]
    return {
        "none": ([], []),
        "different": ([rng.normal(size=(size, 2))], [rng.normal(size=columns)]),
        "few": ([rng.integers(0, 2, size), rng.random((size, 1)) < 0.1], []),
        "edges": ([], [rng.integers(0, 2, (columns, 2)).astype(np.float32)]),
        "both": ([rng.integers(5, 7, size).astype(np.uint8)], [rng.random(columns) < 0.2]),
    }[kind]


KINDS = ("none", "different", "few", "edges", "both")


def labelled(edge_index: np.ndarray, rank: np.ndarray, node_keys: list, edge_keys: list) -> tuple:
    """The graph after each node was replaced by its rank; the order of columns does not matter."""
    columns = np.concatenate(
        [rank[edge_index].T, *(key.reshape(len(key), -1) for key in edge_keys)], axis=1
    )
    nodes = [key[rank.argsort()].tolist() for key in node_keys]
    return columns[np.lexsort(columns.T)].tolist(), nodes


def renumbered(
    edge_index: np.ndarray, size: int, node_keys: list, edge_keys: list, seed: int
) -> tuple:
    """Another numbering and order of columns, and the new number of each node."""
    rng = np.random.default_rng(seed)
    new, columns = rng.permutation(size), rng.permutation(edge_index.shape[1])
    old = new.argsort()
    return (
        new[edge_index[:, columns]],
        [key[old] for key in node_keys],
        [key[columns] for key in edge_keys],
        new,
    )
