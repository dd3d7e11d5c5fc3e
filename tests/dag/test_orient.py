import re

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from plstm_graph import LineGraph
from plstm_graph.dag.canonical import canonical_rank
from plstm_graph.dag.levels import components, longest_path_levels
from plstm_graph.dag.orient import DRAWN, ORIENTATIONS, bfs_depth, orient
from tests.dag.dag_helpers import dags, symmetric, undirected_graphs
from tests.zoo import SMILES, disjoint, molecule

GRAPHS = undirected_graphs()
NAMES = [name for name in ORIENTATIONS if name not in DRAWN]


def array(edge_index) -> np.ndarray:
    return np.asarray(edge_index, dtype=np.int64).reshape(2, -1)


def edges_kept(*args, **kwargs) -> np.ndarray:
    return orient(*args, **kwargs).edge_id


@pytest.mark.parametrize("name", ORIENTATIONS)
@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
def test_one_column_of_each_pair_and_acyclic(name, graph):
    edge_index = symmetric(graph)
    kept, opposite, rank = orient(edge_index, len(graph), name)
    assert kept.dtype == np.int64 and (np.diff(kept) > 0).all()
    pairs = {frozenset(edge) for edge in edge_index[:, kept].T.tolist()}
    assert len(kept) == len(pairs) == graph.number_of_edges()
    assert (longest_path_levels(edge_index[:, kept], len(graph)) >= 0).all()
    # The other columns are the opposites, and edges run to the higher rank.
    if graph.number_of_edges():
        assert np.array_equal(edge_index[:, opposite], edge_index[::-1, kept])
        assert sorted([*kept, *opposite]) == list(range(edge_index.shape[1]))
    else:
        assert opposite is None
    assert (rank is None) == (name == "index")
    rank = np.arange(len(graph)) if rank is None else rank
    assert rank.shape == (len(graph),) and (np.diff(rank[edge_index[:, kept]], axis=0) > 0).all()


@pytest.mark.parametrize("name", ORIENTATIONS)
@settings(max_examples=25, deadline=None)
@given(dag=dags())
def test_dag_is_kept_as_it_is(name, dag):
    edge_index, num_nodes = dag
    kept, opposite, _ = orient(edge_index, num_nodes, name)
    assert np.array_equal(kept, np.arange(edge_index.shape[1])) and opposite is None


def test_dag_is_kept_with_ranks_that_say_otherwise():
    edge_index = array([[2, 1], [1, 0]])
    for rank in (np.array([0, 1, 2]), np.zeros(3)):
        kept, opposite, kept_rank = orient(edge_index, 3, rank)
        assert kept.tolist() == [0, 1] and opposite is None and kept_rank is rank


def test_what_each_orientation_does():
    star = symmetric(nx.star_graph(3))  # centre 0
    assert star[0, edges_kept(star, 4, "index")].tolist() == [0, 0, 0]
    assert star[1, edges_kept(star, 4, "degree")].tolist() == [0, 0, 0]
    assert star[0, edges_kept(star, 4)].tolist() == [0, 0, 0]
    kept = star[:, edges_kept(star, 4, np.array([1.5, 0.0, 2.0, 3.0]))]
    assert set(zip(*kept.tolist())) == {(1, 0), (0, 2), (0, 3)}
    ring = symmetric(nx.Graph([(0, 3), (3, 1), (1, 2), (2, 0)]))
    kept = ring[:, edges_kept(ring, 4, "bfs")]
    assert set(zip(*kept.tolist())) == {(0, 3), (0, 2), (3, 1), (2, 1)}
    kept = ring[:, edges_kept(ring, 4, "index")]
    assert set(zip(*kept.tolist())) == {(0, 3), (1, 3), (1, 2), (0, 2)}
    # Breadth first from the node of the least key, then by key: 3, then 1 before 0, then 2.
    keys = [np.array([5, 4, 7, 3])]
    kept = ring[:, edges_kept(ring, 4, "canonical", node_keys=keys)]
    assert set(zip(*kept.tolist())) == {(3, 0), (3, 1), (0, 2), (1, 2)}
    # Equal nodes: edge features tell which of the two in the middle is the root.
    path, light = symmetric(nx.path_graph(4)), np.array([1, 1, 0, 1, 1, 0])  # (2, 3), (3, 2)
    rank = orient(path, 4, edge_keys=[light]).node_rank
    mirrored = orient(path, 4, edge_keys=[light[[2, 1, 0, 5, 4, 3]]]).node_rank
    assert mirrored.tolist() == rank[::-1].tolist()


def test_parallel_edges_stay():
    edge_index = array([[0, 1, 1, 0, 0, 1], [1, 0, 0, 1, 1, 0]])
    kept, opposite, _ = orient(edge_index, 2, "index")
    assert kept.tolist() == [0, 3, 4] and opposite.tolist() == [1, 2, 5]
    assert len(edges_kept(edge_index, 2)) == 3
    assert edges_kept(array([[1, 1], [0, 0]]), 2).tolist() == [0, 1]


@pytest.mark.parametrize("name", NAMES)
def test_batch_is_judged_graph_by_graph(name):
    directed = np.array([[2, 2, 1], [1, 0, 0]])
    parts = [symmetric(g) for g in GRAPHS.values()]
    parts.insert(3, directed)
    sizes = [len(g) for g in GRAPHS.values()]
    sizes.insert(3, 3)
    first_node = np.cumsum([0, *sizes])
    first_column = np.cumsum([0] + [p.shape[1] for p in parts])
    union = np.concatenate([p + f for p, f in zip(parts, first_node)], axis=1)
    batch = np.arange(len(sizes)).repeat(sizes)
    kept, opposite, _ = orient(union, int(first_node[-1]), name, batch=batch)
    alone = [orient(p, n, name) for p, n in zip(parts, sizes)]
    assert kept.tolist() == [e + c for o, c in zip(alone, first_column) for e in o.edge_id]
    for part, column in zip(alone, first_column):
        here = opposite[(kept >= column) & (kept < column + 2 * part.edge_id.size)]
        if part.opposite_id is not None:
            assert np.array_equal(here[: part.edge_id.size], part.opposite_id + column)
    assert opposite[batch[union[0, kept]] == 3].tolist() == [-1, -1, -1]
    with pytest.raises(ValueError, match="directed cycle"):
        orient(union, int(first_node[-1]), name)


@pytest.mark.parametrize("name", DRAWN)
def test_draws_are_seeded_and_fresh(name):
    edge_index = symmetric(GRAPHS["random"])
    draw = lambda seed: edges_kept(edge_index, 60, name, seed=seed).tolist()  # noqa: E731
    assert draw(1) == draw(1) != draw(2)
    torch.manual_seed(0)
    a, b = draw(None), draw(None)
    torch.manual_seed(0)
    assert a == draw(None) and a != b


def test_random_turns_every_edge_either_way_about_equally_often():
    edge_index = symmetric(GRAPHS["random"])
    forward = np.zeros(180, dtype=int)
    for seed in range(200):
        forward[edges_kept(edge_index, 60, "random", seed=seed)] += 1
    assert forward.min() > 60 and forward.max() < 140


def test_random_bfs_has_a_uniform_root_and_its_distances():
    """Of a path from any node: one source, which is each node equally often."""
    edge_index = symmetric(nx.path_graph(5))
    roots = np.zeros(5, dtype=int)
    for seed in range(500):
        src, dst = edge_index[:, edges_kept(edge_index, 5, "random_bfs", seed=seed)]
        (root,) = set(range(5)) - set(dst.tolist())
        assert (abs(dst - root) == abs(src - root) + 1).all()
        roots[root] += 1
    assert roots.min() > 60 and roots.max() < 140


def test_random_bfs_of_molecules_is_deep_in_each_component():
    """As deep as the distances from some node, where random ranks are shallow."""
    edge_index = disjoint([molecule(SMILES[0])] * 3, batch=True).edge_index.numpy()
    both = np.concatenate([edge_index, edge_index[::-1]], axis=1)
    label = components(both, 42)
    graph = nx.Graph(edge_index.T.tolist())
    depths = {"random": [], "random_bfs": []}
    for name, found in depths.items():
        for seed in range(20):
            src, dst = both[:, edges_kept(both, 42, name, seed=seed)]
            level = longest_path_levels(np.stack([src, dst]), 42)
            found.append(level.max())
            if name == "random_bfs":
                roots = np.flatnonzero(level == 0)
                assert len(roots) == len(set(label[roots])) == len(set(label))
                for root in roots:
                    for node, length in nx.single_source_shortest_path_length(graph, root).items():
                        assert level[node] >= length
    assert np.mean(depths["random_bfs"]) > np.mean(depths["random"]) + 2


@pytest.mark.parametrize("name", DRAWN)
def test_draws_leave_the_dags_of_a_batch_alone(name):
    ring, path = symmetric(nx.cycle_graph(8)), symmetric(nx.path_graph(4))
    dag = np.array([[2, 2, 1], [1, 0, 0]])
    union = np.concatenate([ring, dag + 8, path + 11], axis=1)
    batch = np.array([0, 1, 2]).repeat([8, 3, 4])
    for seed in range(5):
        kept = edges_kept(union, 15, name, batch=batch, seed=seed)
        assert kept[(kept >= 16) & (kept < 19)].tolist() == [16, 17, 18]
        assert len(kept) == 8 + 3 + 3
        assert (longest_path_levels(union[:, kept], 15) >= 0).all()


@pytest.mark.parametrize("name", ["petersen", "ring", "grid", "path", "random", "tree", "disjoint"])
def test_canonical_does_not_see_numbering(name):
    graph = GRAPHS[name]
    edge_index = symmetric(graph)
    kept = edges_kept(edge_index, len(graph), "canonical")
    dag = nx.DiGraph(edge_index[:, kept].T.tolist())
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(graph))
        shuffled = order[edge_index][:, np.random.default_rng(seed).permutation(len(edge_index.T))]
        again = shuffled[:, edges_kept(shuffled, len(graph), "canonical")]
        assert nx.is_isomorphic(dag, nx.DiGraph(again.T.tolist()))


def test_canonical_rank_is_equivariant_where_refinement_suffices():
    graph = nx.path_graph(10)
    graph.add_edge(2, 10)  # three arms of different lengths: no symmetry at all
    edge_index = symmetric(graph)
    rank = canonical_rank(edge_index, len(graph))
    assert len(set(rank.tolist())) == len(graph)
    order = np.random.default_rng(0).permutation(len(graph))
    assert np.array_equal(canonical_rank(order[edge_index], len(graph))[order], rank)


def test_canonical_rank_uses_colors():
    edge_index = symmetric(nx.path_graph(3))
    assert canonical_rank(edge_index, 3, [np.array([7, 6, 8])]).tolist() == [1, 0, 2]
    assert canonical_rank(edge_index, 3, [np.array([8, 6, 7])]).tolist() == [2, 0, 1]


def test_components_and_depth():
    graph = nx.gnm_random_graph(200, 150, seed=4)
    edge_index = symmetric(graph)
    label = components(edge_index, 200)
    depth = bfs_depth(edge_index, label == np.arange(200))
    for nodes in nx.connected_components(graph):
        assert set(label[list(nodes)]) == {min(nodes)}
        for node, length in nx.single_source_shortest_path_length(graph, min(nodes)).items():
            assert depth[node] == length


BAD = {
    "name": (lambda: orient(array([[0], [1]]), 2, "up"), "one of canonical, index.*got 'up'"),
    "auto": (lambda: orient(array([[0], [1]]), 2, "auto"), "one of canonical, .*got 'auto'"),
    "type": (lambda: orient(array([[0], [1]]), 2, [0, 1]), "name or a rank tensor, got list"),
    "rank_size": (
        lambda: LineGraph.from_edge_index(torch.tensor([[0], [1]]), 2, torch.arange(3)),
        re.escape("shape [2] (one per node), got [3]"),
    ),
    "rank_dtype": (lambda: orient(array([[0], [1]]), 2, np.ones(2, dtype=bool)), "got bool"),
    "rank_nan": (lambda: orient(array([[0], [1]]), 2, np.array([0, np.nan])), "NaN.*node 1"),
    "rank_tie": (lambda: orient(array([[0, 1], [1, 0]]), 2, np.ones(2)), "both nodes 0 and 1"),
    "loop": (lambda: orient(array([[0, 1], [1, 1]]), 2), "self-loops, got node 1.*column 1"),
    "batch": (
        lambda: orient(array([[0], [1]]), 2, batch=np.zeros(3, dtype=np.int64)),
        "batch with 2 entries.*got 3",
    ),
    "cycle": (lambda: orient(array([[0, 1, 2], [1, 2, 0]]), 3), r"cycle \d -> \d -> \d -> \d"),
    "neither": (
        lambda: LineGraph.from_edge_index(torch.tensor([[0, 1, 1], [1, 0, 2]])),
        "cycle (0 -> 1 -> 0|1 -> 0 -> 1) in a graph that is not symmetric.*to_undirected",
    ),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD)
def test_bad_input(case):
    call, message = case
    with pytest.raises(ValueError, match=message):
        call()


def test_no_nodes():
    for name in ORIENTATIONS:
        for num_nodes in (0, 3):
            kept, opposite, rank = orient(array([[], []]), num_nodes, name)
            assert kept.tolist() == [] and opposite is None
            assert rank is None or rank.shape == (num_nodes,)
