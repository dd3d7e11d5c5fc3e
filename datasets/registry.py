"""Data sets by name, and one place for the arguments that choose one."""

from __future__ import annotations

from pathlib import Path

from datasets import molecules, ogb, tu
from datasets.base import GraphDataset, InputError

NAMES = ("nci", *tu.NAMES, *ogb.NAMES)


def load(
    name: str = "nci",
    *,
    root: str | Path | None = None,
    csv: str | Path | None = None,
    smiles_column: str = "smiles",
    target_column: str | None = None,
    task: str | None = None,
    fold: int = 0,
) -> GraphDataset:
    """Load a data set.

    Args:
        name: one of :data:`NAMES`; ignored with ``csv``.
        root: data root, see :func:`datasets.base.data_root`.
        csv: a user's own molecules instead of ``name``.
        smiles_column: its column of SMILES.
        target_column: its column of targets.
        task: "regression" or "binary" where it is not to be detected from the targets.
        fold: for the TU sets, the fold of the 10-fold cross-validation.
    """
    if csv is not None:
        if target_column is None:
            raise InputError("expected target_column together with csv; pass --target-column NAME")
        return molecules.load_csv(csv, smiles_column, target_column, task=task)
    if name == "nci":
        return molecules.load_nci(root)
    if name in tu.NAMES:
        return tu.load(name, root, fold=fold)
    if name in ogb.NAMES:
        return ogb.load(name, root)
    raise InputError(f"expected dataset one of {', '.join(NAMES)}, got {name!r}")
