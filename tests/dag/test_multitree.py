from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plstm_graph import LineGraph
from plstm_graph.dag import multitree
from plstm_graph.dag.levels import line_index_of
from plstm_graph.dag.multitree import multitree_mask
from tests.dag.dag_helpers import dags, max_paths, sequential_multitree

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden"


@pytest.mark.parametrize("limit", [0, 1 << 21], ids=["compressed", "plain"])
@pytest.mark.parametrize("reduce", [True, False], ids=["reduced", "sets_only"])
@settings(max_examples=80, deadline=None)
@given(dag=dags(max_nodes=18, max_edges=50), dropped=st.integers(0, 9), seed=st.integers(0, 99))
def test_same_choice_as_sequential_greedy(limit, reduce, dag, dropped, seed):
    edge_index, num_nodes = dag
    line = line_index_of(edge_index, num_nodes)
    if dropped > 5:  # some part of the line graph
        line = line[:, np.random.default_rng(seed).random(line.shape[1]) < dropped / 10]
    before = multitree._POOL_LIMIT, multitree._ROUNDS
    multitree._POOL_LIMIT, multitree._ROUNDS = limit, before[1] if reduce else 0
    try:
        mask = multitree_mask(edge_index, line)
    finally:
        multitree._POOL_LIMIT, multitree._ROUNDS = before
    assert max_paths(edge_index.shape[1], line[:, mask]) <= 1
    assert np.array_equal(np.unique(line[1]), np.unique(line[1, mask]))
    assert np.array_equal(mask, sequential_multitree(edge_index, line))


@settings(max_examples=60, deadline=None)
@given(dag=dags(), seed=st.integers(0, 99))
def test_independent_of_edge_order(dag, seed):
    edge_index, num_nodes = dag
    edge_index = np.unique(edge_index, axis=1)  # rows may tell parallel edges apart
    order = np.random.default_rng(seed).permutation(edge_index.shape[1])
    kept = []
    for edges in (edge_index, edge_index[:, order]):
        line = line_index_of(edges, num_nodes)
        chosen = line[:, multitree_mask(edges, line)]
        ends = [edges[0, chosen[0]], edges[1, chosen[0]], edges[1, chosen[1]]]
        kept.append(sorted(zip(*(end.tolist() for end in ends))))
    assert kept[0] == kept[1]


@settings(max_examples=60, deadline=None)
@given(dag=dags(max_nodes=18, max_edges=50), seed=st.integers(0, 99))
def test_ranks_stand_for_the_numbers_of_nodes(dag, seed):
    edge_index, num_nodes = dag
    line = line_index_of(edge_index, num_nodes)
    rank = np.random.default_rng(seed).permutation(num_nodes)
    mask = multitree_mask(edge_index, line, rank)
    assert np.array_equal(mask, sequential_multitree(rank[edge_index], line))
    assert np.array_equal(mask, multitree_mask(edge_index, line, 0.5 * rank - 3))


@settings(max_examples=40, deadline=None)
@given(parts=st.lists(dags(), min_size=2, max_size=4))
def test_union_is_its_parts(parts):
    alone = [multitree_mask(e, line_index_of(e, n)) for e, n in parts]
    first = np.cumsum([0] + [n for _, n in parts])
    union = np.concatenate([e + f for (e, _), f in zip(parts, first)], axis=1)
    together = multitree_mask(union, line_index_of(union, first[-1]))
    assert np.array_equal(together, np.concatenate(alone))


@pytest.mark.parametrize("name", ["chain", "tree", "random_dag", "molecules", "grid_graph"])
def test_keeps_at_least_as_many_as_published(name):
    if not GOLDEN.is_dir():
        pytest.skip(f"no golden vectors at {GOLDEN}")
    golden = np.load(GOLDEN / f"{name}.npz")
    edge_index, line = golden["edge_index"], golden["line_index"]
    mask = multitree_mask(edge_index, line)
    assert max_paths(edge_index.shape[1], line[:, mask]) <= 1
    assert mask.sum() >= golden["multitree_mask"].sum()


def test_grid_keeps_34_of_46():
    from plstm_graph.dag import grid_line_graph

    assert grid_line_graph(4, 5).multitree().num_line_edges == 34


def path_with_leaves(length: int, inward: bool, outward: bool) -> np.ndarray:
    spine = np.arange(length + 1)
    parts = [np.stack([spine[:-1], spine[1:]])]
    if inward:
        parts.append(np.stack([length + spine[1:], spine[1:]]))
    if outward:
        parts.append(np.stack([spine[1:], 2 * length + spine[1:]]))
    return np.concatenate(parts, axis=1)


@pytest.mark.parametrize("outward", [False, True])
def test_long_caterpillar_keeps_all(outward):
    edge_index = path_with_leaves(20_000, True, outward)
    assert multitree_mask(edge_index, line_index_of(edge_index, 60_001)).all()


def test_long_chain_of_rings_with_leaves():
    # Diamonds 3i -> {3i+1, 3i+2} -> 3i+3 with a leaf flowing into each start: one line edge out of
    # each diamond goes, and no set of thousands of roots is ever needed.
    count = 5_000
    start = 3 * np.arange(count)
    leaf = 3 * count + 1 + np.arange(count)
    sides = [np.stack(p) for d in (1, 2) for p in ([start, start + d], [start + d, start + 3])]
    edge_index = np.concatenate([*sides, np.stack([leaf, start])], axis=1)
    line = line_index_of(edge_index, 4 * count + 1)
    mask = multitree_mask(edge_index, line)
    dropped = line[:, ~mask]
    assert set(edge_index[0, dropped[0]] % 3) == {2}  # of two equals the smaller node stays
    # Into the start of every diamond but the first, and out of it along three edges... the last
    # diamond's end has no way on.
    assert dropped.shape[1] == 2 * (count - 1)


def test_line_graph_multitree_commutes_with_reverse():
    edge_index = torch.tensor([[0, 0, 1, 2, 3, 3, 4, 5, 6], [1, 2, 3, 3, 4, 5, 6, 6, 7]])
    graph = LineGraph.from_edge_index(edge_index)
    pruned = graph.multitree()
    assert pruned.num_line_edges < graph.num_line_edges
    assert torch.equal(pruned.reverse().line_index, graph.reverse().multitree().line_index)


def test_multitree_of_a_ranked_graph_does_not_see_numbering():
    """Ranks that orient a graph prune it too, however its nodes are numbered."""
    complete = torch.combinations(torch.arange(6)).t()
    both = torch.cat([complete, complete.flip(0)], 1)
    rank = torch.tensor([2, 0, 1, 5, 3, 4])
    kept = LineGraph.from_edge_index(both, orientation=rank).multitree()
    assert kept.num_line_edges < LineGraph.from_edge_index(both, orientation=rank).num_line_edges
    for seed in range(5):
        order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
        again = LineGraph.from_edge_index(order[both], orientation=rank[order.argsort()])
        assert torch.equal(again.multitree().line_index, kept.line_index)
    by_index = LineGraph.from_edge_index(rank[both], orientation="index")
    assert torch.equal(by_index.multitree().line_index, kept.line_index)


def test_empty():
    none = np.zeros((2, 0), dtype=np.int64)
    assert multitree_mask(none, none).shape == (0,)
    assert multitree_mask(np.array([[0], [1]]), none).shape == (0,)
    assert multitree_mask(np.array([[0, 1], [1, 2]]), np.array([[0], [1]])).tolist() == [True]
