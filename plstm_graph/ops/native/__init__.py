"""Kernels in C for CPUs, compiled when they are first needed.

Torch has no operation that walks a graph, so a scan by levels is a chain of gathers and additions
that each go through memory. A compiled loop over the edges keeps one head's rows in the cache.
The source (``*.c``, plain C, no headers of torch or Python) is compiled once by the machine's own
compiler for its own processor, and kept in the user's cache folder. Where there is no compiler,
or with ``PLSTM_NATIVE=0``, torch does the work, with the same results.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

FLAGS = ("-O3", "-march=native", "-fopenmp-simd", "-fno-math-errno", "-fPIC", "-shared")


def unavailable() -> str | None:
    """Why the kernels cannot run here; ``None`` if they can."""
    if os.environ.get("PLSTM_NATIVE", "1") == "0":
        return "switched off by PLSTM_NATIVE=0"
    library = _library()
    return library if isinstance(library, str) else None


@cache
def _library() -> ctypes.CDLL | str:
    """The compiled kernels, or why there are none."""
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        return "no C compiler (cc, gcc or clang) was found"
    folder = Path(__file__).parent
    source = b"".join(path.read_bytes() for path in sorted(folder.glob("*.c")))
    # Another processor may share the cache folder.
    machine = f"{platform.machine()} {_processor()} {compiler} {FLAGS}".encode()
    name = hashlib.sha256(source + machine).hexdigest()[:16]
    path = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    path = path / "plstm_graph" / "native" / f"{name}.so"
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent) as build:
                out = Path(build) / "kernels.so"
                command = [compiler, *FLAGS, str(folder / "kernels.c"), "-o", str(out)]
                subprocess.run(command, check=True, capture_output=True, text=True)
                out.replace(path)  # others may be at it as well
        return ctypes.CDLL(str(path))
    except subprocess.CalledProcessError as error:
        return f"{compiler} failed: {error.stderr.strip().splitlines()[-1:]}"
    except OSError as error:
        return f"the kernels could not be built: {error}"


def _processor() -> str:
    """What ``-march=native`` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    wanted = ("model name", "flags", "Features", "CPU part")
    return " ".join(sorted({line for line in lines if line.startswith(wanted)}))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="plstm_native")


def run(name: str, dtype: torch.dtype, units: int, work: int, *arguments: Tensor | int) -> None:
    """Call a kernel on as many threads as torch uses; the interpreter's lock is released.

    Args:
        name: of the kernel, without its type.
        dtype: float32 or float64.
        units: independent pieces of work, numbered from 0.
        work: elements of scratch memory for each thread.
        arguments: tensors (contiguous, on the CPU) in the kernel's order, then integers, then
            index tensors; ``work``, ``first`` and ``last`` are put between tensors and integers.
    """
    library = _library()
    assert isinstance(library, ctypes.CDLL)
    kernel = getattr(library, f"{name}_{'f32' if dtype == torch.float32 else 'f64'}")
    values = [
        ctypes.c_void_p(a.data_ptr()) if isinstance(a, Tensor) else ctypes.c_int64(a)
        for a in arguments
    ]
    at = next(i for i, a in enumerate(arguments) if not isinstance(a, Tensor))
    threads = max(1, min(torch.get_num_threads(), units))
    cuts = [units * i // threads for i in range(threads + 1)]

    def part(i: int) -> None:
        scratch = torch.empty(work, dtype=dtype)
        kernel(
            *values[:at],
            ctypes.c_void_p(scratch.data_ptr()),
            ctypes.c_int64(cuts[i]),
            ctypes.c_int64(cuts[i + 1]),
            *values[at:],
        )

    if threads == 1:
        part(0)
    else:
        list(_pool(threads).map(part, range(threads)))
