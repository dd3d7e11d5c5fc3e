"""What can run here, and why not the rest."""

from __future__ import annotations

import importlib.util
from typing import NamedTuple

import torch

from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.ops import native
from plstm_graph.ops.forms import FORMS, Problem, names
from plstm_graph.ops.triton.common import INTERPRETER_HINT, import_error, interpreting


class Backend(NamedTuple):
    """Whether a backend can run, and the details or the reason why not."""

    available: bool
    detail: str


class Backends(dict[str, Backend]):
    """Name -> :class:`Backend`; prints as a table."""

    def __str__(self) -> str:
        wide = max(map(len, self))
        return "\n".join(
            f"{name:{wide}}  {'yes' if backend.available else 'no ':3}  {backend.detail}"
            for name, backend in self.items()
        )


def backends() -> Backends:
    """What ``plstm`` and ``dag_scan`` can run on in this process.

    ``backend="auto"`` is ``"triton"`` for tensors on a GPU if ``"triton on GPU"`` is available, and
    ``"torch"`` otherwise. ``"triton on CPU"`` is Triton's interpreter: for tests, never chosen by
    ``"auto"``.
    """
    return Backends(
        {
            "torch on CPU": Backend(True, f"torch {torch.__version__}"),
            "native on CPU": _native(),
            "torch on GPU": _gpu(),
            "triton on GPU": _triton_on_gpu(),
            "triton on CPU": _triton_on_cpu(),
            "torch_scatter": _scatter(),
            **{f"form {name}": _form(name) for name in names()},
        }
    )


def _form(name: str) -> Backend:
    """What a form runs on here, by backend, and why not on the others."""
    gpu = torch.cuda.is_available()
    can, cannot = [], []
    for backend, forms in FORMS.items():
        if name not in forms:
            continue
        device = "cuda" if gpu and backend == "triton" else "cpu"
        edges = torch.tensor([[0, 1], [1, 2]], device=device)
        line_graph = LineGraph.from_edge_index(edges, 3)
        reason = forms[name].unavailable(Problem(line_graph, 1, 16, 16, "line", backend))
        can += [backend] if reason is None else []
        cannot += [] if reason is None else [f"not {backend} ({reason.split(';')[0]})"]
    return Backend(bool(can), "; ".join([", ".join(can), *cannot] if can else cannot))


def _native() -> Backend:
    reason = native.unavailable()
    if reason is not None:
        return Backend(False, reason)
    return Backend(True, f"kernels in C, {native.level()} instructions (backend='torch')")


def _gpu() -> Backend:
    if torch.cuda.is_available():
        return Backend(True, torch.cuda.get_device_name())
    if torch.version.cuda is None and torch.version.hip is None:
        return Backend(False, "this build of torch has no GPU support")
    return Backend(False, "torch finds no GPU")


def _triton_on_gpu() -> Backend:
    gpu, error = _gpu(), import_error()
    if error is not None:
        return Backend(False, error)
    if not gpu.available:
        return gpu
    import triton

    kind = "interpreted (TRITON_INTERPRET=1)" if interpreting() else "compiled"
    return Backend(True, f"triton {triton.__version__}, {kind}")


def _triton_on_cpu() -> Backend:
    error = import_error()
    if error is not None:
        return Backend(False, error)
    if interpreting():
        return Backend(True, "interpreted (TRITON_INTERPRET=1): slow, for tests")
    return Backend(False, INTERPRETER_HINT)


def _scatter() -> Backend:
    if importlib.util.find_spec("torch_scatter") is None:
        return Backend(False, "not installed; segments are summed by torch (backend='torch')")
    return Backend(True, "sums segments (backend='torch')")
