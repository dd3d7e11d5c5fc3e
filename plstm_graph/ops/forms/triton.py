"""The walk and dense forms by Triton kernels (:mod:`plstm_graph.ops.triton`).

Kernels are imported where they are launched: nothing here needs triton or a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from plstm_graph.ops.forms.base import Form, Problem
from plstm_graph.ops.forms.dense import Dense
from plstm_graph.ops.forms.walk import Walk
from plstm_graph.ops.inputs import Inputs
from plstm_graph.ops.triton import dense, walk


class _Kernels(Form):
    """What both have in common: ``kernels``, a module that does the work."""

    backend = "triton"
    kernels: ModuleType

    def forward(self, inputs: Inputs, scale: float, plan: Sequence[Tensor]) -> tuple[Tensor, None]:
        return self.kernels.forward(inputs, scale, plan), None

    def backward(
        self, grad: Tensor, inputs: Inputs, scale: float, plan: Sequence[Tensor], kept: None
    ) -> list[Tensor]:
        return self.kernels.backward(grad, inputs, scale, plan)


class TritonWalk(_Kernels):
    name = Walk.name
    kernels = walk
    kinds = ("line", "factored", "diagonal")
    features = Walk.features

    def unavailable(self, problem: Problem) -> str | None:
        return walk.unavailable(problem.line_graph.device, problem.key_size)

    def plan(self, problem: Problem) -> list[Tensor]:
        return walk.make_plan(problem.line_graph, problem.kind == "factored")


class TritonDense(_Kernels):
    name = Dense.name
    kernels = dense
    features = Dense.features

    def unavailable(self, problem: Problem) -> str | None:
        if problem.dtype == torch.float64:
            return "its kernels are for float32; use form='walk' in float64"
        return dense.unavailable(problem.line_graph, problem.key_size, problem.value_size)

    def plan(self, problem: Problem) -> list[Tensor]:
        return dense.make_plan(problem.line_graph)
