"""Checks of arguments, shared by everything that is public.

Each of them takes the argument's name and value, returns the value, and raises a ``ValueError``
that says what was expected, what was got and what to do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

#: Dtypes that gates, states and features may have: those that PyTorch computes with everywhere.
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def refuse(name: str, expected: str, got: Any, remedy: str = "") -> NoReturn:
    """Raise the error of a bad argument; ``got`` is a text, or the value itself."""
    got = got if isinstance(got, str) else describe(got)
    raise ValueError(f"expected {name} {expected}, got {got}" + (f"; {remedy}" if remedy else ""))


def describe(value: Any) -> str:
    """A value in a few words: the dtype and shape of a tensor, short values as they are."""
    if isinstance(value, Tensor):
        kind = "" if value.layout == torch.strided else f" of layout {value.layout}"
        return f"{value.dtype} {list(value.shape)}{kind}"
    text = repr(value)
    return text if len(text) < 60 and not hasattr(value, "__dict__") else type(value).__name__


def integer(name: str, value: Any, least: int | None = None, remedy: str = "") -> int:
    """A whole number (no bool), at least ``least``."""
    whole = isinstance(value, (int, np.integer, torch.SymInt)) and not isinstance(value, bool)
    if not whole or (least is not None and value < least):
        many = "as an integer" if least is None else f"as an integer of {least} or more"
        refuse(name, many, describe(value), remedy)
    return value


def width(name: str, value: Any) -> int:
    """The size of an input: 1 or more, or -1 to take it from the first input."""
    if value == -1 and not isinstance(value, (bool, float, Tensor)):
        return value
    return integer(name, value, 1, "-1 takes it from the first input")


def real(
    name: str, value: Any, least: float = -math.inf, most: float = math.inf, remedy: str = ""
) -> float:
    """A finite number from ``least`` to ``most``; a tensor is none, its gradient would be lost."""
    number = isinstance(value, (int, float, np.integer, np.floating))
    if number and not isinstance(value, bool) and math.isfinite(value) and least <= value <= most:
        return value
    low, high = math.isfinite(least), math.isfinite(most)
    span = f" from {least:g} to {most:g}" if low and high else f" of {least:g} or more" * low
    if isinstance(value, Tensor):
        remedy = remedy or "call .item(); no gradient flows to it"
    refuse(name, f"as a finite number{span}", describe(value), remedy)


def pairs(name: str, value: Any, limit: int | None = None) -> np.ndarray:
    """A numpy array [2, M] of integers from 0 to ``limit`` - 1."""
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "iu":
        got = f"{value.dtype} array" if isinstance(value, np.ndarray) else type(value).__name__
        refuse(name, "of shape [2, M] as a numpy array of integers", got, "call .numpy()")
    if value.ndim != 2 or value.shape[0] != 2:
        refuse(name, "of shape [2, M]", str(list(value.shape)))
    if value.size and (value.min() < 0 or (limit is not None and value.max() >= limit)):
        top = "on" if limit is None else f"to {limit - 1}"
        refuse(name, f"with numbers from 0 {top}", f"{value.min()} to {value.max()}")
    return value


def probability(name: str, value: Any) -> float:
    return real(name, value, 0.0, 1.0)


def flag(name: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        refuse(name, "as True or False", describe(value))
    return value


def text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        refuse(name, "as a string", describe(value))
    return value


def choice(name: str, value: Any, choices: Sequence[str], remedy: str = "") -> str:
    if not isinstance(value, str) or value not in choices:
        refuse(name, f"to be one of {', '.join(map(repr, choices))}", describe(value), remedy)
    return value


def seed(name: str, value: Any) -> int | None:
    """A seed, or ``None``."""
    return value if value is None else integer(name, value, 0, "None draws one")


def instance(name: str, value: Any, kind: type | tuple[type, ...], what: str, remedy: str = ""):
    if not isinstance(value, kind):
        refuse(name, f"as {what}", _kind(value), remedy)
    return value


def _kind(value: Any) -> str:
    if value is None or isinstance(value, Tensor):
        return describe(value)
    return type(value).__name__


def resolve(name: str, resolver: Callable[..., Any], value: Any, *args: Any) -> Any:
    """What one of PyG's resolvers makes of a name, or an error that names the argument."""
    try:
        return resolver(value, *args)
    except (ValueError, TypeError) as error:
        refuse(name, "as a name that torch_geometric knows", describe(value), str(error))


def dense(
    name: str,
    value: Any,
    *shape: int | str,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
    like: str = "x",
    remedy: str = "",
    sizes: str = "",
) -> Tensor:
    """A dense tensor.

    Args:
        name, value: of the argument.
        shape: its axes: a number for a size that must be met, a letter for any. ``"*"`` as the
            last one stands for any further axes.
        dtype: that it must have; ``None`` for any of :data:`FLOATS`.
        device: that it must be on, the device of the argument ``like``. Default: any.
        remedy: for all mistakes but the device. Default: one for each.
        sizes: whose sizes are meant, for a wrong one.
    """
    open_end = bool(shape) and shape[-1] == "*"
    axes = shape[:-1] if open_end else shape
    if not isinstance(value, Tensor):
        remedy = remedy or "convert it with torch.as_tensor"
    elif value.layout != torch.strided:
        remedy = remedy or "call .to_dense()"
    elif (
        value.dim() < len(axes)
        or (value.dim() > len(axes) and not open_end)
        or any(isinstance(a, int) and a != b for a, b in zip(axes, value.shape))
    ):
        remedy = remedy or sizes
    elif value.dtype not in FLOATS if dtype is None else value.dtype != dtype:
        call = "encode it first, or call .float()" if dtype is None else f"call .to({dtype})"
        remedy = remedy or call
    else:
        if device is not None and value.device != device:
            refuse(name, f"on {device} like {like}", str(value.device), "move it with .to()")
        return value
    kind = "floating-point" if dtype is None else str(dtype).removeprefix("torch.")
    axes = ", ".join(map(str, shape))
    refuse(name, f"as a dense {kind} tensor [{axes}]", describe(value), remedy)
