"""What operators need to know of a line graph: parts, steps of a scan, copies of edges."""

import networkx as nx
import numpy as np
import pytest
import torch

from plstm_graph import LineGraph, plstm
from plstm_graph.dag.segments import edge_numbers, segments
from plstm_graph.ops.expand import expand_states
from plstm_graph.ops.schedule import MAX_SLOTS, level_schedule
from tests.zoo import ZOO, from_edges, inputs

zoo = pytest.mark.parametrize("name", ZOO)


def family(name: str) -> list[LineGraph]:
    g = ZOO[name]()
    return [g, g.reverse(), g.multitree(), g.multitree().reverse()]


def hubs() -> LineGraph:
    """Edges with one more and many more predecessors than there are slots, side by side."""
    edges, nodes = [], 0
    for into in (1, MAX_SLOTS, MAX_SLOTS + 1, 3 * MAX_SLOTS + 2):
        junction = nodes + into
        edges += [(nodes + i, junction) for i in range(into)]
        edges += [(junction, junction + 1), (junction, junction + 2)]
        nodes = junction + 3
    order = np.random.default_rng(0).permutation(len(edges))
    return from_edges([edges[i] for i in order], nodes)


# -------------------------------------------------------------------- segments


@zoo
def test_segments_number_every_part(name):
    for g in family(name):
        seg = segments(g)
        src, dst = g.edge_index.numpy()
        assert np.array_equal(seg.node_part[src], seg.edge_part)
        assert np.array_equal(seg.node_part[dst], seg.edge_part)
        for part, nodes, edges in zip(range(len(seg.num_nodes)), seg.num_nodes, seg.num_edges):
            assert sorted(seg.node_local[seg.node_part == part]) == list(range(nodes))
            assert sorted(edge_numbers(g)[seg.edge_part == part]) == list(range(edges))
        assert seg.num_nodes.sum() == g.num_nodes and seg.num_edges.sum() == g.num_edges


@zoo
def test_edge_numbers_are_topological(name):
    g = ZOO[name]()
    g = g.reverse() if g.is_reversed else g
    for h in (g, g.multitree()):
        local = edge_numbers(h)[h.line_index.numpy()]
        assert (local[0] < local[1]).all()
    assert segments(g.reverse()) is segments(g) is segments(g.multitree())


def test_parts_follow_the_batch_vector():
    g = ZOO["everything"]()
    # Graphs without nodes are no parts: the others are numbered through.
    labels = g.node_batch.unique()
    assert labels[0] == 1 and np.array_equal(labels[segments(g).node_part], g.node_batch)


@zoo
def test_parts_are_components_without_one(name):
    g = ZOO[name]()
    plain = LineGraph(g.num_nodes, g.edge_index, g.line_index)
    undirected = nx.Graph(plain.edge_index.t().tolist())
    undirected.add_nodes_from(range(g.num_nodes))
    seg = segments(plain)
    expected = {frozenset(c) for c in nx.connected_components(undirected)}
    parts = range(len(seg.num_nodes))
    assert {frozenset(np.flatnonzero(seg.node_part == p).tolist()) for p in parts} == expected
    first = [int(np.flatnonzero(seg.node_part == p)[0]) for p in parts]
    assert first == sorted(first)


def test_batch_vector_in_any_order_and_with_gaps():
    both = from_edges([(0, 3), (3, 5), (2, 4), (4, 1)], 6)
    g = LineGraph(6, both.edge_index, both.line_index, node_batch=torch.tensor([4, 1, 1, 4, 1, 4]))
    seg = segments(g)
    assert seg.node_part.tolist() == [1, 0, 0, 1, 0, 1]
    assert seg.num_nodes.tolist() == [3, 3] and seg.num_edges.tolist() == [2, 2]
    data = [x.detach() for x in inputs(g)]
    expected = plstm(*data, both, form="naive")
    for form in ("dense", "levelwise", "chunkwise", "walk", "auto"):
        assert torch.allclose(plstm(*data, g, form=form), expected)
        assert torch.allclose(
            plstm(*data, g.reverse(), form=form), plstm(*data, both.reverse(), form="naive")
        )


# -------------------------------------------------------------------- steps of a scan


@pytest.mark.parametrize("name", [*ZOO, "hubs"])
def test_level_schedule(name):
    graphs = family(name) if name in ZOO else [hubs(), hubs().reverse()]
    for g in graphs:
        plan = level_schedule(g)
        assert level_schedule(g) is plan
        order, line_order = plan.order, plan.line_order
        assert torch.equal(order[plan.position], torch.arange(g.num_edges))
        assert sorted(line_order.tolist()) == list(range(g.num_line_edges))
        level = g.level[order]
        assert bool((level[1:] >= level[:-1]).all())
        e_in, e_out = g.line_index[:, line_order]
        assert torch.equal(order[plan.tail], e_in)
        done = 0
        seen: list[set[int]] = [set() for _ in range(g.num_edges)]
        for row, rows, line, lines, ptr in plan.steps.tolist():
            assert line == done and lines >= 1
            done += lines
            block = order[row : row + rows]
            assert g.level[block].unique().numel() == 1  # one level at a time ...
            ready = g.level[e_in[line:done]] < g.level[block[0]]
            assert bool(ready.all())  # ... that only reads those before
            if ptr < 0:
                assert rows == lines
                targets = block
            else:
                offsets = plan.segment_ptr[ptr : ptr + rows + 1]
                assert offsets[0] == 0 and offsets[-1] == lines
                assert bool((offsets.diff() > 0).all())
                targets = block.repeat_interleave(offsets.diff())
            assert torch.equal(e_out[line:done], targets)
            for l, target in zip(line_order[line:done].tolist(), targets.tolist()):
                assert l not in seen[target]
                seen[target].add(l)
        assert done == g.num_line_edges
        # The steps of a level come after all steps of the levels before.
        step_level = g.level[order[plan.steps[:, 0]]]
        assert bool((step_level[1:] >= step_level[:-1]).all())


def test_hubs_take_few_steps():
    g = hubs()
    plan = level_schedule(g)
    assert len(plan.steps) == MAX_SLOTS + 1  # one level: slots, then one sum of segments
    into = torch.bincount(g.line_index[1], minlength=g.num_edges)
    many = into[into > MAX_SLOTS] - MAX_SLOTS
    segment = plan.steps[plan.steps[:, 4] >= 0]
    assert segment.tolist() == [[int(segment[0, 0]), len(many), int(segment[0, 2]), many.sum(), 0]]
    assert plan.segment_ptr.diff().tolist() == many.sort(descending=True).values.tolist()
    slots = plan.steps[plan.steps[:, 4] < 0, 1].tolist()
    assert slots == [int((into > i).sum()) for i in range(MAX_SLOTS)]
    data = [x.detach() for x in inputs(g)]
    expected = plstm(*data, g, form="naive")
    assert torch.allclose(plstm(*data, g, form="levelwise"), expected)


# -------------------------------------------------------------------- states


@pytest.mark.parametrize("states", [2, 3])
@zoo
def test_expand_states(name, states):
    for g in family(name):
        big = expand_states(g, states)
        assert expand_states(g, states) is big and expand_states(g, 1) is g
        big.validate()
        assert big.num_edges == g.num_edges * states and big.num_nodes == g.num_nodes
        assert big.num_line_edges == g.num_line_edges * states**2
        expected = [
            (a * states + j, b * states + i)
            for a, b in g.line_index.t().tolist()
            for i in range(states)
            for j in range(states)
        ]
        assert list(map(tuple, big.line_index.t().tolist())) == expected
        copies = torch.arange(g.num_edges).repeat_interleave(states)
        assert torch.equal(big.edge_index, g.edge_index[:, copies])
        assert torch.equal(big.edge_id, g.edge_id[copies])
        plain = LineGraph(big.num_nodes, big.edge_index, big.line_index)
        assert torch.equal(big.level, plain.level)
