"""Every configuration of the fused and the dense kernels that their launchers may pick."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import triton.language as tl

from plstm_graph.ops.triton import dense
from plstm_graph.ops.triton.aot import ALIGNED, KernelSpec, parameters
from plstm_graph.ops.triton.autotune import Config
from plstm_graph.ops.triton.dense_kernels import dense_backward_kernel, dense_forward_kernel
from plstm_graph.ops.triton.fused_backward import LINES
from plstm_graph.ops.triton.fused_common import REGISTERS, WALK_CONFIGS
from plstm_graph.ops.triton.fused_kernels import (
    fused_forward_kernel,
    fused_key_kernel,
    fused_query_kernel,
)

#: Dtypes of query, key and value where arithmetic is in float32.
DTYPES = ("fp32", "bf16", "fp16")
#: Tensors whose dtype is that of query, key and value, and those in that of the arithmetic.
_ROWS = {"query", "key", "value", "out", "grad", "d_value"}
_WIDE = {"source", "transition", "mark", "direct", "states", "adjoint"}
_WIDE |= {"d_source", "d_transition", "d_mark", "d_direct"}


def _types(kernel: Any, dtype: str, projections: str) -> dict[str, str]:
    """Types of the arguments that are not constexpr; ``projections``: dtype of d_query, d_key."""
    wide = "fp64" if dtype == "fp64" else "fp32"
    types = {}
    for name, constexpr, plain in parameters(kernel):
        if constexpr:
            continue
        if name == "scale":
            types[name] = "fp64"
        elif name.isupper() or name.startswith("first_"):
            types[name] = "i32"
        elif name in _ROWS:
            types[name] = f"*{dtype}"
        elif name in ("d_query", "d_key"):
            types[name] = f"*{projections}"
        else:
            types[name] = f"*{wide}" if name in _WIDE else "*i32"
        if types[name].startswith("*") and not plain:
            types[name] += ALIGNED
    return types


def walk_specs(config: Config, dtype: str) -> Iterator[KernelSpec]:
    """The kernels of the walk with one tile."""
    wide = "fp64" if dtype == "fp64" else "fp32"
    for kernel, name, extra in (
        (fused_forward_kernel, "fused_forward", {}),
        (fused_query_kernel, "fused_query", {"RECOMPUTE": True}),
        (fused_query_kernel, "fused_query_kept", {"RECOMPUTE": False}),
        (fused_key_kernel, "fused_key", {"LINES": LINES}),
    ):
        yield KernelSpec(
            f"{name}[{dtype},{config.rows}x{config.width},warps={config.num_warps}]",
            kernel,
            _types(kernel, dtype, wide),
            {"BLOCK_K": config.rows, "BLOCK_V": config.width, **extra},
            num_warps=config.num_warps,
            num_stages=config.num_stages,
            rereads=extra.get("RECOMPUTE", True),
            max_registers=REGISTERS[torch.float64 if dtype == "fp64" else torch.float32],
        )


def dense_specs(config: Config, dtype: str) -> Iterator[KernelSpec]:
    """The dense kernels of one block."""
    for kernel, name in (
        (dense_forward_kernel, "dense_forward"),
        (dense_backward_kernel, "dense_backward"),
    ):
        some = (dense.terms(config.rows, hip) for hip in (False, True))
        nvidia, amd = ({"TERMS": terms} for terms in some)
        yield KernelSpec(
            f"{name}[{dtype},{config.rows},warps={config.num_warps}]",
            kernel,
            _types(kernel, dtype, dtype),
            {"BLOCK": config.rows, "CHANNELS": config.width, "DTYPE": tl.float32, **nvidia},
            num_warps=config.num_warps,
            num_stages=config.num_stages,
            max_registers=dense.MAX_REGISTERS,
            hip=amd,
        )


def shipped() -> list[KernelSpec]:
    """All tiles and blocks in all dtypes; in float64 the default tiles of the walk."""
    specs: list[KernelSpec] = []
    for dtype in DTYPES:
        for config in WALK_CONFIGS:
            specs += walk_specs(config, dtype)
        for configs in dense.CONFIGS.values():
            for config in configs:
                specs += dense_specs(config, dtype)
    for config in {c.rows: c for c in reversed(WALK_CONFIGS)}.values():
        specs += walk_specs(config, "fp64")
    return specs
