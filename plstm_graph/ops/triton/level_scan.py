r"""c = x + T c level by level: one launch a level, for one graph too wide for single programs.

The tables regard the whole batch as one segment (``scan_tables(line_graph, whole=True)``); a
launch takes the edges of one level, ``ROWS`` rows a program, by the same device function as
:mod:`.segment_scan`. The end of a launch is the barrier between levels, so no program reads what
its own launch wrote.

**Which of the two.** A segment is walked by one program per head and tile, ``RUN`` rows at a time;
a run waits for the one before (a round of dependent loads and a barrier, about as long on any
payload). A level of its own costs a launch, worth some ``LAUNCH`` runs. With the longest walk of
any segment, in runs, and the number of levels of the whole graph:

.. math:: \text{level\_scan if}\quad \max_s \sum_{levels\ of\ s} \lceil width\, J / RUN \rceil
    \; > \; LAUNCH \cdot levels

So batches of small graphs, deep graphs and single paths are segments; one graph whose levels
average more than RUN x LAUNCH = 64 rows goes level by level. It is the longest segment that counts:
other programs at its side do not shorten it. The constants are estimates from latencies (a run
some 1.5 microseconds, a launch some 6); they choose a speed, never a result.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import triton
import triton.language as tl
from torch import Tensor

from plstm_graph.ops.triton.aot import KernelSpec
from plstm_graph.ops.triton.autotune import Config, pick
from plstm_graph.ops.triton.common import launch_options, on_device, power_of_2
from plstm_graph.ops.triton.scan_specs import ALIGN, MAX_REGISTERS, scan_specs
from plstm_graph.ops.triton.segment_scan import (
    DEFAULTS,
    DOUBLE,
    PLAIN,
    scan_configs,
    scan_operands,
    scan_rows,
)
from plstm_graph.ops.triton.tables import ScanTables

#: Candidates: as for segments, less what only helps where few programs share a level.
CONFIGS = (*DEFAULTS, Config(8, 64, 4, 3), Config(2, 256, 4))


@triton.jit(**PLAIN)
def level_scan_kernel(
    c, x, transition, order, line_ptr, line_in, line_id, first, last,
    heads, units, t_l, t_h, t_i, t_j,
    J: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
    STAGES: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    """Program (run of the level * heads + head, tile), level at positions [first, last)."""
    head = tl.cast(tl.program_id(0) % heads, tl.int64)
    column = tl.cast(tl.program_id(1), tl.int64) * WIDTH + tl.arange(0, WIDTH)
    scan_rows(
        c, x, transition, c, order, line_ptr, line_in, line_id,
        first, last, tl.program_id(0) // heads * ROWS, head, heads, units * ALIGN, column,
        t_l, t_h, t_i, t_j, J, ROWS, False, STAGES,
    )  # fmt: skip


def level_scan(x: Tensor, transition: Tensor, tables: ScanTables) -> Tensor:
    """c = x + T c by :func:`level_scan_kernel`.

    Tuned by (H, W, mean size of a level) rounded to powers of two, J and the dtypes.

    Args:
        x: [E, H, J, W], any strides. transition: [L, H, J, J], any strides.
        tables: of the direction to scan, with the whole batch as one segment.

    Returns:
        [E, H, J, W] in float32, or in float64 if an input is.
    """
    c, padded, transition = scan_operands(x, transition)
    if c.numel() == 0:
        return torch.empty(x.shape, dtype=c.dtype, device=c.device)
    _, heads, states, width = c.shape
    steps = tables.host_level_ptr.tolist()

    def launch(config: Config) -> None:
        tiles = triton.cdiv(width, config.width)
        for first, last in pairwise(steps):
            runs = triton.cdiv((last - first) * states, config.rows)
            level_scan_kernel[(runs * heads, tiles)](
                c, padded, transition, tables.order, tables.line_ptr, tables.line_in,
                tables.line_id, first, last, heads, width // ALIGN, *transition.stride(),
                J=states, ROWS=config.rows, WIDTH=config.width, STAGES=config.num_stages,
                ALIGN=ALIGN, num_warps=config.num_warps, num_stages=config.num_stages,
                **launch_options(c.device, MAX_REGISTERS),
            )  # fmt: skip

    sizes = (heads, width, tables.order.numel() // (len(steps) - 1))
    key = ("level_scan", *map(power_of_2, sizes), states, str(x.dtype), str(transition.dtype))
    with on_device(c):
        launch(pick(key, scan_configs(width, states, c.dtype, CONFIGS), launch, c.device))
    return c[..., : x.size(3)].contiguous()


def shipped() -> list[KernelSpec]:
    """See :func:`plstm_graph.ops.triton.scan_specs.scan_specs`."""
    return scan_specs("level_scan", level_scan_kernel, CONFIGS, DEFAULTS, DOUBLE)
