"""Published programs' values and gradients, float64, by every form."""

import numpy as np
import pytest
import torch

from plstm_graph import LineGraph, grid_line_graph
from plstm_graph.ops import gating_matrix, plstm
from tests.shared import GOLDEN, needs_shared

FORMS = ("naive", "dense", "levelwise", "chunkwise", "walk", "auto")
NAMES = ("query", "key", "value", "source", "transition", "mark", "direct")
GRAPHS = ("chain", "tree", "random_dag", "molecules", "grid_graph")


def check(forms_output, arguments, want, cotangent, grads):
    assert float((forms_output - want).abs().max()) < 1e-9
    got = torch.autograd.grad(forms_output, arguments, cotangent)
    for name, a, b in zip(NAMES, got, grads):
        assert float((a - b).abs().max()) < 1e-9, name


@needs_shared
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", GRAPHS)
def test_graphs(name, form):
    g = {k: torch.from_numpy(v) for k, v in np.load(GOLDEN / f"{name}.npz").items() if v.ndim}
    num_nodes = g["query"].size(0)
    line_graph = LineGraph(num_nodes, g["edge_index"], g["line_index"])
    args = [g[k].requires_grad_() for k in NAMES]
    out = plstm(*args, line_graph, form=form)
    check(out, args, g["out"], g["cotangent"], [g[f"grad_{k}"] for k in NAMES])


def grid_tables(x: int, y: int, diffusive: bool):
    """Edges and line edges of a grid with, for each gate row, its name and place in the file.

    Node id x * Y + y; "right" moves along the first axis.
    """
    edges, sources, marks = [], [], []
    for i in range(x):
        for j in range(y):
            for side, mark_side, (a, b) in (
                ("right", "left", (i + 1, j)),
                ("down", "up", (i, j + 1)),
            ):
                if a < x and b < y:
                    edges.append((i * y + j, a * y + b))
                    sources.append((f"source_{side}", i, j))
                    marks.append((f"mark_{mark_side}", a, b))
    lines, transitions = [], []
    for p, (_u, v) in enumerate(edges):
        for r, (w, _) in enumerate(edges):
            if v != w:
                continue
            came = marks[p][0].removeprefix("mark_")
            goes = sources[r][0].removeprefix("source_")
            if diffusive and (came, goes) == ("left", "down"):
                continue
            lines.append((p, r))
            transitions.append((f"transition_{came}_to_{goes}", *divmod(v, y)))
    return edges, lines, sources, transitions, marks


def as_grid_line_graph(x, y, diffusive, edges, lines, rows):
    """The package's own grid, and the tables of :func:`grid_tables` in the order of its rows."""
    line_graph = grid_line_graph(x, y, turns="diffusive" if diffusive else "all")
    pairs = [tuple(pair) for pair in line_graph.edge_index.t().tolist()]
    assert sorted(pairs) == sorted(edges)
    edge = [edges.index(pair) for pair in pairs]
    found = [(edge[i], edge[j]) for i, j in line_graph.line_index.t().tolist()]
    assert sorted(found) == sorted(lines)
    line = [lines.index(pair) for pair in found]
    source, transition, mark = rows
    rows = ([source[i] for i in edge], [transition[i] for i in line], [mark[i] for i in edge])
    return line_graph, rows


@needs_shared
@pytest.mark.parametrize("form", [*FORMS, "gating"])
@pytest.mark.parametrize("own", [False, True], ids=["explicit", "grid_line_graph"])
@pytest.mark.parametrize("name", ["grid_p", "grid_d"])
def test_grids(name, own, form):
    """Images are heads: the batch is folded into the head axis of one grid."""
    g = {k: torch.from_numpy(v) for k, v in np.load(GOLDEN / f"{name}.npz").items()}
    images, x, y, k = g["query"].shape
    edges, lines, *rows = grid_tables(x, y, name == "grid_d")
    line_graph = LineGraph(x * y, torch.tensor(edges).T, torch.tensor(lines).T)
    if own:
        line_graph, rows = as_grid_line_graph(x, y, name == "grid_d", edges, lines, rows)

    def nodes(key):
        return g[key].reshape(images, x * y, -1).transpose(0, 1)

    def gates(table, prefix=""):
        return torch.stack([g[prefix + key][:, i, j] for key, i, j in table])

    def arguments(prefix=""):
        node = [nodes(prefix + key) for key in ("query", "key", "value")]
        source, transition, mark = (gates(table, prefix) for table in rows)
        return [*node, source, transition, mark, nodes(prefix + "direct")[..., 0]]

    args = [a.contiguous().requires_grad_() for a in arguments()]
    if form == "gating":
        query, key, value, *gates_of = args
        scores = torch.einsum("nhk,mhk->hnm", query, key) * gating_matrix(*gates_of, line_graph)
        out = torch.einsum("hnm,mhv->nhv", scores, value) * k**-0.5
    else:
        out = plstm(*args, line_graph, form=form, scale=k**-0.5)
    check(out, args, nodes("out"), nodes("cotangent"), arguments("grad_"))
