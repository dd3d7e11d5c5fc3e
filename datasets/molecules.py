"""Molecules from SMILES: the embedded NCI set, and any CSV file of a user's own.

The embedded set are the first 5,000 molecules of the National Cancer Institute that the rdkit
wheel ships, with the targets of :mod:`datasets.descriptors`: the penalised logP of ZINC's benchmark
(here not normalised), and six descriptors that depend on whole molecules. Nothing is downloaded.
"""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import torch
from rdkit import Chem, RDConfig

from datasets import descriptors
from datasets.base import GraphDataset, InputError, data_root
from datasets.smiles import parse, report_bad
from datasets.splits import scaffold_split

# Raise when graphs, targets or the split change, so that older caches are not read.
_CACHE_VERSION = 2
# A CSV file has one column of targets.
CSV_TASKS = ("regression", "binary")


def load_nci(root: str | Path | None = None) -> GraphDataset:
    """The embedded NCI molecules: seven descriptors as targets, scaffold split 80/10/10.

    The targets are those of :data:`datasets.descriptors.DESCRIPTORS`, not standardised. A molecule
    that occurs twice (by canonical SMILES) is kept once, where it comes first: copies would only
    repeat the same graph and targets. Molecules of several fragments stay, as disconnected graphs.
    The processed graphs are cached in ``root``/nci.

    Args:
        root: data root.
    """
    path = data_root(root) / "nci" / f"processed_v{_CACHE_VERSION}.pt"
    if path.exists():
        # Written below on this machine; PyG's Data needs the full unpickler.
        graphs, split, notes, names = torch.load(path, weights_only=False)
    else:
        graphs, split, notes, names = _process_nci()
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial")  # another process may write, too
        torch.save((graphs, split, notes, names), partial)
        partial.replace(path)  # an interrupted run leaves no half-written cache
    return GraphDataset("nci", "regression", graphs, split, notes, target_names=names)


def _process_nci():
    source = Path(RDConfig.RDDataDir) / "NCI" / "first_5K.smi"
    lines = source.read_text().splitlines()
    parsed, bad = parse((i, line.split()[0]) for i, line in enumerate(lines, 1) if line.strip())
    graphs, seen = [], set()
    for graph in parsed.values():
        mol = Chem.MolFromSmiles(graph.smiles)
        canonical = Chem.MolToSmiles(mol)
        if canonical in seen:
            continue
        seen.add(canonical)
        graph.y = torch.tensor([descriptors.describe(mol)], dtype=torch.float32)
        graphs.append(graph)
    notes = [
        report_bad(bad, len(lines), unit="line"),
        f"{len(parsed) - len(graphs)} duplicates left out: {len(graphs)} molecules",
    ]
    split = scaffold_split([graph.smiles for graph in graphs])
    return graphs, split, notes, list(descriptors.NAMES)


def load_csv(
    path: str | Path, smiles_column: str, target_column: str, *, task: str | None = None
) -> GraphDataset:
    """A user's own molecules, scaffold split 80/10/10.

    Rows are counted from 1, the first one below the header. Duplicates stay: they may be
    repeated measurements, and the scaffold split keeps them in one part.

    Args:
        path: CSV file with a header.
        smiles_column: column of SMILES.
        target_column: column of numbers.
        task: "regression" or "binary". Default: binary if all targets are 0 or 1.

    Raises:
        InputError: on a missing column, a target that is no number, or no parsable SMILES.
    """
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    for option, column in (("smiles", smiles_column), ("target", target_column)):
        if column not in table.columns:
            raise InputError(
                f"expected {option}_column to be a column of {path}, got {column!r}; "
                f"it has {', '.join(map(repr, table.columns))}"
            )
    targets = pd.to_numeric(table[target_column], errors="coerce")
    if targets.isna().any():
        row = int(targets.isna().to_numpy().argmax())
        raise InputError(
            f"expected numbers in column {target_column!r} of {path}, got "
            f"{table[target_column][row]!r} in row {row + 1} ({int(targets.isna().sum())} such "
            f"rows); remove or fill these rows"
        )
    found = "binary" if set(targets) <= {0.0, 1.0} else "regression"
    if task == "binary" and found != "binary":
        raise InputError(
            f"expected targets 0 and 1 in column {target_column!r} for task 'binary', got values "
            f"from {targets.min():g} to {targets.max():g}; use task 'regression'"
        )
    if task not in (None, *CSV_TASKS):
        raise InputError(f"expected task one of {', '.join(CSV_TASKS)}, got {task!r}")
    parsed, bad = parse(enumerate(table[smiles_column], 1))
    notes = [report_bad(bad, len(table))] if bad else []
    if not parsed:
        raise InputError(
            f"expected SMILES in column {smiles_column!r} of {path}, got none that RDKit can "
            f"parse. {report_bad(dict(list(bad.items())[:5]), len(table))}"
        )
    for row, graph in parsed.items():
        graph.y = torch.tensor([targets[row - 1]], dtype=torch.float32)
    graphs = list(parsed.values())
    split = scaffold_split([graph.smiles for graph in graphs])
    name = Path(path).stem
    return GraphDataset(name, task or found, graphs, split, notes, target_names=[target_column])
