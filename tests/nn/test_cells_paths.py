"""On a path every cell is the published one of sequences, with values and gradients."""

import pytest
import torch
import torch.nn.functional as F

from plstm_graph import LineGraph
from tests.nn.cell_reference import bare

STEPS, H = 7, 2
PATH = torch.stack([torch.arange(STEPS - 1), torch.arange(1, STEPS)])


def parts(conv, x):
    """The linear maps of the input, by name, one row for each head."""
    lin = conv.projection.lin_node
    y = x @ lin.weight.t() + lin.bias
    return {name: y[:, rows] for name, rows in lin.rows.items()}


def heads(y, *sizes):
    return y.view(STEPS, H, *sizes) if sizes else y.view(STEPS, H, -1)


def qkv(z):
    return (heads(z[name]) for name in ("query", "key", "value"))


def outer(k, v):
    return k[..., :, None] * v[..., None, :]


def read(q, c):
    return torch.einsum("hk,hkv->hv", q, c)


def mlstm(conv, z):
    q, k, v = qkv(z)
    cap = lambda y: 15 * torch.tanh(y / 15)  # noqa: E731
    f, i = F.logsigmoid(cap(z["forget"])), cap(z["input"])
    c, n, m, out = 0, 0, torch.full((H,), -torch.inf, dtype=q.dtype), []
    for t in range(STEPS):
        new = torch.maximum(f[t] + m, i[t]).detach()
        keep, add = (f[t] + m - new).exp()[:, None], (i[t] - new).exp()[:, None]
        c = keep[..., None] * c + add[..., None] * outer(k[t], v[t])
        n, m = keep * n + add * k[t], new
        dot = (n * q[t]).sum(-1) * q.size(-1) ** -0.5
        floor = torch.maximum(dot.abs(), (-m).exp())
        out.append(read(q[t], c) * q.size(-1) ** -0.5 / floor[:, None])
    return out


def gla(conv, z):
    q, k, v = qkv(z)
    gate = z["forget"] @ conv.gates.lin_forget.weight.t() + conv.gates.lin_forget.bias
    f = heads(gate).sigmoid() ** (1 / 16)
    c, out = 0, []
    for t in range(STEPS):
        c = f[t][..., None] * c + outer(k[t], v[t])
        out.append(read(q[t], c) * q.size(-1) ** -0.5)
    return out


def mamba2(conv, z):
    q, k, v = qkv(z)
    step = (1 + z["step"].exp()).log()
    rate, c, out = conv.gates.log_rate.exp(), 0, []
    for t in range(STEPS):
        keep = (-rate * step[t]).exp()[:, None, None]
        c = keep * c + step[t][:, None, None] * outer(k[t], v[t])
        out.append(read(q[t], c) + conv.gates.skip[:, None] * v[t])
    return out


def unit(x):
    x = x * x.sigmoid()
    return x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt()


def delta_rule(conv, z, gate=None):
    """R micro-steps, the decay before the first."""
    most = 2 if conv.gates.negative_eigenvalues else 1
    R = getattr(conv.gates, "reflections", 1)
    q = unit(heads(z["query"])) * heads(z["query"]).size(-1) ** -0.5
    k, v = unit(heads(z["key"], R, -1)), heads(z["value"], R, -1)
    beta, c, out = most * heads(z["beta"], R).sigmoid(), q.new_zeros(*q.shape[1:], v.size(-1)), []
    eye = torch.eye(q.size(-1), dtype=q.dtype)
    for t in range(STEPS):
        if gate is not None:
            c = (-gate.log_rate.exp() * F.softplus(z["forget"][t])).exp()[:, None, None] * c
        for r in range(R):
            b = beta[t, :, r, None, None]
            c = (eye - b * outer(k[t, :, r], k[t, :, r])) @ c + b * outer(k[t, :, r], v[t, :, r])
        out.append(read(q[t], c))
    return out


def gated_delta_rule(conv, z):
    return delta_rule(conv, z, conv.gates.decay)


def bd_lru(conv, z):
    m = conv.gates.block
    gates = torch.cat([z["forget"].view(STEPS, -1, m, m), z["input"].view(STEPS, -1, m, 1)], -1)
    gates, v = gates.softmax(-1), z["value"].view(STEPS, -1, m)
    h, out = torch.zeros_like(v[0]), []
    for t in range(STEPS):
        h = (gates[t, ..., :m] @ h[..., None])[..., 0] + gates[t, ..., m] * v[t]
        out.append(h)
    return out


def h_lru(conv, z):
    m, v = conv.gates.block, z["value"]
    a = torch.cat([z["forget"].view(STEPS, -1, m), z["input"][..., None]], -1).softmax(-1)
    past, out = [torch.zeros_like(v[0])] * m, []
    for t in range(STEPS):
        new = sum(a[t, :, i] * past[i] for i in range(m)) + a[t, :, m] * v[t]
        past = [new, *past[:-1]]
        out.append(torch.stack(past, -1))
    return out


def state_tracking(conv, z):
    J = conv.gates.states
    q, k, _ = qkv(z)
    v, source, mark = heads(z["value"], J, -1), heads(z["source"]), heads(z["mark"])
    rows, columns = zip(*[(i, j) for i in range(J) for j in range(i + 1, J)])

    def rotation(y):
        x = y.new_zeros(H, J, J)
        x[:, rows, columns] = y.view(H, -1)
        return torch.linalg.matrix_exp(x - x.mT)

    c, out = v.new_zeros(H, J, q.size(-1), v.size(-1)), []
    for t in range(STEPS):
        size = torch.diag_embed((5 * heads(z["singular"])[t]).tanh())
        turn = rotation(z["left"][t]) @ size @ rotation(z["right"][t]).mT
        write = source[t].sigmoid()[..., None] * v[t]
        c = torch.einsum("hij,hjkv->hikv", turn, c) + k[t][:, None, :, None] * write[:, :, None]
        out.append(mark[t].sigmoid()[..., None] * torch.einsum("hk,hjkv->hjv", q[t], c))
    return [y * q.size(-1) ** -0.5 for y in out]


PUBLISHED = [
    ("mlstm", mlstm, {}),
    ("mlstm", mlstm, {"stabilizer": None}),
    ("mlstm", mlstm, {"stabilizer": "max"}),
    ("gla", gla, {"rank": 3}),
    ("mamba2", mamba2, {}),
    ("delta", delta_rule, {}),
    ("delta", delta_rule, {"negative_eigenvalues": True}),
    ("gated_delta", gated_delta_rule, {}),
    ("delta_product", delta_rule, {}),
    ("delta_product", delta_rule, {"reflections": 1}),
    ("delta_product", gated_delta_rule, {"reflections": 3, "gated": True}),
    ("bd_lru", bd_lru, {}),
    ("bd_lru", bd_lru, {"block": 1}),
    ("h_lru", h_lru, {}),
    ("h_lru", h_lru, {"block": 2}),
    ("state_tracking", state_tracking, {}),
    ("state_tracking", state_tracking, {"states": 2}),
]


@pytest.mark.parametrize("mode", [None, "P", "D"])
@pytest.mark.parametrize("cell, published, options", PUBLISHED, ids=lambda v: str(v))
def test_is_the_published_cell(cell, published, options, mode):
    if mode == "P" and cell in ("bd_lru", "h_lru"):
        pytest.skip("it has no P-mode")
    conv = bare(cell, cell_options=options, mode=mode)
    x = torch.randn(STEPS, 6, dtype=torch.double, requires_grad=True)
    got = conv(x, PATH, line_graph=LineGraph.from_edge_index(PATH, STEPS))
    want = torch.stack(published(conv, parts(conv, x))).flatten(1)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
    leaves = [x, conv.projection.lin_node.weight, *conv.gates.parameters()]
    cotangent = torch.randn_like(want)
    for mine, theirs in zip(
        torch.autograd.grad(got, leaves, cotangent), torch.autograd.grad(want, leaves, cotangent)
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("cell, published, options", PUBLISHED, ids=lambda v: str(v))
def test_a_path_that_is_not_directed_reads_both_ways(cell, published, options):
    """A node of a two-way path hears its ancestors' side and its own: the ends are one-way."""
    conv = bare(cell, cell_options=options)
    x = torch.randn(STEPS, 6, dtype=torch.double)
    both = torch.cat([PATH, PATH.flip(0)], 1)
    got = conv(x, both, line_graph=LineGraph.from_edge_index(both, STEPS))
    forward = torch.stack(published(conv, parts(conv, x))).flatten(1)
    back = torch.stack(published(conv, parts(conv, x.flip(0)))).flatten(1)
    torch.testing.assert_close(got[-1], forward[-1], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(got[0], back[-1], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("cell, published, options", PUBLISHED, ids=lambda v: str(v))
def test_the_gates_of_nodes_are_those_of_a_path(cell, published, options):
    """From which a sequence can be read step by step."""
    conv = bare(cell, cell_options=options)
    x = torch.randn(STEPS, 6, dtype=torch.double)
    node = parts(conv, x)
    path = LineGraph.from_edge_index(PATH, STEPS)
    steps, whole = conv.gates.node_tensors(node), conv.gates(node, None, path)
    gates = {"source": PATH[0], "transition": PATH[0, 1:], "mark": PATH[1]}
    for name, rows in gates.items():
        want, got = getattr(whole, name), getattr(steps, name)
        if not isinstance(want, torch.Tensor):
            want, got = want.log_abs, got.log_abs
        torch.testing.assert_close(got[rows], want, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(steps.key, whole.key, rtol=0, atol=0)
