"""The child-sum LSTM as a layer."""

import torch
from torch import Tensor

from plstm_graph.nn.recurrent import RecurrentConv


class DAGLSTMConv(RecurrentConv):
    r"""The child-sum LSTM from the `"Improved Semantic Representations From Tree-Structured Long
    Short-Term Memory Networks" <https://arxiv.org/abs/1503.00075>`_ paper on a DAG, whose children
    are the predecessors p.

    .. math::
        i, o &= \sigma(W x_n + R \textstyle\sum_p h_p), \quad
        z = \tanh(W x_n + R \textstyle\sum_p h_p), \quad f_p = \sigma(W x_n + R h_p) \\
        c_n &= i z + \textstyle\sum_p f_p c_p, \qquad out_n = h_n = o \tanh(c_n)

    each with weights of its own. With edge features, each :math:`R h_p` has :math:`U a_e` of its
    edge added. It is a baseline: the gates read states, so the depth of the graph is the number of
    steps, whatever the hardware.

    Args:
        in_channels: size of each input sample, or -1 to take it from the first input.
        out_channels: size of each output sample.
        edge_dim: width of the edge features, -1 for lazy, ``None`` for none. Default ``None``.
        direction: ``"forward"``, along the order of the DAG; ``"reverse"``, against it;
            ``"two_way"``, both, each with half of the channels; ``"auto"``, the same, but the
            second half runs along the order, too, where the input was directed.
            Default ``"auto"``.
        orientation: how to make a DAG of ``edge_index`` when no ``line_graph`` is given, see
            :meth:`plstm_graph.LineGraph.from_edge_index`. Default ``"canonical"``.
        bias: of the map of the node features. Default ``True``.
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
        *,
        edge_dim: int | None = None,
        direction: str = "auto",
        orientation: str | Tensor = "canonical",
        bias: bool = True,
        form: str = "auto",
    ) -> None:
        super().__init__(
            "child_sum",
            in_channels,
            out_channels,
            1,
            edge_dim=edge_dim,
            direction=direction,
            orientation=orientation,
            bias=bias,
            form=form,
            node_bias=bias,
        )
        self._reset_recurrent()

    def _reset_recurrent(self) -> None:
        bound = self.weight.size(-1) ** -0.5  # as a linear map of PyTorch
        torch.nn.init.uniform_(self.weight, -bound, bound)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        self._reset_recurrent()
