"""Small graphs for the layers' tests."""

import pytest
import torch

from plstm_graph import LineGraph
from plstm_graph.dag.levels import line_index_of
from plstm_graph.nn import PLSTMConv

EDGES = {
    "no_nodes": (0, []),
    "one_node": (1, []),
    "no_edges": (4, []),
    "one_edge": (2, [(0, 1)]),
    "no_line_edges": (5, [(0, 1), (2, 1), (3, 4)]),
    "path": (5, [(0, 1), (1, 2), (2, 3), (3, 4)]),
    "star": (5, [(0, 1), (0, 2), (3, 0), (4, 0)]),
    "diamond": (5, [(0, 1), (0, 2), (1, 3), (2, 3), (3, 4)]),
    "multi_edge": (4, [(0, 1), (0, 1), (1, 2), (2, 3), (1, 2)]),
    "shuffled": (7, [(5, 1), (1, 4), (0, 5), (5, 4), (4, 6), (0, 1), (2, 6), (1, 6)]),
}


def edges_of(name: str) -> tuple[int, torch.Tensor]:
    num_nodes, edges = EDGES[name]
    return num_nodes, torch.tensor(edges, dtype=torch.long).view(-1, 2).t().contiguous()


def line_graph_of(num_nodes: int, edge_index: torch.Tensor, **kwargs) -> LineGraph:
    line_index = torch.from_numpy(line_index_of(edge_index.numpy(), num_nodes))
    return LineGraph(num_nodes, edge_index, line_index, **kwargs)


def output(conv: PLSTMConv, h: torch.Tensor) -> torch.Tensor:
    """What a layer makes of the outputs of its heads, [N, H, V]."""
    parts = [(h / (h.square().mean(-1, keepdim=True) + 1e-5).sqrt() * conv.norm.scale).flatten(1)]
    if conv.log_norm:
        parts.append(0.3 * (h.square().mean(-1) + 1e-12).sqrt().log())
    return torch.cat(parts, -1) @ conv.lin_out.weight.t() + conv.lin_out.bias


@pytest.fixture(params=list(EDGES))
def graph(request) -> LineGraph:
    """Each graph of the zoo."""
    return line_graph_of(*edges_of(request.param))


@pytest.fixture
def dag() -> LineGraph:
    """One graph with branches, joins and an isolated node, its edges in no order."""
    return line_graph_of(*edges_of("shuffled"))


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def features(graph, channels=5, edge_dim=3, dtype=torch.double):
    return (
        torch.randn(graph.num_nodes, channels, dtype=dtype),
        torch.randn(graph.num_edges, edge_dim, dtype=dtype),
    )


@pytest.fixture(params=["P", "D"])
def conv(request) -> PLSTMConv:
    return PLSTMConv(5, 6, 2, mode=request.param, edge_dim=3).double()
