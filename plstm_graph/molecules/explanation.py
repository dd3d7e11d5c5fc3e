"""The command ``explain``: molecules to pictures and a file of their contributions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from plstm_graph.molecules.console import Voice
from plstm_graph.molecules.contributions import Explanation, explain_molecule
from plstm_graph.molecules.errors import InputError, first_few
from plstm_graph.molecules.graphs import parse_smiles, silent
from plstm_graph.molecules.options import ExplainOptions
from plstm_graph.molecules.predictor import Predictor
from plstm_graph.molecules.store import write_json
from plstm_graph.molecules.tables import open_table

if TYPE_CHECKING:
    from rdkit.Chem import Mol

#: Targets that are explained where none is named.
MOST_TARGETS = 10
#: The gating matrix of larger molecules is not written to the file.
MOST_ATOMS = 200


def explain(options: ExplainOptions, voice: Voice | None = None) -> list[dict]:
    """Explain molecules: pictures of each one, and explanations.json.

    Args:
        options: of the call.
        voice: prints notes.

    Returns:
        What explanations.json holds.
    """
    voice = voice or Voice()
    predictor = Predictor.load(options.model, options.orientations, options.accelerator)
    columns = _columns(predictor, options.target)
    out = Path(options.out)
    if out.exists() and not out.is_dir():
        raise InputError(f"expected out as a folder, got the file {out}; choose another name")
    found, bad, notes = _read(options)
    for note in notes:
        voice.say(note)
    if bad:
        voice.say(f"{len(bad)} molecules cannot be read: {first_few(bad, 10)}")
    if not found:
        raise InputError("expected molecules to explain, got none that can be read")
    out.mkdir(parents=True, exist_ok=True)
    results, lines = [], []
    for number, written, mol in voice.track(found, "explaining molecules"):
        explanation = explain_molecule(predictor, mol)
        results.append(_write(out, number, written, explanation, predictor, columns))
        mean, spread = map(predictor.text, (explanation.prediction, explanation.spread))
        values = [
            f"{predictor.config.columns[i]} {mean[i]}" + (f" ± {spread[i]}" if spread[i] else "")
            for i in columns
        ]
        lines.append(f"{written or explanation.smiles}: {', '.join(values)}")
    write_json(out / "explanations.json", results)
    for line in lines:
        voice.say(line)
    voice.say(f"{out}: explanations.json and pictures (SVG and PNG) of {len(results)} molecules")
    return results


def _columns(predictor: Predictor, target: str | None) -> list[int]:
    names = predictor.config.columns
    if target is None:
        return list(range(min(len(names), MOST_TARGETS)))
    if target not in names:
        raise InputError(f"expected target out of {', '.join(map(repr, names))}, got {target!r}")
    return [names.index(target)]


def _read(
    options: ExplainOptions,
) -> tuple[list[tuple[int, str, Mol]], list[str], list[str]]:
    """Molecules that can be read, those that cannot, and notes."""
    notes: list[str] = []
    if options.smiles:
        items: Sequence[Any] = [(i, text, None) for i, text in enumerate(options.smiles, 1)]
    else:
        table = open_table(
            options.input,
            smiles_column=options.smiles_column,
            separator=options.separator,
            encoding=options.encoding,
            file_format=options.format,
        )
        rows = list(islice(table, options.most + 1))
        notes = list(table.notes)
        if len(rows) > options.most:
            notes.append(f"only the first {options.most} molecules are explained; see --most")
        items = [(row.number, row.smiles, row) for row in rows[: options.most]]
    found, bad = [], []
    with silent():
        for number, text, row in items:
            try:
                mol = parse_smiles(text) if row is None else row.molecule()
                found.append((number, text, mol))
            except ValueError as error:
                bad.append(f"{number} {text!r}: {error}")
    return found, bad, notes


def _write(
    out: Path,
    number: int,
    written: str,
    found: Explanation,
    predictor: Predictor,
    columns: list[int],
) -> dict:
    from plstm_graph.molecules.drawing import draw

    names, targets = predictor.config.columns, {}
    files = draw(out / f"molecule_{number}_gating", found.mol, found.taken, found.exchanged, False)
    prediction, spread = predictor.text(found.prediction), predictor.text(found.spread)
    for i in columns:
        safe = re.sub(r"[^\w.-]+", "_", names[i])[:60]
        stem = out / f"molecule_{number}_{safe}"
        targets[names[i]] = {
            "prediction": float(prediction[i]),
            "spread": float(spread[i]) if spread[i] else None,
            "atoms": _digits(found.atoms[i]),
            "bonds": _digits(found.bond_values[i]),
            "pictures": draw(stem, found.mol, found.atoms[i], found.bond_values[i], True),
        }
    small = len(found.order) <= MOST_ATOMS
    return {
        "number": number,
        "input": written,
        "smiles": found.smiles,
        "unit": "of the target" if predictor.config.task == "regression" else "logits",
        "atoms": [
            {"symbol": atom.GetSymbol(), "index_in_input": place}
            for atom, place in zip(found.mol.GetAtoms(), found.order)
        ],
        "bonds": [list(bond) for bond in found.bonds],
        "targets": targets,
        "gating": {
            "atoms": _digits(found.taken),
            "bonds": _digits(found.exchanged),
            "matrix": [_digits(row) for row in found.gates] if small else None,
            "pictures": files,
        },
    }


def _digits(values: np.ndarray) -> list[float]:
    return [float(f"{value:.6g}") for value in values.tolist()]
