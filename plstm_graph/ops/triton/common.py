"""Whether Triton kernels can run, and what their launchers share. Imports no triton itself."""

from __future__ import annotations

import importlib
import importlib.util
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

#: Most key channels of a head that the fused kernel takes: a program holds all of them, and with
#: more its tile of V would be narrower than the 32 bytes that memory moves at a time.
MAX_KEY_SIZE = 256

INTERPRETER_HINT = (
    "set TRITON_INTERPRET=1 before the first import of torch_geometric (which imports triton) to "
    "interpret the kernels, which is slow"
)


#: What was found out about triton. A plain dictionary, which torch.compile can trace a look-up in;
#: it must not trace the search, which has happened by then (``prepare`` does it).
_FOUND: dict[str, str | bool | None] = {}


def import_error() -> str | None:
    """Why triton cannot be imported, or None."""
    if "error" not in _FOUND:
        _FOUND["error"] = _import_triton()
    return _FOUND["error"]


def _import_triton() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    try:
        importlib.import_module("triton.language")
    except Exception as error:  # a broken installation may raise anything
        return f"triton cannot be imported ({type(error).__name__}: {error})"
    return None


def interpreting() -> bool:
    """Whether kernels run in Triton's interpreter.

    Triton decides when a kernel is *defined*, for its own library too: what counts is the
    environment at the time triton was imported as well as now.
    """
    if "interpreting" not in _FOUND:
        _FOUND["interpreting"] = import_error() is None and _is_interpreted()
    return _FOUND["interpreting"]


def _is_interpreted() -> bool:
    triton = importlib.import_module("triton")
    library = type(importlib.import_module("triton.language").sum).__name__
    return library == "InterpretedFunction" and bool(triton.knobs.runtime.interpret)


def unavailable(device: torch.device) -> str | None:
    """Why Triton kernels cannot run on tensors of ``device`` (with a remedy), or None."""
    error = import_error()
    if error is not None:
        return f"{error}; install triton, or use backend='torch'"
    if interpreting() and device.type in ("cpu", "cuda"):
        return None
    if device.type == "cuda":  # ROCm devices call themselves cuda too
        return None
    if device.type == "cpu":
        return (
            "the tensors are on the CPU, where Triton has no compiler; move tensors and "
            f"line_graph to a GPU, use backend='torch', or {INTERPRETER_HINT}"
        )
    return f"Triton has no kernels for device {device.type}; use backend='torch'"


def accumulator(*tensors: Tensor) -> torch.dtype:
    """float64 where an input is, else float32."""
    return torch.float64 if any(x.dtype == torch.float64 for x in tensors) else torch.float32


def aligned(x: Tensor) -> Tensor:
    """``x`` at an address divisible by 16, for which kernels are compiled; slices may differ."""
    return x if x.data_ptr() % 16 == 0 else x.clone()


def power_of_2(size: int) -> int:
    """The smallest power of two that is at least ``size`` (and at least 1)."""
    return 1 << max(0, size - 1).bit_length()


def on_device(tensor: Tensor) -> AbstractContextManager:
    """Kernels launch on the current device: make it the one of ``tensor``."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def launch_options(device: torch.device, registers: int) -> dict[str, int]:
    """Let the compiler use up to ``registers`` a thread where it has that option (NVIDIA).

    Left to itself it aims at round numbers and spills a register or two to meet them.
    """
    return {"maxnreg": registers} if device.type == "cuda" and torch.version.hip is None else {}
