"""What compilers make of the Triton kernels, and what bounds their time. Needs no GPU.

    python -m experiments.kernels.report [--out experiments/results/kernel_report.json]

Compiles every shipped configuration for sm_80, sm_90, sm_100 and gfx942 (some minutes on two cores
the first time; what did not change is read from a cache). Prints for each kernel and target the
worst over its configurations; the file has each one. Then bytes moved and floating-point operations
of a launch for three workloads, and the time that a device with 3.0 TB/s and 60 TFLOP/s (float32)
cannot beat. Nothing here is a measurement of speed.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch_geometric.data import Batch

from experiments.benchmark_tools import HEADS, SIZE, molecule_like, random_dag
from experiments.kernels import aot
from experiments.kernels.traffic import (
    Sizes,
    Traffic,
    dense_traffic,
    sizes_of,
    walk_kind,
    walk_traffic,
)
from experiments.reporting import command_line, write_json
from plstm_graph import LineGraph, grid_line_graph
from plstm_graph.ops.triton import dense
from plstm_graph.ops.triton.common import interpreting

BANDWIDTH, FLOPS = 3.0e12, 60e12
#: Registers, warps, programs and shared memory of a multiprocessor; registers come in multiples of
#: 8 for each thread.
MULTIPROCESSOR = {
    "sm_80": (65536, 64, 32, 164 << 10),
    "sm_90": (65536, 64, 32, 228 << 10),
    "sm_100": (65536, 64, 32, 228 << 10),
    "gfx942": (131072, 32, 32, 64 << 10),
}


def occupancy(row: dict) -> float:
    """Upper bound of the share of warps that a multiprocessor can hold of this kernel."""
    registers, most_warps, most_programs, shared = MULTIPROCESSOR[row["target"]]
    warps = row["threads"] // aot.TARGETS[row["target"]][2]
    used = -(-max(1, row["registers"]) // 8) * 8 * row["threads"]
    programs = min(most_programs, most_warps // warps, registers // used)
    if row["shared"]:
        programs = min(programs, shared // row["shared"])
    return programs * warps / most_warps


def compile_rows(modules: list[str], targets: list[str], processes: int | None) -> list[dict]:
    """One row for each configuration and target, in the order of their names."""
    rows = []
    for found in aot.all_resources(modules, targets, processes):
        kernel, _, configuration = found["name"].partition("[")
        row = {"kernel": kernel, "configuration": configuration.rstrip("]")}
        for key in ("target", "registers", "stack", "spills", "shared", "threads"):
            row[key] = found[key]
        rows.append(row | {"occupancy": round(occupancy(found), 3), "fault": aot.fault(found)})
        if len(rows) % 100 == 0:
            print(f"{len(rows)} compiled", file=sys.stderr)
    order = list(aot.TARGETS)
    rows.sort(key=lambda r: (r["kernel"], r["configuration"], order.index(r["target"])))
    return rows


def workloads() -> dict[str, LineGraph]:
    """64 molecules, 256 grids of 14 x 14, one DAG of 100,000 edges."""
    rng = np.random.default_rng(0)
    molecules = Batch.from_data_list([molecule_like(rng) for _ in range(64)])
    grid = grid_line_graph(14, 14)
    shift = torch.arange(256)[:, None]
    edges, lines = (
        (index[:, None, :] + shift * size).flatten(1)
        for index, size in ((grid.edge_index, grid.num_nodes), (grid.line_index, grid.num_edges))
    )
    batch = torch.arange(256).repeat_interleave(grid.num_nodes)
    return {
        "64 molecules": LineGraph.from_edge_index(
            molecules.edge_index, molecules.num_nodes, batch=molecules.batch
        ),
        "256 grids 14 x 14": LineGraph(batch.numel(), edges, lines, node_batch=batch),
        "one DAG, 100,000 edges": random_dag(50_000, 100_000, 500, 0),
    }


def scan_traffic(s: Sizes) -> dict[str, Traffic]:
    """A scan of states by itself (its input written by another kernel), and the dots of dT; index
    tables, a few entries for each state, are left out."""
    state = s.heads * s.k * s.v
    scan = s.wide * (state * (2 * s.edges + s.lines) + s.heads * s.lines)
    dot = s.wide * (2 * state * s.lines + s.heads * s.lines)
    return {
        "segment_scan, level_scan": Traffic(scan, scan, 2 * state * s.lines),
        "edge_dot": Traffic(dot, dot, 2 * state * s.lines),
    }


def traffic_rows(graphs: dict[str, LineGraph]) -> list[dict]:
    """One row for each workload and kernel; H = 4, K = V = 24, float32."""
    rows = []
    for workload, line_graph in graphs.items():
        s = sizes_of(line_graph, HEADS, SIZE, SIZE)
        kernels = {**walk_traffic(line_graph, s), **scan_traffic(s)}
        for kind in ("diagonal", "factored"):
            other = walk_traffic(line_graph, sizes_of(line_graph, HEADS, SIZE, SIZE, kind=kind))
            kernels |= {f"{name}, {kind}": t for name, t in other.items()}
        if dense.fits(line_graph):
            kernels = {**dense_traffic(line_graph, s), **kernels}
        for name, t in kernels.items():
            seconds = max(t.bytes / BANDWIDTH, t.flops / FLOPS)
            rows.append(
                {
                    "workload": workload,
                    "nodes": s.nodes,
                    "edges": s.edges,
                    "line_edges": s.lines,
                    "walk": walk_kind(line_graph),
                    "kernel": name,
                    "bytes": t.bytes,
                    "over_least": round(t.bytes / t.least, 3),
                    "flops": t.flops,
                    "roofline_us": round(1e6 * seconds, 2),
                    "bound": "memory" if seconds * FLOPS > t.flops else "arithmetic",
                }
            )
    return rows


def worst(rows: list[dict]) -> list[dict]:
    """Each kernel and target once, with the largest figures of its configurations."""
    groups: dict[tuple[str, str], list[dict]] = {}
    for row in rows:
        groups.setdefault((row["kernel"], row["target"]), []).append(row)
    return [
        {
            "kernel": kernel,
            "target": target,
            "configurations": len(group),
            **{
                key: max(row[key] for row in group)
                for key in ("registers", "stack", "spills", "shared")
            },
            "occupancy": f"{min(r['occupancy'] for r in group):.2f} to "
            f"{max(r['occupancy'] for r in group):.2f}",
        }
        for (kernel, target), group in groups.items()
    ]


def show(title: str, rows: list[dict]) -> None:
    table = Table(title=title)
    for column in rows[0]:
        table.add_column(column.replace("_", " "), justify="right")
    for row in rows:
        cells = (f"{x:,}" if isinstance(x, int) else str(x) for x in row.values())
        table.add_row(*cells)
    Console(width=160).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--modules", nargs="+", default=list(aot.MODULES))
    parser.add_argument("--targets", nargs="+", default=list(aot.TARGETS), choices=aot.TARGETS)
    parser.add_argument("--processes", type=int, help="that compile; default: one a processor")
    arguments = parser.parse_args()
    if interpreting():
        raise SystemExit("kernels are interpreted here, not compiled: unset TRITON_INTERPRET")
    traffic = traffic_rows(workloads())
    show(
        "Bytes and operations of a launch (H = 4, K = V = 24, float32); least: see traffic.py",
        traffic,
    )
    start = time.perf_counter()
    compiled = compile_rows(arguments.modules, arguments.targets, arguments.processes)
    seconds = time.perf_counter() - start
    show("Resources: the worst of each kernel's configurations", worst(compiled))
    bad = [row for row in compiled if row["fault"]]
    print(f"{len(compiled)} compiled, {len(bad)} with a fault, {seconds:.0f} s")
    if arguments.out is not None:
        report = {"command": command_line(), "compiled_without_faults": not bad}
        report |= {"configurations": len(aot.shipped(arguments.modules)), "traffic": traffic}
        write_json(arguments.out, {**report, "worst": worst(compiled), "compiled": compiled})
    if bad:
        raise SystemExit(f"expected no faults, got {bad}")


if __name__ == "__main__":
    main()
