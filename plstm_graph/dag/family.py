"""The store that a line graph shares with its reverse, its two-way graph and their multitrees.

Line graphs are light: they name a member of a family, and what was derived from that member is
kept here. No entry refers to a line graph of the family, so that there are no cycles of
references, and a family is freed with the last graph that belongs to it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Container, Hashable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from plstm_graph.dag.tracing import PREPARE, outside, untraced, without_values

if TYPE_CHECKING:
    from plstm_graph.dag.line_graph import LineGraph


class Kind:
    """Bits that name a member of a family."""

    ORIGINAL = 0
    REVERSED = 1
    MULTITREE = 2
    #: Both directions of all edges, or of those of undirected graphs.
    TWO_WAY, MIXED = 4, 8
    #: The two-way graph of the reversed original.
    TURNED = 16


class Member(NamedTuple):
    """The edges of a member; see the attributes of :class:`plstm_graph.LineGraph`."""

    edge_index: Tensor
    edge_id: Tensor
    opposite_id: Tensor | None = None
    direction: Tensor | None = None
    twin: Tensor | None = None


def no_views(value: Any) -> Any:
    """A table whose tensors are no views of others: ``torch.export`` cannot guard those."""
    if isinstance(value, Tensor):
        return value.data if value._is_view() else value
    if type(value) is list:
        return [no_views(part) for part in value]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return value._make(map(no_views, value))
    return value


#: Plans that a copy on another device takes along, and those that a pickle does.
_MOVED = (
    "line_index", "line_id", "level", "num_levels", "multitree_mask", "num_line_edges",
    "is_complete",
)  # fmt: skip
_PICKLED = ("level", "multitree_mask", "line_id", "is_complete")


class Family:
    """What line graphs have in common.

    Args:
        num_nodes: N.
        original: the edges of the member that all others are derived from.
        node_batch: [N], see :class:`plstm_graph.LineGraph`.
        node_rank: [N], likewise.
        is_multitree: whether the original is pruned already.
        line_index, level, multitree_mask, line_id: of the original, as far as they are known.
        complete: True if all pairs of edges of the original that meet are line edges.
    """

    def __init__(
        self,
        num_nodes: int,
        original: Member,
        node_batch: Tensor | None = None,
        node_rank: Tensor | None = None,
        *,
        is_multitree: bool = False,
        line_index: Tensor | None = None,
        level: Tensor | None = None,
        multitree_mask: Tensor | None = None,
        line_id: Tensor | None = None,
        complete: bool | None = None,
    ) -> None:
        self.num_nodes = num_nodes
        self.node_batch = node_batch
        self.node_rank = node_rank
        self.is_multitree = is_multitree
        self.members: dict[int, Member] = {Kind.ORIGINAL: original}
        known = {
            "line_index": line_index,
            "level": level,
            "multitree_mask": multitree_mask,
            "line_id": line_id,
            "is_complete": complete,
        }
        self.plans: dict[tuple[int, Hashable], Any] = {
            (Kind.ORIGINAL, key): value for key, value in known.items() if value is not None
        }
        # The tracer of torch.export knows no locks; nothing is planned in what it traces.
        tracing = torch.compiler.is_dynamo_compiling()
        self._lock = None if tracing else threading.RLock()
        self._made: list[tuple[Tensor, int]] = []
        if not tracing:
            self._note_all()

    def _note_all(self) -> None:
        self._made = []
        self._note(self.node_batch, self.node_rank)
        for member in self.members.values():
            self._note(*member)
        self._note(*(plan for key, plan in self.plans.items() if key[1] == "line_index"))

    def _note(self, *tensors: Tensor | None) -> None:
        """Remember how often tensors that users can reach were changed when they were made."""
        self._made += [(x, x._version) for x in tensors if x is not None and not x.is_inference()]

    @property
    def is_changed(self) -> bool:
        """Whether one of these tensors was changed in place since."""
        return any(x._version != version for x, version in self._made)

    @untraced
    def make(
        self, key: tuple[int, Hashable], make: Callable[[LineGraph], Any], graph: LineGraph
    ) -> Any:
        """The plan of ``graph`` for ``key``, unless another thread was faster."""
        with self._lock:
            if key not in self.plans:
                self._check_values(graph)
                with outside():
                    self.plans[key] = no_views(make(graph))
                if key[1] == "line_index":
                    self._note(self.plans[key])
            return self.plans[key]

    @untraced
    def make_member(
        self, kind: int, make: Callable[[LineGraph, int], Member], graph: LineGraph
    ) -> None:
        with self._lock:
            if kind not in self.members:
                self._check_values(graph)
                with outside():
                    self.members[kind] = no_views(make(graph, kind))
                self._note(*self.members[kind])

    @staticmethod
    def _check_values(graph: LineGraph) -> None:
        if without_values(graph.edge_index):
            raise ValueError(
                "expected a line graph with all tables that are needed, since torch.export gives "
                f"tensors without values, got one that lacks some; call {PREPARE} before"
            )

    def snapshot(self) -> tuple[dict[int, Member], dict[tuple[int, Hashable], Any]]:
        """The members in the order of their kinds, and the plans, as they are now."""
        with self._lock:
            return dict(sorted(self.members.items())), dict(self.plans)

    def bare(self, kind: int) -> Family:
        """A copy with the member ``kind`` and without the plans that are cheap to rebuild."""
        origin, edges = Kind.ORIGINAL, kind & ~Kind.MULTITREE
        kept = {(k, key) for k in (origin, kind) for key in _PICKLED}
        if not self.plans.get((origin, "is_complete")):
            kept.add((origin, "line_index"))  # somebody chose the line edges
        return self._copy(lambda x: x, kept.__contains__, {origin, edges})

    def with_original(self, member: Member) -> Family:
        """The same with other ``edge_id`` and ``opposite_id``."""
        other = self._copy(lambda x: x, lambda key: key[0] == Kind.ORIGINAL and key[1] in _MOVED)
        other.members = {Kind.ORIGINAL: member}
        other._note_all()
        return other

    def to(self, device: torch.device) -> Family:
        return self._copy(
            lambda x: x.to(device) if isinstance(x, Tensor) else x, lambda key: key[1] in _MOVED
        )

    def _copy(
        self,
        move: Callable[[Any], Any],
        keep: Callable[[tuple], bool],
        members: Container[int] = range(32),
    ) -> Family:
        with self._lock:
            other = Family.__new__(Family)
            other.num_nodes, other.is_multitree = self.num_nodes, self.is_multitree
            other.node_batch, other.node_rank = move(self.node_batch), move(self.node_rank)
            other.members = {
                kind: Member(*map(move, member))
                for kind, member in self.members.items()
                if kind in members
            }
            other.plans = {key: move(value) for key, value in self.plans.items() if keep(key)}
            other._lock = threading.RLock()
            other._note_all()
            return other

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_lock", "_made")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.RLock())
        self._note_all()
