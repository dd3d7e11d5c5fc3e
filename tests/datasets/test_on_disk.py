"""Molecules on disk are those in memory: one by one, in batches, by workers, all of molhiv."""

import pickle
import shutil

import pytest
import torch
from torch_geometric.data import Batch, Data
from torch_geometric.loader import DataLoader

import datasets
from datasets import InputError
from datasets.on_disk import SCHEMA, OnDiskMolecules
from plstm_graph import LineGraph, to_line_graphs
from plstm_graph.dag.molecule import from_smiles
from plstm_graph.transforms import LineGraphCollater


@pytest.fixture(scope="module")
def graphs():
    graphs = [from_smiles("C" * n + end) for n in range(1, 7) for end in ("", "O", "c1ccccc1")]
    for i, graph in enumerate(graphs):
        graph.y = torch.tensor([i / 2])
    return graphs


@pytest.fixture(scope="module")
def folder(graphs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("disk") / "molecules"
    stream = (graph for graph in graphs)  # as if they did not fit
    assert len(OnDiskMolecules.build(folder, stream, chunk_size=5)) == len(graphs)
    return folder


def assert_same(found, expected):
    for key in SCHEMA:
        assert found[key].dtype == expected[key].dtype, key
        assert torch.equal(found[key], expected[key]), key


def test_each_molecule(graphs, folder):
    dataset, expected = OnDiskMolecules(folder), to_line_graphs(graphs, "canonical")
    assert len(dataset) == len(graphs)
    for i, graph in enumerate(expected):  # the first one is methane, without an edge
        assert_same(dataset[i], graph)


@pytest.mark.parametrize(
    "indices",
    [[3, 0, 3], [5], [], torch.tensor([2, 1]), torch.tensor([2]), range(4, 8), slice(2, None, 4)],
    ids=str,
)
def test_multi_get(graphs, folder, indices):
    dataset, expected = OnDiskMolecules(folder), to_line_graphs(graphs, "canonical")
    found = dataset.multi_get(indices)
    rows = torch.arange(len(graphs))[indices].tolist() if len(graphs) else []
    assert len(found) == len(rows)
    for graph, row in zip(found, rows):
        assert_same(graph, expected[row])


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_equal_those_from_memory(graphs, folder, workers):
    dataset, memory = OnDiskMolecules(folder), to_line_graphs(graphs, "canonical")
    assert_same(dataset[0], memory[0])  # the connection of this process stays its own
    loaders = [DataLoader(memory, 7), DataLoader(dataset, 7, num_workers=workers)]
    for expected, found in zip(*loaders, strict=True):
        assert_same(found, expected)
        assert torch.equal(found.batch, expected.batch)
        theirs, ours = LineGraph.from_data(expected), LineGraph.from_data(found)
        assert torch.equal(theirs.line_index, ours.line_index)


def test_orientations_can_be_drawn_anew(graphs, folder):
    loader = torch.utils.data.DataLoader(
        OnDiskMolecules(folder), len(graphs), collate_fn=LineGraphCollater("random")
    )
    drawn = {str(LineGraph.from_data(next(iter(loader))).edge_index.tolist()) for _ in range(3)}
    assert len(drawn) > 1


def test_pickled_and_transformed(graphs, folder):
    dataset = OnDiskMolecules(folder, transform=_mark)
    assert dataset[1].marked
    again = pickle.loads(pickle.dumps(dataset))  # as workers that are spawned get it
    assert again[1].marked and len(again[2:5]) == 3
    assert all(graph.marked for graph in again.multi_get([1, 2]))


def _mark(data):
    data.marked = True
    return data


def test_what_is_read_may_be_changed(folder):
    dataset = OnDiskMolecules(folder)
    graph = dataset[3]
    graph.y += 1
    assert dataset[3].y == graph.y - 1


def test_missing_and_existing_folder(graphs, folder, tmp_path):
    with pytest.raises(InputError, match=r"got .*; write them there with OnDiskMolecules.build"):
        OnDiskMolecules(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    with pytest.raises(InputError, match="which exists; remove it"):
        OnDiskMolecules.build(folder, graphs)


def test_interrupted_build_leaves_nothing(graphs, tmp_path):
    def stream():
        yield from graphs
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        OnDiskMolecules.build(tmp_path / "new", stream(), chunk_size=4)
    assert list(tmp_path.iterdir()) == []


def test_the_real_error_is_reported(graphs, tmp_path, monkeypatch):
    """Whatever is missing where a failed call tidies up."""

    def stream():
        yield from graphs
        for folder in tmp_path.iterdir():
            shutil.rmtree(folder)
        raise RuntimeError("the source ran dry")

    with pytest.raises(RuntimeError, match="the source ran dry"):
        OnDiskMolecules.build(tmp_path / "new", stream(), chunk_size=4)
    # The folder cannot be made at all.
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        OnDiskMolecules.build(tmp_path / "file" / "new", graphs)
    # The database fails to open, and then has nothing to close.
    monkeypatch.setattr(OnDiskMolecules, "_open", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        OnDiskMolecules.build(tmp_path / "new", graphs)


def test_arguments_of_build(graphs, tmp_path):
    for chunk_size in (0, -1, 2.5, True):
        with pytest.raises(ValueError, match="chunk_size as an integer of 1 or more"):
            OnDiskMolecules.build(tmp_path / "new", graphs, chunk_size=chunk_size)
    with pytest.raises(InputError, match="graphs as an iterable"):
        OnDiskMolecules.build(tmp_path / "new", None)
    with pytest.raises(ValueError, match="orientation to be one of"):
        OnDiskMolecules.build(tmp_path / "new", graphs, "sideways")
    loop = Data(edge_index=torch.tensor([[0], [0]]), num_nodes=1)
    with pytest.raises(InputError, match=r"of graph 1 joined .* \(in graphs 4 to 7, counted from"):
        OnDiskMolecules.build(tmp_path / "new", [*graphs[:5], loop, *graphs], chunk_size=4)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "change, message",
    [
        ({"x": torch.zeros(9, 4, dtype=torch.long)}, r"x of each .* shape \[-1, 9\], got \[9, 4\]"),
        ({"x": torch.full((9, 9), 256)}, "x of each .* from 0 to 255, got values from 256 to 256"),
        ({"x": torch.full((9, 9), 0.5)}, "x of each molecule as integers from 0 to 255"),
        ({"edge_attr": None}, "edge_attr of each .* got NoneType"),
        ({"y": None}, "y of each .* got NoneType"),
    ],
)
def test_features_that_are_not_those_of_molecules(tmp_path, change, message):
    graph = from_smiles("CCCCCCCCC")
    graph.y = torch.ones(1)
    graph = Data(**{**graph.to_dict(), **change})
    with pytest.raises(InputError, match=message):
        OnDiskMolecules.build(tmp_path / "new", [graph])


def test_all_of_molhiv(shared_data, tmp_path):
    shutil.copytree(shared_data / "ogb" / "ogbg_molhiv", tmp_path / "ogb" / "ogbg_molhiv")
    data = datasets.load("ogbg-molhiv", root=tmp_path)
    dataset = OnDiskMolecules.build(tmp_path / "disk", iter(data.graphs), "index")
    assert len(dataset) == 41_127
    loader = DataLoader(dataset, 256, num_workers=2)
    y = torch.cat([batch.y for batch in loader])  # the whole set, streamed
    assert torch.equal(y, torch.cat([graph.y for graph in data.graphs]))
    rows = data.split["test"][:512]
    expected = to_line_graphs([data.graphs[row] for row in rows], "index")
    found = Batch.from_data_list(dataset.multi_get(rows))
    assert_same(found, Batch.from_data_list(expected))
