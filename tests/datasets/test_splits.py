"""Scaffold split and cross-validation folds."""

import random

import pytest
import torch
from sklearn.model_selection import StratifiedKFold

from datasets import InputError, cross_validation_split, load
from datasets.splits import scaffold_of, scaffold_split


@pytest.fixture(scope="module")
def smiles(data_root):
    return [graph.smiles for graph in load("nci", root=data_root).graphs][:1500]


def test_scaffold():
    assert scaffold_of("CCCO") == ""
    assert scaffold_of("CCc1ccccc1O") == "c1ccccc1"
    assert scaffold_of("O=C(Cc1ccccc1)C1CC1") == scaffold_of("CC1CC1C(=O)Cc1ccc(Cl)cc1")


def test_scaffold_split_is_disjoint_complete_and_of_the_right_size(smiles):
    split = scaffold_split(smiles)
    rows = torch.cat(list(split.values()))
    assert sorted(rows.tolist()) == list(range(len(smiles)))
    sizes = {part: len(rows) / len(smiles) for part, rows in split.items()}
    assert sizes == pytest.approx({"train": 0.8, "valid": 0.1, "test": 0.1}, abs=0.002)


def test_no_scaffold_in_two_parts(smiles):
    split = scaffold_split(smiles)
    scaffolds = {part: {scaffold_of(smiles[i]) for i in rows} for part, rows in split.items()}
    assert not scaffolds["train"] & scaffolds["valid"]
    assert not scaffolds["train"] & scaffolds["test"]
    assert not scaffolds["valid"] & scaffolds["test"]


def test_scaffold_split_does_not_depend_on_the_order(smiles):
    shuffled = smiles[:600]
    random.Random(0).shuffle(shuffled)
    first, second = scaffold_split(smiles[:600]), scaffold_split(shuffled)
    for part in first:
        assert {smiles[i] for i in first[part]} == {shuffled[i] for i in second[part]}


def test_cross_validation_split():
    labels = torch.tensor([0] * 63 + [1] * 125)  # the classes of MUTAG
    tests = []
    folds = StratifiedKFold(10, shuffle=True, random_state=42)
    for fold, (_, expected) in enumerate(folds.split(labels, labels)):
        split = cross_validation_split(labels, fold)
        assert split["test"].tolist() == expected.tolist()
        rows = torch.cat(list(split.values()))
        assert sorted(rows.tolist()) == list(range(188))
        # 8 : 1 : 1, each with the classes of the whole
        assert abs(len(split["train"]) - 150) <= 1 and abs(len(split["valid"]) - 19) <= 1
        for part in split.values():
            assert labels[part].float().mean() == pytest.approx(125 / 188, abs=0.04)
        tests.append(split["test"])
    assert sorted(torch.cat(tests).tolist()) == list(range(188))


def test_fold_out_of_range():
    with pytest.raises(InputError, match="expected fold between 0 and 9, got 10"):
        cross_validation_split(torch.tensor([0, 1] * 20), 10)
