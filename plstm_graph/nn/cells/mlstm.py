r"""The mLSTM."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from plstm_graph.checks import choice
from plstm_graph.nn.cells.base import CellTensors
from plstm_graph.nn.cells.gated import GatedCell
from plstm_graph.nn.projection import Part, spread
from plstm_graph.ops.inputs import LogGate

NORMALIZERS, STABILIZERS = ("max1", "sum", "norm"), ("max", "logsumexp")
#: Gate logits lie between -15 and 15.
CAP = 15.0


class MLSTM(GatedCell):
    r"""The mLSTM from the `"xLSTM: Extended Long Short-Term Memory"
    <https://arxiv.org/abs/2405.04517>`_ paper.

    .. math::
        C_t &= f_t C_{t-1} + i_t k_t v_t^\top, \qquad n_t = f_t n_{t-1} + i_t k_t \\
        h_t &= C_t^\top q_t \,/\, \max(|n_t \cdot q_t|, 1), \qquad
        f = \sigma(\mathrm{cap}(\tilde f)), \quad i = \exp(\mathrm{cap}(\tilde i))

    with queries scaled by K^-1/2 and :math:`\mathrm{cap}(x) = 15 \tanh(x / 15)`, as in `xLSTM-7B
    <https://arxiv.org/abs/2503.13427>`_. On a DAG every path between two nodes counts, so numerator
    and denominator may be as large as the number of paths: the operator computes with gates
    divided by a gauge of each edge that keeps the state below the largest key (``stabilizer``),
    which leaves h as it is. Gates are logarithms then.

    **Bound.** With ``"logsumexp"`` the states in the gauge are convex combinations of the
    :math:`k v^\top`, whatever the number of paths; with ``"max"`` only where there is one path.

    **Mark** is f of the node where an edge ends, Direct its i.

    **Start.** Gate weights are zero, the bias of f runs from 3 to 6 over the heads, that of i is
    drawn from N(0, 0.1).

    Args:
        normalizer: ``"max1"`` as above; ``"sum"``, h = num / den, with queries and keys made
            positive by softplus; ``"norm"``, no denominator, for a head norm behind the layer;
            ``None``, h = C q. Default ``"max1"``.
        stabilizer: the gauge: ``"logsumexp"`` over all paths, ``"max"`` of them (the published one,
            equal on a path), or ``None``. Default ``"logsumexp"``.
    """

    name = "mlstm"
    modes = ("N", "P", "D")
    forget_part, input_part = "forget", "input"

    def __init__(
        self,
        channels: int,
        heads: int,
        mode: str,
        *,
        normalizer: str | None = "max1",
        stabilizer: str | None = "logsumexp",
    ) -> None:
        super().__init__(channels, heads, mode)
        if normalizer is not None:
            choice("normalizer", normalizer, NORMALIZERS, "or None")
        if stabilizer is not None:
            choice("stabilizer", stabilizer, STABILIZERS, "or None")
        self.normalizer, self.stabilizer = normalizer, stabilizer
        self.node_parts = [Part(name, channels) for name in self.features]
        zero = torch.nn.init.zeros_
        self.add_gates(
            Part("forget", heads, (1, 2), zero, partial(spread, low=3.0, high=6.0)),
            Part("input", heads, (1, 1), zero, partial(torch.nn.init.normal_, std=0.1)),
        )

    def heads_of(self, node: dict[str, Tensor]) -> CellTensors:
        query, key, value = (self.split(node[name]) for name in self.features)
        if self.normalizer == "sum":
            query, key = F.softplus(query), F.softplus(key)
        return CellTensors(query * query.size(-1) ** -0.5, key, value, *[None] * 4)

    def log_forget(self, logit: Tensor) -> Tensor:
        return F.logsigmoid(soft_cap(logit))

    def write(self, logit: Tensor) -> Tensor | LogGate:
        return self.gate(soft_cap(logit))

    def gate(self, log_gate: Tensor) -> Tensor | LogGate:
        return log_gate.exp() if self.stabilizer is None else LogGate(log_gate)


def soft_cap(x: Tensor) -> Tensor:
    """15 tanh(x / 15)."""
    return CAP * (x / CAP).tanh()
