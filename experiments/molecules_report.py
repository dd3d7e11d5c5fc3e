"""What a run of the main job leaves: one table, metrics.json and the pictures."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from pathlib import Path

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch_geometric.data import Data

from datasets import GraphDataset
from experiments import molecules_plots, reporting
from experiments.fitting import Fit, Protocol, target_scale
from experiments.metrics import SEVERAL, monitor_of
from experiments.reporting import title
from plstm_graph.molecules import store

#: Test metrics of which more is better; of all others less is.
HIGHER = ("r2", "roc_auc", "rocauc", "accuracy", "average_precision")
#: The baseline that others are compared with, where it is trained.
REFERENCE = "gine"


@dataclass(frozen=True)
class Run:
    """What all models and seeds of a run share.

    Args:
        data: the data set.
        parts: "train", "valid" and "test" graphs that were used.
        protocol: how the models were trained; its seed is not used.
        out: folder of the results.
        console: where the table is printed.
    """

    data: GraphDataset
    parts: dict[str, list[Data]]
    protocol: Protocol
    out: Path
    console: Console

    @property
    def several(self) -> bool:
        """Whether several targets are regressed."""
        return self.data.task == "regression" and self.data.num_targets > 1

    @property
    def monitor(self) -> str:
        """The validation metric that picks the epoch."""
        return monitor_of(self.data.task, self.data.num_targets)[0]

    @property
    def target(self) -> Tensor:
        """[B] or [B, T] targets of the test set."""
        return torch.cat([graph.y for graph in self.parts["test"]])

    @property
    def std(self) -> Tensor:
        """[] or [T] standard deviations of the training targets."""
        return target_scale(self.parts["train"])[1]

    def describe(self) -> str:
        """One line: task, sizes, targets."""
        sizes = ", ".join(f"{len(graphs)} {name}" for name, graphs in self.parts.items())
        names = ", ".join(map(title, self.data.target_names))
        targets = f"; targets: {names}" if self.data.num_targets > 1 else ""
        return f"{self.data.name}: {self.data.task}, {sizes}{targets}"


def report(run: Run, fits: dict[str, dict[int, Fit]]) -> dict:
    """Print the table and write metrics.json and the pictures.

    Args:
        run: what all models share.
        fits: model -> seed -> fit; the same seeds for all models.

    Returns:
        What metrics.json holds.
    """
    models = {name: _model(run, seeds) for name, seeds in fits.items()}
    seeds = list(next(iter(fits.values())))
    protocol = {key: value for key, value in reporting.plain(run.protocol).items() if key != "seed"}
    results = {
        "dataset": run.data.name,
        "task": run.data.task,
        "targets": run.data.target_names,
        "unit": "standard deviation of the training targets" if run.several else "target",
        "graphs": {name: len(graphs) for name, graphs in run.parts.items()},
        "notes": run.data.notes,
        "protocol": protocol,
        "seeds": seeds,
        **reporting.environment(),
        "models": models,
    }
    run.console.print(table(run, models))
    # What is no number is null: NaN is no JSON.
    reporting.write_json(run.out / "metrics.json", store.plain(results))
    first = {name: by_seed[seeds[0]] for name, by_seed in fits.items()}
    curves = {name: fit.history.epochs for name, fit in first.items()}
    reporting.plot_curves(run.out / "curves.png", curves, run.monitor)
    molecules_plots.plot_predictions(
        run.out / "predictions.png", run.data.task, {n: fit.pred for n, fit in first.items()},
        run.target, run.data.target_names, run.std,
    )  # fmt: skip
    pictures = "curves.png, predictions.png"
    if run.several:
        errors = {
            name: {key: [one["test"][key] for one in model["runs"]] for key in model["test"]}
            for name, model in models.items()
        }
        molecules_plots.plot_targets(run.out / "targets.png", errors, REFERENCE)
        pictures += ", targets.png"
    run.console.print(f"{run.out}: metrics.json, {pictures}, checkpoints/, logs/")
    return results


def _model(run: Run, fits: dict[int, Fit]) -> dict:
    """The runs of a model, and the means over them."""
    runs = [
        {
            "seed": seed,
            "test": reporting.final_metrics(
                run.data.task, fit.pred, run.target, run.data.evaluator,
                names=run.data.target_names, std=run.std,
            ),
            f"best_valid_{run.monitor}": fit.score,
            "seconds_per_epoch": fit.history.seconds_per_epoch,
            "epochs": len(fit.history.epochs),
            "curve": fit.history.epochs,
        }
        for seed, fit in fits.items()
    ]  # fmt: skip
    first = next(iter(fits.values()))
    metrics = {key: [one["test"][key] for one in runs] for key in runs[0]["test"]}
    means = [f"best_valid_{run.monitor}", "seconds_per_epoch", "epochs"]
    result = {
        "test": {key: statistics.fmean(values) for key, values in metrics.items()},
        **{key: statistics.fmean(one[key] for one in runs) for key in means},
        "parameters": first.parameters,
        "config": reporting.plain(first.config),
        "runs": runs,
    }
    if len(runs) > 1:
        errors = {key: standard_error(values) for key, values in metrics.items()}
        result["test_standard_error"] = errors
    return result


def standard_error(values: list[float]) -> float:
    """Standard error of the mean of two or more values."""
    return statistics.stdev(values) / math.sqrt(len(values))


def table(run: Run, models: dict[str, dict]) -> Table:
    """A row for each test metric, a column for each model; the best of each row is marked."""
    count = len(next(iter(models.values()))["runs"])
    unit = ", RMSE in standard deviations of the training targets" if run.several else ""
    spread = f"; mean ± standard error over {count} seeds" if count > 1 else ""
    made = Table(
        title=f"{run.data.name} ({run.data.task}): test set{unit}{spread}",
        caption="* best of the row" if len(models) > 1 else None,
        box=box.SIMPLE,
        padding=(0, 1, 0, 0),
    )  # four models with standard errors fit 80 columns
    made.add_column("", no_wrap=True)
    for name in models:
        made.add_column(title(name), justify="right", no_wrap=True)
    for key in next(iter(models.values()))["test"]:
        made.add_row(
            title(key), *_cells(key, models), end_section=key == _last(models, run.several)
        )
    made.add_section()
    made.add_row("parameters", *(f"{model['parameters']:,}" for model in models.values()))
    seconds = (f"{model['seconds_per_epoch']:.2f}" for model in models.values())
    made.add_row("seconds/epoch", *seconds)
    made.add_row("epochs", *(f"{model['epochs']:g}" for model in models.values()))
    return made


def _last(models: dict[str, dict], several: bool) -> str | None:
    """The last target before the mean of all."""
    keys = [key for key in next(iter(models.values()))["test"] if key != SEVERAL[0]]
    return keys[-1] if several else None


def _cells(key: str, models: dict[str, dict]) -> list[str]:
    values = {name: model["test"][key] for name, model in models.items()}
    defined = [value for value in values.values() if not math.isnan(value)]
    best = (max if key in HIGHER else min)(defined) if defined and len(models) > 1 else None
    cells = []
    for name, value in values.items():
        errors = models[name].get("test_standard_error")
        text = f"{value:.3f}" + (f"±{errors[key]:.3f}" if errors else "")
        cells.append(f"[bold]* {text}[/bold]" if value == best else text)
    return cells
