"""Molecules on disk are those in memory: one by one, in batches, by workers, all of molhiv."""

import math
import pickle
import shutil

import numpy as np
import pytest
import torch
from sklearn.model_selection import KFold
from torch_geometric.data import Batch, Data
from torch_geometric.loader import DataLoader

import datasets
from plstm_graph import LineGraph, to_line_graphs
from plstm_graph.molecules import InputError, from_smiles
from plstm_graph.molecules.on_disk import SCHEMA, OnDiskMolecules
from plstm_graph.transforms import LineGraphCollater
from tests.shared import DATA, needs_shared


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


INDICES = [
    [3, 0, 3],
    [5],
    [-1, 2],
    (4, 1),
    torch.tensor([2, 1]),
    torch.tensor([2]),
    np.array([7, -2, 7]),
    np.array([3], dtype=np.uint8),
    range(4, 8),
    slice(2, None, 4),
    slice(-3, None),
    slice(None, None, -1),
    np.arange(18) % 5 == 0,
    torch.arange(18) > 12,
    [i == 4 for i in range(18)],
    [],
    slice(4, 4),
    np.array([], dtype=np.int64),
]


def rows_of(indices, count=18):
    rows = np.arange(count)
    kept = isinstance(indices, slice)
    return rows[indices if kept else np.asarray(list(indices), dtype=_dtype(indices))].tolist()


def _dtype(indices):
    return bool if len(indices) and "bool" in str(type(indices[0])) + str(
        getattr(indices, "dtype", "")
    ) else np.int64  # fmt: skip


@pytest.mark.parametrize("indices", INDICES, ids=str)
def test_what_was_asked_for(graphs, folder, indices):
    """By multi_get, as a part, as a part of a part, and through loaders."""
    dataset, rows = OnDiskMolecules(folder), rows_of(indices)
    expected = [i / 2 for i in rows]
    assert [graph.y.item() for graph in dataset.multi_get(indices)] == expected
    part = dataset[indices]
    assert len(part) == len(rows)
    assert [graph.y.item() for graph in part] == expected
    assert [graph.y.item() for graph in part.multi_get(slice(None))] == expected
    loaded = [batch.y for batch in DataLoader(part, 4)]
    assert torch.cat([*loaded, torch.zeros(0)]).tolist() == expected
    assert [graph.y.item() for graph in part[::-1][1:]] == expected[::-1][1:]
    assert len(dataset) == 18  # and the whole set is as it was


@pytest.mark.parametrize("workers", [0, 2])
def test_samplers_shuffles_and_folds(folder, workers):
    dataset = OnDiskMolecules(folder)[5:]
    y = [dataset[i].y.item() for i in range(13)]
    assert y == [i / 2 for i in range(5, 18)]
    sampler = torch.utils.data.SubsetRandomSampler([12, 3, 7])
    found = torch.cat([b.y for b in DataLoader(dataset, 2, sampler=sampler, num_workers=workers)])
    assert sorted(found.tolist()) == [y[3], y[7], y[12]]
    batches = [[0, 12], [5]]
    loader = DataLoader(dataset, batch_sampler=batches, num_workers=workers)
    assert [batch.y.tolist() for batch in loader] == [[y[0], y[12]], [y[5]]]
    subset = torch.utils.data.Subset(dataset, [2, 11])
    assert [batch.y.tolist() for batch in DataLoader(subset, 2)] == [[y[2], y[11]]]
    shuffled = torch.cat([b.y for b in DataLoader(dataset, 4, shuffle=True, num_workers=workers)])
    assert sorted(shuffled.tolist()) == y
    assert sorted(graph.y.item() for graph in dataset.shuffle()) == y
    for train, test in KFold(3, shuffle=True, random_state=0).split(np.arange(13)):
        assert [graph.y.item() for graph in dataset[train]] == [y[i] for i in train]
        assert [graph.y.item() for graph in dataset[test]] == [y[i] for i in test]
    one, two = torch.utils.data.random_split(dataset, [9, 4])
    assert sorted(g.y.item() for part in (one, two) for g in part) == y


@pytest.mark.parametrize(
    "index", [18, -19, [0, 18], np.array([99]), "1", 1.0, [0.5], np.array([1.5]), np.ones(3, bool)],
    ids=str,
)  # fmt: skip
def test_unknown_rows_are_errors(folder, index):
    with pytest.raises((IndexError, ValueError), match="expected"):
        OnDiskMolecules(folder)[index]


@pytest.mark.parametrize("index", [np.int64(3), np.uint8(3), torch.tensor(3), -15], ids=str)
def test_one_molecule_by_any_integer(folder, index):
    assert OnDiskMolecules(folder)[index].y.item() == 1.5


def test_read_only_media(folder, tmp_path):
    """Nothing is written beside the molecules, and nothing needs to be."""
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    for path in copy.iterdir():
        path.chmod(0o444)
    copy.chmod(0o555)
    before = sorted(path.stat().st_mtime_ns for path in copy.iterdir())
    dataset = OnDiskMolecules(copy)
    assert torch.cat([b.y for b in DataLoader(dataset, 5, num_workers=2)]).tolist() == [
        i / 2 for i in range(18)
    ]
    assert before == sorted(path.stat().st_mtime_ns for path in copy.iterdir())
    copy.chmod(0o755)


def test_incomplete_copies_are_errors(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "molecules.bin").write_bytes((copy / "molecules.bin").read_bytes()[:-1])
    with pytest.raises(InputError, match="the copy is incomplete"):
        OnDiskMolecules(copy)
    (copy / "format.json").write_text("{")
    with pytest.raises(InputError, match=r"in the format .* build it again"):
        OnDiskMolecules(copy)
    (copy / "index.npy").unlink()
    with pytest.raises(InputError, match="expected root to be a folder of molecules on disk"):
        OnDiskMolecules(copy)
    (copy / "processed").mkdir()
    (copy / "processed" / "sqlite.db").write_text("")
    with pytest.raises(InputError, match="which an older version wrote"):
        OnDiskMolecules(copy)


def test_several_targets_and_gaps(tmp_path):
    graphs = [from_smiles(smiles) for smiles in ("C", "CCO")]
    for i, graph in enumerate(graphs):
        graph.y = torch.tensor([[i, math.nan, 2.5]])
    dataset = OnDiskMolecules.build(tmp_path / "new", graphs, None)
    assert dataset[1].y.shape == (1, 3) and dataset[1].y[0, 2] == 2.5
    assert dataset[1].y[0, 1].isnan() and "dag_lines" not in dataset[0]


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


@needs_shared
def test_all_of_molhiv(tmp_path):
    shutil.copytree(DATA / "ogb" / "ogbg_molhiv", tmp_path / "ogb" / "ogbg_molhiv")
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
