"""Large graphs: a star, random DAGs with hubs, and line edges without factors.

    python -m experiments.kernels.large
    python -m experiments.kernels.large --quick True

Forward and backward, float32, H=4, K=V=24, the fastest of some runs; the plan of a graph is made
before and timed apart. Each graph runs in a process of its own, whose largest resident memory is
shown. Results go to ``experiments/results/large_graphs.json``.

* star: 100,000 leaves, two-way, factored transitions; 10^10 line edges;
* hubs: random DAGs of some 5 edges a node whose nodes of low number have many successors,
  one-way, factored; time per edge should not grow with the graph;
* band: random DAGs whose edges reach up to 50 nodes ahead, one-way, without factors.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from jsonargparse import auto_cli
from rich.console import Console
from rich.table import Table

from experiments import reporting
from experiments.benchmark_tools import op_inputs, random_dag
from plstm_graph import LineGraph
from plstm_graph.ops import plstm
from plstm_graph.ops.inputs import Inputs

SIZES = {
    "star": (200_000,),
    "hubs": (10_000, 100_000, 1_000_000),
    "band": (4_000, 100_000),
}
RESULTS = Path("experiments/results/large_graphs.json")


def graph(kind: str, edges: int) -> LineGraph:
    """The line graph of a row."""
    if kind == "star":
        leaf = torch.arange(1, edges // 2 + 1)
        star = torch.stack([torch.zeros_like(leaf), leaf])
        return LineGraph.from_edge_index(torch.cat([star, star.flip(0)], 1)).two_way()
    if kind == "band":
        return random_dag(edges * 2 // 5, edges, 50, 0)
    rng, nodes = np.random.default_rng(0), edges // 5
    end = rng.integers(1, nodes, edges)
    start = (end * rng.random(edges) ** 2).astype(np.int64)
    keep = start < end
    number = rng.permutation(nodes)
    pairs = number[np.stack([start, end])[:, keep]]
    return LineGraph.from_edge_index(torch.from_numpy(pairs), nodes)


def measure(kind: str, edges: int) -> dict:
    """One row, in this process."""
    line_graph = graph(kind, edges)
    factored = kind != "band"
    inputs = op_inputs(line_graph, factored=factored)
    times = []
    for _ in range(4 if edges < 1_000_000 else 3):
        start = time.perf_counter()
        out = plstm(*Inputs.of(inputs)[:7], line_graph)
        torch.autograd.grad(out.sum(), inputs)
        times.append(time.perf_counter() - start)
    best = min(times[1:])
    count = line_graph.num_edges if factored else line_graph.num_line_edges
    return {
        "nodes": line_graph.num_nodes,
        "edges": line_graph.num_edges,
        "line_edges": line_graph.num_line_edges,
        "seconds": round(best, 4),
        "microseconds_per_edge" if factored else "microseconds_per_line_edge": 1e6 * best / count,
        "plan_seconds": round(times[0] - best, 3),
        "gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }


def main(quick: bool = False, row: str | None = None, out: Path = RESULTS) -> None:
    """Measure all rows.

    Args:
        quick: graphs of a hundredth of the size, and no results file.
        row: KIND_EDGES, one row in this process, printed as JSON.
        out: results file.
    """
    if row is not None:
        kind, edges = row.split("_")
        print(json.dumps(measure(kind, int(edges))))
        return
    rows = {}
    table = Table(title="large graphs, H=4, K=V=24, float32")
    for column in (
        "graph",
        "edges",
        "line edges",
        "s",
        "us / edge (band: line edge)",
        "plan, s",
        "GB",
    ):
        table.add_column(column)
    for kind, sizes in SIZES.items():
        for edges in sizes:
            name = f"{kind}_{edges // 100 if quick else edges}"
            command = [sys.executable, "-W", "ignore", "-m", __spec__.name, "--row", name]
            found = subprocess.run(command, capture_output=True, text=True, check=True)
            rows[name] = cells = json.loads(found.stdout.splitlines()[-1])
            each = next(value for key, value in cells.items() if key.startswith("microseconds"))
            table.add_row(
                kind, f"{cells['edges']:,}", f"{cells['line_edges']:,}", f"{cells['seconds']:.3f}",
                f"{each:.2f}", f"{cells['plan_seconds']:.2f}", f"{cells['gigabytes']:.2f}",
            )  # fmt: skip
    Console().print(table)
    if not quick:
        reporting.write_json(out, {**reporting.environment(0), "rows": rows})


if __name__ == "__main__":
    auto_cli(main)
