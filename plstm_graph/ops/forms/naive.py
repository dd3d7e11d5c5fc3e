r"""The definition, written as the formula. Everything else is tested against it.

.. math::
    C_e = A_e \sum_{l = (e', e)} T_l C_{e'} + S_e\, k_{src(e)} v_{src(e)}^\top
    \qquad
    h_n = \sum_{e \to n} M_e C_e^\top q_n + D_n (q_n \cdot k_n) v_n

One Python step per edge and predecessor; autograd does the backward.
"""

from __future__ import annotations

import torch
from torch import Tensor

from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.ops.forms.base import Form
from plstm_graph.ops.inputs import Inputs


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


def naive_plstm(inputs: Inputs, line_graph: LineGraph, scale: float = 1.0) -> Tensor:
    """The recurrence of the module docstring, for all kinds of transitions and with updates.

    Returns:
        [N, H, V], with block transitions [N, H, J_M, V].
    """
    query, key, value, source, transition, mark, direct, update = inputs
    if inputs.factored:
        transition = transition.expand(line_graph.line_index)
    if inputs.kind != "block":  # one state channel
        value, source, direct = value[:, :, None], source[..., None, None], direct[..., None, None]
        mark = mark[..., None, None]
    query = query * scale
    dot = (query * key).sum(-1)
    h = torch.einsum("nhsm,nh,nhsv->nhmv", direct, dot, value)
    before = _predecessors(line_graph)
    t_of = transition.unbind(0)
    # unbind once: indexing x[e] in the loop would make backward quadratic in E.
    query_of, key_of, value_of = query.unbind(0), key.unbind(0), value.unbind(0)
    source_of, mark_of = source.unbind(0), mark.unbind(0)
    src, dst = line_graph.edge_index.tolist()
    states: dict[int, Tensor] = {}
    for e in torch.argsort(line_graph.level, stable=True).tolist():
        n = src[e]
        written = torch.einsum("hsj,hsv->hjv", source_of[e], value_of[n])
        own = key_of[n][:, None, :, None] * written[:, :, None, :]  # [H, J, K, V]
        c = torch.zeros_like(own)
        for l, e_in in before[e]:
            c = c + _passed_on(t_of[l], states[e_in])
        for r in range(0 if update is None else update.key.size(2)):
            k, v = update.key[n, :, r, None], update.value[n, :, r, None]  # [H, 1, K], [H, 1, V]
            gate = source_of[e].flatten(1)[:, :1, None] if inputs.kind != "block" else 0.0
            missing = torch.einsum("hjk,hjkv->hjv", k.expand(c.shape[:3]), c) - gate * v
            beta = update.beta[e, :, r, None, None, None]
            c = c - beta * k[..., None] * missing[..., None, :]
        states[e] = c = c + own
        told = torch.einsum("hjm,hk,hjkv->hmv", mark_of[e], query_of[dst[e]], c)
        h = h.index_add(0, line_graph.edge_index[1, e : e + 1], told[None])
    return h if inputs.kind == "block" else h.squeeze(2)


def _passed_on(t: Tensor, state: Tensor) -> Tensor:
    """T C of one line edge: t [H], [H, K] or [H, J, J], state [H, J, K, V]."""
    if t.dim() == 1:
        return t[:, None, None, None] * state
    if t.dim() == 2:
        return t[:, None, :, None] * state
    return torch.einsum("hij,hjkv->hikv", t, state)


class Naive(Form):
    """Autograd differentiates the definition itself: ``plstm`` calls :func:`naive_plstm`."""

    name = "naive"
    kinds = ("line", "factored", "diagonal", "block")
    updates = True
