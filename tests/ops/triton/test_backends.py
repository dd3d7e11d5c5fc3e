"""Which backend runs, what is said where none can, and the choice of configurations."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import plstm_graph
from plstm_graph.backends import Backends
from plstm_graph.ops import checks, dag_scan, plstm
from plstm_graph.ops.triton import autotune, common
from plstm_graph.ops.triton.autotune import Config, pick
from tests.ops.triton.helpers import payload
from tests.zoo import ZOO, inputs

ROOT = Path(__file__).parents[3]


def run(code, **environment):
    """Run Python code in a fresh process that does not interpret kernels."""
    variables = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=ROOT,
        env={**variables, "CUDA_VISIBLE_DEVICES": "", **environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


USE = """
import torch, plstm_graph
g = plstm_graph.LineGraph.from_edge_index(torch.tensor([[0, 1], [1, 2]]))
x, t = torch.ones(2, 1, 1), torch.ones(1, 1)
print(plstm_graph.dag_scan(x, t, g).flatten().tolist())
try:
    plstm_graph.dag_scan(x, t, g, backend="triton")
except ValueError as error:
    print(error)
print(plstm_graph.backends())
"""


def test_without_a_gpu_the_error_says_what_to_do():
    out = run(USE)
    assert out.startswith("[1.0, 2.0]\n")
    assert "backend='triton' cannot run here: the tensors are on the CPU" in out
    assert "backend='torch'" in out and "TRITON_INTERPRET=1" in out


def test_without_triton_the_package_works():
    """The package index, not the environment, decides here: no module named triton is found."""
    block = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "triton":
            raise ModuleNotFoundError("No module named 'triton'", name="triton")
sys.meta_path.insert(0, Block())
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name == "triton" else find(name, *a)
"""
    out = run(block + USE)
    assert out.startswith("[1.0, 2.0]\n")
    assert "backend='triton' cannot run here: triton is not installed" in out
    assert "triton on GPU  no   triton is not installed" in out


def test_auto_takes_triton_on_gpus(monkeypatch):
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    monkeypatch.setattr(common, "_FOUND", {"error": None, "interpreting": False})
    assert checks.resolve_backend("auto", gpu) == "triton"
    assert checks.resolve_backend("auto", cpu) == "torch"
    assert checks.resolve_backend("torch", gpu) == "torch"
    with pytest.raises(ValueError, match=r"on the CPU.*TRITON_INTERPRET=1"):
        checks.resolve_backend("triton", cpu)
    with pytest.raises(ValueError, match=r"no kernels for device mps; use backend='torch'"):
        checks.resolve_backend("triton", torch.device("mps"))
    monkeypatch.setattr(common, "_FOUND", {"error": "triton is not installed"})
    assert checks.resolve_backend("auto", gpu) == "torch"
    with pytest.raises(ValueError, match=r"triton is not installed; install triton, or use"):
        checks.resolve_backend("triton", gpu)


@pytest.mark.parametrize("form", ["naive", "chunkwise", "walk"])
def test_forms_without_a_kernel(form):
    line_graph = ZOO["fork"]()
    with pytest.raises(ValueError, match=rf"form='{form}', got 'triton'"):
        plstm(*inputs(line_graph), line_graph, form=form, backend="triton")


def test_backends_prints_a_table():
    found = plstm_graph.backends()
    assert isinstance(found, Backends)
    assert found["torch on CPU"].available
    assert found["torch on GPU"].available == torch.cuda.is_available()
    lines = str(found).splitlines()
    assert len(lines) == len(found)
    assert all(("yes" in line) == b.available for line, b in zip(lines, found.values()))


def test_parallel_refuses_what_would_not_fit(device, monkeypatch):
    from plstm_graph.ops import dispatch

    monkeypatch.setattr(dispatch, "MAX_DENSE", 100)
    line_graph = ZOO["grid"]().to(device)
    args = [a.detach().to(device) for a in inputs(line_graph)]
    with pytest.raises(ValueError, match=r"form='parallel'.*levelwise"):
        plstm(*args, line_graph, form="parallel", backend="triton")


def test_nothing_is_timed_where_kernels_are_interpreted(device, monkeypatch):
    if device.type != "cpu":
        pytest.skip("kernels are compiled here")
    monkeypatch.setattr(autotune, "_save", None)
    line_graph = ZOO["fork"]()
    dag_scan(*payload(line_graph, 1, 3), line_graph, backend="triton")


def test_the_choice_is_timed_once_and_kept(monkeypatch, tmp_path):
    """Timing itself needs a GPU: its result is given here."""
    pytest.importorskip("triton")
    import triton.testing

    configs = [Config(1, 16), Config(2, 16), Config(4, 16)]
    seconds = {configs[0]: 3.0, configs[1]: 1.0, configs[2]: 2.0}
    runs = []

    def launch(config):
        runs.append(config)

    def do_bench(function, **_):
        function()
        return seconds[runs[-1]]

    monkeypatch.setattr(triton.testing, "do_bench", do_bench)
    monkeypatch.setattr(autotune, "_may_time", lambda device: True)
    monkeypatch.setattr(autotune, "_file", lambda device: tmp_path / "choices" / "gpu.json")
    autotune._cache.cache_clear()
    device = torch.device("cuda")
    assert pick(("scan", 64), configs, launch, device) == configs[1]
    assert runs == configs
    assert pick(("scan", 64), configs, launch, device) == configs[1]
    assert len(runs) == 3
    autotune._cache.cache_clear()  # a new process reads the file
    assert pick(("scan", 64), configs, launch, device) == configs[1]
    assert len(runs) == 3
    assert pick(("scan", 64), [configs[0], configs[2]], launch, device) == configs[2]
    assert len(runs) == 5, "a choice that is no candidate any more is timed anew"
    (tmp_path / "choices" / "gpu.json").write_text("not JSON")
    autotune._cache.cache_clear()
    assert pick(("scan", 64), configs, launch, device) == configs[1]
    autotune._cache.cache_clear()


def test_deterministic_mode_takes_defaults(monkeypatch):
    """Some choices change the order of sums."""
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    device = torch.device("cuda")
    torch.use_deterministic_algorithms(True)
    assert not autotune._may_time(device)
    torch.use_deterministic_algorithms(False)
    assert autotune._may_time(device)


def test_autotuning_can_be_turned_off(monkeypatch):
    monkeypatch.setenv("PLSTM_AUTOTUNE", "0")
    configs = [Config(1, 16), Config(2, 16)]
    assert pick(("scan",), configs, pytest.fail, torch.device("cuda")) == configs[0]
