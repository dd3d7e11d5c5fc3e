"""Inputs and comparisons of the kernel tests."""

import torch


def payload(line_graph, heads, width, *, states=None, dtype=torch.float64, seed=0):
    """x [E, H, W] and transition [L, H], or with J, on the device of ``line_graph``."""
    rng = torch.Generator().manual_seed(seed)
    j = () if states is None else (states,)
    e, l = line_graph.num_edges, line_graph.num_line_edges
    x = torch.randn(e, heads, *j, width, generator=rng, dtype=torch.float64)
    t = 0.4 * torch.randn(l, heads, *j, *j, generator=rng, dtype=torch.float64)
    return tuple(a.to(line_graph.device, dtype).requires_grad_() for a in (x, t))


def grads(out, arguments):
    """Gradients for a fixed cotangent; zeros where an argument has no part in ``out``."""
    cotangent = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out).to(out)
    return torch.autograd.grad(out, arguments, cotangent, allow_unused=True, materialize_grads=True)


def assert_same(got, want, arguments, rtol, expected_arguments=None):
    """Values and all gradients, relative to the largest expected entry of each."""
    pairs = [(got, want)]
    if want.requires_grad:
        pairs += zip(grads(got, arguments), grads(want, expected_arguments or arguments))
    for a, b in pairs:
        assert a.shape == b.shape
        if b.numel():
            error = float((a.detach().double() - b.detach().double()).abs().max())
            assert error <= rtol * max(1.0, float(b.detach().abs().max()))
