"""TU and OGB loaders, on a copy of files that lie beside the checkout."""

import shutil

import pytest
import torch

import datasets
from datasets import InputError


@pytest.fixture(scope="module")
def root(shared_data, tmp_path_factory):
    root = tmp_path_factory.mktemp("benchmarks")
    for folder in ("tu/MUTAG", "tu/PTC_FM", "tu/PROTEINS", "ogb/ogbg_molfreesolv"):
        shutil.copytree(shared_data / folder, root / folder)
    return root


@pytest.mark.parametrize(
    "name, graphs, node_dim, edge_dim",
    [("MUTAG", 188, 7, 4), ("PTC_FM", 349, 18, 4), ("PROTEINS", 1113, 4, None)],
)
def test_tu(root, name, graphs, node_dim, edge_dim):
    data = datasets.load(name, root=root, fold=3)
    assert len(data.graphs) == graphs and data.task == "binary" and not data.molecular
    graph = data.graphs[0]
    assert graph.x.size(1) == node_dim
    assert (None if graph.edge_attr is None else graph.edge_attr.size(1)) == edge_dim
    assert set(data.targets("train").tolist()) == {0.0, 1.0}
    labels = torch.cat([g.y for g in data.graphs]).long()
    expected = datasets.cross_validation_split(labels, 3)
    assert all(torch.equal(data.split[part], expected[part]) for part in expected)


def test_tu_attributes(root):
    """Of PROTEINS, in the raw file one a node; others have none."""
    lines = (root / "tu/PROTEINS/raw/PROTEINS_node_attributes.txt").read_text().split()
    found = torch.cat([graph.x for graph in datasets.tu.load("PROTEINS", root).graphs])
    raw = torch.tensor([float(line) for line in lines])
    torch.testing.assert_close(found[:, 0].sinh(), raw, rtol=1e-4, atol=1e-4)
    assert set(found[:, 1:].unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("name", ["MUTAG", "PROTEINS"])
def test_tu_walks(root, name):
    plain = datasets.tu.load(name, root).graphs
    for graph, expected in zip(datasets.tu.load(name, root, walks=3).graphs[:20], plain):
        assert torch.equal(graph.x[:, :-3], expected.x)
        adjacency = torch.zeros(graph.num_nodes, graph.num_nodes)
        adjacency[graph.edge_index[0], graph.edge_index[1]] = 1.0
        step = adjacency / adjacency.sum(1, keepdim=True).clamp(min=1)
        for i in range(1, 4):
            back = torch.linalg.matrix_power(step, i).diagonal()
            torch.testing.assert_close(graph.x[:, i - 4], back, rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match="expected walks >= 0, got -1"):
        datasets.tu.load(name, root, walks=-1)


def test_ogb(root, monkeypatch):
    def refuse(*_):
        raise AssertionError("the loader must not ask on standard input")

    monkeypatch.setattr("builtins.input", refuse)
    for _ in range(2):  # from raw files, then from what OGB wrote
        data = datasets.load("ogbg-molfreesolv", root=root)
        assert len(data.graphs) == 642 and data.task == "regression" and data.molecular
        assert {part: len(rows) for part, rows in data.split.items()} == {
            "train": 513,
            "valid": 64,
            "test": 65,
        }
    assert data.graphs[0].y.item() == pytest.approx(-11.01)
    y = data.targets("test")
    assert data.evaluator(y + 2, y) == {"rmse": pytest.approx(2.0, abs=1e-5)}


def test_ogb_without_release_file(root, tmp_path):
    shutil.copytree(root / "ogb", tmp_path / "ogb")
    (tmp_path / "ogb" / "ogbg_molfreesolv" / "RELEASE_v1.txt").unlink()
    with pytest.raises(InputError, match=r"RELEASE_v1.txt.*remove the folder"):
        datasets.load("ogbg-molfreesolv", root=tmp_path)
