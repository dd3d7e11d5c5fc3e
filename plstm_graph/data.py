"""Graphs that carry their line graph through PyG's batching.

:class:`LineGraphData` is an ordinary ``torch_geometric.data.Data`` with two more tensors, made by
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
from torch_geometric import EdgeIndex
from torch_geometric.data import Batch, Data
from torch_geometric.data.storage import GlobalStorage

from plstm_graph.dag.build import LineParts
from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.dag.packed import pack, unpack

#: What a line graph is stored as; see :mod:`plstm_graph.dag.packed`.
STORED_KEYS = ("dag_columns", "dag_lines")
#: What can be read from it, under the names of the fields of :class:`LineParts`.
LINE_KEYS = LineParts._fields


class _LineGraphStorage(GlobalStorage):
    """Reads :data:`LINE_KEYS` from what is stored, for ``data.level`` and ``data["level"]`` alike.

    It also knows that the line graph belongs to neither nodes nor input edges: PyG tells node and
    edge attributes by their size, which goes wrong for ``dag_columns``, and for ``dag_lines`` when
    L happens to equal N or M.
    """

    def __getitem__(self, key: str) -> Any:
        try:
            return self._mapping[key]
        except KeyError:
            if key not in self:
                raise
        line_graph = line_graph_from_data(self._parent())
        if key == "dag_edge_index":
            return line_graph.edge_index
        if key == "multitree_mask":
            line_graph.multitree()
            return line_graph._cache[key]
        return getattr(line_graph, key)

    def __setitem__(self, key: str, value: Any) -> None:
        if key in LINE_KEYS:
            raise AttributeError(
                f"expected any other key than {key}, which is read from the stored line graph; to "
                f"choose the orientation pass it to plstm_graph.ToLineGraph, to choose line edges "
                f"or levels build a plstm_graph.LineGraph and pass it to the layers"
            )
        super().__setitem__(key, value)

    def get(self, key: str, value: Any | None = None) -> Any:
        try:
            return self[key]
        except KeyError:
            return value

    def __contains__(self, key: object) -> bool:
        mapping = self._mapping
        return key in mapping or (key in LINE_KEYS and all(k in mapping for k in STORED_KEYS))

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
        return key not in STORED_KEYS and super().is_node_attr(key)

    def is_edge_attr(self, key: str) -> bool:
        return key not in STORED_KEYS and super().is_edge_attr(key)


class LineGraphData(Data):
    """A graph with its line graph.

    Beside the attributes of ``Data`` it has, for M columns of ``edge_index``, E DAG edges and L
    line edges:

    * ``dag_edge_index`` [2, E] int64: the DAG (src, dst)
    * ``line_index`` [2, L] int64: line edges (e_in, e_out)
    * ``edge_id`` [E] int64: columns of ``edge_index``, ascending
    * ``opposite_id`` [E] int64: columns of the opposite direction, -1 for edges of a directed
      graph; ``None`` where all graphs are directed
    * ``node_rank`` [N] int64: the ranks that oriented the graph, 0 for nodes without edges
    * ``level`` [E] int64: topological level
    * ``multitree_mask`` [L] bool: line edges of the multitree

    They are read only: what is stored, and found in ``keys()``, are ``dag_columns`` [6, M] and
    ``dag_lines`` [2, L] (int32), which say the same relative to ``edge_index`` and are therefore
    batched by concatenation alone (see :mod:`plstm_graph.dag.packed`). Like
    :func:`line_graph_from_data`, reading any of them raises if ``edge_index`` has changed.

    To use a ``Data`` class of your own with :class:`plstm_graph.ToLineGraph`, derive it from this
    one.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        store = _LineGraphStorage(_parent=self)
        for key, value in self._store._mapping.items():
            store[key] = value
        self.__dict__["_store"] = store

    def __contains__(self, key: str) -> bool:
        return key in self._store

    def __inc__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        if key == "edge_index":
            return self._store.num_nodes
        if key in STORED_KEYS:
            return 0
        return super().__inc__(key, value, *args, **kwargs)

    def __cat_dim__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        if key in STORED_KEYS:
            return -1
        return super().__cat_dim__(key, value, *args, **kwargs)


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


# Saved data sets load with weights_only=True, as those of PyG's own classes do.
torch.serialization.add_safe_globals([LineGraphData, _LineGraphStorage, _Cached])


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
    mapping = data._store._mapping
    for key in ("edge_index", *STORED_KEYS):
        if key not in mapping:
            raise ValueError(
                f"expected data with a line graph, got {type(data).__name__} without {key}; apply "
                f"plstm_graph.ToLineGraph, or build one with LineGraph.from_edge_index"
            )
    made_of = edge_index, columns, lines, _, num_nodes = _made_of(data)
    cached = data.__dict__.get("_line_graph")
    if cached is not None and cached.holds(made_of):
        return cached.line_graph
    # What is kept must serve in training too, if the first to ask was an evaluation.
    with torch.inference_mode(False):
        parts = unpack(plain(edge_index), num_nodes, columns, lines)
    if parts is None:
        raise ValueError(
            f"expected the stored line graph to be that of edge_index, got one of "
            f"{columns.size(1)} columns that are not the {edge_index.size(1)} of edge_index; the "
            f"graph was changed after ToLineGraph (a sampled subgraph, added or dropped edges): "
            f"apply ToLineGraph last, or build the line graph with "
            f"LineGraph.from_edge_index(data.edge_index, data.num_nodes)"
        )
    return _keep(data, parts, made_of)


def _made_of(data: Data) -> tuple:
    mapping = data._store._mapping
    keys = ("edge_index", *STORED_KEYS, "batch")
    return (*(mapping.get(key) for key in keys), data.num_nodes)


def _keep(data: Data, parts: LineParts, made_of: tuple) -> LineGraph:
    """Make a line graph of its parts, and keep it with ``data``."""
    *_, batch, num_nodes = made_of
    line_graph = LineGraph._of_parts(num_nodes, parts, batch, parts.edge_id.device)
    data.__dict__["_line_graph"] = _Cached(line_graph, made_of)
    return line_graph


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
        for key in LINE_KEYS:  # these names are the line graph's
            out._store._mapping.pop(key, None)
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
        if key not in LINE_KEYS:  # these names are the line graph's
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
