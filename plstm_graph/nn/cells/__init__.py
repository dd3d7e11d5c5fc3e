"""Cells of the layers, one file each: :func:`make_cell` finds them by their names."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from plstm_graph.checks import choice, instance, refuse
from plstm_graph.nn.cells.base import Cell, CellTensors
from plstm_graph.nn.cells.bd_lru import BDLRU
from plstm_graph.nn.cells.delta import Delta
from plstm_graph.nn.cells.delta_product import DeltaProduct
from plstm_graph.nn.cells.gated_delta import GatedDelta
from plstm_graph.nn.cells.gla import GLA
from plstm_graph.nn.cells.h_lru import HLRU
from plstm_graph.nn.cells.mamba2 import Mamba2
from plstm_graph.nn.cells.mlstm import MLSTM
from plstm_graph.nn.cells.plstm import MODES
from plstm_graph.nn.cells.state_tracking import StateTracking

__all__ = [
    "CELLS",
    "CELL_NAMES",
    "NONLINEAR",
    "Cell",
    "CellTensors",
    "cell_mode",
    "cell_modes",
    "make_cell",
]

CELLS: dict[str, type[Cell]] = {
    cell.name: cell
    for cell in (
        *(MLSTM, GLA, Mamba2, Delta, GatedDelta, DeltaProduct),
        *(BDLRU, HLRU, StateTracking),
    )
}
#: What ``cell=`` of layers may be.
CELL_NAMES = ("plstm", *CELLS)
#: Cells whose gates read states, which are layers of their own: blocks and models take them, too.
NONLINEAR = ("slstm", "dag_lstm")


def cell_modes(cell: str) -> tuple[str, ...]:
    """The modes of a cell, the default first."""
    if cell in NONLINEAR:
        return ("N",)  # all predecessors
    choice("cell", cell, (*CELL_NAMES, *NONLINEAR))
    return CELLS[cell].modes if cell in CELLS else MODES


def cell_mode(cell: str, mode: str | None) -> str:
    """The mode of a layer, the cell's own default for ``None``."""
    if cell in NONLINEAR:
        remedy = f"{cell!r} is a layer of its own, SLSTMConv or DAGLSTMConv, also in PLSTM(cell=)"
        choice("cell", cell, CELL_NAMES, remedy)
    modes = cell_modes(cell)
    remedy = f"these are the modes of cell={cell!r}"
    return modes[0] if mode is None else choice("mode", mode, modes, remedy)


def make_cell(
    cell: str, channels: int, heads: int, mode: str, options: Mapping[str, Any] | None
) -> Cell | None:
    """The gates of a cell; ``None`` for ``"plstm"``, whose gates belong to the layers.

    Args:
        cell: one of ``CELL_NAMES``.
        channels, heads, mode: of the layer.
        options: of the cell's class, by name. ``None`` for the defaults.
    """
    options = {} if options is None else options
    instance("cell_options", options, Mapping, "a mapping from names to values, or None")
    names = []
    if cell in CELLS:
        names = list(inspect.signature(CELLS[cell].__init__).parameters)[4:]
    for name in options:
        if name not in names:
            known = f"with options of cell={cell!r} ({', '.join(names) or 'it has none'})"
            refuse("cell_options", known, repr(name))
    return CELLS[cell](channels, heads, mode, **options) if cell in CELLS else None
