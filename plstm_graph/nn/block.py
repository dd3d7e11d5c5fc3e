"""The residual block around :class:`~plstm_graph.nn.PLSTMConv`."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch_geometric.nn import BatchNorm
from torch_geometric.nn.aggr import SumAggregation
from torch_geometric.nn.conv import GINConv, GINEConv
from torch_geometric.nn.resolver import activation_resolver, normalization_resolver
from torch_geometric.typing import Adj, OptTensor

from plstm_graph.checks import refuse, resolve
from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.nn.checks import (
    check_batch_vector,
    check_edge_attr,
    check_heads,
    check_named,
    check_options,
    check_x,
)
from plstm_graph.nn.conv import PLSTMConv
from plstm_graph.nn.dag_lstm import DAGLSTMConv
from plstm_graph.nn.graphs import plain_edge_index
from plstm_graph.nn.norm import widened
from plstm_graph.nn.slstm import SLSTMConv

#: A local branch: a name, a factory (channels, edge_dim) -> module, or a module.
Local = str | Callable[[int, int | None], torch.nn.Module] | torch.nn.Module | None


class Norm(torch.nn.Module):
    """A normalisation by name. ``batch`` is passed only to modules that take it.

    Args:
        norm: ``"layer_norm"`` and ``"rms_norm"`` act on each node by itself, ``None`` does
            nothing; other names are those of :mod:`torch_geometric.nn.norm`, e.g.
            ``"batch_norm"`` or ``"graph_norm"``.
        channels: width of the input.
        option: the name of the caller's option, for errors.
    """

    def __init__(self, norm: str | None, channels: int, option: str = "norm") -> None:
        super().__init__()
        if norm is not None and not isinstance(norm, str):
            refuse(option, "as the name of a normalisation, or None", norm)
        name = (norm or "").lower().replace("_", "")
        if not name:
            self.module = torch.nn.Identity()
        elif name == "layernorm":  # PyG's would mix the nodes of a graph
            self.module = torch.nn.LayerNorm(channels)
        elif name == "rmsnorm":
            self.module = torch.nn.RMSNorm(channels, eps=1e-5)
        elif name == "batchnorm":  # a batch of one node, which has no variance, is no error
            self.module = BatchNorm(channels, allow_single_element=True)
        else:
            self.module = resolve(option, normalization_resolver, norm, channels)
        self.with_batch = "batch" in inspect.signature(self.module.forward).parameters

    def reset_parameters(self) -> None:
        if hasattr(self.module, "reset_parameters"):
            self.module.reset_parameters()

    def forward(self, x: Tensor, batch: OptTensor = None) -> Tensor:
        return self.module(x, batch) if self.with_batch else self.module(x)


def make_local(local: Local, channels: int, edge_dim: int | None, act: str) -> Any:
    """The module of a local branch, see :class:`PLSTMBlock`."""
    if local is None or isinstance(local, torch.nn.Module):
        return local
    if callable(local):
        module = local(channels, edge_dim)
        if not isinstance(module, torch.nn.Module):
            refuse("local", "as a function that returns a module", module)
        return module
    if local != "gin":
        raise ValueError(
            f"expected local to be 'gin', a module, a function (channels, edge_dim) -> module or "
            f"None, got {local!r}"
        )
    mlp = torch.nn.Sequential(
        torch.nn.Linear(channels, channels),
        activation_resolver(act),
        torch.nn.Linear(channels, channels),
    )
    if edge_dim is None:
        return GINConv(mlp, aggr=WideSum())
    return GINEConv(mlp, edge_dim=edge_dim, aggr=WideSum())


class WideSum(SumAggregation):
    """The sum, of halves in float32: at a hub it would stop growing."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return super().forward(widened(x), *args, **kwargs).to(x.dtype)


def _make_conv(
    channels: int, heads: int, edge_dim: int | None, cell: str = "plstm", **kwargs: Any
) -> torch.nn.Module:
    """The layer of a cell."""
    if cell == "slstm":
        return SLSTMConv(channels, channels, heads, edge_dim=edge_dim, **kwargs)
    if cell == "dag_lstm":
        return DAGLSTMConv(channels, channels, edge_dim=edge_dim, **kwargs)
    return PLSTMConv(channels, channels, heads, edge_dim=edge_dim, cell=cell, **kwargs)


class PLSTMBlock(torch.nn.Module):
    r"""A pre-norm residual block, optionally with a local branch, as in GPS.

    .. math::
        y &= x + \mathrm{drop}(\mathrm{PLSTM}(\mathrm{norm}(x)) + \mathrm{local}(\mathrm{norm}(x)))
        \\
        z &= y + \mathrm{drop}(\mathrm{FFN}(\mathrm{norm}(y)))

    With a ``post_norm`` the sum of the branches is normalised and activated, as the layers of GIN
    are:

    .. math::
        y = x + \mathrm{drop}(\mathrm{act}(\mathrm{post\_norm}(
        \mathrm{PLSTM}(\mathrm{norm}(x)) + \mathrm{local}(\mathrm{norm}(x)))))

    Args:
        channels: width of input and output.
        heads: heads of the :class:`PLSTMConv`. Default 4.
        edge_dim: width of the edge features, ``None`` for none. Default ``None``.
        local: a message passing layer beside the pLSTM, over all edges of the input: ``"gin"``
            (GINE where there are edge features), a module, a function
            (channels, edge_dim) -> module, or ``None``. Default ``None``.
        ffn_ratio: width of the feed-forward's hidden layer over ``channels``; 0 leaves the
            feed-forward out. Default 1.
        zero_init: start the pLSTM's output projection at zero, so that the block begins as its
            local branch (without one, as the identity) and learns how much to add to it.
            Default ``False``.
        dropout: of both branches and inside the feed-forward. Default 0.
        norm: before the branches, see :class:`Norm`. Default ``"layer_norm"``.
        post_norm: after them, see :class:`Norm`; ``None`` leaves norm and activation out.
            Default ``None``.
        act: activation, a name of :mod:`torch.nn`. Default ``"gelu"``.
        **kwargs: of :class:`PLSTMConv`: ``cell``, ``mode``, ``direction``, ... With ``"slstm"`` or
            ``"dag_lstm"`` for the cell, of :class:`SLSTMConv` or :class:`DAGLSTMConv`.

    Shapes:
        - **input:** x [N, channels], edge_index [2, M], edge_attr [M, edge_dim]
        - **output:** [N, channels]

    Raises:
        ValueError: as :class:`PLSTMConv`, and for an unknown ``local``.
    """

    def __init__(
        self,
        channels: int,
        heads: int = 4,
        *,
        edge_dim: int | None = None,
        local: Local = None,
        ffn_ratio: float = 1.0,
        zero_init: bool = False,
        dropout: float = 0.0,
        norm: str | None = "layer_norm",
        post_norm: str | None = None,
        act: str = "gelu",
        **kwargs: Any,
    ) -> None:
        super().__init__()
        check_heads("channels", channels, heads)
        check_options(edge_dim=edge_dim, ffn_ratio=ffn_ratio, zero_init=zero_init, dropout=dropout)
        check_named("act", act, torch.nn.Module)
        activation = resolve("act", activation_resolver, act)
        self.zero_init = zero_init
        self.norm = Norm(norm, channels)
        self.conv = _make_conv(channels, heads, edge_dim, **kwargs)
        if zero_init and not hasattr(self.conv, "lin_out"):
            refuse("zero_init", "as False with a layer without output projection", "True")
        self.local = make_local(local, channels, edge_dim, act)
        names = () if self.local is None else inspect.signature(self.local.forward).parameters
        self.local_edge_attr = edge_dim is not None and "edge_attr" in names
        self.post_norm = None if post_norm is None else Norm(post_norm, channels, "post_norm")
        self.act = activation
        self.dropout = torch.nn.Dropout(dropout)
        self.ffn_norm, self.ffn = None, None
        hidden = round(channels * ffn_ratio)
        if hidden > 0:
            self.ffn_norm = Norm(norm, channels)
            self.ffn = torch.nn.Sequential(
                torch.nn.Linear(channels, hidden),
                activation_resolver(act),
                torch.nn.Dropout(dropout),
                torch.nn.Linear(hidden, channels),
            )
        self._reset_output()

    def _reset_output(self) -> None:
        if self.zero_init:
            for parameter in self.conv.lin_out.parameters():
                torch.nn.init.zeros_(parameter)

    def reset_parameters(self) -> None:
        """Resets all learnable parameters of the module."""
        for module in (
            self.norm,
            self.conv,
            self.local,
            self.post_norm,
            self.ffn_norm,
            *(self.ffn or ()),
        ):
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        self._reset_output()

    def forward(
        self,
        x: Tensor,
        edge_index: Adj,
        edge_attr: OptTensor = None,
        batch: OptTensor = None,
        line_graph: LineGraph | None = None,
    ) -> Tensor:
        """Run the block. The arguments are those of :class:`PLSTMConv`."""
        weight = getattr(self.conv, "lin_out", self.conv).weight
        check_x(x, self.conv.in_channels, weight)
        check_batch_vector(batch, x)
        if self.local is not None:
            if edge_index is None:
                refuse("edge_index", "with a local branch", edge_index, "pass it, or local=None")
            columns = plain_edge_index(edge_index, None, False)[0].size(1)
            check_edge_attr(edge_attr, self.conv.edge_dim, columns, x, None)
        y = self.norm(x, batch)
        h = self.conv(y, edge_index, edge_attr, batch, line_graph)
        if self.local is not None:
            edges = {"edge_attr": edge_attr} if self.local_edge_attr else {}
            h = h + self.local(y, edge_index, **edges)
        if self.post_norm is not None:
            h = self.act(self.post_norm(h, batch))
        x = x + self.dropout(h)
        if self.ffn is not None:
            x = x + self.dropout(self.ffn(self.ffn_norm(x, batch)))
        return x
