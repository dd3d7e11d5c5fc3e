"""The graph operator of the published program (github.com/ml-jku/plstm) as a row of the benchmark.

Nothing of that program is part of this project. ``--published PATH`` names a checkout; its
``plstm_graph`` is loaded from there and called with the same inputs. It takes a networkx line graph
and dictionaries that number edges and line edges. Several graphs are one graph of several
components, as its documentation says. Tables and the order of its inputs are made beforehand and
do not count.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path

import networkx as nx
import torch
from torch import Tensor

from plstm_graph import LineGraph
from plstm_graph.ops import plstm

MODULE = Path("src/plstm/torch/plstm_graph.py")
OPERATOR = "plstm_graph"
REMEDY = "pass a checkout of it: git clone https://github.com/ml-jku/plstm"


def load(path: Path) -> Callable[..., Tensor]:
    """The operator of a checkout. Of its packages only the operator's own file is imported.

    Raises:
        SystemExit: where there is none, or one that cannot be imported.
    """
    file = path / MODULE
    if not file.is_file():
        raise SystemExit(f"--published {path}: expected the file {MODULE} there; {REMEDY}")
    spec = importlib.util.spec_from_file_location("published_plstm_graph", file)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        raise SystemExit(
            f"--published {path}: {MODULE} needs the package {error.name}, which is not installed; "
            f"pip install {error.name.partition('.')[0]}"
        ) from error
    except ImportError as error:
        raise SystemExit(
            f"--published {path}: {MODULE} cannot be imported alone: {error}; {REMEDY}"
        ) from error
    if not callable(getattr(module, OPERATOR, None)):
        raise SystemExit(f"--published {path}: expected {OPERATOR}() in {MODULE}; {REMEDY}")
    return getattr(module, OPERATOR)


class Published:
    """The operator on one line graph, with inputs of :func:`plstm_graph.ops.plstm`.

    Args:
        operator: that of :func:`load`.
        line_graph: one-way or two-way, without parallel edges, which it cannot tell apart.
        inputs: query, key, value, source, transition, mark and direct of ``plstm``.

    Raises:
        ValueError: on parallel edges.
    """

    def __init__(
        self, operator: Callable[..., Tensor], line_graph: LineGraph, inputs: Sequence[Tensor]
    ) -> None:
        edges = list(zip(*line_graph.edge_index.tolist()))
        if len(set(edges)) < len(edges):
            raise ValueError(
                "expected a line graph without parallel edges for the published operator, which "
                "names edges by their nodes; leave it out"
            )
        e_in, e_out = line_graph.line_index.tolist()
        lines = [(edges[i], edges[o]) for i, o in zip(e_in, e_out)]
        ldag = nx.DiGraph()
        ldag.add_nodes_from(edges)
        ldag.add_edges_from(lines)
        row = {edge: i for i, edge in enumerate(edges)}
        line_row = {line: i for i, line in enumerate(lines)}
        order = list(nx.topological_sort(ldag))
        self.operator = operator
        self.tables = (
            ldag,
            {edge: i for i, edge in enumerate(order)},
            {line: i for i, line in enumerate(ldag.edges)},
        )
        # Its edges stand in topological order, line edges as networkx has them; heads come first.
        edge_rows = torch.tensor([row[edge] for edge in order], dtype=torch.int64)
        line_rows = torch.tensor([line_row[line] for line in ldag.edges], dtype=torch.int64)
        self.rows = (None, None, None, edge_rows, line_rows, edge_rows, None)
        self.inputs = [
            self._theirs(x.detach(), rows).requires_grad_() for x, rows in zip(inputs, self.rows)
        ]

    @staticmethod
    def _theirs(x: Tensor, rows: Tensor | None) -> Tensor:
        x = x if rows is None else x.index_select(0, rows.to(x.device))
        return x.transpose(0, 1).contiguous()

    @staticmethod
    def _ours(x: Tensor, rows: Tensor | None) -> Tensor:
        x = x.transpose(0, 1)
        return x if rows is None else torch.empty_like(x).index_copy_(0, rows.to(x.device), x)

    def __call__(self) -> tuple[Tensor, tuple[Tensor, ...] | None]:
        """Forward and backward: output and gradients of its sum as the operator has them, heads
        first; ``None`` if it has no gradients."""
        out = self.operator(*self.inputs, *self.tables)
        if not out.requires_grad:
            return out, None
        return out.detach(), torch.autograd.grad(
            out, self.inputs, torch.ones_like(out), allow_unused=True, materialize_grads=True
        )

    def results(self) -> tuple[Tensor, tuple[Tensor, ...] | None]:
        """The same in the order of ``inputs``: output [N, H, V], gradients of their shapes."""
        out, grads = self()
        if grads is not None:
            grads = tuple(self._ours(x, rows) for x, rows in zip(grads, self.rows))
        return self._ours(out, None), grads


def difference(published: Published, inputs: Sequence[Tensor], line_graph: LineGraph) -> dict:
    """The largest absolute differences from ``plstm``, and the largest entries: of outputs, and of
    gradients where the operator has them."""
    out, grads = published.results()
    want = plstm(*inputs, line_graph)
    pairs = {"output": [(out, want.detach())]}
    if grads is not None:
        expected = torch.autograd.grad(want, list(inputs), torch.ones_like(want))
        pairs["gradient"] = list(zip(grads, expected))
    return {
        name: {
            "difference": max(_largest(a - b) for a, b in found),
            "largest": max(_largest(b) for _, b in found),
        }
        for name, found in pairs.items()
    }


def _largest(x: Tensor) -> float:
    return float(x.abs().max()) if x.numel() else 0.0
