"""Many SMILES into graphs; those that cannot be parsed are reported, never dropped silently."""

from plstm_graph.molecules.graphs import parse, report_bad

__all__ = ["parse", "report_bad"]
