"""Errors about one graph of many name that graph, and nodes by their number inside it."""

import pytest
import torch
from torch_geometric.data import Batch, Data
from torch_geometric.utils import to_undirected

from plstm_graph import LineGraph, ToLineGraph, to_line_graphs
from plstm_graph.dag.orient import orient
from plstm_graph.transforms import LineGraphCollater

GOOD = Data(edge_index=to_undirected(torch.tensor([[0, 1, 2], [1, 2, 3]])), num_nodes=4)
WHICH = 7

#: columns of a graph of 4 nodes, and what the error says of it.
BAD = {
    "cycle": (
        [[0, 1, 2, 3], [1, 2, 3, 1]],
        r"directed cycle (1 -> 2 -> 3 -> 1|2 -> 3 -> 1 -> 2|3 -> 1 -> 2 -> 3) of graph 7",
    ),
    "self-loop": ([[0, 2], [1, 2]], r"node 2 of graph 7 joined to itself in column 1 of graph 7"),
    "asymmetric": (
        [[0, 1, 1, 2, 3], [1, 0, 2, 1, 2]],
        r"directed cycle (0 -> 1 -> 0|1 -> 0 -> 1|1 -> 2 -> 1|2 -> 1 -> 2) of graph 7 in a graph "
        r"that is not symmetric: 3 -> 2 of graph 7 has no opposite.*force_undirected=True",
    ),
}
#: What only shows where graphs are given one by one.
BAD_ALONE = {
    "too high": ([[0, 9], [1, 2]], r"edge_index of graph 7 .*between 0 and 3 .*from 0 to 9"),
    "negative": ([[0, -1], [1, 2]], r"edge_index of graph 7 .*between 0 and 3 .*from -1 to 2"),
}


def graphs_with(edges: list, order: tuple[int, ...] = ()) -> list[Data]:
    graphs = [GOOD.clone() for _ in range(12)]
    graphs[WHICH] = Data(edge_index=torch.tensor(edges), num_nodes=4)
    return graphs


def union(graphs: list[Data]) -> tuple[torch.Tensor, int, torch.Tensor]:
    batch = Batch.from_data_list(graphs)
    return batch.edge_index, batch.num_nodes, batch.batch


WAYS = {
    "from_edge_index": lambda graphs: LineGraph.from_edge_index(
        *union(graphs)[:2], batch=union(graphs)[2]
    ),
    "transform of a batch": lambda graphs: ToLineGraph()(Batch.from_data_list(graphs)),
    "list": to_line_graphs,
    "list in chunks": lambda graphs: to_line_graphs(graphs, chunk_size=3),
    "list with some features": lambda graphs: to_line_graphs(
        [Data(x=torch.ones(4, 1), edge_index=graphs[0].edge_index), *graphs[1:]]
    ),
    "collater": LineGraphCollater("bfs"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", BAD)
def test_graph_and_node_are_named(name, way):
    edges, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        WAYS[way](graphs_with(edges))


@pytest.mark.parametrize("way", [way for way in WAYS if "list" in way or way == "collater"])
@pytest.mark.parametrize("name", BAD_ALONE)
def test_graph_with_wrong_nodes_is_named(name, way):
    edges, message = BAD_ALONE[name]
    with pytest.raises(ValueError, match=message):
        WAYS[way](graphs_with(edges))


@pytest.mark.parametrize("name", BAD)
def test_nodes_of_a_batch_in_any_order(name):
    """The batch vector need not be sorted: nodes of two graphs alternate."""
    edges = torch.tensor(BAD[name][0])
    message = BAD[name][1].replace("graph 7", "graph 1").replace("column 1 of", "column 1 of")
    batch = torch.arange(8) % 2
    mixed = torch.cat([2 * GOOD.edge_index, 2 * edges + 1], 1)
    with pytest.raises(ValueError, match=message):
        LineGraph.from_edge_index(mixed, 8, batch=batch)


def test_ranks_are_named():
    edge_index, n, batch = union([GOOD] * 12)
    rank = torch.arange(n).float()
    rank[4 * WHICH + 2] = rank[4 * WHICH + 1]
    with pytest.raises(ValueError, match=r"rank 29.0 at both nodes [12] and [12] of graph 7"):
        LineGraph.from_edge_index(edge_index, n, rank, batch)
    rank[4 * WHICH + 2] = torch.nan
    with pytest.raises(ValueError, match="NaN at node 2 of graph 7"):
        LineGraph.from_edge_index(edge_index, n, rank, batch)


def test_edges_between_graphs_are_named():
    edge_index, n, batch = union([GOOD] * 12)
    edge_index[1, 3] = 30
    with pytest.raises(ValueError, match=r"column 3 of edge_index joins node 2 of graph 0 and"):
        LineGraph.from_edge_index(edge_index, n, batch=batch)


def test_one_graph_is_not_numbered():
    with pytest.raises(ValueError, match=r"got node 1 joined to itself in column 0; remove"):
        orient(torch.tensor([[1], [1]]).numpy(), 2)
