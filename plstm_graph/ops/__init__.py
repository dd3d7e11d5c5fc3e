"""Operators. The public ones are :func:`plstm` and :func:`dag_scan`."""

from plstm_graph.ops.dispatch import dag_scan, plstm

__all__ = ["dag_scan", "plstm"]
