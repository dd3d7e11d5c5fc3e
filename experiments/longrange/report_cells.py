"""The tables of the tasks that tell cells apart: cells by tasks."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from datasets.longrange_tasks import TASKS
from experiments.longrange.published import published_cells

#: Rows of configs/cells in the order of the tables, behind "plstm", which other sets have, too.
CELLS = {
    "mlstm": "mLSTM",
    "gla": "GLA",
    "mamba2": "Mamba-2",
    "delta": "DeltaNet",
    "gated_delta": "Gated DeltaNet",
    "delta_product": "DeltaProduct",
    "bd_lru": "BD-LRU",
    "h_lru": "H-LRU",
    "state_tracking": "pLSTM, state tracking",
    "slstm": "sLSTM",
    "dag_lstm": "DAG-LSTM",
}
#: Tables: heading, part and metric of a run's results, and whether published rows belong there.
TABLES = (
    ("accuracy of nodes", "test", "accuracy", True),
    ("accuracy of nodes, longer still", "long", "accuracy", False),
    ("graphs without any error", "test", "whole", False),
)
STYLE = ".3f"

Table = tuple[str, list[str], list[list[str]]]


def cell_tables(found: dict[str, dict[str, list[dict]]], names: dict[str, str]) -> list[Table]:
    """Heading, head and rows of each table.

    Args:
        found: set -> row -> results of its seeds, of sets of TASKS.
        names: of rows, in their order.
    """
    rows = {row for by_row in found.values() for row in by_row}
    order = [*(row for row in names if row in rows), *sorted(rows - names.keys())]
    tables = []
    for heading, part, metric, with_published in TABLES:
        tasks = [task for task in TASKS if task in found and has_part(found[task], part)]
        if not tasks:
            continue
        body = []
        for row in order:
            runs = {task: found[task].get(row, []) for task in tasks}
            every = [run for results in runs.values() for run in results]
            if not every:
                continue
            mark = "" if all(run["finished"] for run in every) else " *"
            values = [
                spread([run[part]["class"][metric] for run in runs[task]], STYLE) for task in tasks
            ]
            body.append([names.get(row, row) + mark, *values, *costs(runs)])
        if with_published:
            for model, known in published_cells().items():
                if known.keys() & set(tasks):
                    values = [f"{known[task]:{STYLE}}" if task in known else "" for task in tasks]
                    body.append([f"{model}, published", *values, "", "", ""])
        head = ["model", *tasks, "parameters", "seeds", "CPU hours"]
        tables.append((f"Tasks that tell cells apart: {heading}", head, body))
    return tables


def has_part(rows: dict[str, list[dict]], part: str) -> bool:
    """Whether a set has this part."""
    return any(part in run for results in rows.values() for run in results)


def costs(runs: dict[str, list[dict]]) -> list[str]:
    """Parameters and seeds, the smallest to the largest over the sets, and CPU hours of all runs
    together."""
    every = [run for results in runs.values() for run in results]
    parameters = [run["parameters"] for run in every]
    seeds = [len(results) for results in runs.values() if results]
    hours = sum(run["epochs_done"] * run["cpu_seconds_per_epoch"] for run in every) / 3600
    return [extent(parameters), extent(seeds), f"{hours:.2f}"]


def extent(values: Sequence[int]) -> str:
    """The smallest to the largest value, e.g. "2 to 3"; one where they are equal."""
    ends = sorted({min(values), max(values)})
    return " to ".join(f"{value:,}" for value in ends)


def spread(values: Sequence[float], style: str) -> str:
    """Mean ± standard deviation; of one value, the value; of none, nothing."""
    if not values:
        return ""
    text = f"{statistics.mean(values):{style}}"
    return f"{text} ± {statistics.stdev(values):{style}}" if len(values) > 1 else text
