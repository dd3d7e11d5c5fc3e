import numpy as np
import pytest
import torch

from plstm_graph.dag.build import LineParts, build_line_parts
from plstm_graph.dag.packed import pack, rank_in_graph, unpack


def random_dag(rng: np.random.Generator, num_nodes: int, num_edges: int) -> np.ndarray:
    """Columns in any order, parallel edges, and nodes with many edges in and out."""
    ends = np.sort(np.minimum(rng.geometric(0.2, (num_edges, 2)), num_nodes - 1), axis=1)
    ends[:, 0] -= ends[:, 0] == ends[:, 1]
    return rng.permutation(num_nodes)[ends.T]


def build(edge_index: np.ndarray, num_nodes: int, *args, **kwargs) -> LineParts:
    return rank_in_graph(build_line_parts(edge_index, num_nodes, *args, **kwargs), num_nodes)


def tensors(*arrays: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(array) for array in arrays]


def check(edge_index: np.ndarray, num_nodes: int, expected: LineParts) -> None:
    columns, lines = pack(expected, edge_index)
    assert columns.dtype == lines.dtype == np.int32
    out = unpack(torch.from_numpy(edge_index), num_nodes, *tensors(columns, lines))
    for key, got, array in zip(LineParts._fields, out, expected, strict=True):
        if array is None:
            assert key == "opposite_id" and got is None
            continue
        assert got.dtype == torch.from_numpy(array).dtype, key
        assert np.array_equal(got.numpy(), array), key


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("both_ways", [False, True])
def test_unpack_is_what_was_packed(seed, both_ways):
    rng = np.random.default_rng(seed)
    edge_index = random_dag(rng, 20, 60)
    if both_ways:
        edge_index = np.concatenate([edge_index, edge_index[::-1]], axis=1)
        edge_index = edge_index[:, rng.permutation(120)]
    for orientation in ("random", "index", "bfs", "degree", "canonical"):
        parts = build(edge_index, 20, orientation, seed=[seed])
        assert (parts.opposite_id is not None) == both_ways
        check(edge_index, 20, parts)


@pytest.mark.parametrize("num_nodes", [0, 3])
def test_no_edges(num_nodes):
    edge_index = np.empty((2, 0), dtype=np.int64)
    check(edge_index, num_nodes, build(edge_index, num_nodes))
    check(edge_index, num_nodes, build(edge_index, num_nodes, "index"))


def test_without_a_multitree():
    """One that nobody asked for is unknown, and with it that of the whole batch."""
    rng = np.random.default_rng(2)
    graphs = [random_dag(rng, 12, 20) for _ in range(2)]
    known = [build(graph, 12) for graph in graphs]
    packed = [pack(parts, graph) for parts, graph in zip(known, graphs)]
    packed[1] = pack(known[1]._replace(multitree_mask=None), graphs[1])
    for (columns, lines), graph, parts in zip(packed, graphs, known):
        out = unpack(torch.from_numpy(graph), 12, *tensors(columns, lines))
        assert np.array_equal(out.line_index.numpy(), parts.line_index)
        assert (out.multitree_mask is None) == (parts is known[1])
    columns, lines = (np.concatenate(arrays, axis=1) for arrays in zip(*packed))
    union = torch.from_numpy(np.concatenate([graphs[0], graphs[1] + 12], axis=1))
    assert unpack(union, 24, *tensors(columns, lines)).multitree_mask is None


def test_canonical_ranks_are_ranks_in_the_graph():
    rng = np.random.default_rng(1)
    edge_index = np.concatenate([random_dag(rng, 9, 12) + start for start in (0, 9)], axis=1)
    for columns in (edge_index, np.concatenate([edge_index, edge_index[::-1]], axis=1)):
        parts = build_line_parts(columns, 19)
        assert np.array_equal(rank_in_graph(parts, 19).node_rank, parts.node_rank)


def test_ranks_in_each_graph():
    """From 0 in each graph, equal ranks stay equal, and nodes without edges have none."""
    edge_index = np.array([[3, 0, 1], [0, 4, 5]])
    parts = build_line_parts(edge_index, 7, np.array([5.0, 9.0, 1.0, 5.0, 7.0, 8.0, 0.0]))
    batch = np.array([0, 1, 1, 0, 0, 1, 2])
    assert rank_in_graph(parts, 7, batch).node_rank.tolist() == [0, 2, 0, 0, 1, 1, 0]
    by_index = build_line_parts(edge_index, 7, "index")
    assert rank_in_graph(by_index, 7, batch).node_rank.tolist() == [0, 0, 0, 1, 2, 2, 0]


@pytest.mark.parametrize("both_ways", [False, True])
@pytest.mark.parametrize("orientation", ["canonical", "index", "bfs", "degree"])
def test_packed_numbers_hold_after_concatenation(orientation, both_ways):
    rng = np.random.default_rng(7)
    graphs = [random_dag(rng, 12, size) for size in (30, 1, 17)]
    if both_ways:
        graphs[1:] = [np.concatenate([graph, graph[::-1]], axis=1) for graph in graphs[1:]]
    packed = [pack(build(graph, 12, orientation), graph) for graph in graphs]
    columns, lines = (np.concatenate(arrays, axis=1) for arrays in zip(*packed))
    union = np.concatenate([graph + 12 * i for i, graph in enumerate(graphs)], axis=1)
    batch = np.arange(3).repeat(12)
    parts = rank_in_graph(build_line_parts(union, 36, orientation, batch), 36, batch)
    expected = pack(parts, union)
    assert np.array_equal(columns, expected[0]) and np.array_equal(lines, expected[1])


def test_any_changed_column_is_noticed():
    rng = np.random.default_rng(3)
    edge_index = random_dag(rng, 12, 20)
    packed = tensors(*pack(build(edge_index, 12), edge_index))
    original = torch.from_numpy(edge_index)
    assert unpack(original, 12, *packed) is not None
    assert unpack(original[:, 1:], 12, *packed) is None
    assert unpack(original, int(original.max()), *packed) is None
    for column in range(20):
        for shift in ([1, 0], [0, -1]):
            changed = original.clone()
            changed[:, column] = (changed[:, column] + torch.tensor(shift)) % 12
            assert unpack(changed, 12, *packed) is None
