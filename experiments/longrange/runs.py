"""Long-range tasks: pLSTM beside message passing and a graph transformer, in one protocol.

    CONFIGS=experiments/longrange/configs
    python -m experiments.longrange --config $CONFIGS/plstm.yaml --set gpp --select
    python -m experiments.longrange --config $CONFIGS/plstm.yaml --set gpp --seeds 0,1,2
    python -m experiments.longrange --config $CONFIGS/plstm.yaml --set gpp --seeds 0 --lr 2e-3 \
        --row plstm_p --options.modes P
    python -m experiments.longrange --config $CONFIGS/ablation/no_log_norm.yaml
    python -m experiments.longrange --config $CONFIGS/cells/delta.yaml --set words_s3 --select
    python -m experiments.longrange report
    python -m experiments.longrange report --results experiments/results/longrange/ablation

The sets are those of :mod:`datasets.longrange`. Every row of a table is a file of configs; all have
the width that comes closest to the same number of parameters, the same epochs and batches, and the
learning rate of three that is best on validation data after some epochs, which ``--select`` finds
and writes to select_ROW_SET.json. One model predicts all targets of a set. What counts are the test
values at the epoch of the best validation score, see :class:`.training.Scores`.

The directed sets of :mod:`datasets.longrange_tasks` tell the cells of configs/cells apart: models
of two layers and 40,000 parameters, 30 epochs of 8,000 graphs.

A run writes its results after each epoch, and its checkpoint: the same command goes on where it was
stopped, and leaves finished runs alone. Processes with other rows, sets or seeds may run at once.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from operator import itemgetter
from pathlib import Path
from typing import Any

from rich.console import Console

from datasets import InputError
from datasets import longrange as sets
from experiments import cli
from experiments.fitting import Protocol, quiet
from experiments.longrange.fitting import monitor, run
from experiments.longrange.models import LongRangeNet, Signature, match_budget
from experiments.longrange.published import kind_of
from experiments.longrange.report import RESULTS, report
from experiments.longrange.training import LOSSES
from experiments.models import ModelConfig, count_parameters, to_dict
from experiments.rates import choose_rate, chosen_rate

#: Epochs, batches and size of models of each kind of set, see :func:`kind_of`.
PROTOCOLS = {
    "gpp": {"epochs": 70, "batch_size": 64},
    "echo": {"epochs": 70, "batch_size": 32},
    "transfer": {"epochs": 200, "batch_size": 32},
    "barbell": {"epochs": 100, "batch_size": 32},
    "tree": {"epochs": 50, "batch_size": 128},
    "cells": {"epochs": 30, "batch_size": 64, "select_epochs": 6, "parameters": 40_000},
}
#: What the other kinds have in common.
SHARED = {"select_epochs": 5, "parameters": 60_000}


def train(
    row: str = "plstm",
    model: str = "plstm",
    set: str = "gpp",
    seeds: str | int = "0",
    select: bool = False,
    parameters: int | None = None,
    layers: int = 4,
    heads: int = 4,
    dropout: float = 0.0,
    local: str | None = None,
    options: dict[str, Any] | None = None,
    orientation: str = "canonical",
    average: int = 1,
    loss: str = "log_mse",
    lr: float | None = None,
    epochs: int | None = None,
    select_epochs: int | None = None,
    batch_size: int | None = None,
    warmup_epochs: int = 2,
    weight_decay: float = 1e-2,
    sizes: str | None = None,
    data_root: Path | None = None,
    out: Path = RESULTS,
    checkpoints_in: Path = Path("runs/longrange"),
) -> list[dict]:
    """Train one row on one set with each of the seeds, or go on with what was stopped.

    Args:
        row: name of the row, part of its files' names.
        model: plstm, or one of ``baselines.LOCAL`` and ``baselines.GLOBAL``.
        set: gpp, echo, transfer_SHAPE_DISTANCE, barbell_NODES, tree_DEPTH, or one of
            ``longrange_tasks.TASKS``.
        seeds: of initialisation, batches and orientations; separated by commas.
        select: choose the learning rate, with the first of the seeds, instead of training.
        parameters: the width is the one that comes closest to this count; by default that of
            the set.
        layers: layers or blocks.
        heads: heads of pLSTM and GPS.
        dropout: dropout.
        local: layer beside each layer of pLSTM, one of ``baselines.LOCAL``; null for none.
        options: further arguments of :class:`plstm_graph.nn.PLSTM`.
        orientation: of pLSTM's DAGs; random and random_bfs are sampled for every batch.
        average: with these two: orientations over which predictions are averaged.
        loss: mse, or log_mse for the logarithm of each target's mean squared error.
        lr: peak learning rate; by default the one that was chosen with --select.
        epochs: of each run; by default those of the set.
        select_epochs: of each run of --select; by default those of the set.
        batch_size: graphs per step; by default that of the set.
        warmup_epochs: epochs of rising learning rate.
        weight_decay: of AdamW.
        sizes: numbers of training, validation and test graphs, separated by commas; by default
            those of the set.
        data_root: folder of the data sets; default PLSTM_DATA_ROOT or ~/.cache/plstm_graph.
        out: folder of the results ROW_SET_seedN.json and select_ROW_SET.json.
        checkpoints_in: folder of checkpoints, logs, and the runs of --select.
    """
    if loss not in LOSSES:
        raise InputError(f"expected loss out of {', '.join(LOSSES)}, got {loss!r}; correct it")
    quiet()
    name, numbers = set, cli.integers("seeds", seeds)
    data = sets.load(name, data_root, sizes and tuple(cli.integers("sizes", sizes)))
    signature = Signature.of(data)
    config = ModelConfig(model, 0, layers, heads, dropout, local=local, options=options or None)
    kind = SHARED | PROTOCOLS[kind_of(name)]
    config = match_budget(config, signature, parameters or kind["parameters"])
    if model != "plstm":
        orientation, average = "none", 1
    protocol = Protocol(
        epochs=epochs or kind["epochs"], warmup_epochs=warmup_epochs,
        batch_size=batch_size or kind["batch_size"], weight_decay=weight_decay,
        accelerator="cpu", devices="1",
    )  # fmt: skip
    settings = {
        "row": row,
        "set": name,
        "graphs": {part: len(graphs) for part, graphs in data.parts.items()},
        "targets": [asdict(target) for target in data.targets],
        "model": to_dict(config),
        "parameters": count_parameters(LongRangeNet(config, signature)),
        "orientation": orientation,
        "average": average,
        "loss": loss,
    }
    selection = out / f"select_{row}_{name}.json"
    if select:
        short = select_epochs or kind["select_epochs"]
        seeded = replace(protocol, epochs=short, seed=numbers[0])
        metric, mode = monitor(data)
        results = choose_rate(
            lambda *where: run(data, config, settings, *where), itemgetter(metric), metric, mode,
            settings, seeded, selection, checkpoints_in,
        )  # fmt: skip
        for result in results:
            _print(result)
        return results
    same = ("model", "orientation", "loss")
    rate = chosen_rate(settings, selection, same) if lr is None else lr
    results = []
    for seed in numbers:
        seeded = replace(protocol, lr=rate, seed=seed)
        path = out / f"{row}_{name}_seed{seed}.json"
        results.append(run(data, config, settings, seeded, path, checkpoints_in / path.stem))
        _print(results[-1])
    return results


def _print(result: dict) -> None:
    """One line for a run: its test values, and how it came about."""
    if not result["epochs_done"]:
        return
    tested = [
        f"{target} {metric} {value:.4g}"
        for target, values in result["test"].items()
        for metric, value in values.items()
    ]
    if "train_accuracy" in result:
        tested.append(f"train accuracy {result['train_accuracy']:.4g}")
    words = [
        result["row"], result["set"], f"lr {result['protocol']['lr']:g}", f"seed {result['seed']}",
        f"epoch {result['best_epoch']} of {result['epochs_done']}", *tested,
        f"{result['parameters']:,} parameters",
        f"{result['cpu_seconds_per_epoch']:.1f} s of CPU time an epoch",
    ]  # fmt: skip
    Console().print(", ".join(words), highlight=False, soft_wrap=True)


def main(args: list[str] | None = None):
    """Command line; ``train`` where no command is named."""
    args = sys.argv[1:] if args is None else args
    args = ["--select=true" if arg == "--select" else arg for arg in args]
    return cli.run({"train": train, "report": report}, args, default="train")
