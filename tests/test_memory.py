"""Line graphs go with their last user, and may be used by several threads at once."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
import torch

from plstm_graph import LineGraph, PLSTMConv, grid_line_graph
from plstm_graph.dag.grid import KEPT
from plstm_graph.dag.tracing import Kept

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(("kind", "steps"), [("graphs", 100), ("sequences", 300)])
def test_training_without_garbage_collector(kind, steps):
    """Fresh batches, and sequences of 300 lengths: nothing keeps dead line graphs."""
    command = [sys.executable, "-m", "tests.memory_worker", kind, str(steps)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(run.stdout.splitlines()[0])
    assert found["live"][0] == found["live"][-1]
    assert found["live"][-1][1] <= (1 if kind == "graphs" else KEPT)
    assert found["memory"][-1] < 1.05 * found["memory"][0]


def test_grids_are_kept_in_bounded_number():
    first = grid_line_graph(3, 2)
    assert grid_line_graph(3, 2) is first
    for length in range(1, KEPT + 1):
        grid_line_graph(length, 7)
    assert grid_line_graph(3, 2) is not first
    kept = Kept(2)
    assert [kept.keep(key, value) for key, value in zip("abca", range(4))] == [0, 1, 2, 3]
    assert dict(kept) == {"c": 2, "a": 3}


def test_threads_share_a_line_graph():
    """All of them begin at once, on a graph without plans."""
    rng = torch.Generator().manual_seed(0)
    parent = (torch.rand(199, generator=rng) * torch.arange(1, 200)).long()
    edges = torch.stack([parent, torch.arange(1, 200)])
    edge_index, x = torch.cat([edges, edges.flip(0)], 1), torch.randn(200, 8, generator=rng)
    conv = PLSTMConv(8, 8, 2, mode="D")
    want = conv(x, edge_index)
    for _ in range(5):
        line_graph, barrier = LineGraph.from_edge_index(edge_index, 200, x=x), Barrier(4)

        def run(_, line_graph=line_graph, barrier=barrier):
            barrier.wait()
            out = conv(x, edge_index, line_graph=line_graph)
            return out, torch.autograd.grad(out.square().sum(), conv.lin_out.weight)[0]

        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(run, range(4)))
        for out, grad in results:
            torch.testing.assert_close(out, want)
            torch.testing.assert_close(grad, results[0][1])
