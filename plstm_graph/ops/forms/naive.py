r"""The definition, written as the formula. Everything else is tested against it.

.. math::
    C_e = \sum_{l = (e', e)} T_l C_{e'} + S_e\, k_{src(e)} v_{src(e)}^\top
    \qquad
    h_n = \sum_{e \to n} M_e C_e^\top q_n + D_n (q_n \cdot k_n) v_n

One Python step per edge and predecessor; autograd does the backward.
"""

from __future__ import annotations

import torch
from torch import Tensor

from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.ops.forms.base import Form
from plstm_graph.ops.inputs import Factored


def _predecessors(line_graph: LineGraph) -> list[list[tuple[int, int]]]:
    """For each edge, its pairs (line edge, incoming edge)."""
    pairs: list[list[tuple[int, int]]] = [[] for _ in range(line_graph.num_edges)]
    for l, (e_in, e_out) in enumerate(line_graph.line_index.t().tolist()):
        pairs[e_out].append((l, e_in))
    return pairs


def naive_dag_scan(x: Tensor, transition: Tensor, line_graph: LineGraph) -> Tensor:
    """c_e = x_e + sum over l = (e', e) of T_l c_e', one edge after the other.

    Args:
        x: [E, H, W], or [E, H, J, W] with state tracking.
        transition: [L, H], or [L, H, J, J] with state tracking.
        line_graph: the line graph.

    Returns:
        c, the shape of x.
    """
    before = _predecessors(line_graph)
    # unbind once: indexing x[e] in the loop would make backward quadratic in E.
    x_of, t_of = x.unbind(0), transition.unbind(0)
    c: list[Tensor | None] = [None] * line_graph.num_edges
    for e in torch.argsort(line_graph.level, stable=True).tolist():
        c_e = x_of[e]
        for l, e_in in before[e]:
            if transition.dim() == 2:
                c_e = c_e + t_of[l][:, None] * c[e_in]
            else:
                c_e = c_e + t_of[l] @ c[e_in]  # [H, J, J] @ [H, J, W]
        c[e] = c_e
    return torch.stack(c) if c else x.clone()


def naive_plstm(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    source: Tensor,
    transition: Tensor | Factored,
    mark: Tensor,
    direct: Tensor,
    line_graph: LineGraph,
    *,
    scale: float = 1.0,
) -> Tensor:
    """The recurrence of the module docstring. Shapes as :func:`plstm_graph.ops.plstm`."""
    if isinstance(transition, Factored):
        transition = transition.expand(line_graph.line_index)
    src, dst = line_graph.edge_index
    query = query * scale
    outer = key[:, :, :, None] * value[:, :, None, :]  # [N, H, K, V]
    h = (direct * (query * key).sum(-1))[..., None] * value
    if line_graph.num_edges == 0:
        return h
    if source.dim() == 2:
        x = source[:, :, None, None] * outer[src]
        state = naive_dag_scan(x.flatten(2), transition, line_graph).view_as(x)
        read = mark[:, :, None, None] * state
    else:
        x = source[..., None, None] * outer[src][:, :, None]  # [E, H, J, K, V]
        state = naive_dag_scan(x.flatten(3), transition, line_graph).view_as(x)
        read = (mark[..., None, None] * state).sum(2)
    message = torch.einsum("ehk,ehkv->ehv", query[dst], read)
    return h.index_add(0, dst, message)


class Naive(Form):
    """Autograd differentiates the definition itself: ``plstm`` calls :func:`naive_plstm`."""

    name = "naive"
    factored = True
