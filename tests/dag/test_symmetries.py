"""Refinement, symmetries and orbits behind the canonical ranks."""

import networkx as nx
import numpy as np
import pytest

from plstm_graph.dag.arcs import marked_arcs
from plstm_graph.dag.branches import Branches, Orbits
from plstm_graph.dag.canonical import canonical_rank
from plstm_graph.dag.centre import peel_leaves
from plstm_graph.dag.refine import Graphs, Partition, mix
from plstm_graph.dag.search import _complete, _grow
from plstm_graph.dag.symmetry import pieces
from tests.dag.dag_helpers import symmetric
from tests.dag.symmetric_graphs import GRAPHS, case, largest_component, number, renumbered

pytestmark = pytest.mark.filterwarnings("error")


def graphs_of(graph: nx.Graph) -> Graphs:
    edge_index, size = symmetric(graph), len(graph)
    component = np.zeros(size, dtype=np.int64)
    code = np.zeros(edge_index.shape[1], dtype=np.int64)
    tail, neighbour, mark, _ = marked_arcs(edge_index, component, 1, code, 1)
    ptr = np.searchsorted(tail, np.arange(size + 1))
    start = np.array([0, size])
    graphs = Graphs(start, component, ptr, neighbour, mark, np.zeros(size, dtype=bool))
    return graphs._replace(core=peel_leaves(graphs)[0] < 0)


@pytest.mark.parametrize("name", GRAPHS)
def test_refinement_is_equitable_and_ties_called_symmetries_are(name):
    """Neighbours are counted, automorphisms are searched with networkx; some nodes are marked."""
    graph = GRAPHS[name]
    if not nx.is_connected(graph):
        graph = number(largest_component(graph))
    graphs = graphs_of(graph)
    size = len(graph)
    matrix = nx.to_numpy_array(graph, nodelist=range(size))
    for seed in range(4):
        partition = Partition(graphs.component)
        special = np.random.default_rng(seed).permutation(size)[:seed]
        partition.split(special, mix(np.arange(special.size)))
        partition.refine(graphs, np.arange(size))
        cells = np.unique(partition.color, return_inverse=True)[1].reshape(-1)
        counts = matrix @ np.eye(cells.max() + 1)[cells]
        assert len(np.unique(np.column_stack([cells, counts]), axis=0)) == cells.max() + 1
        tied = np.flatnonzero(graphs.core & partition.tied())
        if not tied.size:
            continue
        exchanged = pieces(graphs, partition, tied)[1]
        for cell in np.unique(cells[tied[exchanged]]):
            first, *others = np.flatnonzero(cells == cell)
            for other in others:
                assert exchanges(graph, cells, first, other), (first, other)


def exchanges(graph: nx.Graph, cells: np.ndarray, first: int, second: int) -> bool:
    """Whether an automorphism that keeps cells maps the first node to the second."""
    marked = []
    for node in (first, second):
        colors = cells.copy()
        colors[node] = -1
        copy = graph.copy()
        nx.set_node_attributes(copy, dict(enumerate(colors.tolist())), "color")
        marked.append(copy)
    same = nx.algorithms.isomorphism.categorical_node_match("color", None)
    return nx.is_isomorphic(*marked, node_match=same)


def test_orbits_come_from_leaves_that_are_equal():
    """Children in two regular graphs that refinement confuses: equal as children, not as leaves."""
    graphs = graphs_of(GRAPHS["hub_of_regular"])
    partition = Partition(graphs.component)
    partition.split(np.array([32]), np.zeros(1, dtype=np.uint64))
    partition.refine(graphs, np.arange(33))
    branches = Branches(graphs, partition, np.array([0]), np.array([32]))
    picks = np.array([0, 5, 10, 16, 21, 26])
    parent = np.zeros(picks.size, dtype=np.int64)
    children, stuck = _grow(branches, parent, picks)
    certificate = children.partition.certificate(children.graphs)
    assert stuck.all() and len(set(certificate.tolist())) == 1
    leaves = _complete(children, stuck)
    leaf = leaves.partition.certificate(leaves.graphs)
    assert not set(leaf[:3].tolist()) & set(leaf[3:].tolist())
    orbits = Orbits(graphs, np.arange(33) < 32)
    orbits.tried[picks] = True
    orbits.merge(leaves, parent, certificate, leaf)
    assert orbits.orbit[:16].max() < 16 and (orbits.orbit[16:] >= 16).all()
    assert len(set(orbits.orbit[:16].tolist())) < 16
    assert not set(orbits.orbit[picks].tolist()) & set(orbits.orbit[orbits.untried()].tolist())


def test_symmetries_need_no_search():
    """A limit of one branch is enough where all ties are known to be symmetries."""
    names = (
        "path even_path ring star complete multipartite tree balanced phenyls rings hub_of_pairs"
    )
    for name in names.split():
        edge_index, size = case(name)
        for seed in range(3):
            again = renumbered(edge_index, size, [], [], seed)[0]
            one = canonical_rank(again, size, max_branches=1)
            assert np.array_equal(one, canonical_rank(again, size))
