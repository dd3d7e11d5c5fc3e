"""Two processes do what one does: the same losses, and each graph counted once."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from datasets import molecules
from experiments.averaging import update_norms
from experiments.fitting import predict
from experiments.loading import Views
from experiments.models import Inputs, ModelConfig, to_dict
from experiments.reporting import final_metrics
from experiments.training import GraphModule, is_repeat
from tests.experiments import ddp_worker

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(csv_file, tmp_path_factory):
    """What two processes have written."""
    folder = tmp_path_factory.mktemp("ddp")
    command = [sys.executable, "-m", "tests.experiments.ddp_worker", str(folder), str(csv_file)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True,
        text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_two_processes_are_one_with_twice_the_batch(folder):
    found = json.loads((folder / "found.json").read_text())
    alone, _ = ddp_worker.train(1)
    assert len(found["losses"]) == ddp_worker.STEPS
    assert found["losses"] == pytest.approx(alone["losses"], abs=1e-4)
    assert found["losses"][-1] < 0.9 * found["losses"][0]  # it learns
    for epoch, other in zip(found["epochs"], alone["epochs"], strict=True):
        for part in ("valid", "test"):
            for metric in ("rmse", "mae"):
                key = f"{part}_{metric}"
                assert epoch[key] == pytest.approx(other[key], abs=1e-4), key


def test_norms_are_over_the_batches_of_all_processes(folder):
    found = [torch.load(folder / f"norms{rank}.pt", weights_only=False) for rank in range(2)]
    first, second = (one["state"] for one in found)
    assert all(torch.equal(first[key], second[key]) for key in first)
    batches = [batch for one in found for batch in one["batches"]]
    inputs = to_dict(Inputs.of(ddp_worker.graphs(1, 0)[0]))
    module = GraphModule(to_dict(ddp_worker.NORMS), inputs, "regression").eval()
    module.load_state_dict(first)
    reduce = SimpleNamespace(reduce=lambda value, reduce_op: value)
    statistics = [key for key in first if "running" in key]
    assert len(statistics) >= 8 and len(batches) == 4
    for chosen, same in ((batches, True), (batches[:2], False), (batches[2:], False)):
        update_norms(SimpleNamespace(train_dataloader=chosen, strategy=reduce), module, 4)
        again = module.state_dict()
        close = [torch.allclose(again[key], first[key], rtol=1e-4, atol=1e-4) for key in statistics]
        assert all(close) if same else not any(close)


@pytest.mark.parametrize("name", ["plstm", "gine"])
def test_command_line(folder, csv_file, name):
    """Its validation metric is that of the saved model on all graphs, one by one."""
    results = json.loads((folder / "molecules" / "metrics.json").read_text())
    data = molecules.load_csv(csv_file, "smiles", "size")
    parts = {part: data.part(part, 17) for part in data.split}
    assert results["graphs"] == {part: len(graphs) for part, graphs in parts.items()}
    checkpoint = folder / "molecules" / "checkpoints" / f"{name}.ckpt"
    module = GraphModule.load_from_checkpoint(checkpoint, map_location="cpu")
    views = Views.of(ModelConfig(name, 16, 2), parts, 2, "random", 2, seed=0)
    model = results["models"][name]
    for part, rmse in (("valid", model["best_valid_rmse"]), ("test", model["test"]["rmse"])):
        pred = predict(module, views.batches[part])
        found = final_metrics("regression", pred, data.targets(part))
        assert rmse == pytest.approx(found["rmse"], rel=1e-4)


@pytest.mark.parametrize("batches, processes", [(5, 1), (5, 2), (4, 3), (1, 4), (6, 3)])
def test_each_batch_counts_in_one_process(batches, processes):
    loader = SimpleNamespace(dataset=range(batches))
    share = -(-batches // processes)
    counted = []
    for rank in range(processes):
        trainer = SimpleNamespace(val_dataloaders=[loader], world_size=processes, global_rank=rank)
        counted += [i * processes + rank for i in range(share) if not is_repeat(trainer, i)]
    assert sorted(counted) == list(range(batches))
