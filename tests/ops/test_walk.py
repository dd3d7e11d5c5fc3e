"""The walk form beyond what all forms are tested for: tiles, shared tables, where it cannot run."""

import pytest
import torch

from plstm_graph.ops import plstm
from plstm_graph.ops.forms import FORMS, Problem, walk
from plstm_graph.ops.forms.walk import edge_walk
from plstm_graph.ops.inputs import Inputs
from tests.ops.test_forms import compare
from tests.zoo import ZOO, inputs, path


@pytest.mark.parametrize("elements", [1, walk.TILE_ELEMENTS])
@pytest.mark.parametrize(("k", "v"), [(1, 1), (3, 8), (5, 19), (2, 24), (4, 33), (1, 70)])
@pytest.mark.parametrize("name", ["grid", "molecules", "everything"])
def test_tiles_of_all_widths(name, k, v, elements, monkeypatch):
    monkeypatch.setattr(walk, "TILE_ELEMENTS", elements)
    for line_graph in (ZOO[name](), ZOO[name]().reverse(), ZOO[name]().multitree().reverse()):
        args = inputs(line_graph, 2, k, v)
        want = plstm(*args, line_graph, scale=0.7, form="naive")
        compare(plstm(*args, line_graph, scale=0.7, form="walk"), want, args, 1e-10)


@pytest.mark.parametrize(
    ("longest", "k", "v", "tile"),
    [(30, 24, 24, 24), (30, 16, 20, 24), (30, 24, 40, 24), (30, 24, 64, 32), (10**6, 24, 40, 8)],
)
def test_tiles_waste_little(longest, k, v, tile):
    assert walk._tile(longest, k, v) == tile


def test_rows_of_any_stride():
    line_graph = ZOO["molecules"]()
    args = inputs(line_graph)
    strided = [
        torch.stack([x.detach(), torch.zeros_like(x)], -1)[..., 0].requires_grad_() for x in args
    ]
    assert not strided[0].is_contiguous()
    want = plstm(*args, line_graph, form="walk")
    got = plstm(*strided, line_graph, form="walk")
    assert torch.equal(got, want)
    for a, b in zip(torch.autograd.grad(got.sum(), strided), torch.autograd.grad(want.sum(), args)):
        assert torch.equal(a, b)


def test_columns_of_one_product_are_read_where_they_are():
    """As a layer has them: query, key and value side by side, heads of each together."""
    line_graph = ZOO["molecules"]()
    query, key, value, *gates = inputs(line_graph)
    _, heads, k = query.shape
    product = torch.cat([x.detach().flatten(1) for x in (query, key, value)], 1).requires_grad_()
    columns = product.split([heads * k, heads * k, value[0].numel()], 1)
    columns = [x.unflatten(1, (heads, -1)) for x in columns]
    read = walk.readable(Inputs(*columns, *gates), 1.0)
    assert [x.data_ptr() for x in read] == [x.data_ptr() for x in (*columns, *gates)]
    want = plstm(query, key, value, *gates, line_graph, form="walk")
    got = plstm(*columns, *gates, line_graph, form="walk")
    assert torch.equal(got, want)
    grads = torch.autograd.grad(want.sum(), (query, key, value))
    want = torch.cat([grad.flatten(1) for grad in grads], 1)
    assert torch.equal(torch.autograd.grad(got.sum(), product)[0], want)


@pytest.mark.parametrize("reverse_first", [False, True])
def test_a_reversed_graph_has_the_same_tables(reverse_first):
    line_graph = ZOO["molecules"]()
    graphs = [line_graph, line_graph.reverse()]
    one, two = map(edge_walk, graphs[::-1] if reverse_first else graphs)
    assert one.edge is two.edge and one.next is two.next
    assert int(one.reversed) + int(two.reversed) == 1
    assert torch.equal(torch.stack([one.src, one.dst]), torch.stack([two.dst, two.src]))
    # The order is topological: what an edge leads to stands behind it.
    place = torch.arange(one.edge.numel()).repeat_interleave(one.line_ptr.diff())
    assert (one.next > place).all()


def test_needs_the_kernels(monkeypatch):
    monkeypatch.setenv("PLSTM_NATIVE", "0")
    line_graph = path(4)
    with pytest.raises(ValueError, match=r"form='walk'.*where it can run.*PLSTM_NATIVE=0.*auto"):
        plstm(*inputs(line_graph), line_graph, form="walk")
    problem = Problem(line_graph.to("meta"), 2, 3, 4, "line", "torch")
    assert "CPUs only" in FORMS["torch"]["walk"].unavailable(problem)
