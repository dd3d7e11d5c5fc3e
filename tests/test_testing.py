"""Outputs do not depend on the numbering of nodes, and the helper that checks it."""

import networkx as nx
import pytest
import torch
from torch_geometric.data import Data

from plstm_graph import PLSTM, PLSTMConv
from plstm_graph.molecules.graphs import from_smiles
from plstm_graph.testing import check_equivariance, renumber
from tests.dag.dag_helpers import symmetric

TREES = {
    "path": nx.path_graph(8),
    "star": nx.star_graph(5),
    "binary": nx.balanced_tree(2, 3),
    "spider": nx.Graph([(0, 1), (1, 2), (0, 3), (3, 4), (0, 5), (5, 6)]),
    "random": nx.random_labeled_tree(20, seed=3),
}
CYCLIC = {
    "ring": nx.cycle_graph(6),
    "odd_ring": nx.cycle_graph(7),
    "cubane": nx.cubical_graph(),
    "prism": nx.circular_ladder_graph(5),
    "petersen": nx.petersen_graph(),
    "complete": nx.complete_graph(5),
    "grid": nx.grid_2d_graph(3, 4),
    "regular_20": nx.random_regular_graph(3, 20, seed=1),
    "no_symmetry": nx.gnm_random_graph(20, 30, seed=5),
    "parts": nx.disjoint_union(nx.cycle_graph(5), nx.path_graph(4)),
}
SMILES = {
    "caffeine": "CN1C=NC2=C1C(=O)N(C(=O)N2C)C",
    "cubane": "C12C3C4C1C5C2C3C45",
    "biphenyl": "c1ccccc1-c1ccccc1",
    "aspirin": "CC(=O)Oc1ccccc1C(=O)O",
}


def graph_of(graph: nx.Graph, features: str, width: int = 4) -> Data:
    """Features "none" (all equal), "tied" (of two kinds) or "distinct", on nodes and edges."""
    graph = nx.convert_node_labels_to_integers(graph)
    edge_index = torch.from_numpy(symmetric(graph))
    rng = torch.Generator().manual_seed(0)
    n, m = len(graph), edge_index.size(1)
    x, edge_attr = torch.ones(n, width), torch.ones(m, 3)
    if features == "tied":
        x = x * (torch.rand(n, 1, generator=rng) < 0.5)
    if features == "distinct":
        x = torch.randn(n, width, generator=rng)
        edge_attr = torch.randn(m, 3, generator=rng)  # both directions differ
    return Data(x=x.double(), edge_index=edge_index, edge_attr=edge_attr.double())


def layer(mode: str, **options) -> PLSTMConv:
    torch.manual_seed(0)
    return PLSTMConv(4, 8, heads=2, edge_dim=3, mode=mode, **options).double().eval()


def model(modes: str, readout: str | None, **options) -> PLSTM:
    torch.manual_seed(0)
    out = PLSTM(4, 8, 2, 3, heads=2, edge_dim=3, readout=readout, modes=modes, **options)
    return out.double().eval()


@pytest.mark.parametrize("mode", ["P", "D"])
@pytest.mark.parametrize("features", ["none", "tied", "distinct"])
@pytest.mark.parametrize("name", TREES)
def test_nodes_of_trees(name, features, mode):
    data = graph_of(TREES[name], features)
    check_equivariance(layer(mode), data)
    check_equivariance(model(mode, None, degree_encoding="undirected"), data)


@pytest.mark.parametrize("mode", ["P", "D"])
@pytest.mark.parametrize("name", CYCLIC)
def test_nodes_that_features_tell_apart(name, mode):
    check_equivariance(layer(mode), graph_of(CYCLIC[name], "distinct"))
    check_equivariance(layer(mode, direction_offset=True), graph_of(CYCLIC[name], "distinct"))


@pytest.mark.parametrize("modes", ["P", "D"])
@pytest.mark.parametrize("features", ["none", "tied", "distinct"])
@pytest.mark.parametrize("name", CYCLIC)
def test_graphs(name, features, modes):
    data = graph_of(CYCLIC[name], features)
    check_equivariance(model(modes, "mean"), data, level="graph")
    check_equivariance(model(modes, None), data, level="multiset")


@pytest.mark.parametrize("modes", ["P", "D", "PD"])
@pytest.mark.parametrize("name", SMILES)
def test_molecules(name, modes):
    data = from_smiles(SMILES[name])
    plain = Data(x=data.x.double(), edge_index=data.edge_index, edge_attr=data.edge_attr.double())
    torch.manual_seed(0)
    net = PLSTM(9, 8, 2, 3, heads=2, edge_dim=3, readout="sum", modes=modes).double().eval()
    check_equivariance(net, plain, level="graph")


@pytest.mark.parametrize("mode", ["P", "D"])
def test_directed_graphs(mode):
    """Ties of the pruning are broken by canonical ranks in DAGs, too."""
    edges = [(0, 2), (1, 2), (2, 3), (2, 4), (3, 5), (4, 5), (5, 6), (0, 6)]
    rng = torch.Generator().manual_seed(1)
    data = Data(
        x=torch.randn(7, 4, generator=rng).double(),
        edge_index=torch.tensor(edges).T.contiguous(),
        edge_attr=torch.randn(8, 3, generator=rng).double(),
    )
    for direction in ("forward", "two_way", "reverse"):
        check_equivariance(layer(mode, direction=direction), data)


@pytest.mark.parametrize("orientation", ["index", "bfs"])
def test_what_the_helper_finds(orientation):
    """On a ring an orientation by index is not equivariant, and the message says how far."""
    data = graph_of(nx.cycle_graph(6), "distinct")
    with pytest.raises(AssertionError, match=r"got a difference of 0\.\d+"):
        check_equivariance(layer("P", orientation=orientation), data)
    with pytest.raises(ValueError, match="level to be one of 'node'"):
        check_equivariance(layer("P"), data, level="edge")


def test_renumber_moves_all_attributes():
    data = graph_of(nx.path_graph(5), "distinct")
    data.name, data.number = "kept", torch.arange(5)
    other, new = renumber(data, 3)
    assert torch.equal(other.x[new], data.x) and torch.equal(other.number[new], data.number)
    assert other.name == "kept" and new.tolist() != list(range(5))
    columns = new[data.edge_index].T.tolist()
    pairs = {tuple(column): row for column, row in zip(columns, data.edge_attr)}
    for (u, v), row in zip(other.edge_index.T.tolist(), other.edge_attr):
        assert torch.equal(pairs[u, v], row)
