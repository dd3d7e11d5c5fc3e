"""Layers and models."""

from plstm_graph.nn.block import PLSTMBlock
from plstm_graph.nn.conv import PLSTMConv
from plstm_graph.nn.dag_lstm import DAGLSTMConv
from plstm_graph.nn.degree import SinusoidalDegree
from plstm_graph.nn.gates import Gates
from plstm_graph.nn.grid import PLSTMGrid
from plstm_graph.nn.model import PLSTM
from plstm_graph.nn.norm import HeadRMSNorm
from plstm_graph.nn.published import export_published_weights, load_published_weights
from plstm_graph.nn.sequence import PLSTMSequence
from plstm_graph.nn.slstm import SLSTMConv
from plstm_graph.nn.vision import PLSTMVision

__all__ = [
    "PLSTM",
    "DAGLSTMConv",
    "Gates",
    "HeadRMSNorm",
    "PLSTMBlock",
    "PLSTMConv",
    "PLSTMGrid",
    "PLSTMSequence",
    "PLSTMVision",
    "SLSTMConv",
    "SinusoidalDegree",
    "export_published_weights",
    "load_published_weights",
]
