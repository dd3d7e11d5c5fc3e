"""Deterministic splits."""

from __future__ import annotations

import numpy as np
import torch
from rdkit import Chem
from rdkit.Chem.Scaffolds import MurckoScaffold
from sklearn.model_selection import StratifiedKFold, train_test_split
from torch import Tensor

from datasets.base import InputError


def scaffold_of(smiles: str) -> str:
    """The Bemis-Murcko scaffold as canonical SMILES; empty without a ring."""
    mol = Chem.MolFromSmiles(smiles)
    return MurckoScaffold.MurckoScaffoldSmiles(mol=mol, includeChirality=False)


def scaffold_split(smiles: list[str], valid: float = 0.1, test: float = 0.1) -> dict[str, Tensor]:
    """Molecules of one Bemis-Murcko scaffold fall into one part.

    Scaffolds go whole into training, from the most frequent one on, then into validation, then
    into test: the test molecules are those with the rarest scaffolds. Ties are broken by the
    scaffold's SMILES, so the split depends neither on a seed nor on the order of ``smiles``
    (only the rows it returns do).

    Args:
        smiles: parsable SMILES of all molecules.
        valid: fraction for validation.
        test: fraction for test.

    Returns:
        "train", "valid", "test": ascending rows of ``smiles``, disjoint and complete.
    """
    groups: dict[str, list[int]] = {}
    for row, text in enumerate(smiles):
        groups.setdefault(scaffold_of(text), []).append(row)
    room = {
        "train": round(len(smiles) * (1 - valid - test)),
        "valid": round(len(smiles) * valid),
    }
    parts: dict[str, list[int]] = {"train": [], "valid": [], "test": []}
    for _, rows in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])):
        for part in parts:
            if part == "test" or len(parts[part]) + len(rows) <= room[part]:
                parts[part] += rows
                break
    return {part: torch.tensor(sorted(rows), dtype=torch.long) for part, rows in parts.items()}


def cross_validation_split(labels: Tensor, fold: int, folds: int = 10) -> dict[str, Tensor]:
    """One fold of the stratified 10-fold protocol that the published TU tables use.

    ``StratifiedKFold(10, shuffle=True, random_state=42)`` gives the test part; the rest is
    divided 8 : 1 into training and validation, stratified, with the same seed.

    Args:
        labels: [B] class of each graph.
        fold: 0 to ``folds - 1``.
        folds: number of folds.
    """
    if not 0 <= fold < folds:
        raise InputError(f"expected fold between 0 and {folds - 1}, got {fold}")
    y = labels.numpy()
    splitter = StratifiedKFold(folds, shuffle=True, random_state=42)
    rest, test = list(splitter.split(np.zeros_like(y), y))[fold]
    train, valid = train_test_split(rest, train_size=0.888889, random_state=42, stratify=y[rest])
    parts = {"train": train, "valid": valid, "test": test}
    return {part: torch.from_numpy(rows) for part, rows in parts.items()}
