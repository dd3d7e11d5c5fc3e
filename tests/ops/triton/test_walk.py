"""The walk against the definition: values, gradients, repeats; all kinds of transitions."""

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

from plstm_graph import LineGraph
from plstm_graph.ops.forms.triton import TritonWalk
from plstm_graph.ops.inputs import Factored, Inputs
from plstm_graph.ops.triton import walk
from plstm_graph.ops.triton.autotune import Config
from plstm_graph.ops.triton.walk_plan import Plan, build_plan
from tests.ops.triton.helpers import (
    assert_close,
    assert_equals_naive,
    computed,
    expected,
    layer_inputs,
)
from tests.shared import GOLDEN, needs_shared
from tests.zoo import ZOO, disjoint

GRAPHS = [
    "empty",
    "one_node",
    "no_edges",
    "no_line_edges",
    "hub",
    "multi_edge",
    "batch_with_gaps",
    "random_sparse",
    "reversed",
    "two_way_tree_inward",
    "two_way_star",
    "two_way_multi_edge",
    "two_way_reversed",
    "two_way_in_part",
]
KINDS = pytest.mark.parametrize("kind", TritonWalk.kinds)


def plan_for(line_graph, kind):
    return walk.make_plan(line_graph, kind == "factored")


def check(line_graph, kind, *sizes, plan=None, rtol=1e-10, **options):
    inputs = layer_inputs(line_graph, *sizes, kind=kind, **options)
    plan = plan_for(line_graph, kind) if plan is None else plan
    assert_equals_naive(walk, inputs, line_graph, plan, rtol)


@KINDS
@pytest.mark.parametrize("name", GRAPHS)
def test_equals_naive(name, kind, device):
    check(ZOO[name]().to(device), kind, 1, 3, 5)


@pytest.mark.parametrize("kind", ["line", "diagonal"])
@pytest.mark.parametrize("name", ["pruned", "two_way_pruned"])
def test_pruned_line_edges(name, kind, device):
    check(ZOO[name]().to(device), kind, 1, 3, 4)


@KINDS
def test_batch_of_one_way_and_two_way_graphs(kind, device):
    """Heads apart; parts of different lengths; the reverse, where directed edges run against."""
    line_graph = ZOO["two_way_in_part"]().reverse().to(device)
    check(line_graph, kind, 2, 2, 3)


@KINDS
@pytest.mark.parametrize("name", ["diamond", "no_edges", "empty", "two_way_grid"])
def test_level_by_level(name, kind, device):
    line_graph = ZOO[name]().to(device)
    plan = build_plan(line_graph, kind == "factored", "levels")
    if line_graph.num_edges:
        assert plan.there.steps.size(0) > 1
    check(line_graph, kind, 1, 3, 4, plan=plan.flat())


def test_the_kind_of_runs():
    """Many small graphs are one launch; one wide graph goes level by level."""
    small = disjoint([ZOO["path"]()] * 3, batch=True)
    wide = ZOO["star_out"]()
    fan = LineGraph.from_edge_index(torch.stack([torch.zeros(99).long(), torch.arange(1, 100)]))
    for factored in (False, True):
        steps = [Plan.of(walk.make_plan(g, factored)).there.steps for g in (small, wide, fan)]
        assert [len(s) for s in steps] == [1, 1, 2]


@KINDS
@pytest.mark.parametrize("name", ["multi_edge", "two_way_star"])
def test_tiles_of_v(name, kind, device, monkeypatch):
    monkeypatch.setattr(walk, "CONFIGS", (Config(16, 2, 2),))
    check(ZOO[name]().to(device), kind, 2, 3, 5)


@KINDS
@pytest.mark.parametrize("place", [0, 1])
def test_candidates_of_the_tuner(place, kind, device, monkeypatch):
    """Each gives the same values, after others ran as when they are timed; keys as documented."""
    keys = []

    def pick(key, configs, launch, device):
        keys.append(key)
        assert len(configs) == 2
        launch(configs[place - 1])
        return configs[place]

    monkeypatch.setattr(walk, "pick", pick)
    check(ZOO["join"]().to(device), kind, 1, 20, 20, dtype=torch.float32, rtol=1e-5)
    ending = "" if kind == "line" else f"_{kind}"
    names = [f"walk_forward{ending}", f"walk_backward{ending}"]
    assert keys == [(name, 1, 32, 32, "torch.float32") for name in names]


@pytest.mark.parametrize("kind", ["line", "diagonal"])
def test_more_line_edges_than_are_stored_together(kind, device):
    edges = [(0, 1)] + [(1, i) for i in range(2, 22)]
    check(LineGraph.from_edge_index(torch.tensor(edges).T.to(device)), kind, 1, 2, 2)


@pytest.mark.parametrize("kind", ["line", "diagonal"])
def test_any_acyclic_line_graph(kind, device):
    """A graph with a cycle of nodes that no method made: 0 -> 1 -> 2 -> 0 -> 3, cut at node 0."""
    edge_index = torch.tensor([[0, 1, 2, 0, 2], [1, 2, 0, 3, 1]])
    line_index = torch.tensor([[0, 1, 1], [1, 2, 4]])
    line_graph = LineGraph(4, edge_index, line_index).to(device)
    check(line_graph, kind, 2, 3, 4)
    with pytest.raises(ValueError, match=r"factored transitions.*transition\.expand"):
        walk.make_plan(line_graph, True)


def test_factored_transitions_do_not_look_at_line_edges(monkeypatch):
    graphs = [ZOO["random_sparse"](), ZOO["two_way_in_part"](), ZOO["hub"]().reverse()]
    want = [build_plan(g, True).flat() for g in graphs]
    monkeypatch.setattr(LineGraph, "line_index", property(pytest.fail), raising=False)
    monkeypatch.setattr(LineGraph, "level", property(pytest.fail))
    for line_graph, plan in zip(graphs, want):
        assert all(torch.equal(a, b) for a, b in zip(walk.make_plan(line_graph, True), plan))


@KINDS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["join", "two_way_path"])
def test_half_precision_rounds_once(name, dtype, kind, device):
    line_graph = ZOO[name]().to(device)
    check(line_graph, kind, dtype=dtype, rtol=2 * torch.finfo(dtype).eps)


@KINDS
def test_bitwise_repeatable(kind, device):
    line_graph = ZOO["two_way_star"]().to(device)
    inputs = layer_inputs(line_graph, 1, dtype=torch.float32, kind=kind)
    plan = plan_for(line_graph, kind)
    (first, ones), (second, twos) = (computed(walk, inputs, plan, 0.7) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip((first, *ones), (second, *twos)))


@KINDS
def test_mixed_dtypes_and_strided_inputs(kind, device):
    line_graph = ZOO["fork"]().to(device)
    tensors = layer_inputs(line_graph, kind=kind).tensors
    tensors = [x.half() if i < 3 else x.float() for i, x in enumerate(tensors)]
    tensors[2] = tensors[2].repeat(1, 1, 2)[..., ::2]
    tensors[0] = tensors[0].transpose(0, 1).contiguous().transpose(0, 1)
    tensors[1] = tensors[1].float()
    tensors[3] = tensors[3].bfloat16()
    plan = plan_for(line_graph, kind)
    assert_equals_naive(walk, Inputs.of(tensors), line_graph, plan, 8e-3)


def test_gradients_have_the_order_of_the_inputs(device):
    """a and b apart: with b = 0 no state moves, and the gradient of a is 0, that of b is not."""
    line_graph = ZOO["two_way_path"]().to(device)
    inputs = layer_inputs(line_graph, 1, kind="factored")
    a, b = inputs.transition
    inputs = inputs._replace(transition=Factored(a, torch.zeros_like(b)))
    _, got = computed(walk, inputs, walk.make_plan(line_graph, True), 1.0)
    assert not got[4].any() and got[5].any()


@pytest.mark.parametrize("kind", ["line", "diagonal"])
def test_a_column_more(kind, device):
    """The column of a normalizer: V + 1 = 25 (padded to 28) in one tile, and 33 in two."""
    for v in (25, 33):
        check(ZOO["join"]().to(device), kind, 1, 3, v)


def test_unavailable(device):
    assert walk.unavailable(device, 256) is None
    assert "at most 256 key channels" in walk.unavailable(device, 257)


@needs_shared
@pytest.mark.parametrize("name", ["chain", "molecules"])
def test_golden_in_float32(name, device):
    g = {k: torch.from_numpy(v) for k, v in np.load(GOLDEN / f"{name}.npz").items() if v.ndim}
    line_graph = LineGraph(g["query"].size(0), g["edge_index"], g["line_index"]).to(device)
    inputs = Inputs(*(g[k].float().to(device) for k in Inputs._fields[:7]))
    plan = walk.make_plan(line_graph, False)
    assert_close(walk.forward(inputs, 1.0, plan).cpu(), g["out"], 1e-5)
    got = walk.backward(g["cotangent"].float().to(device), inputs, 1.0, plan)
    for x, k in zip(got, Inputs._fields[:7]):
        assert_close(x.cpu(), g[f"grad_{k}"], 1e-5)


def test_reference_sees_the_factored_formula():
    """The expected values themselves, by hand: 0 -> 1 -> 2, one channel."""
    line_graph = ZOO["join"]()
    inputs = layer_inputs(line_graph, 1, 1, 1, kind="factored")
    q, k, v, s, (a, b), m, d = (
        [y.flatten() for y in x] if isinstance(x, Factored) else x.flatten() for x in inputs[:7]
    )
    state = s[2] * k[2] * v[2] + b[2] * sum(a[e] * s[e] * k[e] * v[e] for e in (0, 1))
    want = q[3] * m[2] * state + d[3] * q[3] * k[3] * v[3]
    out, _ = expected(inputs, line_graph, 1.0)
    assert torch.allclose(out[3, 0, 0], want)
