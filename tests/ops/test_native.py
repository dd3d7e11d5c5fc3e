"""The compiled kernels: which library is loaded, what is done without one, and how they run."""

import contextlib
import hashlib
import json
import shutil
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from plstm_graph import backends, grid_line_graph
from plstm_graph.ops import dag_scan, gating_matrix, native, plstm
from plstm_graph.ops.gating_plan import walk
from plstm_graph.ops.scan import scan_
from plstm_graph.ops.schedule import level_schedule
from tests.zoo import ZOO, inputs

FOLDER = Path(native.__file__).parent
CAPABILITY = {"avx512": "AVX512", "avx2": "AVX2", "baseline": "DEFAULT"}


def _runnable() -> list[str]:
    """The levels that were built and that this CPU can run."""
    built = json.loads((FOLDER / "libraries.json").read_text())["libraries"]
    best = torch.backends.cpu.get_cpu_capability().lower()
    mine = native.LEVELS[native.LEVELS.index(best) if best in native.LEVELS else -1 :]
    return [level for level in mine if level in built]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _edit(folder: Path, **changes) -> None:
    path = folder / "libraries.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A copy of the package's folder with all levels, none loaded yet. All are the baseline."""
    for source in FOLDER.glob("*.c"):
        shutil.copy(source, tmp_path)
    shutil.copy(FOLDER / "libraries.json", tmp_path)
    for level in native.LEVELS:
        shutil.copy(FOLDER / "kernels.baseline.so", tmp_path / f"kernels.{level}.so")
    digest = _digest(FOLDER / "kernels.baseline.so")
    _edit(tmp_path, libraries=dict.fromkeys(native.LEVELS, digest))
    monkeypatch.setattr(native, "_FOLDER", tmp_path)
    monkeypatch.setattr(native, "_FOUND", {})
    return tmp_path


@pytest.fixture
def capability(monkeypatch):
    """Sets the capability that torch reports."""
    return lambda name: monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: name)


@contextlib.contextmanager
def _warned(number: int):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    assert len([w for w in caught if "C kernels" in str(w.message)]) == number


def _check_torch_works() -> None:
    g = grid_line_graph(2, 3)
    args = inputs(g)
    torch.testing.assert_close(plstm(*args, g), plstm(*args, g, form="naive"))
    assert torch.isfinite(gating_matrix(*args[3:], g)).all()
    with pytest.raises(ValueError, match="C kernels"):
        plstm(*args, grid_line_graph(2, 3), form="walk")


@pytest.mark.parametrize(
    ("reported", "level"),
    [
        ("AVX512", "avx512"),
        ("AVX2", "avx2"),
        ("DEFAULT", "baseline"),
        ("NO AVX", "baseline"),
        ("SVE256", "baseline"),
    ],
)
def test_level_is_that_of_torch(installed, capability, reported, level):
    capability(reported)
    with _warned(0):
        assert native.unavailable() is None
    assert native.level() == level
    assert native._found().library._name == str(installed / f"kernels.{level}.so")
    assert backends()["native on CPU"].available
    assert level in backends()["native on CPU"].detail


@pytest.mark.parametrize("unlisted", [False, True])
def test_missing_level_falls_back_to_the_next(installed, capability, unlisted):
    capability("AVX512")
    if unlisted:  # the library of an earlier build: the last one failed at this level
        libraries = json.loads((installed / "libraries.json").read_text())["libraries"]
        _edit(installed, libraries={k: v for k, v in libraries.items() if k != "avx512"})
    else:
        (installed / "kernels.avx512.so").unlink()
    with _warned(0):
        assert native.level() == "avx2"


@pytest.mark.parametrize("case", ["no list", "empty list", "no file", "better levels alone"])
def test_never_built(installed, capability, case):
    capability("DEFAULT")
    if case == "no list":
        (installed / "libraries.json").unlink()
    elif case == "empty list":
        _edit(installed, libraries={})
    elif case == "no file":
        for path in installed.glob("*.so"):
            path.unlink()
    else:
        (installed / "kernels.baseline.so").unlink()
    with _warned(0):
        reason = native.unavailable()
        assert "not built" in reason and "gcc or clang" in reason and "reinstall" in reason
        assert backends()["native on CPU"] == (False, reason)
        assert native.level() is None
        _check_torch_works()
    with pytest.raises(RuntimeError, match="not built"):
        native.run("scan", torch.float32, 1, 0, torch.zeros(1), 1)


def _replace(path: Path, content: bytes) -> None:
    """Changes a library and says that it was built so."""
    path.write_bytes(content)
    listed = path.parent / "libraries.json"
    _edit(
        path.parent,
        libraries=json.loads(listed.read_text())["libraries"]
        | {path.name.split(".")[1]: _digest(path)},
    )


def _break(folder: Path, case: str) -> None:
    path, built = folder / "kernels.avx2.so", (FOLDER / "kernels.baseline.so").read_bytes()
    if case == "truncated":
        path.write_bytes(built[: len(built) // 2])
    elif case == "empty":
        path.write_bytes(b"")
    elif case == "another file":
        path.write_bytes(built + b"0")
    elif case == "no library":
        _replace(path, b"this is text")
    elif case == "another architecture":  # bytes 18 and 19 of an ELF file name the machine
        _replace(path, built[:18] + b"\xf3\xf3" + built[20:])
    elif case == "missing symbol":
        _edit(folder, kernels=["scan", "a_kernel_that_is_not_there"])
    elif case == "changed source":
        (folder / "walk.c").write_text("/* longer arguments */")
    elif case == "list is cut off":
        text = (folder / "libraries.json").read_text()
        (folder / "libraries.json").write_text(text[: len(text) // 2])
    elif case == "list without sources":
        _edit(folder, sources=None)
    elif case == "another kind of list":
        (folder / "libraries.json").write_text("[1, 2]")
    else:
        path.unlink()
        path.mkdir()


BROKEN = (
    "truncated",
    "empty",
    "another file",
    "no library",
    "another architecture",
    "missing symbol",
    "changed source",
    "list is cut off",
    "list without sources",
    "another kind of list",
    "folder",
)


@pytest.mark.parametrize("case", BROKEN)
def test_broken_library_warns_once(installed, capability, case):
    capability("AVX2")
    _break(installed, case)
    with _warned(1):
        reason = native.unavailable()
        assert "cannot be loaded" in reason and "reinstall" in reason
        assert native.unavailable() == reason
        assert backends()["native on CPU"] == (False, reason)
        _check_torch_works()


def test_threads_that_search_together_warn_once(installed):
    (installed / "libraries.json").write_text("")
    start = threading.Barrier(8)

    def search(_) -> str | None:
        start.wait()
        return native.unavailable()

    with _warned(1), ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(search, range(8)))) == 1


def test_warning_as_error_is_raised_once(installed):
    (installed / "libraries.json").write_text("")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="C kernels"):
            native.unavailable()
        assert "cannot be loaded" in native.unavailable()


def test_switched_off(installed, monkeypatch):
    _break(installed, "truncated")
    monkeypatch.setenv("PLSTM_NATIVE", "0")
    with _warned(0):
        assert native.unavailable() == "switched off by PLSTM_NATIVE=0"
        assert native.level() is None
        assert backends()["native on CPU"] == (False, "switched off by PLSTM_NATIVE=0")
    assert not native._FOUND


@pytest.mark.parametrize("name", ["empty", "path", "hub", "molecules", "everything"])
@pytest.mark.parametrize("level", native.LEVELS)
def test_values_of_every_level(level, name, capability, monkeypatch):
    if level not in _runnable():
        pytest.skip(f"{level} was not built, or this CPU cannot run it")
    capability(CAPABILITY[level])
    monkeypatch.setattr(native, "_FOUND", {})
    g = ZOO[name]()
    args = [x.detach().requires_grad_() for x in inputs(g, key_size=17, value_size=19)]
    payload = torch.randn(g.num_edges, 2, 5, dtype=torch.float64)
    assert native.level() == level

    def results(form: str) -> list[torch.Tensor]:
        out = plstm(*args, g, form=form), gating_matrix(*args[3:], g)
        grads = [torch.autograd.grad(x.square().sum(), args, allow_unused=True) for x in out]
        c = payload.clone()
        scan_(c, args[4].detach(), level_schedule(g))
        return [*out, *(x for grad in grads for x in grad if x is not None), c]

    actual = results("walk")
    monkeypatch.setenv("PLSTM_NATIVE", "0")
    for a, b in zip(actual, results("levelwise"), strict=True):
        size = max(1.0, float(b.detach().abs().max())) if b.numel() else 1.0
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12 * size)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_threads_share_the_heads(dtype, threads):
    g = grid_line_graph(4, 5)
    gates = [x.to(dtype).detach().requires_grad_() for x in inputs(g, heads=7)[3:]]
    results = []
    for number in (1, 2, 5, 16):
        threads(number)
        out = gating_matrix(*gates, g)
        results.append((out, *torch.autograd.grad(out.square().sum(), gates)))
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
def test_scan_is_that_of_torch(name, dtype, monkeypatch):
    g = ZOO[name]()
    torch.manual_seed(0)
    transition = torch.rand(g.num_line_edges, 3, dtype=dtype) - 0.5
    for graph in (g, g.reverse()):
        c = torch.randn(graph.num_edges, 3, 4, 5, dtype=dtype)
        expected, schedule = c.clone(), level_schedule(graph)
        scan_(c, transition, schedule)
        with monkeypatch.context() as patch:
            patch.setenv("PLSTM_NATIVE", "0")
            scan_(expected, transition, schedule)
        torch.testing.assert_close(c, expected)


@pytest.mark.parametrize("form", ["chunkwise", "levelwise"])
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


def _results(graph, arguments) -> list[torch.Tensor]:
    """Everything that a kernel computes."""
    args = [x.detach().requires_grad_() for x in arguments]
    out, gating = plstm(*args, graph, form="walk"), gating_matrix(*args[3:], graph)
    grads = torch.autograd.grad(out.square().sum(), args)
    grads += torch.autograd.grad(gating.square().sum(), args[3:])
    payload = args[3].detach()[..., None].expand(-1, -1, 4).contiguous()
    stepped = payload.clone()
    scan_(stepped, args[4].detach(), level_schedule(graph))
    return [out, gating, *grads, stepped, dag_scan(payload, args[4], graph)]
