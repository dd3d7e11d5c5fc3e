"""Every form against the definition and against a dense solve, values and gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode

from plstm_graph import LineGraph
from plstm_graph.ops import chunk_borders, cost, dispatch, levelwise, plstm
from plstm_graph.ops.propagate import FORMS, propagate, tables_of
from tests.ops.conftest import chunks_of
from tests.zoo import ZOO, disjoint, inputs, random_dag

PUBLIC = ("auto", "parallel", "levelwise", "chunkwise", "walk")


def dense_plstm(query, key, value, source, transition, mark, direct, line_graph, scale=1.0):
    """The layer as linear algebra on whole matrices: the second oracle."""
    n, heads, _ = query.shape
    e = line_graph.num_edges
    src, dst = line_graph.edge_index
    e_in, e_out = line_graph.line_index
    h = torch.zeros_like(value)
    for head in range(heads):
        t = torch.zeros(e, e, dtype=value.dtype).index_put((e_out, e_in), transition[:, head])
        s = torch.zeros(e, n, dtype=value.dtype).index_put((torch.arange(e), src), source[:, head])
        m = torch.zeros(n, e, dtype=value.dtype).index_put((dst, torch.arange(e)), mark[:, head])
        gating = m @ torch.linalg.inv(torch.eye(e, dtype=value.dtype) - t) @ s
        gating = gating + torch.diag(direct[:, head])
        scores = scale * query[:, head] @ key[:, head].T
        h = h.index_add(1, torch.tensor([head]), ((scores * gating) @ value[:, head])[:, None])
    return h


def compare(got, want, arguments, rtol):
    """Values and all gradients, relative to the largest expected entry."""
    cotangent = torch.linspace(-1, 1, want.numel(), dtype=want.dtype).view_as(want)
    grads = [
        torch.autograd.grad(out, arguments, cotangent, materialize_grads=True, allow_unused=True)
        for out in (got, want)
    ]
    for a, b in zip((got.detach(), *grads[0]), (want.detach(), *grads[1])):
        assert a.shape == b.shape
        if b.numel():
            assert float((a - b).abs().max()) <= rtol * max(1.0, float(b.abs().max()))


@pytest.mark.parametrize("name", ZOO)
def test_naive_equals_dense_solve(name):
    line_graph = ZOO[name]()
    args = inputs(line_graph)
    naive = plstm(*args, line_graph, scale=0.7, form="naive")
    compare(naive, dense_plstm(*args, line_graph, scale=0.7), args, 1e-10)


@pytest.mark.parametrize("form", PUBLIC)
@pytest.mark.parametrize("name", ZOO)
def test_forms_equal_naive_in_float64(name, form):
    line_graph = ZOO[name]()
    args = inputs(line_graph, heads=3, key_size=5, value_size=2)
    want = plstm(*args, line_graph, scale=0.7, form="naive")
    compare(plstm(*args, line_graph, scale=0.7, form=form), want, args, 1e-10)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ZOO)
def test_inner_forms_equal_naive_with_any_tile(name, form, monkeypatch):
    monkeypatch.setattr(levelwise, "TILE_ELEMENTS", 64)
    monkeypatch.setattr(chunk_borders, "PIECE_ELEMENTS", 64)
    line_graph = ZOO[name]()
    args = inputs(line_graph, heads=1, key_size=2, value_size=5)
    want = plstm(*args, line_graph, form="naive")
    compare(propagate(args, line_graph, scale=1.0, form=form), want, args, 1e-10)


@pytest.mark.parametrize("form", PUBLIC)
@pytest.mark.parametrize("name", ZOO)
def test_forms_equal_naive_in_float32(name, form):
    line_graph = ZOO[name]()
    args = inputs(line_graph, dtype=torch.float32)
    exact = tuple(x.detach().double().requires_grad_() for x in args)
    want = plstm(*exact, line_graph, form="naive")
    got = plstm(*args, line_graph, form=form)
    cotangent = torch.linspace(-1, 1, want.numel(), dtype=torch.float64).view_as(want)
    pairs = [(got, want)]
    pairs += zip(
        torch.autograd.grad(got, args, cotangent.float()),
        torch.autograd.grad(want, exact, cotangent, materialize_grads=True, allow_unused=True),
    )
    for a, b in pairs:
        a, b = a.detach(), b.detach()
        assert a.dtype == torch.float32
        if a.numel():
            assert float((a - b).abs().max()) <= 1e-4 * max(1.0, float(b.abs().max()))


@pytest.mark.parametrize("form", [*FORMS, "naive"])
@pytest.mark.parametrize("name", ["hub", "multi_edge", "diamond", "no_line_edges"])
def test_gradcheck_and_gradgradcheck(name, form):
    line_graph = ZOO[name]()
    args = inputs(line_graph, heads=2, key_size=2, value_size=2)

    def run(*args):
        if form == "naive":
            return plstm(*args, line_graph, form="naive")
        return propagate(args, line_graph, scale=0.5, form=form)

    assert gradcheck(run, args)
    assert gradgradcheck(run, args, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("form", PUBLIC)
@pytest.mark.parametrize("states", [1, 2, 3])
@pytest.mark.parametrize("name", ["hub", "grid", "multi_edge", "molecules", "one_node"])
def test_state_tracking(name, states, form):
    line_graph = ZOO[name]()
    args = inputs(line_graph, states=states)
    want = plstm(*args, line_graph, form="naive")
    compare(plstm(*args, line_graph, form=form), want, args, 1e-10)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 14),
    st.integers(0, 40),
    st.integers(0, 2**16),
    st.integers(1, 3),
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(1, 9),
)
def test_random_dags(nodes, edges, seed, heads, key_size, value_size, chunk):
    line_graph = random_dag(nodes, edges, seed)
    args = inputs(line_graph, heads, key_size, value_size, seed=seed)
    with chunks_of(chunk):
        for form in FORMS:
            want = plstm(*args, line_graph, form="naive")
            compare(propagate(args, line_graph, scale=1.0, form=form), want, args, 1e-10)


@pytest.mark.parametrize("form", PUBLIC)
def test_batch_equals_its_parts(form):
    graphs = [ZOO[name]() for name in ("path", "hub", "grid", "one_node", "molecules")]
    parts = [inputs(g, seed=i) for i, g in enumerate(graphs)]
    whole = [torch.cat(x) for x in zip(*parts)]
    got = plstm(*whole, disjoint(graphs, batch=True), form=form)
    want = torch.cat([plstm(*x, g, form="naive") for x, g in zip(parts, graphs)])
    assert torch.allclose(got, want, rtol=0, atol=1e-10)


def test_auto_sends_outliers_to_another_form(monkeypatch):
    """A batch of mixed sizes is split, and the two kinds come back to their places."""
    graphs = [random_dag(40, 90, 3), *(random_dag(6, 9, i) for i in range(5))]
    line_graph = disjoint(graphs, batch=True)
    for name in ("PARALLEL_COST", "LEVEL_COST", "SPLIT_COST"):  # which outweigh so few small parts
        monkeypatch.setattr(cost, name, 0.0)
    monkeypatch.setattr(cost, "STATE_COST", 0.02)
    plan = dispatch._plan_auto(line_graph, 2, 3, 4)
    assert [form for form, _ in plan] == ["parallel", "levelwise"]
    assert plan[1][1].line_graph.num_nodes == 40
    args = inputs(line_graph)
    want = plstm(*args, line_graph, form="naive")
    compare(plstm(*args, line_graph), want, args, 1e-10)


@pytest.mark.parametrize("form", PUBLIC)
def test_nan_stays_in_its_graph(form):
    graphs = [ZOO[name]() for name in ("path", "grid", "fork")]
    line_graph = disjoint(graphs, batch=True)
    args = [x.detach() for x in inputs(line_graph)]
    args[2][0] = float("nan")
    out = plstm(*args, line_graph, form=form)
    assert out[: graphs[0].num_nodes].isnan().any()
    assert not out[graphs[0].num_nodes :].isnan().any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("form", PUBLIC)
def test_half_inputs_accumulate_in_float32(form, dtype):
    line_graph = ZOO["path"]()
    args = [x.detach() for x in inputs(line_graph, dtype=dtype)]
    got = plstm(*args, line_graph, form=form)
    want = plstm(*(x.float() for x in args), line_graph, form="naive")
    assert got.dtype == dtype
    # Computed in float32 and rounded once.
    assert torch.equal(got, want.to(dtype)) or torch.allclose(
        got.float(), want, rtol=2 * torch.finfo(dtype).eps, atol=1e-6
    )


@pytest.mark.parametrize("form", ["parallel", "levelwise", "chunkwise", "walk"])
def test_autocast_leaves_the_recurrence_alone(form):
    line_graph = ZOO["molecules"]()
    args = inputs(line_graph, dtype=torch.float32)

    def run():
        out = plstm(*args, line_graph, form=form)
        return out, *torch.autograd.grad(out.sum(), args)

    want = run()
    with torch.autocast("cpu", torch.bfloat16):
        got = run()
    assert all(torch.equal(a, b) for a, b in zip(got, want))


def test_parallel_refuses_what_would_not_fit(monkeypatch):
    monkeypatch.setattr(dispatch, "MAX_DENSE", 100)
    line_graph = ZOO["grid"]()
    with pytest.raises(ValueError, match=r"form='parallel'.*got 1922.*levelwise"):
        plstm(*inputs(line_graph), line_graph, form="parallel")


def test_node_order_is_free():
    """Renumbering the nodes of the same DAG permutes the outputs."""
    line_graph = ZOO["molecules"]()
    args = inputs(line_graph)
    perm = torch.randperm(line_graph.num_nodes, generator=torch.Generator().manual_seed(0))
    renamed = LineGraph(line_graph.num_nodes, perm[line_graph.edge_index], line_graph.line_index)
    moved = [x[torch.argsort(perm)] if i in (0, 1, 2, 6) else x for i, x in enumerate(args)]
    want = plstm(*args, line_graph)
    assert torch.allclose(plstm(*moved, renamed)[perm], want, atol=1e-12)


class LargestTensor(TorchDispatchMode):
    """Records the largest tensor that any operation makes."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.numel())
        return out


def test_levelwise_memory_is_bounded_by_the_tile(monkeypatch):
    """States [E, H, K, V] would hold 30 times what any tensor may hold here."""
    line_graph = random_dag(200, 600, 7)
    args = inputs(line_graph, heads=2, key_size=4, value_size=32)
    tile = line_graph.num_edges * 2 * 4  # one column of V
    monkeypatch.setattr(levelwise, "TILE_ELEMENTS", tile)
    tables_of(line_graph, "states", 2)
    want = plstm(*args, line_graph, form="naive")
    with LargestTensor() as memory:
        got = propagate(args, line_graph, scale=1.0, form="states")
        torch.autograd.grad(got.sum(), args)
    assert torch.allclose(got, want, atol=1e-10)
    nodes = line_graph.num_nodes * 2 * 32
    assert memory.largest <= max(tile, nodes, args[4].numel() * 2)
    assert line_graph.num_edges * 2 * 4 * 32 >= 30 * tile
