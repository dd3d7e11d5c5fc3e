"""What operators need to know of a line graph: parts, buckets, padded places, steps of a scan."""

import networkx as nx
import numpy as np
import pytest
import torch

from plstm_graph import LineGraph, plstm
from plstm_graph.dag.buckets import bucket_plan
from plstm_graph.dag.expand import expand_states
from plstm_graph.dag.schedule import MAX_SLOTS, level_schedule
from plstm_graph.dag.segments import BUCKET_COST, bucket_cost, cut_buckets, segments
from plstm_graph.dag.split import subgraph
from tests.zoo import ZOO, disjoint, from_edges, inputs, path

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
            assert sorted(seg.edge_local[seg.edge_part == part]) == list(range(edges))
        assert seg.num_nodes.sum() == g.num_nodes and seg.num_edges.sum() == g.num_edges


@zoo
def test_edge_numbers_are_topological(name):
    g = ZOO[name]()
    g = g.reverse() if g.is_reversed else g
    for h in (g, g.multitree()):
        local = segments(h).edge_local[h.line_index.numpy()]
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
    for form in ("parallel", "levelwise", "chunkwise", "walk", "auto"):
        assert torch.allclose(plstm(*data, g, form=form), expected)
        assert torch.allclose(
            plstm(*data, g.reverse(), form=form), plstm(*data, both.reverse(), form="naive")
        )


# -------------------------------------------------------------------- buckets


def padded_cost(buckets, nodes, edges, heads) -> float:
    cost = 0.0
    for members in buckets:
        one = bucket_cost(nodes[members].max(), edges[members].max())
        cost += BUCKET_COST + heads * members.size * float(one)
    return cost


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("seed", range(6))
def test_every_part_is_in_one_bucket_and_cutting_pays(seed, heads):
    rng = np.random.default_rng(seed)
    parts = int(rng.integers(1, 300))
    nodes = 1 + rng.geometric(0.04, parts)
    edges = nodes + rng.integers(-1, 6, parts)
    edges[rng.random(parts) < 0.1] = 0
    buckets = cut_buckets(nodes, edges, heads)
    assert sorted(np.concatenate(buckets)) == list(range(parts))
    assert all(members.size for members in buckets)
    together = padded_cost([np.arange(parts)], nodes, edges, heads)
    assert padded_cost(buckets, nodes, edges, heads) <= together * (1 + 1e-12)


def test_cut_is_the_cheapest():
    rng = np.random.default_rng(3)
    edges = np.sort(rng.choice(np.arange(10, 200), 9, replace=False))  # all different
    nodes = edges - rng.integers(0, 3, 9)
    best = min(
        padded_cost(np.split(np.arange(9), 1 + np.flatnonzero(cuts)), nodes, edges, 4)
        for cuts in np.ndindex(*(2,) * 8)
    )
    assert padded_cost(cut_buckets(nodes, edges, 4), nodes, edges, 4) == pytest.approx(best)


def test_an_outlier_is_alone():
    nodes = np.full(60, 30)
    edges = np.full(60, 32)
    nodes[17], edges[17] = 620, 1_000
    buckets = cut_buckets(nodes, edges, 4)
    assert [members.tolist() for members in buckets if 17 in members] == [[17]]
    assert len(buckets) == 2


def test_no_parts_no_buckets():
    none = np.zeros(0, dtype=np.int64)
    assert cut_buckets(none, none, 2) == []


# -------------------------------------------------------------------- padded places


def mixed() -> LineGraph:
    """Parts of three kinds of size, so that they are cut into buckets, the batch not sorted."""
    g = disjoint([path(3)] * 40 + [ZOO["grid"]()] * 12 + [path(90)] + [ZOO["hub"]()], batch=False)
    assert len(bucket_plan(g, 2).sizes) > 1
    return g


@pytest.mark.parametrize("split", [True, False], ids=["split", "one_bucket"])
@pytest.mark.parametrize("name", [*ZOO, "mixed"])
def test_bucket_plan(name, split):
    heads = 2
    graphs = family(name) if name in ZOO else [mixed(), mixed().reverse()]
    for g in graphs:
        plan = bucket_plan(g, heads, split=split)
        assert bucket_plan(g, heads, split=split) is plan
        seg = segments(g)
        parts, n, e, lines = plan.sizes.t()
        assert split or len(plan.sizes) == min(len(seg.num_nodes), 1)
        assert int(parts.sum()) == len(seg.num_nodes) and int(lines.sum()) == g.num_line_edges
        stack = parts * heads
        sizes = {
            "node_row": (stack * n).sum(),
            "node_diagonal": (stack * n * n).sum(),
            "edge_row": (stack * e).sum(),
            "edge_source": (stack * e * n).sum(),
            "edge_mark": (stack * n * e).sum(),
            "line_entry": (stack * e * e).sum(),
        }
        lengths = {"node": g.num_nodes, "edge": g.num_edges, "line": g.num_line_edges}
        for field, size in sizes.items():
            place = getattr(plan, field)
            assert len(place) == lengths[field.split("_")[0]] * heads
            assert place.unique().numel() == place.numel(), f"{field}: two in one place"
            assert place.numel() == 0 or (place.min() >= 0 and place.max() < size), field
        # Padding repeats a node of its own matrix (part and head): nothing else leaks in.
        assert len(plan.node_pad) == sizes["node_row"]
        row = torch.arange(g.num_nodes * heads)
        assert torch.equal(plan.node_pad[plan.node_row], row)
        width = n.repeat_interleave(stack)  # of each matrix
        matrix = torch.arange(len(width)).repeat_interleave(width)
        own = matrix[plan.node_row]
        assert torch.equal(own[plan.node_pad], matrix)
        part_and_head = torch.from_numpy(seg.node_part).repeat_interleave(heads) * heads
        part_and_head += row % heads
        pairs = torch.stack([own, part_and_head]).unique(dim=1)
        assert pairs.size(1) == own.unique().numel() == part_and_head.unique().numel()
        assert len(plan.edge_pad_dst) == sizes["edge_row"]


@zoo
def test_padded_places_rebuild_the_gates(name):
    """Scatter gates into the padded buffers and read them back, part by part."""
    heads = 2
    for g in family(name):
        plan, seg = bucket_plan(g, heads), segments(g)
        src, dst = g.edge_index.numpy()
        e_in, e_out = g.line_index.numpy()
        local = seg.edge_local
        parts, n, e, _ = plan.sizes.t().tolist() if len(plan.sizes) else ([], [], [], [])
        shapes = [(b * heads, w, w) for b, w in zip(parts, e)]
        system = np.zeros(sum(int(np.prod(s)) for s in shapes))
        system[plan.line_entry.numpy()] = np.arange(1, g.num_line_edges * heads + 1)
        # In the order of the solve a system has one triangle only: the one `upper` names.
        start = 0
        found = np.zeros(0, dtype=np.int64)
        for shape in shapes:
            block = system[start : start + int(np.prod(shape))].reshape(shape)
            wrong = np.tril(block) if int(plan.upper) else np.triu(block)
            assert not wrong.any()
            found = np.concatenate([found, block[block > 0].astype(np.int64)])
            start += int(np.prod(shape))
        assert sorted(found) == list(range(1, g.num_line_edges * heads + 1))
        # Inside a matrix, places are the local numbers of the part.
        width = {}
        at_edge = plan.edge_row.view(-1, heads).numpy()
        bucket_start = np.cumsum([0] + [b * heads * w for b, w in zip(parts, e)])
        for edge in range(g.num_edges):
            i = int(np.searchsorted(bucket_start, at_edge[edge, 0], side="right")) - 1
            width[edge] = i
            assert (at_edge[edge, 0] - bucket_start[i]) % e[i] == local[edge]
            assert at_edge[edge, 1] - at_edge[edge, 0] == e[i]  # the next head's matrix
            source = int(plan.edge_source.view(-1, heads)[edge, 0])
            source -= sum(b * heads * w * v for b, w, v in zip(parts[:i], e, n))
            assert source % n[i] == seg.node_local[src[edge]]
            assert source // n[i] == at_edge[edge, 0] - bucket_start[i]
            mark = int(plan.edge_mark.view(-1, heads)[edge, 0])
            mark -= sum(b * heads * w * v for b, w, v in zip(parts[:i], e, n))
            assert mark % e[i] == local[edge]
            assert mark // e[i] % n[i] == seg.node_local[dst[edge]]
            pad_dst = int(plan.edge_pad_dst[at_edge[edge, 0]])
            assert pad_dst == mark // e[i]
        position = plan.line_position.numpy()
        assert sorted(position) == list(range(g.num_line_edges))
        for l in range(g.num_line_edges):
            for field, edge in (("line_in", e_in[l]), ("line_out", e_out[l])):
                row = int(getattr(plan, field).view(-1, heads)[position[l], 0])
                assert row == at_edge[edge, 0] - bucket_start[width[edge]]


def test_upper_is_relative_to_the_family():
    g = path(4)
    assert [int(bucket_plan(h, 1).upper) for h in (g, g.reverse())] == [0, 1]
    other = LineGraph(5, g.reverse().edge_index, g.reverse().line_index)
    assert int(bucket_plan(other, 1).upper) == 0


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


# -------------------------------------------------------------------- parts and states


@pytest.mark.parametrize("name", ["everything", "everything_no_batch", "molecules", "no_edges"])
def test_subgraph_keeps_its_rows(name):
    whole = ZOO[name]()
    for g in (whole, whole.reverse(), whole.multitree()):
        seg = segments(g)
        keep = np.random.default_rng(0).random(len(seg.num_nodes)) < 0.5
        data = [x.detach() for x in inputs(g)]
        expected = plstm(*data, g, form="naive")
        for parts in (keep, ~keep):
            sub, node_id, edge_id, line_id = subgraph(g, parts)
            assert np.array_equal(node_id.numpy(), np.flatnonzero(parts[seg.node_part]))
            assert np.array_equal(edge_id.numpy(), np.flatnonzero(parts[seg.edge_part]))
            assert torch.equal(node_id[sub.edge_index], g.edge_index[:, edge_id])
            assert torch.equal(edge_id[sub.line_index], g.line_index[:, line_id])
            assert torch.equal(sub.level, g.level[edge_id])
            assert sub.validate().is_multitree == g.is_multitree
            assert len(segments(sub).num_nodes) == parts.sum()
            rows = (*(node_id,) * 3, edge_id, line_id, edge_id, node_id)
            out = plstm(*(x[i] for x, i in zip(data, rows)), sub, form="parallel")
            assert torch.allclose(out, expected[node_id], atol=1e-10)


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
