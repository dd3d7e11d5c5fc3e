"""Every argument of every public callable, spoilt in every plausible way.

Each mistake ends in a ``ValueError`` or ``TypeError`` that names the argument, never in an error
from inside. A row of the table is a callable, good arguments, and the kind of each argument
(:mod:`tests.spoilt`).
"""

from collections.abc import Callable
from typing import Any

import networkx as nx
import pytest
import torch
from torch_geometric.data import Batch, Data

from plstm_graph import (
    PLSTM,
    LineGraph,
    PLSTMBlock,
    PLSTMConv,
    PLSTMGrid,
    PLSTMSequence,
    PLSTMVision,
    ToLineGraph,
    grid_line_graph,
    to_line_graphs,
    viz,
)
from plstm_graph.dag import canonical_rank, multitree_mask, to_networkx
from plstm_graph.molecules import from_mol, from_smiles
from plstm_graph.nn import (
    HeadRMSNorm,
    SinusoidalDegree,
    export_published_weights,
    load_published_weights,
)
from plstm_graph.testing import check_equivariance, renumber
from plstm_graph.transforms import LineGraphCollater, redraw
from tests.spoilt import DATA, LINE, ONE, STORED, N, assert_refused, cases, changed

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


forward = {"x": DATA.x, "edge_index": DATA.edge_index, "edge_attr": DATA.edge_attr}
forward_kinds = {"x": "float", "edge_index": "edges", "edge_attr": "float", "batch": "batch?"}
beside = {"x": "float", "edge_index": "edges?", "edge_attr": "float", "batch": "batch?"}
beside |= {"line_graph": "graph?"}
conv_kinds = {
    "heads": "count",
    "cell": "choice",
    "mode": "choice?",
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
    **{name: conv_kinds[name] for name in ("cell", "mode", "direction", "bias", "scale", "form")},
}
model_kinds = {
    "in_channels": "width",
    "hidden_channels": "count",
    "num_layers": "count",
    "out_channels": "count",
    **{name: kind for name, kind in block_kinds.items() if name not in ("mode", "direction")},
    "readout": "norm",
    "modes": "choice?",
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
    "cell": "choice",
    "mode": "choice?",
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
        {"in_channels": "width", "out_channels": "count", "heads": "count", "mode": "choice?"},
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
POSITIONS = ("list", "float16 of ints", "int32", "other dtype", "float8")
#: Values that are good for this one.
GOOD = {
    ("PLSTMBlock", "ffn_ratio", "0.0"),
    ("PLSTMGrid", "conv", "0"),
    # A tensor or list of positions is as good as any other.
    *((name, "pos", kind) for name in ("draw_dag", "draw_line_graph") for kind in POSITIONS),
}


@pytest.mark.parametrize(("call", "good", "argument", "bad"), cases(TABLE, GOOD))
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
