"""The fused walk and the dense form against the definition: values, gradients, repeats."""

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

from plstm_graph import LineGraph
from plstm_graph.ops import plstm
from plstm_graph.ops.triton import dense, fused, fused_common, fused_tables
from plstm_graph.ops.triton.autotune import Config
from plstm_graph.ops.triton.dense_tables import dense_fits
from tests.ops.test_golden import GRAPHS, NAMES
from tests.ops.triton.helpers import assert_same, grads
from tests.shared import GOLDEN, needs_shared
from tests.zoo import ZOO, disjoint, inputs, path

SMALL = [name for name in ZOO if not name.startswith("everything")]


def walk(args, line_graph, scale=1.0, recompute=True):
    return fused.walk_plstm(*args, line_graph, scale=scale, recompute=recompute)


def dense_form(args, line_graph, scale=1.0):
    return dense.dense_plstm_op(*args, scale, dense.tables_of(line_graph))


FORMS = {"walk": walk, "dense": dense_form}


def arguments(name, device, *sizes, **options):
    line_graph = ZOO[name]().to(device)
    made = inputs(line_graph, *sizes, **options)
    return line_graph, [a.detach().to(device).requires_grad_() for a in made]


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("form", FORMS)
def test_equals_naive(form, name, device):
    line_graph, args = arguments(name, device, 1, 3, 5)
    want = plstm(*args, line_graph, scale=0.7, form="naive")
    assert_same(FORMS[form](args, line_graph, 0.7), want, args, 1e-10)


@pytest.mark.parametrize("terms", [16, 64])
def test_dense_form_of_a_large_batch(terms, device, monkeypatch):
    """Parts of all block sizes in one batch, heads apart; products whole or in pieces."""
    monkeypatch.setattr(dense, "terms", lambda *_: terms)
    parts = [ZOO[name]() for name in ("path", "no_edges", "tree", "random_dense", "join")]
    line_graph = disjoint(parts, batch=True).to(device)
    args = [a.detach().to(device).requires_grad_() for a in inputs(line_graph, 2, 2, 3)]
    assert dense.dense_tables(line_graph).launches[:, 0].tolist() == [64, 32, 16]
    want = plstm(*args, line_graph, scale=0.7, form="naive")
    assert_same(dense_form(args, line_graph, 0.7), want, args, 1e-10)


@pytest.mark.parametrize("recompute", [True, False])
@pytest.mark.parametrize("name", ["hub", "multi_edge", "reversed"])
def test_tiles_of_v_and_kept_states(name, recompute, device, monkeypatch):
    monkeypatch.setattr(fused_common, "WALK_CONFIGS", (Config(16, 2, 2),))
    line_graph, args = arguments(name, device, 2, 3, 5)
    want = plstm(*args, line_graph, scale=0.7, form="naive")
    got = walk(args, line_graph, 0.7, recompute)
    torch.autograd.grad(got.sum(), args, retain_graph=True)
    assert_same(got, want, args, 1e-10)  # a second backward finds the kept states unharmed


@pytest.mark.parametrize("recompute", [True, False])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_candidates_of_the_tuner(place, recompute, device, monkeypatch):
    """Each gives the same values, after others ran as when they are timed; keys as documented."""
    keys = []

    def pick(key, configs, launch, device):
        keys.append(key)
        assert len(configs) == 3
        launch(configs[place - 1])
        return configs[place]

    monkeypatch.setattr(fused, "pick", pick)
    line_graph, args = arguments("join", device, 1, 20, 20, dtype=torch.float32)
    got = walk(args, line_graph, 0.7, recompute)
    assert_same(got, plstm(*args, line_graph, scale=0.7, form="naive"), args, 1e-5)
    backward = "fused_backward" if recompute else "fused_backward_kept"
    assert keys == [(name, 1, 32, 32, "torch.float32") for name in ("fused_forward", backward)]


def test_more_line_edges_than_are_stored_together(device):
    edges = [(0, 1)] + [(1, i) for i in range(2, 22)]
    edge_index = torch.tensor(edges).T.to(device)
    line_graph = LineGraph.from_edge_index(edge_index)
    args = [a.detach().to(device).requires_grad_() for a in inputs(line_graph, 1, 2, 2)]
    want = plstm(*args, line_graph, form="naive")
    assert_same(walk(args, line_graph), want, args, 1e-10)


def test_any_acyclic_line_graph(device):
    """A graph with a cycle of nodes that no method made: 0 -> 1 -> 2 -> 0 -> 3, cut at node 0."""
    edge_index = torch.tensor([[0, 1, 2, 0, 2], [1, 2, 0, 3, 1]])
    line_index = torch.tensor([[0, 1, 1, 4], [1, 2, 4, 2]])
    with pytest.raises(ValueError, match="directed cycle 1 -> 2 -> 1"):
        LineGraph(4, edge_index, torch.tensor([[1, 4], [4, 1]]))
    line_graph = LineGraph(4, edge_index, line_index[:, :3]).to(device)
    args = [a.detach().to(device).requires_grad_() for a in inputs(line_graph, 2, 3, 4)]
    for form in FORMS.values():
        want = plstm(*args, line_graph, form="naive")
        assert_same(form(args, line_graph), want, args, 1e-10)


@pytest.mark.parametrize(
    "name",
    ["grid", "random_dense", "pruned", "no_edges", "empty", "two_way_random", "two_way_in_part"],
)
def test_level_by_level(name, device, monkeypatch):
    monkeypatch.setattr(fused_tables, "LAUNCH_COST", 0.0)
    line_graph, args = arguments(name, device, 1, 3, 4)
    if line_graph.num_edges:
        assert fused_tables.walk_kind(fused._walkable(line_graph)) == "levels"
    assert_same(walk(args, line_graph), plstm(*args, line_graph, form="naive"), args, 1e-10)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rounds_once(form, dtype, device):
    line_graph, args = arguments("diamond", device, dtype=dtype)
    exact = [a.detach().double().requires_grad_() for a in args]
    got = FORMS[form](args, line_graph)
    assert got.dtype == dtype
    want = plstm(*exact, line_graph, form="naive")
    assert_same(got, want, args, 2 * torch.finfo(dtype).eps, exact)


@pytest.mark.parametrize("form", FORMS)
def test_bitwise_repeatable(form, device):
    line_graph, args = arguments("random_sparse", device, dtype=torch.float32)
    first, second = (FORMS[form](args, line_graph) for _ in range(2))
    for a, b in zip((first, *grads(first, args)), (second, *grads(second, args))):
        assert torch.equal(a, b)


@pytest.mark.parametrize("form", FORMS)
def test_gates_of_another_dtype_and_strided_inputs(form, device):
    line_graph, args = arguments("fork", device, 2, 3, 4)
    half = [a.detach().half() if i < 3 else a.detach().float() for i, a in enumerate(args)]
    half[2] = half[2].repeat(1, 1, 2)[..., ::2]
    half[0] = half[0].transpose(0, 1).contiguous().transpose(0, 1)
    want = plstm(*(x.double() for x in half), line_graph, form="naive")
    got = FORMS[form](half, line_graph)
    assert got.dtype == torch.float16
    assert torch.allclose(got.double(), want, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("states", [2, 3, 4])
def test_state_tracking(states, device):
    line_graph, args = arguments("multi_edge", device, 1, 2, 3, states=states)
    want = plstm(*args, line_graph, form="naive")
    assert_same(fused.fused_plstm(*args, line_graph), want, args, 1e-10)


@pytest.mark.parametrize("form", FORMS)
def test_second_derivatives(form, device):
    line_graph, args = arguments("join", device, 1, 2, 2)
    assert torch.autograd.gradgradcheck(lambda *a: FORMS[form](a, line_graph), args)


@pytest.mark.parametrize("form", FORMS)
def test_opcheck(form, device):
    line_graph, args = arguments("fork", device, 1, 2, 3, dtype=torch.float32)
    if form == "walk":
        for recompute in (True, False):
            tables = fused_tables.walk_tables(line_graph)
            torch.library.opcheck(fused.fused_plstm_op, (*args, 0.7, recompute, tables))
    else:
        tables = dense.tables_of(line_graph)
        torch.library.opcheck(dense.dense_plstm_op, (*args, 0.7, tables))


def test_choice_of_the_form(device, monkeypatch):
    """Small parts and channels are dense; all else, and float64, goes by the walk."""
    monkeypatch.setattr(fused, "fused_plstm_op", lambda *a: ["walk"])
    monkeypatch.setattr(dense, "dense_plstm_op", lambda *a: "dense")
    for line_graph, channels, dtype, expected in (
        (path(63), 4, torch.float32, "dense"),
        (path(64), 4, torch.float32, "walk"),
        (path(5), dense.CHANNELS + 1, torch.float32, "walk"),
        (path(5), 4, torch.float64, "walk"),
    ):
        args = inputs(line_graph, 1, 2, channels, dtype=dtype)
        assert fused.fused_plstm(*args, line_graph) == expected
    assert not dense_fits(path(64))


def test_keys_that_are_too_wide():
    line_graph = path(2)
    args = inputs(line_graph, 1, 257, 1)
    with pytest.raises(ValueError, match=r"at most 256 key channels.*got 257.*backend='torch'"):
        fused.fused_plstm(*args, line_graph)


@needs_shared
@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("form", FORMS)
def test_golden_in_float32(form, name, device):
    g = {k: torch.from_numpy(v) for k, v in np.load(GOLDEN / f"{name}.npz").items() if v.ndim}
    line_graph = LineGraph(g["query"].size(0), g["edge_index"], g["line_index"]).to(device)
    if form == "dense" and not dense_fits(line_graph):
        pytest.skip("a part has more than 64 edges or nodes")
    args = [g[k].float().to(device).requires_grad_() for k in NAMES]
    out = FORMS[form](args, line_graph)
    got = torch.autograd.grad(out, args, g["cotangent"].to(out))
    wants = [g["out"], *(g[f"grad_{k}"] for k in NAMES)]
    for a, b in zip((out.detach(), *got), wants):
        assert float((a.cpu() - b).abs().max()) <= 1e-5 * max(1.0, float(b.abs().max()))
