"""Directed sets with classes at nodes: rows of cells, runs that can be stopped, and their table."""

import json

import pytest
import torch
import yaml
from torch_geometric.data import Batch

from datasets import InputError
from datasets import longrange as sets
from datasets.longrange_tasks import TASKS
from experiments.longrange import published, report_cells, runs
from experiments.longrange import report as tables
from experiments.longrange.fitting import monitor
from experiments.longrange.models import LongRangeNet, Signature, match_budget
from experiments.longrange.scores import Scores
from experiments.longrange.training import LongRangeModule, collater, evaluated
from experiments.models import ModelConfig, count_parameters
from tests.experiments.stopping import assert_same_epochs, cut_off

FOLDER = runs.Path(runs.__file__).parent / "configs"
CONFIGS = sorted((FOLDER / "cells").glob("*.yaml"))
BASELINES = ("gin", "gps", "plstm", "plstm_local")
MODELS = ("gin", "gated_gcn", "gatv2", "gps", "plstm")


EVERY = [pytest.param(path, id=path.stem) for path in CONFIGS]


def run(out, *more, name="words_s3", config=None):
    args = ["--row", "row", "--model", "plstm", "--layers", "2"]
    args = ["--config", str(config)] if config else args
    args += ["--set", name, "--parameters", "5000", "--sizes", "8,4,5", "--batch-size", "4"]
    return runs.main([*args, "--out", str(out), "--checkpoints-in", str(out / "runs"), *more])


def check(result, name):
    assert result["finished"] and result["valid_score"] > 0
    parts = ["valid", "test", *(["long"] if TASKS[name].long else [])]
    for part in parts:
        found = result[part]["class"]
        assert set(found) == {"accuracy", "whole"}
        assert 0 <= found["whole"] <= found["accuracy"] <= 1
    assert list(result["graphs"]) == ["train", *parts]


def test_rows_are_those_of_the_tables():
    assert {path.stem for path in CONFIGS} == {"plstm", *report_cells.CELLS}
    for path in CONFIGS:
        row = yaml.safe_load(path.read_text())
        assert row["row"] == row["options"]["cell"] == path.stem
        assert (row["model"], row["layers"]) == ("plstm", 2)


@pytest.mark.parametrize("path", EVERY)
@pytest.mark.parametrize("name", ["words_s3_flat", "compression", "gpp"])
def test_every_cell_runs(path, name, tmp_path):
    more = ["--lr", "1e-3", "--epochs", "1", "--data-root", str(tmp_path)]
    (result,) = run(tmp_path, *more, name=name, config=path)
    assert result["finished"] and result["row"] == path.stem
    if name in TASKS:
        check(result, name)


@pytest.mark.parametrize("path", EVERY)
def test_one_budget(path):
    row = yaml.safe_load(path.read_text())
    signature = Signature.of(sets.load("words_s5", sizes=(2, 1, 1)))
    config = ModelConfig(
        row["model"], 0, row["layers"], row.get("heads", 4), options=row["options"]
    )
    config = match_budget(config, signature, 40_000)
    assert count_parameters(LongRangeNet(config, signature)) == pytest.approx(40_000, rel=0.12)


@pytest.mark.parametrize("row", BASELINES)
@pytest.mark.parametrize("name", ["mod_arith", "words_s3_flat", "compression", "dataflow"])
def test_other_rows_run(row, name, tmp_path):
    config = FOLDER / f"{row}.yaml"
    (result,) = run(tmp_path, "--lr", "1e-3", "--epochs", "1", name=name, config=config)
    check(result, name)
    assert result["parameters"] < 12_000


@pytest.mark.parametrize("name", ["words_s3", "words_s3_flat"])
def test_stopped_run_ends_like_an_uninterrupted_one(name, tmp_path, monkeypatch):
    more = ["--lr", "1e-3", "--dropout", "0.1", "--seeds", "1", "--epochs", "3"]
    (whole,) = run(tmp_path / "whole", *more, name=name)
    check(whole, name)
    out = tmp_path / "stopped"
    cut_off(monkeypatch, LongRangeModule, lambda: run(out, *more, name=name))
    half = json.loads((out / f"row_{name}_seed1.json").read_text())
    assert not half["finished"] and half["epochs_done"] == 2
    (resumed,) = run(out, *more, name=name)
    assert_same_epochs(whole, resumed)


def test_selection_and_defaults_of_the_set(tmp_path, monkeypatch):
    monkeypatch.setitem(runs.PROTOCOLS, "cells", {
        "epochs": 2, "batch_size": 4, "select_epochs": 1, "parameters": 7000,
    })  # fmt: skip
    args = ["--set", "parity", "--layers", "1", "--sizes", "8,4,5", "--out", str(tmp_path)]
    args += ["--checkpoints-in", str(tmp_path / "runs")]
    selected = runs.main([*args, "--select"])
    assert [result["epochs_done"] for result in selected] == [1, 1, 1]
    found = json.loads((tmp_path / "select_plstm_parity.json").read_text())
    assert found["metric"] == "valid_score"
    assert found["lr"] == float(min(found["scores"], key=found["scores"].get))
    (result,) = runs.main(args)
    assert result["protocol"]["lr"] == found["lr"] and result["protocol"]["batch_size"] == 4
    assert result["epochs_done"] == 2 and result["parameters"] == pytest.approx(7000, rel=0.2)
    scores = [epoch["valid_score"] for epoch in result["epochs"]]
    assert result["best_epoch"] == 1 + scores.index(min(scores))


def test_scores_by_hand(tmp_path):
    """Accuracy over labelled nodes, whole graphs, cross entropy; a graph without labels is none."""
    target = sets.Target("class", "node_class", classes=2)
    scores = Scores([target])
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 3.0], [1.0, 0.0], [5.0, 0.0], [0.0, 1.0]])
    batch = Batch(
        class_y=torch.tensor([0, -1, 1, 1, 0, -1]), batch=torch.tensor([0, 0, 0, 1, 1, 2])
    )
    batch._num_graphs = 3
    scores.update({"node_class": logits}, batch)
    found = scores.compute()
    assert found["accuracy_class"] == pytest.approx(3 / 4)
    assert found["whole_class"] == pytest.approx(1 / 2)
    wanted = [
        torch.logsumexp(row, 0) - row[i] for row, i in zip(logits[[0, 2, 3, 4]], (0, 1, 1, 0))
    ]
    assert found["score"] == pytest.approx(float(sum(wanted)) / 4)
    nothing = Batch(class_y=torch.tensor([-1]), batch=torch.tensor([0]))
    nothing._num_graphs = 1
    scores.update({"node_class": logits[:1]}, nothing)
    assert scores.compute() == found
    data = sets.load("parity", sizes=(2, 1, 1))
    assert monitor(data) == ("valid_score", "min") and evaluated(data) == ["valid", "test", "long"]
    assert monitor(sets.load("tree_2")) == ("train_accuracy", "max")


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", ["words_s3_flat", "compression"])
def test_batch_equals_its_parts(model, name):
    torch.manual_seed(0)
    data = sets.load(name, sizes=(4, 1, 1))
    net = LongRangeNet(ModelConfig(model, 8, 2), Signature.of(data)).eval()
    graphs, collate = data.parts["train"], collater(model, "canonical")
    with torch.no_grad():
        together = net(collate(graphs, [0]))["node_class"]
        alone = torch.cat([net(collate([graph], [0]))["node_class"] for graph in graphs])
    assert together.shape == (sum(g.num_nodes for g in graphs), TASKS[name].classes)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", MODELS)
def test_models_know_the_direction_and_the_edges(model):
    """Turning all edges round, or another code at an edge, changes the predictions."""
    torch.manual_seed(0)
    data = sets.load("words_s3_flat", sizes=(1, 1, 1))
    net = LongRangeNet(ModelConfig(model, 8, 2), Signature.of(data)).eval()
    (graph,), collate = data.parts["train"], collater(model, "canonical")
    turned, other = graph.clone(), graph.clone()
    turned.edge_index = graph.edge_index.flip(0)
    other.edge_attr = (graph.edge_attr + 1) % data.edge_codes
    with torch.no_grad():
        first, *rest = [net(collate([g], [0]))["node_class"] for g in (graph, turned, other)]
    assert all((first - found).abs().max() > 1e-4 for found in rest)


def test_plstm_hears_the_past_alone():
    torch.manual_seed(0)
    data = sets.load("words_s3", sizes=(1, 1, 1))
    net = LongRangeNet(ModelConfig("plstm", 8, 2), Signature.of(data)).eval()
    graph, collate = data.parts["test"][0], collater("plstm", "canonical")
    other = graph.clone()
    other.x[20:] = (graph.x[20:] + 1) % 6
    with torch.no_grad():
        before, after = (net(collate([g], [0]))["node_class"] for g in (graph, other))
    torch.testing.assert_close(before[:20], after[:20])
    assert (before[20:] - after[20:]).abs().amin(0).max() > 1e-5


def test_compression_reads_the_last_node_alone():
    torch.manual_seed(0)
    data = sets.load("compression", sizes=(1, 1, 1))
    net = LongRangeNet(ModelConfig("gin", 8, 1), Signature.of(data)).eval()
    (graph,), other = data.parts["train"], data.parts["train"][0].clone()
    other.x[:10] = (graph.x[:10] + 1) % 16  # too far from the last node for one layer
    with torch.no_grad():
        first, same = (net(Batch.from_data_list([g]))["node_class"] for g in (graph, other))
    torch.testing.assert_close(first, same)
    assert (first[0] - first[1]).abs().max() > 1e-4  # but places differ


def test_layers_without_edges_are_refused():
    data = sets.load("parity", sizes=(1, 1, 1))
    with pytest.raises(InputError, match=r"expected a layer with edge features .*, got gcn"):
        LongRangeNet(ModelConfig("gcn", 8, 1), Signature.of(data))


def fabricated(row, name, seed, accuracy, parts=("test", "long"), finished=True):
    return {
        "row": row, "set": name, "seed": seed, "finished": finished, "epochs_done": 10,
        "targets": [{"name": "class"}], "parameters": 40_000 + 100 * seed,
        "cpu_seconds_per_epoch": 36.0,
        **{part: {"class": {"accuracy": accuracy, "whole": accuracy / 2}} for part in parts},
    }  # fmt: skip


def test_report(tmp_path):
    files = [
        fabricated("delta", "parity", 0, 0.9),
        fabricated("delta", "parity", 1, 1.0),
        fabricated("delta", "recall", 0, 0.7, ("test",)),
        fabricated("plstm", "recall", 0, 0.5, ("test",), finished=False),
        fabricated("other", "recall", 0, 0.25, ("test",)),
    ]
    for i, content in enumerate(files):
        (tmp_path / f"{content['row']}_{content['set']}_{i}_seed{content['seed']}.json").write_text(
            json.dumps(content)
        )
    text = tables.report(tmp_path)
    first, longer, whole = text.split("\n## ")[1:]
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in first.splitlines()]
    rows = {line[0]: line[1:] for line in lines if line}
    assert list(rows)[:5] == ["model", "---", "pLSTM *", "DeltaNet", "other"]
    assert rows["model"] == ["parity", "recall", "parameters", "seeds", "CPU hours"]
    assert rows["DeltaNet"] == ["0.950 ± 0.071", "0.700", "40,000 to 40,100", "1 to 2", "0.30"]
    assert rows["pLSTM *"] == ["", "0.500", "40,000", "1", "0.10"]
    assert rows["DeltaNet [-1, 1], published"] == ["0.977", "", "", "", ""]
    assert rows["BD-LRU, diagonal, published"][:2] == ["", "0.775"]
    assert "| DeltaNet | 0.950 ± 0.071 |" in longer and "recall" not in longer
    assert "published" not in longer and "| DeltaNet | 0.475 ± 0.035 | 0.350 |" in whole
    assert published.NOTES["cells"] in text


def test_published():
    found = published.published_cells()
    assert found["Gated DeltaProduct [-1, 1]"] == {"parity": 0.98, "mod_arith": 0.784}
    assert found["ParaGRU, ParaRNN"] == {"recall": 1.0, "parity": 1.0}
    assert all(set(row) <= set(TASKS) and max(row.values()) <= 1 for row in found.values())
    assert published.kind_of("words_s5") == "cells" and published.kind_of("tree_5") == "tree"
