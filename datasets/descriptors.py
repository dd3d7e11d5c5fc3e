"""Targets that RDKit computes from a molecule: one local sum, and quantities of whole molecules.

The penalised logP is a sum of contributions of atoms and their neighbours, up to its penalty for
large rings. The other targets depend on distances, paths or components that span a molecule.

Hydrogens are left out. Molecules of several fragments (salts, for example) follow one rule for
each descriptor:

==========================  =====================================================================
penalised logP, TPSA        RDKit's sum over all atoms
log Wiener index, diameter  over the pairs of atoms within a fragment
Balaban J, log(1 + kappa3)  of the fragment with the most atoms; the largest value of several such
largest conjugated system   the largest component, in whichever fragment
==========================  =====================================================================

The Wiener index of a molecule without bonds is 0, so its logarithm is that of 1 + W.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from rdkit import Chem, RDConfig
from rdkit.Chem import Crippen, GraphDescriptors, rdMolDescriptors
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from datasets.base import InputError


@cache
def sa_scorer():
    """RDKit's synthetic accessibility score: a contributed script, not part of the package."""
    path = Path(RDConfig.RDContribDir) / "SA_Score" / "sascorer.py"
    spec = importlib.util.spec_from_file_location("sascorer", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def penalised_logp(mol: Chem.Mol) -> float:
    """Crippen logP - synthetic accessibility - number of SSSR rings with more than 6 atoms."""
    large_rings = sum(len(ring) > 6 for ring in Chem.GetSSSR(mol))
    return Crippen.MolLogP(mol) - sa_scorer().calculateScore(mol) - large_rings


def distances(mol: Chem.Mol) -> np.ndarray:
    """[N, N] numbers of bonds between atoms; 0 between fragments, where RDKit has 1e8."""
    fragment = np.zeros(mol.GetNumAtoms(), dtype=int)
    for i, atoms in enumerate(Chem.GetMolFrags(mol)):
        fragment[list(atoms)] = i
    return np.where(fragment[:, None] == fragment, Chem.GetDistanceMatrix(mol), 0.0)


def wiener_index(mol: Chem.Mol) -> float:
    """Sum of the distances between all pairs of atoms, each pair counted once."""
    return float(distances(mol).sum()) / 2


def log_wiener(mol: Chem.Mol) -> float:
    """log(1 + Wiener index)."""
    return math.log1p(wiener_index(mol))


def diameter(mol: Chem.Mol) -> float:
    """Largest distance between two atoms, in bonds; 0 for one atom."""
    return float(distances(mol).max())


def main_fragments(mol: Chem.Mol) -> list[Chem.Mol]:
    """The fragments with the most atoms: one, or several of the same size."""
    fragments = Chem.GetMolFrags(mol, asMols=True, sanitizeFrags=False)
    most = max(fragment.GetNumAtoms() for fragment in fragments)
    return [fragment for fragment in fragments if fragment.GetNumAtoms() == most]


def balaban_j(mol: Chem.Mol) -> float:
    """Balaban's J, with bond lengths 1 / bond order as RDKit has them; 0 for one atom."""
    return max(float(GraphDescriptors.BalabanJ(fragment)) for fragment in main_fragments(mol))


def log_kappa3(mol: Chem.Mol) -> float:
    """log(1 + kappa 3), the third shape index of Hall and Kier; 0 without a path of three bonds.

    Kappa 3 is divided by the square of the number of such paths plus a correction for the kinds of
    atoms; without paths, the correction alone would decide.
    """
    return max(
        math.log1p(rdMolDescriptors.CalcKappa3(fragment))
        if Chem.FindAllPathsOfLengthN(fragment, 3)
        else 0.0
        for fragment in main_fragments(mol)
    )


def conjugated_atoms(mol: Chem.Mol) -> float:
    """Atoms of the largest component that conjugated bonds connect; 0 without such a bond."""
    bonds = [
        (bond.GetBeginAtomIdx(), bond.GetEndAtomIdx())
        for bond in mol.GetBonds()
        if bond.GetIsConjugated()
    ]
    if not bonds:
        return 0.0
    rows, columns = zip(*bonds)
    adjacency = coo_matrix((np.ones(len(bonds)), (rows, columns)), shape=[mol.GetNumAtoms()] * 2)
    _, component = connected_components(adjacency, directed=False)
    return float(np.bincount(component).max())


def tpsa(mol: Chem.Mol) -> float:
    """Topological polar surface area of nitrogen and oxygen, in square angstroms."""
    return rdMolDescriptors.CalcTPSA(mol)


#: Name of a target -> its function. The order is that of the columns of ``y``.
DESCRIPTORS: dict[str, Callable[[Chem.Mol], float]] = {
    "penalised_logp": penalised_logp,
    "log_wiener": log_wiener,
    "diameter": diameter,
    "balaban_j": balaban_j,
    "log_kappa3": log_kappa3,
    "conjugated_atoms": conjugated_atoms,
    "tpsa": tpsa,
}
NAMES = tuple(DESCRIPTORS)


def describe(mol: Chem.Mol) -> list[float]:
    """All of :data:`DESCRIPTORS`, in their order.

    Raises:
        InputError: if one of them is not finite.
    """
    values = [function(mol) for function in DESCRIPTORS.values()]
    if bad := [name for name, value in zip(NAMES, values) if not math.isfinite(value)]:
        raise InputError(
            f"expected finite descriptors of {Chem.MolToSmiles(mol)}, got others for "
            f"{', '.join(bad)}; leave the molecule out"
        )
    return values
