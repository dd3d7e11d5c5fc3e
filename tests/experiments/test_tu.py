"""The cross-validation protocol, that a run goes on where it was cut off, and the table."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import datasets
from experiments import reporting, tu, tu_report

CONFIGS = Path(__file__).resolve().parents[2] / "experiments" / "configs"


@pytest.fixture(scope="module")
def root(shared_data, tmp_path_factory):
    root = tmp_path_factory.mktemp("tu")
    for name in ("MUTAG", "PTC_FM"):
        shutil.copytree(shared_data / "tu" / name, root / "tu" / name)
    return root


def run(root, out, *more):
    args = ["--model.hidden", "16", "--model.layers", "2", "--protocol.epochs", "3"]
    args += ["--sets", "MUTAG", "--data-root", str(root), "--out", str(out)]
    return tu.main([*args, *more])


def test_folds_resume(root, tmp_path):
    (whole,) = run(root, tmp_path / "whole", "--folds", "2")
    (first,) = run(root, tmp_path, "--folds", "1")
    assert list(first["folds"]) == ["0"]
    path = tmp_path / "tu_plstm_mutag_seed0.json"
    marked = json.loads(path.read_text())
    marked["folds"]["0"]["mark"] = "kept"
    del marked["model"]["edge_features"], marked["protocol"]["ema"]  # a file older than these
    path.write_text(json.dumps(marked))
    (both,) = run(root, tmp_path, "--folds", "2")
    assert both["folds"]["0"]["mark"] == "kept"  # not run again
    for key in ("test_accuracy", "epoch", "curves"):  # as if it had never been cut off
        assert both["folds"]["1"][key] == whole["folds"]["1"][key]
    folds = both["folds"].values()
    for fold in folds:
        valid = fold["curves"]["valid_accuracy"]
        assert len(valid) == 3
        assert fold["epoch"] == valid.index(max(valid)) + 1
    mean = sum(fold["test_accuracy"] for fold in folds) / 2
    assert both["test_accuracy_mean"] == pytest.approx(mean)
    assert both["parameters"] < 300_000
    with pytest.raises(SystemExit, match=r"same settings.*protocol"):
        run(root, tmp_path, "--folds", "1", "--protocol.lr", "0.1")


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("tu_*.yaml")), ids=lambda path: path.stem)
def test_every_row_runs(path, root, tmp_path):
    args = ["--config", str(path), "--sets", "PTC_FM", "--protocol.epochs", "1", "--folds", "1"]
    args += ["--limit", "60", "--data-root", str(root), "--out", str(tmp_path)]
    (result,) = tu.main(args)
    assert path.stem == f"tu_{result['row']}" and result["row"] in reporting.TITLES
    assert 50_000 < result["parameters"] < 300_000
    name = result["model"]["name"]
    assert result["model"]["readout"] == ("mean" if name == "plstm" else "sum")
    drawn = result["row"].endswith("random")
    assert (result["orientation"], result["average"]) == (
        ("random_bfs", 4) if drawn else ("canonical" if name == "plstm" else "none", 1)
    )
    (cells,) = [
        row for row in tu_report.cells(tmp_path) if row[0] == reporting.title(result["row"])
    ]
    assert len(tu_report.HEADING) == len(cells) and cells[4].endswith("*")


def test_seeds(root, tmp_path):
    first, second = run(root, tmp_path, "--folds", "1", "--seeds", "0,3")
    assert (first["seed"], second["seed"]) == (0, 3)
    assert first["folds"]["0"]["curves"] != second["folds"]["0"]["curves"]
    (again,) = run(root, tmp_path / "again", "--folds", "1", "--seeds", "3")
    assert again["folds"]["0"]["curves"] == second["folds"]["0"]["curves"]
    (row,) = tu_report.read(tmp_path).values()
    assert [found["seed"] for found in row["MUTAG"]] == [0, 3]


def fabricated(row, dataset, accuracies):
    folds = [{"test_accuracy": value, "seconds_per_epoch": 0.5} for value in accuracies]
    return {
        "row": row,
        "dataset": dataset,
        "limit": None,
        "parameters": 1000,
        "seed": 0,
        "test_accuracy_folds": accuracies,
        "folds": {str(i): fold for i, fold in enumerate(folds)},
    }


def test_report(tmp_path, capsys):
    with pytest.raises(SystemExit, match=r"ROW_SET_seedN.json in .*, got none; train first"):
        tu.main(["report", str(tmp_path)])
    for row, values in {"plstm": (0.9, 0.8, 0.7, 0.6), "gin": (0.5, 0.7)}.items():
        for name, value in zip(datasets.tu.NAMES, values):
            path = tmp_path / f"tu_{row}_{name.lower()}_seed0.json"
            folds = [value - 0.1, value + 0.1] * (5 if row == "plstm" else 2)
            path.write_text(json.dumps(fabricated(row, name, folds)))
    tu.main(["report", str(tmp_path)])
    assert "published" in capsys.readouterr().out
    rows = {row[0]: row[1:] for row in tu_report.cells(tmp_path)}
    published = ["GAT", "GCN", "GIN", "LSTM-GNN", "MPNN", "pLSTM"]  # whether we ran them or not
    assert [row for row in rows if "published" in row] == [f"{p}, published" for p in published]
    assert [row for row in rows if "published" not in row] == ["GIN", "pLSTM"]
    places = list(rows)
    assert all(
        places.index(row) - places.index(f"{row}, published") == 1 for row in ("GIN", "pLSTM")
    )
    assert rows["GIN"][:5] == ["0.5000 ± 0.115 *", "0.7000 ± 0.115 *", "", "", ""]
    assert rows["pLSTM"] == [
        *("0.9000 ± 0.105", "0.8000 ± 0.105", "0.7000 ± 0.105", "0.6000 ± 0.105"),
        *("0.7500 ± 0.105", "1,000", "0.50"),
    ]
    assert rows["GIN, published"][:5] == ["0.8251", "0.8175", "0.7350", "0.6097", "0.7468"]


@pytest.mark.parametrize(
    "args, message",
    [
        (["--sets", "ENZYMES"], r"expected sets out of MUTAG, .*, got \['ENZYMES'\]"),
        (["--sets", "[MUTAG,NCI1]"], r"by commas without brackets, got \['\[MUTAG', 'NCI1\]'\]"),
        (["--folds", "11"], "expected folds from 1 to 10, got 11"),
        (["--limit", "20"], "expected limit to leave 10 graphs of each class of MUTAG, got 20"),
        (["--model.hidden", "256"], r"under 300,000 parameters, got .* smaller model.hidden"),
        (["--model.name", "sage"], "expected a model out of plstm"),
    ],
)
def test_errors_are_messages(root, tmp_path, args, message):
    with pytest.raises(SystemExit, match=message):
        run(root, tmp_path, *args)


def test_folds_are_those_of_the_protocol(root):
    labels = torch.cat([graph.y for graph in datasets.load("MUTAG", root=root).graphs]).long()
    split = datasets.cross_validation_split(labels, 0)
    assert {part: len(rows) for part, rows in split.items()} == {
        "train": 150,
        "valid": 19,
        "test": 19,
    }
