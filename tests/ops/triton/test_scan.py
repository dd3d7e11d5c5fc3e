"""dag_scan by both kernels against the definition: values, gradients, the rule that picks one."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

pytest.importorskip("triton")

from plstm_graph.ops.forms.naive import naive_dag_scan
from plstm_graph.ops.triton import scan
from plstm_graph.ops.triton.autotune import Config
from plstm_graph.ops.triton.scan import goes_by_level, scan_tables, triton_dag_scan
from tests.ops.triton.helpers import assert_same, payload
from tests.zoo import ZOO, disjoint, from_edges, grid, path

GRAPHS = [
    "empty",
    "no_edges",
    "no_line_edges",
    "hub",
    "multi_edge",
    "molecules",
    "batch_with_gaps",
    "pruned",
    "reversed",
    "two_way_in_part",
]


@pytest.fixture(params=[False, True], ids=["segments", "levels"])
def by_level(request, monkeypatch):
    monkeypatch.setattr(scan, "goes_by_level", lambda *_: request.param)


def check(line_graph, *sizes, rtol=1e-12, **options):
    x, t = payload(line_graph, *sizes, **options)
    got = triton_dag_scan(x, t, line_graph)
    assert_same(got, naive_dag_scan(x, t, line_graph), (x, t), rtol)


@pytest.mark.parametrize("name", GRAPHS)
def test_equals_naive(name, device, by_level):
    check(ZOO[name]().to(device), 2, 3)


@pytest.mark.parametrize("states", [1, 2, 3, 4])
def test_state_tracking(states, device, by_level):
    check(ZOO["multi_edge"]().to(device), 1, 5, states=states)


@pytest.mark.parametrize("width", [1, 16, 17, 70])
def test_any_width(width, device):
    """Payloads of less than a tile, of one, and of several with a rest."""
    check(ZOO["diamond"]().to(device), 3, width)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_accumulates_in_float32(dtype, device):
    """Half-precision payloads are not rounded on the way."""
    line_graph = path(20).to(device)
    x, t = payload(line_graph, 2, 4, dtype=dtype)
    exact = tuple(a.detach().double().requires_grad_() for a in (x, t))
    got, want = triton_dag_scan(x, t, line_graph), naive_dag_scan(*exact, line_graph)
    assert got.dtype == torch.float32
    assert_same(got, want, (x, t), max(torch.finfo(dtype).eps, 1e-6), exact)


def test_mixed_dtypes_and_strides(device):
    line_graph = ZOO["random_sparse"]().to(device)
    x, t = (a.detach() for a in payload(line_graph, 3, 4, states=2))
    want = naive_dag_scan(x.bfloat16().double(), t, line_graph)
    assert torch.allclose(triton_dag_scan(x.bfloat16(), t, line_graph), want, rtol=0, atol=1e-12)
    want = naive_dag_scan(x, t, line_graph)
    for axes in ((3, 2, 1, 0), (1, 0, 3, 2)):
        strided = [a.permute(axes).contiguous().permute(axes) for a in (x, t)]
        assert torch.allclose(triton_dag_scan(*strided, line_graph), want, rtol=0, atol=1e-12)
    constant = x[:1, :, :, :1].expand_as(x)
    got = triton_dag_scan(constant, t, line_graph)
    assert torch.allclose(got, naive_dag_scan(constant, t, line_graph), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["fork", "multi_edge"])
def test_any_order_of_derivative(name, device):
    line_graph = ZOO[name]().to(device)
    x, t = payload(line_graph, 1, 2, states=2 if name == "fork" else None)

    def run(x, t):
        return triton_dag_scan(x, t, line_graph)

    # One random direction instead of the whole Jacobian: the interpreter is slow.
    assert gradcheck(run, (x, t), fast_mode=True)
    assert gradgradcheck(run, (x, t), fast_mode=True)


def test_every_configuration_and_kernel_gives_the_same_bits(device, monkeypatch):
    line_graph = ZOO["multi_edge"]().to(device)
    x, t = payload(line_graph, 1, 70, dtype=torch.float32, states=2)
    outs = []
    for config in (*scan.CONFIGS, Config(1, 128, 2)):
        for by_level in (False, True):
            monkeypatch.setattr(scan, "goes_by_level", lambda *_, by_level=by_level: by_level)
            monkeypatch.setattr(scan, "pick", lambda *_, config=config: config)
            outs.append(triton_dag_scan(x, t, line_graph))
    assert all(torch.equal(out, outs[0]) for out in outs)
    gradients = [torch.autograd.grad(out.sum(), (x, t)) for out in outs[:2]]
    assert all(torch.equal(a, b) for a, b in zip(*gradients))


def test_batch_equals_its_parts(device):
    """One launch for graphs of every size, one without edges among them: the same bits."""
    graphs = [ZOO[name]() for name in ("path", "one_node", "hub", "no_edges")]
    parts = [payload(g.to(device), 2, 3, seed=i) for i, g in enumerate(graphs)]
    batch = disjoint(graphs, batch=True).to(device)
    got = triton_dag_scan(*(torch.cat(p) for p in zip(*parts)), batch)
    want = [triton_dag_scan(*p, g.to(device)) for p, g in zip(parts, graphs)]
    assert torch.equal(got, torch.cat(want))


def test_empty_payloads(device):
    line_graph = ZOO["path"]().to(device)
    x, t = payload(line_graph, 2, 0)
    got = triton_dag_scan(x, t, line_graph)
    dx, dt = torch.autograd.grad(got.sum(), (x, t))
    assert got.shape == x.shape and dx.shape == x.shape
    assert torch.equal(dt, torch.zeros_like(t))


def test_offsets_past_31_bits(device):
    """Rows further apart than int32 counts, in memory that is hardly touched."""
    if device.type != "cpu":
        pytest.skip("needs memory that is only allocated where it is touched")
    from plstm_graph.ops.triton import scan_kernels

    edges, width = 5, 1 << 29
    tables = scan_tables(path(edges))
    lists = tables.order, tables.line_ptr, tables.line_in, tables.line_id
    c = torch.from_numpy(np.zeros((edges, 1, 1, width), dtype=np.float32))
    c[..., -8:] = 1.0
    last = c.view(-1)[width - 8 :]  # rows are as far apart, and have 8 columns that are read
    t = torch.full((edges - 1, 1, 1, 1), 2.0)
    for level in range(edges):
        scan_kernels.level_scan_kernel[(1, 1)](
            last, last, t, *lists, level, level + 1, 1, width // 4, J=1, ROWS=1, WIDTH=8
        )
    want = 2.0 ** torch.arange(1, edges + 1) - 1
    assert torch.equal(c[:, 0, 0, -8:], want[:, None].expand(-1, 8))


def test_tables():
    """Predecessors of each position, in ascending order; levels in order; falling in-degree."""
    line_graph = ZOO["everything"]()
    for graph in (line_graph, line_graph.reverse()):
        for whole in (False, True):
            s = scan_tables(graph, whole=whole)
            assert torch.equal(s.order.sort().values, torch.arange(graph.num_edges).int())
            ends, e_out = s.line_ptr.diff(), s.line_out
            assert torch.equal(e_out, s.order.repeat_interleave(ends))
            assert torch.equal(
                torch.stack([s.line_in, e_out]).long(), graph.line_index[:, s.line_id]
            )
            level, levels = graph.level[s.order], s.level_ptr.tolist()
            for first, last in pairwise(levels):
                assert (level[first:last] == level[first]).all()
                assert (ends[first:last].diff() <= 0).all()
            assert s.segment_ptr[-1] == len(levels) - 1


def test_the_rule():
    """Levels of one graph on the average wider than RUN * LAUNCH rows go level by level."""
    width = scan.RUN * scan.LAUNCH
    star = from_edges([(0, i) for i in range(1, 2 * width + 1)], 2 * width + 1)
    assert goes_by_level(star)
    assert not goes_by_level(path(500))
    assert not goes_by_level(grid(14, 14))
    assert not goes_by_level(disjoint([grid(6, 6)] * 100, batch=True))
    narrow = from_edges([(0, i) for i in range(1, width)], width)
    assert not goes_by_level(narrow)
    assert goes_by_level(narrow, states=2)
    # One wide graph decides for a batch: it is the longest.
    assert goes_by_level(disjoint([star, path(1)], batch=True))


@pytest.mark.parametrize("name", ["diamond", "no_line_edges"])
def test_opcheck(name, device):
    line_graph = ZOO[name]().to(device)
    x, t = payload(line_graph, 1, 3, states=2, dtype=torch.bfloat16)
    torch.library.opcheck(scan.triton_dag_scan_op, (x, t, *scan.make_plan(line_graph, 2)))


def test_compile_without_graph_breaks(device):
    line_graph = ZOO["diamond"]().to(device)
    x, t = payload(line_graph, 2, 3)

    def run(x, t):
        return 2 * triton_dag_scan(x, t, line_graph)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    with pytest.raises(Exception, match=r"prepare\(line_graph"):
        compiled(x, t)
    want = run(x, t)
    assert_same(compiled(x, t), want, (x, t), 1e-14)
