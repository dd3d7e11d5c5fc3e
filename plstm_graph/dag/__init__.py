from plstm_graph.dag.line_graph import LineGraph

__all__ = ["LineGraph"]
