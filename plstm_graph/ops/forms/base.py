"""What a form is: one exact way to compute the recurrence.

A form is one file with one class derived from :class:`Form`, and one entry in
:data:`plstm_graph.ops.forms.FORMS`. All else (checks, dtypes, autograd, compilation, second
derivatives, the choice of ``form="auto"``, ``plstm_graph.backends()``) is the same for all forms.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.ops.inputs import Inputs


class Problem(NamedTuple):
    """What is known of a call before its tensors are looked at."""

    line_graph: LineGraph
    heads: int  # H
    key_size: int  # K
    value_size: int  # V
    kind: str  # of the transitions, see Inputs.kind
    backend: str  # "torch" or "triton", before the choice also "auto"
    dtype: torch.dtype = torch.float32  # of the arithmetic
    updates: bool = False  # whether states are reflected
    states: tuple[int, int, int] = (1, 1, 1)  # J_S, J, J_M


class Form:
    """One exact way to compute the recurrence.

    Attributes:
        name: the public name.
        backend: "torch" or "triton".
        kinds: of transitions that are taken as they are. Other forms get factored transitions
            expanded, or the graph of junctions (:mod:`plstm_graph.ops.junctions`); blocks as scalar
            ones between copies of edges (:mod:`plstm_graph.ops.expand`); and no diagonal ones.
        updates: whether states may be reflected.
        plan_size: how many tables :meth:`plan` returns, for a form that others give way to.
        gives_way_to: the form that computes instead where a result is not finite, for forms that
            multiply by zero what a node cannot hear.
    """

    name: str
    backend: str = "torch"
    kinds: tuple[str, ...] = ("line",)
    updates: bool = False
    plan_size: int | None = None
    gives_way_to: str | None = None

    def unavailable(self, problem: Problem) -> str | None:
        """Why the form cannot run on this problem, with a remedy; ``None`` if it can."""
        return None

    def worthwhile(self, problem: Problem) -> bool:
        """Whether it may be the fastest where compiled forms run: what is not is only looked at
        where none of those can."""
        return True

    def features(self, problem: Problem) -> dict[str, float]:
        """What its time grows with, by name: :mod:`plstm_graph.ops.cost` has a constant for each.
        A form without features is never chosen by ``form="auto"``."""
        return {}

    def tables(self, problem: Problem) -> str:
        """Which tables :meth:`plan` makes, where it makes different ones for kinds of problems."""
        return "nodes" if problem.kind == "factored" else "edges"

    def plan(self, problem: Problem) -> list[Tensor]:
        """The tables that the form needs of the line graph: the caller keeps them."""
        raise NotImplementedError

    def forward(self, inputs: Inputs, scale: float, plan: Sequence[Tensor]) -> tuple[Tensor, Any]:
        """The result [N, H, V], and anything that saves :meth:`backward` work, or ``None``."""
        raise NotImplementedError

    def backward(
        self, grad: Tensor, inputs: Inputs, scale: float, plan: Sequence[Tensor], kept: Any
    ) -> Sequence[Tensor]:
        """Gradients of ``inputs.tensors``; ``kept`` is ``None`` where the forward's is gone."""
        raise NotImplementedError
