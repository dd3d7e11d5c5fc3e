"""The embedded NCI molecules and users' CSV files."""

import pytest
import torch
from rdkit import Chem
from rdkit.Chem import Crippen

import datasets
from datasets import InputError
from datasets.molecules import load_csv, penalised_logp


@pytest.fixture(scope="module")
def nci(data_root):
    return datasets.load("nci", root=data_root)


def test_nci_counts(nci):
    assert len(nci.graphs) == 4892
    assert nci.task == "regression" and nci.molecular
    assert nci.notes[0].startswith("8 of 4999 SMILES could not be parsed")
    assert "line 3370 'CCCCNCCCC.F[Si](F)(F)(F)(F)F'" in nci.notes[0]
    assert "99 duplicates" in nci.notes[1]


def test_nci_graphs(nci):
    for graph in nci.graphs[:50]:
        mol = Chem.MolFromSmiles(graph.smiles)
        assert graph.x.shape == (mol.GetNumAtoms(), 9)
        assert graph.edge_index.shape == (2, 2 * mol.GetNumBonds())
        assert graph.edge_attr.shape == (2 * mol.GetNumBonds(), 3)
        assert graph.y.shape == (1,) and graph.y.dtype == torch.float32
        assert graph.y.item() == pytest.approx(penalised_logp(mol), abs=1e-5)
    canonical = {Chem.MolToSmiles(Chem.MolFromSmiles(g.smiles)) for g in nci.graphs}
    assert len(canonical) == len(nci.graphs)  # no molecule twice


def test_nci_from_cache_is_the_same(nci, data_root):
    again = datasets.load("nci", root=data_root)
    assert again.notes == nci.notes
    assert all(torch.equal(again.split[part], nci.split[part]) for part in nci.split)
    assert torch.equal(again.targets("test"), nci.targets("test"))


# Crippen's contributions (Wildman & Crippen 1999, table 1), summed by hand:
# methane  C1 0.1441 + 4 H1 0.1230; water O2 -0.2893 + 2 H2 -0.2677;
# benzene  6 (C18 0.1581 + H1 0.1230).
@pytest.mark.parametrize(
    "smiles, logp, large_rings",
    [("C", 0.6361, 0), ("O", -0.8247, 0), ("c1ccccc1", 1.6866, 0), ("C1CCCCCC1", 2.7307, 1)],
)
def test_penalised_logp(smiles, logp, large_rings):
    from datasets.molecules import _sa_scorer

    mol = Chem.MolFromSmiles(smiles)
    assert Crippen.MolLogP(mol) == pytest.approx(logp, abs=1e-4)
    sa = _sa_scorer().calculateScore(mol)
    assert penalised_logp(mol) == pytest.approx(logp - sa - large_rings, abs=1e-4)


def test_penalised_logp_counts_each_large_ring():
    # Two rings of seven atoms that share a bond, against the same with rings of six.
    mol = Chem.MolFromSmiles("C1CCCC2CCCCCC2C1")
    sizes = sorted(len(ring) for ring in Chem.GetSSSR(mol))
    assert sizes == [7, 7]
    from datasets.molecules import _sa_scorer

    rest = Crippen.MolLogP(mol) - _sa_scorer().calculateScore(mol)
    assert penalised_logp(mol) == pytest.approx(rest - 2)


def write(path, rows, header="name,smiles,value"):
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


GOOD = [f"m{i},{'C' * (i + 1)}O,{i * 0.5}" for i in range(12)] + [
    f"r{i},c1ccccc1{'C' * i},{i}" for i in range(4)
] + [f"s{i},C1CC{'C' * i}C1,{i}" for i in range(4)]  # fmt: skip


def test_csv(tmp_path):
    data = load_csv(write(tmp_path / "mine.csv", GOOD), "smiles", "value")
    assert (data.name, data.task, len(data.graphs), data.notes) == ("mine", "regression", 20, [])
    assert [g.y.item() for g in data.graphs[:3]] == [0.0, 0.5, 1.0]
    assert sorted(torch.cat(list(data.split.values())).tolist()) == list(range(20))


def test_csv_bad_smiles_are_named_and_counted(tmp_path):
    rows = [*GOOD[:3], "x,not_a_molecule,1.5", *GOOD[3:], "y,,2.5", "z,C1CC,3.5"]
    data = load_csv(write(tmp_path / "mine.csv", rows), "smiles", "value")
    assert len(data.graphs) == 20
    (note,) = data.notes
    assert note.startswith("3 of 23 SMILES could not be parsed")
    for bad in ("row 4 'not_a_molecule'", "row 22 ''", "row 23 'C1CC'"):
        assert bad in note
    assert data.graphs[3].y.item() == 1.5  # targets stay with their molecules


def test_csv_errors(tmp_path):
    path = write(tmp_path / "mine.csv", GOOD)
    with pytest.raises(InputError, match=r"smiles_column to be a column.*'SMILES'.*'smiles'"):
        load_csv(path, "SMILES", "value")
    with pytest.raises(InputError, match=r"target_column to be a column.*'logS'"):
        load_csv(path, "smiles", "logS")
    with pytest.raises(InputError, match=r"expected numbers in column 'name'.*'m0' in row 1"):
        load_csv(path, "smiles", "name")
    with pytest.raises(InputError, match="targets 0 and 1"):
        load_csv(path, "smiles", "value", task="binary")
    with pytest.raises(InputError, match="expected task one of"):
        load_csv(path, "smiles", "value", task="ranking")
    with pytest.raises(InputError, match="target_column together with csv"):
        datasets.load(csv=path)
    empty_target = write(tmp_path / "hole.csv", ["a,C,1", "b,CC,", "c,CCC,3"])
    with pytest.raises(InputError, match=r"got '' in row 2 \(1 such rows\)"):
        load_csv(empty_target, "smiles", "value")
    all_bad = write(tmp_path / "bad.csv", ["a,xx,1", "b,yy,2"])
    with pytest.raises(InputError, match=r"got none that RDKit can parse.*row 1 'xx', row 2 'yy'"):
        load_csv(all_bad, "smiles", "value")
    few = write(tmp_path / "few.csv", ["a,C,1"])
    with pytest.raises(InputError, match="every part of the split"):
        load_csv(few, "smiles", "value")


def test_csv_binary_is_detected(tmp_path):
    rows = [",".join([*row.split(",")[:2], str(i % 2)]) for i, row in enumerate(GOOD)]
    assert load_csv(write(tmp_path / "b.csv", rows), "smiles", "value").task == "binary"
    forced = load_csv(tmp_path / "b.csv", "smiles", "value", task="regression")
    assert forced.task == "regression"


def test_unknown_name():
    with pytest.raises(InputError, match=r"expected dataset one of nci, MUTAG.*got 'zinc'"):
        datasets.load("zinc")


def test_data_root(monkeypatch, tmp_path):
    monkeypatch.setenv("PLSTM_DATA_ROOT", str(tmp_path))
    assert datasets.data_root() == tmp_path
    assert datasets.data_root(tmp_path / "other") == tmp_path / "other"
    monkeypatch.delenv("PLSTM_DATA_ROOT")
    assert datasets.data_root().name == "plstm_graph"
