"""Cells on grids and sequences: the graphs that they are."""

import pytest
import torch

from plstm_graph import PLSTMConv, PLSTMGrid, PLSTMSequence, grid_line_graph
from plstm_graph.nn.cells import CELLS
from tests.nn.cell_reference import MODES

each = pytest.mark.parametrize("cell, mode", MODES, ids=["-".join(m) for m in MODES])
every = pytest.mark.parametrize("cell", list(CELLS))


def copied(conv, layer):
    """A layer of graphs with the parameters of the first orientation of a layer of grids."""
    lin, maps = conv.projection.lin_node, layer.gates.projection.lin_node
    with torch.no_grad():
        for name, rows in lin.rows.items():
            other = maps.rows.get(name, maps.rows.get(f"{name}_0"))
            lin.weight[rows], lin.bias[rows] = maps.weight[other], maps.bias[other]
    conv.gates.load_state_dict(layer.gates.cell.state_dict())
    conv.lin_out.load_state_dict(layer.lin_out.state_dict())
    return conv


@each
def test_grids_are_graphs(cell, mode):
    grid = PLSTMGrid(8, 2, cell=cell, mode=mode, directions=[(1, 1)]).double()
    conv = PLSTMConv(8, 8, 2, cell=cell, mode=mode, log_norm=False, direction="forward").double()
    copied(conv, grid)
    x = torch.randn(3, 4, 3, 8, dtype=torch.double)
    graph = grid_line_graph(4, 3, turns="diffusive" if mode == "D" else "all")
    want = [conv(image.view(12, 8), None, line_graph=graph).view(4, 3, 8) for image in x]
    torch.testing.assert_close(grid(x), torch.stack(want), rtol=1e-10, atol=1e-10)
    assert grid(x[:0]).shape == (0, 4, 3, 8)


@each
def test_sequences_are_paths(cell, mode):
    layer = PLSTMSequence(8, 2, cell=cell, mode=mode).double()
    conv = PLSTMConv(8, 8, 2, cell=cell, mode=mode, log_norm=False).double()
    copied(conv, layer.grid)
    x = torch.randn(2, 7, 8, dtype=torch.double)
    path = torch.stack([torch.arange(6), torch.arange(1, 7)])
    want = torch.stack([conv(sequence, path) for sequence in x])
    torch.testing.assert_close(layer(x), want, rtol=1e-10, atol=1e-10)
    later = x.clone()
    later[:, 4:] += 1
    torch.testing.assert_close(layer(later)[:, :4], want[:, :4], rtol=1e-10, atol=1e-10)
    assert not torch.allclose(layer(later)[:, 4:], want[:, 4:])


@every
def test_orientations_have_gates_of_their_own_and_are_added(cell):
    """Each of them is the layer with one orientation, before the norm."""
    options = {"cell": cell, "bidirectional": True, "conv": 3, "passthrough": True}
    both = PLSTMSequence(8, 2, **options).double()
    names = list(both.grid.gates.projection.lin_node.rows)
    features = both.grid.gates.cell.features
    assert all((name in features) or name[-2:] in ("_0", "_1") for name in names)
    x, seen = torch.randn(2, 7, 8, dtype=torch.double), []
    handle = both.grid.norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    both(x)
    for o, sign in enumerate((1, -1)):
        one = PLSTMGrid(8, 2, ndim=1, cell=cell, directions=[(sign,)], conv=3).double()
        state = both.grid.state_dict()
        lin, maps = one.gates.projection.lin_node, both.grid.gates.projection.lin_node
        one.load_state_dict(
            {k: v for k, v in state.items() if "lin_node" not in k and k != "passthrough"},
            strict=False,
        )
        with torch.no_grad():
            for name, rows in lin.rows.items():
                other = maps.rows[name if name in features else f"{name[:-2]}_{o}"]
                lin.weight[rows], lin.bias[rows] = maps.weight[other], maps.bias[other]
        one.norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        one(x)
    handle.remove()
    torch.testing.assert_close(seen[0], seen[1] + seen[2], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("low", [False, True], ids=["float32", "bfloat16"])
@every
def test_grids_learn_and_compile(cell, low):
    layer = PLSTMGrid(8, 2, cell=cell)
    x = torch.randn(2, 3, 4, 8, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
        want = layer(x)
        torch._dynamo.reset()
        got = torch.compile(layer, backend="aot_eager")(x)
    assert want.dtype == (torch.bfloat16 if low else torch.float)
    tolerance = {"rtol": 0.05, "atol": 0.05} if low else {}
    torch.testing.assert_close(got, want, **tolerance)
    want.float().square().sum().backward()
    still = [name for name, p in layer.named_parameters() if p.grad is None or not p.grad.any()]
    assert not still and x.grad.isfinite().all()


def test_sequence_repr():
    text = "PLSTMSequence(8, cell='delta', heads=2, bidirectional=False)"
    assert str(PLSTMSequence(8, 2, cell="delta")) == text
