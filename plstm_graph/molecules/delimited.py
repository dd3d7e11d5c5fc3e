"""CSV and its relatives: the separator is found, and every row has the cells of the header."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from plstm_graph.molecules.errors import InputError
from plstm_graph.molecules.rows import SMILES_NAMES, Row, Table, check_columns, find_smiles
from plstm_graph.molecules.text import open_text

SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t"}
csv.field_size_limit(1 << 24)


def open_csv(
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
    table.smiles_column = find_smiles(path, table.columns, smiles_column)
    check_columns(path, table.columns, wanted)
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
