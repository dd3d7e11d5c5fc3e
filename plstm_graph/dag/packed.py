"""A line graph as two tensors whose numbers hold in any batch.

PyG spends up to a millisecond a key on collating 64 graphs, most of it on adding to each graph's
indices how many nodes, edges or columns came before. So a line graph is stored as few tensors as
there are sizes, and relative to ``edge_index``, so that nothing has to be added: with M columns in
``edge_index`` and L line edges

* ``dag_columns`` [3, M] int32, for each column its topological level (-1 if it is no DAG edge),
  how many line edges leave it, and dst - src;
* ``dag_lines`` [2, L] int32, for each line edge e_out - e_in, and whether it is in the multitree.

The DAG edges are the columns with a level, in their order. Line edges are sorted by e_in, which
the numbers of leaving line edges therefore tell.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from plstm_graph.dag.build import LineParts


def pack(parts: LineParts, edge_index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``dag_columns`` and ``dag_lines`` of the line graph of ``edge_index``."""
    e_in, e_out = parts.line_index
    columns = np.zeros((3, edge_index.shape[1]), dtype=np.int32)
    columns[0] = -1
    columns[0, parts.edge_id] = parts.level
    columns[1, parts.edge_id] = np.bincount(e_in, minlength=parts.edge_id.size)
    columns[2] = edge_index[1] - edge_index[0]
    lines = np.empty((2, e_in.size), dtype=np.int32)
    lines[0] = e_out - e_in
    lines[1] = parts.multitree_mask
    return columns, lines


def unpack(
    edge_index: Tensor, num_nodes: int, columns: Tensor, lines: Tensor
) -> tuple[Tensor, ...] | None:
    """The fields of :class:`LineParts` as tensors, or None if ``edge_index`` has changed.

    Any column that was added, dropped, moved or joined to other nodes is noticed. Nodes may have
    been renumbered as long as that leaves all dst - src and the line graph as they were.
    """
    if columns.size(1) != edge_index.size(1):
        return None
    src, dst = edge_index
    same = ((dst - src).to(columns.dtype) == columns[2]).all()
    same = same & (edge_index < num_nodes).all() & (columns[1].sum() == lines.size(1))
    if not same:
        return None
    edge_id = (columns[0] >= 0).nonzero().view(-1)
    dag = edge_index.index_select(1, edge_id)
    level, leaving, _ = columns.index_select(1, edge_id)
    edges = torch.arange(edge_id.numel(), device=edge_id.device)
    e_in = edges.repeat_interleave(leaving, output_size=lines.size(1))
    e_out = e_in + lines[0]
    if not _is_line_graph(dag, num_nodes, leaving, e_in, e_out):
        return None
    return dag, torch.stack([e_in, e_out]), edge_id, level.long(), lines[1].bool()


def _is_line_graph(
    dag: Tensor, num_nodes: int, leaving: Tensor, e_in: Tensor, e_out: Tensor
) -> Tensor:
    """Whether all line edges join edges that meet, and are as many as there are such pairs."""
    src, dst = dag
    starts = leaving.new_zeros(num_nodes).scatter_add_(0, src, torch.ones_like(leaving))
    return (starts[dst] == leaving).all() & (dst[e_in] == src[e_out]).all()
