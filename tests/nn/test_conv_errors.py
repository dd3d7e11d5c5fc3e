"""What PLSTMConv refuses, and how it says so."""

import pytest
import torch

from plstm_graph import LineGraph
from plstm_graph.nn import PLSTMConv
from tests.nn.conftest import features


@pytest.mark.parametrize(
    "options, message",
    [
        ({"heads": 4}, r"divisible by heads, got out_channels=6 and heads=4"),
        ({"heads": 0}, r"heads as an integer of 1 or more, got 0"),
        ({"mode": "Q"}, r"mode to be one of 'P', 'D', got 'Q'"),
        ({"normalization": "both"}, r"normalization to be one of"),
        ({"transition_node": "end"}, r"transition_node to be one of"),
        ({"init": "zeros"}, r"init to be one of 'open', 'graph', 'grid', got 'zeros'"),
        ({"direction": "back"}, r"direction to be one of 'auto', .*'reverse', got 'back'"),
        ({"aggr": "mean"}, r"aggr to be one of"),
        ({"edge_dim": 0}, r"edge_dim as an integer of 1 or more, got 0; -1 takes"),
        ({"in_channels": 0}, r"in_channels as an integer of 1 or more, got 0; -1 takes"),
        ({"decomposed_layers": 2}, r"decomposed_layers=1, got 2"),
        ({"flow": "up"}, r"flow"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        PLSTMConv(**{"in_channels": 5, "out_channels": 6, **options})


def test_decomposition_cannot_be_set_later(conv):
    with pytest.raises(ValueError, match="decomposed_layers=1"):
        conv.decomposed_layers = 2


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda a: a | {"x": a["x"][:, :4]}, r"tensor \[N, 5\], got .*\[7, 4\]; in_channels is 5"),
        (lambda a: a | {"x": a["x"][0]}, r"x as a dense floating-point tensor \[N, 5\]"),
        (lambda a: a | {"x": a["x"].float()}, r"x of dtype torch.float64"),
        (lambda a: a | {"x": a["x"].long()}, r"x as a dense floating-point tensor"),
        (lambda a: a | {"x": a["x"].to("meta")}, r"x on cpu like the layer's weights, got meta"),
        (
            lambda a: a | {"edge_attr": a["edge_attr"][:6]},
            r"edge_attr with 8 rows \(one per column of edge_index\), got 6",
        ),
        (
            lambda a: a | {"edge_attr": a["edge_attr"][:, :2]},
            r"edge_attr as a dense .*\[M, 3\], got .*; edge_dim is 3",
        ),
        (lambda a: a | {"edge_attr": None}, r"edge_attr with 3 channels \(edge_dim\), got None"),
        (lambda a: a | {"edge_attr": a["edge_attr"].float()}, r"edge_attr of dtype torch.float64"),
        (lambda a: a | {"edge_attr": a["edge_attr"].to("meta")}, r"edge_attr on cpu like"),
        (lambda a: a | {"edge_index": a["edge_index"].int()}, r"edge_index as an int64 tensor"),
        (lambda a: a | {"edge_index": [[0], [1]]}, r"edge_index as an int64 tensor"),
        (lambda a: a | {"edge_index": None, "line_graph": None}, r"edge_index or line_graph"),
        (lambda a: a | {"line_graph": "graph"}, r"line_graph as a LineGraph, got str"),
        (lambda a: a | {"x": a["x"][:6]}, r"line_graph of 6 nodes \(rows of x\), got one of 7"),
        (
            lambda a: a | {"edge_index": a["edge_index"][:, :5], "edge_attr": a["edge_attr"][:5]},
            r"edge_id below 5 \(columns of edge_index\), got 7; .* stale",
        ),
        (
            lambda a: a | {"edge_index": a["edge_index"].roll(1, 1)},
            r"edges edge_index\[:, edge_id\]",
        ),
    ],
)
def test_bad_input(conv, dag, change, message):
    x, edge_attr = features(dag)
    args = {"x": x, "edge_index": dag.edge_index, "edge_attr": edge_attr, "line_graph": dag}
    conv(**args)
    with pytest.raises(ValueError, match=message):
        conv(**change(args))


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_one_way_layers_refuse_two_way_graphs(conv, dag, direction):
    conv.direction = direction
    x, edge_attr = features(dag)
    with pytest.raises(ValueError, match=f"one-way line_graph with direction={direction!r}"):
        conv(x, dag.edge_index, edge_attr, line_graph=dag.two_way())


def test_two_way_layers_refuse_multitrees(conv, dag):
    conv.direction = "two_way"
    x, edge_attr = features(dag)
    with pytest.raises(ValueError, match=r"line_graph.two_way\(\).multitree\(\)"):
        conv(x, dag.edge_index, edge_attr, line_graph=dag.multitree())


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda a: a | {"edge_attr": a["edge_attr"][:8]}, r"16 rows .*, got 8; index it as"),
        (lambda a: a | {"edge_attr": a["edge_attr"][:8], "edge_index": None}, r"16 rows .*got 8"),
        (
            lambda a: {**a, "edge_index": a["edge_index"][:, :9], "edge_attr": a["edge_attr"][:9]},
            r"line_graph.opposite_id below 9 \(columns of edge_index\), got 15",
        ),
        (
            lambda a: a | {"edge_index": a["edge_index"][:, [*range(8), *range(9, 16), 8]]},
            r"edges edge_index\[:, opposite_id\], got 8 of 8 others",
        ),
    ],
)
def test_bad_input_of_an_undirected_graph(conv, dag, change, message):
    x, edge_attr = features(dag)
    args = {
        "x": x,
        "edge_index": torch.cat([dag.edge_index, dag.edge_index.flip(0)], 1),
        "edge_attr": torch.cat([edge_attr, edge_attr]),
    }
    # Along the order of the DAG: the first eight columns are the edges.
    rank = torch.tensor([0, 4, 1, 2, 5, 3, 6])
    args["line_graph"] = LineGraph.from_edge_index(args["edge_index"], 7, rank)
    conv(**args)
    with pytest.raises(ValueError, match=message):
        conv(**change(args))


def test_edge_attr_that_nobody_asked_for(dag):
    x, edge_attr = features(dag)
    with pytest.raises(ValueError, match=r"no edge_attr \(edge_dim=None\).*edge_dim=3"):
        PLSTMConv(5, 6).double()(x, dag.edge_index, edge_attr, line_graph=dag)


def test_edges_changed_in_place_are_noticed(conv, dag):
    x, edge_attr = features(dag)
    edge_index = dag.edge_index.clone()
    conv(x, edge_index, edge_attr, line_graph=dag)
    edge_index[:, 0] = edge_index[:, 1]
    with pytest.raises(ValueError, match="1 of 8 others"):
        conv(x, edge_index, edge_attr, line_graph=dag)


def test_inference_mode(conv, dag):
    x, edge_attr = features(dag)
    expected = conv(x, dag.edge_index, edge_attr, line_graph=dag)
    with torch.inference_mode():
        edge_index = dag.edge_index.clone()
        for line_graph in (dag, dag, None):
            out = conv(x, edge_index, edge_attr, line_graph=line_graph)
            torch.testing.assert_close(out, expected)


SYMMETRIC = torch.tensor([[0, 1, 1, 2, 2, 3], [1, 0, 2, 1, 3, 2]])
EXTRA = {
    "one more edge": [[3, 0], [0, 3]],
    "a lone edge": [[0], [3]],
    "the other way": [[3], [0]],
    "a parallel edge": [[0], [1]],
    "an opposite once more": [[1], [0]],
    "a self-loop": [[2], [2]],
}


@pytest.mark.parametrize("name", EXTRA)
@pytest.mark.parametrize("derive", ["two_way", "reverse", "plain", "one way"])
def test_no_column_is_ignored_in_silence(name, derive):
    """Columns of ``edge_index`` that the line graph does not know."""
    line_graph = LineGraph.from_edge_index(SYMMETRIC, 4)
    if derive == "one way":  # a directed graph
        line_graph = LineGraph.from_edge_index(SYMMETRIC[:, ::2], 4)
    elif derive != "plain":
        line_graph = getattr(line_graph, derive)()
    known = SYMMETRIC[:, ::2] if derive == "one way" else SYMMETRIC
    conv, x = PLSTMConv(5, 6), torch.randn(4, 5)
    conv(x, known, line_graph=line_graph)
    more = torch.cat([known, torch.tensor(EXTRA[name])], 1)
    if derive == "one way" and name == "an opposite once more":
        # An explicit one-way graph of an undirected edge: its other direction is not asked for.
        conv(x, more, line_graph=line_graph)
        return
    with pytest.raises(ValueError, match=r"each column of edge_index .*first of them column"):
        conv(x, more, line_graph=line_graph)


@pytest.mark.parametrize("name", ["edge_index", "line_index", "edge_id"])
@pytest.mark.parametrize("edges", [True, False])
def test_line_graphs_changed_in_place_are_noticed(name, edges):
    line_graph = LineGraph.from_edge_index(SYMMETRIC, 4)
    conv, x = PLSTMConv(5, 6), torch.randn(4, 5)
    conv(x, SYMMETRIC if edges else None, line_graph=line_graph)
    getattr(line_graph, name).add_(0)
    with pytest.raises(ValueError, match=r"line_graph .*changed in place"):
        conv(x, SYMMETRIC if edges else None, line_graph=line_graph)


@pytest.mark.parametrize("value", [torch.ones(()), torch.nn.Parameter(torch.ones(())), "x", None])
def test_a_scale_that_would_lose_its_gradient(value):
    conv = PLSTMConv(5, 6)
    if not isinstance(value, torch.nn.Parameter):
        del conv.scale
    conv.__dict__.pop("scale", None)
    conv.scale = value
    with pytest.raises(ValueError, match="scale as a finite number"):
        conv(torch.randn(4, 5), SYMMETRIC)
