"""Names of functions: runs that can be stopped, the choice of the rate, and the table."""

import json

import pytest
import torch
from torch_geometric.data import Batch

from datasets import InputError, code_names
from experiments import resuming
from experiments.code_names import report as tables
from experiments.code_names import runs
from experiments.code_names.models import CodeConfig, prepare
from experiments.code_names.training import CodeModule
from experiments.rates import RATES
from tests.experiments.code_names_helpers import CONFIGS, f1, few_modules, runnable
from tests.experiments.stopping import assert_same_epochs, cut_off


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    with few_modules():
        yield tmp_path_factory.mktemp("data")


def run(root, out, *more):
    args = ["--row", "row", "--parameters", "6000", "--layers", "2", "--epochs", "3"]
    args += ["--batch-size", "8", "--limit", "24", "--seeds", "1", "--data-root", str(root)]
    return runs.main([*args, "--out", str(out), "--checkpoints-in", str(out / "runs"), *more])


@pytest.mark.parametrize("name", ["plstm", "gin"])
def test_stopped_run_ends_like_an_uninterrupted_one(name, root, tmp_path, monkeypatch):
    more = ["--lr", "1e-2", "--model", name]
    (whole,) = run(root, tmp_path / "whole", *more)
    assert whole["finished"] and len(whole["epochs"]) == 3
    assert whole["functions"] == {"train": 24, "valid": 24, "test": 24}
    scores = [epoch["valid_f1"] for epoch in whole["epochs"]]
    assert whole["best_epoch"] == scores.index(max(scores)) + 1
    assert whole["test_f1"] == whole["epochs"][whole["best_epoch"] - 1]["test_f1"]
    assert whole["epochs"][-1]["loss"] < whole["epochs"][0]["loss"]
    out = tmp_path / "stopped"
    cut_off(monkeypatch, CodeModule, lambda: run(root, out, *more))
    half = json.loads((out / "row_seed1.json").read_text())
    assert not half["finished"] and half["epochs_done"] == 2
    (resumed,) = run(root, out, *more)
    assert_same_epochs(whole, resumed)
    with pytest.raises(SystemExit, match="same settings, got another protocol"):
        run(root, out, "--model", name, "--lr", "0.5")
    with monkeypatch.context() as patch:
        patch.setattr(resuming, "make_trainer", None)  # a finished run is left alone
        assert run(root, out, *more) == [resumed]


def test_checkpoint_gives_the_score(root, tmp_path):
    (result,) = run(root, tmp_path, "--lr", "1e-2", "--model", "plstm", "--directions", "two_way")
    module = CodeModule.load_from_checkpoint(tmp_path / "runs" / "row_seed1" / "best.ckpt").eval()
    data = code_names.load(root, 24)
    graphs = prepare(data.parts["test"], CodeConfig(**module.hparams.model))
    with torch.no_grad():
        logits = module(Batch.from_data_list(graphs))
    predicted = data.vocabulary.decode(logits.argmax(-1))
    each = [f1(graph.words, words) for graph, words in zip(graphs, predicted)]
    assert result["test_f1"] == pytest.approx(sum(each) / len(each), abs=1e-6)


def test_select_chooses_by_validation_and_runs_use_it(root, tmp_path):
    with pytest.raises(SystemExit, match="expected lr, or a learning rate chosen for row"):
        run(root, tmp_path, "--model", "gcn")
    results = run(root, tmp_path, "--model", "gcn", "--select", "--select-epochs", "1")
    found = json.loads((tmp_path / "select_row.json").read_text())
    assert [result["protocol"]["lr"] for result in results] == list(RATES)
    scores = {f"{r:g}": result["valid_loss"] for r, result in zip(RATES, results)}
    assert found["scores"] == scores and scores[f"{found['lr']:g}"] == min(scores.values())
    (result,) = run(root, tmp_path, "--model", "gcn")
    assert result["protocol"]["lr"] == found["lr"]
    with pytest.raises(SystemExit, match="same settings, got another model"):
        run(root, tmp_path, "--model", "gin")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_row_runs_and_is_in_the_table(path, root, tmp_path):
    runnable(path)
    args = ["--config", str(path), "--limit", "4", "--epochs", "1", "--lr", "1e-3"]
    args += ["--parameters", "6000", "--seeds", "0,1", "--data-root", str(root)]
    results = runs.main([*args, "--out", str(tmp_path), "--checkpoints-in", str(tmp_path / "c")])
    assert [result["seed"] for result in results] == [0, 1]
    text = tables.report(tmp_path)
    assert text == (tmp_path / tables.TABLES).read_text()
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {tables.ROWS[path.stem]}")]
    assert line.count(" ± ") == 4 and line.endswith("| 2 |")
    assert "4 for train, 4 for valid, 4 for test" in text


def test_table_marks_what_is_not_finished(tmp_path):
    row = {
        "finished": False, "epochs_done": 1, "protocol": {"lr": 0.001}, "cpu_seconds_per_epoch": 2,
        "parameters": 1000, "shared_parameters": 2000, "functions": {"train": 3},
        **dict.fromkeys(("test_precision", "test_recall", "valid_f1"), 0.5),
    }  # fmt: skip
    for name, score in (("other", 0.5), ("plstm", 0.1), ("gcn", 0.25)):
        found = {**row, "row": name, "test_f1": score}
        (tmp_path / f"{name}_seed0.json").write_text(json.dumps(found))
    lines = tables.report(tmp_path, write=False).splitlines()[4:7]
    assert [line.split(" | ")[0] for line in lines] == [
        "| GCN *", "| pLSTM, two-way *", "| other *",
    ]  # fmt: skip
    assert "| 0.2500 |" in lines[0] and not (tmp_path / tables.TABLES).exists()


@pytest.mark.parametrize(
    "args, message",
    [
        (["--model", "gat"], "expected name of the model out of plstm, .*, got 'gat'"),
        (["--tokens", "none"], "expected tokens of the model out of features, edges, got 'none'"),
        (["--directions", "up"], "expected directions to be 'alternate'"),
        (["--options.modes", "X"], "modes"),
        (["--options.no_such", "1"], "no_such"),
        (["--model", "gin", "--options.modes", "P"], "expected options with plstm only"),
        (["--seeds", "a"], "expected seeds as integers"),
        (["--limit", "0"], "expected limit as 1 or more"),
        (["--epochs", "0"], "expected parameters, .* of 1 or more"),
    ],
)
def test_errors_are_messages(root, tmp_path, args, message):
    with pytest.raises(SystemExit, match=message):
        run(root, tmp_path, "--lr", "1e-3", *args)


def test_no_results(tmp_path):
    with pytest.raises(InputError, match=r"expected results ROW_seedN\.json"):
        tables.report(tmp_path)
