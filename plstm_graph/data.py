"""Graphs that carry their line graph through PyG's batching.

:class:`LineGraphData` is an ordinary ``torch_geometric.data.Data`` with five more tensors, made by
:class:`plstm_graph.ToLineGraph`. ``Batch.from_data_list`` and every ``DataLoader`` concatenate
them like any others; :func:`line_graph_from_data` turns them into a :class:`LineGraph`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Batch, Data
from torch_geometric.data.storage import GlobalStorage

from plstm_graph.dag.build import LineParts
from plstm_graph.dag.line_graph import LineGraph

#: What a line graph is stored as; the fields of :class:`LineParts`.
LINE_KEYS = LineParts._fields


class _LineGraphStorage(GlobalStorage):
    """Knows that the line graph belongs to neither nodes nor input edges.

    PyG tells node and edge attributes by their size, which goes wrong when L or E happens to
    equal N or the number of input edges.
    """

    @property
    def num_nodes(self) -> int | None:
        # Asked three times a graph in each collation, and PyG's search takes its time.
        mapping = self._mapping
        x = mapping.get("x")
        if type(x) is Tensor and "num_nodes" not in mapping:
            return x.size(0)
        return super().num_nodes

    @num_nodes.setter
    def num_nodes(self, num_nodes: int | None) -> None:
        self["num_nodes"] = num_nodes

    def is_node_attr(self, key: str) -> bool:
        return key not in LINE_KEYS and super().is_node_attr(key)

    def is_edge_attr(self, key: str) -> bool:
        return key not in LINE_KEYS and super().is_edge_attr(key)


class LineGraphData(Data):
    """A graph with its line graph.

    Beside the attributes of ``Data`` it holds, for E DAG edges and L line edges:

    * ``dag_edge_index`` [2, E] int64: the DAG (src, dst); batching adds the number of nodes
    * ``line_index`` [2, L] int64: line edges (e_in, e_out); batching adds E
    * ``edge_id`` [E] int64: columns of ``edge_index``; batching adds their number
    * ``level`` [E] int64: topological level
    * ``multitree_mask`` [L] bool: line edges of the multitree

    To use a ``Data`` class of your own with :class:`plstm_graph.ToLineGraph`, derive it from this
    one.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        store = _LineGraphStorage(_parent=self)
        store._mapping.update(self._store._mapping)
        self.__dict__["_store"] = store

    def __inc__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        if key in ("edge_index", "dag_edge_index"):
            return self._store.num_nodes
        if key == "line_index":
            return self._store._mapping["dag_edge_index"].size(1)
        if key == "edge_id":
            return self._store._mapping["edge_index"].size(1)
        if key in ("level", "multitree_mask"):
            return 0
        return super().__inc__(key, value, *args, **kwargs)

    def __cat_dim__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        if key in LINE_KEYS:
            return -1
        return super().__cat_dim__(key, value, *args, **kwargs)


# Saved data sets load with weights_only=True, as those of PyG's own classes do.
torch.serialization.add_safe_globals([LineGraphData, _LineGraphStorage])


class _Cached:
    """A line graph and the tensors it was made of. Copies and pickles come out empty."""

    def __init__(self, line_graph: LineGraph | None = None, made_of: tuple = ()) -> None:
        self.line_graph = line_graph
        self.made_of = made_of
        self.versions = _versions(made_of)

    def holds(self, made_of: tuple) -> bool:
        """Whether nothing was replaced or changed in place since."""
        return (
            len(made_of) == len(self.made_of)
            and all(a is b for a, b in zip(made_of[:-1], self.made_of))
            and made_of[-1] == self.made_of[-1]
            and self.versions == _versions(made_of)
        )

    def __reduce__(self) -> tuple:
        return _Cached, ()


def _versions(made_of: tuple) -> list[int]:
    return [t._version if isinstance(t, Tensor) and not t.is_inference() else 0 for t in made_of]


def line_graph_from_data(data: Data | Batch) -> LineGraph:
    """The line graph stored in a graph or batch, with levels and multitree filled in.

    It is built once and kept with ``data``, until one of its tensors is replaced (as ``.to()``
    does) or changed.

    Args:
        data: what :class:`plstm_graph.ToLineGraph` made, or a ``Batch`` of such graphs.

    Raises:
        ValueError: if there is no line graph, or it is not that of ``data.edge_index`` any more
            (edges were added or taken away after the transform, as samplers do).
    """
    store = data._store
    for key in ("edge_index", *LINE_KEYS):
        if key not in store:
            raise ValueError(
                f"expected data with a line graph, got {type(data).__name__} without {key}; apply "
                f"plstm_graph.ToLineGraph, or build one with LineGraph.from_edge_index"
            )
    tensors = [store[key] for key in ("edge_index", *LINE_KEYS)]
    batch = store.get("batch", None)
    made_of = (*tensors, batch, data.num_nodes)
    cached = data.__dict__.get("_line_graph")
    if cached is not None and cached.holds(made_of):
        return cached.line_graph
    edge_index, dag, line_index, edge_id, level, multitree = tensors
    _check_fresh(edge_index, dag, line_index, edge_id, level, multitree)
    line_graph = LineGraph._trusted(data.num_nodes, dag, line_index, edge_id, batch)
    line_graph._cache["level"] = level
    line_graph._cache["multitree_mask"] = multitree
    data.__dict__["_line_graph"] = _Cached(line_graph, made_of)
    return line_graph


def _check_fresh(
    edge_index: Tensor,
    dag: Tensor,
    line_index: Tensor,
    edge_id: Tensor,
    level: Tensor,
    multitree: Tensor,
) -> None:
    """The DAG's edges must still be the columns ``edge_id`` of ``edge_index``.

    If any of those columns was dropped, moved or renumbered, some column differs or is out of
    range. Columns that were added show in their number: the input has one or two for each edge.
    """
    num_edges, num_columns = dag.size(1), edge_index.size(1)
    fresh = (
        edge_id.numel() == level.numel() == num_edges
        and line_index.size(1) == multitree.numel()
        and num_edges <= num_columns <= 2 * num_edges
    )
    if fresh and num_edges:
        fresh = int(edge_id.max()) < num_columns
        fresh = fresh and torch.equal(edge_index.index_select(1, edge_id), dag)
    if not fresh:
        raise ValueError(
            f"expected the stored line graph to be that of edge_index, got {num_edges} DAG edges "
            f"that are not among its {num_columns} columns; the graph was changed after "
            f"ToLineGraph (a sampled subgraph, added or dropped edges): apply ToLineGraph last, or "
            f"build the line graph with LineGraph.from_edge_index(data.edge_index, data.num_nodes)"
        )


def part_sizes(
    parts: LineParts, batch: np.ndarray, num_graphs: int
) -> tuple[np.ndarray, np.ndarray]:
    """The number of edges and of line edges of each graph."""
    graph = batch[parts.dag_edge_index[0]]
    return (
        np.bincount(graph, minlength=num_graphs),
        np.bincount(graph[parts.line_index[0]], minlength=num_graphs),
    )


def part_tensors(parts: LineParts, device: torch.device) -> list[Tensor]:
    return [torch.from_numpy(part).to(device) for part in parts]


def store(data: Data, tensors: Sequence[Tensor]) -> LineGraphData:
    """A new graph: ``data`` and its line graph."""
    if isinstance(data, LineGraphData):
        out = copy.copy(data)
    elif type(data) is Data:
        out = LineGraphData()
        out._store._mapping.update(data._store._mapping)
    else:
        raise TypeError(
            f"expected torch_geometric.data.Data or a class derived from "
            f"plstm_graph.data.LineGraphData, got {type(data).__name__}; derive it from that class"
        )
    out._store._mapping.update(zip(LINE_KEYS, tensors))
    return out


def store_in_batch(batch: Batch, parts: LineParts) -> Batch:
    """A new batch: ``batch`` and its line graph, as if its graphs had been collated with theirs."""
    base = type(batch).__bases__[-1]
    if base is not Data and not issubclass(base, LineGraphData):
        store(base(), ())  # raises
    out = Batch(_base_cls=base if issubclass(base, LineGraphData) else LineGraphData)
    for key, value in batch.__dict__.items():
        if key not in ("_store", "_line_graph"):
            out.__dict__[key] = value
    for key, value in batch._store.__dict__.items():
        if key not in ("_mapping", "_parent", "_cached_attr"):
            out._store.__dict__[key] = value  # where the graphs of a batch begin, and the like
    for key, value in batch._store.items():
        out._store[key] = value
    for key, tensor in zip(LINE_KEYS, part_tensors(parts, batch.edge_index.device)):
        out._store[key] = tensor
    if hasattr(batch, "_slice_dict"):
        sizes = part_sizes(parts, batch.batch.cpu().numpy(), batch.num_graphs)
        edges, lines = (torch.from_numpy(np.append(0, np.cumsum(size))) for size in sizes)
        columns = batch._slice_dict["edge_index"]
        zero = torch.zeros(batch.num_graphs, dtype=torch.int64)
        slices = (edges, lines, edges, edges, lines)
        incs = (batch.ptr[:-1].cpu(), edges[:-1], columns[:-1], zero, zero)
        out._slice_dict = {**batch._slice_dict, **dict(zip(LINE_KEYS, slices))}
        out._inc_dict = {**batch._inc_dict, **dict(zip(LINE_KEYS, incs))}
    return out
