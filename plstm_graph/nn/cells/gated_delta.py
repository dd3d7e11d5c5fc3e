r"""Gated DeltaNet."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from plstm_graph.nn.cells.delta import Delta
from plstm_graph.nn.cells.mamba2 import step_bias
from plstm_graph.nn.projection import Part

#: The rates of decay that the heads start with.
RATES = (0.0, 16.0)


class Decay(torch.nn.Module):
    r"""The forget gate :math:`\exp(-a\, \mathrm{softplus}(z))`.

    Each head has a rate a > 0, which starts uniform from 0 to 16.
    """

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.log_rate = torch.nn.Parameter(torch.empty(heads))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Resets all learnable parameters of the module."""
        tiny = torch.finfo(self.log_rate.dtype).tiny
        self.log_rate.uniform_(*RATES).clamp_(min=tiny).log_()

    def forward(self, logit: Tensor) -> Tensor:
        """The logarithm of the gate, [*, H]."""
        return -self.log_rate.to(logit.dtype).exp() * F.softplus(logit)


class GatedDelta(Delta):
    r"""Gated DeltaNet from the `"Gated Delta Networks: Improving Mamba2 with Delta Rule"
    <https://arxiv.org/abs/2412.06464>`_ paper.

    .. math::
        C_t = (I - \beta_t k_t k_t^\top)\, f_t C_{t-1} + \beta_t k_t v_t^\top, \qquad
        h_t = C_t^\top q_t, \qquad f = \exp(-a\, \mathrm{softplus}(w x + b))

    with a rate a > 0 for each head, and else as :class:`~plstm_graph.nn.cells.delta.Delta`: the
    state decays, then it is overwritten.

    **Bound.** As there; f is below one.

    **Mark** is f of the node where an edge ends, the query of the edges is
    :math:`(I - \beta k k^\top) q`, Direct is 1.

    **Start.** a is uniform from 0 to 16, softplus(b) log-uniform from 0.001 to 0.1.

    Args:
        negative_eigenvalues: as there. Default ``False``.
    """

    name = "gated_delta"
    forget_part = "forget"

    def __init__(
        self, channels: int, heads: int, mode: str, *, negative_eigenvalues: bool = False
    ) -> None:
        super().__init__(channels, heads, mode, negative_eigenvalues=negative_eigenvalues)
        self.add_gates(Part("forget", heads, (1, 2), bias=step_bias))
        self.decay = Decay(heads)

    def reset_parameters(self) -> None:
        self.decay.reset_parameters()

    def log_forget(self, logit: Tensor) -> Tensor:
        return self.decay(logit)
