"""Many SMILES into graphs; those that cannot be parsed are reported, never dropped silently."""

from __future__ import annotations

from collections.abc import Iterable

from rdkit import rdBase
from torch_geometric.data import Data

from plstm_graph.dag.molecule import from_smiles


def parse(rows: Iterable[tuple[int, str]]) -> tuple[dict[int, Data], dict[int, str]]:
    """Convert SMILES one by one.

    Args:
        rows: (row number, SMILES); the numbers are only handed back.

    Returns:
        The graphs and the bad SMILES, both by row number.
    """
    graphs: dict[int, Data] = {}
    bad: dict[int, str] = {}
    with rdBase.BlockLogs():  # RDKit writes every failure to standard error; it is reported below
        for row, text in rows:
            try:
                graph = from_smiles(text)
            except ValueError:
                graph = None
            # RDKit reads an empty string as a molecule without atoms.
            if graph is None or graph.num_nodes == 0:
                bad[row] = text
            else:
                graphs[row] = graph
    return graphs, bad


def report_bad(bad: dict[int, str], total: int, unit: str = "row") -> str:
    """One line that counts the bad SMILES and names each by its row."""
    listed = ", ".join(f"{unit} {row} {text!r}" for row, text in bad.items())
    return f"{len(bad)} of {total} SMILES could not be parsed and are left out: {listed}"
