r"""States in and out of a recurrence: a few more nodes and edges, so that no form knows of them.

A state that comes into the edge e is the sum of its rows, :math:`C = \sum_i k_i C_{i,:}` with the
unit vectors :math:`k_i`: one node and one edge for each row, which writes it, and a line edge with
T = 1 to e. A state that is wanted is read row by row, by one node and one edge for each, which
follows its edge with T = 1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from plstm_graph.dag.family import Family, Member
from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.dag.tracing import Kept, outside
from plstm_graph.ops.inputs import EdgeStates, Inputs, LogGate, shaped

#: Sets of ports that are kept with a line graph.
KEPT = 8


class Ports(NamedTuple):
    """What was added to a graph.

    Attributes:
        line_graph: with the nodes, edges and line edges of the ports behind its own.
        into: number of rows that come in (I J K); out: number of rows that are read.
    """

    line_graph: LineGraph
    into: int
    out: int


def with_ports(line_graph: LineGraph, into: Tensor, out: Tensor, rows: int) -> Ports:
    """The graph with ports for states of ``rows`` rows into and out of some edges, [I] and [O].

    Those that were made last are kept with the line graph: the pieces of a sequence have the same
    ports in each step.
    """
    kept = line_graph.plan("ports", lambda _: Kept(KEPT))
    key = tuple(into.tolist()), tuple(out.tolist()), rows
    found = kept.get(key)
    if found is None:
        with outside():
            found = kept.keep(key, _with_ports(line_graph, into, out, rows))
    return found


def _with_ports(line_graph: LineGraph, into: Tensor, out: Tensor, rows: int) -> Ports:
    src, dst = line_graph.edge_index
    n, e, device = line_graph.num_nodes, line_graph.num_edges, line_graph.device
    into, out = into.repeat_interleave(rows), out.repeat_interleave(rows)
    new = torch.arange(into.numel() + out.numel(), device=device)
    writer, reader = new.split([into.numel(), out.numel()])
    edges = [torch.stack([n + writer, src[into]]), torch.stack([dst[out], n + reader])]
    lines = [torch.stack([e + writer, into]), torch.stack([out, e + reader])]
    edge_index = torch.cat([line_graph.edge_index, *edges], 1)
    batch = line_graph.node_batch
    if batch is not None:
        batch = torch.cat([batch, batch[src[into]], batch[dst[out]]])
    member = Member(edge_index, torch.arange(edge_index.size(1), device=device))
    family = Family(
        n + new.numel(), member, batch, line_index=torch.cat([line_graph.line_index, *lines], 1)
    )
    return Ports(LineGraph.of(family), into.numel(), out.numel())


def extended(inputs: Inputs, initial: EdgeStates | None, ports: Ports) -> Inputs:
    """The inputs with rows for the ports, those that come in first. Differentiable."""
    query, key, value, source, transition, mark, direct, update = inputs
    into, out, k = ports.into, ports.out, query.size(2)
    written = _zeros(value, into)
    if initial is not None:
        states = initial.state if initial.state.dim() == 5 else initial.state.unsqueeze(2)
        rows = states.permute(0, 2, 3, 1, 4).flatten(0, 2).to(value.dtype)  # [I J K, H, V]
        if value.dim() == 4:  # by the first channel of the source
            rest = written.new_zeros(into, value.size(1), value.size(2) - 1, value.size(3))
            rows = torch.cat([rows.unsqueeze(2), rest], 2)
        written = rows
    if update is not None:
        update = update._replace(
            **{name: _behind(x, _zeros(x, into + out)) for name, x in update._asdict().items()}
        )
    return Inputs(
        _behind(query, _zeros(query, into), _units(query, out)),
        _behind(key, _units(key, into), _zeros(key, out)),
        _behind(value, written, _zeros(value, out)),
        _behind(source, _entry(source, into, k, 3), _zeros(source, out)),
        _port_transitions(transition, initial, into, out),
        _behind(mark, _zeros(mark, into), _entry(mark, out, k, 2)),
        _behind(direct, _zeros(direct, into + out)),
        update,
    )


def taken(out: Tensor, nodes: int, ports: Ports, states: int, key_size: int) -> Tensor:
    """The states that were read, from the result with ``nodes`` rows before those of the ports:
    [O, H, K, V], or [O, H, J, K, V] where the result has state channels."""
    rows = out[nodes + ports.into :]
    if rows.dim() == 4:
        rows = rows[:, :, 0]
    rows = rows.unflatten(0, (-1, states, key_size)).permute(0, 3, 1, 2, 4)
    return rows if out.dim() == 4 else rows.squeeze(2)


def _behind(x: Tensor | LogGate, *rows: Tensor) -> Tensor | LogGate:
    """More rows, which for gates by their logarithms are not negative."""
    if not isinstance(x, LogGate):
        return torch.cat([x, *rows])
    log = torch.cat([x.log_abs, *(r.log() for r in rows)])
    sign = None if x.sign is None else torch.cat([x.sign, *map(torch.ones_like, rows)])
    return LogGate(log, sign)


def _zeros(x: Tensor | LogGate, rows: int) -> Tensor:
    x = shaped(x)
    return x.new_zeros(rows, *x.shape[1:])


def _units(x: Tensor, rows: int) -> Tensor:
    """[rows, H, K]: the unit vectors in turn."""
    unit = torch.eye(x.size(2), dtype=x.dtype, device=x.device)
    return unit.repeat(rows // x.size(2), 1)[:, None].expand(-1, x.size(1), -1)


def _entry(gate: Tensor | LogGate, rows: int, key_size: int, axis: int) -> Tensor:
    """Gates that open one state each: axis ``axis`` of a gate with state channels counts the
    states, and the first channel of its other one is used."""
    gate = shaped(gate)
    if gate.dim() == 2:
        return gate.new_ones(rows, gate.size(1))
    states = gate.size(axis)
    which = torch.arange(rows, device=gate.device) // key_size % states
    opened = _zeros(gate, rows)
    first = opened.select(5 - axis, 0)  # [rows, H, J], a view
    first.scatter_(2, which[:, None, None].expand(-1, gate.size(1), 1), 1.0)
    return opened


def _port_transitions(
    transition: Tensor | LogGate, initial: EdgeStates | None, into: int, out: int
) -> Tensor | LogGate:
    """Ones for the ports, or the scale of a state that comes in."""
    lines = shaped(transition)
    if lines.dim() == 4:
        one = torch.eye(lines.size(2), dtype=lines.dtype, device=lines.device)
        ones = one.expand(into + out, lines.size(1), -1, -1)
    else:
        ones = lines.new_ones(into + out, *lines.shape[1:])
    if initial is None or initial.log_scale is None or not into:
        return _behind(transition, ones)
    scale = initial.log_scale.repeat_interleave(into // initial.edge.numel(), 0)
    scale = scale.view(*scale.shape, *(1,) * (lines.dim() - 2)).to(lines.dtype)
    transition = _behind(transition, ones)
    rows = transition.log_abs.split([lines.size(0), into, out])
    return transition._replace(log_abs=torch.cat([rows[0], rows[1] + scale, rows[2]]))
