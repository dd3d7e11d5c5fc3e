r"""A graph oriented as a DAG, with its line graph.

The state of a pLSTM lives on the edges of a graph and moves along *line edges*: pairs
``(e_in, e_out)`` of edges with ``dst(e_in) == src(e_out)``. Only the line edges must have no cycle;
the graph underneath may contain both directions of an edge (:meth:`LineGraph.two_way`).

The letters of the shapes: N nodes, E edges, L line edges, B graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from plstm_graph.checks import integer
from plstm_graph.dag import relatives
from plstm_graph.dag.checks import (
    check_batch,
    check_line_graph,
    check_range,
    feature_keys,
    index_tensor,
)
from plstm_graph.dag.family import Family, Kind, Member, no_views
from plstm_graph.dag.tracing import made_outside, unwrapped

if TYPE_CHECKING:
    import networkx

    from plstm_graph.dag.build import LineParts


class LineGraph:
    r"""A graph and its acyclic line graph.

    The order of edges and line edges is the caller's: gates follow it, whatever is sorted
    inside. Build one explicitly here, or with :meth:`from_edge_index`, :meth:`from_networkx`,
    :meth:`from_data` or :func:`plstm_graph.grid_line_graph`.

    A graph and all that is derived from it (:meth:`reverse`, :meth:`two_way`, :meth:`multitree`)
    share one store of derived tensors, which is freed with the last of them. Two objects are equal
    if they are the same member of one such family.

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
        num_nodes: N.
        edge_index, edge_id, node_batch: as above; the tensors are copies.
        opposite_id: [E] int64, the input's column of the opposite direction, -1 for an edge whose
            graph was directed; ``None`` where no graph was undirected.
        node_rank: [N] int64 or floating point, the ranks that oriented the graph and that break
            ties in :meth:`multitree`; ``None`` for the node's index.
        twin: [E] int64, the row of the other direction of the same edge in a two-way graph, -1
            where there is none; ``None`` in a one-way graph.
        is_two_way: whether :meth:`two_way` made this graph (or the one it is derived from).
        is_multitree: whether the line edges were pruned to a multitree.
        is_reversed: False for an original, True for its reverse.
        family, kind: the store of derived tensors, and the member that this graph is of it
            (:mod:`plstm_graph.dag.family`).

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
        integer("num_nodes", num_nodes, 0)
        edge_index = index_tensor("edge_index", edge_index, 2)
        line_index = index_tensor("line_index", line_index, 2)
        if edge_id is None:
            edge_id = torch.arange(edge_index.size(1), device=edge_index.device)
        edge_id = index_tensor("edge_id", edge_id, None)
        if node_batch is not None:
            index_tensor("node_batch", node_batch, None)
        member = Member(_own(edge_index), _own(edge_id))
        batch = None if node_batch is None else _own(node_batch)
        family = Family(num_nodes, member, batch, line_index=_own(line_index))
        self._enter(family, Kind.ORIGINAL)
        self.validate()

    def _enter(self, family: Family, kind: int) -> None:
        """Become the member ``kind`` of ``family``, whose edges are known there."""
        self.family, self.kind = family, kind
        self.num_nodes: int = family.num_nodes
        self.node_batch: Tensor | None = family.node_batch
        self.node_rank: Tensor | None = family.node_rank
        member = family.members[kind & ~Kind.MULTITREE]
        self.edge_index, self.edge_id, self.opposite_id, self._direction, self.twin = member
        self.is_two_way = self.twin is not None
        self.is_multitree = bool(kind & Kind.MULTITREE) or family.is_multitree
        self.is_reversed = bool(kind & Kind.REVERSED)

    @classmethod
    def of(cls, family: Family, kind: int = Kind.ORIGINAL) -> LineGraph:
        """A member of a family that is valid by construction."""
        self = cls.__new__(cls)
        self._enter(family, kind)
        return self

    # ---------------------------------------------------------------- constructors

    @classmethod
    @made_outside("build it before")
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
        """Orient a graph, or a disjoint union of graphs.

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
        from plstm_graph.dag.orient import check_orientation

        edge_index, batch = unwrapped("edge_index", edge_index), unwrapped("batch", batch)
        read = isinstance(orientation, str) and orientation == "canonical"
        x, edge_attr = unwrapped("x", x, read), unwrapped("edge_attr", edge_attr, read)
        edge_index = index_tensor("edge_index", edge_index, 2)
        check_orientation(orientation)
        if num_nodes is None:
            num_nodes = int(edge_index.max()) + 1 if edge_index.numel() else 0
            num_nodes = max(num_nodes, batch.numel() if isinstance(batch, Tensor) else 0)
        integer("num_nodes", num_nodes, 0)
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
            lines=False,
        )
        with torch.inference_mode(False):  # it must serve in training, too
            return cls.of_parts(num_nodes, parts, batch, edge_index.device)

    @classmethod
    def of_parts(
        cls, num_nodes: int, parts: LineParts, batch: Tensor | None, device: torch.device
    ) -> LineGraph:
        """From what :func:`plstm_graph.dag.build.build_line_parts` made, arrays or tensors."""
        tensors = {
            name: no_views(part.contiguous())
            if isinstance(part, Tensor)
            else torch.from_numpy(np.ascontiguousarray(part)).to(device)
            for name, part in parts._asdict().items()
            if part is not None
        }
        member = Member(tensors["dag_edge_index"], tensors["edge_id"], tensors.get("opposite_id"))
        family = Family(
            num_nodes,
            member,
            None if batch is None else _own(batch),
            tensors.get("node_rank"),
            line_index=tensors.get("line_index"),
            level=tensors["level"],
            multitree_mask=tensors.get("multitree_mask"),
            complete=True,
        )
        return cls.of(family)

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

    # ---------------------------------------------------------------- sizes and indices

    @property
    def num_edges(self) -> int:
        return self.edge_index.size(1)

    @property
    def num_line_edges(self) -> int:
        """L, known without ``line_index`` where all edges that meet are line edges."""
        if self.has_plan("line_index"):
            return self.line_index.size(1)
        return self.plan("num_line_edges", relatives.num_line_edges)

    @property
    def device(self) -> torch.device:
        return self.edge_index.device

    @property
    def line_index(self) -> Tensor:
        """[2, L] int64: e_in row 0, e_out row 1. Made when it is first asked for.

        Raises:
            ValueError: where L passes :data:`plstm_graph.dag.levels.MAX_LINE_EDGES`.
        """
        return self.plan("line_index", relatives.line_index)

    @property
    def line_id(self) -> Tensor | None:
        """[L] rows of the unpruned graph's ``line_index``; ``None`` where nothing was pruned."""
        if not self.is_multitree:
            return None
        return self.plan("line_id", relatives.line_id)

    @property
    def is_complete(self) -> bool:
        """Whether all pairs of edges that may follow each other are line edges."""
        return self.plan("is_complete", relatives.is_complete)

    @property
    def level(self) -> Tensor:
        """[E] topological level of each edge: its longest path over ``line_index``."""
        return self.plan("level", relatives.level)

    @property
    def num_levels(self) -> int:
        return self.plan(
            "num_levels", lambda graph: int(graph.level.max()) + 1 if graph.num_edges else 0
        )

    @property
    def line_node(self) -> Tensor:
        """[L] the junction node of each line edge, where its two edges meet."""
        return self.plan("line_node", lambda graph: graph.edge_index[0, graph.line_index[1]])

    @property
    def direction(self) -> Tensor:
        """[E] int64, 0 for edges of a two-way graph that run against the order of the DAG, 1 for
        those along it (all 1 in a one-way graph)."""
        if self._direction is not None:
            return self._direction
        return self.plan("direction", lambda graph: torch.ones_like(graph.edge_id))

    @property
    def is_changed(self) -> bool:
        """Whether a tensor of this graph or of a relative was changed in place since it was made:
        what was derived from it is wrong then."""
        return self.family.is_changed

    @property
    def undirected(self) -> Tensor:
        """[E] bool, whether an edge's graph was undirected, so that its opposite is an input."""
        if self.opposite_id is None:
            return torch.zeros_like(self.edge_id, dtype=torch.bool)
        return self.opposite_id >= 0

    # ---------------------------------------------------------------- plans

    def plan(self, key: Hashable, make: Callable[[LineGraph], Any]) -> Any:
        """What ``make`` derives from this graph, made at the first call and kept with the family.

        Safe to call from several threads. The result must not hold a member of this family.

        Args:
            key: of the result; the same key always stands for the same ``make``.
            make: from this graph to anything.
        """
        plans = self.family.plans
        key = (self.kind, key)
        if key in plans:
            return plans[key]
        return self.family.make(key, make, self)

    def has_plan(self, key: Hashable) -> bool:
        """Whether :meth:`plan` has a result for ``key``."""
        return (self.kind, key) in self.family.plans

    @property
    def root(self) -> LineGraph:
        """The unpruned, unreversed member that has the same edges: what it and its reverse and
        multitree have in common is planned there."""
        kind = self.kind & ~(Kind.REVERSED | Kind.MULTITREE)
        return self if kind == self.kind else LineGraph.of(self.family, kind)

    # ---------------------------------------------------------------- derived graphs

    def relative(self, kind: int) -> LineGraph:
        """Another member, whose edges are derived from this one's where they are not known."""
        edges = kind & ~Kind.MULTITREE
        if edges not in self.family.members:
            self.family.make_member(edges, relatives.member, self)
        return LineGraph.of(self.family, kind)

    def reverse(self) -> LineGraph:
        """All edges and line edges turned round; their rows keep their place.

        An edge of an undirected graph then is the input's column of the opposite direction. The
        reverse of a two-way graph is the same graph with its two halves swapped.
        """
        return self.relative(self.kind ^ Kind.REVERSED)

    def two_way(self) -> LineGraph:
        """Both directions of every edge, see :mod:`plstm_graph.dag.two_way`.

        Rows [0, E) are the against edges (v -> u) of the edges (u -> v) of this graph, rows
        [E, 2E) the along edges, both in the order of this graph. Line edges lead from against to
        against, from against to along (never straight back), and from along to along edges. A
        two-way graph is returned as it is.

        Raises:
            ValueError: on a graph made by :meth:`multitree`, which is to come after it.
        """
        return self._two_way(Kind.TWO_WAY)

    def two_way_where_undirected(self) -> LineGraph:
        """:meth:`two_way` for the graphs of a batch that were undirected; the edges of others stay
        as they are. Without undirected graphs, this graph itself."""
        if self.is_two_way or self.opposite_id is None:
            return self
        some = self.plan("undirected", relatives.share_undirected)
        if some == "none":
            return self
        return self._two_way(Kind.TWO_WAY if some == "all" else Kind.MIXED)

    def _two_way(self, way: int) -> LineGraph:
        if self.is_two_way:
            return self
        if self.is_multitree:
            raise ValueError(
                "expected two_way() before multitree(), got a graph that is pruned already; call "
                "line_graph.two_way().multitree()"
            )
        turned = Kind.TURNED if self.is_reversed else 0
        return self.relative(way | turned)

    def multitree(self) -> LineGraph:
        """Line edges pruned so that at most one path joins any two edges (D-mode).

        Edges keep their rows; ``line_id`` of the result tells which line edges were kept. It
        commutes with :meth:`reverse`. See :mod:`plstm_graph.dag.multitree`, and for two-way graphs
        :mod:`plstm_graph.dag.two_way`.
        """
        return self if self.is_multitree else self.relative(self.kind | Kind.MULTITREE)

    def with_ids(self, edge_id: Tensor, opposite_id: Tensor | None) -> LineGraph:
        """An original graph whose edges are other columns of the input."""
        member = no_views(Member(self.edge_index, edge_id, opposite_id))
        return LineGraph.of(self.family.with_original(member))

    def to(self, device: torch.device | str) -> LineGraph:
        """This graph on another device; most of what was derived from it is derived again there."""
        device = torch.device(device)
        return self if device == self.device else LineGraph.of(self.family.to(device), self.kind)

    # ---------------------------------------------------------------- checks

    def validate(self) -> LineGraph:
        """Check every invariant; raises ``ValueError`` naming what is wrong."""
        check_line_graph(self)
        return self

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LineGraph):
            return NotImplemented
        return self.family is other.family and self.kind == other.kind

    def __hash__(self) -> int:
        return hash((id(self.family), self.kind))

    def __repr__(self) -> str:
        kind = (", two-way" if self.is_two_way else "") + (", multitree" * self.is_multitree)
        return (
            f"{type(self).__name__}(num_nodes={self.num_nodes}, num_edges={self.num_edges}, "
            f"num_line_edges={self.num_line_edges}{kind})"
        )

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the graph, not its plans, which are cheap to rebuild."""
        return {"family": self.family.bare(self.kind), "kind": self.kind}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._enter(state["family"], state["kind"])


def _own(tensor: Tensor) -> Tensor:
    """A copy that nobody else changes, and that serves in training where it was made in inference
    mode."""
    with torch.inference_mode(False):
        return tensor.detach().clone(memory_format=torch.contiguous_format)
