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
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch_geometric.data import Batch, Data
from torch_geometric.nn import GATv2Conv, GINEConv, GPSConv, TransformerConv

import datasets
from experiments import device as devices
from experiments.reporting import command_line, environment, write_json
from plstm_graph import LineGraph, PLSTMConv, ToLineGraph, to_line_graphs
from plstm_graph.ops import plstm, prepare

HEADS, SIZE, WIDTH, GRAPHS = 4, 24, 96, 64


def molecule_like(rng: np.random.Generator, width: int | None = None) -> Data:
    """A random graph with the sizes, degrees and rings of a drug-like molecule.

    Features are floats of the given width, or integers like OGB's (9 for atoms, 3 for bonds).

    A tree that grows mostly at its end, then rings closed between atoms five bonds apart.
    """
    atoms = int(np.clip(rng.normal(27.3, 9), 6, 70))
    parent, degree = [-1], np.zeros(atoms, dtype=int)
    for atom in range(1, atoms):
        recent = [a for a in range(max(0, atom - 4), atom) if degree[a] < 3]
        parent.append(int(recent[-1] if rng.random() < 0.7 else rng.choice(recent)))
        degree[[atom, parent[atom]]] += 1
    bonds = [(parent[a], a) for a in range(1, atoms)]
    for atom in rng.permutation(atoms):
        if len(bonds) >= atoms - 1 + round(atoms / 9.5):
            break
        end = atom
        for _ in range(5):
            end = parent[end] if end > 0 else -1
        if end >= 0 and degree[atom] < 3 and degree[end] < 4:
            bonds.append((end, int(atom)))
            degree[[atom, end]] += 1
    half = torch.tensor(bonds).t()
    edge_index = torch.cat([half, half.flip(0)], dim=1)
    if width is None:
        x, edge_attr = torch.randint(5, (atoms, 9)), torch.randint(3, (half.size(1), 3))
    else:
        x, edge_attr = torch.randn(atoms, width), torch.randn(half.size(1), width)
    return Data(x=x, edge_index=edge_index, edge_attr=edge_attr.repeat(2, 1), y=torch.zeros(1))


def random_dag(nodes: int, edges: int, reach: int, seed: int) -> LineGraph:
    """Edges from each node to one at most ``reach`` later: depth grows as nodes / reach."""
    rng = np.random.default_rng(seed)
    src = rng.integers(0, nodes - 1, edges)
    dst = np.minimum(src + rng.integers(1, reach + 1, edges), nodes - 1)
    return LineGraph.from_edge_index(torch.from_numpy(np.stack([src, dst])), nodes)


def sequence(edges: int) -> LineGraph:
    """A path."""
    node = torch.arange(edges + 1)
    return LineGraph.from_edge_index(torch.stack([node[:-1], node[1:]]), edges + 1)


def op_inputs(line_graph: LineGraph, heads: int = HEADS, size: int = SIZE) -> list[Tensor]:
    n, e, l = line_graph.num_nodes, line_graph.num_edges, line_graph.num_line_edges
    torch.manual_seed(0)
    node = [torch.randn(n, heads, size) for _ in range(3)]
    gates = [torch.rand(e, heads), torch.rand(l, heads) * 0.5, torch.rand(e, heads)]
    made = (*node, *gates, torch.rand(n, heads))
    return [x.to(line_graph.device).requires_grad_() for x in made]


def edge_loop(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    source: Tensor,
    transition: Tensor,
    mark: Tensor,
    direct: Tensor,
    line_graph: LineGraph,
) -> Tensor:
    """The baseline, in the manner of the published program: one edge after the other, on [H, K, V].

    (``form="naive"`` makes all source outer products and readouts at once; here each edge makes its
    own.)
    """
    before: list[list[tuple[int, int]]] = [[] for _ in range(line_graph.num_edges)]
    for line, (e_in, e_out) in enumerate(line_graph.line_index.t().tolist()):
        before[e_out].append((line, e_in))
    q, k, v = query.unbind(0), key.unbind(0), value.unbind(0)
    s, t, m = source.unbind(0), transition.unbind(0), mark.unbind(0)
    out = list(((direct * (query * key).sum(-1))[..., None] * value).unbind(0))
    src, dst = line_graph.edge_index.tolist()
    states: dict[int, Tensor] = {}
    for e in torch.argsort(line_graph.level, stable=True).tolist():
        state = s[e][:, None, None] * k[src[e]][:, :, None] * v[src[e]][:, None, :]
        for line, e_in in before[e]:
            state = state + t[line][:, None, None] * states[e_in]
        states[e] = state
        read = (q[dst[e]][:, None, :] @ state).squeeze(1)
        out[dst[e]] = out[dst[e]] + m[e][:, None] * read
    return torch.stack(out)


def op_step(line_graph: LineGraph, inputs: list[Tensor], form: str) -> Callable[[], None]:
    def step() -> None:
        if form == "edge loop":
            out = edge_loop(*inputs, line_graph)
        else:
            out = plstm(*inputs, line_graph, form=form)
        torch.autograd.grad(out, inputs, torch.ones_like(out))

    return step


def medians(steps: dict[str, Callable[[], None]], turns: dict[str, int] | int) -> dict[str, float]:
    """Median seconds of each step; all take turns after two warm-up calls each."""
    count = {name: turns if isinstance(turns, int) else turns[name] for name in steps}
    for step in steps.values():
        step()
        step()
    devices.synchronize()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(max(count.values())):
        for name, step in steps.items():
            if turn < count[name]:
                start = time.perf_counter()
                step()
                devices.synchronize()
                times[name].append(time.perf_counter() - start)
    return {name: float(np.median(t)) for name, t in times.items()}


def report(title: str, seconds: dict[str, float], baseline: str, console: Console) -> dict:
    table = Table(title=title, title_justify="left")
    for column in ("", "ms", f"x {baseline}", f"{baseline} / this"):
        table.add_column(column, justify="left" if not column else "right")
    for name, s in seconds.items():
        ratio = s / seconds[baseline]
        table.add_row(name, f"{1e3 * s:.2f}", f"{ratio:.3f}", f"{1 / ratio:.1f}")
    console.print(table)
    return {
        name: {"ms": 1e3 * s, f"ratio_to_{baseline}": s / seconds[baseline]}
        for name, s in seconds.items()
    }


def bench_ops(batch: Batch, turns: int, console: Console) -> dict:
    line_graph = LineGraph.from_data(batch)
    inputs = op_inputs(line_graph)
    forms = ("edge loop", "naive", "levelwise", "parallel", "auto")
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


def peak_rss() -> float:
    """GB: VmHWM of Linux, for the maximum that ``resource`` tells begins with the parent's size."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 2**20


def peak_memory(length: int, form: str) -> float:
    """GB by which a step on a sequence raises the peak of a fresh process."""
    code = f"""
from experiments.benchmark import *
torch.set_num_threads(1)
warm, long = sequence(8), sequence({length})
op_step(warm, op_inputs(warm), {form!r})()
long.level
inputs = op_inputs(long)
before = peak_rss()
op_step(long, inputs, {form!r})()
print(peak_rss() - before)
"""
    run = [sys.executable, "-W", "ignore", "-c", code]
    return float(subprocess.run(run, capture_output=True, text=True, check=True).stdout)


def bench_sequences(turns: int, quick: bool, console: Console) -> dict:
    """One sequence, states level by level against chunks, over its length."""
    table = Table(
        title=f"long sequences, forward + backward, H={HEADS}, K=V={SIZE}", title_justify="left"
    )
    columns = ("steps", "levelwise, ms", "chunkwise, ms", "levelwise / chunkwise")
    for column in (*columns, "levelwise, peak GB", "chunkwise, peak GB"):
        table.add_column(column, justify="right")
    rows = []
    forms = ("levelwise", "chunkwise")
    for length in (1024, 4096) if quick else (1024, 4096, 16384):
        line_graph = sequence(length)
        inputs = op_inputs(line_graph)
        steps = {form: op_step(line_graph, inputs, form) for form in forms}
        seconds = medians(steps, max(3, turns // 5))
        ratio = seconds["levelwise"] / seconds["chunkwise"]
        row = {"steps": length, "levelwise_over_chunkwise": ratio}
        for form in forms:
            row[f"{form}_ms"] = 1e3 * seconds[form]
            row[f"{form}_peak_gb"] = peak_memory(length, form)
        rows.append(row)
        table.add_row(
            str(length),
            *(f"{row[f'{form}_ms']:.1f}" for form in forms),
            f"{ratio:.1f}",
            *(f"{row[f'{form}_peak_gb']:.3f}" for form in forms),
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
        from experiments import benchmark_grid  # which needs this module's timing

        result["long_sequences"] = bench_sequences(turns, options.quick, console)
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
