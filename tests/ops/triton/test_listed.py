"""What launchers launch is listed as shipped, whatever their inputs: nothing else is compiled.

Launches are recorded instead of run, and described as Triton's launcher would specialise them.
"""

import itertools

import pytest
import torch

pytest.importorskip("triton")

from plstm_graph.ops.triton import aot, dense, fused, fused_tables, level_scan
from plstm_graph.ops.triton import fused_backward as backward
from plstm_graph.ops.triton import segment_scan as segments
from plstm_graph.ops.triton.tables import scan_tables
from tests.ops.triton.helpers import payload
from tests.zoo import ZOO, disjoint, inputs

NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
NAMES |= {torch.float64: "fp64", torch.int32: "i32", torch.int64: "i64"}
KERNELS = [
    (segments, "segment_scan_kernel"),
    (segments, "edge_dot_kernel"),
    (level_scan, "level_scan_kernel"),
    (fused, "fused_forward_kernel"),
    (backward, "fused_query_kernel"),
    (backward, "fused_key_kernel"),
    (dense, "dense_forward_kernel"),
    (dense, "dense_backward_kernel"),
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
def launched(monkeypatch, device):
    """The set that fills with what is launched, every candidate of the autotuner among it."""
    if device.type != "cpu":
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
        if hasattr(module, "pick"):
            monkeypatch.setattr(module, "pick", pick)
    return found


DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def test_scans(launched, listed):
    line_graph = ZOO["multi_edge"]()
    tables = scan_tables(line_graph)
    whole = scan_tables(line_graph, whole=True)
    for x_dtype, t_dtype, states, width in itertools.product(
        DTYPES, DTYPES, (1, 2, 3, 4), (1, 16, 30, 64, 300)
    ):
        x, t = (a.detach() for a in payload(line_graph, 1, width, states=states))
        x, t = x.to(x_dtype), t.to(t_dtype)
        for made in (t, t.mT, off_by_one(t)):
            segments.segment_scan(x, made, tables)
            level_scan.level_scan(x, made, whole)
        segments.segment_scan(off_by_one(x), t, tables)
    for dtype, width in itertools.product(DTYPES[::3], (1, 16, 30, 64, 65)):
        rows, t = torch.zeros(line_graph.num_edges, width, dtype=dtype), t[..., 0, 0]
        row_of = torch.arange(line_graph.num_edges)
        segments.segment_scan_rows_(rows, t, row_of, tables)
        t = t[..., None, None]
        segments.row_dot(rows, rows, row_of, row_of)
        for states in (1, 3):
            c = rows[:, None, None].repeat(1, 2, states, 1)
            segments.edge_dot(c, c, tables)
    assert launched <= listed
    scans = {x for x in listed if x[0].endswith(("scan_kernel", "dot_kernel"))}
    assert launched == scans, "listed but never launched"


def test_layers(launched, listed):
    parts = [ZOO[name]() for name in ("path", "tree", "random_dense", "join")]
    line_graph = disjoint(parts, batch=True)  # parts of all block sizes of the dense form
    walk, on_chip = fused_tables.walk_tables(line_graph), dense.tables_of(line_graph)
    for dtype, gate, k, v in itertools.product(
        DTYPES, DTYPES, (3, 24, 32, 60, 100, 256), (2, 16, 31, 300)
    ):
        args = [a.detach().to(dtype) for a in inputs(line_graph, 1, k, v)]
        args[3:] = [a.to(gate) for a in args[3:]]
        args[5] = off_by_one(args[5])
        args[1] = args[1].to(gate) if k == 60 else args[1]
        grad = args[2]
        for recompute in (True, False):
            _, states = fused.fused_plstm_op(*args, 0.3, recompute, walk)
            fused._backward_op(grad, *args, states, 0.3, recompute, walk)
        wide = torch.float64 in (dtype, gate)
        if max(k, v) <= dense.CHANNELS and not wide:
            dense.dense_plstm_op(*args, 0.3, on_chip)
            dense._backward_op(grad, *args, 0.3, on_chip)
    assert launched <= listed
    assert launched == {x for x in listed if x[0].startswith(("fused", "dense"))}
