"""The readout that keeps the sizes of heads, and transitions that start open."""

import pytest
import torch

from plstm_graph.nn import PLSTM, PLSTMConv
from plstm_graph.nn.norm import log_rms
from tests.nn.test_two_way import inputs, loss_is_finite, modes, undirected

# -------------------------------------------------------------------- sizes of heads


def test_log_rms_is_its_definition():
    h = torch.randn(4, 2, 3, dtype=torch.double, requires_grad=True)
    rms = (h.square().mean(-1) + 1e-12).sqrt()
    torch.testing.assert_close(log_rms(h), 0.3 * rms.log())
    assert torch.autograd.gradcheck(log_rms, (h,))
    # A state that shrinks by the same factor at each step: linear in the number of steps.
    sizes = log_rms(h[:1] * 0.1 ** torch.arange(4, dtype=torch.double).view(-1, 1, 1))
    torch.testing.assert_close(
        sizes.diff(dim=0), sizes.diff(dim=0)[:1].expand(3, -1), rtol=1e-6, atol=0
    )


@modes
@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("size", [0.0, 1e-20, 1e-6])
def test_log_norm_is_finite_without_any_output(mode, autocast, size):
    num_nodes, edge_index = undirected("shuffled")
    conv = PLSTMConv(5, 6, 2, mode=mode, bias=False)
    x = (size * torch.randn(num_nodes, 5)).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        out = conv(x, edge_index)
    assert out.dtype == (torch.bfloat16 if autocast else torch.float)
    loss_is_finite(conv, out, x)
    if not size:
        floor = 0.15 * torch.tensor(1e-12).log() * conv.lin_out.weight[:, 6:].sum(1)
        rtol = 0.02 if autocast else 1e-5
        torch.testing.assert_close(out.float(), floor.expand_as(out), rtol=rtol, atol=rtol)


def test_options_without_log_norm():
    for conv in (
        PLSTMConv.paper(5, 6, 2),
        PLSTMConv(5, 6, 2, log_norm=False),
        PLSTMConv(5, 6, 2, head_norm=False),
    ):
        assert not conv.log_norm and conv.lin_out.weight.shape == (6, 6)
    assert PLSTMConv(5, 6, 2).lin_out.weight.shape == (6, 8)
    assert not any(block.conv.log_norm for block in PLSTM.paper(5, 8, heads=2).blocks)


# -------------------------------------------------------------------- start


@pytest.mark.parametrize("transition_node", ["junction", "start"])
def test_transitions_start_open(transition_node):
    options = {"edge_dim": 3, "transition_node": transition_node}
    logit = torch.linspace(0.5, 3, 4)
    for lazy in (False, True):
        for mode in "PD":
            conv = PLSTMConv(-1 if lazy else 5, 8, 4, mode=mode, **options)
            num_nodes, edge_index = undirected("shuffled")
            x, _, edge_attr = (0 * v for v in inputs(num_nodes, edge_index, torch.float))
            args = x, edge_index, edge_attr
            _, gates = conv(*args, return_gates=True)
            t, lines = gates.transition, gates.line_graph.line_index
            if mode == "D":
                torch.testing.assert_close(t, logit.tanh().expand_as(t))
            else:
                count = torch.bincount(lines[0])[lines[0]].view(-1, 1)
                torch.testing.assert_close(t, logit / (0.5 + count * logit))
    assert PLSTMConv(5, 8, 4, bias=False).projection.lin_node.bias is None
