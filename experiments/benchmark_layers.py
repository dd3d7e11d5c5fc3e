"""Speed of one layer beside those of PyG; a part of :mod:`experiments.benchmark`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from rich.console import Console
from torch import nn
from torch_geometric.data import Batch
from torch_geometric.nn import GATv2Conv, GINEConv, GPSConv, TransformerConv

from experiments.benchmark_tools import HEADS, SIZE, WIDTH, medians, report
from plstm_graph import LineGraph, PLSTMConv
from plstm_graph.ops import prepare

BASELINES = ("GATv2Conv", "GPSConv")
#: What the project aims at: the row, and its largest ratio to each baseline.
GOAL_ROW, GOALS = "PLSTMConv two-way P", {"GATv2Conv": 1.3, "GPSConv": 0.6}


def layers() -> dict[str, nn.Module]:
    """The layers by their names, ``WIDTH`` channels and ``HEADS`` heads, all else by default."""

    def mlp() -> nn.Module:
        return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))

    ours = {
        f"PLSTMConv {name} {mode}": PLSTMConv(
            WIDTH, WIDTH, HEADS, edge_dim=WIDTH, mode=mode, direction=direction
        )
        for name, direction in (("two-way", "two_way"), ("forward", "forward"))
        for mode in ("P", "D")
    }
    ours["PLSTMConv two-way P, factored"] = PLSTMConv(
        WIDTH, WIDTH, HEADS, edge_dim=WIDTH, direction="two_way", transition="factored"
    )
    return ours | {
        "GATv2Conv": GATv2Conv(WIDTH, WIDTH // HEADS, HEADS, edge_dim=WIDTH),
        "TransformerConv": TransformerConv(WIDTH, WIDTH // HEADS, HEADS, edge_dim=WIDTH),
        "GINEConv": GINEConv(mlp(), edge_dim=WIDTH),
        "GPSConv": GPSConv(WIDTH, GINEConv(mlp(), edge_dim=WIDTH), HEADS),
    }


def layer_step(layer: nn.Module, batch: Batch, line_graph: LineGraph) -> Callable[[], None]:
    """Forward and backward, to the features of nodes and edges and to all parameters."""
    x = batch.x.clone().requires_grad_()
    edge_attr = batch.edge_attr.clone().requires_grad_()
    wanted = [x, edge_attr, *layer.parameters()]

    def step() -> None:
        if isinstance(layer, PLSTMConv):
            out = layer(x, batch.edge_index, edge_attr, batch.batch, line_graph)
        elif isinstance(layer, GPSConv):
            out = layer(x, batch.edge_index, batch.batch, edge_attr=edge_attr)
        else:
            out = layer(x, batch.edge_index, edge_attr)
        torch.autograd.grad(out, wanted, torch.ones_like(out), allow_unused=True)

    return step


def bench_layers(batch: Batch, turns: int, console: Console, threads: Sequence[int]) -> dict:
    """A table for each number of threads, by ``"1 thread"``, ``"2 threads"``, ...

    Args:
        batch: with line graphs, x and edge_attr of ``WIDTH`` channels.
        turns: of each layer, for each number of threads.
        console: prints the tables, and whether the goals are met.
        threads: numbers of threads of torch; what it was before is set again afterwards.
    """
    line_graph = prepare(LineGraph.from_data(batch), HEADS, SIZE, SIZE)
    convs = {name: conv.to(batch.x.device) for name, conv in layers().items()}
    steps = {name: layer_step(conv, batch, line_graph) for name, conv in convs.items()}
    before, result = torch.get_num_threads(), {}
    try:
        for count in threads:
            torch.set_num_threads(count)
            name = f"{count} thread{'s' * (count > 1)}"
            title = (
                f"one layer, forward + backward, {WIDTH} wide, {HEADS} heads, line graph given, "
                f"{name}"
            )
            rows = report(title, medians(steps, turns), BASELINES, console)
            for row, conv in convs.items():
                rows[row]["parameters"] = sum(p.numel() for p in conv.parameters())
            console.print(goals(rows))
            result[name] = rows
    finally:
        torch.set_num_threads(before)
    return result


def goals(rows: dict[str, dict]) -> str:
    """One line: the ratios of ``GOAL_ROW`` beside their limits."""
    parts = []
    for name, limit in GOALS.items():
        ratio = rows[GOAL_ROW][f"ratio_to_{name}"]
        verdict = "met" if ratio <= limit else "missed"
        parts.append(f"{ratio:.2f} x {name} (goal: at most {limit}, {verdict})")
    return f"{GOAL_ROW}: {', '.join(parts)}"
