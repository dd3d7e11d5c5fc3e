"""Layers in half precision against the same weights in float64.

Inputs are zero, tiny (1e-4) and large (1e3), and one graph has a hub of 20,000 neighbours: counts,
angles, squares and sums over edges must not be made in a half.
"""

import copy

import pytest
import torch
from torch import Tensor
from torch_geometric.utils import to_undirected

from plstm_graph import (
    PLSTM,
    LineGraph,
    PLSTMBlock,
    PLSTMConv,
    PLSTMGrid,
    PLSTMSequence,
    PLSTMVision,
)
from plstm_graph.nn import HeadRMSNorm, SinusoidalDegree
from plstm_graph.nn.block import Norm, WideSum
from plstm_graph.nn.gates import normalize_transition
from plstm_graph.nn.norm import log_rms, mean_square, unit_length

HALVES = {"fp16": torch.float16, "bf16": torch.bfloat16}
HUB = 20_000
halves = pytest.mark.parametrize("dtype", HALVES.values(), ids=HALVES)


def assert_near(got: Tensor, want: Tensor, dtype: torch.dtype, factor: float = 8.0) -> None:
    """Finite, and off by a few roundings of the largest entry."""
    got, want = got.detach(), want.detach()
    assert got.isfinite().all() and want.isfinite().all()
    bound = factor * torch.finfo(dtype).eps * max(1.0, float(want.abs().max()))
    assert float((got.double() - want).abs().max()) <= bound


def entries(*shape: int) -> Tensor:
    """Rows of zeros, tiny and large entries, and rows with one large entry among zeros."""
    x = torch.randn(shape)
    x[0::5] = 0
    x[1::5] *= 1e-4
    x[2::5] *= 0.0
    x[2::5, ..., 0] = 1e3
    x[3::5] *= 1e3
    return x


ring = torch.arange(20)
RING = to_undirected(torch.stack([ring, ring.roll(1)]))
#: A path into a hub of 20,000 targets, whose states meet again in one node.
leaves = torch.arange(2, HUB + 2)
STAR = torch.cat([torch.tensor([[0], [1]]), torch.stack([torch.ones_like(leaves), leaves])], 1)
MEET = torch.cat([STAR, torch.stack([leaves, torch.full_like(leaves, HUB + 2)])], 1)


@halves
def test_parts_at_the_ends_of_the_range(dtype):
    for x in (entries(20, 3, 4).to(dtype), torch.full((2, 1, 4), 1e-4, dtype=dtype)):
        want = torch.nn.functional.normalize(x.double(), dim=-1, eps=1e-12)
        assert_near(unit_length(x), want, dtype, 2)
        assert_near(mean_square(x), x.double().square().mean(-1, keepdim=True), torch.float32, 2)
        assert_near(log_rms(x), log_rms(x.double()), dtype, 2)
        norm = HeadRMSNorm(*x.shape[1:]).to(dtype)
        for square in (None, mean_square(x)):
            want = copy.deepcopy(norm).double()(x.double())
            assert_near(norm(x, square), want, dtype, 2)
        for name in ("layer_norm", "rms_norm"):
            norm = Norm(name, x.size(-1)).to(dtype)
            assert_near(norm(x), copy.deepcopy(norm).double()(x.double()), dtype, 4)


@halves
def test_sums_at_a_hub(dtype):
    t = (torch.rand(HUB, 2) + 3.5).to(dtype)
    group = torch.zeros(HUB, dtype=torch.long)
    want = normalize_transition(t.double(), group, 1)
    got = normalize_transition(t, group, 1).double()
    assert ((got - want) / want).abs().max() < 0.01
    ones = torch.ones(HUB, 2, dtype=dtype)
    assert_near(WideSum()(ones, group, dim_size=1), torch.full((1, 2), HUB), dtype, 1)


@halves
@pytest.mark.parametrize("kind", ["undirected", "dag"])
def test_degrees_of_a_hub(dtype, kind):
    graph = LineGraph.from_edge_index(STAR, HUB + 2)
    encoding = SinusoidalDegree(8, kind)
    want = encoding(graph, torch.float64)
    assert_near(encoding.to(dtype)(graph), want, torch.float32, 1e4)  # an angle of 20,000
    assert_near(encoding(graph, dtype).to(dtype), want, dtype, 1)


MODULES = {
    **{
        f"conv {mode} {cell}": lambda mode=mode, qk=qk: PLSTMConv(6, 8, 2, mode=mode, qk_norm=qk)
        for mode in "PD"
        for cell, qk in (("plain", False), ("qk_norm", True))
    },
    "conv target": lambda: PLSTMConv(6, 8, 2, normalization="target", direction_offset=True),
    "conv no norms": lambda: PLSTMConv(6, 8, 2, qk_norm=True, head_norm=False),
    "conv no log": lambda: PLSTMConv(6, 8, 2, log_norm=False),
    **{
        f"conv {form}": lambda form=form: PLSTMConv(6, 8, 2, form=form)
        for form in ("naive", "levelwise", "dense", "chunkwise")
    },
    "block": lambda: PLSTMBlock(6, 2),
    "block rms": lambda: PLSTMBlock(6, 2, norm="rms_norm"),
    "block gin": lambda: PLSTMBlock(6, 2, local="gin"),
    "model": lambda: PLSTM(6, 8, 2, 3, degree_encoding="undirected"),
    "model mean": lambda: PLSTM(6, 8, 2, 3, degree_encoding="dag", readout="mean"),
    "model max": lambda: PLSTM(6, 8, 1, 3, readout="max"),
}
GRIDS = {
    "grid P": (lambda: PLSTMGrid(8, 2, gate_std=0.1), (3, 4, 4, 8)),
    "grid D": (lambda: PLSTMGrid(8, 2, mode="D", conv=3, passthrough=True), (3, 4, 4, 8)),
    "grid gating": (lambda: PLSTMGrid(8, 2, form="gating"), (3, 4, 4, 8)),
    "grid levelwise": (lambda: PLSTMGrid(8, 2, form="levelwise"), (3, 4, 4, 8)),
    "grid naive": (lambda: PLSTMGrid(8, 2, form="naive"), (3, 4, 4, 8)),
    "sequence": (lambda: PLSTMSequence(8, 2, bidirectional=True), (3, 20, 8)),
    "vision": (
        lambda: PLSTMVision(8, 2, 3, width=8, depth=2, heads=2, in_channels=1),
        (3, 1, 8, 8),
    ),
}


def check(module: torch.nn.Module, dtype: torch.dtype, cast: str, x: Tensor, *args) -> None:
    """Forward against float64, and a finite backward."""
    low = module.to(dtype) if cast == "module" else module
    x = x.to(dtype).to(next(low.parameters()).dtype)
    with torch.no_grad():
        want = copy.deepcopy(low).double()(x.double(), *args)
    with torch.autocast("cpu", dtype=dtype, enabled=cast == "autocast"):
        got = low(x, *args)
    # A head that is almost zero is normalised with its rounding: few outputs are off by more.
    assert_near(got, want, dtype, 64.0)
    error = (got.detach().double() - want).square().mean().sqrt() / want.square().mean().sqrt()
    assert float(error) < 4 * torch.finfo(dtype).eps
    got.float().mean().backward()
    assert all(p.grad.isfinite().all() for p in low.parameters() if p.grad is not None)


@halves
@pytest.mark.parametrize("cast", ["module", "autocast"])
@pytest.mark.parametrize("name", MODULES)
def test_graph_modules(name, cast, dtype):
    check(MODULES[name](), dtype, cast, entries(20, 6), RING)


@halves
@pytest.mark.parametrize("cast", ["module", "autocast"])
@pytest.mark.parametrize("name", [name for name in MODULES if name != "conv naive"])
def test_graph_modules_at_a_hub(name, cast, dtype):
    graph = MEET if "dense" not in name else STAR[:, :200]
    check(MODULES[name](), dtype, cast, torch.randn(int(graph.max()) + 1, 6), graph)


@halves
@pytest.mark.parametrize("cast", ["module", "autocast"])
@pytest.mark.parametrize("name", GRIDS)
def test_grid_modules(name, cast, dtype):
    module, shape = GRIDS[name]
    x = entries(shape[0] * shape[1], *shape[2:]).view(shape)
    check(module(), dtype, cast, x)
