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
from experiments.baselines import GLOBAL, LOCAL, LocalGNN, LocalLayer
from experiments.models import ModelConfig, closest_width, count_parameters
from experiments.readout import SumMean
from plstm_graph import LineGraph
from plstm_graph.nn import PLSTM

NAMES = ("plstm", *LOCAL, *GLOBAL)


@dataclass(frozen=True)
class Signature:
    """What a model reads and predicts.

    Args:
        node_dim: width of ``x``.
        node: number of targets of each node.
        graph: number of targets of each graph.
        classes: classes of the root; 0 where there is no such target. Then ``x`` has integers
            from 0 to ``classes``, which are embedded.
    """

    node_dim: int
    node: int
    graph: int
    classes: int

    @classmethod
    def of(cls, data: LongRange) -> Signature:
        levels = [target.level for target in data.targets]
        graph: Data = data.parts["train"][0]
        classes = max(target.classes for target in data.targets)
        return cls(graph.x.size(1), levels.count("node"), levels.count("graph"), classes)


class CodeEncoder(nn.Module):
    """The sum of an embedding for each column of ``x`` [N, F], which has integers as floats."""

    def __init__(self, columns: int, codes: int, channels: int) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Embedding(codes, channels) for _ in range(columns))

    def forward(self, x: Tensor) -> Tensor:
        return sum(embed(column) for embed, column in zip(self.embeddings, x.long().unbind(1)))


class LongRangeNet(nn.Module):
    r"""A stack of layers to node embeddings, and an MLP for each level of targets.

    Targets of a graph are read from the sum and mean (:class:`SumMean`) and the maximum of its
    node embeddings.

    Args:
        config: the model; ``name`` out of NAMES, its readout is not used.
        signature: what it reads and predicts.

    Shapes:
        a batch of N nodes in B graphs -> by level, as far as there are targets: "node" [N, T],
        "graph" [B, T], "root" [B, classes].
    """

    def __init__(self, config: ModelConfig, signature: Signature) -> None:
        super().__init__()
        if config.name not in NAMES:
            raise InputError(f"expected model out of {', '.join(NAMES)}, got {config.name!r}")
        width, layers = config.hidden, config.layers
        if signature.classes:
            encoder = CodeEncoder(signature.node_dim, signature.classes + 1, width)
        else:
            encoder = nn.Linear(signature.node_dim, width)
        more = {"heads": config.heads, "dropout": config.dropout, "readout": None}
        self.uses_line_graph = config.name == "plstm"
        if self.uses_line_graph:
            more |= {"node_encoder": encoder, "head_layers": 1, **(config.options or {})}
            if config.local is not None:
                more["local"] = lambda channels, edge_dim: LocalLayer(
                    config.local, channels, config.heads, edge_dim is not None
                )
            self.core = PLSTM(width, width, layers, width, **more)
        else:
            self.core = LocalGNN(config.name, width, layers, width, node_encoder=encoder, **more)
            self.core.head = nn.Linear(width, width)  # as that of PLSTM; the heads are below
        self.heads = nn.ModuleDict()
        self.readouts = nn.ModuleList([SumMean(), MaxAggregation()])
        for level, outputs, inputs in (
            ("node", signature.node, width),
            ("graph", signature.graph, 2 * width),
            ("root", signature.classes, width),
        ):
            if outputs:
                self.heads[level] = MLP([inputs, width, outputs], norm=None, act="gelu")

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        more = {"line_graph": LineGraph.from_data(batch)} if self.uses_line_graph else {}
        x = self.core(batch.x, batch.edge_index, None, batch=batch.batch, **more)
        out = {}
        for level, head in self.heads.items():
            if level == "graph":
                pooled = [readout(x, batch.batch) for readout in self.readouts]
                out[level] = head(torch.cat(pooled, -1))
            else:
                out[level] = head(x if level == "node" else x[batch.root_index])
        return out


def match_budget(config: ModelConfig, signature: Signature, budget: int) -> ModelConfig:
    """The config with the width, a multiple of its heads, whose size is closest to ``budget``."""

    def size(width: int) -> int:
        return count_parameters(LongRangeNet(replace(config, hidden=width), signature))

    return replace(config, hidden=closest_width(size, budget, config.heads))


def mean_outputs(outputs: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean over several forward passes, e.g. of other orientations, for each level."""
    return {level: torch.stack([out[level] for out in outputs]).mean(0) for level in outputs[0]}
