"""Peptide runs: several labels and several regressed properties from end to end."""

import json
from pathlib import Path

import pytest
import torch
from sklearn.metrics import average_precision_score

from datasets import GraphDataset
from experiments import graph_report, peptides, reporting
from experiments.fitting import predict
from experiments.loading import Views, collate_of, eval_batches
from experiments.models import ModelConfig
from experiments.training import GraphModule
from plstm_graph.molecules.graphs import from_smiles

CONFIGS = Path(__file__).resolve().parents[2] / "experiments" / "configs"
RESIDUES = ("NCC(=O)", "NC(C)C(=O)", "NC(CO)C(=O)", "NC(CS)C(=O)")


def made_up(name):
    """Short chains of amino acids; targets tell which of them occur, and how often."""
    generator = torch.Generator().manual_seed(0)
    graphs = []
    for _ in range(60):
        chain = torch.randint(4, (4,), generator=generator)
        graph = from_smiles("".join(RESIDUES[i] for i in chain) + "O")
        count = torch.bincount(chain, minlength=4).float().unsqueeze(0)
        graph.y = (count > 0).float() if name == "peptides-func" else count
        graphs.append(graph)
    rows = torch.arange(60)
    split = {"train": rows[:40], "valid": rows[40:50], "test": rows[50:]}
    return GraphDataset(name, peptides.peptide_sets.TASKS[name], graphs, split)


@pytest.fixture(autouse=True)
def sets(monkeypatch):
    monkeypatch.setattr(peptides.peptide_sets, "load", lambda name, root: made_up(name))


def run(out, *more):
    return peptides.main([*more, "--out", str(out), "--checkpoints", str(out / "c")])


TINY = ["--model.hidden", "16", "--model.layers", "2", "--protocol.epochs", "4"]
TINY += ["--protocol.batch_size", "16", "--protocol.lr", "0.01"]


def test_labels(tmp_path):
    (result,) = run(tmp_path, *TINY, "--orientation", "random", "--average", "2")
    curve = [epoch["loss"] for epoch in result["epochs"]]
    assert result["metric"] == "average_precision" and curve[-1] < curve[0]
    checkpoint = tmp_path / "c" / "peptides_plstm_peptides-func_seed0" / "best.ckpt"
    module = GraphModule.load_from_checkpoint(checkpoint, map_location="cpu")
    data = made_up("peptides-func")
    parts = {part: data.part(part) for part in ("train", "valid", "test")}
    views = Views.of(ModelConfig("plstm", 16, 2), parts, 16, "random", 2, seed=0)
    for part, batches in views.batches.items():  # drawn as in the run
        pred, target = predict(module, batches), data.targets(part)
        each = [average_precision_score(target[:, i], pred[:, i]) for i in range(4)]
        assert result[f"{part}_average_precision"] == pytest.approx(sum(each) / 4, abs=1e-5)


def test_properties(tmp_path, capsys):
    (result,) = run(tmp_path, *TINY, "--sets", "peptides-struct")
    assert result["metric"] == "mae" and result["test_mae"] > 0
    best = min(result["epochs"], key=lambda epoch: epoch["valid_mae"])
    assert best is result["epochs"][result["best_epoch"] - 1]
    checkpoint = tmp_path / "c" / "peptides_plstm_peptides-struct_seed0" / "best.ckpt"
    module = GraphModule.load_from_checkpoint(checkpoint, map_location="cpu")
    assert module.hparams.loss == "l1" and module.std.shape == (4,)
    data = made_up("peptides-struct")
    batches = eval_batches(data.part("test"), 64, collate_of("plstm", "canonical"))
    error = (predict(module, batches) - data.targets("test")).abs().mean()
    assert result["test_mae"] == pytest.approx(error.item(), abs=1e-5)
    peptides.main(["report", str(tmp_path)])
    assert "peptides-struct: MAE" in capsys.readouterr().out


@pytest.mark.parametrize(
    "path", sorted(CONFIGS.glob("peptides_*.yaml")), ids=lambda path: path.stem
)
def test_every_row_runs(path, tmp_path):
    (result,) = run(tmp_path, "--config", str(path), "--protocol.epochs", "1")
    row = path.stem.removeprefix("peptides_")
    assert result["row"] == row and row in reporting.TITLES
    assert result["parameters"] < 500_000
    written = tmp_path / f"peptides_{row}_peptides-func_seed0.json"
    assert json.loads(written.read_text()) == result
    rows = graph_report.read(tmp_path, "peptides")["peptides-func"]
    _, cells = graph_report.table(rows, peptides.published.PEPTIDES["peptides-func"])
    assert (cells[0][2] == "") == row.endswith(("random", "local"))
