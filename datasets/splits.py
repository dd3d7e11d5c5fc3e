"""Deterministic splits."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.model_selection import StratifiedKFold, train_test_split
from torch import Tensor

from datasets.base import InputError
from plstm_graph.molecules.splits import scaffold_of, scaffold_split

__all__ = ["cross_validation_split", "scaffold_of", "scaffold_split"]


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
