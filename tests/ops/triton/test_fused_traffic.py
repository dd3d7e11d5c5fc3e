"""Bytes of the fused and dense kernels: formulas against loads and stores of the interpreter."""

import pytest
import torch

pytest.importorskip("triton")

from plstm_graph.ops.triton import dense, fused, fused_tables
from plstm_graph.ops.triton.common import interpreting
from plstm_graph.ops.triton.fused_traffic import dense_traffic, sizes_of, walk_traffic
from tests.ops.triton.fused_counting import counted
from tests.zoo import ZOO, inputs, path

pytestmark = pytest.mark.skipif(not interpreting(), reason="counts loads of the interpreter")


def bytes_of(run, arguments):
    """Bytes of a forward and of its backward."""
    with counted() as forward:
        out = run()
    with counted() as backward:
        torch.autograd.grad(out.sum(), arguments)
    return sum(forward.values()), sum(backward.values())


@pytest.mark.parametrize("sizes", [(1, 24, 24), (2, 3, 40)])
@pytest.mark.parametrize("name", ["fork", "hub", "no_line_edges"])
def test_walk(name, sizes):
    line_graph = ZOO[name]()
    args = inputs(line_graph, *sizes, dtype=torch.float32)
    tables = fused_tables.walk_tables(line_graph)
    run = bytes_of(lambda: fused.fused_plstm_op(*args, 1.0, True, tables)[0], args)
    traffic = walk_traffic(line_graph, sizes_of(line_graph, *sizes))
    assert run[0] == traffic["fused_forward"].bytes
    assert run[1] == traffic["fused_query"].bytes + traffic["fused_key"].bytes
    if name == "hub":
        assert all(t.bytes <= 1.3 * t.least for t in traffic.values())


@pytest.mark.parametrize("name", ["molecules", "hub", "grid", "63 edges, 64 nodes"])
def test_dense(name):
    line_graph = ZOO[name]() if name in ZOO else path(63)
    args = inputs(line_graph, 2, 24, 24, dtype=torch.float32)
    tables = dense.tables_of(line_graph)
    run = bytes_of(lambda: dense.dense_plstm_op(*args, 1.0, tables), args)
    traffic = dense_traffic(line_graph, sizes_of(line_graph, 2, 24, 24))
    assert run == (traffic["dense_forward"].bytes, traffic["dense_backward"].bytes)
    assert all(t.bytes <= 1.3 * t.least for t in traffic.values())
