"""Kernels in C for CPUs, compiled when the package is installed.

Torch has no operation that walks a graph, so a scan by levels is a chain of gathers and additions
that each go through memory. A compiled loop over the edges keeps one head's rows in the cache.
``setup.py`` compiles the sources (``*.c``, plain C, no headers of torch or Python) once for each
instruction level into ``kernels.LEVEL.so`` next to this file, and lists the libraries in
``libraries.json``. The best level that torch reports for the CPU is loaded when it is first needed.
Where no library can be loaded, or with ``PLSTM_NATIVE=0``, torch does the work, with the same
results. A library is not loaded if a source is another than it was built from; in a clone,
``python setup.py build_ext --inplace`` builds what changed.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import warnings
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

import torch
from torch import Tensor

#: Instruction levels, the best first, by the lower-case names of torch's CPU capabilities. Other
#: capabilities, such as those of arm64, use the baseline.
LEVELS = ("avx512", "avx2", "baseline")
_FOLDER = Path(__file__).parent
#: pip keeps a wheel that it built; without a compiler that was one without libraries.
_REMEDY = (
    "reinstall plstm_graph (in a clone: pip install -e .; elsewhere: pip install --force-reinstall "
    "--no-deps --no-cache-dir plstm-graph)"
)
_SUFFIX = {torch.float32: "f32", torch.float64: "f64"}


class _Found(NamedTuple):
    """The library and its level, or ``None`` and the reason."""

    library: ctypes.CDLL | None
    detail: str


#: The result of the one search of this process.
_FOUND: dict[str, _Found] = {}


def unavailable() -> str | None:
    """Why the kernels cannot run here; ``None`` if they can."""
    if os.environ.get("PLSTM_NATIVE", "1") == "0":
        return "switched off by PLSTM_NATIVE=0"
    found = _found()
    return found.detail if found.library is None else None


def level() -> str | None:
    """The instruction level of the kernels, one of ``LEVELS``; ``None`` if they cannot run here."""
    return _found().detail if unavailable() is None else None


def _found() -> _Found:
    if "library" not in _FOUND:
        broken = None
        try:
            found = _load()
        # A damaged list of libraries may have any content.
        except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
            broken = (
                f"the C kernels in {_FOLDER} cannot be loaded ({type(error).__name__}: {error}): "
                f"{_REMEDY}"
            )
            found = _Found(None, broken)
        # Of several threads that search at the same time, one stores its result and warns.
        if _FOUND.setdefault("library", found) is found and broken is not None:
            warnings.warn(f"{broken}; until then torch does their work", stacklevel=3)
    return _FOUND["library"]


def _load() -> _Found:
    """Loads the library of the best level that this CPU can run and that was built.

    Only the file that ``setup.py`` built is loaded: to load a truncated library kills the process,
    and one of other sources reads its arguments wrongly.
    """
    manifest = _FOLDER / "libraries.json"
    built = json.loads(manifest.read_text(encoding="utf-8")) if manifest.exists() else {}
    libraries = built.get("libraries", {})
    best = torch.backends.cpu.get_cpu_capability().lower()
    for name in LEVELS[LEVELS.index(best) if best in LEVELS else -1 :]:
        path = _FOLDER / f"kernels.{name}.so"
        if name not in libraries or not path.exists():
            continue
        if _digest(path) != libraries[name]:
            raise ValueError(f"{path.name} is not the file that was built")
        for source, digest in built["sources"].items():
            if (_FOLDER / source).exists() and _digest(_FOLDER / source) != digest:
                raise ValueError(f"{path.name} was built before {source} changed")
        library = ctypes.CDLL(str(path))
        for kernel in built["kernels"]:
            for suffix in _SUFFIX.values():
                getattr(library, f"{kernel}_{suffix}").restype = None
        return _Found(library, name)
    return _Found(
        None,
        "the C kernels were not built for this CPU when plstm_graph was installed: install gcc or "
        f"clang, then {_REMEDY}",
    )


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="plstm_native")


if hasattr(os, "register_at_fork"):
    # A forked process has the pools of its parent, but not their threads.
    os.register_at_fork(after_in_child=_pool.cache_clear)


def run(name: str, dtype: torch.dtype, units: int, work: int, *arguments: Tensor | int) -> None:
    """Calls a kernel on as many threads as torch uses; the interpreter's lock is released.

    Args:
        name: of the kernel, without its type.
        dtype: float32 or float64.
        units: independent pieces of work, numbered from 0.
        work: elements of scratch memory for each thread.
        arguments: tensors (contiguous, on the CPU) in the kernel's order, then integers, then
            index tensors; ``work``, ``first`` and ``last`` are put between tensors and integers.

    Raises:
        RuntimeError: if there is no library.
        ValueError: if a tensor is not on the CPU, or is a floating-point tensor of another dtype.
    """
    library, detail = _found()
    if library is None:
        raise RuntimeError(f"{name} cannot run: {detail}")
    kernel = getattr(library, f"{name}_{_SUFFIX[dtype]}")
    tensors = [a for a in arguments if isinstance(a, Tensor)]
    for a in tensors:
        if not a.is_cpu or (a.dtype is not dtype and a.is_floating_point()):
            raise ValueError(f"{name}: expected {dtype} on the CPU, got {a.dtype} on {a.device}")
    values = [
        ctypes.c_void_p(a.data_ptr()) if isinstance(a, Tensor) else ctypes.c_int64(a)
        for a in arguments
    ]
    at = next(i for i, a in enumerate(arguments) if not isinstance(a, Tensor))
    threads = max(1, min(torch.get_num_threads(), units))

    def part(i: int) -> None:
        scratch = torch.empty(work, dtype=dtype, device="cpu")
        kernel(
            *values[:at],
            ctypes.c_void_p(scratch.data_ptr()),
            ctypes.c_int64(units * i // threads),
            ctypes.c_int64(units * (i + 1) // threads),
            *values[at:],
        )

    if threads == 1:
        part(0)
    else:
        _share(part, threads, tensors)


def _share(part: Callable[[int], None], threads: int, tensors: list[Tensor]) -> None:
    """Calls ``part(i)`` for all i below ``threads``, on this thread and on those of the pool.

    Args:
        part: a piece of work.
        threads: the number of pieces.
        tensors: what the pieces read and write. If the caller is interrupted, other threads still
            run, so their task holds the tensors. The list is emptied when all parts are done,
            because a thread may keep its task a little longer, and autograd copies a gradient that
            something else holds.
    """
    waiting: deque[int] = deque(range(threads))
    done: SimpleQueue[BaseException | None] = SimpleQueue()

    def task(tensors=tensors) -> None:
        """Runs parts until none is waiting."""
        while True:
            try:
                i = waiting.popleft()
            except IndexError:
                return
            try:
                part(i)
                done.put(None)
            except BaseException as error:
                done.put(error)

    try:
        for _ in range(threads - 1):
            _pool(threads - 1).submit(task)
    except RuntimeError:
        pass  # No thread can be started, as when the interpreter ends: the others run all parts.
    task()
    errors = [done.get() for _ in range(threads)]
    tensors.clear()
    for error in errors:
        if error is not None:
            raise error
