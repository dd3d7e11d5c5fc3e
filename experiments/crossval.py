"""10-fold cross-validation on the TU sets, under the protocol of the published table.

    python -m experiments.crossval --dataset MUTAG
    python -m experiments.crossval --config experiments/configs/crossval_mutag_gin.yaml

StratifiedKFold(10, shuffle, seed 42), the rest 8 : 1 into training and validation; 100 epochs of
AdamW, learning rate 1e-3, cosine with 5 epochs of warm-up, batches of 64, under 300,000
parameters. What counts is the test accuracy at the first epoch that reaches the best validation
accuracy; the test set is read for nothing else.

Every fold is written when it is done, and a run that was cut off goes on with the next one.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import lightning as L
import torch
from rich.console import Console
from rich.table import Table

import datasets
from datasets import tu
from experiments import cli, reporting
from experiments.fitting import Protocol, make_trainer, quiet
from experiments.loading import Views
from experiments.models import (
    GraphNet,
    Inputs,
    ModelConfig,
    count_parameters,
    match_budget,
    to_dict,
)
from experiments.training import GraphModule, History

FOLDS = 10


def chosen_epoch(epochs: list[dict[str, float]]) -> int:
    """The first epoch (from 0) that reaches the best validation accuracy."""
    accuracy = [epoch["valid_accuracy"] for epoch in epochs]
    return accuracy.index(max(accuracy))


def run_fold(
    data: datasets.GraphDataset,
    config: ModelConfig,
    protocol: Protocol,
    orientation: str,
    average: int,
) -> dict:
    """Train on one fold: its test accuracy, the chosen epoch (from 1), and all curves."""
    L.seed_everything(protocol.seed, workers=True, verbose=False)
    parts = {name: data.part(name) for name in datasets.SPLITS}
    views = Views.of(config, parts, protocol.batch_size, orientation, average, protocol.seed)
    module = GraphModule(
        to_dict(config),
        to_dict(Inputs.of(data.graphs[0])),
        data.task,
        lr=protocol.lr,
        weight_decay=protocol.weight_decay,
        warmup_epochs=protocol.warmup_epochs,
        average=views.average,
        orientation=orientation,
    )
    history = History()
    trainer = make_trainer(protocol, history, enable_checkpointing=False)
    loaders = [views.eval_loader("valid"), views.eval_loader("test")]
    trainer.fit(module, views.train_loader(), loaders)
    best = chosen_epoch(history.epochs)
    keys = ("loss", "valid_accuracy", "test_accuracy")
    return {
        "test_accuracy": history.epochs[best]["test_accuracy"],
        "valid_accuracy": history.epochs[best]["valid_accuracy"],
        "epoch": best + 1,
        "seconds_per_epoch": round(history.seconds_per_epoch, 4),
        "curves": {key: [round(epoch[key], 5) for epoch in history.epochs] for key in keys},
    }


def crossval(
    dataset: str = "MUTAG",
    model: str = "plstm",
    hidden: int = 96,
    layers: int = 4,
    heads: int = 4,
    dropout: float = 0.0,
    readout: str | None = None,
    local: str | None = None,
    ffn_ratio: float = 1.0,
    orientation: str = "canonical",
    average: int = 1,
    epochs: int = 100,
    warmup_epochs: int = 5,
    batch_size: int = 64,
    lr: float = 1e-3,
    weight_decay: float = 1e-2,
    seed: int = 0,
    accelerator: str = "cpu",
    folds: int = FOLDS,
    data_root: Path | None = None,
    out: Path | None = None,
) -> dict:
    """Cross-validate one model on one TU set.

    Args:
        dataset: MUTAG, NCI1, PROTEINS or PTC_FM.
        model: plstm, gin, gine or gatv2.
        hidden: width of pLSTM; another model gets the width that meets its parameter count.
        layers: blocks or layers; pLSTM's alternate between P and D.
        heads: heads of pLSTM and GATv2.
        dropout: dropout.
        local: gine, gin or gatv2: a layer beside each of pLSTM's, as in GPS.
        ffn_ratio: width of pLSTM's feed-forward layers over that of its blocks; 0 for none.
        readout: default mean for pLSTM and sum for the others, as published.
        orientation: of pLSTM's DAGs; random is drawn anew for every batch.
        average: with random: orientations over which predictions are averaged.
        epochs: epochs of each fold.
        warmup_epochs: epochs of rising learning rate.
        batch_size: graphs per step.
        lr: peak learning rate.
        weight_decay: of AdamW.
        seed: of initialisation, batches and orientations, the same in every fold.
        accelerator: cpu or gpu.
        folds: run only the first ones, for tests.
        data_root: folder of the data sets; default PLSTM_DATA_ROOT or ~/.cache/plstm_graph.
        out: result file; default runs/crossval/DATASET_MODEL_ORIENTATION.json.
    """
    quiet()
    if dataset not in tu.NAMES:
        raise datasets.InputError(f"expected dataset one of {', '.join(tu.NAMES)}, got {dataset!r}")
    protocol = Protocol(
        epochs, warmup_epochs, batch_size, lr, weight_decay, seed=seed, accelerator=accelerator,
        devices="1",
    )  # fmt: skip
    data = tu.load(dataset, data_root)
    inputs = Inputs.of(data.graphs[0])
    config = ModelConfig(
        "plstm", hidden, layers, heads, dropout, readout or "mean", local,
        options={"degree_encoding": "undirected", "modes": "PD", "ffn_ratio": ffn_ratio},
    )  # fmt: skip
    if model != "plstm":
        budget = count_parameters(GraphNet(config, inputs))
        config = ModelConfig(model, 0, layers, heads, dropout, readout or "sum")
        config = match_budget(config, inputs, budget)
        orientation, average = "none", 1
    settings = {
        "dataset": dataset,
        "model": to_dict(config),
        "protocol": reporting.plain(protocol),
        "orientation": orientation,
        "average": average,
        "parameters": count_parameters(GraphNet(config, inputs)),
    }
    out = out or Path("runs") / "crossval" / f"{dataset}_{model}_{orientation}.json"
    done = _resume(out, settings)
    for fold in range(folds):
        if str(fold) in done:
            continue
        data.split = datasets.cross_validation_split(_labels(data), fold)
        done[str(fold)] = run_fold(data, config, protocol, orientation, average)
        result = {**settings, **_summary(done), **reporting.environment(seed), "folds": done}
        reporting.write_json(out, result)
    result = json.loads(out.read_text())
    _print(result)
    return result


def _labels(data: datasets.GraphDataset) -> torch.Tensor:
    return torch.cat([graph.y for graph in data.graphs]).long()


def _resume(out: Path, settings: dict) -> dict[str, dict]:
    """Folds that an earlier run with the same settings has finished."""
    if not out.exists():
        return {}
    earlier = json.loads(out.read_text())
    # As JSON has them: tuples are lists there.
    wanted = json.loads(json.dumps(settings))
    different = [key for key, value in wanted.items() if earlier.get(key) != value]
    if different:
        raise datasets.InputError(
            f"expected {out} to be of a run with the same settings, got another "
            f"{', '.join(different)}; remove the file or choose another --out"
        )
    return earlier["folds"]


def _summary(done: dict[str, dict]) -> dict:
    accuracy = [fold["test_accuracy"] for fold in done.values()]
    return {
        "test_accuracy_mean": statistics.mean(accuracy),
        "test_accuracy_sd": statistics.stdev(accuracy) if len(accuracy) > 1 else None,
        "test_accuracy_folds": accuracy,
    }


def _print(result: dict) -> None:
    name = result["model"]["name"]
    table = Table(title=f"{result['dataset']}, {len(result['folds'])} folds")
    for column in ("model", "test accuracy", "sd", "parameters", "seconds per epoch"):
        table.add_column(column, justify="left" if column == "model" else "right")
    seconds = statistics.mean(fold["seconds_per_epoch"] for fold in result["folds"].values())
    sd = result["test_accuracy_sd"]
    table.add_row(
        reporting.title(name), f"{result['test_accuracy_mean']:.4f}",
        "" if sd is None else f"{sd:.4f}", f"{result['parameters']:,}", f"{seconds:.2f}",
    )  # fmt: skip
    Console().print(table)


def main(args: list[str] | None = None):
    """Command line."""
    return cli.run(crossval, args)


if __name__ == "__main__":
    main()
