"""Timing on a device, and how near the kernels come to what its memory can move.

``python -m experiments.benchmark --device cuda`` adds the table of :func:`bench_kernels`: a copy of
a large tensor on the device gives the ceiling in bytes a second; each kernel has the bytes that its
access pattern moves (:mod:`experiments.kernels.traffic`, counted for the default tile),
divided by its time, and that as a share of the ceiling.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from experiments.kernels.traffic import dense_traffic, sizes_of, walk_kind, walk_traffic
from plstm_graph import LineGraph
from plstm_graph.ops.inputs import Inputs
from plstm_graph.ops.triton import dense, scan, walk
from plstm_graph.ops.triton.common import unavailable

#: Bytes that the copy of the ceiling reads, and writes.
COPY_BYTES = 1 << 30


def checked(name: str) -> torch.device:
    """The device of that name, if it is there.

    Raises:
        SystemExit: where it is not.
    """
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit(
            f"--device {name}: torch {torch.__version__} finds no CUDA device here; run this on a "
            "machine with a GPU and a build of torch for it, or with --device cpu"
        )
    return device


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def synchronize() -> None:
    """Wait for what was launched, if anything was: the CPU's own work has ended when it returns."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def seconds(step: Callable[[], object], device: torch.device, turns: int) -> float:
    """Median seconds of ``step`` after two calls of warm-up: CUDA events, or the clock of a CPU."""
    step()
    step()
    times = []
    for _ in range(turns):
        if device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            step()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end) / 1e3)
        else:
            begin = time.perf_counter()
            step()
            times.append(time.perf_counter() - begin)
    return float(np.median(times))


def copy_ceiling(device: torch.device, turns: int, size: int = COPY_BYTES) -> float:
    """Bytes a second, read and written, of a copy on the device."""
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    return 2 * 4 * source.numel() / seconds(lambda: target.copy_(source), device, turns)


def kernel_steps(
    line_graph: LineGraph, inputs: list[Tensor]
) -> dict[str, tuple[Callable[[], object], int]]:
    """Each kernel on one line graph: how to run it, and the bytes that it moves.

    Args:
        line_graph: on the device.
        inputs: the seven tensors of ``plstm``, float32, on the device.
    """
    inputs = [x.detach() for x in inputs]
    (_, h, k), v = inputs[0].shape, inputs[2].size(2)
    s, grad, made = sizes_of(line_graph, h, k, v), torch.ones_like(inputs[2]), Inputs(*inputs)
    plan, traffic = walk.make_plan(line_graph, False), walk_traffic(line_graph, s)
    steps = {
        "walk_forward": (
            lambda: walk.forward(made, 1.0, plan),
            traffic["walk_forward"].bytes,
        ),
        "walk_query, walk_key": (
            lambda: walk.backward(grad, made, 1.0, plan),
            traffic["walk_query"].bytes + traffic["walk_key"].bytes,
        ),
    }
    if dense.fits(line_graph) and max(k, v) <= dense.CHANNELS:
        tables, traffic = dense.make_plan(line_graph), dense_traffic(line_graph, s)
        steps["dense_forward"] = (
            lambda: dense.forward(made, 1.0, tables),
            traffic["dense_forward"].bytes,
        )
        steps["dense_backward"] = (
            lambda: dense.backward(grad, made, 1.0, tables),
            traffic["dense_backward"].bytes,
        )
    # A scan of states by itself: payload, states and gates; index tables are left out.
    forward, _, by_level = scan.make_plan(line_graph)
    lists = scan.ScanTables(*forward)
    x, t = grad.new_ones(s.edges, h, 1, k * v), inputs[4][..., None, None]
    state, gates = 4 * h * k * v, 4 * h * s.lines
    steps["level_scan" if by_level else "segment_scan"] = (
        lambda: scan.scan(x, t, lists, by_level),
        state * (2 * s.edges + s.lines) + gates,
    )
    steps["edge_dot"] = (lambda: scan.edge_dot(x, x, lists), 2 * state * s.lines + gates)
    return steps


def bench_kernels(
    workloads: dict[str, tuple[LineGraph, list[Tensor]]],
    device: torch.device,
    turns: int,
    console: Console,
    copy_bytes: int = COPY_BYTES,
) -> dict:
    """The ceiling, and each kernel on each workload (its line graph and inputs, on the device)."""
    result = {"device": device_name(device)}
    reason = unavailable(device)
    if reason is not None:
        console.print(f"kernels: left out, {reason}")
        return {**result, "left_out": reason}
    ceiling = copy_ceiling(device, turns, copy_bytes)
    table = Table(
        title=f"kernels on {result['device']}, float32; a copy moves {ceiling / 1e9:.0f} GB/s",
        title_justify="left",
    )
    for column in ("workload", "walk", "kernel", "MB", "ms", "GB/s", "of a copy"):
        table.add_column(column, justify="right")
    rows = []
    for workload, (line_graph, inputs) in workloads.items():
        for kernel, (step, moved) in kernel_steps(line_graph, inputs).items():
            rate = moved / (time_s := seconds(step, device, turns))
            row = {"workload": workload, "walk": walk_kind(line_graph), "kernel": kernel}
            row |= {"bytes": moved, "ms": 1e3 * time_s, "gb_per_s": rate / 1e9}
            rows.append(row | {"of_copy": rate / ceiling})
            figures = (moved / 1e6, 1e3 * time_s, rate / 1e9)
            cells = (workload, row["walk"], kernel, *(f"{x:.3f}" for x in figures))
            table.add_row(*cells, f"{rate / ceiling:.2f}")
    console.print(table)
    return {**result, "copy_gb_per_s": ceiling / 1e9, "rows": rows}
