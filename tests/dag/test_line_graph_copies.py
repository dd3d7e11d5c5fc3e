"""Copies of line graphs: pickled, moved, bounded."""

import copy
import pickle

import pytest
import torch
from torch_geometric.data import Data

from plstm_graph import LineGraph, ToLineGraph, plstm
from tests.dag.test_line_graph import EDGES, TENSORS, same, zoo
from tests.zoo import ZOO, inputs

# -------------------------------------------------------------------- copies


COPIES = {
    "pickle": lambda g: pickle.loads(pickle.dumps(g)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}


@pytest.mark.parametrize("how", COPIES)
@zoo
def test_copies_compute_the_same(name, how):
    base = ZOO[name]()
    for g in (base, base.reverse(), base.multitree(), base.multitree().reverse()):
        data = [x.detach() for x in inputs(g)]
        expected = plstm(*data, g, form="naive")
        for form in ("dense", "levelwise") if how == "pickle" else ("dense",):
            plstm(*data, g, form=form)  # fills the caches
            other = COPIES[how](g)
            assert other is not g and same(other, g)
            assert other.is_multitree == g.is_multitree and other.is_reversed == g.is_reversed
            assert torch.equal(other.level, g.level) and same(other.reverse(), g.reverse())
            assert torch.allclose(plstm(*data, other, form=form), expected, atol=1e-10)
            back = other.reverse()
            assert torch.allclose(
                plstm(*data, back, form=form), plstm(*data, g.reverse(), form="naive"), atol=1e-10
            )


def test_pickle_leaves_caches_behind():
    g = ZOO["everything"]()
    bare = len(pickle.dumps(g))
    data = [x.detach() for x in inputs(g)]
    plstm(*data, g, form="dense")
    plstm(*data, g.reverse(), form="levelwise")
    g.multitree()
    levels = 8 * g.num_edges + g.num_line_edges
    assert len(pickle.dumps(g)) < bare + levels + 2_000


def test_to_moves_everything():
    g = ZOO["molecules"]()
    tree, line_id = g.multitree(), g.multitree().line_id
    assert g.to("cpu") is g
    assert g.level.device.type == "cpu" and g.num_levels == int(g.level.max()) + 1
    moved = g.to("meta")
    assert moved is not g and moved.device == torch.device("meta")
    for name in (*TENSORS, "node_batch", "level"):
        there, here = getattr(moved, name), getattr(g, name)
        assert there.device.type == "meta" and there.shape == here.shape
    assert moved.num_levels == g.num_levels and moved.line_id is None
    pruned = tree.reverse().to("meta")
    assert pruned.is_multitree and pruned.is_reversed
    assert pruned.line_id.device.type == "meta" and pruned.line_id.shape == line_id.shape
    assert ZOO["path"]().to("meta").node_batch is None
    undirected = LineGraph.from_edge_index(torch.cat([EDGES, EDGES.flip(0)], 1))
    for graph in (undirected, undirected.two_way(), undirected.two_way().multitree()):
        moved = graph.to("meta")
        for name in ("opposite_id", "node_rank", "direction"):
            there, here = getattr(moved, name), getattr(graph, name)
            assert there.device.type == "meta" and there.shape == here.shape


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@zoo
def test_to_gpu_computes_the_same(name):
    base = ZOO[name]()
    for g in (base, base.reverse(), base.multitree().reverse()):
        data = [x.detach() for x in inputs(g)]
        expected = plstm(*data, g, form="naive")
        there = g.to("cuda")
        for form in ("dense", "levelwise"):
            out = plstm(*(x.cuda() for x in data), there, form=form)
            assert torch.allclose(out.cpu(), expected, atol=1e-10)
        assert same(there.to("cpu"), g)


def test_line_edges_are_bounded(monkeypatch):
    """Whoever asks for too many hears how many there are, and what to do."""
    leaves = torch.arange(1, 21)
    into = torch.stack([leaves, torch.zeros_like(leaves)])
    out = torch.stack([torch.zeros_like(leaves), leaves + 20])
    hub = torch.cat([into, out], 1)
    monkeypatch.setattr("plstm_graph.dag.levels.MAX_LINE_EDGES", 399)
    message = r"at most 399 line edges .*40 edges with 400: .*'factored'.*'degree'.*mode='D'"
    graph = LineGraph.from_edge_index(hub)
    assert graph.num_line_edges == 400
    with pytest.raises(ValueError, match=message):
        graph.line_index  # noqa: B018
    with pytest.raises(ValueError, match=message):
        ToLineGraph()(Data(edge_index=hub, num_nodes=41))
    with pytest.raises(ValueError, match=r"80 edges with 1180"):
        graph.two_way().line_index  # noqa: B018
    monkeypatch.setattr("plstm_graph.dag.levels.MAX_LINE_EDGES", 400)
    assert graph.line_index.shape == (2, 400)


@pytest.mark.parametrize("how", ["pickle", "copy", "to"])
def test_copies_know_when_they_are_changed(how):
    graph = ZOO["diamond"]()
    copied = {
        "pickle": lambda: pickle.loads(pickle.dumps(graph)),
        "copy": lambda: copy.deepcopy(graph),
        "to": lambda: graph.with_ids(graph.edge_id, None),
    }[how]()
    assert not copied.is_changed and not graph.is_changed
    copied.line_index.add_(0)
    assert copied.is_changed
