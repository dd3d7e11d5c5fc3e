"""The gating matrix: against dense inverses, as attention, its gradients, and sums over views."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from plstm_graph import LineGraph, grid_line_graph, plstm
from plstm_graph.ops import gating, gating_matrix, native
from tests.zoo import ZOO, inputs

zoo = pytest.mark.parametrize("name", ZOO)


@pytest.fixture(params=["native", "torch"], autouse=True)
def kernels(request, monkeypatch):
    """The compiled kernels, with tiles of columns, and what stands in for them."""
    if request.param == "torch":
        monkeypatch.setenv("PLSTM_NATIVE", "0")
    else:
        assert native.unavailable() is None
        monkeypatch.setattr(gating, "_tile", lambda edges, nodes: max(1, min(3, nodes)))


def dense_inverse(source, transition, mark, direct, graph: LineGraph) -> torch.Tensor:
    """M (I - T)^-1 S + diag(D), head by head, with a dense inverse; [H, N, N]."""
    n, e = graph.num_nodes, graph.num_edges
    (src, dst), (e_in, e_out) = graph.edge_index, graph.line_index
    out = []
    for h in range(direct.size(1)):
        t = torch.zeros(e, e, dtype=direct.dtype)
        t[e_out, e_in] = transition[:, h]
        read = torch.zeros(n, e, dtype=direct.dtype)
        read[dst, torch.arange(e)] = mark[:, h]
        write = torch.zeros(e, n, dtype=direct.dtype)
        write[torch.arange(e), src] = source[:, h]
        solved = torch.linalg.inv(torch.eye(e, dtype=direct.dtype) - t)
        out.append(read @ solved @ write + torch.diag(direct[:, h]))
    return torch.stack(out)


@zoo
def test_gating_matrix_is_the_dense_inverse(name):
    graph = ZOO[name]()
    for g in (graph, graph.reverse(), graph.multitree()):
        gates = inputs(g)[3:]
        n, heads = g.num_nodes, gates[-1].size(1)
        expected = dense_inverse(*gates, g)
        actual = gating_matrix(*gates, g)
        assert actual.shape == (heads, n, n)
        assert torch.allclose(actual, expected, atol=1e-10)


@zoo
def test_gating_matrix_gates_attention(name):
    g = ZOO[name]()
    query, key, value, *gates = inputs(g)
    attention = torch.einsum("nhk,mhk->hnm", query, key) * gating_matrix(*gates, g)
    expected = torch.einsum("hnm,mhv->nhv", attention, value)
    assert torch.allclose(plstm(query, key, value, *gates, g), expected, atol=1e-10)


def test_reverse_is_the_transpose():
    g = ZOO["random_dense"]()
    source, transition, mark, direct = inputs(g)[3:]
    there = gating_matrix(source, transition, mark, direct, g)
    back = gating_matrix(mark, transition, source, direct, g.reverse())
    assert torch.allclose(there, back.mT)


def test_nodes_see_their_ancestors_alone():
    g = ZOO["molecules"]()
    gates = [x.detach().abs() + 0.1 for x in inputs(g)[3:]]
    reach = torch.eye(g.num_nodes, dtype=torch.bool)
    for _ in range(g.num_levels):
        for src, dst in g.edge_index.t().tolist():
            reach[dst] |= reach[src]
    assert torch.equal(gating_matrix(*gates, g)[0] > 0, reach)


@pytest.mark.parametrize("states", [None, 2])
@zoo
def test_gradients_are_those_of_the_layer(name, states):
    """With queries and keys of one and one-hot values the layer gives the matrix itself."""
    g = ZOO[name]()
    gates = inputs(g, states=states)[3:]
    n, heads = gates[-1].shape
    one = torch.ones(n, heads, 1, dtype=torch.float64)
    eye = torch.eye(n, max(n, 1), dtype=torch.float64)[:, None].expand(n, heads, max(n, 1))
    want = plstm(one, one, eye, *gates, g, form="naive")[..., :n].transpose(0, 1)
    got = gating_matrix(*gates, g)
    assert torch.allclose(got, want, atol=1e-10)
    cotangent = torch.randn_like(got)
    wanted = [gate for gate in gates if gate.numel()]
    if not wanted:
        return
    for a, b in zip(
        torch.autograd.grad(got, wanted, cotangent), torch.autograd.grad(want, wanted, cotangent)
    ):
        assert torch.allclose(a, b, atol=1e-10)


@pytest.mark.parametrize("name", ["hub", "diamond", "grid"])
def test_gradcheck(name):
    g = ZOO[name]()
    gates = inputs(g)[3:]
    assert gradcheck(lambda *x: gating_matrix(*x, g), gates)


def test_gradgradcheck():
    g = ZOO["diamond"]()
    assert gradgradcheck(lambda *x: gating_matrix(*x, g), inputs(g)[3:])


def test_views_are_summed():
    g = grid_line_graph(3, 4)
    gates = inputs(g, heads=6)[3:]
    node = torch.arange(12).view(3, 4)
    views = torch.stack([node.flatten(), node.flip(0).flatten(), node.flip(0, 1).flatten()])
    got = gating_matrix(*gates, g, views=views)
    want = torch.zeros(2, 12, 12, dtype=torch.float64)
    for o, view in enumerate(views):
        part = gating_matrix(*(gate[:, 2 * o : 2 * o + 2] for gate in gates), g)
        for n in range(12):
            want[:, view[n], view] += part[:, n]
    assert torch.allclose(got, want, atol=1e-12)
    assert gradcheck(lambda *x: gating_matrix(*x, g, views=views), gates)


def test_half_precision_and_compile():
    g = grid_line_graph(3, 3)
    gates = [gate.detach().float() for gate in inputs(g)[3:]]
    want = gating_matrix(*gates, g)
    got = gating_matrix(*(gate.bfloat16() for gate in gates), g)
    assert got.dtype == torch.float32
    assert torch.allclose(got, want, rtol=0.1, atol=0.1)
    gating.with_readout(g)  # graphs are not built under the tracer
    compiled = torch.compile(lambda *x: gating_matrix(*x, g), fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(*gates), want, atol=1e-6)


@pytest.mark.parametrize(
    ("views", "message"),
    [
        (torch.zeros(1, 5, dtype=torch.long), r"views as .*\[O, 9\]"),
        (torch.zeros(1, 9), "int64"),
        (torch.zeros(1, 9, dtype=torch.long), "permutation"),
        (torch.arange(9).repeat(4, 1), r"views as many as divide the 2 heads.*\[4, 9\]"),
    ],
)
def test_bad_views(views, message):
    g = grid_line_graph(3, 3)
    with pytest.raises(ValueError, match=message):
        gating_matrix(*inputs(g, heads=2)[3:], g, views=views)
