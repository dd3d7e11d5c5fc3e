"""The other directed sets by definition; sizes, seeds and parts of all of them."""

from itertools import chain, pairwise

import networkx as nx
import numpy as np
import pytest
import torch

from datasets import InputError, longrange
from datasets.longrange_recall import compression_graphs, copy_graphs, recall_graphs
from datasets.longrange_states import circuit_graphs, dataflow_graphs
from datasets.longrange_tasks import COUNTS, TASKS
from tests.datasets.test_longrange_words import tokens_of

SIZES = (30, 12, 10)
#: Sets that are tested in the sizes that they are trained on.
SAME_SIZES = ("recall", "selective_copy", "compression")


def rng(*seed):
    return np.random.default_rng(seed or 0)


def test_recall():
    for graph in recall_graphs(rng(), 50, (4, 16)):
        codes, nodes = tokens_of(graph), graph.num_nodes
        pairs = nodes // 3
        known = dict(zip(codes[: 2 * pairs : 2], codes[1 : 2 * pairs : 2]))
        assert nodes % 3 == 0 and len(known) == pairs and 4 <= pairs <= 16
        assert sorted(codes[2 * pairs :]) == sorted(known) and max(known) < 32
        assert (graph.class_y[: 2 * pairs] == -1).all()
        asked = zip(codes[2 * pairs :], graph.class_y[2 * pairs :].tolist())
        assert all(known[key] == 32 + value for key, value in asked)


def test_selective_copy():
    for graph in copy_graphs(rng(1), 50, (40, 40)):
        codes = tokens_of(graph)
        kept = [code - 2 for code in codes if code > 1]
        assert len(codes) == 48 and len(kept) == 8 and codes[40:] == [1] * 8
        assert graph.class_y.tolist() == [-1] * 40 + kept


def test_compression():
    for graph in compression_graphs(rng(2), 20, (16, 16)):
        codes = tokens_of(graph)
        assert codes[-1] == 16 and max(codes[:-1]) < 16 and len(codes) == 17
        assert graph.class_y.tolist() == [*codes[:-1], -1]
        assert graph.root_index.tolist() == [16] and graph.position.tolist() == list(range(17))


def last_writes(g, codes, node, variable):
    """Values of the last write before ``node`` on each path that ends there; None for paths from a
    source without any write."""
    found = set()
    before = list(g.predecessors(node))
    for p in before:
        op, var, value = codes[p]
        if op == 0 and var == variable:
            found.add((p, value - 1))
        else:
            found |= last_writes(g, codes, p, variable)
    return found or {(None, None)}


def test_dataflow_has_one_reaching_definition():
    reads = joins = 0
    for graph in dataflow_graphs(rng(3), 40, (8, 20)):
        g = nx.DiGraph(graph.edge_index.T.tolist())
        assert nx.is_directed_acyclic_graph(g) and len(g) == graph.num_nodes
        assert sum(degree == 0 for _, degree in g.in_degree) == 1
        codes = graph.x.long().tolist()
        for node, wanted in enumerate(graph.class_y.tolist()):
            op, variable, value = codes[node]
            assert variable < 8 and (op == 1) == (wanted >= 0) == (value == 0)
            if op == 1:
                ((write, found),) = last_writes(g, codes, node, variable)
                assert write is not None and found == wanted
                reads += 1
                joins += g.in_degree(node) > 1
    assert reads > 150 and joins > 40


def test_circuits():
    gates, deep = [], []
    for graph in circuit_graphs(rng(4), 60, (8, 40)):
        g = nx.DiGraph()
        g.add_nodes_from(range(graph.num_nodes))
        g.add_edges_from(graph.edge_index.T.tolist())
        values = {}
        for node in nx.topological_sort(g):
            code, read = int(graph.x[node, 0]), [values[p] for p in g.predecessors(node)]
            assert len(read) == [0, 0, 1, 2, 2, 2][code]
            by_code = [False, True, not all(read), all(read), any(read), sum(read) == 1]
            values[node] = by_code[code]
            assert graph.class_y[node] == (int(values[node]) if code > 1 else -1)
            if code > 1:
                gates.append(values[node])
        depth = nx.dag_longest_path_length(g)
        assert depth <= max(2, len(g) // 5)
        deep.append(depth)
    assert 0.4 < np.mean(gates) < 0.6 and max(deep) == 8


@pytest.mark.parametrize("name", TASKS)
def test_parts(name):
    data = longrange.load(name, sizes=SIZES)
    again, other = longrange.load(name, sizes=SIZES), longrange.load(name, sizes=SIZES, seed=1)
    wanted = dict(zip(longrange.SPLITS, SIZES))
    if TASKS[name].long:
        wanted["long"] = 2
    assert {part: len(graphs) for part, graphs in data.parts.items()} == wanted
    for part, graphs in data.parts.items():
        for graph, same in zip(graphs, again.parts[part], strict=True):
            assert set(graph.keys()) == set(same.keys())
            assert all(torch.equal(graph[key], same[key]) for key in graph.keys())  # noqa: SIM118
        assert any(
            graph.x.shape != found.x.shape or not torch.equal(graph.x, found.x)
            for graph, found in zip(graphs, other.parts[part])
        )
        for graph in graphs:
            assert graph.x.dtype == torch.float32 and graph.class_y.dtype == torch.int64
            assert graph.edge_index.is_contiguous() and graph.class_y.shape == (graph.num_nodes,)
            assert 0 <= graph.x.min() <= graph.x.max() < data.codes
            assert -1 <= graph.class_y.min() <= graph.class_y.max() < TASKS[name].classes
            if data.edge_codes:
                assert graph.edge_attr.shape == (graph.num_edges, 1)
                assert 0 <= graph.edge_attr.min() <= graph.edge_attr.max() < data.edge_codes
    assert data.directed and data.targets == (
        longrange.Target("class", "node_class", classes=TASKS[name].classes),
    )


@pytest.mark.parametrize("name", TASKS)
def test_sizes_of_train_and_test_do_not_overlap(name):
    task = TASKS[name]
    ranges = [task.train, task.test, *([task.long] if task.long else [])]
    if name in SAME_SIZES:
        assert task.test[1] == task.train[1] and task.long is None
    else:
        assert all(small[1] < large[0] for small, large in pairwise(ranges))
        assert task.test[1] == 2 * task.train[1]
    data = longrange.load(name, sizes=(60, 20, 60))
    if name in ("recall", "words_s3_flat_nodes"):  # sizes are those of pairs; of nodes of the DAG

        def size(graph):
            codes = graph.x[:, 0]
            return graph.num_nodes // 3 if name == "recall" else int((codes < 7).sum())
    else:
        extra = {"selective_copy": 8, **dict.fromkeys(("compression", "words_s3", "words_s5"), 1)}
        extra = extra.get(name, 0)

        def size(graph):
            return graph.num_nodes - extra

    for part, (low, high) in zip(data.parts, (task.train, *ranges)):
        sizes = [size(graph) for graph in data.parts[part]]
        assert low <= min(sizes) and max(sizes) <= high


@pytest.mark.parametrize("name", TASKS)
def test_no_graph_of_test_is_trained_on(name):
    data = longrange.load(name, sizes=(300, 50, 50))

    def content(graph):
        return tuple(chain.from_iterable(graph[key].flatten().tolist() for key in ("x", "class_y")))

    assert not {*map(content, data.parts["train"])} & {*map(content, data.parts["test"])}


def test_counts():
    data = longrange.load("parity")
    assert [len(graphs) for graphs in data.parts.values()] == [*COUNTS, 80]
    nodes = [{graph.num_nodes for graph in graphs} for graphs in data.parts.values()]
    assert nodes[0] == nodes[1] == set(range(3, 41)) and nodes[2] == set(range(41, 81))


def test_unknown_name_lists_all():
    with pytest.raises(InputError, match=r"tree_DEPTH, parity, .*circuits, got 'words_s4'"):
        longrange.load("words_s4")
