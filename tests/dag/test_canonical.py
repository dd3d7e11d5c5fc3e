"""Canonical ranks: one labelled graph for all numberings, breadth first from a centre."""

import time
import warnings

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings

from plstm_graph.dag.canonical import canonical_rank
from plstm_graph.dag.levels import longest_path_levels
from tests.dag.dag_helpers import dags, symmetric
from tests.dag.symmetric_graphs import (
    CASES,
    GRAPHS,
    KINDS,
    case,
    features,
    labelled,
    number,
    renumbered,
)

pytestmark = pytest.mark.filterwarnings("error")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CASES)
def test_labelled_graph_does_not_depend_on_numbering(name, kind):
    edge_index, size = case(name)
    node_keys, edge_keys = features(kind, edge_index, size)
    rank = canonical_rank(edge_index, size, node_keys, edge_keys)
    expected = labelled(edge_index, rank, node_keys, edge_keys)
    for seed in range(10):
        again, nodes, columns, new = renumbered(edge_index, size, node_keys, edge_keys, seed)
        rank_again = canonical_rank(again, size, nodes, columns)
        assert labelled(again, rank_again, nodes, columns) == expected
        if kind == "different":
            assert np.array_equal(rank_again[new], rank)


@pytest.mark.parametrize("name", ["rook", "hub_of_regular", "join_of_regular"])
def test_edge_keys_are_as_good_as_edges(name):
    """All pairs of nodes are joined; the keys tell which of them are edges of a regular graph."""
    edge_index, size = case(f"{name}/complete")
    matrix = nx.to_numpy_array(GRAPHS[name], nodelist=range(size))
    keys = [matrix[tuple(edge_index)]]
    expected = labelled(edge_index, canonical_rank(edge_index, size, [], keys), [], keys)
    for seed in range(10):
        again, _, columns, _ = renumbered(edge_index, size, [], keys, seed)
        assert labelled(again, canonical_rank(again, size, [], columns), [], columns) == expected


@settings(max_examples=60, deadline=None)
@given(dag=dags())
def test_dags_do_not_depend_on_numbering(dag):
    edge_index, size = dag
    key = [np.arange(edge_index.shape[1]) % 2]
    rank = canonical_rank(edge_index, size, [], key)
    again, _, columns, _ = renumbered(edge_index, size, [], key, 0)
    assert_parts_are_ranked(edge_index, size, rank)
    parts = [nx.Graph(edge_index.T.tolist()).subgraph(c) for c in components_of(edge_index, size)]
    if len(parts) == 1:
        rank_again = canonical_rank(again, size, [], columns)
        assert labelled(again, rank_again, [], columns) == labelled(edge_index, rank, [], key)


def components_of(edge_index: np.ndarray, size: int) -> list:
    graph = nx.Graph(edge_index.T.tolist())
    graph.add_nodes_from(range(size))
    return [sorted(c) for c in nx.connected_components(graph)]


def assert_parts_are_ranked(edge_index: np.ndarray, size: int, rank: np.ndarray) -> None:
    """In each component ranks are 0, 1, ..., and they grow with the topological level."""
    level = longest_path_levels(edge_index, size)
    for nodes in components_of(edge_index, size):
        assert sorted(rank[nodes].tolist()) == list(range(len(nodes)))
        assert (np.diff(level[nodes][rank[nodes].argsort()]) >= 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_union_equals_its_parts(kind):
    """Also where the nodes of the parts are interleaved, and parts occur twice."""
    rng = np.random.default_rng(1)
    large = [nx.circular_ladder_graph(400), number(nx.grid_2d_graph(30, 25))]
    parts = [case(name) for name in [*CASES, "ring", "petersen", "grid/dag"]]
    parts += [(symmetric(g), len(g)) for g in large] + [(np.zeros((2, 0), dtype=np.int64), 1)] * 2
    keys = [features(kind, *part) for part in parts]
    sizes = [size for _, size in parts]
    owner = rng.permutation(np.repeat(np.arange(len(parts)), sizes))
    nodes = [np.flatnonzero(owner == i) for i in range(len(parts))]
    union = np.concatenate([n[e] for n, (e, _) in zip(nodes, parts)], axis=1)
    by_part = np.concatenate(nodes).argsort()
    node_keys = [np.concatenate(k)[by_part] for k in zip(*(n for n, _ in keys))]
    edge_keys = [np.concatenate(k) for k in zip(*(e for _, e in keys))]
    columns = rng.permutation(union.shape[1])
    rank = canonical_rank(
        union[:, columns], owner.size, node_keys, [key[columns] for key in edge_keys]
    )
    for place, (edge_index, size), (node_key, edge_key) in zip(nodes, parts, keys):
        alone = canonical_rank(edge_index, size, node_key, edge_key)
        assert np.array_equal(rank[place], alone)


@pytest.mark.parametrize("name", GRAPHS)
def test_breadth_first_from_a_centre(name):
    edge_index, size = case(name)
    for node_keys, edge_keys in (features(kind, edge_index, size) for kind in ("none", "both")):
        rank = canonical_rank(edge_index, size, node_keys, edge_keys)
        for nodes in components_of(edge_index, size):
            assert sorted(rank[nodes].tolist()) == list(range(len(nodes)))
            graph = GRAPHS[name].subgraph(nodes)
            root = nodes[rank[nodes].argmin()]
            assert root in nx.center(graph)
            depth = nx.single_source_shortest_path_length(graph, root)
            by_rank = sorted(nodes, key=rank.__getitem__)
            assert (np.diff([depth[v] for v in by_rank]) >= 0).all()


def test_dag_ranks_grow_with_the_level():
    for name in CASES:
        if name.endswith("/dag"):
            edge_index, size = case(name)
            assert_parts_are_ranked(edge_index, size, canonical_rank(edge_index, size))


def test_directed_parts_do_not_change_symmetric_ones():
    ring, path = symmetric(nx.cycle_graph(8)), np.array([[0, 1], [1, 2]])
    union = np.concatenate([ring, path + 8, path[::-1] + 11], axis=1)
    rank = canonical_rank(union, 14)
    assert np.array_equal(rank[:8], canonical_rank(ring, 8))
    assert rank[8:].tolist() == [0, 1, 2, 2, 1, 0]


def test_nodes_of_one_depth_follow_their_features():
    star = symmetric(nx.star_graph(4))
    value = np.array([9.0, 2.5, -1.0, np.inf, 0.0])
    assert canonical_rank(star, 5, [value]).tolist() == [0, 3, 1, 4, 2]
    assert canonical_rank(star, 5, [np.zeros(5), value > 1, -value]).tolist() == [0, 4, 2, 3, 1]
    large = np.array([0, 3, 1, 2, 0], dtype=np.uint64) + np.uint64(2**63)
    assert canonical_rank(star, 5, [large]).tolist() == [0, 4, 2, 3, 1]


def test_negative_zero_is_zero():
    edge_index = symmetric(nx.path_graph(3))
    zeros = [np.array([0.0, 1.0, -0.0]), np.array([-0.0, 1.0, 0.0])]
    first, second = (canonical_rank(edge_index, 3, [z], [np.tile(z[:2], 2)]) for z in zeros)
    assert np.array_equal(first, second)


@pytest.mark.parametrize("columns", [[0, 0, 1, 0], [1, 0, 0, 0], [1, 0, 1, 0]])
def test_either_column_of_an_edge_tells_its_ends_apart(columns):
    """Of a - b - c, columns ab, bc, ba, cb: a and c differ by the keys of their edges only."""
    edge_index = symmetric(nx.path_graph(3))
    rank = canonical_rank(edge_index, 3, [], [np.array(columns)])
    turned = 2 - edge_index  # a and c exchange their numbers
    assert np.array_equal(canonical_rank(turned, 3, [], [np.array(columns)])[::-1], rank)


def test_both_columns_of_an_edge_are_one_direction():
    """On a - b the columns ab and ba have different keys: the ends are no longer symmetric."""
    edge_index = np.array([[0, 1], [1, 0]])
    one = canonical_rank(edge_index, 2, [], [np.array([0, 1])])
    other = canonical_rank(edge_index, 2, [], [np.array([1, 0])])
    assert one.tolist() == other[::-1].tolist()


def test_parallel_edges_pair_in_the_order_of_their_keys():
    """a = b = c with two edges each; the keys of the columns decide, not their order."""
    pair = np.array([[0, 0, 1, 1], [1, 1, 0, 0]])
    edge_index = np.concatenate([pair, np.array([2, 1])[pair]], axis=1)
    keys = np.array([1, 2, 3, 3, 2, 2, 3, 3])
    rank = canonical_rank(edge_index, 3, [], [keys])
    for seed in range(5):
        columns = np.random.default_rng(seed).permutation(8)
        assert np.array_equal(canonical_rank(edge_index[:, columns], 3, [], [keys[columns]]), rank)
        turned = canonical_rank(2 - edge_index[:, columns], 3, [], [keys[columns]])
        assert np.array_equal(turned[::-1], rank)


def test_many_columns_of_features_are_compared_exactly():
    rng = np.random.default_rng(0)
    edge_index = symmetric(nx.star_graph(300))
    value = rng.integers(-(2**40), 2**40, (301, 1)) * np.ones((1, 12))
    value[:, 11] = rng.permutation(301)
    value[50:60, :11] = value[50, :11]
    rank = canonical_rank(edge_index, 301, [value])
    expected = np.lexsort(value[1:].T[::-1]) + 1
    assert np.array_equal(rank.argsort()[1:], expected)


def test_limit_is_reported_and_ranks_stay_valid():
    paley = symmetric(GRAPHS["paley"])
    ring = symmetric(GRAPHS["ring"]) + 26
    union = np.concatenate([paley, paley + 13, ring], axis=1)
    with pytest.warns(UserWarning, match=r"of 2 connected graphs .*max_branches=1 ") as caught:
        rank = canonical_rank(union, 32, max_branches=1)
    assert len(caught) == 1 and caught[0].filename == __file__
    assert np.array_equal(rank[:13], rank[13:26])
    assert np.array_equal(rank[26:], canonical_rank(ring - 26, 6))
    assert sorted(rank[:13].tolist()) == list(range(13))
    root = int(rank[:13].argmin())
    assert set(rank[paley[1][paley[0] == root]].tolist()) == set(range(1, 7))


@pytest.mark.parametrize("limit", [1, 3, 20])
def test_limit_depends_on_the_graph_only(limit):
    """Beyond the limit as well, a graph gets the ranks that it gets alone."""
    graphs = [GRAPHS[name] for name in ("hub_of_regular", "regular", "cubane", "hub_of_covers")]
    union = symmetric(nx.disjoint_union_all(graphs))
    first = np.cumsum([0, *map(len, graphs)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rank = canonical_rank(union, int(first[-1]), max_branches=limit)
        for graph, begin in zip(graphs, first):
            alone = canonical_rank(symmetric(graph), len(graph), max_branches=limit)
            assert np.array_equal(rank[begin : begin + len(graph)], alone)


def test_large_copies_are_made_in_parts(monkeypatch):
    """Few copies at once, and few nodes in all of them."""
    torus = symmetric(number(nx.grid_2d_graph(8, 8, periodic=True)))
    expected = canonical_rank(torus, 64)
    monkeypatch.setattr("plstm_graph.dag.search._CHUNK_NODES", 100)
    assert np.array_equal(canonical_rank(torus, 64), expected)
    cube = symmetric(GRAPHS["cubane"])
    union = np.concatenate([cube, torus + 8, cube + 72, torus + 80], axis=1)
    by_part = np.split(canonical_rank(union, 144), [8, 72, 80])
    for found, alone in zip(by_part, [canonical_rank(cube, 8), expected] * 2):
        assert np.array_equal(found, alone)
    monkeypatch.setattr("plstm_graph.dag.search.MAX_COPIED_NODES", 128)
    with pytest.warns(UserWarning, match="of 1 connected graphs"):
        canonical_rank(torus, 64)


def grid_edges(rows: int, columns: int) -> np.ndarray:
    node = np.arange(rows * columns).reshape(rows, columns)
    tail = np.concatenate([node[:-1].ravel(), node[:, :-1].ravel()])
    head = np.concatenate([node[1:].ravel(), node[:, 1:].ravel()])
    return np.stack([np.r_[tail, head], np.r_[head, tail]])


LARGE = {
    "path": lambda: grid_edges(1, 100_000),
    "grid": lambda: grid_edges(200, 200),
    "ladder": lambda: grid_edges(2, 20_000),
    "star": lambda: symmetric(nx.star_graph(100_000)),
    "tree": lambda: symmetric(nx.random_labeled_tree(100_000, seed=0)),
    "flagged_ring": lambda: symmetric(nx.cycle_graph(30_000)),
    "random": lambda: symmetric(nx.gnm_random_graph(30_000, 60_000, seed=0)),
}


@pytest.mark.parametrize("name", LARGE)
def test_large_graphs_take_seconds(name):
    edge_index = LARGE[name]()
    size = int(edge_index.max()) + 1
    start = time.process_time()
    rank = canonical_rank(edge_index, size, [np.arange(size) < (name == "flagged_ring")])
    assert time.process_time() - start < 30
    assert rank.max() == max(map(len, components_of(edge_index, size))) - 1
    if name in ("path", "grid"):
        middle = np.flatnonzero(rank == 0)[0]
        row, column = divmod(middle, 200) if name == "grid" else (0, middle)
        assert row in ((99, 100) if name == "grid" else (0,))
        assert column in ((99, 100) if name == "grid" else (49_999, 50_000))


@pytest.mark.parametrize(
    "edge_index, size, rank",
    [
        ([[], []], 0, []),
        ([[], []], 3, [0, 0, 0]),
        ([[2], [1]], 4, [0, 1, 0, 0]),
        ([[0, 3, 3, 0], [3, 0, 0, 3]], 5, None),
    ],
    ids=["no_nodes", "no_edges", "one_edge", "parallel_and_isolated"],
)
def test_small_inputs(edge_index, size, rank):
    found = canonical_rank(np.array(edge_index, dtype=np.int64), size, [np.zeros((size, 2))])
    assert found.dtype == np.int64 and found.shape == (size,)
    if rank is None:
        assert sorted(found[[0, 3]].tolist()) == [0, 1] and not found[[1, 2, 4]].any()
    else:
        assert found.tolist() == rank


EDGE = np.array([[0, 1], [1, 0]])
BAD = {
    "rows": (lambda: canonical_rank(EDGE, 2, [np.zeros(3)]), r"node_keys\[0\].*\[2\].*got shape"),
    "not_a_sequence": (lambda: canonical_rank(EDGE, 2, np.zeros(2)), "sequence of arrays"),
    "dtype": (lambda: canonical_rank(EDGE, 2, [], [np.zeros(2, dtype=complex)]), "edge_keys.*comp"),
    "loop": (lambda: canonical_rank(EDGE[:, :1] * 0 + 1, 2), "self-loops, got node 1.*column 0"),
    "range": (lambda: canonical_rank(EDGE, 1), r"\[0, 1\), got 0 to 1.*num_nodes"),
    "shape": (lambda: canonical_rank(EDGE[0], 2), r"shape \[2, M\], got \[2\]"),
    "limit": (
        lambda: canonical_rank(EDGE, 2, max_branches=0),
        "max_branches as an integer of 1 or more",
    ),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD)
def test_bad_input(case):
    call, message = case
    with pytest.raises(ValueError, match=message):
        call()
