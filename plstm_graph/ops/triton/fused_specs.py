"""Every configuration of the fused and the dense kernels that their launchers may pick."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import triton.language as tl

from plstm_graph.ops.triton.aot import ALIGNED, KernelSpec
from plstm_graph.ops.triton.common import MAX_KEY_SIZE
from plstm_graph.ops.triton.dense import BACKWARD_BLOCK, MAX_REGISTERS, NUM_WARPS
from plstm_graph.ops.triton.dense_kernels import dense_backward_kernel, dense_forward_kernel
from plstm_graph.ops.triton.fused_backward import LINES
from plstm_graph.ops.triton.fused_common import REGISTERS, Tile, tile_of
from plstm_graph.ops.triton.fused_kernels import (
    fused_forward_kernel,
    fused_key_kernel,
    fused_query_kernel,
)

#: Dtypes of inputs and outputs; arithmetic is in float32. (float64 is for comparisons.)
DTYPES = ("fp32", "bf16", "fp16")
#: Buffers of the walk whose dtype is that of the arithmetic.
_WIDE = {"states", "adjoint", "d_query", "d_key", "d_source", "d_transition", "d_mark", "d_direct"}
_INPUTS = {"query", "key", "value", "source", "transition", "mark", "direct"}
_OUTPUTS = {"out", "grad", "d_value"}


def _types(kernel: Any, dtype: str, wide: set[str]) -> dict[str, str]:
    """Types of the arguments that are not constexpr: sizes, tensors of the layer, and tables."""
    types = {}
    for parameter in kernel.params:
        name = parameter.name
        if parameter.is_constexpr:
            continue
        if name.isupper() or name.startswith("first_"):
            types[name] = "i32"
        elif name in wide:
            types[name] = "*fp32" + ALIGNED
        elif name in _INPUTS | _OUTPUTS or name.startswith("d_"):
            types[name] = f"*{dtype}{ALIGNED}"
        else:
            types[name] = "*i32" + ALIGNED
    return types


def tiles() -> list[Tile]:
    """All tiles of the walk: each power of two as K, narrow and wide V, aligned or not."""
    keys = [16 << i for i in range((MAX_KEY_SIZE // 16).bit_length())]
    found = {tile_of(k, v): None for k in keys for v in (16, 32, 15, 31)}
    return list(found)


def walk_specs(tile: Tile, dtype: str) -> Iterator[KernelSpec]:
    """The kernels of the walk with one tile."""
    blocks = {"SCALE": 1.0, "ALIGN": tile.align, "BLOCK_K": tile.block_k, "BLOCK_V": tile.block_v}
    for kernel, name, extra in (
        (fused_forward_kernel, "fused_forward", {}),
        (fused_query_kernel, "fused_query", {"RECOMPUTE": True}),
        (fused_query_kernel, "fused_query_kept", {"RECOMPUTE": False}),
        (fused_key_kernel, "fused_key", {"LINES": LINES}),
    ):
        yield KernelSpec(
            f"{name}[{dtype},{tile.block_k}x{tile.block_v},align={tile.align}]",
            kernel,
            _types(kernel, dtype, _WIDE),
            {**blocks, **extra},
            num_warps=tile.num_warps,
            rereads=extra.get("RECOMPUTE", True),
            max_registers=REGISTERS[tile.align],
        )


def dense_specs(dtype: str, channels: int, align: int) -> Iterator[KernelSpec]:
    """The dense kernels of all blocks."""
    for block, num_warps in NUM_WARPS.items():
        for kernel, name in (
            (dense_forward_kernel, "dense_forward"),
            (dense_backward_kernel, "dense_backward"),
        ):
            if kernel is dense_backward_kernel and block > BACKWARD_BLOCK:
                continue
            yield KernelSpec(
                f"{name}[{dtype},{block}x{channels},align={align}]",
                kernel,
                _types(kernel, dtype, set()),
                {
                    "SCALE": 1.0,
                    "ALIGN": align,
                    "BLOCK": block,
                    "BLOCK_K": channels,
                    "BLOCK_V": channels,
                    "DTYPE": tl.float32,
                },
                num_warps=num_warps,
                max_registers=MAX_REGISTERS,
            )


def shipped(full: bool = True) -> list[KernelSpec]:
    """All tiles, dtypes and alignments, or without ``full`` every tile once."""
    specs: list[KernelSpec] = []
    for i, tile in enumerate(tiles()):
        for dtype in DTYPES if full else (DTYPES[i % len(DTYPES)],):
            specs += walk_specs(tile, dtype)
    for dtype in DTYPES if full else DTYPES[:1]:
        for channels in (16, 32):
            for align in (4, 1) if full else (1,):
                specs += dense_specs(dtype, channels, align)
    return specs
