r"""The recurrence in differentiable operations of torch, all edges of a level at once.

For what has no better way: reflections and block transitions in the form "levelwise", and the
second derivatives of all forms.

.. math::
    \bar C_e = \sum_{l = (e', e)} T_l C_{e'}, \qquad
    C_e = A_e \bar C_e + S_e k_{src(e)} v_{src(e)}^\top
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.ops.inputs import Inputs


class Levels(NamedTuple):
    """Line edges by the levels of their ends.

    Attributes:
        edge_index: [2, E].
        order: [E] edges by level; position: [E] the inverse.
        line: [L] line edges by the levels of e_in, then e_out.
        tail, head: [L] places of e_in and e_out among the edges of their levels.
        sizes: [levels] on the CPU, edges of each level.
        pieces: [P, 3] on the CPU: level of e_in, level of e_out, number of line edges.
    """

    edge_index: Tensor
    order: Tensor
    position: Tensor
    line: Tensor
    tail: Tensor
    head: Tensor
    sizes: Tensor
    pieces: Tensor


def levels_of(line_graph: LineGraph) -> Levels:
    """The tables of ``line_graph``, planned once."""
    return line_graph.plan("levels", _levels_of)


def _levels_of(line_graph: LineGraph) -> Levels:
    level = line_graph.level.cpu().numpy()
    e_in, e_out = line_graph.line_index.cpu().numpy()
    order = np.argsort(level, kind="stable")
    position = np.empty_like(order)
    position[order] = np.arange(order.size)
    sizes = np.bincount(level)
    place = position - (np.cumsum(sizes) - sizes)[level] if level.size else position
    line = np.lexsort((level[e_out], level[e_in]))
    ends = np.stack([level[e_in], level[e_out]], 1)[line]
    pairs, count = np.unique(ends, axis=0, return_counts=True)
    pieces = np.concatenate([pairs, count[:, None]], 1).reshape(-1, 3)
    arrays = (order, position, line, place[e_in][line], place[e_out][line])
    device = line_graph.device
    return Levels(
        line_graph.edge_index,
        *(torch.from_numpy(array).to(device) for array in arrays),
        torch.from_numpy(sizes),
        torch.from_numpy(pieces),
    )


def payload(inputs: Inputs, edge_index: Tensor) -> Tensor:
    """S_e k v^T of each edge: [E, H, K, V], with block transitions [E, H, J, K, V]."""
    src = edge_index[0]
    key, value = inputs.key.index_select(0, src), inputs.value.index_select(0, src)
    if inputs.source.dim() == 2:
        return inputs.source[..., None, None] * key[..., None] * value[:, :, None]
    written = torch.einsum("ehsj,ehsv->ehjv", inputs.source, value)
    return key[:, :, None, :, None] * written[:, :, :, None]


def transported(transition: Tensor, states: Tensor) -> Tensor:
    """T_l C of each line edge: scalar [L, H], diagonal [L, H, K] or block [L, H, J, J]."""
    if transition.dim() == 4:
        return torch.einsum("lhij,lhjkv->lhikv", transition, states)
    return transition.view(*transition.shape, *(1,) * (4 - transition.dim())) * states


def reflected(states: Tensor, key: Tensor, beta: Tensor, written: Tensor) -> Tensor:
    """C - beta k (k^T C - written^T), for each reflection in turn.

    Args:
        states: [E, H, K, V] or [E, H, J, K, V].
        key: [E, H, R, K]; beta: [E, H, R]; written: [E, H, R, V], S_e v_r.
    """
    more = states.dim() - 4  # an axis J
    for k, b, w in zip(key.unbind(2), beta.unbind(2), written.unbind(2)):
        if more:
            k, w = k.unsqueeze(2), w.unsqueeze(2)
        missing = (k.unsqueeze(-2) @ states).squeeze(-2) - w  # k^T C - S v^T
        b = b.view(*b.shape, *(1,) * (2 + more))
        states = states - b * k[..., None] * missing[..., None, :]
    return states


def states_by_level(inputs: Inputs, levels: Levels) -> Tensor:
    """The states of all edges, in the shape of :func:`payload`."""
    own = payload(inputs, levels.edge_index).index_select(0, levels.order)
    src = levels.edge_index[0].index_select(0, levels.order)
    sizes = levels.sizes.tolist()
    update = inputs.update
    if update is not None:
        key, written = (x.index_select(0, src).split(sizes) for x in (update.key, update.value))
        beta = update.beta.index_select(0, levels.order)
        # Block transitions have reflections that write nothing.
        source = inputs.source.index_select(0, levels.order)
        gate = source.split(sizes) if source.dim() == 2 else None
        beta = beta.split(sizes)
    pieces: list[list[tuple[int, int]]] = [[] for _ in sizes]
    for start, end, count in levels.pieces.tolist():
        pieces[start].append((end, count))
    coming: list[list[tuple[Tensor, Tensor]]] = [[] for _ in sizes]
    done, first = [], 0
    for i, x in enumerate(own.split(sizes)):
        states = torch.zeros_like(x)
        if coming[i]:
            heads, terms = zip(*coming[i])
            states = states.index_add(0, torch.cat(heads), torch.cat(terms))
        coming[i] = []
        if update is not None:
            w = written[i] if gate is None else gate[i][..., None, None] * written[i]
            states = reflected(states, key[i], beta[i], w)
        states = states + x
        done.append(states)
        counts = [count for _, count in pieces[i]]
        rows = slice(first, first + sum(counts))
        first = rows.stop
        if not counts:
            continue
        lines = inputs.transition.index_select(0, levels.line[rows])
        terms = transported(lines, states.index_select(0, levels.tail[rows]))
        for (end, _), head, term in zip(
            pieces[i], levels.head[rows].split(counts), terms.split(counts)
        ):
            coming[end].append((head, term))
    return torch.cat(done).index_select(0, levels.position) if done else own


def direct_term(query: Tensor, key: Tensor, value: Tensor, direct: Tensor) -> Tensor:
    """D_n (q_n . k_n) v_n, with state channels [N, H, J_M, V]."""
    dot = (query * key).sum(-1)
    if direct.dim() == 2:
        return (direct * dot)[..., None] * value
    return torch.einsum("nhsm,nh,nhsv->nhmv", direct, dot, value)


def read(states: Tensor, inputs: Inputs, edge_index: Tensor, scale: float) -> Tensor:
    """h_n of all nodes, in the shape of ``inputs.out_shape``."""
    dst = edge_index[1]
    query = inputs.query * scale
    out = direct_term(query, inputs.key, inputs.value, inputs.direct)
    query = query.index_select(0, dst)
    if states.dim() == 4:
        told = inputs.mark[..., None] * (query.unsqueeze(-2) @ states).squeeze(-2)
    else:
        told = (query[:, :, None, None] @ states).squeeze(-2)  # [E, H, J, V]
        told = torch.einsum("ehjm,ehjv->ehmv", inputs.mark, told)
    return out.index_add(0, dst, told)


def plstm_by_level(inputs: Inputs, scale: float, levels: Levels) -> Tensor:
    """The layer. Transitions are not factored."""
    return read(states_by_level(inputs, levels), inputs, levels.edge_index, scale)
