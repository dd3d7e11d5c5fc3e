"""What tests/experiments/test_ddp.py runs in two processes: ``python -m ... FOLDER CSV``."""

import json
import sys
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader, DistributedSampler

from experiments import molecules
from experiments.fitting import Protocol, make_trainer, quiet
from experiments.loading import Views
from experiments.models import Inputs, ModelConfig, to_dict
from experiments.training import GraphModule, History
from plstm_graph.molecules.graphs import from_smiles

STEPS, EPOCHS, BATCH = 20, 5, 64


class Losses(Callback):
    """The loss of every step, the mean over all processes."""

    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        self.values.append(float(trainer.strategy.reduce(outputs["loss"], reduce_op="mean")))


def graphs(count, seed):
    """Small molecules with a random target."""
    heads = ("C", "O", "N", "c1ccccc1", "C1CC1", "c1ccoc1", "C1CCNCC1")
    made = [from_smiles(heads[i % 7] + "C" * (i % 11)) for i in range(count)]
    for graph, y in zip(made, torch.randn(count, 1, generator=torch.manual_seed(seed))):
        graph.y = y + graph.num_nodes / 8
    return made


class Validated(Callback):
    """The weights and buffers that are validated; they go back to training after this."""

    def on_validation_epoch_end(self, trainer, module):
        self.state = {key: value.clone() for key, value in module.state_dict().items()}


NORMS = ModelConfig("gin", 16, 2)  # has batch norms


def norms():
    """What a process validates after an epoch with weight averages, and its training batches."""
    parts = {"train": graphs(4 * BATCH, 0), "valid": graphs(BATCH, 1), "test": []}
    views = Views.of(NORMS, parts, BATCH)
    module = GraphModule(to_dict(NORMS), to_dict(Inputs.of(parts["train"][0])), "regression")
    protocol = Protocol(1, accelerator="cpu", devices=2, strategy="ddp", ema=1.0, norm_batches=2)
    validated = Validated()
    trainer = make_trainer(protocol, History(), validated, enable_checkpointing=False)
    trainer.fit(module, views.train_loader(), views.eval_loader("valid"))
    return {"state": validated.state, "batches": list(trainer.train_dataloader)}, trainer


def train(processes):
    """Losses of all steps and the metrics of all epochs; the batches of all processes make 64."""
    quiet()
    L.seed_everything(0, verbose=False)
    parts = {"train": graphs(STEPS // EPOCHS * BATCH, 0)}
    # Batches of validation for two processes: 3, one of them repeated, and 1, for one of them.
    parts |= {"valid": graphs(300, 1), "test": graphs(50, 2)}
    size = BATCH // processes
    config = ModelConfig("plstm", 16, 2, dropout=0.0, options={"norm": "layer_norm"})
    views = Views.of(config, parts, size)
    module = GraphModule(
        to_dict(config), to_dict(Inputs.of(parts["train"][0])), "regression", warmup_epochs=1
    )
    loader = views.train_loader()
    if processes == 1:  # the order that Lightning's own sampler has for several processes
        sampler = DistributedSampler(views.train, num_replicas=1, rank=0, seed=0)
        loader = DataLoader(views.train, size, sampler=sampler, collate_fn=views.collate)
    protocol = Protocol(
        EPOCHS, accelerator="cpu", devices=processes, strategy="ddp" if processes > 1 else "auto"
    )
    losses, history = Losses(), History()
    trainer = make_trainer(protocol, history, losses, enable_checkpointing=False)
    trainer.fit(module, loader, [views.eval_loader(part) for part in ("valid", "test")])
    return {"losses": losses.values, "epochs": history.epochs}, trainer.is_global_zero


if __name__ == "__main__":
    folder, csv = sys.argv[1:]
    found, first = train(2)
    if first:
        (Path(folder) / "found.json").write_text(json.dumps(found))
    found, trainer = norms()
    torch.save(found, Path(folder) / f"norms{trainer.global_rank}.pt")
    options = "--target-column size --models plstm,gine --hidden 16 --layers 2 --batch-size 2"
    options += " --epochs 1 --limit 17 --orientation random --average 2"
    options += " --accelerator cpu --devices 2 --strategy ddp"
    molecules.main(["--csv", csv, *options.split(), "--out", str(Path(folder) / "molecules")])
