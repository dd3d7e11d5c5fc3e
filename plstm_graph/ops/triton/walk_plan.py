r"""The tables of the walk: copies of nodes in topological order, with their edges.

The kernels (:mod:`.walk_kernels`) go from node to node. At node n the forward walk forms the states
of the edges *into* n. Any order of the nodes in which edges point forwards serves: the predecessors
of an edge (u -> n) are edges into u, and u comes before n. The adjoint walk takes the nodes in the
opposite order and the edges *out of* each node: it is the forward walk of the reversed graph.

**Copies.** A graph whose line graph is acyclic need not have an order of the nodes: a two-way graph
contains both directions of an edge. Copies of its nodes have one. An edge then starts and ends
at copies, and the result of a node is the sum over its copies (C copies in all):

* two-way graphs: one copy of a node for its against edges, one for its along edges, in this order;
* any other: one copy of a node for each topological level of the edges that meet it.

**Runs.** A *run* is a stretch of copies that one program visits one after the other:

- ``"segments"``: a run is one part of the batch, and all runs are one launch;
- ``"levels"``: a run is one copy, and each topological level of copies is a launch of its own.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from plstm_graph.dag.levels import csr, longest_path_levels
from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.ops.triton.common import csr_rows, node_parts, tables

#: Microseconds that one program takes for an edge or a line edge (dependent loads), and that a
#: launch takes. Estimates from memory latencies; only their ratio matters.
STEP_COST, LAUNCH_COST = 0.5, 4.0


class Walk(NamedTuple):
    """Tables of one direction, int32 (R runs, C copies); ``steps`` is on the CPU.

    Those of line edges are empty if the transitions are factored; carry, origin and twin are empty
    if they are not.

    Attributes:
        run_ptr: [R + 1] offsets of the runs into ``node``.
        node: [C] node of each copy in the order of the walk; row: [C] number of that copy.
        edge_ptr: [C + 1] offsets of the copies' edges into ``edge``.
        edge: [E] edges that end (adjoint: start) at each copy; end: [E] their other node.
        line_ptr: [E + 1] offsets of the line edges of ``edge`` into ``line``.
        line: [L] line edges; before: [L] the edge that each one takes the state of.
        carry: [C], by number, the other copy of the same node if the walk visits that one first,
            else -1.
        origin: [E] the copy at the other end of ``edge``.
        twin: [E] the edge in the other direction whose state ``edge`` does not take, -1 where
            there is none. The adjoint walk has the twins of both directions.
        steps: [launches, 2] first run and number of runs of each launch.
    """

    run_ptr: Tensor
    node: Tensor
    row: Tensor
    edge_ptr: Tensor
    edge: Tensor
    end: Tensor
    line_ptr: Tensor
    line: Tensor
    before: Tensor
    carry: Tensor
    origin: Tensor
    twin: Tensor
    steps: Tensor


class Plan(NamedTuple):
    """All tables; ``copy_node`` and ``copy_ptr`` are empty where a node has one copy.

    Attributes:
        there, back: the forward and the adjoint walk.
        copy_node: [C] int64, the node of each copy, ascending.
        copy_ptr: [N + 1] int64, offsets of the nodes' copies into ``copy_node``.
    """

    there: Walk
    back: Walk
    copy_node: Tensor
    copy_ptr: Tensor

    def flat(self) -> list[Tensor]:
        return [*self.there, *self.back, self.copy_node, self.copy_ptr]

    @classmethod
    def of(cls, tensors: list[Tensor]) -> Plan:
        """The inverse of :meth:`flat`."""
        n = len(Walk._fields)
        return cls(Walk(*tensors[:n]), Walk(*tensors[n : 2 * n]), *tensors[2 * n :])


class Copies(NamedTuple):
    """Copies of the nodes (numpy arrays).

    Attributes:
        node: [C] the node of each copy, ascending.
        ends: [2, E] the copies where each edge starts and ends.
        level: [C] an edge and its predecessors end at copies of rising level.
        carry: [C] the against copy of the same node for an along copy, else -1.
    """

    node: np.ndarray
    ends: np.ndarray
    level: np.ndarray
    carry: np.ndarray


def copies_of(line_graph: LineGraph, factored: bool) -> Copies:
    """The nodes themselves where they have an order, and copies of them elsewhere.

    Raises:
        ValueError: for factored transitions on a graph with a directed cycle that is not two-way:
            not every pair of edges that meet can be a line edge.
    """
    edges, n = line_graph.edge_index.cpu().numpy(), line_graph.num_nodes
    level = longest_path_levels(edges, n)
    if (level >= 0).all():
        return Copies(np.arange(n), edges, level, np.full(n, -1))
    two_way = line_graph.is_two_way
    if factored and not two_way:
        raise ValueError(
            "expected an acyclic or two-way graph for factored transitions, got one with a "
            "directed cycle; pass transition.expand(line_graph.line_index)"
        )
    step = (line_graph.direction if two_way else line_graph.level).cpu().numpy()
    width = int(step.max()) + 1
    ends = edges * width + step
    # Nodes without edges keep one copy, for their own term.
    alone = np.setdiff1d(np.arange(n), edges)
    found = np.concatenate([ends.reshape(-1), alone * width])
    found, place = np.unique(found, return_inverse=True)
    ends = place.reshape(-1)[: ends.size].reshape(2, -1)
    node, level = np.divmod(found, width)
    carry = np.full(node.size, -1)
    if two_way:
        second = np.flatnonzero(np.diff(node, prepend=-1) == 0)
        carry[second] = second - 1
        arcs = np.concatenate([ends, np.stack([second - 1, second])], 1)
        level = longest_path_levels(arcs, node.size)
    return Copies(node, ends, level, carry)


def build_plan(line_graph: LineGraph, factored: bool, kind: str | None = None) -> Plan:
    """The tables; line edges are not looked at if ``factored``.

    Args:
        line_graph: with every pair of edges that meet as a line edge, if ``factored``.
        factored: whether the transitions are.
        kind: ``"segments"`` or ``"levels"``. Default: the cheaper one by the longest run or the
            number of launches. One program takes ``STEP_COST`` for each edge and line edge of the
            largest part; a launch for each level of copies takes ``LAUNCH_COST``.
    """
    copies = copies_of(line_graph, factored)
    pairs = None if factored else line_graph.line_index.cpu().numpy()
    part = node_parts(line_graph)[copies.node]
    edge_part = part[copies.ends[0]]
    if kind is None:
        work = np.bincount(edge_part, minlength=1)
        if pairs is not None:
            work = work + np.bincount(edge_part[pairs[0]], minlength=work.size)
        levels = int(copies.level.max(initial=-1)) + 1
        kind = "segments" if STEP_COST * work.max() <= LAUNCH_COST * levels else "levels"
    if kind == "levels":
        groups = copies.level, copies.level.max(initial=0) - copies.level
    else:
        # Large parts first: the last programs to start are then short ones.
        size = np.bincount(edge_part, minlength=int(part.max(initial=-1)) + 1)
        rank = np.empty_like(size)
        rank[np.argsort(-size, kind="stable")] = np.arange(size.size)
        groups = rank[part], rank[part]

    carries, walk_twins = (None, None), (None, None)
    if factored:
        along, twin = line_graph.direction.cpu().numpy() == 1, np.full(line_graph.num_edges, -1)
        twin = twin if line_graph.twin is None else line_graph.twin.cpu().numpy()
        has = copies.carry >= 0
        back = np.full_like(copies.carry, -1)
        back[copies.carry[has]] = np.flatnonzero(has)
        carries, walk_twins = (copies.carry, back), (np.where(along, twin, -1), twin)
    device = line_graph.device
    there, back = (
        _walk(
            device, groups[i], copies.level * (1, -1)[i], copies.node, copies.ends[:: (1, -1)[i]],
            None if pairs is None else pairs[:: (1, -1)[i]], carries[i], walk_twins[i], kind,
        )
        for i in (0, 1)
    )  # fmt: skip
    node, ptr = copies.node[:0], copies.node[:0]
    if copies.node.size > line_graph.num_nodes:
        node, ptr = copies.node, csr(copies.node, line_graph.num_nodes)[0]
    return Plan(there, back, *(torch.from_numpy(x).to(device) for x in (node, ptr)))


def _walk(
    device: torch.device,
    group: np.ndarray,
    rank: np.ndarray,
    node: np.ndarray,
    ends: np.ndarray,
    pairs: np.ndarray | None,
    carry: np.ndarray | None,
    twin: np.ndarray | None,
    kind: str,
) -> Walk:
    """A walk by (group, rank) of copies along edges ``ends`` and line edges ``pairs``."""
    order = np.lexsort((rank, group))
    edge_ptr, edge = csr_rows(*csr(ends[1], node.size), order)
    origin, none = ends[0][edge], np.zeros(0, dtype=np.int64)
    if pairs is None:
        last = none, none, none, carry, origin, twin[edge]
    else:
        line_ptr, line = csr_rows(*csr(pairs[1], edge.size), edge)
        last = line_ptr, line, pairs[0][line], none, none, none
    size = np.bincount(group)
    bounds = np.append(0, np.cumsum(size[size > 0]))
    if kind == "levels":
        steps = np.stack([bounds[:-1], np.diff(bounds)], 1)
        bounds = np.arange(node.size + 1)
    else:
        steps = np.array([[0, bounds.size - 1]])
    made = tables(device, bounds, node[order], order, edge_ptr, edge, node[origin], *last)
    return Walk(*made, torch.from_numpy(steps))
