"""One wrapper for all models of the long-range tasks: node embeddings, and heads on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch, Data
from torch_geometric.nn import MLP, MaxAggregation

from datasets.base import InputError
from datasets.longrange import LongRange
from experiments.baselines import EDGELESS, GLOBAL, LOCAL, LocalGNN, LocalLayer
from experiments.models import ModelConfig, closest_width, count_parameters
from plstm_graph import LineGraph
from plstm_graph.molecules.model import SumMean
from plstm_graph.nn import PLSTM
from plstm_graph.nn.cells import NONLINEAR

NAMES = ("plstm", *LOCAL, *GLOBAL)


@dataclass(frozen=True)
class Signature:
    """What a model reads and predicts.

    Args:
        node_dim: width of ``x``.
        node: number of targets of each node.
        graph: number of targets of each graph.
        classes: classes of the root; 0 where there is no such target.
        node_classes: classes of each node, likewise.
        codes: ``x`` has integers below this number, which are embedded; 0 where it has numbers.
        directed: graphs are acyclic and have each edge in its one direction.
        edge_dim: width of ``edge_attr``, integers below ``edge_codes``; 0 where there is none.
        edge_codes: see there.
        positions: node classes are predicted from the embedding of the graph's ``root_index`` and
            a ``position`` below this number; 0 where each node predicts its own.
    """

    node_dim: int
    node: int
    graph: int
    classes: int
    node_classes: int = 0
    codes: int = 0
    directed: bool = False
    edge_dim: int = 0
    edge_codes: int = 0
    positions: int = 0

    @classmethod
    def of(cls, data: LongRange) -> Signature:
        levels = [target.level for target in data.targets]
        classes = {target.level: target.classes for target in data.targets}
        graph: Data = data.parts["train"][0]
        return cls(
            graph.x.size(1), levels.count("node"), levels.count("graph"), classes.get("root", 0),
            classes.get("node_class", 0), data.codes, data.directed,
            graph.edge_attr.size(1) if data.edge_codes else 0, data.edge_codes, data.positions,
        )  # fmt: skip


class CodeEncoder(nn.Module):
    """The sum of an embedding for each column of ``x`` [N, F], which has integers as floats.

    Args:
        codes: number of values of each column.
        channels: width.
    """

    def __init__(self, codes: Sequence[int], channels: int) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Embedding(count, channels) for count in codes)

    def forward(self, x: Tensor) -> Tensor:
        return sum(embed(column) for embed, column in zip(self.embeddings, x.long().unbind(1)))


class LongRangeNet(nn.Module):
    r"""A stack of layers to node embeddings, and an MLP for each level of targets.

    Targets of a graph are read from the sum and mean (:class:`SumMean`) and the maximum of its
    node embeddings.

    Directed graphs are read so: pLSTM runs on the line graph of the DAG as it is, forward.
    Message passing sees each edge in both directions, which a further embedding tells apart (GIN
    becomes GINE, as it does in GPS); layers that read no edge features are refused.

    Args:
        config: the model; ``name`` out of NAMES, its readout is not used.
        signature: what it reads and predicts.

    Shapes:
        a batch of N nodes in B graphs -> by level, as far as there are targets: "node" [N, T],
        "graph" [B, T], "root" [B, classes], "node_class" [N, node_classes].
    """

    def __init__(self, config: ModelConfig, signature: Signature) -> None:
        super().__init__()
        if config.name not in NAMES:
            raise InputError(f"expected model out of {', '.join(NAMES)}, got {config.name!r}")
        width, layers = config.hidden, config.layers
        if signature.codes:
            encoder = CodeEncoder([signature.codes] * signature.node_dim, width)
        else:
            encoder = nn.Linear(signature.node_dim, width)
        more = {"heads": config.heads, "dropout": config.dropout, "readout": None}
        self.uses_line_graph = config.name == "plstm"
        columns = [signature.edge_codes] * signature.edge_dim
        self.both_ways = signature.directed and not self.uses_line_graph
        if self.both_ways:
            columns.append(2)  # along, against
        more["edge_encoder"] = CodeEncoder(columns, width) if columns else None
        options = dict(config.options or {})
        if options.get("cell") in NONLINEAR:  # heads are those of each direction
            if signature.directed:
                more["directions"] = "forward"
            else:
                more["heads"] = max(1, config.heads // 2)
        if self.uses_line_graph:
            more |= {"node_encoder": encoder, "head_layers": 1, **options}
            if config.local is not None:
                more["local"] = lambda channels, edge_dim: LocalLayer(
                    with_edges(config.local, edge_dim is not None), channels, config.heads,
                    edge_dim is not None,
                )  # fmt: skip
            self.core = PLSTM(width, width, layers, width, **more)
        else:
            name = with_edges(config.name, bool(columns))
            self.core = LocalGNN(name, width, layers, width, node_encoder=encoder, **more)
            self.core.head = nn.Linear(width, width)  # as that of PLSTM; the heads are below
        self.heads = nn.ModuleDict()
        self.readouts = nn.ModuleList([SumMean(), MaxAggregation()])
        self.position = nn.Embedding(signature.positions, width) if signature.positions else None
        for level, outputs, inputs in (
            ("node", signature.node, width),
            ("graph", signature.graph, 2 * width),
            ("root", signature.classes, width),
            ("node_class", signature.node_classes, width),
        ):
            if outputs:
                self.heads[level] = MLP([inputs, width, outputs], norm=None, act="gelu")

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        more = {"line_graph": LineGraph.from_data(batch)} if self.uses_line_graph else {}
        edge_index = batch.edge_index
        edge_attr = batch.edge_attr if self.core.edge_encoder is not None else None
        if self.both_ways:
            edge_index, edge_attr = both_directions(edge_index, edge_attr)
        x = self.core(batch.x, edge_index, edge_attr, batch=batch.batch, **more)
        if self.position is not None:
            x = x[batch.root_index][batch.batch] + self.position(batch.position)
        out = {}
        for level, head in self.heads.items():
            if level == "graph":
                pooled = [readout(x, batch.batch) for readout in self.readouts]
                out[level] = head(torch.cat(pooled, -1))
            else:
                out[level] = head(x[batch.root_index] if level == "root" else x)
        return out


def with_edges(name: str, edges: bool) -> str:
    """The layer that reads edge features where there are any: GINE for GIN.

    Raises:
        InputError: for a layer that has no such form.
    """
    if not edges or name not in EDGELESS:
        return name
    if name != "gin":
        raise InputError(
            f"expected a layer with edge features for directed graphs, got {name}; choose gin, "
            f"gated_gcn, gat or gatv2"
        )
    return "gine"


def both_directions(edge_index: Tensor, edge_attr: Tensor | None) -> tuple[Tensor, Tensor]:
    """[2, 2 M] edges of a directed graph, then the same turned round; a last column of their
    [2 M, F + 1] features tells them apart."""
    against = torch.zeros(2 * edge_index.size(1), 1, device=edge_index.device)
    against[edge_index.size(1) :] = 1
    both = torch.cat([edge_index, edge_index.flip(0)], 1)
    if edge_attr is None:
        return both, against
    return both, torch.cat([edge_attr.repeat(2, 1), against], 1)


def match_budget(config: ModelConfig, signature: Signature, budget: int) -> ModelConfig:
    """The config with the width, a multiple of its heads and of the states that share a head,
    whose size is closest to ``budget``."""

    def size(width: int) -> int:
        return count_parameters(LongRangeNet(replace(config, hidden=width), signature))

    states = (config.options or {}).get("cell_options", {}).get("states", 1)
    return replace(config, hidden=closest_width(size, budget, config.heads * states))


def mean_outputs(outputs: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean over several forward passes, e.g. of other orientations, for each level."""
    return {level: torch.stack([out[level] for out in outputs]).mean(0) for level in outputs[0]}
