"""Directed acyclic graphs: the accuracy of neural architectures, by pLSTM, a DAG-LSTM and GCN.

    python -m experiments.dags --config experiments/configs/na_plstm.yaml
    python -m experiments.dags --config experiments/configs/na_gcn.yaml --seeds 1

Supervised regression on 19,020 architectures (:mod:`datasets.na`): root mean squared error and
Pearson's correlation r on the standardised accuracy. Every model has the width that comes closest
to the same number of parameters. What counts are the test values at the epoch of the lowest
validation error; the test set selects nothing.

A run writes its results after each epoch, and its checkpoint: the same command goes on where it was
stopped, and leaves finished runs alone. Processes with other --seeds or --out may run at once.
"""

from __future__ import annotations

import statistics
from dataclasses import asdict
from pathlib import Path

import lightning as L
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.table import Table

import datasets
from datasets import na
from experiments import cli, reporting, resuming
from experiments.dag_models import DagConfig, DagNet, match_budget
from experiments.dag_training import PARTS, GraphBatches, eval_batches, loader, make_module
from experiments.fitting import Protocol, quiet
from experiments.loading import EVAL_FACTOR
from experiments.models import count_parameters
from experiments.training import chosen_epoch
from plstm_graph import to_line_graphs

#: Test RMSE and r of DAGNN (arXiv 2101.07965).
PUBLISHED = {"rmse": 0.264, "r": 0.964}
LEGEND = (
    "Test values at the first epoch of lowest validation RMSE, mean ± standard deviation over "
    "seeds. DAGNN's numbers (RMSE 0.264, r 0.964) are of another kind: regression from the latent "
    "space of a variational autoencoder that was trained to rebuild the architectures, where ours "
    "is direct supervised regression."
)


def train(
    model: str = "plstm",
    parameters: int = 250_000,
    layers: int = 4,
    heads: int = 4,
    dropout: float = 0.0,
    readout: str = "ends",
    directions: str = "alternate",
    modes: str = "PD",
    ffn_ratio: float = 1.0,
    degree_encoding: str | None = "dag",
    seeds: str | int = "0,1,2",
    epochs: int = 60,
    warmup_epochs: int = 2,
    batch_size: int = 64,
    lr: float = 1e-3,
    weight_decay: float = 1e-2,
    accelerator: str = "cpu",
    devices: str = "1",
    strategy: str = "auto",
    limit: int | None = None,
    data_root: Path | None = None,
    out: Path | None = None,
    checkpoints_in: Path = Path("runs/dags"),
) -> list[dict]:
    """Train one model with each of the seeds, or go on with what was stopped.

    Args:
        model: plstm, dag_lstm or gcn.
        parameters: the width is the one that comes closest to this count.
        layers: blocks or layers.
        heads: heads of pLSTM.
        dropout: dropout.
        readout: mean, sum, max, output (nodes without successors) or ends (these and those
            without predecessors).
        directions: alternate (along the edges and against them, in turns) or forward.
        modes: of pLSTM's blocks, a pattern that is repeated.
        ffn_ratio: width of pLSTM's feed-forward layers over that of its blocks; 0 for none.
        degree_encoding: of pLSTM: dag (in- and out-degree), undirected or null for none.
        seeds: of initialisation, batches and dropout; separated by commas.
        epochs: of each run.
        warmup_epochs: epochs of rising learning rate.
        batch_size: graphs per step and device.
        lr: peak learning rate.
        weight_decay: of AdamW.
        accelerator: auto, cpu or gpu.
        devices: number of devices.
        strategy: auto, or ddp for several devices.
        limit: use only so many graphs of each part.
        data_root: folder of the data sets; default PLSTM_DATA_ROOT or ~/.cache/plstm_graph.
        out: results go to OUT_seedN.json; default runs/dags/na_MODEL.
        checkpoints_in: folder of checkpoints.
    """
    if min(parameters, layers, epochs, batch_size, 1 if limit is None else limit) < 1:
        raise datasets.InputError(
            "expected parameters, layers, epochs, batch_size and limit of 1 or more"
        )
    numbers = _seeds(str(seeds))
    quiet()
    options = {"modes": modes, "ffn_ratio": ffn_ratio, "degree_encoding": degree_encoding}
    config = match_budget(
        DagConfig(
            model, na.KINDS, 0, layers, heads, dropout, readout, directions,
            options if model == "plstm" else {},
        ),
        parameters,
    )  # fmt: skip
    data = na.load(data_root)
    parts = {part: to_line_graphs(data.part(part, limit)) for part in datasets.SPLITS}
    out = out or Path("runs") / "dags" / f"na_{model}"
    hardware = {"accelerator": accelerator, "devices": devices, "strategy": strategy}
    console = Console(quiet=rank_zero_only.rank != 0)  # one voice under DDP
    results = []
    for seed in numbers:
        protocol = Protocol(
            epochs, warmup_epochs, batch_size, lr, weight_decay, patience=epochs, seed=seed,
            **hardware,
        )  # fmt: skip
        settings = {
            "dataset": "na",
            "model": asdict(config),
            "parameters": count_parameters(DagNet(config)),
            "graphs": {part: len(graphs) for part, graphs in parts.items()},
            "notes": data.notes,
            "protocol": resuming.lasting(protocol),
        }
        path = out.with_name(f"{out.name}_seed{seed}.json")
        results.append(run(settings, config, parts, protocol, path, checkpoints_in / path.stem))
    _print(results, console)
    return results


def _seeds(seeds: str) -> list[int]:
    try:
        return [int(seed) for seed in seeds.split(",")]
    except ValueError:
        raise datasets.InputError(
            f"expected seeds as integers separated by commas, got {seeds!r}"
        ) from None


def run(
    settings: dict, config: DagConfig, parts: dict, protocol: Protocol, path: Path, folder: Path
) -> dict:
    """One seed, from its last checkpoint in ``folder`` if there is one; its results in ``path``."""
    done = resuming.earlier(path, settings)
    if done.get("finished"):
        return done
    L.seed_everything(protocol.seed, workers=True, verbose=False)
    size = EVAL_FACTOR * protocol.batch_size
    return resuming.fit(
        make_module(config, protocol),
        loader(GraphBatches(parts["train"], protocol.batch_size, protocol.seed)),
        [loader(eval_batches(parts[part], size)) for part in PARTS],
        protocol,
        settings,
        summary,
        path,
        folder,
        monitor="valid_rmse",
        mode="min",
    )


def summary(epochs: list[dict[str, float]]) -> dict:
    """Validation and test values of the chosen epoch (counted from 1), and the speed."""
    best = chosen_epoch(epochs, "valid_rmse", "min")
    keys = [f"{part}_{metric}" for part in PARTS for metric in PUBLISHED]
    seconds = statistics.median(epoch["seconds"] for epoch in epochs)
    values = {key: epochs[best][key] for key in keys}
    return {**values, "best_epoch": best + 1, "seconds_per_epoch": round(seconds, 2)}


def _print(results: list[dict], console: Console) -> None:
    results = [result for result in results if result["epochs_done"]]
    if not results:
        return  # a helper process of DDP
    name = results[0]["model"]["name"]
    table = Table(title=f"neural architectures: {reporting.title(name)}")
    columns = ("seed", "test RMSE", "test r", "epoch", "parameters", "seconds per epoch")
    for column in columns:
        table.add_column(column, justify="right")
    for result in results:
        table.add_row(
            str(result["seed"]), f"{result['test_rmse']:.4f}", f"{result['test_r']:.4f}",
            f"{result['best_epoch']} of {result['epochs_done']}", f"{result['parameters']:,}",
            f"{result['seconds_per_epoch']:.1f}",
        )  # fmt: skip
    console.print(table)
    console.print(LEGEND, markup=False, highlight=False)


def main(args: list[str] | None = None):
    """Command line."""
    return cli.run(train, args)


if __name__ == "__main__":
    main()
