"""On a GPU: every kernel at sizes that fill it, against torch on the same device.

The small cases of ``tests/ops/triton`` run on the GPU too where there is one.
"""

import pytest
import torch

from plstm_graph import PLSTM
from plstm_graph.ops import dag_scan, plstm, prepare
from plstm_graph.ops.inputs import Factored, Inputs, LogGate, Reflections
from plstm_graph.ops.triton import autotune, dense, walk
from plstm_graph.ops.triton.scan import goes_by_level
from plstm_graph.ops.triton.walk_plan import Plan
from tests.ops.triton.helpers import assert_close, assert_same, cotangent_of, grads, payload
from tests.zoo import disjoint, grid, inputs, molecule, path, random_dag

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]

SMILES = ("CN1C=NC2=C1C(=O)N(C(=O)N2C)C", "C1CC2CCC1C2", "CC(=O)Oc1ccccc1C(=O)O.[Na]")
GRAPHS = {
    "molecules": lambda: disjoint([molecule(s) for s in SMILES] * 40, batch=True),
    "grids": lambda: disjoint([grid(14, 14)] * 8, batch=True),
    "deep": lambda: path(3000),
    "wide": lambda: random_dag(2000, 20000, 0),
    "two-way molecules": lambda: disjoint([molecule(s) for s in SMILES] * 40, batch=True).two_way(),
    "two-way grid": lambda: grid(12, 12).two_way().multitree(),
    "mixed": lambda: disjoint([path(300), grid(9, 9), molecule(SMILES[0])], batch=True),
}


@pytest.fixture(params=GRAPHS)
def line_graph(request):
    return GRAPHS[request.param]().to("cuda")


def arguments(line_graph, *sizes, **options):
    return [a.detach().cuda().requires_grad_() for a in inputs(line_graph, *sizes, **options)]


def bounded(transition, line_graph):
    """|T| scaled so that states do not grow: float32 is compared on deep graphs."""
    total = transition.new_zeros(line_graph.num_edges, *transition.shape[1:])
    total.index_add_(0, line_graph.line_index[1], transition.abs())
    return transition / (0.5 + total[line_graph.line_index[1]])


#: Of the largest entry of each result; halves are rounded once, at the end.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 2e-3}


def exact(arguments):
    """The same values in float64, for what is expected of lower precision."""
    return [a.detach().double().requires_grad_() for a in arguments]


@pytest.mark.parametrize(("dtype", "rtol"), TOLERANCE.items())
def test_scan_equals_torch(line_graph, dtype, rtol):
    x, t = payload(line_graph, 3, 100, dtype=dtype)
    t = bounded(t.detach(), line_graph).requires_grad_()
    wide = exact((x, t))
    got = dag_scan(x, t, line_graph)
    assert got.dtype == dtype
    assert_same(got, dag_scan(*wide, line_graph, backend="torch"), (x, t), rtol, wide)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("states", [2, 3, 4])
@pytest.mark.parametrize("name", ["molecules", "wide"])
def test_state_tracking(name, states, dtype):
    """J x J transitions through both scans, and through the layer."""
    line_graph = GRAPHS[name]().to("cuda")
    x, t = payload(line_graph, 2, 40, states=states, dtype=dtype)
    t = (0.1 * t.detach()).requires_grad_()
    wide = exact((x, t))
    got = dag_scan(x, t, line_graph)
    assert_same(got, dag_scan(*wide, line_graph, backend="torch"), (x, t), TOLERANCE[dtype], wide)
    args = arguments(line_graph, 1, 8, 8, states=states, dtype=dtype)
    args[4] = (0.1 * args[4].detach()).requires_grad_()
    wide = exact(args)
    want = plstm(*wide, line_graph, backend="torch")
    assert_same(plstm(*args, line_graph), want, args, TOLERANCE[dtype], wide)


@pytest.mark.parametrize("form", ["auto", "dense"])
@pytest.mark.parametrize(("dtype", "rtol"), TOLERANCE.items())
def test_layer_equals_torch(line_graph, form, dtype, rtol):
    if form == "dense" and line_graph.num_edges > 10000:
        pytest.skip("dense gating matrices of one graph this large do not fit")
    args = arguments(line_graph, 2, 24, 40, dtype=dtype)
    args[4] = bounded(args[4].detach(), line_graph).requires_grad_()
    wide = exact(args)
    got = plstm(*args, line_graph, form=form)
    assert got.dtype == dtype
    assert_same(got, plstm(*wide, line_graph, backend="torch"), args, rtol, wide)


def compare(form, inputs, line_graph, plan, rtol):
    """Values and gradients of kernels against torch in float64."""
    leaves = Inputs.of(exact(inputs.tensors))
    made = leaves
    if inputs.factored:
        made = leaves._replace(transition=leaves.transition.expand(line_graph.line_index))
    want = plstm(*made[:7], line_graph, scale=0.5, backend="torch")
    out = form.forward(inputs, 0.5, plan)
    got = form.backward(cotangent_of(out), inputs, 0.5, plan)
    for a, b in zip((out, *got), (want, *grads(want, leaves.tensors)), strict=True):
        assert_close(a, b, rtol)


@pytest.mark.parametrize(("k", "v"), [(8, 8), (24, 24), (64, 48), (100, 37), (256, 16)])
def test_walk_equals_torch(line_graph, k, v):
    """Tiles of all sizes."""
    args = [a.detach() for a in arguments(line_graph, 1, k, v, dtype=torch.float32)]
    args[4] = bounded(args[4], line_graph)
    plan = walk.make_plan(line_graph, False)
    compare(walk, Inputs(*args), line_graph, plan, TOLERANCE[torch.float32])


def diagonal(line_graph, *sizes, dtype):
    """The seven arguments of ``plstm`` with diagonal transitions, without gradients."""
    args = [a.detach() for a in arguments(line_graph, *sizes, dtype=dtype)]
    rng = torch.Generator(device="cuda").manual_seed(0)
    shape = (*args[4].shape, args[0].size(2))
    args[4] = bounded(torch.randn(shape, generator=rng, device="cuda"), line_graph).to(dtype)
    return args


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("k", "v"), [(8, 8), (24, 25), (64, 48), (100, 37)])
def test_diagonal_walk_equals_torch(line_graph, k, v, dtype):
    """Tiles of all sizes; 25 is the V of 24 channels with a normalizer."""
    if line_graph.num_line_edges * k * v > 1e9:
        pytest.skip("too large for the comparison")
    args = diagonal(line_graph, 1, k, v, dtype=dtype)
    compare(walk, Inputs(*args), line_graph, walk.make_plan(line_graph, False), TOLERANCE[dtype])


@pytest.mark.parametrize("normalizer", [None, "max1", "sum", "norm"])
@pytest.mark.parametrize("stabilizer", [None, "max", "logsumexp"])
def test_normalizers_and_stabilizers(line_graph, stabilizer, normalizer):
    """Positive, so that no denominator is near zero."""
    for made in (diagonal, arguments):
        args = [a.detach().abs() for a in made(line_graph, 2, 24, 24, dtype=torch.float32)]
        args[4] = bounded(args[4], line_graph)
        args = [a.requires_grad_() for a in args]
        wide = exact(args)
        got, want = (
            plstm(
                *x[:3], *([LogGate(g.log()) for g in x[3:]] if stabilizer else x[3:]), line_graph,
                stabilizer=stabilizer, normalizer=normalizer, backend=b,
            )
            for x, b in ((args, "auto"), (wide, "torch"))
        )  # fmt: skip
        assert_same(got, want, args, 1e-3, wide)


@pytest.mark.parametrize("updates", [False, True])
def test_what_has_no_kernels_runs_on_torch(updates):
    """Reflections, and block transitions with channels."""
    line_graph = GRAPHS["mixed"]().to("cuda")
    n, e, l = line_graph.num_nodes, line_graph.num_edges, line_graph.num_line_edges
    rng = torch.Generator(device="cuda").manual_seed(0)

    def random(*shape):
        return (0.3 * torch.randn(shape, generator=rng, device="cuda")).requires_grad_()

    if updates:
        args = arguments(line_graph, 2, 8, 8, dtype=torch.float32)
        args[4] = bounded(args[4].detach(), line_graph).requires_grad_()
        parts = [random(n, 2, 1, 8), random(n, 2, 1), random(n, 2, 1, 8)]
    else:
        shapes = (n, 2, 8), (n, 2, 8), (n, 2, 2, 8), (e, 2, 2, 2), (l, 2, 2, 2), (e, 2, 2, 3)
        args, parts = [random(*shape) for shape in (*shapes, (n, 2, 2, 3))], []
        args[4] = (0.3 * args[4].detach()).requires_grad_()
    every = [*args, *parts]
    wide = exact(every)
    got, want = (
        plstm(*x[:7], line_graph, update=Reflections(*x[7:]) if updates else None, form=form)
        for x, form in ((every, "auto"), (wide, "levelwise"))
    )
    assert_same(got, want, every, 1e-3, wide)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", [name for name in GRAPHS if name != "two-way grid"])
def test_factored_walk_equals_torch(name, dtype):
    """The two-way grid is pruned: not every pair of its edges that meet is a line edge."""
    line_graph = GRAPHS[name]().to("cuda")
    args = [a.detach() for a in arguments(line_graph, 2, 24, 40, dtype=dtype)]
    # |a| sums up to less than 1 over the edges into a node, and |b| is at most 1: states do not
    # grow.
    rng = torch.Generator(device="cuda").manual_seed(0)
    a, b = (torch.rand(args[3].shape, generator=rng, device="cuda") * 2 - 1 for _ in range(2))
    total = a.new_zeros(line_graph.num_nodes, a.size(1))
    total.index_add_(0, line_graph.edge_index[1], a.abs())
    a = a / (0.5 + total[line_graph.edge_index[1]])
    args[4] = Factored(a.to(dtype), b.to(dtype))
    compare(walk, Inputs(*args), line_graph, walk.make_plan(line_graph, True), TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("k", "v"), [(24, 24), (32, 32), (5, 7)])
def test_dense_equals_torch(k, v, dtype):
    """Parts of all block sizes, the largest with 64 edges."""
    parts = [grid(4, 8), path(63), path(20), molecule(SMILES[0]), path(3), path(0)] * 20
    line_graph = disjoint(parts, batch=True).to("cuda")
    plan = dense.make_plan(line_graph)
    assert dense.Plan(*plan).launches[:, 0].tolist() == [64, 32, 16]
    args = [a.detach() for a in arguments(line_graph, 2, k, v, dtype=dtype)]
    args[4] = bounded(args[4], line_graph)
    compare(dense, Inputs(*args), line_graph, plan, TOLERANCE[dtype])


def test_all_kernels_are_among_the_cases():
    graphs = [make() for make in GRAPHS.values()]
    assert {goes_by_level(graph) for graph in graphs} == {True, False}
    assert {dense.fits(graph) for graph in graphs} == {True, False}
    launches = [Plan.of(walk.make_plan(graph, False)).there.steps.size(0) for graph in graphs]
    assert min(launches) == 1 and max(launches) > 1


def test_bits_repeat(line_graph):
    args = arguments(line_graph, 2, 24, 40, dtype=torch.float32)
    args[4] = bounded(args[4].detach(), line_graph).requires_grad_()
    x, t = payload(line_graph, 2, 200, dtype=torch.float32)
    runs = []
    for _ in range(3):
        out, c = plstm(*args, line_graph), dag_scan(x, t, line_graph)
        runs.append((out, c, *torch.autograd.grad(out.sum() + c.sum(), (*args, x, t))))
    for run in runs[1:]:
        for a, b in zip(run, runs[0]):
            assert torch.equal(a.nan_to_num(), b.nan_to_num())


def test_more_than_2_to_the_31_elements():
    edges, width = 2100, 1 << 20
    if torch.cuda.mem_get_info()[0] < 16 * edges * width:
        pytest.skip("needs some 35 GB of GPU memory")
    line_graph = path(edges).to("cuda")
    x = torch.zeros(edges, 1, width, dtype=torch.float16, device="cuda")
    x[0] = torch.arange(width, device="cuda") % 2048
    t = torch.ones(edges - 1, 1, device="cuda")
    c = dag_scan(x, t, line_graph)
    assert torch.equal(c[-1], x[0]) and torch.equal(c[edges // 2], x[0])


def test_configurations_are_timed_and_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("PLSTM_AUTOTUNE_DIR", str(tmp_path))
    autotune._cache.cache_clear()
    line_graph = GRAPHS["grids"]().to("cuda")
    dag_scan(*payload(line_graph, 2, 64, dtype=torch.float32), line_graph)
    for graph, heads in ((line_graph, 2), (GRAPHS["molecules"]().to("cuda"), 4)):
        args = arguments(graph, heads, 24, 24, dtype=torch.float32)
        plstm(*args, graph).sum().backward()
    (file,) = tmp_path.iterdir()
    kept = file.read_text()
    for name in ("segment_scan", "walk_forward", "walk_backward", "dense_forward"):
        assert name in kept
    autotune._cache.cache_clear()


def test_compiled_layer():
    line_graph = prepare(GRAPHS["molecules"]().to("cuda"), 2, 24, 40)
    args = arguments(line_graph, 2, 24, 40, dtype=torch.float32)

    def layer(*args):
        return 2 * plstm(*args, line_graph)

    assert_same(torch.compile(layer, fullgraph=True)(*args), layer(*args), args, 1e-5)


def test_compiled_model():
    """A whole model under torch.compile, forward and backward, against itself in eager mode."""
    line_graph = prepare(GRAPHS["molecules"]().to("cuda"), 4, 8, 8)
    torch.manual_seed(0)
    model = PLSTM(6, 32, 2, 3, heads=4).to("cuda")
    x = torch.randn(line_graph.num_nodes, 6, device="cuda")
    weights = list(model.parameters())

    def run(model):
        out = model(x, line_graph.edge_index, line_graph=line_graph)
        grads = torch.autograd.grad(out.square().sum(), weights, allow_unused=True)
        return [out.detach(), *(g for g in grads if g is not None)]

    for got, want in zip(run(torch.compile(model)), run(model), strict=True):
        assert torch.allclose(got, want, rtol=1e-3, atol=1e-4 * max(1.0, float(want.abs().max())))
