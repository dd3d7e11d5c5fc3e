r"""The gates of a grid layer: made at the nodes, then gathered to edges and line edges.

For an orientation, a node n, its edges along the axes a, and gate inputs x:

P-mode, with one share :math:`o_a` of each axis, a source s, a mark m and a decay t:

.. math::
    S_{n \to a} = o_a s, \qquad T_{\cdot \to a} = o_a t, \qquad M_{a \to n} = m, \qquad
    o = \mathrm{softmax}(b + w x / 2C), \quad t = \tanh(5 (b + w x)), \quad
    s, m = \sigma(b + w x)

so the sums over the edges that leave n are s and t. In two dimensions the softmax is the angle
gate :math:`o = \sigma(\cdot)` with shares o and 1 - o. ``angle="published"`` is the published
two-dimensional program instead, where the second axis gets 1 - o s and 1 - o t.

D-mode: source and mark for each axis, and a transition :math:`\tanh(5 (b + w x))` for each turn
that the grid's multitree has (:func:`plstm_graph.grid_line_graph`).

Direct is one gate per node for all orientations, :math:`\sigma(b + w x)`.

Biases start at -4 (source, mark), -6 (direct) and 1 (transition); those of the angle are spread
over the heads from -2 to 2.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from plstm_graph.dag.grid import KEPT, grid_line_graph
from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.dag.tracing import Kept, made_outside, static
from plstm_graph.nn.norm import widened

ANGLES = ("softmax", "published")


class GridTables(NamedTuple):
    """A grid, and where its gates are found: rows of gates laid out as [N, kinds, O].

    Attributes:
        line_graph: the grid, all axes forward.
        views: [O, N] the node that node n of the line graph is under each orientation.
        source, mark: [O, E] rows; transition: [O, L] rows.
    """

    line_graph: LineGraph
    views: Tensor
    source: Tensor
    mark: Tensor
    transition: Tensor


_TABLES = Kept(KEPT)


def grid_tables(
    shape: tuple[int, ...], directions: tuple[tuple[int, ...], ...], mode: str, device: str
) -> GridTables:
    """Tables of a shape, the last :data:`~plstm_graph.dag.grid.KEPT` of which are cached.

    Args:
        shape: nodes along each axis.
        directions: the orientations, +1 or -1 for each axis.
        mode: ``"D"`` for the grid's own multitree, others for all line edges.
        device: where the tensors are.
    """
    if not torch.compiler.is_compiling() or static(shape):
        key = shape, directions, mode, device
        if key in _TABLES:
            return _TABLES[key]
    return _make_tables(shape, directions, mode, device)


@made_outside("run the layer once on an input of this shape before")
def _make_tables(
    shape: tuple[int, ...], directions: tuple[tuple[int, ...], ...], mode: str, device: str
) -> GridTables:
    """Tables of a shape, kept."""
    key = shape, directions, mode, device
    return _TABLES[key] if key in _TABLES else _TABLES.keep(key, _tables(*key))


def _tables(
    shape: tuple[int, ...], directions: tuple[tuple[int, ...], ...], mode: str, device: str
) -> GridTables:
    n = len(shape)
    turns = "diffusive" if mode == "D" else "all"
    line_graph = grid_line_graph(*shape, turns=turns, device=device)
    node = torch.arange(line_graph.num_nodes, device=device).view(shape)
    views = torch.stack(
        [node.flip([a for a in range(n) if d[a] < 0]).reshape(-1) for d in directions]
    )
    sizes = [line_graph.num_nodes // size * (size - 1) for size in shape]
    axis = torch.repeat_interleave(torch.arange(n), torch.tensor(sizes)).to(device)
    src, dst = line_graph.edge_index
    e_in, e_out = line_graph.line_index

    def rows(at: Tensor, kind: Tensor | int, kinds: int) -> Tensor:
        orientation = torch.arange(len(directions), device=device)[:, None]
        return (views[:, at] * kinds + kind) * len(directions) + orientation

    if mode != "D":
        transition = rows(src[e_out], axis[e_out], n)
        mark = rows(dst, 0, 1)
    else:
        # Turns from axis a to b <= a, numbered row by row of a triangle.
        a, b = axis[e_in], axis[e_out]
        transition = rows(src[e_out], a * (a + 1) // 2 + b, n * (n + 1) // 2)
        mark = rows(dst, axis, n)
    return GridTables(line_graph, views, rows(src, axis, n), mark, transition)


def all_directions(ndim: int) -> tuple[tuple[int, ...], ...]:
    """All 2**ndim orientations of a grid."""
    return tuple(product((1, -1), repeat=ndim))


class GridGates(torch.nn.Module):
    """See the module.

    Args:
        channels: C, width of the input.
        heads: H.
        ndim: number of axes.
        orientations: O.
        mode: ``"P"`` or ``"D"``.
        angle: ``"softmax"`` or ``"published"``.
        weights: False fixes all weights at zero: gates are biases alone. Default ``True``.
        weight_std: standard deviation of the initial weights. Default 0.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        ndim: int,
        orientations: int,
        mode: str,
        angle: str = "softmax",
        weights: bool = True,
        weight_std: float = 0.0,
    ) -> None:
        super().__init__()
        self.channels, self.heads, self.ndim = channels, heads, ndim
        self.orientations, self.mode, self.angle = orientations, mode, angle
        self.weight_std = weight_std
        if mode == "P":
            self.kinds = {"angle": ndim - 1, "source": 1, "mark": 1, "transition": 1}
        else:
            self.kinds = {"source": ndim, "mark": ndim, "transition": ndim * (ndim + 1) // 2}
        self.rows = sum(self.kinds.values()) * orientations * heads + heads
        self.bias = torch.nn.Parameter(torch.empty(self.rows))
        weight = torch.nn.Parameter(torch.empty(self.rows, channels)) if weights else None
        self.register_parameter("weight", weight)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start as an almost lossless memory that is written and read little."""
        if self.weight is not None:
            self.weight.normal_(std=self.weight_std) if self.weight_std else self.weight.zero_()
        bias = self.bias[: -self.heads].view(-1, self.orientations, self.heads)
        start = {"source": -4.0, "mark": -4.0, "transition": 1.0}
        for name, part in zip(self.kinds, bias.split(list(self.kinds.values()))):
            part.fill_(start.get(name, 0.0))
            if name == "angle":
                part.copy_(torch.linspace(-2, 2, self.heads).expand_as(part))
        self.bias[-self.heads :] = -6.0

    def forward(self, x: Tensor, tables: GridTables) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x [B, N, C] -> source [E, O, B, H], transition [L, O, B, H], mark [E, O, B, H], direct
        [N, B, H]."""
        batch, nodes, _ = x.shape
        if self.weight is None:
            logits = self.bias.expand(batch, nodes, -1)
        else:
            logits = torch.nn.functional.linear(x, self.weight, self.bias)
        logits = widened(logits)  # small gates are below the range of halves
        direct = logits[..., -self.heads :].sigmoid().transpose(0, 1)
        kinds, o, h = sum(self.kinds.values()), self.orientations, self.heads
        logits = logits[..., : -self.heads].view(batch, nodes, kinds, o, h)
        parts = dict(
            zip(self.kinds, logits.permute(1, 2, 3, 0, 4).split(list(self.kinds.values()), 1))
        )  # each [N, kinds, O, B, H]
        source, mark = parts["source"].sigmoid(), parts["mark"].sigmoid()
        transition = (5 * parts["transition"]).tanh()
        if self.mode == "P":
            source, transition = self._share(parts["angle"], source, transition)

        def gather(gate: Tensor, rows: Tensor) -> Tensor:
            found = gate.flatten(0, 2).flatten(1).index_select(0, rows.t().reshape(-1))
            return found.view(rows.size(1), o, batch, h)

        return (
            gather(source, tables.source),
            gather(transition, tables.transition),
            gather(mark, tables.mark),
            direct,
        )

    def _share(self, angle: Tensor, source: Tensor, transition: Tensor) -> tuple[Tensor, Tensor]:
        """Source and transition towards each axis, [N, ndim, O, B, H]."""
        if self.weight is not None:
            # The angle turns slower than other gates: its weights count 1 / 2C, its bias fully.
            bias = self.bias[: angle.size(1) * self.orientations * self.heads]
            bias = bias.view(1, -1, self.orientations, 1, self.heads)
            angle = bias + (angle - bias) * (0.5 / self.channels)
        if self.angle == "published":
            share = angle.sigmoid()
            pairs = ((share * gate, 1 - share * gate) for gate in (source, transition))
            source, transition = (torch.cat(pair, 1) for pair in pairs)
            return source, transition
        share = torch.cat([angle, torch.zeros_like(source)], 1).softmax(1)
        return share * source, share * transition
