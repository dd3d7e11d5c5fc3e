"""Compile kernels ahead of time, without a GPU, and read what the compiler made of them.

    python -m experiments.kernels.aot [--targets sm_90] [--modules walk dense scan]

compiles every shipped configuration (:mod:`experiments.kernels.specs`) for every target, in
parallel processes, prints one line of JSON for each, and fails if one has a stack, spills or
misses a barrier. Not for processes with TRITON_INTERPRET=1, where a kernel is Python.

Results are kept in ``$PLSTM_COMPILE_CACHE`` (default ``~/.cache/plstm_graph/compiled``), one file
for each configuration and target, whose name is a hash of the kernel's source with all that it
calls, types, options, the version of triton and this file: what did not change is not compiled
again.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import inspect
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

#: The modules of ``plstm_graph.ops.triton`` with kernels.
MODULES = ("walk", "dense", "scan")

#: Name of a target -> (backend, architecture, threads of a warp).
TARGETS = {
    "sm_80": ("cuda", 80, 32),
    "sm_90": ("cuda", 90, 32),
    "sm_100": ("cuda", 100, 32),
    "gfx942": ("hip", "gfx942", 64),
}

#: Pointers and whole numbers of a spec that end in this mark are known to be divisible by 16, as
#: the launcher finds them for aligned tensors and sizes.
ALIGNED = "/16"


@dataclass(frozen=True)
class KernelSpec:
    """One configuration of a kernel.

    Attributes:
        name: e.g. ``segment_scan[fp32,J=1,8x64,warps=4]``.
        kernel: the function under ``triton.jit``.
        types: type of each argument that is not constexpr: ``*fp32``, ``i32``, ``i64``, ``fp32``,
            with the suffix ``/16`` if divisible by 16.
        constexprs: values of the others (a stride that is 1 belongs here: launchers specialise).
        num_warps, num_stages: launch options.
        rereads: whether a program reads global memory that it wrote (a barrier is needed).
        max_registers: bound of registers of a thread, where the launcher gives one (NVIDIA).
        hip: constexprs that have another value on AMD GPUs.
    """

    name: str
    kernel: Any
    types: Mapping[str, str]
    constexprs: Mapping[str, Any] = field(default_factory=dict)
    num_warps: int = 4
    num_stages: int = 1
    rereads: bool = False
    max_registers: int | None = None
    hip: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Compiled:
    """What the compiler made of a spec; sizes in bytes, registers per thread."""

    name: str
    target: str
    registers: int
    stack: int
    spills: int
    shared: int
    threads: int
    rereads: bool
    asm: str = field(repr=False)


class Parameter(NamedTuple):
    """An argument of a kernel; ``plain`` if its value leads to no variants."""

    name: str
    constexpr: bool
    plain: bool


def parameters(kernel: Any) -> list[Parameter]:
    """The arguments of a kernel, compiled or interpreted, of a module with options ``PLAIN``."""
    plain = sys.modules[kernel.fn.__module__].PLAIN["do_not_specialize"]
    return [
        Parameter(p.name, "constexpr" in str(p.annotation), p.name in plain)
        for p in inspect.signature(kernel.fn).parameters.values()
    ]


def shipped(modules: Iterable[str] = MODULES) -> list[KernelSpec]:
    """Every configuration that a launcher may pick."""
    from experiments.kernels import specs

    return specs.shipped(tuple(modules))


def _source(spec: KernelSpec, target: str) -> tuple[Any, dict[str, Any]]:
    """The source and the compiler's options."""
    from triton.compiler import ASTSource

    names = spec.kernel.arg_names
    missing = set(names) ^ (set(spec.types) | set(spec.constexprs))
    if missing:
        raise ValueError(f"expected types and constexprs to cover {names}, got other {missing}")
    signature = {n: spec.types.get(n, "constexpr").removesuffix(ALIGNED) for n in names}
    attrs = {
        (i,): [["tt.divisibility", 16]]
        for i, n in enumerate(names)
        if spec.types.get(n, "").endswith(ALIGNED)
    }
    constexprs = dict(spec.constexprs)
    options = {"num_warps": spec.num_warps, "num_stages": spec.num_stages}
    if TARGETS[target][0] == "hip":
        constexprs |= spec.hip
    elif spec.max_registers:
        options["maxnreg"] = spec.max_registers
    return ASTSource(spec.kernel, signature, constexprs, attrs), options


def compile_spec(spec: KernelSpec, target: str) -> Compiled:
    """Compile ``spec`` for one of ``TARGETS``."""
    import triton
    from triton.backends.compiler import GPUTarget

    source, options = _source(spec, target)
    backend, arch, warp = TARGETS[target]
    kernel = triton.compile(source, target=GPUTarget(backend, arch, warp), options=options)
    if backend == "cuda":
        asm, (registers, stack, spills) = kernel.asm["ptx"], _cuda_resources(kernel.asm["cubin"])
    else:
        asm = kernel.asm["amdgcn"]
        registers, stack, spills = _hip_resources(asm)
    threads = spec.num_warps * warp
    shared = kernel.metadata.shared
    return Compiled(spec.name, target, registers, stack, spills, shared, threads, spec.rereads, asm)


def _cuda_resources(cubin: bytes) -> tuple[int, int, int]:
    """Registers, stack and local memory, from the cuobjdump that triton bundles."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run(
            [str(tool), "--dump-resource-usage", file.name],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) .*?LOCAL:(\d+)", text)
    if found is None:
        raise RuntimeError(f"expected resource usage from cuobjdump, got {text!r}")
    return tuple(int(x) for x in found.groups())


def _hip_resources(asm: str) -> tuple[int, int, int]:
    """Vector registers, private segment and spilled registers, from the kernel's metadata.

    Scalar registers spill to lanes of vector registers, which are counted; not to memory.
    """

    def entry(key: str) -> int:
        return int(re.search(rf"^\s*\.{key}:\s*(\d+)", asm, re.MULTILINE)[1])

    return entry("vgpr_count"), entry("private_segment_fixed_size"), entry("vgpr_spill_count")


_LABEL = re.compile(r"^([$.\w]+):")
_STORE = re.compile(r"\b(st\.global|st\.async|red\.|global_store|buffer_store|flat_store)")
_LOAD = re.compile(r"\b(ld\.global|cp\.async|global_load|buffer_load|flat_load)")
_BARRIER = re.compile(r"\b(bar\.sync|barrier\.sync|barrier\.cta|s_barrier)\b")
_BRANCH = re.compile(r"\b(?:bra(?:\.uni)?|s_c?branch\w*)\s+([$.\w]+)")
_END = re.compile(r"\b(ret|exit|s_endpgm)\b")


def races(asm: str) -> list[str]:
    """Loads from global memory that a store reaches on some path without a barrier between.

    A program that reads what its other threads wrote needs the barrier. The check follows the
    control flow of PTX or AMD assembly and does not know addresses: it asks for a barrier after
    every store, before the next load of anything. On gfx942 a barrier is enough without a wait for
    the store as long as ``.amdhsa_tg_split`` is 0: all waves of a program then share one cache that
    serves them in order.

    Returns:
        The offending lines; empty if there are none.
    """
    lines = [line.split("//")[0].split(";")[0].strip() for line in asm.splitlines()]
    lines = [line for line in lines if line]
    place = {match[1]: i for i, line in enumerate(lines) if (match := _LABEL.match(line))}
    seen: set[tuple[int, bool]] = set()
    found: dict[int, str] = {}
    work = [(0, False)]
    while work:
        i, stored = work.pop()
        while i < len(lines) and (i, stored) not in seen:
            seen.add((i, stored))
            line = lines[i]
            if _BARRIER.search(line):
                stored = False
            elif _STORE.search(line):
                stored = True
            elif stored and _LOAD.search(line):
                found[i] = line
            branch = _BRANCH.search(line)
            if branch and branch[1] in place:
                work.append((place[branch[1]], stored))
                if not line.startswith("@") and not re.search(r"s_cbranch", line):
                    break
            elif _END.search(line) and not line.startswith("@"):
                break
            i += 1
    return [found[i] for i in sorted(found)]


def resources(spec: KernelSpec, target: str) -> dict[str, Any]:
    """:class:`Compiled` with ``races`` and ``tg_split`` for its code, from the cache if there."""
    file = _cache_file(spec, target)
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):
        pass
    compiled = compile_spec(spec, target)
    row = asdict(compiled)
    asm = row.pop("asm")
    row["races"] = races(asm) if spec.rereads else []
    row["tg_split"] = ".amdhsa_tg_split 1" in asm
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(row))
    part.replace(file)
    return row


def fault(row: Mapping[str, Any]) -> str | None:
    """What is wrong with a row of :func:`resources`, or ``None``."""
    if row["stack"] or row["spills"]:
        return f"a stack of {row['stack']} bytes and {row['spills']} spills"
    if row["races"]:
        return f"loads behind a store without a barrier: {row['races']}"
    if row["tg_split"]:
        return "waves of a program that do not share a cache"
    if row["rereads"] and row["threads"] < 2 * TARGETS[row["target"]][2]:
        return "one warp, whose barrier does not order memory"
    return None


def _cache_file(spec: KernelSpec, target: str) -> Path:
    import triton

    source, options = _source(spec, target)
    made_by = (triton.__version__, _own_source())
    key = (source.hash(), spec.name, spec.rereads, target, options, made_by)
    folder = os.environ.get("PLSTM_COMPILE_CACHE") or Path.home() / ".cache/plstm_graph/compiled"
    return Path(folder) / (hashlib.sha256(repr(key).encode()).hexdigest()[:32] + ".json")


@functools.cache
def _own_source() -> str:
    return Path(__file__).read_text()


def all_resources(
    modules: Iterable[str] = MODULES,
    targets: Iterable[str] = tuple(TARGETS),
    processes: int | None = None,
) -> Iterator[dict[str, Any]]:
    """:func:`resources` of each shipped configuration for each target, in no order.

    Args:
        modules: see ``MODULES``. targets: see ``TARGETS``.
        processes: that compile at a time; by default as many as there are processors.
    """
    modules, targets = tuple(modules), tuple(targets)
    # Without a choice, Triton warns that its default for fused multiply-add will change.
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    tasks = [(i, target) for i in range(len(shipped(modules))) for target in targets]
    processes = processes or len(os.sched_getaffinity(0))
    # Spawned, not forked: torch's and triton's threads do not survive a fork.
    with multiprocessing.get_context("spawn").Pool(processes, _load, (modules,)) as pool:
        yield from pool.imap_unordered(_resources_of, tasks, chunksize=4)


_SPECS: list[KernelSpec] = []


def _load(modules: tuple[str, ...]) -> None:
    """Specs do not travel between processes, but each can list them."""
    _SPECS[:] = shipped(modules)


def _resources_of(task: tuple[int, str]) -> dict[str, Any]:
    i, target = task
    return resources(_SPECS[i], target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), choices=list(TARGETS))
    parser.add_argument("--modules", nargs="+", default=list(MODULES))
    parser.add_argument("--processes", type=int, help="default: one for each processor")
    arguments = parser.parse_args()
    bad = []
    for row in all_resources(arguments.modules, arguments.targets, arguments.processes):
        print(json.dumps(row), flush=True)
        bad += [row] if fault(row) else []
    if bad:
        raise SystemExit(f"expected no faults, got {[(r['name'], fault(r)) for r in bad]}")


if __name__ == "__main__":
    main()
