import copy
import pickle

import pytest
import torch
from torch_geometric import EdgeIndex
from torch_geometric.data import Batch, Data, InMemoryDataset
from torch_geometric.loader import DataLoader, NeighborLoader
from torch_geometric.transforms import AddSelfLoops
from torch_geometric.utils import to_undirected

from plstm_graph import LineGraph
from plstm_graph.data import STORED_KEYS, LineGraphData, line_graph_from_data
from plstm_graph.transforms import LineGraphCollater, ToLineGraph, redraw, to_line_graphs


def plain_graphs() -> list[Data]:
    """Rings, paths, a DAG, one without edges, one without nodes, parallel edges; L = N = E too."""
    generator = torch.Generator().manual_seed(0)
    edges = {
        "ring": (to_undirected(torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]])), 4),
        "path": (to_undirected(torch.tensor([[0, 1, 2], [1, 2, 3]])), 5),
        "dag": (torch.tensor([[2, 2, 1, 0], [1, 0, 3, 3]]), 4),
        "lonely": (torch.empty(2, 0, dtype=torch.int64), 3),
        "nothing": (torch.empty(2, 0, dtype=torch.int64), 0),
        "parallel": (torch.tensor([[0, 1, 0, 1], [1, 0, 1, 0]]), 2),
        "braid": (torch.tensor([[0, 0, 1, 1], [1, 1, 2, 2]]), 4),  # E = L = N = 4 columns
    }
    return [
        Data(
            x=torch.randn(n, 3, generator=generator),
            edge_index=e,
            edge_attr=torch.randn(e.size(1), 2, generator=generator),
            y=torch.tensor([float(i)]),
            name=name,
        )
        for i, (name, (e, n)) in enumerate(edges.items())
    ]


@pytest.fixture
def graphs() -> list[LineGraphData]:
    return [ToLineGraph()(data) for data in plain_graphs()]


PARTS = ("edge_index", "line_index", "edge_id", "opposite_id", "node_rank", "level")


def assert_same_line_graph(a: Data, b: Data) -> None:
    a, b = LineGraph.from_data(a), LineGraph.from_data(b)
    for name in PARTS:
        one, two = getattr(a, name), getattr(b, name)
        assert one is two is None or torch.equal(one, two), name
    assert torch.equal(a.multitree().line_id, b.multitree().line_id)


def assert_same(a: Data, b: Data) -> None:
    assert type(a) is type(b) and set(a.keys()) == set(b.keys())
    for key in list(a.keys()):
        if isinstance(a[key], torch.Tensor):
            assert torch.equal(a[key], b[key]), key
            assert a[key].dtype == b[key].dtype
        else:
            assert a[key] == b[key]


def assert_line_graph(data: Data, batch: torch.Tensor | None) -> None:
    got = LineGraph.from_data(data).validate()
    features = {"x": data.get("x"), "edge_attr": data.get("edge_attr")}
    expected = LineGraph.from_edge_index(data.edge_index, data.num_nodes, batch=batch, **features)
    for name in ("edge_index", "line_index", "edge_id", "level", "node_rank"):
        assert torch.equal(getattr(got, name), getattr(expected, name)), name
    assert (got.opposite_id is None) == (expected.opposite_id is None)
    if expected.opposite_id is not None:
        assert torch.equal(got.opposite_id, expected.opposite_id)
        assert torch.equal(got.two_way().line_index, expected.two_way().line_index)
    assert torch.equal(got.multitree().line_id, expected.multitree().line_id)
    assert got.num_nodes == expected.num_nodes


def test_single_graphs(graphs):
    for graph in graphs:
        assert_line_graph(graph, None)


def test_batch_is_the_line_graph_of_the_union(graphs):
    batch = Batch.from_data_list(graphs)
    assert isinstance(batch, LineGraphData)
    assert_line_graph(batch, batch.batch)
    assert torch.equal(LineGraph.from_data(batch).node_batch, batch.batch)
    for again, graph in zip(batch.to_data_list(), graphs):
        assert_same(again, graph)


def test_batch_of_batches(graphs):
    batch = Batch.from_data_list(
        [Batch.from_data_list(graphs[:3]), Batch.from_data_list(graphs[3:])]
    )
    flat = Batch.from_data_list(graphs)
    assert torch.equal(batch.edge_index, flat.edge_index)
    assert_same_line_graph(batch, flat)


def test_multitree_is_not_recomputed(graphs, monkeypatch):
    batch = Batch.from_data_list(graphs)
    monkeypatch.setattr("plstm_graph.dag.multitree._prune", None)
    line_id = (batch.dag_lines[1] == 1).nonzero().view(-1)
    assert torch.equal(LineGraph.from_data(batch).reverse().multitree().line_id, line_id)
    assert torch.equal(LineGraph.from_data(batch).multitree().line_id, line_id)


def test_parts_read_alike_from_graphs_and_batches(graphs):
    batch = Batch.from_data_list(graphs)
    for data in (batch[0], batch.index_select([2, 0])[1]):
        assert_same_line_graph(data, graphs[0])
    assert "dag_columns=[6, " in repr(batch) and "level" not in repr(batch)


@pytest.mark.parametrize(
    "build",
    [
        lambda graphs: Batch.from_data_list([ToLineGraph()(data) for data in graphs]),
        lambda graphs: Batch.from_data_list(to_line_graphs(graphs)),
        lambda graphs: ToLineGraph()(Batch.from_data_list(graphs)),
        LineGraphCollater("canonical"),
        lambda graphs: redraw(Batch.from_data_list(graphs), 0),
    ],
    ids=["transform", "many", "batch", "collater", "redraw"],
)
def test_names_of_users_are_theirs(build):
    """Attributes that are called as the parts of a line graph stay what they were."""
    names = (
        *PARTS[1:],
        "dag_edge_index",
        "multitree_mask",
        "direction",
        "line_graph",
        "num_levels",
    )
    graphs = plain_graphs()
    for i, data in enumerate(graphs):
        for name in names:
            data[name] = torch.full((data.num_nodes,), float(i))
        data.num_nodes = data.x.size(0)  # PyG may take it from a name with "node"
    batch = build(graphs)
    for name in names:
        expected = torch.cat([data[name] for data in graphs])
        if "index" in name:
            expected = expected + batch.ptr[:-1][batch.batch]  # as PyG collates them
        assert torch.equal(batch[name], expected), name
        for one, data in zip(batch.to_data_list(), graphs):
            assert torch.equal(one[name], data[name]), name
    plain = ToLineGraph()(graphs[0])
    assert torch.equal(plain.level, graphs[0].level)
    LineGraph.from_data(batch).validate()


def test_opposites_in_graphs_and_batches(graphs):
    batch = Batch.from_data_list(graphs)
    for data in (*graphs, batch):
        graph = LineGraph.from_data(data)
        if graph.opposite_id is None:
            assert data.name in ("dag", "lonely", "nothing", "braid")
            continue
        known = graph.opposite_id >= 0
        opposite = data.edge_index[:, graph.opposite_id[known]]
        assert torch.equal(opposite, graph.edge_index[:, known].flip(0))
    directed = [name in ("dag", "braid") for name in batch.name]
    of_edge = torch.tensor(directed)[batch.batch[graph.edge_index[0]]]
    assert torch.equal(graph.opposite_id < 0, of_edge)


def test_increments_of_other_keys_and_follow_batch(graphs):
    for graph in graphs:
        graph.node_index = torch.arange(graph.num_nodes)
    batch = Batch.from_data_list(graphs, follow_batch=["dag_lines"], exclude_keys=["name"])
    assert torch.equal(batch.node_index, torch.arange(batch.num_nodes))
    of_line = batch.batch[LineGraph.from_data(batch).line_node]
    assert torch.equal(batch.dag_lines_batch, of_line) and "name" not in batch
    with pytest.raises(ValueError, match="without dag_lines"):
        LineGraph.from_data(Batch.from_data_list(graphs, exclude_keys=["dag_lines"]))


def test_edge_index_of_pyg(graphs):
    data = plain_graphs()[0]
    data.edge_index = EdgeIndex(data.edge_index, sparse_size=(4, 4))
    data = ToLineGraph()(data)
    first = LineGraph.from_data(graphs[0])
    assert type(LineGraph.from_data(data).edge_index) is torch.Tensor
    assert_same_line_graph(data, graphs[0])
    batch = LineGraph.from_data(Batch.from_data_list([data, data]))
    assert torch.equal(batch.edge_index[:, 4:], first.edge_index + 4)


def test_first_read_in_inference_mode_serves_training(graphs):
    batch = Batch.from_data_list(graphs)
    with torch.inference_mode():
        line_graph = line_graph_from_data(batch)
    assert not any(getattr(line_graph, name).is_inference() for name in PARTS)
    weight = torch.ones(line_graph.num_nodes, requires_grad=True)
    weight[line_graph.edge_index[0]].prod().backward()


@pytest.mark.parametrize("workers", [0, 2])
def test_loader(graphs, workers):
    whole = Batch.from_data_list(graphs)
    loader = DataLoader(graphs, batch_size=4, num_workers=workers)
    batches = list(loader)
    assert [b.num_graphs for b in batches] == [4, 3]
    for batch in batches:
        assert_line_graph(batch, batch.batch)
    split = [graph for batch in batches for graph in batch.to_data_list()]
    assert_same(Batch.from_data_list(split), whole)


def test_line_graph_is_cached_until_a_tensor_changes(graphs):
    batch = Batch.from_data_list(graphs)
    first = line_graph_from_data(batch)
    assert line_graph_from_data(batch) is first
    assert line_graph_from_data(copy.copy(batch)) is first
    assert line_graph_from_data(copy.deepcopy(batch)) is not first
    batch.x = batch.x * 2
    assert line_graph_from_data(batch) is first
    batch.edge_index = batch.edge_index.clone()
    second = line_graph_from_data(batch)
    assert second is not first
    batch.edge_index[:, 0] = 3
    with pytest.raises(ValueError, match="apply ToLineGraph last"):
        line_graph_from_data(batch)


@pytest.mark.parametrize("name", ["edge_index", "line_index", "edge_id"])
def test_a_line_graph_changed_in_place_is_built_anew(graphs, name):
    batch = Batch.from_data_list(graphs)
    first = LineGraph.from_data(batch)
    getattr(first, name).fill_(0)
    assert LineGraph.from_data(batch) is not first
    assert_line_graph(batch, batch.batch)


def test_to_device_builds_anew(graphs):
    batch = Batch.from_data_list(graphs)
    first = line_graph_from_data(batch)
    clone = batch.clone().apply(lambda t: t.clone(), *STORED_KEYS)
    assert line_graph_from_data(clone) is not first
    assert_same_line_graph(clone, batch)
    meta = batch.to("meta")
    assert {meta[key].device.type for key in STORED_KEYS} == {"meta"}


def test_pickle_leaves_the_cache_out(graphs):
    for data in (graphs[0], Batch.from_data_list(graphs)):
        size = len(pickle.dumps(data))
        first = line_graph_from_data(data)
        # A few bytes for an empty cache, not the graph.
        assert len(pickle.dumps(data)) < size + 200
        again = pickle.loads(pickle.dumps(data))
        assert_same(again, data)
        assert line_graph_from_data(again) is not first
        assert_line_graph(again, again.get("batch"))


def test_saves_and_loads(graphs, tmp_path):
    for data in (graphs[0], Batch.from_data_list(graphs)):
        first = line_graph_from_data(data)
        torch.save(data, tmp_path / "data.pt")
        # For weights_only=True: nothing of this package is in the way (some of PyG's is).
        unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(tmp_path / "data.pt")
        assert not any(name.startswith("plstm_graph") for name in unsafe)
        again = torch.load(tmp_path / "data.pt", weights_only=False)
        assert_same(again, data)
        assert line_graph_from_data(again) is not first
        assert_same_line_graph(again, data)


def test_in_memory_dataset(graphs, tmp_path):
    graphs = graphs[:4]
    InMemoryDataset.save(graphs, tmp_path / "data.pt")

    class Stored(InMemoryDataset):
        def __init__(self):
            super().__init__()
            self.load(tmp_path / "data.pt", data_cls=LineGraphData)

    stored = Stored()
    for i, graph in enumerate(graphs):
        assert_same_line_graph(stored[i], graph)
        assert_line_graph(stored[i], None)
    assert_line_graph(
        next(iter(DataLoader(stored, batch_size=4))), Batch.from_data_list(graphs).batch
    )


def test_line_graph_is_neither_node_nor_edge_attribute(graphs):
    for graph in graphs:
        for key in STORED_KEYS:
            assert not graph.is_node_attr(key) and not graph.is_edge_attr(key)
    assert graphs[-1].is_node_attr("x") and graphs[-1].is_edge_attr("edge_attr")


def test_constructor_takes_what_data_takes():
    data = LineGraphData(torch.ones(2, 1), torch.tensor([[0], [1]]), name="a")
    assert data.num_nodes == 2 and data.num_edges == 1 and data.name == "a"
    assert LineGraphData(num_nodes=7).num_nodes == 7
    data = LineGraphData(edge_index=torch.tensor([[0], [1]]))
    data.num_nodes = 3
    assert data.num_nodes == 3


STALE = {
    "subgraph": lambda g: g.subgraph(torch.tensor([0, 1, 2])),
    "edge_subgraph": lambda g: g.edge_subgraph(torch.arange(g.num_edges) > 0),
    "self_loops": AddSelfLoops(),
    "sampled": lambda g: next(iter(NeighborLoader(g, [1], batch_size=1))),
    "renumbered": lambda g: g.update({"edge_index": g.edge_index.flip(1)}),
    "concatenated": lambda g: g.concat(g),
    "joined elsewhere": lambda g: g.update({"edge_index": g.edge_index + torch.arange(8) // 4}),
    "fewer nodes": lambda g: g.update({"x": g.x[:3]}),
}


@pytest.mark.parametrize("change", STALE.values(), ids=STALE)
def test_stale_line_graph_raises(graphs, change):
    ring = graphs[0]
    if change is STALE["sampled"]:
        pytest.importorskip("pyg_lib")
    del ring.name  # PyG cannot concatenate it
    line_graph_from_data(ring)
    with pytest.raises(ValueError, match=r"changed after ToLineGraph.*from_edge_index"):
        line_graph_from_data(change(ring))


def test_shifted_nodes_keep_the_line_graph(graphs):
    dag = graphs[2]
    for data in (dag, ToLineGraph()(Data(edge_index=dag.edge_index + 2, num_nodes=6))):
        keep = torch.arange(data.num_nodes) >= data.edge_index.min()
        assert_line_graph(data.subgraph(keep), None)


def test_changed_lines_raise(graphs):
    graphs[0].dag_lines = graphs[0].dag_lines[:, 1:]
    with pytest.raises(ValueError, match=r"changed after ToLineGraph"):
        line_graph_from_data(graphs[0])


def test_no_line_graph_raises():
    with pytest.raises(ValueError, match=r"without dag_columns; apply plstm_graph.ToLineGraph"):
        line_graph_from_data(plain_graphs()[0])
    with pytest.raises(ValueError, match="without edge_index"):
        line_graph_from_data(Data(x=torch.ones(2, 1)))
