"""Graphs that carry their line graph through PyG's batching.

:class:`LineGraphData` is an ordinary ``torch_geometric.data.Data`` with two more tensors, made by
:class:`plstm_graph.ToLineGraph`. ``Batch.from_data_list`` and every ``DataLoader`` concatenate
them like any others; :meth:`plstm_graph.LineGraph.from_data` turns them into a
:class:`~plstm_graph.LineGraph`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.data import Batch, Data

from plstm_graph.checks import instance, integer, refuse
from plstm_graph.dag.build import LineParts
from plstm_graph.dag.checks import check_batch, index_tensor
from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.dag.packed import pack, unpack
from plstm_graph.dag.tracing import made_outside

#: What a line graph is stored as; see :mod:`plstm_graph.dag.packed`.
STORED_KEYS = ("dag_columns", "dag_lines")
#: Keys that collating does not add to, with the axis along which it concatenates them.
_RELATIVE = {"dag_columns": -1, "dag_lines": -1, "x": 0, "edge_attr": 0, "y": 0}


class LineGraphData(Data):
    """A graph with its line graph.

    Beside the attributes of ``Data``, which are the user's, it has two tensors of int32, for M
    columns of ``edge_index`` and L line edges: ``dag_columns`` [6, M] and ``dag_lines`` [2, L].
    They are relative to ``edge_index`` and therefore batched by concatenation alone
    (:mod:`plstm_graph.dag.packed`). ``LineGraph.from_data(data)`` reads them, and raises if
    ``edge_index`` has changed.

    To use a ``Data`` class of your own with :class:`plstm_graph.ToLineGraph`, derive it from this
    one.
    """

    # Both are asked of each graph in each collation, where PyG's way to an answer takes its time.

    def __inc__(self, key: str, value: Any, *args: Any) -> Any:
        if key in _RELATIVE:
            return 0
        if key == "edge_index":
            mapping = self._store._mapping
            x = mapping.get("x")
            if type(x) is Tensor and "num_nodes" not in mapping:
                return x.size(0)
        return super().__inc__(key, value, *args)

    def __cat_dim__(self, key: str, value: Any, *args: Any) -> Any:
        if key in _RELATIVE:
            return _RELATIVE[key]
        return super().__cat_dim__(key, value, *args)

    # PyG tells node and edge attributes by their size, and a line graph has neither's.

    def is_node_attr(self, key: str) -> bool:
        return key not in STORED_KEYS and super().is_node_attr(key)

    def is_edge_attr(self, key: str) -> bool:
        return key not in STORED_KEYS and super().is_edge_attr(key)


class _Cached:
    """A line graph and the tensors it was made of. Copies and pickles come out empty."""

    def __init__(self, line_graph: LineGraph | None = None, made_of: tuple = ()) -> None:
        self.line_graph = line_graph
        self.made_of = made_of
        self.versions = self._versions()

    def holds(self, made_of: tuple) -> bool:
        """Whether nothing was replaced or changed in place since."""
        return (
            len(made_of) == len(self.made_of)
            and all(a is b for a, b in zip(made_of[:-1], self.made_of))
            and made_of[-1] == self.made_of[-1]
            and self.versions == self._versions()
            and not self.line_graph.is_changed
        )

    def _versions(self) -> list[int]:
        tensors = (t for t in self.made_of if isinstance(t, Tensor))
        return [0 if t.is_inference() else t._version for t in tensors]

    def __reduce__(self) -> tuple:
        return _Cached, ()


# Saved data sets load with weights_only=True, as those of PyG's own classes do.
torch.serialization.add_safe_globals([LineGraphData, _Cached])


@made_outside("call LineGraph.from_data before")
def line_graph_from_data(data: Data | Batch) -> LineGraph:
    """The line graph stored in a graph or batch, with levels and multitree filled in.

    It is built once and kept with ``data``, until one of its tensors is replaced (as ``.to()``
    does) or changed.

    Args:
        data: what :class:`plstm_graph.ToLineGraph` made, or a ``Batch`` of such graphs.

    Raises:
        ValueError: if there is no line graph, or if ``data.edge_index`` is another one than that of
            the line graph (edges were added or taken away after the transform, as samplers do).
    """
    check_data("data", data)
    for key in ("edge_index", *STORED_KEYS):
        if key not in data._store:
            raise ValueError(
                f"expected data with a line graph, got {type(data).__name__} without {key}; apply "
                f"plstm_graph.ToLineGraph, or build one with LineGraph.from_edge_index"
            )
    made_of = edge_index, columns, lines, batch, num_nodes = _made_of(data)
    cached = data.__dict__.get("_line_graph")
    if cached is not None and cached.holds(made_of):
        return cached.line_graph
    edge_index = index_tensor("data.edge_index", plain(edge_index), 2)
    num_nodes = integer("data.num_nodes", num_nodes, 0)
    stored = (t for t in (columns, lines) if isinstance(t, Tensor))
    if edge_index.is_meta or any(t.device != edge_index.device for t in stored):
        refuse(
            "data.edge_index",
            "with values, on the device of dag_columns and dag_lines",
            f"one on {edge_index.device}",
            "move data with .to()",
        )
    if batch is not None:
        check_batch("data.batch", batch, edge_index[:, :0], num_nodes)
    parts = unpack(edge_index, num_nodes, columns, lines)
    if parts is None:
        raise ValueError(
            f"expected the line graph stored in data to be that of edge_index, got one of other "
            f"columns than the {edge_index.size(1)} of edge_index; the graph was changed after "
            f"ToLineGraph (a sampled subgraph, added or dropped edges): apply ToLineGraph last, or "
            f"build the line graph with LineGraph.from_edge_index(data.edge_index, data.num_nodes)"
        )
    return _keep(data, parts, made_of)


def _made_of(data: Data) -> tuple:
    mapping = data._store._mapping
    keys = ("edge_index", *STORED_KEYS, "batch")
    return (*(mapping.get(key) for key in keys), data.num_nodes)


def _keep(data: Data, parts: LineParts, made_of: tuple) -> LineGraph:
    """Make a line graph of its parts, and keep it with ``data``."""
    *_, batch, num_nodes = made_of
    line_graph = LineGraph.of_parts(num_nodes, parts, batch, parts.edge_id.device)
    data.__dict__["_line_graph"] = _Cached(line_graph, made_of)
    return line_graph


def check_data(name: str, data: Any) -> Data:
    """One graph, or a batch of such; no list, tensor or heterogeneous graph."""
    return instance(
        name,
        data,
        Data,
        "a torch_geometric.data.Data or a Batch of them",
        "collate lists with Batch.from_data_list, and make heterogeneous graphs homogeneous with "
        "data.to_homogeneous()",
    )


def plain(edge_index: Tensor) -> Tensor:
    """The tensor in PyG's ``EdgeIndex``; any other as it is."""
    return edge_index.as_tensor() if isinstance(edge_index, EdgeIndex) else edge_index


def lines_per_graph(parts: LineParts, batch: np.ndarray, num_graphs: int) -> np.ndarray:
    """The number of line edges of each graph."""
    graph = batch[parts.dag_edge_index[0, parts.line_index[0]]]
    return np.bincount(graph, minlength=num_graphs)


def stored_tensors(parts: LineParts, edge_index: Tensor) -> list[Tensor]:
    """What to store with a graph, in the order of :data:`STORED_KEYS`."""
    packed = pack(parts, plain(edge_index).cpu().numpy())
    return [torch.from_numpy(array).to(edge_index.device) for array in packed]


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
    out._store._mapping.update(zip(STORED_KEYS, tensors))
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
    for key, tensor in zip(STORED_KEYS, stored_tensors(parts, batch.edge_index)):
        out._store[key] = tensor
    if hasattr(batch, "_slice_dict"):
        size = lines_per_graph(parts, batch.batch.cpu().numpy(), batch.num_graphs)
        lines = torch.from_numpy(np.append(0, np.cumsum(size)))
        slices = (batch._slice_dict["edge_index"], lines)
        incs = [torch.zeros(batch.num_graphs, dtype=torch.int64)] * 2
        out._slice_dict = {**batch._slice_dict, **dict(zip(STORED_KEYS, slices))}
        out._inc_dict = {**batch._inc_dict, **dict(zip(STORED_KEYS, incs))}
    with torch.inference_mode(False):
        device = batch.edge_index.device
        tensors = (None if p is None else torch.from_numpy(p).to(device) for p in parts)
        _keep(out, LineParts(*tensors), _made_of(out))
    return out
