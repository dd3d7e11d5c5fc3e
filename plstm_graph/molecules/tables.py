"""Files of molecules, read row by row: CSV and its relatives, SMI, SDF and Parquet.

A file is never held in memory. Every row is a :class:`Row`; what is wrong with the file itself
(ragged rows, a missing column, bytes of no encoding) is an :class:`InputError` that
names the place.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plstm_graph.molecules import structures
from plstm_graph.molecules.errors import InputError, first_few
from plstm_graph.molecules.graphs import parse_smiles
from plstm_graph.molecules.text import check_file, find_encoding, open_text

if TYPE_CHECKING:
    from rdkit.Chem import Mol

#: Names of a column of SMILES, as they are looked for; case does not matter.
SMILES_NAMES = ("smiles", "canonical_smiles", "smi", "structure", "molecule", "mol")
SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t"}
FORMATS = {
    "csv": ("csv", "tsv", "tab"),
    "smi": ("smi", "smiles", "ism", "can", "cxsmiles", "txt"),
    "sdf": ("sdf", "sd", "mol"),
    "parquet": ("parquet", "pq"),
}
csv.field_size_limit(1 << 24)


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


def open_table(
    path: str | Path,
    *,
    smiles_column: str | None = None,
    wanted: Sequence[str] = (),
    separator: str | None = None,
    encoding: str | None = None,
    file_format: str | None = None,
) -> Table:
    """A file of molecules; its format follows from its name.

    Args:
        path: CSV, TSV, SMI, SDF (each of them possibly compressed by gzip) or Parquet file.
        smiles_column: default: the one with a name out of :data:`SMILES_NAMES`.
        wanted: columns whose cells are read besides.
        separator: "comma", "semicolon", "tab", or the character; default: found in the header.
        encoding: default: found in the file.
        file_format: a key of :data:`FORMATS`, where the name does not tell.
    """
    path = check_file(path)
    if file_format is not None and file_format not in FORMATS:
        raise InputError(f"expected format out of {', '.join(FORMATS)}, got {file_format!r}")
    kind = file_format or _format_of(path)
    wanted = list(dict.fromkeys(wanted))
    if kind == "parquet":
        return _open_parquet(path, smiles_column, wanted)
    encoding, note = find_encoding(path, encoding)
    notes = [note] if note else []
    if kind == "sdf":
        columns = structures.columns(path, encoding) if wanted else []
        _check_columns(path, columns, wanted)
        return Table(path, columns, "", wanted, partial(_read_sdf, encoding=encoding), notes)
    if kind == "smi":
        columns = ["smiles", "name"]
        if smiles_column not in (None, "smiles"):
            raise InputError(
                f"expected no smiles_column with {path}, whose lines begin with a SMILES, got "
                f"{smiles_column!r}; leave it out, or pass --format csv"
            )
        _check_columns(path, columns, wanted)
        return Table(path, columns, "smiles", wanted, partial(_read_smi, encoding=encoding), notes)
    return _open_csv(path, smiles_column, wanted, separator, encoding, notes)


def _format_of(path: Path) -> str:
    suffixes = [suffix.lower().lstrip(".") for suffix in path.suffixes]
    if suffixes and suffixes[-1] in ("gz", "gzip"):
        suffixes.pop()
    last = suffixes[-1] if suffixes else ""
    for kind, endings in FORMATS.items():
        if last in endings:
            return kind
    known = ", ".join(f".{ending}" for endings in FORMATS.values() for ending in endings)
    raise InputError(
        f"expected a file whose name ends with one of {known} (and possibly .gz), got {path.name}; "
        f"rename it, or pass --format csv, smi, sdf or parquet"
    )


def _check_columns(path: Path, columns: list[str], wanted: Sequence[str]) -> None:
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


def _find_smiles(path: Path, columns: list[str], name: str | None) -> str:
    if name is not None:
        _check_columns(path, columns, [name])
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
    from plstm_graph.molecules.graphs import silent

    with silent():
        try:
            return parse_smiles(text).GetNumAtoms() > 1
        except ValueError:
            return False


def _open_csv(
    path: Path,
    smiles_column: str | None,
    wanted: list[str],
    separator: str | None,
    encoding: str,
    notes: list[str],
) -> Table:
    if separator is not None:
        separator = {**SEPARATORS, "\\t": "\t"}.get(separator, separator)
        if len(separator) != 1 or separator in '"\r\n':
            raise InputError(
                f"expected separator as comma, semicolon, tab or one character, got {separator!r}"
            )
    with open_text(path, encoding) as file:
        skipped = 0
        for first in file:
            if first.strip():
                break
            skipped += 1
        else:
            raise InputError(f"expected {path} with a header and molecules, got blank lines only")
        declared = re.fullmatch(r"sep=(.)\s*", first)
        if declared:  # as Excel writes it
            separator, skipped, first = separator or declared[1], skipped + 1, next(file, "")
    if separator is None:
        separator = _find_separator(first, [*wanted, *([smiles_column] if smiles_column else [])])
    reader = partial(_read_csv, encoding=encoding, separator=separator, skipped=skipped)
    table = Table(path, [], "", wanted, reader, notes)
    header = next(_cells(table, encoding, separator, skipped), None)
    table.columns = [] if header is None else [cell.strip() for cell in header[1]]
    if not any(table.columns):
        raise InputError(f"expected {path} with a header, got an empty one in line {skipped + 1}")
    table.smiles_column = _find_smiles(path, table.columns, smiles_column)
    _check_columns(path, table.columns, wanted)
    return table


def _find_separator(header: str, wanted: list[str]) -> str:
    """The separator that gives the wanted columns, else the most columns."""

    def cells(separator: str) -> list[str]:
        try:
            return [cell.strip() for cell in next(csv.reader([header], delimiter=separator), [])]
        except csv.Error:
            return []

    known = {*wanted}

    def score(separator: str) -> tuple[int, int]:
        found = cells(separator)
        smiles = any(cell.lower() in SMILES_NAMES for cell in found)
        return len(known & {*found}) + smiles, len(found)

    return max(SEPARATORS.values(), key=score)


def _cells(
    table: Table, encoding: str, separator: str, skipped: int
) -> Iterator[tuple[int, list[str]]]:
    """(line, cells) of each record; a blank line is a record without cells."""
    with open_text(table.path, encoding) as file:
        for _ in range(skipped):
            next(file)
        reader = csv.reader(file, delimiter=separator, strict=True)
        line = skipped + 1
        while True:
            try:
                cells = next(reader, None)
            except csv.Error as error:
                raise InputError(
                    f"expected {table.path} as CSV, got {error} in the row that begins in line "
                    f"{line}; check the quotes from there on"
                ) from error
            if cells is None:
                return
            yield line, cells
            line = skipped + 1 + reader.line_num


def _read_csv(table: Table, encoding: str, separator: str, skipped: int) -> Iterator[Row]:
    records = _cells(table, encoding, separator, skipped)
    next(records)
    count, column = len(table.columns), table.columns.index
    smiles, wanted = column(table.smiles_column), [(name, column(name)) for name in table.wanted]
    number, blank = 0, []
    for line, cells in records:
        if not cells or (count > 1 and len(cells) == 1 and not cells[0].strip()):
            blank.append(line)  # at the end of a file, blank lines are no rows
            continue
        for earlier in blank:
            number += 1
            yield Row(number, "", dict.fromkeys(table.wanted, ""), earlier)
        blank.clear()
        number += 1
        if len(cells) != count:
            raise InputError(
                f"expected {count} cells in each row of {table.path}, as in its header, got "
                f"{len(cells)} in row {number} (line {line}); {_ragged(cells, count, separator)}"
            )
        yield Row(number, cells[smiles].strip(), {name: cells[i] for name, i in wanted}, line)


def _ragged(cells: list[str], count: int, separator: str) -> str:
    if len(cells) < count:
        return f"add the missing {separator!r}"
    if not any(cell.strip() for cell in cells[count:]):
        return f"remove the {separator!r} at the end of the row, or add one to the header"
    return f"quote cells that hold a {separator!r}"


def _read_smi(table: Table, encoding: str) -> Iterator[Row]:
    number, blank = 0, []
    with open_text(table.path, encoding) as file:
        for line, content in enumerate((part for text in file for part in _lines(text)), 1):
            words = content.split(maxsplit=1)
            if not words:
                blank.append(line)
                continue
            for earlier in blank:
                number += 1
                yield Row(number, "", dict.fromkeys(table.wanted, ""), earlier)
            blank.clear()
            smiles, name = words[0], words[1].strip() if len(words) > 1 else ""
            extension = re.match(r"\|[^|]*\|", name)
            if extension:
                smiles, name = f"{smiles} {extension[0]}", name[extension.end() :].strip()
            number += 1
            if number == 1 and smiles.lower() in SMILES_NAMES:
                number = 0  # a header
                continue
            cells = {"smiles": smiles, "name": name}
            yield Row(number, smiles, {key: cells[key] for key in table.wanted}, line)


def _lines(text: str) -> list[str]:
    """The lines in what ends with a newline; old files end lines with a carriage return."""
    return text.removesuffix("\n").removesuffix("\r").split("\r")


def _read_sdf(table: Table, encoding: str) -> Iterator[Row]:
    for number, (line, block, values) in enumerate(structures.records(table.path, encoding), 1):
        mol, smiles, reason = structures.read(block)
        cells = {name: values.get(name, "") for name in table.wanted}
        yield Row(number, smiles, cells, line, mol, reason)


def _open_parquet(path: Path, smiles_column: str | None, wanted: list[str]) -> Table:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise InputError(
            f"expected pyarrow to read {path}, got {error}; install it with pip install pyarrow"
        ) from error
    try:
        columns = list(parquet.ParquetFile(path).schema_arrow.names)
    except (ArrowException, OSError) as error:
        raise InputError(f"expected {path} as a Parquet file, got {error}") from error
    smiles = _find_smiles(path, columns, smiles_column)
    _check_columns(path, columns, wanted)
    return Table(path, columns, smiles, wanted, _read_parquet)


def _read_parquet(table: Table) -> Iterator[Row]:
    from pyarrow import parquet

    names = list(dict.fromkeys([table.smiles_column, *table.wanted]))
    number = 0
    for batch in parquet.ParquetFile(table.path).iter_batches(4096, columns=names):
        for cells in batch.to_pylist():
            number += 1
            text = {name: "" if value is None else str(value) for name, value in cells.items()}
            values = {name: text[name] for name in table.wanted}
            yield Row(number, text[table.smiles_column].strip(), values)
