"""Inputs and comparisons of the kernel tests."""

import torch

from plstm_graph.ops.forms.naive import naive_plstm
from plstm_graph.ops.inputs import Inputs
from tests.zoo import inputs


def payload(line_graph, heads, width, *, states=None, dtype=torch.float64, seed=0):
    """x [E, H, W] and transition [L, H], or with J, on the device of ``line_graph``."""
    rng = torch.Generator().manual_seed(seed)
    j = () if states is None else (states,)
    e, l = line_graph.num_edges, line_graph.num_line_edges
    x = torch.randn(e, heads, *j, width, generator=rng, dtype=torch.float64)
    t = 0.4 * torch.randn(l, heads, *j, *j, generator=rng, dtype=torch.float64)
    return tuple(a.to(line_graph.device, dtype).requires_grad_() for a in (x, t))


def layer_inputs(
    line_graph, heads=2, key_size=3, value_size=4, *, dtype=torch.float64, kind="line"
):
    """Random :class:`Inputs` on the device of ``line_graph``, without gradients."""
    tensors = list(inputs(line_graph, heads, key_size, value_size, dtype=dtype))
    if kind != "line":
        shapes = [(line_graph.num_edges, heads)] * 2
        if kind == "diagonal":
            shapes = [(line_graph.num_line_edges, heads, key_size)]
        rng = torch.Generator().manual_seed(1)
        gates = [torch.randn(shape, generator=rng, dtype=torch.float64) for shape in shapes]
        tensors[4:5] = [0.6 * gate.to(dtype) for gate in gates]
    return Inputs.of([x.detach().to(line_graph.device) for x in tensors])


def cotangent_of(out):
    return torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out).to(out)


def expected(inputs, line_graph, scale):
    """The layer by its definition in float64, and its gradients for :func:`cotangent_of`."""
    leaves = Inputs.of([x.detach().double().requires_grad_() for x in inputs.tensors])
    out = naive_plstm(leaves, line_graph, scale)
    return out.detach(), grads(out, leaves.tensors)


def computed(form, inputs, plan, scale):
    """The layer by the kernels, and its gradients for :func:`cotangent_of`."""
    out = form.forward(inputs, scale, plan)
    return out, form.backward(cotangent_of(out), inputs, scale, plan)


def assert_equals_naive(form, inputs, line_graph, plan, rtol=1e-10, scale=0.7):
    """Shapes, dtypes, values and gradients, relative to the largest expected entry of each."""
    (out, got), (want, wants) = (
        computed(form, inputs, plan, scale),
        expected(inputs, line_graph, scale),
    )
    assert out.dtype == inputs.value.dtype
    assert [x.dtype for x in got] == [x.dtype for x in inputs.tensors]
    for a, b in zip((out, *got), (want, *wants), strict=True):
        assert_close(a, b, rtol)


def assert_close(got, want, rtol):
    assert got.shape == want.shape
    if want.numel():
        error = float((got.detach().double() - want.detach().double()).abs().max())
        assert error <= rtol * max(1.0, float(want.detach().abs().max()))


def grads(out, arguments):
    """Gradients for a fixed cotangent; zeros where an argument has no part in ``out``."""
    return torch.autograd.grad(
        out, arguments, cotangent_of(out), allow_unused=True, materialize_grads=True
    )


def assert_same(got, want, arguments, rtol, expected_arguments=None):
    """Values and all gradients, relative to the largest expected entry of each."""
    pairs = [(got, want)]
    if want.requires_grad:
        pairs += zip(grads(got, arguments), grads(want, expected_arguments or arguments))
    for a, b in pairs:
        assert_close(a, b, rtol)
