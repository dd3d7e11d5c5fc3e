"""All kinds of transitions, updates and states in and out, in every form that has them."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from plstm_graph.ops import EdgeStates, Factored, LogGate, Reflections, plstm, ports, prepare
from plstm_graph.ops.by_level import transported
from plstm_graph.ops.forms import FORMS
from tests.ops.test_forms import compare, derivatives
from tests.zoo import ZOO, from_edges, inputs

KINDS = ("diagonal", "block", "channels")
SOME = ("path", "grid", "molecules", "two_way_molecules", "random_sparse")


def leaves(*shapes, seed=0, size=0.5):
    rng = torch.Generator().manual_seed(seed)
    return [
        (size * torch.randn(*shape, generator=rng, dtype=torch.float64)).requires_grad_()
        for shape in shapes
    ]


def arguments(line_graph, kind, heads=2, k=3, v=2, j=2, channels=(3, 1)):
    """The seven arguments of ``plstm``."""
    n, e, l = line_graph.num_nodes, line_graph.num_edges, line_graph.num_line_edges
    args = list(inputs(line_graph, heads, k, v))
    if kind == "diagonal":
        (args[4],) = leaves((l, heads, k))
    elif kind == "block":
        args[3], args[4], args[5] = leaves((e, heads, j), (l, heads, j, j), (e, heads, j))
    elif kind == "channels":
        s, m = channels
        args[2:] = leaves(
            (n, heads, s, v), (e, heads, s, j), (l, heads, j, j), (e, heads, j, m), (n, heads, s, m)
        )
    return args


def reflections(line_graph, heads=2, k=3, v=2, r=2, value=True, seed=7):
    n = line_graph.num_nodes
    parts = leaves((n, heads, r, k), (n, heads, r), (n, heads, r, v), seed=seed)
    return Reflections(*parts) if value else Reflections(*parts[:2])


def forms(kind, updates=False):
    kind = "block" if kind == "channels" else kind
    return [
        name
        for name, form in FORMS["torch"].items()
        if kind in form.kinds and (form.updates or not updates)
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ZOO)
def test_forms_equal_naive(name, kind):
    line_graph = ZOO[name]()
    args = arguments(line_graph, kind)
    want = derivatives(plstm(*args, line_graph, scale=0.7, form="naive"), args)
    for form in (*forms(kind)[1:], "auto"):
        compare(plstm(*args, line_graph, scale=0.7, form=form), want, args, 1e-10)


@pytest.mark.parametrize("kind", ["line", *KINDS, "factored"])
@pytest.mark.parametrize("name", ZOO)
def test_updates(name, kind):
    line_graph = ZOO[name]()
    args = arguments(line_graph, kind)
    gates = args
    if kind == "factored":
        gates = [*args[:4], *leaves(args[3].shape, args[3].shape, seed=3), *args[5:]]
        args = [*args[:4], Factored(*gates[4:6]), *args[5:]]
    update = reflections(line_graph, value=kind not in ("block", "channels"))
    every = [*gates, *(x for x in update if x is not None)]
    want = derivatives(plstm(*args, line_graph, scale=0.7, form="naive", update=update), every)
    for form in (*forms("line" if kind == "factored" else kind, True)[1:], "auto"):
        got = plstm(*args, line_graph, scale=0.7, form=form, update=update)
        compare(got, want, every, 1e-10)


def test_update_by_hand():
    """One edge into another: C = (I - b k k^T) T C_0 + b S k w^T + S k_1 v^T."""
    line_graph = ZOO["path"]()
    args = arguments(line_graph, "line", heads=1)
    update = reflections(line_graph, heads=1, r=1)
    query, key, value, source, transition, mark, direct = args
    state = source[0, 0] * torch.outer(key[0, 0], value[0, 0])
    out = plstm(*args, line_graph, update=update)

    def reflect(state, n):
        k, b, w = update.key[n, 0, 0], update.beta[n, 0, 0], update.value[n, 0, 0]
        eye = torch.eye(3, dtype=torch.float64)
        return (eye - b * torch.outer(k, k)) @ state + b * source[n, 0] * torch.outer(k, w)

    state = reflect(torch.zeros(3, 2, dtype=torch.float64), 0) + state
    assert line_graph.edge_index[:, 0].tolist() == [0, 1]
    for n in (1, 2):
        e_in = line_graph.line_index[0].tolist().index(n - 1)
        own = direct[n, 0] * (query[n, 0] @ key[n, 0]) * value[n, 0]
        want = mark[n - 1, 0] * state.T @ query[n, 0] + own
        assert torch.allclose(out[n, 0], want, atol=1e-12)
        new = source[n, 0] * torch.outer(key[n, 0], value[n, 0])
        state = reflect(transition[e_in, 0] * state, n) + new


@pytest.mark.parametrize("kind", ["line", *KINDS])
@pytest.mark.parametrize("updates", [False, True])
def test_derivatives(kind, updates):
    line_graph = ZOO["join"]().two_way()
    args = arguments(line_graph, kind, heads=1, k=2, v=1)
    update = reflections(line_graph, 1, 2, 1, 1, kind in ("line", "diagonal")) if updates else None
    more = [x for x in update if x is not None] if updates else []

    def call(*tensors):
        given = Reflections(*tensors[7:]) if updates else None
        return plstm(*tensors[:7], line_graph, form=form, update=given)

    for form in forms(kind, updates):
        assert gradcheck(call, (*args, *more))
        if form != "naive":
            assert gradgradcheck(call, (*args, *more))


@pytest.mark.parametrize("kind", ["line", *KINDS])
@pytest.mark.parametrize("name", SOME)
def test_edge_query(name, kind):
    """The direct term reads another query than the edges do."""
    line_graph = ZOO[name]()
    args = arguments(line_graph, kind)
    (edge_query,) = leaves(args[0].shape, seed=5)
    got = plstm(*args, line_graph, scale=0.7, edge_query=edge_query)
    none = torch.zeros_like
    edges = plstm(edge_query, *args[1:6], none(args[6]), line_graph, scale=0.7)
    nodes = plstm(*args[:5], none(args[5]), args[6], line_graph, scale=0.7)
    compare(got, edges + nodes, [*args, edge_query], 1e-12)


@pytest.mark.parametrize("kind", ["line", "diagonal", "block"])
@pytest.mark.parametrize("updates", [False, True])
@pytest.mark.parametrize("name", SOME)
def test_states_in_and_out(name, kind, updates):
    """Edges of the lower levels, and the rest started from their states."""
    line_graph = ZOO[name]()
    args = arguments(line_graph, kind)
    update = reflections(line_graph, value=kind != "block") if updates else None
    edges = torch.arange(line_graph.num_edges)
    want, _ = plstm(*args, line_graph, update=update, return_state=edges)
    compare(want, plstm(*args, line_graph, update=update), args, 1e-10)
    # What line edges bring to the upper levels is given; the line edges themselves are closed.
    half = int(line_graph.level.max()) // 2
    e_in, e_out = line_graph.line_index
    cut = (line_graph.level[e_in] <= half) & (line_graph.level[e_out] > half)
    lines = cut.nonzero().view(-1)
    want = derivatives(plstm(*args, line_graph, update=update), args)
    for form in (*forms(kind, updates), "auto"):
        _, every = plstm(*args, line_graph, update=update, return_state=edges, form=form)
        brought = transported(args[4][lines], every.state[e_in[lines]])
        closed = [*args]
        closed[4] = args[4].masked_fill(cut.view(-1, *(1,) * (args[4].dim() - 1)), 0.0)
        initial = EdgeStates(e_out[lines], brought)
        got = plstm(*closed, line_graph, update=update, initial=initial, form=form)
        compare(got, want, args, 1e-10)


@pytest.mark.parametrize("normalizer", ["max1", "sum"])
@pytest.mark.parametrize("kind", ["line", "diagonal", "factored"])
@pytest.mark.parametrize("name", SOME)
def test_normalizer(name, kind, normalizer):
    """Another call with ones for values gives the denominator."""
    line_graph = ZOO[name]()
    args = arguments(line_graph, kind)
    args = [x.detach().abs().requires_grad_() for x in args]  # no denominator near zero
    gates = args
    if kind == "factored":
        factors = [x.detach().abs().requires_grad_() for x in leaves(args[3].shape, args[3].shape)]
        gates = [*args[:4], *factors, *args[5:]]
        args = [*args[:4], Factored(*factors), *args[5:]]
    num = plstm(*args, line_graph)
    den = plstm(*args[:2], torch.ones_like(args[2][..., :1]), *args[3:], line_graph)
    want = num / (den.abs().clamp(min=1) if normalizer == "max1" else den)
    compare(plstm(*args, line_graph, normalizer=normalizer), want, gates, 1e-10)


def test_what_cannot_be_names_what_can():
    line_graph = ZOO["path"]()
    with pytest.raises(ValueError, match=r"no diagonal transitions.*'naive', 'levelwise'"):
        plstm(*arguments(line_graph, "diagonal"), line_graph, form="dense")
    with pytest.raises(ValueError, match=r"no reflections.*'levelwise'"):
        update = reflections(line_graph)
        plstm(*arguments(line_graph, "line"), line_graph, form="chunkwise", update=update)
    with pytest.raises(ValueError, match=r"J_S = J_M = 1.*'levelwise'"):
        plstm(*arguments(line_graph, "channels"), line_graph, form="dense")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"update": 3}, "update as Reflections"),
        ({"update": Reflections(torch.ones(1), torch.ones(1))}, r"update.key as a dense"),
        ({"normalizer": "max"}, "normalizer to be one of 'max1', 'sum', 'norm'"),
        ({"stabilizer": "sum"}, "stabilizer to be one of 'max', 'logsumexp'"),
        ({"stabilizer": "max"}, "transition as a LogGate"),
        ({"edge_query": torch.ones(2)}, "edge_query as a dense"),
        ({"return_state": torch.tensor([99])}, "return_state with numbers of edges, 0 to"),
        ({"return_state": torch.tensor([0.0])}, "return_state as a dense int64"),
        ({"initial": torch.ones(1)}, "initial as EdgeStates"),
        ({"initial": EdgeStates(torch.tensor([0]), torch.ones(1))}, "initial.state as a dense"),
    ],
)
def test_errors(change, message):
    line_graph = ZOO["path"]()
    with pytest.raises(ValueError, match=message):
        plstm(*arguments(line_graph, "line"), line_graph, **change)


def logs(gate):
    return LogGate(gate.abs().log(), gate.detach().sign())


@pytest.mark.parametrize("stabilizer", ["max", "logsumexp"])
@pytest.mark.parametrize("normalizer", [None, "max1", "sum"])
@pytest.mark.parametrize("kind", ["line", "diagonal"])
@pytest.mark.parametrize("name", SOME)
def test_stabilizer_changes_nothing(name, kind, normalizer, stabilizer):
    line_graph = ZOO[name]()
    args = arguments(line_graph, kind)
    (edge_query,) = leaves(args[0].shape, seed=5)
    options = {"normalizer": normalizer, "edge_query": edge_query, "scale": 0.7}
    if normalizer == "sum":  # no denominator near zero
        args = [x.detach().abs().requires_grad_() for x in args]
        options["edge_query"] = edge_query.detach().abs().requires_grad_()
    every = [*args, options["edge_query"]]
    want = derivatives(plstm(*args, line_graph, form="levelwise", **options), every)
    for form in ("levelwise", "auto"):
        gates = [*args[:3], *map(logs, args[3:])]
        got = plstm(*gates, line_graph, form=form, stabilizer=stabilizer, **options)
        compare(got, want, every, 1e-9)


@pytest.mark.parametrize("normalizer", [None, "max1"])
@pytest.mark.parametrize("stabilizer", [None, "logsumexp"])
def test_a_sequence_in_two_pieces(normalizer, stabilizer):
    """The state of the last edge of one goes into the first edge of the other."""
    whole, half = from_edges([(i, i + 1) for i in range(9)], 10), 5
    args = [x.detach() for x in arguments(whole, "line")]
    args[3:] = [x.abs() for x in args[3:]]
    order = whole.line_index[0].argsort()  # line edges by their place on the path
    first = from_edges([(i, i + 1) for i in range(half)], half + 1)
    last = from_edges([(i, i + 1) for i in range(9 - half)], 10 - half)

    def call(graph, nodes, edges, lines, **options):
        rows = [nodes, nodes, nodes, edges, lines, edges, nodes]
        some = [x[r] for x, r in zip(args, rows)]
        if stabilizer:
            some[3:] = map(logs, some[3:])
        return plstm(*some, graph, normalizer=normalizer, stabilizer=stabilizer, **options)

    every = torch.arange(10)
    lines = order
    want = call(whole, every, every[:9], torch.arange(8))
    out, states = call(
        first,
        every[: half + 1],
        every[:half],
        lines[: half - 1],
        return_state=torch.tensor([half - 1]),
    )
    assert torch.allclose(out[:half], want[:half], atol=1e-10)
    t = args[4][lines[half - 1]]
    scale = states.log_scale
    initial = EdgeStates(torch.tensor([0]), t[None, :, None, None] * states.state, scale)
    got = call(last, every[half:], every[half:9], lines[half:], initial=initial)
    assert torch.allclose(got[1:], want[half + 1 :], atol=1e-10)


@pytest.mark.parametrize(
    "kind, updates",
    [
        ("diagonal", False),
        ("line", True),
        ("diagonal", True),
        ("block", False),
        ("channels", False),
    ],
)
def test_prepared_recurrences_compile_as_one_graph(kind, updates):
    torch._dynamo.reset()  # what other tests compiled counts as well
    line_graph = prepare(ZOO["molecules"](), 2, 3, 2)
    args = arguments(line_graph, kind)
    update = reflections(line_graph) if updates else None
    compiled = torch.compile(plstm, fullgraph=True, backend="aot_eager")
    want = derivatives(plstm(*args, line_graph, update=update), args)
    compare(compiled(*args, line_graph, update=update), want, args, 1e-10)


def test_a_stabilized_recurrence_compiles_as_one_graph():
    torch._dynamo.reset()
    line_graph = prepare(ZOO["molecules"](), 2, 3, 3)
    args = arguments(line_graph, "line")
    gates = [*args[:3], *map(logs, args[3:])]
    options = {"stabilizer": "logsumexp", "normalizer": "max1"}
    compiled = torch.compile(plstm, fullgraph=True, backend="aot_eager")
    want = derivatives(plstm(*gates, line_graph, **options), args)
    gates = [*args[:3], *map(logs, args[3:])]
    compare(compiled(*gates, line_graph, **options), want, args, 1e-10)


def test_ports_are_made_once():
    line_graph = ZOO["path"]()
    args, edges = arguments(line_graph, "line"), torch.tensor([2])
    with torch.inference_mode():
        plstm(*args, line_graph, return_state=edges)
    kept = dict(line_graph.plan("ports", None))
    assert len(kept) == 1
    out, states = plstm(*args, line_graph, return_state=edges)
    (out.sum() + states.state.sum()).backward()
    assert dict(line_graph.plan("ports", None)) == kept
    for edge in range(8):
        plstm(*args, line_graph, return_state=torch.tensor([edge]))
    assert len(line_graph.plan("ports", None)) == ports.KEPT
