"""Models by name, on equal terms: the same input encoders, and baselines of the same budget."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

from ogb.graphproppred.mol_encoder import AtomEncoder, BondEncoder
from torch import Tensor, nn
from torch_geometric.data import Data

from experiments import baselines
from experiments.baselines import LocalGNN, LocalLayer, make_conv
from experiments.readout import SumMean
from plstm_graph import LineGraph
from plstm_graph.nn import PLSTM

NAMES = ("plstm", *baselines.NAMES)


@dataclass(frozen=True)
class Inputs:
    """What a model reads: integer OGB features, or floats of the given widths."""

    molecular: bool
    node_dim: int
    edge_dim: int | None

    @classmethod
    def of(cls, graph: Data) -> Inputs:
        edge_dim = None if graph.edge_attr is None else graph.edge_attr.size(1)
        return cls(not graph.x.is_floating_point(), graph.x.size(1), edge_dim)


@dataclass(frozen=True)
class ModelConfig:
    """A model: everything needed to build it anew from a checkpoint.

    Args:
        name: one of :data:`NAMES`.
        hidden: width.
        layers: number of blocks.
        heads: heads of pLSTM and GATv2.
        dropout: dropout.
        readout: "mean", "sum", "max" or "summean" (:class:`SumMean`) over the nodes of a graph.
        local: a baseline whose layer stands beside each pLSTM layer, as in GPS; None for none.
        options: further arguments of :class:`plstm_graph.nn.PLSTM`.
    """

    name: str
    hidden: int
    layers: int
    heads: int = 4
    dropout: float = 0.0
    readout: str = "mean"
    local: str | None = None
    options: dict | None = None


class GraphNet(nn.Module):
    """pLSTM or a baseline behind the same encoders of nodes and edges: Batch -> [B]."""

    def __init__(self, config: ModelConfig, inputs: Inputs) -> None:
        super().__init__()
        width = config.hidden
        arguments = {
            "heads": config.heads,
            "dropout": config.dropout,
            "readout": SumMean() if config.readout == "summean" else config.readout,
            "node_encoder": _encoder(AtomEncoder, inputs.node_dim, inputs, width),
            "edge_encoder": None,
        }
        if inputs.edge_dim is not None and config.name != "gin":
            arguments["edge_encoder"] = _encoder(BondEncoder, inputs.edge_dim, inputs, width)
        self.uses_line_graph = config.name == "plstm"
        if self.uses_line_graph:
            options = config.options or {}
            local = _local_branch(config) if config.local else None
            self.core = PLSTM(width, width, config.layers, 1, local=local, **arguments, **options)
        else:
            self.core = LocalGNN(config.name, width, config.layers, 1, **arguments)

    def forward(self, batch: Data) -> Tensor:
        more = {"line_graph": LineGraph.from_data(batch)} if self.uses_line_graph else {}
        edge_attr = batch.edge_attr if self.core.edge_encoder is not None else None
        out = self.core(batch.x, batch.edge_index, edge_attr, batch=batch.batch, **more)
        return out.view(-1)


def _encoder(embedding: type[nn.Module], dim: int, inputs: Inputs, width: int) -> nn.Module:
    return embedding(width) if inputs.molecular else nn.Linear(dim, width)


def _local_branch(config: ModelConfig) -> Callable[[int, int | None], nn.Module]:
    """The layer that the baseline itself is made of; bare, where the block has a norm after it."""
    bare = (config.options or {}).get("post_norm") is not None

    def make(channels: int, edge_dim: int | None) -> nn.Module:
        layer = make_conv if bare else LocalLayer
        return layer(config.local, channels, config.heads, edge_dim is not None)

    return make


def count_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def match_budget(config: ModelConfig, inputs: Inputs, budget: int) -> ModelConfig:
    """The config with the width, a multiple of its heads, whose size is closest to ``budget``.

    Args:
        config: the model whose ``hidden`` is to be found.
        inputs: what it reads.
        budget: trainable parameters to come close to.
    """

    def size(width: int) -> int:
        return count_parameters(GraphNet(replace(config, hidden=width), inputs))

    return replace(config, hidden=closest_width(size, budget, config.heads))


def closest_width(size: Callable[[int], int], budget: int, step: int) -> int:
    """The width, a multiple of ``step``, at which ``size`` comes closest to ``budget``.

    Args:
        size: parameters of a model of that width, growing with it.
        budget: parameters to come close to.
        step: what divides the width.
    """
    widths = range(step, 1024, step)
    above = bisect_left(widths, budget, key=size)
    near = widths[max(0, above - 1) : above + 1]
    return min(near, key=lambda width: abs(size(width) - budget))


def to_dict(config: ModelConfig | Inputs) -> dict:
    """Plain values, as a checkpoint or a JSON file holds them."""
    return asdict(config)
