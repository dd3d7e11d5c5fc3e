r"""Products of generalised Householder matrices, which cells of the delta rule update with.

.. math:: A = (I - \beta_{R-1} k_{R-1} k_{R-1}^\top) \cdots (I - \beta_0 k_0 k_0^\top)

With unit keys and :math:`0 \le \beta \le 2`, :math:`\|A\|_2 \le 1`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from plstm_graph.ops.inputs import Reflections


def unit_silu(x: Tensor) -> Tensor:
    r""":math:`y / \sqrt{\|y\|^2 + 10^{-6}}` with y = SiLU(x) over the last axis: at most 1 long."""
    y = F.silu(x)
    return y * (y.square().sum(-1, keepdim=True) + 1e-6).rsqrt()


def seen_through(query: Tensor, update: Reflections) -> tuple[Tensor, Tensor | None]:
    r"""What reads a state before an update, and what it finds of the update's own values.

    .. math::
        q' = A^\top q, \qquad
        \mathrm{own} = \sum_r \beta_r (k_r \cdot q_r)\, v_r, \qquad
        q_r = \Big(\prod_{r' > r} (I - \beta_{r'} k_{r'} k_{r'}^\top)\Big)^{\!\top} q

    Args:
        query: [*, K].
        update: key [*, R, K], beta [*, R], value [*, R, V] or ``None``.

    Returns:
        q' [*, K] and own [*, V] (``None`` without values).
    """
    own = None if update.value is None else torch.zeros_like(update.value[..., 0, :])
    for r in reversed(range(update.key.size(-2))):
        key = update.key[..., r, :]
        part = (update.beta[..., r] * (query * key).sum(-1)).unsqueeze(-1)
        query = query - part * key
        if own is not None:
            own = own + part * update.value[..., r, :]
    return query, own
