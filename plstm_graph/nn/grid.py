"""The pLSTM on regular grids: images, volumes, sequences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from plstm_graph.checks import choice, integer, refuse
from plstm_graph.nn.cells import cell_mode
from plstm_graph.nn.cells.grid import GridCell
from plstm_graph.nn.checks import check_features, check_heads, check_options, check_plstm_alone
from plstm_graph.nn.grid_gates import ANGLES, GridGates, GridTables, all_directions, grid_tables
from plstm_graph.nn.norm import HeadRMSNorm, widened
from plstm_graph.ops import gating_matrix, gating_pays, plstm
from plstm_graph.ops.checks import form_names
from plstm_graph.ops.gating import with_readout

CONVS = {1: torch.nn.Conv1d, 2: torch.nn.Conv2d, 3: torch.nn.Conv3d}


class PLSTMGrid(torch.nn.Module):
    r"""The pLSTM layer on n-dimensional grids, e.g. the patches of an image.

    A grid is a :class:`~plstm_graph.LineGraph` like any other
    (:func:`plstm_graph.grid_line_graph`), so this is :func:`plstm_graph.ops.plstm` with gates made
    for grids (:mod:`plstm_graph.nn.grid_gates`). Batch and orientations are folded into the head
    axis: one schedule serves all images and all mirror images. The orientations see the same
    queries, keys and values, hence their gating matrices may be summed before attention,

    .. math::
        h = \Big(Q K^\top * \sum_o G_o \Big) V, \qquad
        out = W_O\, (\mathrm{RMSNorm}(h) + p \odot x')

    with the inputs :math:`x' = \mathrm{SiLU}(\mathrm{conv}(x))` of query, key and gates, and a
    learned passthrough p.

    With another ``cell``, query, key, value and gates are all made of x', and the orientations are
    added after each has been read (:mod:`plstm_graph.nn.cells`).

    Args:
        channels: C, width of input and output; K = V = channels / heads.
        heads: H.
        ndim: number of axes. Default 2.
        cell, cell_options, mode: as in :class:`~plstm_graph.nn.PLSTMConv`. Default ``"plstm"``,
            in mode ``"P"``.
        directions: the orientations, each +1 or -1 for every axis. Default: all 2**ndim.
        angle: of P-mode: ``"softmax"`` as in the paper, or ``"published"`` as in its program,
            two-dimensional. Default ``"softmax"``.
        conv: kernel size of the depthwise convolution (odd), 0 for none: then x' = x. It looks
            both ways, except ``causal``. Default 0.
        causal: for one axis: the convolution sees no later position. Default ``False``.
        passthrough: learn p, starting at one. Default ``False``.
        gate_weights: False makes the gates biases alone. Default ``True``.
        gate_std: standard deviation of the gates' initial weights. Default 0.
        bias: of the maps of query, key, value and output, and of the convolution.
            Default ``True``.
        form: ``"auto"``; ``"gating"`` sums gating matrices; or a form of
            :func:`plstm_graph.ops.plstm`. Default ``"auto"``.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``. Default ``"auto"``.

    Shapes:
        - **input, output:** x [B, *shape, C], any shape of ndim axes

    Raises:
        ValueError: on bad options, and on input of another number of axes or channels, or with an
            axis of size 0.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        *,
        ndim: int = 2,
        cell: str = "plstm",
        cell_options: Mapping[str, Any] | None = None,
        mode: str | None = None,
        directions: Sequence[Sequence[int]] | None = None,
        angle: str = "softmax",
        conv: int = 0,
        causal: bool = False,
        passthrough: bool = False,
        gate_weights: bool = True,
        gate_std: float = 0.0,
        bias: bool = True,
        form: str = "auto",
        backend: str = "auto",
    ) -> None:
        super().__init__()
        check_heads("channels", channels, heads)
        check_options(
            ndim=ndim,
            causal=causal,
            passthrough=passthrough,
            gate_weights=gate_weights,
            gate_std=gate_std,
            bias=bias,
            backend=backend,
        )
        mode = cell_mode(cell, mode)
        if cell != "plstm":
            options = {"angle": angle, "gate_weights": gate_weights, "gate_std": gate_std}
            check_plstm_alone(cell, **options)
        choice("form", form, (*form_names(), "gating")[: None if cell == "plstm" else -1])
        if choice("angle", angle, ANGLES) == "published" and ndim != 2:
            refuse("angle", "'published' with ndim=2", f"ndim={ndim}", "use angle='softmax'")
        if integer("conv", conv, 0) and (conv % 2 == 0 or ndim > 3):
            raise ValueError(
                f"expected conv as 0 or an odd kernel size, for at most 3 axes, got {conv} with "
                f"ndim={ndim}"
            )
        if causal and ndim != 1:
            raise ValueError(f"expected causal with one axis, got ndim={ndim}")
        self.channels, self.heads, self.ndim = channels, heads, ndim
        self.cell, self.mode = cell, mode
        self.directions = _check_directions(directions, ndim)
        self.causal, self.form, self.backend = causal, form, backend
        orientations = len(self.directions)
        if cell == "plstm":
            self.lin_query_key = torch.nn.Linear(channels, 2 * channels, bias=bias)
            self.lin_value = torch.nn.Linear(channels, channels, bias=bias)
            self.gates = GridGates(
                channels, heads, ndim, orientations, mode, angle, gate_weights, gate_std
            )
        else:
            self.lin_query_key = self.lin_value = None
            self.gates = GridCell(channels, heads, orientations, cell, mode, cell_options, bias)
        self.conv = None
        if conv:
            self.conv = CONVS[ndim](channels, channels, conv, groups=channels, bias=bias)
        passing = torch.nn.Parameter(torch.ones(channels)) if passthrough else None
        self.register_parameter("passthrough", passing)
        self.norm = HeadRMSNorm(heads, channels // heads)
        self.lin_out = torch.nn.Linear(channels, channels, bias=bias)

    def reset_parameters(self) -> None:
        """Resets all learnable parameters of the module."""
        modules = (self.lin_query_key, self.lin_value, self.gates, self.conv, self.norm)
        for module in (*modules, self.lin_out):
            if module is not None:
                module.reset_parameters()
        if self.passthrough is not None:
            torch.nn.init.ones_(self.passthrough)

    def forward(self, x: Tensor) -> Tensor:
        """Run the layer on x [B, *shape, C]."""
        shape = self._check_x(x)
        tables = grid_tables(shape, self.directions, self.mode, str(x.device))
        inner = self._inner(x).flatten(1, -2)
        if not len(x):  # the operators want a head
            return self.lin_out(inner).view(x.shape)
        if self.cell != "plstm":
            h, dtype = self.gates(inner, tables, form=self.form, backend=self.backend)
            return self._out(h, inner, dtype).view(x.shape)
        value = self.lin_value(x).flatten(1, -2)
        query, key = self.lin_query_key(inner).chunk(2, -1)
        gates = self.gates(inner, tables)
        dtype = value.dtype
        # Products of halves leave their range, so heads are float32 up to the output projection.
        query, key, value = (
            widened(y).unflatten(-1, (self.heads, -1)) for y in (query, key, value)
        )
        with torch.autocast(x.device.type, enabled=False):
            h = self._propagate(query, key, value, gates, tables)
        return self._out(h, inner, dtype).view(x.shape)

    def _out(self, h: Tensor, inner: Tensor, dtype: torch.dtype) -> Tensor:
        """Heads [B, N, H, V] -> [B, N, C], where the projections are of a dtype."""
        with torch.autocast(h.device.type, enabled=False):
            h = self.norm(h).flatten(2).to(dtype)
        if self.passthrough is not None:
            h = h + self.passthrough * inner
        return self.lin_out(h)

    def gating(self, x: Tensor) -> Tensor:
        """The gating matrices of x [B, *shape, C], all orientations summed: [B, H, N, N]."""
        if self.cell != "plstm":
            refuse("cell", "'plstm', which has gating matrices", repr(self.cell))
        tables = grid_tables(self._check_x(x), self.directions, self.mode, str(x.device))
        gates = self.gates(self._inner(x).flatten(1, -2), tables)
        return self._gating(gates, tables).unflatten(0, (x.size(0), self.heads))

    def _check_x(self, x: Tensor) -> tuple[int, ...]:
        axes = (f"axis {i}" for i in range(self.ndim))
        check_features("x", x, "B", *axes, self.channels, weight=self.lin_out.weight)
        for axis, size in enumerate(x.shape[1:-1]):
            if size < 1:
                refuse("x", f"with axis {axis} of size 1 or more", f"{list(x.shape)}")
        return tuple(x.shape[1:-1])

    def _inner(self, x: Tensor) -> Tensor:
        """x', what queries, keys and gates are made of."""
        if self.conv is None:
            return x
        reach = self.conv.kernel_size[0] - 1
        pads = (reach, 0) if self.causal else (reach // 2, reach // 2) * self.ndim
        return F.silu(self.conv(F.pad(x.movedim(-1, 1), pads))).movedim(1, -1)

    def _gating(self, gates: tuple[Tensor, ...], tables: GridTables) -> Tensor:
        source, transition, mark, direct = gates
        # One Direct for all orientations: the first view has it, and its nodes are its own.
        first = direct.index_select(0, tables.views[0])
        rest = direct.new_zeros(direct.size(0), source.size(1) - 1, *direct.shape[1:])
        direct = torch.cat([first[:, None], rest], 1)
        gates = (gate.flatten(1) for gate in (source, transition, mark, direct))
        graph, views = tables.line_graph, tables.views
        with_readout(graph)  # torch.compile cannot make it when it comes to need it
        return gating_matrix(*gates, graph, views=views, backend=self.backend)

    def _propagate(
        self, query: Tensor, key: Tensor, value: Tensor, gates: tuple, tables: GridTables
    ) -> Tensor:
        """query, key, value [B, N, H, *] -> [B, N, H, V]."""
        graph, views = tables.line_graph, tables.views
        scale = query.size(-1) ** -0.5
        form = self.form
        if form == "auto" and gating_pays(graph, query, value, len(views), self.backend):
            form = "gating"
        if form == "gating":
            gating = self._gating(gates, tables)
            q, k, v = (y.transpose(1, 2).flatten(0, 1) for y in (query * scale, key, value))
            h = (torch.bmm(q, k.mT) * gating) @ v
            return h.unflatten(0, (query.size(0), -1)).transpose(1, 2)

        def view(y: Tensor) -> Tensor:
            """[B, N, H, W] -> [N, O * B * H, W] as the orientations see it."""
            y = y.transpose(0, 1).index_select(0, views.t().reshape(-1))
            return y.unflatten(0, (-1, len(views))).flatten(1, 3)

        source, transition, mark, direct = gates
        direct = direct / len(views)  # each orientation adds its part
        direct = view(direct.transpose(0, 1)[..., None]).squeeze(-1)
        h = plstm(
            view(query), view(key), view(value),
            source.flatten(1), transition.flatten(1), mark.flatten(1), direct,
            graph, scale=scale, form=form, backend=self.backend,
        )  # fmt: skip
        h = h.unflatten(1, (len(views), query.size(0), -1))  # [N, O, B, H, V]
        # Mirrored twice is where it was, so a view is its own inverse.
        parts = (h[:, o].index_select(0, view) for o, view in enumerate(views))
        return sum(parts).transpose(0, 1)

    def __repr__(self) -> str:
        cell = "" if self.cell == "plstm" else f"cell={self.cell!r}, "
        return (
            f"{type(self).__name__}({self.channels}, {cell}heads={self.heads}, ndim={self.ndim}, "
            f"mode={self.mode!r})"
        )


def _check_directions(
    directions: Sequence[Sequence[int]] | None, ndim: int
) -> tuple[tuple[int, ...], ...]:
    if directions is None:
        return all_directions(ndim)
    try:
        checked = tuple(tuple(d) for d in directions)
        signs = [s for d in checked for s in d]
        bad = not checked or any(len(d) != ndim for d in checked)
        bad |= any(isinstance(s, bool) or s not in (1, -1) for s in signs)
    except TypeError:
        bad = True
    if bad:
        raise ValueError(
            f"expected directions as tuples of {ndim} numbers +1 or -1 (one per axis), got "
            f"{directions!r}"
        )
    return checked
