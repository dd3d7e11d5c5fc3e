r"""A graph oriented as a DAG, with its line graph.

The state of a pLSTM lives on the edges of a graph and moves along *line edges*: pairs
``(e_in, e_out)`` of edges with ``dst(e_in) == src(e_out)``. Only the line edges must have no cycle;
the graph underneath may contain both directions of an edge (:meth:`LineGraph.two_way`).
:class:`LineGraph` holds both index tensors and, computed once and cached, everything the operators
derive from them: levels, the reversed and the two-way graph, the multitree, schedules, and size
buckets.

The letters of the shapes: N nodes, E edges, L line edges, B graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from plstm_graph.dag.checks import (
    check_batch,
    check_line_graph,
    check_range,
    feature_keys,
    index_tensor,
)
from plstm_graph.dag.levels import longest_path_levels

if TYPE_CHECKING:
    import networkx

    from plstm_graph.dag.build import LineParts


class LineGraph:
    r"""A graph and its acyclic line graph.

    The order of edges and line edges is the caller's: gates follow it, whatever is sorted
    inside. Build one explicitly here, or with :meth:`from_edge_index`, :meth:`from_networkx`,
    :meth:`from_data` or :func:`plstm_graph.grid_line_graph`.

    Args:
        num_nodes: N.
        edge_index: [2, E] int64, edges (src row 0, dst row 1).
        line_index: [2, L] int64, line edges (e_in row 0, e_out row 1) with
            ``dst(e_in) == src(e_out)`` and no cycle. It may leave out pairs (a pruned line graph,
            or one of a graph with cycles).
        edge_id: [E] int64, the column of the input ``edge_index`` each edge came from
            (its row of ``edge_attr``). Default: ``arange(E)``.
        node_batch: [N] int64, the graph of each node. Only an aid: it tells the operators
            which nodes belong together; without it they look for connected components.

    Attributes:
        opposite_id: [E] int64, the input's column of the opposite direction, -1 for an edge whose
            graph was directed; ``None`` where no graph was undirected.
        node_rank: [N] int64 or floating point, the ranks that oriented the graph and that break
            ties in :meth:`multitree`; ``None`` for the node's index.
        direction: [E] int64, 0 for edges of a two-way graph that run against the order of the DAG,
            1 for those along it (all 1 in a one-way graph).

    Raises:
        ValueError: on a wrong shape, dtype, device or range, on a line edge whose edges do not
            meet, and on a directed cycle of line edges.
    """

    def __init__(
        self,
        num_nodes: int,
        edge_index: Tensor,
        line_index: Tensor,
        edge_id: Tensor | None = None,
        node_batch: Tensor | None = None,
    ) -> None:
        edge_index = index_tensor("edge_index", edge_index, 2)
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
        self.opposite_id: Tensor | None = None
        self.node_rank: Tensor | None = None
        # [E] row of the one-way graph that each edge of a two-way graph is a direction of.
        self._dag_id: Tensor | None = None
        self._direction: Tensor | None = None
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
        orientation: str | Tensor = "canonical",
        batch: Tensor | None = None,
        *,
        x: Tensor | None = None,
        edge_attr: Tensor | None = None,
        seed: int | None = None,
    ) -> LineGraph:
        """Orient a graph, or a disjoint union of graphs, and build its line graph.

        Args:
            edge_index: [2, M] int64. A directed acyclic graph is kept exactly as it is; a
                symmetric one (each undirected edge stored in both directions) is oriented: the
                column of each pair that runs to the higher rank becomes the edge.
            num_nodes: N. Default: the largest index in ``edge_index`` plus one.
            orientation: see :func:`plstm_graph.dag.orient.orient`. Default ``"canonical"``.
            batch: [N] int64 graph of each node: symmetry and cycles are judged per graph.
            x: [N, F] node features and edge_attr: [M, F'] edge features, which
                ``orientation="canonical"`` tells nodes apart by. Default: structure alone.
            seed: for ``orientation="random"`` and ``"random_bfs"``.

        Raises:
            ValueError: on bad input, a self-loop, a directed cycle (named), or a graph that is
                neither acyclic nor symmetric.
        """
        from plstm_graph.dag.build import build_line_parts

        edge_index = index_tensor("edge_index", edge_index, 2)
        if num_nodes is None:
            num_nodes = int(edge_index.max()) + 1 if edge_index.numel() else 0
            num_nodes = max(num_nodes, batch.numel() if isinstance(batch, Tensor) else 0)
        if num_nodes < 0:
            raise ValueError(f"expected num_nodes >= 0, got {num_nodes}")
        check_range("edge_index", edge_index, num_nodes, "nodes")
        if batch is not None:
            check_batch("batch", batch, edge_index, num_nodes)
        parts = build_line_parts(
            edge_index.cpu().numpy(),
            num_nodes,
            orientation.detach().cpu().numpy() if isinstance(orientation, Tensor) else orientation,
            None if batch is None else batch.cpu().numpy(),
            seed,
            node_keys=feature_keys("x", x, num_nodes),
            edge_keys=feature_keys("edge_attr", edge_attr, edge_index.size(1)),
            multitree=False,
        )
        dag = edge_index[:, torch.from_numpy(parts.edge_id).to(edge_index.device)]
        return cls._of_parts(num_nodes, parts, batch, edge_index.device, dag)

    @classmethod
    def _of_parts(
        cls,
        num_nodes: int,
        parts: LineParts,
        batch: Tensor | None,
        device: torch.device,
        dag: Tensor | None = None,
    ) -> LineGraph:
        """From what :func:`plstm_graph.dag.build.build_line_parts` made, arrays or tensors."""
        tensors = {
            name: part if isinstance(part, Tensor) else torch.from_numpy(part).to(device)
            for name, part in parts._asdict().items()
            if part is not None
        }
        self = cls._trusted(
            num_nodes,
            tensors["dag_edge_index"] if dag is None else dag,
            tensors["line_index"],
            tensors["edge_id"],
            batch,
        )
        self.opposite_id = tensors.get("opposite_id")
        self.node_rank = tensors.get("node_rank")
        self._cache["level"] = tensors["level"]
        if "multitree_mask" in tensors:
            self._cache["multitree_mask"] = tensors["multitree_mask"]
        return self

    @classmethod
    def from_networkx(cls, g: networkx.Graph, orientation: str | Tensor = "canonical") -> LineGraph:
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

    @property
    def direction(self) -> Tensor:
        if self._direction is None:
            self._direction = torch.ones(self.num_edges, dtype=torch.int64, device=self.device)
        return self._direction

    @property
    def is_two_way(self) -> bool:
        """Whether :meth:`two_way` made this graph (or the one it is derived from)."""
        return self._dag_id is not None

    @property
    def undirected(self) -> Tensor:
        """[E] bool, whether an edge's graph was undirected, so that its opposite is an input."""
        if self.opposite_id is None:
            return torch.zeros(self.num_edges, dtype=torch.bool, device=self.device)
        return self.opposite_id >= 0

    # ---------------------------------------------------------------- plans

    def plan(self, key: Hashable, make: Callable[[LineGraph], Any]) -> Any:
        """What ``make`` derives from this graph, made at the first call and kept with it.

        Args:
            key: of the result; the same key always stands for the same ``make``.
            make: from this graph to anything.
        """
        if key not in self._cache:
            self._cache[key] = make(self)
        return self._cache[key]

    def has_plan(self, key: Hashable) -> bool:
        """Whether :meth:`plan` has a result for ``key``: nothing can be made while compiling."""
        return key in self._cache

    # ---------------------------------------------------------------- derived graphs

    def _derive(self, edge_index: Tensor, line_index: Tensor, edge_id: Tensor, **kw) -> LineGraph:
        """A graph of the same nodes and, unless it says otherwise, the same edges."""
        other = LineGraph._trusted(
            self.num_nodes, edge_index, line_index, edge_id, self.node_batch, **kw
        )
        for name in ("opposite_id", "node_rank", "_dag_id", "_direction", "line_id", "is_reversed"):
            setattr(other, name, getattr(self, name))
        return other

    def reverse(self) -> LineGraph:
        """All edges and line edges turned round; their rows keep their place. Cached.

        An edge of an undirected graph then is the input's column of the opposite direction. The
        reverse of a two-way graph is the same graph with its two halves swapped.
        """
        if "reverse" not in self._cache:
            edge_id, opposite_id = self._opposite()
            other = self._derive(
                self.edge_index.flip(0),
                self.line_index.flip(0),
                edge_id,
                is_multitree=self.is_multitree,
            )
            other.opposite_id = opposite_id
            if self.is_two_way:
                other._direction = 1 - self.direction
            other.is_reversed = not self.is_reversed
            other._cache["reverse"] = self
            other._family = self._family
            self._cache["reverse"] = other
        return self._cache["reverse"]

    def _opposite(self) -> tuple[Tensor, Tensor | None]:
        """``edge_id`` and ``opposite_id`` of the edges turned round."""
        if self.opposite_id is None:
            return self.edge_id, None
        known = self.opposite_id >= 0
        edge_id = torch.where(known, self.opposite_id, self.edge_id)
        return edge_id, torch.where(known, self.edge_id, self.opposite_id)

    def two_way(self) -> LineGraph:
        """Both directions of every edge, see :mod:`plstm_graph.dag.two_way`. Cached.

        Rows [0, E) are the against edges (v -> u) of the edges (u -> v) of this graph, rows
        [E, 2E) the along edges, both in the order of this graph. Line edges lead from against to
        against, from against to along (never straight back), and from along to along edges. A
        two-way graph is returned as it is.

        Raises:
            ValueError: on a graph made by :meth:`multitree`, which is to come after it.
        """
        return self._two_way("two_way", None)

    def two_way_where_undirected(self) -> LineGraph:
        """:meth:`two_way` for the graphs of a batch that were undirected; the edges of others stay
        as they are. Cached. Without undirected graphs, this graph itself."""
        if self.is_two_way or self.opposite_id is None:
            return self
        key = "two_way_where_undirected"
        if key not in self._cache:
            undirected = self.undirected
            if bool(undirected.all()):
                self._cache[key] = self.two_way()
            elif not bool(undirected.any()):
                return self
        if key in self._cache:
            return self._cache[key]
        return self._two_way(key, self.undirected.nonzero().view(-1))

    def _two_way(self, key: str, turning: Tensor | None) -> LineGraph:
        if self.is_two_way:
            return self
        if self.is_multitree:
            raise ValueError(
                "expected two_way() before multitree(), got a graph that is pruned already; call "
                "line_graph.two_way().multitree()"
            )
        if key not in self._cache:
            from plstm_graph.dag.two_way import two_way_line_index

            dag = self.edge_index
            rows = torch.arange(self.num_edges, device=self.device)
            turning = rows if turning is None else turning
            lines = two_way_line_index(
                dag.cpu().numpy(),
                self.line_index.cpu().numpy(),
                self.num_nodes,
                None if turning.numel() == self.num_edges else turning.cpu().numpy(),
            )
            turned_id, turned_opposite = self._opposite()
            other = self._derive(
                torch.cat([dag.flip(0)[:, turning], dag], dim=1),
                torch.from_numpy(lines).to(self.device),
                torch.cat([turned_id[turning], self.edge_id]),
            )
            if turned_opposite is not None:
                other.opposite_id = torch.cat([turned_opposite[turning], self.opposite_id])
            other.is_reversed = False
            other._dag_id = torch.cat([turning, rows])
            other._direction = (torch.arange(other.num_edges) >= turning.numel()).long()
            other._direction = other._direction.to(self.device)
            self._cache[key] = other
        return self._cache[key]

    def multitree(self) -> LineGraph:
        """Line edges pruned so that at most one path joins any two edges (D-mode). Cached.

        Edges keep their rows; ``line_id`` of the result tells which line edges were kept. It
        commutes with :meth:`reverse`. See :mod:`plstm_graph.dag.multitree`, and for two-way graphs
        :mod:`plstm_graph.dag.two_way`.
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
                self._cache["multitree_mask"] = torch.from_numpy(self._prune()).to(self.device)
            line_id = self._cache["multitree_mask"].nonzero().view(-1)
            other = self._derive(
                self.edge_index, self.line_index[:, line_id], self.edge_id, is_multitree=True
            )
            other.line_id = line_id
            other._family = self._family
            self._cache["multitree"] = other
            if reverse is not None:
                reverse._cache["multitree"] = other.reverse()
        return self._cache["multitree"]

    def _prune(self) -> np.ndarray:
        """[L] bool, the line edges of the multitree."""
        edge_index, line_index = self.edge_index.cpu().numpy(), self.line_index.cpu().numpy()
        rank = None if self.node_rank is None else self.node_rank.cpu().numpy()
        if not self.is_two_way:
            from plstm_graph.dag.multitree import multitree_mask

            return multitree_mask(edge_index, line_index, rank)
        from plstm_graph.dag.two_way import two_way_multitree_mask

        along = self.direction.cpu().numpy() == 1
        rank = np.arange(self.num_nodes) if rank is None else rank
        original = self._dag_id.cpu().numpy()
        return two_way_multitree_mask(edge_index, line_index, self.num_nodes, along, original, rank)

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
        for name in ("line_id", "opposite_id", "node_rank", "_dag_id", "_direction"):
            value = getattr(self, name)
            setattr(other, name, None if value is None else value.to(device))
        other.is_reversed = self.is_reversed
        for key in ("level", "num_levels", "multitree_mask"):
            if key in self._cache:
                value = self._cache[key]
                other._cache[key] = value.to(device) if isinstance(value, Tensor) else value
        return other

    # ---------------------------------------------------------------- checks

    def validate(self) -> LineGraph:
        """Check every invariant; raises ``ValueError`` naming what is wrong."""
        check_line_graph(self)
        return self

    def __repr__(self) -> str:
        kind = (", two-way" if self.is_two_way else "") + (", multitree" * self.is_multitree)
        return (
            f"{type(self).__name__}(num_nodes={self.num_nodes}, num_edges={self.num_edges}, "
            f"num_line_edges={self.num_line_edges}{kind})"
        )

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the graph, not its caches: they refer to each other and are cheap to rebuild."""
        keep = ("level", "num_levels", "multitree_mask")
        cache = {key: self._cache[key] for key in keep if key in self._cache}
        return {**self.__dict__, "_cache": cache, "_family": {"original": self}}
