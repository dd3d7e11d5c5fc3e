r"""DeltaNet."""

from __future__ import annotations

from torch import Tensor

from plstm_graph.checks import flag
from plstm_graph.nn.cells.base import CellTensors
from plstm_graph.nn.cells.gated import GatedCell
from plstm_graph.nn.cells.reflections import seen_through, unit_silu
from plstm_graph.nn.projection import Part
from plstm_graph.ops.inputs import Reflections


class Delta(GatedCell):
    r"""DeltaNet from the `"Parallelizing Linear Transformers with the Delta Rule over Sequence
    Length" <https://arxiv.org/abs/2406.06484>`_ paper (`2102.11174
    <https://arxiv.org/abs/2102.11174>`_).

    .. math::
        C_t = (I - \beta_t k_t k_t^\top)\, C_{t-1} + \beta_t k_t v_t^\top, \qquad h_t = C_t^\top q_t

    with :math:`q, k = \mathrm{unit}(\mathrm{SiLU}(\cdot))`, q scaled by K^-1/2, and
    :math:`\beta = \sigma(w x)`: what was stored under the key is overwritten. On a DAG the edges
    that leave a node are updated with its key. Without edge features all line edges have the
    transition 1 (divided in P-mode); with them it is :math:`\sigma(4 + \cdot)`, and Source too.

    **Bound.** The update has a norm of at most one, and in P-mode the transitions that leave an
    edge sum to at most one, so that no state grows on its way.

    **Mark** is 1 (with edge features the forget gate of the node where an edge ends), the query of
    the edges is :math:`(I - \beta k k^\top) q`, Direct is 1.

    Args:
        negative_eigenvalues: double :math:`\beta`, so that the update may reflect (`2411.12537
            <https://arxiv.org/abs/2411.12537>`_). Default ``False``.
    """

    name = "delta"

    def __init__(
        self, channels: int, heads: int, mode: str, *, negative_eigenvalues: bool = False
    ) -> None:
        super().__init__(channels, heads, mode)
        self.negative_eigenvalues = flag("negative_eigenvalues", negative_eigenvalues)
        self.node_parts = [Part(name, channels) for name in self.features]
        self.add_gates(Part("beta", heads, (1, 0)))

    def beta(self, part: Tensor) -> Tensor:
        """The strength of an update."""
        return part.sigmoid() * (2.0 if self.negative_eigenvalues else 1.0)

    def heads_of(self, node: dict[str, Tensor]) -> CellTensors:
        query, key, value = (self.split(node[name]) for name in self.features)
        query, key = unit_silu(query) * query.size(-1) ** -0.5, unit_silu(key)
        beta = self.beta(node["beta"]).unsqueeze(-1)
        update = Reflections(key.unsqueeze(-2), beta, None)
        edge_query, _ = seen_through(query, update)
        gates = [None] * 4
        return CellTensors(query, key, beta * value, *gates, edge_query=edge_query, update=update)
