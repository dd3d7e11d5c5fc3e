"""Building line graphs in PyG's data pipeline: per graph, per batch, or for a whole data set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.data import Batch, Data
from torch_geometric.transforms import BaseTransform

from plstm_graph.checks import choice, dense, describe, integer, refuse, text
from plstm_graph.checks import seed as check_seed
from plstm_graph.dag.build import LineParts, build_line_parts
from plstm_graph.dag.checks import feature_keys
from plstm_graph.dag.orient import DRAWN, ORIENTATIONS
from plstm_graph.dag.packed import rank_in_graph
from plstm_graph.data import (
    STORED_KEYS,
    LineGraphData,
    check_data,
    lines_per_graph,
    plain,
    store,
    store_in_batch,
    stored_tensors,
)


class _Builder:
    """What the transform and the collater share: the orientation, and seeds to draw it with."""

    def __init__(self, orientation: str, seed: int | None, rank: str) -> None:
        self.orientation = choice(
            "orientation",
            orientation,
            ORIENTATIONS,
            "to tell nodes apart by ranks, store them with each graph and pass "
            "orientation='canonical', rank='<their key>'",
        )
        self.seed = check_seed("seed", seed)
        self.rank = text("rank", rank)
        self._draws = 0

    def _next_seed(self) -> list[int] | None:
        """A new seed for each call, in every worker and epoch (None: from torch's generator)."""
        if self.orientation not in DRAWN or self.seed is None:
            return None
        self._draws += 1
        # Each epoch's workers start from the same copy of this object, so the count alone would
        # repeat; the loader gives each of them a seed of its own.
        worker = torch.utils.data.get_worker_info()
        return [self.seed, self._draws, 0 if worker is None else worker.seed]

    def _build(self, data: Data, batch: Tensor | None, multitree: bool = True) -> LineParts:
        edge_index, num_nodes = _edges(data)
        node_keys, edge_keys = [], []
        if self.orientation == "canonical":
            for key in ("x", self.rank):
                node_keys += feature_keys(key, data._store.get(key), num_nodes)
            edge_attr = data._store.get("edge_attr")
            edge_keys = feature_keys("edge_attr", edge_attr, edge_index.shape[1])
        batch = None if batch is None else batch.cpu().numpy()
        parts = build_line_parts(
            edge_index,
            num_nodes,
            self.orientation,
            batch,
            self._next_seed(),
            node_keys,
            edge_keys,
            multitree=multitree,
        )
        # Canonical ranks are of that form already.
        canonical = self.orientation == "canonical"
        return parts if canonical else rank_in_graph(parts, num_nodes, batch)


class ToLineGraph(_Builder, BaseTransform):
    """Store the line graph with each graph.

    Use it as ``pre_transform`` (built once) or, to draw orientations, as ``transform``. Apply it
    last: what changes the edges afterwards makes the line graph stale. For whole data sets in
    memory :func:`to_line_graphs` is faster, to sample an orientation in each batch
    :class:`LineGraphCollater`.

    Args:
        orientation: see :mod:`plstm_graph.dag.orient`.
        seed: for ``orientation="random"`` and ``"random_bfs"``: each call samples, from this
            seed and the number of calls so far, and in a loader's worker from the worker's seed of
            the epoch too. Default: from torch's generator, which every worker and epoch has its
            own of.
        rank: key of a rank tensor [N]; where a graph has it, ``orientation="canonical"`` tells
            nodes apart by it, beside ``x`` and ``edge_attr``
            (:func:`plstm_graph.molecules.from_smiles` stores RDKit's canonical ranks so).

    Returns:
        A new :class:`plstm_graph.data.LineGraphData` (or a ``Batch`` of them, for a ``Batch``).

    Raises:
        ValueError: as :func:`plstm_graph.dag.orient.orient`, and on a bad ``edge_index``.
        TypeError: on a ``Data`` class that is not derived from :class:`LineGraphData`.
    """

    def __init__(
        self, orientation: str = "canonical", seed: int | None = None, rank: str = "canonical_rank"
    ) -> None:
        super().__init__(orientation, seed, rank)

    def forward(self, data: Data) -> LineGraphData:
        check_data("data", data)
        if isinstance(data, Batch):
            return store_in_batch(data, self._build(data, data.batch))
        return store(data, stored_tensors(self._build(data, None), data.edge_index))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(orientation={self.orientation!r}, seed={self.seed})"


class LineGraphCollater(_Builder):
    """Collate plain graphs and build the line graph of the whole batch at once.

    With ``orientation="random"`` or ``"random_bfs"`` every batch gets a new orientation, which
    costs far less than drawing graph by graph::

        torch.utils.data.DataLoader(dataset, batch_size=64, collate_fn=LineGraphCollater())

    (not PyG's ``DataLoader``, which insists on its own collater).

    Args:
        orientation, seed, rank: as in :class:`ToLineGraph`.
        follow_batch, exclude_keys: as in ``Batch.from_data_list``.
    """

    def __init__(
        self,
        orientation: str = "random_bfs",
        seed: int | None = None,
        rank: str = "canonical_rank",
        *,
        follow_batch: Sequence[str] = (),
        exclude_keys: Sequence[str] = (),
    ) -> None:
        super().__init__(orientation, seed, rank)
        self.follow_batch = _keys("follow_batch", follow_batch)
        self.exclude_keys = _keys("exclude_keys", exclude_keys)

    def __call__(self, data_list: list[Data]) -> Batch:
        if not isinstance(data_list, (list, tuple)) or not data_list:
            refuse("data_list", "as a list of at least one graph", describe(data_list))
        exclude = [*self.exclude_keys, *STORED_KEYS]
        try:
            batch = Batch.from_data_list(data_list, self.follow_batch, exclude)
            whole = _is_union(batch) and len({len(data.keys()) for data in data_list}) == 1
        except (AttributeError, KeyError, IndexError, RuntimeError, TypeError, ValueError):
            _check_list(data_list)
            raise
        if not whole:
            _check_list(data_list)
        # Read once: a layer that needs the multitree makes it.
        return store_in_batch(batch, self._build(batch, batch.batch, multitree=False))


def redraw(
    data: Data | Batch, seed: int | None = None, orientation: str = "random_bfs"
) -> LineGraphData:
    """A copy of a graph or batch with newly drawn orientations (``data`` itself is left alone).

    Average a model's predictions over some of them: the DAG of an undirected graph is arbitrary.
    Directed acyclic graphs stay as they are.

    Args:
        data: a graph or batch, with a line graph or without.
        seed: the same seed draws the same orientations. Default: from torch's generator.
        orientation: ``"random"`` or ``"random_bfs"``.

    Raises:
        ValueError: on another orientation, which would not be drawn.
    """
    choice("orientation", orientation, DRAWN, "others are not drawn")
    return ToLineGraph(orientation, seed)(data)


def to_line_graphs(
    data_list: Sequence[Data],
    orientation: str = "canonical",
    seed: int | None = None,
    rank: str = "canonical_rank",
    *,
    chunk_size: int = 1000,
) -> list[LineGraphData]:
    """:class:`ToLineGraph` for many graphs, several times faster.

    Chunks of ``chunk_size`` graphs are built as one disjoint union and taken apart again. The
    result is that of the transform (for ``"random"`` and ``"random_bfs"``, with other draws).
    """
    builder = _Builder(orientation, seed, rank)
    integer("chunk_size", chunk_size, 1)
    if isinstance(data_list, Data) or not hasattr(data_list, "__getitem__"):
        refuse("data_list", "as a list or data set of graphs", type(data_list).__name__)
    out: list[LineGraphData] = []
    for start in range(0, len(data_list), chunk_size):
        chunk = [data_list[i] for i in range(start, min(start + chunk_size, len(data_list)))]
        out += _build_chunk(chunk, builder, start)
    return out


def _keys(name: str, keys: Sequence[str]) -> list[str]:
    if isinstance(keys, str) or not isinstance(keys, Iterable):
        refuse(name, "as a list of keys", describe(keys))
    return [text(name, key) for key in keys]


def _check_list(data_list: Sequence[Data]) -> None:
    """Find the graph that cannot be collated, if there is one."""
    keys = set().union(*(check_data("data_list", data).keys() for data in data_list))
    keys -= set(STORED_KEYS)
    for i, data in enumerate(data_list):
        if missing := keys - set(data.keys()):
            got = f"graph {i} without {', '.join(missing)}"
            refuse("data_list", "of graphs with the same attributes", got)
        _edges(data, i)


def _is_union(batch: Batch) -> bool:
    """Whether each graph's columns join its own nodes."""
    graph, edge_index = batch.batch, plain(batch.edge_index)
    if edge_index.numel() and (edge_index.min() < 0 or edge_index.max() >= graph.numel()):
        return False
    size = batch._slice_dict["edge_index"].diff().to(graph.device)
    column = torch.repeat_interleave(size, output_size=edge_index.size(1))
    return bool((graph[edge_index] == column).all())


def _build_chunk(chunk: list[Data], builder: _Builder, first: int) -> list[LineGraphData]:
    """``first`` is the number of the chunk's first graph in the list."""
    edges, sizes = zip(*(_edges(data, first + i) for i, data in enumerate(chunk)))
    num_nodes = np.array(sizes)
    num_columns = np.array([e.shape[1] for e in edges])
    first_node = np.cumsum(num_nodes) - num_nodes
    union = Data(edge_index=torch.from_numpy(np.concatenate(edges, axis=1)))
    union.edge_index += torch.from_numpy(np.repeat(first_node, num_columns))
    union.num_nodes = int(num_nodes.sum())
    keys = ("x", builder.rank, "edge_attr") if builder.orientation == "canonical" else ()
    for key in keys:
        have = [value for data in chunk if (value := data._store.get(key)) is not None]
        kinds = {(v.shape[1:], v.dtype) if isinstance(v, Tensor) else None for v in have}
        if have and (len(have) < len(chunk) or len(kinds) > 1 or None in kinds):
            # Some with and some without, or of several widths or dtypes: one at a time.
            return [_alone(data, builder, first + i) for i, data in enumerate(chunk)]
        if have:
            union[key] = torch.cat([value.cpu() for value in have])
    batch = np.repeat(np.arange(len(chunk)), num_nodes)
    parts = builder._build(union, torch.from_numpy(batch + first))
    num_lines = lines_per_graph(parts, batch, len(chunk))
    columns, lines = stored_tensors(parts, union.edge_index)
    split = zip(columns.split(num_columns.tolist(), -1), lines.split(num_lines.tolist(), -1))
    # Copies, so that no graph keeps (or pickles) the memory of the whole chunk.
    return [
        store(
            data,
            [
                t.clone(memory_format=torch.contiguous_format).to(data._store["edge_index"].device)
                for t in tensors
            ],
        )
        for data, tensors in zip(chunk, split)
    ]


def _alone(data: Data, builder: _Builder, number: int) -> LineGraphData:
    """One graph of a list, with its number in errors."""
    batch = torch.full((_edges(data, number)[1],), number)
    return store(data, stored_tensors(builder._build(data, batch), data.edge_index))


def _edges(data: Data, number: int | None = None) -> tuple[np.ndarray, int]:
    """The checked edge_index of a graph, and its number of nodes; ``number`` is that of the graph
    in a list, for errors."""
    name = "edge_index" if number is None else f"edge_index of graph {number} in data_list"
    check_data("data" if number is None else f"data_list with graph {number}", data)
    edge_index = data._store.get("edge_index")
    if isinstance(edge_index, EdgeIndex):
        edge_index = plain(edge_index)
    dense(name, edge_index, 2, "M", dtype=torch.int64)
    if edge_index.is_meta:
        refuse(name, "with values", "a meta tensor")
    num_nodes = integer(name.replace("edge_index", "num_nodes"), data.num_nodes or 0, 0)
    array = edge_index.cpu().numpy()
    if array.size and (array.min() < 0 or array.max() >= num_nodes):
        refuse(
            name,
            f"between 0 and {num_nodes - 1} ({num_nodes} nodes)",
            f"values from {array.min()} to {array.max()}",
        )
    return array, num_nodes
