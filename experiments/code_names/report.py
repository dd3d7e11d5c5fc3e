"""The table of the names of functions, from the result files."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

from rich.console import Console

from datasets.base import InputError

RESULTS = Path(__file__).resolve().parents[1] / "results" / "code_names"
TABLES = "tables.md"
#: Rows in the order of the table; others follow.
ROWS = {
    "gcn": "GCN",
    "gin": "GIN",
    "gin_edges": "GIN, edges between tokens",
    "dag_lstm": "DAG-LSTM",
    "plstm_one_way": "pLSTM, one way",
    "plstm": "pLSTM, two-way",
    "plstm_mlstm": "pLSTM, two-way, cell mlstm",
    "plstm_gated_delta": "pLSTM, two-way, cell gated_delta",
}
HEAD = (
    "model", "test F1", "precision", "recall", "validation F1", "learning rate", "parameters",
    "CPU s per epoch", "seeds",
)  # fmt: skip
#: Test F1 on ogbg-code2, which has other functions, many more of them.
PUBLISHED = {"GCN": 0.1507, "GIN": 0.1495, "DAGNN": 0.1751, "DAG+SAT": 0.202, "GMN": 0.206}
LEGEND = (
    "Test values at the epoch of the best validation F1, mean ± standard deviation over seeds; * "
    "marks rows with runs that are not finished. Parameters are those of the body; all rows have "
    "the same {shared:,} beside it, in embeddings and classifiers. Functions: {functions}. "
    "Published test F1 on ogbg-code2, other functions and many more, not comparable in digits: "
    "{published}."
)


def report(results: Path = RESULTS, write: bool = True) -> str:
    """Print the table of all rows that have results.

    Args:
        results: folder of the result files ROW_seedN.json.
        write: also write the table, in Markdown, to tables.md in this folder.

    Returns:
        The table in Markdown.
    """
    rows = read(results)
    lines = [HEAD, ["---", *["---:"] * (len(HEAD) - 1)], *(cells(*item) for item in rows.items())]
    first = next(iter(rows.values()))[0]
    functions = ", ".join(f"{count:,} for {part}" for part, count in first["functions"].items())
    legend = LEGEND.format(
        shared=first["shared_parameters"],
        functions=functions,
        published=", ".join(f"{name} {value:g}" for name, value in PUBLISHED.items()),
    )
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    text = f"# Names of Python functions\n\n{table}\n\n{legend}\n"
    Console().print(text, markup=False, highlight=False, soft_wrap=True)
    if write:
        (results / TABLES).write_text(text)
    return text


def read(folder: Path) -> dict[str, list[dict]]:
    """Row -> results of its seeds with at least one epoch, in the order of the table."""
    found: dict[str, list[dict]] = {}
    for path in sorted(folder.glob("*_seed*.json")):
        result = json.loads(path.read_text())
        if result.get("epochs_done"):
            found.setdefault(result["row"], []).append(result)
    if not found:
        raise InputError(f"expected results ROW_seedN.json in {folder.name}, got none; train first")
    order = list(ROWS)
    place = {row: order.index(row) if row in order else len(order) for row in found}
    return {row: found[row] for row in sorted(found, key=lambda row: (place[row], row))}


def cells(row: str, results: list[dict]) -> list[str]:
    """The line of a row."""
    unfinished = "" if all(result["finished"] for result in results) else " *"
    rates = sorted({result["protocol"]["lr"] for result in results})
    seconds = statistics.median(result["cpu_seconds_per_epoch"] for result in results)
    keys = ("test_f1", "test_precision", "test_recall", "valid_f1")
    return [
        ROWS.get(row, row) + unfinished,
        *(spread([result[key] for result in results]) for key in keys),
        ", ".join(f"{rate:g}" for rate in rates),
        f"{results[0]['parameters']:,}",
        f"{seconds:.0f}",
        str(len(results)),
    ]


def spread(values: list[float]) -> str:
    """Mean, and standard deviation where there are several values."""
    mean = f"{statistics.mean(values):.4f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.4f}"
