r"""A graph oriented as a DAG, with its line graph.

The state of a pLSTM lives on the edges of a DAG and moves along *line edges*: pairs
``(e_in, e_out)`` of DAG edges with ``dst(e_in) == src(e_out)``. :class:`LineGraph` holds both
index tensors and, computed once and cached, everything the operators derive from them: levels,
the reversed graph, the multitree, schedules, and size buckets.

The letters of the shapes: N nodes, E DAG edges, L line edges, B graphs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from plstm_graph.dag.levels import find_cycle, line_index_of, longest_path_levels

if TYPE_CHECKING:
    import networkx


def _index_tensor(name: str, value: Any, rows: int | None) -> Tensor:
    """Check that ``value`` is an int64 tensor, [rows, *] or, for ``rows=None``, [*]."""
    shape = "[*]" if rows is None else f"[{rows}, *]"
    if not isinstance(value, Tensor):
        raise ValueError(
            f"expected {name} as an int64 tensor of shape {shape}, got {type(value).__name__}; "
            f"convert it with torch.as_tensor"
        )
    if value.dtype != torch.int64:
        raise ValueError(f"expected {name} of dtype torch.int64, got {value.dtype}; call .long()")
    good = value.dim() == 1 if rows is None else value.dim() == 2 and value.size(0) == rows
    if not good:
        raise ValueError(f"expected {name} of shape {shape}, got {list(value.shape)}")
    return value


def _check_range(name: str, value: Tensor, size: int, what: str) -> None:
    if value.numel() and (int(value.min()) < 0 or int(value.max()) >= size):
        raise ValueError(
            f"expected {name} between 0 and {size - 1} ({size} {what}), "
            f"got values from {int(value.min())} to {int(value.max())}"
        )


def _check_batch(name: str, batch: Tensor, edge_index: Tensor, num_nodes: int) -> None:
    _index_tensor(name, batch, None)
    if batch.device != edge_index.device:
        raise ValueError(
            f"expected {name} on {edge_index.device} like edge_index, got {batch.device}; "
            f"move it with .to()"
        )
    if batch.numel() != num_nodes:
        raise ValueError(
            f"expected {name} with {num_nodes} entries (one per node), got {batch.numel()}"
        )
    if batch.numel() and int(batch.min()) < 0:
        raise ValueError(f"expected {name} >= 0, got {int(batch.min())}")
    src, dst = edge_index
    if not bool((batch[src] == batch[dst]).all()):
        raise ValueError(f"expected edges inside one graph, got an edge between two of {name}")


class LineGraph:
    r"""A DAG and its line graph.

    The order of edges and line edges is the caller's: gates follow it, whatever is sorted
    inside. Build one explicitly here, or with :meth:`from_edge_index`, :meth:`from_networkx`,
    :meth:`from_data` or :func:`plstm_graph.grid_line_graph`.

    Args:
        num_nodes: N.
        edge_index: [2, E] int64, DAG edges (src row 0, dst row 1).
        line_index: [2, L] int64, line edges (e_in row 0, e_out row 1) with
            ``dst(e_in) == src(e_out)``. It may leave out pairs (a pruned line graph).
        edge_id: [E] int64, the column of the input ``edge_index`` each DAG edge came from
            (its row of ``edge_attr``). Default: ``arange(E)``.
        node_batch: [N] int64, the graph of each node. Only an aid: it tells the operators
            which nodes belong together; without it they look for connected components.

    Raises:
        ValueError: on a wrong shape, dtype, device or range, on a line edge whose edges do not
            meet, and on a directed cycle.
    """

    def __init__(
        self,
        num_nodes: int,
        edge_index: Tensor,
        line_index: Tensor,
        edge_id: Tensor | None = None,
        node_batch: Tensor | None = None,
    ) -> None:
        edge_index = _index_tensor("edge_index", edge_index, 2)
        if edge_id is None:
            edge_id = torch.arange(edge_index.size(1), device=edge_index.device)
        self._set(int(num_nodes), edge_index, line_index, edge_id, node_batch)
        self.validate()

    def _set(
        self,
        num_nodes: int,
        edge_index: Tensor,
        line_index: Tensor,
        edge_id: Tensor,
        node_batch: Tensor | None,
        *,
        is_multitree: bool = False,
    ) -> None:
        self.num_nodes = num_nodes
        self.edge_index = edge_index
        self.line_index = line_index
        self.edge_id = edge_id
        self.node_batch = node_batch
        #: True if the line edges were pruned to a multitree; :meth:`reverse` keeps it.
        self.is_multitree = is_multitree
        #: [L] rows of the unpruned graph's ``line_index``, for a graph made by :meth:`multitree`.
        self.line_id: Tensor | None = None
        #: False for an original, True for its reverse.
        self.is_reversed = False
        self._cache: dict[Any, Any] = {}
        # One dictionary for a graph, its reverse and its multitree: what is the same for all.
        self._family: dict[Any, Any] = {"original": self}

    @classmethod
    def _trusted(cls, *args: Any, **kwargs: Any) -> LineGraph:
        """Construct without validation, from parts that are valid by construction."""
        self = cls.__new__(cls)
        self._set(*args, **kwargs)
        return self

    # ---------------------------------------------------------------- constructors

    @classmethod
    def from_edge_index(
        cls,
        edge_index: Tensor,
        num_nodes: int | None = None,
        orientation: str | Tensor = "auto",
        batch: Tensor | None = None,
        *,
        seed: int | None = None,
    ) -> LineGraph:
        """Orient a graph, or a disjoint union of graphs, and build its line graph.

        Args:
            edge_index: [2, M] int64. A directed acyclic graph is kept exactly as it is; a
                symmetric one (each undirected edge stored in both directions) is oriented and
                keeps one column of each pair.
            num_nodes: N. Default: the largest index in ``edge_index`` plus one.
            orientation: see :func:`plstm_graph.dag.orient.orient`.
            batch: [N] int64 graph of each node: symmetry and cycles are judged per graph.
            seed: for ``orientation="random"`` and ``"random_bfs"``.

        Raises:
            ValueError: on bad input, a self-loop, a directed cycle (named), or a graph that is
                neither acyclic nor symmetric.
        """
        from plstm_graph.dag.orient import orient

        edge_index = _index_tensor("edge_index", edge_index, 2)
        if num_nodes is None:
            num_nodes = int(edge_index.max()) + 1 if edge_index.numel() else 0
            num_nodes = max(num_nodes, batch.numel() if isinstance(batch, Tensor) else 0)
        if num_nodes < 0:
            raise ValueError(f"expected num_nodes >= 0, got {num_nodes}")
        _check_range("edge_index", edge_index, num_nodes, "nodes")
        if batch is not None:
            _check_batch("batch", batch, edge_index, num_nodes)
        edge_id = orient(edge_index, num_nodes, orientation, batch=batch, seed=seed)
        dag = edge_index[:, edge_id]
        line = line_index_of(dag.cpu().numpy(), num_nodes)
        line_index = torch.from_numpy(line).to(edge_index.device)
        return cls._trusted(num_nodes, dag, line_index, edge_id, batch)

    @classmethod
    def from_networkx(cls, g: networkx.Graph, orientation: str | Tensor = "auto") -> LineGraph:
        """From a networkx graph; nodes are numbered in the order of ``g.nodes``.

        See :func:`plstm_graph.dag.convert.from_networkx`.
        """
        from plstm_graph.dag.convert import from_networkx

        return from_networkx(g, orientation)

    def to_networkx(self) -> networkx.MultiDiGraph:
        """The DAG as a networkx graph. See :func:`plstm_graph.dag.convert.to_networkx`."""
        from plstm_graph.dag.convert import to_networkx

        return to_networkx(self)

    @classmethod
    def from_data(cls, data: Any) -> LineGraph:
        """The line graph that :class:`plstm_graph.ToLineGraph` stored in a ``Data`` or ``Batch``.

        It is built once per batch object and cached on it. See
        :func:`plstm_graph.data.line_graph_from_data`.
        """
        from plstm_graph.data import line_graph_from_data

        return line_graph_from_data(data)

    # ---------------------------------------------------------------- sizes and levels

    @property
    def num_edges(self) -> int:
        return self.edge_index.size(1)

    @property
    def num_line_edges(self) -> int:
        return self.line_index.size(1)

    @property
    def device(self) -> torch.device:
        return self.edge_index.device

    @property
    def level(self) -> Tensor:
        """[E] topological level of each edge: its longest path over ``line_index``."""
        if "level" not in self._cache:
            level = longest_path_levels(self.line_index.cpu().numpy(), self.num_edges)
            self._cache["level"] = torch.from_numpy(level).to(self.device)
        return self._cache["level"]

    @property
    def num_levels(self) -> int:
        if "num_levels" not in self._cache:
            self._cache["num_levels"] = int(self.level.max()) + 1 if self.num_edges else 0
        return self._cache["num_levels"]

    @property
    def line_node(self) -> Tensor:
        """[L] the junction node of each line edge, where its two edges meet."""
        if "line_node" not in self._cache:
            self._cache["line_node"] = self.edge_index[0, self.line_index[1]]
        return self._cache["line_node"]

    # ---------------------------------------------------------------- derived graphs

    def reverse(self) -> LineGraph:
        """All edges and line edges turned round; their rows keep their place. Cached."""
        if "reverse" not in self._cache:
            other = LineGraph._trusted(
                self.num_nodes,
                self.edge_index.flip(0),
                self.line_index.flip(0),
                self.edge_id,
                self.node_batch,
                is_multitree=self.is_multitree,
            )
            other.line_id = self.line_id
            other.is_reversed = not self.is_reversed
            other._cache["reverse"] = self
            other._family = self._family
            self._cache["reverse"] = other
        return self._cache["reverse"]

    def multitree(self) -> LineGraph:
        """Line edges pruned so that at most one path joins any two edges (D-mode). Cached.

        Edges keep their rows; ``line_id`` of the result tells which line edges were kept. It
        commutes with :meth:`reverse`. See :mod:`plstm_graph.dag.multitree`.
        """
        if self.is_multitree:
            return self
        if "multitree" not in self._cache:
            if self.is_reversed and "multitree_mask" not in self._cache:
                # The choice is the original's, whichever of the two is asked first.
                self._cache["multitree"] = self.reverse().multitree().reverse()
                return self._cache["multitree"]
            reverse = self._cache.get("reverse")
            if reverse is not None and "multitree" in reverse._cache:
                self._cache["multitree"] = reverse.multitree().reverse()
                return self._cache["multitree"]
            if reverse is not None and "multitree_mask" in reverse._cache:
                # Rows of line edges are the same, and so must be the choice (given with the
                # data, for instance): forward and reversed layers see one multitree.
                self._cache["multitree_mask"] = reverse._cache["multitree_mask"]
            if "multitree_mask" not in self._cache:
                from plstm_graph.dag.multitree import multitree_mask

                mask = multitree_mask(self.edge_index.cpu().numpy(), self.line_index.cpu().numpy())
                self._cache["multitree_mask"] = torch.from_numpy(mask).to(self.device)
            line_id = self._cache["multitree_mask"].nonzero().view(-1)
            other = LineGraph._trusted(
                self.num_nodes,
                self.edge_index,
                self.line_index[:, line_id],
                self.edge_id,
                self.node_batch,
                is_multitree=True,
            )
            other.line_id = line_id
            other.is_reversed = self.is_reversed
            other._family = self._family
            self._cache["multitree"] = other
            if reverse is not None:
                reverse._cache["multitree"] = other.reverse()
        return self._cache["multitree"]

    def to(self, device: torch.device | str) -> LineGraph:
        """This graph on another device; what was derived from it is derived anew there."""
        device = torch.device(device)
        if device == self.device:
            return self
        other = LineGraph._trusted(
            self.num_nodes,
            self.edge_index.to(device),
            self.line_index.to(device),
            self.edge_id.to(device),
            None if self.node_batch is None else self.node_batch.to(device),
            is_multitree=self.is_multitree,
        )
        other.line_id = None if self.line_id is None else self.line_id.to(device)
        other.is_reversed = self.is_reversed
        for key in ("level", "num_levels", "multitree_mask"):
            if key in self._cache:
                value = self._cache[key]
                other._cache[key] = value.to(device) if isinstance(value, Tensor) else value
        return other

    # ---------------------------------------------------------------- checks

    def validate(self) -> LineGraph:
        """Check every invariant; raises ``ValueError`` naming what is wrong."""
        n, e = self.num_nodes, self.num_edges
        if n < 0:
            raise ValueError(f"expected num_nodes >= 0, got {n}")
        _index_tensor("edge_index", self.edge_index, 2)
        _index_tensor("line_index", self.line_index, 2)
        _index_tensor("edge_id", self.edge_id, None)
        for name, tensor in {"line_index": self.line_index, "edge_id": self.edge_id}.items():
            if tensor.device != self.device:
                raise ValueError(
                    f"expected {name} on {self.device} like edge_index, got {tensor.device}; "
                    f"move it with .to()"
                )
        _check_range("edge_index", self.edge_index, n, "nodes")
        _check_range("line_index", self.line_index, e, "edges")
        if self.edge_id.numel() != e:
            raise ValueError(f"expected edge_id with {e} entries, got {self.edge_id.numel()}")
        if self.edge_id.numel() and int(self.edge_id.min()) < 0:
            raise ValueError(f"expected edge_id >= 0, got {int(self.edge_id.min())}")
        if self.node_batch is not None:
            _check_batch("node_batch", self.node_batch, self.edge_index, n)
        e_in, e_out = self.line_index
        meets = self.edge_index[1, e_in] == self.edge_index[0, e_out]
        if not bool(meets.all()):
            l = int((~meets).nonzero()[0])
            a, b = self.line_index[:, l].tolist()
            (u, v), (w, x) = self.edge_index[:, a].tolist(), self.edge_index[:, b].tolist()
            raise ValueError(
                f"expected line_index to join edges that meet (dst of e_in == src of e_out), got "
                f"column {l}: edge {a} ({u}->{v}) to edge {b} ({w}->{x})"
            )
        edges = self.edge_index.cpu().numpy()
        level = longest_path_levels(edges, n)
        if (level < 0).any():
            cycle = " -> ".join(map(str, find_cycle(edges, n, level)))
            raise ValueError(
                f"expected edge_index to be acyclic, got the directed cycle {cycle}; "
                f"orient the graph with LineGraph.from_edge_index"
            )
        pairs = self.line_index[0] * max(e, 1) + self.line_index[1]
        if int(np.unique(pairs.cpu().numpy()).size) != pairs.numel():
            raise ValueError("expected each pair of edges once in line_index, got duplicates")
        return self

    def __repr__(self) -> str:
        kind = ", multitree" if self.is_multitree else ""
        return (
            f"{type(self).__name__}(num_nodes={self.num_nodes}, num_edges={self.num_edges}, "
            f"num_line_edges={self.num_line_edges}{kind})"
        )

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the graph, not its caches: they refer to each other and are cheap to rebuild."""
        keep = ("level", "num_levels", "multitree_mask")
        cache = {key: self._cache[key] for key in keep if key in self._cache}
        return {**self.__dict__, "_cache": cache, "_family": {"original": self}}
