"""Cells on regular grids: the gates of each orientation, gathered by its line graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from plstm_graph.nn.cells import make_cell
from plstm_graph.nn.grid_gates import GridTables
from plstm_graph.nn.norm import widened
from plstm_graph.nn.projection import Projection


class GridCell(torch.nn.Module):
    """A cell for :class:`~plstm_graph.nn.PLSTMGrid`.

    The orientations see the same queries, keys and values; each has gates of its own, and what they
    read is added up. Batch and orientations are folded into the axis of the heads.

    Args:
        channels: C.
        heads: H.
        orientations: O.
        cell: name of the cell, any but ``"plstm"``.
        mode: of the cell.
        options: of the cell, or ``None``.
        bias: of the maps, those of the gates among them.

    Attributes:
        cell: the :class:`~plstm_graph.nn.cells.base.Cell`, whose parameters all orientations share.
        projection: the maps of the input; those of gates are called ``name_o`` for orientation o.

    Shapes:
        - **input:** [B, N, C]
        - **output:** the heads [B, N, H, C / H], float32 for halves, and the dtype of the maps
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        orientations: int,
        cell: str,
        mode: str,
        options: Mapping[str, Any] | None,
        bias: bool,
    ) -> None:
        super().__init__()
        self.heads, self.orientations = heads, orientations
        self.cell = make_cell(cell, channels, heads, mode, options)
        parts = self.cell.node_parts
        shared = [part for part in parts if part.name in self.cell.features]
        gates = [part for part in parts if part.name not in self.cell.features]
        own = [p._replace(name=f"{p.name}_{o}") for o in range(orientations) for p in gates]
        self.projection = Projection(channels, None, [[part] for part in shared + own], (), bias)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Resets all learnable parameters of the module."""
        self.projection.reset_parameters()
        self.cell.reset_parameters()

    def node_parts(self, x: Tensor, views: Tensor) -> dict[str, Tensor]:
        """The parts that :attr:`cell` reads.

        Args:
            x: [B, N, C].
            views: [O, N] the node that node n of the line graph is under each orientation.

        Returns:
            By name, [N, O, B, width].
        """
        *parts, _ = self.projection(x, None, None)
        found = {name: y.transpose(0, 1) for name, y in zip(self.projection.node_parts, parts)}
        return {
            part.name: torch.stack(
                [
                    found.get(part.name, found.get(f"{part.name}_{o}")).index_select(0, view)
                    for o, view in enumerate(views)
                ],
                1,
            )
            for part in self.cell.node_parts
        }

    def forward(
        self, x: Tensor, tables: GridTables, *, form: str, backend: str
    ) -> tuple[Tensor, torch.dtype]:
        node = self.node_parts(x, tables.views)
        dtype = next(iter(node.values())).dtype
        node = {name: widened(part) for name, part in node.items()}
        with torch.autocast(x.device.type, enabled=False):
            tensors = self.cell(node, None, tables.line_graph)
            h = self.cell.run(tensors, tables.line_graph, form=form, backend=backend)
            h = h.unflatten(1, (self.orientations, x.size(0), -1)).flatten(3)  # [N, O, B, C]
            # Mirrored twice is where it was, so a view is its own inverse.
            parts = (h[:, o].index_select(0, view) for o, view in enumerate(tables.views))
            return sum(parts).transpose(0, 1).unflatten(-1, (self.heads, -1)), dtype
