"""segment_scan and edge_dot against the definition, values and gradients."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from plstm_graph.ops import dag_scan, plstm, prepare
from plstm_graph.ops.naive import naive_dag_scan
from plstm_graph.ops.triton.autotune import Config
from plstm_graph.ops.triton.dag_scan import tables_of_scan, triton_dag_scan_op
from plstm_graph.ops.triton.tables import scan_tables
from tests.ops.triton.helpers import assert_same, payload
from tests.zoo import ZOO, disjoint, inputs, path


@pytest.mark.parametrize("name", ZOO)
def test_equals_naive(name, device):
    line_graph = ZOO[name]().to(device)
    x, t = payload(line_graph, 2, 3)
    got = dag_scan(x, t, line_graph, backend="triton")
    assert got.dtype == x.dtype
    assert_same(got, naive_dag_scan(x, t, line_graph), (x, t), 1e-12)


@pytest.mark.parametrize("states", [1, 2, 3, 4])
@pytest.mark.parametrize("name", ["hub", "multi_edge", "no_line_edges"])
def test_state_tracking(name, states, device):
    line_graph = ZOO[name]().to(device)
    x, t = payload(line_graph, 1, 5, states=states)
    got = dag_scan(x, t, line_graph, backend="triton")
    assert_same(got, naive_dag_scan(x, t, line_graph), (x, t), 1e-12)


@pytest.mark.parametrize("width", [1, 16, 17, 70])
def test_any_width(width, device):
    """Payloads of less than a tile, of one, and of several with a rest."""
    line_graph = ZOO["diamond"]().to(device)
    x, t = payload(line_graph, 3, width)
    got = dag_scan(x, t, line_graph, backend="triton")
    assert_same(got, naive_dag_scan(x, t, line_graph), (x, t), 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_accumulates_in_float32(dtype, device):
    """Half-precision payloads are rounded once, after the last sum."""
    line_graph = path(20).to(device)
    x, t = payload(line_graph, 2, 4, dtype=dtype)
    exact = tuple(a.detach().double().requires_grad_() for a in (x, t))
    got, want = dag_scan(x, t, line_graph, backend="triton"), naive_dag_scan(*exact, line_graph)
    assert got.dtype == dtype
    eps = max(torch.finfo(dtype).eps, 1e-6)
    assert_same(got, want, (x, t), eps, exact)


def test_mixed_dtypes(device):
    line_graph = ZOO["grid"]().to(device)
    x, t = payload(line_graph, 1, 3, dtype=torch.float32)
    got = dag_scan(x.bfloat16(), t, line_graph, backend="triton")
    want = naive_dag_scan(x.bfloat16().float(), t, line_graph)
    assert torch.equal(got, want.bfloat16())


def test_non_contiguous_inputs(device):
    line_graph = ZOO["random_sparse"]().to(device)
    x, t = (a.detach() for a in payload(line_graph, 3, 4, states=2))
    want = naive_dag_scan(x, t, line_graph)
    for axes in ((3, 2, 1, 0), (1, 0, 3, 2)):
        strided = [a.permute(axes).contiguous().permute(axes) for a in (x, t)]
        assert not strided[0].is_contiguous() and not strided[1].is_contiguous()
        got = dag_scan(*strided, line_graph, backend="triton")
        assert torch.allclose(got, want, rtol=0, atol=1e-12)
    constant = x[:1, :, :, :1].expand_as(x)
    got = dag_scan(constant, t, line_graph, backend="triton")
    assert torch.allclose(got, naive_dag_scan(constant, t, line_graph), rtol=0, atol=1e-12)


@pytest.mark.parametrize("states", [None, 3])
def test_reverse_is_the_adjoint(states, device):
    """<y, A x> = <A^T y, x>."""
    line_graph = ZOO["random_dense"]().to(device)
    x, t = payload(line_graph, 1, 3, states=states)
    y, _ = payload(line_graph, 1, 3, states=states, seed=1)
    left = (y * dag_scan(x, t, line_graph, backend="triton")).sum()
    right = (dag_scan(y, t, line_graph, reverse=True, backend="triton") * x).sum()
    assert torch.allclose(left, right, rtol=1e-12)


@pytest.mark.parametrize("name", ["fork", "multi_edge"])
def test_gradcheck(name, device):
    line_graph = ZOO[name]().to(device)
    x, t = payload(line_graph, 1, 2, states=2 if name == "fork" else None)

    def scan(x, t):
        return dag_scan(x, t, line_graph, backend="triton")

    # One random direction instead of the whole Jacobian: the interpreter is slow.
    assert gradcheck(scan, (x, t), fast_mode=True)
    assert gradgradcheck(scan, (x, t), fast_mode=True)


def test_every_configuration_gives_the_same_bits(device, monkeypatch):
    from plstm_graph.ops.triton import segment_scan as module

    line_graph = ZOO["multi_edge"]().to(device)
    x, t = payload(line_graph, 1, 70, dtype=torch.float32, states=2)
    outs = []
    for config in (*module.CONFIGS, Config(1, 128, 2)):
        monkeypatch.setattr(module, "CONFIGS", (config,))
        monkeypatch.setattr(module, "pick", lambda *_, config=config: config)
        outs.append(dag_scan(x, t, line_graph, backend="triton"))
    assert all(torch.equal(out, outs[0]) for out in outs)
    gradients = [torch.autograd.grad(out.sum(), (x, t)) for out in outs[:2]]
    assert all(torch.equal(a, b) for a, b in zip(*gradients))


def test_batch_equals_its_parts(device):
    """One launch for graphs of every size, one without edges among them: the same bits."""
    graphs = [ZOO[name]() for name in ("path", "one_node", "hub", "no_edges", "grid")]
    parts = [payload(g.to(device), 2, 3, seed=i) for i, g in enumerate(graphs)]
    batch = disjoint(graphs, batch=True).to(device)
    got = dag_scan(*(torch.cat(p) for p in zip(*parts)), batch, backend="triton")
    want = [dag_scan(*p, g.to(device), backend="triton") for p, g in zip(parts, graphs)]
    assert torch.equal(got, torch.cat(want))


def test_empty_payloads(device):
    line_graph = ZOO["path"]().to(device)
    x, t = payload(line_graph, 2, 0)
    got = dag_scan(x, t, line_graph, backend="triton")
    dx, dt = torch.autograd.grad(got.sum(), (x, t))
    assert got.shape == x.shape and dx.shape == x.shape
    assert torch.equal(dt, torch.zeros_like(t))


def test_offsets_past_31_bits(device):
    """Rows and strides further apart than int32 counts, in memory that is never touched."""
    from plstm_graph.ops.triton.segment_scan import segment_scan, segment_scan_rows_

    if device.type != "cpu":
        pytest.skip("needs memory that is only allocated where it is touched")
    line_graph, far = path(3), 1 << 21
    t = torch.tensor([[2.0], [3.0]])
    rows = torch.from_numpy(np.zeros((far + 8, 1024), dtype=np.float32))
    row_of = torch.tensor([far + 7, 5, far + 3])
    ramp = torch.arange(1024.0)
    rows[row_of] = ramp
    segment_scan_rows_(rows, t, row_of, scan_tables(line_graph))
    assert torch.equal(rows[row_of], torch.outer(torch.tensor([1.0, 3.0, 10.0]), ramp))

    x = rows.view(-1).as_strided((3, 1, 1, 1024), (far * 512 + 7, 1, 1, 1))
    x[:] = ramp
    want = torch.outer(torch.tensor([1.0, 3.0, 10.0]), ramp)
    got = segment_scan(x, t[..., None, None], scan_tables(line_graph))
    assert torch.equal(got[:, 0, 0], want)


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


@pytest.mark.parametrize("name", ["diamond", "no_line_edges"])
def test_opcheck(name, device):
    line_graph = ZOO[name]().to(device)
    x, t = payload(line_graph, 1, 3, states=2, dtype=torch.bfloat16)
    torch.library.opcheck(triton_dag_scan_op, (x, t, *tables_of_scan(line_graph, 2)))


def test_compile_without_graph_breaks(device):
    line_graph = prepare(ZOO["diamond"]().to(device), 2, 3, 4)
    x, t = payload(line_graph, 2, 3)

    def scan(x, t):
        return 2 * dag_scan(x, t, line_graph, backend="triton")

    got = torch.compile(scan, fullgraph=True, backend="aot_eager")(x, t)
    assert_same(got, scan(x, t), (x, t), 1e-14)


@pytest.mark.parametrize("form", ["auto", "parallel", "levelwise"])
def test_layer_compiles_without_graph_breaks(form, device):
    line_graph = prepare(ZOO["diamond"]().to(device), 1, 2, 3)
    args = [a.detach().to(device).requires_grad_() for a in inputs(line_graph, 1, 2, 3)]

    def layer(*args):
        return plstm(*args, line_graph, form=form, backend="triton")

    want = layer(*args)  # form="parallel" is not what prepare prepares: its tables come from here
    got = torch.compile(layer, fullgraph=True, backend="aot_eager")(*args)
    assert_same(got, want, args, 1e-12)
