"""Graphs of molecules do not depend on how they are written; orientations on seeds alone."""

import numpy as np
import pytest
import torch
from rdkit import Chem

from plstm_graph.molecules.batches import Batches, Requests, collate, mix, ranks
from plstm_graph.molecules.features import ATOM_DIMS, BOND_DIMS, atom_features, bond_features
from plstm_graph.molecules.graphs import from_smiles, molecule, parse_smiles, seed_of

SMILES = [
    "CC(=O)Oc1ccccc1C(=O)O", "C[C@H](N)C(=O)O", "F/C=C/F", "[Na+].[Cl-]", "C", "C1CC2CCC1C2",
    "[13CH4]", "*CC", "O=C(O)[C@@H]1CCCN1", "c1ccc2c(c1)[nH]c1ccccc12", "[O-][N+](=O)c1ccccc1",
]  # fmt: skip
ATROPISOMER = "Cc1cccc(O)c1-c1c(C)cccc1O |wU:7.7|"


def test_features_are_those_of_ogb():
    features = pytest.importorskip("ogb.utils.features")
    assert list(ATOM_DIMS) == features.get_atom_feature_dims()
    assert list(BOND_DIMS) == features.get_bond_feature_dims()
    for smiles in SMILES:
        mol = Chem.MolFromSmiles(smiles)
        for atom in mol.GetAtoms():
            assert atom_features(atom) == features.atom_to_feature_vector(atom)
        for bond in mol.GetBonds():
            assert bond_features(bond) == features.bond_to_feature_vector(bond)


def test_atropisomers_have_the_last_resort():
    mol = Chem.MolFromSmiles(ATROPISOMER)
    found = {bond.GetStereo().name for bond in mol.GetBonds()} - {"STEREONONE"}
    assert len(found) == 1 and found.pop().startswith("STEREOATROP")
    for graph in (from_smiles(ATROPISOMER), molecule(parse_smiles(ATROPISOMER))):
        assert graph.edge_attr[:, 1].unique().tolist() == [0, BOND_DIMS[1] - 1]


@pytest.mark.parametrize("smiles", SMILES)
def test_any_writing_gives_the_same_graph(smiles):
    mol = Chem.MolFromSmiles(smiles)
    expected = molecule(mol)
    for seed in range(6):
        order = np.random.default_rng(seed).permutation(mol.GetNumAtoms()).tolist()
        text = Chem.MolToSmiles(Chem.RenumberAtoms(mol, order), canonical=False)
        found = molecule(parse_smiles(text))
        assert found.smiles == expected.smiles
        for key in ("x", "edge_index", "edge_attr"):
            assert torch.equal(found[key], expected[key]), (text, key)


def test_map_numbers_are_no_part_of_a_molecule():
    assert molecule(parse_smiles("[CH3:2][OH:1]")).smiles == "CO"


def test_ranks_depend_on_the_molecule_alone():
    graphs = [molecule(parse_smiles(text)) for text in SMILES]
    seeds = np.array([seed_of(graph.smiles) for graph in graphs], dtype=np.uint64)
    for orientation in ("random", "random_bfs", "canonical"):
        for size in (1, 3, len(graphs)):
            edges = []
            for start in range(0, len(graphs), size):
                part = slice(start, start + size)
                batch = collate(graphs[part], seeds[part], orientation)
                line_graph = batch.line_graph
                owner = batch.batch[line_graph.edge_index[0]]
                first = torch.searchsorted(batch.batch, torch.arange(batch.size))
                for i in range(batch.size):
                    edges.append((line_graph.edge_index[:, owner == i] - first[i]).tolist())
            if size == 1:
                expected = edges
            assert edges == expected


def test_ranks_are_breadth_first_and_uniform():
    graph = molecule(parse_smiles("CCCCCCCC"))
    edge_index, batch = graph.edge_index.numpy(), np.zeros(8, dtype=np.int64)
    roots = np.zeros(8)
    for seed in range(800):
        seeds = np.array([seed], dtype=np.uint64)
        rank = ranks(edge_index, batch, seeds, "random_bfs")
        root = rank.argmin()
        roots[root] += 1
        assert len(set(rank.tolist())) == 8
        lower = rank[edge_index[0]] < rank[edge_index[1]]
        reached = set(edge_index[1][lower].tolist())
        assert reached == set(range(8)) - {int(root)}  # one root, all others have a parent
    assert roots.min() > 60  # 100 expected


def test_mix_spreads():
    values = mix(np.arange(1000, dtype=np.uint64))
    assert len(set(values.tolist())) == 1000
    ones = np.unpackbits(values.view(np.uint8)).mean()
    assert ones == pytest.approx(0.5, abs=0.01)


def test_requests_depend_on_seed_and_epoch_alone():
    one, two = Requests(range(10, 33), 5, seed=3), Requests(range(10, 33), 5, seed=3)
    list(one), list(one)  # what was read before does not matter
    for epoch in (0, 4, 1):
        one.set_epoch(epoch)
        two.set_epoch(epoch)
        first, second = list(one), list(two)
        assert first == second and len(first) == len(one) == 5
        assert sorted(row for request in first for row in request.rows) == list(range(10, 33))
    drawn = set()
    for epoch in range(3):
        one.set_epoch(epoch)
        drawn.add(str([request.rows for request in one]) + str(next(iter(one)).draw))
    assert len(drawn) == 3
    fixed = list(Requests(range(10, 33), 5))
    assert [row for request in fixed for row in request.rows] == list(range(10, 33))
    assert {request.draw for request in fixed} == {0}


def test_batches_hold_the_molecules_that_were_asked_for():
    graphs = [molecule(parse_smiles("C" * n)) for n in range(1, 9)]
    y = torch.arange(8.0)[:, None]
    data = Batches(graphs, np.arange(8, dtype=np.uint64), "random_bfs", y, torch.ones(8, 1))
    for request in Requests([7, 2, 5, 0], 3):
        batch = data[request]
        assert batch.y[:, 0].tolist() == [float(row) for row in request.rows]
        assert batch.batch.bincount().tolist() == [row + 1 for row in request.rows]
