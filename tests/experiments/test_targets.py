"""One and several targets, of each task, with one and several averaged orientations."""

import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from datasets import SPLITS, GraphDataset
from experiments.fitting import Protocol, fit, make_module, predict, target_scale
from experiments.graph_runs import Row, run
from experiments.loading import Views
from experiments.metrics import StandardisedRMSE, epoch_metrics, monitor_of
from experiments.models import ModelConfig
from experiments.reporting import final_metrics
from experiments.training import GraphModule
from plstm_graph.molecules.graphs import from_smiles

CASES = [("regression", 1), ("regression", 3), ("binary", 1), ("multilabel", 3)]
MODEL = ModelConfig("plstm", 8, 1)
PROTOCOL = Protocol(2, 1, 8, lr=0.01, accelerator="cpu", devices="1")
SMILES = [head + "C" * n for n in range(1, 9) for head in ("O", "N", "CC(C)", "c1ccccc1", "C1CC1")]


def made_up(task, targets):
    """40 molecules; columns of the targets in units of 1, 10 and 100, or classes."""
    graphs = [from_smiles(smiles) for smiles in SMILES]
    y = torch.randn(len(graphs), targets, generator=torch.manual_seed(0))
    y = y * 10.0 ** torch.arange(targets) + 5 if task == "regression" else (y > 0).float()
    for graph, row in zip(graphs, y):
        graph.y = row if targets == 1 else row.unsqueeze(0)
    split = dict(zip(SPLITS, torch.arange(len(graphs)).split([20, 10, 10])))
    names = [f"t{i}" for i in range(targets)]
    return GraphDataset("made up", task, graphs, split, target_names=names)


def score(task, pred, target, std):
    """The monitored metric by other means: columns one by one."""
    if task == "binary":
        return roc_auc_score(target, pred)
    if target.dim() == 1:
        return float((pred - target).square().mean().sqrt())
    values = []
    for i, (p, t) in enumerate(zip(pred.unbind(1), target.unbind(1))):
        error = (p - t).square().mean().sqrt()
        values.append(average_precision_score(t, p) if task == "multilabel" else error / std[i])
    return float(sum(values) / len(values))


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def data(request):
    return made_up(*request.param)


@pytest.mark.parametrize("average", [1, 2])
def test_fit_report_and_predict(data, average, tmp_path):
    """From training to a file of predictions: each score is that of each column on its own."""
    parts = {part: data.part(part) for part in SPLITS}
    metric, _ = monitor_of(data.task, data.num_targets)
    result = fit(
        MODEL, parts, data.task, PROTOCOL, tmp_path, "random", average, data.target_names, "one"
    )
    checkpoint = tmp_path / "checkpoints" / "one.ckpt"
    module = GraphModule.load_from_checkpoint(checkpoint, map_location="cpu")
    assert module.hparams.target_names == data.target_names
    std = target_scale(parts["train"])[1]
    views = Views.of(MODEL, parts, PROTOCOL.batch_size, "random", average, PROTOCOL.seed)
    pred = {part: predict(module, views.batches[part]) for part in ("valid", "test")}
    for part in pred:
        assert pred[part].shape == data.targets(part).shape
    expected = score(data.task, pred["valid"], data.targets("valid"), std)
    assert result.score == pytest.approx(expected, rel=1e-4)
    torch.testing.assert_close(pred["test"], result.pred)

    target = data.targets("test")
    found = final_metrics(data.task, result.pred, target, names=data.target_names, std=std)
    assert found[metric] == pytest.approx(score(data.task, result.pred, target, std), rel=1e-4)
    if data.task == "regression" and data.num_targets > 1:
        assert set(found) == {*data.target_names, metric}
        assert found["t1"] == pytest.approx(
            float((result.pred - target)[:, 1].square().mean().sqrt() / std[1])
        )


@pytest.mark.parametrize("average", [1, 2])
def test_runs_of_tables(data, average, tmp_path):
    """The test score at the best epoch, of a run that is resumed at will."""
    row = Row("study", "row", MODEL, PROTOCOL, "random", average)
    result = run(data, row, tmp_path, tmp_path)
    metric, mode = monitor_of(data.task, data.num_targets)
    assert result["metric"] == metric
    values = [epoch[f"valid_{metric}"] for epoch in result["epochs"]]
    assert result[f"valid_{metric}"] == (min if mode == "min" else max)(values)
    checkpoint = tmp_path / "study_row_made up_seed0" / "best.ckpt"
    module = GraphModule.load_from_checkpoint(checkpoint, map_location="cpu")
    parts = {part: data.part(part) for part in SPLITS}
    views = Views.of(MODEL, parts, PROTOCOL.batch_size, "random", average, PROTOCOL.seed)
    std = target_scale(parts["train"])[1]
    for part in ("valid", "test"):
        expected = score(data.task, predict(module, views.batches[part]), data.targets(part), std)
        assert result[f"{part}_{metric}"] == pytest.approx(expected, rel=1e-4)


def test_several_targets_are_standardised_on_the_training_set():
    data = made_up("regression", 3)
    train = data.part("train")
    module = make_module(MODEL, train, "regression", PROTOCOL)
    y = data.targets("train")
    torch.testing.assert_close(module.mean, y.mean(0))
    torch.testing.assert_close(module.std, y.std(0, correction=0))
    scaled = (y - module.mean) / module.std
    torch.testing.assert_close(scaled.std(0, correction=0), torch.ones(3))


def test_constant_target_keeps_its_unit():
    graphs = made_up("regression", 3).graphs
    for graph in graphs:
        graph.y[0, 1] = 7.0
    mean, std = target_scale(graphs)
    assert (mean[1], std[1]) == (7.0, 1.0)


def test_monitor_of_several_targets_does_not_mix_units():
    torch.manual_seed(0)
    std = torch.tensor([1.0, 10.0, 100.0])
    target = torch.randn(30, 3) * std
    pred = target + torch.randn(30, 3) * std
    whole = epoch_metrics("regression", 3, std)(pred, target)
    assert set(whole) == {"standardised_rmse", "mae"}
    each = [float((pred - target)[:, i].square().mean().sqrt() / std[i]) for i in range(3)]
    assert float(whole["standardised_rmse"]) == pytest.approx(sum(each) / 3)
    metric = StandardisedRMSE(std)
    for rows in (slice(0, 4), slice(4, 30)):  # batches of different sizes
        metric.update(pred[rows], target[rows])
    assert float(metric.compute()) == pytest.approx(sum(each) / 3)
    assert not metric.state_dict()  # the deviations are in the hyperparameters
    metric.reset()
    metric.update(target, target)
    assert float(metric.compute()) == 0.0
