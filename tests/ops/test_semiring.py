"""dag_scan in the max-plus and log-sum-exp semirings, and with diagonal transitions."""

import networkx as nx
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from plstm_graph import LineGraph
from plstm_graph.dag import levels
from plstm_graph.ops import Factored, dag_scan, native
from plstm_graph.ops.forms.naive import naive_dag_scan
from plstm_graph.ops.schedule import level_schedule
from plstm_graph.ops.semiring import _semiring_scan
from tests.ops.test_dag_scan import payload
from tests.zoo import ZOO, binary_tree, from_edges, grid, random_dag

LOGS = ("max", "logsumexp")
GRAPHS = (
    "empty", "no_line_edges", "path", "hub", "multi_edge", "grid", "tree_inward", "molecules",
    "random_dense", "reversed", "two_way_tree", "two_way_star", "two_way_grid", "two_way_random",
    "two_way_in_part", "everything",
)  # fmt: skip


@pytest.fixture(params=["native", "torch"])
def both(request, monkeypatch):
    """The compiled loop and the one of tensor operations."""
    if request.param == "torch":
        monkeypatch.setenv("PLSTM_NATIVE", "0")
    elif native.unavailable() is not None:
        pytest.skip(native.unavailable())


def loop(x, t, line_graph, semiring):
    """The definition, edge by edge."""
    before = [[] for _ in range(line_graph.num_edges)]
    for l, (e_in, e_out) in enumerate(line_graph.line_index.t().tolist()):
        before[e_out].append((l, e_in))
    c = [None] * line_graph.num_edges
    for e in line_graph.level.argsort(stable=True).tolist():
        terms = torch.stack([x[e], *(t[l].unsqueeze(-1) + c[i] for l, i in before[e])])
        if semiring == "max":
            c[e] = terms.gather(0, terms.argmax(0, keepdim=True))[0]  # one winner
        else:
            c[e] = terms.logsumexp(0)
    return torch.stack(c) if c else x.clone()


@pytest.mark.parametrize("semiring", LOGS)
@pytest.mark.parametrize("name", GRAPHS)
def test_equals_the_loop(name, semiring, both):
    line_graph = ZOO[name]()
    x, t = payload(line_graph, 2, 3)
    got, want = dag_scan(x, t, line_graph, semiring=semiring), loop(x, t, line_graph, semiring)
    assert torch.allclose(got, want, rtol=0, atol=1e-12)
    cotangent = torch.randn_like(got)
    gradients = [
        torch.autograd.grad(c, (x, t), cotangent, allow_unused=True, materialize_grads=True)
        for c in (got, want)
    ]
    for a, b in zip(*gradients):
        assert torch.allclose(a, b, rtol=0, atol=1e-10)


@pytest.mark.parametrize("semiring", LOGS)
def test_random_graphs_and_both_directions(semiring, both):
    for seed in range(5):
        for line_graph in (random_dag(40, 90, seed), random_dag(20, 35, seed).two_way()):
            x, t = payload(line_graph, 3, 1, seed=seed)
            got = dag_scan(x, t, line_graph, semiring=semiring)
            assert torch.allclose(got, loop(x, t, line_graph, semiring), rtol=0, atol=1e-12)
            back = dag_scan(x, t, line_graph, reverse=True, semiring=semiring)
            want = loop(x, t, line_graph.reverse(), semiring)
            assert torch.allclose(back, want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("semiring", LOGS)
@pytest.mark.parametrize("name", ["hub", "multi_edge", "two_way_path", "two_way_star"])
def test_gradcheck(name, semiring):
    line_graph = ZOO[name]()
    x, t = payload(line_graph, 2, 2)

    def scan(x, t):
        return dag_scan(x, t, line_graph, semiring=semiring)

    assert gradcheck(scan, (x, t))
    assert gradgradcheck(scan, (x, t))


@pytest.mark.parametrize("semiring", LOGS)
@pytest.mark.parametrize("name", ["path", "hub", "two_way_grid", "molecules"])
def test_minus_infinity_is_zero(name, semiring, both):
    """Edges and line edges with -inf, all of them in the end: no NaN to the second derivative."""
    line_graph = ZOO[name]()
    x, t = payload(line_graph, 2, 3)
    rng = torch.Generator().manual_seed(1)
    for share in (0.5, 0.9, 1.0):
        off_x = torch.rand(x.shape, generator=rng) < share
        off_t = torch.rand(t.shape, generator=rng) < share
        minus, minus_t = (
            y.detach().masked_fill(off, -torch.inf).requires_grad_()
            for y, off in ((x, off_x), (t, off_t))
        )
        c = dag_scan(minus, minus_t, line_graph, semiring=semiring)
        want = loop(minus, minus_t, line_graph, semiring)
        silent = c == -torch.inf
        assert torch.equal(silent, want == -torch.inf)
        assert torch.allclose(c[~silent], want[~silent], rtol=0, atol=1e-12)
        if share == 1.0:
            assert silent.all()
        cotangent = torch.randn_like(c).requires_grad_()
        first = torch.autograd.grad(c, (minus, minus_t), cotangent, create_graph=True)
        second = torch.autograd.grad(
            sum(g.square().sum() for g in first), (minus, minus_t, cotangent), allow_unused=True,
            materialize_grads=True,
        )  # fmt: skip
        assert all(torch.isfinite(g).all() for g in (*first, *second))
        for off, g, gg in zip((off_x, off_t), first, second):
            assert (g[off] == 0).all() and (gg[off] == 0).all()


def test_log_sum_exp_is_the_logarithm_of_the_sum():
    """Values and gradients, with zeros, against the ordinary scan."""
    line_graph = ZOO["two_way_molecules"]()
    x, t = (y.detach().abs() for y in payload(line_graph, 2, 3))
    x[::3], t[::4] = 0, 0
    logs = [y.log().requires_grad_() for y in (x, t)]
    plain = [y.detach().exp().requires_grad_() for y in logs]
    got = dag_scan(*logs, line_graph, semiring="logsumexp").exp()
    want = dag_scan(*plain, line_graph)
    assert torch.allclose(got, want, rtol=1e-12, atol=1e-14)
    cotangent = torch.randn_like(got)
    # exp() of -inf has the derivative zero.
    for a, b, y in zip(
        torch.autograd.grad(got, logs, cotangent),
        torch.autograd.grad(want, plain, cotangent),
        plain,
    ):
        assert torch.allclose(a, b * y.detach(), rtol=1e-10, atol=1e-12)


def test_ties_go_to_the_edge_and_then_to_the_first_line_edge(both):
    line_graph = ZOO["hub"]()  # nine predecessors: more than there are slots
    x = torch.zeros(line_graph.num_edges, 1, 1, dtype=torch.float64, requires_grad=True)
    t = torch.zeros(line_graph.num_line_edges, 1, dtype=torch.float64, requires_grad=True)
    dx, dt = torch.autograd.grad(dag_scan(x, t, line_graph, semiring="max").sum(), (x, t))
    assert (dx == 1).all() and (dt == 0).all()
    low = torch.full_like(x, -1.0)
    low[:9] = 0
    low.requires_grad_()
    dx, dt = torch.autograd.grad(dag_scan(low, t, line_graph, semiring="max").sum(), (low, t))
    e_out = line_graph.line_index[1]
    first = {int((e_out == e).nonzero()[0]) for e in range(9, 12)}
    assert set(dt.view(-1).nonzero().view(-1).tolist()) == first
    assert (dx[9:] == 0).all() and dx.sum() == 12


@pytest.mark.parametrize("semiring", LOGS)
def test_large_logs_do_not_overflow(semiring, both):
    """64 x 64 and gates of e^60: the sum itself is about e^7600."""
    line_graph = grid(64, 64)
    rng = torch.Generator().manual_seed(0)
    x = torch.rand(line_graph.num_edges, 1, 1, generator=rng) * 120 - 60
    t = torch.rand(line_graph.num_line_edges, 1, generator=rng) * 120 - 60
    c = dag_scan(x, t, line_graph, semiring=semiring)
    want = dag_scan(x.double(), t.double(), line_graph, semiring=semiring)
    assert torch.isfinite(c).all() and c.max() > 1000
    assert torch.allclose(c.double(), want, rtol=1e-5, atol=1e-4)


def test_nan_and_infinity_stay(both):
    line_graph = ZOO["path"]()
    t = torch.zeros(line_graph.num_line_edges, 1)
    for semiring in LOGS:
        for value in (torch.nan, torch.inf):
            x = torch.zeros(line_graph.num_edges, 1, 1)
            x[3] = value
            c = dag_scan(x, t, line_graph, semiring=semiring)
            assert torch.isfinite(c[:3]).all()
            assert torch.equal(c[3:].isnan(), x[3].isnan().expand_as(c[3:]))
            assert not torch.isfinite(c[3:]).any()


# ------------------------------------------------------------------------------------ distances


def tree(num_nodes: int, seed: int) -> tuple[nx.Graph, LineGraph]:
    g = nx.random_labeled_tree(num_nodes, seed=seed)
    both = torch.tensor([(u, v) for a, b in g.edges for u, v in ((a, b), (b, a))]).T
    line_graph = LineGraph.from_edge_index(both, num_nodes, "bfs")
    return g, line_graph.two_way_where_undirected()


@pytest.mark.parametrize("seed", range(5))
def test_eccentricity_and_diameter_of_trees(seed):
    """A two-way tree has exactly one path between any two nodes: the longest is the distance."""
    g, line_graph = tree(60, seed)
    assert line_graph.is_two_way
    ones = torch.ones(line_graph.num_line_edges, 1)
    c = dag_scan(torch.ones(line_graph.num_edges, 1, 1), ones, line_graph, semiring="max").view(-1)
    eccentricity = torch.zeros(60).scatter_reduce(0, line_graph.edge_index[1], c, "amax")
    want = nx.eccentricity(g)
    assert eccentricity.tolist() == [want[n] for n in range(60)]
    assert c.max() == nx.diameter(g)


@pytest.mark.parametrize("seed", range(3))
def test_shortest_path_from_a_node(seed):
    """Transitions of -1: exact distances on trees by max, approached by log-sum-exp."""
    g, line_graph = tree(40, seed)
    src, dst = line_graph.edge_index
    want = torch.tensor([nx.shortest_path_length(g, 0, n) for n in range(40)], dtype=torch.float64)
    x = torch.where(src == 0, -1.0, -torch.inf).double().view(-1, 1, 1)
    t = -torch.ones(line_graph.num_line_edges, 1, dtype=torch.float64)
    start = torch.full((40,), -torch.inf, dtype=torch.float64)
    start[0] = 0
    exact = dag_scan(x, t, line_graph, semiring="max").view(-1)
    assert torch.equal(-start.scatter_reduce(0, dst, exact, "amax"), want)


def test_soft_distances_approach_the_shortest_path():
    """On a random DAG -tau c tends to the distance from below, for weighted edges."""
    line_graph = random_dag(40, 120, 0)
    src, dst = line_graph.edge_index
    weight = torch.rand(line_graph.num_edges, generator=torch.Generator().manual_seed(0)) + 0.5
    weight = weight.double()
    root = int(src[line_graph.level == 0][0])
    g = nx.DiGraph()
    for u, v, w in zip(src.tolist(), dst.tolist(), weight.tolist()):
        if not g.has_edge(u, v) or g[u][v]["w"] > w:
            g.add_edge(u, v, w=w)
    length = nx.single_source_dijkstra_path_length(g, root, weight="w")
    x = torch.where(src == root, -weight, -torch.inf).view(-1, 1, 1)
    t = -weight[line_graph.line_index[1]].view(-1, 1)
    heard = [e for e in range(line_graph.num_edges) if int(src[e]) in length]
    assert len(heard) > 20
    want = torch.tensor([length[int(src[e])] for e in heard], dtype=torch.float64) + weight[heard]
    exact = -dag_scan(x, t, line_graph, semiring="max").view(-1)[heard]
    assert torch.allclose(exact, want, rtol=0, atol=1e-12)
    errors = []
    for tau in (0.3, 0.1, 0.01):
        c = dag_scan(x / tau, t / tau, line_graph, semiring="logsumexp").view(-1)
        silent = torch.ones(line_graph.num_edges, dtype=torch.bool)
        silent[heard] = False
        assert (c[silent] == -torch.inf).all()
        assert (-tau * c[heard] <= want + 1e-12).all()
        errors.append(float((-tau * c[heard] - want).abs().max()))
    assert errors[0] > errors[1] > errors[2] and errors[2] < 0.02


# ----------------------------------------------------------------------- shapes, dtypes, compilers


@pytest.mark.parametrize("semiring", ["sum", *LOGS])
@pytest.mark.parametrize("name", ["hub", "two_way_grid", "no_line_edges"])
def test_diagonal_transitions(name, semiring):
    """Each channel k is a scan with transition[..., k]."""
    line_graph = ZOO[name]()
    rng = torch.Generator().manual_seed(0)
    e, l = line_graph.num_edges, line_graph.num_line_edges
    x = torch.randn(e, 2, 3, 4, generator=rng, dtype=torch.float64, requires_grad=True)
    t = (0.4 * torch.randn(l, 2, 3, generator=rng, dtype=torch.float64)).requires_grad_()

    def channels(x, t):
        if semiring == "sum":
            parts = [naive_dag_scan(x[:, :, k], t[..., k], line_graph) for k in range(3)]
        else:
            parts = [loop(x[:, :, k], t[..., k], line_graph, semiring) for k in range(3)]
        return torch.stack(parts, 2)

    got, want = dag_scan(x, t, line_graph, semiring=semiring), channels(x, t)
    assert torch.allclose(got, want, rtol=0, atol=1e-12)
    narrow = dag_scan(x[..., 0], t, line_graph, semiring=semiring)
    assert torch.allclose(narrow, want[..., 0], rtol=0, atol=1e-12)
    cotangent = torch.randn_like(got)
    gradients = [
        torch.autograd.grad(c, (x, t), cotangent, allow_unused=True, materialize_grads=True)
        for c in (got, want)
    ]
    for a, b in zip(*gradients):
        assert torch.allclose(a, b, rtol=0, atol=1e-10)


def test_reverse_of_diagonal_transitions_is_the_adjoint():
    line_graph = ZOO["two_way_grid"]()
    x, y = (torch.randn(line_graph.num_edges, 2, 3, 4, dtype=torch.float64) for _ in range(2))
    t = 0.4 * torch.randn(line_graph.num_line_edges, 2, 3, dtype=torch.float64)
    left = (y * dag_scan(x, t, line_graph)).sum()
    right = (dag_scan(y, t, line_graph, reverse=True) * x).sum()
    assert torch.allclose(left, right, rtol=1e-12)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("semiring", LOGS)
def test_block_transitions(semiring, reverse):
    """Matrices over the semiring: the scalar scan of an edge's states in turn."""
    line_graph = ZOO["diamond"]()
    x, t = (y.detach() for y in payload(line_graph, 2, 2, 3, states=2))
    got = dag_scan(x, t, line_graph, reverse=reverse, semiring=semiring)
    graph, t = (line_graph.reverse(), t.mT) if reverse else (line_graph, t)
    combine = torch.amax if semiring == "max" else torch.logsumexp
    want = [None] * graph.num_edges
    for e in graph.level.argsort(stable=True).tolist():
        terms = [x[e]]
        for l in (graph.line_index[1] == e).nonzero().view(-1).tolist():
            before = want[int(graph.line_index[0, l])]
            terms.append(combine(t[l].unsqueeze(-1) + before.unsqueeze(1), 2))
        want[e] = combine(torch.stack(terms), 0)
    assert torch.allclose(got, torch.stack(want), rtol=0, atol=1e-12)


@pytest.mark.parametrize("semiring", LOGS)
def test_factored_transitions_are_expanded(semiring, monkeypatch):
    line_graph = ZOO["two_way_tree"]()
    x, _ = payload(line_graph, 2, 3)
    a, b = payload(line_graph, 2, 1)[0].squeeze(2), payload(line_graph, 2, 1, seed=1)[0].squeeze(2)
    e_in, e_out = line_graph.line_index
    want = dag_scan(x, a[e_in] + b[e_out], line_graph, semiring=semiring)
    got = dag_scan(x, Factored(a, b), line_graph, semiring=semiring)
    assert torch.equal(got, want)
    monkeypatch.setattr(levels, "MAX_LINE_EDGES", 3)
    with pytest.raises(ValueError, match=r"transition with at most 3 line edges .*Factored with"):
        dag_scan(x, Factored(a, b), line_graph, semiring=semiring)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("semiring", LOGS)
def test_halves_compute_in_float32(semiring, dtype):
    line_graph = ZOO["grid"]()
    x, t = (y.detach().to(dtype) for y in payload(line_graph, 2, 3))
    got = dag_scan(x, t, line_graph, semiring=semiring)
    want = dag_scan(x.float(), t.float(), line_graph, semiring=semiring).to(dtype)
    assert got.dtype == dtype and torch.equal(got, want)


@pytest.mark.parametrize("semiring", LOGS)
@pytest.mark.parametrize("name", ["grid", "hub", "two_way_molecules", "no_line_edges"])
def test_opcheck(name, semiring):
    line_graph = ZOO[name]()
    x, t = payload(line_graph, 2, 3)
    schedules = [list(level_schedule(g)) for g in (line_graph, line_graph.reverse())]
    torch.library.opcheck(_semiring_scan, (x, t, semiring, *schedules))


@pytest.mark.parametrize("semiring", LOGS)
def test_func_and_compile(semiring):
    line_graph = ZOO["two_way_grid"]()
    x, t = payload(line_graph, 2, 3)

    def loss(x, t):
        return dag_scan(x, t, line_graph, semiring=semiring).square().sum()

    want = torch.autograd.grad(loss(x, t), (x, t))
    plain = x.detach(), t.detach()
    for a, b in zip(torch.func.grad(loss, (0, 1))(*plain), want):
        assert torch.allclose(a, b, rtol=1e-12)
    batch = torch.stack([plain[0], 2 * plain[0]])
    each = torch.func.vmap(torch.func.grad(loss), (0, None))(batch, plain[1])
    assert torch.allclose(each[0], want[0], rtol=1e-12)
    assert torch.allclose(each[1], torch.func.grad(loss)(batch[1], plain[1]), rtol=1e-12)

    def of_gradient(x, t):
        return torch.func.grad(loss)(x, t).square().sum()

    (first,) = torch.autograd.grad(loss(x, t), x, create_graph=True)
    second = torch.autograd.grad(first.square().sum(), x)[0]
    assert torch.allclose(torch.func.grad(of_gradient)(*plain), second, rtol=1e-10)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for a, b in zip(torch.autograd.grad(compiled(x, t), (x, t)), want):
        assert torch.allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"semiring": "min"}, r"expected semiring to be one of 'sum', 'max', .*got 'min'"),
        ({"backend": "triton"}, r"expected backend with semiring='max', got 'triton'"),
        ({"transition": torch.zeros(3, 2, 5)}, r"expected transition as .*\[3, 2, 4\]"),
        ({"transition": torch.zeros(4, 2, 4)}, r"expected transition as .*\[3, 2, 4\]"),
        ({"x": torch.zeros(4, 2)}, r"expected x as .*\[4, H, W\]"),
        ({"x": torch.zeros(4, 2), "transition": torch.zeros(3, 2, 4)}, r"x as .*\[4, H, K\]"),
        ({"x": torch.zeros(4, 2, 4).double()}, r"torch.float64.*\.double\(\)"),
    ],
)
def test_errors(change, message):
    line_graph = from_edges([(0, 1), (1, 2), (2, 3), (1, 4)], 5)
    arguments = {"x": torch.zeros(4, 2, 4), "transition": torch.zeros(3, 2), "semiring": "max"}
    with pytest.raises(ValueError, match=message):
        dag_scan(**{**arguments, **change}, line_graph=line_graph)


def test_gradients_on_a_deep_tree_reach_the_root():
    """The maximum's gradient follows one path from the deepest leaf to its start."""
    line_graph = binary_tree(6)
    x = torch.zeros(line_graph.num_edges, 1, 1, requires_grad=True)
    t = torch.ones(line_graph.num_line_edges, 1, requires_grad=True)
    c = dag_scan(x, t, line_graph, semiring="max")
    dx, dt = torch.autograd.grad(c[c.argmax()].sum(), (x, t))
    assert dt.sum() == line_graph.num_levels - 1 and dx.sum() == 1
