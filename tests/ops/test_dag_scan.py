"""The primitive: against the definition, its adjoint, library checks, and both segment paths."""

import pytest
import torch
import torch._dynamo.testing
import torch_geometric.typing
from torch.autograd import gradcheck, gradgradcheck

from plstm_graph import LineGraph
from plstm_graph.ops import Factored, dag_scan, plstm, prepare
from plstm_graph.ops.autograd import plan_of, propagate_op
from plstm_graph.ops.forms import FORMS, Problem
from plstm_graph.ops.forms.naive import naive_dag_scan
from plstm_graph.ops.scan import _dag_scan
from plstm_graph.ops.schedule import level_schedule
from tests.zoo import ZOO, from_edges, inputs, random_dag


def payload(line_graph, *sizes, seed=0, states=None):
    rng = torch.Generator().manual_seed(seed)
    j = () if states is None else (states, states)
    heads = sizes[0]
    x = torch.randn(line_graph.num_edges, *sizes, generator=rng, dtype=torch.float64)
    t = torch.randn(line_graph.num_line_edges, heads, *j, generator=rng, dtype=torch.float64)
    return x.requires_grad_(), (0.4 * t).requires_grad_()


@pytest.mark.parametrize("name", ZOO)
def test_equals_naive(name):
    line_graph = ZOO[name]()
    x, t = payload(line_graph, 2, 3)
    got, want = dag_scan(x, t, line_graph), naive_dag_scan(x, t, line_graph)
    assert torch.allclose(got, want, atol=1e-12)
    if line_graph.num_line_edges == 0:
        assert torch.equal(got, x)
        return
    cotangent = torch.randn_like(got)
    for a, b in zip(
        torch.autograd.grad(got, (x, t), cotangent), torch.autograd.grad(want, (x, t), cotangent)
    ):
        assert torch.allclose(a, b, atol=1e-10)


@pytest.mark.parametrize("states", [None, 2])
@pytest.mark.parametrize("name", ["grid", "hub", "random_dense"])
def test_reverse_is_the_adjoint(name, states):
    """<y, A x> = <A^T y, x>."""
    line_graph = ZOO[name]()
    sizes = (2, 3) if states is None else (2, states, 3)
    x, t = payload(line_graph, *sizes, states=states)
    y, _ = payload(line_graph, *sizes, seed=1)
    left = (y * dag_scan(x, t, line_graph)).sum()
    right = (dag_scan(y, t, line_graph, reverse=True) * x).sum()
    assert torch.allclose(left, right, rtol=1e-12)


@pytest.mark.parametrize("name", ["hub", "multi_edge", "no_line_edges"])
def test_gradcheck(name):
    line_graph = ZOO[name]()
    x, t = payload(line_graph, 2, 2)
    assert gradcheck(lambda x, t: dag_scan(x, t, line_graph), (x, t))
    assert gradgradcheck(lambda x, t: dag_scan(x, t, line_graph), (x, t))


def test_state_tracking_equals_naive():
    line_graph = ZOO["random_dense"]()
    x, t = payload(line_graph, 2, 3, 4, states=3)
    assert torch.allclose(dag_scan(x, t, line_graph), naive_dag_scan(x, t, line_graph), atol=1e-12)


def test_non_contiguous_input():
    line_graph = ZOO["grid"]()
    x, t = payload(line_graph, 3, 2)
    strided = x.detach().permute(2, 1, 0).contiguous().permute(2, 1, 0)
    assert not strided.is_contiguous()
    assert torch.equal(dag_scan(strided, t, line_graph), dag_scan(x, t, line_graph))


@pytest.mark.parametrize("name", ["hub", "molecules", "everything"])
def test_with_and_without_torch_scatter(name, monkeypatch):
    """Hubs are summed by torch_geometric.utils.segment, through torch_scatter where it is there."""
    outs = []
    for flag in (True, False):
        if flag and not torch_geometric.typing.WITH_TORCH_SCATTER:
            continue
        monkeypatch.setattr(torch_geometric.typing, "WITH_TORCH_SCATTER", flag)
        line_graph = ZOO[name]()
        args = inputs(line_graph)
        out = plstm(*args, line_graph, form="levelwise")
        outs.append((out, *torch.autograd.grad(out.sum(), args)))
    want = naive_outputs(name)
    for out in outs:
        assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(out, want))


def naive_outputs(name):
    line_graph = ZOO[name]()
    args = inputs(line_graph)
    out = plstm(*args, line_graph, form="naive")
    return (out, *torch.autograd.grad(out.sum(), args))


def test_schedule_is_complete():
    """Each line edge is in one step; tails lie in earlier levels than their targets."""
    line_graph = ZOO["everything"]()
    s = level_schedule(line_graph)
    assert torch.equal(s.order[s.position], torch.arange(line_graph.num_edges))
    assert int(s.steps[:, 3].sum()) == line_graph.num_line_edges
    assert torch.equal(s.line_order.sort().values, torch.arange(line_graph.num_line_edges))
    level = line_graph.level[s.order]
    for row, rows, line, lines, _ in s.steps.tolist():
        assert level[row : row + rows].unique().numel() == 1
        assert (level[s.tail[line : line + lines]] < level[row]).all()


@pytest.mark.parametrize("name", ["grid", "molecules", "no_line_edges"])
def test_opcheck(name):
    line_graph = ZOO[name]()
    x, t = payload(line_graph, 2, 3)
    schedules = [list(level_schedule(g)) for g in (line_graph, line_graph.reverse())]
    torch.library.opcheck(_dag_scan, (x, t, *schedules))
    args = inputs(line_graph)
    for form in ("levelwise", "walk", "dense", "chunkwise"):
        plan = plan_of(FORMS["torch"][form], Problem(line_graph, 2, 3, 4, "line", "torch"))
        torch.library.opcheck(propagate_op, (args, 0.5, "torch", form, plan))
    args = [*args[:4], args[3], args[3], *args[5:]]
    plan = plan_of(FORMS["torch"]["walk"], Problem(line_graph, 2, 3, 4, "factored", "torch"))
    torch.library.opcheck(propagate_op, (args, 0.5, "torch", "walk", plan))


@pytest.mark.parametrize("form", ["auto", "chunkwise", "walk"])
@pytest.mark.parametrize("name", ["grid", "molecules"])
def test_compile_without_graph_breaks(name, form):
    line_graph = prepare(ZOO[name](), 2, 3, 4)
    args = inputs(line_graph)
    plstm(*args, line_graph, form=form)  # prepares the other forms

    def layer(*args):
        return 2 * plstm(*args, line_graph, scale=0.5, form=form)

    got = torch.compile(layer, fullgraph=True, backend="aot_eager")(*args)
    want = layer(*args)
    assert torch.allclose(got, want)
    for a, b in zip(torch.autograd.grad(got.sum(), args), torch.autograd.grad(want.sum(), args)):
        assert torch.allclose(a, b)


def test_prepared_graph_serves_its_relatives():
    line_graph = prepare(ZOO["grid"](), 2, 3, 4)
    for graph in (line_graph.reverse(), line_graph.multitree(), line_graph.multitree().reverse()):
        args = inputs(graph)
        compiled = torch.compile(lambda *x: plstm(*x), fullgraph=True, backend="eager")
        assert torch.equal(compiled(*args, graph), plstm(*args, graph))


def test_compile_without_preparing_anything():
    """Over the batches of a loader: the values of eager, and a bounded number of compilations."""
    counter = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(lambda *x: 2 * plstm(*x), backend=counter)
    for seed in range(12):
        line_graph = random_dag(8 + seed, 15 + seed, seed)
        args = inputs(line_graph)
        assert torch.allclose(compiled(*args, line_graph), 2 * plstm(*args, line_graph))
    assert counter.frame_count <= 16


def test_segments_of_graphs_without_batch_vector_are_components():
    from plstm_graph.dag.segments import segments

    line_graph = ZOO["everything_no_batch"]()
    seg = segments(line_graph)
    src, dst = line_graph.edge_index.numpy()
    assert (seg.node_part[src] == seg.node_part[dst]).all()
    assert seg.num_nodes.sum() == line_graph.num_nodes
    assert seg.num_nodes.max() < line_graph.num_nodes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": torch.zeros(5, 2, 7)}, r"expected key as a dense .* tensor \[5, 2, 7\]"),
        ({"query": torch.zeros(6, 2, 3)}, r"expected query as .*\[5, H, K\], got .*\[6, 2, 3\]"),
        ({"query": torch.zeros(5, 2)}, r"expected query as .*\[5, H, K\]"),
        ({"value": torch.zeros(5, 3, 4)}, r"expected value as .*\[5, 2, V\]"),
        ({"source": torch.zeros(4, 2, 1, 1)}, r"expected source as .*\[4, 2\]"),
        ({"source": torch.zeros(3, 2)}, r"expected source as .*\[4, 2\], got .*\[3, 2\]"),
        ({"transition": torch.zeros(9, 2)}, r"expected transition as .*\[3, 2\]"),
        ({"mark": torch.zeros(4, 1)}, r"expected mark as .*\[4, 2\]"),
        ({"direct": torch.zeros(4, 2)}, r"expected direct as .*\[5, 2\]"),
        ({"mark": torch.zeros(4, 2, dtype=torch.long)}, r"mark as .*got torch.int64.*\.float\(\)"),
        ({"mark": torch.zeros(4, 2, dtype=torch.double)}, r"torch.float64.*\.double\(\)"),
        ({"mark": [1.0]}, r"expected mark as .*got \[1.0\]; .*torch.as_tensor"),
        ({"mark": torch.zeros(4, 2, device="meta")}, r"expected mark on cpu.*got meta"),
        ({"mark": torch.zeros(4, 2).to_sparse()}, r"mark as a dense .*to_dense"),
        ({"scale": torch.ones(())}, r"expected scale as a .*number.*; .*multiply the query"),
        ({"form": "fast"}, r"expected form to be one of 'auto', .*got 'fast'"),
        ({"backend": "cuda"}, r"expected backend to be one of 'auto', .*got 'cuda'"),
        ({"transition": Factored(torch.zeros(4, 2), None)}, r"expected transition.b as .*\[4, 2\]"),
        ({"line_graph": "graph"}, r"expected line_graph as a LineGraph, got str"),
    ],
)
def test_plstm_errors(change, message):
    line_graph = from_edges([(0, 1), (1, 2), (2, 3), (1, 4)], 5)
    names = ("query", "key", "value", "source", "transition", "mark", "direct")
    arguments = dict(zip(names, inputs(line_graph, dtype=torch.float32)), line_graph=line_graph)
    with pytest.raises((ValueError, TypeError), match=message):
        plstm(**{**arguments, **change})


@pytest.mark.parametrize(
    ("x", "transition", "message"),
    [
        (torch.zeros(4, 2), torch.zeros(3, 2), r"expected x as .*\[4, H, W\]"),
        (torch.zeros(5, 2, 3), torch.zeros(3, 2), r"expected x as .*\[4, H, W\]"),
        (torch.zeros(4, 2, 3), torch.zeros(3, 1), r"expected transition as .*\[3, 2\]"),
        (torch.zeros(4, 2, 2, 3), torch.zeros(3, 2), r"transition as .*\[3, 2, 2, 2\]"),
    ],
)
def test_dag_scan_errors(x, transition, message):
    line_graph = from_edges([(0, 1), (1, 2), (2, 3), (1, 4)], 5)
    with pytest.raises(ValueError, match=message):
        dag_scan(x, transition, line_graph)


def test_scan_on_a_deep_and_wide_graph():
    line_graph = random_dag(400, 1200, 5)
    assert isinstance(line_graph, LineGraph) and line_graph.num_levels > 10
    x, t = payload(line_graph, 1, 2)
    assert torch.allclose(dag_scan(x, t, line_graph), naive_dag_scan(x, t, line_graph), rtol=1e-9)
