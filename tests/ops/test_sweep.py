"""Nonlinear cells on nodes: the published cells, and the compiled loop against the levels."""

import pytest
import torch

from plstm_graph import LineGraph
from plstm_graph.dag.levels import longest_path_levels
from plstm_graph.ops import native
from plstm_graph.ops.sweep import sweep
from plstm_graph.ops.sweep_plan import WAYS, way_edges
from tests.zoo import ZOO, grid, path, random_dag

CELLS = ("slstm", "child_sum")
#: Of the others, directed both ways, the nodes have cycles.
DAGS = [name for name in ZOO if not name.startswith("everything")]

compiled = pytest.mark.skipif(native.unavailable() is not None, reason="no compiled kernels")


def tensors(graph, heads=2, size=3, way="forward", *, scale=2.0, dtype=torch.float64, seed=0):
    """Gates, weight and the edges' terms, which require gradients."""
    rng = torch.Generator().manual_seed(seed)
    edges = way_edges(graph, way).edge_id.numel()
    shapes = (graph.num_nodes, heads, 4, size), (heads, 4, size, size), (edges, heads, 4, size)
    factors = scale, size**-0.5, 1.0
    return [
        (torch.randn(s, generator=rng, dtype=torch.float64) * f).to(dtype).requires_grad_()
        for s, f in zip(shapes, factors)
    ]


def grads_of(out, inputs, seed=1):
    rng = torch.Generator().manual_seed(seed)
    grad = torch.randn(out.shape, generator=rng, dtype=torch.float64).to(out.dtype)
    return torch.autograd.grad(out, inputs, grad, materialize_grads=True)


def run(cell, graph, inputs, form, way="forward"):
    gates, weight, edge = inputs
    out = sweep(cell, gates, weight, graph, edge, way=way, form=form)
    return out, *grads_of(out, inputs)


def assert_equal(found, expected, tolerance=1e-10):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def published_slstm(gates, weight):
    """The stabilised cell of arXiv 2405.04517 on a sequence, gates [T, H, 4, d] -> [T, H, d]."""
    h = c = n = m = torch.zeros_like(gates[0, :, 0])
    out = []
    for t, x in enumerate(gates):
        i, o, z, f = (x + torch.einsum("hgij,hj->hgi", weight, h)).unbind(1)
        log_f = torch.nn.functional.logsigmoid(f) + m
        new = i if t == 0 else torch.maximum(log_f, i)
        i, f = (i - new).exp().clamp(max=1), (log_f - new).exp().clamp(max=1)
        c, n, m = f * c + i * z.tanh(), f * n + i, new
        h = o.sigmoid() * c / n
        out.append(h)
    return torch.stack(out)


def loop(cell, graph, gates, weight, edge, way="forward"):
    """One node after the other; the sLSTM with the maximum over predecessors as stabiliser."""
    index = way_edges(graph, way).edge_index
    state = {}
    for node in longest_path_levels(index.numpy(), graph.num_nodes).argsort(kind="stable"):
        node = int(node)
        rows = (index[1] == node).nonzero().view(-1).tolist()
        before = [state[int(index[0, e])] for e in rows]
        bring = [torch.einsum("hgij,hj->hgi", weight, s[0]) + edge[e] for s, e in zip(before, rows)]
        own = gates[node]
        total = sum(bring, torch.zeros_like(own))
        if cell == "slstm":
            total = total / max(len(rows), 1)
        i, o, z = (own + total)[:, :3].unbind(1)
        f = [own[:, 3] + r[:, 3] for r in bring]
        if cell == "slstm":
            log_f = [torch.nn.functional.logsigmoid(g) + s[3] for g, s in zip(f, before)]
            m = torch.stack([i, *log_f]).amax(0)
            i, f = (i - m).exp(), [(g - m).exp() for g in log_f]
            c = i * z.tanh() + sum(g * s[1] for g, s in zip(f, before))
            n = i + sum(g * s[2] for g, s in zip(f, before))
            state[node] = (o.sigmoid() * c / n, c, n, m)
        else:
            c = i.sigmoid() * z.tanh() + sum(g.sigmoid() * s[1] for g, s in zip(f, before))
            state[node] = (o.sigmoid() * c.tanh(), c)
    return torch.stack([state[node][0] for node in range(graph.num_nodes)])


@pytest.mark.parametrize("form", ["levelwise", pytest.param("compiled", marks=compiled)])
def test_slstm_on_a_path_is_the_published_cell(form):
    graph = path(30)
    gates, weight, _ = tensors(graph, 2, 5)
    out = sweep("slstm", gates, weight, graph, form=form)
    expected = published_slstm(gates, weight)
    found = out, *grads_of(out, (gates, weight))
    assert_equal(found, (expected, *grads_of(expected, (gates, weight))))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(
    "name", ["one_node", "hub", "multi_edge", "random_dense", "two_way_grid", "molecules"]
)
@pytest.mark.parametrize("way", WAYS)
def test_levelwise_is_the_loop(cell, name, way):
    graph = ZOO[name]()
    inputs = tensors(graph, way=way)
    expected = loop(cell, graph, *inputs, way)
    found = run(cell, graph, inputs, "levelwise", way)
    assert_equal(found, (expected, *grads_of(expected, inputs)))


@compiled
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("name", DAGS)
def test_compiled_is_levelwise(cell, name):
    graph = ZOO[name]()
    for way, heads, size in zip(WAYS, (2, 1, 3), (3, 11, 40)):
        inputs = tensors(graph, heads, size, way)
        expected = run(cell, graph, inputs, "levelwise", way)
        assert_equal(run(cell, graph, inputs, "compiled", way), expected)
        gates, weight, _ = inputs
        out = [sweep(cell, gates, weight, graph, way=way, form=f) for f in ("compiled", "auto")]
        expected = sweep(cell, gates, weight, graph, way=way, form="levelwise")
        assert_equal(out, [expected] * 2)


@compiled
@pytest.mark.parametrize("cell", CELLS)
def test_single_precision(cell):
    graph = random_dag(40, 90, 5)
    wide = run(cell, graph, tensors(graph, 2, 24), "levelwise")
    inputs = tensors(graph, 2, 24, dtype=torch.float32)
    for form in ("compiled", "levelwise"):
        found = run(cell, graph, inputs, form)
        assert all(x.dtype == torch.float32 for x in found)
        assert_equal([x.double() for x in found], wide, 3e-5)


@pytest.mark.parametrize("form", ["levelwise", pytest.param("compiled", marks=compiled)])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("name", ["join", "multi_edge", "no_edges"])
def test_derivatives(cell, form, name):
    graph = ZOO[name]()
    inputs = tensors(graph, 1 if name == "join" else 2, 2, scale=1.0)

    def call(gates, weight, edge):
        return sweep(cell, gates, weight, graph, edge, form=form)

    assert torch.autograd.gradcheck(call, inputs)
    if name == "join":
        assert torch.autograd.gradgradcheck(call, inputs)


@compiled
def test_forward_mode_is_refused_and_torch_func_works():
    graph = ZOO["diamond"]()
    gates, weight, edge = (x.detach() for x in tensors(graph))

    def call(gates):
        return sweep("slstm", gates, weight, graph, edge).square().sum()

    expected = torch.autograd.grad(call(gates.requires_grad_()), gates)[0]
    torch.testing.assert_close(torch.func.grad(call)(gates.detach()), expected)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(gates.detach(), torch.ones_like(gates))
        with pytest.raises(NotImplementedError, match="form='levelwise'"):
            sweep("slstm", dual, weight, graph, edge, form="compiled")


@compiled
@pytest.mark.parametrize("cell", CELLS)
def test_same_bits_with_any_number_of_threads_and_without_garbage(cell):
    graph = ZOO["molecules"]()
    inputs = tensors(graph, 3, 9, dtype=torch.float32)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(run(cell, graph, inputs, "compiled"))
        torch.use_deterministic_algorithms(True)  # fills new tensors with NaN
        results.append(run(cell, graph, inputs, "compiled"))
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@compiled
def test_second_backward_of_the_same_graph():
    graph = ZOO["random_sparse"]()
    inputs = tensors(graph)
    out = sweep("slstm", *inputs[:2], graph, inputs[2], form="compiled")
    first = torch.autograd.grad(out.sum(), inputs, retain_graph=True)
    assert_equal(torch.autograd.grad(out.sum(), inputs), first, 0)


@pytest.mark.parametrize("form", ["levelwise", pytest.param("compiled", marks=compiled)])
def test_states_are_bounded_on_any_number_of_paths(form):
    """C(126, 63) = 6e36 paths of a grid, forget gates open: a sum over paths leaves float32."""
    graph = grid(64, 64)
    gates, weight, _ = tensors(graph, 1, 4, dtype=torch.float32)
    gates = gates.detach().clone()
    gates[:, :, 3] = 60
    gates[:, :, 1] = 60  # o = 1: h is c / n
    gates.requires_grad_()
    out = sweep("slstm", gates, weight * 0.1, graph, form=form)
    assert out.abs().max() <= 1 + 1e-5
    wide = gates.detach().double().requires_grad_()
    expected = sweep("slstm", wide, weight.double() * 0.1, graph, form="levelwise")
    torch.testing.assert_close(out.double(), expected, rtol=1e-3, atol=1e-4)
    (grad,) = grads_of(out, (gates,))
    assert torch.isfinite(grad).all()
    assert_equal([grad.double()], grads_of(expected, (wide,)), 1e-3)


@pytest.mark.parametrize("form", ["levelwise", pytest.param("compiled", marks=compiled)])
@pytest.mark.parametrize("cell", CELLS)
def test_gates_of_any_size(cell, form):
    graph = random_dag(30, 60, 7)
    for size in (60.0, 1000.0):
        inputs = tensors(graph, 2, 8, dtype=torch.float32)
        inputs[0] = (inputs[0].detach().sign() * size).requires_grad_()
        found = run(cell, graph, inputs, form)
        assert all(torch.isfinite(x).all() for x in found)
        wide = [x.detach().double().requires_grad_() for x in inputs]
        assert_equal([x.double() for x in found], run(cell, graph, wide, "levelwise"), 1e-3)


@compiled
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("gate", range(4))
def test_not_a_number_is_passed_on(cell, gate):
    graph = path(3)
    gates, weight, _ = (x.detach() for x in tensors(graph))
    gates[1, 0, gate] = float("nan")
    out = sweep(cell, gates, weight, graph, form="compiled")
    assert torch.isfinite(out[0]).all() and torch.isnan(out[1:, 0]).all()
    assert torch.isfinite(out[:, 1]).all()  # heads are apart


def test_ways_of_a_batch_that_is_undirected_in_part():
    """A ring, undirected, and a directed diamond."""
    ring = torch.tensor([[0, 1, 2, 1, 2, 0], [1, 2, 0, 0, 1, 2]])
    edge_index = torch.cat([ring, torch.tensor([[0, 0, 1, 2], [1, 2, 3, 3]]) + 3], 1)
    batch = torch.tensor([0] * 3 + [1] * 4)
    graph = LineGraph.from_edge_index(edge_index, 7, "index", batch)
    two_way = graph.two_way_where_undirected()
    for way, expected in {
        "forward": [[0, 1, 0, 3, 3, 4, 5], [1, 2, 2, 4, 5, 6, 6]],
        "reverse": [[1, 2, 2, 4, 5, 6, 6], [0, 1, 0, 3, 3, 4, 5]],
        "opposite": [[1, 2, 2, 3, 3, 4, 5], [0, 1, 0, 4, 5, 6, 6]],
    }.items():
        for g in (graph, two_way):
            found, ids = way_edges(g, way)
            assert sorted(zip(*found.tolist())) == sorted(zip(*expected))
            known = found[:, found[0] < 3], ids[found[0] < 3]
            # Each reads its own column, turned round or not.
            assert torch.equal(edge_index[:, known[1]], known[0])


def test_refusals():
    graph = ZOO["diamond"]()
    gates, weight, edge = tensors(graph)
    cases = {
        "cell": {"cell": "gru"},
        "way": {"way": "both"},
        "form": {"form": "dense"},
        "line_graph": {"line_graph": 3},
        "gates": {"gates": gates[1:]},
        "gates of dtype": {"gates": gates.half()},
        "weight": {"weight": weight[:, :3]},
        "edge": {"edge": edge[:2]},
    }
    good = {"cell": "slstm", "gates": gates, "weight": weight, "line_graph": graph, "edge": edge}
    sweep(**good)
    for name, change in cases.items():
        with pytest.raises(ValueError, match=f"^expected {name} "):
            sweep(**{**good, **change})
    ring = LineGraph(3, torch.tensor([[0, 1, 2], [1, 2, 0]]), torch.tensor([[0, 1], [1, 2]]))
    inputs = tensors(ring)
    for form in ("levelwise", "auto"):
        with pytest.raises(ValueError, match=r"line_graph of a DAG.*cycle 2 -> 0 -> 1 -> 2"):
            sweep("slstm", inputs[0], inputs[1], ring, form=form)


def test_without_kernels(monkeypatch):
    monkeypatch.setenv("PLSTM_NATIVE", "0")
    graph = ZOO["diamond"]()
    gates, weight, edge = tensors(graph)
    with pytest.raises(ValueError, match=r"form to be 'levelwise' or 'auto' here.*PLSTM_NATIVE=0"):
        sweep("slstm", gates, weight, graph, edge, form="compiled")
    out = sweep("slstm", gates, weight, graph, edge)
    assert_equal([out], [sweep("slstm", gates, weight, graph, edge, form="levelwise")], 0)
