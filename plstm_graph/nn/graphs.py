"""One form for the ways to give a graph to a layer."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.typing import SparseTensor
from torch_geometric.utils import is_sparse, to_edge_index

from plstm_graph.checks import describe, instance
from plstm_graph.dag.checks import num_columns
from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.nn.checks import check_edge_attr

REMEDY = "rebuild it with LineGraph.from_edge_index or LineGraph.from_data"


def lasting() -> AbstractContextManager:
    """Where tensors are made that are kept: they must serve in training, too, if the first to
    need them was an evaluation in inference mode."""
    return nullcontext() if torch.compiler.is_compiling() else torch.inference_mode(False)


def plain_edge_index(
    edge_index: Any, edge_attr: Tensor | None, use_values: bool
) -> tuple[Tensor, Tensor | None]:
    """Any of PyG's ways to give a graph as a [2, M] tensor and edge features.

    A sparse matrix is the transposed adjacency, as everywhere in PyG: entry (i, j) is the edge
    j -> i. Its values serve as ``edge_attr`` if none is given and ``use_values``.
    """
    if isinstance(edge_index, EdgeIndex):
        return edge_index.as_tensor(), edge_attr
    tensor = isinstance(edge_index, Tensor)
    if is_sparse(edge_index) and (not tensor or edge_index.dim() - edge_index.dense_dim() == 2):
        if isinstance(edge_index, SparseTensor):
            row, col, value = edge_index.coo()
            index = torch.stack([col, row])
        else:
            index, value = to_edge_index(edge_index)
            index = index.flip(0)
        if edge_attr is None and use_values:
            edge_attr = value
        return index, edge_attr
    good = tensor and edge_index.layout == torch.strided and edge_index.dtype == torch.int64
    if good and edge_index.dim() == 2 and edge_index.size(0) == 2:
        return edge_index, edge_attr
    got = describe(edge_index) if tensor else type(edge_index).__name__
    raise ValueError(
        f"expected edge_index as an int64 tensor [2, M], EdgeIndex or sparse tensor, got {got}"
    )


def resolve_graph(
    x: Tensor,
    edge_index: Any,
    edge_attr: Tensor | None,
    line_graph: LineGraph | None,
    *,
    orientation: str | Tensor,
    batch: Tensor | None,
    use_values: bool,
    reverse_flow: bool,
) -> tuple[LineGraph, Tensor | None, Tensor | None]:
    """The line graph of the input, its edges as a [2, M] tensor (``None`` where a line graph alone
    was given), and its edge features."""
    if edge_index is None:
        if line_graph is None:
            raise ValueError("expected edge_index or line_graph, got neither; pass one of them")
        check_line_graph(line_graph, x, None)
        return line_graph, None, edge_attr
    if reverse_flow and is_sparse(edge_index):
        raise ValueError(
            "expected edge_index as a [2, M] tensor with flow='target_to_source', got a sparse "
            "tensor; transpose it and use the other flow"
        )
    edge_index, edge_attr = plain_edge_index(edge_index, edge_attr, use_values)
    if edge_index.device != x.device:
        raise ValueError(
            f"expected edge_index on {x.device} like x, got {edge_index.device}; move it with .to()"
        )
    if line_graph is None:
        with lasting():
            line_graph = LineGraph.from_edge_index(
                edge_index, x.size(0), orientation, batch, x=x, edge_attr=edge_attr
            )
    else:
        check_line_graph(line_graph, x, edge_index)
    return line_graph, edge_index, edge_attr


def resolve_edges(
    x: Tensor,
    edge_index: Any,
    edge_attr: Tensor | None,
    batch: Tensor | None,
    line_graph: LineGraph | None,
    orientation: str | Tensor,
    edge_dim: int | None,
    weight: Tensor | None,
    reverse_flow: bool = False,
) -> tuple[LineGraph, Tensor | None, int]:
    """What a layer with edge features of a width gets: the line graph, the checked features, and
    the number of columns that their rows follow. Arguments as :func:`resolve_graph` and
    :func:`check_edge_attr`."""
    line_graph, edge_index, edge_attr = resolve_graph(
        x,
        edge_index,
        edge_attr,
        line_graph,
        orientation=orientation,
        batch=batch,
        use_values=edge_dim is not None,
        reverse_flow=reverse_flow,
    )
    columns = num_columns(line_graph) if edge_index is None else edge_index.size(1)
    return line_graph, check_edge_attr(edge_attr, edge_dim, columns, x, weight), columns


def check_line_graph(line_graph: Any, x: Tensor, edge_index: Tensor | None) -> None:
    """``line_graph`` belongs to this ``edge_index``, not to another graph or batch, and neither
    was changed in place since it was first seen.

    Successful checks are kept with the line graph for the same ``edge_index`` tensor, so the
    layers of a model compare once. Nothing is compared while compiling.
    """
    if torch.compiler.is_compiling():
        return
    instance("line_graph", line_graph, LineGraph, "a LineGraph", REMEDY)
    if line_graph.num_nodes != x.size(0):
        raise ValueError(
            f"expected line_graph of {x.size(0)} nodes (rows of x), got one of "
            f"{line_graph.num_nodes}; it is of another graph or stale: {REMEDY}"
        )
    if line_graph.device != x.device:
        raise ValueError(
            f"expected line_graph on {x.device} like x, got {line_graph.device}; "
            f"move it with line_graph.to(x.device)"
        )
    if line_graph.is_changed:
        raise ValueError(
            f"expected the tensors of line_graph as they were when it was made, got ones that were "
            f"changed in place since; {REMEDY}"
        )
    if edge_index is None:
        return
    seen = line_graph.plan("nn.seen", lambda _: {})
    if seen.get("edge_index") is edge_index and seen["version"] == _version(edge_index):
        return
    _check_columns(line_graph, edge_index)
    seen.update(edge_index=edge_index, version=_version(edge_index))


def _check_columns(line_graph: LineGraph, edge_index: Tensor) -> None:
    """Every edge is a column of ``edge_index``, and every column an edge."""
    dag, columns = line_graph.edge_index, edge_index.size(1)
    left = torch.ones(columns, dtype=torch.bool, device=edge_index.device)
    for name in ("edge_id", "opposite_id"):
        index = getattr(line_graph, name)
        if index is None:
            continue
        last = int(index.max()) if index.numel() else -1
        if last >= columns:
            raise ValueError(
                f"expected line_graph.{name} below {columns} (columns of edge_index), got {last}; "
                f"it is of another graph or stale: {REMEDY}"
            )
        known = index >= 0  # directed graphs have no opposite
        there, edges = dag[:, known], edge_index.index_select(1, index[known])
        # Either way round: the reversed line graph belongs to the same edge_index.
        other = (edges != there).any(0) & (edges != there.flip(0)).any(0)
        if wrong := int(other.sum()):
            raise ValueError(
                f"expected line_graph with the edges edge_index[:, {name}], got {wrong} of "
                f"{there.size(1)} others; it is of another graph or stale: {REMEDY}"
            )
        left[index[known]] = False
    if bool(left.any()):
        left &= ~_left_out(line_graph, edge_index)
    if bool(left.any()):
        column = int(left.nonzero()[0])
        u, v = edge_index[:, column].tolist()
        raise ValueError(
            f"expected each column of edge_index as an edge of line_graph or the opposite of one, "
            f"got {int(left.sum())} others, the first of them column {column} ({u} -> {v}); pass "
            f"the edge_index that the line graph was made of, or {REMEDY}"
        )


def _left_out(line_graph: LineGraph, edge_index: Tensor) -> Tensor:
    """[M] bool, columns that a line graph may do without: the other direction of an edge that is
    to be used in one direction only, and lone columns against the ranks
    (:mod:`plstm_graph.dag.orient`)."""
    size = max(line_graph.num_nodes, 1)
    src, dst = line_graph.edge_index[:, ~line_graph.undirected]
    out = torch.isin(edge_index[1] * size + edge_index[0], src * size + dst)
    rank = line_graph.node_rank
    if src.numel() and rank is not None and line_graph.opposite_id is not None:
        rank = -rank if line_graph.is_reversed else rank
        out |= rank[edge_index[0]] > rank[edge_index[1]]
    return out


def _version(tensor: Tensor) -> int:
    """Counts changes in place; tensors made in inference mode have no counter."""
    return 0 if tensor.is_inference() else tensor._version


def directed(line_graph: LineGraph, direction: str) -> LineGraph:
    """The line graph that a layer of a ``direction`` runs on.

    ``"auto"`` and ``"two_way"`` leave a two-way graph as it is; ``"forward"`` and ``"reverse"``
    refuse it, since the one-way graph cannot be told from it.
    """
    if direction == "auto":
        return line_graph.two_way_where_undirected()
    if direction == "two_way":
        return line_graph.two_way()
    if line_graph.is_two_way:
        raise ValueError(
            f"expected a one-way line_graph with direction={direction!r}, got a two-way one; pass "
            f"the graph before two_way(), or use direction='two_way'"
        )
    return line_graph.reverse() if direction == "reverse" else line_graph
