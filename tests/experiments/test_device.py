"""The benchmark on a device: what it says without one, its timing, the table of the kernels."""

import io
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

pytest.importorskip("triton")

from experiments import benchmark, device
from plstm_graph.ops.triton.common import interpreting
from tests.zoo import ZOO, disjoint

CPU = torch.device("cpu")


def test_without_a_gpu_the_benchmark_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match=r"--device cuda: .* finds no CUDA device here; .*GPU"):
        benchmark.main(["--device", "cuda", "--quick"])
    assert device.checked("cpu") == CPU


def test_events_time_a_device(monkeypatch):
    """Without a GPU, with events that are ours: milliseconds become seconds, and a median."""
    taken = iter((7.0, 3.0, 5.0))
    log = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            log.append("record")

        def synchronize(self):
            log.append("wait")

        def elapsed_time(self, end):
            return next(taken)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    found = device.seconds(lambda: log.append("step"), SimpleNamespace(type="cuda"), 3)
    assert found == 5e-3
    assert log == ["step"] * 2 + ["record", "step", "record", "wait"] * 3


def test_nothing_is_synchronised_on_a_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "synchronize", pytest.fail)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    device.synchronize()


@pytest.mark.skipif(not interpreting(), reason="runs kernels on the CPU")
def test_table_of_the_kernels():
    graphs = {
        "small": disjoint([ZOO[name]() for name in ("path", "join")], batch=True),
        "hub": ZOO["hub"](),
    }
    cases = {name: (graph, benchmark.op_inputs(graph, 1, 4)) for name, graph in graphs.items()}
    out = io.StringIO()
    console = Console(file=out, width=160)
    found = device.bench_kernels(cases, CPU, 1, console, copy_bytes=1 << 16)
    assert found["device"] == "cpu" and found["copy_gb_per_s"] > 0
    kernels = {row["kernel"] for row in found["rows"]}
    assert kernels >= {"walk_forward", "walk_query, walk_key", "dense_forward", "edge_dot"}
    assert {row["workload"] for row in found["rows"]} == set(graphs)
    for row in found["rows"]:
        assert row["bytes"] > 0
        assert row["gb_per_s"] == pytest.approx(row["bytes"] / row["ms"] / 1e6)
        assert row["of_copy"] == pytest.approx(row["gb_per_s"] / found["copy_gb_per_s"])
    assert "of a copy" in out.getvalue()


def test_kernels_are_left_out_where_none_runs(monkeypatch):
    monkeypatch.setattr(device, "unavailable", lambda _: "no triton")
    found = device.bench_kernels({}, CPU, 1, Console(file=io.StringIO()))
    assert found == {"device": "cpu", "left_out": "no triton"}
