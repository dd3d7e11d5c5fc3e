"""10-fold cross-validation on the TU sets, under the protocol of the published table.

    python -m experiments.tu --config experiments/configs/tu_plstm.yaml
    python -m experiments.tu --config experiments/configs/tu_gin.yaml --sets NCI1 --folds 2
    python -m experiments.tu --config experiments/configs/tu_gin.yaml --sets MUTAG --seeds 1,2
    python -m experiments.tu report experiments/results

StratifiedKFold(10, shuffle, seed 42), the rest 8 : 1 into training and validation; 100 epochs of
AdamW, learning rate 1e-3, cosine with 5 epochs of warm-up, batches of 64, under 300,000
parameters. What counts is the test accuracy at the first epoch that reaches the best validation
accuracy; the test set is read only where an epoch is the best so far.

A run is one row of the table. Each of its data sets and seeds has a file of its own, written
after every fold: the same command goes on with the next one. The folds are the same with every
seed. Processes with other rows, --sets or --seeds may run at once.
"""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path

import lightning as L
import torch
from rich.console import Console

from datasets import SPLITS, GraphDataset, InputError, cross_validation_split
from datasets import tu as tu_sets
from experiments import cli, reporting, resuming
from experiments.fitting import Protocol, make_module, make_trainer, quiet
from experiments.graph_runs import TestBest
from experiments.loading import Views
from experiments.models import GraphNet, Inputs, ModelConfig, count_parameters, to_dict
from experiments.training import History, chosen_epoch
from experiments.tu_report import report

FOLDS = 10
BUDGET = 300_000  # parameters
PROTOCOL = Protocol(
    epochs=100, warmup_epochs=5, batch_size=64, lr=1e-3, accelerator="cpu", devices="1"
)
MODEL = ModelConfig("plstm", 96, 4)  # the rows of the table are in experiments/configs


def train(
    row: str = "plstm",
    model: ModelConfig = MODEL,
    sets: str = ",".join(tu_sets.NAMES),
    seeds: str | int = "0",
    protocol: Protocol = PROTOCOL,
    orientation: str = "canonical",
    average: int = 1,
    walks: int = 0,
    folds: int = FOLDS,
    limit: int | None = None,
    data_root: Path | None = None,
    out: Path = Path("runs/tu"),
) -> list[dict]:
    """Cross-validate one model, or go on with what was stopped.

    Args:
        row: name of this row of the table, and part of its files' names.
        model: the model, under 300,000 parameters.
        sets: which of MUTAG, NCI1, PROTEINS, PTC_FM; separated by commas.
        seeds: of initialisation, batches and orientations; separated by commas.
        protocol: how to train.
        orientation: of pLSTM's DAGs; random and random_bfs are sampled for every batch.
        average: with these two: orientations over which predictions are averaged.
        walks: steps of the random walks whose return probabilities are read, see
            :func:`datasets.tu.load`.
        folds: run only the first ones.
        limit: use only so many graphs of each set, for tests.
        data_root: folder of the data sets; default PLSTM_DATA_ROOT or ~/.cache/plstm_graph.
        out: folder of the results tu_ROW_SET_seedN.json.
    """
    quiet()
    if not 1 <= folds <= FOLDS:
        raise InputError(f"expected folds from 1 to {FOLDS}, got {folds}")
    if model.name != "plstm":
        orientation, average = "none", 1
    numbers, results = cli.integers("seeds", seeds), []
    for name in cli.names("sets", sets, tu_sets.NAMES):
        data = _limited(tu_sets.load(name, data_root, walks=walks), limit)
        settings = {
            "row": row,
            "dataset": name,
            "model": to_dict(model),
            "orientation": orientation,
            "average": average,
            "walks": walks,
            "limit": limit,
            "parameters": count_parameters(GraphNet(model, Inputs.of(data.graphs[0]))),
        }
        if settings["parameters"] >= BUDGET:
            raise InputError(
                f"expected a model under {BUDGET:,} parameters, got {settings['parameters']:,} "
                f"for {name}; choose a smaller model.hidden"
            )
        for seed in numbers:
            seeded = replace(protocol, seed=seed)
            path = out / f"tu_{row}_{name.lower()}_seed{seed}.json"
            results.append(_run_folds(data, settings, model, seeded, folds, path))
    return results


def _run_folds(
    data: GraphDataset,
    settings: dict,
    model: ModelConfig,
    protocol: Protocol,
    folds: int,
    path: Path,
) -> dict:
    """The folds that are not in the file yet; what it then holds."""
    settings = {**settings, "protocol": resuming.lasting(protocol)}
    result = resuming.earlier(path, settings)
    done = dict(result.get("folds", {}))
    labels = torch.cat([graph.y for graph in data.graphs]).long()
    for fold in range(folds):
        if str(fold) in done:
            continue
        data.split = cross_validation_split(labels, fold)
        orientation, average = settings["orientation"], settings["average"]
        done[str(fold)] = run_fold(data, model, protocol, orientation, average)
        environment = reporting.environment(protocol.seed)
        result = {**settings, **_summary(done), **environment, "folds": done}
        reporting.write_json(path, result)
    mean, sd = result["test_accuracy_mean"], result["test_accuracy_sd"]
    spread = "" if sd is None else f" ± {sd:.4f}"
    Console().print(
        f"{settings['row']}, {data.name}, seed {protocol.seed}: {mean:.4f}{spread} "
        f"({len(done)} folds)",
        highlight=False,
    )
    return result


def run_fold(
    data: GraphDataset, config: ModelConfig, protocol: Protocol, orientation: str, average: int
) -> dict:
    """Train on one fold: its test accuracy, the chosen epoch (from 1), and its curves."""
    L.seed_everything(protocol.seed, workers=True, verbose=False)
    parts = {name: data.part(name) for name in SPLITS}
    views = Views.of(config, parts, protocol.batch_size, orientation, average, protocol.seed)
    module = make_module(config, parts["train"], data.task, protocol, views.average, orientation)
    history = History()
    test_best = TestBest(data, parts["test"], views, "accuracy", "max")
    trainer = make_trainer(protocol, history, test_best, enable_checkpointing=False)
    trainer.fit(module, views.train_loader(protocol.workers), [views.eval_loader("valid")])
    best = chosen_epoch(history.epochs, "valid_accuracy", "max")
    keys = ("loss", "valid_accuracy")
    return {
        "test_accuracy": history.epochs[best]["test_accuracy"],
        "valid_accuracy": history.epochs[best]["valid_accuracy"],
        "epoch": best + 1,
        "seconds_per_epoch": round(history.seconds_per_epoch, 4),
        "curves": {key: [round(epoch[key], 5) for epoch in history.epochs] for key in keys},
    }


def _limited(data: GraphDataset, limit: int | None) -> GraphDataset:
    """Some of the graphs, from all over the set: their order may follow the classes."""
    if limit is None or limit >= len(data.graphs):
        return data
    rows = torch.linspace(0, len(data.graphs) - 1, max(limit, 1)).long().tolist()
    data.graphs = [data.graphs[i] for i in rows]
    ones = int(sum(graph.y.item() for graph in data.graphs))
    if min(ones, len(rows) - ones) < FOLDS:
        raise InputError(
            f"expected limit to leave {FOLDS} graphs of each class of {data.name}, got {limit}, "
            f"which leaves {min(ones, len(rows) - ones)} of one; choose a larger one"
        )
    return data


def _summary(done: dict[str, dict]) -> dict:
    accuracy = [fold["test_accuracy"] for fold in done.values()]
    return {
        "test_accuracy_mean": statistics.mean(accuracy),
        "test_accuracy_sd": statistics.stdev(accuracy) if len(accuracy) > 1 else None,
        "test_accuracy_folds": accuracy,
    }


def main(args: list[str] | None = None):
    """Command line; ``train`` where no command is named."""
    return cli.run({"train": train, "report": report}, args, default="train")


if __name__ == "__main__":
    main()
