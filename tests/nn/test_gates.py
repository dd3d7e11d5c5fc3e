"""Gates: the parts add up to the maps of concatenations, and P-mode is bounded."""

import math

import pytest
import torch
import torch_geometric.typing

from plstm_graph.nn import PLSTMConv
from plstm_graph.nn.gates import normalize_transition

H = 2


def concatenated(conv, x, edge_attr, graph):
    """The gates by their definition: one map per gate of one long concatenation."""
    proj = conv.projection
    node, edge = proj.lin_node, proj.lin_edge

    def weight(lin, name):
        return lin.weight[lin.rows[name]]

    def gate(parts, bias):
        features = torch.cat([value for _, _, value in parts], -1)
        weights = torch.cat([weight(lin, name) for lin, name, _ in parts], -1)
        return features @ weights.t() + node.bias[node.rows[bias]]

    def edges(name, rows):
        return [] if edge is None else [(edge, name, edge_attr[graph.edge_id[rows]])]

    every = torch.arange(graph.num_edges)
    src, dst = graph.edge_index
    e_in, e_out = graph.line_index
    source = gate([(node, "source", x[src]), *edges("source", every)], "source").sigmoid()
    mark = gate([(node, "mark", x[dst]), *edges("mark", every)], "mark").sigmoid()
    direct = gate([(node, "direct", x)], "direct").sigmoid()
    at = {
        "junction": [(node, "transition", x[graph.line_node])],
        "start": [(node, "transition", x[src[e_in]])],
        "all": [
            (node, "transition_start", x[src[e_in]]),
            (node, "transition", x[graph.line_node]),
            (node, "transition_end", x[dst[e_out]]),
        ],
    }[conv.transition_node]
    t = gate([*edges("transition_in", e_in), *edges("transition_out", e_out), *at], "transition")
    if conv.transition_node == "all":
        t = t + node.bias[node.rows["transition_start"]] + node.bias[node.rows["transition_end"]]
    if conv.mode == "D":
        return source, t.tanh(), mark, direct
    group = e_in if conv.normalization == "source" else e_out
    scaled = torch.empty_like(t)
    for l in range(graph.num_line_edges):
        scaled[l] = t[l] / (0.5 + t[group == group[l]].abs().sum(0))
    return source, scaled, mark, direct


@pytest.mark.parametrize("edge_dim", [None, 3], ids=["nodes", "edges"])
@pytest.mark.parametrize("transition_node", ["junction", "start", "all"])
@pytest.mark.parametrize("mode, normalization", [("P", "source"), ("P", "target"), ("D", "source")])
@pytest.mark.parametrize("direction", ["forward", "two_way"])
def test_gates_are_maps_of_concatenations(
    graph, direction, mode, normalization, transition_node, edge_dim
):
    conv = PLSTMConv(
        5,
        6,
        H,
        mode=mode,
        direction=direction,
        normalization=normalization,
        edge_dim=edge_dim,
        transition_node=transition_node,
    ).double()
    x = torch.randn(graph.num_nodes, 5, dtype=torch.double)
    edge_attr = edge_dim and torch.randn(graph.num_edges, edge_dim, dtype=torch.double)
    _, gates = conv(x, graph.edge_index, edge_attr, line_graph=graph, return_gates=True)
    kept = graph.two_way() if direction == "two_way" else graph
    kept = kept.multitree() if mode == "D" else kept
    assert torch.equal(gates.line_graph.line_index, kept.line_index)
    expected = concatenated(conv, x, edge_attr, kept)
    for name, got, want in zip(gates._fields, gates, expected):
        assert got.shape == want.shape
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12, msg=name)


@pytest.mark.parametrize("scatter", [False, True], ids=["torch", "torch_scatter"])
@pytest.mark.parametrize("row", [0, 1], ids=["source", "target"])
def test_normalized_sums_stay_below_one(dag, row, scatter, monkeypatch):
    if scatter and not torch_geometric.typing.WITH_TORCH_SCATTER:
        pytest.skip("needs torch_scatter")
    monkeypatch.setattr(torch_geometric.typing, "WITH_TORCH_SCATTER", scatter)
    t = 100 * torch.randn(dag.num_line_edges, 3, dtype=torch.double, requires_grad=True)
    group = dag.line_index[row]
    transition = normalize_transition(t, group, dag.num_edges)
    sums = torch.zeros(dag.num_edges, 3, dtype=torch.double).index_add(0, group, transition.abs())
    assert (sums < 1).all() and sums[group].min() > 0.9
    assert torch.equal(transition.sign(), t.sign())
    assert torch.autograd.gradcheck(lambda t: normalize_transition(t, group, dag.num_edges), (t,))


@pytest.mark.parametrize("init", ["open", "graph"])
@pytest.mark.parametrize("lazy", [False, True])
def test_initialisation_bounds(dag, lazy, init):
    """Each map starts as the Linear it is a part of; only the Transition's bias may be open."""
    node, edge = 40, 60
    conv = PLSTMConv(-1 if lazy else node, 64, 32, edge_dim=-1 if lazy else edge, init=init)
    conv(torch.randn(7, node), dag.edge_index, torch.randn(8, edge), line_graph=dag)
    lins = conv.projection.lin_node, conv.projection.lin_edge
    fans = {
        "query": node,
        "key": node,
        "value": node,
        "direct": node,
        "source": node + edge,
        "mark": node + edge,
    }
    for lin in lins:
        for name, rows in lin.rows.items():
            bound = 1 / math.sqrt(fans.get(name, node + 2 * edge))
            assert 0.97 * bound < lin.weight[rows].abs().max() <= bound, name
            if init == "open" and name == "transition" and lin.bias is not None:
                assert torch.equal(lin.bias[rows], torch.linspace(0.5, 3, 32))
            elif lin.bias is not None:
                assert 0.7 * bound < lin.bias[rows].abs().max() <= bound, name


def test_grid_initialisation(dag):
    conv = PLSTMConv(5, 6, H, edge_dim=3, init="grid", mode="D")
    x, edge_attr = torch.randn(7, 5), torch.randn(8, 3)
    _, gates = conv(x, dag.edge_index, edge_attr, line_graph=dag, return_gates=True)
    bias = torch.tensor([-4.0, -4.0, -6.0]).sigmoid()
    for gate, value in zip((gates.source, gates.mark, gates.direct), bias):
        torch.testing.assert_close(gate, value.expand_as(gate))
    assert (gates.transition > 0.999).all()
