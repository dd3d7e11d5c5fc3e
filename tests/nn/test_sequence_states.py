"""Sequences in pieces, step by step, and padded."""

import pytest
import torch

from plstm_graph.nn import PLSTMSequence
from plstm_graph.nn.cells import CELL_NAMES
from plstm_graph.nn.sequence import SequenceState

B, T, C, H = 3, 11, 8, 2


def layer(cell="plstm", **options):
    torch.manual_seed(0)
    made = PLSTMSequence(C, H, cell=cell, **options).double()
    for parameter in made.parameters():  # gates that say something
        torch.nn.init.normal_(parameter, std=0.3)
    return made


def sequence():
    return torch.randn(B, T, C, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("conv", [0, 3])
@pytest.mark.parametrize("cell", CELL_NAMES)
def test_pieces_and_steps_are_the_whole(cell, conv):
    made, x = layer(cell, conv=conv), sequence().requires_grad_()
    want = made(x)
    assert torch.allclose(made(x, return_state=True)[0], want, atol=1e-10)
    pieces, state = [], None
    for piece in x.split([4, 1, 6], 1):
        out, state = made(piece, state=state, return_state=True)
        pieces.append(out)
    assert torch.allclose(torch.cat(pieces, 1), want, atol=1e-10)
    cotangent = torch.linspace(-1, 1, want.numel(), dtype=torch.float64).view_as(want)
    (got,) = torch.autograd.grad(torch.cat(pieces, 1), x, cotangent)
    (expected,) = torch.autograd.grad(want, x, cotangent)
    assert torch.allclose(got, expected, atol=1e-10)
    steps, at = [], None
    for position in x.unbind(1):
        out, at = made.step(position, at)
        steps.append(out)
    assert torch.allclose(torch.stack(steps, 1), want, atol=1e-10)
    if at.log_scale is None:
        assert torch.allclose(at.state, state.state, atol=1e-10)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", CELL_NAMES)
def test_padding_changes_nothing(cell, bidirectional):
    made, x = layer(cell, bidirectional=bidirectional, conv=3), sequence()
    lengths = torch.tensor([T, 4, 7])
    noise = 1e3 * torch.randn_like(x)
    padded = x.where(torch.arange(T)[None, :, None] < lengths[:, None, None], noise)
    out = made(padded, lengths)
    for b, length in enumerate(lengths.tolist()):
        alone = made(x[b : b + 1, :length])
        assert torch.allclose(out[b, :length], alone[0], atol=1e-10)
        assert not out[b, length:].any()
    if bidirectional:
        return
    _, state = made(padded, lengths, return_state=True)
    more = torch.randn(B, 3, C, dtype=torch.float64)
    got = made(more, state=state)
    for b, length in enumerate(lengths.tolist()):
        whole = made(torch.cat([x[b : b + 1, :length], more[b : b + 1]], 1))
        assert torch.allclose(got[b], whole[0, length:], atol=1e-10)


def test_errors():
    made, x = layer(), sequence()
    with pytest.raises(ValueError, match=r"lengths as a dense int64 tensor \[3\]"):
        made(x, torch.tensor([1, 2]))
    with pytest.raises(ValueError, match="lengths from 0 to 11, the length of x, got 1 to 12"):
        made(x, torch.tensor([1, 12, 3]))
    with pytest.raises(ValueError, match="state as a SequenceState"):
        made(x, state=torch.ones(3))
    with pytest.raises(ValueError, match=r"state\.inputs as a dense"):
        layer(conv=3)(x, state=SequenceState(torch.ones(B, H, 4, 4, dtype=torch.float64)))
    both = layer(bidirectional=True)
    with pytest.raises(ValueError, match="return_state as False with bidirectional"):
        both(x, return_state=True)
    with pytest.raises(ValueError, match="x as a dense floating-point"):
        made.step(x)
