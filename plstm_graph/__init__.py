"""pLSTM for PyTorch Geometric: linear recurrences on the line graphs of directed acyclic graphs."""

from plstm_graph.dag import LineGraph

__version__ = "0.1.0"

__all__ = ["LineGraph"]
