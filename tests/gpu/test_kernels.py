"""On a GPU: kernels at sizes that fill it, against torch on the same device.

The small cases of ``tests/ops/triton`` run on the GPU too where there is one.
"""

import pytest
import torch

from plstm_graph.ops import dag_scan, plstm, prepare
from plstm_graph.ops.triton import autotune
from plstm_graph.ops.triton.dag_scan import goes_by_level
from tests.ops.triton.helpers import assert_same, payload
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
    "mixed": lambda: disjoint([path(300), grid(9, 9), molecule(SMILES[0])], batch=True),
}


@pytest.fixture(params=GRAPHS)
def line_graph(request):
    return GRAPHS[request.param]().to("cuda")


def arguments(line_graph, *sizes, **options):
    return [a.detach().cuda().requires_grad_() for a in inputs(line_graph, *sizes, **options)]


def bounded(transition, line_graph):
    """|T| scaled so that states do not grow: float32 is compared on deep graphs."""
    total = transition.new_zeros(line_graph.num_edges, transition.size(1))
    total.index_add_(0, line_graph.line_index[1], transition.abs())
    return transition / (0.5 + total[line_graph.line_index[1]])


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-11), (torch.float32, 1e-4)])
def test_scan_equals_torch(line_graph, dtype, rtol):
    x, t = payload(line_graph, 3, 100, dtype=dtype)
    t = bounded(t.detach(), line_graph).requires_grad_()
    got = dag_scan(x, t, line_graph)
    want = dag_scan(x, t, line_graph, backend="torch")
    assert_same(got, want, (x, t), rtol)


@pytest.mark.parametrize("form", ["auto", "parallel"])
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_layer_equals_torch(line_graph, form, dtype, rtol):
    if form == "parallel" and line_graph.num_edges > 10000:
        pytest.skip("dense gating matrices of one graph this large do not fit")
    args = arguments(line_graph, 2, 24, 40, dtype=dtype)
    args[4] = bounded(args[4].detach(), line_graph).requires_grad_()
    got = plstm(*args, line_graph, form=form)
    want = plstm(*args, line_graph, backend="torch")
    assert_same(got, want, args, rtol)


def test_both_scans_are_among_the_cases():
    assert {goes_by_level(make()) for make in GRAPHS.values()} == {True, False}


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
    (file,) = tmp_path.iterdir()
    assert "segment_scan" in file.read_text()
    autotune._cache.cache_clear()


def test_compiled_layer():
    line_graph = prepare(GRAPHS["molecules"]().to("cuda"), 2, 24, 40)
    args = arguments(line_graph, 2, 24, 40, dtype=torch.float32)

    def layer(*args):
        return 2 * plstm(*args, line_graph)

    assert_same(torch.compile(layer, fullgraph=True)(*args), layer(*args), args, 1e-5)
