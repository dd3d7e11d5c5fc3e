"""The table of a study with seeds: means and deviations beside the published numbers."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

from datasets import InputError
from experiments import reporting


def read(folder: Path, study: str) -> dict[str, dict[str, list[dict]]]:
    """Data set -> row -> its runs that have done an epoch, by seed; known rows in their order."""
    if not folder.is_dir():
        raise InputError(f"expected the folder of a run, got {folder}: no folder")
    found = [json.loads(path.read_text()) for path in folder.glob(f"{study}_*_seed*.json")]
    found = [result for result in found if result["epochs_done"]]
    if not found:
        raise InputError(
            f"expected results {study}_ROW_SET_seedN.json with an epoch done in {folder}, got "
            f"none; train first, with --out {folder}"
        )
    known = {row: place for place, row in enumerate(reporting.TITLES)}
    found.sort(key=lambda r: (r["dataset"], known.get(r["row"], len(known)), r["row"], r["seed"]))
    sets: dict[str, dict[str, list[dict]]] = {}
    for result in found:
        sets.setdefault(result["dataset"], {}).setdefault(result["row"], []).append(result)
    return sets


def table(rows: dict[str, list[dict]], published: dict[str, float]) -> tuple[list[str], list]:
    """Headings and cells of one data set.

    Args:
        rows: row -> runs.
        published: row -> published score.
    """
    heading = ["model", "test", "published", "seeds", "epochs", "parameters", "s/epoch"]
    cells = []
    for row, runs in rows.items():
        values = [run[f"test_{run['metric']}"] for run in runs]
        spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
        partial = any(not run["finished"] or run["limit"] is not None for run in runs)
        done = [run["epochs_done"] for run in runs]
        least = f"{min(done)}-" if min(done) < max(done) else ""
        number = published.get(row)
        cells.append(
            [
                reporting.title(row),
                f"{statistics.mean(values):.4f}{spread}{' *' if partial else ''}",
                "" if number is None else f"{number:.4f}",
                str(len(runs)),
                f"{least}{max(done)}/{runs[0]['protocol']['epochs']}",
                f"{runs[0]['parameters']:,}",
                f"{statistics.mean(run['train_seconds_per_epoch'] for run in runs):.1f}",
            ]
        )
    return heading, cells


LEGEND = (
    "Test score at the first epoch of best validation score: mean and standard deviation of the "
    "seeds. Seconds per epoch: of training. * not all epochs done, or not all graphs used."
)


def report(folder: Path, study: str, published: dict[str, dict[str, float]]) -> dict:
    """Print the table of each data set; what :func:`read` found."""
    sets = read(folder, study)
    for name, rows in sets.items():
        metric = reporting.title(next(iter(rows.values()))[0]["metric"])
        reporting.print_cells(f"{name}: {metric}", *table(rows, published.get(name, {})))
    reporting.print_note(LEGEND)
    return sets
