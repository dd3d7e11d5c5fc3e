r"""Regular grids as line graphs.

A grid with one direction per axis is a DAG: every node sends a state to its next neighbour along
each axis. All 2**n choices of directions together cover the grid.

In D-mode a grid has a multitree of its own: a state that came along axis a may turn to axis b
only if b <= a, so it runs along the last axis first and there is one path between any two edges.
In two dimensions that is the published "L".
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from plstm_graph.checks import choice, integer, refuse
from plstm_graph.dag.family import Family, Member
from plstm_graph.dag.levels import line_index_of
from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.dag.tracing import Kept, made_outside

#: How many grids are kept.
KEPT = 16
_GRIDS = Kept(KEPT)


@made_outside("build it before")
def grid_line_graph(
    *shape: int,
    directions: Sequence[int] | None = None,
    turns: str = "all",
    device: torch.device | str = "cpu",
) -> LineGraph:
    """The line graph of an n-dimensional grid. The last :data:`KEPT` of them are cached, so that
    equal calls return the same object.

    Args:
        shape: the number of nodes along each axis. Node ids are row-major: of the node at
            (i, j, ...), the last axis runs fastest.
        directions: +1 or -1 for each axis: whether edges run to higher or lower coordinates.
            Default: all +1.
        turns: ``"all"`` for the whole line graph, ``"diffusive"`` for the grid's own multitree
            (see above), whose ``line_id`` gives rows of the whole one.
        device: where the tensors are.

    Returns:
        Edges ordered by axis, then by the node they start from; line edges by (e_in, e_out).

    Raises:
        ValueError: on no axis, an axis of size 0, wrong directions, or unknown turns.
    """
    if not shape:
        raise ValueError("expected shape with at least one axis, got none")
    for axis, size in enumerate(shape):
        integer(f"shape with axis {axis}", size, 1)
    if directions is None:
        directions = (1,) * len(shape)
    if not isinstance(directions, Sequence) or len(directions) != len(shape):
        refuse("directions", f"as {len(shape)} numbers (one per axis)", repr(directions))
    if any(isinstance(d, bool) or d not in (1, -1) for d in directions):
        refuse("directions", "as numbers +1 or -1", repr(directions))
    choice("turns", turns, ("all", "diffusive"))
    try:
        device = str(torch.device(device))
    except (RuntimeError, TypeError):
        refuse("device", "as a torch.device or the name of one", repr(device))
    shape = tuple(int(size) for size in shape)
    key = shape, tuple(int(d) for d in directions), turns, device
    return _GRIDS[key] if key in _GRIDS else _GRIDS.keep(key, _grid(*key[:3]).to(device))


def _grid(shape: tuple[int, ...], directions: tuple[int, ...], turns: str) -> LineGraph:
    node = np.arange(int(np.prod(shape))).reshape(shape)
    ends, axes, levels = [], [], []
    for axis, direction in enumerate(directions):
        low = np.take(node, range(shape[axis] - 1), axis).reshape(-1)
        high = np.take(node, range(1, shape[axis]), axis).reshape(-1)
        src, dst = (low, high) if direction > 0 else (high, low)
        ends.append(np.stack([src, dst]))
        axes.append(np.full(src.size, axis))
        # The longest path to an edge comes from the corner; diffusive, it cannot come along
        # the axes before the edge's own.
        steps = np.stack(np.unravel_index(src, shape))
        for a in range(len(shape)):
            if directions[a] < 0:
                steps[a] = shape[a] - 1 - steps[a]
        levels.append(steps[axis if turns == "diffusive" else 0 :].sum(0))
    edges, axis_of = np.concatenate(ends, axis=1), np.concatenate(axes)
    line = line_index_of(edges, node.size)
    line_id = None
    if turns == "diffusive":
        line_id = np.flatnonzero(axis_of[line[1]] <= axis_of[line[0]])
        line = np.ascontiguousarray(line[:, line_id])
    family = Family(
        node.size,
        Member(torch.from_numpy(edges), torch.arange(edges.shape[1])),
        is_multitree=turns == "diffusive",
        line_index=torch.from_numpy(line),
        level=torch.from_numpy(np.concatenate(levels)),
        line_id=None if line_id is None else torch.from_numpy(line_id),
        complete=turns == "all",
    )
    return LineGraph.of(family)
