"""Molecules as graphs, with the atom and bond features of the Open Graph Benchmark."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch_geometric.data import Data

from plstm_graph.checks import instance, text
from plstm_graph.molecules.features import ATOM_DIMS, BOND_DIMS, atom_features, bond_features

if TYPE_CHECKING:
    from rdkit.Chem import Mol


def _chem() -> Any:
    """The module rdkit.Chem, which is optional."""
    try:
        from rdkit import Chem
    except ImportError as error:
        raise ImportError(
            f"molecules need rdkit ({error}); install it with pip install 'plstm-graph[molecules]'"
        ) from error
    return Chem


@contextmanager
def silent() -> Iterator[None]:
    """RDKit writes every failure to standard error; ours are reported."""
    _chem()
    from rdkit import rdBase

    with rdBase.BlockLogs():
        yield


def parse_smiles(smiles: str) -> Mol:
    """RDKit's molecule of a SMILES, which a CXSMILES block ``|...|`` may follow.

    Raises:
        ValueError: with the reason, if there is none. RDKit would take a SMILES without atoms,
            and would leave out any text after a blank.
    """
    chem = _chem()
    if not isinstance(smiles, str) or not smiles.strip():
        raise ValueError("it is empty")
    words = smiles.split(maxsplit=1)
    extension = words[1] if len(words) == 2 else ""
    if extension and not (extension.startswith("|") and extension.rstrip().endswith("|")):
        raise ValueError(f"text follows it: {extension[:40]!r}")
    # RDKit passes over letters that it does not know.
    if not words[0].isascii():
        strange = next(letter for letter in words[0] if not letter.isascii())
        raise ValueError(f"it holds {strange!r}, which no SMILES has")
    if ">" in words[0].split("|")[0].replace("->", ""):
        raise ValueError("it is a reaction, no molecule")
    mol = chem.MolFromSmiles(smiles.strip())
    if mol is not None and mol.GetNumAtoms():
        return mol
    raise ValueError(_reason(chem, smiles.strip()))


def _reason(chem: Any, smiles: str) -> str:
    """What is wrong with a SMILES that RDKit refuses."""
    mol = chem.MolFromSmiles(smiles, sanitize=False)
    if mol is None:
        return "RDKit cannot read it; check its brackets and ring closures"
    if not mol.GetNumAtoms():
        return "it has no atoms"
    problems = [problem.Message() for problem in chem.DetectChemistryProblems(mol)]
    return "; ".join(problems[:2]) or "RDKit cannot read it"


def from_smiles(smiles: str) -> Data:
    """The molecule a SMILES string describes; see :func:`from_mol`.

    Raises:
        ValueError: if RDKit cannot read it, naming it.
        ImportError: without rdkit.
    """
    chem = _chem()
    mol = chem.MolFromSmiles(smiles) if isinstance(smiles, str) else None
    if mol is None:
        raise ValueError(
            f"expected smiles that RDKit can read, got {smiles!r}; check its brackets, ring "
            f"closures and valences"
        )
    return from_mol(mol, smiles)


def from_mol(mol: Mol, smiles: str | None = None) -> Data:
    """An RDKit molecule with N atoms and M / 2 bonds as a graph.

    Args:
        mol: the molecule.
        smiles: stored as it is. Default: RDKit's canonical SMILES.

    Returns:
        ``x`` [N, 9] int64 (OGB atom features), ``edge_index`` [2, M] int64 (the two directions of
        each bond in adjacent columns), ``edge_attr`` [M, 3] int64 (OGB bond features), ``smiles``,
        and ``canonical_rank`` [N] int64: RDKit's canonical ranks, all different and the same
        however the atoms are numbered. ``ToLineGraph(orientation="canonical")`` uses them.
    """
    chem = _chem()
    instance("mol", mol, chem.Mol, "an rdkit.Chem.Mol", "from_smiles reads SMILES")
    if smiles is not None:
        text("smiles", smiles)
    atoms = [atom_features(atom) for atom in mol.GetAtoms()]
    bonds = list(mol.GetBonds())
    ends = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in bonds]
    kinds = [bond_features(bond) for bond in bonds]
    bond_index = np.array(ends, dtype=np.int64).reshape(-1, 2)
    edge_index = np.stack([bond_index, bond_index[:, ::-1]], axis=1).reshape(-1, 2).T
    edge_attr = np.array(kinds, dtype=np.int64).reshape(-1, len(BOND_DIMS))
    return Data(
        x=torch.from_numpy(np.array(atoms, dtype=np.int64).reshape(-1, len(ATOM_DIMS))),
        edge_index=torch.from_numpy(np.ascontiguousarray(edge_index)),
        edge_attr=torch.from_numpy(edge_attr.repeat(2, axis=0)),
        smiles=chem.MolToSmiles(mol) if smiles is None else smiles,
        canonical_rank=torch.tensor(list(chem.CanonicalRankAtoms(mol)), dtype=torch.int64),
    )


def canonical(mol: Mol) -> tuple[Mol, str, list[int]]:
    """A molecule as its canonical SMILES has it, however it was written.

    The order of atoms and bonds, and with it the meaning of RDKit's chirality tags, follows how a
    molecule is written. What is predicted must not, so the canonical SMILES is read again. Atom
    map numbers are no part of a molecule and are left out.

    Returns:
        The molecule, its canonical SMILES (a CXSMILES where it has atropisomer bonds), and for
        each of its atoms the index in ``mol``.
    """
    chem = _chem()
    plain = chem.Mol(mol)
    for atom in plain.GetAtoms():
        atom.SetAtomMapNum(0)
    # The call stores the order of the atoms with the molecule.
    smiles = chem.MolToSmiles(plain)
    order = list(plain.GetPropsAsDict(True, True)["_smilesAtomOutputOrder"])
    if any(bond.GetStereo().name.startswith("STEREOATROP") for bond in plain.GetBonds()):
        smiles = chem.MolToCXSmiles(plain)
    again = chem.MolFromSmiles(smiles)
    if again is None or again.GetNumAtoms() != len(order):  # RDKit does not read all it writes
        again = chem.RenumberAtoms(plain, order)
    return again, smiles, order


def molecule(mol: Mol) -> Data:
    """The graph of a molecule in canonical order, see :func:`canonical`.

    Returns:
        As :func:`from_mol`, with the canonical SMILES in ``smiles``.
    """
    again, smiles, _ = canonical(mol)
    return from_mol(again, smiles)


def seed_of(smiles: str) -> int:
    """A number of 63 bits that belongs to a canonical SMILES: it seeds random orientations."""
    return int.from_bytes(hashlib.sha256(smiles.encode()).digest()[:8], "little") >> 1


def parse(rows: Iterable[tuple[int, str]]) -> tuple[dict[int, Data], dict[int, str]]:
    """Convert SMILES one by one, with atoms in the order in which they are written.

    Args:
        rows: (row number, SMILES); the numbers are only handed back.

    Returns:
        The graphs and the bad SMILES, both by row number.
    """
    graphs: dict[int, Data] = {}
    bad: dict[int, str] = {}
    with silent():
        for row, smiles in rows:
            try:
                graphs[row] = from_mol(parse_smiles(smiles), smiles)
            except ValueError:
                bad[row] = smiles
    return graphs, bad


def report_bad(bad: dict[int, str], total: int, unit: str = "row") -> str:
    """One line that counts the bad SMILES and names each by its row."""
    listed = ", ".join(f"{unit} {row} {text!r}" for row, text in bad.items())
    return f"{len(bad)} of {total} SMILES could not be parsed and are left out: {listed}"
