"""Whether Triton kernels can run, and what their launchers share. Imports no triton itself."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor

from plstm_graph.dag.levels import components, expand
from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.ops.inputs import Inputs

#: Most key channels of a head that the walk takes: a program holds all of them, and with more its
#: tile of V would be narrower than the 32 bytes that memory moves at a time.
MAX_KEY_SIZE = 256
#: V (in the dense kernels K, too) is a multiple of ALIGN, so that loads may be wide.
ALIGN = 4

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
    """Allow the compiler up to ``registers`` a thread where it has that option (NVIDIA).

    By default the compiler aims at round numbers and spills registers to meet them.
    """
    return {"maxnreg": registers} if device.type == "cuda" and torch.version.hip is None else {}


def operands(inputs: Inputs, *, pad_keys: bool = False) -> list[Tensor]:
    """``inputs.tensors`` as the kernels take them: contiguous, at aligned addresses.

    Triton compiles a kernel for each dtype and alignment, so inputs are brought into few
    forms. Query, key and value get one dtype: their own if they agree (and no input is float64),
    that of the arithmetic otherwise. Gates get the dtype of the arithmetic. V is padded to a
    multiple of ``ALIGN``; with ``pad_keys`` K is, too.
    """
    tensors = inputs.tensors
    wide = accumulator(*tensors)
    agree = len({x.dtype for x in tensors[:3]}) == 1 and wide == torch.float32
    dtype = inputs.value.dtype if agree else wide
    tensors = [x.to(dtype if i < 3 else wide) for i, x in enumerate(tensors)]
    for i in range(0 if pad_keys else 2, 3):
        tensors[i] = padded(tensors[i])
    return [aligned(x.contiguous()) for x in tensors]


def padded(x: Tensor) -> Tensor:
    """``x`` with zeros behind its last axis, up to a multiple of ``ALIGN``."""
    return torch.nn.functional.pad(x, (0, -x.size(-1) % ALIGN)) if x.size(-1) % ALIGN else x


def like(results: Sequence[Tensor], given: Sequence[Tensor]) -> list[Tensor]:
    """Results of kernels in the shapes and dtypes of ``given``: padding is cut off."""
    cut = (
        r if r.shape == g.shape else r[..., : g.size(-1)].contiguous()
        for r, g in zip(results, given)
    )
    return [r.to(g.dtype) for r, g in zip(cut, given)]


def node_parts(line_graph: LineGraph) -> np.ndarray:
    """[N] the part of each node, from 0 on without gaps: its graph where ``node_batch`` is given,
    its connected component otherwise."""
    if line_graph.node_batch is None:
        label = components(line_graph.edge_index.cpu().numpy(), line_graph.num_nodes)
    else:
        label = line_graph.node_batch.cpu().numpy()
    return np.unique(label, return_inverse=True)[1].reshape(-1)


def csr_rows(ptr: np.ndarray, perm: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows ``order`` of a CSR table, as a CSR table."""
    count = ptr[order + 1] - ptr[order]
    return np.append(0, np.cumsum(count)), perm[expand(ptr[order], count)]


def tables(device: torch.device, *arrays: np.ndarray) -> list[Tensor]:
    """int32 tensors on ``device``: half the bytes of int64; kernels widen them before they
    multiply by strides.

    Raises:
        ValueError: if there are too many rows for int32.
    """
    if max(a.size for a in arrays) >= 2**31:
        raise ValueError(
            f"expected fewer than 2^31 nodes, edges and line edges for Triton kernels, got "
            f"{max(a.size for a in arrays)}; split the batch, or use backend='torch'"
        )
    return [torch.from_numpy(a.astype(np.int32)).to(device) for a in arrays]
