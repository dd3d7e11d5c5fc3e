"""Peptides: made of the raw CSV file with the official split, or through PyG's loader."""

import gzip
import json

import pandas as pd
import pytest
import torch

from datasets import InputError, peptides
from plstm_graph.molecules.graphs import from_smiles

SMILES = ["NCC(=O)NCC(=O)O", "CC(N)C(=O)O", "NC(CS)C(=O)O", "NCC(=O)O", "NC(CO)C(=O)O"]
SPLIT = {"train": [4, 0, 2], "val": [1], "test": [3]}


def write(home, smiles, split):
    (home / "raw").mkdir(parents=True)
    labels = [str([int(i == j) for j in range(10)]) for i in range(len(smiles))]
    table = pd.DataFrame({"smiles": smiles, "labels": labels})
    table.to_csv(home / "raw" / "peptide_multi_class_dataset.csv.gz")
    (home / "splits_random_stratified_peptide.json").write_text(json.dumps(split))


def test_functional(tmp_path):
    write(tmp_path / "peptides-functional", SMILES, SPLIT)
    for _ in range(2):  # from the raw file, then from what was processed
        data = peptides.load("peptides-func", tmp_path)
        assert (data.name, data.task, data.molecular) == ("peptides-func", "multilabel", True)
        split = {part: rows.tolist() for part, rows in data.split.items()}
        assert split == {"train": [4, 0, 2], "valid": [1], "test": [3]}
        assert torch.equal(data.targets("train"), torch.eye(10)[[4, 0, 2]])
        for text, graph in zip(SMILES, data.graphs):
            expected = from_smiles(text)
            for key in ("x", "edge_index", "edge_attr", "canonical_rank"):
                assert torch.equal(graph[key], expected[key])


def test_functional_errors(tmp_path, monkeypatch):
    home = tmp_path / "peptides-functional"
    write(home, SMILES, {**SPLIT, "val": [7]})
    with pytest.raises(InputError, match=r"name each of the 5 peptides once, got 5 rows up to 7"):
        peptides.load("peptides-func", tmp_path)
    (home / "splits_random_stratified_peptide.json").unlink()
    with pytest.raises(InputError, match=r"expected the official split .*peptide.json, got no"):
        peptides.load("peptides-func", tmp_path)
    write(tmp_path / "bad" / "peptides-functional", [*SMILES, "C1CC"], SPLIT)
    with pytest.raises(InputError, match=r"RDKit can read .* row 5 'C1CC'"):
        peptides.load("peptides-func", tmp_path / "bad")
    with pytest.raises(InputError, match=r"expected one of peptides-func, .* got 'zinc'"):
        peptides.load("zinc", tmp_path)


def test_structural_comes_through_pyg(tmp_path):
    raw = tmp_path / "lrgb" / "peptides-struct" / "raw"
    raw.mkdir(parents=True)
    for theirs, rows in SPLIT.items():
        graphs = [from_smiles(SMILES[i]) for i in rows]
        content = [
            (g.x, g.edge_attr, g.edge_index, torch.full((1, 11), float(i), dtype=torch.float64))
            for i, g in zip(rows, graphs)
        ]
        torch.save(content, raw / f"{theirs}.pt")
    data = peptides.load("peptides-struct", tmp_path)
    assert data.task == "regression" and data.targets("train").dtype == torch.float32
    assert data.targets("train")[:, 10].tolist() == [4.0, 0.0, 2.0]
    assert data.targets("test").shape == (1, 11)


@pytest.mark.parametrize("name", peptides.NAMES)
def test_without_files_or_network(name, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("no network")

    monkeypatch.setattr(peptides, "LRGBDataset", fail)
    with pytest.raises(InputError, match=rf"download it there, got .*no network.*{name}/raw"):
        peptides.load(name, tmp_path)


def test_official_files(shared_data, tmp_path):
    source = shared_data / "peptides-functional"
    split = json.loads((source / "splits_random_stratified_peptide.json").read_text())
    assert {part: len(rows) for part, rows in split.items()} == {
        "train": 10873,
        "val": 2331,
        "test": 2331,
    }
    with gzip.open(source / "raw" / "peptide_multi_class_dataset.csv.gz", "rt") as file:
        head = pd.read_csv(file, nrows=30)
    home = tmp_path / "peptides-functional"
    (home / "raw").mkdir(parents=True)
    head.to_csv(home / "raw" / "peptide_multi_class_dataset.csv.gz", index=False)
    small = {part: [row for row in rows if row < 30] for part, rows in split.items()}
    (home / "splits_random_stratified_peptide.json").write_text(json.dumps(small))
    data = peptides.load("peptides-func", tmp_path)
    assert len(data.graphs) == 30 and data.targets("train").shape[1] == 10
    assert data.graphs[0].num_nodes == 119
