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
    "10 folds, below the published mean. AVG: mean of the four sets. * not all folds done, or not "
    "all graphs used. Seconds per epoch: of the largest set run, with its validation."
)


def read(folder: Path) -> dict[str, dict[str, dict]]:
    """Row -> data set -> what its file holds; known rows first, in the order of the table."""
    if not folder.is_dir():
        raise InputError(f"expected the folder of a run, got {folder}: no folder")
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("tu_*.json"))]
    if not found:
        raise InputError(
            f"expected results tu_ROW_SET.json in {folder}, got none; train first, with "
            f"--out {folder}"
        )
    rows: dict[str, dict[str, dict]] = {}
    for result in found:
        rows.setdefault(result["row"], {})[result["dataset"]] = result
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


def _ours(results: dict[str, dict]) -> list[str]:
    values = [_accuracy(results[name]) if name in results else "" for name in NAMES]
    means = [result["test_accuracy_mean"] for result in results.values()]
    sizes = [result["parameters"] for result in results.values()]
    least, most = f"{min(sizes):,}", f"{max(sizes):,}"
    seconds = [
        statistics.mean(fold["seconds_per_epoch"] for fold in result["folds"].values())
        for result in results.values()
    ]
    return [
        *values,
        f"{statistics.mean(means):.4f}" if complete(results) else "",
        least if least == most else f"{least} - {most}",
        f"{max(seconds):.2f}",
    ]


def complete(results: dict[str, dict]) -> bool:
    """Whether a row has all folds of all sets."""
    return all(name in results and not _partial(results[name]) for name in NAMES)


def _partial(result: dict) -> bool:
    return len(result["folds"]) < FOLDS or result["limit"] is not None


def _accuracy(result: dict) -> str:
    sd = result["test_accuracy_sd"]
    spread = "" if sd is None else f" ± {sd:.3f}"
    return f"{result['test_accuracy_mean']:.4f}{spread}{' *' if _partial(result) else ''}"


def report(folder: Path) -> dict[str, dict[str, dict]]:
    """Print the table of all rows in a folder.

    Args:
        folder: of the results, --out of the training.
    """
    reporting.print_cells("TU sets", HEADING, cells(folder))
    reporting.print_note(LEGEND)
    return read(folder)
