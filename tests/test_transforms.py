import copy

import pytest
import torch
from torch.utils.data import DataLoader
from torch_geometric.data import Batch, Data
from torch_geometric.loader import DataLoader as PyGDataLoader
from torch_geometric.utils import to_undirected

from plstm_graph import LineGraph
from plstm_graph.dag.orient import DRAWN, ORIENTATIONS
from plstm_graph.dag.packed import UNKNOWN
from plstm_graph.data import STORED_KEYS, LineGraphData
from plstm_graph.transforms import LineGraphCollater, ToLineGraph, redraw, to_line_graphs
from tests.test_data import (
    assert_line_graph,
    assert_same,
    assert_same_line_graph,
    plain_graphs,
)

FIXED = [name for name in ORIENTATIONS if name not in DRAWN]


def big_ring(size: int = 40) -> Data:
    node = torch.arange(size)
    return Data(
        x=node[:, None].float(), edge_index=to_undirected(torch.stack([node, node.roll(1)]))
    )


def ranks_of(data: Data) -> list[int]:
    return LineGraph.from_data(data).node_rank.tolist()


def kept(data: Data) -> tuple[int, ...]:
    return tuple(LineGraph.from_data(data).edge_id.tolist())


@pytest.mark.parametrize("orientation", FIXED)
def test_transform_is_from_edge_index(orientation):
    for data in plain_graphs():
        keys = set(data.keys())
        out = ToLineGraph(orientation)(data)
        assert isinstance(out, LineGraphData) and set(data.keys()) == keys
        assert set(out.keys()) == keys | set(STORED_KEYS)
        features = {"x": data.x, "edge_attr": data.edge_attr}
        expected = LineGraph.from_edge_index(
            data.edge_index, data.num_nodes, orientation, **features
        )
        got = LineGraph.from_data(out).validate()
        assert torch.equal(got.edge_id, expected.edge_id)
        assert (got.opposite_id is None) == (expected.opposite_id is None)
        assert got.opposite_id is None or torch.equal(got.opposite_id, expected.opposite_id)
        assert torch.equal(got.line_index, expected.line_index)
        assert torch.equal(got.multitree().line_id, expected.multitree().line_id)
        assert torch.equal(got.level, expected.level)
        assert torch.equal(out.x, data.x) and torch.equal(out.edge_attr, data.edge_attr)


@pytest.mark.parametrize("chunk_size", [1, 3, 1000])
@pytest.mark.parametrize("orientation", FIXED)
def test_chunks_are_the_transform(orientation, chunk_size):
    graphs = [*plain_graphs(), big_ring(9)]
    transform = ToLineGraph(orientation)
    out = to_line_graphs(graphs, orientation, chunk_size=chunk_size)
    for data, got in zip(graphs, out, strict=True):
        assert_same(got, transform(data))
        for key in STORED_KEYS:
            assert got[key].is_contiguous() and got[key].dtype == torch.int32
            assert got[key].untyped_storage().nbytes() == got[key].nbytes
    assert to_line_graphs([]) == []


def test_stored_ranks_are_used():
    graphs = [big_ring(6), big_ring(5)]
    graphs[0].num_nodes, graphs[1].num_nodes = 6, 5
    graphs[0].my_rank = torch.tensor([5, 4, 3, 2, 1, 0])
    # Breadth first from node 0, which has the least x; without x from node 5, of the least rank.
    for x, ranks in ((graphs[0].x, [0, 1, 3, 5, 4, 2]), (None, [2, 4, 5, 3, 1, 0])):
        graphs[0].x = x
        assert ranks_of(ToLineGraph(rank="my_rank")(graphs[0])) == ranks
    mixed = to_line_graphs(graphs, "canonical", rank="my_rank")
    assert ranks_of(mixed[0]) == ranks
    assert_same(mixed[1], ToLineGraph("canonical")(graphs[1]))
    graphs[1].my_rank = torch.tensor([0, 4, 1, 3, 2])
    transform = ToLineGraph("canonical", rank="my_rank")
    for data, got in zip(graphs, to_line_graphs(graphs, "canonical", rank="my_rank")):
        assert_same(got, transform(data))
    graphs[0].x = torch.zeros(6, 1)
    batch = LineGraphCollater("canonical", rank="my_rank")(graphs)
    for got, data in zip(batch.to_data_list(), graphs):
        assert_same_line_graph(got, transform(data))


@pytest.mark.parametrize("orientation", FIXED)
def test_collater_is_the_transform_and_the_loader(orientation):
    graphs = plain_graphs()
    got = LineGraphCollater(orientation)(graphs)
    expected = Batch.from_data_list([ToLineGraph(orientation)(data) for data in graphs])
    assert type(got) is type(expected) and set(got.keys()) == set(expected.keys())
    for key in ("x", "edge_index", "edge_attr", "batch", "ptr", "dag_columns"):
        assert torch.equal(got[key], expected[key]), key
    assert_same_line_graph(got, expected)
    # The multitree of a batch that is read once is made when it is asked for.
    assert torch.equal(got.dag_lines[0], expected.dag_lines[0])
    assert (got.dag_lines[1] == UNKNOWN).all() and not (expected.dag_lines[1] == UNKNOWN).any()
    # What the collater had at hand is what would be read from the stored tensors.
    again = LineGraph.from_data(copy.deepcopy(got))
    assert again is not LineGraph.from_data(got) is got.__dict__["_line_graph"].line_graph
    for key in ("edge_index", "line_index", "edge_id", "level", "line_node", "node_batch"):
        assert torch.equal(getattr(again, key), getattr(LineGraph.from_data(got), key)), key
    assert torch.equal(again.multitree().line_id, LineGraph.from_data(got).multitree().line_id)
    for a, b in zip(got.to_data_list(), expected.to_data_list(), strict=True):
        a.dag_lines[1] = b.dag_lines[1]
        assert_same(a, b)
    # Graphs that have a line graph get a new one.
    again = LineGraphCollater(orientation)(expected.to_data_list())
    assert_same_line_graph(again, expected)


def test_multitree_of_a_collated_batch_is_made_when_it_is_read():
    graphs = [data for data in plain_graphs() if data.num_edges]
    expected = Batch.from_data_list([ToLineGraph("bfs")(data) for data in graphs])
    line_id, collate = LineGraph.from_data(expected).multitree().line_id, LineGraphCollater("bfs")
    batches = [collate(graphs) for _ in range(2)]
    LineGraph.from_data(batches[1]).reverse().multitree()  # the reverse asks first
    halves = collate(graphs[:2]).to_data_list(), expected.to_data_list()[2:]
    batches.append(Batch.from_data_list([*halves[0], *halves[1]]))
    for batch in (*batches, copy.deepcopy(batches[0])):
        assert torch.equal(LineGraph.from_data(batch).multitree().line_id, line_id)


def test_transform_of_a_batch():
    plain = Batch.from_data_list(plain_graphs())
    batch = ToLineGraph()(plain)
    assert_line_graph(batch, batch.batch)
    assert "dag_lines" not in plain and len(batch.to_data_list()) == plain.num_graphs


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_graphs_without_x_keep_their_sizes(orientation):
    graphs = [Data(edge_index=torch.tensor([[0], [1]]), num_nodes=n) for n in (3, 2)]
    batches = [
        LineGraphCollater(orientation)(graphs),
        ToLineGraph(orientation)(Batch.from_data_list(graphs)),
        Batch.from_data_list([ToLineGraph(orientation)(data) for data in graphs]),
        Batch.from_data_list(to_line_graphs(graphs, orientation)),
    ]
    for batch in batches:
        assert [g.num_nodes for g in batch.to_data_list()] == [3, 2]
        assert LineGraph.from_data(batch).edge_index.tolist() == [[0, 3], [1, 4]]
        assert LineGraph.from_data(batch).validate().num_nodes == 5


def test_features_of_some_graphs_orient_these():
    """x of other widths and dtypes, or of some graphs alone: as each graph is oriented alone."""
    graphs = [big_ring(size) for size in (5, 6, 7, 8)]
    graphs[1].x = graphs[1].x.repeat(1, 2)
    graphs[2].x = graphs[2].x.long()
    graphs[3].x, graphs[3].num_nodes = None, 8
    for some in (graphs, graphs[:2], graphs[::2], graphs[::3]):
        for data, got in zip(some, to_line_graphs(some)):
            assert_same(got, ToLineGraph()(data))
            again = LineGraph.from_edge_index(data.edge_index, data.num_nodes, x=data.x)
            assert torch.equal(LineGraph.from_data(got).edge_id, again.edge_id)
    # The two columns of one edge, with different features: either decides, whichever comes first.
    pair = torch.tensor([[0, 1], [1, 0]])
    mirrored = [Data(edge_index=pair, edge_attr=attr, num_nodes=2) for attr in torch.eye(2)]
    assert sorted(kept(data) for data in to_line_graphs(mirrored)) == [(0,), (1,)]


@pytest.mark.parametrize("name", DRAWN)
def test_draws_are_new_and_seeded(name):
    data = big_ring(400)  # random_bfs has as many DAGs of a ring as there are nodes
    transform, same = ToLineGraph(name, seed=3), ToLineGraph(name, seed=3)
    draws = [kept(transform(data)) for _ in range(5)]
    assert len(set(draws)) == 5
    assert draws == [kept(same(data)) for _ in range(5)]
    assert kept(ToLineGraph(name, seed=4)(data)) != draws[0]
    torch.manual_seed(0)
    free = kept(ToLineGraph(name)(data))
    torch.manual_seed(0)
    assert free == kept(ToLineGraph(name)(data)) != kept(ToLineGraph(name)(data))
    many = to_line_graphs([data] * 5, name, seed=3)
    assert len({kept(graph) for graph in many}) > 2


class Rings(torch.utils.data.Dataset):
    def __init__(self, transform=None):
        self.transform = transform

    def __len__(self):
        return 6

    def __getitem__(self, i):
        return big_ring() if self.transform is None else self.transform(big_ring())


@pytest.mark.parametrize("seed", [None, 7])
@pytest.mark.parametrize("how", ["transform", "collater"])
def test_workers_and_epochs_do_not_repeat(how, seed):
    def epochs():
        torch.manual_seed(5)
        options = {"batch_size": 3, "num_workers": 2}
        if how == "transform":
            loader = PyGDataLoader(Rings(ToLineGraph("random", seed=seed)), **options)
        else:
            collate = LineGraphCollater("random", seed=seed)
            loader = DataLoader(Rings(), collate_fn=collate, **options)
        return [kept(g) for _ in range(2) for batch in loader for g in batch.to_data_list()]

    first = epochs()
    assert len(first) == 12 == len(set(first))
    assert first == epochs()


@pytest.mark.parametrize("name", DRAWN)
def test_redraw(name):
    graphs = plain_graphs()
    batch = Batch.from_data_list([ToLineGraph()(g) for g in graphs])
    before = kept(batch)
    LineGraph.from_data(batch)
    one, two = redraw(batch, 1, name), redraw(batch, 2, name)
    assert kept(batch) == before
    assert kept(one) == kept(redraw(batch, 1, name)) != kept(two)
    LineGraph.from_data(one).validate()
    split = one.to_data_list()
    assert kept(split[2]) == (0, 1, 2, 3)  # the DAG stays
    for graph in split:
        LineGraph.from_data(graph).validate()
    assert kept(redraw(big_ring(400), 1, name)) != kept(redraw(big_ring(400), 2, name))


def test_own_data_class():
    class Mine(LineGraphData):
        pass

    class Other(Data):
        pass

    ring = big_ring()
    assert type(ToLineGraph()(Mine(**ring.to_dict()))) is Mine
    other = Other(**ring.to_dict())
    with pytest.raises(TypeError, match=r"derived from plstm_graph.data.LineGraphData, got Other"):
        ToLineGraph()(other)
    with pytest.raises(TypeError, match="got Other"):
        LineGraphCollater()([other])


def test_bad_input():
    with pytest.raises(ValueError, match="got 'sideways'"):
        ToLineGraph("sideways")
    with pytest.raises(ValueError, match="one of 'random', 'random_bfs', got 'canonical'"):
        redraw(big_ring(), orientation="canonical")
    with pytest.raises(ValueError, match="orientation='canonical', rank="):
        ToLineGraph(torch.arange(3))
    for x, got in ((torch.ones(3, 1), r"\[3, 1\]"), ([1, 2], "list")):
        ring = Data(x=x, edge_index=torch.tensor([[0, 1], [1, 0]]), num_nodes=2)
        for build in (ToLineGraph(), lambda d: to_line_graphs([d])):
            with pytest.raises(ValueError, match=rf"x as a tensor \[2, \*\], got {got}"):
                build(ring)
    with pytest.raises(ValueError, match="edge_index as a dense int64 tensor"):
        ToLineGraph()(Data(x=torch.ones(2, 1)))
    with pytest.raises(ValueError, match=r"got torch.int32 \[2, 1\]"):
        ToLineGraph()(Data(edge_index=torch.tensor([[0], [1]]).int(), num_nodes=2))
    good, bad = (Data(edge_index=torch.tensor([[0], [n]]), num_nodes=2) for n in (1, 2))
    for build in (ToLineGraph(), lambda d: to_line_graphs([d, good])):
        with pytest.raises(
            ValueError, match=r"between 0 and 1 \(2 nodes\), got values from 0 to 2"
        ):
            build(bad)
    with pytest.raises(ValueError, match="self-loops"):
        to_line_graphs([good, Data(edge_index=torch.tensor([[1], [1]]), num_nodes=2)])


def test_defaults():
    assert LineGraphCollater().orientation == "random_bfs"
    assert ToLineGraph().orientation == "canonical"
    assert kept(redraw(big_ring(), 1)) == kept(redraw(big_ring(), 1, "random_bfs"))


def test_repr():
    assert repr(ToLineGraph("random", seed=1)) == "ToLineGraph(orientation='random', seed=1)"
