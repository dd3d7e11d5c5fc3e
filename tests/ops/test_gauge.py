"""The gauge changes nothing but the range, and the normalizers are their formulas.

An mLSTM here is plstm with a column of ones appended to the value and the normalizer "max1".
"""

import pytest
import torch

from plstm_graph import LineGraph
from plstm_graph.ops import native, plstm
from plstm_graph.ops.gauge import Gauged, _gauge, gauge, normalize
from plstm_graph.ops.inputs import LogGate
from plstm_graph.ops.schedule import level_schedule
from tests.zoo import ZOO, from_edges, grid

KINDS = ("max", "logsumexp")
NAMES = ("fork", "diamond", "hub", "multi_edge", "grid", "tree_inward", "molecules",
         "two_way_tree", "two_way_star", "two_way_grid", "no_line_edges", "no_edges")  # fmt: skip


def ladder(rungs: int) -> LineGraph:
    """Diamonds in a row: 2^rungs paths from end to end."""
    edges = []
    for i in range(0, 3 * rungs, 3):
        edges += [(i, i + 1), (i, i + 2), (i + 1, i + 3), (i + 2, i + 3)]
    return from_edges(edges, 3 * rungs + 1)


def complete(nodes: int) -> LineGraph:
    """All pairs: 2^(nodes - 2) paths from end to end."""
    return from_edges([(i, j) for j in range(nodes) for i in range(j)], nodes)


#: At least 10^6 paths each; the number of line edges and of levels is the cost.
MANY_PATHS = {
    "grid": lambda: grid(64, 64),
    "two_way_grid": lambda: grid(24, 24).two_way(),
    "ladder": lambda: ladder(100),
    "complete": lambda: complete(40),
}


def log_gates(line_graph, heads=2, *, span=60.0, signs=False, channels=None, seed=0):
    """Logarithms from -span to span, a tenth of them the logarithm of 0, a tenth that of 1."""
    rng = torch.Generator().manual_seed(seed)

    def draw(rows, *more):
        log = (2 * torch.rand(rows, heads, *more, generator=rng, dtype=torch.float64) - 1) * span
        luck = torch.rand(log.shape, generator=rng)
        log = log.masked_fill(luck < 0.1, -torch.inf).masked_fill(luck > 0.9, 0.0)
        sign = torch.randint(2, log.shape, generator=rng).double() * 2 - 1 if signs else None
        return LogGate(log.requires_grad_(), sign)

    n, e, l = line_graph.num_nodes, line_graph.num_edges, line_graph.num_line_edges
    more = () if channels is None else (channels,)
    return [draw(e), draw(l, *more), draw(e), draw(n)]


def vectors(line_graph, heads=2, size=3, *, positive=False, seed=1):
    rng = torch.Generator().manual_seed(seed)
    shape = (line_graph.num_nodes, heads, size)
    q, k = (torch.randn(shape, generator=rng, dtype=torch.float64) for _ in range(2))
    v = 2 * torch.rand(shape, generator=rng, dtype=torch.float64) - 1
    q, k = (q.abs() + 0.1, k.abs() + 0.1) if positive else (q, k)
    return [x.requires_grad_() for x in (q, k, v)]


def plain(gate):
    return gate.log_abs.exp() if gate.sign is None else gate.log_abs.exp() * gate.sign


def run(q, k, v, gates, line_graph):
    """[N, H, V + 1]."""
    return plstm(q, k, torch.cat([v, torch.ones_like(v[..., :1])], -1), *gates, line_graph)


def stabilized(qkv, gates, line_graph, kind="logsumexp", normalizer="max1"):
    gated, _, m_node = gauge(*gates, line_graph, kind)
    return normalize(run(*qkv, gated, line_graph).to(m_node.dtype), normalizer, m_node)


def cast(tensors, dtype):
    return [x.detach().to(dtype) for x in tensors]


def cast_gates(gates, dtype):
    return [LogGate(g.log_abs.detach().to(dtype), g.sign) for g in gates]


# ------------------------------------------------------------------------------- changes nothing


@pytest.mark.parametrize("signs", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_changes_nothing(name, kind, signs):
    """Gates from e^-60 to e^60, 0 and 1 among them: values and all gradients, eps = 0."""
    line_graph = ZOO[name]()
    gates = log_gates(line_graph, signs=signs)
    qkv = vectors(line_graph, positive=not signs)
    got = stabilized(qkv, gates, line_graph, kind)
    want = normalize(run(*qkv, [plain(g) for g in gates], line_graph), "max1")
    assert torch.allclose(got, want, rtol=1e-12, atol=1e-12)
    cotangent = torch.randn_like(got)
    inputs = [*qkv, *(g.log_abs for g in gates)]
    gradients = [
        torch.autograd.grad(h, inputs, cotangent, allow_unused=True, materialize_grads=True)
        for h in (got, want)
    ]
    for a, b in zip(*gradients):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_any_normalizer(kind):
    line_graph = ZOO["two_way_grid"]()
    gates, qkv = log_gates(line_graph, span=5.0), vectors(line_graph, positive=True)
    for normalizer in ("sum", None):
        got = stabilized(qkv, gates, line_graph, kind, normalizer)
        want = normalize(run(*qkv, [plain(g) for g in gates], line_graph), normalizer)
        assert torch.allclose(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_diagonal_transitions_change_nothing(kind):
    """Composed of one scalar problem for each channel of the key."""
    line_graph = ZOO["two_way_grid"]()
    gates, qkv = log_gates(line_graph, span=20.0, channels=3), vectors(line_graph, positive=True)

    def channels(gates):
        parts = []
        for c in range(3):
            q, k = (x[..., c : c + 1] for x in qkv[:2])
            one = [gates[0], gates[1][..., c], *gates[2:]]
            parts.append(run(q, k, qkv[2], one, line_graph))
        return sum(parts)

    gated, _, m_node = gauge(*gates, line_graph, kind)
    assert gated.transition.max() <= 1 + 1e-12
    got = normalize(channels(gated), "max1", m_node)
    want = normalize(channels([plain(g) for g in gates]), "max1")
    assert torch.allclose(got, want, rtol=1e-12, atol=1e-12)


# ------------------------------------------------------------------------------------- properties


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [*NAMES, "everything"])
def test_new_gates_are_bounded(name, kind):
    """Log-sum-exp: absolute values add up to 1 at edges and nodes; max: each is at most 1."""
    line_graph = ZOO[name]()
    gates = log_gates(line_graph, signs=True)
    gated, m_edge, m_node = gauge(*gates, line_graph, kind)
    assert all(torch.isfinite(x).all() for x in (*gated, m_edge, m_node))
    for gate, before in zip(gated, gates):
        assert (gate.abs() <= 1 + 1e-12).all()
        assert (gate * before.sign >= 0).all()
        assert (gate[before.log_abs == -torch.inf] == 0).all()
    if kind == "max":
        return
    at_edges = gated.source.abs().index_add(0, line_graph.line_index[1], gated.transition.abs())
    at_nodes = gated.direct.abs().index_add(0, line_graph.edge_index[1], gated.mark.abs())
    for sums in (at_edges, at_nodes):
        assert (((sums - 1).abs() < 1e-12) | (sums == 0)).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_zero_gates_give_zero_and_no_nan(kind, dtype):
    line_graph = ZOO["two_way_grid"]()
    gates = [
        LogGate(torch.full_like(g.log_abs, -torch.inf, dtype=dtype).requires_grad_())
        for g in log_gates(line_graph)
    ]
    gated, m_edge, m_node = gauge(*gates, line_graph, kind)
    assert all((x == 0).all() for x in (*gated, m_edge, m_node))
    assert gated.source.dtype == (dtype if dtype == torch.float64 else torch.float32)
    qkv = cast(vectors(line_graph), m_node.dtype)
    for normalizer in ("max1", "sum"):
        h = stabilized(qkv, gates, line_graph, kind, normalizer)
        assert (h == 0).all()
        for g in torch.autograd.grad(h.sum(), [g.log_abs for g in gates]):
            assert (g == 0).all()


def test_a_large_transition_behind_a_silent_edge():
    """e^1000 times a state that is zero: no infinity."""
    line_graph = ZOO["path"]()
    e, n, l = line_graph.num_edges, line_graph.num_nodes, line_graph.num_line_edges
    source = torch.full((e, 1), -torch.inf)
    source[2] = -500.0
    transition = torch.full((l, 1), 1000.0)
    gates = [LogGate(x) for x in (source, transition, torch.zeros(e, 1), torch.zeros(n, 1))]
    gated, m_edge, _ = gauge(*gates, line_graph, "logsumexp")
    assert all(torch.isfinite(x).all() and (x <= 1).all() for x in gated)
    # e_2 and all behind it have one source, in the gauge 1 everywhere.
    assert m_edge[2:].view(-1).tolist() == [-500.0 + 1000 * i for i in range(e - 2)]


# --------------------------------------------------------------------------------------- stability


@pytest.mark.parametrize("name", MANY_PATHS)
def test_mlstm_on_many_paths(name):
    """Finite in float32 and bfloat16, with gradients; positive q and k: equal to float64.

    The reference is float64 of the same numbers, which bfloat16 has rounded: e^60 rounded in its
    logarithm is another problem. v is from -1 to 1, so errors are absolute.
    """
    line_graph = MANY_PATHS[name]()
    gates, qkv = log_gates(line_graph), vectors(line_graph, positive=True)
    for dtype, tolerance in ((torch.float32, 1e-3), (torch.bfloat16, 3e-2)):
        low = [x.requires_grad_() for x in cast(qkv, dtype)]
        low_gates = [LogGate(g.log_abs.requires_grad_()) for g in cast_gates(gates, dtype)]
        got = stabilized(low, low_gates, line_graph)
        double = cast_gates(low_gates, torch.float64)
        want = stabilized(cast(low, torch.float64), double, line_graph)
        assert torch.isfinite(got).all()
        assert want.abs().max() > 0.5
        assert (got.double() - want).abs().max() < tolerance
        grads = torch.autograd.grad(got.float().sum(), [*low, *(g.log_abs for g in low_gates)])
        assert all(torch.isfinite(g).all() for g in grads)


@pytest.mark.parametrize("name", MANY_PATHS)
def test_vectors_in_bfloat16_and_gates_in_float32(name):
    """As in a layer under autocast: equal to float64 of the unrounded vectors."""
    line_graph = MANY_PATHS[name]()
    gates, qkv = log_gates(line_graph), vectors(line_graph, positive=True)
    gates = cast_gates(gates, torch.float32)
    got = stabilized(cast(qkv, torch.bfloat16), gates, line_graph)
    want = stabilized(cast(qkv, torch.float64), cast_gates(gates, torch.float64), line_graph)
    assert (got.double() - want).abs().max() < 3e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", MANY_PATHS)
def test_signed_queries_and_keys_are_finite(name, dtype):
    line_graph = MANY_PATHS[name]()
    gates = cast_gates(log_gates(line_graph, signs=True), dtype)
    assert torch.isfinite(stabilized(cast(vectors(line_graph), dtype), gates, line_graph)).all()


@pytest.mark.parametrize("name", ["grid", "ladder", "complete"])
def test_gates_of_one_equal_no_gauge_in_double(name):
    """All gates 1: float64 holds the numbers of paths, so it needs no gauge."""
    line_graph = MANY_PATHS[name]()
    ones = [LogGate(torch.zeros_like(g.log_abs)) for g in log_gates(line_graph)]
    qkv = vectors(line_graph, positive=True)
    out = run(*cast(qkv, torch.float64), [plain(g) for g in ones], line_graph)
    want = normalize(out, "max1")
    assert out.max() > 1e6 and torch.isfinite(want).all()
    assert torch.allclose(stabilized(qkv, ones, line_graph), want, rtol=0, atol=1e-12)
    low = stabilized(cast(qkv, torch.float32), cast_gates(ones, torch.float32), line_graph)
    assert (low.double() - want).abs().max() < 1e-3


@pytest.mark.parametrize("make", [lambda: grid(70, 70), lambda: ladder(140), lambda: complete(140)])
def test_the_maximum_is_no_gauge_for_many_paths(make):
    """Why the log-sum-exp: at most 1 for each gate, the state grows with the number of paths."""
    line_graph = make()
    ones = [LogGate(torch.zeros_like(g.log_abs)) for g in log_gates(line_graph, 1)]
    ones = cast_gates(ones, torch.float32)
    qkv = cast(vectors(line_graph, 1, positive=True), torch.float32)
    assert not torch.isfinite(stabilized(qkv, ones, line_graph, "max")).all()
    assert torch.isfinite(stabilized(qkv, ones, line_graph, "logsumexp")).all()


# --------------------------------------------------------------------------------------- normalize


def test_normalizers_are_their_formulas():
    out = torch.tensor([[[6.0, -3.0, -2.0]], [[6.0, -3.0, 0.5]], [[0.0, 0.0, 0.0]]])
    m = torch.tensor([[0.0], [1.0], [-200.0]])
    assert normalize(out, "norm") is out and normalize(out, None) is out
    assert normalize(out, "max1").tolist() == [[[3.0, -1.5]], [[6.0, -3.0]], [[0.0, 0.0]]]
    assert normalize(out, "sum").tolist() == [[[-3.0, 1.5]], [[12.0, -6.0]], [[0.0, 0.0]]]
    # e^-1 < 0.5: in the gauge the floor is lower; e^200 passes float32, and 0 / inf is 0.
    assert normalize(out, "max1", m).tolist() == [[[3.0, -1.5]], [[12.0, -6.0]], [[0.0, 0.0]]]
    assert normalize(out, "max1", m, 0.5)[1].tolist() == [[6.0, -3.0]]
    assert normalize(out, "sum", m, 0.5).tolist() == [[[-4.0, 2.0]], [[6.0, -3.0]], [[0.0, 0.0]]]
    assert torch.allclose(normalize(out, None, m)[1], out[1] * torch.e)


@pytest.mark.parametrize("normalizer", ["max1", "sum"])
def test_gradcheck(normalizer):
    out = torch.randn(3, 2, 4, dtype=torch.float64)
    out[0, 0] = 0  # nothing heard
    m = torch.randn(3, 2, dtype=torch.float64)
    away = out.requires_grad_()
    (grad,) = torch.autograd.grad(normalize(away, normalizer, m).sum(), away)
    assert torch.isfinite(grad).all()
    rest = out.detach()[1:].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: normalize(x, normalizer, m[1:]), rest)


@pytest.mark.parametrize("channels", [None, 3])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [*NAMES, "everything"])
def test_the_compiled_loop_equals_torch(name, kind, channels, monkeypatch):
    if native.unavailable() is not None:
        pytest.skip(native.unavailable())
    line_graph = ZOO[name]()
    gates = log_gates(line_graph, channels=channels, signs=True)
    got, *m = gauge(*gates, line_graph, kind)
    monkeypatch.setenv("PLSTM_NATIVE", "0")
    want, *m_want = gauge(*gates, line_graph, kind)
    for a, b in zip((*got, *m), (*want, *m_want)):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("channels", [None, 3])
def test_opcheck(channels):
    line_graph = ZOO["two_way_grid"]()
    logs = [gate.log_abs for gate in log_gates(line_graph, channels=channels)]
    tables = list(level_schedule(line_graph)), line_graph.line_index, line_graph.edge_index
    torch.library.opcheck(_gauge, (*logs, "logsumexp", *tables))


def test_func_compile_and_second_derivatives():
    """The logarithms' derivatives, m being constant: by autograd, torch.func and torch.compile."""
    line_graph = ZOO["two_way_grid"]()
    gates = log_gates(line_graph, span=2.0, signs=True)
    logs, signs = [g.log_abs for g in gates], [g.sign for g in gates]
    qkv = vectors(line_graph, positive=True)

    def loss(*logs):
        return stabilized(qkv, map(LogGate, logs, signs), line_graph).square().sum()

    def without(*logs):
        out = run(*qkv, [plain(LogGate(*g)) for g in zip(logs, signs)], line_graph)
        return normalize(out, "max1").square().sum()

    first = torch.autograd.grad(loss(*logs), logs, create_graph=True)
    want = torch.autograd.grad(without(*logs), logs, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), logs)
    want_second = torch.autograd.grad(sum(g.square().sum() for g in want), logs)
    for a, b in zip((*first, *second), (*want, *want_second)):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-9)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    by_compile = torch.autograd.grad(compiled(*logs), logs)
    by_func = torch.func.grad(loss, (0, 1, 2, 3))(*(x.detach() for x in logs))
    for a, b, c in zip(first, by_compile, by_func):
        assert torch.allclose(a, b, rtol=1e-12) and torch.allclose(a, c, rtol=1e-12)


def test_errors():
    line_graph = ZOO["path"]()
    gates = log_gates(line_graph)
    with pytest.raises(ValueError, match=r"stabilizer to be one of 'max', 'logsumexp', got 'sum'"):
        gauge(*gates, line_graph, "sum")
    gates[1] = LogGate(torch.zeros(line_graph.num_line_edges, 2, 3, 3))
    with pytest.raises(ValueError, match=r"transition \[L, H\] or .* with a stabilizer"):
        gauge(*gates, line_graph, "max")
    with pytest.raises(ValueError, match=r"normalizer to be one of 'max1', .*got 'min'"):
        normalize(torch.zeros(1, 1, 2), "min")
    assert Gauged._fields == ("source", "transition", "mark", "direct")
