"""The benchmark: timing in turns, its tables on few graphs, the published program's operator."""

import io
import json
import re

import numpy as np
import pytest
import torch
from rich.console import Console
from torch_geometric.data import Batch

from experiments import benchmark, benchmark_building, benchmark_layers, benchmark_published
from experiments.benchmark_tools import WIDTH, medians, molecule_like, report
from plstm_graph import LineGraph, to_line_graphs
from tests.zoo import ZOO, inputs

#: A program with the published operator's arguments that computes the definition.
OPERATOR = """
import torch

def plstm_graph(query, key, value, source, transition, mark, direct, ldag, ldag_idx_map,
                ldag_edge_idx_map, recompute_cell_states=True):
    states = {}
    out = list((direct[..., None] * (query * key).sum(-1, keepdim=True) * value).unbind(1))
    assert list(ldag_idx_map.values()) == list(range(source.size(1)))
    for edge, i in ldag_idx_map.items():
        u, v = edge
        state = source[:, i, None, None] * key[:, u, :, None] * value[:, u, None, :]
        for other in ldag.predecessors(edge):
            t = transition[:, ldag_edge_idx_map[other, edge], None, None]
            state = state + t * states[other]
        states[edge] = state
        out[v] = out[v] + mark[:, i, None] * torch.einsum("hk,hkv->hv", query[:, v], state)
    return torch.stack(out, 1)
"""
END = "return torch.stack(out, 1)"


@pytest.fixture
def checkout(tmp_path):
    """A folder with the operator where the published program has it; its text can be changed."""

    def make(text=OPERATOR):
        file = tmp_path / benchmark_published.MODULE
        file.parent.mkdir(parents=True, exist_ok=True)
        # Packages are not imported: those of the published program need more than its operator.
        (file.parent / "__init__.py").write_text("raise AssertionError('imported')")
        file.write_text(text)
        return tmp_path

    return make


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=160)


@pytest.fixture
def threads(monkeypatch):
    """What torch's number of threads is set to; nothing is set, since others use the machine."""
    log = []
    monkeypatch.setattr(torch, "set_num_threads", log.append)
    return log


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return Batch.from_data_list(to_line_graphs([molecule_like(rng, WIDTH) for _ in range(2)]))


def printed(console):
    return console.file.getvalue()


def test_steps_take_turns_and_some_get_a_fresh_argument():
    log, made = [], iter(range(100))
    steps = {
        "plain": lambda: log.append("plain"),
        "fresh": lambda x: log.append(x),
        "slow": lambda: log.append("slow"),
    }
    turns = {"plain": 2, "fresh": 2, "slow": 1}
    found = medians(steps, turns, lambda: next(made), {"fresh"})
    assert set(found) == set(steps) and all(value >= 0 for value in found.values())
    assert log == [
        *("plain", 0, "slow", "plain", 1, "slow"),  # warm-up
        *("plain", 2, "slow"),
        *("plain", "plain", 3),  # brief steps run once more before they are measured
    ]


def test_a_table_has_a_ratio_to_each_baseline(console):
    found = report("title", {"a": 2e-3, "b": 4e-3, "c": 1e-3}, ("a", "c"), console)
    assert found["b"] == {"ms": 4.0, "ratio_to_a": 2.0, "ratio_to_c": 4.0}
    assert re.search(r"b\s*│\s*4.00 │\s*2.000 │\s*4.000 │\s*0.5", printed(console))
    assert report("title", {"a": 1.0}, "a", console)["a"] == {"ms": 1e3, "ratio_to_a": 1.0}


def test_table_of_forms(batch, console, checkout):
    operator = benchmark_published.load(checkout())
    rows, difference = benchmark.bench_ops(batch, 1, console, operator)
    forms = {f"{name}: {form}" for name in ("two-way", "two-way, multitree")
             for form in benchmark.TWO_WAY_FORMS}  # fmt: skip
    one_way = {"edge loop", "published", "naive", "levelwise", "chunkwise", "dense", "walk", "auto"}
    assert set(rows) == one_way | forms
    assert rows["edge loop"]["ratio_to_edge loop"] == 1
    for row in difference.values():
        assert row["largest"] > 0 and row["difference"] < 1e-5 * row["largest"]
    assert "largest difference of gradients" in printed(console)


def test_table_of_forms_where_walks_are_not_compiled(batch, console, monkeypatch):
    monkeypatch.setenv("PLSTM_NATIVE", "0")
    rows, difference = benchmark.bench_ops(batch, 1, console)
    assert difference is None and "published" not in rows
    assert not any("walk" in name for name in rows)
    assert "walk and dense are left out: switched off" in printed(console)


def test_table_of_layers(batch, console, threads):
    found = benchmark_layers.bench_layers(batch, 1, console, [1, 2])
    assert threads == [1, 2, torch.get_num_threads()]
    assert list(found) == ["1 thread", "2 threads"]
    for rows in found.values():
        assert list(rows) == list(benchmark_layers.layers())
        for row in rows.values():
            assert set(row) == {"ms", "ratio_to_GATv2Conv", "ratio_to_GPSConv", "parameters"}
        assert rows["GPSConv"]["ratio_to_GPSConv"] == 1
    text = " ".join(printed(console).split())  # titles are wrapped
    assert text.count("PLSTMConv two-way P:") == 2 and "line graph given, 2 threads" in text


def test_goals_say_what_is_met():
    row = {"ratio_to_GATv2Conv": 1.3, "ratio_to_GPSConv": 0.61}
    text = benchmark_layers.goals({benchmark_layers.GOAL_ROW: row})
    assert "1.30 x GATv2Conv (goal: at most 1.3, met)" in text
    assert "0.61 x GPSConv (goal: at most 0.6, missed)" in text


def test_layers_of_the_table_are_two_way_or_forward(batch):
    layers = benchmark_layers.layers()
    line_graph = LineGraph.from_data(batch)
    for name, two_way in (("two-way", True), ("forward", False)):
        for mode in "PD":
            layer = layers[f"PLSTMConv {name} {mode}"]
            args = batch.x, batch.edge_index, batch.edge_attr, batch.batch, line_graph
            gates = layer(*args, return_gates=True)[1]
            assert gates.line_graph.is_two_way == two_way
            assert gates.line_graph.is_multitree == (mode == "D")


def test_table_of_building(console):
    rng = np.random.default_rng(0)
    found = benchmark_building.bench_building([molecule_like(rng) for _ in range(3)], 1, console)
    assert next(iter(found)) == "collate 3 plain graphs"
    assert {"two_way() of the batch", "two_way().multitree()"} < set(found)
    assert "x collating (goal: below 1" in printed(console)
    assert benchmark_building.bench_molhiv(None, console) is None


@pytest.mark.parametrize("two_way", [False, True], ids=["one-way", "two-way"])
@pytest.mark.parametrize("name", ["path", "diamond", "grid", "molecules", "no_edges"])
def test_published_operator_gets_the_same_inputs(name, two_way, checkout):
    line_graph = ZOO[name]().two_way() if two_way else ZOO[name]()
    args = inputs(line_graph)
    published = benchmark_published.Published(
        benchmark_published.load(checkout()), line_graph, args
    )
    found = benchmark_published.difference(published, args, line_graph)
    assert set(found) == {"output", "gradient"}
    for row in found.values():
        assert row["difference"] <= 1e-10 * max(1.0, row["largest"])


def test_published_operator_that_differs_or_has_no_gradients(checkout):
    line_graph = ZOO["grid"]()
    args = inputs(line_graph)

    def difference(end):
        operator = benchmark_published.load(checkout(OPERATOR.replace(END, end)))
        published = benchmark_published.Published(operator, line_graph, args)
        return benchmark_published.difference(published, args, line_graph)

    found = difference("return 2 * torch.stack(out, 1)")
    for row in found.values():
        assert row["difference"] == pytest.approx(row["largest"])
    assert set(difference("return torch.stack(out, 1).detach()")) == {"output"}


def test_published_operator_names_edges_by_nodes(checkout):
    line_graph = LineGraph.from_edge_index(torch.tensor([[0, 0], [1, 1]]))
    with pytest.raises(ValueError, match=r"without parallel edges .* leave it out"):
        benchmark_published.Published(
            benchmark_published.load(checkout()), line_graph, inputs(line_graph)
        )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"expected the file src/plstm/torch/plstm_graph.py there; .*git clone"),
        ("import not_installed.part", r"not_installed.* not installed; pip install not_installed$"),
        ("from . import other", r"cannot be imported alone: .*relative import.*git clone"),
        ("plstm = 1", r"expected plstm_graph\(\) in src/plstm/torch/plstm_graph.py; .*git clone"),
    ],
)
def test_wrong_checkouts(text, message, checkout, tmp_path):
    path = tmp_path / "elsewhere" if text is None else checkout(text)
    with pytest.raises(SystemExit, match=rf"--published {re.escape(str(path))}: .*{message}"):
        benchmark.main(["--published", str(path), "--quick"])


def test_main(checkout, tmp_path, monkeypatch, threads):
    monkeypatch.setattr(benchmark, "GRAPHS", 2)
    monkeypatch.setattr(benchmark, "bench_growth", lambda *_: {"rows": []})
    monkeypatch.setattr(benchmark.benchmark_sequences, "bench", lambda *_: {"rows": []})
    monkeypatch.setattr(benchmark.benchmark_grid, "bench", lambda *_: {})
    out = tmp_path / "benchmark.json"
    result = benchmark.main(["--quick", "--out", str(out), "--published", str(checkout())])
    assert json.loads(out.read_text()) == result
    assert threads[0] == 2
    assert set(result["layers"]) == {"1 thread", "2 threads"}
    assert set(result["published_difference"]) == {"output", "gradient"}
    assert "published" in result["ops"] and result["molhiv"] is None
