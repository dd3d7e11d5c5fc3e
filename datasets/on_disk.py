"""Molecules on disk; :mod:`plstm_graph.molecules.on_disk` keeps them."""

from plstm_graph.molecules.on_disk import SCHEMA, OnDiskMolecules

__all__ = ["SCHEMA", "OnDiskMolecules"]
