"""Splits into training, validation and test molecules: by scaffold, random, by a column, folds.

Copies of one molecule always fall into one part.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from plstm_graph.molecules.errors import InputError, first_few

PARTS = ("train", "valid", "test")
KINDS = ("scaffold", "random", "column", "kfold")
#: What a column of splits may say.
WORDS = {
    "train": ("train", "training", "tr"),
    "valid": ("valid", "val", "validation", "dev"),
    "test": ("test", "testing", "te", "holdout"),
}

Parts = dict[str, Tensor]


@dataclass(frozen=True)
class Split:
    """A kind of split, as ``--split`` names it.

    Args:
        kind: one of :data:`KINDS`.
        column: of "column".
        folds: of "kfold".
    """

    kind: str
    column: str = ""
    folds: int = 0

    @classmethod
    def read(cls, words: Sequence[str]) -> Split:
        """From ``scaffold``, ``random``, ``column NAME`` or ``kfold K``."""
        words = list(words)
        rest = words[1:]
        if words and words[0] in ("scaffold", "random") and not rest:
            return cls(words[0])
        if words and words[0] == "column" and len(rest) == 1:
            return cls("column", column=rest[0])
        if words and words[0] == "kfold" and len(rest) == 1:
            if not rest[0].isdecimal() or int(rest[0]) < 3:
                raise InputError(f"expected kfold with 3 folds or more, got {rest[0]!r}")
            return cls("kfold", folds=int(rest[0]))
        raise InputError(
            f"expected split as 'scaffold', 'random', 'column NAME' or 'kfold K', got "
            f"{' '.join(words)!r}"
        )

    def __str__(self) -> str:
        return f"{self.kind} {self.column or self.folds or ''}".strip()


def scaffold_of(smiles: str) -> str:
    """The Bemis-Murcko scaffold as canonical SMILES; empty without a ring."""
    from rdkit import Chem
    from rdkit.Chem.Scaffolds import MurckoScaffold

    mol = Chem.MolFromSmiles(smiles)
    return MurckoScaffold.MurckoScaffoldSmiles(mol=mol, includeChirality=False)


def scaffold_split(smiles: list[str], valid: float = 0.1, test: float = 0.1) -> Parts:
    """Molecules of one Bemis-Murcko scaffold fall into one part.

    Scaffolds go whole into training, from the most frequent one on (which goes there whatever its
    size), then into validation, then into test: the test molecules are those with the rarest
    scaffolds. Ties are broken by the scaffold's SMILES, so the split depends neither on a seed nor
    on the order of ``smiles`` (only the rows it returns do).

    Args:
        smiles: parsable SMILES of all molecules.
        valid: fraction for validation.
        test: fraction for test.

    Returns:
        "train", "valid", "test": ascending rows of ``smiles``, disjoint and complete.

    Raises:
        InputError: if there are fewer than three scaffolds.
    """
    groups: dict[str, list[int]] = {}
    for row, text in enumerate(smiles):
        groups.setdefault(scaffold_of(text), []).append(row)
    if len(groups) < 3:
        shown = [f"{name!r}" if name else "none (no rings)" for name in groups]
        raise InputError(
            f"expected three scaffolds or more for a scaffold split, got {len(groups)} in "
            f"{len(smiles)} molecules: {first_few(shown)}; use --split random"
        )
    room = {
        "train": round(len(smiles) * (1 - valid - test)),
        "valid": round(len(smiles) * valid),
    }
    parts: dict[str, list[int]] = {"train": [], "valid": [], "test": []}
    ordered = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    for _, rows in ordered:
        for part in parts:
            fits = part == "test" or len(parts[part]) + len(rows) <= room[part]
            if fits or not parts["train"]:
                parts[part] += rows
                break
    # Where large scaffolds leave a part without any, it takes the rarest ones.
    spare = [rows for _, rows in reversed(ordered)]
    for part, other in (("test", "train"), ("valid", "test"), ("valid", "train")):
        if not parts[part]:
            movable = [rows for rows in spare if set(rows) < set(parts[other])]
            if movable:
                parts[part] += movable[0]
                parts[other] = [row for row in parts[other] if row not in set(movable[0])]
    return {part: torch.tensor(sorted(rows), dtype=torch.long) for part, rows in parts.items()}


def random_split(
    smiles: Sequence[str],
    seed: int,
    valid: float = 0.1,
    test: float = 0.1,
    labels: np.ndarray | None = None,
) -> Parts:
    """Random parts; with labels, each with the shares of the whole.

    Args:
        smiles: canonical SMILES; copies stay together.
        seed: of the draw.
        valid, test: their fractions.
        labels: [B] classes, NaN for none.
    """
    from sklearn.model_selection import train_test_split

    groups, strata = _groups(smiles, labels)
    _enough(len(groups), 3)
    index = np.arange(len(groups))
    counts = {"valid": max(1, round(valid * len(index))), "test": max(1, round(test * len(index)))}
    parts: dict[str, np.ndarray] = {}
    for part, count in counts.items():
        count = min(count, len(index) - len(counts) + len(parts))
        stratify = _stratify(strata[index], count)
        index, parts[part] = train_test_split(
            index, test_size=count, random_state=seed, stratify=stratify
        )
    parts["train"] = index
    return {part: _rows(groups, parts[part]) for part in PARTS}


def folds(
    smiles: Sequence[str], count: int, seed: int, labels: np.ndarray | None = None
) -> list[Parts]:
    """K splits: each fold is the test part once, the next one the validation part.

    Args:
        smiles: canonical SMILES; copies stay together.
        count: K.
        seed: of the draw.
        labels: [B] classes, NaN for none.
    """
    from sklearn.model_selection import KFold, StratifiedKFold

    groups, strata = _groups(smiles, labels)
    _enough(len(groups), count)
    enough = labels is not None and min(Counter(strata.tolist()).values()) >= count
    splitter = (StratifiedKFold if enough else KFold)(count, shuffle=True, random_state=seed)
    index = np.arange(len(groups))
    tests = [rows for _, rows in splitter.split(index, strata)]
    out = []
    for fold, test in enumerate(tests):
        valid = tests[(fold + 1) % count]
        train = np.setdiff1d(index, np.concatenate([test, valid]))
        parts = {"train": train, "valid": valid, "test": test}
        out.append({part: _rows(groups, rows) for part, rows in parts.items()})
    return out


def column_split(words: Sequence[str], places: Sequence[str], column: str) -> tuple[Parts, int]:
    """The split that a column names, and the number of molecules that it leaves out.

    Args:
        words: its cells; an empty one leaves the molecule out.
        places: of the rows, for errors.
        column: its name.
    """
    known = {word: part for part, words_of in WORDS.items() for word in words_of}
    parts: dict[str, list[int]] = {part: [] for part in PARTS}
    left_out = 0
    for row, (cell, place) in enumerate(zip(words, places)):
        word = cell.strip().lower()
        if not word:
            left_out += 1
        elif word in known:
            parts[known[word]].append(row)
        else:
            raise InputError(
                f"expected train, valid, test or nothing in column {column!r}, got {cell!r} in "
                f"{place}; correct it"
            )
    if missing := [part for part in PARTS if not parts[part]]:
        raise InputError(
            f"expected molecules of each part in column {column!r}, got none for "
            f"{' and '.join(missing)}; name some, or choose another --split"
        )
    return {part: torch.tensor(rows, dtype=torch.long) for part, rows in parts.items()}, left_out


def _groups(smiles: Sequence[str], labels: np.ndarray | None) -> tuple[list[list[int]], np.ndarray]:
    """Rows of each molecule, and the class of its first row."""
    rows: dict[str, list[int]] = {}
    for row, text in enumerate(smiles):
        rows.setdefault(text, []).append(row)
    groups = list(rows.values())
    strata = np.zeros(len(groups))
    if labels is not None:
        first = np.array([group[0] for group in groups])
        strata = np.where(np.isnan(labels[first]), -1.0, labels[first])
    return groups, strata


def _stratify(strata: np.ndarray, count: int) -> np.ndarray | None:
    """The classes, where each part can get some of each."""
    kinds, sizes = np.unique(strata, return_counts=True)
    useful = len(kinds) > 1 and sizes.min() >= 2 and len(kinds) <= min(count, len(strata) - count)
    return strata if useful else None


def _rows(groups: list[list[int]], chosen: np.ndarray) -> Tensor:
    return torch.tensor(sorted(row for i in chosen for row in groups[i]), dtype=torch.long)


def _enough(found: int, least: int) -> None:
    if found < least:
        raise InputError(
            f"expected at least {least} different molecules for this split, got {found}; use more "
            f"molecules" + (" or fewer folds" if least > 3 else "")
        )


def shuffled(count: int, seed: str) -> list[int]:
    """0 to ``count`` - 1 in an order that depends on ``seed`` alone."""
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return order
