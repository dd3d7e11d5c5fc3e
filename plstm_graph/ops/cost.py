r"""The cost model behind ``form="auto"``: microseconds, forward plus backward, tables included.

Of a part of the batch with n nodes, E edges on so many levels and L line edges, for one head:

- parallel: :func:`plstm_graph.dag.segments.bucket_cost` (dense solves, passes over rows), and
  ``PRODUCT_COST * n (K + V)``;
- levelwise: ``(STATE_COST * E + LINE_COST * L) * K V`` (passes over the states);
- chunkwise, with chunks of c edges: ``CHUNK_COST * E (c + K + V)``, and for the states that cross
  their borders, about as many as line edges on a level,
  ``BORDER_COST * (E / c - 1) (L / levels) * K V``;
- walk, where it can run: ``EDGE_COST * E + (WALK_COST * E + WALK_LINE_COST * L) * K V``, times
  ``1 + E K / CACHE`` (at most 7) where the states of the part leave the cache.

A form that is used at all costs its own operations, too: ``PARALLEL_COST``, ``LEVEL_COST`` for each
level of the deepest part, ``CHUNKS_COST`` or ``START_COST``; each beyond the first ``SPLIT_COST``,
since the batch is then taken apart and put together. The forms with the least sum are taken, each
part by the one that is cheapest for it.

The constants are least squares of relative errors over 45 batches: molecules of ogbg-molhiv, NCI1
and Peptides-func (8 to 256, in four orientations), paths, bands i -> i + 1, ..., i + w, and grids,
mostly with H = 4 and K = V = 24, in float32 on one core of an AMD EPYC; other devices use the same
ones. They fit the parallel form to 10 % and the others to 20 %. STATE_COST is rounded up, since
states of more than some tens of megabytes take up to twice the time, for their pages; SPLIT_COST
was set by batches of 32 and 64 peptides. Those of the walk are from batches of NCI1 and
Peptides-func, sequences and grids with K = V of 16 to 64, likewise on one core.
"""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import numpy as np

from plstm_graph.dag.chunks import chunk_size
from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.dag.segments import bucket_cost, segments
from plstm_graph.ops.walk import unavailable as walk_unavailable

FORMS = ("parallel", "chunkwise", "levelwise", "walk")
#: The parallel form's operations and tables; per column of a node's key and value.
PARALLEL_COST, PRODUCT_COST = 1600.0, 4e-3
#: Per element of an edge's state, and of a line edge's; per level.
STATE_COST, LINE_COST, LEVEL_COST = 3.5e-3, 2e-3, 30.0
#: The chunkwise form's operations; per column of an edge; per element of a state at a border.
CHUNKS_COST, CHUNK_COST, BORDER_COST = 1900.0, 1.6e-2, 1.4e-2
#: The walk's operations; per edge; per element of the states of edges and of line edges; elements
#: of a tile's narrowest states that the cache holds.
START_COST, EDGE_COST, WALK_COST, WALK_LINE_COST, CACHE = 600.0, 0.1, 2.2e-4, 2.5e-4, 6e4
#: Each form beyond the first.
SPLIT_COST = 4000.0


class Choice(NamedTuple):
    """Microseconds, and for each form that is used [P] bool, which parts it gets."""

    cost: float
    parts: dict[str, np.ndarray]


def cheapest(line_graph: LineGraph, heads: int, k: int, v: int) -> Choice:
    """The cheapest forms; parts without edges go to the first of them."""
    seg = segments(line_graph)
    levels = np.zeros(seg.num_edges.size, dtype=np.int64)
    np.maximum.at(levels, seg.edge_part, line_graph.level.cpu().numpy() + 1)
    lines = seg.edge_part[line_graph.line_index[0].cpu().numpy()]
    lines = np.bincount(lines, minlength=levels.size)
    some, c = seg.num_edges > 0, chunk_size(line_graph)
    crossing = np.maximum(seg.num_edges / c - 1, 0) * lines / np.maximum(levels, 1)
    states = (WALK_COST * seg.num_edges + WALK_LINE_COST * lines) * k * v
    costs = heads * np.stack(
        [
            bucket_cost(seg.num_nodes, seg.num_edges) + PRODUCT_COST * seg.num_nodes * (k + v),
            CHUNK_COST * seg.num_edges * (c + k + v) + BORDER_COST * crossing * k * v,
            (STATE_COST * seg.num_edges + LINE_COST * lines) * k * v,
            (EDGE_COST * seg.num_edges + states) * np.minimum(1 + seg.num_edges * k / CACHE, 7),
        ]
    )
    if not some.any():
        return Choice(0.0, {FORMS[0]: ~some})
    here = range(len(FORMS) if walk_unavailable(line_graph.device) is None else len(FORMS) - 1)

    def best(counts: range) -> Choice:
        sets = (used for count in counts for used in combinations(here, count))
        return min((_choice(costs, levels, some, used) for used in sets), key=lambda c: c.cost)

    one = best(range(1, 2))
    if one.cost <= SPLIT_COST + costs[: len(here)].min(0).sum():
        return one  # no split can be cheaper
    several = best(range(2, len(here) + 1))
    return min(one, several, key=lambda choice: choice.cost)


def _choice(
    costs: np.ndarray, levels: np.ndarray, some: np.ndarray, used: tuple[int, ...]
) -> Choice:
    """Each part by the cheapest of the forms ``used``."""
    form = np.array(used)[costs[list(used)].argmin(0)]
    parts = {i: some & (form == i) for i in used}
    parts = {i: members for i, members in parts.items() if members.any()}
    total = SPLIT_COST * (len(parts) - 1)
    for i, members in parts.items():
        deepest = LEVEL_COST * float(levels[members].max())
        start = (PARALLEL_COST, CHUNKS_COST, deepest, START_COST)[i]
        total += start + float(costs[i, members].sum())
    first = min(parts)
    parts[first] = parts[first] | ~some
    return Choice(total, {FORMS[i]: members for i, members in parts.items()})
