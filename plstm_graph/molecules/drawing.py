"""Molecules with their atoms and bonds in colours, as SVG and PNG."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from plstm_graph.molecules.store import write_atomically

if TYPE_CHECKING:
    from rdkit.Chem import Mol

Colour = tuple[float, float, float]
WHITE: Colour = (1.0, 1.0, 1.0)
RED: Colour = (0.86, 0.20, 0.18)
BLUE: Colour = (0.15, 0.39, 0.92)
GREEN: Colour = (0.09, 0.64, 0.29)
#: The strongest colour is not quite full, so that letters stay readable.
STRENGTH = 0.8


def colour(value: float, largest: float, signed: bool) -> Colour:
    """White for 0; red for what raises a prediction and blue for what lowers it, or green."""
    end = (RED if value > 0 else BLUE) if signed else GREEN
    share = STRENGTH * min(1.0, abs(value) / largest) if largest > 0 else 0.0
    return tuple((1 - share) * a + share * b for a, b in zip(WHITE, end))


def draw(
    stem: Path, mol: Mol, atoms: np.ndarray, bonds: np.ndarray, signed: bool, size: int = 500
) -> list[str]:
    """Draw a molecule to ``stem``.svg and ``stem``.png.

    Args:
        stem: path without an ending.
        mol: N atoms, M bonds.
        atoms: [N] values; bonds: [M] values. Both share one scale.
        signed: whether values may be negative.
        size: of the picture in pixels.

    Returns:
        Names of the two files.
    """
    from rdkit.Chem.Draw import rdMolDraw2D

    largest = float(np.abs(np.concatenate([atoms, bonds])).max(initial=0.0))
    atom_colours = {i: colour(v, largest, signed) for i, v in enumerate(atoms.tolist())}
    bond_colours = {i: colour(v, largest, signed) for i, v in enumerate(bonds.tolist())}
    names = []
    for ending, make in (("svg", rdMolDraw2D.MolDraw2DSVG), ("png", rdMolDraw2D.MolDraw2DCairo)):
        drawer: Any = make(size, size)
        rdMolDraw2D.PrepareAndDrawMolecule(
            drawer,
            mol,
            highlightAtoms=list(atom_colours),
            highlightBonds=list(bond_colours),
            highlightAtomColors=atom_colours,
            highlightBondColors=bond_colours,
        )
        drawer.FinishDrawing()
        path = stem.with_name(f"{stem.name}.{ending}")
        write_atomically(path, drawer.GetDrawingText())
        names.append(path.name)
    return names
