"""Layers with factored transitions: what they compute, on which graphs, and at what cost."""

import pytest
import torch
from torch.autograd import gradcheck

from plstm_graph import LineGraph, plstm
from plstm_graph.nn import PLSTM, PLSTMBlock, PLSTMConv
from plstm_graph.nn.gates import normalize_factors, normalize_transition
from plstm_graph.ops import Factored, prepare
from plstm_graph.testing import check_equivariance
from tests.nn.conftest import EDGES, edges_of
from tests.zoo import ZOO

names = pytest.mark.parametrize("name", EDGES)
modes = pytest.mark.parametrize("mode", ["P", "D"])


@pytest.mark.parametrize("name", ZOO)
def test_normalisation_is_that_of_the_expanded_transition(name):
    """With a = 1 the factors are normalised as a logit b of the line edges would be."""
    graph = ZOO[name]()
    if not graph.is_complete:
        return
    for line_graph in (graph, graph.reverse()):
        b = torch.randn(line_graph.num_edges, 2, dtype=torch.float64)
        factors = normalize_factors(torch.ones_like(b), b, line_graph)
        e_in, e_out = line_graph.line_index
        want = normalize_transition(b[e_out], e_in, line_graph.num_edges)
        assert torch.allclose(factors.expand(line_graph.line_index), want, atol=1e-12)


@modes
@pytest.mark.parametrize("direction", ["forward", "reverse", "two_way"])
@names
def test_layer_equals_its_expanded_gates(name, direction, mode):
    num_nodes, edge_index = edges_of(name)
    torch.manual_seed(0)
    conv = PLSTMConv(
        5, 4, heads=2, mode=mode, transition="factored", direction=direction, edge_dim=3
    )
    conv = conv.double()
    conv.norm, conv.log_norm = None, False
    conv.lin_out = torch.nn.Linear(4, 4, bias=False).double()
    conv.lin_out.weight.data = torch.eye(4, dtype=torch.float64)
    x = torch.randn(num_nodes, 5, dtype=torch.float64, requires_grad=True)
    edge_attr = torch.randn(edge_index.size(1), 3, dtype=torch.float64)
    out, gates = conv(x, edge_index, edge_attr, return_gates=True)
    assert isinstance(gates.transition, Factored)
    lines = gates.transition.expand(gates.line_graph.line_index)
    total = torch.zeros_like(gates.source)
    total.index_add_(0, gates.line_graph.line_index[0], lines.detach().abs())
    assert mode == "D" or bool((total <= 1).all())
    query, key, value = (
        part.unflatten(-1, (2, -1)) for part in conv.projection(x, edge_attr, None)[:3]
    )
    want = plstm(
        query, key, value, gates.source, lines, gates.mark, gates.direct, gates.line_graph,
        form="naive",
    )  # fmt: skip
    assert torch.allclose(out, want.flatten(1), atol=1e-10)
    if num_nodes:
        a, b = (torch.autograd.grad(o.square().sum(), x, retain_graph=True)[0] for o in (out, want))
        assert torch.allclose(a, b, atol=1e-10)


@modes
def test_gradcheck(mode):
    num_nodes, edge_index = (
        edges_of("diamond") if "diamond" in EDGES else edges_of(next(iter(EDGES)))
    )
    conv = PLSTMConv(2, 2, mode=mode, transition="factored", direction="two_way").double()
    x = torch.randn(num_nodes, 2, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x: conv(x, edge_index), (x,))


@modes
def test_a_star_of_two_thousand_leaves(mode):
    """Two million line edges in each direction, and none is made."""
    leaves = torch.arange(1, 2001)
    star = torch.stack([torch.zeros_like(leaves), leaves])
    edge_index = torch.cat([star, star.flip(0)], 1)
    line_graph = LineGraph.from_edge_index(edge_index)
    model = PLSTM(3, 8, 2, 1, heads=2, transition="factored", modes=mode)
    x = torch.randn(2001, 3)
    out = model(x, edge_index, line_graph=line_graph)
    out.sum().backward()
    assert out.isfinite().all()
    for graph in (line_graph, line_graph.two_way()):
        assert not graph.has_plan("line_index")


def test_starts_open():
    """A state travels: after ten edges of a path the first node is still heard."""
    path = torch.stack([torch.arange(10), torch.arange(1, 11)])
    for mode in ("P", "D"):
        conv = PLSTMConv(4, 4, heads=2, mode=mode, transition="factored", direction="forward")
        gates = conv(torch.zeros(11, 4), path, return_gates=True)[1]
        a, b = gates.transition
        assert float((a[0] * b[1]).detach().max()) > 0.5


def test_equivariance_on_trees():
    tree = torch.tensor([[0, 0, 1, 1, 2], [1, 2, 3, 4, 5]])
    edge_index = torch.cat([tree, tree.flip(0)], 1)
    from torch_geometric.data import Data

    torch.manual_seed(0)
    conv = PLSTMConv(3, 4, heads=2, transition="factored").double()
    data = Data(x=torch.randn(6, 3, dtype=torch.float64), edge_index=edge_index)
    check_equivariance(conv, data)


def test_blocks_and_errors():
    assert PLSTMBlock(8, heads=2, transition="factored").conv.transition == "factored"
    for options in ({"normalization": "target"}, {"transition_node": "all"}):
        with pytest.raises(ValueError, match=r"leave it out with transition='factored'"):
            PLSTMConv(4, 4, transition="factored", **options)
    with pytest.raises(ValueError, match="expected transition to be one of 'line', 'factored'"):
        PLSTMConv(4, 4, transition="product")


@modes
def test_prepared_layers_compile_as_one_graph(mode):
    tree = torch.tensor([[0, 0, 1, 1, 2], [1, 2, 3, 4, 5]])
    edge_index = torch.cat([tree, tree.flip(0)], 1)
    conv = PLSTMConv(3, 4, heads=2, mode=mode, transition="factored")
    line_graph = prepare(LineGraph.from_edge_index(edge_index), 2, 2, 2)
    x = torch.randn(6, 3)
    compiled = torch.compile(conv, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(x, edge_index, line_graph=line_graph), conv(x, edge_index))
