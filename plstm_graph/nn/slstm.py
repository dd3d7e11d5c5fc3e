"""The sLSTM as a layer."""

import torch
from torch import Tensor
from torch_geometric.nn.dense.linear import Linear

from plstm_graph.checks import real
from plstm_graph.nn.checks import check_options
from plstm_graph.nn.norm import HeadRMSNorm
from plstm_graph.nn.recurrent import RecurrentConv


class SLSTMConv(RecurrentConv):
    r"""The sLSTM from the `"xLSTM: Extended Long Short-Term Memory"
    <https://arxiv.org/abs/2405.04517>`_ paper on a DAG.

    For the P predecessors p of a node, per head

    .. math::
        i &= \exp(W x_n + R \tfrac1P \textstyle\sum_p h_p), \quad
        o = \sigma(\cdot), \quad z = \tanh(\cdot), \quad f_p = \sigma(W x_n + R h_p) \\
        c_n &= i z + \textstyle\sum_p f_p c_p, \qquad
        n_n = i + \textstyle\sum_p f_p n_p, \qquad h_n = o\, c_n / n_n \\
        out_n &= W_O\, \mathrm{RMSNorm}(h_n)

    each gate with weights of its own. On a path that is the published cell; on a DAG c / n stays a
    weighted mean of the inputs z, however many paths there are (:mod:`plstm_graph.ops.sweep`). With
    edge features, each :math:`R h_p` has :math:`U a_e` of its edge added. The published
    layer's convolution over the last four inputs is left out, as in all layers on graphs.

    It stands where :class:`PLSTMConv` may: beside its linear recurrence it is the baseline whose
    gates read states, so that the depth of the graph is the number of steps.

    Args:
        in_channels: size of each input sample, or -1 to take it from the first input.
        out_channels: size of each output sample, all heads together.
        heads: H, number of heads, of each direction. Default 1.
        edge_dim: width of the edge features, -1 for lazy, ``None`` for none. Default ``None``.
        direction: ``"forward"``, along the order of the DAG; ``"reverse"``, against it;
            ``"two_way"``, both, each with half of the channels; ``"auto"``, the same, but the
            second half runs along the order, too, where the input was directed.
            Default ``"auto"``.
        orientation: how to make a DAG of ``edge_index`` when no ``line_graph`` is given, see
            :meth:`plstm_graph.LineGraph.from_edge_index`. Default ``"canonical"``.
        bias: of the gates and of the output. Default ``True``.
        head_norm: the RMSNorm of each head before the output projection. Default ``True``.
        depth: place of the layer in its model, from 0 (first) to 1 (last), which the published
            initialisation of the forget gates reads: the bias of channel j of d is
            :math:`5 - 12 (j / (d - 1))^{0.3 + 1.3\,depth}`; the other biases and R start at zero.
            Default 0.
        form: see :func:`plstm_graph.ops.sweep.sweep`. Default ``"auto"``.

    Shapes:
        - **input:** x [N, in_channels], edge_index [2, M], edge_attr [M, edge_dim], batch [N]
        - **output:** [N, out_channels]

    Raises:
        ValueError: on bad options or input, as :class:`PLSTMConv`, and on a graph with a directed
            cycle of nodes.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        heads: int = 1,
        *,
        edge_dim: int | None = None,
        direction: str = "auto",
        orientation: str | Tensor = "canonical",
        bias: bool = True,
        head_norm: bool = True,
        depth: float = 0.0,
        form: str = "auto",
    ) -> None:
        super().__init__(
            "slstm",
            in_channels,
            out_channels,
            heads,
            edge_dim=edge_dim,
            direction=direction,
            orientation=orientation,
            bias=bias,
            form=form,
            node_bias=False,
        )
        check_options(head_norm=head_norm)
        self.depth = real("depth", depth, 0.0, 1.0)
        groups, _, size, _ = self.weight.shape
        self.norm = HeadRMSNorm(groups, size) if head_norm else None
        self.lin_out = Linear(out_channels, out_channels, bias=bias)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        super().reset_parameters()
        self.weight.zero_()
        if self.bias is not None:
            j = torch.linspace(0, 1, self.bias.size(-1), dtype=torch.float64)
            self.bias.zero_()
            self.bias[:, 3] = (5 - 12 * j ** (0.3 + 1.3 * self.depth)).to(self.bias)
        if self.norm is not None:
            self.norm.reset_parameters()
        self.lin_out.reset_parameters()

    def output(self, h: Tensor, dtype: torch.dtype) -> Tensor:
        h = h if self.norm is None else self.norm(h)
        return self.lin_out(h.flatten(1).to(dtype))
