r"""All linear maps of a layer's input, in one matrix product per kind of input.

The gates are linear maps of concatenations, see :mod:`plstm_graph.nn.gates`: sums of maps of the
parts. :class:`Projection` multiplies the node features once with the maps of query, key, value
and the node parts of all gates, and the edge features once with the edge parts.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch_geometric.nn.dense.linear import Linear, is_uninitialized_parameter

#: Where the Transition of a line edge (u -> v) -> (v -> w) reads node features.
TRANSITION_NODES = ("junction", "start", "all")  # v; u (as published); u, v and w

#: Smallest and largest bias of the Transition over the heads, for ``init="open"``; that of the
#: second factor, where it has two.
OPEN_BIAS, FACTOR_BIAS = (0.5, 3.0), 1.5
#: Biases of ``init="grid"``: an almost lossless memory that is written and read little.
GRID_BIAS = {"source": -4.0, "mark": -4.0, "direct": -6.0, "transition": 5.0}


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


def _start_if_known(projection: "Projection", _: Any) -> None:
    """After loading: what was not loaded is drawn, once all widths are known."""
    if not projection._started and not projection.lazy:
        projection._start()


class Projection(torch.nn.Module):
    """Query, key, value and the parts of the gates.

    Each map is initialised as the PyTorch ``Linear`` that it is, or is a part of: the bound of a
    gate's entries, ``1 / sqrt(fan)``, counts the width of the whole concatenation.

    Args:
        in_channels: width of x, -1 for lazy.
        channels: width of query, key and value, all heads.
        heads: H.
        edge_dim: width of the edge features, -1 for lazy, ``None`` for none.
        transition_node: one of ``TRANSITION_NODES``, or ``"factored"``: the Transition is a product
            of two gates, the first of which ends at the junction.
        bias: of all maps.
        init: ``"open"``, ``"graph"`` or ``"grid"``, see :class:`plstm_graph.nn.PLSTMConv`.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        heads: int,
        edge_dim: int | None,
        transition_node: str,
        bias: bool,
        init: str,
    ) -> None:
        super().__init__()
        self.transition_node = transition_node
        self.init = init
        self.heads = heads
        # Two runs of columns are gathered by edges: what they read at their source, and at
        # their target. The junction is the source of e_out, the start the source of e_in.
        at_source, at_target = ["source", "transition"], ["mark"]
        if transition_node == "all":
            at_source.insert(1, "transition_start")
        if transition_node in ("all", "factored"):
            at_target.append("transition_end")
        C, H = channels, heads
        self.split = [C, C, C, H, H * len(at_source), H * len(at_target)]
        parts = [("query", C), ("key", C), ("value", C)]
        parts += [(name, H) for name in ("direct", *at_source, *at_target)]
        self.lin_node = PartLinear(in_channels, parts, bias=bias)
        if edge_dim is None:
            self.register_module("lin_edge", None)
        else:
            names = ("source", "mark", "transition_in", "transition_out")
            self.lin_edge = PartLinear(edge_dim, [(name, H) for name in names], bias=False)
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
        ends = 3 if self.transition_node == "all" else 1
        for lin in (self.lin_node, self.lin_edge):
            for name, rows in () if lin is None else lin.rows.items():
                if name in ("query", "key", "value"):
                    continue
                if self.init == "grid":
                    bound, bias = 0.0, GRID_BIAS.get(name, 0.0)
                else:
                    fan = {"direct": node, "source": node + edge, "mark": node + edge}
                    bound, bias = 1 / math.sqrt(fan.get(name, ends * node + 2 * edge)), None
                lin.weight[rows].uniform_(-bound, bound)
                if lin.bias is not None and bias is None:
                    lin.bias[rows].uniform_(-bound, bound)
                elif lin.bias is not None:
                    lin.bias[rows].fill_(bias)
                if self.init == "open" and lin.bias is not None:
                    if self.transition_node == "factored" and name == "transition":
                        lin.bias[rows].fill_(FACTOR_BIAS)
                    elif name == (
                        "transition_end" if self.transition_node == "factored" else "transition"
                    ):
                        lin.bias[rows].copy_(torch.linspace(*OPEN_BIAS, self.heads))
                    elif name.startswith("transition"):  # the same logit's, with "all"
                        lin.bias[rows].zero_()

    def forward(
        self, x: Tensor, edge_attr: Tensor | None, edge_id: Tensor | None
    ) -> tuple[Tensor, ...]:
        """Project.

        Args:
            x: [N, in_channels].
            edge_attr: [M, edge_dim] or ``None``.
            edge_id: [E] the row of ``edge_attr`` that each edge reads; ``None`` for all, in order.

        Returns:
            query, key, value [N, channels], direct [N, H]; what edges read at their source
            [N, 2H] (Source, Transition; with ``"all"`` [N, 3H]) and at their target [N, H]
            (Mark; with ``"all"`` and ``"factored"`` [N, 2H]); edge parts [E, 4H] or ``None``.
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
