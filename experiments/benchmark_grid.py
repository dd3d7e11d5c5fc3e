"""Speed of the grid layer, as ratios inside one process; a part of :mod:`experiments.benchmark`.

    python -m experiments.benchmark_grid [--quick]

Time and peak memory of one case alone, in a process of its own:

    python -m experiments.benchmark_grid --case 64 gating
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from experiments.benchmark_tools import edge_loop, medians, peak_rss
from plstm_graph.nn import PLSTMGrid
from plstm_graph.nn.grid_gates import grid_tables

SHAPE, BATCH, WIDTH, HEADS = (16, 16), 4, 192, 3
#: Sides of the growth table, and payloads: gating rows, states by level, states by a walk.
SIDES, PAYLOADS = (8, 16, 32, 64), ("gating", "levelwise", "walk", "auto")


def layer_step(
    mode: str, form: str = "auto", side: int = SHAPE[0], batch: int = BATCH
) -> Callable[[], None]:
    """Forward and backward of one layer, as in the vision model, in all four orientations."""
    torch.manual_seed(0)
    layer = PLSTMGrid(WIDTH, HEADS, mode=mode, form=form, conv=3, passthrough=True)
    x = torch.randn(batch, side, side, WIDTH, requires_grad=True)

    def step() -> None:
        layer(x).sum().backward()

    return step


def loop_step(mode: str) -> Callable[[], None]:
    """The recurrence of the same layer by the loop over edges, one image and orientation at a time
    as the published graph program does; projections and gates are left out."""
    torch.manual_seed(0)
    tables = grid_tables(SHAPE, ((1, 1),), mode, "cpu")
    graph = tables.line_graph
    n, e, l = graph.num_nodes, graph.num_edges, graph.num_line_edges
    node = [torch.randn(n, HEADS, WIDTH // HEADS) for _ in range(3)]
    gates = [torch.rand(e, HEADS), torch.rand(l, HEADS) / 2, torch.rand(e, HEADS)]
    inputs: list[Tensor] = [*node, *gates, torch.rand(n, HEADS)]
    inputs = [x.requires_grad_() for x in inputs]

    def step() -> None:
        for _ in range(BATCH * 4):
            torch.autograd.grad(edge_loop(*inputs, graph).sum(), inputs)

    return step


def bench_layer(turns: int, console: Console) -> dict:
    """The whole layer against the loop."""
    steps = {
        "PLSTMGrid, P": layer_step("P"),
        "PLSTMGrid, D": layer_step("D"),
        "loop over edges, P (recurrence alone)": loop_step("P"),
    }
    slow = list(steps)[-1]
    count = {name: max(3, turns // 10) if name == slow else turns for name in steps}
    seconds = medians(steps, count)
    table = Table(
        title=(
            f"grid layer, forward + backward, {SHAPE[0]} x {SHAPE[1]} patches, batch {BATCH}, "
            f"width {WIDTH}, {HEADS} heads, 4 orientations"
        ),
        title_justify="left",
    )
    for column in ("", "ms", "loop / this"):
        table.add_column(column, justify="left" if not column else "right")
    for name, value in seconds.items():
        table.add_row(name, f"{1e3 * value:.1f}", f"{seconds[slow] / value:.1f}")
    console.print(table)
    return {
        name: {"ms": 1e3 * value, "loop_over_this": seconds[slow] / value}
        for name, value in seconds.items()
    }


def measure(side: int, form: str) -> dict:
    """Time of one image, P-mode, and by how much it raises the peak memory of a fresh process."""
    step = layer_step("P", form, side, batch=1)
    before = peak_rss()
    times = []
    for _ in range(2 if side > 32 else 7):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    milliseconds = 1e3 * sorted(times)[len(times) // 2]
    return {"side": side, "form": form, "ms": milliseconds, "grown_gb": peak_rss() - before}


def bench_growth(quick: bool, console: Console, threads: int) -> list[dict]:
    """From 8 x 8 to 64 x 64 patches, one image: gating rows, states, and what auto picks."""
    table = Table(
        title=f"grid layer, growth, one image, width {WIDTH}, {HEADS} heads", title_justify="left"
    )
    for column in ("patches", *(f"{form}: ms, GB" for form in PAYLOADS)):
        table.add_column(column, justify="right")
    rows = []
    for side in SIDES[:2] if quick else SIDES:
        found = []
        for form in PAYLOADS:
            command = [sys.executable, "-m", "experiments.benchmark_grid", "--threads"]
            command += [str(threads), "--case", str(side), form]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found.append(json.loads(done.stdout.splitlines()[-1]))
        table.add_row(
            f"{side} x {side}", *(f"{row['ms']:.0f}, {row['grown_gb']:.2f}" for row in found)
        )
        rows += found
    console.print(table)
    return rows


def bench(turns: int, quick: bool, console: Console, threads: int) -> dict:
    """Both tables."""
    return {"layer": bench_layer(turns, console), "growth": bench_growth(quick, console, threads)}


def main(args: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=31)
    parser.add_argument("--quick", action="store_true", help="few turns, small sizes")
    parser.add_argument("--case", nargs=2, metavar=("SIDE", "FORM"), help="one case, as JSON")
    options = parser.parse_args(args)
    torch.set_num_threads(options.threads)
    if options.case:
        result = measure(int(options.case[0]), options.case[1])
        print(json.dumps(result))
        return result
    turns = 3 if options.quick else options.turns
    return bench(turns, options.quick, Console(), options.threads)


if __name__ == "__main__":
    main()
