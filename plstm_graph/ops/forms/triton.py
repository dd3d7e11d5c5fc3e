"""The walk and dense forms by Triton kernels (:mod:`plstm_graph.ops.triton`).

The kernels are imported where they are first needed: nothing here needs triton or a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from plstm_graph.ops.forms.base import Form, Problem
from plstm_graph.ops.forms.dense import Dense
from plstm_graph.ops.forms.walk import Walk
from plstm_graph.ops.inputs import Inputs


class _Kernels(Form):
    """What both have in common: a module of kernels that does the work."""

    backend = "triton"

    def module(self):
        raise NotImplementedError

    def forward(self, inputs: Inputs, scale: float, plan: Sequence[Tensor]) -> tuple[Tensor, None]:
        return self.module().forward(inputs, scale, plan), None

    def backward(
        self, grad: Tensor, inputs: Inputs, scale: float, plan: Sequence[Tensor], kept: None
    ) -> list[Tensor]:
        return self.module().backward(grad, inputs, scale, plan)


class TritonWalk(_Kernels):
    name = Walk.name
    factored = True
    features = Walk.features

    def module(self):
        from plstm_graph.ops.triton import walk

        return walk

    def unavailable(self, problem: Problem) -> str | None:
        return self.module().unavailable(problem.line_graph.device, problem.key_size)

    def plan(self, problem: Problem) -> list[Tensor]:
        return self.module().make_plan(problem.line_graph, problem.factored)


class TritonDense(_Kernels):
    name = Dense.name
    features = Dense.features

    def module(self):
        from plstm_graph.ops.triton import dense

        return dense

    def unavailable(self, problem: Problem) -> str | None:
        if problem.dtype == torch.float64:
            return "its kernels are for float32; use form='walk' in float64"
        sizes = problem.key_size, problem.value_size
        return self.module().unavailable(problem.line_graph, *sizes)

    def plan(self, problem: Problem) -> list[Tensor]:
        return self.module().make_plan(problem.line_graph)
