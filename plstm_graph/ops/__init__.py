"""Operators: :func:`plstm`, :func:`dag_scan`, :func:`gating_matrix` and :func:`prepare`."""

from plstm_graph.ops.choosing import prepare
from plstm_graph.ops.dag_scan import dag_scan
from plstm_graph.ops.gating import gating_matrix, gating_pays
from plstm_graph.ops.inputs import EdgeStates, Factored, LogGate, Reflections
from plstm_graph.ops.plstm import plstm

__all__ = [
    "EdgeStates",
    "Factored",
    "LogGate",
    "Reflections",
    "dag_scan",
    "gating_matrix",
    "gating_pays",
    "plstm",
    "prepare",
]
