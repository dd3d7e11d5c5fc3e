"""Distances as features of a layer."""

import networkx as nx
import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.utils import from_networkx

from plstm_graph import LineGraph, PLSTMConv
from plstm_graph.nn.paths import SCALE, PathFeatures
from plstm_graph.testing import check_equivariance


def tree(seed=0, nodes=30):
    graph = nx.random_labeled_tree(nodes, seed=seed)
    return graph, from_networkx(graph).edge_index


def features(semiring, cost, heads=1, channels=2):
    made = PathFeatures(channels, heads, semiring).double()
    torch.nn.init.constant_(made.projection.lin_node.bias[heads:], cost)
    return made


@pytest.mark.parametrize("seed", range(3))
def test_eccentricity_of_trees(seed):
    graph, edge_index = tree(seed)
    line_graph = LineGraph.from_edge_index(edge_index).two_way()
    x = torch.zeros(30, 2, dtype=torch.float64)
    d = features("max", 1.0)(x, None, line_graph) / SCALE
    want = nx.eccentricity(graph)
    assert d[:, 0].tolist() == pytest.approx([want[n] for n in range(30)], abs=1e-12)
    assert float(d.max()) == pytest.approx(nx.diameter(graph))


@pytest.mark.parametrize("semiring", ["max", "logsumexp"])
def test_distance_from_a_source(semiring):
    """Starts are closed but at the source; the soft distance counts the one path of a tree."""
    graph, edge_index = tree()
    line_graph = LineGraph.from_edge_index(edge_index).two_way()
    x = torch.zeros(30, 2, dtype=torch.float64)
    x[:, 1], x[7] = 1.0, 0.0
    made = features(semiring, -1.0)
    with torch.no_grad():
        made.projection.lin_node.weight.copy_(torch.tensor([[0.0, -1e4], [0.0, 0.0]]))
    d = -made(x, None, line_graph) / SCALE
    want = nx.single_source_shortest_path_length(graph, 7)
    assert d[:, 0].tolist() == pytest.approx([want[n] for n in range(30)], abs=1e-12)


@pytest.mark.parametrize("cell", ["plstm", "mlstm"])
@pytest.mark.parametrize("paths", ["max", "logsumexp"])
def test_in_a_layer(paths, cell):
    _, edge_index = tree()
    torch.manual_seed(0)
    conv = PLSTMConv(4, 8, heads=2, paths=paths, edge_dim=3, cell=cell).double()
    assert conv.lin_out.in_channels == 8 + 2 + 2
    for parameter in conv.paths.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(30, 4, dtype=torch.float64)
    edge_attr = torch.randn(edge_index.size(1), 3, dtype=torch.float64)
    data = Data(x=x, edge_index=edge_index, edge_attr=edge_attr)
    check_equivariance(conv, data, tolerance=1e-10)
    out = conv(x, edge_index, edge_attr)
    out.square().sum().backward()
    for name, parameter in conv.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_lazy_and_half():
    _, edge_index = tree()
    conv = PLSTMConv(-1, 8, heads=2, paths="max")
    conv(torch.randn(30, 4), edge_index)
    assert conv.paths.projection.lin_node.in_channels == 4
    with torch.autocast("cpu", torch.bfloat16):
        assert conv(torch.randn(30, 4), edge_index).isfinite().all()


def test_unknown():
    with pytest.raises(ValueError, match="paths to be one of 'max', 'logsumexp'"):
        PLSTMConv(4, 8, paths="min")
