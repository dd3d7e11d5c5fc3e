"""The dense form against the definition: values, gradients, repeats."""

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

from plstm_graph import LineGraph
from plstm_graph.ops.inputs import Inputs
from plstm_graph.ops.triton import dense
from tests.ops.triton.helpers import assert_close, assert_equals_naive, computed, layer_inputs
from tests.shared import GOLDEN, needs_shared
from tests.zoo import ZOO, disjoint, path

GRAPHS = [
    "empty",
    "one_node",
    "no_edges",
    "no_line_edges",
    "hub",
    "multi_edge",
    "batch_with_gaps",
    "random_dense",
    "molecules",
    "pruned",
    "reversed",
    "two_way_tree",
    "two_way_in_part",
]


def check(line_graph, *sizes, rtol=1e-10, **options):
    inputs = layer_inputs(line_graph, *sizes, **options)
    assert_equals_naive(dense, inputs, line_graph, dense.make_plan(line_graph), rtol)


@pytest.mark.parametrize("name", GRAPHS)
def test_equals_naive(name, device):
    check(ZOO[name]().to(device), 1, 3, 5)


def test_a_column_more(device):
    """The column of a normalizer: V + 1 = 25 is padded to 28, and 33 is too wide."""
    line_graph = ZOO["join"]().to(device)
    check(line_graph, 1, 3, 25)
    assert "at most 32 channels" in dense.unavailable(line_graph, 3, 33)


@pytest.mark.parametrize("terms", [16, 64])
def test_a_large_batch(terms, device, monkeypatch):
    """Parts of all block sizes in one batch, heads apart; products whole or in pieces."""
    monkeypatch.setattr(dense, "terms", lambda *_: terms)
    parts = [ZOO[name]() for name in ("path", "no_edges", "tree", "random_dense", "join")]
    line_graph = disjoint(parts, batch=True).to(device)
    plan = dense.Plan(*dense.make_plan(line_graph))
    assert plan.launches[:, 0].tolist() == [64, 32, 16]
    check(line_graph, 2, 2, 3)


def test_any_acyclic_line_graph(device):
    """A graph with a cycle of nodes that no method made: 0 -> 1 -> 2 -> 0 -> 3, cut at node 0."""
    edge_index = torch.tensor([[0, 1, 2, 0, 2], [1, 2, 0, 3, 1]])
    line_graph = LineGraph(4, edge_index, torch.tensor([[0, 1, 1], [1, 2, 4]])).to(device)
    check(line_graph, 2, 3, 4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rounds_once(dtype, device):
    check(ZOO["diamond"]().to(device), dtype=dtype, rtol=2 * torch.finfo(dtype).eps)


def test_bitwise_repeatable(device):
    line_graph = ZOO["random_sparse"]().to(device)
    inputs, plan = layer_inputs(line_graph, 1, dtype=torch.float32), dense.make_plan(line_graph)
    (first, ones), (second, twos) = (computed(dense, inputs, plan, 0.7) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip((first, *ones), (second, *twos)))


def test_mixed_dtypes_and_strided_inputs(device):
    line_graph = ZOO["fork"]().to(device)
    tensors = layer_inputs(line_graph).tensors
    tensors = [x.half() if i < 3 else x.float() for i, x in enumerate(tensors)]
    tensors[2] = tensors[2].repeat(1, 1, 2)[..., ::2]
    tensors[0] = tensors[0].transpose(0, 1).contiguous().transpose(0, 1)
    inputs = Inputs.of(tensors)
    assert_equals_naive(dense, inputs, line_graph, dense.make_plan(line_graph), 4e-3)


def test_where_it_fits(device):
    """Parts of at most 64 nodes and edges, heads of at most 32 channels."""
    small, large = path(63).to(device), path(64).to(device)
    assert dense.fits(small) and not dense.fits(large)
    assert dense.unavailable(small, 32, 32) is None
    assert "at most 64 nodes and edges" in dense.unavailable(large, 8, 8)
    assert "at most 32 channels" in dense.unavailable(small, 8, 33)
    assert dense.fits(disjoint([small.to("cpu")] * 3, batch=True))


@needs_shared
@pytest.mark.parametrize("name", ["chain", "molecules"])
def test_golden_in_float32(name, device):
    g = {k: torch.from_numpy(v) for k, v in np.load(GOLDEN / f"{name}.npz").items() if v.ndim}
    line_graph = LineGraph(g["query"].size(0), g["edge_index"], g["line_index"]).to(device)
    inputs = Inputs(*(g[k].float().to(device) for k in Inputs._fields[:7]))
    plan = dense.make_plan(line_graph)
    assert_close(dense.forward(inputs, 1.0, plan).cpu(), g["out"], 1e-5)
    got = dense.backward(g["cotangent"].float().to(device), inputs, 1.0, plan)
    for x, k in zip(got, Inputs._fields[:7]):
        assert_close(x.cpu(), g[f"grad_{k}"], 1e-5)
