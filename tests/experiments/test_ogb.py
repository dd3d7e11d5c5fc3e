"""OGB runs: stopped and resumed as if never stopped, official scores, the table."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import datasets
from experiments import graph_report, ogb, reporting
from experiments.fitting import predict
from experiments.graph_runs import SeedEpochs
from experiments.loading import collate_of, eval_batches
from experiments.training import GraphModule

CONFIGS = Path(__file__).resolve().parents[2] / "experiments" / "configs"


@pytest.fixture(scope="module")
def root(shared_data, tmp_path_factory):
    root = tmp_path_factory.mktemp("ogb")
    name = "ogb/ogbg_molfreesolv"
    shutil.copytree(shared_data / name, root / name)
    return root


def run(root, out, *more):
    args = ["--model.hidden", "8", "--model.layers", "2", "--model.dropout", "0.1"]
    args += ["--protocol.epochs", "3", "--protocol.batch_size", "16", "--limit", "40"]
    args += ["--sets", "ogbg-molfreesolv", "--data-root", str(root), "--seeds", "1"]
    args += ["--out", str(out), "--checkpoints", str(out / "checkpoints")]
    return ogb.main([*args, *more])


def values(result):
    """All that is recorded of each epoch but its time."""
    return [{k: v for k, v in e.items() if "seconds" not in k} for e in result["epochs"]]


# The weights as they are, averaged ones, and averaged ones with batch norms of their own.
EMA = ["--protocol.ema", "2.0"]
AVERAGING = [[], EMA, [*EMA, "--protocol.norm_batches", "2", "--model.name", "gine"]]


@pytest.mark.parametrize("averaging", AVERAGING, ids=["last", "average", "norms"])
def test_stopped_run_ends_like_an_uninterrupted_one(root, tmp_path, monkeypatch, averaging):
    drawn = ["--orientation", "random_bfs", "--average", "2", *averaging]
    (whole,) = run(root, tmp_path / "whole", *drawn)
    assert whole["finished"] and len({epoch["loss"] for epoch in whole["epochs"]}) == 3

    start, out = SeedEpochs.on_train_epoch_start, tmp_path / "stopped"

    def stop(self, trainer, module):
        if trainer.current_epoch == 2:
            raise RuntimeError("power cut")
        start(self, trainer, module)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="power cut"):
        patch.setattr(SeedEpochs, "on_train_epoch_start", stop)
        run(root, out, *drawn)
    path = out / "ogb_plstm_ogbg-molfreesolv_seed1.json"
    half = json.loads(path.read_text())
    assert not half["finished"] and half["epochs_done"] == 2
    assert "±" not in graph_report.table({"plstm": [half]}, {})[1][0][1]
    (resumed,) = run(root, out, *drawn)
    assert values(resumed) == values(whole)
    assert resumed["test_rmse"] == whole["test_rmse"]

    written = path.read_text()
    run(root, out, *drawn)  # finished ones are left alone
    assert path.read_text() == written
    with pytest.raises(SystemExit, match=r"same settings.*orientation.*another --out"):
        run(root, out)


@pytest.mark.parametrize("averaging", AVERAGING, ids=["last", "average", "norms"])
def test_test_score_is_that_of_the_chosen_epoch(root, tmp_path, averaging):
    (result,) = run(root, tmp_path, *averaging)
    best = min(result["epochs"], key=lambda epoch: epoch["valid_rmse"])
    assert best is result["epochs"][result["best_epoch"] - 1]
    assert result["test_rmse"] == best["test_rmse"]
    folder = tmp_path / "checkpoints" / "ogb_plstm_ogbg-molfreesolv_seed1"
    module = GraphModule.load_from_checkpoint(folder / "best.ckpt", map_location="cpu")
    data = datasets.load("ogbg-molfreesolv", root=root)
    train = data.targets("train")[:40]
    assert module.mean.item() == pytest.approx(train.mean().item())
    collate = collate_of(result["model"]["name"], "canonical")
    batches = eval_batches(data.part("test", 40), 64, collate)
    official = data.evaluator(predict(module, batches), data.targets("test")[:40])
    assert result["test_rmse"] == pytest.approx(official["rmse"], rel=1e-5)


@pytest.mark.parametrize(
    "path", sorted(CONFIGS.glob("ogb_small_*.yaml")), ids=lambda path: path.stem
)
def test_every_row_runs(path, root, tmp_path):
    args = ["--config", str(path), "--sets", "ogbg-molfreesolv", "--seeds", "0"]
    args += ["--protocol.epochs", "1", "--limit", "16", "--data-root", str(root)]
    (result,) = ogb.main([*args, "--out", str(tmp_path), "--checkpoints", str(tmp_path / "c")])
    row = path.stem.removeprefix("ogb_small_")
    assert result["row"] == row and row in reporting.TITLES
    assert 110_000 < result["parameters"] < 140_000  # on equal terms
    assert result["average"] == (4 if row.endswith("random") else 1)
    assert (CONFIGS / f"ogb_molhiv_{row}.yaml").is_file()


def fabricated(row, seed, score, epochs_done=5):
    return {
        "row": row,
        "dataset": "ogbg-molhiv",
        "seed": seed,
        "metric": "roc_auc",
        "test_roc_auc": score,
        "protocol": {"epochs": 5},
        "limit": None,
        "parameters": 1000,
        "finished": epochs_done == 5,
        "epochs_done": epochs_done,
        "train_seconds_per_epoch": 2.0,
    }


def test_report(tmp_path, capsys):
    with pytest.raises(SystemExit, match=r"results ogb_ROW_SET_seedN.json .* got none; train"):
        ogb.main(["report", str(tmp_path)])
    runs = [fabricated("plstm", 0, 0.7, 3), fabricated("plstm", 1, 0.8)]
    runs += [fabricated("gin_virtual", 0, 0.75), fabricated("plstm", 2, 0.9, 0)]
    for result in runs:
        path = tmp_path / f"ogb_{result['row']}_ogbg-molhiv_seed{result['seed']}.json"
        reporting.write_json(path, result)
    sets = ogb.main(["report", str(tmp_path)])
    assert "ogbg-molhiv: ROC-AUC" in capsys.readouterr().out
    _, cells = graph_report.table(sets["ogbg-molhiv"], ogb.published.OGB["ogbg-molhiv"])
    assert cells == [
        ["GIN + virtual node", "0.7500", "0.7707", "1", "5/5", "1,000", "2.0"],
        ["pLSTM", "0.7500 ± 0.0707 *", "", "2", "3-5/5", "1,000", "2.0"],
    ]


@pytest.mark.parametrize(
    "args, message",
    [
        (["--sets", "ogbg-ppa"], r"expected sets out of ogbg-molhiv, .*, got \['ogbg-ppa'\]"),
        (["--seeds", "one"], "expected seeds as integers separated by commas, got 'one'"),
    ],
)
def test_errors_are_messages(root, tmp_path, args, message):
    with pytest.raises(SystemExit, match=message):
        run(root, tmp_path, *args)


def test_a_part_needs_both_classes(tmp_path, root, monkeypatch):
    data = datasets.load("ogbg-molfreesolv", root=root)
    data.task = "binary"
    for graph in data.graphs:
        graph.y = torch.zeros(1)
    monkeypatch.setattr(ogb.ogb_sets, "load", lambda *_: data)
    with pytest.raises(SystemExit, match=r"expected both classes in every part .* larger limit"):
        run(root, tmp_path)
