"""Targets: numbers or classes with gaps, what task they are of, and their scale."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from plstm_graph.molecules.errors import InputError, first_few
from plstm_graph.molecules.tables import Row

TASKS = ("regression", "binary", "multilabel", "multiclass")
#: Cells that hold no value; case does not matter.
GAPS = ("", "na", "n/a", "nan", "null", "none", "<na>", "?", "-")
#: Larger numbers would be infinite in float32 when they are squared and summed.
LARGEST = 1e30
#: More classes than this are no classes.
MOST_CLASSES = 1000
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def is_gap(cell: str) -> bool:
    return cell.strip().lower() in GAPS


def number(cell: str, path: Path, row: Row, column: str) -> float:
    """The number in a cell; NaN for a gap.

    Raises:
        InputError: on anything else, and on numbers that are not finite or too large.
    """
    text = cell.strip()
    if text.lower() in GAPS:
        return math.nan
    if text.lower() in ("true", "false"):
        return float(text.lower() == "true")
    where = f"in column {column!r} of {path}, got {cell!r} in {row.place}"
    if not _NUMBER.fullmatch(text):
        if re.fullmatch(r"[+-]?inf(inity)?", text.lower()):
            remedy = "leave the cell empty"
        elif re.fullmatch(r"[+-]?[\d.]*,\d+", text):
            remedy = "write decimals with a point"
        else:
            remedy = (
                "correct it or leave the cell empty; for names of classes pass --task multiclass"
            )
        raise InputError(f"expected numbers {where}; {remedy}")
    value = float(text)
    if not abs(value) <= LARGEST:
        raise InputError(
            f"expected numbers of at most {LARGEST:g} {where}; change the unit, take logarithms, "
            f"or leave the cell empty"
        )
    return value


@dataclass
class Targets:
    """The targets of B molecules.

    Args:
        task: one of :data:`TASKS`.
        names: of the T columns.
        values: [B, T] float64, NaN for a gap; of "multiclass", [B, 1] the number of the class.
        classes: of "multiclass": the name of each class.
        notes: what a user should know.
    """

    task: str
    names: list[str]
    values: np.ndarray
    classes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def outputs(self) -> int:
        """How many numbers a model gives for a molecule."""
        return len(self.classes) or len(self.names)


def check_names(text: str | Sequence[str], smiles_column: str | None = None) -> list[str]:
    """The columns of ``--target-column a,b,c``."""
    names = text.split(",") if isinstance(text, str) else list(text)
    names = [name.strip() for name in names]
    if not names or not all(names):
        raise InputError(
            f"expected target_column as names separated by commas, got {text!r}; name each column"
        )
    if len(set(names)) < len(names):
        raise InputError(f"expected each target_column once, got {text!r}; name each column once")
    if smiles_column in names:
        raise InputError(
            f"expected target_column to be other columns than that of SMILES, got "
            f"{smiles_column!r}; leave it out"
        )
    return names


def make_targets(
    rows: Sequence[Row], path: Path, names: list[str], task: str | None = None
) -> Targets:
    """Numbers of the cells, and the task.

    Args:
        rows: with cells of the columns ``names``.
        path: of their file, for errors.
        names: of the target columns.
        task: default: "binary" or "multilabel" if all targets are 0 or 1, else "regression".
    """
    if task is not None and task not in TASKS:
        raise InputError(f"expected task out of {', '.join(TASKS)}, got {task!r}")
    if task == "multiclass":
        return _classes(rows, path, names)
    values = np.array(
        [[number(row.values[name], path, row, name) for name in names] for row in rows],
        dtype=np.float64,
    ).reshape(len(rows), len(names))
    known = np.isfinite(values)
    for name, some in zip(names, known.any(0)):
        if not some:
            raise InputError(
                f"expected numbers in column {name!r} of {path}, got gaps only in all "
                f"{len(rows)} rows; leave the column out"
            )
    flags = np.where(known, (values == 0) | (values == 1), True)
    kind = "binary" if len(names) == 1 else "multilabel"
    if task is None:
        task = kind if flags.all() else "regression"
    notes = []
    if task in ("binary", "multilabel"):
        task = kind
        if not flags.all():
            row, column = np.argwhere(~flags)[0]
            raise InputError(
                f"expected 0, 1 or gaps in column {names[column]!r} of {path} for task {task!r}, "
                f"got {values[row, column]:g} in {rows[row].place}; use --task regression or "
                f"multiclass"
            )
    else:
        binary = [name for name, all_flags in zip(names, flags.all(0)) if all_flags]
        if binary and len(binary) < len(names):
            notes.append(
                f"columns {first_few(binary)} hold 0 and 1 only and are regressed as numbers like "
                f"the others; to get probabilities, train them by themselves"
            )
    gaps = int((~known).sum())
    if gaps:
        notes.append(f"{gaps} of {values.size} targets are gaps, which are masked")
    return Targets(task, names, values, notes=notes)


def _classes(rows: Sequence[Row], path: Path, names: list[str]) -> Targets:
    if len(names) > 1:
        raise InputError(
            f"expected one target_column for task 'multiclass', got {', '.join(names)}; train a "
            f"model for each"
        )
    cells = [row.values[names[0]].strip() for row in rows]
    kinds = {cell for cell in cells if not is_gap(cell)}
    if len(kinds) < 2 or len(kinds) > MOST_CLASSES:
        raise InputError(
            f"expected 2 to {MOST_CLASSES} classes in column {names[0]!r} of {path}, got "
            f"{len(kinds)}; choose another column" + (", or --task regression" if kinds else "")
        )
    numeric = all(_NUMBER.fullmatch(cell) for cell in kinds)
    classes = sorted(kinds, key=(lambda cell: (float(cell), cell)) if numeric else None)
    place = {cell: float(i) for i, cell in enumerate(classes)}
    values = np.array([place.get(cell, math.nan) for cell in cells]).reshape(-1, 1)
    gaps = int(np.isnan(values).sum())
    notes = [f"{gaps} of {len(cells)} targets are gaps; they are left out"] if gaps else []
    return Targets("multiclass", names, values, classes, notes)


def scale(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation [T] of the known values; 0 and 1 where there are none, and
    deviation 1 where they are all the same."""
    known = np.isfinite(values)
    count = np.maximum(known.sum(0), 1)
    mean = np.where(known, values, 0.0).sum(0) / count
    std = np.sqrt(np.where(known, np.square(values - mean), 0.0).sum(0) / count)
    return mean, np.where(std > 1e-12 * np.maximum(np.abs(mean), 1e-300), std, 1.0)


def quantum(std: float) -> int:
    """Decimals of a prediction: six significant digits of a standard deviation."""
    return 5 - math.floor(math.log10(std))
