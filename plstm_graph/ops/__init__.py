"""Operators: :func:`plstm`, :func:`dag_scan`, :func:`gating_matrix` and :func:`prepare`."""

from plstm_graph.ops.dispatch import dag_scan, plstm, prepare
from plstm_graph.ops.gating import gating_matrix, gating_pays

__all__ = ["dag_scan", "gating_matrix", "gating_pays", "plstm", "prepare"]
