"""The tables of the long-range tasks, from the result files."""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from pathlib import Path

from rich.console import Console

from datasets.base import InputError
from experiments.longrange.published import METRICS, NOTES, kind_of, published
from experiments.longrange.report_cells import CELLS, cell_tables, spread

RESULTS = Path(__file__).resolve().parents[1] / "results" / "longrange"
TABLES = "tables.md"
#: Rows in the order of the tables; others, e.g. ablations, follow.
ROWS = {
    "gin": "GIN",
    "gated_gcn": "GatedGCN",
    "gps": "GPS",
    "plstm_forward": "pLSTM, one way",
    "plstm": "pLSTM",
    "plstm_d": "pLSTM, D-mode alone",
    "plstm_local": "pLSTM + GIN",
    **CELLS,
}
#: Metrics of each kind of set: title and format.
COLUMNS = {
    "gpp": ("log_mse", "log_mse_hops", "mae"),
    "echo": ("mae", "log_mse"),
    "transfer": ("mse",),
    "barbell": ("mse",),
    "tree": ("train_accuracy", "accuracy"),
}
TITLES = {
    "log_mse": ("log10 MSE", ".2f"),
    "log_mse_hops": ("log10 MSE, hops²", ".2f"),
    "mae": ("MAE", ".3f"),
    "mse": ("MSE", ".1e"),
    "train_accuracy": ("training accuracy", ".3f"),
    "accuracy": ("test accuracy", ".3f"),
}
#: How sets are introduced, in the order of the tables; those of kind "cells" share one.
SETS = {
    "gpp": "Graph property prediction",
    "echo": "Graphs like ECHO's",
    "transfer": "Graph transfer",
    "barbell": "Barbell",
    "tree": "Tree-NeighborsMatch",
    "cells": "Tasks that tell cells apart",
}
LEGEND = (
    "Test values at the epoch of the best validation score, mean ± standard deviation over seeds; "
    "* marks rows with runs that are not finished. log10 MSE: of labels divided by the training "
    "maximum; MAE in units of the label. Published rows were measured with other graphs, sizes of "
    "models and epochs: compare the order of magnitude, not the digits."
)


def report(results: Path = RESULTS, write: bool = True) -> str:
    """Print a table for each set that has results, with published rows below ours; the directed
    sets of :mod:`datasets.longrange_tasks` share one, see :mod:`.report_cells`.

    Args:
        results: folder of the result files ROW_SET_seedN.json.
        write: also write the tables, in Markdown, to tables.md in this folder.

    Returns:
        The tables in Markdown.
    """
    found = read(results)
    parts = []
    tasks = {name: rows for name, rows in found.items() if kind_of(name) == "cells"}
    for name, rows in found.items():
        if name not in tasks:
            parts += [table(title(name), *cells(name, rows)), NOTES[kind_of(name)]]
    if tasks:
        parts += [table(heading, *rest) for heading, *rest in cell_tables(tasks, ROWS)]
        parts.append(NOTES["cells"])
    text = "\n\n".join(["# Long-range tasks", *parts, LEGEND]) + "\n"
    Console().print(text, markup=False, highlight=False, soft_wrap=True)
    if write:
        (results / TABLES).write_text(text)
    return text


def table(heading: str, head: list[str], body: list[list[str]]) -> str:
    """In Markdown."""
    lines = [" | ".join(line) for line in (head, ["---", *["---:"] * (len(head) - 1)], *body)]
    return "\n".join([f"## {heading}\n", *(f"| {line} |" for line in lines)])


def title(name: str) -> str:
    """Of a set: "transfer_line_50" is "Graph transfer (line, 50)"."""
    kind, *rest = name.split("_")
    return f"{SETS[kind]} ({', '.join(rest)})" if rest else SETS[kind]


def read(folder: Path) -> dict[str, dict[str, list[dict]]]:
    """Set -> row -> results of its seeds with at least one epoch, in the order of the tables."""
    found: dict[str, dict[str, list[dict]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted(folder.glob("*_seed*.json")):
        result = json.loads(path.read_text())
        if result.get("epochs_done"):
            found[result["set"]][result["row"]].append(result)
    if not found:
        raise InputError(
            f"expected results ROW_SET_seedN.json in {folder.name}, got none; train first"
        )
    kinds, order = list(SETS), list(ROWS)
    named = sorted(found, key=lambda name: (kinds.index(kind_of(name)), name))

    def place(row: str) -> tuple[int, str]:
        return order.index(row) if row in ROWS else len(order), row

    return {name: {row: found[name][row] for row in sorted(found[name], key=place)}
            for name in named}  # fmt: skip


def cells(name: str, rows: dict[str, list[dict]]) -> tuple[list[str], list[list[str]]]:
    """Heading and rows of the table of a set."""
    kind = name.split("_")[0]
    targets = [target["name"] for target in next(iter(rows.values()))[0]["targets"]]
    columns = [(target, metric) for target in targets for metric in COLUMNS[kind]]
    head = ["model", *(f"{target} {TITLES[metric][0]}" for target, metric in columns)]
    head += ["parameters", "CPU s per epoch", "seeds"]
    body = []
    for row, results in rows.items():
        mark = "" if all(result["finished"] for result in results) else " *"
        values = [
            spread([value(result, target, metric) for result in results], TITLES[metric][1])
            for target, metric in columns
        ]
        seconds = statistics.mean(result["cpu_seconds_per_epoch"] for result in results)
        more = [f"{results[0]['parameters']:,}", f"{seconds:.1f}", str(len(results))]
        body.append([ROWS.get(row, row) + mark, *values, *more])
    for model, known in published(name).items():
        values = [
            f"{known[target]:{TITLES[metric][1].replace('.2f', '.3f')}}"
            if target in known and metric == METRICS[kind]
            else ""
            for target, metric in columns
        ]
        body.append([f"{model}, published", *values, "", "", ""])
    return head, body


def value(result: dict, target: str, metric: str) -> float:
    """A metric of one target in a run's results."""
    if metric == "train_accuracy":
        return result[metric]
    found = result["test"][target]
    if metric == "log_mse_hops":
        return math.log10(found["mse"])
    return found[metric]
