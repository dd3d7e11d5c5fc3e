"""Layers on two-way line graphs under torch.compile and torch.export."""

import pytest
import torch
from torch_geometric.data import Batch

from plstm_graph import LineGraph, ToLineGraph, plstm
from plstm_graph.nn import PLSTM, PLSTMConv
from plstm_graph.ops import prepare
from tests.nn.conftest import edges_of
from tests.nn.test_two_way import inputs, mixed_graphs, modes, undirected
from tests.zoo import inputs as gates_of

# -------------------------------------------------------------------- compilation


def compiled(module: torch.nn.Module) -> torch.nn.Module:
    torch._dynamo.reset()
    return torch.compile(module, fullgraph=True, backend="aot_eager")


@modes
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"edge_dim": 3, "direction_offset": True},
        {"flow": "target_to_source"},
        {"direction": "two_way"},
        {"direction": "reverse", "edge_dim": 3},
    ],
    ids=str,
)
def test_prepared_layers_compile_as_one_graph(mode, options):
    num_nodes, edge_index = undirected("shuffled")
    x, _, edge_attr = inputs(num_nodes, edge_index, torch.float)
    edge_attr = edge_attr if "edge_dim" in options else None
    conv = PLSTMConv(5, 6, 2, mode=mode, **options)
    for columns in (edge_index, None):
        graph = LineGraph.from_edge_index(edge_index, num_nodes, x=x)
        prepare(graph, 2, 3, 3)
        out = compiled(conv)(x, columns, edge_attr, line_graph=graph)
        expected = conv(x, edge_index, edge_attr, line_graph=graph)
        torch.testing.assert_close(out, expected)
        weights = list(conv.parameters())
        for got, want in zip(
            torch.autograd.grad(out.square().sum(), weights),
            torch.autograd.grad(expected.square().sum(), weights),
        ):
            torch.testing.assert_close(got, want)


@pytest.mark.parametrize("graphs", ["undirected", "mixed"])
def test_prepared_models_compile_as_one_graph(graphs):
    data_list = [data for i, data in enumerate(mixed_graphs()) if graphs == "mixed" or i % 2 == 0]
    batch = ToLineGraph()(Batch.from_data_list(data_list))
    line_graph = prepare(LineGraph.from_data(batch), 2, 4, 4)
    model = PLSTM(
        5, 8, 3, 2, heads=2, edge_dim=3, readout="sum", degree_encoding="dag", local="gin"
    )
    args = batch.x.float(), batch.edge_index, batch.edge_attr.float(), batch.batch, line_graph
    out = compiled(model)(*args, batch_size=len(data_list))
    torch.testing.assert_close(out, model(*args, batch_size=len(data_list)))


@modes
def test_exports_with_a_prepared_line_graph(mode):
    num_nodes, edge_index = undirected("shuffled")
    x, _, edge_attr = inputs(num_nodes, edge_index, torch.float)

    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = PLSTMConv(5, 6, 2, mode=mode, edge_dim=3)
            self.line_graph = prepare(LineGraph.from_edge_index(edge_index, num_nodes), 2, 3, 3)

        def forward(self, x, edge_attr):
            return self.conv(x, edge_index, edge_attr, line_graph=self.line_graph)

    layer = Layer()
    exported = torch.export.export(layer, (x, edge_attr)).module()
    torch.testing.assert_close(exported(2 * x, edge_attr), layer(2 * x, edge_attr))


def test_unprepared_line_graphs_are_named():
    num_nodes, edge_index = undirected("shuffled")
    x, *_ = inputs(num_nodes, edge_index, torch.float)
    for direction in ("auto", "two_way"):
        graph = LineGraph.from_edge_index(edge_index, num_nodes)
        layer = PLSTMConv(5, 6, 2, direction=direction)
        with pytest.raises(Exception, match=r"plstm_graph.ops.prepare\(line_graph"):
            compiled(layer)(x, edge_index, line_graph=graph)


@modes
def test_two_way_layers_of_a_prepared_dag_compile(mode):
    num_nodes, edge_index = edges_of("shuffled")
    graph = LineGraph.from_edge_index(edge_index, num_nodes)
    prepare(graph.two_way(), 2, 3, 3)
    layer = PLSTMConv(5, 6, 2, mode=mode, direction="two_way")
    args = inputs(num_nodes, edge_index, torch.float)[:2]
    out = compiled(layer)(*args, line_graph=graph)
    torch.testing.assert_close(out, layer(*args, line_graph=graph))


def test_prepare_covers_two_way_graphs():
    num_nodes, edge_index = undirected("shuffled")
    graph = prepare(LineGraph.from_edge_index(edge_index, num_nodes), 2, 3, 3)
    two_way = graph.two_way()
    for part in (graph, two_way, graph.multitree(), two_way.multitree()):
        for line_graph in (part, part.reverse()):
            assert line_graph.has_plan("line_index")
            args = gates_of(line_graph, 2, 3, 3)
            compiled = torch.compile(lambda *x: plstm(*x), fullgraph=True, backend="eager")
            assert torch.equal(compiled(*args, line_graph), plstm(*args, line_graph))
    # Pruned before it was two-way: prepared as it is.
    pruned = LineGraph.from_edge_index(edge_index, num_nodes).multitree()
    assert prepare(pruned, 2, 3, 3) is pruned
