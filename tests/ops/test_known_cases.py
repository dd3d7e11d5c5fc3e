"""Where a pLSTM reduces to something known, and how it behaves at criticality."""

import pytest
import torch

from plstm_graph.ops import dag_scan, plstm
from tests.zoo import ZOO, binary_tree, grid, inputs, path

FORMS = ("dense", "levelwise", "chunkwise", "walk")


@pytest.mark.parametrize("form", FORMS)
def test_path_is_gated_linear_attention(form):
    """Scalar decay, S = M = 1, no direct term: state = decay * state + k v^T, read one step on."""
    line_graph = path(12)
    query, key, value, source, transition, mark, direct = (
        x.detach() for x in inputs(line_graph, heads=2)
    )
    decay = torch.sigmoid(transition)
    got = plstm(
        query,
        key,
        value,
        torch.ones_like(source),
        decay,
        torch.ones_like(mark),
        torch.zeros_like(direct),
        line_graph,
        form=form,
    )
    state = torch.zeros(2, 3, 4, dtype=torch.float64)
    want = [torch.zeros(2, 4, dtype=torch.float64)]
    for n in range(12):
        if n > 0:
            state = decay[n - 1][:, None, None] * state
        state = state + key[n][:, :, None] * value[n][:, None, :]
        want.append((query[n + 1][:, :, None] * state).sum(1))
    assert torch.allclose(got, torch.stack(want), atol=1e-12)


@pytest.mark.parametrize("form", ("auto", *FORMS))
def test_without_edges_only_direct_is_left(form):
    line_graph = ZOO["no_edges"]()
    args = [x.detach() for x in inputs(line_graph)]
    query, key, value, direct = args[0], args[1], args[2], args[6]
    want = (direct * (query * key).sum(-1))[..., None] * value
    assert torch.allclose(plstm(*args, line_graph, form=form), want, atol=1e-14)


@pytest.mark.parametrize("form", FORMS)
def test_zero_transition_is_one_hop_attention(form):
    line_graph = ZOO["random_dense"]()
    args = [x.detach() for x in inputs(line_graph)]
    args[4] = torch.zeros_like(args[4])
    query, key, value, source, _, mark, direct = args
    want = (direct * (query * key).sum(-1))[..., None] * value
    for e, (u, v) in enumerate(line_graph.edge_index.t().tolist()):
        weight = mark[e] * source[e] * (query[v] * key[u]).sum(-1)
        want[v] += weight[:, None] * value[u]
    assert torch.allclose(plstm(*args, line_graph, form=form), want, atol=1e-12)


def layered(levels: int, width: int):
    """Every node of a layer feeds every node of the next one."""
    from tests.zoo import from_edges

    edges = [
        (i * width + a, (i + 1) * width + b)
        for i in range(levels)
        for a in range(width)
        for b in range(width)
    ]
    return from_edges(edges, (levels + 1) * width)


def _p_mode_at_one(line_graph, seed=0):
    """Positive transitions whose sum over e_out is 1 for each e_in."""
    rng = torch.Generator().manual_seed(seed)
    t = torch.rand(line_graph.num_line_edges, 1, generator=rng, dtype=torch.float64) + 0.01
    total = torch.zeros(line_graph.num_edges, 1, dtype=torch.float64)
    total.index_add_(0, line_graph.line_index[0], t)
    return t / total[line_graph.line_index[0]]


def test_p_mode_preserves_the_mass_of_every_cut():
    """1,000 levels, source only in the first: what enters is carried through every level."""
    line_graph = layered(1000, 3)
    assert line_graph.num_levels == 1000
    transition = _p_mode_at_one(line_graph).requires_grad_()
    x = torch.zeros(line_graph.num_edges, 1, 2, dtype=torch.float64)
    first = line_graph.level == 0
    x[first] = torch.rand(int(first.sum()), 1, 2, dtype=torch.float64)
    x.requires_grad_()
    c = dag_scan(x, transition, line_graph)
    mass = torch.zeros(1000, 1, 2, dtype=torch.float64).index_add(0, line_graph.level, c)
    entered = x[first].sum(0)
    assert torch.allclose(mass, entered.expand_as(mass), rtol=1e-9)
    assert float(c.abs().max()) <= float(entered.max())

    # Backward: the mass of the last level depends on each unit that entered with weight 1.
    (dx,) = torch.autograd.grad(mass[-1].sum(), x, retain_graph=True)
    assert torch.allclose(dx[first], torch.ones_like(dx[first]), rtol=1e-9)
    (dt,) = torch.autograd.grad(mass[-1].sum(), transition)
    assert torch.isfinite(dt).all()
    assert float(dt.abs().max()) <= float(entered.sum())


def test_p_mode_with_signs_stays_bounded():
    line_graph = layered(1000, 2)
    sign = torch.randint(0, 2, (line_graph.num_line_edges, 1)) * 2.0 - 1
    transition = (_p_mode_at_one(line_graph) * sign).requires_grad_()
    x = torch.zeros(line_graph.num_edges, 1, 1, dtype=torch.float64)
    x[line_graph.level == 0] = 1.0
    x.requires_grad_()
    c = dag_scan(x, transition, line_graph)
    mass = torch.zeros(1000, 1, 1, dtype=torch.float64).index_add(0, line_graph.level, c.abs())
    assert float(mass.max()) <= float(mass[0]) + 1e-9
    dx, dt = torch.autograd.grad(c[line_graph.level == 999].sum(), (x, transition))
    assert float(dx.abs().max()) <= 1 + 1e-9
    assert torch.isfinite(dt).all() and float(dt.abs().max()) <= float(mass[0])


@pytest.mark.parametrize("make", [lambda: grid(12, 12), lambda: binary_tree(9, inward=True)])
def test_d_mode_bounds_a_state_by_its_ancestors(make):
    """|T| = 1 on a multitree: at most one path from any edge, so |C_e| <= number of ancestors."""
    line_graph = make().multitree()
    e = line_graph.num_edges
    sign = torch.randint(0, 2, (line_graph.num_line_edges, 1)) * 2.0 - 1
    transition = sign.double().requires_grad_()
    x = torch.ones(e, 1, 1, dtype=torch.float64, requires_grad=True)
    c = dag_scan(x, transition, line_graph)
    eye = torch.eye(e, dtype=torch.float64)[:, None]
    reach = dag_scan(eye, torch.ones_like(transition), line_graph)[:, 0] > 0
    ancestors = reach.sum(1).double()
    assert (c[:, 0, 0].abs() <= ancestors + 1e-9).all()
    (dx,) = torch.autograd.grad(c.sum(), x)
    assert (dx[:, 0, 0].abs() <= reach.sum(0) + 1e-9).all()


def test_d_mode_neither_grows_nor_vanishes_on_a_long_path():
    """1,000 levels of |T| = 1: the first state arrives whole, with gradient 1."""
    line_graph = path(1000).multitree()
    x = torch.zeros(1000, 1, 1, dtype=torch.float64)
    x[0] = 1.0
    x.requires_grad_()
    c = dag_scan(x, -torch.ones(999, 1, dtype=torch.float64), line_graph)
    assert torch.equal(c.abs(), torch.ones_like(c))
    (dx,) = torch.autograd.grad(c[-1].sum(), x)
    assert torch.equal(dx.abs(), torch.ones_like(dx))
