"""Bytes of the walk and dense kernels: formulas against loads and stores of the interpreter."""

import pytest
import torch

pytest.importorskip("triton")

from experiments.kernels.traffic import dense_traffic, sizes_of, walk_traffic
from plstm_graph.ops.forms.triton import TritonWalk
from plstm_graph.ops.triton import dense, walk
from plstm_graph.ops.triton.common import interpreting
from tests.experiments.kernels.counting import counted
from tests.ops.triton.helpers import layer_inputs
from tests.zoo import ZOO, path

pytestmark = pytest.mark.skipif(not interpreting(), reason="counts loads of the interpreter")


def bytes_of(form, inputs, plan):
    """Bytes of a forward and of its backward."""
    with counted() as forward:
        out = form.forward(inputs, 1.0, plan)
    with counted() as backward:
        form.backward(torch.ones_like(out), inputs, 1.0, plan)
    return sum(forward.values()), sum(backward.values())


@pytest.mark.parametrize("sizes", [(1, 24, 24), (2, 3, 40)])
@pytest.mark.parametrize("kind", TritonWalk.kinds)
@pytest.mark.parametrize("name", ["hub", "no_line_edges", "two_way_path"])
def test_walk(name, kind, sizes):
    line_graph = ZOO[name]()
    inputs = layer_inputs(line_graph, *sizes, dtype=torch.float32, kind=kind)
    found = bytes_of(walk, inputs, walk.make_plan(line_graph, kind == "factored"))
    traffic = walk_traffic(line_graph, sizes_of(line_graph, *sizes, kind=kind))
    assert found[0] == traffic["walk_forward"].bytes
    assert found[1] == traffic["walk_query"].bytes + traffic["walk_key"].bytes
    if name == "hub" and kind != "factored":
        assert all(t.bytes <= 1.35 * t.least for t in traffic.values())


@pytest.mark.parametrize("name", ["molecules", "hub", "63 edges, 64 nodes"])
def test_dense(name):
    line_graph = ZOO[name]() if name in ZOO else path(63)
    inputs = layer_inputs(line_graph, 1, 24, 24, dtype=torch.float32)
    found = bytes_of(dense, inputs, dense.make_plan(line_graph))
    traffic = dense_traffic(line_graph, sizes_of(line_graph, 1, 24, 24))
    assert found == (traffic["dense_forward"].bytes, traffic["dense_backward"].bytes)
    assert all(t.bytes <= 1.3 * t.least for t in traffic.values())
