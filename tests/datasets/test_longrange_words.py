"""Words: every class again by definition, from permutations as functions and from Python's eval."""

from itertools import permutations

import networkx as nx
import numpy as np
import pytest

from datasets.longrange_words import (
    S5_TOKENS,
    arithmetic_graphs,
    elements,
    flat_graphs,
    inverses,
    parity_graphs,
    product_table,
    tree_word_graphs,
    word_graphs,
)


def rng(*seed):
    return np.random.default_rng(seed or 0)


def tokens_of(graph):
    """Codes in the order of the path, which the edges give."""
    nodes = graph.num_nodes
    assert graph.edge_index.tolist() == [list(range(nodes - 1)), list(range(1, nodes))]
    return graph.x[:, 0].long().tolist()


def columns(element):
    """[n, n] matrix that sends the basis vector e_i to e_element(i)."""
    out = np.zeros((len(element), len(element)))
    for i, image in enumerate(element):
        out[image, i] = 1
    return out


@pytest.mark.parametrize("degree", [3, 5])
def test_group(degree):
    every = list(permutations(range(degree)))
    assert list(elements(degree)) == every and every[0] == tuple(range(degree))
    table, inverse = product_table(degree), inverses(degree)
    for a in range(0, len(every), 7):
        for b in range(len(every)):
            product = columns(every[a]) @ columns(every[b])
            assert (columns(every[table[a, b]]) == product).all()
        assert (columns(every[inverse[a]]) == columns(every[a]).T).all()


def test_tokens_of_s5_are_of_all_classes_and_generate_it():
    def cycle_type(element):
        return sorted(map(len, nx.strongly_connected_components(nx.DiGraph(enumerate(element)))))

    types = [cycle_type(token) for token in S5_TOKENS]
    assert len({tuple(t) for t in types}) == len(types) == 7
    reflections = [5 - len(t) for t in types]
    assert sorted(reflections) == [0, 1, 2, 2, 3, 3, 4]
    for token, count in zip(S5_TOKENS, reflections):
        # A product of reflections and no fewer: the rank of A - 1.
        assert np.linalg.matrix_rank(columns(token) - np.eye(5)) == count
    found = {tuple(range(5))}
    while True:
        more = found | {tuple(a[i] for i in b) for a in found for b in S5_TOKENS}
        if more == found:
            break
        found = more
    assert len(found) == 120


@pytest.mark.parametrize("degree", [3, 5])
def test_words_are_products_of_matrices(degree):
    every = elements(degree)
    tokens = S5_TOKENS if degree == 5 else every
    for graph in word_graphs(rng(1), 40, (3, 30), degree):
        start, *codes = tokens_of(graph)
        assert start == len(tokens) and graph.class_y[0] == -1 and 3 <= len(codes) <= 30
        for length in range(1, len(codes) + 1):
            product = np.eye(degree)
            for code in codes[:length]:
                product = product @ columns(tokens[code])
            assert (columns(every[graph.class_y[length]]) == product).all()


def test_parity():
    for graph in parity_graphs(rng(2), 40, (3, 30)):
        bits = tokens_of(graph)
        assert graph.class_y.tolist() == [
            bits[: i + 1].count(1) % 2 for i in range(graph.num_nodes)
        ]


@pytest.mark.parametrize("sizes", [(3, 30), (8, 8)])
def test_arithmetic_is_that_of_eval(sizes):
    signs = "01234+-*"
    for graph in arithmetic_graphs(rng(3), 40, sizes):
        words = [signs[code] for code in tokens_of(graph)]
        assert all(word.isdigit() == (i % 2 == 0) for i, word in enumerate(words))
        assert graph.num_nodes % 2 == 1 and sizes[0] <= graph.num_nodes <= sizes[1] + 1
        assert (graph.class_y[1::2] == -1).all()
        for end in range(0, graph.num_nodes, 2):
            # Brackets from the left: ((a + b) * c) - d.
            text = "(" * (end // 2) + words[0]
            for i in range(1, end, 2):
                text += words[i] + words[i + 1] + ")"
            assert graph.class_y[end] == eval(text) % 5


def test_tree_words_are_products_along_the_path_from_the_root():
    every, deep = elements(3), []
    for graph in tree_word_graphs(rng(4), 60, (3, 20)):
        g = nx.DiGraph(graph.edge_index.T.tolist())
        assert nx.is_arborescence(g) and len(g) == graph.num_nodes
        (root,) = (node for node, degree in g.in_degree if degree == 0)
        assert graph.x[root, 0] == 6 and graph.class_y[root] == -1
        for node in set(g) - {root}:
            product = np.eye(3)
            for step in nx.shortest_path(g, root, node)[1:]:
                product = product @ columns(every[int(graph.x[step, 0])])
            assert (columns(every[graph.class_y[node]]) == product).all()
        deep.append(nx.dag_longest_path_length(g) / len(g))
    assert np.mean(deep) > 0.35


@pytest.mark.parametrize("at_nodes", [False, True])
def test_flat_connections_agree_along_all_paths(at_nodes):
    every, roots = elements(3), 0
    for graph in flat_graphs(rng(5), 40, (4, 12), at_nodes):
        g = nx.DiGraph()
        g.add_nodes_from(range(graph.num_nodes))
        if at_nodes:
            assert graph.edge_attr is None
            g.add_edges_from(graph.edge_index.T.tolist())
            middle = [n for n in g if graph.x[n, 0] >= 7]
            assert all(g.in_degree(n) == g.out_degree(n) == 1 for n in middle)
            assert (graph.class_y[middle] == -1).all()
            for n in middle:
                ((src, _),), ((_, dst),) = g.in_edges(n), g.out_edges(n)
                g.add_edge(src, dst, step=int(graph.x[n, 0]) - 7)
            g.remove_nodes_from(middle)
        else:
            for (src, dst), step in zip(graph.edge_index.T.tolist(), graph.edge_attr[:, 0]):
                g.add_edge(src, dst, step=int(step))
        assert nx.is_directed_acyclic_graph(g)
        sources = [node for node, degree in g.in_degree if degree == 0]
        roots += len(sources)
        for node in g:
            code, wanted = int(graph.x[node, 0]), graph.class_y[node]
            if node in sources:
                assert 1 <= code <= 6 and wanted == -1
                continue
            assert code == 0
            for source in sources:
                for steps in nx.all_simple_edge_paths(g, source, node):
                    product = columns(every[int(graph.x[source, 0]) - 1])
                    for edge in steps:
                        product = columns(every[g.edges[edge]["step"]]) @ product
                    assert (columns(every[wanted]) == product).all()
    assert roots > 45  # several sources in some of the 40 graphs


@pytest.mark.parametrize("at_nodes", [False, True])
def test_flat_graphs_of_sources_alone(at_nodes):
    graphs = flat_graphs(rng(6), 4000, (4, 4), at_nodes)
    empty = [graph for graph in graphs if graph.num_edges == 0]
    assert empty and all((graph.class_y == -1).all() for graph in empty)
    assert all((graph.class_y >= 0).any() for graph in graphs if graph.num_edges)
