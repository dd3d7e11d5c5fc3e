r"""Mamba-2."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from plstm_graph.nn.cells.base import CellTensors
from plstm_graph.nn.cells.gated import GatedCell
from plstm_graph.nn.projection import Part

#: The step sizes that the biases start at, and the smallest of them.
STEPS, SMALLEST = (1e-3, 1e-1), 1e-4
#: The rates of decay that the heads start with.
RATES = (1.0, 16.0)


@torch.no_grad()
def step_bias(tensor: Tensor) -> None:
    """Fill with numbers whose softplus is log-uniform over ``STEPS``."""
    low, high = map(math.log, STEPS)
    step = tensor.uniform_(low, high).exp().clamp(min=SMALLEST)
    tensor.copy_(step + (-(-step).expm1()).log())


class Mamba2(GatedCell):
    r"""Mamba-2 from the `"Transformers are SSMs" <https://arxiv.org/abs/2405.21060>`_ paper.

    .. math::
        C_t = e^{-a \Delta_t} C_{t-1} + \Delta_t k_t v_t^\top, \qquad
        h_t = C_t^\top q_t + d\, v_t, \qquad \Delta = \mathrm{softplus}(w x + b)

    with a rate a > 0 and a skip d of each head; (q, k, v) are called (C, B, x) there, and each head
    has a q and k of its own here. On edges :math:`\Delta` has parts of edge features: the one of a
    line edge decays, the one of an edge writes.

    **Bound.** Decays are below one; in P-mode their sum over the line edges that leave an edge is
    at most one. On a path a head forgets as much as it writes,
    :math:`\Delta / (1 - e^{-a \Delta})` times :math:`k v^\top` at most.

    **Mark** is the decay :math:`e^{-a \Delta}` of the node where an edge ends, Direct its
    :math:`\Delta`.

    **Start.** a is uniform from 1 to 16, :math:`\Delta` log-uniform from 0.001 to 0.1, d is 1.
    """

    name = "mamba2"
    forget_part = input_part = "step"

    def __init__(self, channels: int, heads: int, mode: str) -> None:
        super().__init__(channels, heads, mode)
        self.node_parts = [Part(name, channels) for name in self.features]
        self.add_gates(Part("step", heads, (1, 2), bias=step_bias))
        self.log_rate = torch.nn.Parameter(torch.empty(heads))
        self.skip = torch.nn.Parameter(torch.empty(heads))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        self.log_rate.uniform_(*RATES).log_()
        self.skip.fill_(1.0)

    def heads_of(self, node: dict[str, Tensor]) -> CellTensors:
        query, key, value = (self.split(node[name]) for name in self.features)
        own = self.skip.to(value.dtype).unsqueeze(-1) * value
        return CellTensors(query, key, value, *[None] * 4, own=own)

    def log_forget(self, logit: Tensor) -> Tensor:
        return -self.log_rate.to(logit.dtype).exp() * F.softplus(logit)

    def write(self, logit: Tensor) -> Tensor:
        return F.softplus(logit)
