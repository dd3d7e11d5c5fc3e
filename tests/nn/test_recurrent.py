"""The layers with nonlinear cells."""

import pytest
import torch
from torch import nn
from torch_geometric.utils import scatter, to_undirected

from plstm_graph import (
    PLSTM,
    DAGLSTMConv,
    LineGraph,
    PLSTMBlock,
    PLSTMConv,
    PLSTMSequence,
    SLSTMConv,
)
from plstm_graph.ops import native
from plstm_graph.ops.sweep_plan import way_edges
from tests.nn.conftest import edges_of, line_graph_of
from tests.ops.test_sweep import published_slstm

RING = to_undirected(torch.tensor([[0, 1, 2, 3, 1], [1, 2, 3, 4, 3]]))
LAYERS = {
    "dag_lstm": lambda *widths, **kwargs: DAGLSTMConv(*widths, **kwargs),
    "slstm": lambda *widths, **kwargs: SLSTMConv(*widths, 2, **kwargs),
}
DIRECTIONS = ("auto", "two_way", "forward", "reverse")
every_layer = pytest.mark.parametrize("name", LAYERS)
every_direction = pytest.mark.parametrize("direction", DIRECTIONS)


def layer(name, in_channels=5, out_channels=8, **kwargs):
    """A layer in float64 whose recurrent weights are not zero."""
    conv = LAYERS[name](in_channels, out_channels, **kwargs).double()
    nn.init.normal_(conv.weight, std=0.5)
    return conv


class LevelLSTM(nn.Module):
    """The child-sum LSTM as the experiments had it before it became a layer of the package."""

    def __init__(self, channels):
        super().__init__()
        self.input = nn.Linear(channels, 4 * channels)
        self.state = nn.Linear(channels, 3 * channels, bias=False)
        self.forget = nn.Linear(channels, channels, bias=False)

    def forward(self, x, line_graph):
        src, dst = line_graph.edge_index
        level = scatter(line_graph.level + 1, dst, 0, len(x), "max")
        at_node, at_edge = self.input(x).split([3 * x.size(1), x.size(1)], -1)
        h, c = x.new_zeros(2, *x.shape)
        for step in level.unique():
            nodes, edges = (level == step).nonzero()[:, 0], (level[dst] == step).nonzero()[:, 0]
            place = torch.searchsorted(nodes, dst[edges])
            h_in, c_in = h[src[edges]], c[src[edges]]
            h_sum = scatter(h_in, place, 0, len(nodes))
            i, o, u = (at_node[nodes] + self.state(h_sum)).chunk(3, -1)
            f = torch.sigmoid(at_edge[nodes[place]] + self.forget(h_in))
            new = i.sigmoid() * u.tanh() + scatter(f * c_in, place, 0, len(nodes))
            h = h.index_copy(0, nodes, o.sigmoid() * new.tanh())
            c = c.index_copy(0, nodes, new)
        return h


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_dag_lstm_is_what_the_experiments_had(graph, direction):
    torch.manual_seed(3)
    old = LevelLSTM(6)
    torch.manual_seed(3)
    new = DAGLSTMConv(6, 6, direction=direction)
    # The same seed gives the same weights.
    pairs = [
        (old.input.weight, new.lin_node.weight),
        (old.input.bias, new.lin_node.bias),
        (torch.cat([old.state.weight, old.forget.weight]), new.weight.view(24, 6)),
    ]
    assert all(torch.equal(a, b) for a, b in pairs)
    old, new = old.double(), new.double()
    x = torch.randn(graph.num_nodes, 6, dtype=torch.float64)
    expected = old(x, graph.reverse() if direction == "reverse" else graph)
    out = new(x, graph.edge_index, line_graph=graph)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
    if not graph.num_nodes:
        return
    grad = torch.randn_like(out)
    wanted = [old.input.weight, old.input.bias, old.state.weight, old.forget.weight]
    expected = torch.autograd.grad(expected, wanted, grad, materialize_grads=True)
    new_weights = [new.lin_node.weight, new.lin_node.bias, new.weight]
    found = torch.autograd.grad(out, new_weights, grad, materialize_grads=True)
    expected = [*expected[:2], torch.cat(expected[2:]).view_as(new.weight)]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def by_node(states, graph):
    """A loop over the nodes: ``states(node, edges into it)`` in topological order."""
    src, dst = graph.edge_index.tolist()
    done, rows = {}, {n: [e for e, d in enumerate(dst) if d == n] for n in range(graph.num_nodes)}
    while len(done) < graph.num_nodes:
        for node, into in rows.items():
            if node not in done and all(src[e] in done for e in into):
                done[node] = states(node, [(e, done[src[e]]) for e in into])
    return torch.stack([done[node][0] for node in range(graph.num_nodes)])


def test_dag_lstm_with_edge_features_is_its_definition(dag):
    conv = layer("dag_lstm", 5, 8, edge_dim=3, direction="forward")
    x = torch.randn(dag.num_nodes, 5, dtype=torch.float64)
    edge_attr = torch.randn(dag.num_edges, 3, dtype=torch.float64)
    R, edge = conv.weight[0], conv.lin_edge(edge_attr)[dag.edge_id].view(-1, 4, 8)

    def states(node, before):
        own = conv.lin_node(x[node]).view(4, 8)
        bring = [(R @ h + edge[e], c) for e, (h, c) in before]
        i, o, z, _ = own + sum((r for r, _ in bring), torch.zeros_like(own))
        c = i.sigmoid() * z.tanh() + sum((own[3] + r[3]).sigmoid() * c for r, c in bring)
        return o.sigmoid() * c.tanh(), c

    expected = by_node(states, dag)
    out = conv(x, dag.edge_index, edge_attr, line_graph=dag)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("direction", ["forward", "reverse", "two_way"])
def test_slstm_on_a_path_is_the_published_cell(direction):
    graph = line_graph_of(*edges_of("path"))
    conv = layer("slstm", 5, 8, direction=direction, head_norm=False)
    x = torch.randn(5, 5, dtype=torch.float64)
    out = conv(x, graph.edge_index, line_graph=graph)
    gates = conv.lin_node(x).view(5, *conv.bias.shape) + conv.bias
    h = gates.size(1) // 2 if direction == "two_way" else 0 if direction == "reverse" else 2
    along = published_slstm(gates[:, :h], conv.weight[:h])
    against = published_slstm(gates[:, h:].flip(0), conv.weight[h:]).flip(0)
    expected = conv.lin_out(torch.cat([along, against], 1).flatten(1))
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
    wanted = [conv.weight, conv.bias, conv.lin_node.weight]
    grad = torch.randn_like(out)
    found = torch.autograd.grad(out, wanted, grad, retain_graph=True)
    expected = torch.autograd.grad(expected, wanted, grad)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_slstm_starts_as_published():
    first, last = (SLSTMConv(5, 12, 2, direction="forward", depth=depth) for depth in (0, 1))
    for conv, power in ((first, 0.3), (last, 1.6)):
        assert not conv.weight.any() and not conv.bias[:, :3].any()
        expected = torch.tensor([5 - 12 * (j / 5) ** power for j in range(6)])
        torch.testing.assert_close(conv.bias[:, 3], expected.expand(2, 6))
    assert SLSTMConv(5, 2, direction="auto").bias[:, 3].tolist() == [[5], [5]]  # d = 1
    assert SLSTMConv(5, 8, bias=False).bias is None


@every_layer
@pytest.mark.parametrize("input", ["directed", "undirected"])
@every_direction
def test_who_hears_whom(name, input, direction):
    """Ancestors forward, descendants reversed; on a directed input "auto" hears ancestors alone."""
    edge_index = torch.tensor([[0, 1, 1, 2], [1, 2, 3, 4]])
    index = to_undirected(edge_index) if input == "undirected" else edge_index
    conv = layer(name, direction=direction, orientation="index")
    x = torch.randn(5, 5, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(conv(x, index)[1].square().sum(), x)
    up, down = {0, 1}, {1, 2, 3, 4}
    both = up | down if input == "undirected" or direction == "two_way" else up
    expected = {"forward": up, "reverse": down}.get(direction, both)
    assert set(grad.abs().sum(1).nonzero().view(-1).tolist()) == expected


@every_layer
@every_direction
def test_line_graph_given_or_not_two_way_or_not(name, direction):
    conv = layer(name, edge_dim=3, direction=direction)
    x = torch.randn(5, 5, dtype=torch.float64)
    edge_attr = torch.randn(RING.size(1), 3, dtype=torch.float64)
    graph = LineGraph.from_edge_index(RING, 5, x=x, edge_attr=edge_attr)
    out = conv(x, RING, edge_attr)
    for given in (RING, None):
        torch.testing.assert_close(conv(x, given, edge_attr, line_graph=graph), out)
    if direction in ("auto", "two_way"):
        for other in (graph.two_way(), graph.two_way_where_undirected()):
            torch.testing.assert_close(conv(x, RING, edge_attr, line_graph=other), out)
    else:
        with pytest.raises(ValueError, match="expected a one-way line_graph"):
            conv(x, RING, edge_attr, line_graph=graph.two_way())
    if direction == "reverse":
        forward = layer(name, edge_dim=3, direction="forward")
        forward.load_state_dict(conv.state_dict())
        turned = forward(x, RING, edge_attr, line_graph=graph.reverse())
        torch.testing.assert_close(turned, out)


@every_layer
def test_edges_are_read_in_their_own_direction(name):
    """Only the columns that run along the order matter to "forward", the others to "reverse"."""
    graph = LineGraph.from_edge_index(RING, 5, "index")
    x = torch.randn(5, 5, dtype=torch.float64)
    edge_attr = torch.randn(RING.size(1), 3, dtype=torch.float64, requires_grad=True)
    along = RING[0] < RING[1]
    for direction, expected in (
        ("forward", along), ("reverse", ~along), ("auto", along | ~along),
    ):  # fmt: skip
        conv = layer(name, edge_dim=3, direction=direction)
        out = conv(x, RING, edge_attr, line_graph=graph)
        (grad,) = torch.autograd.grad(out.square().sum(), edge_attr)
        assert torch.equal(grad.abs().sum(1) > 0, expected)


@every_layer
@every_direction
def test_batch_equals_its_parts(name, direction):
    """Undirected, directed, without edges and one node."""
    parts = [(5, RING), edges_of("diamond"), edges_of("no_edges"), edges_of("one_node")]
    conv, outs, xs, indices, batch, offset = layer(name, direction=direction), [], [], [], [], 0
    for i, (n, index) in enumerate(parts):
        x = torch.randn(n, 5, dtype=torch.float64)
        outs.append(conv(x, index))
        xs.append(x)
        indices.append(index + offset)
        batch += [i] * n
        offset += n
    together = conv(torch.cat(xs), torch.cat(indices, 1), batch=torch.tensor(batch))
    torch.testing.assert_close(together, torch.cat(outs), rtol=1e-10, atol=1e-10)


@every_layer
@every_direction
@pytest.mark.parametrize("form", ["levelwise", "compiled"])
def test_every_graph_forward_and_backward(name, direction, form, graph):
    if form == "compiled" and native.unavailable() is not None:
        pytest.skip("no compiled kernels")
    conv = layer(name, edge_dim=3, direction=direction, form=form)
    x = torch.randn(graph.num_nodes, 5, dtype=torch.float64, requires_grad=True)
    edge_attr = torch.randn(graph.num_edges, 3, dtype=torch.float64, requires_grad=True)
    out = conv(x, graph.edge_index, edge_attr, line_graph=graph)
    assert out.shape == (graph.num_nodes, 8) and torch.isfinite(out).all()
    out.square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in (x, edge_attr, *conv.parameters()))


@every_layer
def test_permuted_nodes_give_permuted_outputs(name):
    conv, x = layer(name), torch.randn(5, 5, dtype=torch.float64)
    perm = torch.tensor([3, 0, 4, 1, 2])
    place = perm.argsort()
    torch.testing.assert_close(conv(x[perm], place[RING]), conv(x, RING)[perm])


@every_layer
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_steps(name, dtype):
    conv = LAYERS[name](5, 8, edge_dim=3)
    x, edge_attr, target = torch.randn(5, 5), torch.randn(RING.size(1), 3), torch.randn(5, 8) / 2
    graph, losses = LineGraph.from_edge_index(RING, 5), []
    optimizer = torch.optim.Adam(conv.parameters(), 0.02)
    for _ in range(30):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            out = conv(x, RING, edge_attr, line_graph=graph)
        assert out.dtype == dtype
        loss = (out.float() - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in conv.parameters())
    assert losses[-1] < 0.5 * losses[0]


@every_layer
def test_halves(name):
    conv = LAYERS[name](5, 8)
    x = torch.randn(5, 5)
    for dtype, tolerance in ((torch.bfloat16, 5e-2), (torch.float16, 1e-2)):
        out = conv.to(dtype)(x.to(dtype), RING)
        assert out.dtype == dtype
        expected = conv.float()(x.to(dtype).float(), RING)
        torch.testing.assert_close(out.float(), expected, rtol=tolerance, atol=tolerance)


@every_layer
@pytest.mark.parametrize("lazy", [False, True])
def test_saved_and_loaded(name, lazy, tmp_path):
    conv = layer(name, edge_dim=3)
    x = torch.randn(5, 5, dtype=torch.float64)
    edge_attr = torch.randn(RING.size(1), 3, dtype=torch.float64)
    torch.save(conv.state_dict(), tmp_path / "weights.pt")
    other = LAYERS[name](*((-1, 8) if lazy else (5, 8)), edge_dim=-1 if lazy else 3).double()
    other.load_state_dict(torch.load(tmp_path / "weights.pt"))
    torch.testing.assert_close(other(x, RING, edge_attr), conv(x, RING, edge_attr), rtol=0, atol=0)


@every_layer
def test_reset(name):
    conv = LAYERS[name](5, 8, edge_dim=3)
    before = {k: v.clone() for k, v in conv.state_dict().items()}
    torch.manual_seed(0)
    for p in conv.parameters():
        nn.init.constant_(p, 7.0)
    conv.reset_parameters()
    for key, value in conv.state_dict().items():
        assert value.shape == before[key].shape and not (value == 7).any()


def test_slstm_in_the_place_of_the_conv_of_a_block():
    block = PLSTMBlock(8, 2, edge_dim=3, local="gin", zero_init=True)
    block.conv = SLSTMConv(8, 8, 2, edge_dim=3)
    block.reset_parameters()
    assert not block.conv.lin_out.weight.any()
    out = block(torch.randn(5, 8), RING, torch.randn(RING.size(1), 3))
    out.sum().backward()
    assert out.shape == (5, 8) and block.conv.lin_out.weight.grad.abs().sum() > 0


@every_layer
def test_compiled_by_torch(name):
    conv, graph = layer(name, direction="forward"), line_graph_of(*edges_of("one_edge"))
    x = torch.randn(2, 5, dtype=torch.float64)
    expected = conv(x, graph.edge_index, line_graph=graph)
    found = torch.compile(conv, backend="eager")(x, graph.edge_index, line_graph=graph)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@every_layer
def test_refusals(name):
    for argument, value in {
        "in_channels": 0, "edge_dim": 0, "direction": "up", "orientation": "up", "bias": 1,
        "form": "walk",
    }.items():  # fmt: skip
        kwargs = {"in_channels": 5, "out_channels": 8, argument: value}
        widths = kwargs.pop("in_channels"), kwargs.pop("out_channels")
        with pytest.raises(ValueError, match=argument):
            LAYERS[name](*widths, **kwargs)
    with pytest.raises(ValueError, match=r"out_channels divisible by 2 \* heads.*each direction"):
        LAYERS[name](5, 6 if name == "slstm" else 7)
    conv, x = LAYERS[name](5, 8, edge_dim=3), torch.randn(5, 5)
    edge_attr = torch.randn(RING.size(1), 3)
    for argument, args in {
        "x": (x[:, :4], RING, edge_attr),
        "edge_index": (x, RING.float(), edge_attr),
        "edge_attr": (x, RING, edge_attr[1:]),
        "batch": (x, RING, edge_attr, torch.zeros(4)),
        "line_graph": (x, RING, edge_attr, None, 3),
    }.items():
        with pytest.raises(ValueError, match=f"expected {argument} "):
            conv(*args)
    with pytest.raises(ValueError, match="cycle"):
        conv(x, torch.tensor([[0, 1, 2], [1, 2, 0]]), edge_attr[:3])
    with pytest.raises(ValueError, match="depth"):
        SLSTMConv(5, 8, depth=2)


def test_repr():
    assert repr(SLSTMConv(5, 8, 2)) == "SLSTMConv(5, 8, heads=2, direction='auto')"
    assert repr(DAGLSTMConv(5, 8)) == "DAGLSTMConv(5, 8, direction='auto')"


def test_ways_are_planned_once():
    graph = LineGraph.from_edge_index(RING, 5)
    assert way_edges(graph, "reverse") is way_edges(graph, "reverse")


@pytest.mark.parametrize("cell", ["slstm", "dag_lstm"])
def test_as_the_cell_of_a_model(cell):
    """The layers of a stack, whose sLSTM starts by the depth; the layers of pLSTM name them."""
    torch.manual_seed(0)
    model = PLSTM(5, 16, 3, 2, heads=2, cell=cell, edge_dim=3, readout="mean")
    kind = SLSTMConv if cell == "slstm" else DAGLSTMConv
    assert all(isinstance(block.conv, kind) for block in model.blocks)
    if cell == "slstm":
        assert [block.conv.depth for block in model.blocks] == [0.0, 0.5, 1.0]
    edge_index = torch.tensor([[0, 1, 1, 2, 2, 3], [1, 0, 2, 1, 3, 2]])
    out = model(torch.randn(4, 5), edge_index, torch.randn(6, 3))
    out.square().sum().backward()
    assert out.shape == (1, 2) and all(p.grad is not None for p in model.parameters())
    with pytest.raises(ValueError, match="a layer of its own, SLSTMConv or DAGLSTMConv"):
        PLSTMConv(5, 16, cell=cell)
    with pytest.raises(ValueError, match="a layer of its own"):
        PLSTMSequence(16, 2, cell=cell)
