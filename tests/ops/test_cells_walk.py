"""The compiled walk with diagonal and block transitions and with reflections, against a loop."""

import pytest
import torch

from plstm_graph.ops import native
from plstm_graph.ops.forms import FORMS, Problem, walk
from plstm_graph.ops.inputs import Inputs, Reflections
from tests.zoo import ZOO

WALK = FORMS["torch"]["walk"]
pytestmark = pytest.mark.skipif(native.unavailable() is not None, reason="no compiled kernels")

NAMES = (
    "query",
    "key",
    "value",
    "source",
    "transition",
    "mark",
    "direct",
    "keys",
    "beta",
    "values",
)
#: One-way and two-way graphs, hubs, parts without edges, and all of them in one batch.
GRAPHS = ("grid", "hub", "two_way_star", "two_way_molecules", "two_way_reversed", "everything")
EMPTY = ("empty", "no_edges", "one_edge", "no_line_edges", "two_way_in_part")


def reference(tensors, line_graph, scale):
    """The recurrence, one edge and one state channel after the other: [N, H, V] or [N, H, M, V]."""
    inputs = Inputs.of(tensors)
    query, key, value, source, transition, mark, direct, update = inputs
    block = transition.dim() == 4
    if not block:
        value, direct = value[:, :, None], direct[:, :, None, None]
        source, mark = source[:, :, None, None], mark[:, :, None, None]
    query = query * scale
    own = (query * key).sum(-1)[..., None, None] * value
    out = [
        torch.stack([(own[n] * direct[n, ..., m, None]).sum(1) for m in range(mark.size(3))], 1)
        for n in range(query.size(0))
    ]
    edges, lines = line_graph.edge_index.t().tolist(), line_graph.line_index.t().tolist()
    states = {}
    for e in torch.argsort(line_graph.level, stable=True).tolist():
        src, dst = edges[e]
        c = [torch.zeros_like(key[0, :, :, None] * value[0, :, 0, None]) for _ in mark[0, 0]]
        for l, e_in in [(l, line[0]) for l, line in enumerate(lines) if line[1] == e]:
            t = transition[l]
            for i in range(len(c)):
                if block:
                    for j in range(len(c)):
                        c[i] = c[i] + t[:, i, j, None, None] * states[e_in][j]
                else:
                    c[i] = c[i] + t.reshape(t.size(0), -1, 1) * states[e_in][i]
        for r in range(0 if update is None else update.key.size(2)):
            k, beta = update.key[src, :, r], update.beta[e, :, r, None, None]
            for i in range(len(c)):
                gap = (k[:, :, None] * c[i]).sum(1)
                if not block:
                    gap = gap - source[e, :, 0, 0, None] * update.value[src, :, r]
                c[i] = c[i] - beta * k[:, :, None] * gap[:, None]
        for i in range(len(c)):
            for s in range(value.size(2)):
                new = key[src, :, :, None] * value[src, :, s, None]
                c[i] = c[i] + source[e, :, s, i, None, None] * new
        states[e] = c
        read = [(query[dst, :, :, None] * x).sum(1) for x in c]
        said = [
            sum(mark[e, :, i, m, None] * read[i] for i in range(len(c)))
            for m in range(mark.size(3))
        ]
        out[dst] = out[dst] + torch.stack(said, 1)
    if not out:
        return tensors[2].new_zeros(inputs.out_shape)
    out = torch.stack(out)
    return out if block else out.squeeze(2)


def make(line_graph, kind, *, heads=2, k=3, v=5, sizes=(2, 3, 2), reflections=0, dtype=None):
    """Tensors of :class:`Inputs`, with ``sizes`` J_S, J, J_M for blocks."""
    torch.manual_seed(0)
    n, e, l = line_graph.num_nodes, line_graph.num_edges, line_graph.num_line_edges
    s, j, m = sizes
    shapes = {
        "line": [(n, heads, v), (e, heads), (l, heads), (e, heads), (n, heads)],
        "diagonal": [(n, heads, v), (e, heads), (l, heads, k), (e, heads), (n, heads)],
        "block": [
            (n, heads, s, v), (e, heads, s, j), (l, heads, j, j), (e, heads, j, m),
            (n, heads, s, m),
        ],
    }[kind]  # fmt: skip
    shapes = [(n, heads, k), (n, heads, k), *shapes]
    if reflections:
        r = reflections
        shapes += [(n, heads, r, k), (e, heads, r), (n, heads, r, v)]
    tensors = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    tensors[4] *= 0.5
    if reflections:
        tensors[-3] = torch.nn.functional.normalize(tensors[-3], dim=-1)
    return [x.to(dtype or torch.float64) for x in tensors]


def problem_of(tensors, line_graph):
    inputs = Inputs.of(tensors)
    sizes = tensors[1].shape[1], tensors[1].size(2), tensors[2].size(-1)
    return Problem(line_graph, *sizes, inputs.kind, "torch", updates=inputs.update is not None)


def run(tensors, line_graph, scale=1.0, grad=None):
    """The form's result, and its gradients of all tensors."""
    plan = WALK.plan(problem_of(tensors, line_graph))
    out, _ = WALK.forward(Inputs.of(tensors), scale, plan)
    grad = torch.randn(out.shape, dtype=torch.float64).to(out.dtype) if grad is None else grad
    return out, WALK.backward(grad, Inputs.of(tensors), scale, plan, None), grad


def check(tensors, line_graph, scale=0.7, tolerance=1e-10):
    out, grads, grad = run(tensors, line_graph, scale)
    exact = [x.detach().double().requires_grad_() for x in tensors]
    want = reference(exact, line_graph, scale)
    assert out.shape == want.shape
    wanted = torch.autograd.grad(
        want, exact, grad.double(), allow_unused=True, materialize_grads=True
    ) if want.requires_grad else [torch.zeros_like(x) for x in exact]  # fmt: skip
    torch.testing.assert_close(out.double(), want, rtol=tolerance, atol=tolerance)
    for name, got, wish in zip(NAMES, grads, wanted):
        error = (got - wish).abs() - tolerance * wish.abs()
        assert not error.numel() or error.max() < tolerance, f"{name}: {error.max()}"


@pytest.mark.parametrize("reflections", [0, 1, 2, 3])
@pytest.mark.parametrize("kind", ["line", "diagonal", "block"])
@pytest.mark.parametrize("name", GRAPHS + EMPTY)
def test_equals_the_loop(name, kind, reflections):
    line_graph = ZOO[name]()
    check(make(line_graph, kind, reflections=reflections), line_graph)


@pytest.mark.parametrize(("k", "v"), [(1, 1), (3, 8), (8, 3), (5, 19), (24, 25), (1, 33), (13, 1)])
@pytest.mark.parametrize("kind", ["line", "diagonal", "block"])
@pytest.mark.parametrize("reflections", [0, 1, 2])
@pytest.mark.parametrize("elements", [1, walk.TILE_ELEMENTS])
def test_tiles_of_all_widths(kind, reflections, k, v, elements, monkeypatch):
    monkeypatch.setattr(walk, "TILE_ELEMENTS", elements)
    monkeypatch.setattr(walk, "MOST_ELEMENTS", 1 if elements == 1 else walk.MOST_ELEMENTS)
    for line_graph in (ZOO["hub"](), ZOO["diamond"]().two_way().reverse()):
        check(make(line_graph, kind, k=k, v=v, reflections=reflections), line_graph)


@pytest.mark.parametrize(
    "sizes", [(1, 1, 1), (3, 1, 2), (1, 2, 1), (2, 4, 3), (5, 5, 2), (2, 9, 1)]
)
@pytest.mark.parametrize("reflections", [0, 2])
def test_blocks_of_all_sizes(sizes, reflections):
    for name in ("hub", "two_way_molecules"):
        line_graph = ZOO[name]()
        check(make(line_graph, "block", sizes=sizes, reflections=reflections, v=9), line_graph)


@pytest.mark.parametrize("kind", ["line", "diagonal", "block"])
@pytest.mark.parametrize("reflections", [0, 1, 2])
def test_single_precision(kind, reflections):
    line_graph = ZOO["two_way_molecules"]()
    tensors = make(line_graph, kind, k=7, v=11, reflections=reflections, dtype=torch.float32)
    check(tensors, line_graph, tolerance=2e-3)


@pytest.mark.parametrize(("kind", "reflections"), [("diagonal", 0), ("block", 0), ("line", 2)])
def test_strided_views(kind, reflections):
    """Query, key and value as columns of one product, and as tensors that have to be copied."""
    line_graph = ZOO["two_way_molecules"]()
    tensors = make(line_graph, kind, k=6, v=10, reflections=reflections)
    want, wanted, grad = run(tensors, line_graph)
    product = torch.cat([x.flatten(1) for x in tensors[:3]], 1)
    parts = product.split([x[0].numel() for x in tensors[:3]], 1)
    columns = [a.unflatten(1, x.shape[1:]) for a, x in zip(parts, tensors)]
    read = walk.readable(Inputs.of([*columns, *tensors[3:]]), 1.0)
    assert [x.data_ptr() for x in read[:3]] == [x.data_ptr() for x in columns]
    every_other = [torch.stack([x, x + 1], -1)[..., 0] for x in tensors]
    for views in ([*columns, *tensors[3:]], every_other):
        out, grads, _ = run(views, line_graph, 1.0, grad)
        assert torch.equal(out, want)
        assert all(torch.equal(a, b) for a, b in zip(grads, wanted))


@pytest.mark.parametrize(("kind", "reflections"), [("line", 1), ("diagonal", 2), ("block", 1)])
def test_threads_change_nothing(kind, reflections):
    line_graph = ZOO["everything"]()
    tensors = make(line_graph, kind, reflections=reflections)
    want, wanted, grad = run(tensors, line_graph)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        out, grads, _ = run(tensors, line_graph, 1.0, grad)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(out, want)
    assert all(torch.equal(a, b) for a, b in zip(grads, wanted))


@pytest.mark.parametrize(
    ("kind", "reflections"),
    [("diagonal", 0), ("block", 0), ("line", 1), ("diagonal", 1), ("block", 2)],
)
@pytest.mark.parametrize("what", [1, 2, 4])
def test_zero_times_nan_reaches_nobody_who_cannot_hear(kind, reflections, what):
    """NaN in the key, the value or the transitions of one molecule, its own columns apart."""
    line_graph = ZOO["molecules"]()
    tensors = make(line_graph, kind, k=9, v=11, reflections=reflections)
    want, wanted, grad = run(tensors, line_graph)
    part = line_graph.node_batch
    sick = part == 1
    rows = sick[line_graph.edge_index[1]][line_graph.line_index[0]] if what == 4 else sick
    tensors[what] = tensors[what].clone()
    tensors[what][rows] = float("nan")
    out, grads, _ = run(tensors, line_graph, 1.0, grad)
    of_edges, of_lines = sick[line_graph.edge_index[0]], None
    of_lines = of_edges[line_graph.line_index[0]]
    healthy = {line_graph.num_nodes: ~sick, line_graph.num_edges: ~of_edges}
    assert torch.equal(out[~sick], want[~sick])
    for i, (a, b) in enumerate(zip(grads, wanted)):
        rows = ~of_lines if i == 4 else healthy[a.size(0)]
        assert torch.equal(a[rows], b[rows])


@pytest.mark.parametrize(("kind", "reflections"), [("diagonal", 0), ("block", 0), ("line", 1)])
def test_nan_in_one_column_of_the_value_stays_there(kind, reflections):
    line_graph = ZOO["two_way_molecules"]()
    tensors = make(line_graph, kind, k=5, v=11, reflections=reflections)
    want = run(tensors, line_graph)[0]
    tensors[2] = tensors[2].clone()
    tensors[2][..., 3] = float("nan")
    out = run(tensors, line_graph)[0]
    others = torch.arange(11) != 3
    assert torch.equal(out[..., others], want[..., others]) and out[..., 3].isnan().any()


@pytest.mark.parametrize(
    ("kind", "reflections"), [("diagonal", 0), ("block", 0), ("line", 2), ("block", 1)]
)
def test_gradcheck(kind, reflections):
    line_graph = ZOO["two_way_path"]()
    tensors = make(line_graph, kind, heads=1, k=2, v=3, sizes=(1, 2, 2), reflections=reflections)
    plan = WALK.plan(problem_of(tensors, line_graph))

    class Layer(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *tensors):
            ctx.save_for_backward(*tensors)
            return WALK.forward(Inputs.of(tensors), 0.7, plan)[0]

        @staticmethod
        def backward(ctx, grad):
            return tuple(WALK.backward(grad, Inputs.of(ctx.saved_tensors), 0.7, plan, None))

    assert torch.autograd.gradcheck(Layer.apply, [x.requires_grad_() for x in tensors])


def test_full_reflections_keep_the_size_of_states():
    """With unit keys and beta = 2, and nothing written, a state is only turned."""
    line_graph = ZOO["path"]()
    tensors = make(line_graph, "line", k=4, v=4, reflections=1)
    tensors[4] = torch.ones_like(tensors[4])
    tensors[3] = torch.zeros_like(tensors[3])
    tensors[3][0] = 1.0  # one edge writes
    tensors[5] = torch.zeros_like(tensors[5])
    tensors[5][-1] = 1.0  # one edge is read, from everywhere
    tensors[6] = torch.zeros_like(tensors[6])
    update = Reflections(tensors[-3], torch.full_like(tensors[-2], 2.0), tensors[-1] * 0)
    read = []
    for axis in range(4):
        tensors[0] = torch.zeros_like(tensors[0])
        tensors[0][..., axis] = 1.0
        read.append(run([*tensors[:7], *update], line_graph)[0][-1])
    size = torch.stack(read).square().sum((0, 2)).sqrt()
    first = tensors[1][0].norm(dim=-1) * tensors[2][0].norm(dim=-1)
    torch.testing.assert_close(size, first, rtol=1e-10, atol=1e-10)
