"""The operators under ``torch.func`` and forward-mode differentiation.

A kernel computes one problem, so ``vmap`` calls it once for each entry of the mapped axis. First
derivatives are the operators' own. Forward-mode derivatives, and second ones inside ``torch.func``,
are those of the form "naive", whose every step PyTorch can differentiate: other forms say so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

NAIVE = "form='naive' of plstm or of the layer, whose steps PyTorch differentiates in any way"


def no_second(*_: Any) -> NoReturn:
    """The derivative of what is a derivative already."""
    raise NotImplementedError(
        f"expected one derivative of a compiled form inside torch.func or torch.compile, got a "
        f"second one; use {NAIVE}, or torch.autograd.grad(..., create_graph=True) outside of them"
    )


def no_forward(*_: Any) -> NoReturn:
    """The forward-mode derivative of a form."""
    raise NotImplementedError(
        f"expected reverse-mode derivatives of a compiled form, got forward mode (torch.func.jvp, "
        f"jacfwd, hessian, torch.autograd.forward_ad); use torch.func.vjp or jacrev, or {NAIVE}"
    )


class Transformed(torch.autograd.Function):
    """An operator where ``torch.func`` transforms its caller, which ``torch.library`` cannot do.

    ``call(*tensors)`` computes it; ``derivative(tensors, outputs, grads)`` gives the gradients of
    the tensors, by functions that can be transformed in their turn.
    """

    @staticmethod
    def forward(call: Callable, derivative: Callable, *tensors: Tensor):
        out = call(*tensors)
        return out if isinstance(out, Tensor) else tuple(out)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Any) -> None:
        _, ctx.derivative, *tensors = inputs
        ctx.inputs = len(tensors)
        outputs = [output] if isinstance(output, Tensor) else output
        ctx.save_for_backward(*tensors, *outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor):
        saved, count = ctx.saved_tensors, ctx.inputs
        return None, None, *ctx.derivative(saved[:count], saved[count:], grads)

    jvp = staticmethod(no_forward)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Any):
        return _one_by_one(Transformed.apply, info, in_dims, args)


def map_one_by_one(op: Callable) -> None:
    """Let ``vmap`` inside ``torch.compile`` call an operator of ``torch.library``."""
    op.register_vmap(lambda info, in_dims, *args: _one_by_one(op, info, in_dims, args))


def _one_by_one(call: Callable, info: Any, in_dims: tuple, args: tuple) -> tuple[Any, Any]:
    """One call for each entry of the mapped axis; all results are mapped over axis 0."""
    outs = [call(*_entry(args, in_dims, i)) for i in range(info.batch_size)]
    if isinstance(outs[0], Tensor):
        return torch.stack(outs), 0
    kind = type(outs[0])
    return kind(torch.stack(parts) for parts in zip(*outs)), kind(0 for _ in outs[0])


def _entry(value: Any, dim: Any, i: int) -> Any:
    """Entry ``i`` of all that is mapped over."""
    if isinstance(value, Tensor):
        return value if dim is None else value.select(dim, i)
    if isinstance(value, Sequence) and isinstance(dim, Sequence):
        return [_entry(v, d, i) for v, d in zip(value, dim)]
    return value
