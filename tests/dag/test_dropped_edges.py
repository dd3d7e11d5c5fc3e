"""Edges that were dropped one by one: ranks orient what is there, names refuse."""

import pytest
import torch
from torch_geometric.utils import dropout_edge, to_undirected

from plstm_graph import LineGraph, PLSTMConv
from plstm_graph.dag.levels import longest_path_levels
from plstm_graph.dag.orient import ORIENTATIONS


def damaged(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A random undirected graph of 12 nodes without a third of its columns, and ranks."""
    torch.manual_seed(seed)
    edge_index = torch.randint(12, (2, 30))
    edge_index = to_undirected(edge_index[:, edge_index[0] != edge_index[1]])
    return dropout_edge(edge_index, p=0.3)[0], torch.randperm(12)


@pytest.mark.parametrize("seed", range(5))
def test_a_rank_orients_what_is_there(seed):
    edge_index, rank = damaged(seed)
    graph = LineGraph.from_edge_index(edge_index, 12, rank).validate()
    src, dst = rank[edge_index]
    assert graph.edge_id.tolist() == (src < dst).nonzero().view(-1).tolist()
    assert torch.equal(graph.edge_index, edge_index[:, graph.edge_id])
    columns = {tuple(c): i for i, c in enumerate(edge_index.t().tolist())}
    opposite = [columns.get((v, u), -1) for u, v in graph.edge_index.t().tolist()]
    assert graph.opposite_id.tolist() == opposite and -1 in opposite
    # What has both directions is used in both.
    two_way = graph.two_way_where_undirected().validate()
    assert two_way.num_edges == graph.num_edges + sum(i >= 0 for i in opposite)
    assert (longest_path_levels(two_way.line_index.numpy(), two_way.num_edges) >= 0).all()
    two_way.multitree().validate()
    # A layer takes it with the edge_index, whose lone columns against the ranks are not edges.
    x = torch.randn(12, 4)
    conv = PLSTMConv(4, 4, orientation=rank)
    out = conv(x, edge_index)
    torch.testing.assert_close(conv(x, edge_index, line_graph=graph), out)


def test_parallel_edges_pair_in_their_order():
    edge_index = torch.tensor([[0, 0, 1, 1, 2, 2, 0], [1, 1, 0, 2, 1, 0, 2]])
    rank = torch.arange(3)
    graph = LineGraph.from_edge_index(edge_index[:, :6], 3, rank)
    assert graph.edge_id.tolist() == [0, 1, 3] and graph.opposite_id.tolist() == [2, -1, 4]


@pytest.mark.parametrize("seed", range(3))
def test_only_the_damaged_graphs_of_a_batch(seed):
    """Symmetric and acyclic graphs beside it are oriented as they are alone."""
    edge_index, rank = damaged(seed)
    whole = to_undirected(torch.tensor([[0, 1], [1, 2]]))
    dag = torch.tensor([[2, 1], [1, 0]])
    union = torch.cat([whole, edge_index + 3, dag + 15], 1)
    batch = torch.tensor([0] * 3 + [1] * 12 + [2] * 3)
    ranks = torch.cat([torch.arange(3), rank, torch.arange(3)])
    graph = LineGraph.from_edge_index(union, 18, ranks, batch)
    alone = LineGraph.from_edge_index(edge_index, 12, rank)
    m = whole.size(1)
    expected = [0, 2] if whole[:, 0].tolist() == [0, 1] and whole[:, 2].tolist() == [1, 2] else None
    assert expected is None or graph.edge_id[:2].tolist() == expected
    middle = (graph.edge_id >= m) & (graph.edge_id < m + edge_index.size(1))
    assert (graph.edge_id[middle] - m).tolist() == alone.edge_id.tolist()
    shifted = torch.where(alone.opposite_id < 0, -1, alone.opposite_id + m)
    assert torch.equal(graph.opposite_id[middle], shifted)
    last = m + edge_index.size(1)
    assert graph.edge_id[-2:].tolist() == [last, last + 1]  # kept, though against the ranks
    assert graph.opposite_id[-2:].tolist() == [-1, -1]


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_names_ask_for_a_symmetric_graph(orientation):
    edge_index, _ = damaged(0)
    with pytest.raises(ValueError, match=r"no opposite.*force_undirected=True.*bidirectional"):
        LineGraph.from_edge_index(edge_index, 12, orientation)


def test_the_remedy_works():
    torch.manual_seed(0)
    ring = torch.arange(12)
    ring = to_undirected(torch.stack([ring, ring.roll(1)]))
    kept, _ = dropout_edge(ring, p=0.3, force_undirected=True)
    assert LineGraph.from_edge_index(kept, 12).num_edges == kept.size(1) // 2
