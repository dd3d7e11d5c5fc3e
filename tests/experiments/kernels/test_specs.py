"""What launchers launch is listed as shipped, whatever their inputs: nothing else is compiled.

Launches are recorded instead of run, and described as Triton's launcher would specialise them.
"""

import itertools

import pytest
import torch

pytest.importorskip("triton")

from experiments.kernels import aot
from plstm_graph.ops.forms.triton import TritonWalk
from plstm_graph.ops.inputs import Inputs
from plstm_graph.ops.triton import (
    dense,
    dense_kernels,
    scan,
    scan_kernels,
    walk,
    walk_kernels,
)
from plstm_graph.ops.triton.common import interpreting
from plstm_graph.ops.triton.scan import scan_tables
from tests.ops.triton.helpers import layer_inputs, payload
from tests.zoo import ZOO, disjoint

NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
NAMES |= {torch.float64: "fp64", torch.int32: "i32", torch.int64: "i64"}
KERNELS = [
    (scan_kernels, "segment_scan_kernel"),
    (scan_kernels, "level_scan_kernel"),
    (scan_kernels, "edge_dot_kernel"),
    (walk_kernels, "query_walk_kernel"),
    (walk_kernels, "key_walk_kernel"),
    (dense_kernels, "dense_forward_kernel"),
    (dense_kernels, "dense_backward_kernel"),
]


def described(kernel, types, constexprs, num_warps, num_stages):
    values = tuple(sorted((k, str(v)) for k, v in constexprs.items()))
    return kernel, tuple(sorted(types.items())), values, num_warps, num_stages


def type_of(parameter, value):
    """The type that a launch specialises on."""
    if isinstance(value, torch.Tensor):
        mark = aot.ALIGNED if not parameter.plain and value.data_ptr() % 16 == 0 else ""
        return f"*{NAMES[value.dtype]}{mark}"
    assert parameter.plain, f"{parameter.name} leads to variants"
    return "fp64" if isinstance(value, float) else "i32"


def off_by_one(x):
    """A copy at an address that is no multiple of 16."""
    return x.new_zeros(x.numel() + 1)[1:].view_as(x).copy_(x)


@pytest.fixture(scope="module")
def listed():
    specs = aot.shipped()
    return {
        described(s.kernel.fn.__name__, s.types, s.constexprs, s.num_warps, s.num_stages)
        for s in specs
    }


@pytest.fixture
def launched(monkeypatch):
    """The set that fills with what is launched, every candidate of the autotuner among it."""
    if not interpreting():
        pytest.skip("records launches of the interpreter")
    found = set()

    class Recorder:
        """In the place of a kernel."""

        def __init__(self, kernel):
            self.name, self.parameters = kernel.fn.__name__, aot.parameters(kernel)

        def __getitem__(self, grid):
            return self.launch

        def launch(self, *args, num_warps, num_stages, **named):
            given = dict(zip((p.name for p in self.parameters), args)) | named
            assert len(given) == len(args) + len(named) == len(self.parameters)
            fixed = {p.name: given.pop(p.name) for p in self.parameters if p.constexpr}
            types = {p.name: type_of(p, given[p.name]) for p in self.parameters if p.name in given}
            found.add(described(self.name, types, fixed, num_warps, num_stages))

    def pick(key, configs, launch, device):
        for config in configs:
            launch(config)
        return configs[0]

    for module, name in KERNELS:
        monkeypatch.setattr(module, name, Recorder(getattr(module, name)))
    for module in (walk, dense, scan):
        monkeypatch.setattr(module, "pick", pick)
    return found


DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def test_scans(launched, listed):
    line_graph = ZOO["multi_edge"]()
    tables, whole = scan_tables(line_graph), scan_tables(line_graph, whole=True)
    for x_dtype, t_dtype, states, width in itertools.product(
        DTYPES, DTYPES, (1, 2, 3, 4), (1, 16, 30, 64, 300)
    ):
        x, t = (a.detach() for a in payload(line_graph, 1, width, states=states))
        x, t = x.to(x_dtype), t.to(t_dtype)
        for made in (t, t.mT, off_by_one(t)):
            scan.scan(x, made, tables, False)
            scan.scan(x, made, whole, True)
        scan.scan(off_by_one(x), t, tables, False)
    for dtype, width, states in itertools.product(DTYPES[::3], (1, 16, 30, 64, 65), (1, 3)):
        c = torch.zeros(line_graph.num_edges, 2, states, width, dtype=dtype)
        scan.edge_dot(c, c, tables)
    assert launched <= listed
    scans = {x for x in listed if x[0].endswith(("scan_kernel", "dot_kernel"))}
    assert launched == scans, "listed but never launched"


def test_layers(launched, listed):
    parts = [ZOO[name]() for name in ("path", "tree", "random_dense", "join")]
    batch = disjoint(parts, batch=True)  # parts of all block sizes of the dense form
    plans = {
        (name, kind): (graph, walk.make_plan(graph, kind == "factored"))
        for name, graph in (("one way", batch), ("two ways", ZOO["two_way_path"]()))
        for kind in TritonWalk.kinds
    }
    on_chip = dense.make_plan(batch)
    for dtype, gate, k, v in itertools.product(
        DTYPES, DTYPES, (3, 24, 32, 60, 100, 256), (2, 16, 31, 300)
    ):
        for (_, kind), (graph, plan) in plans.items():
            tensors = layer_inputs(graph, 1, k, v, kind=kind).tensors
            tensors = [x.to(dtype if i < 3 else gate) for i, x in enumerate(tensors)]
            tensors[5] = off_by_one(tensors[5])
            tensors[1] = tensors[1].to(gate) if k == 60 else tensors[1]
            inputs = Inputs.of(tensors)
            walk.forward(inputs, 0.3, plan)
            walk.backward(inputs.value, inputs, 0.3, plan)
            wide = torch.float64 in (dtype, gate)
            if graph is batch and kind == "line" and max(k, v) <= dense.CHANNELS and not wide:
                dense.forward(inputs, 0.3, on_chip)
                dense.backward(inputs.value, inputs, 0.3, on_chip)
    assert launched <= listed
    assert launched == {x for x in listed if "walk" in x[0] or "dense" in x[0]}
