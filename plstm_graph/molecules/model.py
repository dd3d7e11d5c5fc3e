"""The model of molecules: pLSTM between encoders of OGB's features and a readout."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch_geometric.nn.aggr import Aggregation

from plstm_graph.molecules.batches import MoleculeBatch
from plstm_graph.molecules.features import ATOM_DIMS, BOND_DIMS
from plstm_graph.nn import PLSTM

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


class FeatureEncoder(nn.Module):
    """The sum of one embedding for each integer feature.

    Args:
        dims: values of each of F features.
        channels: width C.

    Shapes:
        [N, F] int64 -> [N, C].
    """

    def __init__(self, dims: tuple[int, ...], channels: int) -> None:
        super().__init__()
        # One table for all features: a single look-up.
        first = torch.tensor([0, *dims[:-1]]).cumsum(0)
        self.register_buffer("first", first, persistent=False)
        self.table = nn.Parameter(torch.empty(sum(dims), channels))
        self.dims = dims
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for part in self.table.data.split(list(self.dims)):
            nn.init.xavier_uniform_(part)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.embedding(x + self.first, self.table).sum(-2)


@dataclass(frozen=True)
class Architecture:
    """What a model is made of: everything needed to rebuild it.

    Args:
        outputs: numbers for each molecule.
        hidden: width.
        layers: pLSTM blocks.
        heads: of each block.
        dropout: in blocks and head.
        local: "gin" for a layer over the bonds beside each pLSTM layer, or "none".
    """

    outputs: int
    hidden: int = 64
    layers: int = 4
    heads: int = 4
    dropout: float = 0.0
    local: str = "gin"

    def as_dict(self) -> dict:
        return asdict(self)


class MoleculeNet(nn.Module):
    """pLSTM on molecules.

    Shapes:
        a batch of B molecules -> [B, outputs].
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        width = architecture.hidden
        self.core = PLSTM(
            width,
            width,
            architecture.layers,
            architecture.outputs,
            heads=architecture.heads,
            node_encoder=FeatureEncoder(ATOM_DIMS, width),
            edge_encoder=FeatureEncoder(BOND_DIMS, width),
            readout=SumMean(),
            dropout=architecture.dropout,
            local=None if architecture.local == "none" else architecture.local,
        )

    def forward(self, batch: MoleculeBatch) -> Tensor:
        return self.core(
            batch.x,
            batch.edge_index,
            batch.edge_attr,
            batch.batch,
            line_graph=batch.line_graph,
            batch_size=batch.size,
        )
