"""Speed of the kinds of recurrences beside the scalar one: a part of the benchmark."""

from __future__ import annotations

from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from experiments.benchmark_tools import HEADS, SIZE, medians, sequence
from plstm_graph import LineGraph, grid_line_graph, plstm
from plstm_graph.ops import LogGate, Reflections

#: J, and K = V of states as large as those of the scalar recurrence.
STATES, HALF = 4, SIZE // 2
#: What the project aims at, times of the scalar recurrence.
GOALS = {"diagonal": 1.3, "normalizer": 1.3, "reflection": 2.0, "block": 3.0}

Call = tuple[list[Tensor], Callable[[list[Tensor]], Tensor]]


def graphs(batch_graph: LineGraph) -> dict[str, LineGraph]:
    """The graphs by their names; the first two are 64 molecules."""
    return {
        "64 molecules, one-way": batch_graph,
        "64 molecules, two-way": batch_graph.two_way(),
        "16 x 16 grid": grid_line_graph(16, 16),
        "sequence of 4096": sequence(4096),
    }


def calls(graph: LineGraph) -> dict[str, Call]:
    """Tensors with gradients, and the call of ``plstm`` with them, by the kind of recurrence."""
    n, e, l = graph.num_nodes, graph.num_edges, graph.num_line_edges
    torch.manual_seed(0)

    def leaves(*shapes: tuple[int, ...]) -> list[Tensor]:
        return [(0.4 * torch.randn(shape)).requires_grad_() for shape in shapes]

    def gates(*axes: int) -> list[tuple[int, ...]]:
        return [(e, HEADS), (l, HEADS, *axes), (e, HEADS), (n, HEADS)]

    rows = [(n, HEADS, SIZE)] * 3
    small = [(n, HEADS, HALF)] * 3
    block = [(e, HEADS, STATES), (l, HEADS, STATES, STATES), (e, HEADS, STATES), (n, HEADS)]
    logs = leaves(*rows, *gates())

    def run(form: str, **options):
        return lambda x: plstm(*x[:7], graph, form=form, **options)

    def reflected(x: list[Tensor]) -> Tensor:
        update = Reflections(x[1].unsqueeze(2), x[7].unsqueeze(2))
        return plstm(*x[:7], graph, form="walk", update=update)

    def stabilized(x: list[Tensor]) -> Tensor:
        gated = [LogGate(gate) for gate in x[3:]]
        options = {"stabilizer": "logsumexp", "normalizer": "max1"}
        return plstm(*x[:3], *gated, graph, form="walk", **options)

    return {
        "scalar": (leaves(*rows, *gates()), run("walk")),
        "diagonal": (leaves(*rows, *gates(SIZE)), run("walk")),
        "normalizer": (leaves(*rows, *gates()), run("walk", normalizer="max1")),
        "stabilizer and normalizer": (logs, stabilized),
        "reflection": (leaves(*rows, *gates(), (n, HEADS)), reflected),
        "block": (leaves(*small, *block), run("walk")),
    }


def bench(batch_graph: LineGraph, turns: int, console: Console) -> dict[str, dict[str, float]]:
    """Milliseconds of forward and backward by graph and kind, on one thread, in the form "walk".

    Args:
        batch_graph: the one-way line graph of a batch of molecules.
        turns: of each call.
        console: prints the table, with ratios to the scalar recurrence.
    """
    before, found = torch.get_num_threads(), {}
    torch.set_num_threads(1)
    try:
        for name, graph in graphs(batch_graph).items():
            steps = {}
            for kind, (tensors, call) in calls(graph).items():
                steps[kind] = _step(tensors, call)
            found[name] = {k: round(1e3 * t, 3) for k, t in medians(steps, turns).items()}
    finally:
        torch.set_num_threads(before)
    title = f"kinds of recurrences, forward + backward, H={HEADS}, K=V={SIZE} (block: J={STATES}, "
    table = Table(title=f"{title}K=V={HALF}), walk, 1 thread, x scalar", title_justify="left")
    table.add_column("")
    for name in found:
        table.add_column(name, justify="right")
    for kind in next(iter(found.values())):
        goal = f" (goal {GOALS[kind]})" if kind in GOALS else ""
        ratios = (f"{times[kind] / times['scalar']:.2f}" for times in found.values())
        table.add_row(kind + goal, *ratios)
    console.print(table)
    return found


def _step(tensors: list[Tensor], call: Callable[[list[Tensor]], Tensor]) -> Callable[[], None]:
    def step() -> None:
        out = call(tensors)
        torch.autograd.grad(out, tensors, torch.ones_like(out))

    return step
