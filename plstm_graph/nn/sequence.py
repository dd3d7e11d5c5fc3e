"""The pLSTM on sequences: grids of one axis."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from plstm_graph.checks import dense, flag, instance, refuse
from plstm_graph.nn.checks import check_options
from plstm_graph.nn.grid import PLSTMGrid
from plstm_graph.nn.sequence_tensors import masked, node_tensors, run_between


class SequenceState(NamedTuple):
    """What the rest of a sequence needs to know of its beginning.

    Attributes:
        state: [B, H, K, V] of the recurrence; with blocks [B, H, J, K, V], with a normalizer that
            counts one column more.
        log_scale: [B, H] where the cell has a stabilizer: the state is exp(log_scale) times this.
        inputs: [B, conv - 1, C] the last inputs, where there is a convolution.
    """

    state: Tensor
    log_scale: Tensor | None = None
    inputs: Tensor | None = None


class PLSTMSequence(torch.nn.Module):
    r"""The pLSTM layer on sequences: :class:`PLSTMGrid` with one axis.

    A path graph has one line edge at each node, so this is gated linear attention: with the
    decays T, every state is :math:`C_i = T_i C_{i-1} + S_i k_i v_i^{\top}`. Long sequences are cut
    in chunks (``form="chunkwise"``, chosen by ``"auto"``): time and memory grow linearly.

    A sequence may come in pieces: the state at the end of one goes into the next, and the outputs
    are those of the whole. :meth:`step` takes one position at a time.

    Args:
        channels: C, width of input and output.
        heads: H.
        bidirectional: also run from the end to the start, with gates of its own. Otherwise no
            output depends on a later input. Default ``False``.
        **kwargs: of :class:`PLSTMGrid`: ``cell``, ``mode``, ``conv``, ``passthrough``, ...

    Shapes:
        - **input:** x [B, length, C], any length; lengths [B] int64
        - **output:** [B, length, C]; with ``return_state`` also a :class:`SequenceState`

    Raises:
        ValueError: as :class:`PLSTMGrid`, and on states or lengths that do not fit.
    """

    def __init__(
        self, channels: int, heads: int, *, bidirectional: bool = False, **kwargs: Any
    ) -> None:
        super().__init__()
        check_options(bidirectional=bidirectional)
        self.bidirectional = bidirectional
        directions = ((1,), (-1,)) if bidirectional else ((1,),)
        self.grid = PLSTMGrid(
            channels, heads, ndim=1, directions=directions, causal=not bidirectional, **kwargs
        )

    def reset_parameters(self) -> None:
        """Resets all learnable parameters of the module."""
        self.grid.reset_parameters()

    def forward(
        self,
        x: Tensor,
        lengths: Tensor | None = None,
        state: SequenceState | None = None,
        return_state: bool = False,
    ) -> Tensor | tuple[Tensor, SequenceState]:
        """Run the layer.

        Args:
            x: [B, length, C].
            lengths: [B] int64, from 0 to ``length``: positions behind them are padding, whose
                outputs are zero. Default: there is none.
            state: what an earlier piece returned. Default: the sequences begin here.
            return_state: also return the state behind the last position. Default ``False``.

        Returns:
            [B, length, C], and with ``return_state`` a :class:`SequenceState`.
        """
        flag("return_state", return_state)
        if lengths is None and state is None and not return_state:
            return self.grid(x)
        grid = self.grid
        grid._check_x(x)
        valid = self._valid(lengths, x)
        tail = self._check_state(state, x)
        if valid is not None:
            x = x * valid[..., None]
        inner = self._inner(x, tail)
        tensors, dtype = node_tensors(grid, x, inner)
        if valid is not None:
            tensors = masked(tensors, valid, len(grid.directions))
        carried = None if state is None else (state.state.flatten(0, 1), state.log_scale)
        h, carried = run_between(grid, tensors, x.size(0), carried, return_state)
        out = grid._out(h, inner, dtype).view(x.shape)
        if valid is not None:
            out = out * valid[..., None]
        if not return_state:
            return out
        return out, self._state(*carried, x, lengths, tail)

    def step(self, x: Tensor, state: SequenceState | None = None) -> tuple[Tensor, SequenceState]:
        """One position: x [B, C] -> [B, C], and the state behind it."""
        x = dense("x", x, "B", self.grid.channels)
        out, state = self(x.unsqueeze(1), state=state, return_state=True)
        return out.squeeze(1), state

    def _valid(self, lengths: Tensor | None, x: Tensor) -> Tensor | None:
        """[B, length] whether a position is none of the padding."""
        if lengths is None:
            return None
        dense("lengths", lengths, x.size(0), dtype=torch.int64, device=x.device)
        if lengths.numel() and (int(lengths.min()) < 0 or int(lengths.max()) > x.size(1)):
            got = f"{int(lengths.min())} to {int(lengths.max())}"
            refuse("lengths", f"from 0 to {x.size(1)}, the length of x", got)
        return torch.arange(x.size(1), device=x.device) < lengths[:, None]

    def _check_state(self, state: SequenceState | None, x: Tensor) -> Tensor | None:
        """The inputs before x that the convolution sees, [B, conv - 1, C]."""
        if self.bidirectional and state is not None:
            refuse("state", "as None with bidirectional=True", "a state", "run the whole sequence")
        reach = 0 if self.grid.conv is None else self.grid.conv.kernel_size[0] - 1
        if state is None:
            return x.new_zeros(x.size(0), reach, x.size(2)) if reach else None
        instance("state", state, SequenceState, "a SequenceState")
        dense("state.state", state.state, x.size(0), "H", "*", device=x.device)
        if not reach:
            return None
        return dense("state.inputs", state.inputs, x.size(0), reach, x.size(2), device=x.device)

    def _inner(self, x: Tensor, tail: Tensor | None) -> Tensor:
        """x', what queries, keys and gates are made of, behind earlier inputs."""
        if self.bidirectional or tail is None:
            return self.grid._inner(x)
        before = torch.cat([tail.to(x.dtype), x], 1)
        return F.silu(self.grid.conv(before.movedim(-1, 1))).movedim(1, -1)

    def _state(
        self,
        state: Tensor,
        log_scale: Tensor | None,
        x: Tensor,
        lengths: Tensor | None,
        tail: Tensor | None,
    ) -> SequenceState:
        if self.bidirectional:
            refuse("return_state", "as False with bidirectional=True", "True")
        batch = x.size(0)
        state = state.unflatten(0, (batch, -1))
        log_scale = None if log_scale is None else log_scale.unflatten(0, (batch, -1))
        if tail is None:
            return SequenceState(state, log_scale)
        reach = torch.arange(tail.size(1), device=x.device).expand(batch, -1)
        reach = reach + (x.size(1) if lengths is None else lengths[:, None])
        inputs = torch.cat([tail.to(x.dtype), x], 1)
        inputs = inputs.gather(1, reach[..., None].expand(-1, -1, x.size(2)))
        return SequenceState(state, log_scale, inputs)

    def __repr__(self) -> str:
        grid = self.grid
        cell = "" if grid.cell == "plstm" else f"cell={grid.cell!r}, "
        return (
            f"{type(self).__name__}({grid.channels}, {cell}heads={grid.heads}, "
            f"bidirectional={self.bidirectional})"
        )
