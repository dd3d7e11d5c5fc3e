r"""Gated linear attention."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor
from torch_geometric.nn.dense.linear import Linear

from plstm_graph.checks import integer, real
from plstm_graph.nn.cells.base import CellTensors
from plstm_graph.nn.cells.gated import GatedCell
from plstm_graph.nn.projection import Part


class GLA(GatedCell):
    r"""Gated linear attention from the `"Gated Linear Attention Transformers with
    Hardware-Efficient Training" <https://arxiv.org/abs/2312.06635>`_ paper.

    .. math::
        C_t = \mathrm{diag}(f_t)\, C_{t-1} + k_t v_t^\top, \qquad h_t = C_t^\top q_t, \qquad
        f = \sigma(W_2 W_1 x + b)^{1/16}

    with queries scaled by K^-1/2: one forget gate for each channel of the key. Edge features are
    added to :math:`W_1 x`; they also give an input gate :math:`\sigma(4 + w \cdot a_e)` to
    Source.

    **Bound.** Forget gates are below one; in P-mode their sum over the line edges that leave an
    edge is at most one for each channel. What is written is not bounded by them.

    **Mark** is 1; the query of the edges is :math:`f \odot q`, Direct is 1.

    Args:
        rank: of the map of the gates. Default 16.
        divisor: of the logarithm of the gate; large ones forget slowly. Default 16.
    """

    name = "gla"
    diagonal = True
    forget_part = "forget"

    def __init__(
        self, channels: int, heads: int, mode: str, *, rank: int = 16, divisor: float = 16.0
    ) -> None:
        super().__init__(channels, heads, mode)
        integer("rank", rank, 1)
        self.divisor = real("divisor", divisor, 1e-6)
        self.node_parts = [Part(name, channels) for name in self.features]
        self.add_gates(Part("forget", rank, (1, 2)))
        self.lin_forget = Linear(rank, channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        self.lin_forget.reset_parameters()

    def heads_of(self, node: dict[str, Tensor]) -> CellTensors:
        query, key, value = (self.split(node[name]) for name in self.features)
        return CellTensors(query * query.size(-1) ** -0.5, key, value, *[None] * 4)

    def forget_logit(self, part: Tensor, bias: bool) -> Tensor:
        weight, start = (p.to(part.dtype) for p in (self.lin_forget.weight, self.lin_forget.bias))
        return self.split(F.linear(part, weight, start if bias else None))

    def log_forget(self, logit: Tensor) -> Tensor:
        return F.logsigmoid(logit) / self.divisor
