"""Which forms the cost model takes, and for which parts."""

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch

from plstm_graph import LineGraph
from plstm_graph.dag.molecule import from_smiles
from plstm_graph.dag.segments import segments
from plstm_graph.ops.cost import FORMS, cheapest
from plstm_graph.transforms import ToLineGraph
from tests.zoo import SMILES, disjoint, grid, path

DRUGS = [from_smiles(smiles) for smiles in SMILES * 16]
PEPTIDES = [from_smiles("NCC(=O)" * length) for length in (35, 40, 45, 50) * 8]


@pytest.fixture(autouse=True)
def small_chunks():
    """Not here: see tests/ops/conftest.py."""


@pytest.fixture
def no_compiler(monkeypatch):
    monkeypatch.setenv("PLSTM_NATIVE", "0")


def oriented(graphs, orientation) -> LineGraph:
    return LineGraph.from_data(ToLineGraph(orientation, seed=0)(Batch.from_data_list(graphs)))


def forms(line_graph, key_size: int = 24) -> list[str]:
    return list(cheapest(line_graph, 4, key_size, key_size).parts)


@pytest.mark.parametrize("orientation", ["canonical", "index", "random", "random_bfs"])
def test_small_molecules_are_solved_densely(orientation, no_compiler):
    assert forms(oriented(DRUGS, orientation)) == ["parallel"]


def test_large_molecules_by_depth_and_width_of_the_states(no_compiler):
    """Deep and narrow ones go in chunks, shallow ones by level or, with wide heads, densely."""
    for orientation in ("index", "random_bfs"):
        deep = oriented(PEPTIDES, orientation)
        assert forms(deep) == forms(deep.reverse()) == forms(deep.multitree()) == ["chunkwise"]
    shallow = oriented(PEPTIDES, "random")
    assert forms(shallow, 16) == ["levelwise"]
    assert forms(shallow, 96) == ["parallel"]
    assert forms(oriented(PEPTIDES + DRUGS * 4, "index")) == ["parallel", "chunkwise"]


def test_small_remainders_stay_with_the_rest(no_compiler):
    assert forms(disjoint([path(600), path(3)], batch=True)) == ["chunkwise"]
    assert forms(disjoint([grid(40, 40), path(600)], batch=True)) == ["chunkwise", "levelwise"]


def test_narrow_heads_walk_where_there_is_a_compiler():
    """States of K V numbers stay in the cache; wide ones are dearer than a molecule's matrices."""
    for orientation in ("index", "random_bfs"):
        assert forms(oriented(DRUGS, orientation), 16) == ["walk"]
        assert forms(oriented(DRUGS, orientation), 96) == ["parallel"]
        assert forms(oriented(PEPTIDES, orientation)) == ["walk"]
    assert forms(path(20_000)) == ["chunkwise"]  # 2 MB of states for each column


@pytest.mark.parametrize(
    "parts", [[path(0)], [path(0), path(2)], [path(600), path(0), grid(40, 40)]]
)
def test_each_part_has_one_form(parts):
    line_graph = disjoint(parts, batch=True)
    choice = cheapest(line_graph, 4, 24, 24)
    assert set(choice.parts) <= set(FORMS)
    assert (np.sum(list(choice.parts.values()), axis=0) == 1).all()
    assert all(members.size == len(parts) for members in choice.parts.values())
    assert (choice.cost > 0) == (line_graph.num_edges > 0)


def test_more_parts_cost_more():
    costs = [
        cheapest(disjoint([path(50)] * count, batch=True), 4, 24, 24).cost for count in (1, 8, 64)
    ]
    assert costs == sorted(costs) and costs[2] > 2 * costs[0]


def test_no_graph():
    empty = torch.zeros(2, 0, dtype=torch.int64)
    assert forms(LineGraph(0, empty, empty)) == ["parallel"]
    assert segments(LineGraph(0, empty, empty)).num_edges.size == 0
