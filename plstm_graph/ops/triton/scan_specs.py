"""The configurations in which the scan kernels are shipped, for ahead-of-time compilation."""

from __future__ import annotations

from typing import Any

from plstm_graph.ops.triton.aot import ALIGNED, KernelSpec
from plstm_graph.ops.triton.autotune import Config

#: Tables of indices.
_TABLES = ("order", "line_ptr", "line_in", "line_out", "line_id", "level_ptr", "segment_ptr")


def scan_spec(
    name: str,
    kernel: Any,
    config: Config,
    *,
    payload: str = "fp32",
    states: int = 1,
    by_rows: bool = False,
    aligned: bool = True,
) -> KernelSpec:
    """The specialisation that a launch with contiguous tensors of one dtype gets.

    Args:
        payload: the dtype of x and T. states: J. by_rows: rows of padded matrices.
        aligned: whether W is a multiple of 16, so that rows can be read in vectors.
    """
    mark = ALIGNED if aligned else ""
    acc = "fp64" if payload == "fp64" else "fp32"
    types = dict.fromkeys(("c", "dx", "dt"), f"*{acc}{ALIGNED}")
    types |= dict.fromkeys(("x", "transition"), f"*{payload}{ALIGNED}")
    # Dots by rows take rows where others take edges, in int64.
    index = "i64" if by_rows and "rows" not in kernel.arg_names else "i32"
    types |= dict.fromkeys(_TABLES, f"*{index}{ALIGNED}")
    types["rows"] = f"*i64{ALIGNED}" if by_rows else types["c"]
    types |= dict.fromkeys(("width", "x_e", "x_h", "x_j"), f"i32{mark}")
    types |= dict.fromkeys(("heads", "lines", "first", "last", "t_l", "t_h", "t_i"), "i32")
    fixed = {"x_w": 1, "t_j": 1, "J": states, "BY_ROWS": by_rows}
    fixed |= {"ROWS": config.rows, "WIDTH": config.width, "STAGES": config.num_stages}
    label = [payload, f"J={states}", f"{config.rows}x{config.width}"]
    label += [f"warps={config.num_warps}", f"stages={config.num_stages}"]
    label += ["by_rows"] * by_rows + ["unaligned"] * (not aligned)
    return KernelSpec(
        f"{name}[{','.join(label)}]",
        kernel,
        {n: t for n, t in types.items() if n in kernel.arg_names},
        {n: v for n, v in fixed.items() if n in kernel.arg_names},
        config.num_warps,
        config.num_stages,
        rereads=name == "segment_scan",
    )


def scan_specs(
    name: str,
    kernel: Any,
    configs: tuple[Config, ...],
    full: bool,
    payloads: tuple[str, ...] = ("fp32", "bf16", "fp16", "fp64"),
) -> list[KernelSpec]:
    """``configs`` in every dtype, for J = 1 to 4, and for W that are no multiple of 16.

    Unless ``full``, the product is thinned out: all of them for float32 and J = 1, and some of the
    other variants of the first one. No configuration with stages is for float64.
    """
    some = {(payload, 1) for payload in payloads} | {("fp32", j) for j in (2, 3, 4)} | {("fp64", 4)}
    specs = [
        scan_spec(name, kernel, config, payload=payload, states=states)
        for config in configs
        for payload in payloads
        for states in (1, 2, 3, 4)
        if (payload != "fp64" or config.num_stages == 1)
        and (
            full
            or (payload, states) == ("fp32", 1)
            or (config is configs[0] and (payload, states) in some)
        )
    ]
    specs += [
        scan_spec(name, kernel, config, payload=payload, states=states, aligned=False)
        for config in (configs if full else configs[:1])
        for payload, states in (("fp32", 1), ("fp64", 3))
        if payload != "fp64" or config.num_stages == 1
    ]
    return specs
