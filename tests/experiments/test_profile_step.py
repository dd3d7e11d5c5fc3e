"""The profile of a training step: every part of the model is found, forward and backward."""

import json
import time

import pytest
import torch

from experiments import profile_step
from experiments.fitting import Protocol, make_module
from experiments.models import ModelConfig
from experiments.profile_stages import GRADIENTS, REST, Stages, backward_shares
from plstm_graph.molecules.graphs import from_smiles


@pytest.fixture(scope="module")
def graphs():
    graphs = [from_smiles(s) for s in ("CC(=O)Oc1ccccc1C(=O)O", "CCO", "C1CC1.O", "c1ccncc1")]
    for i, graph in enumerate(graphs):
        graph.y = torch.tensor([float(i % 2)])
    return graphs


PLSTM = {"options": {"ffn_ratio": 1.0}, "local": "gine", "dropout": 0.1}
SHARED = {"collation", "encoders", "readout, head", "loss", REST, "optimizer", GRADIENTS}
LINES = {"line graph", "schedules", "projections", "gates", "propagation", "norms"}


@pytest.mark.parametrize(
    "name, options, parts",
    [
        ("plstm", PLSTM, LINES | {"local branch", "MLP", "dropout"}),
        ("gine", {}, {"local layers"}),
    ],
    ids=["plstm", "gine"],
)
def test_stages(graphs, name, options, parts):
    config = ModelConfig(name, 8, 2, **options)
    module = make_module(config, graphs, "binary", Protocol())
    before = [p.clone() for p in module.parameters()]
    times = profile_step.measure(module, graphs, 3, "random", steps=2)
    assert set(times) == SHARED | parts
    outside = {"collation", "line graph", "schedules", "optimizer"}
    for label, spent in times.items():
        assert all(value >= 0 for value in spent.values())
        if label not in outside | {GRADIENTS, REST}:
            assert set(spent) == {"forward", "backward"}, label
    assert any(not torch.equal(p, q) for p, q in zip(before, module.parameters()))  # it trains


def test_time_belongs_to_the_innermost_stage():
    stages = Stages()
    with stages.stage("outer"):
        time.sleep(0.01)
        with stages.stage("inner"):
            time.sleep(0.03)
        time.sleep(0.01)
    assert stages.seconds["inner"] >= 0.03
    assert 0.02 <= stages.seconds["outer"] < stages.seconds["inner"]


def test_backward_time_belongs_to_the_stage_of_the_forward_pass():
    stages = Stages()
    x, few = torch.randn(500, 500, requires_grad=True), torch.ones(2, requires_grad=True)
    with stages.stage("small"):
        y = few * 2.0
    with stages.stage("large"):
        z = x @ x @ x
    shares = backward_shares(z.sum() + y.sum(), stages)
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["large"] > 2 * shares["small"] > 0


def test_run(tmp_path, monkeypatch, graphs, capsys):
    rows = torch.arange(4)
    data = profile_step.datasets.GraphDataset(
        "few", "binary", graphs, {"train": rows, "valid": rows, "test": rows}
    )
    monkeypatch.setattr(profile_step.datasets, "load", lambda *_, **__: data)
    row, out = tmp_path / "row.yaml", tmp_path / "profile.json"
    row.write_text("row: plstm\nmodel: {name: plstm, hidden: 8, layers: 2}\norientation: random\n")
    args = ["--row", str(row), "--steps", "2", "--batch-size", "2", "--out", str(out)]
    result = profile_step.main(args)
    assert json.loads(out.read_text()) == result
    total = sum(value for parts in result["stages_ms"].values() for value in parts.values())
    assert result["step_ms"] == pytest.approx(total)
    assert result["seconds_per_epoch"] == pytest.approx(2 * total / 1e3)
    assert "propagation" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="steps and batch_size of 1 or more"):
        profile_step.main([*args, "--steps", "0"])
    row.write_text("model: {name: mpnn, hidden: 8, layers: 2}\n")
    with pytest.raises(SystemExit, match="expected a row with layers to tell apart, got mpnn"):
        profile_step.main(args)
    with pytest.raises(SystemExit, match="expected row to be the YAML file of a model, got none"):
        profile_step.main(["--row", "none.yaml"])
