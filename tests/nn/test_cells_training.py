"""Cells in use: how they start, that they train, in halves and compiled."""

import copy
import math
import pickle

import pytest
import torch

from plstm_graph import PLSTM, LineGraph, PLSTMConv
from plstm_graph.nn.cells import make_cell
from tests.nn.cell_reference import bare
from tests.nn.test_cells import UNDIRECTED, every, features

# -------------------------------------------------------------------- start


def test_cells_start_as_published():
    rows = lambda cell, name: cell.projection.lin_node.rows[name]  # noqa: E731

    def bias(conv, name):
        return conv.projection.lin_node.bias[rows(conv, name)]

    def weight(conv, name):
        return conv.projection.lin_node.weight[rows(conv, name)]

    torch.manual_seed(0)
    mlstm = PLSTMConv(6, 128, 32, cell="mlstm")
    torch.testing.assert_close(bias(mlstm, "forget"), torch.linspace(3, 6, 32))
    assert 0.05 < bias(mlstm, "input").std() < 0.2
    assert not weight(mlstm, "forget").any() and not weight(mlstm, "input").any()
    for name, part, low in (("mamba2", "step", 1.0), ("gated_delta", "forget", 0.0)):
        conv = PLSTMConv(6, 128, 32, cell=name)
        gates = conv.gates if name == "mamba2" else conv.gates.decay
        step = torch.nn.functional.softplus(bias(conv, part))
        assert step.min() > 9e-4 and step.max() < 0.101 and step.max() / step.min() > 5
        rate = gates.log_rate.exp()
        assert low <= rate.min() < 4 and 10 < rate.max() <= 16
        assert weight(conv, part).any()
    assert torch.equal(PLSTMConv(6, 8, 2, cell="mamba2").gates.skip, torch.ones(2))
    conv = PLSTMConv(6, 8, 2, cell="state_tracking")
    node = dict(zip(conv.projection.node_parts, conv.projection(torch.randn(3, 6), None, None)))
    transition = conv.gates.node_tensors(node).transition
    torch.testing.assert_close(transition, math.tanh(5) * torch.eye(4).expand_as(transition))
    conv = PLSTMConv(400, 8, 2, cell="gated_delta", edge_dim=100)  # 1 / sqrt(400 + 2 x 100)
    assert 0.03 < weight(conv, "forget").abs().max() <= 600**-0.5
    assert 0.04 < weight(conv, "beta").abs().max() <= 400**-0.5


@every
def test_reset_pickle_copy_and_lazy(cell):
    x, edge_index, edge_attr = features(UNDIRECTED, dtype=torch.float)
    lazy = PLSTMConv(-1, 8, 2, cell=cell, edge_dim=-1)
    fresh = copy.deepcopy(lazy)
    out = lazy(x, edge_index, edge_attr)
    fresh.load_state_dict(lazy.state_dict())
    for other in (fresh, pickle.loads(pickle.dumps(lazy)), copy.deepcopy(lazy)):
        torch.testing.assert_close(other(x, edge_index, edge_attr), out)
    lazy.reset_parameters()
    assert not torch.allclose(lazy(x, edge_index, edge_attr), out)


# -------------------------------------------------------------------- training


@pytest.mark.parametrize("low", [False, True], ids=["float32", "bfloat16"])
@every
def test_trains(cell, low):
    torch.manual_seed(1)
    model = PLSTM(6, 16, 2, 1, heads=2, cell=cell, edge_dim=3, readout="mean")
    x, edge_index, edge_attr = features(UNDIRECTED, dtype=torch.float)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(8):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
            out = model(x, edge_index, edge_attr)
        loss = (out.float() - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert math.isfinite(losses[-1]) and losses[-1] < 0.5 * losses[0]
    moved = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # With the initial rotations zero, their edge parts still learn; unused parts would not.
    assert not [name for name in moved if "gates" in name or "projection" in name]


@every
def test_halves(cell):
    conv = PLSTMConv(6, 8, 2, cell=cell, edge_dim=3)
    x, edge_index, edge_attr = features(UNDIRECTED, dtype=torch.float)
    want = conv(x, edge_index, edge_attr)
    got = conv.bfloat16()(x.bfloat16(), edge_index, edge_attr.bfloat16())
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), want, rtol=0.1, atol=0.1)


@every
def test_compiles(cell):
    conv = PLSTMConv(6, 8, 2, cell=cell, edge_dim=3)
    x, edge_index, edge_attr = features(UNDIRECTED, dtype=torch.float)
    graph = LineGraph.from_edge_index(edge_index, 7)
    want = conv(x, edge_index, edge_attr, line_graph=graph)
    torch._dynamo.reset()
    compiled = torch.compile(conv, backend="aot_eager")
    got = compiled(x, edge_index, edge_attr, line_graph=graph)
    torch.testing.assert_close(got, want)
    weights = [p for p in conv.parameters() if p.requires_grad]
    for one, other in zip(
        torch.autograd.grad(got.square().sum(), weights, allow_unused=True),
        torch.autograd.grad(want.square().sum(), weights, allow_unused=True),
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_normalizers_of_mlstm():
    x, edge_index, _ = features(UNDIRECTED)
    out = {}
    for normalizer in (None, "max1", "sum", "norm"):
        options = {"normalizer": normalizer, "stabilizer": None}
        if normalizer == "norm":
            options["stabilizer"] = "logsumexp"
        torch.manual_seed(2)
        conv = bare("mlstm", cell_options=options)
        out[normalizer] = conv(x, edge_index)
        if normalizer == "sum":  # a weighted mean of values
            proj = conv.projection
            value = proj.lin_node(x)[:, proj.lin_node.rows["value"]]
            assert out["sum"].abs().max() <= value.abs().max()
    assert not torch.allclose(out["max1"], out[None]) and out["norm"].isfinite().all()


def test_make_cell_is_none_for_plstm():
    assert make_cell("plstm", 8, 2, "P", None) is None
