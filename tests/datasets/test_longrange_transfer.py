"""Graph transfer, barbells and trees: the answers can be found in the inputs."""

import networkx as nx
import numpy as np
import pytest
import torch
from torch_geometric.utils import to_networkx

from datasets import longrange
from datasets.longrange_transfer import barbell_graphs, transfer_edges, tree_match_graphs
from tests.datasets.test_longrange import assert_symmetric


@pytest.mark.parametrize("shape, nodes", [("line", 8), ("ring", 14), ("crossed", 14)])
def test_transfer(shape, nodes, tmp_path):
    data = longrange.load(f"transfer_{shape}_7", tmp_path, (20, 3, 3))
    for graph in data.parts["train"]:
        assert_symmetric(graph)
        assert graph.x.shape == graph.node_y.shape == (nodes, 1)
        g = to_networkx(graph, to_undirected=True)
        assert nx.shortest_path_length(g, 0, 7) == 7
        assert (graph.x[0], graph.x[7]) == (1, 0) and (graph.node_y[0], graph.node_y[7]) == (0, 1)
        same = torch.ones(nodes, dtype=torch.bool)
        same[[0, 7]] = False
        assert torch.equal(graph.x[same], graph.node_y[same])
    assert data.targets[0].scale == 1
    sizes = [len(longrange.load(f"transfer_{shape}_7").parts[part]) for part in longrange.SPLITS]
    assert sizes == [1000, 100, 100]


def test_crossed_ring_by_hand():
    ring = {(i, i + 1) for i in range(7)} | {(0, 7)}
    crosses = {(1, 6), (2, 5), (3, 4), (2, 7), (3, 6)}  # (0, 7) and (3, 4) are the ring's too
    edges = {tuple(sorted(pair)) for pair in transfer_edges("crossed", 4).tolist()}
    assert edges == ring | crosses


def test_barbell():
    graphs = barbell_graphs(np.random.default_rng(5), 400, 6)
    for graph in graphs[:5]:
        assert_symmetric(graph)
        g = to_networkx(graph, to_undirected=True)
        expected = nx.barbell_graph(6, 0)
        assert nx.is_isomorphic(g, expected) and list(nx.bridges(g)) == [(0, 6)]
        left, right = graph.x[:6] * 6**0.5, graph.x[6:] * 6**0.5
        torch.testing.assert_close(graph.node_y[:6], right.mean().expand(6, 1))
        torch.testing.assert_close(graph.node_y[6:], left.mean().expand(6, 1))
    means = torch.stack([graph.node_y[0, 0] for graph in graphs])
    assert means.var().item() == pytest.approx(1, rel=0.25)
    assert means.mean().item() == pytest.approx(18**0.5, abs=0.2)


@pytest.mark.parametrize("depth, count", [(2, 96), (3, 8000), (5, 32_000)])
def test_tree_match(depth, count):
    graphs = tree_match_graphs(np.random.default_rng(6), depth)
    assert len(graphs) == count
    assert nx.is_isomorphic(to_networkx(graphs[0], to_undirected=True), nx.balanced_tree(2, depth))
    leaves = 2**depth
    for graph in graphs[:200]:
        assert graph.num_nodes == 2 * leaves - 1
        g = to_networkx(graph, to_undirected=True)
        ends = [node for node, degree in g.degree if degree == 1]
        assert {nx.shortest_path_length(g, 0, node) for node in ends} == {depth}
        keys, values = graph.x[ends].unbind(1)
        assert sorted(keys.tolist()) == sorted(values.tolist()) == list(range(1, leaves + 1))
        assert (graph.x[1 : leaves - 1] == 0).all() and graph.x[0, 1] == 0
        (found,) = (keys == graph.x[0, 0]).nonzero().flatten().tolist()
        assert values[found] == graph.root_y.item() + 1
    seen = {(g.x[0, 0].item(), tuple(g.x[-leaves:, 1].tolist())) for g in graphs}
    assert depth > 3 or len(seen) == count
    assert_symmetric(graphs[0])


def test_tree_parts():
    data = longrange.load("tree_2")
    assert [len(data.parts[part]) for part in longrange.SPLITS] == [76, 10, 10]
    assert data.targets == (longrange.Target("value", "root", classes=4),)
