"""The table of the TU sets: our cross-validation beside the published one."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

from datasets import InputError
from datasets.tu import NAMES
from experiments import published, reporting

FOLDS = 10
HEADING = ["model", *NAMES, "AVG", "parameters", "s/epoch"]
LEGEND = (
    "Test accuracy at the first epoch of best validation accuracy: mean and standard deviation of "
    "10 folds, with each seed where there are several (their number in brackets), below the "
    "published mean. AVG: mean of the four sets (and of the seeds), and its standard deviation "
    "over folds. * not all folds done, or not all graphs used. "
    "Seconds per epoch: of the largest set run, with its validation."
)


def read(folder: Path) -> dict[str, dict[str, list[dict]]]:
    """Row -> data set -> its runs, by seed; known rows first, in the order of the table."""
    if not folder.is_dir():
        raise InputError(f"expected the folder of a run, got {folder}: no folder")
    found = [json.loads(path.read_text()) for path in folder.glob("tu_*_seed*.json")]
    if not found:
        raise InputError(
            f"expected results tu_ROW_SET_seedN.json in {folder}, got none; train first, with "
            f"--out {folder}"
        )
    found.sort(key=lambda result: (result["row"], result["dataset"], result["seed"]))
    rows: dict[str, dict[str, list[dict]]] = {}
    for result in found:
        rows.setdefault(result["row"], {}).setdefault(result["dataset"], []).append(result)
    known = [row for row in reporting.TITLES if row in rows]
    return {row: rows[row] for row in (*known, *(row for row in rows if row not in known))}


def cells(folder: Path) -> list[list[str]]:
    """Rows of the table: all published ones, below each ours if it was run, then our others."""
    rows, ours = [], read(folder)
    for row in dict.fromkeys((*published.TU, *ours)):
        title = reporting.title(row)
        if numbers := published.TU.get(row):
            values = [f"{numbers[key]:.4f}" for key in (*NAMES, "AVG")]
            rows.append([f"{title}, published", *values, "", ""])
        if row in ours:
            rows.append([title, *_ours(ours[row])])
    return rows


def _ours(sets: dict[str, list[dict]]) -> list[str]:
    sizes = [run["parameters"] for runs in sets.values() for run in runs]
    least, most = f"{min(sizes):,}", f"{max(sizes):,}"
    seconds = [
        statistics.mean(fold["seconds_per_epoch"] for run in runs for fold in run["folds"].values())
        for runs in sets.values()
    ]
    return [
        *(_accuracy(sets[name]) if name in sets else "" for name in NAMES),
        _mean_and_deviation(fold_means(sets)) if complete(sets) else "",
        least if least == most else f"{least} - {most}",
        f"{max(seconds):.2f}",
    ]


def complete(sets: dict[str, list[dict]]) -> bool:
    """Whether a row has all folds of all sets, with every seed."""
    return all(name in sets and not any(map(_partial, sets[name])) for name in NAMES)


def fold_means(sets: dict[str, list[dict]]) -> list[float]:
    """For each fold of a complete row, the mean over seeds and the four sets."""
    seeds = ([run["test_accuracy_folds"] for run in sets[name]] for name in NAMES)
    folds = zip(*(map(statistics.mean, zip(*runs)) for runs in seeds))
    return [statistics.mean(fold) for fold in folds]


def _partial(run: dict) -> bool:
    return len(run["folds"]) < FOLDS or run["limit"] is not None


def _mean_and_deviation(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{spread}"


def _accuracy(runs: list[dict]) -> str:
    folds = [accuracy for run in runs for accuracy in run["test_accuracy_folds"]]
    seeds = f" ({len(runs)})" if len(runs) > 1 else ""
    return f"{_mean_and_deviation(folds)}{seeds}{' *' if any(map(_partial, runs)) else ''}"


def report(folder: Path) -> dict[str, dict[str, list[dict]]]:
    """Print the table of all rows in a folder.

    Args:
        folder: of the results, --out of the training.
    """
    reporting.print_cells("TU sets", HEADING, cells(folder))
    reporting.print_note(LEGEND)
    return read(folder)
