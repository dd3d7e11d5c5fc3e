"""What :class:`PLSTMConv` demands of its input, and one form for the ways to give a graph."""

import torch
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.typing import SparseTensor
from torch_geometric.utils import is_sparse, to_edge_index

from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.nn.projection import TRANSITION_NODES

OPTIONS = {
    "mode": ("P", "D"),
    "normalization": ("source", "target"),
    "transition_node": TRANSITION_NODES,
    "init": ("open", "graph", "grid"),
    "direction": ("auto", "two_way", "forward", "reverse"),
    "aggr": ("add", "sum"),
}


def check_options(
    *, in_channels: int, out_channels: int, heads: int, edge_dim: int | None, **options: object
) -> None:
    """The constructor's options, each against what is known."""
    for name, value in options.items():
        if value not in OPTIONS[name]:
            known = ", ".join(map(repr, OPTIONS[name]))
            raise ValueError(f"expected {name} to be one of {known}, got {value!r}")
    if heads < 1 or out_channels < 1 or out_channels % heads:
        raise ValueError(
            f"expected out_channels divisible by heads, got out_channels={out_channels} and "
            f"heads={heads}; a head has out_channels / heads channels"
        )
    for name, value in (("in_channels", in_channels), ("edge_dim", edge_dim)):
        if value is not None and value < 1 and value != -1:
            raise ValueError(f"expected {name} > 0, or -1 to take it from the input, got {value}")


def plain_edge_index(
    edge_index: Tensor | SparseTensor, edge_attr: Tensor | None, use_values: bool
) -> tuple[Tensor, Tensor | None]:
    """Any of PyG's ways to give a graph as a [2, M] tensor and edge features.

    A sparse matrix is the transposed adjacency, as everywhere in PyG: entry (i, j) is the edge
    j -> i. Its values serve as ``edge_attr`` if none is given and ``use_values``.
    """
    if isinstance(edge_index, EdgeIndex):
        return edge_index.as_tensor(), edge_attr
    if is_sparse(edge_index):
        if isinstance(edge_index, SparseTensor):
            row, col, value = edge_index.coo()
            index = torch.stack([col, row])
        else:
            index, value = to_edge_index(edge_index)
            index = index.flip(0)
        if edge_attr is None and use_values:
            edge_attr = value
        return index, edge_attr
    if not isinstance(edge_index, Tensor):
        got = type(edge_index).__name__
    elif edge_index.dtype != torch.int64 or edge_index.dim() != 2 or edge_index.size(0) != 2:
        got = f"{edge_index.dtype} {list(edge_index.shape)}"
    else:
        return edge_index, edge_attr
    raise ValueError(
        f"expected edge_index as an int64 tensor [2, M], EdgeIndex or sparse tensor, got {got}"
    )


def check_x(x: Tensor, in_channels: int, dtype: torch.dtype | None) -> None:
    """``x`` is [N, in_channels] and of the layer's dtype; -1 and ``None`` are not known yet."""
    if not isinstance(x, Tensor) or x.dim() != 2:
        got = list(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"expected x as a tensor [N, in_channels], got {got}")
    if in_channels > 0 and x.size(1) != in_channels:
        raise ValueError(
            f"expected x with {in_channels} channels (in_channels), got {x.size(1)}; "
            f"change in_channels, or leave it to the first input with -1"
        )
    _check_dtype("x", x, dtype)


def _check_dtype(name: str, value: Tensor, dtype: torch.dtype | None) -> None:
    if not value.is_floating_point():
        raise ValueError(
            f"expected {name} of a floating point dtype, got {value.dtype}; "
            f"encode it first, or call .float()"
        )
    if dtype is None or value.dtype == dtype:
        return
    if not torch.is_autocast_enabled(value.device.type):
        raise ValueError(
            f"expected {name} of dtype {dtype} like the layer's weights, got {value.dtype}; "
            f"convert one of them with .to()"
        )


def check_edge_attr(
    edge_attr: Tensor | None,
    edge_dim: int | None,
    rows: int,
    x: Tensor,
    dtype: torch.dtype | None,
) -> Tensor | None:
    """``edge_attr`` is there if and only if ``edge_dim`` is, and has its shape [M, edge_dim]."""
    if edge_dim is None:
        if edge_attr is not None:
            raise ValueError(
                f"expected no edge_attr (edge_dim=None), got {list(edge_attr.shape)}; "
                f"build the layer with edge_dim={edge_attr.size(-1)}"
            )
        return None
    if edge_attr is None:
        raise ValueError(
            f"expected edge_attr with {edge_dim} channels (edge_dim), got None; "
            f"pass it, or build the layer with edge_dim=None"
        )
    if edge_attr.dim() == 1:
        edge_attr = edge_attr.unsqueeze(-1)
    if edge_attr.dim() != 2 or (edge_dim > 0 and edge_attr.size(1) != edge_dim):
        raise ValueError(
            f"expected edge_attr with {edge_dim} channels (edge_dim), got "
            f"{list(edge_attr.shape)}; change edge_dim, or encode edge_attr first"
        )
    if edge_attr.size(0) != rows:
        raise ValueError(
            f"expected edge_attr with {rows} rows (one per column of edge_index), "
            f"got {edge_attr.size(0)}; index it as the edge_index that the line graph was made of"
        )
    if edge_attr.device != x.device:
        raise ValueError(
            f"expected edge_attr on {x.device} like x, got {edge_attr.device}; move it with .to()"
        )
    _check_dtype("edge_attr", edge_attr, dtype)
    return edge_attr


def resolve_graph(
    x: Tensor,
    edge_index: Tensor | SparseTensor | None,
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
    if line_graph is None:
        line_graph = LineGraph.from_edge_index(
            edge_index, x.size(0), orientation, batch, x=x, edge_attr=edge_attr
        )
    else:
        check_line_graph(line_graph, x, edge_index)
    return line_graph, edge_index, edge_attr


def check_line_graph(line_graph: LineGraph, x: Tensor, edge_index: Tensor | None) -> None:
    """``line_graph`` belongs to this ``edge_index``, not to another graph or batch.

    Successful checks are cached on the line graph for the same ``edge_index`` tensor, so
    the layers of a model compare once. Nothing is compared while compiling.
    """
    if torch.compiler.is_compiling():
        return
    remedy = "rebuild it with LineGraph.from_edge_index or LineGraph.from_data"
    if not isinstance(line_graph, LineGraph):
        raise ValueError(
            f"expected line_graph as a LineGraph, got {type(line_graph).__name__}; {remedy}"
        )
    if line_graph.num_nodes != x.size(0):
        raise ValueError(
            f"expected line_graph of {x.size(0)} nodes (rows of x), got one of "
            f"{line_graph.num_nodes}; it is of another graph or stale: {remedy}"
        )
    if line_graph.device != x.device:
        raise ValueError(
            f"expected line_graph on {x.device} like x, got {line_graph.device}; "
            f"move it with line_graph.to(x.device)"
        )
    if edge_index is None:
        return
    seen = line_graph._cache.get("checked")
    if seen is not None and seen[0] is edge_index and seen[1] == _version(edge_index):
        return
    if edge_index.device != x.device:
        raise ValueError(
            f"expected edge_index on {x.device} like x, got {edge_index.device}; move it with .to()"
        )
    dag, columns = line_graph.edge_index, edge_index.size(1)
    for name in ("edge_id", "opposite_id"):
        index = getattr(line_graph, name)
        if index is None:
            continue
        last = int(index.max()) if index.numel() else -1
        if last >= columns:
            raise ValueError(
                f"expected line_graph.{name} below {columns} (columns of edge_index), got {last}; "
                f"it is of another graph or stale: {remedy}"
            )
        known = index >= 0  # directed graphs have no opposite
        there, edges = dag[:, known], edge_index.index_select(1, index[known])
        # Either way round: the reversed line graph belongs to the same edge_index.
        other = (edges != there).any(0) & (edges != there.flip(0)).any(0)
        if wrong := int(other.sum()):
            raise ValueError(
                f"expected line_graph with the edges edge_index[:, {name}], got {wrong} of "
                f"{there.size(1)} others; it is of another graph or stale: {remedy}"
            )
    line_graph._cache["checked"] = (edge_index, _version(edge_index))


def _version(tensor: Tensor) -> int:
    """Counts changes in place; tensors made in inference mode have no counter."""
    return 0 if tensor.is_inference() else tensor._version


def directed(line_graph: LineGraph, direction: str) -> LineGraph:
    """The line graph that a layer of a ``direction`` runs on.

    ``"auto"`` and ``"two_way"`` leave a two-way graph as it is; ``"forward"`` and ``"reverse"``
    refuse it, since the one-way graph cannot be told from it.
    """
    if torch.compiler.is_compiling():
        _check_derived(line_graph, direction)
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


def _check_derived(line_graph: LineGraph, direction: str) -> None:
    """The two-way graph of a layer exists already: it cannot be built while compiling."""
    key = {"auto": "two_way_where_undirected", "two_way": "two_way"}.get(direction)
    stays_one_way = direction == "auto" and line_graph.opposite_id is None
    if key is None or stays_one_way or line_graph.is_two_way or line_graph.has_plan(key):
        return
    raise ValueError(
        "expected a prepared line_graph under torch.compile, got a bare one; call "
        "plstm_graph.ops.prepare(line_graph, ...) before the compiled function, or "
        "prepare(line_graph.two_way(), ...) for direction='two_way' on a directed graph"
    )
