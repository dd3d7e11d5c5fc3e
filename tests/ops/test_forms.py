"""Every form against the definition and against a dense solve, values and gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode

from plstm_graph import LineGraph
from plstm_graph.ops import Factored, dag_scan, plstm
from plstm_graph.ops.forms import FORMS, Form, chunk_borders, dense, levelwise, register
from plstm_graph.ops.forms.naive import naive_dag_scan, naive_plstm
from tests.ops.conftest import chunks_of
from tests.zoo import ZOO, disjoint, inputs, random_dag

FAST = ("levelwise", "chunkwise", "walk", "dense")
PUBLIC = ("auto", *FAST)


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


def derivatives(out, arguments):
    """The output, and the gradients of the arguments for one cotangent."""
    cotangent = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    grads = torch.autograd.grad(
        out, arguments, cotangent, materialize_grads=True, allow_unused=True
    )
    return out.detach(), *grads


def compare(got, want, arguments, rtol):
    """Values and all gradients, relative to the largest expected entry; ``want`` is an output, or
    what :func:`derivatives` makes of it."""
    want = derivatives(want, arguments) if isinstance(want, torch.Tensor) else want
    for a, b in zip(derivatives(got, arguments), want):
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


@pytest.mark.parametrize("form", FAST)
@pytest.mark.parametrize("name", ZOO)
def test_any_tile(name, form, monkeypatch):
    """The torch operations behind the kernels, too."""
    monkeypatch.setattr(levelwise, "TILE_ELEMENTS", 64)
    monkeypatch.setattr(chunk_borders, "PIECE_ELEMENTS", 64)
    line_graph = ZOO[name]()
    args = inputs(line_graph, heads=1, key_size=2, value_size=5)
    want = plstm(*args, line_graph, form="naive")
    if form in ("levelwise", "chunkwise"):
        monkeypatch.setenv("PLSTM_NATIVE", "0")
    compare(plstm(*args, line_graph, form=form), want, args, 1e-10)


def factored_inputs(line_graph, *sizes, **options):
    """Inputs with a and b [E, H] in the place of the transition."""
    args = list(inputs(line_graph, *sizes, **options))
    gates = torch.Generator().manual_seed(1)
    a, b = (
        torch.randn(*args[3].shape, dtype=args[3].dtype, generator=gates).requires_grad_()
        for _ in range(2)
    )
    return [*args[:4], a, b, *args[5:]]


def factored(args):
    return [*args[:4], Factored(*args[4:6]), *args[6:]]


@pytest.mark.parametrize("form", PUBLIC)
@pytest.mark.parametrize("name", ZOO)
def test_factored_transitions_equal_expanded_ones(name, form):
    graph = ZOO[name]()
    for line_graph in (graph, graph.reverse(), graph.multitree()):
        args = factored_inputs(line_graph, heads=2, key_size=3, value_size=2)
        want = plstm(*factored(args), line_graph, scale=0.7, form="naive")
        compare(plstm(*factored(args), line_graph, scale=0.7, form=form), want, args, 1e-10)
        lines = args[4][line_graph.line_index[0]] * args[5][line_graph.line_index[1]]
        assert torch.equal(
            plstm(*args[:4], lines, *args[6:], line_graph, scale=0.7, form="naive"), want
        )


@pytest.mark.parametrize("name", ZOO)
def test_factored_scan_equals_expanded_one(name):
    line_graph = ZOO[name]()
    args = factored_inputs(line_graph)
    a, b, x = args[4], args[5], torch.randn(*args[4].shape, 3, dtype=torch.float64)
    x.requires_grad_()

    def lines():
        return a[line_graph.line_index[0]] * b[line_graph.line_index[1]]

    want = naive_dag_scan(x, lines(), line_graph)
    compare(dag_scan(x, Factored(a, b), line_graph), want, (x, a, b), 1e-10)
    want = naive_dag_scan(x, lines(), line_graph.reverse())
    compare(dag_scan(x, Factored(a, b), line_graph, reverse=True), want, (x, a, b), 1e-10)


@pytest.mark.parametrize("form", ["walk", "levelwise", "auto"])
def test_factored_transitions_make_no_line_edges(form):
    """A star of 20,000 leaves in two directions has 400 million line edges."""
    leaves = torch.arange(1, 20_001)
    edges = torch.stack([torch.zeros_like(leaves), leaves])
    both = torch.cat([edges, edges.flip(0)], 1)
    line_graph = LineGraph.from_edge_index(both, orientation="index").two_way()
    e, n = line_graph.num_edges, line_graph.num_nodes
    assert line_graph.num_line_edges == 20_000 * 19_999
    one, gate = torch.ones(n, 1, 1), torch.ones(e, 1)
    out = plstm(
        one, one, one, gate, Factored(gate, gate), gate, torch.zeros(n, 1), line_graph, form=form
    )
    # Everyone hears everyone else once.
    assert torch.equal(out, torch.full_like(out, 20_000.0))
    with pytest.raises(ValueError, match=r"at most 50000000 line edges.*399980000.*factored"):
        line_graph.line_index  # noqa: B018


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


@pytest.mark.parametrize("kind", ["line", "factored"])
@pytest.mark.parametrize("form", [*FAST, "naive"])
@pytest.mark.parametrize("name", ["hub", "multi_edge", "diamond", "no_line_edges", "two_way_path"])
def test_gradcheck_and_gradgradcheck(name, form, kind):
    line_graph = ZOO[name]()
    make, join = (inputs, list) if kind == "line" else (factored_inputs, factored)
    args = make(line_graph, heads=1, key_size=2, value_size=2)

    def run(*args):
        return plstm(*join(args), line_graph, scale=0.5, form=form)

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
        for form in FAST:
            want = plstm(*args, line_graph, form="naive")
            compare(plstm(*args, line_graph, form=form), want, args, 1e-10)


@pytest.mark.parametrize("form", PUBLIC)
def test_batch_equals_its_parts(form):
    graphs = [ZOO[name]() for name in ("path", "hub", "grid", "one_node", "molecules")]
    parts = [inputs(g, seed=i) for i, g in enumerate(graphs)]
    whole = [torch.cat(x) for x in zip(*parts)]
    got = plstm(*whole, disjoint(graphs, batch=True), form=form)
    want = torch.cat([plstm(*x, g, form="naive") for x, g in zip(parts, graphs)])
    assert torch.allclose(got, want, rtol=0, atol=1e-10)


class Toy(Form):
    """All there is to do for a new form."""

    name = "toy"
    kinds = ("line", "factored")

    def plan(self, problem):
        return [problem.line_graph.edge_index, problem.line_graph.line_index]

    def forward(self, inputs, scale, plan):
        graph = LineGraph(inputs.query.size(0), *plan)
        return naive_plstm(inputs, graph, scale), None

    def backward(self, grad, inputs, scale, plan, kept):
        tensors = [x.detach().requires_grad_() for x in inputs.tensors]
        with torch.enable_grad():
            out = self.forward(type(inputs).of(tensors), scale, plan)[0]
        return torch.autograd.grad(out, tensors, grad, materialize_grads=True, allow_unused=True)


def test_a_form_is_one_class_and_one_registration():
    register(Toy())
    try:
        line_graph = ZOO["molecules"]()
        args = inputs(line_graph)
        want = plstm(*args, line_graph, form="naive")
        compare(plstm(*args, line_graph, form="toy"), want, args, 1e-10)
        assert gradgradcheck(lambda *x: plstm(*x, ZOO["fork"](), form="toy"), inputs(ZOO["fork"]()))
    finally:
        del FORMS["torch"]["toy"]
    with pytest.raises(
        ValueError, match=r"expected form to be one of 'auto', 'naive', .*got 'toy'"
    ):
        plstm(*args, line_graph, form="toy")


@pytest.mark.parametrize("form", PUBLIC)
def test_what_a_node_cannot_hear_does_not_reach_it(form):
    """Values that are not finite stay where the definition has them, forward and backward."""
    line_graph = ZOO["grid"]()
    for index in range(7):
        args = [x.detach().clone() for x in inputs(line_graph)]
        args[index][len(args[index]) // 2] = float("nan")
        args = [x.requires_grad_() for x in args]
        outs = [plstm(*args, line_graph, form=f) for f in (form, "naive")]
        assert torch.equal(outs[0].isnan(), outs[1].isnan())
        early = (~outs[1].isnan()).nonzero()[0].tolist()
        grads = [torch.autograd.grad(out[tuple(early)], args[2]) for out in outs]
        assert torch.equal(grads[0][0].isnan(), grads[1][0].isnan())


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


@pytest.mark.parametrize("form", FAST)
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


def test_dense_refuses_large_graphs(monkeypatch):
    monkeypatch.setattr(dense, "MAX_NODES", 15)
    line_graph = ZOO["grid"]()
    with pytest.raises(ValueError, match=r"form='dense'.*at most 15 nodes.*'walk'"):
        plstm(*inputs(line_graph), line_graph, form="dense")


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
    plstm(*args, line_graph, form="levelwise")  # makes the plan
    want = plstm(*args, line_graph, form="naive")
    with LargestTensor() as memory:
        got = plstm(*args, line_graph, form="levelwise")
        torch.autograd.grad(got.sum(), args)
    assert torch.allclose(got, want, atol=1e-10)
    nodes = line_graph.num_nodes * 2 * 32
    assert memory.largest <= max(tile, nodes, args[4].numel() * 2)
    assert line_graph.num_edges * 2 * 4 * 32 >= 30 * tile
