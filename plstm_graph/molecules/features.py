"""Atom and bond features as integers, by the lists of the Open Graph Benchmark.

Every list but the last two of each kind ends with a last resort, which stands for all values that
the list lacks (atropisomer bonds, for example, are read as bonds of any stereo).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rdkit.Chem import Atom, Bond

_OTHER = "other"
#: The values of each atom feature: its code is the place in the list.
ATOM_FEATURES: dict[str, tuple] = {
    "atomic number": (*range(1, 119), _OTHER),
    "chirality": (
        "CHI_UNSPECIFIED", "CHI_TETRAHEDRAL_CW", "CHI_TETRAHEDRAL_CCW", "CHI_OTHER", _OTHER,
    ),
    "degree": (*range(11), _OTHER),
    "formal charge": (*range(-5, 6), _OTHER),
    "hydrogens": (*range(9), _OTHER),
    "radical electrons": (*range(5), _OTHER),
    "hybridization": ("SP", "SP2", "SP3", "SP3D", "SP3D2", _OTHER),
    "aromatic": (False, True),
    "in a ring": (False, True),
}  # fmt: skip
#: The values of each bond feature.
BOND_FEATURES: dict[str, tuple] = {
    "type": ("SINGLE", "DOUBLE", "TRIPLE", "AROMATIC", _OTHER),
    "stereo": ("STEREONONE", "STEREOZ", "STEREOE", "STEREOCIS", "STEREOTRANS", "STEREOANY"),
    "conjugated": (False, True),
}
#: How many values each feature has.
ATOM_DIMS = tuple(map(len, ATOM_FEATURES.values()))
BOND_DIMS = tuple(map(len, BOND_FEATURES.values()))


def _codes(features: dict[str, tuple]) -> list[tuple[dict, int]]:
    return [({v: i for i, v in enumerate(values)}, len(values) - 1) for values in features.values()]


_ATOM_CODES, _BOND_CODES = _codes(ATOM_FEATURES), _codes(BOND_FEATURES)


def atom_features(atom: Atom) -> list[int]:
    """The nine codes of an atom, in the order of :data:`ATOM_FEATURES`."""
    values = (
        atom.GetAtomicNum(),
        atom.GetChiralTag().name,
        atom.GetTotalDegree(),
        atom.GetFormalCharge(),
        atom.GetTotalNumHs(),
        atom.GetNumRadicalElectrons(),
        atom.GetHybridization().name,
        atom.GetIsAromatic(),
        atom.IsInRing(),
    )
    return [code.get(value, last) for (code, last), value in zip(_ATOM_CODES, values)]


def bond_features(bond: Bond) -> list[int]:
    """The three codes of a bond, in the order of :data:`BOND_FEATURES`."""
    values = (bond.GetBondType().name, bond.GetStereo().name, bond.GetIsConjugated())
    return [code.get(value, last) for (code, last), value in zip(_BOND_CODES, values)]
