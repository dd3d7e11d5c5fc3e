"""Files of molecules, read row by row: CSV and its relatives, SMI, SDF and Parquet.

A file is never held in memory. Every row is a :class:`Row`; what is wrong with the file itself
(ragged rows, a missing column, bytes of no encoding) is an :class:`InputError` that
names the place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from plstm_graph.molecules import structures
from plstm_graph.molecules.delimited import open_csv
from plstm_graph.molecules.errors import InputError
from plstm_graph.molecules.rows import SMILES_NAMES, Row, Table, check_columns, find_smiles
from plstm_graph.molecules.text import check_file, find_encoding, open_text

if TYPE_CHECKING:
    pass

FORMATS = {
    "csv": ("csv", "tsv", "tab"),
    "smi": ("smi", "smiles", "ism", "can", "cxsmiles", "txt"),
    "sdf": ("sdf", "sd", "mol"),
    "parquet": ("parquet", "pq"),
}


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
        check_columns(path, columns, wanted)
        return Table(path, columns, "", wanted, partial(_read_sdf, encoding=encoding), notes)
    if kind == "smi":
        columns = ["smiles", "name"]
        if smiles_column not in (None, "smiles"):
            raise InputError(
                f"expected no smiles_column with {path}, whose lines begin with a SMILES, got "
                f"{smiles_column!r}; leave it out, or pass --format csv"
            )
        check_columns(path, columns, wanted)
        return Table(path, columns, "smiles", wanted, partial(_read_smi, encoding=encoding), notes)
    return open_csv(path, smiles_column, wanted, separator, encoding, notes)


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
    smiles = find_smiles(path, columns, smiles_column)
    check_columns(path, columns, wanted)
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
