"""A row of a file of molecules, the file as a whole, and its columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plstm_graph.molecules.errors import InputError, first_few
from plstm_graph.molecules.graphs import parse_smiles, silent

if TYPE_CHECKING:
    from rdkit.Chem import Mol

#: Names of a column of SMILES, as they are looked for; case does not matter.
SMILES_NAMES = ("smiles", "canonical_smiles", "smi", "structure", "molecule", "mol")


@dataclass(frozen=True)
class Row:
    """One molecule of a file.

    Args:
        number: from 1, the first one below a header.
        smiles: as it is written; of an SDF file, what RDKit writes, or empty.
        values: the cells of the wanted columns.
        line: of the file, where the row begins; 0 in a Parquet file.
        mol: of an SDF file: the molecule, or None if it is bad.
        reason: of an SDF file: what is bad.
    """

    number: int
    smiles: str
    values: dict[str, str]
    line: int = 0
    mol: Mol | None = None
    reason: str = ""

    def molecule(self) -> Mol:
        """The molecule.

        Raises:
            ValueError: with the reason, if there is none.
        """
        if self.mol is not None:
            return self.mol
        if self.reason:
            raise ValueError(self.reason)
        return parse_smiles(self.smiles)

    @property
    def place(self) -> str:
        return f"row {self.number}" + (f" (line {self.line})" if self.line else "")


@dataclass
class Table:
    """A file of molecules, which can be read again and again.

    Args:
        path: of the file.
        columns: all that it has.
        smiles_column: the one with SMILES; empty for an SDF file.
        wanted: columns whose cells are read.
        notes: what had to be guessed.
    """

    path: Path
    columns: list[str]
    smiles_column: str
    wanted: list[str]
    reader: Any
    notes: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[Row]:
        return self.reader(self)


def check_columns(path: Path, columns: list[str], wanted: Sequence[str]) -> None:
    for name in wanted:
        if name not in columns:
            raise InputError(
                f"expected a column {name!r} in {path}, got {', '.join(map(repr, columns))}"
                + _near(name, columns)
            )
        if columns.count(name) > 1:
            raise InputError(
                f"expected one column {name!r} in {path}, got {columns.count(name)}; rename them"
            )


def _near(name: str, columns: list[str]) -> str:
    near = [column for column in columns if column.strip().lower() == name.strip().lower()]
    return f"; is {near[0]!r} meant?" if near else "; pass the name of one of these"


def find_smiles(path: Path, columns: list[str], name: str | None) -> str:
    if name is not None:
        check_columns(path, columns, [name])
        return name
    for known in SMILES_NAMES:
        found = [column for column in columns if column.strip().lower() == known]
        if len(found) > 1:
            raise InputError(
                f"expected one column of SMILES in {path}, got {', '.join(map(repr, found))}; "
                f"pass --smiles-column, or rename them if the names are the same"
            )
        if found:
            return found[0]
    hint = "pass --smiles-column NAME"
    if any(_is_smiles(column) for column in columns):
        hint = "the first line seems to hold a molecule: add a header, or pass --format smi"
    raise InputError(
        f"expected a column of SMILES in {path} (named {', '.join(SMILES_NAMES)}), got "
        f"{first_few([repr(column) for column in columns], 20)}; {hint}"
    )


def _is_smiles(text: str) -> bool:
    with silent():
        try:
            return parse_smiles(text).GetNumAtoms() > 1
        except ValueError:
            return False
