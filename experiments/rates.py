"""The choice of a learning rate by short runs on validation data."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from datasets import InputError
from experiments import reporting, resuming
from experiments.fitting import Protocol

#: Learning rates that are tried.
RATES = (1e-3, 2e-3, 4e-3)


def choose_rate(
    run: Callable[[Protocol, Path, Path], dict],
    score: Callable[[dict], float],
    metric: str,
    mode: str,
    settings: dict,
    protocol: Protocol,
    path: Path,
    folder: Path,
    rates: Sequence[float] = RATES,
) -> list[dict]:
    """A short run with each rate, or those that are missing; the best rate goes to ``path``.

    Args:
        run: trains by a protocol, with results in a file and checkpoints in a folder.
        score: of the results of a run.
        metric: what the score is called.
        mode: "min" or "max" of it.
        settings: of the rows, for the record.
        protocol: of a run, but for its rate.
        path: the file of the choice.
        folder: of the results and checkpoints of the short runs.
        rates: that are tried.

    Returns:
        The results of the runs.
    """
    results, scores = [], {}
    for rate in rates:
        stem = f"{path.stem}_lr{rate:g}"
        seeded = replace(protocol, lr=rate)
        results.append(run(seeded, folder / f"{stem}.json", folder / stem))
        scores[f"{rate:g}"] = score(results[-1])
    best = (min if mode == "min" else max)(scores, key=scores.get)
    shared = {**settings, "protocol": {**results[0]["protocol"], "lr": None}}
    found = {"metric": metric, "lr": float(best), "scores": scores}
    environment = reporting.environment(protocol.seed)
    reporting.write_json(path, {**shared, **found, **environment})
    Console().print(f"{path.name}: {metric} {scores}, lr {best}", highlight=False)
    return results


def chosen_rate(settings: dict, path: Path, same: Sequence[str] = ("model",)) -> float:
    """The learning rate that --select has found for a row, with the ``same`` settings."""
    if not path.is_file():
        raise InputError(
            f"expected lr, or a learning rate chosen for {settings['row']} in {path}, got neither; "
            f"run the same command with --select first, or give --lr"
        )
    resuming.earlier(path, {key: settings[key] for key in same})
    return json.loads(path.read_text())["lr"]
