"""Rows of features as integers that keep their order, for the canonical ranks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

#: Codes are below this, so that they fit an int64.
_LARGEST = 1 << 62


def codes(keys: Sequence[np.ndarray], size: int, name: str) -> tuple[np.ndarray, int]:
    """One integer for each row of the keys: equal for equal rows, ordered as the rows are.

    Args:
        keys: arrays [size] or [size, F] of integers, floating-point numbers or bools.
        size: number of rows.
        name: of the argument, for errors.

    Returns:
        The codes, [size] int64 in [0, bound), and bound.

    Raises:
        ValueError: on another shape or dtype.
    """
    code, bound = np.zeros(size, dtype=np.int64), 1
    for i, key in enumerate(keys):
        if not isinstance(key, np.ndarray) or key.ndim not in (1, 2) or key.shape[0] != size:
            got = f"shape {list(key.shape)}" if isinstance(key, np.ndarray) else type(key).__name__
            raise ValueError(
                f"expected {name}[{i}] as an array of shape [{size}] or [{size}, F], got {got}; "
                f"pass a sequence of arrays with one row each"
            )
        if key.dtype.kind not in "biuf":
            raise ValueError(
                f"expected {name}[{i}] of integer, floating or bool dtype, got {key.dtype}; "
                f"convert it"
            )
        for column in (key[:, None] if key.ndim == 1 else key).T if size else ():
            place, count = _column(column)
            if bound * count >= _LARGEST:
                code, bound = dense(code, bound)
                if bound == size:
                    return code, bound  # all rows are different: further keys decide nothing
            code, bound = code * count + place, bound * count
    return code, bound


def _column(value: np.ndarray) -> tuple[np.ndarray, int]:
    if value.dtype.kind != "f":
        value = value.astype(np.uint8) if value.dtype.kind == "b" else value
        low, high = int(value.min()), int(value.max())
        if high - low < 2**20 and abs(low) < 2**62:
            return value.astype(np.int64) - low, high - low + 1
    # Equal numbers are one code: -0.0 and 0.0, and all kinds of NaN.
    distinct, code = np.unique(value, return_inverse=True)
    return code.reshape(-1), distinct.size


def dense(code: np.ndarray, bound: int) -> tuple[np.ndarray, int]:
    """The codes numbered without gaps, in their order, and how many there are."""
    if bound <= 8 * code.size + 1024:
        seen = np.zeros(bound, dtype=np.int64)
        seen[code] = 1
        np.cumsum(seen, out=seen)
        return seen[code] - 1, int(seen[-1])
    distinct, code = np.unique(code, return_inverse=True)
    return code.reshape(-1), distinct.size


def within(component: np.ndarray, count: int, code: np.ndarray, bound: int) -> np.ndarray:
    """[K] int64 place of each code among the different ones of its component, from 0."""
    if bound == 1:
        return np.zeros(code.size, dtype=np.int64)
    if bound * count >= _LARGEST:
        code, bound = dense(code, bound)
    place, _ = dense(component * bound + code, count * bound)
    first = np.full(count, place.size, dtype=np.int64)
    np.minimum.at(first, component, place)
    return place - first[component]
