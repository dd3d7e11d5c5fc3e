"""Two-way line graphs: their line edges, relatives and D-mode."""

import copy
import itertools
import pickle
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem, RDConfig

from plstm_graph import LineGraph, gating_matrix, plstm
from plstm_graph.molecules.graphs import from_mol
from plstm_graph.transforms import LineGraphCollater
from tests.dag.dag_helpers import dags, max_paths, symmetric
from tests.zoo import ZOO, from_edges, inputs, random_dag

ONE_WAY = [name for name, make in ZOO.items() if not make().is_multitree and "two_way" not in name]
TREES = {
    "path": nx.path_graph(9),
    "star": nx.star_graph(7),
    "binary": nx.balanced_tree(2, 3),
    "caterpillar": nx.Graph([(i, i + 1) for i in range(6)] + [(i, 10 + i) for i in range(6)]),
    "random": nx.random_labeled_tree(25, seed=1),
}


def undirected(graph: nx.Graph, orientation="bfs", **options) -> LineGraph:
    graph = nx.convert_node_labels_to_integers(graph)
    edge_index = torch.from_numpy(symmetric(graph))
    return LineGraph.from_edge_index(edge_index, len(graph), orientation, **options)


def rooted_at(graph: nx.Graph, root: int) -> LineGraph:
    """A connected graph, breadth first from a root."""
    graph = nx.convert_node_labels_to_integers(graph)
    depth = nx.single_source_shortest_path_length(graph, root)
    rank = torch.tensor([depth[n] * len(graph) + n for n in range(len(graph))])
    return undirected(graph, rank)


def expected_lines(g: LineGraph) -> set[tuple[int, int]]:
    """The definition, pair by pair."""
    e = g.num_edges
    src = g.edge_index[0].tolist()
    pairs = {(b, a) for a, b in g.line_index.t().tolist()}
    pairs |= {(a + e, b + e) for a, b in g.line_index.t().tolist()}
    pairs |= {(a, b + e) for a in range(e) for b in range(e) if src[a] == src[b] and a != b}
    return pairs


@pytest.mark.parametrize("name", ONE_WAY)
def test_rows_and_line_edges_are_those_of_the_definition(name):
    g = ZOO[name]()
    t = g.two_way()
    t.validate()
    e = g.num_edges
    assert t == g.two_way() and t.two_way() is t and t.is_two_way and not g.is_two_way
    assert torch.equal(t.edge_index[:, :e], g.edge_index.flip(0))
    assert torch.equal(t.edge_index[:, e:], g.edge_index)
    assert t.direction.tolist() == [0] * e + [1] * e and g.direction.tolist() == [1] * e
    assert set(map(tuple, t.line_index.t().tolist())) == expected_lines(g)
    d_out = torch.bincount(g.edge_index[0], minlength=g.num_nodes)
    assert t.num_line_edges == 2 * g.num_line_edges + int((d_out * (d_out - 1)).sum())


@settings(max_examples=60, deadline=None)
@given(dags())
def test_any_dag(case):
    edge_index, num_nodes = case
    g = from_edges([tuple(e) for e in edge_index.T.tolist()], num_nodes)
    t = g.two_way()
    t.validate()
    assert set(map(tuple, t.line_index.t().tolist())) == expected_lines(g)
    tree = t.multitree()
    assert max_paths(t.num_edges, tree.line_index.numpy()) <= 1


def test_gates_read_the_column_of_their_own_direction():
    g = undirected(nx.gnm_random_graph(12, 20, seed=0))
    edge_index = torch.from_numpy(symmetric(nx.gnm_random_graph(12, 20, seed=0)))
    for graph in (g, g.reverse(), g.two_way(), g.two_way().reverse(), g.two_way().multitree()):
        assert torch.equal(edge_index[:, graph.edge_id], graph.edge_index)
        assert torch.equal(edge_index[:, graph.opposite_id], graph.edge_index.flip(0))
    assert g.undirected.all() and g.two_way().undirected.all()


def test_parallel_edges_pair_in_their_order():
    edge_index = torch.tensor([[0, 1, 0, 1, 1, 2], [1, 0, 1, 0, 2, 1]])
    g = LineGraph.from_edge_index(edge_index, 3, "index")
    assert g.edge_id.tolist() == [0, 2, 4] and g.opposite_id.tolist() == [1, 3, 5]


def test_a_directed_input_has_no_opposite():
    g = LineGraph.from_edge_index(torch.tensor([[0, 1], [1, 2]]), 3)
    assert g.opposite_id is None and not g.undirected.any()
    assert g.two_way().edge_id.tolist() == [0, 1, 0, 1]
    assert g.two_way_where_undirected() is g


def test_a_batch_of_both_kinds_is_two_way_in_part():
    t = ZOO["two_way_in_part"]()
    t.validate()
    assert t.num_edges == 2 * 5 + 4 and t.direction.tolist() == [0] * 5 + [1] * 9
    ring = undirected(nx.cycle_graph(5), "index").two_way()
    assert t.num_line_edges == ring.num_line_edges + 2
    assert t.opposite_id.tolist().count(-1) == 4


def test_reverse_swaps_the_halves():
    g = undirected(nx.gnm_random_graph(10, 14, seed=3))
    t, r = g.two_way(), g.two_way().reverse()
    assert r.reverse() == t and r.direction.tolist() == (1 - t.direction).tolist()

    def columns(graph):
        """Line edges by the input's columns and the way they run."""
        kind = list(zip(graph.edge_id.tolist(), graph.direction.tolist()))
        return {(kind[a], kind[b]) for a, b in graph.line_index.t().tolist()}

    assert columns(r) == columns(t)


def test_multitree_first_is_an_error():
    g = random_dag(8, 12, 0)
    with pytest.raises(ValueError, match=r"two_way\(\) before multitree\(\)"):
        g.multitree().two_way()


@pytest.mark.parametrize("name", ONE_WAY)
def test_copies_pickles_and_batches_keep_it(name):
    t = ZOO[name]().two_way()
    for other in (pickle.loads(pickle.dumps(t)), copy.deepcopy(t)):
        assert torch.equal(other.line_index, t.line_index) and other.is_two_way
        assert torch.equal(other.direction, t.direction)
        assert torch.equal(other.multitree().line_id, t.multitree().line_id)
        assert torch.equal(other.reverse().direction, t.reverse().direction)
    there = t.to("meta")
    assert there.is_two_way and there.direction.device.type == "meta"


# ------------------------------------------------------------------------------ trees


@pytest.mark.parametrize("name", TREES)
def test_one_path_between_any_two_nodes_of_a_rooted_tree(name):
    tree = nx.convert_node_labels_to_integers(TREES[name])
    for root in (0, len(tree) // 2, len(tree) - 1):
        t = rooted_at(tree, root).two_way()
        assert t.multitree().num_line_edges == t.num_line_edges
        e, l, n = t.num_edges, t.num_line_edges, t.num_nodes
        ones = [torch.ones(s, 1, dtype=torch.float64) for s in (e, l, e, n)]
        assert torch.equal(gating_matrix(*ones, t)[0], torch.ones(n, n, dtype=torch.float64))


@pytest.mark.parametrize("name", TREES)
def test_outputs_on_a_tree_do_not_depend_on_the_root(name):
    tree = nx.convert_node_labels_to_integers(TREES[name])
    n, columns = len(tree), 2 * (len(tree) - 1)
    rng = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(n, 2, 3, generator=rng).double() for _ in range(3))
    per_column = torch.rand(2, columns, 2, generator=rng).double()
    direct, pair = torch.rand(n, 2).double(), torch.randn(2, columns, 2, generator=rng).double()

    def run(root):
        t = rooted_at(tree, root).two_way()
        source, mark = per_column[:, t.edge_id]
        # A Transition of both its columns, whatever the root.
        transition = pair[0, t.edge_id[t.line_index[0]]] * pair[1, t.edge_id[t.line_index[1]]]
        return plstm(query, key, value, source, transition, mark, direct, t)

    want = run(0)
    for root in range(1, n, 3):
        assert torch.allclose(run(root), want, rtol=1e-10, atol=1e-10)


# ------------------------------------------------------------------------------ reach


def heard(t: LineGraph) -> torch.Tensor:
    """[N, N] whether a node hears another."""
    e, l, n = t.num_edges, t.num_line_edges, t.num_nodes
    ones = [torch.ones(s, 1, dtype=torch.float64) for s in (e, l, e, n)]
    return gating_matrix(*ones, t)[0] > 0


@pytest.mark.parametrize("mode", ["P", "D"])
@pytest.mark.parametrize("seed", range(6))
def test_one_root_hears_the_whole_component(seed, mode):
    graph = nx.disjoint_union(nx.gnm_random_graph(18, 26, seed=seed), nx.cycle_graph(5))
    g = undirected(graph)
    t = g.two_way() if mode == "P" else g.two_way().multitree()
    reach = nx.to_numpy_array(nx.transitive_closure(graph, reflexive=True)) > 0
    assert np.array_equal(heard(t).numpy(), reach)


@pytest.mark.parametrize("seed", range(4))
def test_against_gates_at_zero_give_the_forward_layer(seed):
    g = random_dag(12, 20, seed)
    t, e = g.two_way(), g.num_edges
    args = [x.detach() for x in inputs(g, seed=seed)]
    want = plstm(*args, g)
    query, key, value, source, transition, mark, direct = args
    zero = torch.zeros_like(source)
    lines = torch.zeros(t.num_line_edges, 2, dtype=torch.float64)
    both = (t.line_index >= e).all(0)
    order = {tuple(p): i for i, p in enumerate(g.line_index.t().tolist())}
    rows = [order[tuple(p)] for p in (t.line_index[:, both] - e).t().tolist()]
    lines[both] = transition[rows]
    lines[~both] = torch.randn(int((~both).sum()), 2, dtype=torch.float64)
    got = plstm(
        query, key, value, torch.cat([zero, source]), lines, torch.cat([zero, mark]), direct, t
    )
    assert torch.allclose(got, want, atol=1e-12)


@given(st.integers(0, 50))
@settings(max_examples=20, deadline=None)
def test_many_roots_are_pruned_by_the_general_rule(seed):
    g = random_dag(14, 24, seed)
    tree = g.two_way().multitree()
    assert max_paths(tree.num_edges, tree.line_index.numpy()) <= 1
    assert tree.is_two_way and tree.is_multitree


def molecules(count: int) -> list:
    """The first molecules that the rdkit package ships."""
    lines = (Path(RDConfig.RDDataDir) / "NCI" / "first_5K.smi").read_text().splitlines()
    found = (Chem.MolFromSmiles(line.split()[0]) for line in lines)
    return [from_mol(mol) for mol in itertools.islice(filter(None, found), count)]


@pytest.mark.parametrize("orientation", ["canonical", "random_bfs"])
def test_molecules_hear_their_whole_component_in_one_layer(orientation):
    graphs = molecules(200)
    batch = LineGraphCollater(orientation, seed=0)(graphs)
    t = LineGraph.from_data(batch).two_way()
    graph = nx.empty_graph(batch.num_nodes)
    graph.add_edges_from(batch.edge_index.T.tolist())
    joined = sum(len(part) ** 2 for part in nx.connected_components(graph))
    shares = {"P": heard_pairs(t) / joined, "D": heard_pairs(t.multitree()) / joined}
    print({mode: f"{share:.1%} of all pairs" for mode, share in shares.items()})
    assert shares == {"P": 1.0, "D": 1.0}  # D along a spanning tree


def heard_pairs(t: LineGraph) -> int:
    """The number of pairs of nodes of which one hears the other, itself included."""
    n = t.num_nodes
    reach = [torch.zeros(t.num_edges, n, dtype=torch.bool), torch.eye(n, dtype=torch.bool)]
    reach[0][torch.arange(t.num_edges), t.edge_index[0]] = True
    e_in, e_out = t.line_index
    for step in range(1, t.num_levels):
        lines = (t.level[e_out] == step).nonzero().view(-1)
        for line in lines.tolist():
            reach[0][e_out[line]] |= reach[0][e_in[line]]
    for edge, node in enumerate(t.edge_index[1].tolist()):
        reach[1][node] |= reach[0][edge]
    return int(reach[1].sum())
