r"""All linear maps of a layer's input, in one matrix product per kind of input.

The gates are linear maps of concatenations, see :mod:`plstm_graph.nn.gates`: sums of maps of the
parts. :class:`Projection` multiplies the node features once with the maps of query, key, value
and the node parts of all gates, and the edge features once with the edge parts.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch_geometric.nn.dense.linear import Linear, is_uninitialized_parameter

#: Where the Transition of a line edge (u -> v) -> (v -> w) reads node features.
TRANSITION_NODES = ("junction", "start", "all")  # v; u (as published); u, v and w


class LazyLinear(Linear):
    """PyG's linear map, whose first input leaves what was loaded before it as it is."""

    def reset_parameters(self) -> None:
        #: Names of the parameters that were loaded since.
        self.loaded: set[str] = set()
        super().reset_parameters()

    @property
    def lazy(self) -> bool:
        return hasattr(self, "_hook")

    @contextmanager
    def keep_loaded(self) -> Iterator[None]:
        """Whatever happens inside, parameters that were loaded stay as they are."""
        kept = {name: getattr(self, name).detach().clone() for name in self.loaded}
        yield
        with torch.no_grad():
            for name, value in kept.items():
                getattr(self, name).copy_(value)
        self.loaded = set(kept)

    def initialize_parameters(self, module: torch.nn.Module, input: tuple[Tensor, ...]) -> None:
        with self.keep_loaded():
            super().initialize_parameters(module, input)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any, **kw: Any) -> None:
        was_lazy = self.lazy
        super()._load_from_state_dict(state_dict, prefix, *args, **kw)
        # The bias beside a weight without a width was never drawn.
        if not is_uninitialized_parameter(state_dict.get(f"{prefix}weight")):
            names = (name for name, value in self.named_parameters() if value is not None)
            self.loaded |= {name for name in names if f"{prefix}{name}" in state_dict}
        if was_lazy and not self.lazy:
            with self.keep_loaded():
                self.reset_parameters()


class PartLinear(LazyLinear):
    """Several linear maps of the same input side by side.

    Args:
        in_channels: width of the input; -1 for lazy.
        parts: (name, rows) of each map, in the order of the output's columns.
        bias: whether the maps have a bias. Default ``True``.
    """

    def __init__(
        self, in_channels: int, parts: Sequence[tuple[str, int]], bias: bool = True
    ) -> None:
        rows, start = {}, 0
        for name, count in parts:
            rows[name] = slice(start, start + count)
            start += count
        super().__init__(in_channels, start, bias=bias)
        #: The rows of the weight (columns of the output) of each map.
        self.rows: dict[str, slice] = rows


class Part(NamedTuple):
    """One of the maps of the input that a cell wants.

    Attributes:
        name: of the part.
        width: its columns.
        fan: of a gate, how often node and edge features stand in the concatenation that the gate is
            a linear map of: they bound its initial entries. ``None`` for a map of its own, which
            starts as a PyTorch ``Linear``.
        weight, bias: how they start, functions that fill a tensor in place. Default: uniform.
    """

    name: str
    width: int
    fan: tuple[int, int] | None = None
    weight: Callable[[Tensor], Any] | None = None
    bias: Callable[[Tensor], Any] | None = None


def spread(tensor: Tensor, low: float, high: float) -> None:
    """Fill from ``low`` to ``high``."""
    tensor.copy_(torch.linspace(low, high, tensor.numel()).view(tensor.shape))


def _start_if_known(projection: "Projection", _: Any) -> None:
    """After loading: what was not loaded is drawn, once all widths are known."""
    if not projection._started and not projection.lazy:
        projection._start()


class Projection(torch.nn.Module):
    """All maps of the node features and of the edge features: those of queries, keys, values and
    of the parts of the gates.

    Each map is initialised as the PyTorch ``Linear`` that it is, or is a part of: the bound of a
    gate's entries, ``1 / sqrt(fan)``, counts the width of the whole concatenation.

    Args:
        in_channels: width of x, -1 for lazy.
        edge_dim: width of the edge features, -1 for lazy, ``None`` for none.
        node_parts: maps of the node features, in runs that :meth:`forward` returns side by side.
        edge_parts: maps of the edge features, which have no bias of their own.
        bias: of the maps of node features.
    """

    def __init__(
        self,
        in_channels: int,
        edge_dim: int | None,
        node_parts: Sequence[Sequence[Part]],
        edge_parts: Sequence[Part],
        bias: bool,
    ) -> None:
        super().__init__()
        #: The parts by name, and the widths of the runs of node parts.
        self.node_parts = {part.name: part for run in node_parts for part in run}
        self.edge_parts = {part.name: part for part in edge_parts}
        self.split = [sum(part.width for part in run) for run in node_parts]
        sizes = [(part.name, part.width) for part in self.node_parts.values()]
        self.lin_node = PartLinear(in_channels, sizes, bias=bias)
        if edge_dim is None:
            self.register_module("lin_edge", None)
        else:
            sizes = [(part.name, part.width) for part in edge_parts]
            self.lin_edge = PartLinear(edge_dim, sizes, bias=False)
        self._started = False
        self.register_load_state_dict_post_hook(_start_if_known)

    @property
    def lazy(self) -> bool:
        """Whether a width is still to be taken from the first input."""
        return self.lin_node.lazy or (self.lin_edge is not None and self.lin_edge.lazy)

    @property
    def edge_dim(self) -> int | None:
        return None if self.lin_edge is None else self.lin_edge.in_channels

    def reset_parameters(self) -> None:
        """Resets all learnable parameters; lazy ones wait for :meth:`materialize`."""
        self.lin_node.reset_parameters()
        if self.lin_edge is not None:
            self.lin_edge.reset_parameters()
        if not self.lazy:
            self._start()

    def materialize(self, x: Tensor, edge_attr: Tensor | None) -> None:
        """Give lazy maps their widths: here, since the gates' bounds depend on both."""
        for lin, value in ((self.lin_node, x), (self.lin_edge, edge_attr)):
            if lin is not None and lin.lazy:
                lin.initialize_parameters(lin, (value,))
        self._start()

    def _start(self) -> None:
        """Draw the gates, whose widths are known now, except what was loaded."""
        with self.lin_node.keep_loaded(), (self.lin_edge or self.lin_node).keep_loaded():
            self._reset_gates()
        self._started = True

    @torch.no_grad()
    def _reset_gates(self) -> None:
        node, edge = self.lin_node.in_channels, self.edge_dim or 0
        for lin, parts in ((self.lin_node, self.node_parts), (self.lin_edge, self.edge_parts)):
            for name, rows in () if lin is None else lin.rows.items():
                part = parts[name]
                if part.fan is None:
                    continue
                bound = 1 / math.sqrt(part.fan[0] * node + part.fan[1] * edge)
                for tensor, start in ((lin.weight, part.weight), (lin.bias, part.bias)):
                    if tensor is not None:
                        tensor[rows].uniform_(-bound, bound)
                    if tensor is not None and start is not None:
                        start(tensor[rows])

    def forward(
        self, x: Tensor, edge_attr: Tensor | None, edge_id: Tensor | None
    ) -> tuple[Tensor, ...]:
        """Project.

        Args:
            x: [N, in_channels].
            edge_attr: [M, edge_dim] or ``None``.
            edge_id: [E] the row of ``edge_attr`` that each edge reads; ``None`` for all, in order.

        Returns:
            The runs of node parts [N, width], then the edge parts [E, width] side by side, or
            ``None``.
        """
        node = self.lin_node(x).split(self.split, -1)
        if self.lin_edge is None:
            return (*node, None)
        if edge_id is None:
            return (*node, self.lin_edge(edge_attr))
        # Whatever has fewer rows is multiplied; a two-way graph reads every row, H columns wide.
        if edge_id.numel() < edge_attr.size(0):
            return (*node, self.lin_edge(edge_attr.index_select(0, edge_id)))
        return (*node, self.lin_edge(edge_attr).index_select(0, edge_id))
