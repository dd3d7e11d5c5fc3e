"""The chunkwise form on graphs with many chunks of the usual size, and its line graphs."""

import numpy as np
import pytest
import torch

from plstm_graph.ops import plstm
from plstm_graph.ops.forms.chunk_plan import chunk_tables
from plstm_graph.ops.forms.chunks import cut
from tests.ops.conftest import chunks_of
from tests.ops.test_forms import LargestTensor, compare
from tests.zoo import ZOO, disjoint, from_edges, grid, inputs, path, random_dag


@pytest.fixture(autouse=True)
def small_chunks():
    """Not here: see tests/ops/conftest.py."""


def deep_dag(nodes: int, reach: int):
    """i -> i + 1, ..., i + reach."""
    edges = [(i, j) for i in range(nodes) for j in range(i + 1, min(nodes, i + reach + 1))]
    return from_edges(edges, nodes)


def hub(arms: int):
    """A path to a node that as many enter as leave, and a path from each of those."""
    edges = [(i, i + 1) for i in range(100)]
    edges += [(101 + i, 100) for i in range(arms)]
    for i in range(arms):
        first = 101 + arms + 3 * i
        edges += [(100, first), (first, first + 1), (first + 1, first + 2)]
    return from_edges(edges, 101 + 4 * arms)


def test_path_of_1000_edges_equals_naive():
    line_graph = path(1000)
    args = inputs(line_graph)
    want = plstm(*args, line_graph, scale=0.7, form="naive")
    compare(plstm(*args, line_graph, scale=0.7, form="chunkwise"), want, args, 1e-10)


@pytest.mark.parametrize(
    "make",
    [
        lambda: deep_dag(300, 3),
        lambda: deep_dag(300, 3).reverse(),
        lambda: deep_dag(200, 5).multitree(),
        lambda: deep_dag(200, 5).reverse().multitree(),
        lambda: hub(70),
        lambda: hub(70).reverse(),
        lambda: grid(20, 20),
        lambda: random_dag(150, 700, 5),
        lambda: disjoint([path(n) for n in (700, 3, 0, 64, 65, 128)], batch=True),
        lambda: disjoint([path(300), deep_dag(90, 3), grid(9, 9)], batch=False),
    ],
)
def test_many_chunks_equal_levelwise(make):
    line_graph = make()
    args = inputs(line_graph)
    args[4].data *= 0.3  # many paths
    want = plstm(*args, line_graph, form="levelwise")
    compare(plstm(*args, line_graph, form="chunkwise"), want, args, 1e-10)


@pytest.mark.parametrize("states", [2, 3])
def test_state_tracking(states):
    line_graph = path(150)
    args = inputs(line_graph, states=states)
    want = plstm(*args, line_graph, form="naive")
    compare(plstm(*args, line_graph, form="chunkwise"), want, args, 1e-10)


@pytest.mark.parametrize("size", [1, 2, 5, 32])
@pytest.mark.parametrize("name", ZOO)
def test_any_size_of_chunks(name, size):
    line_graph = ZOO[name]()
    args = inputs(line_graph)
    want = plstm(*args, line_graph, form="naive")
    with chunks_of(size):
        got = plstm(*args, line_graph, form="chunkwise")
    compare(got, want, args, 1e-10)


def test_products_that_underflow():
    """float32, transitions of 0.05: A would be full of subnormals."""
    line_graph = path(500)
    args = inputs(line_graph, dtype=torch.float32)
    args[4].data.fill_(0.05)
    want = plstm(*args, line_graph, form="levelwise")
    compare(plstm(*args, line_graph, form="chunkwise"), want, args, 1e-5)
    assert chunk_tables(line_graph, 2).plan.sizes.sum() > 3


def test_backward_twice():
    line_graph = path(200)
    args = inputs(line_graph)
    out = plstm(*args, line_graph, form="chunkwise").sum()
    first = torch.autograd.grad(out, args, retain_graph=True)
    second = torch.autograd.grad(out, args)
    assert all(torch.equal(a, b) for a, b in zip(first, second))


@pytest.mark.parametrize("size", [1, 3, 8])
@pytest.mark.parametrize("name", ZOO)
def test_tables_cover_the_line_graph(name, size):
    """Each line edge is inside a chunk or crosses; a part has at most as many levels as chunks."""
    line_graph = ZOO[name]()
    with chunks_of(size):
        plan, inner, _, border, back = chunk_tables(line_graph, 2)
        where = cut(line_graph)
    lines = torch.cat([plan.inner_line, plan.cross_line]).sort().values
    assert torch.equal(lines, torch.arange(line_graph.num_line_edges))
    assert where.count == int(plan.sizes[:, 0].sum())
    assert np.bincount(where.of, minlength=1).max(initial=0) <= size
    e_in, e_out = line_graph.line_index.numpy()
    if not line_graph.is_reversed:  # the order is topological: chunks are numbered along it
        assert (where.of[e_in] <= where.of[e_out]).all()
    for schedule, longest in ((inner, size), (border, where.count), (back, where.count)):
        assert len(schedule.steps[:, 0].unique()) <= longest


def test_a_path_has_one_exit_and_entry_a_chunk():
    plan, _, _, border, _ = chunk_tables(path(1000), 1)
    assert plan.sizes[:, 1:].max() == 1
    assert border.order.numel() == 2 * (int(plan.sizes[:, 0].sum()) - 1)


def test_memory_is_linear_in_length():
    """No tensor grows faster than the path."""
    largest = []
    for length in (1024, 4096):
        line_graph = path(length)
        args = inputs(line_graph, dtype=torch.float32)
        with chunks_of(32):
            plstm(*args, line_graph, form="chunkwise")  # makes the plan
        with LargestTensor() as memory:
            out = plstm(*args, line_graph, form="chunkwise")
            torch.autograd.grad(out.sum(), args)
        largest.append(memory.largest)
    assert largest[1] <= 4.1 * largest[0]
    assert largest[1] <= 2 * 4097 * 32
