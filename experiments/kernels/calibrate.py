"""Measure the constants of ``form="auto"`` and write them to ``plstm_graph/ops/costs.json``.

    python -m experiments.kernels.calibrate
    python -m experiments.kernels.calibrate --write False

Each form is timed, forward and backward, on batches of several kinds and sizes. Its constants are
the non-negative least squares of the relative errors over those batches. Then a table shows, for
twenty other batches, the form that is chosen and its time over that of the fastest.

The tables "cpu" and "torch" (a CPU without compiled kernels) are written; the others stay as they
are.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from jsonargparse import auto_cli
from rich.console import Console
from rich.table import Table
from scipy.optimize import nnls
from torch_geometric.data import Batch

from experiments import reporting
from experiments.benchmark_tools import molecule_like, op_inputs, op_step, random_dag, sequence
from plstm_graph import LineGraph, grid_line_graph
from plstm_graph.ops import cost
from plstm_graph.ops.forms import FORMS, Problem
from plstm_graph.ops.lowering import as_seen_by

COSTS = Path(cost.__file__).with_name("costs.json")
#: Tables of a CPU with and without compiled kernels, and what switches them.
TABLES = {"cpu": "1", "torch": "0"}
#: A form that takes longer than this, in seconds, is measured once.
PATIENCE = 0.5
#: Estimates of the present constants above which a form is not run at all, in microseconds.
HOPELESS = 2e6


def molecules(count: int, seed: int) -> LineGraph:
    rng = np.random.default_rng(seed)
    batch = Batch.from_data_list([molecule_like(rng) for _ in range(count)])
    return LineGraph.from_edge_index(batch.edge_index, batch.num_nodes, batch=batch.batch)


def chains(count: int, length: int) -> LineGraph:
    """Long thin molecules: paths with a node at every second one."""
    edges, batch = [], []
    for i in range(count):
        first = len(batch)
        spine = 2 * length // 3
        edges += [(first + j, first + j + 1) for j in range(spine - 1)]
        edges += [(first + 2 * j, first + spine + j) for j in range(length - spine)]
        batch += [i] * length
    edge_index = torch.tensor(edges).t()
    both = torch.cat([edge_index, edge_index.flip(0)], 1)
    return LineGraph.from_edge_index(both, len(batch), batch=torch.tensor(batch))


def problems(seed: int) -> Iterator[tuple[str, LineGraph, int, int, bool]]:
    """Name, line graph, H, K = V, and whether the transitions are factored."""
    small, large = molecules(16, seed), molecules(128, seed)
    peptides = chains(16, 150 + seed)
    graphs = {
        "16 molecules": (small, (8, 24, 64)),
        "128 molecules": (large, (16, 24)),
        "128 molecules, two-way": (large.two_way(), (16, 24)),
        "16 molecules, two-way": (small.two_way(), (24, 48)),
        "16 molecules, D": (small.two_way().multitree(), (24,)),
        "16 peptides": (peptides, (16, 32)),
        "16 peptides, two-way": (peptides.two_way(), (16, 32)),
        "path": (sequence(2000 + 100 * seed), (16, 64)),
        "long path": (sequence(20_000), (32,)),
        "grid": (grid_line_graph(24 + seed, 24), (16, 48)),
        "random DAG": (random_dag(300, 900, 40, seed), (16, 32)),
    }
    for name, (graph, sizes) in graphs.items():
        for size in sizes:
            yield name, graph, 4, size, False
    for name in ("128 molecules, two-way", "16 peptides, two-way", "random DAG", "path"):
        for size in (8, 24, 40):
            yield f"{name}, factored", graphs[name][0], 4, size, True


def measure(steps: dict[str, Callable[[], None]], turns: int) -> dict[str, float]:
    """Median microseconds, the steps in turns."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for run in steps.values():
        run()  # makes the plan
    for turn in range(turns):
        for name, run in steps.items():
            if turn and times[name][0] > PATIENCE:
                continue
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: 1e6 * statistics.median(values) for name, values in times.items()}


def main(turns: int = 7, write: bool = True) -> None:
    """Calibrate.

    Args:
        turns: repetitions of each measurement.
        write: write the constants; otherwise only show how well the present ones choose.
    """
    console = Console()
    if write:
        stored = json.loads(COSTS.read_text())
        before = os.environ.get("PLSTM_NATIVE", "1")
        for table, switch in TABLES.items():
            os.environ["PLSTM_NATIVE"] = switch
            console.rule(table)
            stored["constants"][table] = calibrate(turns, console)
        os.environ["PLSTM_NATIVE"] = before
        stored["measured"] = reporting.environment(0)
        COSTS.write_text(json.dumps(stored, indent=2) + "\n")
        cost.constants.cache_clear()
    check(turns, console)


def calibrate(turns: int, console: Console) -> dict[str, dict[str, float]]:
    """The constants of all forms that can run."""
    rows: dict[str, list[tuple[dict[str, float], float]]] = {}
    for name, graph, heads, size, factored in problems(0):
        times, features = _all_forms(graph, heads, size, factored, turns)
        shown = ", ".join(f"{form} {value / 1e3:.2f} ms" for form, value in times.items())
        console.print(f"{name}, K = V = {size}: {shown}", highlight=False)
        for form, value in times.items():
            rows.setdefault(form, []).append((features[form], value))
    return {form: fit(found) for form, found in rows.items()}


def _all_forms(
    graph: LineGraph, heads: int, size: int, factored: bool, turns: int
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    problem = Problem(graph, heads, size, size, "factored" if factored else "line", "torch")
    steps, features = {}, {}
    for name, form in FORMS["torch"].items():
        if name == "naive" or not cost.cost(form, problem) < HOPELESS:
            continue
        features[name] = form.features(as_seen_by(form, problem))
        steps[name] = op_step(graph, op_inputs(graph, heads, size, factored), name)
    return measure(steps, turns), features


def fit(rows: list[tuple[dict[str, float], float]]) -> dict[str, float]:
    """The constants of a form, by relative errors."""
    names = list(dict.fromkeys(name for features, _ in rows for name in features))
    matrix = np.array([[features.get(name, 0.0) for name in names] for features, _ in rows])
    times = np.array([value for _, value in rows])
    scale = np.maximum((matrix / times[:, None]).max(0), 1e-30)
    found, _ = nnls(matrix / times[:, None] / scale, np.ones(len(rows)))
    return {name: float(f"{value:.3g}") for name, value in zip(names, found / scale)}


def check(turns: int, console: Console) -> None:
    """How far the choice is from the fastest form, on batches that were not fitted."""
    table = Table(title="form='auto' on other batches")
    for column in ("batch", "K = V", "chosen", "fastest", "ratio"):
        table.add_column(column)
    worst = 0.0
    for name, graph, heads, size, factored in problems(1):
        times, _ = _all_forms(graph, heads, size, factored, turns)
        problem = Problem(graph, heads, size, size, "factored" if factored else "line", "torch")
        chosen, best = cost.cheapest(problem), min(times, key=times.get)
        ratio = times[chosen] / times[best]
        worst = max(worst, ratio)
        table.add_row(name, str(size), chosen, best, f"{ratio:.2f}")
    console.print(table)
    console.print(f"worst: {worst:.2f}", highlight=False)


if __name__ == "__main__":
    auto_cli(main)
