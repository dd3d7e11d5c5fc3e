"""Time to build and batch line graphs; a part of :mod:`experiments.benchmark`."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from rich.console import Console
from torch_geometric.data import Batch, Data

import datasets
from experiments.benchmark_tools import GRAPHS, HEADS, SIZE, medians, report
from plstm_graph import LineGraph, ToLineGraph, to_line_graphs
from plstm_graph.ops import prepare


def bench_building(graphs: list[Data], turns: int, console: Console) -> dict:
    """Collating is the baseline: what a loader does anyway.

    The rows of two-way graphs count nothing but what they name: each call gets a line graph of a
    new batch, from which nothing was derived.
    """
    transform = ToLineGraph()
    ready = to_line_graphs(graphs)
    plain = [Data(**d.to_dict()) for d in graphs]
    batch = Batch.from_data_list(ready)
    count = len(graphs)

    def one_way() -> LineGraph:
        return LineGraph.from_data(Batch.from_data_list(ready))

    baseline = f"collate {count} plain graphs"
    two_way = {
        "two_way() of the batch": lambda one: one.two_way().line_index,
        "two_way().multitree()": lambda one: one.two_way().multitree().line_index,
        "two_way() and all that the operator derives, P, D, both directions": lambda one: prepare(
            one.two_way(), HEADS, SIZE, SIZE
        ),
    }
    steps = {
        baseline: lambda: Batch.from_data_list(plain),
        f"collate {count} graphs with line graphs": lambda: Batch.from_data_list(ready),
        "the same and prepare() (one-way and two-way, P, D)": lambda: prepare(
            one_way(), HEADS, SIZE, SIZE
        ),
        **two_way,
        f"ToLineGraph on {count} graphs, one by one": lambda: [transform(d) for d in graphs],
        f"to_line_graphs on {count} graphs at once": lambda: to_line_graphs(graphs),
        "LineGraph.from_edge_index on the batch": lambda: (
            LineGraph.from_edge_index(batch.edge_index, batch.num_nodes, batch=batch.batch).level
        ),
    }
    seconds = medians(steps, turns, one_way, two_way)
    title = f"building and batching line graphs ({count} molecule-like graphs)"
    result = report(title, seconds, baseline, console)
    ratio = next(iter(result[name] for name in two_way))[f"ratio_to_{baseline}"]
    verdict = "met" if ratio < 1 else "missed"
    console.print(f"two_way(): {ratio:.2f} x collating (goal: below 1, {verdict})")
    return result


def bench_molhiv(root: Path | None, console: Console) -> dict | None:
    """All of ogbg-molhiv: seconds to build the line graphs, milliseconds to collate a batch."""
    if root is None:
        return None
    graphs = datasets.load("ogbg-molhiv", root=root).graphs
    start = time.perf_counter()
    ready = to_line_graphs(graphs)
    seconds = time.perf_counter() - start
    times = []
    for i in range(0, min(200 * GRAPHS, len(ready)), GRAPHS):
        part = ready[i : i + GRAPHS]
        start = time.perf_counter()
        Batch.from_data_list(part)
        times.append(time.perf_counter() - start)
    result = {
        "graphs": len(ready),
        "build_seconds": seconds,
        "collate_ms": {q: 1e3 * float(np.quantile(times, q / 100)) for q in (10, 50, 90)},
    }
    console.print(
        f"ogbg-molhiv: line graphs, levels, multitrees of {len(ready)} graphs in {seconds:.1f} s; "
        f"collating {GRAPHS} of them takes {result['collate_ms'][50]:.2f} ms (median)"
    )
    return result
