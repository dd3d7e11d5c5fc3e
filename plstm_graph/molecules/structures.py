"""SDF files: records of a molecule and its data, read one by one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from plstm_graph.molecules.errors import InputError
from plstm_graph.molecules.text import open_text

if TYPE_CHECKING:
    from rdkit.Chem import Mol

_END = "$$$$"
#: No molecule has as many lines: a file without ends of records is no SDF file.
_MOST_LINES = 1_000_000


def records(path: Path, encoding: str) -> Iterator[tuple[int, str, dict[str, str]]]:
    """(line, molecule block, data by name) of each record."""
    lines: list[str] = []
    first = 1
    with open_text(path, encoding) as file:
        for number, text in enumerate(file, 1):
            line = text.rstrip("\r\n")
            if line.startswith(_END):
                yield (first, *_parts(lines))
                lines, first = [], number + 1
                continue
            lines.append(line)
            if len(lines) > _MOST_LINES:
                raise InputError(f"expected {_END} after each molecule of {path}, got none")
    if any(line.strip() for line in lines):
        yield (first, *_parts(lines))


def _parts(lines: list[str]) -> tuple[str, dict[str, str]]:
    end = next((i + 1 for i, line in enumerate(lines) if line.startswith("M  END")), len(lines))
    values: dict[str, str] = {}
    name = None
    for line in lines[end:]:
        if line.startswith(">"):
            found = re.search(r"<(.*)>", line)
            name = found[1] if found else None
            if name is not None:
                values[name] = ""
        elif name is not None and line.strip():
            values[name] = f"{values[name]}\n{line}" if values[name] else line
        else:
            name = None
    return "\n".join(lines[:end]) + "\n", values


def columns(path: Path, encoding: str) -> list[str]:
    """The names of all data in the file."""
    names: dict[str, None] = {}
    for _, _, values in records(path, encoding):
        names.update(dict.fromkeys(values))
    return list(names)


def read(block: str) -> tuple[Mol | None, str, str]:
    """The molecule of a block, its SMILES, and the reason where there is none."""
    from rdkit import Chem

    mol = Chem.MolFromMolBlock(block)
    if mol is not None and mol.GetNumAtoms():
        return mol, Chem.MolToSmiles(mol), ""
    title = block.split("\n", 1)[0].strip()
    if mol is not None:
        return None, "", f"record {title!r} has no atoms"
    rough = Chem.MolFromMolBlock(block, sanitize=False)
    problems = [] if rough is None else Chem.DetectChemistryProblems(rough)
    why = "; ".join(problem.Message() for problem in problems[:2])
    return None, "", why or f"RDKit cannot read the molecule block of record {title!r}"
