r"""DeltaProduct."""

from __future__ import annotations

import torch
from torch import Tensor

from plstm_graph.checks import flag, integer
from plstm_graph.nn.cells.base import CellTensors
from plstm_graph.nn.cells.delta import Delta
from plstm_graph.nn.cells.gated_delta import Decay
from plstm_graph.nn.cells.mamba2 import step_bias
from plstm_graph.nn.cells.reflections import seen_through, unit_silu
from plstm_graph.nn.projection import Part
from plstm_graph.ops.inputs import Reflections


class DeltaProduct(Delta):
    r"""DeltaProduct from the `"DeltaProduct: Improving State-Tracking in Linear RNNs via
    Householder Products" <https://arxiv.org/abs/2502.10297>`_ paper.

    The delta rule with R micro-steps at each node, each with a key, a value and a strength of its
    own:

    .. math::
        C_{t, r} = (I - \beta_{t, r} k_{t, r} k_{t, r}^\top)\, C_{t, r-1}
        + \beta_{t, r} k_{t, r} v_{t, r}^\top, \qquad
        C_{t, -1} = f_t C_{t-1, R-1}, \qquad h_t = C_{t, R-1}^\top q_t

    with keys, queries and :math:`\beta` as :class:`~plstm_graph.nn.cells.delta.Delta`. The product
    of R reflections is any orthogonal matrix that differs from the identity in R dimensions, such
    as the permutations of R + 1 elements.

    **Bound.** As there.

    **Mark** is f of the node where an edge ends (1 where it is not gated), the query of the edges
    is :math:`A^\top q`, Direct is 1; what a node reads of its own first R - 1 micro-steps is added
    to the result.

    Args:
        reflections: R. Default 2.
        negative_eigenvalues: as there. Default ``True``.
        gated: with a forget gate as :class:`~plstm_graph.nn.cells.gated_delta.GatedDelta`, before
            the first micro-step; otherwise f = 1. Default ``False``.
    """

    name = "delta_product"

    def __init__(
        self,
        channels: int,
        heads: int,
        mode: str,
        *,
        reflections: int = 2,
        negative_eigenvalues: bool = True,
        gated: bool = False,
    ) -> None:
        super().__init__(channels, heads, mode, negative_eigenvalues=negative_eigenvalues)
        self.reflections = R = integer("reflections", reflections, 1)
        self.node_parts = [
            Part("query", channels), Part("key", R * channels), Part("value", R * channels)
        ]  # fmt: skip
        self.decay = None
        gates = [Part("beta", R * heads, (1, 0))]
        if flag("gated", gated):
            self.forget_part = "forget"
            self.decay = Decay(heads)
            gates.append(Part("forget", heads, (1, 2), bias=step_bias))
        self.add_gates(*gates)

    def reset_parameters(self) -> None:
        if self.decay is not None:
            self.decay.reset_parameters()

    def log_forget(self, logit: Tensor) -> Tensor:
        return super().log_forget(logit) if self.decay is None else self.decay(logit)

    def heads_of(self, node: dict[str, Tensor]) -> CellTensors:
        query = unit_silu(self.split(node["query"]))
        query = query * query.size(-1) ** -0.5
        steps = (self.split(node[name]) for name in ("key", "value"))
        key, value = (step.unflatten(-1, (self.reflections, -1)) for step in steps)
        key, beta = unit_silu(key), self.split(self.beta(node["beta"]))  # [N, *, H, R]
        # The operator multiplies the values of an update by beta; the last micro-step is written
        # by key, value and Source.
        last = beta[..., -1:] * value[..., -1, :]
        payload = None
        if self.reflections > 1:
            payload = torch.cat([value[..., :-1, :], torch.zeros_like(value[..., :1, :])], -2)
        update = Reflections(key, beta, payload)
        edge_query, own = seen_through(query, update)
        gates = [None] * 4
        return CellTensors(query, key[..., -1, :], last, *gates, edge_query, update, own)
