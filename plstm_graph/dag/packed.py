"""A line graph as two tensors whose numbers hold in any batch.

PyG spends up to a millisecond a key on collating 64 graphs, most of it on adding to each graph's
indices how many nodes, edges or columns came before. So a line graph is stored as few tensors as
there are sizes, and relative to ``edge_index``, so that nothing has to be added: with M columns in
``edge_index`` and L line edges

* ``dag_columns`` [6, M] int32, for each column its topological level (-1 if it is no DAG edge),
  how many line edges leave it, dst - src, how many columns further its opposite stands (0 in a
  directed graph), and the ranks of src and dst in their graph;
* ``dag_lines`` [2, L] int32, for each line edge e_out - e_in, and whether it is in the multitree
  (:data:`UNKNOWN` where nobody has asked yet).

The DAG edges are the columns with a level, in their order. Line edges are sorted by e_in, which
the numbers of leaving line edges therefore tell.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from plstm_graph.dag.build import LineParts

#: Stands for a multitree that is made when a layer asks for it.
UNKNOWN = 2


def pack(parts: LineParts, edge_index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``dag_columns`` and ``dag_lines`` of the line graph of ``edge_index``.

    Its ``node_rank`` must be as :func:`rank_in_graph` makes it.
    """
    e_in, e_out = parts.line_index
    columns = np.zeros((6, edge_index.shape[1]), dtype=np.int32)
    columns[0] = -1
    columns[0, parts.edge_id] = parts.level
    columns[1, parts.edge_id] = np.bincount(e_in, minlength=parts.edge_id.size)
    columns[2] = edge_index[1] - edge_index[0]
    if parts.opposite_id is not None:
        known = parts.opposite_id >= 0
        columns[3, parts.edge_id[known]] = (parts.opposite_id - parts.edge_id)[known]
    columns[4:] = parts.node_rank[edge_index]
    lines = np.empty((2, e_in.size), dtype=np.int32)
    lines[0] = e_out - e_in
    lines[1] = UNKNOWN if parts.multitree_mask is None else parts.multitree_mask
    return columns, lines


def rank_in_graph(parts: LineParts, num_nodes: int, batch: np.ndarray | None = None) -> LineParts:
    """The same parts with the ranks that :func:`unpack` gives back.

    In each graph the ranks are 0, 1, ... in the order of ``parts.node_rank`` (equal ranks stay
    equal), so a graph has the same ranks alone and in a batch. Nodes without edges have rank 0.

    Args:
        parts: of one graph or a disjoint union.
        num_nodes: N.
        batch: [N] the graph of each node. Default: one graph.
    """
    rank = np.arange(num_nodes) if parts.node_rank is None else parts.node_rank
    graph = np.zeros(num_nodes, dtype=np.int64) if batch is None else batch
    order = np.lexsort((rank, graph))
    new_graph = np.diff(graph[order], prepend=-1) != 0
    place = np.cumsum(new_graph | (np.diff(rank[order], prepend=-1) != 0))
    first = place[new_graph]
    place -= first[np.cumsum(new_graph) - 1]
    place_of = np.empty(num_nodes, dtype=np.int64)
    place_of[order] = place
    has_edge = np.zeros(num_nodes, dtype=bool)
    has_edge[parts.dag_edge_index] = True
    return parts._replace(node_rank=np.where(has_edge, place_of, 0))


def unpack(edge_index: Tensor, num_nodes: int, columns: Tensor, lines: Tensor) -> LineParts | None:
    """The line graph as tensors, or None if ``edge_index`` has changed.

    Any column that was added, dropped, moved or joined to other nodes is noticed. Nodes may have
    been renumbered as long as that leaves all dst - src and the line graph as they were.
    """
    sizes = (6, edge_index.size(1)), (2, lines.size(-1) if isinstance(lines, Tensor) else 0)
    for stored, size in zip((columns, lines), sizes):
        if not isinstance(stored, Tensor) or stored.dtype != torch.int32 or stored.shape != size:
            return None
    src, dst = edge_index
    same = ((dst - src).to(columns.dtype) == columns[2]).all()
    same = same & ((edge_index >= 0) & (edge_index < num_nodes)).all()
    same = same & (columns[1].sum() == lines.size(1)) & (columns[1] >= 0).all()
    if not same:
        return None
    edge_id = (columns[0] >= 0).nonzero().view(-1)
    dag = edge_index.index_select(1, edge_id)
    level, leaving, _, opposite, *ranks = columns.index_select(1, edge_id)
    edges = torch.arange(edge_id.numel(), device=edge_id.device)
    e_in = edges.repeat_interleave(leaving, output_size=lines.size(1))
    e_out = e_in + lines[0]
    back = edge_id + opposite  # the column itself in a directed graph
    last = max(edges.numel() - 1, 0), max(columns.size(1) - 1, 0)
    inside = (e_out == e_out.clamp(0, last[0])).all() & (back == back.clamp(0, last[1])).all()
    if not inside or not _is_line_graph(dag, num_nodes, leaving, e_in, e_out):
        return None
    opposite_id = None
    if opposite.any():
        turned = edge_index.index_select(1, back) == dag.flip(0)
        if not (turned.all(0) | (opposite == 0)).all():
            return None
        opposite_id = torch.where(opposite == 0, -1, back)
    node_rank = torch.zeros(num_nodes, dtype=torch.int64, device=edge_id.device)
    node_rank[dag] = torch.stack(ranks).long()
    line_index = torch.stack([e_in, e_out])
    multitree = None if (lines[1] == UNKNOWN).any() else lines[1].bool()
    return LineParts(dag, line_index, edge_id, opposite_id, node_rank, level.long(), multitree)


def _is_line_graph(
    dag: Tensor, num_nodes: int, leaving: Tensor, e_in: Tensor, e_out: Tensor
) -> Tensor:
    """Whether all line edges join edges that meet, and are as many as there are such pairs."""
    src, dst = dag
    starts = leaving.new_zeros(num_nodes).scatter_add_(0, src, torch.ones_like(leaving))
    return (starts[dst] == leaving).all() & (dst[e_in] == src[e_out]).all()
