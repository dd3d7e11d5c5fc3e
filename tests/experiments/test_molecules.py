"""The main job from end to end: compare models on a user's CSV file, and report."""

import json
import math
import statistics

import pandas as pd
import pytest
from rich.console import Console

import datasets
from experiments import molecules, molecules_report
from experiments.fitting import Protocol

NAMES = ("plstm", "gine", "gatv2", "gps")
TINY = ["--hidden", "16", "--layers", "2", "--batch-size", "32", "--accelerator", "cpu"]


@pytest.fixture(scope="module")
def trained(csv_file, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    config = out / "settings.yaml"
    config.write_text("epochs: 12\nlr: 0.005\norientation: random\naverage: 2\n")
    source = ["--config", str(config), "--csv", str(csv_file), "--target-column", "size"]
    results = molecules.main([*source, *TINY, "--out", str(out)])
    return out, results


def test_what_a_run_leaves(trained):
    out, results = trained
    assert json.loads((out / "metrics.json").read_text()) == results
    for file in ("curves.png", "predictions.png"):
        assert (out / file).stat().st_size > 5000
    assert not (out / "targets.png").exists()  # one target
    for name in NAMES:
        assert (out / "checkpoints" / f"{name}.ckpt").is_file()
        assert (out / "logs" / name / "csv" / "metrics.csv").is_file()
        assert list((out / "logs" / name / "tensorboard").glob("events*"))


def test_metrics(trained):
    _, results = trained
    assert results["task"] == "regression"
    assert results["graphs"] == {"train": 96, "valid": 12, "test": 12}
    assert results["notes"] == [
        "1 of 121 SMILES could not be parsed and are left out: row 121 'C1CC'"
    ]
    assert results["seeds"] == [0] and results["versions"]["torch"]
    assert results["targets"] == ["size"] and results["unit"] == "target"
    assert results["protocol"]["epochs"] == 12  # from the file
    assert tuple(results["models"]) == NAMES
    sizes = [model["parameters"] for model in results["models"].values()]
    assert max(sizes) < 1.4 * min(sizes)  # one budget, in steps of four channels
    for model in results["models"].values():
        assert set(model["test"]) == {"rmse", "mae", "r2"}
        (run,) = model["runs"]
        assert run["test"] == model["test"] and "test_standard_error" not in model
        curve = run["curve"]
        assert len(curve) == model["epochs"] == 12
        assert curve[-1]["loss"] < 0.5 * curve[0]["loss"]  # it learns
        best = min(epoch["valid_rmse"] for epoch in curve)
        assert model["best_valid_rmse"] == pytest.approx(best)


def test_results_hold_no_path_of_this_machine(trained):
    out, _ = trained
    assert str(out) not in (out / "metrics.json").read_text()


@pytest.mark.parametrize("args", [["train"], ["predict", "--model", "none", "--input", "x.csv"]])
def test_commands_of_the_tool(args):
    with pytest.raises(SystemExit, match=r"error: expected (input; pass --input|model as)"):
        molecules.main(args)


def test_the_tool_trains_from_a_clone(csv_file, tmp_path):
    out = tmp_path / "run"
    words = ["--input", str(csv_file), "--target-column", "size", "--out", str(out)]
    results = molecules.main(["train", *words, "--epochs", "1", *TINY])
    assert results["molecules"] == {"train": 96, "valid": 12, "test": 12}
    molecules.main(
        ["explain", "--model", str(out), "--smiles", "CCO", "--out", str(tmp_path / "x")]
    )
    assert (tmp_path / "x" / "molecule_1_size.png").is_file()


@pytest.mark.parametrize(
    "args, message",
    [
        (["--csv", "CSV", "--target-column", "weight"], "expected a column 'weight'"),
        (["--csv", "CSV"], "target_column together with csv"),
        (["--dataset", "zinc"], "expected dataset one of"),
        (["--models", "plstm,sage"], "expected models out of plstm, gine"),
        (["--seeds", "0,one"], "expected seeds as integers separated by commas, got '0,one'"),
    ],
)
def test_errors_are_messages(csv_file, args, message):
    args = [str(csv_file) if arg == "CSV" else arg for arg in args]
    with pytest.raises(SystemExit, match=message):
        molecules.main(args)


def test_binary(csv_file, tmp_path):
    table = pd.read_csv(csv_file)
    table["large"] = (table["size"] > 8).astype(int)
    table.to_csv(tmp_path / "binary.csv", index=False)
    source = ["--csv", str(tmp_path / "binary.csv"), "--target-column", "large"]
    more = ["--models", "plstm", "--quick", "--out", str(tmp_path / "out")]
    results = molecules.main([*source, *more, *TINY])
    assert results["task"] == "binary"
    assert set(results["models"]["plstm"]["test"]) == {"roc_auc", "accuracy"}
    assert (tmp_path / "out" / "predictions.png").is_file()


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """The embedded molecules, two models and two seeds, in a short run: results, table, files."""
    root, out = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("several")
    args = ["--data-root", str(root), "--models", "plstm,gine", "--seeds", "0,1", "--average", "2"]
    results = molecules.main([*args, *TINY, "--limit", "60", "--epochs", "3", "--out", str(out)])
    return root, out, results


def test_several_targets_and_seeds(several):
    root, out, results = several
    data = datasets.load("nci", root=root)
    assert json.loads((out / "metrics.json").read_text()) == results
    assert results["targets"] == data.target_names and len(data.target_names) == 7
    assert results["unit"] == "standard deviation of the training targets"
    assert results["seeds"] == [0, 1]
    for file in ("curves.png", "predictions.png", "targets.png"):
        assert (out / file).stat().st_size > 5000
    for name, model in results["models"].items():
        first, second = model["runs"]
        assert (first["seed"], second["seed"]) == (0, 1)
        assert first["curve"][0]["loss"] != second["curve"][0]["loss"]
        for key in (*data.target_names, "standardised_rmse"):
            pair = [first["test"][key], second["test"][key]]
            assert model["test"][key] == pytest.approx(statistics.mean(pair))
            error = statistics.stdev(pair) / math.sqrt(2)
            assert model["test_standard_error"][key] == pytest.approx(error)
        for run in model["runs"]:
            assert len(run["curve"]) == run["epochs"] == 3
            best = min(epoch["valid_standardised_rmse"] for epoch in run["curve"])
            assert run["best_valid_standardised_rmse"] == pytest.approx(best)
            mean = statistics.mean(run["test"][key] for key in data.target_names)
            assert run["test"]["standardised_rmse"] == pytest.approx(mean)
            seed = run["seed"]
            assert (out / "checkpoints" / f"{name}_seed{seed}.ckpt").is_file()
            assert (out / "logs" / f"{name}_seed{seed}" / "csv" / "metrics.csv").is_file()


@pytest.mark.parametrize("count", [1, 2])
def test_table_marks_the_best_of_each_row(count, csv_file, tmp_path):
    """Lower errors, but higher r2; with a standard error where there are several seeds."""
    parts = {"train": [], "valid": [], "test": []}
    data = datasets.load(csv=csv_file, target_column="size")
    run = molecules_report.Run(data, parts, Protocol(), tmp_path, Console())
    shared = {"runs": [{}] * count, "parameters": 10, "seconds_per_epoch": 1.0, "epochs": 2.0}
    models = {
        "plstm": {"test": {"rmse": 0.5, "r2": 0.9}, **shared},
        "gine": {"test": {"rmse": 0.4, "r2": 0.8}, **shared},
        "gps": {"test": {"rmse": 0.6, "r2": math.nan}, **shared},
    }
    if count > 1:
        for model in models.values():
            model["test_standard_error"] = {"rmse": 0.01, "r2": 0.02}
    console = Console(width=80, record=True)
    console.print(molecules_report.table(run, models))
    lines = [line.split() for line in console.export_text().splitlines()]
    rows = {line[0]: line[1:] for line in lines if line}
    end = ("±0.010", "±0.020") if count > 1 else ("", "")
    assert rows["RMSE"] == [f"0.500{end[0]}", "*", f"0.400{end[0]}", f"0.600{end[0]}"]
    assert rows["r2"] == ["*", f"0.900{end[1]}", f"0.800{end[1]}", f"nan{end[1]}"]
    assert rows["epochs"] == ["2", "2", "2"]
