"""Molecules as graphs; :mod:`plstm_graph.molecules.graphs` makes them."""

from plstm_graph.molecules.graphs import from_mol, from_smiles

__all__ = ["from_mol", "from_smiles"]
