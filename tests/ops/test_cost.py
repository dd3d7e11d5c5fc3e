"""Which form the cost model takes."""

import json

import pytest
import torch
from torch_geometric.data import Batch

from plstm_graph import LineGraph
from plstm_graph.molecules.graphs import from_smiles
from plstm_graph.ops.cost import cheapest, constants, cost
from plstm_graph.ops.forms import FORMS, Problem
from plstm_graph.transforms import ToLineGraph
from tests.zoo import SMILES, ZOO, disjoint, grid, path

DRUGS = [from_smiles(smiles) for smiles in SMILES * 16]
PEPTIDES = [from_smiles("NCC(=O)" * length) for length in (35, 40, 45, 50) * 8]


@pytest.fixture(autouse=True)
def small_chunks():
    """Not here: see tests/ops/conftest.py."""


def oriented(graphs) -> LineGraph:
    return LineGraph.from_data(ToLineGraph()(Batch.from_data_list(graphs)))


def form(line_graph, size: int = 24, factored: bool = False) -> str:
    return cheapest(Problem(line_graph, 4, size, size, "factored" if factored else "line", "torch"))


def test_wide_heads_of_small_graphs_are_dense():
    """A state has K V numbers, a row of the gating matrix one for each node."""
    for graph in (oriented(DRUGS), oriented(DRUGS).two_way()):
        assert form(graph, 64) == "dense"
        assert form(graph, 4) == "walk"


def test_large_graphs_walk():
    for graph in (oriented(PEPTIDES), oriented(PEPTIDES).two_way(), path(600), grid(40, 40)):
        assert form(graph, 16) == "walk"
        assert form(graph, 16, factored=True) == "walk"


def test_without_kernels_depth_decides(monkeypatch):
    monkeypatch.setenv("PLSTM_NATIVE", "0")
    assert form(path(600)) == "chunkwise"
    assert form(grid(20, 20)) == form(grid(40, 40)) == "levelwise"


def test_every_form_has_a_constant_for_each_feature():
    for name, known in constants()["cpu"].items():
        for factored in (False, True):
            kind = "factored" if factored else "line"
            problem = Problem(ZOO["molecules"](), 4, 24, 24, kind, "torch")
            assert set(FORMS["torch"][name].features(problem)) <= {
                *known,
                "line",
                "line_edge",
                "line_state",
                "factored_edge",
                "factored_state",
            }
        assert all(value >= 0 for value in known.values()), json.dumps(known)


def test_more_parts_cost_more():
    for name in ("walk", "dense", "levelwise", "chunkwise"):
        costs = [
            cost(
                FORMS["torch"][name],
                Problem(disjoint([path(50)] * n, batch=True), 4, 24, 24, "line", "torch"),
            )
            for n in (1, 8, 64)
        ]
        assert costs == sorted(costs)


def test_no_graph():
    empty = torch.zeros(2, 0, dtype=torch.int64)
    assert form(LineGraph(0, empty, empty)) in FORMS["torch"]
