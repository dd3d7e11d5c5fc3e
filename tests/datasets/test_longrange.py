"""Long-range sets: distances, shares, scales, and that the answers can be found in the inputs."""

from itertools import pairwise

import networkx as nx
import numpy as np
import pytest
import torch
from torch_geometric.utils import is_undirected, to_networkx

from datasets import InputError, longrange
from datasets.longrange_echo import DIAMETER, NODES, TOPOLOGIES, echo_graphs, topology
from datasets.longrange_graphs import (
    TYPES,
    base_graph,
    both_directions,
    property_graphs,
    toggle,
)


def rng(*seed):
    return np.random.default_rng(seed or 0)


def assert_symmetric(graph):
    assert graph.edge_index.dtype == torch.int64 and graph.edge_index.is_contiguous()
    assert is_undirected(graph.edge_index, num_nodes=graph.num_nodes)
    assert not (graph.edge_index[0] == graph.edge_index[1]).any()
    assert torch.unique(graph.edge_index, dim=1).size(1) == graph.num_edges
    assert graph.x.is_floating_point()


@pytest.mark.parametrize("draw", [property_graphs, echo_graphs])
def test_labels_are_those_of_networkx(draw):
    disconnected = 0
    for graph in draw(rng(), 60):
        assert_symmetric(graph)
        g = to_networkx(graph, to_undirected=True)
        assert min(degree for _, degree in g.degree) > 0
        disconnected += not nx.is_connected(g)
        lengths = dict(nx.all_pairs_shortest_path_length(g))
        (source,) = graph.x[:, 1].nonzero().flatten().tolist()
        from_source = [lengths[source].get(node, 0) for node in range(graph.num_nodes)]
        farthest = [max(lengths[node].values()) for node in range(graph.num_nodes)]
        assert graph.node_y.tolist() == [
            list(map(float, pair)) for pair in zip(from_source, farthest)
        ]
        assert graph.graph_y.tolist() == [[float(max(farthest))]]
        assert graph.x[:, 1].sum() == 1 and 0 <= graph.x[:, 0].min() <= graph.x[:, 0].max() < 1
    assert (disconnected > 0) == (draw is property_graphs)


def test_types_have_their_shares():
    graphs = property_graphs(rng(1), 800)
    kinds = np.bincount([graph.kind.item() for graph in graphs], minlength=len(TYPES))
    shares = np.array(list(TYPES.values()))
    assert shares.sum() == pytest.approx(1)
    sd = np.sqrt(shares * (1 - shares) / len(graphs))
    assert (abs(kinds / len(graphs) - shares) < 4 * sd).all()
    sizes = {graph.num_nodes for graph in graphs}
    assert sizes == set(range(25, 36))


def graph_of(kind, nodes, seed=0):
    return nx.from_numpy_array(base_graph(rng(seed), kind, nodes))


def test_base_graphs():
    assert nx.is_isomorphic(graph_of("grid", 30), nx.grid_2d_graph(5, 6))
    assert nx.is_isomorphic(graph_of("grid", 31), nx.path_graph(31))  # a prime
    assert nx.is_isomorphic(graph_of("caveman", 30), nx.caveman_graph(5, 6))
    assert nx.is_isomorphic(graph_of("ladder", 30), nx.ladder_graph(15))
    odd = graph_of("ladder", 31)
    assert odd.number_of_nodes() == 31 and odd.degree[30] == 1 and nx.is_connected(odd)
    assert nx.is_isomorphic(graph_of("line", 30), nx.path_graph(30))
    assert nx.is_isomorphic(graph_of("star", 30), nx.star_graph(29))
    for seed in range(20):
        for kind in ("tree", "caterpillar", "lobster"):
            g = graph_of(kind, 28, seed)
            assert nx.is_tree(g) and g.number_of_nodes() == 28
            inner = g
            for _ in range(1 if kind == "caterpillar" else 2):  # without the leaves it is a path
                inner = inner.subgraph([n for n, degree in inner.degree if degree > 1])
            assert max((degree for _, degree in inner.degree), default=0) <= 2
        g = graph_of("barabasi_albert", 28, seed)
        assert g.number_of_edges() in {m + (27 - m) * m for m in range(1, 28)}
        assert nx.is_connected(g)


def test_tree_degrees_are_those_of_networkx():
    """The degrees follow the power law of networkx's random_powerlaw_tree."""
    ours = [d for seed in range(150) for _, d in graph_of("tree", 30, seed).degree]
    theirs = [
        d
        for seed in range(150)
        for _, d in nx.random_powerlaw_tree(30, seed=seed, tries=10000).degree
    ]
    for degree in (1, 2, 3):
        shares = [np.mean(np.array(degrees) == degree) for degrees in (ours, theirs)]
        assert abs(shares[0] - shares[1]) < 0.03


@pytest.mark.parametrize("kind", ["line", "caveman", "erdos_renyi"])
def test_toggle(kind):
    draws, kept, edges = rng(2), [], []
    for _ in range(300):
        before = base_graph(draws, kind, 30)
        after = toggle(draws, before)
        assert (after == after.T).all() and not after.diagonal().any()
        if before.any():
            kept.append((before & after).sum() / before.sum())
            edges.append(after.sum() / before.sum())
    assert 0.88 <= np.mean(kept) <= (0.97 if kind == "erdos_renyi" else 0.92)
    assert np.mean(edges) == pytest.approx(1, abs=0.06)


@pytest.mark.parametrize("kind", TOPOLOGIES)
def test_topologies(kind):
    draws = rng(3)
    graphs = [nx.from_numpy_array(topology(draws, kind)) for _ in range(40)]
    graphs = [g for g in graphs if len(g)]
    assert graphs and all(nx.is_connected(g) and NODES[0] <= len(g) <= NODES[1] for g in graphs)
    if kind in ("tree", "caterpillar", "lobster"):
        assert all(nx.is_tree(g) for g in graphs)
    if kind == "grid":
        assert max(degree for g in graphs for _, degree in g.degree) == 4
        assert all(nx.is_bipartite(g) for g in graphs)
    if kind == "line":
        reach = [b - a for g in graphs for a, b in g.edges if b - a > 1]
        assert min(reach) == 2 and max(reach) == 6
        assert len(reach) == pytest.approx(0.2 * sum(map(len, graphs)), rel=0.2)


def test_echo_has_all_topologies_and_diameters_in_range():
    graphs = echo_graphs(rng(4), 60)
    diameters = [graph.graph_y.item() for graph in graphs]
    assert min(diameters) >= DIAMETER[0] and max(diameters) <= DIAMETER[1]
    trees = [graph.num_edges == 2 * (graph.num_nodes - 1) for graph in graphs]
    assert trees == 10 * ([False] * 3 + [True] * 3)


@pytest.mark.parametrize("name", ["gpp", "echo", "transfer_ring_5", "barbell_4", "tree_2"])
def test_draws_depend_on_name_and_seed_only(name, tmp_path):
    sizes = (12, 6, 6)
    data = longrange.load(name, tmp_path, sizes)
    assert [len(data.parts[part]) for part in longrange.SPLITS] == list(sizes)
    again = longrange.load(name, tmp_path, sizes)  # gpp and echo: from the file
    fresh = longrange.load(name, tmp_path / "other", sizes)
    other = longrange.load(name, tmp_path, sizes, seed=1)
    assert data.targets == again.targets == fresh.targets
    for part, graphs in data.parts.items():
        for graph, *same in zip(graphs, again.parts[part], fresh.parts[part]):
            assert_symmetric(graph)
            for key in graph.keys():  # noqa: SIM118
                assert all(torch.equal(graph[key], found[key]) for found in same)
        assert any(
            graph.x.shape != found.x.shape or not torch.equal(graph.x, found.x)
            for graph, found in zip(graphs, other.parts[part])
        )
    first = [parts[0].x for parts in data.parts.values()]
    assert all(a.shape != b.shape or not torch.equal(a, b) for a, b in pairwise(first))
    assert (tmp_path / "longrange").exists() == (name in ("gpp", "echo"))


def test_other_numbers_of_test_graphs_leave_the_rest_alone(tmp_path):
    small, large = (longrange.load("gpp", tmp_path, (8, 4, n)).parts for n in (2, 5))
    for part in ("train", "valid"):
        assert all(torch.equal(a.x, b.x) for a, b in zip(small[part], large[part]))
    assert torch.equal(small["test"][1].x, large["test"][1].x)


def test_labels_are_divided_by_the_training_maximum(tmp_path):
    data = longrange.load("gpp", tmp_path, (40, 5, 40))
    raw = property_graphs(rng(0, 2), 40)
    assert [(t.name, t.level) for t in data.targets] == [
        ("sssp", "node"), ("ecc", "node"), ("diam", "graph"),
    ]  # fmt: skip
    train = torch.cat([graph.node_y for graph in data.parts["train"]])
    assert train.amax(0).tolist() == [1, 1]
    scale = torch.tensor([target.scale for target in data.targets])
    assert (scale == scale.round()).all() and scale[1] == scale[2]
    for graph, before in zip(data.parts["test"], raw):
        torch.testing.assert_close(graph.node_y * scale[:2], before.node_y)
        torch.testing.assert_close(graph.graph_y * scale[2:], before.graph_y)


def test_both_directions():
    assert both_directions([(2, 0), (0, 1)]).tolist() == [[0, 0, 1, 2], [1, 2, 0, 0]]


@pytest.mark.parametrize(
    "name, sizes, message",
    [
        ("gppp", None, r"expected a set out of gpp, echo, .*, got 'gppp'"),
        ("transfer_star_5", None, "expected a set out of"),
        ("transfer_line_1", None, "expected the distance from 2 to 1000, got 1"),
        ("tree_9", None, "expected the depth from 2 to 8, got 9"),
        ("barbell_1", None, "expected the clique from 2 to 200, got 1"),
        ("gpp", (1, 0, 1), r"expected sizes as three numbers of 1 or more .*, got \[1, 0, 1\]"),
        ("tree_2", (90, 5, 5), "expected sizes of at most 96 trees of depth 2 in all"),
    ],
)
def test_errors(name, sizes, message, tmp_path):
    with pytest.raises(InputError, match=message):
        longrange.load(name, tmp_path, sizes)
