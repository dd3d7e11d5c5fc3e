r"""Every form as one differentiable operator.

A form is a forward and a backward over plain tensors: the inputs and the plan, which was derived
from the line graph. In eager mode an ``autograd.Function`` keeps what the forward computed; under
``torch.compile`` and ``torch.func`` the same two functions run behind ``torch.library.custom_op``
(opaque to the tracer, whose backward computes the forward again). Second derivatives go through a
composition of ``dag_scan`` and differentiable tensor operations, the same one for all forms.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.dag.tracing import transformed
from plstm_graph.ops.by_level import levels_of, payload, plstm_by_level, read
from plstm_graph.ops.forms import FORMS, Form, Problem
from plstm_graph.ops.inputs import Inputs
from plstm_graph.ops.junctions import with_junctions
from plstm_graph.ops.lowering import as_seen_by, lowered, needed_plan, restored
from plstm_graph.ops.scan import levelwise_dag_scan
from plstm_graph.ops.transforms import Transformed, map_one_by_one, no_forward, no_second


def plan_of(form: Form, problem: Problem) -> list[Tensor]:
    """The form's tables, and behind them those of the form that it gives way to. Planned once."""

    def make(_: LineGraph) -> list[Tensor]:
        plan = list(form.plan(problem))
        if form.gives_way_to:
            plan += FORMS[form.backend][form.gives_way_to].plan(problem)
        return plan

    return problem.line_graph.plan(_key(form, problem), make)


def _key(form: Form, problem: Problem) -> tuple:
    return ("form", form.name, form.backend, form.tables(problem), problem.heads)


def has_plan_of(form: Form, problem: Problem) -> bool:
    """Whether :func:`plan_of` is known for the graph that the form sees."""
    needed = needed_plan(form, problem)
    if needed is not None and not problem.line_graph.has_plan(needed):
        return False
    problem = as_seen_by(form, problem)
    return problem.line_graph.has_plan(_key(form, problem))


def _finite(tensors: Sequence[Tensor]) -> bool:
    return all(bool(torch.isfinite(x.sum())) for x in tensors)


def _split(form: Form, plan: Sequence[Tensor]) -> tuple[Sequence[Tensor], Form | None, list]:
    """The form's own tables, the form that it gives way to, and that one's tables."""
    if not form.gives_way_to:
        return plan, None, []
    other = FORMS[form.backend][form.gives_way_to]
    return plan[: -other.plan_size], other, list(plan[-other.plan_size :])


def _forward(
    form: Form, inputs: Inputs, scale: float, plan: Sequence[Tensor]
) -> tuple[Tensor, Any]:
    own, other, rest = _split(form, plan)
    out, kept = form.forward(inputs, scale, own)
    if other is not None and not _finite([out]):
        out, kept = other.forward(inputs, scale, rest)[0], None
    return out, kept


def _backward(
    grad: Tensor, form: Form, inputs: Inputs, scale: float, plan: Sequence[Tensor], kept: Any
) -> Sequence[Tensor]:
    own, other, rest = _split(form, plan)
    grads = form.backward(grad, inputs, scale, own, kept)
    if other is not None and not _finite(grads):
        grads = other.backward(grad, inputs, scale, rest, None)
    return grads


class _Propagate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, form: Form, line_graph: LineGraph, scale: float, plan, *tensors: Tensor):
        out, ctx.kept = _forward(form, Inputs.of(tensors), scale, plan)
        ctx.save_for_backward(*tensors)
        ctx.scale, ctx.form, ctx.plan, ctx.line_graph = scale, form, plan, line_graph
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor):
        tensors = ctx.saved_tensors
        with torch.autocast(grad.device.type, enabled=False):
            if torch.is_grad_enabled():  # create_graph=True: a backward with a graph of its own
                grads = composed_grads(tensors, grad, ctx.line_graph, ctx.scale)
            else:
                # Buffers are freed at once; a second backward computes them again.
                kept, ctx.kept = ctx.kept, None
                inputs = Inputs.of(tensors)
                grads = _backward(grad, ctx.form, inputs, ctx.scale, ctx.plan, kept)
        return None, None, None, None, *grads

    jvp = staticmethod(no_forward)


@torch.library.custom_op("plstm_graph::propagate", mutates_args=())
def propagate_op(
    tensors: Sequence[Tensor], scale: float, backend: str, form: str, plan: Sequence[Tensor]
) -> Tensor:
    """The forward of ``form``; tensors are :attr:`Inputs.tensors`."""
    return _forward(FORMS[backend][form], Inputs.of(tensors), scale, plan)[0].contiguous()


@propagate_op.register_fake
def _(tensors, scale, backend, form, plan):
    return tensors[2].new_empty(Inputs.of(tensors).out_shape)


@torch.library.custom_op("plstm_graph::propagate_backward", mutates_args=())
def _propagate_backward_op(
    grad: Tensor,
    tensors: Sequence[Tensor],
    scale: float,
    backend: str,
    form: str,
    plan: Sequence[Tensor],
) -> list[Tensor]:
    grads = _backward(grad, FORMS[backend][form], Inputs.of(tensors), scale, plan, None)
    return [g.contiguous() for g in grads]


@_propagate_backward_op.register_fake
def _(grad, tensors, scale, backend, form, plan):
    return [x.new_empty(x.shape) for x in tensors]


def _setup_context(ctx, inputs, output):
    tensors, ctx.scale, ctx.backend, ctx.form, ctx.plan = inputs
    ctx.save_for_backward(*tensors)


def _autograd_backward(ctx, grad):
    tensors = list(ctx.saved_tensors)
    grads = _propagate_backward_op(
        grad.contiguous(), tensors, ctx.scale, ctx.backend, ctx.form, ctx.plan
    )
    return grads, None, None, None, [None] * len(ctx.plan)


propagate_op.register_autograd(_autograd_backward, setup_context=_setup_context)
_propagate_backward_op.register_autograd(no_second)
map_one_by_one(propagate_op)
map_one_by_one(_propagate_backward_op)


def propagate(inputs: Inputs, scale: float, form: Form, problem: Problem) -> Tensor:
    """The layer by ``form``: differentiable, to any order in eager mode."""
    seen = as_seen_by(form, problem)
    inputs = lowered(inputs, problem, seen)
    plan = plan_of(form, seen)
    options = scale, form.backend, form.name, plan
    if torch.compiler.is_compiling():
        out = propagate_op(inputs.tensors, *options)
    elif transformed():
        out = _transformed(inputs.tensors, options)
    else:
        out = _Propagate.apply(form, seen.line_graph, scale, plan, *inputs.tensors)
    return restored(out, problem, seen)


def _transformed(tensors: Sequence[Tensor], options: tuple) -> Tensor:
    """The operator where ``torch.func`` transforms the caller."""

    def backward(grad: Tensor, *tensors: Tensor) -> list[Tensor]:
        return _propagate_backward_op(grad.contiguous(), tensors, *options)

    def derivative(tensors: Sequence[Tensor], _: object, grads: Sequence[Tensor]):
        return Transformed.apply(backward, no_second, *grads, *tensors)

    return Transformed.apply(lambda *x: propagate_op(x, *options), derivative, *tensors)


def composed_plstm(inputs: Inputs, line_graph: LineGraph, scale: float = 1.0) -> Tensor:
    """Edge states as one scan of the payload S k v^T, then the readout."""
    if inputs.factored:
        inputs, line_graph = with_junctions(inputs, line_graph)
    if inputs.kind == "block" or inputs.update is not None:
        return plstm_by_level(inputs, scale, levels_of(line_graph))
    x = payload(inputs, line_graph.edge_index)
    # A channel of a diagonal transition is a head with keys of size one.
    state = x.flatten(1, inputs.transition.dim() - 1).flatten(2)
    state = levelwise_dag_scan(state, inputs.transition.flatten(1), line_graph).view_as(x)
    return read(state, inputs, line_graph.edge_index, scale)


def composed_grads(
    tensors: Sequence[Tensor], grad: Tensor, line_graph: LineGraph, scale: float
) -> tuple[Tensor | None, ...]:
    """Gradients of the tensors of :func:`composed_plstm` with their own graph recorded."""
    with torch.enable_grad():
        wide = torch.promote_types(grad.dtype, torch.float32)
        wide = torch.float64 if any(x.dtype == torch.float64 for x in tensors) else wide
        out = composed_plstm(Inputs.of([x.to(wide) for x in tensors]), line_graph, scale)
        wanted = [x for x in tensors if x.requires_grad]
        grads = torch.autograd.grad(
            out, wanted, grad.to(wide), create_graph=True, allow_unused=True
        )
        found = iter(grads)
    return tuple(next(found) if x.requires_grad else None for x in tensors)
