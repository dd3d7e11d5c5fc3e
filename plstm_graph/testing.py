"""What a user of the package can test a model of their own with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data

from plstm_graph.checks import choice, describe, instance, integer, real, refuse
from plstm_graph.dag.checks import index_tensor
from plstm_graph.data import STORED_KEYS, check_data, plain

LEVELS = ("node", "multiset", "graph")


def renumber(data: Data, seed: int = 0) -> tuple[Data, Tensor]:
    """The same graph with its nodes renumbered and the columns of ``edge_index`` shuffled.

    Every attribute with as many rows as nodes or columns moves with them; a stored line graph is
    left out, since it is of the old numbering.

    Args:
        data: one graph with ``edge_index`` [2, M] and N nodes. Where ``batch`` is given, nodes stay
            in their graph.
        seed: of the permutations.

    Returns:
        The graph, and [N] int64, the new number of each node.
    """
    check_data("data", data)
    index_tensor("data.edge_index", plain(data.edge_index), 2)
    rng = torch.Generator().manual_seed(integer("seed", seed, 0))
    n, m = data.num_nodes, data.edge_index.size(1)
    old = torch.randperm(n, generator=rng)
    batch = data.get("batch")
    if batch is not None:
        old = old[batch.cpu()[old].argsort(stable=True)]
    new = torch.empty_like(old)
    new[old] = torch.arange(n)
    column = torch.randperm(m, generator=rng)
    out = Data()
    for key, value in data.to_dict().items():
        if key in STORED_KEYS:
            continue
        if key == "edge_index":
            value = new.to(value.device)[value][:, column.to(value.device)]
        elif isinstance(value, Tensor) and data.is_node_attr(key):
            value = value[old.to(value.device)]
        elif isinstance(value, Tensor) and data.is_edge_attr(key):
            value = value[column.to(value.device)]
        out[key] = value
    return out, new


def check_equivariance(
    module: Callable[..., Any],
    data: Data,
    *,
    level: str = "node",
    trials: int = 5,
    seed: int = 0,
    tolerance: float = 1e-10,
    call: Callable[[Data], Tensor] | None = None,
) -> float:
    """Check that an output does not depend on how the nodes are numbered.

    Args:
        module: a layer or model, called as ``module(x, edge_index, edge_attr, batch)``; use
            ``module.eval().double()`` so that dropout and rounding play no part.
        data: one graph, of the dtype of the module.
        level: ``"node"``, outputs [N, *] move with their nodes; ``"multiset"``, they are the same
            rows in some order (all that can hold where a symmetry exchanges nodes of a graph with
            cycles); ``"graph"``, outputs are equal.
        trials: number of renumberings.
        seed: of the renumberings.
        tolerance: largest absolute difference, relative to the largest output where that is
            above 1.
        call: how to run the module on a graph, where the arguments above do not fit.

    Returns:
        The largest difference found.

    Raises:
        AssertionError: if it is above ``tolerance``.
        ValueError: on an unknown ``level``.
    """
    for name, function in (("module", module), ("call", call)):
        if not callable(function) and (name == "module" or call is not None):
            refuse(name, "as something to call", describe(function))
    check_data("data", data)
    choice("level", level, LEVELS)
    integer("trials", trials, 1)
    integer("seed", seed, 0)
    real("tolerance", tolerance, 0.0)

    def run(graph: Data) -> Tensor:
        if call is not None:
            return _tensor(call(graph))
        return _tensor(module(graph.x, graph.edge_index, graph.edge_attr, graph.get("batch")))

    with torch.no_grad():
        want = run(data)
        largest = max(1.0, float(want.abs().max())) if want.numel() else 1.0
        worst = 0.0
        for trial in range(trials):
            graph, new = renumber(data, seed + trial)
            got = run(graph)
            if level == "node":
                got = got[new.to(got.device)]
            difference = _unordered(got, want) if level == "multiset" else _difference(got, want)
            worst = max(worst, difference / largest)
    if worst > tolerance:
        raise AssertionError(
            f"expected outputs independent of the numbering of nodes (level={level!r}) to "
            f"{tolerance:g}, got a difference of {worst:.3g}; docs/orientation.md says what each "
            f"orientation guarantees"
        )
    return worst


def _tensor(out: Any) -> Tensor:
    return instance("module", out, Tensor, "a function to one tensor", "pass call= to choose it")


def _difference(got: Tensor, want: Tensor) -> float:
    if got.shape != want.shape:
        raise AssertionError(f"expected outputs {list(want.shape)}, got {list(got.shape)}")
    return float((got - want).abs().max()) if want.numel() else 0.0


def _unordered(got: Tensor, want: Tensor) -> float:
    """The largest distance of a row of one to the nearest row of the other that is not taken."""
    if got.shape != want.shape:
        raise AssertionError(f"expected outputs {list(want.shape)}, got {list(got.shape)}")
    distance = (got.flatten(1).unsqueeze(1) - want.flatten(1).unsqueeze(0)).abs().amax(-1)
    worst = 0.0
    for row in distance:
        nearest = int(row.argmin())
        worst = max(worst, float(row[nearest]))
        distance[:, nearest] = float("inf")
    return worst
