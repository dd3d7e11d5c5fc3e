"""The operator of the cells as a differentiable loop over edges, and layers to test cells with."""

import torch
from torch import Tensor

from plstm_graph.nn import PLSTMConv
from plstm_graph.nn.cells import CELLS
from plstm_graph.ops.inputs import LogGate


def plain(gate: Tensor | LogGate) -> Tensor:
    if not isinstance(gate, LogGate):
        return gate
    return gate.log_abs.exp() * (1 if gate.sign is None else gate.sign)


def reference(
    query, key, value, source, transition, mark, direct, graph, *, edge_query=None, update=None,
    normalizer=None, stabilizer=None, form="auto", backend="auto",
):  # fmt: skip
    """The contract of ``plstm``, an edge at a time; the gauge of a stabilizer is left out."""
    assert all(isinstance(g, LogGate) == (stabilizer is not None) for g in (source, mark, direct))
    source, transition, mark, direct = map(plain, (source, transition, mark, direct))
    block = transition.dim() == 4
    if not block:
        value, source, mark, direct = (
            value.unsqueeze(2), source[..., None, None], mark[..., None, None],
            direct[..., None, None],
        )  # fmt: skip
    if normalizer in ("max1", "sum"):
        value = torch.cat([value, torch.ones_like(value[..., :1])], -1)
    states = [None] * graph.num_edges
    src, dst = graph.edge_index.tolist()
    before = [[] for _ in states]
    for line, (e_in, e_out) in enumerate(graph.line_index.t().tolist()):
        before[e_out].append((line, e_in))
    zero = key.new_zeros(key.size(1), source.size(3), key.size(2), value.size(3))
    for e in graph.level.argsort(stable=True).tolist():
        state = zero
        for line, e_in in before[e]:
            t = transition[line]
            if block:
                state = state + torch.einsum("hij,hjkv->hikv", t, states[e_in])
            else:
                state = state + t.view(len(t), 1, -1, 1) * states[e_in]
        n = src[e]
        for r in range(0 if update is None else update.key.size(2)):
            k, beta = update.key[n, :, r], update.beta[n, :, r]
            new = (
                torch.zeros_like(value[n]) if update.value is None else update.value[n, :, r, None]
            )
            delta = torch.einsum("hk,hjkv->hjv", k, state) - source[e][:, :, 0, None] * new
            state = state - torch.einsum("h,hk,hjv->hjkv", beta, k, delta)
        written = torch.einsum("hsj,hsv->hjv", source[e], value[n])
        states[e] = state + key[n][:, None, :, None] * written.unsqueeze(-2)
    reader = query if edge_query is None else edge_query
    dot = (query * key).sum(-1)
    out = list(torch.einsum("nhsm,nh,nhsv->nhmv", direct, dot, value))
    for e, n in enumerate(dst):
        out[n] = out[n] + torch.einsum("hjm,hjkv,hk->hmv", mark[e], states[e], reader[n])
    out = torch.stack(out) if out else value.new_zeros(0, key.size(1), mark.size(3), value.size(3))
    if normalizer in ("max1", "sum"):
        den = out[..., -1:]
        out = out[..., :-1] / (den.abs().clamp(min=1) if normalizer == "max1" else den)
    return out if block else out.squeeze(2)


def bare(cell: str, channels: int = 8, heads: int = 2, **options) -> PLSTMConv:
    """A layer in float64 whose output is what the heads read, with random gates."""
    conv = PLSTMConv(6, channels, heads, cell=cell, head_norm=False, **options).double()
    with torch.no_grad():
        for name, parameter in conv.named_parameters():
            if "lin_node" in name or "lin_edge" in name or "offset" in name:
                parameter.normal_(std=0.5)
        conv.lin_out.weight.copy_(torch.eye(channels))
        conv.lin_out.bias.zero_()
    return conv


#: Every cell with each of its modes.
MODES = [(name, mode) for name, cell in CELLS.items() for mode in cell.modes]
