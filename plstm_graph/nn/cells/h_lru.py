r"""The higher-order linear recurrent unit."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from plstm_graph.nn.cells.bd_lru import BDLRU
from plstm_graph.nn.projection import Part


class HLRU(BDLRU):
    r"""H-LRU from the `"Improved state mixing in higher-order and block diagonal linear recurrent
    networks" <https://arxiv.org/abs/2602.12021>`_ paper.

    Each channel is a recurrence of order m,

    .. math::
        c_t = \sum_{i=1}^m a_{t, i}\, c_{t-i} + a_{t, 0} v_t, \qquad
        (a_{t, 1}, \dots, a_{t, m}, a_{t, 0}) = \mathrm{softmax}(W x_t + b), \qquad
        h_t = (c_t, \dots, c_{t-m+1})

    computed as :class:`~plstm_graph.nn.cells.bd_lru.BDLRU` with companion matrices: the first row
    of a block has gates, the others pass the states on. The layer has C / m channels, of which it
    reads m states each. On a DAG the softmax of the first row runs over all predecessors as there,
    and each of the other rows takes the mean over the predecessors: the i-th state is a mean over
    all walks of i steps.

    **Bound.** :math:`\|c\|_\infty \le \max \|v\|_\infty` on any graph.

    **Mark** and Direct as there.

    Args:
        block: m, which divides C. Default 4.
    """

    name = "h_lru"

    def __init__(self, channels: int, heads: int, mode: str, *, block: int = 4) -> None:
        super().__init__(channels, heads, mode, block=block)
        self.node_parts[0] = Part("value", self.blocks)

    @property
    def rows(self) -> int:
        return 1

    def whole(self, rows: Tensor, group: Tensor, groups: int) -> Tensor:
        count = rows.new_zeros(groups).index_add(0, group, rows.new_ones(group.numel()))
        share = count.clamp(min=1).reciprocal().index_select(0, group)
        down = torch.eye(self.block, device=rows.device, dtype=rows.dtype)[:-1]
        down = share.view(-1, *[1] * (rows.dim() - 1)) * down
        return torch.cat([rows, down.expand(*rows.shape[:-2], -1, -1)], -2)

    def written(self, write: Tensor) -> Tensor:
        return F.pad(write, (0, self.block - 1)).unsqueeze(-2)
