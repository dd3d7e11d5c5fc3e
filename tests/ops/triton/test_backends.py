"""Which backend runs, and what is said where none can."""

import os
import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch

import plstm_graph
from plstm_graph.backends import Backends
from plstm_graph.ops import Factored, LogGate, Reflections, checks, choosing, dag_scan, plstm
from plstm_graph.ops.forms import Problem
from plstm_graph.ops.triton import common
from tests.ops.triton.helpers import assert_same, layer_inputs
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
    assert re.search(r"triton on GPU +no +triton is not installed", out)


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


@pytest.mark.parametrize("form", ["naive", "chunkwise", "levelwise"])
def test_forms_without_a_kernel(form):
    line_graph = ZOO["fork"]()
    with pytest.raises(
        ValueError, match=rf"form='{form}' with backend='triton'.*no triton kernels"
    ):
        plstm(*inputs(line_graph), line_graph, form=form, backend="triton")


def test_backends_prints_a_table():
    found = plstm_graph.backends()
    assert isinstance(found, Backends)
    assert found["torch on CPU"].available
    assert found["torch on GPU"].available == torch.cuda.is_available()
    lines = str(found).splitlines()
    assert len(lines) == len(found)
    assert all(("yes" in line) == b.available for line, b in zip(lines, found.values()))
    # Every form, and what it runs on.
    for name in ("naive", "levelwise", "walk", "dense", "chunkwise"):
        assert found[f"form {name}"].available and "torch" in found[f"form {name}"].detail
    assert "triton" in found["form walk"].detail


def test_backends_says_why_a_form_cannot_run(monkeypatch):
    monkeypatch.setenv("PLSTM_NATIVE", "0")
    monkeypatch.setattr(common, "_FOUND", {"error": "triton is not installed"})
    walk = plstm_graph.backends()["form walk"]
    assert not walk.available and "PLSTM_NATIVE=0" in walk.detail
    assert "triton is not installed" in walk.detail


@pytest.mark.parametrize(
    ("form", "kind"),
    [
        *product(("walk", "dense", "auto"), ("line", "states", "factored")),
        ("walk", "diagonal"),
    ],
)
def test_plstm_by_kernels(form, kind):
    """The kernels through the operator: values, gradients and second derivatives."""
    for name in ("fork", "two_way_tree", "molecules"):
        line_graph = ZOO[name]()
        args = list(inputs(line_graph, states=2 if kind == "states" else None))
        # The dense kernels are for float32.
        dtype, atol = (torch.float32, 1e-3) if form == "dense" else (torch.float64, 1e-8)
        tensors = [x.detach().to(dtype).requires_grad_() for x in args]
        if kind == "diagonal":
            shape = (*tensors[4].shape, 3)
            rng = torch.Generator().manual_seed(0)
            tensors[4] = (0.4 * torch.randn(shape, generator=rng, dtype=dtype)).requires_grad_()
        if kind == "factored":
            tensors = [*tensors[:4], tensors[3].detach().clone().requires_grad_(),
                       tensors[3].detach().clone().requires_grad_(), *tensors[5:]]  # fmt: skip

        def join(x):
            return [*x[:4], Factored(*x[4:6]), *x[6:]] if kind == "factored" else x

        got, want = (
            plstm(*join(tensors), line_graph, scale=0.7, form=f, backend=b)
            for f, b in ((form, "triton"), ("naive", "torch"))
        )
        assert torch.allclose(got, want, atol=atol)
        grads = [
            torch.autograd.grad(x.square().sum(), tensors, create_graph=True) for x in (got, want)
        ]
        for a, b in zip(*grads):
            assert torch.allclose(a, b, atol=atol)
        second = [torch.autograd.grad(g[0].square().sum(), tensors[1])[0] for g in grads]
        assert torch.allclose(*second, rtol=1e-3, atol=atol)


def given(line_graph, kind="line", value_size=4, dtype=torch.float64):
    """The seven arguments of ``plstm``, positive, so that no denominator is near zero."""
    tensors = layer_inputs(line_graph, 2, 3, value_size, kind=kind, dtype=dtype).tensors
    return [x.abs().requires_grad_() for x in tensors]


@pytest.mark.parametrize(
    ("form", "kind", "stabilizer", "normalizer"),
    [
        ("walk", "line", None, "max1"),
        ("walk", "line", "logsumexp", "max1"),
        ("walk", "diagonal", "logsumexp", "sum"),
        ("auto", "diagonal", "max", None),
        ("auto", "line", "logsumexp", "norm"),
        ("dense", "line", "logsumexp", "max1"),
    ],
)
@pytest.mark.parametrize("name", ["join", "two_way_path"])
def test_normalizers_and_stabilizers(name, form, kind, stabilizer, normalizer):
    line_graph = ZOO[name]()
    dtype = torch.float32 if form == "dense" else torch.float64
    args = given(line_graph, kind, 24, dtype)
    got, want = (
        plstm(
            *args[:3], *(LogGate(x.log()) if stabilizer else x for x in args[3:]), line_graph,
            scale=0.7, form=f, backend=b, stabilizer=stabilizer, normalizer=normalizer,
        )
        for f, b in ((form, "triton"), ("levelwise", "torch"))
    )  # fmt: skip
    assert_same(got, want, args, 1e-5 if form == "dense" else 1e-10)


def test_states_in_and_out():
    """Ports are nodes and edges: kernels take them as any others."""
    line_graph = ZOO["two_way_path"]()
    args = given(line_graph, "diagonal")
    edges = torch.arange(line_graph.num_edges)
    (got, states), (want, expected) = (
        plstm(*args, line_graph, form=f, backend=b, return_state=edges)
        for f, b in (("walk", "triton"), ("levelwise", "torch"))
    )
    assert_same(got, want, args, 1e-10)
    assert torch.allclose(states.state, expected.state, rtol=1e-10)


def test_a_scan_with_diagonal_transitions():
    line_graph = ZOO["fork"]()
    rng = torch.Generator().manual_seed(0)
    shapes = (line_graph.num_edges, 2, 3, 4), (line_graph.num_line_edges, 2, 3)
    args = [torch.randn(s, generator=rng, dtype=torch.float64).requires_grad_() for s in shapes]
    got, want = (dag_scan(*args, line_graph, backend=b) for b in ("triton", "torch"))
    assert_same(got, want, args, 1e-10)


def reflections(line_graph):
    n = line_graph.num_nodes
    return Reflections(torch.ones(n, 2, 1, 3), torch.ones(n, 2, 1))


def channels(line_graph):
    """Block transitions with two channels in and three out."""
    n, e, l = line_graph.num_nodes, line_graph.num_edges, line_graph.num_line_edges
    shapes = (n, 2, 3), (n, 2, 3), (n, 2, 2, 4), (e, 2, 2, 2), (l, 2, 2, 2), (e, 2, 2, 3)
    return [torch.ones(shape) for shape in (*shapes, (n, 2, 2, 3))]


@pytest.mark.parametrize("form", ["auto", "walk"])
def test_what_has_no_kernels_names_what_can(form):
    line_graph = ZOO["fork"]()
    options = {"form": form, "backend": "triton"}
    with pytest.raises(
        ValueError, match=r"no reflections.*backend='torch' with form='auto'.*'levelwise'"
    ):
        args = inputs(line_graph, dtype=torch.float32)
        plstm(*args, line_graph, update=reflections(line_graph), **options)
    with pytest.raises(
        ValueError, match=r"J_S = J_M = 1.*backend='torch' with form='auto'.*'levelwise'"
    ):
        plstm(*channels(line_graph), line_graph, **options)
    with pytest.raises(ValueError, match=r"no diagonal transitions.*form='auto', or one of 'walk'"):
        plstm(*given(line_graph, "diagonal"), line_graph, form="dense", backend="triton")


def test_auto_falls_back_to_torch_on_gpus(monkeypatch):
    """As on a GPU, where ``backend="auto"`` is triton."""
    line_graph = ZOO["fork"]()
    monkeypatch.setattr(
        choosing, "resolve_backend", lambda asked, _: "triton" if asked == "auto" else asked
    )
    problem = Problem(line_graph, 2, 3, 4, "diagonal", "auto")
    for change, backend in (
        ({}, "triton"),
        ({"kind": "block", "states": (1, 2, 1)}, "triton"),
        ({"updates": True}, "torch"),
        ({"kind": "block", "states": (2, 2, 3)}, "torch"),
    ):
        assert choosing.choose("auto", problem._replace(**change))[0].backend == backend
    args, update = inputs(line_graph, dtype=torch.float32), reflections(line_graph)
    got, want = (plstm(*args, line_graph, form=f, update=update) for f in ("auto", "naive"))
    assert torch.allclose(got, want, atol=1e-4)
