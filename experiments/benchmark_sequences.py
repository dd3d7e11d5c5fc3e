"""Long sequences: states level by level against chunks, in time and peak memory."""

from __future__ import annotations

import gc
import subprocess
import sys

from rich.console import Console
from rich.table import Table

from experiments.benchmark_tools import HEADS, SIZE, medians, op_inputs, op_step, sequence

FORMS = ("levelwise", "chunkwise", "walk")


def peak_memory(length: int, form: str) -> float:
    """GB by which a step on a sequence raises the peak of a fresh process."""
    code = f"""
import torch
from experiments.benchmark_tools import op_inputs, op_step, peak_rss, sequence
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


def bench(turns: int, quick: bool, console: Console) -> dict:
    """One sequence, states level by level against chunks, over its length."""
    table = Table(
        title=f"long sequences, forward + backward, H={HEADS}, K=V={SIZE}", title_justify="left"
    )
    columns = ("steps", *(f"{form}, ms" for form in FORMS), "levelwise / chunkwise")
    for column in (*columns, *(f"{form}, peak GB" for form in FORMS)):
        table.add_column(column, justify="right")
    rows = []
    for length in (1024, 4096) if quick else (1024, 4096, 16384):
        line_graph = sequence(length)
        inputs = op_inputs(line_graph)
        steps = {form: op_step(line_graph, inputs, form) for form in FORMS}
        seconds = medians(steps, max(3, turns // 5))
        ratio = seconds["levelwise"] / seconds["chunkwise"]
        row = {"steps": length, "levelwise_over_chunkwise": ratio}
        for form in FORMS:
            row[f"{form}_ms"] = 1e3 * seconds[form]
            row[f"{form}_peak_gb"] = peak_memory(length, form)
        rows.append(row)
        table.add_row(
            str(length),
            *(f"{row[f'{form}_ms']:.1f}" for form in FORMS),
            f"{ratio:.1f}",
            *(f"{row[f'{form}_peak_gb']:.3f}" for form in FORMS),
        )
        del inputs, steps
        gc.collect()
    console.print(table)
    return {"rows": rows}
