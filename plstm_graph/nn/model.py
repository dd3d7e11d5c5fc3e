"""The pLSTM graph model."""

from types import NoneType
from typing import Any

import torch
from torch import Tensor
from torch_geometric.nn.aggr import Aggregation
from torch_geometric.nn.dense.linear import Linear
from torch_geometric.nn.resolver import activation_resolver, aggregation_resolver
from torch_geometric.typing import Adj, OptTensor

from plstm_graph.checks import instance, resolve, text
from plstm_graph.dag.checks import num_columns
from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.nn.block import Local, Norm, PLSTMBlock
from plstm_graph.nn.cells import NONLINEAR, cell_modes
from plstm_graph.nn.checks import (
    check_batch_vector,
    check_edge_attr,
    check_heads,
    check_modes,
    check_named,
    check_options,
    check_rows,
    check_x,
)
from plstm_graph.nn.degree import SinusoidalDegree
from plstm_graph.nn.graphs import resolve_graph
from plstm_graph.nn.norm import widened
from plstm_graph.nn.projection import LazyLinear

#: Letters of a pattern of directions.
LETTERS = {"a": "auto", "t": "two_way", "f": "forward", "r": "reverse"}


def layer_directions(directions: str, modes: str, num_layers: int) -> list[str]:
    """The direction of each layer, see :class:`PLSTM`."""
    text("directions", directions)
    if directions == "alternate":
        pattern = "f" * len(modes) + "r" * len(modes)
    else:
        letters = {name: letter for letter, name in LETTERS.items()}
        pattern = letters.get(directions, directions)
    if not pattern or set(pattern) - set(LETTERS):
        raise ValueError(
            f"expected directions to be 'alternate', one of {', '.join(LETTERS.values())}, or a "
            f"pattern of the letters {', '.join(LETTERS)} such as 'tf', got {directions!r}"
        )
    return [LETTERS[pattern[i % len(pattern)]] for i in range(num_layers)]


def _layer_options(options: dict[str, Any], mode: str, depth: float) -> dict[str, Any]:
    """What a layer is told besides its direction; the sLSTM starts by its depth in the model."""
    cell = options.get("cell", "plstm")
    if cell in NONLINEAR:
        return {**options, **({"depth": depth} if cell == "slstm" else {})}
    return {**options, "mode": mode}


class PLSTM(torch.nn.Module):
    r"""A stack of :class:`PLSTMBlock` on one DAG, with encoders, readout and head.

    The architecture of the `"pLSTM: parallelizable Linear Source Transition Mark networks"
    <https://arxiv.org/abs/2506.11997>`_ paper, whose layers alternate between P-mode and D-mode, on
    two-way line graphs: on an undirected graph every layer joins all nodes of a component.
    :meth:`paper` gives the published model.

    Args:
        in_channels: width of x, -1 for lazy.
        hidden_channels: width of all layers.
        num_layers: number of blocks.
        out_channels: width of the output.
        heads: heads of each layer. Default 4.
        edge_dim: width of the edge features, -1 for lazy, ``None`` for none. Default ``None``.
        readout: ``None`` for node outputs; ``"mean"``, ``"sum"``, ``"max"``, any other
            aggregation of PyG by name or object for graph outputs. Default ``None``.
        modes: the mode of each layer, a pattern that is repeated. Default ``"PD"``; with another
            ``cell`` its default mode.
        directions: the direction of all layers, see :class:`PLSTMConv`: ``"auto"``,
            ``"two_way"``, ``"forward"`` or ``"reverse"``; a pattern of their first letters that is
            repeated, such as ``"tf"``; or ``"alternate"``, a whole pattern of modes forward and the
            next one reversed (P forward, D forward, P reversed, D reversed, ...).
            Default ``"auto"``.
        node_encoder: module from x to [N, hidden_channels], e.g. OGB's ``AtomEncoder``; then
            ``in_channels`` is not used. Default: a linear map.
        edge_encoder: module from edge_attr to [M, hidden_channels], e.g. OGB's ``BondEncoder``;
            then ``edge_dim`` is not used. Default: a linear map if there is an ``edge_dim``.
        degree_encoding: add sines of the degrees to the encoded nodes: ``"undirected"``,
            ``"dag"`` (in- and out-degree) or ``None``. Default ``None``.
        local: local branch of each block, see :class:`PLSTMBlock`. A module would be shared by
            all blocks, so give a name or a function. Default ``None``.
        ffn_ratio: see :class:`PLSTMBlock`. Default 1.
        zero_init: see :class:`PLSTMBlock`. Default ``False``.
        dropout: in blocks and head. Default 0.
        norm: see :class:`PLSTMBlock`. Default ``"layer_norm"``.
        post_norm: see :class:`PLSTMBlock`. Default ``None``.
        act: activation. Default ``"gelu"``.
        head_layers: linear maps of the head; all but the last one keep the width. Default 2.
        orientation: of the DAG when no ``line_graph`` is given, see
            :meth:`plstm_graph.LineGraph.from_edge_index`; ``"canonical"`` reads x and edge_attr as
            they are given to the model. Default ``"canonical"``.
        **kwargs: of :class:`PLSTMConv`, for all layers.

    Shapes:
        - **input:** x [N, in_channels], edge_index [2, M], edge_attr [M, edge_dim], batch [N]
        - **output:** [N, out_channels], or with a readout [B, out_channels]

    Raises:
        ValueError: on unknown options, and as :class:`PLSTMConv`.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        num_layers: int,
        out_channels: int,
        *,
        heads: int = 4,
        edge_dim: int | None = None,
        readout: str | Aggregation | None = None,
        modes: str | None = None,
        directions: str = "auto",
        node_encoder: torch.nn.Module | None = None,
        edge_encoder: torch.nn.Module | None = None,
        degree_encoding: str | None = None,
        local: Local = None,
        ffn_ratio: float = 1.0,
        zero_init: bool = False,
        dropout: float = 0.0,
        norm: str | None = "layer_norm",
        post_norm: str | None = None,
        act: str = "gelu",
        head_layers: int = 2,
        orientation: str | Tensor = "canonical",
        **kwargs: Any,
    ) -> None:
        super().__init__()
        check_heads("hidden_channels", hidden_channels, heads)
        check_options(
            in_channels=in_channels if node_encoder is None else 1,
            num_layers=num_layers,
            out_channels=out_channels,
            edge_dim=edge_dim if edge_encoder is None else None,
            dropout=dropout,
            head_layers=head_layers,
            orientation=orientation,
        )
        cell = kwargs.get("cell", "plstm")
        if modes is None:
            modes = "PD" if cell == "plstm" else cell_modes(cell)[0]
        check_modes(modes, cell)
        for name, module in (("node_encoder", node_encoder), ("edge_encoder", edge_encoder)):
            instance(name, module, (torch.nn.Module, NoneType), "a module or None")
        if isinstance(local, torch.nn.Module) and num_layers > 1:
            raise ValueError(
                "expected local as a name or a function (channels, edge_dim) -> module, got one "
                "module for several layers; wrap it in a function"
            )
        C = hidden_channels
        self.in_channels, self.hidden_channels, self.out_channels = in_channels, C, out_channels
        self.cell = cell
        self.modes, self.directions, self.orientation = modes, directions, orientation
        self.node_encoder = LazyLinear(in_channels, C) if node_encoder is None else node_encoder
        if edge_encoder is None and edge_dim is not None:
            edge_encoder = LazyLinear(edge_dim, C)
        self.edge_encoder = edge_encoder
        self.degree = None if degree_encoding is None else SinusoidalDegree(C, degree_encoding)
        self.blocks = torch.nn.ModuleList(
            PLSTMBlock(
                C,
                heads,
                edge_dim=None if edge_encoder is None else C,
                local=local,
                ffn_ratio=ffn_ratio,
                zero_init=zero_init,
                dropout=dropout,
                norm=norm,
                post_norm=post_norm,
                act=act,
                **_layer_options(kwargs, modes[i % len(modes)], i / max(1, num_layers - 1)),
                direction=direction,
            )
            for i, direction in enumerate(layer_directions(directions, modes, num_layers))
        )
        self.norm = Norm(norm, C)
        self.readout = None
        check_named("readout", readout, (Aggregation, list, NoneType))
        if readout is not None:
            self.readout = resolve("readout", aggregation_resolver, readout)
        head: list[torch.nn.Module] = []
        for _ in range(head_layers - 1):
            head += [torch.nn.Linear(C, C), activation_resolver(act), torch.nn.Dropout(dropout)]
        self.head = torch.nn.Sequential(*head, torch.nn.Linear(C, out_channels))

    @classmethod
    def paper(
        cls,
        in_channels: int,
        hidden_channels: int = 96,
        num_layers: int = 4,
        out_channels: int = 1,
        **kwargs: Any,
    ) -> "PLSTM":
        """The published model: 96 channels, P and D layers forward, then reversed, the sinusoidal
        encoding of degrees; layers as :meth:`PLSTMConv.paper`.

        ``kwargs`` as in the constructor.
        """
        published = {
            "modes": "PD",
            "directions": "alternate",
            "degree_encoding": "undirected",
            "normalization": "target",
            "transition_node": "start",
            "orientation": "index",
            "log_norm": False,
            "init": "graph",
        }
        options = {**published, **kwargs}
        return cls(in_channels, hidden_channels, num_layers, out_channels, **options)

    def reset_parameters(self) -> None:
        """Resets all learnable parameters of the module."""
        for module in (
            self.node_encoder,
            self.edge_encoder,
            *self.blocks,
            self.norm,
            self.readout,
            *self.head,
        ):
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()

    def forward(
        self,
        x: Tensor,
        edge_index: Adj,
        edge_attr: OptTensor = None,
        batch: OptTensor = None,
        line_graph: LineGraph | None = None,
        batch_size: int | None = None,
    ) -> Tensor:
        """Run the model. The line graph is built once, if it is not given.

        Args:
            x: [N, in_channels].
            edge_index: [2, M].
            edge_attr: [M, edge_dim]. Default ``None``.
            batch: [N] graph of each node. Default: all nodes are one graph.
            line_graph: of this graph, e.g. ``LineGraph.from_data(batch)``. Default: built here.
            batch_size: B, which otherwise is read from ``batch``. Default ``None``.
        """
        if isinstance(self.node_encoder, Linear):
            check_x(x, self.node_encoder.in_channels, self.node_encoder.weight)
        else:  # an encoder may want integers
            check_rows("x", x)
        check_batch_vector(batch, x, batch_size)
        line_graph, edge_index, edge_attr = resolve_graph(
            x,
            edge_index,
            edge_attr,
            line_graph,
            orientation=self.orientation,
            batch=batch,
            use_values=self.edge_encoder is not None,
            reverse_flow=False,
        )
        columns = num_columns(line_graph) if edge_index is None else edge_index.size(1)
        encoder = self.edge_encoder
        if encoder is None or isinstance(encoder, Linear):
            width, weight = (
                (None, None) if encoder is None else (encoder.in_channels, encoder.weight)
            )
            edge_attr = check_edge_attr(edge_attr, width, columns, x, weight)
        else:
            check_rows("edge_attr", edge_attr, columns, x.device)
        x = self.node_encoder(x)
        if edge_attr is not None:
            edge_attr = self.edge_encoder(edge_attr)
        if self.degree is not None:
            x = x + self.degree(line_graph, x.dtype).to(x.dtype)
        for block in self.blocks:
            x = block(x, edge_index, edge_attr, batch, line_graph)
        x = self.norm(x, batch)
        if self.readout is not None:
            if batch is None:
                batch, batch_size = x.new_zeros(x.size(0), dtype=torch.long), batch_size or 1
            x = self._read_out(x, batch, batch_size)
        return self.head(x)

    def _read_out(self, x: Tensor, batch: Tensor, batch_size: int | None) -> Tensor:
        """A readout without parameters sums and counts in float32."""
        wide = x if any(True for _ in self.readout.parameters()) else widened(x)
        return self.readout(wide, batch, dim_size=batch_size).to(x.dtype)

    def __repr__(self) -> str:
        cell = "" if self.cell == "plstm" else f"cell={self.cell!r}, "
        return (
            f"{type(self).__name__}({self.in_channels}, {self.hidden_channels}, "
            f"{self.out_channels}, {cell}num_layers={len(self.blocks)}, modes={self.modes!r})"
        )
