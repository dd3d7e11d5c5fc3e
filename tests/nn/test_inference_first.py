"""What an evaluation in inference mode leaves behind serves in training."""

import pytest
import torch
from torch_geometric.data import Batch, Data
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
    grid_line_graph,
)
from plstm_graph.ops import prepare

ring = torch.arange(12)
ring = torch.stack([ring, ring.roll(1)])
GRAPHS = {
    "undirected": to_undirected(
        torch.cat([ring, (ring[:, :4] + torch.tensor([[0], [5]])) % 12], 1)
    ),
    "directed": ring[:, 1:],
}
MODULES = {
    "conv": lambda: PLSTMConv(6, 6, 2),
    "conv D": lambda: PLSTMConv(6, 6, 2, mode="D"),
    "conv offset": lambda: PLSTMConv(6, 6, 2, direction_offset=True),
    "conv reverse": lambda: PLSTMConv(6, 6, 2, flow="target_to_source"),
    **{
        f"conv {form}": lambda form=form: PLSTMConv(6, 6, 2, form=form)
        for form in ("naive", "levelwise", "dense", "chunkwise")
    },
    "block": lambda: PLSTMBlock(6, 2, local="gin"),
    "model": lambda: PLSTM(6, 8, 4, 1, degree_encoding="dag", readout="mean"),
}


def train(module, *args) -> None:
    module(*args).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


def ways(x: torch.Tensor, edge_index: torch.Tensor) -> dict:
    """Ways to give a graph; what is cached hangs on these."""
    data = Batch.from_data_list([ToLineGraph()(Data(x=x, edge_index=edge_index))])
    return {
        "edge_index": lambda: LineGraph.from_edge_index(edge_index, 12),
        "data": lambda: LineGraph.from_data(data),
        "prepared": lambda: prepare(LineGraph.from_edge_index(edge_index, 12), 2, 3, 3),
    }


@pytest.mark.parametrize("way", ["edge_index", "data", "prepared"])
@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("name", MODULES)
def test_graph_modules(name, graph, way):
    """The line graph was made before, and is first used in inference mode."""
    x, edge_index, module = torch.randn(12, 6), GRAPHS[graph], MODULES[name]()
    line_graph = ways(x, edge_index)[way]()
    with torch.inference_mode():
        module.eval()(x, edge_index, None, None, line_graph)
        module(x, edge_index)
    train(module.train(), x, edge_index, None, None, line_graph)


@pytest.mark.parametrize("way", ["data", "edge_index", "prepared"])
@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("name", ["conv", "conv D", "model"])
def test_graphs_made_in_inference_mode(name, graph, way):
    x, edge_index, module = torch.randn(12, 6), GRAPHS[graph], MODULES[name]()
    with torch.inference_mode():
        line_graph = ways(x, edge_index)[way]()
        module.eval()(x, edge_index, None, None, line_graph)
    train(module.train(), x, edge_index, None, None, line_graph)


# The tables of grids are kept for the whole process: each case has a shape of its own.
GRIDS = {
    "grid P": (lambda: PLSTMGrid(8, 2), (2, 3, 7, 8)),
    "grid D": (lambda: PLSTMGrid(8, 2, mode="D"), (2, 3, 8, 8)),
    "grid gating": (lambda: PLSTMGrid(8, 2, form="gating"), (2, 3, 9, 8)),
    "grid levelwise": (lambda: PLSTMGrid(8, 2, form="levelwise"), (2, 3, 10, 8)),
    "grid 3d": (lambda: PLSTMGrid(8, 2, ndim=3), (2, 3, 2, 5, 8)),
    "sequence": (lambda: PLSTMSequence(8, 2), (2, 23, 8)),
    "sequence both": (lambda: PLSTMSequence(8, 2, bidirectional=True), (2, 29, 8)),
    "sequence long": (lambda: PLSTMSequence(8, 2, form="chunkwise"), (1, 531, 8)),
    "vision": (
        lambda: PLSTMVision((6, 10), 2, 3, width=8, depth=2, heads=2, in_channels=1),
        (2, 1, 6, 10),
    ),
}


@pytest.mark.parametrize("name", GRIDS)
def test_grid_modules(name):
    module, shape = GRIDS[name]
    module, x = module().eval(), torch.randn(shape)
    with torch.inference_mode():
        module(x)
    train(module.train(), x)


def test_grid_line_graph():
    with torch.inference_mode():
        graph = grid_line_graph(3, 11)
        graph.level, graph.line_node, graph.reverse(), graph.two_way(), graph.multitree()
    assert not graph.edge_index.is_inference() and not graph.line_index.is_inference()
