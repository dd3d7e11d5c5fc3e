"""Where tables of a line graph are made: outside of whatever traces or transforms the caller.

A table depends on the graph alone and is kept for later calls, so it must not be made of the fake
tensors of ``torch.export``, the wrappers of ``torch.func`` or the tensors of inference mode.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.experimental.symbolic_shapes import has_static_value
from torch.utils._python_dispatch import _disable_current_modes, _get_current_dispatch_mode

PREPARE = "plstm_graph.ops.prepare(line_graph, heads, key_size, value_size)"


def untraced(function: Callable, remedy: str = f"call {PREPARE} before") -> Callable:
    """``torch.compile`` stops before such a function and goes on behind it; with fullgraph=True it
    must not stop, and says why."""
    reason = (
        f"tables of a line graph cannot be made while torch.compile traces; {remedy}, or leave out "
        f"fullgraph=True"
    )
    if "reason" in inspect.signature(torch.compiler.disable).parameters:
        return torch.compiler.disable(function, reason=reason)
    return torch.compiler.disable(function)


def transformed() -> bool:
    """Whether ``torch.func`` transforms the caller."""
    return _functorch.peek_interpreter_stack() is not None


@contextmanager
def outside() -> Iterator[None]:
    """What is made here are plain tensors on the CPU unless a device is named."""
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        if transformed():
            stack.enter_context(temporarily_clear_interpreter_stack())
        if _get_current_dispatch_mode() is not None:
            stack.enter_context(_disable_current_modes())
        yield


def without_values(tensor: Tensor) -> bool:
    """Whether it stands for a tensor that ``torch.export`` will be given later."""
    return isinstance(tensor, FakeTensor)


def unwrapped(name: str, value: Tensor | None, read: bool = True) -> Tensor | None:
    """The tensor behind the wrappers of ``torch.func.grad`` and its like.

    Where ``torch.func.vmap`` maps over it, it is ``None`` unless its numbers are ``read``.

    Raises:
        NotImplementedError: if they are.
    """
    while isinstance(value, Tensor) and _functorch.is_functorch_wrapped_tensor(value):
        if _functorch.is_batchedtensor(value):
            if not read:
                return None
            raise NotImplementedError(
                f"expected {name} as one tensor, got one that torch.func.vmap maps over: a line "
                f"graph is made of numbers; build it before with LineGraph.from_edge_index, pass "
                f"it as line_graph=, and map over parameters and features (in_dims=None for it)"
            )
        value = _functorch.get_unwrapped(value)
    return value


class Kept(dict):
    """What was made last, a bounded number of things: the oldest one goes first."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self._lock = size, threading.Lock()

    def keep(self, key: Hashable, value: Any) -> Any:
        """Keep a value, or return what another thread has kept for its key."""
        with self._lock:
            if key not in self:
                while len(self) >= self.size:
                    del self[next(iter(self))]
                self[key] = value
            return self[key]


def static(sizes: Iterable[int]) -> bool:
    """Whether sizes are numbers, where ``torch.compile`` or ``torch.export`` may have symbols."""
    return all(has_static_value(size) for size in sizes)


def made_outside(remedy: str) -> Callable[[Callable], Callable]:
    """A decorator of functions that make tables: see :func:`untraced` and :func:`outside`."""

    def decorate(function: Callable) -> Callable:
        @functools.wraps(function)
        def made(*args, **kwargs):
            with outside():
                return function(*args, **kwargs)

        return untraced(made, remedy)

    return decorate
