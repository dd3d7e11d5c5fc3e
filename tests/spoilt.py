"""Ways to spoil an argument, for the tests that every public callable refuses them by name.

A *kind* is a list of ways to spoil a good value: ``KINDS[kind](good)`` is a mapping from labels to
bad values. ``?`` after a kind: ``None`` is a good value.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch_geometric.data import Data, HeteroData
from torch_geometric.utils import to_undirected

from plstm_graph import LineGraph, ToLineGraph, grid_line_graph

N, M = 6, 10
NAN = float("nan")


def tensors(good: torch.Tensor) -> dict[str, Any]:
    """What any tensor may be mistaken for."""
    return {
        "none": None,
        "text": "x",
        "list": good.tolist(),
        "float16 of ints": good.half() if not good.is_floating_point() else good.long(),
        "complex": good.to(torch.complex64),
        "float8": good.float().to(torch.float8_e4m3fn),
        "int32": good.int(),
        "more axes": good[None],
        "fewer axes": good.flatten()[0],
        "more rows": torch.cat([good, good[:1]]),
        "sparse": good.to_sparse(),
        "meta": good.to("meta"),
    }


def floats(good: torch.Tensor) -> dict[str, Any]:
    other = good.double() if good.dtype == torch.float32 else good.float()
    wide = torch.cat([good, good[..., :1]], -1)
    return {**tensors(good), "other dtype": other, "more columns": wide}


def indices(good: torch.Tensor) -> dict[str, Any]:
    high, low = good.clone(), good.clone()
    high.view(-1)[0], low.view(-1)[0] = 99, -1
    return {**tensors(good), "too high": high, "negative": low}


def free_rows(make: Callable) -> Callable:
    """The number of rows is the caller's to choose."""
    return lambda good: {k: v for k, v in make(good).items() if k != "more rows"}


def sparse_too(make: Callable) -> Callable:
    return lambda good: {k: v for k, v in make(good).items() if k != "sparse"}


def batches(good: torch.Tensor) -> dict[str, Any]:
    return {k: v for k, v in indices(good).items() if k != "too high"}


def changed(data: Data, **attributes: Any) -> Data:
    data = data.clone()
    for key, value in attributes.items():
        data[key] = value
    return data


def one_of(*values: Any) -> Callable:
    return lambda good: {repr(value)[:40]: value for value in values}


GRAPHS = (None, "x", 3, [], HeteroData(), torch.zeros(2, 3))
NUMBER = (None, "3", [3], True, torch.tensor(2))
KINDS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "count": one_of(*NUMBER, 2.5, 0, -1),
    "width": one_of(*NUMBER, 2.5, 0, -2),
    "whole": one_of(*NUMBER, 2.5, -1),
    "kernel": one_of(*NUMBER, 2.5, -1, 2),
    "ratio": one_of(*NUMBER, -1.0, NAN, float("inf")),
    "share": one_of(*NUMBER, -0.1, 1.5, NAN),
    "scale": one_of(*NUMBER, NAN, torch.nn.Parameter(torch.ones(()))),
    "flag": one_of(None, 1, "yes", torch.tensor(True)),
    "choice": one_of(None, "nonsense", 3, ["P"], b"P"),
    "text": one_of(None, 3, ["x"]),
    "module": one_of("x", 3, torch.nn.Linear),
    "norm": one_of("nonsense", 3, ["x"]),
    "function": one_of("x", 3),
    "keys": one_of(None, "x", 3, [3]),
    "orientation": one_of(
        *(None, "nonsense", 3, [0, 1]),
        *(torch.zeros(N, 1), torch.zeros(N).to_sparse(), torch.zeros(N, dtype=torch.complex64)),
    ),
    "float": floats,
    "feature": free_rows(floats),
    "integer": indices,
    "index": free_rows(indices),
    "edges": free_rows(sparse_too(indices)),
    "batch": batches,
    "graph": one_of(None, "x", 3, torch.zeros(2, 3), grid_line_graph(2, 2)),
    "any graph": one_of(None, "x", 3, torch.zeros(2, 3)),
    "data": one_of(*GRAPHS),
    "pair": one_of(None, "x", 0, -1, 2.5, True, (8,), (8, 0), (8, 2.5), (8, True)),
    "directions": one_of("x", 3, [], [(1,)], [(1, 2)], [(1, True)], [1, -1], [(1, "x")]),
    "signs": one_of("x", 3, (1,), (1, 0), (1, True), (1, "x")),
    "seed": one_of("3", 2.5, -1, True, torch.tensor(2)),
    "batch size": one_of("3", 2.5, -1, True, 1, torch.tensor(2)),
}


def tied_graph() -> Data:
    generator = torch.Generator().manual_seed(0)
    edge_index = to_undirected(torch.tensor([[0, 1, 1, 3, 4], [1, 2, 0, 4, 5]]))
    edge_index = torch.cat([edge_index, torch.tensor([[0, 2], [2, 0]])], 1)
    assert edge_index.size(1) == M
    x = torch.randn(N, 5, generator=generator)
    edge_attr = torch.randn(M, 3, generator=generator)
    batch = torch.tensor([0, 0, 0, 1, 1, 1])
    return Data(x=x, edge_index=edge_index, edge_attr=edge_attr, batch=batch)


DATA = tied_graph()
LINE = LineGraph.from_edge_index(DATA.edge_index, N, "index", DATA.batch)
ONE = Data(x=DATA.x, edge_index=DATA.edge_index, edge_attr=DATA.edge_attr)
STORED = ToLineGraph()(ONE)
MORE = ONE.edge_attr[:-1]
KINDS |= {
    "node features": one_of(
        *("x", [1], DATA.x[:3], DATA.x.to(torch.complex64), DATA.x.to(torch.float8_e4m3fn)),
        *(DATA.x.to("meta"), torch.tensor(1.0)),
    ),
    "edge features": one_of("x", [1], MORE, DATA.edge_attr.to(torch.complex64), torch.tensor(1.0)),
    "array": lambda good: {
        **{repr(value)[:20]: value for value in (None, "x", 3, [[0], [1]], good.tolist())},
        **{"tensor": torch.from_numpy(good), "float": good.astype(float), "one axis": good[0]},
        **{"negative": good - 9, "rows": np.concatenate([good, good[:1]])},
    },
    "device": one_of("nowhere", [], b"x"),
    "labels": one_of(3, "abcdef", ["a"] * 9),
    "pruned": one_of("x", 3, grid_line_graph(2, 2), LINE.reverse()),
    "call": one_of(None, "x", 3, lambda *_: None),
    "data list": one_of(None, 3, ONE, [None], ["x"], [ONE, HeteroData()], [ONE, [ONE]]),
    "collated": one_of(
        *(None, 3, ONE, [], [None], ["x"], [HeteroData()], [ONE, HeteroData()]),
        *([ONE, Data(edge_index=ONE.edge_index, num_nodes=N)],),
        *([Data(edge_index=ONE.edge_index, num_nodes=N), ONE],),
        *([ONE, changed(ONE, edge_index=ONE.edge_index + 3)],),
        *([ONE, changed(ONE, edge_index=ONE.edge_index.tolist())],),
    ),
}


def cases(table: dict, good_values: set = frozenset()) -> list:
    """Parameters (callable, good arguments, argument, bad value) of all rows of a table.

    Args:
        table: name -> (callable, good arguments, argument -> kind).
        good_values: (name, argument, label) that are no mistakes here.
    """
    found = []
    for name, (call, good, kinds) in table.items():
        for argument, kind in kinds.items():
            for label, bad in KINDS[kind.rstrip("?")](good.get(argument, DATA.batch)).items():
                if bad is None and kind.endswith("?"):
                    continue
                if (name, argument, label) in good_values:
                    continue
                label = f"{name}-{argument}-{label}"
                found.append(pytest.param(call, good, argument, bad, id=label))
    return found


def assert_refused(call: Callable, good: dict, argument: str, bad: Any) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        call(**{**good, argument: bad})
    assert argument in str(caught.value), caught.value
