"""Layers on two-way line graphs, and what came with them: directions and offsets."""

import copy
import inspect
import pickle

import pytest
import torch
from torch_geometric.data import Batch, Data
from torch_geometric.explain.algorithm.utils import set_masks

from plstm_graph import LineGraph, ToLineGraph, plstm
from plstm_graph.nn import PLSTM, PLSTMBlock, PLSTMConv
from plstm_graph.nn.model import layer_directions
from tests.nn.conftest import EDGES, edges_of, output

names = pytest.mark.parametrize("name", EDGES)
modes = pytest.mark.parametrize("mode", ["P", "D"])


def undirected(name: str) -> tuple[int, torch.Tensor]:
    """A graph of the zoo with both directions of each edge, all columns in random order."""
    num_nodes, edge_index = edges_of(name)
    both = torch.cat([edge_index, edge_index.flip(0)], 1)
    return num_nodes, both[:, torch.randperm(both.size(1))]


def random_graph(num_nodes: int, extra: int) -> torch.Tensor:
    """A connected graph: a random tree and ``extra`` more edges."""
    child = torch.arange(1, num_nodes)
    tree = torch.stack([(torch.rand(num_nodes - 1) * child).long(), child])
    more = torch.stack([torch.randperm(num_nodes)[:extra], torch.randperm(num_nodes)[:extra]])
    edges = torch.cat([tree, more[:, more[0] != more[1]]], 1).sort(0).values.unique(dim=1)
    return torch.cat([edges, edges.flip(0)], 1)


def inputs(num_nodes: int, edge_index: torch.Tensor, dtype=torch.double) -> tuple:
    """x, edge_index and edge_attr for a layer of 5 channels and edge_dim 3."""
    x = torch.randn(num_nodes, 5, dtype=dtype)
    return x, edge_index, torch.randn(edge_index.size(1), 3, dtype=dtype)


def loss_is_finite(module: torch.nn.Module, out: torch.Tensor, *leaves: torch.Tensor) -> None:
    assert out.isfinite().all()
    out.float().square().sum().backward()
    for leaf in (*module.parameters(), *leaves):
        assert leaf.grad is None or leaf.grad.isfinite().all()


# -------------------------------------------------------------------- the definition


@names
@pytest.mark.parametrize("graph_of", [undirected, edges_of], ids=["undirected", "directed"])
def test_two_way_layer_is_the_definition(conv, name, graph_of):
    num_nodes, edge_index = graph_of(name)
    x, _, edge_attr = args = inputs(num_nodes, edge_index)
    conv.direction = "two_way"
    graph = LineGraph.from_edge_index(edge_index, num_nodes, x=x, edge_attr=edge_attr)
    out, gates = conv(*args, line_graph=graph, return_gates=True)
    two_way = graph.two_way()
    assert gates.line_graph == (two_way.multitree() if conv.mode == "D" else two_way)
    # A two-way graph that is given as one is left as it is; without one it is built.
    assert torch.equal(conv(*args, line_graph=two_way), out)
    assert torch.equal(conv(*args), out)
    # The slow oracle.
    proj = conv.projection
    q, k, v = (part.view(num_nodes, 2, 3) for part in proj.lin_node(x).split(proj.split, -1)[:3])
    h = plstm(q, k, v, *gates[:4], gates.line_graph, form="naive")
    torch.testing.assert_close(out, output(conv, h), rtol=1e-10, atol=1e-10)


def test_one_layer_joins_every_pair_of_nodes(conv):
    edge_index = random_graph(15, 8)
    x, *rest = inputs(15, edge_index)
    reach = torch.autograd.functional.jacobian(lambda x: conv(x, *rest), x).abs().sum((1, 3))
    assert (reach > 0).all()


def test_default_layers_do_not_see_numbering(conv):
    edge_index = random_graph(15, 8)
    x, _, edge_attr = args = inputs(15, edge_index)
    out = conv(*args)
    nodes, columns = torch.randperm(15), torch.randperm(edge_index.size(1))
    renumbered = nodes.argsort()[edge_index][:, columns]
    permuted = conv(x[nodes], renumbered, edge_attr[columns])
    torch.testing.assert_close(permuted, out[nodes], rtol=1e-10, atol=1e-10)


# -------------------------------------------------------------------- which direction

MIXED = ("shuffled", "diamond", "no_edges", "multi_edge", "one_node", "path", "star")


def mixed_graphs() -> list[Data]:
    """Undirected and directed ones by turns."""
    graphs = []
    for i, name in enumerate(MIXED):
        num_nodes, edge_index = edges_of(name) if i % 2 else undirected(name)
        x, _, edge_attr = inputs(num_nodes, edge_index)
        graphs.append(Data(x=x, edge_index=edge_index, edge_attr=edge_attr))
    return graphs


def test_auto_is_two_way_where_undirected(conv):
    graphs = mixed_graphs()
    expected = []
    for i, data in enumerate(graphs):
        args = data.x, data.edge_index, data.edge_attr
        automatic = conv(*args)
        conv.direction = "forward" if i % 2 else "two_way"
        expected.append(conv(*args))
        conv.direction = "auto"
        torch.testing.assert_close(automatic, expected[-1], rtol=0, atol=0)
    batch = Batch.from_data_list(graphs)
    args = batch.x, batch.edge_index, batch.edge_attr
    stored = ToLineGraph()(batch)
    collated = Batch.from_data_list([ToLineGraph()(data) for data in graphs])
    for line_graph in (None, LineGraph.from_data(stored), LineGraph.from_data(collated)):
        out, gates = conv(*args, batch.batch, line_graph, return_gates=True)
        torch.testing.assert_close(out, torch.cat(expected), rtol=1e-6, atol=1e-8)
        against = gates.line_graph.edge_index[:, gates.line_graph.direction == 0]
        assert (batch.batch[against[0]] % 2 == 0).all() and against.numel()


@pytest.mark.parametrize("readout", [None, "sum"])
def test_model_of_a_mixed_batch_equals_its_parts(readout):
    graphs = mixed_graphs()
    options = {"heads": 2, "edge_dim": 3, "readout": readout, "local": "gin"}
    model = PLSTM(5, 8, 3, 2, directions="at", **options).double()
    parts = [model(data.x, data.edge_index, data.edge_attr, batch_size=1) for data in graphs]
    batch = Batch.from_data_list(graphs)
    args = batch.x, batch.edge_index, batch.edge_attr, batch.batch
    out = model(*args, batch_size=len(graphs))
    torch.testing.assert_close(out, torch.cat(parts), rtol=1e-6, atol=1e-8)
    line_graph = LineGraph.from_data(ToLineGraph()(batch))
    again = model(*args, line_graph, batch_size=len(graphs))
    torch.testing.assert_close(again, out, rtol=1e-6, atol=1e-8)


@modes
def test_flow_on_undirected_and_directed_graphs(mode):
    """A two-way graph turned round is the same graph; a DAG turned round is its reverse."""

    def run(args, **kwargs):
        torch.manual_seed(1)
        conv = PLSTMConv(5, 6, 2, mode=mode, edge_dim=3, **kwargs).double()
        return conv(*args)

    tree = inputs(9, random_graph(9, 0))
    cases = [(tree, "auto"), (tree, "two_way"), (inputs(*edges_of("path")), "two_way")]
    if mode == "P":  # D-mode prunes what leaves an edge: turned round, what enters it
        cases += [(inputs(9, random_graph(9, 5)), "auto")]
        cases += [(inputs(*edges_of("shuffled")), "two_way")]
    for args, direction in cases:
        turned = run(args, direction=direction, flow="target_to_source")
        torch.testing.assert_close(turned, run(args, direction=direction))
    dag = inputs(*edges_of("shuffled"))
    turned = run(dag, flow="target_to_source")
    torch.testing.assert_close(turned, run(dag, direction="reverse"))
    assert not torch.allclose(turned, run(dag))


@pytest.mark.parametrize(
    "directions, modes, expected",
    [
        ("auto", "PD", "aaaaa"),
        ("two_way", "PD", "ttttt"),
        ("t", "P", "ttttt"),
        ("tf", "PD", "tftft"),
        ("atfr", "P", "atfra"),
        ("forward", "PD", "fffff"),
        ("reverse", "PD", "rrrrr"),
        ("alternate", "PD", "ffrrf"),
        ("alternate", "P", "frfrf"),
    ],
)
def test_directions_of_a_model(directions, modes, expected):
    letters = {"a": "auto", "t": "two_way", "f": "forward", "r": "reverse"}
    expected = [letters[letter] for letter in expected]
    assert layer_directions(directions, modes, 5) == expected
    model = PLSTM(5, 8, 5, 1, heads=2, modes=modes, directions=directions).double()
    assert [block.conv.direction for block in model.blocks] == expected
    num_nodes, edge_index = undirected("shuffled")
    assert model(*inputs(num_nodes, edge_index)[:2]).isfinite().all()


@pytest.mark.parametrize("directions", ["", "tx", "T", "both", "two-way"])
def test_unknown_directions(directions):
    with pytest.raises(ValueError, match=f"directions to be .*'tf', got '{directions}'"):
        PLSTM(5, 8, 2, 1, directions=directions)


def test_arguments_come_in_one_order():
    order = ["self", "x", "edge_index", "edge_attr", "batch", "line_graph"]
    for module in (PLSTMConv, PLSTMBlock, PLSTM):
        assert list(inspect.signature(module.forward).parameters)[:6] == order


# -------------------------------------------------------------------- edge features


def test_both_columns_of_an_edge_are_read(conv):
    num_nodes, edge_index = undirected("shuffled")
    x, _, edge_attr = inputs(num_nodes, edge_index)
    out = conv(x, edge_index, edge_attr.requires_grad_())
    (grad,) = torch.autograd.grad(out.square().sum(), edge_attr)
    assert (grad.abs().sum(1) > 0).all()
    graph = LineGraph.from_edge_index(edge_index, num_nodes, x=x, edge_attr=edge_attr)
    swap = torch.empty(edge_index.size(1), dtype=torch.int64)
    swap[graph.edge_id], swap[graph.opposite_id] = graph.opposite_id, graph.edge_id
    assert torch.equal(edge_index[:, swap], edge_index.flip(0))
    # The columns change places, with their rows.
    torch.testing.assert_close(conv(x, edge_index[:, swap], edge_attr[swap]), out)
    # Each direction takes the other one's features.
    assert not torch.allclose(conv(x, edge_index, edge_attr[swap], line_graph=graph), out)


def test_both_columns_have_their_explanation_mask(conv):
    num_nodes, edge_index = undirected("shuffled")
    args = inputs(num_nodes, edge_index)
    mask = torch.rand(edge_index.size(1), dtype=torch.double, requires_grad=True)
    set_masks(conv, mask, edge_index, apply_sigmoid=False)
    (grad,) = torch.autograd.grad(conv(*args).square().sum(), mask)
    assert (grad != 0).all()


# -------------------------------------------------------------------- offsets of directions


def offset_layer(mode: str, **kwargs) -> PLSTMConv:
    torch.manual_seed(2)
    return PLSTMConv(5, 6, 2, mode=mode, **kwargs).double()


@modes
@pytest.mark.parametrize("edge_dim", [None, 3])
def test_offset_changes_edges_against_the_order(mode, edge_dim):
    num_nodes, edge_index = undirected("shuffled")
    x, _, edge_attr = inputs(num_nodes, edge_index)
    args = x, edge_index, None if edge_dim is None else edge_attr
    conv = offset_layer(mode, edge_dim=edge_dim, direction_offset=True)
    plain = offset_layer(mode, edge_dim=edge_dim)
    assert "direction_offset" not in plain.state_dict() and plain.direction_offset is None
    plain.load_state_dict(conv.state_dict(), strict=False)
    out, gates = conv(*args, return_gates=True)
    torch.testing.assert_close(out, plain(*args), rtol=0, atol=0)
    (grad,) = torch.autograd.grad(out.square().sum(), conv.direction_offset)
    assert (grad != 0).all()

    conv.direction_offset.data.fill_(1.5)
    moved = conv(*args, return_gates=True)[1]
    against = gates.line_graph.direction == 0
    for name in ("source", "mark"):
        before, after = getattr(gates, name), getattr(moved, name)
        assert torch.equal(before[~against], after[~against])
        torch.testing.assert_close(after[against].logit(), before[against].logit() + 1.5)
    assert torch.equal(gates.direct, moved.direct)
    if mode == "D":  # both parts of the Transition: one offset for each edge that goes against
        shift = 1.5 * against[gates.line_graph.line_index].sum(0, keepdim=True).t()
        before = gates.transition.atanh()
        torch.testing.assert_close(moved.transition.atanh(), before + shift)
    assert not torch.allclose(conv(*args), out)
    conv.reset_parameters()
    assert (conv.direction_offset == 0).all()


@modes
def test_offset_has_no_part_in_one_way_layers(mode):
    conv = offset_layer(mode, direction_offset=True)
    x, edge_index, _ = inputs(*edges_of("shuffled"))
    out = conv(x, edge_index)
    conv.direction_offset.data.fill_(1.5)
    assert torch.equal(conv(x, edge_index), out)


# -------------------------------------------------------------------- conventions


def test_copies_compute_the_same(conv):
    num_nodes, edge_index = undirected("shuffled")
    args = inputs(num_nodes, edge_index)
    graph = LineGraph.from_edge_index(edge_index, num_nodes)
    out = conv(*args, line_graph=graph)
    for duplicate in (copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))):
        for line_graph in (duplicate(graph), duplicate(graph.two_way())):
            torch.testing.assert_close(duplicate(conv)(*args, line_graph=line_graph), out)


@modes
@pytest.mark.parametrize("offset", [False, True], ids=["plain", "offset"])
def test_autocast(mode, offset):
    num_nodes, edge_index = undirected("shuffled")
    x, _, edge_attr = args = inputs(num_nodes, edge_index, torch.float)
    conv = PLSTMConv(5, 6, 2, mode=mode, edge_dim=3, direction_offset=offset)
    expected = conv(*args)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = conv(x.requires_grad_(), edge_index, edge_attr)
    torch.testing.assert_close(out.float(), expected, rtol=0.1, atol=0.1)
    loss_is_finite(conv, out, x)
    low = copy.deepcopy(conv).bfloat16()
    out = low(x.detach().bfloat16(), edge_index, edge_attr.bfloat16())
    assert out.dtype == torch.bfloat16 and out.isfinite().all()


@modes
def test_lazy_widths(mode):
    num_nodes, edge_index = undirected("shuffled")
    args = inputs(num_nodes, edge_index, torch.float)
    conv = PLSTMConv(-1, 6, 2, mode=mode, edge_dim=-1, direction_offset=True)
    fresh = copy.deepcopy(conv)
    out = conv(*args)
    assert conv.projection.edge_dim == 3
    fresh.load_state_dict(conv.state_dict())
    torch.testing.assert_close(fresh(*args), out)


@modes
@names
@pytest.mark.parametrize("direction", ["auto", "two_way"])
def test_every_graph_forward_and_backward(mode, name, direction):
    num_nodes, edge_index = undirected(name)
    x, _, edge_attr = args = inputs(num_nodes, edge_index)
    options = {"mode": mode, "direction": direction, "edge_dim": 3, "direction_offset": True}
    conv = PLSTMConv(5, 6, 2, **options).double()
    out = conv(x.requires_grad_(), edge_index, edge_attr.requires_grad_())
    assert out.shape == (num_nodes, 6)
    loss_is_finite(conv, out, x, edge_attr)
    model = PLSTM(5, 8, 2, 1, heads=2, edge_dim=3, directions=direction, readout="mean").double()
    batch = torch.zeros(num_nodes, dtype=torch.int64)
    out = model(*args, batch, batch_size=1)
    assert out.shape == (1, 1)
    loss_is_finite(model, out)


@modes
def test_gradcheck(mode):
    num_nodes, edge_index = undirected("diamond")
    graph = LineGraph.from_edge_index(edge_index, num_nodes, "bfs")
    conv = PLSTMConv(5, 4, 2, mode=mode, edge_dim=3, direction_offset=True).double()
    names, params = zip(*conv.named_parameters())
    x, _, edge_attr = inputs(num_nodes, edge_index)

    def run(x, edge_attr, *params):
        args = (x, edge_index, edge_attr, None, graph)
        return torch.func.functional_call(conv, dict(zip(names, params)), args)

    assert torch.autograd.gradcheck(run, (x.requires_grad_(), edge_attr.requires_grad_(), *params))
