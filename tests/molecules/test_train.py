"""What a training run computes and leaves, for every task and split."""

import csv
import json
import math

import numpy as np
import pytest
import torch

from plstm_graph.molecules import InputError, TrainOptions, train
from plstm_graph.molecules.metrics import choose_monitor, masked_loss, scores
from plstm_graph.molecules.model import Architecture, MoleculeNet
from plstm_graph.molecules.store import load_model, load_weights
from tests.molecules.conftest import TINY


def run(data_file, out, silence, **options):
    options = {"input": str(data_file), "out": str(out), **TINY, **options}
    return train(TrainOptions(**options), silence, ["plstm-graph", "train"])


def strict(path):
    """JSON as the standard has it: no NaN, no Infinity."""

    def refuse(name):
        raise AssertionError(name)

    return json.loads(path.read_text(), parse_constant=refuse)


@pytest.fixture(scope="module")
def several(data_file, tmp_path_factory, silence):
    """Two targets, one with gaps and another unit, two members, by a column of splits."""
    out = tmp_path_factory.mktemp("runs") / "several"
    options = {"target_column": "size,holes", "split": ("column", "part"), "ensemble": 2}
    return out, run(data_file, out, silence, **options)


def test_what_a_run_leaves(several):
    out, results = several
    assert strict(out / "metrics.json") == json.loads(json.dumps(results))
    for name in ("curves.png", "parity.png"):
        assert (out / name).read_bytes()[:4] == b"\x89PNG"
    card = (out / "model_card.md").read_text()
    assert results["data"]["sha256"] in card and f"torch {torch.__version__}" in card
    assert "plstm-graph train" in card and "1 of 61 molecules cannot be read" in card
    assert sorted(path.name for path in (out / "model").iterdir()) == [
        "member_00.pt", "member_01.pt", "model.json",
    ]  # fmt: skip
    assert not list(out.glob("**/*.ckpt")) and not list(out.glob("**/*.partial"))


def test_metrics_are_those_of_the_predictions(several):
    out, results = several
    with open(out / "test_predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == results["molecules"]["test"] == 15
    for name in ("size", "holes"):
        known = [row for row in rows if row[f"{name}_true"]]
        assert len(known) == results["splits"][0]["known_values"][name]
        errors = [float(row[name]) - float(row[f"{name}_true"]) for row in known]
        rmse = math.sqrt(sum(e * e for e in errors) / len(errors))
        assert results["test"][name]["rmse"]["mean"] == pytest.approx(rmse, rel=1e-5)
        assert all(float(row[f"{name}_spread"]) > 0 for row in rows)
    assert any(not row["holes_true"] for row in rows)  # gaps are predicted, too
    config, _ = load_model(out)
    units = [results["test"][n]["rmse"]["mean"] / config.members[0].std[i]
             for i, n in enumerate(["size", "holes"])]  # fmt: skip
    overall = results["test"]["all targets"]["rmse"]["mean"]
    assert overall == pytest.approx(np.mean(units), rel=1e-6)


def test_scale_is_that_of_the_known_training_targets(several, data_file):
    config, _ = load_model(several[0])
    with open(data_file, newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["part"] == "train"]
    for i, name in enumerate(["size", "holes"]):
        known = [float(row[name]) for row in rows if row[name]]
        assert config.members[0].mean[i] == pytest.approx(np.mean(known))
        assert config.members[0].std[i] == pytest.approx(np.std(known))


def test_it_learns(data_file, tmp_path, silence):
    options = {"target_column": "size", "epochs": 30, "hidden": 16, "split": ("random",)}
    results = run(data_file, tmp_path / "run", silence, **options)
    assert results["test"]["size"]["r2"]["mean"] > 0.7


def test_binary_with_balance_and_weights(data_file, tmp_path, silence):
    options = {"target_column": "ring", "class_balance": True, "weight_column": "w", "epochs": 8}
    results = run(data_file, tmp_path / "run", silence, split=("random",), **options)
    assert results["task"] == "binary"
    assert results["test"]["ring"]["roc_auc"]["mean"] > 0.5
    assert (tmp_path / "run" / "roc.png").is_file()
    assert results["networks"][0]["picked_by"] == "roc_auc"


def test_metrics_that_are_none(data_file, tmp_path, silence):
    """One class in validation and test: null with the reason, and the loss picks the epoch."""
    options = {"target_column": "rare", "split": ("column", "part")}
    results = run(data_file, tmp_path / "run", silence, **options)
    found = strict(tmp_path / "run" / "metrics.json")
    assert found["test"]["rare"]["roc_auc"]["mean"] is None
    assert found["splits"][0]["undefined"]["rare: roc_auc"] == "one class (0)"
    assert results["networks"][0]["picked_by"] == "loss"
    assert "ROC-AUC is undefined" in results["networks"][0]["why"]
    card = (tmp_path / "run" / "model_card.md").read_text()
    assert "not computed (one class (0) in the test set): rare: roc_auc" in card


def test_multilabel_monitor_uses_defined_labels(data_file, tmp_path, silence):
    options = {"target_column": "ring,rare", "split": ("column", "part")}
    results = run(data_file, tmp_path / "run", silence, **options)
    assert results["task"] == "multilabel"
    assert "ROC-AUC of 1 of 2 targets" in results["networks"][0]["why"]
    overall = results["test"]["all targets"]["roc_auc"]["mean"]
    assert overall == results["test"]["ring"]["roc_auc"]["mean"]


def test_multiclass_and_folds(data_file, tmp_path, silence):
    options = {"target_column": "kind", "task": "multiclass", "split": ("kfold", "3"),
               "class_balance": True, "epochs": 2}  # fmt: skip
    results = run(data_file, tmp_path / "run", silence, **options)
    assert results["classes"] == ["carbon", "other", "ring"]
    assert [split["fold"] for split in results["splits"]] == [0, 1, 2]
    assert results["test"]["kind"]["accuracy"]["splits"] == 3
    assert results["test"]["kind"]["accuracy"]["std"] is not None
    with open(tmp_path / "run" / "test_predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(int(row["row"]) for row in rows) == list(range(1, 61))  # each once
    total = [sum(float(row[f"kind_{name}"]) for name in results["classes"]) for row in rows]
    assert total == pytest.approx([1.0] * 60, abs=1e-5)
    assert (tmp_path / "run" / "confusion.png").is_file()


def test_seeds(data_file, tmp_path, silence):
    options = {"target_column": "size", "split": ("random",), "seeds": "3,4", "epochs": 1}
    results = run(data_file, tmp_path / "run", silence, **options)
    one, two = results["splits"]
    assert (one["seed"], two["seed"]) == (3, 4) and one["overall"] != two["overall"]
    values = [split["targets"]["size"]["rmse"] for split in results["splits"]]
    assert results["test"]["size"]["rmse"]["mean"] == pytest.approx(np.mean(values))
    assert results["test"]["size"]["rmse"]["std"] == pytest.approx(np.std(values, ddof=1))


def test_divergence_is_an_error(data_file, tmp_path, silence, monkeypatch):
    forward = MoleculeNet.forward
    monkeypatch.setattr(MoleculeNet, "forward", lambda net, batch: forward(net, batch) * math.nan)
    with pytest.raises(InputError, match=r"training loss is nan in epoch 1: .* lower --lr"):
        run(data_file, tmp_path / "run", silence, target_column="size", split=("random",))


def test_folder_of_another_run(several, data_file, silence):
    out, _ = several
    options = {"target_column": "size,holes", "split": ("column", "part"), "ensemble": 2}
    with pytest.raises(InputError, match=r"got another lr, hidden; remove it|another hidden, lr"):
        run(data_file, out, silence, **options, lr=0.5, hidden=16)
    again = run(data_file, out, silence, **options)  # finished networks are read
    assert again["test"] == several[1]["test"]


def test_masked_loss_equals_the_mean_over_known_targets():
    torch.manual_seed(0)
    out, y = torch.randn(9, 4, dtype=torch.double), torch.randn(9, 4, dtype=torch.double)
    weight = (torch.rand(9, 4) > 0.4).double()
    known = weight > 0
    expected = (out - y)[known].square().mean()
    assert float(masked_loss("regression", out, y, weight)) == pytest.approx(float(expected), 1e-12)
    bits = (y > 0).double()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(out[known], bits[known])
    assert float(masked_loss("multilabel", out, bits, weight)) == pytest.approx(float(expected))
    assert float(masked_loss("regression", out, y, weight * 0)) == 0.0
    labels, row = torch.tensor([[0.0], [2.0], [1.0]]), torch.tensor([[1.0], [2.0], [0.0]])
    logits = torch.randn(3, 3)
    losses = torch.nn.functional.cross_entropy(logits, labels[:, 0].long(), reduction="none")
    expected = (losses[0] + 2 * losses[1]) / 3
    assert float(masked_loss("multiclass", logits, labels, row)) == pytest.approx(float(expected))


def test_scores_against_sklearn():
    from sklearn import metrics as sk

    rng = np.random.default_rng(0)
    pred, true = rng.random((40, 3)), (rng.random((40, 3)) > 0.5).astype(float)
    true[::3, 1] = np.nan
    true[:, 2] = 1.0
    found = scores("multilabel", ["a", "b", "c"], pred, true, np.ones(3))
    for i, name in enumerate("ab"):
        known = np.isfinite(true[:, i])
        auc = sk.roc_auc_score(true[known, i], pred[known, i])
        assert found.targets[name]["roc_auc"] == pytest.approx(auc)
        ap = sk.average_precision_score(true[known, i], pred[known, i])
        assert found.targets[name]["average_precision"] == pytest.approx(ap)
    assert found.targets["c"]["roc_auc"] is None and found.why["c: roc_auc"] == "one class (1)"
    mean = (found.targets["a"]["roc_auc"] + found.targets["b"]["roc_auc"]) / 2
    assert found.overall["roc_auc"] == pytest.approx(mean)
    value = rng.random((40, 1))
    found = scores("regression", ["a"], pred[:, :1], value, np.ones(1))
    assert found.overall["r2"] == pytest.approx(sk.r2_score(value, pred[:, :1]))
    flat = scores("regression", ["a"], np.ones((5, 1)), np.ones((5, 1)), np.ones(1))
    assert flat.overall["r2"] is None and flat.why["a: r2"] == "no variance"
    still = scores("regression", ["a"], np.ones((5, 1)), np.arange(5.0)[:, None], np.ones(1))
    assert still.why["a: pearson"] == "predictions without variance"
    none = scores("regression", ["a"], np.ones((5, 1)), np.full((5, 1), np.nan), np.ones(1))
    assert none.overall == dict.fromkeys(("rmse", "mae", "r2", "pearson"))


def test_monitor():
    nan = math.nan
    assert choose_monitor("binary", np.array([[0.0], [1.0], [nan]]))[:2] == ("roc_auc", "max")
    assert choose_monitor("binary", np.array([[0.0], [0.0], [nan]]))[:2] == ("loss", "min")
    assert choose_monitor("multilabel", np.array([[0.0, 0], [0, 1]]))[:2] == ("roc_auc", "max")
    assert choose_monitor("regression", np.array([[0.0]]))[:2] == ("loss", "min")


def test_weights_hold_tensors_alone(several, tmp_path):
    out, _ = several
    path = out / "model" / "member_00.pt"
    assert set(load_weights(path)) == set(MoleculeNet(Architecture(2, 8, 1, 2)).state_dict())

    class Harm:
        def __reduce__(self):
            return (open, (str(tmp_path / "harm"), "w"))

    torch.save({"a": Harm()}, tmp_path / "bad.pt")
    with pytest.raises(InputError, match="broken or holds more than tensors"):
        load_weights(tmp_path / "bad.pt")
    assert not (tmp_path / "harm").exists()
    (tmp_path / "cut.pt").write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match="broken or holds more than tensors"):
        load_weights(tmp_path / "cut.pt")
