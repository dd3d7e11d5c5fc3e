import pickle

import pytest
import torch

from plstm_graph import LineGraph, plstm
from tests.dag.dag_helpers import longest_paths, max_paths
from tests.zoo import ZOO, from_edges, inputs

EDGES = torch.tensor([[0, 1, 1], [1, 2, 3]])  # 0 -> 1 -> {2, 3}
LINES = torch.tensor([[0, 0], [1, 2]])
RING = torch.tensor([[0, 1, 2], [1, 2, 0]])
TENSORS = ("edge_index", "line_index", "edge_id")


def ints(*values: int, **options) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64, **options)


def same(a: LineGraph, b: LineGraph) -> bool:
    return a.num_nodes == b.num_nodes and all(
        torch.equal(getattr(a, name), getattr(b, name)) for name in TENSORS
    )


def fresh(name: str) -> LineGraph:
    """A zoo graph without anything cached."""
    g = ZOO[name]()
    return LineGraph(g.num_nodes, g.edge_index, g.line_index, g.edge_id, g.node_batch)


zoo = pytest.mark.parametrize("name", ZOO)


# -------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        # type
        ({"edge_index": EDGES.tolist()}, r"edge_index as an int64 tensor .*got list"),
        ({"line_index": LINES.numpy()}, r"line_index as an int64 tensor .*got ndarray"),
        ({"line_index": None}, r"line_index as an int64 tensor .*got NoneType"),
        ({"edge_id": [0, 1, 2]}, r"edge_id as an int64 tensor .*got list"),
        ({"node_batch": [0] * 4}, r"node_batch as an int64 tensor .*got list"),
        # dtype
        ({"edge_index": EDGES.int()}, r"edge_index of dtype torch.int64, got torch.int32"),
        ({"line_index": LINES.float()}, r"line_index of dtype torch.int64, got torch.float32"),
        ({"edge_id": torch.ones(3)}, r"edge_id of dtype torch.int64, got torch.float32"),
        ({"node_batch": torch.zeros(4)}, r"node_batch of dtype torch.int64, got torch.float32"),
        # shape
        ({"edge_index": EDGES[0]}, r"edge_index of shape \[2, \*\], got \[3\]"),
        ({"edge_index": EDGES.t()}, r"edge_index of shape \[2, \*\], got \[3, 2\]"),
        ({"line_index": LINES[:1]}, r"line_index of shape \[2, \*\], got \[1, 2\]"),
        ({"edge_id": EDGES}, r"edge_id of shape \[\*\], got \[2, 3\]"),
        ({"edge_id": ints(0, 1)}, r"edge_id with 3 entries, got 2"),
        ({"node_batch": EDGES}, r"node_batch of shape \[\*\], got \[2, 3\]"),
        ({"node_batch": ints(0, 0, 0)}, r"node_batch with 4 entries \(one per node\), got 3"),
        # range
        ({"num_nodes": -1}, r"num_nodes as an integer of 0 or more, got -1"),
        ({"num_nodes": 3}, r"edge_index between 0 and 2 \(3 nodes\), got values from 0 to 3"),
        ({"num_nodes": 0}, r"edge_index between 0 and -1 \(0 nodes\)"),
        ({"edge_index": EDGES - 1}, r"edge_index between 0 and 3 .*from -1 to 2"),
        ({"line_index": LINES + 1}, r"line_index between 0 and 2 \(3 edges\).*from 1 to 3"),
        ({"line_index": LINES - 1}, r"line_index between 0 and 2 .*from -1 to 1"),
        ({"edge_id": ints(0, -2, 1)}, r"edge_id >= 0, got -2"),
        ({"node_batch": ints(0, 0, 0, -1)}, r"node_batch >= 0, got -1"),
        # device
        ({"line_index": LINES.to("meta")}, r"line_index on cpu like edge_index, got meta"),
        ({"edge_id": ints(0, 1, 2, device="meta")}, r"edge_id on cpu like edge_index, got meta"),
        (
            {"node_batch": ints(0, 0, 0, 0, device="meta")},
            r"node_batch on cpu like edge_index, got meta",
        ),
        ({"edge_index": EDGES.to("meta")}, r"line_index on meta like edge_index, got cpu"),
        # structure
        ({"node_batch": ints(0, 0, 0, 1)}, r"edge between two of node_batch"),
        (
            {"line_index": torch.tensor([[0, 1], [1, 2]])},
            r"edges that meet .*column 1: edge 1 \(1->2\) to edge 2 \(1->3\)",
        ),
        ({"line_index": LINES.flip(0)}, r"column 0: edge 1 \(1->2\) to edge 0 \(0->1\)"),
        ({"line_index": LINES[:, [0, 1, 0]]}, r"each pair of edges once in line_index"),
        (
            {"edge_index": RING, "line_index": torch.tensor([[0, 1, 2], [1, 2, 0]])},
            r"acyclic, got the directed cycle (0 -> 1 -> 2 -> 0 \(edges 0, 1, 2|1 -> 2 -> 0 -> 1 "
            r"\(edges 1, 2, 0|2 -> 0 -> 1 -> 2 \(edges 2, 0, 1)\).* leave out line edges",
        ),
        (
            {"edge_index": torch.tensor([[0, 3], [1, 3]]), "line_index": ints(1, 1).view(2, 1)},
            r"the directed cycle 3 -> 3 \(edges 1\)",
        ),
        (  # straight back over the same edge, and again
            {"edge_index": EDGES[[[0, 1], [1, 0]], 0], "line_index": ints(0, 1, 1, 0).view(2, 2)},
            r"the directed cycle (0 -> 1 -> 0|1 -> 0 -> 1)",
        ),
    ],
    ids=lambda v: ",".join(v) if isinstance(v, dict) else None,
)
def test_constructor_refuses(change, message):
    arguments = {"num_nodes": 4, "edge_index": EDGES, "line_index": LINES, **change}
    with pytest.raises(ValueError, match=message):
        LineGraph(**arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"edge_index": EDGES.numpy()}, r"edge_index as an int64 tensor .*got ndarray"),
        ({"edge_index": EDGES.double()}, r"edge_index of dtype torch.int64, got torch.float64"),
        ({"edge_index": EDGES[None]}, r"edge_index of shape \[2, \*\], got \[1, 2, 3\]"),
        ({"num_nodes": 2}, r"edge_index between 0 and 1 \(2 nodes\)"),
        ({"edge_index": EDGES - 1}, r"edge_index between 0 and 3 .*from -1 to 2"),
        (
            {"edge_index": EDGES[:, :0], "num_nodes": -1},
            r"num_nodes as an integer of 0 or more, got -1",
        ),
        ({"batch": [0, 0, 0, 0]}, r"batch as an int64 tensor .*got list"),
        ({"batch": [0, 0, 0, 0], "num_nodes": None}, r"batch as an int64 tensor .*got list"),
        ({"batch": torch.zeros(4)}, r"batch of dtype torch.int64"),
        ({"batch": ints(0, 0, 0)}, r"batch with 4 entries \(one per node\), got 3"),
        ({"batch": ints(0, 0, 0, -1)}, r"batch >= 0, got -1"),
        ({"batch": ints(0, 0, 0, 1)}, r"edge between two of batch"),
        ({"batch": ints(0, 0, 0, 0, device="meta")}, r"batch on cpu like edge_index, got meta"),
        ({"orientation": "sideways"}, r"sideways"),
        ({"edge_index": torch.tensor([[0, 2], [1, 2]])}, r"self-loop"),
        ({"edge_index": torch.tensor([[0, 1, 2], [1, 2, 0]])}, r"directed cycle \d -> \d -> \d"),
    ],
    ids=lambda v: ",".join(v) if isinstance(v, dict) else None,
)
def test_from_edge_index_refuses(change, message):
    arguments = {"edge_index": EDGES, "num_nodes": 4, **change}
    with pytest.raises(ValueError, match=message):
        LineGraph.from_edge_index(**arguments)


def test_only_the_line_graph_must_be_acyclic():
    """A ring whose state does not go round."""
    graph = LineGraph(3, RING, torch.tensor([[0, 1], [1, 2]]))
    assert graph.level.tolist() == [0, 1, 2] and graph.multitree().num_line_edges == 2
    data = [x.detach() for x in inputs(graph)]
    expected = plstm(*data, graph, form="naive")
    for form in ("dense", "levelwise", "chunkwise"):
        assert torch.allclose(plstm(*data, graph, form=form), expected, atol=1e-10)
    loop = LineGraph(1, ints(0, 0).view(2, 1), torch.empty(2, 0, dtype=torch.int64))
    assert loop.num_levels == 1


def test_validate_finds_what_was_changed_later():
    graph = LineGraph(4, EDGES.clone(), LINES.clone())
    assert graph.validate() is graph
    graph.edge_index[1, 2] = 9
    with pytest.raises(ValueError, match="edge_index between 0 and 3"):
        graph.validate()


# -------------------------------------------------------------------- what it holds


@zoo
def test_levels_are_longest_paths_over_line_edges(name):
    g = ZOO[name]()
    expected = longest_paths(g.line_index.numpy(), g.num_edges)
    assert g.level.tolist() == expected.tolist()
    assert g.level.dtype == torch.int64 and g.level.shape == (g.num_edges,)
    assert g.num_levels == (expected.max() + 1 if g.num_edges else 0)


def test_levels_of_a_pruned_graph_are_its_own():
    edges = torch.tensor([[0, 1, 2, 0], [1, 2, 3, 2]])
    full = LineGraph(4, edges, torch.tensor([[0, 1, 3], [1, 2, 2]]))
    assert full.level.tolist() == [0, 1, 2, 0]
    pruned = LineGraph(4, edges, torch.tensor([[3], [2]]))
    assert pruned.level.tolist() == [0, 0, 1, 0] and pruned.num_levels == 2


@zoo
def test_reverse_turns_rows_in_place(name):
    g = ZOO[name]()
    r = g.reverse()
    assert r.reverse() == g and g.reverse() == r and r.is_reversed != g.is_reversed
    assert torch.equal(r.edge_index, g.edge_index.flip(0))
    assert torch.equal(r.line_index, g.line_index.flip(0))
    assert r.is_multitree == g.is_multitree and r.is_two_way == g.is_two_way
    if g.opposite_id is None:
        assert torch.equal(r.edge_id, g.edge_id) and r.opposite_id is None
    else:  # undirected edges become the columns of the opposite direction
        known = g.opposite_id >= 0
        assert torch.equal(r.edge_id, torch.where(known, g.opposite_id, g.edge_id))
        assert torch.equal(r.opposite_id, torch.where(known, g.edge_id, -1))
    assert torch.equal(r.direction, 1 - g.direction if g.is_two_way else g.direction)
    assert r.node_batch is g.node_batch and r.num_nodes == g.num_nodes
    r.validate()
    # The deepest path is as long both ways, and each edge and its successors swap order.
    assert r.num_levels == g.num_levels
    assert bool((r.level[g.line_index[0]] > r.level[g.line_index[1]]).all())
    assert torch.equal(r.line_node, g.line_node)


@zoo
def test_multitree_drops_line_edges_only(name):
    g = fresh(name)
    tree = g.multitree()
    assert tree.is_multitree and tree.multitree() is tree and g.multitree() == tree
    assert torch.equal(tree.edge_index, g.edge_index) and torch.equal(tree.edge_id, g.edge_id)
    assert torch.equal(tree.line_index, g.line_index[:, tree.line_id])
    assert bool((tree.line_id[1:] > tree.line_id[:-1]).all())
    assert max_paths(g.num_edges, tree.line_index.numpy()) <= 1
    # No edge loses all of its predecessors.
    assert set(tree.line_index[1].tolist()) == set(g.line_index[1].tolist())
    tree.validate()
    if max_paths(g.num_edges, g.line_index.numpy()) <= 1:
        assert tree.num_line_edges == g.num_line_edges
    assert g.line_id is None and not g.is_multitree


@zoo
def test_multitree_commutes_with_reverse(name):
    g = fresh(name)
    assert g.multitree().reverse() == g.reverse().multitree()
    assert g.reverse().multitree().reverse() == g.multitree()
    assert torch.equal(g.reverse().multitree().line_id, g.multitree().line_id)
    assert g.reverse().multitree().is_reversed and g.reverse().multitree().is_multitree


@zoo
def test_multitree_does_not_depend_on_who_asks_first(name):
    forward, backward = fresh(name), fresh(name)
    expected = forward.multitree()
    assert same(backward.reverse().multitree().reverse(), expected)
    assert same(backward.multitree(), expected)
    copied = pickle.loads(pickle.dumps(fresh(name).reverse()))
    assert same(copied.multitree().reverse(), expected)


def test_explicit_constructor_keeps_order():
    edges = torch.tensor([[2, 0, 1, 1], [3, 1, 2, 2]])
    lines = torch.tensor([[3, 1, 2, 1], [0, 3, 0, 2]])
    edge_id, batch = ints(7, 3, 3, 0), ints(0, 0, 0, 0)
    g = LineGraph(4, edges, lines, edge_id, batch)
    assert torch.equal(g.edge_index, edges) and torch.equal(g.line_index, lines)
    assert torch.equal(g.edge_id, edge_id) and torch.equal(g.node_batch, batch)
    edges.zero_(), lines.zero_()  # the graph has copies
    g.validate()
    assert g.level.tolist() == [2, 0, 1, 1]
    assert g.line_node.tolist() == [2, 1, 2, 1]
    assert LineGraph(4, g.edge_index, g.line_index).edge_id.tolist() == [0, 1, 2, 3]


def test_from_edge_index_keeps_a_dag_and_counts_nodes():
    g = LineGraph.from_edge_index(torch.tensor([[3, 1, 1], [1, 0, 0]]))
    assert g.edge_index.tolist() == [[3, 1, 1], [1, 0, 0]] and g.num_nodes == 4
    assert g.line_index.tolist() == [[0, 0], [1, 2]] and g.edge_id.tolist() == [0, 1, 2]
    assert LineGraph.from_edge_index(EDGES, batch=torch.zeros(6, dtype=torch.int64)).num_nodes == 6
    both = torch.cat([EDGES.flip(0), EDGES], 1)
    down = LineGraph.from_edge_index(both, orientation=ints(3, 2, 1, 0))
    assert down.edge_id.tolist() == [0, 1, 2] and torch.equal(down.edge_index, EDGES.flip(0))
    assert down.opposite_id.tolist() == [3, 4, 5] and down.node_rank.tolist() == [3, 2, 1, 0]
    assert LineGraph.from_edge_index(both, orientation="index").node_rank is None


def test_features_orient_a_graph():
    """Of the two nodes in the middle of a path the one of the lesser features is the root."""
    both = torch.tensor([[0, 1, 2, 1, 2, 3], [1, 2, 3, 0, 1, 2]])
    for less in (1, 2):
        x = torch.ones(4, 2, dtype=torch.bfloat16)
        x[less, 1] = 0
        for features in (x, x[:, :, None], x[:, 1].int(), x.bool()):
            g = LineGraph.from_edge_index(both, x=features)
            assert g.node_rank[less] == 0 and less not in g.edge_index[1]
    # The same with the columns of one end: mirrored features, mirrored ranks.
    edge_attr = torch.tensor([True, False, False] * 2)
    ranks = [LineGraph.from_edge_index(both, edge_attr=edge_attr).node_rank]
    ranks += [LineGraph.from_edge_index(both, edge_attr=edge_attr[[2, 1, 0, 5, 4, 3]]).node_rank]
    assert torch.equal(ranks[0], ranks[1].flip(0))
    for kwargs, message in (
        ({"x": x[:3]}, r"x as a tensor \[4, \*\], got \[3, 2\]"),
        ({"edge_attr": edge_attr[:3]}, r"edge_attr as a tensor \[6, \*\], got \[3\]"),
        ({"x": [1, 2, 3, 4]}, r"x as a tensor \[4, \*\], got list"),
    ):
        with pytest.raises(ValueError, match=message):
            LineGraph.from_edge_index(both, **kwargs)


def test_no_nodes():
    none = torch.empty(2, 0, dtype=torch.int64)
    for g in (LineGraph(0, none, none), LineGraph.from_edge_index(none)):
        assert (g.num_nodes, g.num_edges, g.num_line_edges, g.num_levels) == (0, 0, 0, 0)
        for h in (g, g.reverse(), g.multitree(), g.reverse().multitree()):
            assert h.level.shape == (0,) and h.line_node.shape == (0,)
            h.validate()
        assert g.multitree().line_id.shape == (0,)


def test_repr():
    g = from_edges([(0, 1), (0, 2), (1, 3), (2, 3), (3, 4), (0, 3)], 5)
    assert repr(g) == "LineGraph(num_nodes=5, num_edges=6, num_line_edges=5)"
    dropped = f"num_line_edges={g.multitree().num_line_edges}, multitree)"
    assert repr(g.multitree()) == f"LineGraph(num_nodes=5, num_edges=6, {dropped}"
    two = g.two_way()
    lines = f"num_edges=12, num_line_edges={two.num_line_edges}, two-way"
    assert repr(two) == f"LineGraph(num_nodes=5, {lines})"
    assert repr(two.multitree()).endswith("two-way, multitree)")
