"""Cells as gates of layers: options, gradients, symmetries, gates of edges."""

import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.explain.algorithm.utils import clear_masks, set_masks

from plstm_graph import PLSTM, LineGraph, PLSTMBlock, PLSTMConv, PLSTMGrid
from plstm_graph.nn.cells import CELL_NAMES, CELLS, cell_modes
from plstm_graph.ops.inputs import LogGate
from plstm_graph.testing import check_equivariance
from tests.nn.cell_reference import MODES, bare, plain, reference
from tests.nn.conftest import EDGES, edges_of

each = pytest.mark.parametrize("cell, mode", MODES, ids=["-".join(m) for m in MODES])
every = pytest.mark.parametrize("cell", list(CELLS))
TREE = torch.tensor([[0, 0, 1, 1, 2, 5], [1, 2, 3, 4, 5, 6]])
UNDIRECTED = torch.cat([TREE, TREE.flip(0)], 1)
#: A DAG with 7 nodes and one with both directions: x, edge_index, edge_attr.
GRAPHS = {"dag": edges_of("shuffled")[1], "two_way": UNDIRECTED}
on_both = pytest.mark.parametrize("graph", list(GRAPHS))


def features(edge_index, nodes=7, width=6, edge_dim=3, dtype=torch.double):
    x = torch.randn(nodes, width, dtype=dtype)
    return x, edge_index, torch.randn(edge_index.size(1), edge_dim, dtype=dtype)


# -------------------------------------------------------------------- options


def test_names_and_default_modes():
    assert CELL_NAMES == (
        "plstm", "mlstm", "gla", "mamba2", "delta", "gated_delta", "delta_product", "bd_lru",
        "h_lru", "state_tracking",
    )  # fmt: skip
    normalised = {"mlstm", "bd_lru", "h_lru"}
    for name in CELL_NAMES:
        assert cell_modes(name)[0] == ("N" if name in normalised else "P")
        assert "D" in cell_modes(name)
        assert PLSTMConv(6, 8, 2, cell=name).mode == cell_modes(name)[0]
        modes = PLSTM(6, 8, 2, 1, heads=2, cell=name).modes
        assert modes == ("PD" if name == "plstm" else cell_modes(name)[0])
    assert PLSTMConv(6, 8).cell == PLSTM(6, 8, 1, 1).cell == PLSTMGrid(8, 2).cell == "plstm"


def test_default_options_of_cells():
    gates = {name: PLSTMConv(6, 8, 2, cell=name).gates for name in CELLS}
    assert (gates["mlstm"].normalizer, gates["mlstm"].stabilizer) == ("max1", "logsumexp")
    assert {cell.normalizer for name, cell in gates.items() if name != "mlstm"} == {None}
    assert (gates["gla"].divisor, gates["gla"].lin_forget.in_channels) == (16.0, 16)
    assert not gates["delta"].negative_eigenvalues and not gates["gated_delta"].negative_eigenvalues
    product = gates["delta_product"]
    assert product.negative_eigenvalues and product.reflections == 2 and product.decay is None
    assert gates["bd_lru"].block == gates["h_lru"].block == gates["state_tracking"].states == 4


def test_repr():
    conv = PLSTMConv(6, 8, 2, cell="mlstm")
    assert str(conv) == "PLSTMConv(6, 8, cell='mlstm', heads=2, mode='N')"
    assert str(conv.gates) == "MLSTM(8, heads=2, mode='N')"
    model = PLSTM(6, 8, 2, 1, heads=2, cell="delta")
    assert str(model) == "PLSTM(6, 8, 1, cell='delta', num_layers=2, modes='P')"
    assert str(PLSTMGrid(8, 2, cell="gla")) == "PLSTMGrid(8, cell='gla', heads=2, ndim=2, mode='P')"


@pytest.mark.parametrize(
    "options, message",
    [
        ({"cell": "lstm"}, "cell to be one of 'plstm', 'mlstm', .*, got 'lstm'"),
        ({"cell": None}, "cell to be one of"),
        ({"mode": "N"}, "mode to be one of 'P', 'D', got 'N'; .* cell='plstm'"),
        ({"cell": "bd_lru", "mode": "P"}, "mode to be one of 'N', 'D', got 'P'; .* cell='bd_lru'"),
        ({"cell": "delta", "mode": "N"}, "mode to be one of 'P', 'D', got 'N'"),
        ({"cell": "gla", "qk_norm": True}, "qk_norm to be left out with cell='gla', got True"),
        ({"cell": "gla", "init": "grid"}, "init to be left out with cell='gla'"),
        ({"cell": "gla", "scale": 0.5}, "scale to be left out"),
        ({"cell": "gla", "normalization": "target"}, "normalization to be left out"),
        ({"cell": "gla", "transition": "factored"}, "transition to be left out"),
        ({"cell": "gla", "transition_node": "all"}, "transition_node to be left out"),
        ({"cell": "gla", "cell_options": {"rang": 3}}, r"cell='gla' \(rank, divisor\), got 'rang'"),
        ({"cell_options": {"rank": 3}}, r"cell='plstm' \(it has none\), got 'rank'"),
        ({"cell": "gla", "cell_options": 3}, "cell_options as a mapping"),
        ({"cell": "gla", "cell_options": {"rank": 0}}, "rank as an integer of 1 or more, got 0"),
        ({"cell": "gla", "cell_options": {"divisor": 0}}, "divisor as a finite number"),
        ({"cell": "mlstm", "cell_options": {"normalizer": "max"}}, "normalizer to be one of"),
        ({"cell": "mlstm", "cell_options": {"stabilizer": "sum"}}, "stabilizer to be one of"),
        ({"cell": "delta", "cell_options": {"negative_eigenvalues": 2}}, "negative_eigenvalues as"),
        (
            {"cell": "delta_product", "cell_options": {"reflections": 0}},
            "reflections as an int",
        ),
        ({"cell": "delta_product", "cell_options": {"gated": "yes"}}, "gated as True or False"),
        ({"cell": "bd_lru", "cell_options": {"block": 3}}, "block to divide out_channels=8, got 3"),
        ({"cell": "h_lru", "cell_options": {"block": 0}}, "block as an integer of 1 or more"),
        (
            {"cell": "state_tracking", "cell_options": {"states": 3}},
            "states to divide .* 4 cha",
        ),
    ],
    ids=str,
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        PLSTMConv(6, 8, 2, **options)
    with pytest.raises(ValueError, match=message):
        PLSTMBlock(8, 2, **options)


def test_bad_options_of_grids_and_models():
    for options, message in (
        ({"cell": "gla", "angle": "published"}, "angle to be left out with cell='gla'"),
        ({"cell": "gla", "gate_weights": False}, "gate_weights to be left out"),
        ({"cell": "gla", "form": "gating"}, "form to be one of"),
        ({"cell": "lstm"}, "cell to be one of"),
        ({"mode": "N"}, "mode to be one of 'P', 'D'"),
        ({"cell": "bd_lru", "cell_options": {"block": 3}}, "block to divide"),
    ):
        with pytest.raises(ValueError, match=message):
            PLSTMGrid(8, 2, **options)
    with pytest.raises(ValueError, match="cell 'plstm', which has gating matrices, got 'gla'"):
        PLSTMGrid(8, 2, cell="gla").gating(torch.randn(1, 2, 2, 8))
    with pytest.raises(ValueError, match="modes as a pattern of 'N' and 'D', got 'PD'"):
        PLSTM(6, 8, 2, 1, heads=2, cell="bd_lru", modes="PD")
    with pytest.raises(ValueError, match="cell to be one of"):
        PLSTM(6, 8, 2, 1, cell="lstm")


@every
def test_message_hooks_are_refused_and_hooks_of_gates_work(cell):
    conv = bare(cell)
    x, edge_index, _ = features(GRAPHS["dag"])
    out = conv(x, edge_index)
    seen = []
    handle = conv.gates.register_forward_hook(lambda module, inputs, output: seen.append(output))
    torch.testing.assert_close(conv(x, edge_index), out)
    handle.remove()
    assert seen[0].source is not None and len(seen) == 1
    handle = conv.register_message_forward_hook(lambda *args: None)
    with pytest.raises(ValueError, match=f"hooks on the module's gates with cell='{cell}'"):
        conv(x, edge_index)
    handle.remove()
    torch.testing.assert_close(conv(x, edge_index), out)


# -------------------------------------------------------------------- the operator and gradients


@on_both
@each
def test_equals_the_loop_over_edges(cell, mode, graph):
    conv = bare(cell, mode=mode, edge_dim=3, direction_offset=True)
    x, edge_index, edge_attr = features(GRAPHS[graph])
    tensors = []
    conv.gates.register_forward_hook(lambda module, inputs, output: tensors.append(output))
    out, gates = conv(x, edge_index, edge_attr, return_gates=True)
    *inputs, edge_query, update, own = tensors[0]
    options = {"edge_query": edge_query, "update": update}
    options |= {"normalizer": conv.gates.normalizer, "stabilizer": conv.gates.stabilizer}
    want = reference(*inputs, gates.line_graph, **options)
    want = want if own is None else want + own
    torch.testing.assert_close(out, want.flatten(1), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("with_edges", [True, False], ids=["edges", "nodes"])
@on_both
@each
def test_gradcheck(cell, mode, graph, with_edges):
    edge_dim = 2 if with_edges else None
    conv = PLSTMConv(2, 4, 1, cell=cell, mode=mode, edge_dim=edge_dim).double()
    with torch.no_grad():
        for parameter in conv.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    edge_index = GRAPHS[graph]
    x, _, edge_attr = features(edge_index, width=2, edge_dim=2)
    names, params = zip(*conv.named_parameters())
    line_graph = LineGraph.from_edge_index(edge_index, 7)

    def run(x, edge_attr, *params):
        args = (x, edge_index, edge_attr if with_edges else None)
        options = {"line_graph": line_graph}
        return torch.func.functional_call(conv, dict(zip(names, params)), args, options)

    inputs = (x.requires_grad_(), edge_attr.requires_grad_(), *params)
    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)


@pytest.mark.parametrize("name", list(EDGES))
@every
def test_every_graph_forward_and_backward(cell, name):
    nodes, edge_index = edges_of(name)
    conv = PLSTMConv(6, 8, 2, cell=cell, edge_dim=3)
    x, _, edge_attr = features(edge_index, nodes, dtype=torch.float)
    out = conv(x.requires_grad_(), edge_index, edge_attr)
    assert out.shape == (nodes, 8) and out.isfinite().all()
    out.square().sum().backward()
    grads = [p.grad for p in conv.parameters() if p.grad is not None]
    assert len(grads) > (4 if nodes else 2) and all(grad.isfinite().all() for grad in grads)


@each
def test_does_not_depend_on_the_numbering_of_a_tree(cell, mode):
    conv = PLSTMConv(6, 8, 2, cell=cell, mode=mode, edge_dim=3).double()
    x, edge_index, edge_attr = features(UNDIRECTED)
    data = Data(x=x, edge_index=edge_index, edge_attr=torch.cat([edge_attr[:6], edge_attr[:6]]))
    check_equivariance(conv, data)


@every
def test_hears_the_whole_tree(cell):
    conv = bare(cell)
    x, edge_index, _ = features(UNDIRECTED)
    jacobian = torch.autograd.functional.jacobian(lambda x: conv(x, edge_index), x)
    assert (jacobian.abs().amax((1, 3)) > 0).all()


@every
def test_a_batch_equals_its_parts(cell):
    conv = bare(cell, edge_dim=3)
    graphs = [features(edge_index) for edge_index in (TREE, GRAPHS["dag"], TREE)]
    x, edge_attr = (torch.cat([graph[i] for graph in graphs]) for i in (0, 2))
    edge_index = torch.cat([graph[1] + 7 * i for i, graph in enumerate(graphs)], 1)
    want = torch.cat([conv(*graph) for graph in graphs])
    torch.testing.assert_close(conv(x, edge_index, edge_attr), want, rtol=1e-10, atol=1e-10)


# -------------------------------------------------------------------- gates of edges


def concatenated(conv, x, edge_attr, node_part, edge_parts):
    """A logit by its definition: one linear map of concatenated features."""
    lin, edge = conv.projection.lin_node, conv.projection.lin_edge
    logit = 0.0
    if node_part is not None:
        rows = lin.rows[node_part]
        logit = x @ lin.weight[rows].t() + lin.bias[rows]
    for name, attr in edge_parts:
        logit = logit + attr @ edge.weight[edge.rows[name]].t()
    return logit


@on_both
@pytest.mark.parametrize("cell", ["mlstm", "mamba2", "gated_delta", "delta"])
def test_gates_read_nodes_and_edges(cell, graph):
    conv = bare(cell, mode="D", edge_dim=3)
    x, edge_index, edge_attr = features(GRAPHS[graph])
    _, gates = conv(x, edge_index, edge_attr, return_gates=True)
    line_graph = gates.line_graph
    src, dst = line_graph.edge_index
    e_in, e_out = line_graph.line_index
    a = edge_attr[line_graph.edge_id]
    forget, write = conv.gates.forget_part, conv.gates.input_part
    sides = [("forget_in", a[e_in]), ("forget_out", a[e_out])]
    transition = concatenated(conv, x[dst[e_in]], a, forget, sides)
    mark = concatenated(conv, x[dst], a, forget, [("forget_in", a)])
    source = concatenated(conv, x[src], a, write, [("input", a)])
    softplus = torch.nn.functional.softplus
    if cell == "mlstm":
        cap = lambda y: 15 * (y / 15).tanh()  # noqa: E731
        transition, mark = cap(transition).sigmoid(), cap(mark).sigmoid()
        source = cap(source).exp()
    elif cell == "delta":
        transition, mark, source = ((4 + y).sigmoid() for y in (transition, mark, source))
    else:
        rate = (conv.gates if cell == "mamba2" else conv.gates.decay).log_rate.exp()
        transition, mark = ((-rate * softplus(y)).exp() for y in (transition, mark))
        source = softplus(source) if cell == "mamba2" else (4 + source).sigmoid()
    for got, want in ((gates.transition, transition), (gates.mark, mark), (gates.source, source)):
        torch.testing.assert_close(plain(got), want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("cell", ["delta", "delta_product"])
def test_without_edge_features_delta_rules_have_no_gates(cell):
    conv = bare(cell, mode="D")
    x, edge_index, _ = features(GRAPHS["dag"])
    _, gates = conv(x, edge_index, return_gates=True)
    for gate in gates[:4]:
        torch.testing.assert_close(gate, torch.ones_like(gate), rtol=0, atol=0)


@every
def test_the_direction_of_an_edge_moves_gates(cell):
    conv = bare(cell, direction_offset=True)
    x, edge_index, _ = features(UNDIRECTED)
    one_way = conv(x, TREE, line_graph=LineGraph.from_edge_index(TREE, 7))
    two_way = conv(x, edge_index)
    with torch.no_grad():
        conv.direction_offset.zero_()
    assert not torch.allclose(conv(x, edge_index), two_way)
    torch.testing.assert_close(conv(x, TREE), one_way)
    conv.reset_parameters()
    assert torch.equal(conv.direction_offset, torch.zeros_like(conv.direction_offset))


@every
def test_edge_masks_scale_states(cell):
    conv = bare(cell, edge_dim=3)
    args = features(GRAPHS["dag"])
    out = conv(*args)

    def masked(mask):
        set_masks(conv, mask, args[1], False)
        masked_out = conv(*args)
        clear_masks(conv)
        return masked_out

    torch.testing.assert_close(masked(torch.ones(8, dtype=torch.double)), out)
    nothing = masked(torch.zeros(8, dtype=torch.double))

    def silent(module, inputs, tensors):
        if isinstance(tensors.source, LogGate):
            return tensors._replace(source=LogGate(tensors.source.log_abs - 700))
        return tensors._replace(source=0 * tensors.source)

    handle = conv.gates.register_forward_hook(silent)
    torch.testing.assert_close(nothing, conv(*args), rtol=1e-10, atol=1e-10)
    handle.remove()
    assert not torch.allclose(nothing, out)
