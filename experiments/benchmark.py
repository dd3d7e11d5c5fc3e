"""Speed of operators, layers and line-graph building, as ratios inside one process.

    python -m experiments.benchmark [--out experiments/results/benchmark.json] [--quick]
    python -m experiments.benchmark --published PATH  # and the operator of ml-jku/plstm at PATH
    python -m experiments.benchmark --device cuda  # and each kernel against a copy on the device

Every table names its baseline. Contestants of a table take turns, so that what else the machine
does hits all alike; figures are medians over the turns.
"""

from __future__ import annotations

import argparse
import gc
import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch_geometric.data import Batch

from experiments import benchmark_cells, benchmark_grid, benchmark_published, benchmark_sequences
from experiments import device as devices
from experiments.benchmark_building import bench_building, bench_molhiv
from experiments.benchmark_layers import bench_layers
from experiments.benchmark_tools import (
    GRAPHS,
    HEADS,
    SIZE,
    WIDTH,
    medians,
    molecule_like,
    op_inputs,
    op_step,
    random_dag,
    report,
)
from experiments.reporting import command_line, environment, write_json
from plstm_graph import LineGraph, to_line_graphs
from plstm_graph.ops import native

#: Forms on the two-way graph and on its multitree.
TWO_WAY_FORMS = ("walk", "dense", "levelwise", "auto")


def bench_ops(
    batch: Batch,
    turns: int,
    console: Console,
    published: Callable[..., Tensor] | None = None,
) -> tuple[dict, dict | None]:
    """The forms on the line graphs of a batch, one-way, two-way and pruned.

    Args:
        batch: with line graphs.
        turns: of each row; rows that take long get a fifth.
        console: prints the table.
        published: the published program's operator, one more row on the one-way graph.

    Returns:
        The table's rows, and :func:`experiments.benchmark_published.difference` of the published
        operator.
    """
    one_way = LineGraph.from_data(batch)
    two_way = one_way.two_way()
    inputs = op_inputs(one_way)
    forms = ("edge loop", "naive", "levelwise", "chunkwise", "dense", "walk", "auto")
    steps = {form: op_step(one_way, inputs, form) for form in forms}
    for name, graph in (("two-way", two_way), ("two-way, multitree", two_way.multitree())):
        own = op_inputs(graph)
        steps |= {f"{name}: {form}": op_step(graph, own, form) for form in TWO_WAY_FORMS}
    if reason := native.unavailable():
        steps = {name: step for name, step in steps.items() if not name.endswith(("walk", "dense"))}
        console.print(f"walk and dense are left out: {reason}")
    slow, found = ["edge loop", "naive"], None
    if published is not None:
        theirs = benchmark_published.Published(published, one_way, inputs)
        found = benchmark_published.difference(theirs, inputs, one_way)
        steps = {"edge loop": steps.pop("edge loop"), "published": theirs, **steps}
        slow.append("published")
    count = {name: max(3, turns // 5) if name in slow else turns for name in steps}
    title = (
        f"plstm, forward + backward: {batch.num_graphs} molecule-like graphs, {one_way.num_nodes} "
        f"nodes, {one_way.num_edges} edges, {one_way.num_line_edges} line edges (two-way "
        f"{two_way.num_edges} and {two_way.num_line_edges}), H={HEADS}, K=V={SIZE}, float32"
    )
    rows = report(title, medians(steps, count), "edge loop", console)
    for name, row in (found or {}).items():
        console.print(
            f"published and auto: largest difference of {name}s {row['difference']:.1e}, largest "
            f"{name} {row['largest']:.1e}"
        )
    return rows, found


def bench_growth(turns: int, quick: bool, device: torch.device, console: Console) -> dict:
    """Auto against the naive loop over E, then over depth at the same E."""
    sizes = [(250, 1), (1000, 1), (4000, 1)] + ([] if quick else [(16000, 1), (100000, 1)])
    table = Table(
        title=f"growth, auto, forward + backward, H={HEADS}, K=V={SIZE}, one DAG",
        title_justify="left",
    )
    for column in (
        "edges",
        "line edges",
        "levels",
        "ms",
        "us per line edge",
        "naive / this",
        "peak RSS, GB",
    ):
        table.add_column(column, justify="right")
    rows = []
    depths = [(4000, reach) for reach in (4, 64, 1024)]
    cases = [(e, max(8, e // 16)) for e, _ in sizes] + depths
    for edges, reach in sorted(cases):
        line_graph = random_dag(edges // 2 + 2, edges, reach, seed=0).to(device)
        inputs = op_inputs(line_graph)
        steps = {"auto": op_step(line_graph, inputs, "auto")}
        count = {"auto": max(3, turns // 5)}
        if edges <= 4000:
            steps["naive"], count["naive"] = op_step(line_graph, inputs, "naive"), 3
        seconds = medians(steps, count)
        row = {
            "edges": edges,
            "line_edges": line_graph.num_line_edges,
            "levels": line_graph.num_levels,
            "ms": 1e3 * seconds["auto"],
            "naive_over_auto": seconds["naive"] / seconds["auto"] if "naive" in seconds else None,
            "peak_rss_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        }
        rows.append(row)
        ratio = row["naive_over_auto"]
        table.add_row(
            str(edges),
            str(row["line_edges"]),
            str(row["levels"]),
            f"{row['ms']:.1f}",
            f"{1e3 * row['ms'] / row['line_edges']:.2f}",
            "-" if ratio is None else f"{ratio:.1f}",
            f"{row['peak_rss_gb']:.2f}",
        )
        del inputs, steps
        gc.collect()
    console.print(table)
    return {"rows": rows}


def main(args: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    parser.add_argument("--threads", type=int, default=2, help="layers: on one thread, too")
    parser.add_argument("--turns", type=int, default=51)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--published", type=Path, help="a checkout of ml-jku/plstm, to compare")
    parser.add_argument("--molhiv", type=Path, help="data root of ogbg-molhiv, to build it whole")
    parser.add_argument("--quick", action="store_true", help="few turns, small sizes")
    parser.add_argument("--device", default="cpu", help="cpu (the default) or cuda")
    options = parser.parse_args(args)
    device = devices.checked(options.device)
    published = benchmark_published.load(options.published) if options.published else None
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    turns = 5 if options.quick else options.turns
    console = Console()
    rng = np.random.default_rng(options.seed)
    graphs = [molecule_like(rng, WIDTH) for _ in range(GRAPHS)]
    batch = Batch.from_data_list(to_line_graphs(graphs)).to(device)
    ops, difference = bench_ops(batch, turns, console, published)
    threads = sorted({1, options.threads}) if device.type == "cpu" else [options.threads]
    result = {
        "command": command_line(),
        "environment": environment(options.seed),
        "device": devices.device_name(device),
        "threads": options.threads,
        "turns": turns,
        "ops": ops,
        "published_difference": difference,
        "layers": bench_layers(batch, turns, console, threads),
        "building": bench_building([molecule_like(rng) for _ in range(GRAPHS)], turns, console),
        "molhiv": bench_molhiv(options.molhiv, console),
        "growth": bench_growth(turns, options.quick, device, console),
    }
    if device.type == "cpu":
        result["cells"] = benchmark_cells.bench(LineGraph.from_data(batch), turns, console)
        result["long_sequences"] = benchmark_sequences.bench(turns, options.quick, console)
        result["grid"] = benchmark_grid.bench(turns, options.quick, console, options.threads)
    else:
        from experiments.kernels.report import workloads

        graphs = {name: line_graph.to(device) for name, line_graph in workloads().items()}
        cases = {name: (graph, op_inputs(graph)) for name, graph in graphs.items()}
        result["kernels"] = devices.bench_kernels(cases, device, turns, console)
    if options.out:
        write_json(options.out, result)
    return result


if __name__ == "__main__":
    main()
