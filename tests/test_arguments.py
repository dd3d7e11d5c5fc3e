"""Every argument of every public callable, spoilt in every plausible way.

Each mistake ends in a ``ValueError`` or ``TypeError`` that names the argument, never in an error
from inside. A row of a table is a callable, good arguments, and the kind of each argument; a kind
is a list of ways to spoil it. ``?`` after a kind: ``None`` is a good value.
"""

from collections.abc import Callable
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from torch_geometric.data import Batch, Data, HeteroData
from torch_geometric.utils import to_undirected

from plstm_graph import (
    PLSTM,
    LineGraph,
    PLSTMBlock,
    PLSTMConv,
    PLSTMGrid,
    PLSTMSequence,
    PLSTMVision,
    ToLineGraph,
    dag_scan,
    gating_matrix,
    grid_line_graph,
    plstm,
    prepare,
    to_line_graphs,
    viz,
)
from plstm_graph.dag import canonical_rank, from_mol, from_smiles, multitree_mask, to_networkx
from plstm_graph.nn import (
    HeadRMSNorm,
    SinusoidalDegree,
    export_published_weights,
    load_published_weights,
)
from plstm_graph.testing import check_equivariance, renumber
from plstm_graph.transforms import LineGraphCollater, redraw

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
CONV = PLSTMConv(5, 6, 2, edge_dim=3)
BLOCK = PLSTMBlock(5, 1, edge_dim=3, local="gin", norm="graph_norm")
MODEL = PLSTM(5, 8, 2, 3, edge_dim=3, readout="mean")
GRID, SEQUENCE = PLSTMGrid(8, 2), PLSTMSequence(8, 2)
VISION = PLSTMVision(8, 2, 3, width=8, depth=1, heads=2, in_channels=1)


def with_line_graph(module: Callable) -> Callable:
    return lambda **kwargs: module(**{"line_graph": LINE, **kwargs})


def spoilt_data(build: Callable, **good: Any) -> Callable:
    """Attributes of a graph in place of arguments."""
    return lambda **attributes: build(Data(**{**good, **attributes}))


def changed(data: Data, **attributes: Any) -> Data:
    data = data.clone()
    for key, value in attributes.items():
        data[key] = value
    return data


forward = {"x": DATA.x, "edge_index": DATA.edge_index, "edge_attr": DATA.edge_attr}
forward_kinds = {"x": "float", "edge_index": "edges", "edge_attr": "float", "batch": "batch?"}
beside = {"x": "float", "edge_index": "edges?", "edge_attr": "float", "batch": "batch?"}
beside |= {"line_graph": "graph?"}
conv_kinds = {
    "heads": "count",
    "mode": "choice",
    "edge_dim": "width?",
    "normalization": "choice",
    "transition_node": "choice",
    "direction": "choice",
    "direction_offset": "flag",
    "orientation": "orientation",
    "bias": "flag",
    "qk_norm": "flag",
    "head_norm": "flag",
    "log_norm": "flag",
    "scale": "scale",
    "init": "choice",
    "form": "choice",
    "backend": "choice",
    "aggr": "choice",
}
block_kinds = {
    "heads": "count",
    "edge_dim": "width?",
    "ffn_ratio": "ratio",
    "zero_init": "flag",
    "dropout": "share",
    "norm": "norm",
    "post_norm": "norm",
    "act": "text",
    "local": "function",
    **{name: conv_kinds[name] for name in ("mode", "direction", "bias", "scale", "form")},
}
model_kinds = {
    "in_channels": "width",
    "hidden_channels": "count",
    "num_layers": "count",
    "out_channels": "count",
    **{name: kind for name, kind in block_kinds.items() if name not in ("mode", "direction")},
    "readout": "norm",
    "modes": "choice",
    "directions": "choice",
    "node_encoder": "module",
    "edge_encoder": "module",
    "degree_encoding": "choice?",
    "head_layers": "count",
    "orientation": "orientation",
}
grid_kinds = {
    "channels": "count",
    "heads": "count",
    "mode": "choice",
    "conv": "kernel",
    "passthrough": "flag",
    "gate_weights": "flag",
    "gate_std": "ratio",
    "bias": "flag",
    "form": "choice",
    "backend": "choice",
    "angle": "choice",
}
builder_kinds = {"orientation": "choice", "seed": "seed", "rank": "text"}
draw_kinds = {"line_graph": "any graph", "pos": "float?", "ax": "function", "cmap": "choice"}
draw_kinds |= {"node_size": "ratio", "width": "ratio"}

WEIGHTS = export_published_weights(PLSTMConv.paper(5, 6))

#: callable, good arguments, kinds of arguments.
TABLE: dict[str, tuple[Callable, dict[str, Any], dict[str, str]]] = {
    "PLSTMConv": (
        PLSTMConv,
        {"in_channels": 5, "out_channels": 6},
        {"in_channels": "width", "out_channels": "count", **conv_kinds},
    ),
    "PLSTMConv.paper": (
        PLSTMConv.paper,
        {"in_channels": 5, "out_channels": 6},
        {"in_channels": "width", "out_channels": "count", "heads": "count", "mode": "choice"},
    ),
    "PLSTMBlock": (PLSTMBlock, {"channels": 8}, {"channels": "count", **block_kinds}),
    "PLSTM": (
        PLSTM,
        {"in_channels": 5, "hidden_channels": 8, "num_layers": 2, "out_channels": 3},
        model_kinds,
    ),
    "PLSTM.paper": (
        PLSTM.paper,
        {"in_channels": 5},
        {name: model_kinds[name] for name in ("in_channels", "hidden_channels", "num_layers")},
    ),
    "PLSTMGrid": (
        PLSTMGrid,
        {"channels": 8, "heads": 2},
        {**grid_kinds, "ndim": "count", "directions": "directions", "causal": "flag"},
    ),
    "PLSTMSequence": (
        PLSTMSequence,
        {"channels": 8, "heads": 2},
        {**grid_kinds, "bidirectional": "flag"},
    ),
    "PLSTMVision": (
        PLSTMVision,
        {"image_size": 8, "patch_size": 2, "num_classes": 3, "width": 8, "depth": 1, "heads": 2},
        {
            "image_size": "pair",
            "patch_size": "pair",
            "num_classes": "count",
            "width": "count",
            "depth": "count",
            "heads": "count",
            "in_channels": "count",
            "modes": "choice",
            "pooling": "choice",
            "position": "flag",
            "position_std": "ratio",
            "stem": "choice",
            "bias": "flag",
            "conv": "kernel",
            "passthrough": "flag",
            "ffn_ratio": "ratio",
            "dropout": "share",
        },
    ),
    "PLSTMVision.preset": (PLSTMVision.preset, {"name": "tiny"}, {"name": "choice"}),
    "PLSTMConv()": (CONV, forward, {**forward_kinds, "x": "feature", "return_gates": "flag"}),
    "PLSTMConv(line_graph)": (with_line_graph(CONV), forward, beside),
    "PLSTMBlock()": (BLOCK, {**forward, "batch": DATA.batch}, forward_kinds),
    "PLSTMBlock(line_graph)": (with_line_graph(PLSTMBlock(5, 1, edge_dim=3)), forward, beside),
    "PLSTM()": (
        MODEL,
        {**forward, "batch": DATA.batch},
        {**forward_kinds, "batch_size": "batch size"},
    ),
    "PLSTM(line_graph)": (with_line_graph(MODEL), {**forward, "batch": DATA.batch}, beside),
    "PLSTMGrid()": (GRID, {"x": torch.zeros(2, 3, 3, 8)}, {"x": "feature"}),
    "PLSTMGrid.gating": (GRID.gating, {"x": torch.zeros(2, 3, 3, 8)}, {"x": "feature"}),
    "PLSTMSequence()": (SEQUENCE, {"x": torch.zeros(2, 3, 8)}, {"x": "feature"}),
    "PLSTMVision()": (VISION, {"images": torch.zeros(2, 1, 8, 8)}, {"images": "feature"}),
    "LineGraph": (
        LineGraph,
        {"num_nodes": N, "edge_index": LINE.edge_index, "line_index": LINE.line_index},
        {"num_nodes": "whole", "edge_index": "index", "line_index": "index"},
    ),
    "LineGraph(more)": (
        lambda **kw: LineGraph(N, LINE.edge_index, LINE.line_index, **kw),
        {"edge_id": LINE.edge_id, "node_batch": DATA.batch},
        {"edge_id": "batch?", "node_batch": "batch?"},
    ),
    "LineGraph.from_edge_index": (
        LineGraph.from_edge_index,
        {"edge_index": DATA.edge_index, "num_nodes": N, "batch": DATA.batch, "x": DATA.x},
        {
            "edge_index": "index",
            "num_nodes": "seed",
            "orientation": "orientation",
            "batch": "batch?",
        },
    ),
    "LineGraph.from_edge_index(features)": (
        LineGraph.from_edge_index,
        {"edge_index": DATA.edge_index, "num_nodes": N},
        {"x": "node features", "edge_attr": "edge features"},
    ),
    "LineGraph.from_edge_index(seed)": (
        LineGraph.from_edge_index,
        {"edge_index": DATA.edge_index, "num_nodes": N, "orientation": "random"},
        {"seed": "seed"},
    ),
    "LineGraph.from_networkx": (
        LineGraph.from_networkx,
        {"g": nx.path_graph(N)},
        {"g": "data", "orientation": "orientation"},
    ),
    "LineGraph.from_data": (LineGraph.from_data, {"data": STORED}, {"data": "data"}),
    "LineGraph.from_data(tensors)": (
        lambda **kw: LineGraph.from_data(changed(STORED, **kw)),
        {"edge_index": DATA.edge_index},
        {"edge_index": "index", "batch": "batch?", "num_nodes": "seed"},
    ),
    "grid_line_graph": (
        lambda shape, **kw: grid_line_graph(3, shape, **kw),
        {"shape": 3},
        {"shape": "count", "directions": "signs", "turns": "choice", "device": "device"},
    ),
    "ToLineGraph": (ToLineGraph, {}, builder_kinds),
    "ToLineGraph()": (ToLineGraph(), {"data": ONE}, {"data": "data"}),
    "ToLineGraph(data)": (
        spoilt_data(ToLineGraph(), edge_index=DATA.edge_index, num_nodes=N),
        {"x": DATA.x, "edge_attr": DATA.edge_attr, "edge_index": DATA.edge_index},
        {"x": "node features", "edge_attr": "edge features", "edge_index": "index"},
    ),
    "to_line_graphs": (
        to_line_graphs,
        {"data_list": [ONE, ONE]},
        {"data_list": "data list", **builder_kinds, "chunk_size": "count"},
    ),
    "LineGraphCollater": (
        LineGraphCollater,
        {},
        {**builder_kinds, "follow_batch": "keys", "exclude_keys": "keys"},
    ),
    "LineGraphCollater()": (
        LineGraphCollater("bfs"),
        {"data_list": [ONE, ONE]},
        {"data_list": "collated"},
    ),
    "redraw": (redraw, {"data": ONE}, {"data": "data", "orientation": "choice", "seed": "seed"}),
    "check_equivariance": (
        check_equivariance,
        {"module": lambda x, *_: x.sum(0), "data": ONE, "level": "graph", "tolerance": 1e-4},
        {
            "module": "call",
            "data": "data",
            "level": "choice",
            "trials": "count",
            "seed": "whole",
            "tolerance": "ratio",
            "call": "function",
        },
    ),
    "renumber": (renumber, {"data": ONE}, {"data": "data", "seed": "whole"}),
    "draw_dag": (
        viz.draw_dag,
        {"line_graph": LINE, "pos": torch.zeros(N, 2)},
        {**draw_kinds, "labels": "labels"},
    ),
    "draw_line_graph": (
        viz.draw_line_graph,
        {"line_graph": LINE, "pos": torch.rand(N, 2)},
        {**draw_kinds, "pruned": "pruned"},
    ),
    "layout": (viz.layout, {"line_graph": LINE}, {"line_graph": "any graph", "seed": "whole"}),
    "to_networkx": (to_networkx, {"line_graph": LINE}, {"line_graph": "any graph"}),
    "canonical_rank": (
        canonical_rank,
        {"edge_index": DATA.edge_index.numpy(), "num_nodes": N},
        {"edge_index": "array", "num_nodes": "whole", "max_branches": "count"},
    ),
    "multitree_mask": (
        multitree_mask,
        {"edge_index": LINE.edge_index.numpy(), "line_index": LINE.line_index.numpy()},
        {"edge_index": "array", "line_index": "array", "rank": "any graph?"},
    ),
    "HeadRMSNorm": (
        HeadRMSNorm,
        {"heads": 2, "channels": 3},
        {"heads": "count", "channels": "count", "eps": "ratio"},
    ),
    "SinusoidalDegree": (SinusoidalDegree, {"channels": 8}, {"channels": "count"}),
    "export_published_weights": (
        export_published_weights,
        {"conv": PLSTMConv.paper(5, 6)},
        {"conv": "data", "grad": "flag"},
    ),
    "load_published_weights": (
        load_published_weights,
        {"conv": PLSTMConv.paper(5, 6), "weights": WEIGHTS},
        {"conv": "data", "weights": "data"},
    ),
    "from_smiles": (from_smiles, {"smiles": "CCO"}, {"smiles": "text"}),
    "from_mol": (from_mol, {}, {"mol": "data"}),
}
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

#: What LineGraph itself has yet to check.
OPEN = {
    ("LineGraph", "num_nodes"),
    ("LineGraph.from_edge_index", "num_nodes"),
    ("LineGraph.from_edge_index", "orientation"),
    ("LineGraph.from_networkx", "orientation"),
}
POSITIONS = ("list", "float16 of ints", "int32", "other dtype", "float8")
#: Values that are good for this one.
GOOD = {
    ("PLSTMBlock", "ffn_ratio", "0.0"),
    ("PLSTMGrid", "conv", "0"),
    # A tensor or list of positions is as good as any other.
    *(("draw_dag", "pos", kind) for kind in POSITIONS),
}


def cases(table: dict, marks: tuple = ()) -> list:
    found = []
    for name, (call, good, kinds) in table.items():
        for argument, kind in kinds.items():
            for label, bad in KINDS[kind.rstrip("?")](good.get(argument, DATA.batch)).items():
                if bad is None and kind.endswith("?"):
                    continue
                if (name.replace("line_graph", "dag"), argument, label) in GOOD:
                    continue
                mark = [*marks]
                if (name, argument) in OPEN:
                    mark.append(pytest.mark.xfail(strict=False, reason="LineGraph's own check"))
                label = f"{name}-{argument}-{label}"
                found.append(pytest.param(call, good, argument, bad, id=label, marks=mark))
    return found


def assert_refused(call: Callable, good: dict, argument: str, bad: Any) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        call(**{**good, argument: bad})
    assert argument in str(caught.value), caught.value


@pytest.mark.parametrize(("call", "good", "argument", "bad"), cases(TABLE))
@pytest.mark.filterwarnings("ignore")
def test_refused_by_name(call, good, argument, bad, request):
    if "draw_" in request.node.name:
        pytest.importorskip("matplotlib").use("Agg")
    if "refused_by_name[from_" in request.node.name:
        pytest.importorskip("rdkit")
    assert_refused(call, good, argument, bad)


@pytest.mark.parametrize("name", [name for name in TABLE if not name.startswith("from_")])
def test_good_arguments(name):
    if name.startswith("draw_"):
        pytest.importorskip("matplotlib").use("Agg")
    call, good, _ = TABLE[name]
    call(**good)


def test_mixed_lists_are_no_mistake():
    """Graphs with a line graph and graphs without: all get a new one."""
    for mixed in ([ONE, STORED], [STORED, ONE]):
        batch = LineGraphCollater("canonical")(mixed)
        for data in (*batch.to_data_list(), *to_line_graphs(mixed)):
            found = LineGraph.from_data(data)
            assert torch.equal(found.edge_index, LineGraph.from_data(STORED).edge_index)
    with pytest.raises(ValueError, match="data with a line graph"):
        LineGraph.from_data(Batch.from_data_list([ONE, STORED]))


# ------------------------------------------------------------------------------- operators

E, L, H = LINE.num_edges, LINE.num_line_edges, 2
gates = {
    "source": torch.rand(E, H),
    "transition": torch.rand(L, H),
    "mark": torch.rand(E, H),
    "direct": torch.rand(N, H),
    "line_graph": LINE,
}
rows = {name: torch.rand(N, H, 3) for name in ("query", "key", "value")}
gate_kinds = dict.fromkeys(gates, "float") | {"line_graph": "graph"}
OPERATORS = {
    "plstm": (
        plstm,
        {**rows, **gates},
        {
            **dict.fromkeys(rows, "float"),
            **gate_kinds,
            "scale": "scale",
            "form": "choice",
            "backend": "choice",
        },
    ),
    "dag_scan": (
        dag_scan,
        {"x": torch.rand(E, H, 3), "transition": gates["transition"], "line_graph": LINE},
        {
            "x": "float",
            "transition": "float",
            "line_graph": "graph",
            "reverse": "flag",
            "backend": "choice",
        },
    ),
    "gating_matrix": (
        gating_matrix,
        {**gates, "views": torch.arange(N)[None]},
        {**gate_kinds, "views": "integer?", "backend": "choice"},
    ),
    "prepare": (
        prepare,
        {"line_graph": LINE, "heads": 2, "key_size": 3, "value_size": 3},
        {
            "line_graph": "any graph",
            "heads": "count",
            "key_size": "count",
            "value_size": "count",
        },
    ),
}
#: Widths and precisions are the caller's: wider values, and halves beside floats, are good.
WIDER = {("plstm", "value", "more columns"), ("dag_scan", "x", "more columns")}
GOOD |= WIDER


@pytest.mark.parametrize(
    ("call", "good", "argument", "bad"),
    cases(OPERATORS, (pytest.mark.xfail(strict=False, reason="the operators' own check"),)),
)
@pytest.mark.filterwarnings("ignore")
def test_operators_refuse_by_name(call, good, argument, bad):
    assert_refused(call, good, argument, bad)


@pytest.mark.parametrize("name", OPERATORS)
def test_good_arguments_of_operators(name):
    call, good, _ = OPERATORS[name]
    call(**good)
