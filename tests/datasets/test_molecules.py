"""The embedded NCI molecules, users' CSV files, and the targets of a data set."""

import pytest
import torch
from rdkit import Chem
from torch_geometric.data import Data

import datasets
from datasets import GraphDataset, InputError, descriptors
from datasets.molecules import load_csv


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
        assert graph.y.shape == (1, 7) and graph.y.dtype == torch.float32
        assert graph.y[0].tolist() == pytest.approx(descriptors.describe(mol), rel=1e-5)
    canonical = {Chem.MolToSmiles(Chem.MolFromSmiles(g.smiles)) for g in nci.graphs}
    assert len(canonical) == len(nci.graphs)  # no molecule twice


def test_nci_targets(nci):
    assert nci.target_names == list(descriptors.DESCRIPTORS) and nci.num_targets == 7
    assert nci.target_names[0] == "penalised_logp"
    y = torch.cat([graph.y for graph in nci.graphs])
    assert y.isfinite().all()
    assert (y.std(0) > 0.1).all()
    # No target is another one in disguise, and none is dominated by a few molecules.
    assert (torch.corrcoef(y.T) - torch.eye(7)).abs().max() < 0.9
    assert ((y - y.mean(0)) / y.std(0)).abs().max() < 20


def test_nci_from_cache_is_the_same(nci, data_root):
    again = datasets.load("nci", root=data_root)
    assert again.notes == nci.notes and again.target_names == nci.target_names
    assert all(torch.equal(again.split[part], nci.split[part]) for part in nci.split)
    assert torch.equal(again.targets("test"), nci.targets("test"))


def dataset(task, shape, names=()):
    graphs = [Data(x=torch.zeros(1, 1), y=torch.zeros(shape)) for _ in range(3)]
    split = dict(zip(("train", "valid", "test"), torch.arange(3).split(1)))
    return GraphDataset("made up", task, graphs, split, target_names=list(names))


@pytest.mark.parametrize(
    "task, shape, names, kept",
    [
        ("regression", (1,), (), ["made up"]),
        ("regression", (1,), ["logS"], ["logS"]),
        ("regression", (1, 2), (), ["target_1", "target_2"]),
        ("regression", (1, 2), ["a", "b"], ["a", "b"]),
        ("binary", (1,), (), ["made up"]),
        ("multilabel", (1, 3), (), ["target_1", "target_2", "target_3"]),
    ],
)
def test_target_names(task, shape, names, kept):
    data = dataset(task, shape, names)
    assert data.target_names == kept and data.num_targets == len(kept)


@pytest.mark.parametrize(
    "task, shape, names, message",
    [
        ("regression", (1, 2), ["a"], r"expected 2 target_names for made up, got \['a'\]; name"),
        ("regression", (1, 1), (), r"shaped \[1\] or \[1, T\].*'regression', got \[1, 1\]; resh"),
        ("regression", (2,), (), r"got \[2\]"),
        ("regression", (), (), r"got \[\]"),
        (
            "binary",
            (1, 2),
            (),
            r"shaped \[1\] for task 'binary', got \[1, 2\]; reshape y, or choose",
        ),
        ("multilabel", (1,), (), r"shaped \[1, T\], T > 1 for task 'multilabel', got \[1\]"),
    ],
)
def test_targets_that_do_not_fit(task, shape, names, message):
    with pytest.raises(InputError, match=message):
        dataset(task, shape, names)


def write(path, rows, header="name,smiles,value"):
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


GOOD = [f"m{i},{'C' * (i + 1)}O,{i * 0.5}" for i in range(12)] + [
    f"r{i},c1ccccc1{'C' * i},{i}" for i in range(4)
] + [f"s{i},C1CC{'C' * i}C1,{i}" for i in range(4)]  # fmt: skip


def test_csv(tmp_path):
    data = load_csv(write(tmp_path / "mine.csv", GOOD), "smiles", "value")
    assert (data.name, data.task, len(data.graphs), data.notes) == ("mine", "regression", 20, [])
    assert data.target_names == ["value"]
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
    with pytest.raises(InputError, match=r"expected a column 'SMILES'.*'smiles'"):
        load_csv(path, "SMILES", "value")
    with pytest.raises(InputError, match=r"expected a column 'logS'"):
        load_csv(path, "smiles", "logS")
    with pytest.raises(InputError, match=r"expected numbers in column 'name'.*'m0' in row 1"):
        load_csv(path, "smiles", "name")
    with pytest.raises(InputError, match="expected 0, 1 or gaps"):
        load_csv(path, "smiles", "value", task="binary")
    with pytest.raises(InputError, match="expected task one of"):
        load_csv(path, "smiles", "value", task="ranking")
    with pytest.raises(InputError, match="target_column together with csv"):
        datasets.load(csv=path)
    data = load_csv(write(tmp_path / "hole.csv", ["a,C,", *GOOD]), "smiles", "value")
    assert data.notes == ["1 rows without a target are left out"]
    assert [g.y.item() for g in data.graphs[:3]] == [0.0, 0.5, 1.0]
    all_bad = write(tmp_path / "bad.csv", ["a,xx,1", "b,yy,2"])
    with pytest.raises(InputError, match=r"got none that RDKit can parse.*row 1 'xx', row 2 'yy'"):
        load_csv(all_bad, "smiles", "value")
    few = write(tmp_path / "few.csv", ["a,C,1"])
    with pytest.raises(InputError, match="expected three scaffolds or more for a scaffold split"):
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
