"""Pick a launch configuration by timing, once per kind of problem.

The cache is keyed by a tuple of strings and numbers that each launcher documents: the kernel, the
dtypes, J, and sizes rounded up to powers of two, so that a new batch of the same kind finds the
choice of the last one. It lives in memory and in a file per device and version of triton,
``$PLSTM_AUTOTUNE_DIR`` (default ``~/.cache/plstm_graph``); ``PLSTM_AUTOTUNE=0`` turns timing off.

Where timing is impossible (the interpreter, a stream that is being captured into a graph) or must
not decide (``torch.use_deterministic_algorithms(True)``: some choices change the last bits) the
first configuration runs, so the first one of a list is the default.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch


class Config(NamedTuple):
    """Block sizes and launch options; what rows, width and stages are of is the kernel's affair."""

    rows: int
    width: int
    num_warps: int = 4
    num_stages: int = 1


Key = tuple[str | int, ...]


def pick(
    key: Key,
    configs: Sequence[Config],
    launch: Callable[[Config], None],
    device: torch.device,
) -> Config:
    """The fastest of ``configs``.

    Args:
        key: what the choice may depend on.
        configs: candidates; the first one runs where nothing can be timed.
        launch: runs the kernel with a configuration. It is called repeatedly, so it must write
            the same result each time.
        device: where the tensors are.
    """
    if len(configs) == 1 or not _may_time(device):
        return configs[0]
    cache = _cache(str(_file(device)))
    name = json.dumps(key)
    if cache.get(name) not in {tuple(c) for c in configs}:
        from triton.testing import do_bench

        times = [do_bench(functools.partial(launch, c), warmup=5, rep=20) for c in configs]
        cache[name] = tuple(configs[times.index(min(times))])
        _save(_file(device), cache)
    return Config(*cache[name])


def _may_time(device: torch.device) -> bool:
    if device.type != "cuda" or os.environ.get("PLSTM_AUTOTUNE", "1") == "0":
        return False
    if torch.are_deterministic_algorithms_enabled():
        return False
    return not torch.cuda.is_current_stream_capturing()


def _file(device: torch.device) -> Path:
    import triton

    folder = os.environ.get("PLSTM_AUTOTUNE_DIR") or Path.home() / ".cache" / "plstm_graph"
    name = f"{torch.cuda.get_device_name(device)}-triton-{triton.__version__}"
    return Path(folder) / (re.sub(r"[^\w.-]+", "_", name) + ".json")


@functools.cache
def _cache(file: str) -> dict[str, tuple[int, ...]]:
    try:
        return {k: tuple(v) for k, v in json.loads(Path(file).read_text()).items()}
    except (OSError, ValueError):
        return {}


def _save(file: Path, cache: dict[str, tuple[int, ...]]) -> None:
    """Best effort: a folder that cannot be written costs the timing again next time."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps(cache, indent=0))
        part.replace(file)
    except OSError:
        return
