"""Names of Python functions from their syntax trees, by pLSTM, a DAG-LSTM, GIN and GCN.

    CONFIGS=experiments/code_names/configs
    python -m experiments.code_names --config $CONFIGS/plstm.yaml --select
    python -m experiments.code_names --config $CONFIGS/plstm.yaml
    python -m experiments.code_names report

The set is that of :mod:`datasets.code_names`: functions of the standard library and of installed
packages, split by project, with the targets, classifiers and F1 of ogbg-code2. Every row of the
table is a file of configs. All rows have the same embeddings and classifiers, a body of the width
that comes closest to the same number of parameters, the same epochs and batches, and the learning
rate of three with the least validation loss after some epochs, which ``--select`` finds and writes
to select_ROW.json. What counts is the test F1 at the epoch of the best validation F1.

A run writes its results after each epoch, and its checkpoint: the same command goes on where it was
stopped, and leaves finished runs alone. Processes with other rows or seeds may run at once.
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import lightning as L
from rich.console import Console

from datasets import SPLITS, InputError, code_names
from datasets.code_names import CodeNames
from experiments import cli, resuming
from experiments.code_names.models import CodeConfig, CodeNet, Sizes, match_budget
from experiments.code_names.report import RESULTS, report
from experiments.code_names.training import loaders, make_module
from experiments.dag_training import PARTS
from experiments.fitting import Protocol, quiet
from experiments.models import count_parameters
from experiments.rates import choose_rate, chosen_rate
from experiments.training import chosen_epoch

MONITOR = "valid_f1"
METRICS = ("f1", "precision", "recall", "loss")
#: What chooses the learning rate: after a few epochs F1 hardly differs yet.
CHOICE = "valid_loss"


def train(
    row: str = "plstm",
    model: str = "plstm",
    seeds: str | int = "0,1,2",
    select: bool = False,
    parameters: int = 120_000,
    layers: int = 4,
    heads: int = 4,
    dropout: float = 0.2,
    tokens: str = "features",
    directions: str = "alternate",
    options: dict[str, Any] | None = None,
    lr: float | None = None,
    epochs: int = 20,
    select_epochs: int = 3,
    batch_size: int = 64,
    warmup_epochs: int = 1,
    weight_decay: float = 1e-2,
    limit: int | None = None,
    data_root: Path | None = None,
    out: Path = RESULTS,
    checkpoints_in: Path = Path("runs/code_names"),
) -> list[dict]:
    """Train one row with each of the seeds, or go on with what was stopped.

    Args:
        row: name of the row, part of its files' names.
        model: plstm, dag_lstm, gin or gcn.
        seeds: of initialisation, batches and dropout; separated by commas.
        select: choose the learning rate, with the first of the seeds, instead of training.
        parameters: the width of the body is the one that comes closest to this count.
        layers: layers or blocks.
        heads: heads of pLSTM.
        dropout: dropout.
        tokens: features or edges: how a node learns of the tokens before and after it.
        directions: of pLSTM and the DAG-LSTM: alternate, two_way, a pattern such as fr, ...
        options: further arguments of :class:`plstm_graph.nn.PLSTM`.
        lr: peak learning rate; by default the one that was chosen with --select.
        epochs: of each run.
        select_epochs: of each run of --select.
        batch_size: functions per step.
        warmup_epochs: epochs of rising learning rate.
        weight_decay: of AdamW.
        limit: use only so many functions of each part.
        data_root: folder of the data sets; default PLSTM_DATA_ROOT or ~/.cache/plstm_graph.
        out: folder of the results ROW_seedN.json and select_ROW.json.
        checkpoints_in: folder of checkpoints, logs, and the runs of --select.
    """
    numbers = cli.integers("seeds", seeds)
    if min(parameters, layers, epochs, select_epochs, batch_size) < 1:
        raise InputError(
            "expected parameters, layers, epochs, select_epochs and batch_size of 1 or more"
        )
    quiet()
    config = CodeConfig(model, 0, layers, heads, dropout, tokens, directions, options or {})
    config = match_budget(config, parameters)
    data = code_names.load(data_root, limit)
    net = CodeNet(config, Sizes.of(data.vocabulary))
    body = count_parameters(net.body)
    settings = {
        "row": row,
        "functions": {part: len(data.parts[part]) for part in SPLITS},
        "versions_of_data": data.versions,
        "model": asdict(config),
        "parameters": body,
        "shared_parameters": count_parameters(net) - body,
    }
    protocol = Protocol(
        epochs=epochs, warmup_epochs=warmup_epochs, batch_size=batch_size,
        weight_decay=weight_decay, accelerator="cpu", devices="1",
    )  # fmt: skip
    selection = out / f"select_{row}.json"
    if select:
        seeded = replace(protocol, epochs=select_epochs, seed=numbers[0])
        return choose_rate(
            lambda *where: run(data, config, settings, *where),
            lambda result: min(epoch[CHOICE] for epoch in result["epochs"]),
            CHOICE, "min", settings, seeded, selection, checkpoints_in,
        )  # fmt: skip
    rate = chosen_rate(settings, selection) if lr is None else lr
    results = []
    for seed in numbers:
        seeded = replace(protocol, lr=rate, seed=seed)
        path = out / f"{row}_seed{seed}.json"
        results.append(run(data, config, settings, seeded, path, checkpoints_in / path.stem))
    return results


def run(
    data: CodeNames,
    config: CodeConfig,
    settings: dict,
    protocol: Protocol,
    path: Path,
    folder: Path,
) -> dict:
    """One seed, from its last checkpoint in ``folder`` if there is one; its results in ``path``."""
    settings = {**settings, "protocol": resuming.lasting(protocol)}
    result = resuming.earlier(path, settings)
    if not result.get("finished"):
        L.seed_everything(protocol.seed, workers=True, verbose=False)
        module = make_module(data, config, protocol)
        batches = loaders(data, config, protocol)
        result = resuming.fit(
            module, *batches, protocol, settings, summary, path, folder,
            monitor=MONITOR, mode="max",
        )  # fmt: skip
    words = [
        result["row"], f"lr {protocol.lr:g}", f"seed {protocol.seed}",
        f"epoch {result['best_epoch']} of {result['epochs_done']}",
        f"valid F1 {result['valid_f1']:.4f}", f"test F1 {result['test_f1']:.4f}",
        f"{result['parameters']:,} parameters",
        f"{result['cpu_seconds_per_epoch']:.1f} s of CPU time an epoch",
    ]  # fmt: skip
    Console().print(", ".join(words), highlight=False, soft_wrap=True)
    return result


def summary(epochs: list[dict[str, float]]) -> dict:
    """Values of the chosen epoch (counted from 1), and the speed.

    Times include validation and test; CPU time is what a run costs where other processes share the
    machine.
    """
    best = chosen_epoch(epochs, MONITOR, "max")
    values = {f"{part}_{metric}": epochs[best][f"{part}_{metric}"]
              for part in PARTS for metric in METRICS}  # fmt: skip
    times = {
        f"{key}_per_epoch": round(statistics.median(epoch[key] for epoch in epochs), 2)
        for key in ("seconds", "cpu_seconds")
    }
    return {**values, "best_epoch": best + 1, **times}


def main(args: list[str] | None = None):
    """Command line; ``train`` where no command is named."""
    args = sys.argv[1:] if args is None else args
    args = ["--select=true" if arg == "--select" else arg for arg in args]
    return cli.run({"train": train, "report": report}, args, default="train")
