"""The molecules of a file with their targets, as training reads them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch_geometric.data import Data

from plstm_graph.molecules.console import Voice
from plstm_graph.molecules.errors import InputError, first_few
from plstm_graph.molecules.graphs import molecule, seed_of, silent
from plstm_graph.molecules.on_disk import OnDiskMolecules
from plstm_graph.molecules.options import TrainOptions
from plstm_graph.molecules.splits import (
    Parts,
    Split,
    column_split,
    folds,
    random_split,
    scaffold_split,
)
from plstm_graph.molecules.tables import Row, Table, open_table
from plstm_graph.molecules.targets import Targets, check_names, make_targets, number

#: Raise when graphs change, so that older caches are not read.
_CACHE_VERSION = 1


@dataclass
class MoleculeSet:
    """B molecules with targets.

    Args:
        path: of their file.
        graphs: in memory or on disk.
        smiles: canonical ones.
        seeds: [B] uint64, of random orientations.
        rows: numbers of their rows.
        targets: of the molecules.
        weight: [B] of each in the loss.
        parts_column: cells of the column of splits, if there is one.
        places: of the rows, for errors.
        notes: what a user should know.
        digest: SHA-256 of the file.
    """

    path: Path
    graphs: Sequence[Data]
    smiles: list[str]
    seeds: np.ndarray
    rows: list[int]
    targets: Targets
    weight: np.ndarray
    parts_column: list[str]
    places: list[str]
    notes: list[str] = field(default_factory=list)
    digest: str = ""

    def splits(self, options: TrainOptions, seed: int) -> list[Parts]:
        """The split of a seed, or all K of its folds."""
        split = Split.read(options.split)
        labels = self.targets.values[:, 0] if len(self.targets.names) == 1 else None
        labels = labels if self.targets.task in ("binary", "multiclass") else None
        if split.kind == "kfold":
            return folds(self.smiles, split.folds, seed, labels)
        if split.kind == "random":
            return [random_split(self.smiles, seed, options.valid, options.test, labels)]
        if split.kind == "scaffold":
            with silent():
                return [scaffold_split(self.smiles, options.valid, options.test)]
        return [column_split(self.parts_column, self.places, split.column)[0]]


def digest_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(
            hashlib, "file_digest"
        ) else hashlib.sha256(file.read()).hexdigest()  # fmt: skip


def load(options: TrainOptions, voice: Voice) -> MoleculeSet:
    """Read the file of molecules; what is left out is reported.

    Raises:
        InputError: on a file, column or target that cannot be used.
    """
    names = check_names(options.target_column, options.smiles_column)
    split = Split.read(options.split)
    extra = [name for name in (split.column, options.weight_column) if name]
    if clash := set(extra) & set(names):
        raise InputError(
            f"expected other columns for the split and weights than the targets, got "
            f"{', '.join(map(repr, sorted(clash)))} for both"
        )
    table = open_table(
        options.input,
        smiles_column=options.smiles_column,
        wanted=[*names, *extra],
        separator=options.separator,
        encoding=options.encoding,
        file_format=options.format,
    )
    if table.smiles_column in names:
        check_names(names, table.smiles_column)
    digest = digest_of(table.path)
    rows, graphs, smiles, bad = _molecules(table, options, digest, voice)
    targets = make_targets(rows, table.path, names, options.task)
    weight = _weights(rows, table.path, options.weight_column)
    notes = [*table.notes, *bad, *targets.notes]
    known = np.isfinite(targets.values).any(1) & (weight > 0)
    if split.kind == "column":
        cells = [row.values[split.column] for row in rows]
        places = [row.place for row in rows]
        _, left_out = column_split(cells, places, split.column)
        if left_out:
            notes.append(f"rows left out: {left_out} (no part in column {split.column!r})")
        known &= np.array([bool(cell.strip()) for cell in cells])
    dropped = int((~(np.isfinite(targets.values).any(1) & (weight > 0))).sum())
    if dropped:
        notes.append(f"rows left out: {dropped} (no target, or weight 0)")
    chosen = np.flatnonzero(known)
    if len(chosen) < 3:
        raise InputError(
            f"expected three molecules or more with targets in {table.path}, got {len(chosen)}; "
            f"use more molecules"
        )
    rows = [rows[i] for i in chosen]
    smiles = [smiles[i] for i in chosen]
    notes += _copies(smiles)
    targets.values = targets.values[chosen]
    graphs = graphs[chosen] if isinstance(graphs, OnDiskMolecules) else [graphs[i] for i in chosen]
    return MoleculeSet(
        table.path,
        graphs,
        smiles,
        np.array([seed_of(text) for text in smiles], dtype=np.uint64),
        [row.number for row in rows],
        targets,
        weight[chosen],
        [row.values[split.column] for row in rows] if split.column else [],
        [row.place for row in rows],
        notes,
        digest,
    )


def _copies(smiles: list[str]) -> list[str]:
    counts = Counter(smiles)
    several = [text for text, count in counts.items() if count > 1]
    if not several:
        return []
    return [
        f"{len(several)} molecules occur more than once ({first_few(several)}); unless a column "
        f"says otherwise, copies stay in one part"
    ]


def _weights(rows: list[Row], path: Path, column: str | None) -> np.ndarray:
    if column is None:
        return np.ones(len(rows))
    weight = np.array([number(row.values[column], path, row, column) for row in rows])
    bad = np.flatnonzero(~(weight >= 0))
    if bad.size:
        row = rows[bad[0]]
        raise InputError(
            f"expected weights of 0 or more in column {column!r} of {path}, got "
            f"{row.values[column]!r} in {row.place}; 0 leaves a molecule out"
        )
    if not weight.any():
        raise InputError(f"expected some weights above 0 in column {column!r} of {path}, got none")
    return weight / weight[weight > 0].mean()


class _Stream:
    """Graphs one by one; rows, SMILES and what is bad are kept beside."""

    def __init__(self, table: Table, voice: Voice) -> None:
        self.table, self.voice = table, voice
        self.rows: list[Row] = []
        self.smiles: list[str] = []
        self.bad: list[str] = []
        self.count = 0

    def __iter__(self) -> Iterator[Data]:
        with silent():
            for row in self.voice.track(self.table, "reading molecules"):
                self.count += 1
                try:
                    graph = molecule(row.molecule())
                except ValueError as error:
                    self.bad.append(f"{row.place} {row.smiles!r}: {error}")
                    continue
                self.rows.append(Row(row.number, row.smiles, row.values, row.line))
                self.smiles.append(graph.smiles)
                yield Data(x=graph.x, edge_index=graph.edge_index, edge_attr=graph.edge_attr)

    def notes(self) -> list[str]:
        if not self.count:
            raise InputError(f"expected molecules in {self.table.path}, got a header only")
        if not self.rows:
            raise InputError(
                f"expected molecules in {self.table.path}, got none that can be read: "
                f"{first_few(self.bad)}"
            )
        if not self.bad:
            return []
        return [
            f"{len(self.bad)} of {self.count} molecules cannot be read and are left out: "
            f"{first_few(self.bad, 10)}"
        ]


def _molecules(
    table: Table, options: TrainOptions, digest: str, voice: Voice
) -> tuple[list[Row], Sequence[Data], list[str], list[str]]:
    """Rows that can be read, their graphs and canonical SMILES, and notes."""
    stream = _Stream(table, voice)
    if options.cache is None:
        graphs = list(stream)
        return stream.rows, graphs, stream.smiles, stream.notes()
    reading = [digest, _CACHE_VERSION, table.smiles_column, options.separator, options.encoding]
    name = hashlib.sha256(json.dumps([*reading, options.format]).encode()).hexdigest()[:24]
    folder = Path(options.cache).expanduser() / name
    if not (folder / "smiles.json").is_file():
        _fill(folder, stream)
    kept = json.loads((folder / "smiles.json").read_text())
    wanted = set(kept["rows"])
    rows = [
        Row(row.number, row.smiles, row.values, row.line) for row in table if row.number in wanted
    ]
    return rows, OnDiskMolecules(folder / "molecules"), kept["smiles"], kept["notes"]


def _fill(folder: Path, stream: _Stream) -> None:
    """Make the cache; another process may do the same at the same time, and the first one wins."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".partial", dir=folder.parent))
    try:
        zero = torch.zeros(1)
        graphs = (Data(**graph.to_dict(), y=zero) for graph in stream)
        OnDiskMolecules.build(partial / "molecules", graphs, None)
        kept = {
            "rows": [row.number for row in stream.rows],
            "smiles": stream.smiles,
            "notes": stream.notes(),
        }
        (partial / "smiles.json").write_text(json.dumps(kept))
        partial.chmod(0o755)
        try:
            os.rename(partial, folder)
        except OSError:
            if not (folder / "smiles.json").is_file():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
