"""The compiled kernels: where they can be built, where not, and on how many threads they run."""

import os
import stat

import pytest
import torch

from plstm_graph import backends, grid_line_graph
from plstm_graph.dag.schedule import level_schedule
from plstm_graph.dag.walk import walk
from plstm_graph.ops import gating_matrix, native, plstm
from plstm_graph.ops.scan import scan_levels_, scan_steps_
from tests.zoo import ZOO, inputs


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """As on a machine where nothing was compiled yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native._library.cache_clear()
    yield tmp_path / "plstm_graph" / "native"
    native._library.cache_clear()


def test_is_compiled_once(fresh):
    assert native.unavailable() is None
    (library,) = fresh.iterdir()
    built = library.stat().st_mtime_ns
    native._library.cache_clear()
    assert native.unavailable() is None
    assert [path.stat().st_mtime_ns for path in fresh.iterdir()] == [built]
    assert backends()["native on CPU"].available


def test_switched_off(monkeypatch):
    monkeypatch.setenv("PLSTM_NATIVE", "0")
    assert native.unavailable() == "switched off by PLSTM_NATIVE=0"
    assert backends()["native on CPU"] == (False, "switched off by PLSTM_NATIVE=0")


def test_no_compiler(fresh, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert "no C compiler" in native.unavailable()
    g = grid_line_graph(2, 2)
    assert torch.isfinite(gating_matrix(*inputs(g)[3:], g)).all()  # torch does the work


def test_compiler_fails(fresh, monkeypatch):
    fresh.mkdir(parents=True)
    compiler = fresh.parent / "cc"
    compiler.write_text("#!/bin/sh\necho 'no room left' >&2\nexit 1\n")
    compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{fresh.parent}:/bin:/usr/bin")
    assert "no room left" in native.unavailable()
    assert not list(fresh.iterdir())  # nothing half-built is left


def test_cache_that_cannot_be_written(fresh, monkeypatch):
    fresh.parent.parent.joinpath("file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(fresh.parent.parent / "file"))
    assert "could not be built" in native.unavailable()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_threads_share_the_heads(dtype):
    g = grid_line_graph(4, 5)
    gates = [x.to(dtype).detach().requires_grad_() for x in inputs(g, heads=7)[3:]]
    before, results = torch.get_num_threads(), []
    for threads in (1, 2, 5, 16):
        torch.set_num_threads(threads)
        out = gating_matrix(*gates, g)
        results.append((out, *torch.autograd.grad(out.square().sum(), gates)))
    torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0]))


@pytest.mark.parametrize("name", ZOO)
def test_walk(name):
    """Every edge comes after those before it, and its starts are those of all that lead to it."""
    g = ZOO[name]()
    for graph in (g, g.reverse(), g.multitree()):
        w = walk(graph)
        place = {e: i for i, e in enumerate(w.order.tolist())}
        assert sorted(place) == list(range(graph.num_edges))
        starts, lines = {}, []
        for e in w.order.tolist():
            starts[e] = {int(w.src[e])}
            for p in range(int(w.ptr[e]), int(w.ptr[e + 1])):
                d = int(w.before[p])
                assert graph.line_index[:, w.line[p]].tolist() == [d, e]
                assert place[d] < place[e]
                starts[e] |= starts[d]
                lines.append(int(w.line[p]))
            assert (min(starts[e]), max(starts[e]) + 1) == (int(w.low[e]), int(w.high[e]))
        assert sorted(lines) == list(range(graph.num_line_edges))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ZOO)
def test_scan_is_that_of_torch(name, dtype):
    g = ZOO[name]()
    torch.manual_seed(0)
    transition = torch.rand(g.num_line_edges, 3, dtype=dtype) - 0.5
    for graph in (g, g.reverse()):
        c = torch.randn(graph.num_edges, 3, 4, 5, dtype=dtype)
        expected, schedule = c.clone(), level_schedule(graph)
        scan_levels_(expected, transition, schedule)
        scan_steps_(c, transition, schedule)
        torch.testing.assert_close(c, expected)


@pytest.mark.parametrize("form", ["chunkwise", "parallel", "walk"])
@pytest.mark.parametrize("turn", [False, True])
def test_forms_without_kernels(form, turn, monkeypatch):
    g = ZOO["everything"]()
    g = g.reverse() if turn else g
    args = [x.detach().requires_grad_() for x in inputs(g)]
    results = []
    for switch in ("1", "0"):
        monkeypatch.setenv("PLSTM_NATIVE", switch)
        out = plstm(*args, g, form=form)
        results.append((out, *torch.autograd.grad(out.square().sum(), args)))
    for a, b in zip(*results):
        torch.testing.assert_close(a, b)


def test_source_is_shipped():
    folder = os.path.dirname(native.__file__)
    kernels = {"vector.c", "gating.c", "scan.c", "solve.c", "walk.c"}
    assert {"kernels.c"} | kernels <= set(os.listdir(folder))
