"""The tensors of one call of ``plstm``, which travel together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

#: Kinds of transitions, by the number of axes of the tensor.
KINDS = {2: "line", 3: "diagonal", 4: "block"}


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


class Reflections(NamedTuple):
    r"""The update of a delta rule: R reflections of what comes into an edge, one after the other.

    With the keys and betas of the node where the edge e starts, and from :math:`C = \bar C_e`,

    .. math:: C \leftarrow C - \beta_r k_r (k_r^\top C - S_e v_r^\top), \qquad r = 1 \dots R

    With unit keys and beta between 0 and 2 the norm of the map is at most one.

    Attributes:
        key: [N, H, R, K].
        beta: [N, H, R].
        value: [N, H, R, V] what each reflection writes, or ``None`` for nothing.
    """

    key: Tensor
    beta: Tensor
    value: Tensor | None = None


class LogGate(NamedTuple):
    """A gate by its logarithm, for ``stabilizer=``.

    Attributes:
        log_abs: the logarithm of its absolute value, -inf for zero.
        sign: the same shape, 1 or -1; ``None`` for gates that are not negative.
    """

    log_abs: Tensor
    sign: Tensor | None = None


def shaped(gate: Tensor | LogGate) -> Tensor:
    """A tensor of the gate's shape."""
    return gate.log_abs if isinstance(gate, LogGate) else gate


def each(function: Callable[[Tensor], Tensor], gate: Tensor | LogGate) -> Tensor | LogGate:
    """The gate with a function applied to its tensors."""
    if isinstance(gate, LogGate):
        return LogGate(*(None if x is None else function(x) for x in gate))
    return function(gate)


class EdgeStates(NamedTuple):
    r"""States of some edges, to be taken out of one call of ``plstm`` and given to another.

    Attributes:
        edge: [I] int64 edges: whose state it is, or (``initial=``) the edge that it comes into.
        state: [I, H, K, V], with block transitions [I, H, J, K, V]; with a normalizer that counts,
            V + 1 columns, the last one of which is the normalizer's.
        log_scale: [I, H] with a stabilizer: the state is ``exp(log_scale)`` times ``state``.
    """

    edge: Tensor
    state: Tensor
    log_scale: Tensor | None = None


class Inputs(NamedTuple):
    """What a form computes with.

    With block transitions (J states on an edge) the shapes are the general ones, in brackets.
    """

    query: Tensor  # [N, H, K]
    key: Tensor  # [N, H, K]
    value: Tensor  # [N, H, V]  [N, H, J_S, V]
    source: Tensor  # [E, H]  [E, H, J_S, J]
    transition: Tensor | Factored  # [L, H], diagonal [L, H, K], block [L, H, J, J]
    mark: Tensor  # [E, H]  [E, H, J, J_M]
    direct: Tensor  # [N, H]  [N, H, J_S, J_M]
    update: Reflections | None = None  # with beta [E, H, R] of the edges, and a value

    @property
    def factored(self) -> bool:
        return isinstance(self.transition, Factored)

    @property
    def kind(self) -> str:
        """ "line", "factored", "diagonal" or "block"."""
        return "factored" if self.factored else KINDS[shaped(self.transition).dim()]

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors, one after the other: a and b of :class:`Factored` in the transition's place,
        those of the update at the end."""
        before, after = self[:4], self[5:7]
        middle = self.transition if self.factored else [self.transition]
        return [*before, *middle, *after, *(self.update or ())]

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> Inputs:
        """The inverse of :attr:`tensors`."""
        update = None
        if len(tensors) > 8:
            tensors, update = tensors[:-3], Reflections(*tensors[-3:])
        if len(tensors) == 7:
            return cls(*tensors, update)
        return cls(*tensors[:4], Factored(*tensors[4:6]), *tensors[6:], update)

    def to(self, dtype: torch.dtype) -> Inputs:
        return Inputs.of([x.to(dtype) for x in self.tensors])

    @property
    def states(self) -> int:
        """J, 1 without block transitions."""
        source = shaped(self.source)
        return source.size(3) if source.dim() == 4 else 1

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Of the result: [N, H, V], with block transitions [N, H, J_M, V]."""
        if self.mark.dim() == 2:
            return tuple(self.value.shape)
        return (*self.value.shape[:2], self.mark.size(3), self.value.size(3))
