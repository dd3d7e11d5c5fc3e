"""Long-range runs: one budget for all rows, and runs that can be stopped."""

import json

import pytest
import torch
import yaml
from torch_geometric.data import Batch

from datasets import InputError
from datasets import longrange as sets
from experiments import resuming
from experiments.longrange import report as tables
from experiments.longrange import runs
from experiments.longrange.models import LongRangeNet, Signature, match_budget, mean_outputs
from experiments.longrange.report_cells import CELLS
from experiments.longrange.training import LongRangeModule, TrainBatches, collater, loaders
from experiments.models import ModelConfig, count_parameters
from experiments.rates import RATES
from plstm_graph import LineGraph
from tests.experiments.stopping import assert_same_epochs, cut_off

CONFIGS = sorted((runs.Path(runs.__file__).parent / "configs").glob("*.yaml"))
MODELS = ("gin", "gated_gcn", "gps", "plstm")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def data(root):
    return sets.load("gpp", root, (12, 6, 6))


def run(root, out, *more, model="gin"):
    args = ["--row", "row", "--model", model, "--layers", "2", "--parameters", "3000"]
    args += ["--epochs", "3", "--batch-size", "4", "--sizes", "12,6,6", "--data-root", str(root)]
    return runs.main([*args, "--out", str(out), "--checkpoints-in", str(out / "runs"), *more])


def config_of(path):
    row = yaml.safe_load(path.read_text())
    assert row["row"] == path.stem
    return ModelConfig(
        row["model"], 0, row["layers"], local=row.get("local"), options=row.get("options")
    )


def test_rows_are_those_of_the_tables():
    assert {path.stem for path in CONFIGS} | CELLS.keys() == tables.ROWS.keys()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
@pytest.mark.parametrize("signature", [Signature(2, 2, 1, 0), Signature(1, 1, 0, 0)])
def test_one_budget(path, signature):
    config = match_budget(config_of(path), signature, 60_000)
    found = count_parameters(LongRangeNet(config, signature))
    assert found == pytest.approx(60_000, rel=0.1)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
@pytest.mark.parametrize("name", ["gpp", "transfer_ring_4", "tree_3"])
def test_every_row_runs(path, name, root, tmp_path):
    args = ["--config", str(path), "--set", name, "--sizes", "6,3,3", "--epochs", "1"]
    args += ["--lr", "1e-3", "--parameters", "5000", "--data-root", str(root)]
    (result,) = runs.main([*args, "--out", str(tmp_path), "--checkpoints-in", str(tmp_path / "c")])
    assert result["finished"] and result["row"] == path.stem
    assert result["model"] == {**result["model"], "name": config_of(path).name}
    if name == "tree_3":
        assert 0 <= result["train_accuracy"] <= 1 and 0 <= result["test"]["value"]["accuracy"] <= 1
    else:
        assert result["valid_score"] < 1
    assert (result["orientation"] == "none") == (result["model"]["name"] != "plstm")


@pytest.mark.parametrize("name", MODELS)
def test_batch_equals_its_parts(name, data):
    torch.manual_seed(0)
    net = LongRangeNet(ModelConfig(name, 8, 2), Signature.of(data)).eval()
    graphs, collate = data.parts["train"][:4], collater(name, "bfs")
    with torch.no_grad():
        together = net(collate(graphs, [0]))
        alone = [net(collate([graph], [0])) for graph in graphs]
    assert together["node"].shape == (sum(g.num_nodes for g in graphs), 2)
    assert together["graph"].shape == (4, 1)
    for level, value in together.items():
        torch.testing.assert_close(
            value, torch.cat([out[level] for out in alone]), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("name", MODELS)
def test_stopped_run_ends_like_an_uninterrupted_one(name, root, tmp_path, monkeypatch):
    more = ["--lr", "1e-3", "--dropout", "0.1", "--seeds", "1"]
    if name == "plstm":
        more += ["--orientation", "random_bfs", "--average", "2"]
    (whole,) = run(root, tmp_path / "whole", *more, model=name)
    assert whole["finished"] and len(whole["epochs"]) == 3
    assert whole["graphs"] == {"train": 12, "valid": 6, "test": 6}
    out = tmp_path / "stopped"
    cut_off(monkeypatch, LongRangeModule, lambda: run(root, out, *more, model=name))
    half = json.loads((out / "row_gpp_seed1.json").read_text())
    assert not half["finished"] and half["epochs_done"] == 2 and half["test"]["ecc"]["mae"] > 0
    (resumed,) = run(root, out, *more, model=name)
    assert_same_epochs(whole, resumed)
    with pytest.raises(SystemExit, match="same settings, got another protocol"):
        run(root, out, *more, "--lr", "0.5", model=name)
    with monkeypatch.context() as patch:
        patch.setattr(resuming, "make_trainer", None)  # a finished run is left alone
        assert run(root, out, *more, model=name) == [resumed]


def test_chosen_epoch_and_scores(root, data, tmp_path):
    (result,) = run(root, tmp_path, "--lr", "5e-3")
    scores = [epoch["valid_score"] for epoch in result["epochs"]]
    best = scores.index(min(scores))
    assert result["best_epoch"] == best + 1 and result["valid_score"] == scores[best]
    # Once more, from the checkpoint.
    path = tmp_path / "runs" / "row_gpp_seed0" / "best.ckpt"
    net = LongRangeModule.load_from_checkpoint(path).eval()
    errors = {target.name: [] for target in data.targets}
    for graph in data.parts["test"]:
        with torch.no_grad():
            out = net(Batch.from_data_list([graph]))
        for i, name in enumerate(("sssp", "ecc")):
            errors[name].append(out["node"][:, i] - graph.node_y[:, i])
        errors["diam"].append(out["graph"][:, 0] - graph.graph_y[:, 0])
    for target in data.targets:
        found = result["test"][target.name]
        mse = torch.stack([e.square().mean() for e in errors[target.name]]).mean()
        mae = torch.stack([e.abs().mean() for e in errors[target.name]]).mean()
        assert found["log_mse"] == pytest.approx(mse.log10().item(), abs=1e-4)
        assert found["mse"] == pytest.approx(mse.item() * target.scale**2, rel=1e-3)
        assert found["mae"] == pytest.approx(mae.item() * target.scale, rel=1e-3)
    logs = [result["valid"][target.name]["log_mse"] for target in data.targets]
    assert result["valid_score"] == pytest.approx(sum(logs) / 3, abs=1e-6)


def test_rate_is_selected_on_validation_data(root, tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match=r"learning rate chosen for row in .*; run .* --select"):
        run(root, tmp_path)
    results = run(root, tmp_path, "--select", "--select-epochs", "2")
    assert [result["protocol"]["lr"] for result in results] == list(RATES)
    assert {result["epochs_done"] for result in results} == {2}
    (path,) = tmp_path.glob("*.json")
    found = json.loads(path.read_text())
    assert path.name == "select_row_gpp.json" and found["metric"] == "valid_score"
    assert found["scores"] == {
        f"{rate:g}": result["valid_score"] for rate, result in zip(RATES, results)
    }
    assert found["lr"] == float(min(found["scores"], key=found["scores"].get))
    assert "command" in found and found["seed"] == 0
    with monkeypatch.context() as patch:
        patch.setattr(resuming, "make_trainer", None)  # what is done is not done again
        run(root, tmp_path, "--select", "--select-epochs", "2")
    (result,) = run(root, tmp_path)
    assert result["protocol"]["lr"] == found["lr"]
    with pytest.raises(SystemExit, match="same settings, got another loss"):
        run(root, tmp_path, "--loss", "mse", "--seeds", "1")
    (other,) = run(root, tmp_path, "--loss", "mse", "--seeds", "1", "--lr", "1e-3")
    assert other["loss"] == "mse" and other["epochs"][0]["loss"] > 0 > result["epochs"][0]["loss"]


def test_options_of_plstm_from_the_command_line(root, tmp_path):
    path = next(path for path in CONFIGS if path.stem == "plstm_forward")
    args = ["--config", str(path), "--row", "plstm_p", "--options.modes", "P", "--lr", "1e-3"]
    args += ["--epochs", "1", "--parameters", "5000", "--sizes", "4,2,2", "--data-root", str(root)]
    (result,) = runs.main([*args, "--out", str(tmp_path), "--checkpoints-in", str(tmp_path / "c")])
    assert result["model"]["options"] == {"directions": "forward", "modes": "P"}
    assert (tmp_path / "plstm_p_gpp_seed0.json").exists()


def test_orientations_of_batches(data):
    """Drawn from seed, epoch and batch alone; those of validation stay the same."""
    graphs = data.parts["train"]
    batches = TrainBatches(graphs, 4, 0, collater("plstm", "random"))
    edges = []
    for epoch in (0, 1, 0):
        batches.set_epoch(epoch)
        batches.order = torch.arange(len(graphs)).numpy()
        edges.append(dag_edges(batches[1]))
    assert torch.equal(edges[0], edges[2]) and not torch.equal(edges[0], edges[1])
    config, protocol = ModelConfig("plstm", 8, 1), runs.Protocol(batch_size=1)
    for orientation, copies in (("random", 3), ("bfs", 1)):
        _, (valid, _) = loaders(data, config, protocol, orientation, 3)
        (first, *_), (again, *_) = list(valid), list(valid)
        assert len(first) == copies
        assert all(torch.equal(dag_edges(a), dag_edges(b)) for a, b in zip(first, again))
        different = {tuple(dag_edges(batch).flatten().tolist()) for batch in first}
        assert len(different) == copies


def dag_edges(batch):
    return LineGraph.from_data(batch).edge_index


def test_mean_outputs():
    outputs = [{"node": torch.tensor([[1.0]])}, {"node": torch.tensor([[2.0]])}]
    assert mean_outputs(outputs)["node"].item() == 1.5


@pytest.mark.parametrize(
    "args, message",
    [
        (["--model", "mpnn"], "expected model out of plstm, gine, .*, gps, got 'mpnn'"),
        (["--set", "gppp"], "expected a set out of gpp, echo"),
        (["--seeds", "a,b"], "expected seeds as integers"),
        (["--sizes", "a"], "expected sizes as integers"),
        (["--loss", "l1"], "expected loss out of mse, log_mse, got 'l1'"),
        (["--options.modes", "P"], "expected options with plstm only, got gin"),
    ],
)
def test_errors_are_messages(args, message, root, tmp_path):
    with pytest.raises(SystemExit, match=message):
        run(root, tmp_path, *args)


def test_unknown_model():
    with pytest.raises(InputError, match="expected model out of plstm"):
        LongRangeNet(ModelConfig("lstm_gnn", 8, 1), Signature(2, 2, 1, 0))
