"""Molecules from SMILES: the embedded NCI set, and any CSV file of a user's own.

The embedded set are the first 5,000 molecules of the National Cancer Institute that the rdkit
wheel ships, with the targets of :mod:`datasets.descriptors`: the penalised logP of ZINC's benchmark
(here not normalised), and six descriptors that depend on whole molecules. Nothing is downloaded.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch
from rdkit import Chem, RDConfig

from datasets import descriptors
from datasets.base import GraphDataset, InputError, data_root
from datasets.splits import scaffold_split
from plstm_graph.molecules.graphs import parse, report_bad
from plstm_graph.molecules.tables import open_table
from plstm_graph.molecules.targets import make_targets

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
    if task not in (None, *CSV_TASKS):
        raise InputError(f"expected task one of {', '.join(CSV_TASKS)}, got {task!r}")
    table = open_table(path, smiles_column=smiles_column, wanted=[target_column])
    rows = list(table)
    targets = make_targets(rows, table.path, [target_column], task)
    gaps = [row for row, (value,) in zip(rows, targets.values) if math.isnan(value)]
    parsed, bad = parse((row.number, row.smiles) for row in rows)
    notes = [report_bad(bad, len(rows))] if bad else []
    if gaps:
        notes.append(f"{len(gaps)} rows without a target are left out")
    if not parsed:
        raise InputError(
            f"expected SMILES in column {smiles_column!r} of {path}, got none that RDKit can "
            f"parse. {report_bad(dict(list(bad.items())[:5]), len(rows))}"
        )
    for row in gaps:
        parsed.pop(row.number, None)
    for row, graph in parsed.items():
        graph.y = torch.tensor(targets.values[row - 1], dtype=torch.float32)
    graphs = list(parsed.values())
    split = scaffold_split([graph.smiles for graph in graphs])
    name = Path(path).stem
    return GraphDataset(name, targets.task, graphs, split, notes, target_names=[target_column])
