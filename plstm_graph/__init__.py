"""pLSTM for PyTorch Geometric: linear recurrences on the line graphs of directed acyclic graphs."""

from plstm_graph.backends import backends
from plstm_graph.dag import LineGraph, grid_line_graph
from plstm_graph.data import LineGraphData
from plstm_graph.nn import (
    PLSTM,
    DAGLSTMConv,
    PLSTMBlock,
    PLSTMConv,
    PLSTMGrid,
    PLSTMSequence,
    PLSTMVision,
    SLSTMConv,
)
from plstm_graph.ops import dag_scan, gating_matrix, plstm, prepare
from plstm_graph.transforms import ToLineGraph, to_line_graphs

__version__ = "0.1.0"

__all__ = [
    "PLSTM",
    "DAGLSTMConv",
    "LineGraph",
    "LineGraphData",
    "PLSTMBlock",
    "PLSTMConv",
    "PLSTMGrid",
    "PLSTMSequence",
    "PLSTMVision",
    "SLSTMConv",
    "ToLineGraph",
    "backends",
    "dag_scan",
    "gating_matrix",
    "grid_line_graph",
    "plstm",
    "prepare",
    "to_line_graphs",
]
