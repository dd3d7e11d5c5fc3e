"""Models on equal terms, batches, the learning rate, and averaging over orientations."""

import math
from types import SimpleNamespace

import pytest
import torch
from sklearn.metrics import average_precision_score
from torch.optim.swa_utils import AveragedModel
from torch_geometric.data import Batch, Data
from torch_geometric.loader import DataLoader

from datasets import InputError
from experiments.averaging import WeightAverage, update_norms
from experiments.baselines import EDGELESS
from experiments.fitting import Protocol, make_module
from experiments.loading import Views, collate_of, eval_batches, training_data
from experiments.metrics import epoch_metrics
from experiments.models import (
    NAMES,
    GraphNet,
    Inputs,
    ModelConfig,
    count_parameters,
    match_budget,
    to_dict,
)
from experiments.reporting import final_metrics
from experiments.training import GraphModule, chosen_epoch
from plstm_graph import LineGraph
from plstm_graph.dag.orient import DRAWN
from plstm_graph.molecules.graphs import from_smiles


@pytest.fixture(scope="module")
def graphs():
    graphs = [from_smiles(s) for s in ("CC(=O)Oc1ccccc1C(=O)O", "C", "CCO", "C1CC1.O", "c1ccncc1")]
    for i, graph in enumerate(graphs):
        graph.y = torch.tensor([float(i)])
    return graphs


@pytest.mark.parametrize("name", NAMES)
def test_batch_equals_its_parts(graphs, name):
    torch.manual_seed(0)
    net = GraphNet(ModelConfig(name, 16, 2, readout="sum"), Inputs.of(graphs[0])).eval()
    collate = collate_of(name, "canonical")
    together = net(collate(graphs))
    alone = torch.cat([net(collate([graph])) for graph in graphs])
    assert together.shape == (5,)
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_edge_features_are_left_out(graphs, name):
    inputs = Inputs.of(graphs[0])
    net = GraphNet(ModelConfig(name, 16, 2, edge_features=False), inputs).eval()
    batch = collate_of(name, "canonical")(graphs)
    before = net(batch)
    batch.edge_attr = torch.zeros_like(batch.edge_attr)
    assert torch.equal(net(batch), before) and net.core.edge_encoder is None
    with_edges = GraphNet(ModelConfig(name, 16, 2), inputs)
    assert (count_parameters(with_edges) > count_parameters(net)) == (name not in EDGELESS)


@pytest.mark.parametrize("name", NAMES[1:])
def test_baselines_meet_the_budget(graphs, name):
    inputs = Inputs.of(graphs[0])
    config = match_budget(ModelConfig(name, 0, 4), inputs, 120_000)
    assert count_parameters(GraphNet(config, inputs)) == pytest.approx(120_000, rel=0.04)
    assert config.hidden % config.heads == 0


@pytest.mark.parametrize("name, local", [("plstm", "gine"), ("gin", None), ("gine", None)])
def test_training_on_a_batch_of_one_atom(graphs, name, local):
    """As the last batch of an epoch may be: methane alone."""
    options = {"post_norm": "batch_norm"} if name == "plstm" else None
    virtual = name == "gine"
    config = ModelConfig(name, 8, 2, local=local, options=options, virtual_node=virtual)
    net = GraphNet(config, Inputs.of(graphs[0]))
    out = net(collate_of(name, "canonical")([graphs[1]]))
    out.sum().backward()
    assert graphs[1].num_nodes == 1 and out.isfinite().all()


def test_unknown_baseline(graphs):
    with pytest.raises(ValueError, match=r"out of plstm, gine, .*, got 'sage'"):
        ModelConfig("sage", 16, 2)
    with pytest.raises(ValueError, match=r"local out of gine, gin, .* or null, got 'mpnn'"):
        ModelConfig("plstm", 16, 2, local="mpnn")
    with pytest.raises(ValueError, match=r"virtual_node with one of gine, .* got mpnn"):
        ModelConfig("mpnn", 16, 2, virtual_node=True)
    with pytest.raises(ValueError, match="local with plstm only, got gin"):
        ModelConfig("gin", 16, 2, local="gine")


@pytest.mark.parametrize("name", [n for n in NAMES if n not in EDGELESS])
def test_edge_features_are_read(graphs, name):
    torch.manual_seed(0)
    net = GraphNet(ModelConfig(name, 16, 2), Inputs.of(graphs[0])).eval()
    batch = collate_of(name, "canonical")(graphs)
    out = net(batch)
    batch.edge_attr = (batch.edge_attr + 1) % 2
    assert not torch.allclose(net(batch), out)


@pytest.mark.parametrize("name", NAMES)
def test_without_edge_features(graphs, name):
    plain = [Data(g.x.float(), g.edge_index) for g in graphs]
    net = GraphNet(ModelConfig(name, 16, 2), Inputs.of(plain[0]))
    net(collate_of(name, "index")(plain)).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_virtual_node_joins_all_nodes_of_a_graph(graphs):
    """Two isolated atoms hear of each other through it, and of nothing in another graph."""
    apart = [from_smiles(smiles) for smiles in ("C.O", "C.N", "CO")]
    config = ModelConfig("gine", 16, 2, readout="sum", virtual_node=True)
    torch.manual_seed(0)
    net = GraphNet(config, Inputs.of(apart[0])).eval()
    states = []
    net.core.layers[1].register_forward_hook(lambda module, args, out: states.append(args[0]))
    for pair in ([0, 2], [1, 2]):
        net(Batch.from_data_list([apart[i] for i in pair]))
    first, second = states
    assert not torch.allclose(first[0], second[0])  # the carbon of C.O and of C.N
    torch.testing.assert_close(first[2:], second[2:])


def test_several_targets(graphs):
    pair = [Data(**{**g.to_dict(), "y": torch.stack([g.y, 1 - 2 * g.y], 1)}) for g in graphs]
    inputs = Inputs.of(pair[0])
    assert inputs.targets == 2
    module = make_module(ModelConfig("gin", 16, 2), pair, "regression", Protocol(), loss="l1")
    module.eval()
    batch = Batch.from_data_list(pair)
    out = module(batch)
    assert out.shape == (5, 2)
    expected = out * batch.y.std(0, correction=0) + batch.y.mean(0)
    torch.testing.assert_close(module.predict(batch), expected)


def test_multilabel_metric_is_the_mean_over_labels():
    torch.manual_seed(0)
    pred, target = torch.rand(40, 3), (torch.rand(40, 3) < 0.3).long()
    each = [average_precision_score(target[:, i], pred[:, i]) for i in range(3)]
    metrics = epoch_metrics("multilabel", 3)
    for rows in (slice(0, 25), slice(25, 40)):
        metrics.update(pred[rows], target[rows])
    assert metrics.compute()["average_precision"].item() == pytest.approx(sum(each) / 3)


def test_first_epoch_with_the_best_value_counts():
    epochs = [{"valid": value} for value in (0.5, 0.8, 0.7, 0.8, 0.5)]
    assert chosen_epoch(epochs, "valid", "max") == 1
    assert chosen_epoch(epochs, "valid", "min") == 0


def test_copies_stand_side_by_side_and_differ(graphs):
    collate = collate_of("plstm", "random", seed=0)
    batches = eval_batches(graphs, 8, collate, average=4)
    assert [batch.num_graphs for batch in batches] == [8, 8, 4]
    assert torch.cat([batch.y for batch in batches]).tolist() == [
        float(i) for i in range(5) for _ in range(4)
    ]
    dag, nodes = LineGraph.from_data(batches[0]).edge_index, graphs[0].num_nodes
    copies = [dag[:, dag[0] // nodes == i] - i * nodes for i in range(4)]
    assert len({str(edges.tolist()) for edges in copies}) > 1


def test_average_is_the_mean_over_copies(graphs):
    config = ModelConfig("plstm", 16, 2)
    torch.manual_seed(0)
    arguments = (to_dict(config), to_dict(Inputs.of(graphs[0])), "regression")
    module = GraphModule(*arguments, mean=3.0, std=2.0, average=4).eval()
    (batch,) = eval_batches(graphs, 20, collate_of("plstm", "random", seed=1), average=4)
    each = module.net(batch) * 2.0 + 3.0
    torch.testing.assert_close(module.predict(batch), each.view(5, 4).mean(1))


def test_only_random_orientations_are_averaged(graphs):
    parts = {"train": graphs, "valid": graphs, "test": graphs}
    average = {
        (name, orientation): Views.of(ModelConfig(name, 8, 1), parts, 2, orientation, 4).average
        for name in ("plstm", "gine")
        for orientation in ("canonical", *DRAWN)
    }
    assert [average.pop(("plstm", orientation)) for orientation in DRAWN] == [4, 4]
    assert set(average.values()) == {1}


@pytest.mark.parametrize("orientation", DRAWN)
def test_orientations_are_drawn_anew_for_each_epoch(graphs, orientation):
    parts = {"train": graphs[:1], "valid": graphs, "test": graphs}
    loader = Views.of(ModelConfig("plstm", 8, 1), parts, 1, orientation).train_loader()
    torch.manual_seed(0)
    drawn = {str(LineGraph.from_data(next(iter(loader))).edge_index.tolist()) for _ in range(5)}
    assert len(drawn) > 1
    fixed = Views.of(ModelConfig("plstm", 8, 1), parts, 1, "canonical").train_loader()
    same = {str(LineGraph.from_data(next(iter(fixed))).edge_index.tolist()) for _ in range(3)}
    assert len(same) == 1


@pytest.mark.parametrize("ranked", [True, False])
@pytest.mark.parametrize("orientation", ["canonical", "index", "bfs"])
def test_line_graphs_built_once_are_those_of_each_batch(graphs, orientation, ranked):
    graphs = [graph.clone() for graph in graphs]
    if not ranked:  # canonical by structure, as for the TU sets
        for graph in graphs:
            del graph.canonical_rank
    built, collate = training_data("plstm", graphs, orientation)
    batch, expected = collate(built), collate_of("plstm", orientation)(graphs)
    for key in ("x", "edge_index", "edge_attr", "y", "batch"):
        torch.testing.assert_close(batch[key], expected[key], rtol=0, atol=0)
    ours, theirs = LineGraph.from_data(batch), LineGraph.from_data(expected)
    for key in ("edge_index", "line_index", "edge_id", "opposite_id", "node_rank", "level"):
        torch.testing.assert_close(getattr(ours, key), getattr(theirs, key), rtol=0, atol=0)


def test_baselines_get_plain_batches(graphs):
    batch = collate_of("gine", "random")(graphs)
    assert isinstance(batch, Batch) and "line_index" not in batch


def test_final_metrics():
    pred, target = torch.tensor([1.0, 2.0, 5.0]), torch.tensor([1.0, 2.0, 3.0])
    values = final_metrics("regression", pred, target)
    assert values["rmse"] == pytest.approx((4 / 3) ** 0.5)
    assert values["mae"] == pytest.approx(2 / 3)
    assert values["r2"] == pytest.approx(1 - 4 / 2)
    pred, target = torch.tensor([0.1, 0.6, 0.4, 0.9]), torch.tensor([0.0, 0.0, 1.0, 1.0])
    values = final_metrics("binary", pred, target)
    assert values == {"roc_auc": pytest.approx(0.75), "accuracy": pytest.approx(0.5)}
    official = final_metrics("binary", pred, target, lambda p, y: {"rocauc": 0.7})
    assert official == {"rocauc": 0.7, "accuracy": pytest.approx(0.5)}


def test_weight_average_follows_from_the_start():
    """Over part of the steps so far at first, over the last ``epochs`` later on."""
    callback = WeightAverage(epochs=2.0)
    callback.on_train_epoch_start(SimpleNamespace(num_training_batches=20), None)
    module = torch.nn.BatchNorm1d(1)
    average = AveragedModel(module, use_buffers=True, multi_avg_fn=callback._move)
    expected, values = 0.0, [math.sin(step) for step in range(600)]
    for step, value in enumerate(values):
        module.weight.data.fill_(value)
        module.num_batches_tracked.fill_(step)
        average.update_parameters(module)
        decay = min(1 - 1 / 40, (1 + step) / (10 + step))
        expected = value if step == 0 else decay * expected + (1 - decay) * value
        assert average.module.weight.item() == pytest.approx(expected, abs=1e-6)
    assert int(average.module.num_batches_tracked) == 599
    assert abs(expected) < 0.05  # the mean of the sine


def test_norms_are_of_the_weights_that_are_validated(graphs):
    """Each layer's statistics: the mean over batches, without dropout, with the present weights."""
    config = ModelConfig("gin", 8, 2, dropout=0.5)
    module = make_module(config, graphs, "regression", Protocol())
    loader = DataLoader(graphs, batch_size=2)
    strategy = SimpleNamespace(reduce=lambda value, reduce_op: value)
    trainer = SimpleNamespace(train_dataloader=loader, strategy=strategy)
    norms = [layer for layer in module.modules() if isinstance(layer, torch.nn.BatchNorm1d)]
    inputs = {}
    for norm in norms:
        norm.running_mean.fill_(9.0)
        norm.register_forward_pre_hook(
            lambda norm, args: inputs.setdefault(norm, []).append(args[0])
        )
    state = torch.get_rng_state()
    update_norms(trainer, module.eval(), 2)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(norms) >= 4 and set(inputs) == set(norms)
    for norm, seen in inputs.items():
        assert len(seen) == 2 and not norm.training and norm.momentum == 0.1
        mean = torch.stack([x.mean(0) for x in seen]).mean(0)
        var = torch.stack([x.var(0) for x in seen]).mean(0)
        torch.testing.assert_close(norm.running_mean, mean)
        torch.testing.assert_close(norm.running_var, var)
    first = [seen[0] for seen in inputs.values()]
    inputs.clear()
    update_norms(trainer, module, 2)  # dropout would change what the layers see
    assert all(torch.equal(a, b[0]) for a, b in zip(first, inputs.values()))


def test_norms_without_an_average():
    with pytest.raises(InputError, match=r"norm_batches with ema only, got 16; set ema"):
        Protocol(norm_batches=16)
