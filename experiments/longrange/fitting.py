"""One run of a long-range task, what it comes to, and the choice of its learning rate."""

from __future__ import annotations

import statistics
from functools import partial
from pathlib import Path

import lightning as L

from datasets.longrange import LongRange
from experiments import resuming
from experiments.fitting import Protocol
from experiments.longrange.training import evaluated, loaders, make_module
from experiments.models import ModelConfig
from experiments.training import chosen_epoch


def run(
    data: LongRange,
    config: ModelConfig,
    settings: dict,
    protocol: Protocol,
    path: Path,
    folder: Path,
) -> dict:
    """One seed, from its last checkpoint in ``folder`` if there is one; its results in ``path``."""
    settings = {**settings, "protocol": resuming.lasting(protocol)}
    done = resuming.earlier(path, settings)
    if done.get("finished"):
        return done
    L.seed_everything(protocol.seed, workers=True, verbose=False)
    module = make_module(data, config, protocol, settings["loss"])
    batches = loaders(data, config, protocol, settings["orientation"], settings["average"])
    metric, mode = monitor(data)
    return resuming.fit(
        module,
        *batches,
        protocol,
        settings,
        partial(summary, data=data),
        path,
        folder,
        monitor=metric,
        mode=mode,
    )


def monitor(data: LongRange) -> tuple[str, str]:
    """What picks the epoch: the validation score, or the training accuracy of roots' classes."""
    root = data.targets[0].level == "root"
    return ("train_accuracy", "max") if root else ("valid_score", "min")


def summary(epochs: list[dict[str, float]], data: LongRange) -> dict:
    """Values of the chosen epoch (counted from 1) by part and target, and the speed.

    Each number has "log_mse" (decimal logarithm, of scaled labels), "mse" and "mae" (in units of
    the label); classes have "accuracy", those of nodes "whole" (graphs without any error), too.
    Times include validation and test; CPU time, of all threads, is what a run costs
    where other processes share the machine.
    """
    metric, mode = monitor(data)
    best = chosen_epoch(epochs, metric, mode)
    values = {}
    for part in evaluated(data):
        values[part] = {}
        for target in data.targets:
            if target.classes:
                kept = ("accuracy", "whole") if target.level == "node_class" else ("accuracy",)
                found = {key: epochs[best][f"{part}_{key}_{target.name}"] for key in kept}
            else:
                log = epochs[best][f"{part}_log_mse_{target.name}"]
                mae = epochs[best][f"{part}_mae_{target.name}"]
                found = {"log_mse": log, "mse": 10**log * target.scale**2, "mae": mae}
            values[part][target.name] = found
    return {
        **values,
        metric: epochs[best][metric],
        "best_epoch": best + 1,
        **{
            f"{key}_per_epoch": round(statistics.median(epoch[key] for epoch in epochs), 3)
            for key in ("seconds", "cpu_seconds")
        },
    }
