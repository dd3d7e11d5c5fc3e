"""level_scan against the definition, and the rule that picks it."""

import pytest
import torch

from plstm_graph.ops import dag_scan
from plstm_graph.ops.naive import naive_dag_scan
from plstm_graph.ops.triton import dag_scan as rule
from plstm_graph.ops.triton.dag_scan import goes_by_level
from tests.ops.triton.helpers import assert_same, payload
from tests.zoo import ZOO, disjoint, from_edges, grid, path


@pytest.fixture
def by_level(monkeypatch):
    monkeypatch.setattr(rule, "goes_by_level", lambda *_: True)


@pytest.mark.parametrize("name", [name for name in ZOO if not name.startswith("everything")])
def test_equals_naive(name, device, by_level):
    line_graph = ZOO[name]().to(device)
    x, t = payload(line_graph, 2, 3)
    got = dag_scan(x, t, line_graph, backend="triton")
    assert_same(got, naive_dag_scan(x, t, line_graph), (x, t), 1e-12)


@pytest.mark.parametrize("states", [1, 2, 3, 4])
def test_state_tracking(states, device, by_level):
    line_graph = ZOO["random_sparse"]().to(device)
    x, t = payload(line_graph, 1, 5, states=states)
    got = dag_scan(x, t, line_graph, backend="triton")
    assert_same(got, naive_dag_scan(x, t, line_graph), (x, t), 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_same_bits_as_segment_scan(dtype, device, monkeypatch):
    line_graph = ZOO["molecules"]().to(device)
    x, t = (a.detach() for a in payload(line_graph, 1, 20, dtype=dtype))
    outs = []
    for by_level in (False, True):
        monkeypatch.setattr(rule, "goes_by_level", lambda *_, by_level=by_level: by_level)
        outs.append(dag_scan(x, t, line_graph, backend="triton"))
    assert torch.equal(*outs)


def test_the_rule():
    """Levels of one graph on the average wider than RUN * LAUNCH rows go level by level."""
    width = rule.RUN * rule.LAUNCH
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
