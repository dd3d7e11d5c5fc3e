import networkx as nx
import pytest
import torch

from plstm_graph import LineGraph


def test_directed_keeps_order_of_nodes_and_edges():
    g = nx.DiGraph([("c", "b"), ("c", "a"), ("b", "a")])
    graph = LineGraph.from_networkx(g)
    names = list(g.nodes)
    assert [(names[u], names[v]) for u, v in graph.edge_index.t().tolist()] == list(g.edges)
    assert graph.line_index.tolist() == [[0], [2]]
    assert graph.validate().edge_id.tolist() == [0, 1, 2]


@pytest.mark.parametrize("kind", [nx.Graph, nx.MultiGraph])
def test_undirected_is_oriented_in_order(kind):
    g = kind([(0, 1), (1, 2), (2, 0), (0, 1)])
    graph = LineGraph.from_networkx(g, "index")
    ends = [tuple(sorted(edge)) for edge in g.edges()]
    number = {node: i for i, node in enumerate(g.nodes)}
    assert number == {0: 0, 1: 1, 2: 2}
    assert [tuple(edge) for edge in graph.edge_index.t().tolist()] == ends
    assert graph.edge_id.tolist() == list(range(g.number_of_edges()))
    # An edge of g is both directions: they read the same row of edge features.
    assert torch.equal(graph.opposite_id, graph.edge_id) and graph.undirected.all()
    assert torch.equal(graph.two_way().edge_id, graph.edge_id.repeat(2))
    down = LineGraph.from_networkx(g, torch.tensor([2, 1, 0]))
    assert torch.equal(down.edge_index, graph.edge_index.flip(0))
    canonical = LineGraph.from_networkx(g)
    assert torch.equal(canonical.edge_id, graph.edge_id)
    rank = canonical.node_rank[canonical.edge_index]
    assert sorted(canonical.node_rank.tolist()) == [0, 1, 2] and bool((rank[0] < rank[1]).all())


def test_symmetric_directed_is_oriented():
    g = nx.cycle_graph(4).to_directed()
    graph = LineGraph.from_networkx(g, "index")
    assert graph.num_edges == 4 and bool((graph.edge_index[0] < graph.edge_index[1]).all())
    edges = torch.tensor(list(g.edges)).t()
    assert torch.equal(edges[:, graph.edge_id], graph.edge_index)
    assert torch.equal(edges[:, graph.opposite_id], graph.edge_index.flip(0))


def test_round_trip():
    edge_index = torch.tensor([[0, 0, 0, 1, 3], [1, 1, 3, 3, 4]])
    graph = LineGraph.from_edge_index(edge_index, num_nodes=6)
    g = graph.to_networkx()
    assert isinstance(g, nx.MultiDiGraph) and list(g.nodes) == list(range(6))
    assert [g.edges[0, 1, key]["edge_id"] for key in (0, 1)] == [0, 1]
    again = LineGraph.from_networkx(g)
    assert again.num_nodes == 6
    assert torch.equal(again.edge_index, edge_index)
    assert torch.equal(again.line_index, graph.line_index)
    lines = {(a[2], b[2]) for a, b in nx.line_graph(g).edges()}
    assert lines == set(map(tuple, graph.line_index.t().tolist()))


def test_two_way_graphs_have_both_directions():
    graph = LineGraph.from_networkx(nx.path_graph(3), "index").two_way()
    assert sorted(graph.to_networkx().edges()) == [(0, 1), (1, 0), (1, 2), (2, 1)]


@pytest.mark.parametrize("kind", [nx.Graph, nx.DiGraph, nx.MultiDiGraph])
def test_no_edges(kind):
    g = kind()
    assert LineGraph.from_networkx(g).num_nodes == 0
    g.add_nodes_from("ab")
    graph = LineGraph.from_networkx(g)
    assert (graph.num_nodes, graph.num_edges) == (2, 0)
    assert graph.to_networkx().number_of_nodes() == 2


def test_bad_input():
    with pytest.raises(ValueError, match="networkx graph, got list"):
        LineGraph.from_networkx([(0, 1)])
    with pytest.raises(ValueError, match="directed cycle"):
        LineGraph.from_networkx(nx.DiGraph([(0, 1), (1, 2), (2, 0)]))
    with pytest.raises(ValueError, match="self-loops"):
        LineGraph.from_networkx(nx.Graph([(0, 0)]))
