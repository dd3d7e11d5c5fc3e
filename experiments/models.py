"""Models by name, on equal terms: the same input encoders, and baselines of the same budget."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

from ogb.graphproppred.mol_encoder import AtomEncoder, BondEncoder
from torch import Tensor, nn
from torch_geometric.data import Data

from datasets.base import InputError
from experiments import baselines
from experiments.baselines import LocalGNN, LocalLayer, RecurrentGNN, make_conv
from plstm_graph import LineGraph
from plstm_graph.molecules.model import SumMean
from plstm_graph.nn import PLSTM

NAMES = ("plstm", *baselines.NAMES)


@dataclass(frozen=True)
class Inputs:
    """What a model reads, integer OGB features or floats of the given widths, and how many
    targets it predicts for a graph."""

    molecular: bool
    node_dim: int
    edge_dim: int | None
    targets: int = 1

    @classmethod
    def of(cls, graph: Data) -> Inputs:
        edge_dim = None if graph.edge_attr is None else graph.edge_attr.size(1)
        targets = 1 if graph.y is None else graph.y.size(-1)
        return cls(not graph.x.is_floating_point(), graph.x.size(1), edge_dim, targets)


@dataclass(frozen=True)
class ModelConfig:
    """A model: everything needed to rebuild it from a checkpoint.

    Args:
        name: one of :data:`NAMES`.
        hidden: width.
        layers: number of blocks.
        heads: heads of pLSTM, GAT and GATv2.
        dropout: dropout.
        readout: "mean", "sum", "max" or "summean" (:class:`SumMean`) over the nodes of a graph.
        local: one of ``baselines.LOCAL``, a layer beside each pLSTM layer, as in GPS; None for
            none.
        options: further arguments of :class:`plstm_graph.nn.PLSTM`.
        virtual_node: for ``baselines.LOCAL``: a node that all others of a graph are joined to.
        edge_features: False to leave out those that the data have, as GIN and GCN do.
    """

    name: str
    hidden: int
    layers: int
    heads: int = 4
    dropout: float = 0.0
    readout: str = "mean"
    local: str | None = None
    options: dict | None = None
    virtual_node: bool = False
    edge_features: bool = True

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise InputError(f"expected a model out of {', '.join(NAMES)}, got {self.name!r}")
        if self.local is not None and self.local not in baselines.LOCAL:
            raise InputError(
                f"expected local out of {', '.join(baselines.LOCAL)} or null, got {self.local!r}"
            )
        if self.virtual_node and self.name not in baselines.LOCAL:
            raise InputError(
                f"expected virtual_node with one of {', '.join(baselines.LOCAL)}, got "
                f"{self.name}; leave it out"
            )
        only_plstm = [key for key in ("local", "options") if getattr(self, key) is not None]
        if only_plstm and self.name != "plstm":
            raise InputError(
                f"expected {' and '.join(only_plstm)} with plstm only, got {self.name}; leave out"
            )


class GraphNet(nn.Module):
    """pLSTM or a baseline behind the same encoders of nodes and edges.

    Shapes:
        a batch of B graphs -> [B], or [B, targets] where there are several targets.
    """

    def __init__(self, config: ModelConfig, inputs: Inputs) -> None:
        super().__init__()
        width = config.hidden
        name, layers, targets = config.name, config.layers, inputs.targets
        arguments = {
            "dropout": config.dropout,
            "readout": SumMean() if config.readout == "summean" else config.readout,
            "node_encoder": _encoder(AtomEncoder, inputs.node_dim, inputs, width),
            "edge_encoder": None,
        }
        reads_edges = config.edge_features and name not in baselines.EDGELESS
        if reads_edges and inputs.edge_dim is not None:
            arguments["edge_encoder"] = _encoder(BondEncoder, inputs.edge_dim, inputs, width)
        self.uses_line_graph = name == "plstm"
        if self.uses_line_graph:
            arguments |= {"heads": config.heads, **(config.options or {})}
            local = _local_branch(config) if config.local else None
            self.core = PLSTM(width, width, layers, targets, local=local, **arguments)
        elif name in baselines.RECURRENT:
            self.core = RecurrentGNN(name, width, layers, targets, **arguments)
        else:
            arguments |= {"heads": config.heads, "virtual_node": config.virtual_node}
            self.core = LocalGNN(name, width, layers, targets, **arguments)

    def forward(self, batch: Data) -> Tensor:
        more = {"line_graph": LineGraph.from_data(batch)} if self.uses_line_graph else {}
        edge_attr = batch.edge_attr if self.core.edge_encoder is not None else None
        out = self.core(batch.x, batch.edge_index, edge_attr, batch=batch.batch, **more)
        return out.squeeze(-1)


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
