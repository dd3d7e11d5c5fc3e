"""Molecules as graphs, with the atom and bond features of the Open Graph Benchmark."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch_geometric.data import Data

from plstm_graph.checks import instance, text

if TYPE_CHECKING:
    from rdkit.Chem import Mol


def _chem() -> tuple[Any, Any]:
    """The modules rdkit.Chem and ogb.utils.features; both are optional."""
    try:
        from ogb.utils import features
        from rdkit import Chem
    except ImportError as error:
        raise ImportError(
            f"molecules need rdkit and ogb ({error}); install them with "
            f"pip install 'plstm-graph[chem]'"
        ) from error
    return Chem, features


def from_smiles(smiles: str) -> Data:
    """The molecule a SMILES string describes; see :func:`from_mol`.

    Raises:
        ValueError: if RDKit cannot read it, naming it.
        ImportError: without rdkit or ogb.
    """
    chem, _ = _chem()
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
    chem, features = _chem()
    instance("mol", mol, chem.Mol, "an rdkit.Chem.Mol", "from_smiles reads SMILES")
    if smiles is not None:
        text("smiles", smiles)
    atoms = [features.atom_to_feature_vector(atom) for atom in mol.GetAtoms()]
    bonds = list(mol.GetBonds())
    ends = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in bonds]
    kinds = [features.bond_to_feature_vector(bond) for bond in bonds]
    bond_index = np.array(ends, dtype=np.int64).reshape(-1, 2)
    edge_index = np.stack([bond_index, bond_index[:, ::-1]], axis=1).reshape(-1, 2).T
    edge_attr = np.array(kinds, dtype=np.int64).reshape(-1, len(features.get_bond_feature_dims()))
    num_features = len(features.get_atom_feature_dims())
    return Data(
        x=torch.from_numpy(np.array(atoms, dtype=np.int64).reshape(-1, num_features)),
        edge_index=torch.from_numpy(np.ascontiguousarray(edge_index)),
        edge_attr=torch.from_numpy(edge_attr.repeat(2, axis=0)),
        smiles=chem.MolToSmiles(mol) if smiles is None else smiles,
        canonical_rank=torch.tensor(list(chem.CanonicalRankAtoms(mol)), dtype=torch.int64),
    )
