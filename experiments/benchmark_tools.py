"""What the benchmarks share: graphs, the loop that is their baseline, timing in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch_geometric.data import Data

from experiments import device as devices
from plstm_graph import LineGraph
from plstm_graph.ops import plstm
from plstm_graph.ops.inputs import Inputs

HEADS, SIZE, WIDTH, GRAPHS = 4, 24, 96, 64


#: Steps shorter than this are warmed up before each measurement.
BRIEF = 0.1


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


def op_inputs(
    line_graph: LineGraph, heads: int = HEADS, size: int = SIZE, factored: bool = False
) -> list[Tensor]:
    """The seven tensors of ``plstm``, or eight: with a and b in the place of the transition."""
    n, e = line_graph.num_nodes, line_graph.num_edges
    torch.manual_seed(0)
    node = [torch.randn(n, heads, size) for _ in range(3)]
    if factored:
        # What leaves an edge is bounded, as in a layer.
        src, dst = line_graph.edge_index.cpu()
        leaving = torch.bincount(src, minlength=n)[dst].clamp(min=1)
        transition = [torch.rand(e, heads) / leaving[:, None], torch.rand(e, heads)]
    else:
        transition = [torch.rand(line_graph.num_line_edges, heads) * 0.5]
    made = (*node, torch.rand(e, heads), *transition, torch.rand(e, heads), torch.rand(n, heads))
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
            out = plstm(*Inputs.of(inputs)[:7], line_graph, form=form)
        torch.autograd.grad(out, inputs, torch.ones_like(out))

    return step


def medians(
    steps: dict[str, Callable[..., object]],
    turns: dict[str, int] | int,
    fresh: Callable[[], object] | None = None,
    needs_fresh: Collection[str] = (),
) -> dict[str, float]:
    """Median seconds of each step; all take turns after two warm-up calls each.

    A step of less than ``BRIEF`` seconds runs once more before each measurement: it would otherwise
    find the cache as the step before it has left it.

    Args:
        steps: functions without arguments.
        turns: for all steps, or for each by its name.
        fresh: makes the argument of a call of those steps whose names are in ``needs_fresh``; its
            time does not count.
    """
    count = {name: turns if isinstance(turns, int) else turns[name] for name in steps}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(-2, max(count.values())):
        for name, step in steps.items():
            if turn >= count[name]:
                continue
            if times[name] and times[name][-1] < BRIEF and name not in needs_fresh:
                step()
            arguments = [fresh()] if fresh is not None and name in needs_fresh else []
            devices.synchronize()
            start = time.perf_counter()
            step(*arguments)
            devices.synchronize()
            if turn >= 0:
                times[name].append(time.perf_counter() - start)
    return {name: float(np.median(t)) for name, t in times.items()}


def report(
    title: str, seconds: dict[str, float], baselines: str | Sequence[str], console: Console
) -> dict:
    """Print milliseconds and ratios to each baseline, and return them by row."""
    baselines = [baselines] if isinstance(baselines, str) else list(baselines)
    first = baselines[0]
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for column in ("ms", *(f"x {name}" for name in baselines), f"{first} / this"):
        table.add_column(column, justify="right")
    result = {}
    for name, s in seconds.items():
        ratios = {other: s / seconds[other] for other in baselines}
        cells = (f"{ratio:.3f}" for ratio in ratios.values())
        table.add_row(name, f"{1e3 * s:.2f}", *cells, f"{1 / ratios[first]:.1f}")
        row = {f"ratio_to_{other}": ratio for other, ratio in ratios.items()}
        result[name] = {"ms": 1e3 * s, **row}
    console.print(table)
    return result


def peak_rss() -> float:
    """GB: VmHWM of Linux, for the maximum that ``resource`` tells begins with the parent's size."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 2**20
