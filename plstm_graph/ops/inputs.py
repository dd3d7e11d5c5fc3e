"""The tensors of one call of ``plstm``, which travel together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Factored(NamedTuple):
    r"""Transitions that are products of two gates of edges.

    .. math:: T_l = a_{e_{in}}\, b_{e_{out}} \qquad \text{for each line edge } l = (e_{in}, e_{out})

    The sum at a junction is then made once for all edges that leave it: the cost is that of the
    edges, not of the line edges, and ``line_index`` is never built.

    Attributes:
        a: [E, H] floating point, the gate of the edge that the state comes from.
        b: [E, H] floating point, the gate of the edge that the state goes to.
    """

    a: Tensor
    b: Tensor

    def expand(self, line_index: Tensor) -> Tensor:
        """[L, H]: the transition of each line edge. Differentiable."""
        e_in, e_out = line_index
        return self.a.index_select(0, e_in) * self.b.index_select(0, e_out)


class Inputs(NamedTuple):
    """Shapes as :func:`plstm_graph.ops.plstm`, without J."""

    query: Tensor  # [N, H, K]
    key: Tensor  # [N, H, K]
    value: Tensor  # [N, H, V]
    source: Tensor  # [E, H]
    transition: Tensor | Factored  # [L, H]
    mark: Tensor  # [E, H]
    direct: Tensor  # [N, H]

    @property
    def factored(self) -> bool:
        return isinstance(self.transition, Factored)

    @property
    def tensors(self) -> list[Tensor]:
        """Seven tensors, or eight with a and b of :class:`Factored` in the transition's place."""
        before, after = self[:4], self[5:]
        return [*before, *(self.transition if self.factored else [self.transition]), *after]

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> Inputs:
        """The inverse of :attr:`tensors`."""
        if len(tensors) == 7:
            return cls(*tensors)
        return cls(*tensors[:4], Factored(*tensors[4:6]), *tensors[6:])

    def to(self, dtype: torch.dtype) -> Inputs:
        return Inputs.of([x.to(dtype) for x in self.tensors])
