"""The layer with backend="triton", in every form: the zoo, golden vectors, dtypes."""

import numpy as np
import pytest
import torch

from plstm_graph import LineGraph, PLSTMConv
from plstm_graph.ops import plstm
from tests.ops.test_golden import GRAPHS, NAMES, grid_tables
from tests.ops.triton.helpers import assert_same
from tests.shared import GOLDEN, needs_shared
from tests.zoo import ZOO, inputs


def arguments(line_graph, *sizes, **options):
    made = inputs(line_graph, *sizes, **options)
    return [a.detach().to(line_graph.device).requires_grad_() for a in made]


@pytest.mark.parametrize("name", [name for name in ZOO if name != "everything"])
def test_gating_rows_equal_naive(name, device):
    """form="parallel": gating rows by segment_scan, in place in the padded buckets."""
    line_graph = ZOO[name]().to(device)
    args = arguments(line_graph, 2, 3, 4)
    got = plstm(*args, line_graph, scale=0.7, form="parallel", backend="triton")
    want = plstm(*args, line_graph, scale=0.7, form="naive")
    assert_same(got, want, args, 1e-10)


@pytest.mark.parametrize("form", ["auto", "parallel"])
@pytest.mark.parametrize("states", [1, 3])
def test_state_tracking(form, states, device):
    line_graph = ZOO["multi_edge"]().to(device)
    args = arguments(line_graph, 1, 2, 3, states=states)
    got = plstm(*args, line_graph, form=form, backend="triton")
    assert_same(got, plstm(*args, line_graph, form="naive"), args, 1e-10)


@pytest.mark.parametrize("form", ["auto", "parallel"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(form, dtype, device):
    line_graph = ZOO["fork"]().to(device)
    args = arguments(line_graph, dtype=dtype)
    exact = [a.detach().double().requires_grad_() for a in args]
    got = plstm(*args, line_graph, form=form, backend="triton")
    assert got.dtype == dtype
    want = plstm(*exact, line_graph, form="naive")
    assert_same(got, want, args, 4 * torch.finfo(dtype).eps, exact)


def test_layer_with_weights(device):
    """PLSTMConv hands its backend on, for a batch with its own line graph."""
    line_graph = ZOO["diamond"]().to(device)
    x = torch.randn(line_graph.num_nodes, 6, device=device)
    outs = []
    for backend in ("triton", "torch"):
        torch.manual_seed(0)
        conv = PLSTMConv(6, 8, heads=2, backend=backend).to(device)
        out = conv(x, line_graph.edge_index, line_graph=line_graph)
        outs.append((out, *torch.autograd.grad(out.square().sum(), list(conv.parameters()))))
    for a, b in zip(*outs):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)


def check_golden(form, args, line_graph, scale, want, cotangent, grads):
    args = [a.float().requires_grad_() for a in args]
    out = plstm(*args, line_graph, scale=scale, form=form, backend="triton")
    got = torch.autograd.grad(out, args, cotangent.float())
    for name, a, b in zip(("out", *NAMES), (out, *got), (want, *grads)):
        error = float((a.detach().double() - b).abs().max())
        assert error <= 1e-5 * max(1.0, float(b.abs().max())), name


@needs_shared
@pytest.mark.parametrize("form", ["auto", "parallel"])
@pytest.mark.parametrize("name", GRAPHS)
def test_golden_graphs(name, form, device):
    g = {k: torch.from_numpy(v) for k, v in np.load(GOLDEN / f"{name}.npz").items() if v.ndim}
    g = {k: v.to(device) for k, v in g.items()}
    line_graph = LineGraph(g["query"].size(0), g["edge_index"], g["line_index"])
    grads = [g[f"grad_{k}"] for k in NAMES]
    args = [g[k] for k in NAMES]
    check_golden(form, args, line_graph, 1.0, g["out"], g["cotangent"], grads)


@needs_shared
@pytest.mark.parametrize("name", ["grid_p", "grid_d"])
def test_golden_grids(name, device):
    """Images are heads: the batch is folded into the head axis of one grid."""
    g = {k: torch.from_numpy(v).to(device) for k, v in np.load(GOLDEN / f"{name}.npz").items()}
    images, x, y, k = g["query"].shape
    edges, lines, *rows = grid_tables(x, y, name == "grid_d")
    line_graph = LineGraph(x * y, torch.tensor(edges).T, torch.tensor(lines).T).to(device)

    def nodes(key):
        return g[key].reshape(images, x * y, -1).transpose(0, 1)

    def arguments(prefix):
        gates = [torch.stack([g[prefix + key][:, i, j] for key, i, j in table]) for table in rows]
        named = [nodes(prefix + key) for key in ("query", "key", "value")]
        return [*named, *gates, nodes(prefix + "direct")[..., 0]]

    outs = nodes("out"), nodes("cotangent"), arguments("grad_")
    check_golden("auto", arguments(""), line_graph, k**-0.5, *outs)
