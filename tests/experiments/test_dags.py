"""Regression on DAGs: the baselines are what they are said to be, and runs can be stopped."""

import json
import random
from pathlib import Path

import pytest
import torch
from torch_geometric.data import Batch, Data

from datasets import InputError, na
from experiments import dags, resuming
from experiments.dag_models import NAMES, READOUTS, DagConfig, DagNet, match_budget
from experiments.dag_training import DagModule, GraphBatches
from experiments.models import count_parameters
from plstm_graph import LineGraph, to_line_graphs
from tests.experiments.stopping import assert_same_epochs, cut_off

CONFIGS = Path(dags.__file__).parent / "configs"


def architecture(draw, accuracy):
    rows = [[draw.randrange(6), *(draw.randrange(2) for _ in range(i))] for i in range(6)]
    return rows, accuracy


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root, draw = tmp_path_factory.mktemp("data"), random.Random(3)
    (root / "na").mkdir()
    lines = ["burn-in"] * na.BURN_IN
    for _ in range(100):
        rows, accuracy = architecture(draw, 0.7 + draw.random() / 20)
        lines.append(f"{json.dumps(rows)}, {accuracy:.4f}")
    (root / "na" / na.FILE).write_text("\n".join(lines))
    return root


@pytest.fixture(scope="module")
def graphs():
    """Architectures, a graph of several sources and sinks, one node, and no edges."""
    draw = random.Random(0)
    graphs = [na.to_graph(*architecture(draw, 0.7)) for _ in range(4)]
    for nodes, edges in ((5, [(0, 2), (1, 2), (2, 3), (2, 4), (0, 4)]), (1, []), (3, [])):
        edge_index = torch.tensor(edges, dtype=torch.long).view(-1, 2).t().contiguous()
        graphs.append(Data(x=torch.eye(8)[:nodes], edge_index=edge_index, accuracy=torch.ones(1)))
    return to_line_graphs(graphs)


def config(name, readout="output", **more):
    return DagConfig(name, na.KINDS, 8, 3, heads=2, readout=readout, **more)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("readout", READOUTS)
def test_batch_equals_its_parts(graphs, name, readout):
    torch.manual_seed(0)
    net = DagNet(config(name, readout)).eval()
    together = net(Batch.from_data_list(graphs))
    alone = torch.cat([net(Batch.from_data_list([graph])) for graph in graphs])
    assert together.shape == (len(graphs),)
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("directions", ["forward", "alternate"])
def test_output_node_hears_of_the_input_alone_if_forward(graphs, name, directions):
    """Forward, nothing that comes after a node matters to it; in turns, everything does."""
    torch.manual_seed(0)
    options = {"modes": "P"} if name == "plstm" else {}
    net = DagNet(config(name, directions=directions, options=options)).double().eval()
    batch = Batch.from_data_list(graphs[:1])
    batch.x = batch.x.double().requires_grad_()
    args = {"batch": batch.batch, "line_graph": LineGraph.from_data(batch)}
    out = net.core(batch.x, batch.edge_index, **args)
    (grad,) = torch.autograd.grad(out[0, 0], batch.x)
    assert (grad[1:].abs().sum() == 0) == (directions == "forward")


def test_readouts_by_hand(graphs):
    batch = Batch.from_data_list(graphs[4:])
    for readout, rows in (("output", [[3, 4], [5], [6, 7, 8]]), ("ends", [[0, 1], [5], [6, 7, 8]])):
        net = DagNet(config("gcn", readout))
        seen = []
        net.core = torch.nn.Module()
        net.core.forward = lambda x, *_, **__: x
        net.head.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
        net(batch)
        # "ends" has the nodes without predecessors in its second half.
        expected = torch.stack([batch.x[row].sum(0) for row in rows])
        torch.testing.assert_close(seen[0][:, -na.KINDS :], expected)


@pytest.mark.parametrize("name", NAMES)
def test_one_budget(name):
    found = match_budget(config(name), 100_000)
    assert count_parameters(DagNet(found)) == pytest.approx(100_000, rel=0.05)


def test_each_graph_once_an_epoch(graphs):
    for row, graph in enumerate(graphs):
        graph.row = torch.tensor([row])
    batches, orders = GraphBatches(graphs, 3, seed=1), []
    for epoch in (0, 1, 0):
        batches.set_epoch(epoch)
        orders.append([row for i in range(len(batches)) for row in batches[i].row.tolist()])
        assert sorted(orders[-1]) == list(range(len(graphs)))
    assert orders[0] == orders[2] != orders[1]


def run(root, out, *more):
    args = ["--parameters", "3000", "--layers", "2", "--heads", "2", "--dropout", "0.1"]
    args += ["--epochs", "3", "--batch-size", "32", "--seeds", "1", "--data-root", str(root)]
    args += ["--out", str(out / "na"), "--checkpoints-in", str(out), *more]
    return dags.main(args)


def test_stopped_run_ends_like_an_uninterrupted_one(root, tmp_path, monkeypatch):
    (whole,) = run(root, tmp_path / "whole")
    assert whole["finished"] and len(whole["epochs"]) == 3
    assert whole["graphs"] == {"train": 85, "valid": 5, "test": 10}
    out = tmp_path / "stopped"
    cut_off(monkeypatch, DagModule, lambda: run(root, out))
    half = json.loads((out / "na_seed1.json").read_text())
    assert not half["finished"] and half["epochs_done"] == 2 and half["test_rmse"] > 0
    (resumed,) = run(root, out)
    assert_same_epochs(whole, resumed)
    with pytest.raises(SystemExit, match="same settings, got another protocol"):
        run(root, out, "--lr", "0.5")
    with monkeypatch.context() as patch:
        patch.setattr(resuming, "make_trainer", None)  # a finished run is left alone
        assert run(root, out) == [resumed]


def test_chosen_epoch_and_metrics(root, tmp_path):
    (result,) = run(root, tmp_path)
    errors = [epoch["valid_rmse"] for epoch in result["epochs"]]
    best = errors.index(min(errors))
    assert result["best_epoch"] == best + 1
    assert result["test_rmse"] == result["epochs"][best]["test_rmse"]
    # Once more, from the checkpoint.
    module = DagModule.load_from_checkpoint(tmp_path / "na_seed1" / "best.ckpt").eval()
    test = to_line_graphs(na.load(root).part("test"))
    with torch.no_grad():
        pred = module(Batch.from_data_list(test))
    y = torch.cat([graph.y for graph in test])
    assert result["test_rmse"] == pytest.approx((pred - y).square().mean().sqrt().item(), rel=1e-4)
    r = torch.corrcoef(torch.stack([pred, y]))[0, 1].item()
    assert result["test_r"] == pytest.approx(r, abs=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_configs(name, root, tmp_path):
    args = ["--config", str(CONFIGS / f"na_{name}.yaml"), "--limit", "4", "--epochs", "1"]
    args += ["--parameters", "5000", "--seeds", "0,1", "--data-root", str(root)]
    results = dags.main([*args, "--out", str(tmp_path / "na"), "--checkpoints-in", str(tmp_path)])
    assert [result["seed"] for result in results] == [0, 1]
    assert {result["model"]["name"] for result in results} == {name}


@pytest.mark.parametrize(
    "args, message",
    [
        (["--model", "gat"], "expected model one of plstm, dag_lstm, gcn, got 'gat'"),
        (["--readout", "last"], "expected readout one of mean, .*ends, got 'last'"),
        (["--directions", "up"], "expected directions to be 'alternate'"),
        (["--seeds", "a,b"], "expected seeds as integers"),
        (["--limit", "0"], "limit of 1 or more"),
    ],
)
def test_errors_are_messages(root, tmp_path, args, message):
    with pytest.raises(SystemExit, match=message):
        run(root, tmp_path, *args)


def test_legend_names_the_difference():
    assert "latent" in dags.LEGEND and "direct supervised" in dags.LEGEND


def test_unknown_option_of_plstm():
    with pytest.raises(InputError, match="modes"):
        DagNet(config("plstm", options={"modes": "X"}))
