"""Operators. The public ones are :func:`plstm`, :func:`dag_scan` and :func:`prepare`."""

from plstm_graph.ops.dispatch import dag_scan, plstm, prepare

__all__ = ["dag_scan", "plstm", "prepare"]
