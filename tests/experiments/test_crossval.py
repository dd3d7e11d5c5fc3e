"""The cross-validation protocol, and that a run goes on where it was cut off."""

import json
import shutil

import pytest
import torch

import datasets
from experiments import crossval
from experiments.crossval import chosen_epoch


def test_first_epoch_with_the_best_validation_accuracy_counts():
    accuracy = [0.5, 0.8, 0.7, 0.8, 0.75]
    assert chosen_epoch([{"valid_accuracy": value} for value in accuracy]) == 1


@pytest.fixture(scope="module")
def root(shared_data, tmp_path_factory):
    root = tmp_path_factory.mktemp("tu")
    shutil.copytree(shared_data / "tu" / "MUTAG", root / "tu" / "MUTAG")
    return root


def run(root, out, *more):
    args = ["--dataset", "MUTAG", "--hidden", "16", "--layers", "2", "--epochs", "3"]
    return crossval.main([*args, "--data-root", str(root), "--out", str(out), *more])


def test_folds_resume(root, tmp_path):
    out = tmp_path / "result.json"
    whole = run(root, tmp_path / "whole.json", "--folds", "2")
    first = run(root, out, "--folds", "1")
    assert list(first["folds"]) == ["0"]
    marked = json.loads(out.read_text())
    marked["folds"]["0"]["mark"] = "kept"
    out.write_text(json.dumps(marked))
    both = run(root, out, "--folds", "2")
    assert both["folds"]["0"]["mark"] == "kept"  # not run again
    for key in ("test_accuracy", "epoch", "curves"):  # as if it had never been cut off
        assert both["folds"]["1"][key] == whole["folds"]["1"][key]
    folds = both["folds"].values()
    for fold in folds:
        curve = fold["curves"]
        assert len(curve["valid_accuracy"]) == 3
        best = max(curve["valid_accuracy"])
        assert fold["epoch"] == curve["valid_accuracy"].index(best) + 1
        chosen = curve["test_accuracy"][fold["epoch"] - 1]
        assert fold["test_accuracy"] == pytest.approx(chosen, abs=1e-4)
    mean = sum(fold["test_accuracy"] for fold in folds) / 2
    assert both["test_accuracy_mean"] == pytest.approx(mean)
    assert both["parameters"] < 300_000


def test_other_settings_are_refused(root, tmp_path):
    out = tmp_path / "result.json"
    run(root, out, "--folds", "1")
    with pytest.raises(SystemExit, match=r"same settings.*protocol"):
        run(root, out, "--folds", "1", "--lr", "0.1")


def test_gin_has_the_budget_of_plstm(root, tmp_path):
    plstm = run(root, tmp_path / "p.json", "--folds", "1")
    gin = run(root, tmp_path / "g.json", "--folds", "1", "--model", "gin")
    assert gin["parameters"] == pytest.approx(plstm["parameters"], rel=0.15)
    assert (plstm["model"]["readout"], gin["model"]["readout"]) == ("mean", "sum")


def test_folds_are_those_of_the_protocol(root):
    labels = torch.cat([graph.y for graph in datasets.load("MUTAG", root=root).graphs]).long()
    split = datasets.cross_validation_split(labels, 0)
    assert {part: len(rows) for part, rows in split.items()} == {
        "train": 150,
        "valid": 19,
        "test": 19,
    }
