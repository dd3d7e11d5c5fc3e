from itertools import product

import numpy as np
import pytest
import torch

from plstm_graph.dag import grid_line_graph
from plstm_graph.dag.levels import longest_path_levels
from tests.dag.dag_helpers import max_paths

SHAPES = [(1,), (5,), (4, 5), (1, 3), (2, 3, 4), (2, 1, 2, 3)]


def loop_edges(shape, directions):
    """The edges as the docstring orders them, and the axis of each."""
    node = np.arange(int(np.prod(shape))).reshape(shape)
    for axis, direction in enumerate(directions):
        for at in product(*map(range, shape)):
            to = list(at)
            to[axis] += direction
            if 0 <= to[axis] < shape[axis]:
                yield int(node[at]), int(node[tuple(to)]), axis


@pytest.mark.parametrize("turns", ["all", "diffusive"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_all_directions_against_loop(shape, turns):
    for directions in product((1, -1), repeat=len(shape)):
        graph = grid_line_graph(*shape, directions=directions, turns=turns).validate()
        edges = list(loop_edges(shape, directions))
        assert graph.num_nodes == np.prod(shape)
        assert [(u, v) for u, v, _ in edges] == [tuple(e) for e in graph.edge_index.t().tolist()]
        pairs = [
            (a, b)
            for a, (_, v, axis_in) in enumerate(edges)
            for b, (u, _, axis_out) in enumerate(edges)
            if v == u and (turns == "all" or axis_out <= axis_in)
        ]
        assert pairs == list(map(tuple, graph.line_index.t().tolist()))
        level = longest_path_levels(graph.line_index.numpy(), graph.num_edges)
        assert graph.level.tolist() == level.tolist()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_diffusive_is_a_multitree_that_reaches_on(shape):
    whole = grid_line_graph(*shape)
    graph = grid_line_graph(*shape, turns="diffusive")
    assert graph.is_multitree and graph.multitree() is graph
    assert torch.equal(whole.line_index[:, graph.line_id], graph.line_index)
    assert max_paths(graph.num_edges, graph.line_index.numpy()) <= 1


def test_two_dimensions_have_no_turn_from_first_to_second_axis():
    graph = grid_line_graph(3, 3, turns="diffusive")
    axis = (graph.edge_index[1] - graph.edge_index[0] == 1).long()
    turns = {(int(axis[a]), int(axis[b])) for a, b in graph.line_index.t().tolist()}
    assert turns == {(0, 0), (1, 1), (1, 0)}


def test_cached():
    assert grid_line_graph(3, 4) is grid_line_graph(3, 4, directions=[1, 1])
    assert grid_line_graph(3, 4) is not grid_line_graph(3, 4, directions=(1, -1))
    assert grid_line_graph(3, 4, device="meta").device.type == "meta"


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((), {}, "at least one axis"),
        ((3, 0), {}, "shape with axis 1 as an integer of 1 or more, got 0"),
        ((3, 2.0), {}, "axis 1 as an integer of 1 or more, got 2.0"),
        ((3, 3), {"directions": (1,)}, r"directions as 2 numbers .*got \(1,\)"),
        ((3, 3), {"directions": (1, 0)}, r"\+1 or -1, got \(1, 0\)"),
        ((3, 3), {"turns": "left"}, "'all', 'diffusive', got 'left'"),
    ],
)
def test_bad_input(shape, options, message):
    with pytest.raises(ValueError, match=message):
        grid_line_graph(*shape, **options)
