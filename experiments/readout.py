"""The readout of molecules: half of the channels summed over the atoms, half averaged."""

from plstm_graph.molecules.model import ATOMS, SumMean

__all__ = ["ATOMS", "SumMean"]
