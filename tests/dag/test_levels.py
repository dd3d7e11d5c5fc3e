from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings

from plstm_graph.dag import levels
from plstm_graph.dag.levels import find_cycle, line_index_of, longest_path_levels
from tests.dag.dag_helpers import dags, longest_paths


@pytest.mark.parametrize("small", [0, 512])
@settings(max_examples=60, deadline=None)
@given(dag=dags())
def test_levels_are_longest_paths(small, dag):
    edge_index, num_nodes = dag
    before, levels._SMALL = levels._SMALL, small
    try:
        assert np.array_equal(
            longest_path_levels(edge_index, num_nodes), longest_paths(edge_index, num_nodes)
        )
        line = line_index_of(edge_index, num_nodes)
        num_edges = edge_index.shape[1]
        expected = longest_paths(line, num_edges)
        assert np.array_equal(longest_path_levels(line, num_edges), expected)
        # The level of an edge is that of its start, on the whole line graph.
        assert np.array_equal(longest_path_levels(edge_index, num_nodes)[edge_index[0]], expected)
    finally:
        levels._SMALL = before


@pytest.mark.parametrize("small", [0, 512])
def test_levels_of_cycles_are_minus_one(small, monkeypatch):
    monkeypatch.setattr(levels, "_SMALL", small)
    edge_index = np.array([[0, 1, 2, 3, 3], [1, 2, 3, 1, 4]])  # 0 -> (1 2 3) -> 4
    level = longest_path_levels(edge_index, 6)
    assert level.tolist() == [0, -1, -1, -1, -1, 0]
    cycle = find_cycle(edge_index, 6, level)
    assert sorted(cycle[:-1]) == [1, 2, 3] and cycle[0] == cycle[-1]
    arcs = set(zip(*edge_index.tolist()))
    assert all(arc in arcs for arc in pairwise(cycle))


def test_line_index_joins_all_edges_that_meet():
    edge_index = np.array([[0, 1, 0, 1, 2], [1, 2, 1, 3, 3]])
    pairs = {(a, b) for a in range(5) for b in range(5) if edge_index[1, a] == edge_index[0, b]}
    line = line_index_of(edge_index, 4)
    assert line.shape[1] == len(pairs) and set(zip(*line.tolist())) == pairs
    assert sorted(pairs) == list(zip(*line.tolist()))
