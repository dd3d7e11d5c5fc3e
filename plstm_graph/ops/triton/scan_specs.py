"""The configurations in which the scan kernels are shipped, for ahead-of-time compilation."""

from __future__ import annotations

from typing import Any

from plstm_graph.ops.triton.aot import ALIGNED, KernelSpec
from plstm_graph.ops.triton.autotune import Config

#: Columns of a payload that are read in one vector: its width is a multiple of them.
ALIGN = 4
#: Most registers of a thread.
MAX_REGISTERS = 128
#: Tables of indices.
_TABLES = ("order", "line_ptr", "line_in", "line_out", "line_id", "level_ptr", "segment_ptr")
#: Whole numbers whose values lead to no variants.
_SIZES = ("heads", "states", "lines", "units", "first", "last", "t_l", "t_h", "t_i", "t_j")


def scan_spec(
    name: str,
    kernel: Any,
    config: Config,
    *,
    payload: str = "fp32",
    states: int = 1,
    by_rows: bool = False,
    align: int = ALIGN,
) -> KernelSpec:
    """The specialisation that a launch gets.

    Args:
        payload: the dtype of x; T has that of c.
        states: J.
        by_rows: rows of padded matrices.
        align: what is known to divide W.
    """
    acc = "fp64" if payload == "fp64" else "fp32"
    types = dict.fromkeys(("c", "dx", "dt"), f"*{acc}{ALIGNED}")
    types |= {"x": f"*{payload}{ALIGNED}", "transition": f"*{acc}"}
    types |= dict.fromkeys(_TABLES, "*i32")
    types |= {"rows": "*i64" if by_rows else "*i32"} | dict.fromkeys(_SIZES, "i32")
    fixed = {"J": states, "BY_ROWS": by_rows, "ALIGN": align}
    fixed |= {"ROWS": config.rows, "WIDTH": config.width, "STAGES": config.num_stages}
    label = [payload, f"J={states}", f"{config.rows}x{config.width}"]
    label += [f"warps={config.num_warps}", f"stages={config.num_stages}"]
    label += ["by_rows"] * by_rows + ["unaligned"] * (align == 1)
    return KernelSpec(
        f"{name}[{','.join(label)}]",
        kernel,
        {n: t for n, t in types.items() if n in kernel.arg_names},
        {n: v for n, v in fixed.items() if n in kernel.arg_names},
        config.num_warps,
        config.num_stages,
        rereads=name == "segment_scan",
        max_registers=MAX_REGISTERS,
    )


def scan_specs(
    name: str,
    kernel: Any,
    configs: tuple[Config, ...],
    defaults: tuple[Config, ...],
    double: Config,
) -> list[KernelSpec]:
    """All of ``configs`` for J = 1 and 32 or 16 bits, ``defaults`` for J = 2 to 4, ``double`` for
    float64."""
    many = [
        scan_spec(name, kernel, config, payload=payload)
        for config in configs
        for payload in ("fp32", "bf16", "fp16")
    ]
    tracked = [scan_spec(name, kernel, c, states=j) for j in (2, 3, 4) for c in defaults]
    doubles = [scan_spec(name, kernel, double, payload="fp64", states=j) for j in (1, 2, 3, 4)]
    return many + tracked + doubles
