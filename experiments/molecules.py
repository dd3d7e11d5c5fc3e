"""The main job: real molecules in, a trained pLSTM out, beside baselines of the same budget.

    python -m experiments.molecules                          # embedded NCI molecules
    python -m experiments.molecules --dataset ogbg-molhiv
    python -m experiments.molecules --csv mine.csv --smiles-column smiles --target-column logS
    python -m experiments.molecules predict runs/molecules/nci/checkpoints/plstm.ckpt some.smi

Training is the default command. Options may also come from a file: ``--config FILE.yaml``.
"""

from __future__ import annotations

from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console

import datasets
from experiments import cli, reporting
from experiments.fitting import Fit, Protocol, fit, quiet
from experiments.models import NAMES, GraphNet, Inputs, ModelConfig, count_parameters, match_budget
from experiments.prediction import predict_file
from experiments.training import MONITOR

# --quick: every part of a run, in seconds.
QUICK_EPOCHS, QUICK_LIMIT = 2, 256


def train(
    dataset: str = "nci",
    csv: Path | None = None,
    smiles_column: str = "smiles",
    target_column: str | None = None,
    task: str | None = None,
    fold: int = 0,
    data_root: Path | None = None,
    models: str = "plstm,gine,gatv2",
    hidden: int = 64,
    layers: int = 4,
    heads: int = 4,
    dropout: float = 0.0,
    readout: str = "summean",
    local: str | None = "gine",
    ffn_ratio: float = 0.0,
    norm: str | None = None,
    head_norm: bool = False,
    post_norm: str | None = "batch_norm",
    zero_init: bool = True,
    baseline_layers: int = 4,
    baseline_dropout: float = 0.0,
    baseline_readout: str = "summean",
    orientation: str = "random",
    average: int = 8,
    epochs: int = 20,
    warmup_epochs: int = 2,
    batch_size: int = 64,
    lr: float = 3e-3,
    weight_decay: float = 1e-2,
    patience: int = 20,
    seed: int = 0,
    accelerator: str = "auto",
    devices: str = "auto",
    strategy: str = "auto",
    workers: int = 0,
    limit: int | None = None,
    quick: bool = False,
    out: Path | None = None,
) -> dict:
    """Train pLSTM and the baselines on one data set, and compare them on its test set.

    Args:
        dataset: nci (embedded), MUTAG, NCI1, PROTEINS, PTC_FM, ogbg-molhiv, ogbg-molesol,
            ogbg-molfreesolv or ogbg-mollipo.
        csv: a CSV file of molecules instead.
        smiles_column: its column of SMILES.
        target_column: its column of targets.
        task: regression or binary; by default, binary if all targets of the CSV are 0 or 1.
        fold: fold of the 10-fold cross-validation, for the TU sets.
        data_root: folder of the data sets; default PLSTM_DATA_ROOT or ~/.cache/plstm_graph.
        models: which of plstm, gine, gin, gatv2, gat, gcn, mpnn, lstm_gnn to train, separated by
            commas.
        hidden: width of pLSTM; the baselines get the width that meets its parameter count.
        layers: blocks of pLSTM.
        heads: heads of pLSTM, GAT and GATv2.
        dropout: of pLSTM.
        readout: of pLSTM: mean, sum, max, or summean (half of the channels each).
        local: layer beside each pLSTM layer: gine, gin, gatv2, gat, gcn or null for none.
        ffn_ratio: width of pLSTM's feed-forward over its own; 0 for none.
        norm: before each pLSTM layer: layer_norm, batch_norm, ... or null for none.
        head_norm: whether each head of pLSTM is normalised.
        post_norm: after each pLSTM layer and its local layer were added, as in the baselines, or
            null for none.
        zero_init: start each pLSTM layer at zero, beside its local layer.
        baseline_layers: layers of the baselines.
        baseline_dropout: dropout of the baselines.
        baseline_readout: readout of the baselines.
        orientation: DAG of a molecule: canonical, index, degree, bfs, or random or random_bfs,
            which are drawn anew for every batch, as augmentation.
        average: with those two: orientations over which predictions are averaged.
        epochs: most epochs of each model.
        warmup_epochs: epochs of rising learning rate.
        batch_size: graphs per step and device.
        lr: peak learning rate.
        weight_decay: of AdamW.
        patience: epochs without a better validation metric before a model stops.
        seed: of initialisation, batches and orientations.
        accelerator: auto, cpu or gpu.
        devices: number of devices.
        strategy: auto, or ddp for several devices.
        workers: processes that load batches.
        limit: use only so many graphs of each part.
        quick: a short run of everything, for tests.
        out: folder for results; default runs/molecules/DATASET.
    """
    if quick:
        epochs, limit = min(epochs, QUICK_EPOCHS), min(limit or QUICK_LIMIT, QUICK_LIMIT)
    names = models.replace(" ", "").split(",")
    if unknown := [name for name in names if name not in NAMES]:
        raise datasets.InputError(f"expected models out of {', '.join(NAMES)}, got {unknown}")
    quiet()
    data = datasets.load(
        dataset, root=data_root, csv=csv, smiles_column=smiles_column,
        target_column=target_column, task=task, fold=fold,
    )  # fmt: skip
    out = out or Path("runs") / "molecules" / data.name
    parts = {name: data.part(name, limit) for name in datasets.SPLITS}
    console = Console(quiet=rank_zero_only.rank != 0)  # one voice under DDP
    for note in (*data.notes, _describe(data, parts)):
        console.print(note, markup=False, highlight=False)

    protocol = Protocol(
        epochs, warmup_epochs, batch_size, lr, weight_decay, patience, seed,
        accelerator, devices, strategy, workers,
    )  # fmt: skip
    inputs = Inputs.of(data.graphs[0])
    options = {
        "ffn_ratio": ffn_ratio, "norm": norm, "head_norm": head_norm, "post_norm": post_norm,
        "zero_init": zero_init, "act": "relu",
    }  # fmt: skip
    plstm = ModelConfig("plstm", hidden, layers, heads, dropout, readout, local, options)
    budget = count_parameters(GraphNet(plstm, inputs))
    fits = {}
    for name in names:
        config = plstm
        if name != "plstm":
            config = ModelConfig(
                name, 0, baseline_layers, heads, baseline_dropout, baseline_readout
            )
            config = match_budget(config, inputs, budget)
        result = fit(config, parts, data.task, protocol, out, orientation, average)
        if result is not None:
            metric = reporting.title(MONITOR[data.task][0])
            console.print(
                f"{reporting.title(name)}: {len(result.history.epochs)} epochs in "
                f"{result.history.seconds:.0f} s, best validation {metric} {result.score:.3f}"
            )
        fits[name] = result
    if None in fits.values():
        return {}  # a helper process of DDP
    return _report(data, parts, fits, protocol, out, console, target_column)


def _describe(data: datasets.GraphDataset, parts: dict) -> str:
    sizes = ", ".join(f"{len(graphs)} {name}" for name, graphs in parts.items())
    return f"{data.name}: {data.task}, {sizes}"


def _report(
    data: datasets.GraphDataset,
    parts: dict,
    fits: dict[str, Fit],
    protocol: Protocol,
    out: Path,
    console: Console,
    label: str | None,
) -> dict:
    """Print the table and write metrics.json and the pictures; returns what the file holds."""
    metric = MONITOR[data.task][0]
    target = torch.cat([graph.y for graph in parts["test"]])
    rows = {
        name: {
            "test": reporting.final_metrics(data.task, result.pred, target, data.evaluator),
            f"best_valid_{metric}": result.score,
            "parameters": result.parameters,
            "seconds_per_epoch": result.history.seconds_per_epoch,
            "epochs": len(result.history.epochs),
            "config": reporting.plain(result.config),
        }
        for name, result in fits.items()
    }
    curves = {name: result.history.epochs for name, result in fits.items()}
    results = {
        "dataset": data.name,
        "task": data.task,
        "graphs": {name: len(graphs) for name, graphs in parts.items()},
        "notes": data.notes,
        "protocol": reporting.plain(protocol),
        **reporting.environment(protocol.seed),
        "models": rows,
        "curves": curves,
    }
    reporting.print_table(f"{data.name} ({data.task})", rows, console)
    reporting.write_json(out / "metrics.json", results)
    reporting.plot_curves(out / "curves.png", curves, metric)
    preds = {name: result.pred for name, result in fits.items()}
    label = "penalised logP" if data.name == "nci" else label or data.name
    reporting.plot_predictions(out / "predictions.png", data.task, preds, target, label)
    console.print(f"{out}: metrics.json, curves.png, predictions.png, checkpoints/, logs/")
    return results


def main(args: list[str] | None = None):
    """Command line; ``train`` where no command is named."""
    return cli.run({"train": train, "predict": predict_file}, args, default="train")


if __name__ == "__main__":
    main()
