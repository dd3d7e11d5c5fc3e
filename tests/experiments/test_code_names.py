"""Names of functions: OGB's score, graphs as models read them, equal terms for all models."""

import random

import pytest
import torch
from torch_geometric.data import Batch

from datasets import code_names
from datasets.code_vocabulary import Vocabulary
from experiments.code_names import report as tables
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
)
from experiments.code_names.training import NameScores, loaders
from experiments.fitting import Protocol
from experiments.models import count_parameters
from plstm_graph import LineGraph
from tests.experiments.code_names_helpers import CONFIGS, config_of, f1, few_modules, runnable

SIZES = Sizes(80, 5000, 5000, 1000)
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
    with few_modules():
        yield tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def data(root):
    return code_names.load(root, 12)


def test_score_is_the_f1_of_sets():
    draw = random.Random(0)
    vocabulary = Vocabulary([], [], [], ["a", "b", "c", "d"])
    names = [draw.choices("abcdxy", k=draw.randrange(1, 8)) for _ in range(60)]
    logits = torch.rand(60, 5, 6, generator=torch.Generator().manual_seed(0))
    predicted = vocabulary.decode(logits.argmax(-1))
    assert [] in predicted and any("__UNK__" in words for words in predicted)
    scores, y = NameScores(vocabulary), torch.cat([vocabulary.encode(words) for words in names])
    for start in (0, 20):
        stop = 20 if start == 0 else 60
        scores.update(logits[start:stop], y[start:stop], names[start:stop])
    found = scores.compute()
    each = [f1(*pair) for pair in zip(names, predicted)]
    assert found["f1"] == pytest.approx(sum(each) / 60, abs=1e-12) and 0.2 < found["f1"] < 0.8
    entropy = [
        -logits[i, j].log_softmax(-1)[k]
        for i, row in enumerate(y.tolist())
        for j, k in enumerate(row)
        if k != vocabulary.unknown
    ]
    assert found["loss"] == pytest.approx(float(sum(entropy)) / len(entropy), abs=1e-5)
    scores.reset()
    assert scores.compute() == {"f1": 0, "precision": 0, "recall": 0, "loss": 0}
    # A word outside of the vocabulary counts as missed, and cannot be met by the unknown mark.
    y = vocabulary.encode(["z"])
    scores.update(torch.nn.functional.one_hot(y, 6).float(), y, [["z"]])
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
        assert dag.x.size(1) == (9 if tokens == "features" else 7)
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
