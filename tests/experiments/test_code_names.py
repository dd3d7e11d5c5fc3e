"""Names of functions: OGB's score, equal terms for all models, and runs that can be stopped."""

import inspect
import json
import random
import sysconfig
from pathlib import Path

import pytest
import torch
import yaml
from torch_geometric.data import Batch

from datasets import InputError, code_names
from datasets.code_names import Vocabulary
from experiments import resuming
from experiments.code_names import report as tables
from experiments.code_names import runs
from experiments.code_names.models import (
    CHILD,
    NEXT,
    PARENT,
    PREVIOUS,
    CodeConfig,
    CodeNet,
    Sizes,
    around,
    match_budget,
    prepare,
)  # fmt: skip
from experiments.code_names.training import CodeModule, NameScores, loaders
from experiments.fitting import Protocol
from experiments.models import count_parameters
from plstm_graph import LineGraph, PLSTMConv

CONFIGS = sorted((Path(runs.__file__).parent / "configs").glob("*.yaml"))
LIBRARY = Path(sysconfig.get_paths()["stdlib"])
MODULES = ("argparse", "bisect", "csv", "hashlib", "pprint", "queue", "shlex", "textwrap")
SIZES = Sizes(80, 5000, 1000)
MODELS = [
    {"name": "plstm", "directions": "two_way", "options": {"direction_offset": True}},
    {"name": "plstm", "directions": "fr"},
    {"name": "plstm", "directions": "two_way", "tokens": "edges"},
    {"name": "dag_lstm"},
    {"name": "gin"},
    {"name": "gin", "tokens": "edges"},
    {"name": "gcn"},
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A data root with a set of a few modules of the library."""
    with pytest.MonkeyPatch.context() as patch:
        projects = {f"std.{name}": [LIBRARY / f"{name}.py"] for name in MODULES}
        patch.setattr(code_names, "project_files", lambda: projects)
        patch.setattr(code_names, "versions", lambda: {"python": "3"})
        yield tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def data(root):
    return code_names.load(root, 12)


def config_of(path):
    row = yaml.safe_load(path.read_text())
    assert row.pop("row") == path.stem
    return CodeConfig(row.pop("model"), 0, 4, **row)


def runnable(path):
    """Skips rows with a cell where the layer has none."""
    has_cell = "cell" in inspect.signature(PLSTMConv).parameters
    if "cell" in config_of(path).options and not has_cell:
        pytest.skip("PLSTMConv has no cells")


def f1(expected, predicted):
    both = len(set(expected) & set(predicted))
    if not both:
        return 0.0
    precision, recall = both / len(set(predicted)), both / len(set(expected))
    return 2 * precision * recall / (precision + recall)


def test_score_is_the_f1_of_sets():
    draw = random.Random(0)
    vocabulary = Vocabulary([], [], ["a", "b", "c", "d"])
    names = [draw.choices("abcdxy", k=draw.randrange(1, 8)) for _ in range(60)]
    logits = torch.rand(60, 5, 6, generator=torch.Generator().manual_seed(0))
    predicted = vocabulary.decode(logits.argmax(-1))
    assert [] in predicted and any("__UNK__" in words for words in predicted)
    scores = NameScores(vocabulary)
    for start in (0, 20):
        stop = 20 if start == 0 else 60
        scores.update(logits[start:stop], names[start:stop])
    found = scores.compute()
    each = [f1(*pair) for pair in zip(names, predicted)]
    assert found["f1"] == pytest.approx(sum(each) / 60, abs=1e-12) and 0.2 < found["f1"] < 0.8
    scores.reset()
    assert scores.compute() == {"f1": 0, "precision": 0, "recall": 0}
    # A word outside of the vocabulary counts as missed, and cannot be met by the unknown mark.
    unknown = torch.nn.functional.one_hot(torch.tensor([[4, 5, 5, 5, 5]]), 6)
    scores.update(unknown, [["z"]])
    assert scores.compute()["f1"] == 0


def test_around_is_the_token_before_and_after():
    draw = random.Random(1)
    for count in (1, 2, 30):
        row = [draw.choice([0, 0, 5, 6, 7]) for _ in range(count)]
        before = [next((a for a in row[:i][::-1] if a), 0) for i in range(count)]
        after = [next((a for a in row[i + 1 :] if a), 0) for i in range(count)]
        assert around(torch.tensor(row)).t().tolist() == [before, after]


@pytest.mark.parametrize("tokens", ["features", "edges"])
def test_graphs_as_models_read_them(data, tokens):
    raw = data.parts["train"]
    directed = prepare(raw, CodeConfig("plstm", 0, 1, tokens=tokens))
    both = prepare(raw, CodeConfig("gin", 0, 1, tokens=tokens))
    for graph, dag, full in zip(raw, directed, both, strict=True):
        tree = list(map(tuple, graph.edge_index.t().tolist()))
        chain = list(map(tuple, code_names.next_tokens(graph.x).t().tolist()))
        edges = tree + chain * (tokens == "edges")
        assert list(map(tuple, dag.edge_index.t().tolist())) == edges
        assert (dag.edge_index[0] < dag.edge_index[1]).all()  # so it is a DAG
        kinds = [CHILD] * len(tree) + [NEXT] * (len(edges) - len(tree))
        assert dag.edge_attr.tolist() == kinds
        turned = [edge[::-1] for edge in edges]
        assert list(map(tuple, full.edge_index.t().tolist())) == edges + turned
        opposite = {CHILD: PARENT, NEXT: PREVIOUS}
        assert full.edge_attr.tolist() == kinds + [opposite[kind] for kind in kinds]
        line_graph = LineGraph.from_data(dag)
        assert line_graph.edge_index.size(1) == len(edges)
        assert dag.x.size(1) == (5 if tokens == "features" else 3)
        if tokens == "features":  # one path between any two nodes: nothing to prune
            two_way = line_graph.two_way()
            assert two_way.multitree().num_line_edges == two_way.num_line_edges


def test_rows_are_those_of_the_table():
    assert {path.stem for path in CONFIGS} == set(tables.ROWS)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_one_budget(path):
    runnable(path)
    config = match_budget(config_of(path), 120_000)
    net = CodeNet(config, SIZES)
    body = count_parameters(net.body)
    assert body == pytest.approx(120_000, rel=0.1)
    shared = CodeNet(CodeConfig("gcn", 8, 1, tokens=config.tokens), SIZES)
    shared = count_parameters(shared) - count_parameters(shared.body)
    assert count_parameters(net) - body == shared


@pytest.mark.parametrize("more", MODELS, ids=lambda more: "_".join(map(str, more.values())))
def test_batch_equals_its_parts(more, data):
    torch.manual_seed(0)
    config = CodeConfig(hidden=8, layers=2, **more)
    net = CodeNet(config, Sizes.of(data.vocabulary)).eval().double()
    graphs = prepare(data.parts["train"][:5], config)
    with torch.no_grad():
        together = net(Batch.from_data_list(graphs))
        alone = [net(Batch.from_data_list([graph])) for graph in graphs]
    assert together.shape == (5, 5, len(data.vocabulary.tokens) + 2)
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-10, atol=1e-10)


def test_two_way_model_hears_every_node(data):
    """One layer joins all nodes of a tree: the root's state depends on each of the others."""
    torch.manual_seed(0)
    more = {"options": {"direction_offset": True}, "directions": "two_way"}
    net = CodeNet(CodeConfig("plstm", 8, 1, **more), Sizes.of(data.vocabulary)).double()
    (graph,) = prepare(data.parts["train"][:1], CodeConfig("plstm", 8, 1))
    batch = Batch.from_data_list([graph])
    x = torch.randn(graph.num_nodes, 64, dtype=torch.float64, requires_grad=True)
    line_graph = LineGraph.from_data(batch)
    out = net.body.core(x, batch.edge_index, batch=batch.batch, line_graph=line_graph)
    for node in (0, graph.num_nodes - 1):
        (grad,) = torch.autograd.grad(out[node].square().sum(), x, retain_graph=True)
        assert (grad.abs().sum(1) > 0).all()


def test_training_batches_have_no_text(data):
    train, evaluation = loaders(data, CodeConfig("gcn", 8, 1), Protocol(batch_size=5))
    assert len(train) == 3 and "words" not in next(iter(train))
    for part, batches in zip(("valid", "test"), evaluation):
        words = [words for batch in batches for words in batch.words]
        assert words == [graph.words for graph in data.parts[part]]


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
    start = CodeModule.on_train_epoch_start

    def stop(self):
        if self.current_epoch == 2:
            raise RuntimeError("power cut")
        start(self)

    out = tmp_path / "stopped"
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="power cut"):
        patch.setattr(CodeModule, "on_train_epoch_start", stop)
        run(root, out, *more)
    half = json.loads((out / "row_seed1.json").read_text())
    assert not half["finished"] and half["epochs_done"] == 2
    (resumed,) = run(root, out, *more)
    times = dict.fromkeys(("seconds", "train_seconds", "cpu_seconds"), 0)
    for epoch, other in zip(whole["epochs"], resumed["epochs"], strict=True):
        assert {**epoch, **times} == {**other, **times}
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
    assert [result["protocol"]["lr"] for result in results] == list(runs.RATES)
    scores = {f"{r:g}": result["valid_f1"] for r, result in zip(runs.RATES, results)}
    assert found["scores"] == scores and scores[f"{found['lr']:g}"] == max(scores.values())
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
