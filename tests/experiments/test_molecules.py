"""The main job from end to end: train on a user's CSV file, report, predict from a checkpoint."""

import json

import pandas as pd
import pytest

from experiments import molecules

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
    for name in ("plstm", "gine", "gatv2"):
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
    assert results["seed"] == 0 and results["versions"]["torch"]
    assert results["protocol"]["epochs"] == 12  # from the file
    sizes = [model["parameters"] for model in results["models"].values()]
    assert max(sizes) < 1.2 * min(sizes)  # one budget
    for name, model in results["models"].items():
        assert set(model["test"]) == {"rmse", "mae", "r2"}
        curve = results["curves"][name]
        assert len(curve) == model["epochs"] == 12
        assert curve[-1]["loss"] < 0.5 * curve[0]["loss"]  # it learns
        best = min(epoch["valid_rmse"] for epoch in curve)
        assert model["best_valid_rmse"] == pytest.approx(best)


def test_results_hold_no_path_of_this_machine(trained):
    out, _ = trained
    assert str(out) not in (out / "metrics.json").read_text()


def test_predict(trained, csv_file, tmp_path):
    """A checkpoint is enough to predict, in the target's unit and row by row."""
    out, _ = trained
    file = tmp_path / "predicted.csv"
    table = molecules.main(
        ["predict", str(out / "checkpoints" / "plstm.ckpt"), str(csv_file), "--out", str(file)]
    )
    written = pd.read_csv(file)
    assert list(written.columns) == ["row", "smiles", "prediction"]
    assert list(written["row"]) == list(range(1, 122))
    assert written["prediction"].isna().sum() == 1 and pd.isna(written["prediction"][120])
    assert list(table["smiles"]) == list(pd.read_csv(csv_file)["smiles"])
    truth = pd.read_csv(csv_file)["size"][:120]
    error = (written["prediction"][:120] - truth).abs()
    assert error.mean() < truth.std()  # better than the mean


def test_predict_reports_bad_smiles(trained, tmp_path, capsys):
    out, _ = trained
    file = tmp_path / "some.smi"
    file.write_text("CCO ethanol\nnonsense\n\nc1ccccc1\n")
    checkpoint = str(out / "checkpoints" / "gine.ckpt")
    table = molecules.main(["predict", checkpoint, str(file), "--out", str(tmp_path / "p.csv")])
    assert list(table["smiles"]) == ["CCO", "nonsense", "", "c1ccccc1"]
    assert list(table["prediction"].isna()) == [False, True, True, False]
    printed = " ".join(capsys.readouterr().out.split())
    assert (
        "2 of 4 SMILES could not be parsed and are left out: row 2 'nonsense', row 3 ''" in printed
    )


@pytest.mark.parametrize(
    "args, message",
    [
        (["--csv", "CSV", "--target-column", "weight"], "target_column to be a column"),
        (["--csv", "CSV"], "target_column together with csv"),
        (["--dataset", "zinc"], "expected dataset one of"),
        (["--models", "plstm,sage"], "expected models out of plstm, gine"),
        (["predict", "none.ckpt", "CSV"], "none.ckpt, which does not exist"),
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
