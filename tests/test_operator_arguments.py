"""Every argument of the operators, spoilt as in :mod:`tests.test_arguments`."""

import pytest
import torch

from plstm_graph import dag_scan, gating_matrix, plstm, prepare
from tests.spoilt import LINE, N, assert_refused, cases

E, L, H = LINE.num_edges, LINE.num_line_edges, 2
gates = {
    "source": torch.rand(E, H),
    "transition": torch.rand(L, H),
    "mark": torch.rand(E, H),
    "direct": torch.rand(N, H),
    "line_graph": LINE,
}
rows = {name: torch.rand(N, H, 3) for name in ("query", "key", "value")}
gate_kinds = dict.fromkeys(gates, "float") | {"line_graph": "graph"}
OPERATORS = {
    "plstm": (
        plstm,
        {
            **rows,
            **gates,
            "edge_query": torch.rand(N, H, 3),
            "return_state": torch.arange(3),
        },
        {
            **dict.fromkeys(rows, "float"),
            **gate_kinds,
            "scale": "scale",
            "form": "choice",
            "backend": "choice",
            "edge_query": "float?",
            "normalizer": "choice?",
            "stabilizer": "choice?",
            "return_state": "integer?",
        },
    ),
    "dag_scan": (
        dag_scan,
        {"x": torch.rand(E, H, 3), "transition": gates["transition"], "line_graph": LINE},
        {
            "x": "float",
            "transition": "float",
            "line_graph": "graph",
            "reverse": "flag",
            "semiring": "choice",
            "backend": "choice",
        },
    ),
    "gating_matrix": (
        gating_matrix,
        {**gates, "views": torch.arange(N)[None]},
        {**gate_kinds, "views": "integer?", "backend": "choice"},
    ),
    "prepare": (
        prepare,
        {"line_graph": LINE, "heads": 2, "key_size": 3, "value_size": 3},
        {
            "line_graph": "any graph",
            "heads": "count",
            "key_size": "count",
            "value_size": "count",
        },
    ),
}
#: Widths and precisions are the caller's: wider values, and halves beside floats, are good. So is
#: any number of edges whose states are asked for.
WIDER = {
    ("plstm", "value", "more columns"),
    ("plstm", "return_state", "more rows"),
    ("dag_scan", "x", "more columns"),
    ("gating_matrix", "views", "more rows"),
}


@pytest.mark.parametrize(("call", "good", "argument", "bad"), cases(OPERATORS, WIDER))
@pytest.mark.filterwarnings("ignore")
def test_operators_refuse_by_name(call, good, argument, bad):
    assert_refused(call, good, argument, bad)


@pytest.mark.parametrize("name", OPERATORS)
def test_good_arguments_of_operators(name):
    call, good, _ = OPERATORS[name]
    call(**good)
