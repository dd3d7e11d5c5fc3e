"""A sequence between two more nodes, where its state comes in and goes out.

Node n of a sequence has one edge that ends there and one that starts there; so that the first and
the last node have both, there is a node before the first and one behind the last. The gates of a
node are those of its two edges and of the line edge between them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from plstm_graph.dag.grid import grid_line_graph
from plstm_graph.nn.cells import CellTensors
from plstm_graph.nn.grid import PLSTMGrid
from plstm_graph.nn.grid_gates import GridTables
from plstm_graph.nn.norm import widened
from plstm_graph.ops import EdgeStates, LogGate, plstm
from plstm_graph.ops.inputs import each, shaped


def _views(grid: PLSTMGrid, length: int, device: torch.device) -> Tensor:
    """[O, T] the position that each orientation has at each place."""
    place = torch.arange(length, device=device)
    return torch.stack([place if d[0] > 0 else place.flip(0) for d in grid.directions])


def node_tensors(grid: PLSTMGrid, x: Tensor, inner: Tensor) -> tuple[CellTensors, torch.dtype]:
    """The tensors of a layer with one axis, with a row for each node and heads [O, B, H] folded.

    Args:
        grid: the layer.
        x, inner: [B, T, C], its input before and behind the convolution.

    Returns:
        The tensors, in float32 or better, and the dtype of the maps.
    """
    views = _views(grid, x.size(1), x.device)
    if grid.cell != "plstm":
        node = grid.gates.node_parts(inner, views)
        dtype = next(iter(node.values())).dtype
        with torch.autocast(x.device.type, enabled=False):
            node = {name: widened(part) for name, part in node.items()}
            return grid.gates.cell.node_tensors(node).folded(2), dtype
    value = grid.lin_value(x)
    query, key = grid.lin_query_key(inner).chunk(2, -1)
    # One row of gates for each node: of the edge that starts there, of the one that ends there.
    orientation = torch.arange(len(views), device=x.device)[:, None]
    rows = views * len(views) + orientation
    source, transition, mark, direct = grid.gates(inner, GridTables(None, views, rows, rows, rows))
    direct = direct / len(views)  # each orientation adds its part

    def seen(y: Tensor) -> Tensor:
        """[B, T, H W] -> [T, O B H, W]."""
        y = widened(y).unflatten(-1, (grid.heads, -1)).transpose(0, 1)
        return torch.stack([y.index_select(0, view) for view in views], 1).flatten(1, 3)

    direct = torch.stack([direct.index_select(0, view) for view in views], 1)
    gates = (gate.flatten(1) for gate in (source, transition, mark, direct))
    scale = (value.size(-1) // grid.heads) ** -0.5
    return CellTensors(seen(query) * scale, seen(key), seen(value), *gates), value.dtype


def masked(tensors: CellTensors, valid: Tensor, orientations: int) -> CellTensors:
    """The tensors where some nodes are padding: they write nothing and pass on what comes.

    Args:
        tensors: of :func:`node_tensors`.
        valid: [B, T].
        orientations: O; the second one reads backwards.
    """
    views = [valid.T, valid.T.flip(0)][:orientations]
    heads = shaped(tensors.direct).size(1) // (len(views) * valid.size(0))
    there = torch.stack(views, 1).flatten(1).repeat_interleave(heads, 1)  # [T, O B H]

    def closed(gate: Tensor | LogGate, number: float) -> Tensor | LogGate:
        wide = shaped(gate)
        keep = there.view(*there.shape, *(1,) * (wide.dim() - 2))
        if isinstance(gate, LogGate):
            log = gate.log_abs.where(keep, float("-inf") if number == 0 else 0.0)
            return LogGate(log, None if gate.sign is None else gate.sign.where(keep, 1.0))
        if number and wide.dim() == 4:  # blocks: the identity
            unit = torch.eye(wide.size(2), dtype=wide.dtype, device=wide.device)
            return gate.where(keep, unit)
        return gate.where(keep, number)

    update = tensors.update
    if update is not None:
        update = update._replace(beta=closed(update.beta, 0.0))
    return tensors._replace(
        source=closed(tensors.source, 0.0),
        transition=closed(tensors.transition, 1.0),
        update=update,
    )


def run_between(
    grid: PLSTMGrid,
    tensors: CellTensors,
    batch: int,
    state: tuple[Tensor, Tensor | None] | None,
    return_state: bool,
) -> tuple[Tensor, tuple[Tensor, Tensor | None] | None]:
    """The heads [B, T, H, V] of a sequence behind a state, and the state behind it.

    Args:
        grid: the layer.
        tensors: of :func:`node_tensors`.
        batch: B.
        state: [B H, *] and its logarithmic scale [B, H], or ``None``.
        return_state: whether to return the state.
    """
    length = tensors.query.size(0)
    graph = grid_line_graph(length + 2, device=tensors.query.device)
    options = {}
    first, last = (torch.tensor([e], device=tensors.query.device) for e in (0, length))
    if state is not None:
        log_scale = None if state[1] is None else state[1].flatten()[None]
        options["initial"] = EdgeStates(first, state[0][None], log_scale)
    if return_state:
        options["return_state"] = last
    *inputs, own = _between(tensors)
    named = dict(zip(("edge_query", "update"), inputs[7:]))
    if grid.cell != "plstm":
        cell = grid.gates.cell
        named |= {"normalizer": cell.normalizer, "stabilizer": cell.stabilizer}
    with torch.autocast(tensors.query.device.type, enabled=False):
        result = plstm(
            *inputs[:7], graph, form=_form(grid.form), backend=grid.backend, **named, **options
        )
        h, states = result if return_state else (result, None)
        h = h if own is None else h + own
        h = h[1:-1].flatten(2) if h.dim() == 4 else h[1:-1]
        views = _views(grid, length, h.device)
        h = h.unflatten(1, (len(views), batch, -1)).flatten(3)  # [T, O, B, C]
        parts = (h[:, o].index_select(0, view) for o, view in enumerate(views))
        h = sum(parts).transpose(0, 1).unflatten(-1, (grid.heads, -1))
    if states is None:
        return h, None
    return h, (states.state[0], None if states.log_scale is None else states.log_scale[0])


def _form(form: str) -> str:
    return "auto" if form == "gating" else form


def _between(tensors: CellTensors) -> CellTensors:
    """The tensors on the graph with a node more at each end, which have no gates."""
    t = tensors

    def padded(x: Tensor | LogGate, before: int, behind: int, number: float = 0.0):
        def pad(y: Tensor, fill: float) -> Tensor:
            rows = [y.new_full((n, *y.shape[1:]), fill) for n in (before, behind)]
            return torch.cat([rows[0], y, rows[1]])

        if isinstance(x, LogGate):
            sign = None if x.sign is None else pad(x.sign, 1.0)
            return LogGate(pad(x.log_abs, float("-inf")), sign)
        return each(lambda y: pad(y, number), x)

    update = t.update
    if update is not None:
        update = type(update)(*(None if x is None else padded(x, 1, 1) for x in update))
    return CellTensors(
        *(padded(x, 1, 1) for x in (t.query, t.key, t.value)),
        padded(t.source, 1, 0),
        t.transition,
        padded(t.mark, 0, 1),
        padded(t.direct, 1, 1),
        None if t.edge_query is None else padded(t.edge_query, 1, 1),
        update,
        None if t.own is None else padded(t.own, 1, 1),
    )
