"""Every configuration of the Triton kernels that their launchers may pick."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import triton.language as tl

from experiments.kernels.aot import ALIGNED, KernelSpec, parameters
from plstm_graph.ops.forms.triton import TritonWalk
from plstm_graph.ops.triton import dense, dense_kernels, scan, scan_kernels, walk, walk_kernels
from plstm_graph.ops.triton.autotune import Config

#: Dtypes of inputs where arithmetic is in float32.
DTYPES = ("fp32", "bf16", "fp16")
#: The J for which scans are compiled; a larger one is compiled when it is met.
STATES = (1, 2, 3, 4)
#: Tensors whose dtype is that of query, key and value, or of the payload.
_ROWS = {"query", "key", "value", "grad", "x"}
#: Results of the dense kernels in that dtype.
_DENSE = {"out", "d_query", "d_key", "d_value"}
#: Tensors in the dtype of the arithmetic, apart from gradients.
_WIDE = {"source", "transition", "enter", "mark", "direct", "out", "states", "c", "dx", "dt"}

#: Whole numbers of the scans.
_SIZES = {"heads", "j_size", "lines", "units", "last"}


def _spec(
    kernel: Any,
    dtype: str,
    config: Config,
    registers: int,
    constexprs: dict[str, Any],
    *,
    narrow: set[str] = frozenset(),
    **options: Any,
) -> KernelSpec:
    """The specialisation that a launch with inputs of ``dtype`` gets; ``narrow``: results in it."""
    wide = "fp64" if dtype == "fp64" else "fp32"
    types = {}
    for name, constexpr, plain in parameters(kernel):
        if constexpr:
            continue
        if name in _ROWS | narrow:
            types[name] = f"*{dtype}"
        elif name in _WIDE or name.startswith("d_"):
            types[name] = f"*{wide}"
        elif name == "scale":
            types[name] = "fp64"
        elif name.isupper() or name.startswith("first") or name in _SIZES:
            types[name] = "i32"
        else:
            types[name] = "*i32"
        if types[name].startswith("*") and not plain:
            types[name] += ALIGNED
    kind = [f"{k}={v}" for k, v in constexprs.items() if k in ("J", "KIND", "GRADS")]
    kind += [f"{config.rows}x{config.width}", f"warps={config.num_warps}"]
    return KernelSpec(
        f"{kernel.fn.__name__.removesuffix('_kernel')}[{','.join([dtype, *kind])}]",
        kernel, types, constexprs, config.num_warps, config.num_stages,
        max_registers=registers, **options,
    )  # fmt: skip


def walk_specs() -> Iterator[KernelSpec]:
    """All tiles in all dtypes; in float64 the default tile of each K."""
    doubles = {c.rows: c for c in reversed(walk.CONFIGS)}.values()
    for dtype in (*DTYPES, "fp64"):
        registers = walk.REGISTERS[torch.float64 if dtype == "fp64" else torch.float32]
        for config in doubles if dtype == "fp64" else walk.CONFIGS:
            for kind in TritonWalk.kinds:
                fixed = {"BLOCK_K": config.rows, "BLOCK_V": config.width, "KIND": kind}
                for kernel, extra in (
                    (walk_kernels.query_walk_kernel, {"GRADS": False}),
                    (walk_kernels.query_walk_kernel, {"GRADS": True}),
                    (walk_kernels.key_walk_kernel, {"LINES": walk.LINES}),
                ):
                    yield _spec(kernel, dtype, config, registers, fixed | extra, rereads=True)


def dense_specs() -> Iterator[KernelSpec]:
    """All blocks in all dtypes; float64 is not compiled."""
    for dtype in DTYPES:
        for config in (c for configs in dense.CONFIGS.values() for c in configs):
            fixed = {"BLOCK": config.rows, "CHANNELS": config.width, "DTYPE": tl.float32}
            nvidia, amd = ({"TERMS": dense.terms(config.rows, hip)} for hip in (False, True))
            for kernel in (dense_kernels.dense_forward_kernel, dense_kernels.dense_backward_kernel):
                yield _spec(
                    kernel, dtype, config, dense.MAX_REGISTERS, fixed | nvidia, narrow=_DENSE,
                    hip=amd,
                )  # fmt: skip


def scan_specs() -> Iterator[KernelSpec]:
    """All tiles for J = 1 and 32 or 16 bits, and for J = 2 to 4 in float32; one in float64."""
    cases = [(dtype, c, 1) for dtype in DTYPES for c in scan.CONFIGS]
    cases += [("fp32", c, j) for j in STATES[1:] for c in scan.CONFIGS]
    cases += [("fp64", scan.DOUBLE, j) for j in STATES]
    for dtype, config, j in cases:
        fixed = {"J": j, "ROWS": config.rows, "WIDTH": config.width}
        for kernel in (scan_kernels.segment_scan_kernel, scan_kernels.level_scan_kernel):
            rereads = kernel is scan_kernels.segment_scan_kernel
            yield _spec(kernel, dtype, config, scan.MAX_REGISTERS, fixed, rereads=rereads)
    for dtype, config in [("fp32", c) for c in scan.CONFIGS] + [("fp64", scan.DOUBLE)]:
        fixed = {"ROWS": config.rows, "WIDTH": config.width}
        yield _spec(scan_kernels.edge_dot_kernel, dtype, config, scan.MAX_REGISTERS, fixed)


SPECS = {"walk": walk_specs, "dense": dense_specs, "scan": scan_specs}


def shipped(modules: tuple[str, ...] = tuple(SPECS)) -> list[KernelSpec]:
    """Every configuration that a launcher may pick."""
    return [spec for name in modules for spec in SPECS[name]()]
