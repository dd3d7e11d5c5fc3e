from plstm_graph.dag.canonical import canonical_rank
from plstm_graph.dag.convert import from_networkx, to_networkx
from plstm_graph.dag.grid import grid_line_graph
from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.dag.multitree import multitree_mask
from plstm_graph.dag.orient import ORIENTATIONS

__all__ = [
    "ORIENTATIONS",
    "LineGraph",
    "canonical_rank",
    "from_networkx",
    "grid_line_graph",
    "multitree_mask",
    "to_networkx",
]
