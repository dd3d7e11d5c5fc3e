"""Any edge_index as a union of connected simple graphs with marked arcs."""

from __future__ import annotations

import numpy as np

from plstm_graph.dag.keys import within
from plstm_graph.dag.levels import longest_path_levels
from plstm_graph.dag.refine import mix, mix_pair

_ALONG, _AGAINST = np.uint64(0x5851F42D4C957F2D), np.uint64(0x14057B7EF767814F)


def marked_arcs(
    edge_index: np.ndarray,
    component: np.ndarray,
    count: int,
    code: np.ndarray,
    bound: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Both directions of each edge once, with a hash of all columns between the two nodes.

    In a *symmetric* component, whose columns (u, v) and (v, u) are equally many for all u and v,
    each column is paired with an opposite one, parallel columns in the order of their codes, and
    an arc's mark is a hash of both codes. In another component a column is an arc along it and
    one against it, with different marks. Marks of parallel arcs are added to one.

    Args:
        edge_index: [2, M] int64, sorted by nothing; no self-loops.
        component: [n] int64 in [0, count), ascending.
        code: [M] int64 in [0, bound), colours of the columns.

    Returns:
        tail, neighbour: [m] int64, sorted by (tail, neighbour).
        mark: [m] uint64.
        directed: [count] bool, components that are not symmetric.
    """
    size = component.size
    src, dst = edge_index
    code = within(component[src], count, code, bound)
    there, back = src * size + dst, dst * size + src
    order, opposite = np.argsort(there), np.argsort(back)
    arc = there[order]
    if bound > 1 and (arc[1:] == arc[:-1]).any():
        order, opposite = np.lexsort((code, there)), np.lexsort((code, back))
    # Both orders list each component's columns in the same places.
    uneven = arc != back[opposite]
    mark = mix_pair(code[order], code[opposite])
    directed = np.zeros(count, dtype=bool)
    directed[component[src[order[uneven]]]] = True
    if uneven.any():
        even = ~directed[component[src[order]]]
        rest = directed[component[src]]
        along, against = mix(mix(code[rest]) ^ _ALONG), mix(mix(code[rest]) ^ _AGAINST)
        arc = np.concatenate([arc[even], there[rest], back[rest]])
        mark = np.concatenate([mark[even], along, against])
        order = np.argsort(arc)
        arc, mark = arc[order], mark[order]
    first = np.ones(arc.size, dtype=bool)
    np.not_equal(arc[1:], arc[:-1], out=first[1:])
    if not first.all():
        mark = np.add.reduceat(mark, np.flatnonzero(first))
        arc = arc[first]
    tail, neighbour = np.divmod(arc, max(size, 1))
    return tail, neighbour, mark, directed


def directed_levels(
    edge_index: np.ndarray, component: np.ndarray, directed: np.ndarray
) -> np.ndarray:
    """[n] int64 length of the longest path to the node, plus one; 0 in symmetric components."""
    level = np.zeros(component.size, dtype=np.int64)
    if directed.any():
        columns = directed[component[edge_index[0]]]
        inside = directed[component]
        level[inside] = longest_path_levels(edge_index[:, columns], component.size)[inside] + 1
    return level
