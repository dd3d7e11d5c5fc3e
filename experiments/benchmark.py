"""Speed of operators, layers and line-graph building, as ratios inside one process.

    python -m experiments.benchmark [--out experiments/results/benchmark.json] [--quick]
    python -m experiments.benchmark --device cuda  # and each kernel against a copy on the device

Every table names its baseline. Contestants of a table take turns, so that what else the machine
does hits all alike; figures are medians over the turns.
"""

from __future__ import annotations

import argparse
import gc
import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch_geometric.data import Batch, Data
from torch_geometric.nn import GATv2Conv, GINEConv, GPSConv, TransformerConv

import datasets
from experiments import benchmark_grid, benchmark_sequences
from experiments import device as devices
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
from plstm_graph import LineGraph, PLSTMConv, ToLineGraph, to_line_graphs
from plstm_graph.ops import prepare


def bench_ops(batch: Batch, turns: int, console: Console) -> dict:
    line_graph = LineGraph.from_data(batch)
    inputs = op_inputs(line_graph)
    forms = ("edge loop", "naive", "levelwise", "parallel", "walk", "auto")
    steps = {form: op_step(line_graph, inputs, form) for form in forms}
    slow = ("edge loop", "naive")
    count = {form: max(3, turns // 5) if form in slow else turns for form in forms}
    title = (
        f"plstm, forward + backward: {GRAPHS} molecule-like graphs, {line_graph.num_nodes} nodes, "
        f"{line_graph.num_edges} edges, {line_graph.num_line_edges} line edges, H={HEADS}, "
        f"K=V={SIZE}, float32"
    )
    return report(title, medians(steps, count), "edge loop", console)


def bench_layers(batch: Batch, turns: int, console: Console) -> dict:
    line_graph = prepare(LineGraph.from_data(batch), HEADS, SIZE, SIZE)
    head = WIDTH // HEADS

    def mlp() -> nn.Module:
        return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))

    convs = {
        "PLSTMConv P": PLSTMConv(WIDTH, WIDTH, heads=HEADS, edge_dim=WIDTH),
        "PLSTMConv D": PLSTMConv(WIDTH, WIDTH, heads=HEADS, edge_dim=WIDTH, mode="D"),
        "GATv2Conv": GATv2Conv(WIDTH, head, heads=HEADS, edge_dim=WIDTH),
        "TransformerConv": TransformerConv(WIDTH, head, heads=HEADS, edge_dim=WIDTH),
        "GINEConv": GINEConv(mlp(), edge_dim=WIDTH),
        "GPSConv": GPSConv(WIDTH, GINEConv(mlp(), edge_dim=WIDTH), heads=HEADS),
    }
    convs = {name: conv.to(batch.x.device) for name, conv in convs.items()}

    def step_of(conv: nn.Module) -> Callable[[], None]:
        x = batch.x.clone().requires_grad_()
        edge_attr = batch.edge_attr.clone().requires_grad_()
        wanted = [x, edge_attr, *conv.parameters()]

        def step() -> None:
            if isinstance(conv, PLSTMConv):
                out = conv(x, batch.edge_index, edge_attr, line_graph=line_graph)
            elif isinstance(conv, GPSConv):
                out = conv(x, batch.edge_index, batch.batch, edge_attr=edge_attr)
            else:
                out = conv(x, batch.edge_index, edge_attr)
            torch.autograd.grad(out, wanted, torch.ones_like(out), allow_unused=True)

        return step

    seconds = medians({name: step_of(conv) for name, conv in convs.items()}, turns)
    title = f"one layer, forward + backward, {WIDTH} wide, {HEADS} heads, line graph given"
    result = report(title, seconds, "GATv2Conv", console)
    for name, conv in convs.items():
        result[name]["parameters"] = sum(p.numel() for p in conv.parameters())
    return result


def bench_building(graphs: list[Data], turns: int, console: Console) -> dict:
    transform = ToLineGraph()
    ready = to_line_graphs(graphs)
    plain = [Data(**d.to_dict()) for d in graphs]
    batch = Batch.from_data_list(ready)

    def schedules() -> None:
        prepare(LineGraph.from_data(Batch.from_data_list(ready)), HEADS, SIZE, SIZE)

    steps = {
        f"collate {GRAPHS} plain graphs": lambda: Batch.from_data_list(plain),
        f"collate {GRAPHS} graphs with line graphs": lambda: Batch.from_data_list(ready),
        "the same and LineGraph, schedules, buckets (P, D, both directions)": schedules,
        f"ToLineGraph on {GRAPHS} graphs, one by one": lambda: [transform(d) for d in graphs],
        f"to_line_graphs on {GRAPHS} graphs at once": lambda: to_line_graphs(graphs),
        "LineGraph.from_edge_index on the batch": lambda: (
            LineGraph.from_edge_index(batch.edge_index, batch.num_nodes, batch=batch.batch).level
        ),
    }
    title = f"building and batching line graphs ({GRAPHS} molecule-like graphs)"
    return report(title, medians(steps, turns), f"collate {GRAPHS} plain graphs", console)


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
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=51)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--molhiv", type=Path, help="data root of ogbg-molhiv, to build it whole")
    parser.add_argument("--quick", action="store_true", help="few turns, small sizes")
    parser.add_argument("--device", default="cpu", help="cpu (the default) or cuda")
    options = parser.parse_args(args)
    device = devices.checked(options.device)
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    turns = 5 if options.quick else options.turns
    console = Console()
    rng = np.random.default_rng(options.seed)
    graphs = [molecule_like(rng, WIDTH) for _ in range(GRAPHS)]
    batch = Batch.from_data_list(to_line_graphs(graphs)).to(device)
    result = {
        "command": command_line(),
        "environment": environment(options.seed),
        "device": devices.device_name(device),
        "threads": options.threads,
        "turns": turns,
        "ops": bench_ops(batch, turns, console),
        "layers": bench_layers(batch, turns, console),
        "building": bench_building([molecule_like(rng) for _ in range(GRAPHS)], turns, console),
        "molhiv": bench_molhiv(options.molhiv, console),
        "growth": bench_growth(turns, options.quick, device, console),
    }
    if device.type == "cpu":
        result["long_sequences"] = benchmark_sequences.bench(turns, options.quick, console)
        result["grid"] = benchmark_grid.bench(turns, options.quick, console, options.threads)
    else:
        from experiments.kernel_report import workloads

        graphs = {name: line_graph.to(device) for name, line_graph in workloads().items()}
        cases = {name: (graph, op_inputs(graph)) for name, graph in graphs.items()}
        result["kernels"] = devices.bench_kernels(cases, device, turns, console)
    if options.out:
        write_json(options.out, result)
    return result


if __name__ == "__main__":
    main()
