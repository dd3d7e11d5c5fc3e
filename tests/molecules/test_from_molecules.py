import sys

import networkx as nx
import numpy as np
import pytest
import torch

from plstm_graph import LineGraph
from plstm_graph.dag import multitree_mask
from plstm_graph.molecules import from_mol, from_smiles
from plstm_graph.transforms import ToLineGraph

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"


@pytest.fixture
def chem():
    pytest.importorskip("ogb")
    return pytest.importorskip("rdkit.Chem")


@pytest.mark.parametrize("smiles", [ASPIRIN, "[Na+].[Cl-]", "C", "F/C=C/F"])
def test_same_features_as_ogb(chem, smiles):
    from ogb.utils import smiles2graph

    ours, theirs = from_smiles(smiles), smiles2graph(smiles)
    assert np.array_equal(ours.x.numpy(), theirs["node_feat"])
    assert np.array_equal(ours.edge_index.numpy(), theirs["edge_index"])
    assert np.array_equal(ours.edge_attr.numpy(), theirs["edge_feat"])
    assert ours.smiles == smiles and ours.validate()


def test_from_mol_writes_canonical_smiles(chem):
    assert from_mol(chem.MolFromSmiles("OCC")).smiles == "CCO"


@pytest.mark.parametrize("smiles", [ASPIRIN, "C1CCC2(CC1)CCCC2", "c1ccc2ccccc2c1", "CC(C)(C)C"])
def test_canonical_orientation_does_not_see_atom_order(chem, smiles):
    """The same molecule with its atoms in another order gives the same DAG of the same atoms."""
    mol = chem.MolFromSmiles(smiles)
    transform = ToLineGraph("canonical")

    def dag(graph):
        out = nx.DiGraph()
        out.add_nodes_from((i, {"x": tuple(x)}) for i, x in enumerate(graph.x.tolist()))
        out.add_edges_from(LineGraph.from_data(graph).edge_index.t().tolist())
        return out

    first = transform(from_mol(mol))
    assert sorted(first.canonical_rank.tolist()) == list(range(first.num_nodes))
    rank, edges = LineGraph.from_data(first).node_rank, LineGraph.from_data(first).edge_index
    assert bool((rank[edges[0]] < rank[edges[1]]).all())
    assert sorted(rank.tolist()) == list(range(first.num_nodes))
    # Breadth first: one root, and every other atom has a bond to one that is closer to it.
    assert set(range(first.num_nodes)) - set(edges[1].tolist()) == {int(rank.argmin())}
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(mol.GetNumAtoms()).tolist()
        other = transform(from_mol(chem.RenumberAtoms(mol, order)))
        same = lambda a, b: a["x"] == b["x"]  # noqa: E731
        assert nx.is_isomorphic(dag(first), dag(other), node_match=same)
        kept = [LineGraph.from_data(data).multitree().num_line_edges for data in (first, other)]
        assert kept[0] == kept[1]
        # Without RDKit's ranks, by the features of atoms and bonds alone.
        alone = ToLineGraph(rank="no_such_key")
        assert nx.is_isomorphic(dag(alone(first)), dag(alone(other)), node_match=same)


@pytest.mark.parametrize("orientation", ["index", "canonical"])
def test_molecules_lose_few_line_edges(chem, orientation):
    graph = ToLineGraph(orientation)(from_smiles(ASPIRIN))
    graph = LineGraph.from_data(graph)
    rank = graph.node_rank.numpy()
    mask = multitree_mask(graph.edge_index.numpy(), graph.line_index.numpy(), rank)
    assert torch.equal(graph.multitree().line_id, torch.from_numpy(mask).nonzero().view(-1))
    assert (~mask).sum() <= 3
    assert (~mask).any() == (orientation == "index")  # breadth first, the ring ends where it closes


@pytest.mark.parametrize("smiles", ["C1CC", "not a molecule", None])
def test_bad_smiles_is_named(chem, smiles):
    from rdkit import rdBase

    with rdBase.BlockLogs(), pytest.raises(ValueError, match=f"RDKit can read, got {smiles!r}"):
        from_smiles(smiles)


def test_without_rdkit(monkeypatch):
    monkeypatch.setitem(sys.modules, "rdkit", None)
    with pytest.raises(ImportError, match=r"pip install 'plstm-graph\[molecules\]'"):
        from_smiles("C")
