"""Grids: against plstm on explicit graphs with gates computed node by node, and known cases."""

import itertools
import math

import pytest
import torch

from plstm_graph import LineGraph
from plstm_graph.nn import PLSTMGrid, PLSTMSequence
from plstm_graph.nn.grid_gates import grid_tables
from plstm_graph.ops import plstm

SHAPES = [(3, 3), (2, 5), (1, 4), (4, 1), (1, 1), (5,), (2, 3, 2)]
FORMS = ["auto", "gating", "dense", "levelwise", "naive"]


def layer_of(shape, mode, form="auto", **kwargs):
    torch.manual_seed(0)
    kwargs = {"gate_std": 0.5, "conv": 3, "passthrough": True, **kwargs}
    return PLSTMGrid(8, 2, ndim=len(shape), mode=mode, form=form, **kwargs).double()


def images_of(shape, batch=3):
    torch.manual_seed(1)
    return torch.randn(batch, *shape, 8, dtype=torch.float64, requires_grad=True)


def explicit(layer, x):
    """The layer by ``plstm`` on one graph of all images for each orientation, its gates from the
    formulas, one number at a time."""
    batch, *shape, channels = x.shape
    ndim, heads, count = len(shape), layer.heads, math.prod(shape)
    inner = layer._inner(x).reshape(batch * count, channels)
    value = layer.lin_value(x).reshape(batch * count, heads, -1)
    query, key = layer.lin_query_key(inner).view(batch * count, 2, heads, -1).unbind(1)
    gates = layer.gates
    bias = gates.bias[:-heads].view(-1, len(layer.directions), heads)
    weight = gates.weight[:-heads].view(*bias.shape, channels)
    linear = torch.einsum("nc,gohc->ngoh", inner, weight)
    direct = (inner @ gates.weight[-heads:].t() + gates.bias[-heads:]).sigmoid()
    out = (query * key).sum(-1, keepdim=True) * value * direct[..., None] * key.size(-1) ** -0.5

    def node(place):
        return sum(c * math.prod(shape[a + 1 :]) for a, c in enumerate(place))

    for o, signs in enumerate(layer.directions):

        def gate(name, at, index=0, o=o):
            first = list(gates.kinds).index(name)
            row = sum(list(gates.kinds.values())[:first]) + index
            if name == "angle":
                return 0.5 / channels * linear[at, row, o] + bias[row, o]
            z = linear[at, row, o] + bias[row, o]
            return (5 * z).tanh() if name == "transition" else z.sigmoid()

        def shares(at):
            angles = [gate("angle", at, a).exp() for a in range(ndim - 1)]
            angles.append(torch.ones(heads, dtype=x.dtype))
            return [angle / sum(angles) for angle in angles]

        edges, axis_of = [], []
        for b, place in itertools.product(range(batch), itertools.product(*map(range, shape))):
            for a, sign in enumerate(signs):
                to = [*place]
                to[a] += sign
                if 0 <= to[a] < shape[a]:
                    edges.append((b * count + node(place), b * count + node(to)))
                    axis_of.append(a)
        edge_index = torch.tensor(edges, dtype=torch.long).view(-1, 2).t().contiguous()
        graph = LineGraph.from_edge_index(edge_index, batch * count)
        assert torch.equal(graph.edge_index, edge_index)  # a DAG is kept as it is
        lines = graph.line_index.t().tolist()
        if layer.mode == "D":
            lines = [(i, j) for i, j in lines if axis_of[j] <= axis_of[i]]
            line_index = torch.tensor(lines, dtype=torch.long).view(-1, 2).t()
            graph = LineGraph(batch * count, edge_index, line_index)
        source, mark, transition = [], [], []
        for (u, v), a in zip(edges, axis_of):
            if layer.mode == "P":
                source.append(gate("source", u) * shares(u)[a])
                mark.append(gate("mark", v))
            else:
                source.append(gate("source", u, a))
                mark.append(gate("mark", v, a))
        for i, j in lines:
            at, a, b = edges[j][0], axis_of[i], axis_of[j]
            if layer.mode == "P":
                transition.append(gate("transition", at) * shares(at)[b])
            else:
                turns = [(p, q) for p in range(ndim) for q in range(p + 1)]
                transition.append(gate("transition", at, turns.index((a, b))))
        none = x.new_zeros(0, heads)
        source, mark, transition = (
            torch.stack(rows) if rows else none for rows in (source, mark, transition)
        )
        no_direct = x.new_zeros(batch * count, heads)
        out = out + plstm(
            query, key, value, source, transition, mark, no_direct, graph,
            scale=key.size(-1) ** -0.5, form="naive",
        )  # fmt: skip
    h = layer.norm(out).flatten(1) + layer.passthrough * inner
    return layer.lin_out(h).view(x.shape)


@pytest.mark.parametrize("mode", ["P", "D"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_plstm_on_the_explicit_graph(shape, mode):
    x = images_of(shape)
    layer = layer_of(shape, mode)
    want = explicit(layer, x)
    inputs = [x, *layer.parameters()]
    cotangent = torch.randn_like(want)
    grads = torch.autograd.grad(want, inputs, cotangent, allow_unused=True)
    for form in FORMS:
        layer.form = form
        got = layer(x)
        assert torch.allclose(got, want, atol=1e-10), form
        for a, b in zip(
            torch.autograd.grad(got, inputs, cotangent, allow_unused=True), grads, strict=True
        ):
            b = torch.zeros_like(a) if b is None else b
            assert torch.allclose(a, b, atol=1e-9), form


@pytest.mark.parametrize("directions", [[(1, 1)], [(-1, 1)], [(1, -1), (-1, -1)]])
def test_chosen_orientations(directions):
    x = images_of((3, 4))
    layer = layer_of((3, 4), "P", directions=directions)
    assert torch.allclose(layer(x), explicit(layer, x), atol=1e-10)


@pytest.mark.parametrize("mode", ["P", "D"])
def test_one_orientation_sees_one_corner(mode):
    """The output at a node depends on the inputs before it along every axis, and on no other."""
    layer = layer_of((3, 4), mode, directions=[(1, -1)], conv=0)
    x = images_of((3, 4), batch=1)
    layer(x)[0, 1, 2].sum().backward()
    seen = x.grad[0].abs().sum(-1) > 0
    want = torch.zeros(3, 4, dtype=torch.bool)
    want[:2, 2:] = True
    assert torch.equal(seen, want)


@pytest.mark.parametrize("mode", ["P", "D"])
def test_mirror_images_mirror_the_output(mode):
    """At the start all orientations have the same gates."""
    layer = layer_of((3, 4), mode, conv=0, gate_std=0.0)
    x = images_of((3, 4))
    for axes in ([1], [2], [1, 2]):
        assert torch.allclose(layer(x.flip(axes)), layer(x).flip(axes), atol=1e-10)


def test_p_mode_shares_what_leaves_a_node():
    """What a node sends, and what it passes on, is its source and its decay, split by axis."""
    layer = layer_of((3, 3), "P", conv=0)
    x = images_of((3, 3), batch=1)
    tables = grid_tables((3, 3), layer.directions, "P", "cpu")
    source, transition, _, _ = layer.gates(x.flatten(1, 2), tables)
    assert bool((source > 0).all()) and bool((transition.abs() <= 1).all())
    graph = tables.line_graph
    leaving = torch.zeros(graph.num_edges, *transition.shape[1:], dtype=x.dtype)
    leaving.index_add_(0, graph.line_index[0], transition.abs())
    assert float(leaving.detach().max()) <= 1 + 1e-12


def test_published_angle():
    """Its two sources sum to one, and so do its two transitions."""
    layer = layer_of((2, 2), "P", conv=0, angle="published")
    tables = grid_tables((2, 2), layer.directions, "P", "cpu")
    source, *_ = layer.gates(images_of((2, 2)).flatten(1, 2), tables)
    # The corner where an orientation starts has one edge along each axis, from the same node.
    first = [e for e in range(4) if int(tables.line_graph.edge_index[0, e]) == 0]
    assert torch.allclose(source[first].sum(0), torch.ones_like(source[0]))
    assert torch.isfinite(layer(images_of((2, 2)))).all()


def test_gates_of_biases_alone():
    layer = layer_of((3, 3), "P", gate_weights=False, conv=0)
    assert layer.gates.weight is None
    x = images_of((3, 3))
    g = layer.gating(x)
    assert g.shape == (3, 2, 9, 9)
    assert torch.equal(g[0], g[1])  # no gate depends on the image


@pytest.mark.parametrize("mode", ["P", "D"])
def test_gating_is_the_layer_as_attention(mode):
    layer = layer_of((3, 2), mode, conv=0, passthrough=False)
    x = images_of((3, 2))
    q, k = layer.lin_query_key(x).flatten(1, 2).unflatten(-1, (2, 2, 4)).unbind(2)
    v = layer.lin_value(x).flatten(1, 2).unflatten(-1, (2, 4))
    scores = torch.einsum("bnhk,bmhk->bhnm", q, k) * 0.5 * layer.gating(x)
    h = layer.norm(torch.einsum("bhnm,bmhv->bnhv", scores, v)).flatten(2)
    assert torch.allclose(layer.lin_out(h).view(x.shape), layer(x), atol=1e-10)


@pytest.mark.parametrize("form", ["gating", "levelwise", "dense"])
def test_there_is_one_recurrence(form, monkeypatch):
    """The layer has none of its own: without that of the operators only the passthrough is left."""
    shape = (3, 3)
    x = images_of(shape)
    layer = layer_of(shape, "P", form)
    before = layer(x)
    if form == "gating":
        from plstm_graph.ops import gating

        monkeypatch.setattr(gating.native, "run", lambda name, dtype, units, work, *a: a[4].zero_())
    else:
        from plstm_graph.nn import grid

        monkeypatch.setattr(grid, "plstm", lambda q, k, v, *_, **__: torch.zeros_like(v))
    expected = layer.lin_out(layer.passthrough * layer._inner(x))
    assert torch.allclose(layer(x), expected, atol=1e-10)
    assert not torch.allclose(before, expected, atol=1e-4)


def test_any_size_after_another():
    layer = layer_of((3, 3), "P")
    for shape in ((3, 3), (6, 2), (1, 1), (3, 3)):
        x = images_of(shape)
        assert layer(x).shape == x.shape


def test_empty_batch_and_half_precision():
    layer = layer_of((3, 3), "D")
    assert layer(torch.zeros(0, 3, 3, 8, dtype=torch.float64)).shape == (0, 3, 3, 8)
    x = images_of((3, 3)).detach()
    want = layer(x)
    got = layer.bfloat16()(x.bfloat16())
    assert got.dtype == torch.bfloat16
    assert torch.allclose(got.double(), want, atol=0.1, rtol=0.1)


# -------------------------------------------------------------------- sequences


@pytest.mark.parametrize("form", ["auto", "gating", "levelwise"])
def test_a_sequence_is_gated_linear_attention(form):
    torch.manual_seed(0)
    layer = PLSTMSequence(8, 2, gate_std=0.5, form=form).double()
    x = torch.randn(2, 7, 8, dtype=torch.float64)
    grid = layer.grid
    q, k = grid.lin_query_key(x).unflatten(-1, (2, 2, 4)).unbind(2)  # [B, length, H, K]
    v = grid.lin_value(x).unflatten(-1, (2, 4))
    # Without an angle the rows of the gates are source, mark, transition, direct, H each.
    z = (x @ grid.gates.weight.t() + grid.gates.bias).unflatten(-1, (4, 2))
    source, mark, decay, direct = z.unbind(2)
    source, mark, direct = source.sigmoid(), mark.sigmoid(), direct.sigmoid()
    decay = (5 * decay).tanh()
    state = torch.zeros(2, 2, 4, 4, dtype=torch.float64)  # what enters a step
    out = []
    for i in range(7):
        kv = k[:, i, :, :, None] * v[:, i, :, None, :]
        read = mark[:, i, :, None, None] * state + direct[:, i, :, None, None] * kv
        out.append((read * q[:, i, :, :, None]).sum(2) * 0.5)
        state = decay[:, i, :, None, None] * state + source[:, i, :, None, None] * kv
    want = grid.lin_out(grid.norm(torch.stack(out, 1)).flatten(2))
    assert torch.allclose(layer(x), want, atol=1e-10)


def test_causal_and_bidirectional():
    torch.manual_seed(0)
    x = torch.randn(1, 9, 8, dtype=torch.float64)
    later = x.clone()
    later[:, 5:] += 1
    causal = PLSTMSequence(8, 2, conv=3, gate_std=0.5).double()
    assert torch.equal(causal(x)[:, :5], causal(later)[:, :5])
    both = PLSTMSequence(8, 2, bidirectional=True, conv=3, gate_std=0.5).double()
    assert not torch.allclose(both(x)[:, 0], both(later)[:, 0], atol=1e-4)


# -------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ndim": 0}, "ndim as an integer of 1 or more, got 0"),
        ({"heads": 3}, "channels divisible by heads"),
        ({"mode": "X"}, "mode to be one of 'P', 'D'"),
        ({"angle": "steep"}, "angle to be one of"),
        ({"ndim": 3, "angle": "published"}, "ndim=2"),
        ({"conv": 4}, "odd kernel size"),
        ({"conv": 3, "ndim": 4}, "at most 3 axes"),
        ({"causal": True}, "one axis"),
        ({"directions": [(1, 2)]}, r"\+1 or -1"),
        ({"directions": [(1,)]}, "tuples of 2"),
        ({"directions": []}, r"\+1 or -1"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        PLSTMGrid(**{"channels": 8, "heads": 2, **options})


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 3, 3, 7), r"\[B, axis 0, axis 1, 8\], got torch.float32 \[2, 3, 3, 7\]"),
        ((2, 3, 8), "expected x as a dense"),
        ((2, 0, 3, 8), "axis 0 of size 1 or more"),
    ],
)
def test_bad_input(shape, message):
    with pytest.raises(ValueError, match=message):
        PLSTMGrid(8, 2)(torch.zeros(shape))
