"""The compiled kernels with default devices, threads and processes."""

import contextlib
import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from plstm_graph import grid_line_graph
from plstm_graph.ops import gating_matrix, native
from tests.ops.test_native import FOLDER, _results
from tests.zoo import ZOO, inputs


@pytest.mark.parametrize("how", ["context", "default"])
@pytest.mark.parametrize("number", [1, 3])
def test_default_device(how, number, threads):
    """Inputs on the CPU give results on the CPU, whatever device new tensors are on."""
    threads(number)
    graph, arguments = ZOO["everything"](), inputs(ZOO["everything"](), heads=3)
    expected = _results(ZOO["everything"](), arguments)
    try:
        if how == "default":
            torch.set_default_device("meta")
        with torch.device("meta") if how == "context" else contextlib.nullcontext():
            actual = _results(graph, arguments)  # nothing of the graph is planned yet
    finally:
        torch.set_default_device(None)
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


@pytest.mark.parametrize(
    "wrong",
    [
        torch.zeros(4, device="meta"),
        torch.zeros(4, dtype=torch.float64),
        torch.zeros(4, dtype=torch.float16),
        torch.zeros(4, dtype=torch.int64, device="meta"),
    ],
    ids=str,
)
def test_tensors_that_no_kernel_can_read(wrong):
    with pytest.raises(ValueError, match=r"scan: expected torch.float32 on the CPU, got torch"):
        native.run("scan", torch.float32, 1, 0, torch.zeros(4), wrong, 1)


def test_callers_on_several_threads(threads):
    threads(3)
    graphs = [grid_line_graph(3, 4 + i) for i in range(4)]
    arguments = [inputs(g, heads=5) for g in graphs]
    expected = [_results(g, args) for g, args in zip(graphs, arguments)]

    def repeat(i: int) -> bool:
        return all(
            torch.equal(a, b)
            for _ in range(20)
            for a, b in zip(_results(graphs[i], arguments[i]), expected[i], strict=True)
        )

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(repeat, range(4)))


def test_no_thread_can_be_started(threads, monkeypatch):
    """The caller runs the parts that no thread runs."""
    graph, arguments = grid_line_graph(3, 4), inputs(grid_line_graph(3, 4), heads=5)
    expected = _results(graph, arguments)
    threads(4)

    class Pool:
        def submit(self, task):
            raise RuntimeError("can't start new thread")

    monkeypatch.setattr(native, "_pool", lambda threads: Pool())
    assert all(map(torch.equal, _results(graph, arguments), expected))


def test_error_of_a_thread_is_raised(threads, monkeypatch):
    graph, arguments = grid_line_graph(3, 4), inputs(grid_line_graph(3, 4), heads=5)
    threads(3)

    def fail(*_, **__):
        raise MemoryError("no scratch memory")

    with monkeypatch.context() as patch, pytest.raises(MemoryError, match="no scratch memory"):
        patch.setattr(native.torch, "empty", fail)
        gating_matrix(*arguments[3:], graph)


SCRIPT = """
import atexit, os, sys
import torch
from plstm_graph import grid_line_graph, plstm
from plstm_graph.ops import native

g = grid_line_graph(3, 4)
torch.manual_seed(0)
n, e, l = g.num_nodes, g.num_edges, g.num_line_edges
shapes = (n, 4, 8), (n, 4, 8), (n, 4, 8), (e, 4), (l, 4), (e, 4), (n, 4)
args = [torch.rand(shape) for shape in shapes]
torch.set_num_threads(2)

def run():
    return plstm(*args, g, form="walk")

expected = run()
assert native._pool.cache_info().currsize == 1  # the threads are there
"""


def _script(text: str, **environment: str) -> str:
    """Runs a script in a process of its own, which must end."""
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT + textwrap.dedent(text)],
        env={**os.environ, **environment},
        cwd=FOLDER.parents[2],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_fork():
    """A child that ends as any program does, and one that ends at once, as workers do."""
    out = _script(
        """
        for leave in (sys.exit, os._exit):
            child = os.fork()
            if child == 0:
                assert native._pool.cache_info().currsize == 0
                leave(0 if torch.equal(run(), expected) else 1)
            assert os.waitpid(child, 0)[1] == 0
        assert torch.equal(run(), expected)
        print("parent and children agree")
        """
    )
    assert out.endswith("parent and children agree\n")


def test_end_of_the_interpreter():
    """Functions that run at the end may call kernels; no home folder or compiler is needed."""
    out = _script(
        """
        @atexit.register
        def at_exit():
            print("the same" if torch.equal(run(), expected) else "another", flush=True)
        """,
        HOME="/nonexistent",
        PATH="",
    )
    assert out == "the same\n"
