"""The readout of molecules: half of the channels summed over the atoms, half averaged."""

from __future__ import annotations

import torch
from torch import Tensor
from torch_geometric.nn import Aggregation

#: Atoms of an ordinary molecule: sums are divided by it, so that both halves are of one size.
ATOMS = 16.0


class SumMean(Aggregation):
    r"""Some properties grow with a molecule, others do not.

    .. math:: [\sum_n x_{n, :C/2} / 16,\; \mathrm{mean}_n\, x_{n, C/2:}]

    Shapes:
        ``x`` [N, C], ``index`` [N] -> [B, C].
    """

    def forward(
        self,
        x: Tensor,
        index: Tensor | None = None,
        ptr: Tensor | None = None,
        dim_size: int | None = None,
        dim: int = -2,
        max_num_elements: int | None = None,
    ) -> Tensor:
        total, average = x.tensor_split(2, dim=-1)
        total = self.reduce(total, index, ptr, dim_size, dim, reduce="sum") / ATOMS
        average = self.reduce(average, index, ptr, dim_size, dim, reduce="mean")
        return torch.cat([total, average], dim=-1)
