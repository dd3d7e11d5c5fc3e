"""The bounds on the states and updates of cells."""

import math

import pytest
import torch

from plstm_graph import grid_line_graph
from plstm_graph.nn.cells import CELLS
from plstm_graph.nn.cells.gated import outflow
from plstm_graph.nn.cells.softmax import joint_softmax
from tests.nn.cell_reference import bare, plain
from tests.nn.conftest import line_graph_of
from tests.nn.test_cells import GRAPHS, features, on_both

# -------------------------------------------------------------------- bounds


@pytest.mark.parametrize("cell", [name for name in CELLS if "P" in CELLS[name].modes])
@on_both
def test_what_leaves_an_edge_is_bounded_in_p_mode(cell, graph):
    x, edge_index, edge_attr = features(GRAPHS[graph])
    conv = bare(cell, mode="P", edge_dim=3)
    with torch.no_grad():
        for name, parameter in conv.gates.named_parameters():
            if "log_rate" in name:
                parameter.fill_(-4)
    _, gates = conv(x, edge_index, edge_attr, return_gates=True)
    size = plain(gates.transition)
    if cell == "state_tracking":
        size = torch.linalg.matrix_norm(size, 2)
    e_in = gates.line_graph.line_index[0]
    total = torch.zeros(gates.line_graph.num_edges, *size.shape[1:], dtype=size.dtype)
    total = total.index_add(0, e_in, size)
    assert total.max() <= 1 + 1e-12
    # A line edge that is the only one behind its edge is as it is in D-mode without pruning.
    free = bare(cell, mode="D", edge_dim=3)
    free.load_state_dict(conv.state_dict())
    lone = torch.bincount(e_in)[e_in] == 1
    free.mode = "P"  # no pruning
    _, others = free(x, edge_index, edge_attr, return_gates=True)
    assert 0 < lone.sum() < len(lone)
    want, got = plain(others.transition), plain(gates.transition)
    torch.testing.assert_close(got[lone], want[lone], rtol=1e-12, atol=1e-12)
    assert (want.abs() - got.abs() >= -1e-12).all() and not torch.allclose(want, got)


def test_outflow_counts_what_leaves_an_edge():
    graph = line_graph_of(5, torch.tensor([[0, 1, 1, 2], [1, 2, 3, 4]]))
    lines = graph.line_index.t().tolist()
    size = torch.tensor([{(0, 1): 0.9, (0, 2): 0.5, (1, 3): 0.3}[tuple(line)] for line in lines])
    want = torch.tensor([{0: 1.4, 1: 1.0}[e_in] for e_in, _ in lines])
    torch.testing.assert_close(outflow(size, graph), want)


@pytest.mark.parametrize("cell", ["bd_lru", "h_lru"])
@pytest.mark.parametrize("size", [1.0, 30.0])
def test_states_stay_below_the_largest_input(cell, size):
    """On a grid with C(38, 19) = 3.5e10 paths from corner to corner."""
    graph = grid_line_graph(20, 20)
    conv = bare(cell, direction="forward")
    with torch.no_grad():
        for name, rows in conv.projection.lin_node.rows.items():
            conv.projection.lin_node.weight[rows] *= size if name != "value" else 1
    x = torch.randn(400, 6, dtype=torch.double)
    value = conv.projection.lin_node(x)[:, conv.projection.lin_node.rows["value"]].abs()
    out = conv(x, None, line_graph=graph)
    assert out.abs().max() <= value.max() * (1 + 1e-12)
    _, gates = conv(x, None, line_graph=graph, return_gates=True)
    assert gates.transition.min() >= 0 and gates.source.min() >= 0
    # Rows: all predecessors, their states, and the input.
    rows = gates.source.sum(-2).index_add(0, graph.line_index[1], gates.transition.sum(-1))
    first = gates.line_graph.level == 0
    inner = rows if cell == "bd_lru" else rows[..., :1]
    torch.testing.assert_close(inner[~first], torch.ones_like(inner[~first]))
    assert (rows <= 1 + 1e-12).all() and (inner[first] < 1).any()


def test_joint_softmax_with_large_logits():
    group = torch.tensor([0, 0, 2])
    logit = torch.tensor([[[1e4, 0.0]], [[1e4, -1e4]], [[-1e4, -1e4]]], dtype=torch.double)
    write = torch.tensor([[0.0], [3.0], [1e4]], dtype=torch.double)
    virtual = torch.full((3, 1, 2), 2.0, dtype=torch.double) + 1e6 * (group[:, None, None] == 3)
    virtual[0] = 1e9  # has predecessors: is not counted
    t, a = joint_softmax(logit, write, virtual, group)
    want = torch.tensor([[[0.5, 0]], [[0.5, 0]], [[0, 0]]], dtype=torch.double)
    torch.testing.assert_close(t, want)
    share = math.exp(3) / (math.exp(3) + 2 * math.exp(2))
    torch.testing.assert_close(a, torch.tensor([[0], [share], [1]], dtype=torch.double))


@pytest.mark.parametrize("cell", ["delta", "gated_delta", "delta_product"])
def test_updates_have_norm_at_most_one(cell):
    conv = bare(cell, 8, 2, cell_options={"negative_eigenvalues": True})
    x = 10 * torch.randn(50, 6, dtype=torch.double)
    node = dict(zip(conv.projection.node_parts, conv.projection(x, None, None)))
    tensors = conv.gates.node_tensors(node)
    key, beta, _ = tensors.update
    A = torch.eye(4, dtype=torch.double).expand(50, 2, 4, 4)
    for r in range(key.size(2)):
        k = key[:, :, r]
        A = A - beta[:, :, r, None, None] * k[..., None] * (k[..., None, :] @ A)
    norm = torch.linalg.matrix_norm(A, 2)
    assert norm.max() <= 1 + 1e-12 and beta.max() > 1.5
    # What reads the edges has seen the update.
    torch.testing.assert_close(tensors.edge_query, (A.mT @ tensors.query[..., None])[..., 0])


def test_state_tracking_can_reflect_and_rotate():
    conv = bare("state_tracking", 8, 2)
    with torch.no_grad():
        conv.projection.lin_node.weight[conv.projection.lin_node.rows["singular"]] *= 10
    x = torch.randn(50, 6, dtype=torch.double)
    node = dict(zip(conv.projection.node_parts, conv.projection(x, None, None)))
    transition = conv.gates.node_tensors(node).transition
    sizes = torch.linalg.svdvals(transition)
    assert sizes.max() <= 1 + 1e-12
    sign = torch.linalg.det(transition).sign()
    assert (sign < 0).any() and (sign > 0).any()
