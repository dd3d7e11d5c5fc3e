"""One wrapper for all models of function names: the same embeddings, readout and classifiers.

Only the body differs, from node embeddings of one width to node states; it is what a budget of
parameters is about. The embeddings of types, attributes and depths before it and the classifiers
behind it have the same sizes in all models.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch, Data
from torch_geometric.nn import global_max_pool, global_mean_pool

from datasets import InputError
from datasets.code_names import next_tokens
from datasets.code_vocabulary import LENGTH, NONE, WORDS_READ, Vocabulary
from experiments.baselines import LocalGNN
from experiments.dag_models import DagConfig, ResidualStack
from experiments.models import closest_width, count_parameters
from plstm_graph import LineGraph, to_line_graphs
from plstm_graph.nn import PLSTM

NAMES = ("plstm", "dag_lstm", "gin", "gcn")
#: Models that run on the DAG of the tree; the others read both directions of each edge.
DIRECTED = ("plstm", "dag_lstm")
#: How a model learns which token follows another, see :class:`CodeConfig`.
TOKENS = ("features", "edges")
#: Width of embeddings and of what the classifiers read.
WIDTH = 64
#: Columns of ``x``: words of the attribute, and attributes of the tokens around.
WORDS, AROUND = slice(3, 3 + WORDS_READ), slice(3 + WORDS_READ, None)
#: Standard deviation of embeddings at the start.
SMALL = 0.1
#: Depths that are told apart, as in ogbg-code2.
DEPTHS = 21
#: Kinds of edges: from parent to child, from token to next token, and both against that.
CHILD, NEXT, PARENT, PREVIOUS = range(4)


@dataclass(frozen=True)
class CodeConfig:
    """A model: everything needed to rebuild it from a checkpoint.

    Args:
        name: one of :data:`NAMES`. "gin" reads the kinds of edges (GINE), "gcn" does not.
        hidden: width of the body.
        layers: number of layers.
        heads: heads of pLSTM.
        dropout: dropout.
        tokens: "features": a node also reads the attributes of the tokens before and after it;
            "edges": tokens are joined to the next one by edges. A token is a node with an
            attribute.
        directions: of pLSTM and the DAG-LSTM, as in :class:`plstm_graph.nn.PLSTM`.
        options: further arguments of :class:`plstm_graph.nn.PLSTM`.
    """

    name: str
    hidden: int
    layers: int
    heads: int = 4
    dropout: float = 0.0
    tokens: str = "features"
    directions: str = "alternate"
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key, known in (("name", NAMES), ("tokens", TOKENS)):
            if (got := getattr(self, key)) not in known:
                raise InputError(
                    f"expected {key} of the model out of {', '.join(known)}, got {got!r}"
                )
        if self.options and self.name != "plstm":
            raise InputError(
                f"expected options with plstm only, got {self.options} for {self.name}; leave out"
            )


@dataclass(frozen=True)
class Sizes:
    """Numbers of types, attributes, words and classes (sub-tokens and the two marks)."""

    types: int
    attributes: int
    words: int
    classes: int

    @classmethod
    def of(cls, vocabulary: Vocabulary) -> Sizes:
        v = vocabulary
        return cls(len(v.types) + 1, len(v.attributes), len(v.words), len(v.tokens) + 2)


def match_budget(config: CodeConfig, budget: int) -> CodeConfig:
    """The config with the width whose body is closest to ``budget`` parameters."""

    def size(width: int) -> int:
        return count_parameters(Body(replace(config, hidden=width)))

    return replace(config, hidden=closest_width(size, budget, config.heads))


def prepare(graphs: list[Data], config: CodeConfig) -> list[Data]:
    """Graphs as a model reads them.

    Args:
        graphs: of :class:`datasets.code_names.CodeNames`.
        config: the model.

    Returns:
        Graphs with ``x`` [N, 7], or [N, 9] with the attributes of the tokens before and after,
        ``edge_index``, ``edge_attr`` [M] with the kinds of edges, ``y``, ``words``; for models on
        DAGs with their line graph.
    """
    out = []
    for graph in graphs:
        edges, tokens = graph.edge_index, next_tokens(graph.x)
        kinds = torch.full((edges.size(1),), CHILD)
        if config.tokens == "edges":
            kinds = torch.cat([kinds, torch.full((tokens.size(1),), NEXT)])
            edges = torch.cat([edges, tokens], 1)
        if config.name not in DIRECTED:
            edges = torch.cat([edges, edges.flip(0)], 1)
            kinds = torch.cat([kinds, kinds + PARENT])
        columns = [graph.x]
        if config.tokens == "features":
            columns.append(around(graph.x[:, 1]))
        x = torch.cat(columns, 1)
        out.append(Data(x=x, edge_index=edges, edge_attr=kinds, y=graph.y, words=graph.words))
    return to_line_graphs(out, "index") if config.name in DIRECTED else out


def around(attributes: Tensor) -> Tensor:
    """[N, 2]: the attribute of the last token before each node and of the first one after it in
    preorder, 0 where there is none; a node without an attribute (0) is no token."""
    count = attributes.numel()
    place = torch.arange(count)
    token = attributes != NONE
    last = torch.where(token, place, -1).cummax(0).values
    first = torch.where(token, place, count).flip(0).cummin(0).values.flip(0)
    padded = torch.cat([attributes, attributes.new_zeros(1)])  # -1 and N read the zero
    none = torch.full((1,), -1)
    before, after = torch.cat([none, last[:-1]]), torch.cat([first[1:], none])
    return torch.stack([padded[before], padded[after]], 1)


class NodeEncoder(nn.Module):
    """The sum of the embeddings of type, attribute, depth and words, and of linear maps of those of
    the tokens before and after where ``x`` has them.

    Rare attributes stay close to where they start, so embeddings start small.

    Shapes:
        ``x`` [N, 7] or [N, 9] -> [N, WIDTH].
    """

    def __init__(self, sizes: Sizes, tokens: str) -> None:
        super().__init__()
        self.kind = nn.Embedding(sizes.types, WIDTH)
        self.attribute = nn.Embedding(sizes.attributes, WIDTH)
        self.depth = nn.Embedding(DEPTHS, WIDTH)
        self.words = nn.EmbeddingBag(sizes.words, WIDTH, mode="sum", padding_idx=NONE)
        self.around = nn.Linear(2 * WIDTH, WIDTH) if tokens == "features" else None
        for table in (self.kind, self.attribute, self.depth, self.words):
            nn.init.normal_(table.weight, std=SMALL)
        with torch.no_grad():
            self.words.weight[NONE] = 0

    def forward(self, x: Tensor) -> Tensor:
        depth = x[:, 2].clamp(max=DEPTHS - 1)
        out = self.kind(x[:, 0]) + self.attribute(x[:, 1]) + self.depth(depth)
        out = out + self.words(x[:, WORDS])
        if self.around is not None:
            out = out + self.around(self.attribute(x[:, AROUND]).flatten(1))
        return out


class Body(nn.Module):
    r"""The part that differs: layers over the nodes, and a readout of each graph.

    .. math:: \mathrm{LayerNorm}(\mathrm{gelu}(W [h_{root},\; \mathrm{mean}_n h_n,\; \max_n h_n]))

    Shapes:
        embeddings [N, WIDTH], a batch of B graphs -> [B, WIDTH].
    """

    def __init__(self, config: CodeConfig) -> None:
        super().__init__()
        c = config
        self.name, width = c.name, c.hidden
        if c.name == "plstm":
            try:
                self.core = PLSTM(
                    WIDTH, width, c.layers, width, heads=c.heads, dropout=c.dropout,
                    directions=c.directions, head_layers=1,
                    edge_encoder=nn.Embedding(2, width) if c.tokens == "edges" else None,
                    **c.options,
                )  # fmt: skip
            except (TypeError, ValueError) as error:
                raise InputError(f"{error} (in options or directions of plstm)") from None
        elif c.name == "dag_lstm":
            self.core = ResidualStack(
                DagConfig(
                    c.name, WIDTH, width, c.layers, dropout=c.dropout, directions=c.directions
                )
            )
        else:
            self.core = LocalGNN(
                "gine" if c.name == "gin" else c.name, width, c.layers, width,
                node_encoder=nn.Linear(WIDTH, width),
                edge_encoder=nn.Embedding(4, width) if c.name == "gin" else None,
                dropout=c.dropout, readout=None,
            )  # fmt: skip
            self.core.head = nn.Linear(width, width)  # as that of PLSTM
        self.reads_edges = getattr(self.core, "edge_encoder", None) is not None
        self.out = nn.Sequential(
            nn.Linear(3 * width, WIDTH), nn.GELU(), nn.LayerNorm(WIDTH), nn.Dropout(c.dropout)
        )

    def forward(self, x: Tensor, batch: Batch) -> Tensor:
        graph: dict[str, Any] = {"batch": batch.batch}
        if self.name in DIRECTED:
            graph["line_graph"] = LineGraph.from_data(batch)
        if self.name != "dag_lstm":
            graph["edge_attr"] = batch.edge_attr if self.reads_edges else None
        x = self.core(x, batch.edge_index, **graph)
        size = batch.num_graphs
        pooled = [pool(x, batch.batch, size) for pool in (global_mean_pool, global_max_pool)]
        return self.out(torch.cat([x[batch.ptr[:-1]], *pooled], -1))


class CodeNet(nn.Module):
    """A batch of B graphs -> logits [B, 5, classes] of the sub-tokens, each from a linear map."""

    def __init__(self, config: CodeConfig, sizes: Sizes) -> None:
        super().__init__()
        self.encoder = NodeEncoder(sizes, config.tokens)
        self.body = Body(config)
        self.classifiers = nn.Linear(WIDTH, LENGTH * sizes.classes)

    def forward(self, batch: Batch) -> Tensor:
        out = self.body(self.encoder(batch.x), batch)
        return self.classifiers(out).unflatten(-1, (LENGTH, -1))
